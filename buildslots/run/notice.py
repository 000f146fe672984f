"""What slot-run says on stderr while it waits: its place in line, who holds the slots, when the wait ends.

It says a line after a second, and another one every 30 s. On a terminal one line is kept up to date in place.
"""

from __future__ import annotations

import os
import time

from buildslots.disk import line, records
from buildslots.disk.directory import Seen
from buildslots.words import fit, short_path, shown, span

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    from buildslots.admission import Slot
    from buildslots.disk.directory import PoolDirectory
    from buildslots.settings import Settings

FIRST_S = 1.0
AGAIN_S = 30.0
LIVE_S = 1.0
HOLDERS_SHOWN = 4
COMMAND_SHOWN = 40
DIRECTORY_SHOWN = 80
"""Cells of a holder's command and of its directory in the line."""


class Notice:
    """The line about a wait that begins now.

    Attributes:
        due: `time.monotonic()` at which `tell` is to be called.
    """

    def __init__(self, settings: Settings, write: Callable[[bytes], None]) -> None:
        """A line for a wait by `settings`, which `write` writes to stderr without being kept there."""
        self._settings = settings
        self._to_stderr = write
        self._began = time.monotonic()
        self._stands = False  # whether a line that is to be rewritten is on the terminal now
        self._spoken = False
        self.due = self._began + FIRST_S

    def tell(self, pool: PoolDirectory, ticket: str, gate: str | None) -> None:
        """Say the line of this moment; `gate` is what of the machine's state keeps the command back."""
        live = _on_live_terminal()
        self.due = time.monotonic() + (LIVE_S if live else AGAIN_S)
        self._spoken = True
        text = f"slot-run: {self._line(pool, ticket, gate)}"
        if live:
            # Cut: a line that wraps cannot be rewritten, because \r leads only to its last row.
            text = fit(text, os.get_terminal_size(2).columns - 1, most=True)
            self._write(f"\r{text}\x1b[K")
            self._stands = True
        else:
            self.clear()
            self._write(text + "\n")

    def started(self, slot: Slot) -> None:
        """Say that the command starts now, if something was said about the wait."""
        if self._spoken and not slot.overflow:
            where = f"slot {slot.number}" if slot.number is not None else "no slot"
            self._write(f"slot-run: starting after {span(slot.waited_s)} with {where}\n")

    def clear(self) -> None:
        """Remove the line that is kept up to date in place."""
        if self._stands:
            self._write("\r\x1b[K")
            self._stands = False

    def _write(self, text: str) -> None:
        self._to_stderr(text.encode(errors="surrogateescape"))

    def _line(self, pool: PoolDirectory, ticket: str, gate: str | None = None) -> str:
        names = line.waiting(pool.path)
        place = 1 + sum(name < ticket for name in names)
        held = pool.held()
        which = "" if self._settings.pool == "default" else f" of pool {self._settings.pool!r}"
        weight = self._settings.weight
        what = gate or ("a build slot" if weight == 1 else f"{weight} build slots")
        where = f"place {place} of {max(place, len(names))} in line, {self._end()}"
        slots = f"{len(held)} held of {self._settings.slots}: {_holders(pool, held)}"
        return f"waiting for {what}{which}, {where}; {slots}"

    def _end(self) -> str:
        if self._settings.timeout_s is None:
            return "as long as it takes"
        left_s = self._began + self._settings.timeout_s - time.monotonic()
        if left_s < 0:  # only if it is paced
            return "runs anyway when it is its turn"
        return f"{'gives up' if self._settings.on_timeout == 'fail' else 'runs anyway'} in {span(left_s)}"


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


def _on_live_terminal() -> bool:
    """Whether stderr is a terminal that can rewrite a line, and we are in its foreground."""
    try:
        return (
            os.isatty(2)
            and os.environ.get("TERM", "dumb") != "dumb"
            and os.get_terminal_size(2).columns > 20
            and os.tcgetpgrp(2) == os.getpgrp()
        )
    except (OSError, AttributeError):
        return False
