"""All that runs below a process: by its parents, or in its session, even if its parent has ended."""

from __future__ import annotations

import contextlib
import os
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable

    import psutil


def below(leader: int) -> set[psutil.Process]:
    """What runs below the process `leader`, which leads a session; that need not live any more."""
    import psutil  # noqa: PLC0415 - most commands end by themselves

    found: set[psutil.Process] = set()
    with contextlib.suppress(psutil.Error):
        found.update(psutil.Process(leader).children(recursive=True))
    if hasattr(os, "getsid"):
        for pid in psutil.pids():
            with contextlib.suppress(OSError, psutil.Error):
                if os.getsid(pid) == leader and pid != leader:
                    found.add(psutil.Process(pid))
    return found


def of(pid: int) -> list[psutil.Process]:
    """The process `pid`, if it lives, and then what runs below it, so that it sees nothing below it end."""
    import psutil  # noqa: PLC0415

    found = [*below(pid)]
    with contextlib.suppress(psutil.Error):
        found.insert(0, psutil.Process(pid))
    return found


def runs(process: psutil.Process) -> bool:
    """Whether `process` runs, and is no zombie."""
    import psutil  # noqa: PLC0415

    try:
        return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    except psutil.Error:
        return False


def send(processes: Iterable[psutil.Process], signum: int) -> None:
    """Send a signal to those of `processes` that still are what they were. Raises nothing."""
    import psutil  # noqa: PLC0415

    for process in processes:
        with contextlib.suppress(psutil.Error, OSError, ValueError):
            process.send_signal(signum)
