"""Processes that are started together, and of which nothing is left afterwards, whatever happens (Linux).

It adopts orphans with prctl(2) so as to reap them.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import signal
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

LIMIT_S = 900.0
"""A round that takes longer hangs, and has failed."""
POLL_S = 0.02
GRACE_S = 5.0
"""From SIGTERM to SIGKILL, and again from there until the last process must be gone."""
STOPPING = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
PR_SET_CHILD_SUBREAPER = 36  # linux/prctl.h

stopped_by: list[int] = []
"""The signals that asked this program to stop. Handlers only note them, so none can come between the start of
a process and its being known."""


class BenchError(Exception):
    """The benchmark cannot go on."""


class Stopped(BaseException):
    """A signal asked this program to stop; everything it started has been reaped."""


@dataclass(frozen=True)
class Job:
    """A process to run: what, in which environment, and where its output goes."""

    argv: list[str]
    environ: Mapping[str, str]
    output: Path


def run_together(
    jobs: list[Job], beside: contextlib.AbstractContextManager[object] | None = None
) -> list[tuple[int, int]]:
    """Start all `jobs` at once and wait for them: when each was started (ns), and its exit status.

    What goes on `beside` them begins before the first is started and is over before anything is ended.

    Afterwards, on failure and on a signal too, no process started here or by them is left.

    Raises:
        Stopped: A signal came.
    """
    started: list[tuple[int, subprocess.Popen[bytes]]] = []
    deadline = time.monotonic() + LIMIT_S
    try:
        with beside or contextlib.nullcontext():
            for job in jobs:
                with job.output.open("ab") as output:
                    launched_ns = time.monotonic_ns()
                    # A session each: one killpg reaches all of a build, and no build reaches our terminal.
                    process = subprocess.Popen(
                        job.argv,
                        env=job.environ,
                        stdin=subprocess.DEVNULL,
                        stdout=output,
                        stderr=output,
                        start_new_session=True,
                    )
                started.append((launched_ns, process))
            _await_exits([process for _, process in started], deadline, until_signal=True)
    finally:
        _end([process for _, process in started])
    if stopped_by:
        raise Stopped
    return [(launched_ns, process.returncode) for launched_ns, process in started]


def _await_exits(processes: list[subprocess.Popen[bytes]], deadline: float, *, until_signal: bool) -> None:
    """Wait until all `processes` have exited, without reaping them."""
    waiting = list(processes)
    while waiting and time.monotonic() < deadline and not (until_signal and stopped_by):
        time.sleep(POLL_S)
        waiting = [process for process in waiting if not _has_exited(process)]


def _has_exited(process: subprocess.Popen[bytes]) -> bool:
    return os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOHANG | os.WNOWAIT) is not None


def _end(processes: list[subprocess.Popen[bytes]]) -> None:
    """End what is left of `processes` and their descendants, and reap it all."""
    running = [process for process in processes if not _has_exited(process)]
    for process in running:
        os.killpg(process.pid, signal.SIGTERM)
    _await_exits(running, time.monotonic() + GRACE_S, until_signal=False)
    for process in processes:
        # Not reaped yet, so the number is still its group's, even if only orphans are left in there.
        os.killpg(process.pid, signal.SIGKILL)
    for process in processes:
        process.wait()
    deadline = time.monotonic() + GRACE_S
    with contextlib.suppress(ChildProcessError):  # none left
        while time.monotonic() < deadline:
            if os.waitpid(-1, os.WNOHANG) == (0, 0):
                time.sleep(POLL_S)


def run(name: str, bench: Callable[[Path], int]) -> int:
    """Run `bench` in a temporary folder of that name; the exit status of the program."""
    for signum in STOPPING:
        if signal.getsignal(signum) is not signal.SIG_IGN:  # nohup, `&` in a script
            signal.signal(signum, lambda number, _frame: stopped_by.append(number))
    ctypes.CDLL(None).prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)
    try:
        with tempfile.TemporaryDirectory(prefix=f"{name}-") as root:
            return bench(Path(root))
    except BenchError as error:
        print(f"FAIL: {error}", file=sys.stderr)
        return 1
    except Stopped:
        return 128 + stopped_by[0]
