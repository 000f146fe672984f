"""What is told of a wait: the place in line, who holds the slots, when it ends. By slot-run and in logs.

Loaded only by a process that has to wait, and by the library.
"""

from __future__ import annotations

import os
import time

from buildslots.disk import line, records
from buildslots.disk.directory import Seen
from buildslots.words import short_path, shown, span

TYPE_CHECKING = False
if TYPE_CHECKING:
    from buildslots.disk.directory import PoolDirectory
    from buildslots.settings import Settings

FIRST_S = 1.0
"""A wait that is over sooner is not worth a line."""
AGAIN_S = 30.0
"""How often the line is said anew."""
HOLDERS_SHOWN = 4
COMMAND_SHOWN = 40
DIRECTORY_SHOWN = 80
"""Cells of a holder's command and of its directory in the line."""


class Waiting:
    """A wait for a slot at one moment; as a string the sentence that slot-run says.

    >>> with build_slot(slots=1):
    ...     one = SlotPool(slots=1, on_wait=lambda wait: print(wait.place, wait.held, wait.cap))
    ...     one.acquire(timeout=0.1).release()
    1 1 1

    Attributes:
        pool: Name of the pool.
        place: 1 for the head of the line.
        in_line: How many wait.
        held: How many slots are held.
        cap: K of who waits.
        holders: Who holds the slots, in words.
        gate: What of the machine's state it waits for, in words; None if only for a slot.
        waited_s: Seconds since it began.
        left_s: Seconds until the timeout; None if there is none.
    """

    __slots__ = (
        "_on_timeout",
        "_weight",
        "cap",
        "gate",
        "held",
        "holders",
        "in_line",
        "left_s",
        "place",
        "pool",
        "waited_s",
    )

    def __init__(
        self, directory: PoolDirectory, ticket: str, gate: str | None, settings: Settings, began: float
    ) -> None:
        """Made by this package only, of a wait with `ticket` that began at that `time.monotonic()`."""
        names = line.waiting(directory.path)
        held = directory.held()
        self.pool = settings.pool
        self.place = 1 + sum(name < ticket for name in names)
        self.in_line = max(self.place, len(names))
        self.held = len(held)
        self.cap = settings.slots
        self.holders = _holders(directory, held)
        self.gate = gate
        self.waited_s = time.monotonic() - began
        self.left_s = None if settings.timeout_s is None else settings.timeout_s - self.waited_s
        self._weight = settings.weight
        self._on_timeout = settings.on_timeout

    def __str__(self) -> str:
        which = "" if self.pool == "default" else f" of pool {self.pool!r}"
        what = self.gate or ("a build slot" if self._weight == 1 else f"{self._weight} build slots")
        where = f"place {self.place} of {self.in_line} in line, {self._end()}"
        return f"waiting for {what}{which}, {where}; {self.held} held of {self.cap}: {self.holders}"

    def _end(self) -> str:
        if self.left_s is None:
            return "as long as it takes"
        if self.left_s < 0:  # only if it is paced
            return "runs anyway when it is its turn"
        return f"{'gives up' if self._on_timeout == 'fail' else 'runs anyway'} in {span(self.left_s)}"


def _holders(pool: PoolDirectory, held: list[int]) -> str:
    """Who has the slots `held`; a build that has several of them is named once."""
    builds: dict[str, tuple[dict[str, str] | None, list[int]]] = {}
    for number in held:
        seen = Seen(pool.path, number)
        record = None if seen.has_owner is False else seen.record
        nonce = (record or {}).get("nonce", f"slot-{number}")
        builds.setdefault(nonce, (record, []))[1].append(number)
    words = [_holder(*build) for build in list(builds.values())[:HOLDERS_SHOWN]]
    if len(builds) > HOLDERS_SHOWN:
        words.append(f"{len(builds) - HOLDERS_SHOWN} more")
    return ", ".join(words) or "nobody now"


def _holder(record: dict[str, str] | None, slots: list[int]) -> str:
    if record is None:
        return f"another program (slot-{slots[0]})"
    program, *arguments = record["command"].split("\0")[:-1] or ["?"]
    # Without the program's directory: if the line is cut, all holders would look alike.
    command = shown(" ".join([os.path.basename(program) or program, *arguments]), COMMAND_SHOWN)
    several = f", {len(slots)} slots" if len(slots) > 1 else ""
    held = span(records.age_s(record) or 0.0)
    return f"`{command}` in {short_path(record.get('cwd', '?'), DIRECTORY_SHOWN)} ({held}{several})"
