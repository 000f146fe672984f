"""The process that `checks.trial` kills: it owns a lock and a bell until then.

Imports nothing that it can do without, because a doctor is asked when a machine is busy.
"""

from __future__ import annotations

import os
import sys

from buildslots.disk.bells import NO_FIFO_HERE
from buildslots.disk.lock import try_lock
from buildslots.view.health.scratch import BELL, LOCK, Scratch


def own(name: str, *fds: str) -> None:
    """Own a lock and a bell in a scratch directory until killed, or until the doctor is gone.

    Writes whether it has them, or what failed. Removes the directory if the doctor did not live to do it.

    Args:
        name: Of the directory: see `Scratch`.
        fds: Its descriptors, which this process has inherited.
    """
    os.umask(0o077)  # nobody's but ours: with 0777 we could not open what we make
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
    """Keep a bell open until the end; False where FIFOs do not exist. Raises OSError."""
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
