"""The lock primitive: one exclusive advisory lock per file, held by an open file description.

Relies on flock(2): the lock goes with the last descriptor of the open file description, or with
an explicit unlock through any of them. On Windows filelock's `lock_descriptor` takes the place of
flock: one byte at offset 0, which filelock's and portalocker's own locks cover too.
"""

from __future__ import annotations

import errno
import os
import sys
import time

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from types import TracebackType

NO_WAIT = getattr(os, "O_NONBLOCK", 0)
"""For open(2): a FIFO that somebody put in the place of a file must not stop a build."""
PLAIN = NO_WAIT | getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_BINARY", 0)
"""The same for what lies in a pool: in a group's, a symbolic link may lead a member to a file of another. And
Windows would change line ends, and so the places of bytes."""
NO_FILE = frozenset({errno.ELOOP, errno.EMLINK, errno.ENXIO, errno.EOPNOTSUPP})
"""How open(2) says that a name is that of a link (EMLINK on FreeBSD) or of a socket (the last on macOS)."""
DIRECTORY = getattr(os, "O_DIRECTORY", 0)
DIR_FDS = {os.open, os.unlink, getattr(os, "mkfifo", None)} <= os.supports_dir_fd
"""Whether files can be named by a descriptor of their directory; not on Windows, nor before macOS 13."""
MADE_MEANWHILE = 10
"""How often a file that somebody else has made meanwhile is opened again: not found, and yet there, for ever,
is a dangling link where links are followed."""
MUTEX_PAUSE_S = 0.02
"""The longest sleep between two tries. With 0.5 ms, 64 that wanted it kept two cores busy trying, and
its owner from its work (bench/README.md)."""
MUTEX_PATIENCE_S = 1.0
"""How long the mutex may resist before its owner counts as stopped (DESIGN, admission rule 4)."""
MUTEX_OWNERS = 30
"""After so many of those in a row somebody keeps it on purpose: then a build goes without."""

if sys.platform == "win32":  # not measured by us: unit-tested through this seam only
    from filelock import lock_descriptor, unlock_descriptor

    def try_lock(fd: int) -> bool:
        """Lock the file behind `fd` exclusively; False if somebody else has it locked."""
        return lock_descriptor(fd, blocking=False)

    def is_locked(fd: int) -> bool:
        """Whether somebody else holds the lock of the file behind `fd`."""
        if not lock_descriptor(fd, blocking=False):
            return True
        unlock_descriptor(fd)
        return False

    unlock = unlock_descriptor
else:
    from fcntl import LOCK_EX, LOCK_NB, LOCK_SH, LOCK_UN, flock

    def try_lock(fd: int) -> bool:
        """Lock the file behind `fd` exclusively; False if somebody else has it locked.

        Raises OSError where the file system has no locks (ENOLCK, EOPNOTSUPP, …).
        """
        try:
            flock(fd, LOCK_EX | LOCK_NB)
        except BlockingIOError:
            return False
        return True

    def is_locked(fd: int) -> bool:
        """Whether somebody else holds the lock of the file behind `fd`.

        Asks with a shared lock: two that look at once do not mistake each other for a holder, and
        one that is stopped in between does not look like one.
        """
        try:
            flock(fd, LOCK_SH | LOCK_NB)
        except BlockingIOError:
            return True
        flock(fd, LOCK_UN)
        return False

    def unlock(fd: int) -> None:
        """Unlock the open file description behind `fd`, also for those who inherited it."""
        flock(fd, LOCK_UN)


def has_name(fd: int, path: str) -> bool:
    """Whether `path` still names the file behind `fd`: a lock on a nameless file excludes nobody."""
    try:
        named = os.lstat(path)
    except FileNotFoundError:
        return False
    return os.path.samestat(os.fstat(fd), named)


class Room:
    """`with Room(path) as (name, room)`: the file `path` in a room of a pool, for calls with `dir_fd=room`.

    Who writes, makes or removes something in a room names it so: whoever else can write the pool may have put
    a symbolic link in the place of the room, and must not lead us to files of ours that have such names.
    Raises OSError (ENOTDIR) if it is one. Where the system has no such calls, they are the path and None.
    """

    __slots__ = ("_fd", "_path")

    def __init__(self, path: str) -> None:
        self._path = path

    def __enter__(self) -> tuple[str, int | None]:
        self._fd: int | None = None
        if not DIR_FDS:
            return self._path, None
        above, name = os.path.split(self._path)
        self._fd = os.open(above, os.O_RDONLY | DIRECTORY | PLAIN)
        return name, self._fd

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._fd is not None:
            os.close(self._fd)
        if isinstance(error, OSError) and error.filename is not None:
            error.filename = self._path  # for people


def is_shared(directory: str | int) -> bool:
    """Whether what is made in `directory` is its group's: it is setgid and group-writable, not everybody's.

    Setgid and group-writable, because each alone says too little: with umask 002 people make all their
    directories group-writable, and files in one that is not setgid get their maker's group (inode(7)).
    """
    try:
        return os.stat(directory).st_mode & 0o2022 == 0o2020
    except OSError:
        return False


def open_file(path: str, flags: int) -> int:
    """Open `path`: its descriptor. With O_CREAT it is made if missing, its owner's or its group's alone.

    What exists is opened without O_CREAT: in sticky directories fs.protected_regular refuses that flag for
    files of others (proc_sys_fs(5)). What is made is made with O_EXCL: who makes a file has to see to its
    mode, and must not change that of another file of ours, which somebody links here at that moment.
    """
    return _open_file(path, os.path.dirname(path), flags, None)


def open_in_room(path: str, flags: int) -> int:
    """The same for what is to be written in a room of a pool: see `Room`."""
    with Room(path) as (name, room):
        return _open_file(name, os.path.dirname(path) if room is None else room, flags, room)


def _open_file(name: str, above: str | int, flags: int, room: int | None) -> int:
    again = MADE_MEANWHILE
    while True:
        if not flags & os.O_EXCL:
            try:
                return os.open(name, flags & ~os.O_CREAT | PLAIN, dir_fd=room)
            except FileNotFoundError:
                if not flags & os.O_CREAT:
                    raise
        shared = is_shared(above)
        try:
            fd = os.open(name, flags | os.O_CREAT | os.O_EXCL | PLAIN, 0o600, dir_fd=room)
        except FileExistsError:
            again -= 1
            if flags & os.O_EXCL or not again:
                raise
            continue
        try:
            if shared:
                os.fchmod(fd, 0o660)  # whatever the umask is
        except BaseException:
            os.close(fd)
            raise
        return fd


def remove_in_room(path: str) -> None:
    """Remove the file `path` from a room of a pool: see `Room`."""
    with Room(path) as (name, room):
        os.unlink(name, dir_fd=room)


def make_parents(path: str) -> None:
    """Make the directories above `path` that are missing, for us alone.

    So the XDG base directory specification has it. `os.makedirs` would leave it to the umask, and with 000 or
    002 others could put a directory of theirs in the place of ours.
    """
    above = os.path.dirname(path)
    if above != path and not os.path.isdir(above):
        make_parents(above)
        make_directory(above, shared=False)


def make_directory(path: str, *, shared: bool) -> None:
    """Make the directory `path` unless it is there; a `shared` one is the group's, whatever the umask."""
    try:
        if shared:
            _make_shared(path)
        else:
            os.mkdir(path, 0o700)
    except OSError as error:
        if error.errno not in (errno.EEXIST, errno.ENOTEMPTY, errno.ENOTDIR):
            raise
        if os.path.exists(path) and not os.path.isdir(path):
            raise  # a file in its place, not a directory that was removed and made meanwhile


def _make_shared(path: str) -> None:
    """Make a directory that has its mode from the first moment that others can see it."""
    if os.path.isdir(path):
        return
    above, name = os.path.split(path)
    unfinished = os.path.join(above, f".{name}-{os.urandom(8).hex()}")
    os.mkdir(unfinished, 0o700)
    try:
        fd = os.open(unfinished, os.O_RDONLY | DIRECTORY | PLAIN)
        try:
            os.fchmod(fd, 0o2770)
        finally:
            os.close(fd)
        os.rename(unfinished, path)  # over an empty one that another process has made meanwhile
    except BaseException:
        os.rmdir(unfinished)
        raise


def open_lock(path: str, flags: int = os.O_CREAT, opened: Callable[[str, int], int] = open_file) -> int:
    """Open the file at `path` by `opened`, to lock it: its descriptor (close-on-exec). Raises OSError."""
    try:
        return opened(path, os.O_RDWR | flags)
    except PermissionError as error:
        # Another user's `flock slot-0` has made it, say, with mode 0644. flock(2) asks for writing only
        # where NFS puts byte-range locks in its place.
        try:
            return os.open(path, os.O_RDONLY | PLAIN)
        except FileNotFoundError:
            raise error from None


def lock_file(
    path: str, flags: int = os.O_CREAT, opened: Callable[[str, int], int] = open_file
) -> int | None:
    """Open `path` by `opened` and lock it: the locked descriptor (close-on-exec), or None if it is locked.

    The lock is one on the file that has the name *now*. Raises OSError from open(2) or flock(2).
    """
    while True:
        fd = open_lock(path, flags, opened)
        try:
            won = try_lock(fd)
            if won and has_name(fd, path):
                return fd
        except BaseException:
            os.close(fd)
            raise
        os.close(fd)
        if not won:
            return None


def locked(path: str) -> bool:
    """Whether somebody holds the lock of the file at `path`; a missing file, or a link, is held by nobody."""
    try:
        fd = os.open(path, os.O_RDONLY | PLAIN)
    except FileNotFoundError:
        return False
    except OSError as error:
        if error.errno in NO_FILE:
            return False
        raise
    try:
        return is_locked(fd)
    finally:
        os.close(fd)


class Mutex:
    """The mutex of a pool: `with Mutex(path):`, each `with` on a descriptor of its own.

    Not reentrant. It is a courtesy, not a fence (see the package docstring): who cannot have it
    for MUTEX_PATIENCE_S removes the file, so that a process that was stopped while it had the
    mutex costs the others one second, once. Raises OSError where it cannot be made or removed, and
    TimeoutError when that was in vain MUTEX_OWNERS times: somebody takes it again and again.
    """

    __slots__ = ("_fd", "_path")

    def __init__(self, path: str) -> None:
        self._path = path
        self._fd = -1

    def __enter__(self) -> None:
        removed = 0
        while True:
            fd = open_lock(self._path)
            try:
                won = self._lock(fd)
            except BaseException:
                os.close(fd)
                raise
            if won:
                self._fd = fd
                return
            os.close(fd)
            if won is None:
                if removed == MUTEX_OWNERS:
                    raise TimeoutError(errno.ETIMEDOUT, "somebody keeps the mutex of the pool", self._path)
                self._remove()
                removed += 1

    def _lock(self, fd: int) -> bool | None:
        """Lock the file behind `fd`: False if it has lost its name, None if somebody keeps its lock."""
        # Trying and sleeping, because a blocking flock cannot be given a deadline without signals.
        pause_s, give_up = 0.00005, time.monotonic() + MUTEX_PATIENCE_S
        while True:
            won = try_lock(fd)
            if won or not has_name(fd, self._path):
                return won and has_name(fd, self._path)
            if time.monotonic() > give_up:
                return None
            time.sleep(pause_s)
            pause_s = min(pause_s * 2, MUTEX_PAUSE_S)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._unlock()

    def _unlock(self) -> None:
        fd, self._fd = self._fd, -1
        try:
            unlock(fd)  # closing is not enough: a child forked meanwhile by another thread has a copy
        finally:
            os.close(fd)

    def __del__(self) -> None:
        if getattr(self, "_fd", -1) >= 0:  # a Ctrl-C came before it could be unlocked
            self._unlock()

    def _remove(self) -> None:
        try:
            os.unlink(self._path)
        except FileNotFoundError:
            pass  # another one was quicker


_kept_from_children: set[int] = set()
_hook_installed = False
_forks = 0


def keep_from_children(fd: int) -> None:
    """See to it that a child forked while `fd` is open has no copy: it would keep a lock alive."""
    _kept_from_children.add(fd)
    if not _hook_installed:
        _install_hook()


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


def forget(fd: int) -> None:
    """Undo `keep_from_children`: from now on children inherit copies of `fd`."""
    _kept_from_children.discard(fd)


def close_kept(fd: int) -> None:
    """Close `fd`, which children have no copy of. In a forked child it is closed already."""
    if fd in _kept_from_children:
        _kept_from_children.discard(fd)
        os.close(fd)


def _close_in_child() -> None:
    fds = list(_kept_from_children)
    _kept_from_children.clear()
    for fd in fds:
        try:
            os.close(fd)
        except OSError:
            pass  # the program has closed everything, as daemons do
