"""What builds cost: CPU, memory and number of processes of whole process trees, by psutil.

One pass over the machine's processes serves all trees. psutil's `children()` would make a pass for each tree,
and ask every process for its parent again, which takes 50 µs. Here a process is asked again only when its
parent has gone.
"""

from __future__ import annotations

import sys
import time
from typing import NamedTuple

import psutil

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable

AGAIN_S = 0.9
"""A second look within this time returns the first one's result. Looking costs, and CPU times are counted in
ticks of 10 ms."""

REAPED_COUNT = sys.platform not in ("darwin", "win32")
"""Whether the CPU times of a process include those of the children that it has waited for."""


class Cost(NamedTuple):
    """What a tree costs now.

    Attributes:
        cpu: Cores busy since the look before, or None at the first one.
        memory: Resident bytes of all its processes. Shared memory counts in each of them: to count it once,
            psutil would have to read their page tables.
        processes: How many there are.
    """

    cpu: float | None
    memory: int
    processes: int


class Trees:
    """Process trees, looked at again and again."""

    def __init__(self) -> None:
        self._parents: dict[psutil.Process, psutil.Process | None] = {}
        self._spent: dict[psutil.Process, dict[psutil.Process, float]] = {}
        self._costs: dict[int, Cost] = {}
        self._at = float("-inf")

    def look(self, roots: Iterable[int]) -> dict[int, Cost]:
        """What the trees below the processes `roots` cost, by pid; gone and hidden ones are left out."""
        wanted = set(roots)
        now = time.monotonic()
        if now - self._at < AGAIN_S:
            return self._costs
        elapsed_s, self._at = now - self._at, now
        children = self._children() if wanted else {}
        before, self._spent = self._spent, {}
        self._costs = {}
        for root in [process for process in children if process.pid in wanted]:
            spent, memory = _measure(root, children)
            if spent:
                self._spent[root] = spent
                cpu = _growth_s(before[root], spent) / elapsed_s if root in before else None
                self._costs[root.pid] = Cost(cpu, memory, len(spent))
        return self._costs

    def _children(self) -> dict[psutil.Process, list[psutil.Process]]:
        """All processes, each with its children."""
        processes = {process.pid: process for process in psutil.process_iter()}
        children: dict[psutil.Process, list[psutil.Process]] = {p: [] for p in processes.values()}
        before, self._parents = self._parents, {}
        for process in children:
            parent = before.get(process)
            if parent not in children:
                parent = _parent(process, processes)
            self._parents[process] = parent
            if parent is not None:
                children[parent].append(process)
        return children


def _parent(process: psutil.Process, processes: dict[int, psutil.Process]) -> psutil.Process | None:
    """The parent of `process`, or None if it is gone or hidden.

    On Windows a younger process may have got the pid of a dead parent.
    """
    try:
        parent = processes.get(process.ppid())
        if parent is None or parent is process or parent.create_time() > process.create_time():
            return None
    except psutil.Error:
        return None  # gone, or another user's
    return parent


def _measure(
    root: psutil.Process, children: dict[psutil.Process, list[psutil.Process]]
) -> tuple[dict[psutil.Process, float], int]:
    """The CPU seconds of each process of a tree, with those of its reaped children, and the tree's memory."""
    spent, memory, tree = {}, 0, [root]
    for process in tree:  # it grows meanwhile
        tree += children[process]
        try:
            with process.oneshot():
                spent[process] = sum(process.cpu_times()[:4])  # user, system, and both of children
                memory += process.memory_info().rss
        except psutil.Error:
            pass  # gone, or another user's
    return spent, memory


def _growth_s(before: dict[psutil.Process, float], now: dict[psutil.Process, float]) -> float:
    """The CPU seconds that a tree has spent between two looks.

    When a process ends, its CPU time becomes part of what its parent has for reaped children, where the
    system counts that (REAPED_COUNT). Elsewhere the time that it spent after the first look is lost.
    """
    counted = [seconds for process, seconds in before.items() if REAPED_COUNT or process in now]
    return max(0.0, sum(now.values()) - sum(counted))
