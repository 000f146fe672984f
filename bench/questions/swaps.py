"""A member of a shared pool against the doctor: what the doctor makes there is exchanged for somebody's tree.

`python -m bench.questions.swaps [--swaps N]`, as root on Linux. A real process of another user looks for the
directory in which the doctor tries things out, and exchanges it for a private tree of the doctor's user, to
and fro, as fast as it can. The tree has to be whole in the end.
"""

from __future__ import annotations

import argparse
import ctypes
import mmap
import os
import random
import signal
import sys
import tempfile
import time
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING

from buildslots.view.health.checks.trial import trial

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from typing import Any, NoReturn

GROUP, MEMBER = 64000, 64001
TREE, LETTERS = "private", ("letter", "deep/letter", "deep/lock", "bell")
HERE, EXCHANGE = -100, 2  # AT_FDCWD and RENAME_EXCHANGE of renameat2(2)
PAUSE_S = 0.003
"""The longest pause between two swaps, half of which come without any."""


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m bench.questions.swaps", description=__doc__)
    parser.add_argument("--swaps", type=int, default=1000)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="swaps-") as scratch:
        pool = Path(scratch, "pool")
        began, runs = time.monotonic(), 0
        plant(pool)
        with swapping(pool) as swaps:
            while swaps() < options.swaps or runs < 5:
                look(pool)
                runs += 1
            seen = swaps()
        lost = missing(pool)
    print(f"{seen} swaps in {runs} trials, {time.monotonic() - began:.0f} s; lost: {lost or 'nothing'}")
    return 1 if lost else 0


def plant(pool: Path) -> None:
    """Make a pool of the group, and in it a private tree of ours."""
    pool.mkdir()
    os.chown(pool, -1, GROUP)
    pool.chmod(0o2770)
    for name in LETTERS:
        path = pool / TREE / name
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        path.write_text(name)
    (pool / TREE).chmod(0o700)


def missing(pool: Path) -> list[str]:
    """What of the tree is not there any more, whatever name the tree has by now."""
    trees = [path for path in pool.iterdir() if path.is_dir() and any(path.iterdir())]
    return [name for name in LETTERS if not any((tree / name).exists() for tree in trees)]


def look(pool: Path) -> list[Any]:
    """What the doctor's trial finds in `pool`."""
    return trial(SimpleNamespace(settings=SimpleNamespace(dir=str(pool))))  # type: ignore[arg-type]


@contextmanager
def swapping(pool: Path) -> Iterator[Callable[[], int]]:
    """A process of another user that swaps until the end of the block; how often it has done so."""
    count = mmap.mmap(-1, 8)
    child = os.fork()
    if child == 0:
        try:
            _swap(pool, count)
        finally:
            os._exit(1)
    try:
        yield lambda: int.from_bytes(count[:8], "little")
    finally:
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)


def _swap(pool: Path, count: mmap.mmap) -> NoReturn:
    tree = (pool / TREE).stat().st_ino
    os.chdir(pool)  # what is above may be closed to the other user
    os.setgroups([GROUP])
    os.setgid(MEMBER)
    os.setuid(MEMBER)
    exchange = ctypes.CDLL(None).renameat2
    swaps = 0
    while True:
        with os.scandir(".") as entries:
            inodes = {entry.name: entry.inode() for entry in entries}
        its = next((name for name, inode in inodes.items() if inode == tree), TREE)
        for name, inode in inodes.items():
            if name.startswith(".doctor-") and inode != tree:
                if exchange(HERE, its.encode(), HERE, name.encode(), EXCHANGE) == 0:
                    swaps += 1
                    count[:8] = swaps.to_bytes(8, "little")
                if random.random() < 0.5:
                    time.sleep(random.random() * PAUSE_S)
                break


if __name__ == "__main__":
    sys.exit(main())
