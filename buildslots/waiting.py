"""What is told of a wait: the place in line, who holds the slots, when it ends. By slot-run and in logs.

Loaded only by a process that has to wait, and by the library.
"""

from __future__ import annotations

import errno
import os
import time

from buildslots.disk import line, records
from buildslots.disk.directory import PoolDirectory
from buildslots.disk.records import age_s
from buildslots.disk.seen import Seen
from buildslots.processes import number
from buildslots.reasons import reasons
from buildslots.words import MOMENTS, cells, roughly, short_path, shown, span

TYPE_CHECKING = False
if TYPE_CHECKING:
    from buildslots.disk.rules import Pause
    from buildslots.fleet.pool import FleetPool
    from buildslots.outlook import Build, Outlook, Read
    from buildslots.settings import Settings

FIRST_S = 1.0
"""A wait that is over sooner is not worth a line."""
AGAIN_S = 30.0
"""How often the line is said anew."""
HOLDERS_SHOWN = 4
COMMAND_SHOWN, DIRECTORY_SHOWN = 40, 80
"""Cells of a holder's command and of its directory in the line."""
TOLD = ("server", "pause", "restart", "gate_never", "gate")
"""Kinds of reasons that are told in the place of others: the first of them."""
PROGRAM_SHOWN, PLACE_SHOWN = 16, 24
"""Cells of its program and of its directory where there is less room."""


class Sight:
    """A pool at one moment, as who waits in it sees it.

    Attributes:
        place: Its place in line; 1 is next.
        in_line: How many places there are.
        ahead: The places before it, first come first; None if not all of them can be seen.
        read: Tells what is known of one of these.
        held: How many slots are held.
        builds: Who has them.
        cap: K of who waits.
        widest: The largest K that counts for anybody there.
        pause: The pause that is on, if one is.
        paused_s: For how many seconds of the wait nobody could start because of a pause.
        restart_s: For how many more seconds nobody starts, because the pool's server has been restarted.
        problem: Why the pool's server cannot be used just now, in words; None if it can, or there is none.
        has_hosts: Whether builds may be of any machine.
    """

    __slots__ = (
        "ahead",
        "builds",
        "cap",
        "has_hosts",
        "held",
        "in_line",
        "pause",
        "paused_s",
        "place",
        "problem",
        "read",
        "restart_s",
        "widest",
    )

    def __init__(  # noqa: PLR0913 - by keyword only
        self,
        *,
        place: int,
        in_line: int,
        ahead: list[str] | None,
        read: Read,
        held: int,
        builds: list[Build],
        cap: int,
        widest: int,
        pause: Pause | None = None,
        paused_s: float = 0.0,
        restart_s: float = 0.0,
        problem: str | None = None,
        has_hosts: bool = False,
    ) -> None:
        self.place = place
        self.in_line = in_line
        self.ahead = ahead
        self.read = read
        self.held = held
        self.builds = builds
        self.cap = cap
        self.widest = widest
        self.pause = pause
        self.paused_s = paused_s
        self.restart_s = restart_s
        self.problem = problem
        self.has_hosts = has_hosts


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
        eta_s: Seconds until it starts, by how long builds like those before it took; None if that is unknown.
        reasons: What keeps it back now.
        held: How many slots are held.
        cap: K of who waits.
        holders: Who holds the slots, in words; "" if nobody does.
        gate: What of the machine's state it waits for, in words; None if only for a slot.
        waited_s: Seconds since it began.
        left_s: Seconds until the timeout; None if there is none.
    """

    __slots__ = (
        "_builds",
        "_first_for",
        "_has_hosts",
        "_most",
        "_on_timeout",
        "_weight",
        "cap",
        "eta_s",
        "gate",
        "held",
        "holders",
        "in_line",
        "left_s",
        "place",
        "pool",
        "reasons",
        "waited_s",
    )

    def __init__(
        self, sight: Sight, gate: str | None, settings: Settings, began: float, outlook: Outlook
    ) -> None:
        """Made by this package only, of a wait that began at that `time.monotonic()`."""
        self._builds, self._has_hosts = sight.builds, sight.has_hosts
        self.pool = settings.pool
        self.place = sight.place
        self.in_line = max(sight.place, sight.in_line)
        self.held = sight.held
        self.cap = sight.cap
        holders = [_holder(*build, on=self._has_hosts) for build in self._builds[:HOLDERS_SHOWN]]
        self.holders = _listed(holders, self._builds)
        self.waited_s = time.monotonic() - began
        self.left_s = None
        if settings.timeout_s is not None:
            self.left_s = settings.timeout_s - self.waited_s + sight.paused_s
        self._weight = min(settings.wanted, self.cap)
        self._on_timeout = settings.on_timeout
        pause = sight.pause
        self.gate = gate if pause is None else str(pause)
        if pause is not None or outlook.never is not None:
            gate = None
        self.reasons = reasons(
            ahead=self.place - 1,
            held=self.held,
            cap=self.cap,
            weight=self._weight,
            widest=sight.widest,
            pause=None if pause is None else str(pause),
            problem=sight.problem,
            restart_s=sight.restart_s,
            gate=gate,
            never=outlook.never,
        )
        # That others have a larger cap is said where it matters.
        has_own = any(reason.kind == "own_cap" for reason in self.reasons)
        self._most = max(self.cap, sight.widest) if has_own or self.held > self.cap else self.cap
        self.eta_s = None
        # A server that was restarted may not know yet who holds slots.
        if gate is None and sight.ahead is not None and not sight.restart_s:
            paused_s = 0.0 if pause is None else pause.until - time.time()
            its = self._weight, self.cap - self._weight + 1
            self.eta_s = outlook.eta_s(sight.read, sight.ahead, self._builds, its, paused_s)
        self._first_for = outlook.first_for if self.place > 1 and pause is None else None

    def __str__(self) -> str:
        return self._sentence(f"{self.held} of {self._most} slots held", self.holders)

    def fitted(self, width: int) -> str:
        """The sentence for `width` cells, as far as fewer words about holders do; it may be wider still."""
        text = str(self)
        for word in (_program_on if self._has_hosts else _program_there, _program):
            if cells(text) <= width:
                break
            words = [word(record) for record, _ in self._builds[:HOLDERS_SHOWN]]
            text = self._sentence(f"{self.held} of {self._most} held", _listed(words, self._builds))
        return text

    def _sentence(self, held: str, holders: str) -> str:
        where = "" if self.pool == "default" else f" in pool {self.pool!r}"
        parts = [f"waiting{where}, place {self.place} of {self.in_line}"]
        if self.eta_s is not None:
            about = roughly(self.eta_s)
            parts.append("any moment" if about == MOMENTS else f"about {about}")
        kinds = {reason.kind: reason.text for reason in self.reasons}
        what = next((kinds[kind] for kind in TOLD if kind in kinds), None)
        if what:
            parts.append(f"for {what}")
        elif self._first_for is not None:
            parts.append(f"the first for {self._first_for}")
        elif self._weight > 1:
            parts.append(f"for {self._weight} slots together")
        own = f"its own cap is {self.cap}, " if "own_cap" in kinds else ""
        by = f" by {holders}" if holders else ""
        return f"{', '.join(parts)}: {own}{held}{by}; {self._end()}"

    def _end(self) -> str:
        if self.left_s is None:
            return "waits as long as it takes"
        if self.left_s < 0:  # only if it is paced
            return "runs anyway when it is its turn"
        return f"{'gives up' if self._on_timeout == 'fail' else 'runs anyway'} in {span(self.left_s)}"


def seen(  # noqa: PLR0913 - all that there is to know of a wait
    pool: PoolDirectory | FleetPool,
    ticket: str,
    gate: str | None,
    settings: Settings,
    began: float,
    *,
    outlook: Outlook,
) -> Waiting | None:
    """The wait with `ticket` at this moment. None if there is no looking at the pool just now.

    It was removed, or this process has no descriptor left: the wait itself finds that out and goes on, and no
    build may start without a slot because of what is only told. Raises any other OSError.

    Args:
        pool: In which it waits.
        ticket: Its place.
        gate: What of the machine's state keeps it back, in words; None if nothing.
        settings: Of the build.
        began: `time.monotonic()` when the wait began.
        outlook: Of the build; kept from one look to the next.
    """
    try:
        if isinstance(pool, PoolDirectory):
            sight = _sight(pool, ticket, settings, began)
        else:
            sight = _sight_afar(pool, ticket, settings, began)
        return Waiting(sight, gate, settings, began, outlook)
    except OSError as error:
        if error.errno in (errno.ENOENT, errno.EMFILE, errno.ENFILE):
            return None
        raise


def _sight(pool: PoolDirectory, ticket: str, settings: Settings, began: float) -> Sight:
    """The pool as who waits with `ticket` sees it. Raises OSError."""
    names = line.waiting(pool.path)
    ahead = [name for name in names if name < ticket]
    held = pool.held()
    builds = _builds(pool, held)
    widest = max((number(record.get("cap")) or 0 for record, _ in builds if record), default=0)
    rules = pool.rules()
    return Sight(
        place=1 + len(ahead),
        in_line=len(names),
        # How many wait in the memory of a process, before one that does, nobody can see.
        ahead=ahead if "-" in ticket else None,
        read=lambda name: (records.read(f"{pool.path}/queue/{name}") or {}, line.limit_of(name)),
        held=len(held),
        builds=builds,
        cap=settings.slots if rules is None else rules.cap(settings.slots, is_own=settings.are_own_slots),
        widest=widest if rules is None or rules.slots is None else rules.slots,
        pause=None if rules is None else rules.pause(time.time()),
        paused_s=0.0 if rules is None else rules.paused_s(began),
    )


def _sight_afar(pool: FleetPool, ticket: str, settings: Settings, began: float) -> Sight:
    """The pool on a server as who waits as `ticket` has seen it last: nothing is asked here."""
    from buildslots.afar import Seen, limit_of  # noqa: PLC0415 - few pools are on a server
    from buildslots.fleet.known import known_of  # noqa: PLC0415

    known = known_of(pool.path)
    said = None if pool.client is None else pool.client.status
    answer = None if pool.client is None else pool.client.answer
    cap = min(known.cap, settings.slots) if settings.are_own_slots else known.cap
    if said is None:  # or it waits in the memory of a process that has others in line
        in_line = known.length
        return Sight(
            place=in_line + 1 if answer is None or answer.place < 0 else answer.place + 1,
            in_line=in_line,
            ahead=None,
            read=lambda _: ({}, 1),
            held=known.used,
            builds=[],
            cap=cap or settings.slots,
            widest=known.cap,
            paused_s=known.paused_so_far_s(began),
            problem=pool.problem,
            has_hosts=True,
        )
    seen = Seen(said, known.server_time - time.time())
    waiters = {waiter.id: waiter for waiter in said.waiters}
    names = list(waiters)

    def read(name: str) -> tuple[dict[str, str], int]:
        record = seen.of_waiter(waiters[name])
        return record, limit_of(record)

    ahead = names[: names.index(ticket)] if ticket in waiters else None
    place = said.length if answer is None or answer.place < 0 else answer.place + 1
    return Sight(
        place=place if ahead is None else len(ahead) + 1,
        in_line=said.length,
        ahead=ahead,
        read=read,
        held=said.used,
        builds=[(record, slots) for record, slots, _ in seen.holders],
        cap=cap or settings.slots,
        widest=said.rules.cap,
        pause=seen.rules.pause(time.time()),
        paused_s=known.paused_so_far_s(began),
        restart_s=seen.restart_s,
        problem=pool.problem,
        has_hosts=True,
    )


def _builds(pool: PoolDirectory, held: list[int]) -> list[Build]:
    """Who has the slots `held`: the record of each build, None if it is not ours, and its slots."""
    builds: dict[str, Build] = {}
    for slot in held:
        seen = Seen(pool.path, slot)
        record = None if seen.has_owner is False else seen.record
        builds.setdefault((record or {}).get("nonce", f"slot-{slot}"), (record, []))[1].append(slot)
    return list(builds.values())


def _listed(words: list[str], builds: list[Build]) -> str:
    more = len(builds) - len(words)
    return ", ".join([*words, f"{more} more"] if more else words)


def _holder(record: dict[str, str] | None, slots: list[int], *, on: bool) -> str:
    if record is None:
        return f"another program (slot-{slots[0]})"
    program, *arguments = record["command"].split("\0")[:-1] or ["?"]
    # Without the program's directory: if the line is cut, all holders would look alike.
    command = shown(" ".join([os.path.basename(program) or program, *arguments]), COMMAND_SHOWN)
    several = f", {len(slots)} slots" if len(slots) > 1 else ""
    held = span(age_s(record) or 0.0)
    host = f" on {_host(record)}" if on else ""
    return f"`{command}`{host} in {short_path(record.get('cwd', '?'), DIRECTORY_SHOWN)} ({held}{several})"


def _host(record: dict[str, str] | None) -> str:
    return shown((record or {}).get("host", "?"), PLACE_SHOWN)


def _program_on(record: dict[str, str] | None) -> str:
    return f"{_program(record)} on {_host(record)}"


def _program_there(record: dict[str, str] | None) -> str:
    where = "" if record is None else f" in {short_path(record.get('cwd', '?'), PLACE_SHOWN)}"
    return _program(record) + where


def _program(record: dict[str, str] | None) -> str:
    if record is None:
        return "another program"
    program = record["command"].partition("\0")[0] or "?"
    return f"`{shown(os.path.basename(program) or program, PROGRAM_SHOWN)}`"
