"""Advice on a pool, drawn from the builds of its past: on failures, its timeout, memory, and its cap."""

from __future__ import annotations

import heapq
import math
import statistics
import sys
from bisect import bisect_left
from typing import NamedTuple

from buildslots.settings import resolve
from buildslots.settings.machine import machine_cap, machine_memory
from buildslots.settings.values import slots_variable
from buildslots.view.past.figures import (
    builds_in_words,
    cores_of,
    figures,
    is_url,
    sizes,
    spread,
    stretches,
)
from buildslots.words import size, span

TYPE_CHECKING = False
if TYPE_CHECKING:
    from buildslots.settings import Settings
    from buildslots.view.past.builds import Build, Past
    from buildslots.view.past.figures import Figures

ROUND_TIMEOUTS_S = (60, 120, 300, 600, 900, 1200, 1800, 2700, 3600, 2 * 3600, 4 * 3600, 8 * 3600, 24 * 3600)
"""The timeouts that advice may suggest: the first of them that is long enough."""
OFTEN = 0.1
"""Share of the busy time. If all slots are held for less of it than this, nobody waits much."""
MOSTLY = 0.5
"""Share of the builds, and of the busy time. If more builds than this wait, and all slots are held for more
of it, the cap is what builds wait for."""
FEW = 10
"""With fewer samples of the load than this, nothing is made of them."""
FEW_MEASURED = 20
"""With fewer builds whose use is known than this, nothing is made of it: their 95th percentile would be the
largest of them, and one odd build is no reason to change anything."""
IDLE, CROWDED = 0.7, 1.5
"""Of each core, what the builds of a full pool use, and the load average while all slots are held. Below the
first number the machine has room for more builds, above the second it has too much to do. The load counts
processes that run and those that wait for a disk, of all programs, so 1 is a machine that is just busy."""
NOTHING = "Nothing to change"
"""How advice begins that asks for nothing."""


class Machine(NamedTuple):
    """What builds have here: cores, and bytes of memory, or None if that is unknown."""

    cores: int
    memory: int | None = None


def advice_now(past: Past, directory: str, pool: str) -> str:
    """`advice` on the pool `pool` in `directory`, with the settings and the machine of this moment."""
    settings = resolve(pool=pool, warn=lambda _: None)  # doctor reports mistakes in them
    settings.dir = directory
    return advice(past, settings, Machine(machine_cap().cores, machine_memory()))


def advice(past: Past, settings: Settings, machine: Machine) -> str:
    """A paragraph on what to change for the pool of `settings`, drawn from its builds.

    Where memory asks for less at once, nothing else is said of the cap: a lack of cores makes builds slow, a
    lack of memory ends them, and whatever else runs.
    """
    builds = [build for build in past.builds if (build.dir, build.pool) == (settings.dir, settings.pool)]
    if not builds:
        return ""
    its = figures(builds, past.since, past.until)
    said = [_on_failures(builds, its), _on_timeouts(builds, its)]
    if not is_url(settings.dir):  # the cap of many machines is no question of this one
        said.append(
            _on_memory(builds, settings, machine) or _on_the_cap(builds, its, past, settings, machine)
        )
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


def _on_memory(builds: list[Build], settings: Settings, machine: Machine) -> str:
    cap, each, memory = _cap(builds, settings.slots), _memory_a_slot(builds), machine.memory
    if each is None or memory is None or cap == 1 or cap * each <= memory:
        return ""
    return (
        f"One build in 20 needs {size(each)}{_a_slot(builds)} or more, and {cap} of these at once need"
        f" {size(cap * each)} of {size(memory)}: try {_how(settings, max(1, memory // each))}, for these"
        f" `--weight {min(cap, math.ceil(cap * each / memory))}`, or `--min-free-memory {_amount(each)}`."
    )


def _on_the_cap(builds: list[Build], its: Figures, past: Past, settings: Settings, machine: Machine) -> str:
    if not its.queued or its.full_s < OFTEN * its.busy_s:
        return ""
    cap, cores = _cap(builds, settings.slots), machine.cores
    waited = ""
    if its.queued > MOSTLY * its.builds and its.full_s > MOSTLY * its.busy_s:
        waited = (
            f"{its.queued} of {its.builds} builds had to wait, at most {span(its.wait.max_s or 0.0)}, and all"
            f" slots were held for {its.full_s / its.busy_s:.0%} of the time in which builds ran. "
        )
    load = _median(_loads_while_full(builds, past))
    each = cores_of(builds, a_slot=True) if its.measured >= FEW_MEASURED else None
    of_cores = f"{cores} core{'s' * (cores != 1)}"
    if each is not None:
        # Builds that have to share cores seem to need few; then the load is high, if only that of all times.
        used, guard = each * cap, _median([load for _, load in past.loads]) if load is None else load
        slot, when = _a_slot(builds) or " each", "" if load is None else " while all slots were held"
        noted = "" if guard is None else f", and the load was {guard:.1f}{when}"
        measured = f"Builds use {each:.1f} cores{slot}, {cap} at once {used:.1f} of {of_cores}{noted}"
    elif load is not None:
        used = guard = load
        measured = f"While all slots were held the load was {load:.1f} on {of_cores}"
    else:
        unknown = "Too little is known of what builds use to say whether there is room for more; try"
        return waited and f"{waited}{unknown} {_how(settings, cap + 1)}, and look again."
    if max(used, guard or 0.0) < IDLE * cores:
        most = _most_at_once(builds, each, cap, machine)
        if most > cap:
            return f"{measured}: there is room for more; try {_how(settings, most)}."
        why = "memory has no room for more"
    elif load is not None and load > CROWDED * cores and used >= IDLE * cores and cap > 1:
        return f"{measured}: too much; try {_how(settings, cap - 1)}{_fewer_jobs(its)}."
    elif used < IDLE * cores:
        why = "the rest goes to other programs, or builds wait for a disk"
    else:
        why = "the machine is busy, and more at once would make each slower"
    return waited and f"{waited}{measured}: {why}. Only fewer or shorter builds help."


def _fewer_jobs(its: Figures) -> str:
    """What else helps than fewer builds: fewer jobs in them, where these can be bounded."""
    if sys.platform != "linux":
        return ""
    how = (
        "fewer tokens"
        if its.with_tokens > MOSTLY * its.started
        else "`--tokens`, which bounds all their jobs"
    )
    return f", or {how} (`buildslots help tokens`)"


def _most_at_once(builds: list[Build], each: float | None, cap: int, machine: Machine) -> int:
    """The cap to try on a machine that is idle at `cap`, where builds use `each` cores a slot.

    At most twice as many: an average hides the times at which builds use all that there is. And no more than
    there is memory for.
    """
    most = cap + 1 if each is None else max(cap + 1, min(2 * cap, int(machine.cores / max(each, 0.01))))
    memory = _memory_a_slot(builds)
    return min(most, machine.memory // memory) if memory and machine.memory else most


def _memory_a_slot(builds: list[Build]) -> int | None:
    """What a slot has to have for nearly all (95 %) builds, in bytes; None if it is known of too few.

    Too little, if anything: it is the largest process of a build, and builds have several.
    """
    known = [build.max_rss // build.weight for build in builds if build.max_rss]
    return sizes(known).p95 if len(known) >= FEW_MEASURED else None


def _a_slot(builds: list[Build]) -> str:
    """How figures for each slot are told apart from those for each build, where that is not the same."""
    return " a slot" if any(build.weight > 1 for build in builds) else ""


def _how(settings: Settings, slots: int) -> str:
    return f"{slots_variable(settings.pool)}={slots}"


def _median(loads: list[float]) -> float | None:
    return statistics.median(loads) if len(loads) >= FEW else None


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


def _amount(count: int) -> str:
    """`count` bytes, rounded up, as slot-run's --min-free-memory takes it."""
    return f"{math.ceil(count / 2**20)}M" if count < 2**30 else f"{math.ceil(count / 2**28) / 4:g}G"


def _duration(seconds: float) -> str:
    """`seconds` as slot-run's --timeout takes it."""
    return f"{seconds / 3600:.0f}h" if seconds % 3600 == 0 else f"{seconds / 60:.0f}m"
