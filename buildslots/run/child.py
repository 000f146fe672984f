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
import time

from buildslots.files import close
from buildslots.processes import can_be_measured, hand_down, ignored_by_caller, restore_environment, used
from buildslots.run.terminal import (
    foreground,
    is_orphaned,
    leads_our_job,
    lend_terminal,
    send,
    shell_takes_over,
)

TYPE_CHECKING = False
if TYPE_CHECKING:
    import signal as _signal
    from collections.abc import Callable, Sequence
    from typing import Any, NoReturn

    from buildslots.backend import Chore
    from buildslots.processes import Usage
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
SIGIO = getattr(_signal, "SIGIO", 0)
"""What O_ASYNC sends when a descriptor is ready: fcntl(2)."""
OF_KERNEL = OF_TERMINAL | {SIGIO}
RESTORED: list[int] = [_signal.SIGPIPE, _signal.SIGXFSZ]
"""Signals that Python ignores for itself. The command gets their default action, as with `subprocess`, unless
the caller ignores them too."""
LEFT_ALONE = STOPPING | {_signal.SIGCONT, *RESTORED}
"""Signals that are not held back before there is a command. Ctrl-Z stops slot-run at once then. Those that
Python ignores come of our own writes, and blocked they would be kept for the command."""
SI_USER, SI_KERNEL, SI_LEAST = 0, 0x80, -60
"""`si_code` of a signal of kill(2), and of the kernel's own, as the terminal driver's:
include/uapi/asm-generic/siginfo.h, sigaction(2)."""
MOST_PID = 1 << 22
"""PID_MAX_LIMIT: proc_sys_kernel(5), pid_max."""
FIRST_LOOK_S, LAST_LOOK_S = 0.005, 1.0  # how soon, and how often, to look if the command leads a group now
CAN_TIME = hasattr(_signal, "sigtimedwait")
NAP_S = 0.1
"""How often to look for a signal where the system cannot wait for one with a time limit: macOS."""
SHORT_NAP_S = 0.01
"""The same while we sleep for an instant anyway."""
SHELL = "/bin/sh"
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
    """Sleep for `seconds`, or until just after one of the blocked `signals` has come: its number, or 0.

    Not by sigtimedwait: `_timed_signal` says what it does after a stop.
    """
    until = time.monotonic() + seconds
    while not (come := _signal.sigpending() & signals) and (left := until - time.monotonic()) > 0:
        time.sleep(min(left, SHORT_NAP_S))
    return next(iter(come), 0)


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


def spawn(path: bytes, command: list[bytes], inherited: Sequence[int], kept: Sequence[int] = ()) -> int:
    """Start `command`: its pid, for `supervise`. Signals are held back until that takes them.

    Args:
        path: The program, as `find` found it.
        command: Its arguments, the program's name first. It gets our own environment.
        inherited: Descriptors that it is to have as well, under whatever numbers.
        kept: Those that it is to have under these very numbers.

    Raises:
        OSError: It cannot be executed.
    """
    defer_signals()
    _signal.pthread_sigmask(_signal.SIG_BLOCK, WATCHED)
    # A handler, for two reasons: an inherited SIG_IGN would make the kernel reap the command,
    # and outside Linux a signal whose default is to be ignored may not stay pending.
    _signal.signal(_signal.SIGCHLD, lambda *_: None)
    copies = [copy for fd in inherited if (copy := hand_down(fd)) is not None]
    for fd in kept:
        os.set_inheritable(fd, True)
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
        send(pid, signum)
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


def supervise(pid: int, *, measured: bool, chores: Sequence[Chore] = ()) -> tuple[int, Usage | None]:
    """Pass signals on to the command `pid` until its end: exit status, or minus the signal it died of.

    If `measured`, what it used comes with it, as far as that can be had. The `chores` are done meanwhile.
    """
    wait = os.wait4 if measured and can_be_measured() else os.waitpid
    told_to_stop = False  # slot-run itself, by the terminal or by kill
    look_s = FIRST_LOOK_S if CAN_TIME and os.getpid() == os.getpgrp() and foreground() else None
    while True:
        signum, from_kernel = _next_signal(_soonest(chores, look_s))
        is_ready = signum == SIGIO and from_kernel
        if not signum or (is_ready and chores):
            for chore in chores:
                chore.do()
            if look_s is not None and not signum:
                look_s = min(2 * look_s, LAST_LOOK_S)
                if leads_our_job(pid):
                    lend_terminal(pid)
        elif signum == _signal.SIGCHLD:
            changed, status, usage = _wait(pid, wait)
            if changed and (os.WIFSTOPPED(status) or os.WIFCONTINUED(status)):
                _follow(status, pid, chores, told_to_stop=told_to_stop)
                told_to_stop = told_to_stop and os.WIFCONTINUED(status)
            elif changed:
                return os.waitstatus_to_exitcode(status), usage
        else:
            told_to_stop = signum != _signal.SIGCONT and (told_to_stop or signum in STOPPING)
            _pass_on(signum, pid, from_terminal=from_kernel and not is_ready)


def _soonest(chores: Sequence[Chore], look_s: float | None) -> float | None:
    """In how many seconds there is something to do, whatever signals come; None if there is nothing."""
    due_s = [seconds for chore in chores if (seconds := chore.due_s()) is not None]
    return min(due_s if look_s is None else [look_s, *due_s], default=None)


def _follow(status: int, pid: int, chores: Sequence[Chore], *, told_to_stop: bool) -> None:
    """Do what there is to do when the command has stopped, or goes on."""
    if os.WIFCONTINUED(status):
        for chore in chores:
            chore.continues()
        return
    for chore in chores:
        chore.stops()
    _stop_too(os.WSTOPSIG(status), pid, told=told_to_stop)


def _wait(pid: int, wait: Callable[[int, int], tuple[Any, ...]]) -> tuple[int, int, Usage | None]:
    """What has become of the command `pid`, as `os.waitpid` has it, (0, 0) if nothing; and what it used.

    As pid 1 of a container slot-run inherits all whose parent has ended. It takes their ends as well, because
    they would stay zombies: "The namespace init process" in pid_namespaces(7).
    """
    found: tuple[int, int, Usage | None] = 0, 0, None
    while True:
        try:
            changed, status, *usage = wait(-1, os.WNOHANG | os.WUNTRACED | os.WCONTINUED)
        except ChildProcessError:
            return found
        if not changed:
            return found
        if changed == pid:
            found = changed, status, used(usage[0]) if usage else None


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


def _next_signal(pause_s: float | None) -> tuple[int, bool]:
    """The next of the WATCHED signals, or 0 after `pause_s`; and whether the kernel sent it.

    That is: the terminal sent it to a whole group, or a descriptor of ours is ready.
    """
    if CAN_TIME:
        while True:
            try:
                info = _signal.sigwaitinfo(WATCHED) if pause_s is None else _timed_signal(pause_s)
            except LookupError:
                return _signal.SIGCHLD, False  # whoever looks at the command in vain has lost nothing
            if info is None:
                return 0, False
            # Our own write to a closed pipe or beyond `ulimit -f` is no business of the command: SIGPIPE in
            # pipe(7), SIGXFSZ in setrlimit(2). Python ignores both, but what is blocked is kept all the same.
            if info.si_code != SI_USER or info.si_pid != os.getpid():
                return info.si_signo, info.si_code == SI_KERNEL and info.si_signo in OF_KERNEL
    watched = WATCHED - set(RESTORED)
    until = None if pause_s is None else time.monotonic() + pause_s
    while until is not None and not _signal.sigpending() & watched:
        if time.monotonic() > until:
            return 0, False
        time.sleep(NAP_S)
    # macOS tells not who sent a signal. In the foreground we take one that the terminal can send for one that
    # it did send.
    signum = _signal.sigwait(watched)
    return signum, signum in OF_TERMINAL and foreground() == os.getpgrp()


def _timed_signal(pause_s: float) -> _signal.struct_siginfo | None:
    """The next of the WATCHED signals, or None after `pause_s`; LookupError if nobody knows which has come.

    A stop ends sigtimedwait(2), too (EINTR, signal(7)), and so does the freezer of cgroups. If the time is
    over when we go on, CPython returns what the system has never filled in (Modules/signalmodule.c): any
    number may stand there, and would be sent to the command. So what comes late has to look like a signal in
    all that it says. (That SIGCONT is pending tells nothing: it comes with a hang-up and with systemd's
    SIGTERM, too.)
    """
    until = time.monotonic() + pause_s
    info = _signal.sigtimedwait(WATCHED, pause_s)
    if info is None or time.monotonic() < until:
        return info
    is_one = info.si_signo in WATCHED and not info.si_errno and SI_LEAST <= info.si_code <= SI_KERNEL
    if info.si_code == SI_KERNEL:
        is_one = is_one and not info.si_pid and not info.si_uid
    if not is_one or not 0 <= info.si_pid <= MOST_PID:
        raise LookupError
    return info


def _pass_on(signum: int, pid: int, *, from_terminal: bool) -> None:
    """Send a signal that came to slot-run to the command `pid`, unless the command has got it already."""
    apart = leads_our_job(pid)
    if signum == _signal.SIGCONT and apart:
        lend_terminal(pid)  # `fg` has given it to our group, where the command is not
    if not from_terminal:
        # `kill` may mean one process or the whole group; we cannot know. A job is stopped and continued as a
        # whole, or else `fg` would leave most of it stopped. All else we take for sent to one process.
        group = apart and signum in (_signal.SIGTSTP, _signal.SIGCONT)
        send(-pid if group else pid, signum)
    elif signum in (_signal.SIGHUP, _signal.SIGCONT) and os.getsid(0) == os.getpid():
        # A terminal that hangs up tells the leader of the session alone: credentials(7), and
        # tty_signal_session_leader in drivers/tty/tty_jobctrl.c. Without slot-run that leader would be the
        # command. The other processes get their SIGHUP when the leader ends.
        send(pid, signum)
    elif apart:
        send(-pid, signum)  # the terminal's group is ours, and the command has left it
    # Else the command is in our group, and has got what the terminal sent to all of that.


def _stop_too(signum: int, pid: int, *, told: bool) -> None:
    """Stop as the command `pid` did, so that the shell sees its job stopped; go on together with it.

    But only if somebody will continue slot-run. That is so if slot-run was `told` to stop as well, by Ctrl-Z
    or by `kill`: who does that to us also undoes it to us. It is so if a shell with job control waits for us.
    Otherwise somebody has stopped the command alone, and will continue the command alone.
    """
    apart = leads_our_job(pid)
    if apart and signum in (_signal.SIGTTIN, _signal.SIGTTOU) and lend_terminal(pid, asked=True):
        return
    pending = _signal.sigpending()
    if _signal.SIGCONT in pending:
        return  # it is passed on next; stopping now would throw it away (signal(7))
    if not (told or STOPPING & pending or shell_takes_over(signum)):
        if apart and signum == _signal.SIGTSTP and is_orphaned():
            # Ctrl-Z in a window of its own (`tmux new-window 'slot-run timeout …'`): nobody could continue
            # it, so the kernel ignores SIGTSTP in an "orphaned" group (setpgid(2)). Our group is one, the
            # command's own is not, because it has us.
            send(-pid, _signal.SIGCONT)
        return
    os.kill(os.getpid(), signum)
    if signum != _signal.SIGSTOP:  # the signal is blocked, and stops us when it is let in
        _signal.pthread_sigmask(_signal.SIG_UNBLOCK, [signum])
        _signal.pthread_sigmask(_signal.SIG_BLOCK, WATCHED)
    _pass_on(_signal.SIGCONT, pid, from_terminal=False)
