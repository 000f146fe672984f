r"""The command's process on POSIX: its descriptors, its signals, its end.

The command runs in slot-run's own process group. So what the terminal does to that (Ctrl-C, Ctrl-\, Ctrl-Z)
reaches the command without our help.

While the command runs, slot-run keeps every signal blocked and takes them one by one with sigwaitinfo(2).
There are no handlers, so none can run between the death of the command and the moment when slot-run knows of
it. `si_code` tells a signal of the terminal (SI_KERNEL) from one of `kill` (SI_USER). `_pass_on` says which
of them the command has got already. Before there is a command, signals are let in only while slot-run waits
in line (`admit_signals`); `main` handles those.

A real fault of our own (SIGSEGV and the like) ends slot-run though it is blocked: the kernel forces it
(force_sig_info_to_task in kernel/signal.c). The command inherits the locked descriptor and the bell: if
slot-run is killed, the slot stays held until the command has ended too.
"""

from __future__ import annotations

import errno
import os
import stat
import time
from fcntl import F_DUPFD, fcntl

from buildslots.files import close
from buildslots.processes import ignored_by_caller, restore_environment

TYPE_CHECKING = False
if TYPE_CHECKING:
    import signal as _signal
    from typing import NoReturn
else:
    import _signal  # `signal` itself wraps the same functions in enum, at 4 ms

FORWARDED = frozenset(_signal.valid_signals()) - {_signal.SIGKILL, _signal.SIGSTOP, _signal.SIGCHLD}
"""Signals that are meant for the command: whatever can be caught, but the news of its own end.

alarm(2) outlasts an exec, and watchdogs send SIGABRT: a signal that is left out would end slot-run alone.
"""
WATCHED = FORWARDED | {_signal.SIGCHLD}
STOPPING = frozenset({_signal.SIGTSTP, _signal.SIGTTIN, _signal.SIGTTOU})
"""Signals that stop a process unless it handles them; SIGSTOP cannot be handled."""
OF_TERMINAL = STOPPING | {
    _signal.SIGHUP,
    _signal.SIGINT,
    _signal.SIGQUIT,
    _signal.SIGCONT,
    _signal.SIGWINCH,
}
"""Signals that the terminal driver sends to whole process groups: tty_ioctl(4), credentials(7)."""
RESTORED: list[int] = [_signal.SIGPIPE, _signal.SIGXFSZ]
"""Signals that Python ignores for itself. The command gets their default action, as with `subprocess`, unless
the caller ignores them too."""
LEFT_ALONE = STOPPING | {_signal.SIGCONT, *RESTORED}
"""Signals that are not held back before there is a command. Ctrl-Z stops slot-run at once then. Those that
Python ignores come of our own writes, and blocked they would be kept for the command."""
SI_USER, SI_KERNEL = 0, 0x80
"""`si_code` of a signal of kill(2), and of the kernel's own, as the terminal driver's:
include/uapi/asm-generic/siginfo.h, sigaction(2)."""
FIRST_LOOK_S, LAST_LOOK_S = 0.005, 1.0  # how soon, and how often, to look if the command leads a group now
SHELL = "/bin/sh"
LOWEST_FD = 64
"""The lowest number of the slot's descriptors in the command: shell scripts and jobservers use low ones."""
_mask: set[int] | None = None
"""The signal mask that slot-run was started with. The command gets the same."""


def defer_signals() -> None:
    """Hold signals back: Python drops an exception that a handler raises within an import or a `__del__`."""
    global _mask  # noqa: PLW0603 - one process, one mask
    mask = _signal.pthread_sigmask(_signal.SIG_BLOCK, FORWARDED - LEFT_ALONE)
    if _mask is None:
        _mask = mask


def admit_signals() -> None:
    """Let signals in, first those that were held back."""
    _signal.pthread_sigmask(_signal.SIG_SETMASK, _mask or ())


def nap(seconds: float, signals: set[int]) -> int:
    """Sleep for `seconds`, or until one of the blocked `signals` has come: its number, or 0."""
    if hasattr(_signal, "sigtimedwait"):
        try:
            info = _signal.sigtimedwait(signals, seconds)
        except OSError:
            info = None  # a shorter sleep is no harm
        return info.si_signo if info and info.si_signo in signals else 0
    time.sleep(seconds)  # macOS
    return next(iter(_signal.sigpending() & signals), 0)


def become(path: bytes, command: list[bytes]) -> NoReturn:
    """Replace this process by `command`, when there is no slot to give back. Raises OSError."""
    restore_environment()
    _restore_signals(_restored())
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
    start = _posix_spawn if restore_environment() else _fork
    restored = _restored()
    try:
        try:
            pid = start(path, command, restored)
        except OSError as error:
            if error.errno != errno.ENOEXEC:
                raise
            # A script without "#!": execvp(3) and every shell give it to sh.
            pid = start(os.fsencode(SHELL), [os.fsencode(SHELL), path, *command[1:]], restored)
    finally:
        for fd in copies:
            close(fd)  # whether that works or not, the command runs
    # Signals that came before there was a command have not reached it, not even those of the terminal.
    for signum in FORWARDED & _signal.sigpending():
        _kill(pid, signum)
        if signum not in STOPPING:  # these are kept for `supervise`, because they are meant for us as well
            _signal.sigwait([signum])
    return pid


def _restored() -> list[int]:
    ignored = ignored_by_caller()
    return [signum for signum in RESTORED if not ignored >> (signum - 1) & 1]


def _restore_signals(restored: list[int]) -> None:
    """Have the mask that slot-run was started with, and the default action of the signals `restored`."""
    for signum in restored:
        _signal.signal(signum, _signal.SIG_DFL)
    admit_signals()


def _posix_spawn(path: bytes, command: list[bytes], restored: list[int]) -> int:
    # Not fork: half the cost (bench/README.md).
    return os.posix_spawn(path, command, os.environb, setsigmask=_mask or (), setsigdef=restored)


def _fork(path: bytes, command: list[bytes], restored: list[int]) -> int:
    """The same, where the environment has entries without a name or without "=", or the same name twice.

    Python's mapping leaves them out, or fails. What C has, they are still in, and only execv(3) takes that.
    """
    import subprocess  # noqa: PLC0415 - 10 ms, for an environment that hardly anybody has

    process = subprocess.Popen(  # noqa: S603
        command,
        executable=path,
        close_fds=False,
        restore_signals=False,
        preexec_fn=lambda: _restore_signals(restored),  # noqa: PLW1509 - there are no threads
    )
    process.returncode = 0  # `supervise` waits for it
    return process.pid


def pid_of(process: int) -> int:
    """The pid of what `spawn` has started."""
    return process


def supervise(pid: int) -> int:
    """Pass signals on to the command `pid` until its end: exit status, or minus the signal it died of."""
    told_to_stop = False  # slot-run itself, by the terminal or by kill
    pause_s = FIRST_LOOK_S if os.getpid() == os.getpgrp() and _foreground() else None
    while True:
        signum, from_terminal = _next_signal(pause_s)
        if not signum:
            pause_s = min(2 * (pause_s or FIRST_LOOK_S), LAST_LOOK_S)
            if _leads_our_job(pid):
                _lend_terminal(pid)
        elif signum == _signal.SIGCHLD:
            ended, status = _wait(pid)
            if ended and os.WIFSTOPPED(status):
                _stop_too(os.WSTOPSIG(status), pid, told=told_to_stop)
                told_to_stop = False
            elif ended:
                return os.waitstatus_to_exitcode(status)
        else:
            told_to_stop = signum != _signal.SIGCONT and (told_to_stop or signum in STOPPING)
            _pass_on(signum, pid, from_terminal=from_terminal)


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


def _next_signal(pause_s: float | None) -> tuple[int, bool]:
    """The next of the WATCHED signals, or 0 after `pause_s`; and whether the terminal sent it to a group."""
    if hasattr(_signal, "sigwaitinfo"):
        while True:
            info = _signal.sigwaitinfo(WATCHED) if pause_s is None else _signal.sigtimedwait(WATCHED, pause_s)
            if info is None:
                return 0, False
            # Our own write to a closed pipe or beyond `ulimit -f` is no business of the command: SIGPIPE in
            # pipe(7), SIGXFSZ in setrlimit(2). Python ignores both, but what is blocked is kept all the same.
            if info.si_code != SI_USER or info.si_pid != os.getpid():
                return info.si_signo, info.si_code == SI_KERNEL and info.si_signo in OF_TERMINAL
    # macOS tells not who sent a signal. In the foreground we take one that the terminal can send for one that
    # it did send.
    signum = _signal.sigwait(WATCHED - set(RESTORED))
    return signum, signum in OF_TERMINAL and _foreground() == os.getpgrp()


def _pass_on(signum: int, pid: int, *, from_terminal: bool) -> None:
    """Send a signal that came to slot-run to the command `pid`, unless the command has got it already."""
    apart = _leads_our_job(pid)
    if signum == _signal.SIGCONT and apart:
        _lend_terminal(pid)  # `fg` has given it to our group, where the command is not
    if not from_terminal:
        # `kill` may mean one process or the whole group; we cannot know. A job is stopped and continued as a
        # whole, or else `fg` would leave most of it stopped. All else we take for sent to one process.
        group = apart and signum in (_signal.SIGTSTP, _signal.SIGCONT)
        _kill(-pid if group else pid, signum)
    elif signum in (_signal.SIGHUP, _signal.SIGCONT) and os.getsid(0) == os.getpid():
        # A terminal that hangs up tells the leader of the session alone: credentials(7), and
        # tty_signal_session_leader in drivers/tty/tty_jobctrl.c. Without slot-run that leader would be the
        # command. The other processes get their SIGHUP when the leader ends.
        _kill(pid, signum)
    elif apart:
        _kill(-pid, signum)  # the terminal's group is ours, and the command has left it
    # Else the command is in our group, and has got what the terminal sent to all of that.


def _leads_our_job(pid: int) -> bool:
    """Whether the command leads a process group of its own, where without slot-run it would lead ours.

    timeout(1) and others call setpgid(0, 0). At a shell's prompt that does nothing without slot-run, because
    the shell has made them the leader of their job already. With slot-run, which leads the job, it takes them
    away from the terminal: no keys reach them, and reading stops them. In a script they do that to
    themselves without slot-run too (see --foreground in timeout(1)), and slot-run does not change it.
    """
    try:
        return os.getpid() == os.getpgrp() and os.getpgid(pid) == pid
    except OSError:
        return False  # it has ended


def _lend_terminal(pid: int, *, asked: bool = False) -> bool:
    """Put the command's own process group into the foreground, if our group is there; whether it was.

    In a pipeline our group has further processes, perhaps a pager that reads keys. There the command gets the
    terminal only if it has `asked` for it by reading. The shell takes the terminal back by itself.
    """
    try:
        if not asked and stat.S_ISFIFO(os.fstat(1).st_mode):
            return False
        terminal = os.open("/dev/tty", os.O_RDONLY | os.O_NOCTTY)
    except OSError:
        return False
    try:
        if os.tcgetpgrp(terminal) != os.getpgrp():
            return False
        os.tcsetpgrp(terminal, pid)
    except OSError:
        return False  # it has ended, or made itself a session of its own
    finally:
        os.close(terminal)
    _kill(-pid, _signal.SIGCONT)  # whoever in it has read before, and was stopped for that
    return True


def _stop_too(signum: int, pid: int, *, told: bool) -> None:
    """Stop as the command `pid` did, so that the shell sees its job stopped; go on together with it.

    But only if somebody will continue slot-run. That is so if slot-run was `told` to stop as well, by Ctrl-Z
    or by `kill`: who does that to us also undoes it to us. It is so if a shell with job control waits for us.
    Otherwise somebody has stopped the command alone, and will continue the command alone.
    """
    apart = _leads_our_job(pid)
    if apart and signum in (_signal.SIGTTIN, _signal.SIGTTOU) and _lend_terminal(pid, asked=True):
        return
    pending = _signal.sigpending()
    if _signal.SIGCONT in pending:
        return  # it is passed on next; stopping now would throw it away (signal(7))
    if not (told or STOPPING & pending or _shell_takes_over(signum)):
        if apart and signum == _signal.SIGTSTP and _is_orphaned():
            # Ctrl-Z in a window of its own (`tmux new-window 'slot-run timeout …'`): nobody could continue
            # it, so the kernel ignores SIGTSTP in an "orphaned" group (setpgid(2)). Our group is one, the
            # command's own is not, because it has us.
            _kill(-pid, _signal.SIGCONT)
        return
    os.kill(os.getpid(), signum)
    if signum != _signal.SIGSTOP:  # the signal is blocked, and stops us when it is let in
        _signal.pthread_sigmask(_signal.SIG_UNBLOCK, [signum])
        _signal.pthread_sigmask(_signal.SIG_BLOCK, WATCHED)
    _pass_on(_signal.SIGCONT, pid, from_terminal=False)


def _shell_takes_over(signum: int) -> bool:
    """Whether our parent is a shell that hears of it when slot-run stops by `signum`, and can undo it.

    Such a shell has put us into a process group of our own, and has the same terminal. It is waiting for us
    if it has left the foreground. If it has not, we are in the background: then it needs to know only that we
    want the terminal, for which the user has to type `fg`.
    """
    foreground = _foreground()
    parent = os.getppid()
    try:
        group = os.getpgid(parent)
        if not foreground or os.getsid(parent) != os.getsid(0) or group == os.getpgrp():
            return False
    except OSError:
        return False
    return group != foreground or signum in (_signal.SIGTTIN, _signal.SIGTTOU)


def _is_orphaned() -> bool:
    """Whether our process group, which we lead, has no parent in its session that could continue it."""
    try:
        return os.getppid() == 0 or os.getsid(os.getppid()) != os.getsid(0)
    except OSError:
        return True


def _foreground() -> int:
    """The process group in the foreground of our terminal, or 0."""
    try:
        terminal = os.open("/dev/tty", os.O_RDONLY | os.O_NOCTTY)
    except OSError:
        return 0
    try:
        return max(os.tcgetpgrp(terminal), 0)
    except OSError:
        return 0
    finally:
        os.close(terminal)
