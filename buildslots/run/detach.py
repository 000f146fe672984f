"""`slot-run --detach`: the build runs in a session of its own, and outlives whoever has started it.

Three processes, all forked from this one. The *starter* makes the build's directory, sees its keeper off, and
prints the line. The *keeper* leads the new session, is a child of init, waits, and writes down how the build
ended. The *build* is slot-run as without --detach: it stands in line, says the same, and runs the command.
It leads a process group of its own, because a script that ends its group by `kill 0` must not end the keeper.

Tools of agents kill what they have started by its group, or by its parents; neither leads here. What they
could still find is a control group: a systemd service ends all in it (KillMode= in systemd.kill(5)). And
with the first process of a pid namespace all in it end, so `_why_not` looks for that.
"""

from __future__ import annotations

import errno
import os
import sys
import threading
import time

from buildslots import jobs
from buildslots.disk.lock import lock_file, unlock
from buildslots.files import close
from buildslots.kept import is_locked
from buildslots.printed import Output
from buildslots.processes import hand_down
from buildslots.run import child
from buildslots.slot import HELD, NUMBER

TYPE_CHECKING = False
if TYPE_CHECKING:
    import signal as _signal
    from collections.abc import Callable
    from typing import NoReturn

    from buildslots.jobs import Job, Made
else:
    import _signal

LOCK = "lock"
"""Locked while a build is looked for or made, so that of the same ones that start at once one is made."""
PATIENCE_S = 10.0
"""How long that is waited for. Somebody stopped may have it; then there may be the same build twice."""
BOUND_S = 10.0
"""How often the keeper looks if the log has become too long."""
FIRST_PIDNS = "pid:[4026531836]"
"""The pid namespace of the machine itself: PROC_PID_INIT_INO in include/linux/proc_ns.h."""
SANDBOXES = ("bwrap", "firejail", "codex-linux-san")
"""First processes of pid namespaces that are made for one command, as /proc calls them (15 characters), and
that give it a session of its own."""
MOST_FDS = 1024
"""So many descriptors are closed where the system does not list them."""


class CannotDetachError(Exception):
    """The build would not outlive its starter, or nobody could be told of it; the message says why."""


def detach(
    command: list[bytes], name: str, say: Callable[[str], None], *, new: bool
) -> Callable[[int], None]:
    """Become the process of a detached build; the starter and the keeper exit in here.

    Called while signals are held back.

    Args:
        command: The arguments of the command.
        name: What the build is called.
        say: Says a sentence on stderr.
        new: Whether to start another one though the same build waits or runs already.

    Returns:
        In the process of the build: what is to be called with the pid of the command, when that runs.

    Raises:
        CannotDetachError: In the starter: nothing was started.
    """
    if why := _why_not():
        raise CannotDetachError(f"{why}: run it without --detach")
    try:
        base = jobs.make_base()
        lock = _lock(os.path.join(base, LOCK))
        try:
            found = jobs.every()
            key = jobs.key_of(command)
            same = (
                None if new else next((job for job in found if job.key == key and job.state().goes_on), None)
            )
            if same is not None:
                _tell(same, f"the same build, {same.state().word} already", say)
            jobs.prune(found)
            made = jobs.make(command, name)
        finally:
            if lock is not None:
                unlock(lock)
                close(lock)
    except OSError as error:
        raise CannotDetachError(f"nothing can be kept of it: {error}: run it without --detach") from None
    try:
        return _part(made, say)
    except OSError as error:
        jobs.remove(made.job.path)
        raise CannotDetachError(f"there is no process for it: {error}") from None


def _lock(path: str) -> int | None:
    """Lock the file at `path`: its descriptor; None if somebody keeps it locked. Raises OSError."""
    deadline = time.monotonic() + PATIENCE_S
    while (lock := lock_file(path)) is None and time.monotonic() < deadline:
        child.admit_signals()  # nothing has been started yet
        time.sleep(0.01)
        child.defer_signals()
    return lock


def _tell(job: Job, what: str, say: Callable[[str], None]) -> NoReturn:
    """Print the line about `job`, and end this process."""
    line = f"{job.id}: {what}; log {job.log}; next: buildslots wait {job.id}"
    try:
        os.write(1, f"{line}\n".encode(errors="surrogateescape"))
    except OSError:
        say(line)
    os._exit(0)


def _part(made: Made, say: Callable[[str], None]) -> Callable[[int], None]:
    """Fork the keeper, and go on as the build; as `detach`. Raises OSError in the starter."""
    ready, told = os.pipe()
    between = os.fork()
    if between:
        _, failed = os.waitpid(between, 0)
        if failed:
            raise OSError(errno.EAGAIN, os.strerror(errno.EAGAIN))
        close(told)
        if not os.read(ready, 1):  # it comes when the keeper has left our session
            raise OSError(errno.ESRCH, "its keeper was killed")
        _tell(made.job, "started", say)
    # Two of us must not go on in our caller's code: what fails from here on ends the process.
    try:
        between = os.getpid()
        if os.fork():
            os._exit(0)
        while os.getppid() == between:  # below init, no slot-run above the starter is above the build
            time.sleep(0.001)
        os.setsid()
        os.write(told, b"1")
        _leave_all_behind(made)
        if _keep(made, say):
            return made.job.note_started
    except BaseException as error:  # noqa: BLE001
        say(f"cannot run it detached: {error!r}")
    os._exit(1)


def _leave_all_behind(made: Made) -> None:
    """Have nothing of the starter's: no descriptor that somebody waits for the end of, and no slot."""
    null = os.open(os.devnull, os.O_RDONLY)
    for new, old in enumerate((null, made.log, made.log)):
        os.dup2(old, new)
    ours = {0, 1, 2, made.keeper, made.build}
    try:
        opened = [int(name) for name in os.listdir("/dev/fd")]
    except OSError:  # without /proc
        opened = list(range(MOST_FDS))
    for fd in opened:
        if fd not in ours:
            close(fd)
    for name in (NUMBER, HELD):
        os.environ.pop(name, None)


def _keep(made: Made, say: Callable[[str], None]) -> bool:
    """Fork the build, and be its keeper to the end; returns in the build, True.

    Raises OSError in the keeper.
    """
    job = made.job
    watched, handler = _signal.pthread_sigmask(_signal.SIG_BLOCK, child.WATCHED), _signal.SIG_DFL
    _signal.signal(_signal.SIGCHLD, lambda *_: None)  # as in child.spawn
    build = os.fork()
    if not build:
        os.setpgid(0, 0)
        _signal.signal(_signal.SIGCHLD, handler)
        _signal.pthread_sigmask(_signal.SIG_SETMASK, watched)
        close(made.keeper)
        hand_down(made.build)
        return True
    close(made.build)
    try:
        job.note_keeper(build)
    except OSError as error:
        say(f"`buildslots stop` will not find it: {error}")
    threading.Thread(target=_bound, args=[job.log], daemon=True).start()
    status: int | None = child.supervise(build, measured=False)[0]
    if status == -_signal.SIGKILL and is_locked(job.path, jobs.BUILD) and job.command_lives():
        status = None  # it was slot-run that was killed
    output = Output(1, job.log)
    output.bound()
    job.note_ended(status)
    os._exit(0)


def _bound(log: str) -> None:
    """Cut the middle out of the log whenever it is too long."""
    output = Output(1, log)
    while True:
        time.sleep(BOUND_S)
        output.bound()


def _why_not() -> str:
    """Why a build cannot outlive this process here; "" if it can."""
    if os.name != "posix":
        return "this system has no sessions to detach a build into"
    if sys.platform != "linux":
        return ""
    try:
        if os.readlink("/proc/self/ns/pid") == FIRST_PIDNS:
            return ""
    except OSError:
        pass  # without /proc
    try:
        with open("/proc/1/comm", encoding="utf-8", errors="replace") as file:
            first = file.read(64).strip()
    except OSError:
        first = ""
    # The first process of a container, as that of a machine, leads a session, and what is started in it
    # later has other ones. In what is made for one command the session is that of the first process too, or
    # (0) one outside.
    try:
        session = os.getsid(1)
    except OSError:
        session = -1
    if session not in (0, os.getsid(0)) and first not in SANDBOXES:
        return ""
    return "this pid namespace (of a sandbox or container) ends with its first process, and the build with it"
