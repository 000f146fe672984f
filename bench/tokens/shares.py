"""Who has how many jobs: alone, two at a time, and one that comes to two others; by the table of the jobs."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from bench.kit.figures import median
from bench.tokens import projects
from bench.tokens.builds import TICK_S
from bench.tokens.judge import Notes, breaches, pieces
from bench.tokens.rows import Row

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from bench.tokens.builds import Build, Yard
    from bench.tokens.table import Job
    from bench.tokens.tools import Tool

CAP = 4
ALONE_MS, FAST_MS, SLOW_MS = 100, 50, 400
SETTLES_S = 2.0
"""So long two builds have to come to equal shares."""
LIMIT_S = 120.0


class Shares:
    """The measures, each in builds of its own.

    Attributes:
        over: How often more jobs ran than there are tokens for.
    """

    def __init__(self, yard: Yard, tools: dict[str, Tool], rounds: int) -> None:
        self.over = 0
        self._yard, self._tools, self._rounds = yard, tools, rounds

    def rows(self) -> Iterator[Row]:
        """All of them."""
        for name in ("make 4.3", "make 4.4", "ninja 1.13", "cargo"):
            if tool := self._tools.get(name):
                used = median(self._alone(tool) for _ in range(self._rounds))
                free = median(self._alone(tool, free=True) for _ in range(self._rounds))
                what = f"{name} alone, jobs of {ALONE_MS} ms: jobs at once on average, of {CAP + 1}"
                cargo = name == "cargo"  # its jobs are fewer, and it does more between them
                figure = f"{used:.2f}; without tokens {free:.2f}"
                least = 0.95 * (CAP + 1)
                yield Row(what, figure, "" if cargo else f"{least:.2f}", cargo or used >= least)
        for name, ms in (("make 4.3", FAST_MS), ("make 4.4", FAST_MS), ("ninja 1.13", FAST_MS)):
            if tool := self._tools.get(name):
                apart = median(self._apart(tool, ms) for _ in range(self._rounds))
                what = f"two of {name}, jobs of {ms} ms: each from an equal share, in jobs"
                yield Row(what, f"{apart:.2f}", "0.3", apart <= 0.3)
        for name, ms, bar_s in (
            ("make 4.3", FAST_MS, 0.2),
            ("make 4.4", FAST_MS, 0.2),
            ("make 4.3", SLOW_MS, None),
            ("ninja 1.13", FAST_MS, None),
            ("ninja 1.13", SLOW_MS, 3.0),
        ):
            if tool := self._tools.get(name):
                took = [self._third(tool, ms) for _ in range(3 * self._rounds)]
                what = f"a third {name} comes to two, jobs of {ms} ms: has its share after"
                figure = f"{median(took):.2f} s ({min(took):.2f} to {max(took):.2f})"
                bar = "" if bar_s is None else f"{bar_s:g} s"
                yield Row(what, figure, bar, bar_s is None or median(took) <= bar_s)
        yield Row(
            "in all of these: times with more jobs than tokens allow", str(self.over), "0", not self.over
        )

    def _start(self, tool: Tool, count: int, ms: int, jobs: int = 2 * (CAP + 1)) -> Build:
        number = len(self._yard.builds)
        work = projects.Work((ms,) * count)
        project = projects.write(
            self._yard.root / "builds" / str(number), tool, work, self._yard.table, number
        )
        return self._yard.start(project, number, jobs)

    def _jobs(self, *builds: Build) -> list[list[Job]]:
        """The jobs of each of the builds."""
        found: dict[int, list[Job]] = {build.number: [] for build in builds}
        for job in self._yard.table.jobs():
            if job.build in found:
                found[job.build].append(job)
        return list(found.values())

    def _over(self, *builds: Build) -> None:
        self._yard.end()
        notes = Notes(ended={build.number: build.ended for build in builds})
        jobs = [job for each in self._jobs(*builds) for job in each]
        self.over += len(breaches(pieces(jobs, notes), CAP))

    def _alone(self, tool: Tool, *, free: bool = False) -> float:
        """How many jobs ran at once on average, until the last one started; without tokens if `free`."""
        self._yard.cap = 0 if free else CAP
        build = self._start(tool, 40 if tool.kind == "cargo" else 100, ALONE_MS, CAP + 1)
        self._yard.wait(LIMIT_S)
        self._yard.cap = CAP
        (jobs,) = self._jobs(build)
        self._over(build)
        return _average(jobs, jobs[0].start, max(job.start for job in jobs))

    def _apart(self, tool: Tool, ms: int) -> float:
        """How far two that start together are from half of all jobs each."""
        both = [self._start(tool, 2000, ms) for _ in range(2)]
        until = time.monotonic() + 3 * SETTLES_S
        self._wait(until)
        since, to = int((until - 2 * SETTLES_S) * 1e9), int(until * 1e9)
        averages = [_average(jobs, since, to) for jobs in self._jobs(*both)]
        self._over(*both)
        return abs(averages[0] - averages[1]) / 2

    def _third(self, tool: Tool, ms: int) -> float:
        """How long a newcomer has from its first job to as many as are its share, whole ones."""
        builds = [self._start(tool, 2000, ms) for _ in range(2)]
        self._wait(time.monotonic() + SETTLES_S)
        builds.append(self._start(tool, 2000, ms))
        self._wait(time.monotonic() + 2 * SETTLES_S)
        jobs = sorted(self._jobs(*builds)[-1])
        self._over(*builds)
        share = (CAP + 3) // 3
        first = min(job.start for job in jobs)
        starts = sorted(job.start for job in jobs)
        for at in starts:
            if sum(job.start <= at and (not job.end or job.end > at) for job in jobs) >= share:
                return (at - first) / 1e9
        return 2 * SETTLES_S

    def _wait(self, until: float) -> None:
        while time.monotonic() < until:
            self._yard.reap()
            time.sleep(TICK_S)


def _average(jobs: Iterable[Job], since: int, until: int) -> float:
    """How many of `jobs` ran at once on average in that time."""
    spans = ((max(job.start, since), min(job.end or until, until)) for job in jobs)
    return sum(max(0, end - start) for start, end in spans) / (until - since)
