"""Programs that have locked a slot file and know nothing of us: flock(1), `filelock`, and the like."""

from __future__ import annotations

import os
import sys
import time


class Locker:
    """The process that has the lock of a file, as far as the system tells.

    Attributes:
        pid: Its number; None if unknown.
        command: Its arguments; empty if unknown.
        cwd: Its directory, or None.
        age_s: Seconds since it started, or None: at most so long it has had the lock.
    """

    __slots__ = ("age_s", "command", "cwd", "pid")

    def __init__(self, path: str | None) -> None:
        """Ask the system who has locked the file at `path`; nobody is asked for None."""
        self.pid = None if path is None else _lock_owner(path)
        self.command: tuple[str, ...] = ()
        self.cwd: str | None = None
        self.age_s: float | None = None
        if self.pid is not None:
            import psutil  # noqa: PLC0415 - 25 ms, for such programs only

            try:
                process = psutil.Process(self.pid)
                self.command = tuple(process.cmdline())
                self.age_s = max(0.0, time.time() - process.create_time())
                self.cwd = process.cwd()
            except psutil.Error:
                pass  # gone, or somebody else's


def _lock_owner(path: str) -> int | None:
    """The process that took the flock of the file at `path`, from /proc/locks (proc_locks(5)), or None."""
    if sys.platform != "linux":
        return None
    try:
        file = os.stat(path)
        with open("/proc/locks", encoding="ascii") as locks:
            lines = [line.split() for line in locks]
    except OSError:
        return None
    # The device there is the superblock's, which on btrfs is not st_dev: the inode alone has to do then.
    device = f"{os.major(file.st_dev):02x}:{os.minor(file.st_dev):02x}:{file.st_ino}"
    flocks = {words[5]: int(words[4]) for words in lines if len(words) > 5 and words[1] == "FLOCK"}
    same_inode = [pid for where, pid in flocks.items() if where.endswith(f":{file.st_ino}")]
    pid = flocks.get(device, same_inode[0] if len(same_inode) == 1 else 0)
    return pid if pid > 0 else None
