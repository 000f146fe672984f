"""The process that `checks.trial` kills; until then it owns a lock and a bell.

It imports only what it cannot do without, because people run doctor when a machine is busy.
"""

from __future__ import annotations

import os
import sys

from buildslots.disk.bells import NO_FIFO_HERE
from buildslots.disk.lock import try_lock
from buildslots.view.health.scratch import BELL, LOCK, Scratch


def own(name: str, *fds: str) -> None:
    """Own a lock and a bell in a scratch directory until killed, or until the doctor is gone.

    Writes to stdout whether it has them, or what failed. Removes the directory if the doctor dies first.

    Args:
        name: Of the directory: see `Scratch`.
        fds: Its descriptors, which this process has inherited.
    """
    os.umask(0o077)  # whatever we inherited: with 0777 we could not open what we make
    scratch = Scratch(name, tuple(map(int, fds)))
    try:
        taken = try_lock(scratch.open(LOCK, os.O_RDWR | os.O_CREAT | os.O_EXCL))
        hung = _hang(scratch)
    except OSError as error:
        sys.stdout.write(f"{error.strerror}\n")
        return
    sys.stdout.write(f"{taken} {hung}\n")
    sys.stdout.flush()
    sys.stdin.read()
    scratch.remove()


def _hang(scratch: Scratch) -> bool:
    """Make a bell and keep it open until the end; False where there are no FIFOs. Raises OSError."""
    if not hasattr(os, "mkfifo"):
        return False
    try:
        scratch.make_fifo(BELL)
        scratch.open(BELL, os.O_RDWR)
    except OSError as error:
        if error.errno in NO_FIFO_HERE:
            return False
        raise
    return True
