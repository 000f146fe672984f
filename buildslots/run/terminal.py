"""The terminal and its process groups, as `child` meets them: whose the foreground is, and who takes over.

See "General Terminal Interface" in POSIX, tty_ioctl(4) and credentials(7).
"""

from __future__ import annotations

import os
import stat

TYPE_CHECKING = False
if TYPE_CHECKING:
    import signal as _signal
else:
    import _signal  # `signal` itself wraps the same functions in enum, at 4 ms


def send(pid: int, signum: int) -> None:
    """Send a signal, if we may: a setuid command can be another user's process."""
    try:
        os.kill(pid, signum)
    except OSError:
        pass


def leads_our_job(pid: int) -> bool:
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


def lend_terminal(pid: int, *, asked: bool = False) -> bool:
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
    send(-pid, _signal.SIGCONT)  # whoever in it has read before, and was stopped for that
    return True


def shell_takes_over(signum: int) -> bool:
    """Whether our parent is a shell that hears of it when slot-run stops by `signum`, and can undo it.

    Such a shell has put us into a process group of our own, and has the same terminal. It is waiting for us
    if it has left the foreground. If it has not, we are in the background: then it needs to know only that we
    want the terminal, for which the user has to type `fg`.
    """
    front = foreground()
    parent = os.getppid()
    try:
        group = os.getpgid(parent)
        if not front or os.getsid(parent) != os.getsid(0) or group == os.getpgrp():
            return False
    except OSError:
        return False
    return group != front or signum in (_signal.SIGTTIN, _signal.SIGTTOU)


def is_orphaned() -> bool:
    """Whether our process group, which we lead, has no parent in its session that could continue it."""
    try:
        return os.getppid() == 0 or os.getsid(os.getppid()) != os.getsid(0)
    except OSError:
        return True


def foreground() -> int:
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
