"""Watches for builds that would start a job while tokens lie unused, by what the kernel and the jobs say."""

from __future__ import annotations

import time
from collections import Counter
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from bench.tokens.builds import Build, Yard

LONGEST_S = 3.0
"""Nobody is to be hungry for longer than this while tokens lie unused."""
LOOK_S = 0.05


class Hunger:
    """Looks at all builds twenty times a second.

    A build is hungry if it has jobs to start, fewer run than it may have, and nothing was done to it that
    ends or stops it or keeps its slot-run from getting more. A token lies unused if nobody has it locked, or
    if a build that was not hurt has it for no job.

    Attributes:
        longest: By build number, the longest time for which it was hungry without a break, while tokens
            lay unused in every look, in seconds.
    """

    def __init__(self, yard: Yard) -> None:
        self.longest: dict[int, float] = {}
        self._yard = yard
        self._since: dict[int, float] = {}
        self._started: Counter[int] = Counter()
        self._open: dict[int, int] = {}
        self._new: list[int] = []
        self._seen = 0
        self._due = 0.0

    def look(self, live: list[Build], stopped: set[int]) -> None:
        """Look at the builds that are live, of which those with these ids are stopped."""
        now = time.monotonic()
        if now < self._due or not self._yard.cap:
            return
        self._due = now + LOOK_S
        running = self._running({build.number for build in live})
        # Whoever was hurt may keep tokens that nobody can use until it ends.
        if stopped or any(build.hurt for build in live):
            unused = self._yard.cap - len(self._yard.held())
        else:
            unused = self._yard.cap - sum(max(0, count - 1) for count in running.values())
        for build in live:
            count = running[build.number]
            left = build.project.count - self._started[build.number]
            is_hungry = left > 0 and 0 < count < build.jobs and not build.hurt and build.project.tool.obeys
            if is_hungry and unused > 0:
                since = self._since.setdefault(build.number, now)
                self.longest[build.number] = max(self.longest.get(build.number, 0.0), now - since)
            else:
                self._since.pop(build.number, None)

    def _running(self, live: set[int]) -> Counter[int]:
        """How many jobs run of each build that is `live`."""
        table = self._yard.table
        until = len(table)
        new, self._new = [*self._new, *range(self._seen, until)], []
        self._seen = until
        for job in map(table.one, new):
            if job.start:
                self._started[job.build] += 1
                self._open[job.number] = job.build
            else:
                self._new.append(job.number)  # it has only just come
        for number, build in list(self._open.items()):
            if build not in live or table.one(number).end:
                del self._open[number]
        return Counter(self._open.values())
