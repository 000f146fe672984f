"""Processes: which one this is and what it was given, whether another lives, what a fork must not copy."""

from __future__ import annotations

import errno
import os
import sys

from buildslots.files import close

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping
    from resource import struct_rusage
    from typing import TypeAlias

    Usage: TypeAlias = tuple[float, int]  # CPU seconds, and resident bytes of the largest process

COERCED = (b"C.UTF-8", b"C.utf8", b"UTF-8")
"""What Python sets LC_CTYPE to where the locale is C: PEP 538, _TARGET_LOCALES in Python/pylifecycle.c."""
PASSING_ON = b"sh bash dash ash busybox zsh ksh mksh make timeout xargs find strace systemd".split()
"""Programs that ignore SIGPIPE only if what they start is to ignore it too: `trap '' PIPE` in a shell,
IgnoreSIGPIPE= in systemd.exec(5). Python, Rust, node and others ignore it for themselves alone."""
LOWEST_FD = 64
"""The lowest number of the slot's descriptors in the command: shell scripts and jobservers use low ones."""
RSS_UNIT = 1 if sys.platform == "darwin" else 1024
"""Bytes that `ru_maxrss` counts in: getrusage(2)."""
MOST_ANCESTORS = 256
"""So many processes, this one and those above it, are looked at."""
MOST_FILES = 4096
"""Among so many open files of a process one is looked for."""

_identity: tuple[int, dict[str, str]] = (0, {})
_boot: list[str] = []


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


def boot_id() -> str | None:
    """The number of this boot of this machine, which no other has: random(4). None where there is none."""
    if not _boot:
        try:
            fd = os.open("/proc/sys/kernel/random/boot_id", os.O_RDONLY)
            try:
                _boot.append(os.read(fd, 64).decode("ascii", "replace").strip())
            finally:
                close(fd)
        except OSError:
            return None
    return _boot[0]


def here() -> str:
    """The directory of this process; "?" if it was removed."""
    try:
        return os.getcwd()
    except OSError:
        return "?"


def start_of(pid: int) -> int:
    """When process `pid` started, in clock ticks after boot: field 22 of proc_pid_stat(5); 0 if unknown."""
    return _parent_and_start(pid)[1]


def _parent_and_start(pid: int) -> tuple[int, int]:
    """Fields 4 and 22 of proc_pid_stat(5): the parent of process `pid`, and when it started; 0 if unknown."""
    return _stat(pid)[1:]


def _stat(pid: int) -> tuple[bytes, int, int]:
    """Fields 3, 4 and 22 of proc_pid_stat(5): the state as well; b"" if unknown."""
    try:
        fd = os.open(f"/proc/{pid}/stat", os.O_RDONLY)
        try:
            stat = os.read(fd, 4096)
        finally:
            close(fd)
        fields = stat[stat.rindex(b")") + 2 :].split()  # the name in parentheses may hold anything
        return fields[0], int(fields[1]), int(fields[19])
    except (OSError, ValueError, IndexError):
        return b"", 0, 0


def lineage() -> dict[int, int]:
    """This process and those above it, from here upwards: when each started, by pid; 0 if that is unknown.

    As far as they can be seen: not beyond the pid namespace, nor beyond whom /proc hides.
    """
    found: dict[int, int] = {}
    if sys.platform == "linux":
        pid = os.getpid()
        while pid and pid not in found and len(found) < MOST_ANCESTORS:
            above, found[pid] = _parent_and_start(pid)
            pid = above
        return found
    try:
        import psutil  # noqa: PLC0415 - where there is no /proc

        this = psutil.Process()
        return {process.pid: 0 for process in (this, *this.parents())}
    except Exception:  # noqa: BLE001 - psutil's own, or it cannot be loaded
        return found


def has_open(pid: int, path: str) -> bool:
    """Whether process `pid` has the file at `path` open; False where the system does not tell us."""
    try:
        file = os.stat(path)
        with os.scandir(f"/proc/{pid}/fd") as entries:
            some = zip(entries, range(MOST_FILES), strict=False)
            return any(os.path.samestat(entry.stat(), file) for entry, _ in some)
    except OSError:
        return False


def given_arguments(args: list[str]) -> list[bytes]:
    """The bytes of `args`, the end of `sys.argv`, as whoever started this process has written them.

    Python decodes them with the C library, whose EUC-JP, Big5 and GB18030 are not quite those of Python's
    codecs: text in another encoding may be no text of these, or come back as other bytes.
    """
    if sys.getfilesystemencoding() == "utf-8" or not args:
        return [os.fsencode(word) for word in args]
    given = _strings("/proc/self/cmdline")
    return given[-len(args) :] if given else [os.fsencode(word) for word in args]


def restore_environment() -> bool:
    """Undo what Python has done to our environment; whether a mapping can hold all of it.

    Where the locale is C, Python sets LC_CTYPE (PEP 538), and then gcc quotes, and grep and sed match, as
    they do not do in C. Without /proc (macOS) nothing tells that value from the caller's own, and it stays.
    """
    given = _strings("/proc/self/environ")
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


def ignored_by_caller() -> int:
    """The signals that whoever started this process has it ignore, as bits, signal 1 lowest; 0 if unknown.

    Python ignores SIGPIPE and SIGXFSZ before any code of ours runs, so what was inherited can only be seen at
    our parent, if that is a program that passes its own on. Linux only.
    """
    try:
        fd = os.open(f"/proc/{os.getppid()}/status", os.O_RDONLY)
        try:
            status = os.read(fd, 1 << 14)
        finally:
            close(fd)
        name = status.partition(b"\n")[0].partition(b"\t")[2]
        return int(status.partition(b"\nSigIgn:")[2].split(None, 1)[0], 16) if name in PASSING_ON else 0
    except (OSError, ValueError, IndexError):
        return 0


def _strings(path: str) -> list[bytes] | None:
    """The strings in a file of /proc, each of which ends with NUL; None if it cannot be read."""
    parts: list[bytes] = []
    try:
        fd = os.open(path, os.O_RDONLY)
        try:
            while part := os.read(fd, 1 << 16):
                parts.append(part)
        finally:
            close(fd)
    except OSError:
        return None
    return b"".join(parts).split(b"\0")[:-1]


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

    One that has ended, and for whose end nobody waits, does not: process 1 of a container may not.

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
        state, _, start = _stat(pid)
        return (fields["start"] == str(start) and state != b"Z") if start else _is_hidden(pid)
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


def hand_down(fd: int) -> int | None:
    """Let the command inherit a copy of `fd` with a high number, which is returned; or else `fd` itself."""
    from fcntl import F_DUPFD, fcntl  # noqa: PLC0415 - Windows has none

    try:
        return fcntl(fd, F_DUPFD, LOWEST_FD)
    except OSError:  # RLIMIT_NOFILE allows no such number, or no further descriptor at all
        try:
            os.set_inheritable(fd, True)
        except OSError:
            pass  # then a slot-run that is killed frees the slot too early: no reason not to run the command
        return None


def can_be_measured() -> bool:
    """Whether `os.wait4` can tell what a child has used. It takes some 0.3 ms to find out.

    `os.wait4` needs `resource`, and would load it by itself after it has reaped (wait_helper in CPython's
    Modules/posixmodule.c). Then the next build would wait for that, not only the command's first moments. And
    where no descriptor is left to load it, the exit status would be lost.
    """
    try:
        import resource  # noqa: F401, PLC0415 - see above
    except (ImportError, OSError):
        return False
    return True


def used(usage: struct_rusage) -> Usage:
    """What a child has used, of what `os.wait4` says."""
    return usage.ru_utime + usage.ru_stime, usage.ru_maxrss * RSS_UNIT


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
