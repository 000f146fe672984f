r"""The command's process on POSIX: its descriptors, its signals, its end.

The command runs in slot-run's own process group, with slot-run's own terminal. So everything that the
terminal does (Ctrl-C, Ctrl-\, Ctrl-Z, hang-up) reaches the command without our help.

While the command runs, slot-run keeps every signal that concerns it blocked and takes them one by one with
sigwaitinfo(2). There are no handlers, so none can run between the death of the command and the moment when
slot-run knows of it. `si_code` tells a signal of the terminal (SI_KERNEL) from one of `kill` (SI_USER), and
only the latter is passed on. Before there is a command, signals are let in only while slot-run waits in line
(`admit_signals`); `main` handles those.

The command inherits the locked descriptor and the bell. So if slot-run is killed with SIGKILL, the slot stays
held until the command has ended too.
"""

from __future__ import annotations

import errno
import os
import time
from fcntl import F_DUPFD, fcntl

from buildslots.files import close
from buildslots.processes import given_environment

TYPE_CHECKING = False
if TYPE_CHECKING:
    import signal as _signal
    from typing import NoReturn
else:
    import _signal  # `signal` itself wraps the same functions in enum, at 4 ms

FORWARDED = frozenset(
    {
        _signal.SIGHUP,
        _signal.SIGINT,
        _signal.SIGQUIT,
        _signal.SIGTERM,
        _signal.SIGUSR1,
        _signal.SIGUSR2,
        _signal.SIGTSTP,
        _signal.SIGCONT,
    }
)
"""Signals that `kill` sends to slot-run and that are meant for the command."""
WATCHED = FORWARDED | {_signal.SIGCHLD}
RESTORED = [_signal.SIGPIPE, _signal.SIGXFSZ]
"""Signals that Python ignores for itself. The command gets their default action, as with `subprocess`."""
SI_KERNEL = 0x80
"""`si_code` of a signal from the terminal driver: include/uapi/asm-generic/siginfo.h, sigaction(2)."""
SHELL = "/bin/sh"
COERCED = (b"C.UTF-8", b"C.utf8", b"UTF-8")
"""What Python sets LC_CTYPE to where the locale is C: PEP 538, _TARGET_LOCALES in Python/pylifecycle.c."""
LOWEST_FD = 64
"""The lowest number of the slot's descriptors in the command. Shell scripts (`exec 3>`), configure (5, 6) and
jobservers use low numbers, and believe that those are free."""
_mask: set[int] | None = None
"""The signal mask that slot-run was started with. The command gets the same."""


def defer_signals() -> None:
    """Hold signals back: Python drops an exception that a handler raises within an import or a `__del__`."""
    global _mask  # noqa: PLW0603 - one process, one mask
    mask = _signal.pthread_sigmask(_signal.SIG_BLOCK, FORWARDED - {_signal.SIGTSTP, _signal.SIGCONT})
    if _mask is None:
        _mask = mask


def admit_signals() -> None:
    """Let signals in, first those that were held back."""
    _signal.pthread_sigmask(_signal.SIG_SETMASK, _mask or ())


def nap(seconds: float, signals: set[int]) -> int:
    """Sleep for `seconds`, or until one of the blocked `signals` has come: its number, or 0."""
    if hasattr(_signal, "sigtimedwait"):
        info = _signal.sigtimedwait(signals, seconds)
        return info.si_signo if info else 0
    time.sleep(seconds)  # macOS
    return next(iter(_signal.sigpending() & signals), 0)


def find(program: bytes) -> bytes:
    """The path of `program` by the rules of execvp(3). Raises OSError if there is none that can be executed.

    Called before slot-run joins the line, so that a typo is not what somebody waits for.
    """
    if b"/" in program:
        os.stat(program)  # whose error says more than that there is none
        if os.access(program, os.X_OK) and not os.path.isdir(program):
            return program
        raise OSError(errno.EACCES, os.strerror(errno.EACCES))
    found = errno.ENOENT
    for directory in os.environb.get(b"PATH", os.defpath.encode()).split(b":"):
        path = os.path.join(directory, program)
        if os.path.isfile(path):
            if os.access(path, os.X_OK):
                return path
            found = errno.EACCES
    raise OSError(found, os.strerror(found))


def become(path: bytes, command: list[bytes]) -> NoReturn:
    """Replace this process by `command`, when there is no slot to give back. Raises OSError."""
    _restore_environment()
    admit_signals()
    for signum in RESTORED:
        _signal.signal(signum, _signal.SIG_DFL)
    try:
        os.execv(path, command)
    except OSError as error:
        if error.errno != errno.ENOEXEC:
            raise
        os.execv(SHELL, [os.fsencode(SHELL), path, *command[1:]])


def spawn(path: bytes, command: list[bytes], inherited: list[int]) -> int:
    """Start `command`: its pid, for `supervise`. Signals are held back until that takes them.

    Args:
        path: The program, as `find` found it.
        command: Its arguments, the program's name first. It gets our own environment.
        inherited: Descriptors that it is to have as well.

    Raises:
        OSError: It cannot be executed.
    """
    defer_signals()
    _signal.pthread_sigmask(_signal.SIG_BLOCK, WATCHED)
    # A handler, for two reasons: an inherited SIG_IGN would make the kernel reap the command,
    # and outside Linux a signal whose default is to be ignored may not stay pending.
    _signal.signal(_signal.SIGCHLD, lambda *_: None)
    copies = [copy for fd in inherited if (copy := _hand_down(fd)) is not None]
    start = _posix_spawn if _restore_environment() else _fork
    try:
        try:
            pid = start(path, command)
        except OSError as error:
            if error.errno != errno.ENOEXEC:
                raise
            # A script without "#!": execvp(3) and every shell give it to sh.
            pid = start(os.fsencode(SHELL), [os.fsencode(SHELL), path, *command[1:]])
    finally:
        for fd in copies:
            close(fd)  # whether that works or not, the command runs
    # Signals that came before there was a command have not reached it, not even those of the terminal.
    for signum in FORWARDED & _signal.sigpending():
        _signal.sigwait([signum])
        _kill(pid, signum)
    return pid


def _restore_environment() -> bool:
    """Undo what Python has done to our environment; whether a mapping can hold all of it.

    Where the locale is C, Python sets LC_CTYPE (PEP 538), and then gcc quotes, and grep and sed match, as
    they do not do in C. Without /proc (macOS) nothing tells that value from the caller's own, and it stays.
    """
    given = given_environment()
    if given is None:
        return True
    if os.environb.get(b"LC_CTYPE") in COERCED:
        value = next((entry[9:] for entry in given if entry.startswith(b"LC_CTYPE=")), None)
        if value is None:
            del os.environb[b"LC_CTYPE"]
        else:
            os.environb[b"LC_CTYPE"] = value
    names = {entry.partition(b"=")[0] for entry in given if entry.find(b"=") > 0}
    return len(names) == len(given)


def _posix_spawn(path: bytes, command: list[bytes]) -> int:
    # Not fork: half the cost (bench/README.md).
    return os.posix_spawn(path, command, os.environb, setsigmask=_mask or (), setsigdef=RESTORED)


def _fork(path: bytes, command: list[bytes]) -> int:
    """The same, where the environment has entries without a name or without "=", or the same name twice.

    Python's mapping leaves them out, or fails. What C has, they are still in, and only execv(3) takes that.
    """
    import subprocess  # noqa: PLC0415 - 10 ms, for an environment that hardly anybody has

    process = subprocess.Popen(  # noqa: S603
        command,
        executable=path,
        close_fds=False,
        preexec_fn=admit_signals,  # noqa: PLW1509 - there are no threads
    )
    process.returncode = 0  # it is ours to wait for
    return process.pid


def pid_of(process: int) -> int:
    """The pid of what `spawn` has started."""
    return process


def supervise(pid: int) -> int:
    """Pass signals on to the command `pid` until its end: exit status, or minus the signal it died of."""
    while True:
        signum, from_terminal = _next_signal()
        if signum == _signal.SIGCHLD:
            ended, status = _wait(pid)
            if ended and os.WIFSTOPPED(status):
                _stop_too(os.WSTOPSIG(status), pid)
            elif ended:
                return os.waitstatus_to_exitcode(status)
        elif not from_terminal:
            _kill(pid, signum)  # not reaped yet, so the pid is the command's


def _wait(pid: int) -> tuple[int, int]:
    """What has become of the command `pid`, as `os.waitpid` has it; (0, 0) if nothing.

    As pid 1 of a container slot-run inherits all whose parent has ended. It takes their ends as well, because
    they would stay zombies: "The namespace init process" in pid_namespaces(7).
    """
    found = 0, 0
    while True:
        try:
            ended, status = os.waitpid(-1, os.WNOHANG | os.WUNTRACED)
        except ChildProcessError:
            return found
        if not ended:
            return found
        if ended == pid:
            found = ended, status


def die_of(signum: int) -> None:
    """End this process by the signal `signum`, as a shell expects it, without a core dump."""
    try:
        import resource  # noqa: PLC0415 - only a death needs it

        # 1, not 0: where core_pattern is a pipe, the kernel refuses to dump only if the limit is 1. Where it
        # is a file, one byte is too little for any dump. core(5) and fs/coredump.c.
        resource.setrlimit(resource.RLIMIT_CORE, (1, resource.getrlimit(resource.RLIMIT_CORE)[1]))
    except (ValueError, OSError, ImportError):
        pass  # the hard limit is 0, so nothing is dumped anyway; or no descriptor is left for the import
    try:
        _signal.signal(signum, _signal.SIG_DFL)
    except (OSError, ValueError):
        pass  # KILL and STOP
    os.kill(os.getpid(), signum)
    _signal.pthread_sigmask(_signal.SIG_UNBLOCK, [signum])


def _hand_down(fd: int) -> int | None:
    """Let the command inherit a copy of `fd` with a high number, which is returned; or else `fd` itself."""
    try:
        return fcntl(fd, F_DUPFD, LOWEST_FD)
    except OSError:  # RLIMIT_NOFILE allows no such number, or no further descriptor at all
        try:
            os.set_inheritable(fd, True)
        except OSError:
            pass  # then a slot-run that is killed frees the slot too early: no reason not to run the command
        return None


def _kill(pid: int, signum: int) -> None:
    """Send a signal, if we may: a setuid command can be another user's process."""
    try:
        os.kill(pid, signum)
    except OSError:
        pass


def _next_signal() -> tuple[int, bool]:
    """The next of the WATCHED signals, and whether it is the terminal's, which the command got as well."""
    if hasattr(_signal, "sigwaitinfo"):
        info = _signal.sigwaitinfo(WATCHED)
        return info.si_signo, info.si_code == SI_KERNEL
    # macOS does not tell who sent a signal. If we are in the terminal's foreground, we take a signal that its
    # keys can send for one that they did send.
    signum = _signal.sigwait(WATCHED)
    keys = (_signal.SIGINT, _signal.SIGQUIT, _signal.SIGTSTP)
    return signum, signum in keys and _in_foreground()


def _stop_too(signum: int, pid: int) -> None:
    """Stop as the command `pid` did, so that the shell sees its job stopped; go on together with it.

    If somebody sent SIGSTOP to the command alone, slot-run stops only if it is the job of a shell, in the
    foreground of a terminal. Without such a shell nobody would continue slot-run.
    """
    if signum == _signal.SIGSTOP and not (_is_job() and _in_foreground()):
        return
    os.kill(os.getpid(), signum)
    if signum != _signal.SIGSTOP:  # the signal is blocked, and stops us when it is let in
        _signal.pthread_sigmask(_signal.SIG_UNBLOCK, [signum])
        _signal.pthread_sigmask(_signal.SIG_BLOCK, WATCHED)
    _kill(pid, _signal.SIGCONT)


def _is_job() -> bool:
    """Whether our parent put us into a process group of our own, as a shell with job control does."""
    try:
        return os.getpgid(os.getppid()) != os.getpgrp()
    except OSError:
        return False


def _in_foreground() -> bool:
    """Whether this process is in the foreground process group of its terminal."""
    try:
        terminal = os.open("/dev/tty", os.O_RDONLY | os.O_NOCTTY)
    except OSError:
        return False
    try:
        return os.tcgetpgrp(terminal) == os.getpgrp()
    except OSError:
        return False
    finally:
        os.close(terminal)
