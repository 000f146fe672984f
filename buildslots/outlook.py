"""When a wait ends, as it looks, and what of the machine keeps it back: by the records of the others.

Loaded only by who waits or looks.
"""

from __future__ import annotations

import time

from buildslots.disk import records
from buildslots.processes import is_local, number
from buildslots.reasons import reasons
from buildslots.words import span

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from types import ModuleType
    from typing import TypeAlias

    from buildslots.disk.rules import Rules
    from buildslots.estimates import Kind, RunTimes
    from buildslots.gates import Gates
    from buildslots.reasons import Reason
    from buildslots.settings import Settings

    Build: TypeAlias = tuple[dict[str, str] | None, list[int]]
    """Who holds slots: its record, None if it is none of ours, and the numbers of the slots."""
    Read: TypeAlias = Callable[[str], tuple[dict[str, str], int]]
    """Tells of a place in line its record, and below how many held slots it may start."""

ESTIMATE_S, JOURNAL_S = 10.0, 300.0
"""How long an estimate is good while the same builds hold and wait; how often the journal is read anew."""
LOOK_S = 5.0
"""The same for who only looks."""
MOST_AHEAD = 100
"""Behind more than so many nobody can say how long it takes."""
BOUNDS = ("min_free_memory", "max_load", "max_pressure")


class Ahead:
    """Who is in line, as its ticket's record has it.

    Attributes:
        nonce: What marks the build.
        kind: Whose run times it is likely to have.
        weight: How many slots it needs.
        limit: Below how many held slots it may start.
        never: What it wants of the machine and never gets, in words; None if nothing.
    """

    __slots__ = ("_gates", "kind", "limit", "never", "nonce", "weight")

    def __init__(self, record: dict[str, str], limit: int, runs: RunTimes | None) -> None:
        """Of that record, and of what its ticket's name says."""
        self.nonce = nonce_of(record)
        self.kind: Kind = (b"", b"") if runs is None else runs.kind(record)
        self.weight = number(record.get("weight")) or 1
        self._gates: Gates | None = None
        self.never: str | None = None
        # What another machine is like cannot be seen from here.
        if any(name in record for name in BOUNDS) and is_local(record):
            try:
                from buildslots.gates import Gates  # noqa: PLC0415 - few have bounds

                self._gates = Gates.told(record)
            except (ImportError, OSError):
                pass  # no descriptor left
            self.never = None if self._gates is None else self._gates.never()
        # What is never to be had does not matter while nothing else of the pool runs.
        self.limit = limit if self.never is None else 1

    def closed_by(self, held: int) -> str | None:
        """What of the machine keeps it from free slots, nobody knows for how long; None if nothing does."""
        if self._gates is None or self.never is not None or not 0 < held < self.limit:
            return None
        return self._gates.closed_by()


class Outlook:
    """When the waits of a build end, as it looks; kept from one line to the next, so that these cost little.

    Attributes:
        first_for: What the first in line, if that is another one, waits for although slots are free; or None.
        never: What the build wants of the machine and never gets, in words; None if nothing.
    """

    __slots__ = (
        "_at",
        "_estimates",
        "_eta_s",
        "_kinds",
        "_of",
        "_settings",
        "_tickets",
        "first_for",
        "never",
    )

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._kinds: dict[str, Kind] = {}  # of who holds, by nonce
        self._tickets: dict[str, Ahead] = {}
        self._of: object = None
        self._at = 0.0
        self._eta_s: float | None = None
        self._estimates = _loaded()
        self.first_for: str | None = None
        self.never: str | None = None
        if settings.gates is not None:
            from buildslots.gates import Gates  # noqa: PLC0415 - only who has bounds needs it

            self.never = Gates.within(settings.gates).never()

    def eta_s(
        self, read: Read, ahead: list[str], builds: list[Build], its: tuple[int, int], paused_s: float
    ) -> float | None:
        """In how many seconds it starts; None if unknown.

        Args:
            read: Tells what is known of a place in line.
            ahead: The places before its own.
            builds: Who holds which slots.
            its: Its weight and its limit.
            paused_s: For how long nobody starts.
        """
        if len(ahead) > MOST_AHEAD:
            return None
        now = time.monotonic()
        of = (ahead, [slots for _, slots in builds], [nonce_of(r) for r, _ in builds], its, paused_s > 0)
        if of != self._of or now - self._at >= ESTIMATE_S:
            self._eta_s, self._at, self._of = self._estimate(read, ahead, builds, its, paused_s), now, of
        return None if self._eta_s is None else round(max(0.0, self._eta_s - (now - self._at)), 1)

    def _estimate(
        self, read: Read, ahead: list[str], builds: list[Build], its: tuple[int, int], paused_s: float
    ) -> float | None:
        runs = None if self._estimates is None else self._estimates.runs_of(self._settings, JOURNAL_S)
        before, self._tickets = self._tickets, {}
        for name in ahead if runs is not None else ahead[:1]:
            self._tickets[name] = before.get(name) or Ahead(*read(name), runs)
        busy = sum(len(slots) for _, slots in builds)
        self.first_for = self._tickets[ahead[0]].closed_by(busy) if ahead else None
        if self._estimates is None or runs is None or self.first_for is not None:
            return None
        # Who was ahead of us and has a slot now is what it was, though the journal may not say so yet.
        known = self._kinds | {one.nonce: one.kind for one in before.values()}
        self._kinds = {nonce_of(r): known.get(nonce_of(r)) or runs.kind(r) for r, _ in builds if r}
        held = [
            (runs.left_s(self._kinds[nonce_of(r)], records.age_s(r)) if r else None, len(slots))
            for r, slots in builds
        ]
        in_line = [(runs.run_s(one.kind), one.weight, one.limit) for one in self._tickets.values()]
        weight, limit = its
        in_line.append((None, weight, 1 if self.never else limit))
        own: float | None = self._estimates.starts(held, in_line, paused_s)[-1]
        return own


def in_line(  # noqa: PLR0913 - all that it depends on
    settings: Settings,
    builds: list[Build],
    tickets: list[dict[str, str]],
    limits: list[int],
    rules: Rules | None,
    *,
    restart_s: float = 0.0,
) -> list[tuple[float | None, tuple[Reason, ...]]]:
    """When each in line starts, None where that is unknown, and what keeps it back now.

    Args:
        settings: Of who looks; their caps are not asked.
        builds: Who holds which slots.
        tickets: The records of those in line, first come first.
        limits: Below how many held slots each of them may start.
        rules: The pool's.
        restart_s: For how many more seconds nobody starts, because the pool's server was restarted, and may
            not know yet who holds slots.
    """
    estimates = _loaded()
    runs = None if estimates is None else estimates.runs_of(settings, LOOK_S)
    line_up = [
        Ahead(ticket, limit, runs if place < MOST_AHEAD else None)
        for place, (ticket, limit) in enumerate(zip(tickets, limits, strict=True))
    ]
    held = sum(len(slots) for _, slots in builds)
    pause = None if rules is None else rules.pause(time.time())
    gate = line_up[0].closed_by(held) if pause is None else None
    etas: list[float | None] = [None] * len(line_up)
    if estimates is not None and runs is not None and gate is None and not restart_s:
        left = [
            (runs.left_s(runs.kind(r), records.age_s(r)) if r else None, len(slots)) for r, slots in builds
        ]
        order = [(runs.run_s(one.kind), one.weight, one.limit) for one in line_up[:MOST_AHEAD]]
        etas[:MOST_AHEAD] = estimates.starts(left, order, 0.0 if pause is None else pause.until - time.time())
    caps = [number(ticket.get("cap")) or limit for ticket, limit in zip(tickets, limits, strict=True)]
    widest = max([*caps, *(number(r.get("cap")) or 0 for r, _ in builds if r)])
    if rules is not None and rules.slots is not None:
        widest = rules.slots
    return [
        (
            None if eta_s is None else round(eta_s, 1),
            reasons(
                ahead=ahead,
                held=held,
                cap=cap,
                weight=one.weight,
                widest=widest,
                pause=None if pause is None else str(pause),
                restart_s=restart_s,
                gate=None if ahead else gate,
                never=one.never,
            ),
        )
        for ahead, (eta_s, cap, one) in enumerate(zip(etas, caps, line_up, strict=True))
    ]


def never(settings: Settings) -> str | None:
    """A sentence about what a build wants of the machine and never gets; None if there is no such thing."""
    what = Outlook(settings).never
    if what is None:
        return None
    end = "" if settings.timeout_s is None else ", or at the end of its timeout"
    if settings.timeout_s is not None and settings.on_timeout == "fail":
        end = f", or gives up after {span(settings.timeout_s)}"
    return f"no build ever gets {what}: this one starts when no other build of the pool runs{end}"


def _loaded() -> ModuleType | None:
    """`buildslots.estimates`; None if it cannot be loaded: no descriptor is left, say."""
    try:
        from buildslots import estimates  # noqa: PLC0415 - with it comes the journal: only who waits needs it
    except (ImportError, OSError):
        return None
    return estimates


def nonce_of(record: dict[str, str] | None) -> str:
    """What marks a build."""
    return (record or {}).get("nonce", "")
