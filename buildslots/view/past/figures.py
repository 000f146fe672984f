"""Figures about the builds of the past: counts, waits, runs, and how full the slots were."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import NamedTuple, TypeVar

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable
    from typing import Any

    from buildslots.view.past.builds import Build

Number = TypeVar("Number", int, float)
LEAST_S = 1e-6
"""The journal's last digit of a run. What took less counts for nothing, and divides nothing."""


@dataclass(frozen=True, slots=True)
class Spread:
    """How long something took: nearest-rank percentiles, in seconds; None of nothing."""

    p50_s: float | None
    p95_s: float | None
    max_s: float | None


@dataclass(frozen=True, slots=True)
class Sizes:
    """How much memory something took: the same, in bytes."""

    p50: int | None
    p95: int | None
    max: int | None


@dataclass(frozen=True, slots=True)
class Figures:
    """Figures about some builds.

    Attributes:
        builds: How many came.
        started: How many ran, those beyond the cap among them.
        queued: How many had to wait in line.
        fell_through: How many ran beyond their cap, after the timeout.
        gave_up: How many ended at the timeout without running.
        interrupted: How many were ended while they waited.
        degraded: How many ran without any slot because the machinery failed.
        failed: How many ended with a status other than 0.
        lost: How many have no end in the journal.
        wait: How long they waited; those that did not have to count too.
        run: How long they ran.
        measured: Of how many the CPU time is known.
        cores: How many cores these used on average while they ran; None if there are none.
        max_rss: How much memory the largest process of each had.
        with_tokens: How many shared CPU tokens with others.
        tokens_max: The most that one of these had at once; None if there are none.
        peak: How many ran at once at most.
        peak_slots: How many slots they had at once at most.
        full_s: Seconds for which they had as many slots as their cap, or more.
        busy_s: Seconds for which at least one ran.
        period_s: Length of the period in seconds.
    """

    builds: int
    started: int
    queued: int
    fell_through: int
    gave_up: int
    interrupted: int
    degraded: int
    failed: int
    lost: int
    wait: Spread
    run: Spread
    measured: int
    cores: float | None
    max_rss: Sizes
    with_tokens: int
    tokens_max: int | None
    peak: int
    peak_slots: int
    full_s: float
    busy_s: float
    period_s: float


def figures(builds: Iterable[Build], since: float, until: float) -> Figures:
    """The figures of `builds` in the period from `since` to `until`, Unix times."""
    builds = list(builds)
    outcomes = [build.outcome for build in builds]
    peak, peak_slots, full_s, busy_s = _occupancy(builds, since, until)
    tokens = [build.tokens_max for build in builds if build.tokens_max is not None]
    return Figures(
        builds=len(builds),
        started=sum(build.run_between(until) is not None for build in builds),
        queued=sum(build.queued_at is not None for build in builds),
        fell_through=sum(build.overflow for build in builds),
        gave_up=outcomes.count("gave up"),
        interrupted=outcomes.count("interrupted"),
        degraded=outcomes.count("degraded"),
        failed=sum(bool(build.status) for build in builds),
        lost=outcomes.count("lost"),
        wait=spread(build.waited_s for build in builds),
        run=spread(build.ran_s for build in builds),
        measured=sum(build.cpu_s is not None for build in builds),
        cores=cores_of(builds),
        max_rss=sizes(build.max_rss for build in builds),
        with_tokens=len(tokens),
        tokens_max=max(tokens, default=None),
        peak=peak,
        peak_slots=peak_slots,
        full_s=full_s,
        busy_s=busy_s,
        period_s=until - since,
    )


def spread(seconds: Iterable[float | None]) -> Spread:
    """Median, 95th percentile and maximum of those `seconds` that are known."""
    return Spread(*_ranked(seconds))


def sizes(counts: Iterable[int | None]) -> Sizes:
    """The same of those `counts` of bytes that are known."""
    return Sizes(*_ranked(counts))


def _ranked(values: Iterable[Number | None]) -> tuple[Number, Number, Number] | tuple[None, None, None]:
    """The same of any `values`."""
    known = sorted(value for value in values if value is not None)
    if not known:
        return None, None, None
    p50, p95 = (known[math.ceil(share * len(known)) - 1] for share in (0.5, 0.95))
    return p50, p95, known[-1]


def cores_of(builds: Iterable[Build], *, a_slot: bool = False) -> float | None:
    """How many cores `builds`, or each of their slots, used on average while they ran; None if unknown.

    A build that runs for long counts for more than a short one.
    """
    known = [b for b in builds if b.cpu_s is not None and b.ran_s is not None and b.ran_s >= LEAST_S]
    seconds = sum((b.ran_s or 0.0) * (b.weight if a_slot else 1) for b in known)
    return sum(b.cpu_s or 0.0 for b in known) / seconds if seconds else None


def by(builds: Iterable[Build], *names: str) -> dict[tuple[Any, ...], list[Build]]:
    """`builds` in groups by their attributes `names`, the largest group first."""
    groups: dict[tuple[Any, ...], list[Build]] = {}
    for build in builds:
        groups.setdefault(tuple(getattr(build, name) for name in names), []).append(build)
    return dict(sorted(groups.items(), key=lambda item: -len(item[1])))


class Stretch(NamedTuple):
    """A time in which the same builds ran: how many, with how many slots, and their cap."""

    begin: float
    end: float
    running: int
    slots: int
    cap: int

    @property
    def full(self) -> bool:
        """Whether all slots were held."""
        return 0 < self.cap <= self.slots


def stretches(builds: Iterable[Build], until: float) -> list[Stretch]:
    """The stretches of time in which the same builds ran, in order.

    A build that ends when another one starts ends first. A build that took no time is in no stretch.
    """
    moments = []
    for build in builds:
        run = build.run_between(until)
        if run is not None and run[0] < run[1]:
            moments += [(run[0], 1, build.weight, build.cap or 0), (run[1], -1, -build.weight, 0)]
    moments.sort(key=lambda moment: moment[:2])
    found = []
    before, running, slots, cap = 0.0, 0, 0, 0
    for at, change, weight, its_cap in moments:
        if running:
            found.append(Stretch(before, at, running, slots, cap))
        before, running, slots, cap = at, running + change, slots + weight, its_cap or cap
    return found


def _occupancy(builds: list[Build], since: float, until: float) -> tuple[int, int, float, float]:
    """The most builds at once, the most slots at once, the seconds with all slots held, and with any held."""
    peak, peak_slots, full_s, busy_s = 0, 0, 0.0, 0.0
    for stretch in stretches(builds, until):
        seconds = max(0.0, min(stretch.end, until) - max(stretch.begin, since))
        busy_s += seconds
        full_s += seconds * stretch.full
        peak = max(peak, stretch.running)
        peak_slots = max(peak_slots, stretch.slots)
    return peak, peak_slots, full_s, busy_s


def is_url(directory: str) -> bool:
    """Whether that is the URL of a pool on a server; a journal has its own machine's builds alone."""
    return directory.startswith(("redis://", "rediss://", "unix://"))


def caps_in_words(builds: list[Build], yours: int) -> str:
    """The caps that `builds` had, if they are not that of who looks; "" if they are."""
    caps = sorted({build.cap for build in builds if build.cap})
    if not caps or caps == [yours]:
        return ""
    return f"builds had a cap of {', '.join(map(str, caps))}; yours: {yours}"


def builds_in_words(count: int) -> str:
    """How many builds, as people say it."""
    return "1 build" if count == 1 else f"{count} builds"
