"""Figures about the builds of the past: counts, waits, runs, how full the slots were, and advice."""

from __future__ import annotations

import heapq
import math
import statistics
from bisect import bisect_left
from dataclasses import dataclass
from typing import NamedTuple

from buildslots.settings import resolve
from buildslots.settings.machine import machine_cap
from buildslots.settings.values import slots_variable
from buildslots.words import span

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable

    from buildslots.settings import Settings
    from buildslots.view.past.builds import Build, Past

ROUND_TIMEOUTS_S = (60, 120, 300, 600, 900, 1200, 1800, 2700, 3600, 2 * 3600, 4 * 3600, 8 * 3600, 24 * 3600)
"""The timeouts that advice may suggest: the first of them that is long enough."""
OFTEN = 0.1
"""Share of the busy time. If all slots are held for less of it than this, nobody waits much."""
MOSTLY = 0.5
"""Share of the builds, and of the busy time. If more builds than this wait, and all slots are held for more
of it, the cap is what builds wait for."""
FEW = 10
"""With fewer samples of the load than this, there is no advice on the cap."""
IDLE, CROWDED = 0.7, 1.5
"""Load average per core while all slots are held. Below the first number the machine has room for more
builds, above the second it has too much to do. The load counts processes that run and those that wait for a
disk, so 1 is a machine that is just busy."""
NOTHING = "Nothing to change"
"""How advice begins that asks for nothing."""


@dataclass(frozen=True, slots=True)
class Spread:
    """How long something took: nearest-rank percentiles, in seconds; None of nothing."""

    p50_s: float | None
    p95_s: float | None
    max_s: float | None


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
        peak=peak,
        peak_slots=peak_slots,
        full_s=full_s,
        busy_s=busy_s,
        period_s=until - since,
    )


def spread(seconds: Iterable[float | None]) -> Spread:
    """Median, 95th percentile and maximum of those `seconds` that are known."""
    known = sorted(s for s in seconds if s is not None)
    if not known:
        return Spread(None, None, None)
    p50, p95 = (known[math.ceil(share * len(known)) - 1] for share in (0.5, 0.95))
    return Spread(p50, p95, known[-1])


def by(builds: Iterable[Build], *names: str) -> dict[tuple[str, ...], list[Build]]:
    """`builds` in groups by their attributes `names`, the largest group first."""
    groups: dict[tuple[str, ...], list[Build]] = {}
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


def caps_in_words(builds: list[Build], yours: int) -> str:
    """The caps that `builds` had, if they are not that of who looks; "" if they are."""
    caps = sorted({build.cap for build in builds if build.cap})
    if not caps or caps == [yours]:
        return ""
    return f"builds had a cap of {', '.join(map(str, caps))}; yours: {yours}"


def advice_now(past: Past, directory: str, pool: str) -> str:
    """`advice` on the pool `pool` in `directory`, with the settings and the cores of this moment."""
    settings = resolve(pool=pool, warn=lambda _: None)  # doctor reports mistakes in them
    settings.dir = directory
    return advice(past, settings, machine_cap().cores)


def advice(past: Past, settings: Settings, cores: int) -> str:
    """A paragraph on what to change for the pool of `settings`, drawn from its builds."""
    builds = [build for build in past.builds if (build.dir, build.pool) == (settings.dir, settings.pool)]
    if not builds:
        return ""
    its = figures(builds, past.since, past.until)
    said = [
        _on_failures(builds, its),
        _on_timeouts(builds, its),
        _on_the_cap(builds, its, past, settings, cores),
    ]
    if any(said):
        return " ".join(filter(None, said))
    waited = "nobody had to wait" if not its.queued else f"{its.queued} of {its.builds} builds had to wait"
    longest = f", at most {span(its.wait.max_s)}" if its.queued and its.wait.max_s is not None else ""
    return f"{NOTHING}: {waited}{longest}, and none ran as overflow."


def _on_failures(builds: list[Build], its: Figures) -> str:
    if not its.degraded:
        return ""
    *_, last = (build.cause for build in builds if build.outcome == "degraded")
    return (
        f"{builds_in_words(its.degraded)} ran without a slot because the pool failed, the last one with"
        f" {last!r}: see `buildslots doctor`."
    )


def _on_timeouts(builds: list[Build], its: Figures) -> str:
    # A build with a timeout of 0 was never in line, and says nothing about how long the timeout should be.
    waited = [build for build in builds if build.queued_at is not None]
    timeout_s = spread(b.waited_s for b in waited if b.overflow or b.outcome == "gave up").p50_s
    if not timeout_s:
        return ""
    what = f"{builds_in_words(its.fell_through)} ran as overflow" if its.fell_through else ""
    if its.gave_up:
        what += f"{' and ' if what else ''}{builds_in_words(its.gave_up)} gave up"
    share = sum((build.ran_s or 0.0) > timeout_s for build in builds) / max(1, its.started)
    why = f"; {share:.0%} of the runs outlast the timeout of {span(timeout_s)}" if share else ""
    enough_s = _enough_s(builds, its)
    if enough_s is None or enough_s <= timeout_s:
        return f"{what} at the timeout of {span(timeout_s)}{why}."
    return (
        f"{what}{why}: raise the timeout to {_duration(enough_s)}"
        f' (`timeout = "{_duration(enough_s)}"` in the config file, or BUILD_SLOTS_TIMEOUT).'
    )


def _enough_s(builds: list[Build], its: Figures) -> float | None:
    """A timeout that nearly all (95 %) who stood in line would have got a slot in, or None."""
    if its.run.p50_s is None:
        return None
    waits = _waits_without_timeout(builds, _cap(builds, 1), its.run.p50_s)
    needed_s = spread(wait for build, wait in waits if build.queued_at is not None).p95_s
    return next((float(s) for s in ROUND_TIMEOUTS_S if s >= (needed_s or 0.0)), None)


def _waits_without_timeout(builds: list[Build], cap: int, usual_s: float) -> list[tuple[Build, float]]:
    """How long each of `builds` would have waited, had all waited for a slot, first come first served.

    Args:
        builds: In the order in which they came.
        cap: For all of them.
        usual_s: How long those run of which that is not known.
    """
    free, last, waits = cap, 0.0, []
    ends: list[tuple[float, int]] = []  # when slots become free, and how many: a heap
    for build in builds:
        if build.outcome == "degraded":
            continue
        at, weight = max(build.came_at, last), min(build.weight, cap)
        while ends and (ends[0][0] <= at or free < weight):
            end, slots = heapq.heappop(ends)
            at, free = max(at, end), free + slots
        waits.append((build, at - build.came_at))
        last, free = at, free - weight
        heapq.heappush(ends, (at + (usual_s if build.ran_s is None else build.ran_s), weight))
    return waits


def _cap(builds: list[Build], default: int) -> int:
    """The cap that the last of `builds` had. That of who looks may be another one."""
    return next((build.cap for build in reversed(builds) if build.cap), default)


def _on_the_cap(builds: list[Build], its: Figures, past: Past, settings: Settings, cores: int) -> str:
    if not its.queued or its.full_s < OFTEN * its.busy_s:
        return ""
    cap = _cap(builds, settings.slots)
    waited = ""
    if its.queued > MOSTLY * its.builds and its.full_s > MOSTLY * its.busy_s:
        waited = (
            f"{its.queued} of {its.builds} builds had to wait, at most {span(its.wait.max_s or 0.0)}, and all"
            f" slots were held for {its.full_s / its.busy_s:.0%} of the time in which builds ran."
        )
    loads = _loads_while_full(builds, past)
    if len(loads) < FEW:
        unknown = "Too little of the load was noted to say whether there is room for more; try"
        return waited and f"{waited} {unknown} {_how(settings, cap + 1)}, and look again."
    load = statistics.median(loads)
    measured = f"While all slots were held the load was {load:.1f} on {cores} core{'s' * (cores != 1)}"
    if load < IDLE * cores:
        return f"{measured}: there is room for more; try {_how(settings, cap + 1)}."
    if load > CROWDED * cores and cap > 1:
        return f"{measured}: too much; try {_how(settings, cap - 1)}."
    busy = "the machine is busy, and more at once would make each slower"
    return waited and f"{waited} {measured}: {busy}. Only fewer or shorter builds help."


def _how(settings: Settings, slots: int) -> str:
    return f"{slots_variable(settings.pool)}={slots}"


def _loads_while_full(builds: list[Build], past: Past) -> list[float]:
    """The load averages noted when all slots had been held for a minute or more.

    The load is an average over a minute, so earlier ones would count a time when slots were free.
    """
    times = [at for at, _ in past.loads]
    found: list[float] = []
    full_since = full_until = 0.0
    for stretch in stretches(builds, past.until):
        if stretch.full:
            full_since = full_since if stretch.begin == full_until else stretch.begin
            full_until = stretch.end
            first = bisect_left(times, max(stretch.begin, full_since + 60))
            found += [load for _, load in past.loads[first : bisect_left(times, stretch.end)]]
    return found


def builds_in_words(count: int) -> str:
    """How many builds, as people say it."""
    return "1 build" if count == 1 else f"{count} builds"


def _duration(seconds: float) -> str:
    """`seconds` as slot-run's --timeout takes it."""
    return f"{seconds / 3600:.0f}h" if seconds % 3600 == 0 else f"{seconds / 60:.0f}m"
