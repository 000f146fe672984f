"""Judges what jobs have marked: whether more ran at once than tokens allow. It does not import buildslots.

The first job of each build needs no token, and each further one does. So at every instant the jobs beyond the
first of each build are at most C, whatever has been killed. That is less than what is promised, C and the
builds that live, by every build that lives without a job.

A job that was killed counts until just before that; one that was stopped does not count until it goes on.
What goes on may be one too many, because somebody else has its token by then: that is told apart (`resumed`),
and so are jobs that go on though the tool that has started them was killed (`orphaned`): the first job of a
make has no token, and once that make is gone nobody knows of it.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from bench.tokens.table import Job


UNDERWAY_NS = 250_000_000
"""What a stopped tool had a token for, but had not started: so long after it goes on it may come."""


@dataclass
class Notes:
    """What was done to jobs and builds, all times in ns of CLOCK_MONOTONIC.

    Attributes:
        killed: Until when a job without an end has run at least, by its number.
        ending: From when on all of a build was killed or interrupted, by the build's number: no job that
            came later and has no end counts.
        continued: When a build went on after a stop, by its number.
        stopped: When a job did not run, by its number.
        orphaned: From when on a build has no tool any more, by the build's number.
        ended: When nothing was left of a build, by its number.
    """

    killed: dict[int, int] = field(default_factory=dict)
    ending: dict[int, int] = field(default_factory=dict)
    continued: dict[int, list[int]] = field(default_factory=dict)
    stopped: dict[int, list[tuple[int, int]]] = field(default_factory=dict)
    orphaned: dict[int, int] = field(default_factory=dict)
    ended: dict[int, int] = field(default_factory=dict)


class Piece(NamedTuple):
    """A time in which a job ran, and why it may be one too many, if it may."""

    start: int
    end: int
    build: int
    excuse: str = ""


class Breach(NamedTuple):
    """A time in which more jobs ran than there are tokens for.

    Attributes:
        start: When it began, in ns.
        end: When it ended.
        most: How many jobs too many ran.
        excuses: What would explain that many, "" if nothing does.
        builds: The numbers of the builds that had jobs.
    """

    start: int
    end: int
    most: int
    excuses: str
    builds: tuple[int, ...]


def pieces(jobs: Iterable[Job], notes: Notes) -> Iterator[Piece]:
    """The times in which jobs ran."""
    for job in jobs:
        end = job.end or notes.killed.get(job.number)
        end = end or max(job.start, notes.ending.get(job.build, notes.ended.get(job.build, 0)))
        orphaned = notes.orphaned.get(job.build, end)
        goes_on = any(at <= job.start < at + UNDERWAY_NS for at in notes.continued.get(job.build, []))
        at, excuse = job.start, "resumed" if goes_on else ""
        for since, until in sorted(notes.stopped.get(job.number, [])):
            yield Piece(at, max(at, min(since, end)), job.build, excuse)
            at, excuse = min(until, end), "resumed"
        if at < orphaned < end:
            yield Piece(at, orphaned, job.build, excuse)
            at, excuse = orphaned, "orphaned"
        yield Piece(at, end, job.build, "orphaned" if at >= orphaned and at < end else excuse)


class Moment(NamedTuple):
    """What ran from a moment on.

    Attributes:
        at: The moment, in ns.
        beyond: Jobs beyond the first of each build.
        running: How many ran of each build.
        excused: How many of them ran for each of the excuses.
    """

    at: int
    beyond: int
    running: dict[int, int]
    excused: dict[str, int]


def moments(found: Iterable[Piece]) -> Iterator[Moment]:
    """What ran, at each start and end in their order; at one and the same instant ends come first."""
    events = []
    for piece in found:
        if piece.end > piece.start:
            events += [
                (piece.start, 1, piece.build, piece.excuse),
                (piece.end, -1, piece.build, piece.excuse),
            ]
    running: Counter[int] = Counter()
    excused: Counter[str] = Counter()
    beyond = 0
    for at, change, build, excuse in sorted(events):
        before = running[build]
        running[build] += change
        beyond += max(0, before + change - 1) - max(0, before - 1)
        excused[excuse] += change
        yield Moment(at, beyond, running, excused)


def peak(found: Iterable[Piece]) -> int:
    """The most jobs that ran at once beyond the first of each build."""
    return max((moment.beyond for moment in moments(found)), default=0)


def breaches(found: Iterable[Piece], cap: int) -> list[Breach]:
    """Every time in which more than `cap` jobs ran beyond the first of each build."""
    told: list[Breach] = []
    open_: Breach | None = None
    for at, beyond, running, excused in moments(found):
        over = beyond - cap
        if over > 0 and (open_ is None or over > open_.most):
            known = {name: count for name, count in excused.items() if name and count}
            excuses = " ".join(sorted(known)) if sum(known.values()) >= over else ""
            builds = tuple(number for number, count in running.items() if count)
            open_ = Breach(at if open_ is None else open_.start, at, over, excuses, builds)
        elif over <= 0 and open_ is not None:
            told.append(open_._replace(end=at))
            open_ = None
    return told


def beyond_live(found: Iterable[Piece], lives: Iterable[tuple[int, int]], cap: int) -> tuple[int, int]:
    """How often more jobs ran than `cap` and as many as builds lived, and by how many at most.

    Of jobs that go on after a stop, or without the tool that has started them, none counts as too many.

    Args:
        found: The times in which jobs ran.
        lives: From when to when each build lived.
        cap: C.
    """
    events = []
    for piece in found:
        excused = int(bool(piece.excuse))
        events += [(piece.start, 1, excused), (piece.end, -1, -excused)]
    for start, end in lives:
        events += [(start, -1, 0), (end, 1, 0)]
    running, apart, before, times, worst = -cap, 0, 0, 0, 0
    for _, change, excused in sorted(events):
        running += change
        apart += excused
        over = max(0, running - apart)
        times += before <= 0 < over
        worst, before = max(worst, over), over
    return times, worst
