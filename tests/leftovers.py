"""What a test has left behind: descriptors, and the processes that it has started and that still run.

On Linux a process whose parent has ended becomes a child of the nearest "child subreaper" above it:
PR_SET_CHILD_SUBREAPER in prctl(2). The process of the tests is one, so whatever they start becomes its child.
"""

from __future__ import annotations

import ctypes
import os
import signal
import sys
import time
from multiprocessing import resource_tracker

import psutil

PR_SET_CHILD_SUBREAPER = 36
"""From <linux/prctl.h>."""
PATIENCE_S = 10.0
"""How long what a test has told to end may take until it has."""

KILLED_S = 30.0
"""How long the end may take after SIGKILL."""


def adopt() -> None:
    """Have all orphans below this process become its children."""
    if sys.platform == "linux":
        ctypes.CDLL(None, use_errno=True).prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)


def descriptors() -> int:
    """How many descriptors this process has open."""
    return len(os.listdir("/dev/fd")) if os.path.isdir("/dev/fd") else 0


def end() -> list[str]:
    """Reap what has ended, and end and reap what runs on: the command lines of the latter."""
    if sys.platform != "linux":
        return []
    deadline = time.monotonic() + PATIENCE_S
    while (running := _running()) and time.monotonic() < deadline:
        time.sleep(0.005)
    left = [_described(process) for process in running]
    while running:  # the orphans of those that end are among our children then
        for process in running:
            process.send_signal(signal.SIGKILL)
            process.wait(KILLED_S)
        running = _running()
    return left


def _running() -> list[psutil.Process]:
    """The children of this process that run, after those that have ended were reaped."""
    try:
        while os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOHANG) is not None:
            pass
    except ChildProcessError:
        return []  # at the end of nearly every test: a look at all processes would take 5 ms
    own = getattr(resource_tracker._resource_tracker, "_pid", None)  # runs for as long as we do
    return [process for process in psutil.Process().children() if process.pid != own]


def _described(process: psutil.Process) -> str:
    try:
        below = len(process.children(recursive=True))
        return f"{process.pid} `{' '.join(process.cmdline())}`" + (f" and {below} below it" if below else "")
    except psutil.Error:
        return str(process.pid)
