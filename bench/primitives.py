"""What the system calls cost that mechanisms of the protocol were chosen by.

`python -m bench.primitives [DIRECTORY]`: on the file system of DIRECTORY (default: a temporary one).
"""

from __future__ import annotations

import fcntl
import os
import sys
import tempfile
import time
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable

RECORD = b"x" * 300


def micros(action: Callable[[], object], rounds: int = 2000) -> float:
    """Microseconds that one call of `action` takes."""
    began = time.perf_counter()
    for _ in range(rounds):
        action()
    return (time.perf_counter() - began) / rounds * 1e6


def look(path: str) -> None:
    fd = os.open(path, os.O_RDWR | os.O_CREAT, 0o600)
    fcntl.flock(fd, fcntl.LOCK_SH | fcntl.LOCK_NB)
    fcntl.flock(fd, fcntl.LOCK_UN)
    os.close(fd)


def write(path: str, flags: int) -> None:
    fd = os.open(path, os.O_WRONLY | os.O_CREAT | flags, 0o600)
    os.write(fd, RECORD)
    os.close(fd)


def write_and_rename(path: str) -> None:
    write(path + ".new", os.O_TRUNC)
    os.rename(path + ".new", path)


def bell_made_anew(path: str) -> None:
    if os.path.exists(path):
        os.unlink(path)
    os.mkfifo(path)
    os.close(os.open(path, os.O_RDWR | os.O_NONBLOCK))


def bell_again(path: str) -> None:
    fd = os.open(path, os.O_RDONLY | os.O_NONBLOCK)
    os.read(fd, 1)
    os.close(fd)
    os.close(os.open(path, os.O_RDWR | os.O_NONBLOCK))


def fork_and_exec() -> None:
    if (pid := os.fork()) == 0:
        os.execv("/bin/true", ["true"])
    os.waitpid(pid, 0)


def spawn() -> None:
    os.waitpid(os.posix_spawn("/bin/true", ["true"], os.environ), 0)


def main() -> None:
    with tempfile.TemporaryDirectory(dir=sys.argv[1] if len(sys.argv) > 1 else None) as scratch:
        file, fifo = f"{scratch}/file", f"{scratch}/fifo"
        rows: list[tuple[str, Callable[[], object], int]] = [
            ("look at a lock (open, flock, unlock, close)", lambda: look(file), 2000),
            ("list an empty directory", lambda: os.listdir(scratch), 2000),
            ("write a record in place", lambda: write(file, 0), 2000),
            ("write a record with O_TRUNC", lambda: write(file, os.O_TRUNC), 500),
            ("write a record and rename it", lambda: write_and_rename(file), 500),
            ("make a bell anew (unlink, mkfifo, open)", lambda: bell_made_anew(fifo), 2000),
            ("use a bell again (open, read, open)", lambda: bell_again(fifo), 2000),
            ("fork, exec and reap true", fork_and_exec, 200),
            ("posix_spawn and reap true", spawn, 200),
        ]
        for name, action, rounds in rows:
            print(f"{name:45} {micros(action, rounds):8.1f} µs")


if __name__ == "__main__":
    main()
