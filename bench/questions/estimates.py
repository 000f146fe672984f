"""How good is `eta_s`? A journal is replayed, and each estimate compared with what came.

`python -m bench.questions.estimates [--state DIR] [--least S]`: for each build in the journal (the user's
own, or that in DIR) that waited and got a slot: what would have been said of it when it joined the line, from
what was known then, and when did it start? Prints the median of |said - real| / max(real, 1 s), and how many
estimates were within a half of what came, for three ways: ours; the same line played forward with all run
times of the pool; and one median run of the pool for each place in line. --least leaves out shorter
waits.
"""

from __future__ import annotations

import argparse
import os
import time
from functools import partial
from typing import TYPE_CHECKING

from bench.kit.figures import median
from buildslots.estimates import RunTimes, left_s, starts
from buildslots.settings.places import state_dir
from buildslots.view.past.builds import past

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from buildslots.estimates import Kind
    from buildslots.view.past.builds import Build

    Way = Callable[[Build, list[Build], list[Build], "Known"], float | None]


class Known:
    """What is known at some moment: how long the builds ran that have ended."""

    def __init__(self) -> None:
        self.special = RunTimes()
        self.of_pool: list[float] = []

    def add(self, build: Build) -> None:
        """It has ended."""
        self.special.add(kind(build), build.ran_s or 0.0)
        self.of_pool.append(build.ran_s or 0.0)


def kind(build: Build) -> Kind:
    return build.program.encode(errors="replace"), build.cwd.encode(errors="replace")


def played(
    build: Build, holders: list[Build], ahead: list[Build], runs: Known, *, all_alike: bool = False
) -> float | None:
    """The line played forward; with `all_alike` by the runs of the whole pool."""
    now = build.queued_at or 0.0

    def of(other: Build) -> list[float]:
        return runs.of_pool if all_alike else runs.special.of(kind(other))

    held = [(left_s(of(h), now - (h.started_at or now)), h.weight) for h in holders]
    line = [(left_s(of(one), 0.0), one.weight, one.cap or 1) for one in [*ahead, build]]
    return starts(held, [(run, weight, cap - weight + 1) for run, weight, cap in line])[-1]


def per_place(_: Build, __: list[Build], ahead: list[Build], runs: Known) -> float | None:
    """One median run of the pool for each place."""
    return median(runs.of_pool) * (1 + len(ahead)) if runs.of_pool else None


OURS = "ours"
WAYS: dict[str, Way] = {
    OURS: played,
    "the same with the runs of the pool": partial(played, all_alike=True),
    "a median run of the pool for each place": per_place,
}


def moments(builds: list[Build]) -> Iterator[tuple[Build, list[Build], list[Build], Known]]:
    """Each build that waited and got a slot, with who held, who was ahead, and what was known just then."""
    ended = sorted((b for b in builds if b.ran_s is not None), key=lambda b: b.ended_at or 0.0)
    waited = [
        b for b in builds if b.queued_at and b.started_at and not b.overflow and b.outcome != "degraded"
    ]
    runs, known = Known(), 0
    for build in sorted(waited, key=lambda b: b.queued_at or 0.0):
        now = build.queued_at or 0.0
        while known < len(ended) and (ended[known].ended_at or 0.0) < now:
            runs.add(ended[known])
            known += 1
        live = [b for b in builds if b.came_at <= now and (b.ended_at or now) >= now and b is not build]
        holders = [b for b in live if b.started_at is not None and b.started_at <= now]
        ahead = [b for b in live if b.queued_at and b not in holders and b.outcome != "lost"]
        yield build, holders, ahead, runs


def score(builds: list[Build], way: Way, least_s: float = 0.0) -> list[tuple[float, float]]:
    """What was said and what came, for each moment at which something was said."""
    found = []
    for build, holders, ahead, runs in moments(builds):
        said = way(build, holders, ahead, runs)
        real = (build.started_at or 0.0) - (build.queued_at or 0.0)
        if said is not None and real >= least_s:
            found.append((said, real))
    return found


def error(said: float, real: float) -> float:
    return abs(said - real) / max(real, 1.0)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--state", help="directory with journal.jsonl")
    parser.add_argument("--least", type=float, default=0.0, help="leave out waits of fewer seconds")
    options = parser.parse_args()
    found = past(None, None, time.time(), options.state or state_dir(os.environ))
    pools: dict[str, list[Build]] = {}
    for build in found.builds:
        pools.setdefault(build.dir, []).append(build)
    print(f"{len(found.builds)} builds, {sum(b.queued_at is not None for b in found.builds)} of them queued")
    for name, way in WAYS.items():
        pairs = [pair for builds in pools.values() for pair in score(builds, way, options.least)]
        if not pairs:
            raise SystemExit("no build waited, or none of which anything was known")
        errors = [error(*pair) for pair in pairs]
        near = sum(one <= 0.5 for one in errors) / len(errors)
        print(f"{name:39} {len(pairs)} said, median error {median(errors):.2f}, {near:.0%} within a half")


if __name__ == "__main__":
    main()
