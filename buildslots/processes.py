"""Processes: which one this is, whether another lives, and what a forked child must have no copy of."""

from __future__ import annotations

import os
import sys

from buildslots.files import close

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping

_identity: tuple[int, dict[str, str]] = (0, {})


def identity() -> dict[str, str]:
    """Which process this is: `pid`, and on Linux `start`, `host` and `pidns`, as records say it.

    Read once for each process, also after a fork. A pid alone would not do: it is given to another process
    later, and means another one in another container.
    """
    global _identity  # noqa: PLW0603 - a cache of what cannot change
    pid = os.getpid()
    if _identity[0] != pid:
        fields = {"pid": str(pid)}
        if sys.platform == "linux":
            fields["start"] = str(start_of(pid))
            fields["host"] = os.uname().nodename
            try:
                fields["pidns"] = os.readlink("/proc/self/ns/pid")
            except OSError:
                pass  # without /proc
        _identity = pid, fields
    return _identity[1]


def start_of(pid: int) -> int:
    """When process `pid` started, in clock ticks after boot: field 22 of proc_pid_stat(5); 0 if unknown."""
    try:
        fd = os.open(f"/proc/{pid}/stat", os.O_RDONLY)
        try:
            stat = os.read(fd, 4096)
        finally:
            close(fd)
        return int(stat[stat.rindex(b")") + 2 :].split()[19])  # the name in parentheses may hold anything
    except (OSError, ValueError, IndexError):
        return 0


def number(text: str | None) -> int | None:
    """The whole number that a field says; None for what is no pid, and no cap, on any system."""
    if text is None or not text.isdecimal() or len(text) > len(str(2**31)) or int(text) >= 2**31:
        return None
    return int(text)


def is_local(fields: Mapping[str, str]) -> bool:
    """Whether the pid in `fields` means that process here: same host, same pid namespace."""
    ours = identity()
    return all(fields.get(where) == ours.get(where) for where in ("host", "pidns"))


def lives(fields: Mapping[str, str], since: float | None) -> bool:
    """Whether the process that `fields` name lives; True where we cannot know (another pid namespace).

    Args:
        fields: As `identity` has them.
        since: Unix time at which it lived; tells it from a later process with its pid where there is no
            `start`. None if that is unknown.
    """
    pid = number(fields.get("pid"))
    if pid is None:
        return False
    if not is_local(fields):
        return True
    if fields.get("start", "0") != "0":
        start = start_of(pid)
        return fields["start"] == str(start) if start else _is_hidden(pid)
    import psutil  # noqa: PLC0415 - where there is no /proc

    try:
        # The clocks of the two need not agree exactly.
        return since is None or bool(psutil.Process(pid).create_time() <= since + 1)
    except psutil.NoSuchProcess:
        return False
    except psutil.Error:
        return True


def _is_hidden(pid: int) -> bool:
    """Whether `pid` lives but is another user's, whom /proc may not show (its option hidepid, proc(5))."""
    try:
        os.kill(pid, 0)
    except PermissionError:
        return True
    except OSError:
        pass  # there is none
    return False


def occupy_standard() -> None:
    """Open what is closed of the descriptors 0, 1 and 2. Raises nothing.

    A program may be started without them (`>&-`), or close them. The next file opened would get the number,
    and with a lock or a bell there whatever the program or its child prints would go into a file of the pool.
    """
    for fd in (0, 1, 2):
        try:
            os.fstat(fd)
        except OSError:
            try:
                new = os.open(os.devnull, os.O_RDWR)
            except OSError:
                return  # no /dev, or no descriptor left
            if new > 2:  # another thread was quicker
                close(new)


# A child that is forked has copies of all descriptors, and a lock lives as long as any copy.

_kept_from_children: dict[int, tuple[int, int]] = {}  # the device and inode of each descriptor
_hook_installed = False
_forks = 0


def keep_from_children(fd: int) -> None:
    """See to it that a child forked while `fd` is open has no copy: it would keep a lock alive."""
    about = os.fstat(fd)
    _kept_from_children[fd] = about.st_dev, about.st_ino
    if not _hook_installed:
        _install_hook()


def forget(fd: int) -> None:
    """Undo `keep_from_children`: from now on children inherit copies of `fd`."""
    _kept_from_children.pop(fd, None)


def close_kept(fd: int) -> None:
    """Close `fd`, which children have no copy of. In a forked child it is closed already."""
    if _kept_from_children.pop(fd, None) is not None:
        close(fd)


def forks() -> int:
    """How often this process has forked since this was called first."""
    if not _hook_installed:
        _install_hook()
    return _forks


def _install_hook() -> None:
    global _hook_installed  # noqa: PLW0603 - hooks cannot be removed, so one serves all
    _hook_installed = True
    if hasattr(os, "register_at_fork"):
        os.register_at_fork(after_in_parent=_count_fork, after_in_child=_close_in_child)


def _count_fork() -> None:
    global _forks  # noqa: PLW0603
    _forks += 1


def _close_in_child() -> None:
    kept = list(_kept_from_children.items())
    _kept_from_children.clear()
    for fd, which in kept:
        try:
            about = os.fstat(fd)
        except OSError:
            continue
        # A program that has closed everything, as daemons do, has given the numbers to files of its own.
        if (about.st_dev, about.st_ino) == which:
            close(fd)
