"""A fleet's slot and a slot of the host besides: in which order to take the two, by a simulation.

`python -m bench.questions.fleet_levels [--hours N] [--seed N]`: 20 hosts with 3 slots each, 3 slots of the
fleet, and on every host two builds at any time that want one of those. Meanwhile each host has builds of its
own, which come at random and keep its slots in use for 50, 75 or 90 % of the time. All builds take a minute
on average.

- `none`: a build of the fleet takes no slot of its host.
- `fleet first`: it waits in the fleet's line, and with that slot for one of its host.
- `host first`: it waits for a slot of its host, and with that in the fleet's line.
- `ready`: it waits in the fleet's line. Near its head, among the first 4 K, it looks whether its host has a
  slot free, and is passed over while there is none. The first K of the line stand in their hosts' lines, too,
  and take a slot there when it is their turn.
- `all stand`: the same, but all of the first 4 K stand in their hosts' lines.
- `few hold`: all of the first 8 K do. But while K builds of the fleet's line have a slot of their host
  already, whoever gets one gives it back, and stands in line again.

Nothing of buildslots runs here: the question came before the code.
"""

from __future__ import annotations

import argparse
import heapq
import random
from collections import deque
from dataclasses import dataclass, field
from functools import partial
from itertools import count
from typing import TYPE_CHECKING

from bench.report.markdown import table

if TYPE_CHECKING:
    from collections.abc import Callable

HOSTS, LOCAL, FLEET, WANTED, MINUTE = 20, 3, 3, 2, 60.0
LOADS = (0.50, 0.75, 0.90)
NEAR = 4 * FLEET
STAND = {"ready": FLEET, "all stand": NEAR, "few hold": 2 * NEAR}
"""So many at the head of the fleet's line stand in their hosts' lines, too."""
FEW = FLEET
ORDERS = ("none", "fleet first", "host first", *STAND)


@dataclass
class Build:
    """One of the fleet's: on which host, and whether it has a slot there, or waits for one there."""

    host: int
    has_local: bool = False
    asked: bool = False


@dataclass
class Host:
    """The slots of a host that are free, and who waits for one: what to do with it then."""

    free: int = LOCAL
    line: deque[Callable[[], None]] = field(default_factory=deque)


class Model:
    """One order under one load, for so many seconds of the model."""

    def __init__(self, order: str, load: float, seed: int) -> None:
        self._order = order
        self._stand = STAND.get(order, 0)
        self._random = random.Random(seed)
        self._rate = load * LOCAL / MINUTE
        self._hosts = [Host() for _ in range(HOSTS)]
        self._free = FLEET
        self._line: list[Build] = []
        self._events: list[tuple[float, int, Callable[[], None]]] = []
        self._number = count()
        self._now = 0.0
        self._running = self._idle = 0  # builds of the fleet that run; slots of hosts that wait with a build
        self.busy = self.held_idle = 0.0

    def run(self, seconds: float) -> tuple[float, float]:
        """How many per cent of the fleet's slots build, and of the hosts' slots are held by who waits."""
        for host in range(HOSTS):
            self._local_comes_later(host)
            for _ in range(WANTED):
                self._want(host)
        while self._events[0][0] < seconds:
            at, _, act = heapq.heappop(self._events)
            self.busy += (at - self._now) * self._running
            self.held_idle += (at - self._now) * self._idle
            self._now = at
            act()
        return self.busy / seconds / FLEET * 100, self.held_idle / seconds / (HOSTS * LOCAL) * 100

    def _later(self, mean_s: float, act: Callable[[], None]) -> None:
        at = self._now + self._random.expovariate(1 / mean_s)
        heapq.heappush(self._events, (at, next(self._number), act))

    # A host.

    def _local_comes_later(self, host: int) -> None:
        def come() -> None:
            self._local_comes_later(host)
            self._take(host, lambda: self._later(MINUTE, lambda: self._give(host)))

        self._later(1 / self._rate, come)

    def _take(self, host: int, then: Callable[[], None]) -> None:
        mine = self._hosts[host]
        if mine.free:
            mine.free -= 1
            then()
        else:
            mine.line.append(then)

    def _give(self, host: int) -> None:
        mine = self._hosts[host]
        if mine.line:
            mine.line.popleft()()
        else:
            mine.free += 1
            self._advance()  # somebody may have looked for just that

    # The fleet.

    def _want(self, host: int) -> None:
        build = Build(host)
        if self._order == "host first":
            self._take(host, lambda: self._has_local(build, in_line=False))
        else:
            self._line.append(build)
            self._advance()

    def _has_local(self, build: Build, *, in_line: bool) -> None:
        if self._are_enough():
            build.asked = False
            self._give(build.host)
            return
        build.has_local = True
        self._idle += 1
        if not in_line:
            self._line.append(build)
        self._advance()

    def _are_enough(self) -> bool:
        return self._order == "few hold" and sum(build.has_local for build in self._line) >= FEW

    def _can_start(self, build: Build) -> bool:
        """Whether it has what it needs of its host, or would get that at once."""
        return not self._stand or build.has_local or self._hosts[build.host].free > 0

    def _advance(self) -> None:
        for build in self._line[: self._stand]:
            if not build.asked and not self._are_enough():
                build.asked = True
                self._take(build.host, partial(self._has_local, build, in_line=True))
        while self._free:
            first = self._line[: max(self._stand, NEAR)] if self._stand else self._line
            able = next(filter(self._can_start, first), None)
            if able is None:
                return
            self._line.remove(able)
            self._free -= 1
            self._granted(able)

    def _granted(self, build: Build) -> None:
        if build.has_local:
            self._idle -= 1
        if build.has_local or self._order == "none":
            self._start(build)
        else:
            self._take(build.host, lambda: self._start(build, takes_local=True))

    def _start(self, build: Build, *, takes_local: bool = False) -> None:
        build.has_local |= takes_local
        self._running += 1
        self._later(MINUTE, lambda: self._end(build))

    def _end(self, build: Build) -> None:
        self._running -= 1
        self._free += 1
        if build.has_local:
            self._give(build.host)
        self._advance()
        self._want(build.host)


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m bench.questions.fleet_levels", description=__doc__)
    parser.add_argument("--hours", type=float, default=50.0, help="of the model (50)")
    parser.add_argument("--seed", type=int, default=1)
    options = parser.parse_args()
    rows = []
    for order in ORDERS:
        found = [Model(order, load, options.seed).run(options.hours * 3600) for load in LOADS]
        busy, idle = zip(*found, strict=True)
        rows.append([order, *(f"{each:.0f}" for each in busy), *(f"{each:.1f}" for each in idle)])
    loads = [f"{load:.0%}" for load in LOADS]
    titles = [f"fleet's slots that build, % (hosts at {load})" for load in loads]
    titles += [f"hosts' slots held idle, % ({load})" for load in loads]
    print("\n".join(table(["order", *titles], rows)))


if __name__ == "__main__":
    main()
