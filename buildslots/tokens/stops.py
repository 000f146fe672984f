"""Whether a stopped command's processes have stopped, all of them: looked up in proc(5).

ninja starts each job in a process group of its own: POSIX_SPAWN_SETPGROUP in its subprocess-posix.cc. So
Ctrl-Z stops ninja, and its jobs run to their end.
"""

from __future__ import annotations

import os

AT_REST = frozenset(b"TtZXx")
"""States of processes that run nothing: stopped, traced, ended. See `/proc/PID/stat` in proc(5)."""
MOST = 10_000
"""Of more processes than that it is not asked."""


def runs_below(pid: int) -> bool:
    """Whether a process below `pid` runs, or could if there was a processor; False if that cannot be told."""
    seen, todo = 0, _children(pid)
    while todo:
        child = todo.pop()
        seen += 1
        if seen > MOST:
            return False
        try:
            with open(f"/proc/{child}/stat", "rb") as file:
                state = file.read(4096).rpartition(b")")[2][1]
        except (OSError, IndexError):
            continue  # it has ended
        if state not in AT_REST:
            return True
        todo += _children(child)
    return False


def _children(pid: int) -> list[int]:
    """The processes that the threads of `pid` have started and that nobody has waited for."""
    found: list[int] = []
    try:
        for thread in os.listdir(f"/proc/{pid}/task"):
            with open(f"/proc/{pid}/task/{thread}/children", "rb") as file:
                found += map(int, file.read().split())
    except (OSError, ValueError):
        pass  # it has ended; or this kernel has no such file (CONFIG_PROC_CHILDREN)
    return found
