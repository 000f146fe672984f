"""What processes use, as /proc says (Linux)."""

from __future__ import annotations

import contextlib
import os
import resource
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable

TICK_S = 1 / os.sysconf("SC_CLK_TCK")


def cpu_s(pid: int) -> float:
    """CPU seconds that process `pid` has used: schedstat counts nanoseconds, not ticks."""
    return int(Path(f"/proc/{pid}/schedstat").read_text().split()[0]) / 1e9


def threads_cpu_s(pid: int) -> float:
    """CPU seconds that the threads of process `pid` have used that are still there."""
    total = 0.0
    for thread in Path(f"/proc/{pid}/task").iterdir():
        with contextlib.suppress(OSError):  # it has just ended
            total += int((thread / "schedstat").read_text().split()[0]) / 1e9
    return total


def used_s(pids: Iterable[int]) -> float:
    """CPU seconds of the processes `pids` and of their children that have ended."""
    total = 0.0
    for pid in pids:
        with contextlib.suppress(OSError):
            ended_children = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[13:15]
            total += cpu_s(pid) + sum(map(int, ended_children)) * TICK_S
    return total


def children_cpu_s() -> float:
    """CPU seconds of all descendants that ended and were waited for."""
    usage = resource.getrusage(resource.RUSAGE_CHILDREN)
    return usage.ru_utime + usage.ru_stime


def private_kib(pids: Iterable[int]) -> int:
    """Memory that `pids` share with nobody: what they cost more."""
    total = 0
    for pid in pids:
        with contextlib.suppress(OSError):  # a polling shell script's sleep, say
            rollup = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
            total += sum(int(line.split()[1]) for line in rollup if line.startswith("Private_"))
    return total
