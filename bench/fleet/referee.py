"""Judges a storm: how many builds ran at once, which of those beyond the cap the manual allows, who counted.

A build ran from its own first note to its last one, or to the moment before it was killed: never longer than
it did, so what is found is so. Beyond K there may be builds that the server could not hear for so long that
their lease was over: their host was cut off, or they were stopped. They may run on beside K others until they
end, and the server has to count them when it hears of them again.
"""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from pathlib import Path

S = 1_000_000_000
BACK_S = 4.0
"""How long a build may take to be heard again after a cut: a call that lasts 2 s, then a pause of 1.5 s."""
SLACK_S = 0.3
"""The same after a stop, which leaves the connection as it is; and by how much a beat may come late."""
LOOKED_S = 0.3
"""Around a look at the server, builds that begin or end count neither way."""


class Mark(NamedTuple):
    """What was done, when, to which build or host."""

    at: int
    what: str
    name: str
    host: int


class Seen(NamedTuple):
    """What the server said: slots that are held, of these beyond the cap, and the names of who holds them."""

    at: int
    used: int
    overflow: int
    names: frozenset[str]


@dataclass
class Life:
    """When a build ran, and from when on its lease may have been over (`lost`), if ever."""

    name: str
    start: int
    end: int
    lost: int | None = None
    unheard: tuple[tuple[int, int], ...] = ()

    def is_lost(self, at: int) -> bool:
        """Whether its lease may be over by then."""
        return self.lost is not None and self.lost <= at


class Verdict(NamedTuple):
    """What was found.

    Attributes:
        builds: How many ran.
        most: The most at once.
        allowed: The most beyond the cap at once for which there is a reason.
        beyond: Moments at which more ran beyond the cap than there were reasons for.
        uncounted: Looks at which the server did not know of one that runs, or of its being beyond the cap.
        lost: How many outlived their leases.
        gap_s: The longest time without a start.
    """

    builds: int
    most: int
    allowed: int
    beyond: list[str]
    uncounted: list[str]
    lost: int
    gap_s: float


def judge(  # noqa: PLR0913, PLR0917 - all that is known of a storm
    log: Path, marks: list[Mark], seen: list[Seen], slots: int, lease_s: float, until: int
) -> Verdict:
    """Judge what happened by `until`."""
    lives = _lives(log, marks, until)
    for life in lives:
        life.unheard = _unheard(life, marks)
        life.lost = _lost(life, lease_s)
    most = allowed = 0
    beyond: list[str] = []
    running: set[int] = set()
    events = sorted(
        [(life.start, 1, index) for index, life in enumerate(lives)]
        + [(life.end, 0, index) for index, life in enumerate(lives)]
    )
    for at, is_start, index in events:
        (running.add if is_start else running.discard)(index)
        lost = [lives[each].name for each in running if lives[each].is_lost(at)]
        most = max(most, len(running))
        more = len(running) - slots
        allowed = max(allowed, min(more, len(lost)))
        if is_start and more > len(lost):
            names = sorted(lives[each].name for each in running)
            beyond.append(f"at {at}: {names} run; of these may have lost their slots: {lost}")
    starts = sorted(life.start for life in lives)
    gap_s = max((later - sooner for sooner, later in pairwise(starts)), default=0) / S
    return Verdict(
        len(lives),
        most,
        allowed,
        beyond,
        _uncounted(lives, marks, seen, slots),
        sum(life.lost is not None for life in lives),
        gap_s,
    )


def _lives(log: Path, marks: list[Mark], until: int) -> list[Life]:
    notes: dict[str, dict[str, int]] = defaultdict(dict)
    for line in log.read_text().splitlines():
        what, name, at = line.split()
        notes[name][what] = int(at)
    killed = {mark.name: mark.at for mark in marks if mark.what == "kill"}
    lives = []
    for name, found in notes.items():
        end = min(found.get("-", until), killed.get(name, until))
        if found["+"] < end:  # one that starts while it is killed has hardly run
            lives.append(Life(name, found["+"], end))
    return lives


def _unheard(life: Life, marks: list[Mark]) -> tuple[tuple[int, int], ...]:
    """When the server could not hear of it: it was stopped, or its host was cut off."""
    host = next(mark.host for mark in marks if mark.what == "on" and mark.name == life.name)
    begins = {"stop": "go on", "cut": "heal"}
    back_ns = {"go on": int(SLACK_S * S), "heal": int(BACK_S * S)}
    spans = []
    open_: dict[str, int] = {}
    for mark in marks:
        is_its = mark.name == life.name if mark.what in {"stop", "go on"} else mark.host == host
        if not is_its:
            continue
        if mark.what in begins:
            open_[begins[mark.what]] = mark.at
        elif mark.what in open_:
            spans.append((open_.pop(mark.what), mark.at + back_ns[mark.what]))
    spans += [(at, life.end) for at in open_.values()]
    merged: list[tuple[int, int]] = []
    for begin, end in sorted(span for span in spans if span[1] > life.start and span[0] < life.end):
        if merged and begin <= merged[-1][1]:
            merged[-1] = (merged[-1][0], max(merged[-1][1], end))
        else:
            merged.append((max(begin, life.start), end))
    return tuple(merged)


def _lost(life: Life, lease_s: float) -> int | None:
    """From when on its lease may be over: its last beat may be a third of a lease before it was unheard."""
    enough = int((lease_s * 2 / 3 - SLACK_S) * S)
    return next((begin + enough for begin, end in life.unheard if end - begin > enough), None)


def _uncounted(lives: list[Life], marks: list[Mark], seen: list[Seen], slots: int) -> list[str]:
    """Looks at which all that run could be heard for a while, and the server did not know of them."""
    server = [mark.at for mark in marks if mark.what in {"flush", "restart", "stand still", "serve"}]
    edge, back = int(LOOKED_S * S), int(BACK_S * S)
    problems = []
    for look in seen:
        if any(0 <= look.at - at < back for at in server):
            continue
        now = [life for life in lives if life.start + edge < look.at < life.end - edge]
        heard = [life.name for life in now if not any(begin <= look.at <= end for begin, end in life.unheard)]
        if missing := [name for name in heard if name not in look.names]:
            problems.append(f"at {look.at}: the server does not know of {missing}")
        if look.overflow < look.used - slots:
            problems.append(
                f"at {look.at}: {look.used} of {slots} are held, {look.overflow} count as overflow"
            )
    return problems
