"""Detached builds, seen from outside: which one is meant, the wait for its end, and how it is stopped."""

from __future__ import annotations

import math
import os
import signal
import time
from typing import TYPE_CHECKING

from buildslots import jobs, trees
from buildslots.files import PLAIN, close
from buildslots.jobs import KEEPER
from buildslots.processes import here, is_local, number, start_of

if TYPE_CHECKING:
    from collections.abc import Callable

    import psutil

    from buildslots.jobs import Job, State

TELL_S = 20.0
"""How often something is said in a wait: some agents end a command that is silent for minutes."""
GRACE_S = 10.0
"""How long a build has to end after SIGTERM, before SIGKILL."""
KILLED_S = 3.0
"""How long what was killed is waited for, before slot-run is killed as well."""
NOTED_S = 5.0
"""How long a keeper may take to write down who it is: its build may have been started just now."""
LOOK_S = 0.05
"""How often to look if a build that is stopped has ended."""


class NoJobError(ValueError):
    """No build is meant; the message says in a sentence why."""


class CannotStopError(RuntimeError):
    """A build cannot be stopped from here; the message says why."""


class _Alarm(BaseException):
    """It is time to say something."""


def find(wanted: str | None) -> Job:
    """The build with the ID `wanted`; for None the newest of this worktree, or else the only one.

    Raises NoJobError, or OSError.
    """
    found = jobs.every()
    if wanted is not None:
        for job in found:
            if job.id == wanted:
                return job
        raise NoJobError(f"there is no build {wanted!r}")
    top = jobs.top_of(here())
    of_here = [job for job in found if job.top == top]
    if of_here or len(found) == 1:
        return (of_here or found)[0]
    if not found:
        raise NoJobError("no build was started with slot-run --detach")
    raise NoJobError("none of this worktree was started with slot-run --detach, and there are several others")


def wait(job: Job, for_s: float | None, tell: Callable[[State], None]) -> State:
    """Wait for the end of `job`: its state then, or after `for_s` seconds (None: for ever).

    Nobody polls: a lock on the keeper's file is waited for, which comes when the keeper is gone. For the main
    thread only, because SIGALRM ends the call. `tell` is called every TELL_S with the state of that moment.
    """
    until = None if for_s is None else time.monotonic() + for_s
    while (state := job.state()).goes_on:
        left_s = math.inf if until is None else until - time.monotonic()
        if left_s <= 0:
            break
        if not _keeper_ends(job, min(left_s, TELL_S)) and left_s > TELL_S:
            tell(job.state())
    return state


def _keeper_ends(job: Job, within_s: float) -> bool:
    """Whether the keeper of `job` ends within so many seconds."""
    from fcntl import LOCK_SH, flock  # noqa: PLC0415 - there are no detached builds on Windows

    fd = os.open(os.path.join(job.path, KEEPER), os.O_RDONLY | PLAIN)
    before = signal.signal(signal.SIGALRM, _ring)
    try:
        signal.setitimer(signal.ITIMER_REAL, max(within_s, 1e-3))
        try:
            flock(fd, LOCK_SH)
        finally:
            signal.setitimer(signal.ITIMER_REAL, 0)
    except _Alarm:
        return False
    finally:
        signal.signal(signal.SIGALRM, before)
        close(fd)
    return True


def _ring(_signum: int, _frame: object) -> None:
    raise _Alarm


def stop(job: Job) -> State:
    """End `job` and all below it, whether it waits or runs: its state then.

    SIGTERM first; SIGKILL for what is left after GRACE_S. While the command runs, slot-run and the keeper get
    neither: they end with it, and give back the slot and tell its status.

    Raises:
        CannotStopError: Its processes cannot be found from here.
    """
    build = _Build(job)
    build.send(signal.SIGTERM)
    build.send(signal.SIGCONT)  # a stopped one would not hear of it
    if not build.ends_within(GRACE_S):
        build.send(signal.SIGKILL)
        if not build.ends_within(KILLED_S):
            build.send(signal.SIGKILL, all_the_same=True)
            build.ends_within(KILLED_S)
    return job.state()


def _since(process: psutil.Process) -> float:
    """When it started, in Unix time; 0 if it is gone."""
    import psutil  # noqa: PLC0415 - for who stops a build

    try:
        return process.create_time()
    except psutil.Error:
        return 0.0


class _Build:
    """The processes of a detached build. Raises CannotStopError if they cannot be found."""

    def __init__(self, job: Job) -> None:
        self._job = job
        deadline = time.monotonic() + NOTED_S
        while not (who := job.processes()) and job.has_keeper and time.monotonic() < deadline:
            time.sleep(LOOK_S)
        leader, runner = number(who.get("pid")), number(who.get("build"))
        if not leader or not runner:
            raise CannotStopError("nothing says which processes are its own: its keeper could not write it")
        if not is_local(who):
            raise CannotStopError("its processes are those of another container or machine")
        self._leader, self._runner = leader, runner
        # A number of a process that has ended may be that of another one by now, or of another session.
        start = start_of(leader)
        if start and str(start) != who.get("start"):
            raise CannotStopError("its processes cannot be found any more")

    def _members(self) -> list[psutil.Process]:
        """Those that run, the oldest first: a script must not see its command end and go on to the next."""
        earliest = self._job.began - 2.0
        found = [(_since(process), process.pid, process) for process in trees.below(self._leader)]
        return [process for since, _, process in sorted(found) if since >= earliest and trees.runs(process)]

    def send(self, signum: int, *, all_the_same: bool = False) -> None:
        """Send a signal to all but slot-run, which passes on what it gets; to it too while it waits."""
        spares = not all_the_same and self._job.state().started is not None
        members = self._members()
        trees.send([process for process in members if not (spares and process.pid == self._runner)], signum)

    def ends_within(self, seconds: float) -> bool:
        """Whether nothing of it runs any more within so many seconds."""
        deadline = time.monotonic() + seconds
        while self._members() or self._job.state().goes_on:
            if time.monotonic() > deadline:
                return False
            time.sleep(LOOK_S)
        return True
