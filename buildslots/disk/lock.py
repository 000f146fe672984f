"""Locks of whole files, and the mutex of a pool.

Relies on flock(2): a lock belongs to an open file description. It goes with the last descriptor of that,
however the process ended, or with an unlock through any of them. On Windows filelock's `lock_descriptor`
takes its place: one byte at offset 0, which filelock's and portalocker's own locks cover too.

One rule for everybody: an *exclusive* lock means "I hold this slot" or "I wait with this ticket". Looking and
tidying up lock *shared*. So two that look at once do not take each other for a holder, and one that is
stopped in between does not look like one.
"""

from __future__ import annotations

import errno
import os
import sys
import time
from stat import S_ISDIR, S_ISREG

from buildslots.files import NO_FILE, PLAIN, close, open_file, put_aside, remove_in_room

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Generator

RENAMED = 100
"""How often a file to be locked may turn out to have lost its name to another one."""
OLD_S = 86400.0
"""What has had no new times for so long gets them. Those who clean up by age give it ten days or more
(tmpfiles.d(5) of systemd), some three (/tmp of macOS)."""
PAUSE_S = 0.02
"""The longest sleep between two tries for the mutex. With 0.5 ms, 64 that wanted it kept two cores busy, and
its owner from its work (bench/README.md)."""

if sys.platform == "win32":  # not measured by us: unit-tested through this seam only
    from filelock import lock_descriptor, unlock_descriptor

    def try_lock(fd: int) -> bool:
        """Lock the file behind `fd` exclusively; False if somebody else has it locked."""
        return lock_descriptor(fd, blocking=False)

    share = try_lock  # for want of shared locks
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

    def share(fd: int) -> bool:
        """Lock the file behind `fd` shared: nobody can lock it exclusively then; False if somebody has."""
        try:
            flock(fd, LOCK_SH | LOCK_NB)
        except BlockingIOError:
            return False
        return True

    def unlock(fd: int) -> None:
        """Unlock the open file description behind `fd`, also for those who inherited it."""
        flock(fd, LOCK_UN)


def is_locked(fd: int) -> bool:
    """Whether somebody else has the file behind `fd` locked exclusively."""
    if not share(fd):
        return True
    try:
        unlock(fd)
    except OSError:
        pass  # it ends with the descriptor
    return False


def locked(path: str) -> bool:
    """Whether somebody has the file at `path` locked; a missing file, or a link, is locked by nobody."""
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
        close(fd)


def has_name(fd: int, path: str) -> bool:
    """Whether `path` still names the file behind `fd`: a lock on a nameless file excludes nobody.

    Raises IsADirectoryError where it names a directory: that can be locked, but is nobody's slot.
    """
    try:
        named = os.lstat(path)
    except FileNotFoundError:
        return False
    if S_ISDIR(named.st_mode):
        raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), path)
    return os.path.samestat(os.fstat(fd), named)


def is_old(about: os.stat_result) -> bool:
    """Whether a file has had no new times for long. To lock it changes none, nor to open it."""
    return min(about.st_atime, about.st_mtime) < time.time() - OLD_S


def keep_young(fd: int) -> None:
    """Give the file `fd` the times of now if it is old; raises nothing.

    It takes the file's owner, or whoever may write it (utimensat(2)), but no descriptor that can write.
    """
    try:
        if is_old(os.fstat(fd)) and os.utime in os.supports_fd:  # not on Windows
            os.utime(fd)
    except OSError:
        pass  # another user's, or a read-only file system


def open_lock(path: str, flags: int = os.O_CREAT, opened: Callable[[str, int], int] = open_file) -> int:
    """Open the file at `path` by `opened`, to lock it: its descriptor (close-on-exec). Raises OSError.

    For reading, because a build inherits the descriptor of its slot, and must not fill the disk through it.
    flock(2) asks for no more, but for NFS: see `write_to_lock`.
    """
    return opened(path, _access | flags)


_access = os.O_RDONLY


def write_to_lock(error: OSError) -> bool:
    """Whether a lock failed with `error` because its file was open for reading only; from now on none is.

    NFS puts byte-range locks in the place of flock(2) (its page, NOTES), and asks for that: EBADF.
    """
    global _access  # noqa: PLW0603 - the file system does not change
    if error.errno != errno.EBADF or _access == os.O_RDWR:
        return False
    _access = os.O_RDWR
    return True


def lock_file(
    path: str, flags: int = os.O_CREAT, opened: Callable[[str, int], int] = open_file
) -> int | None:
    """Open `path` by `opened` and lock it: the locked descriptor (close-on-exec), or None if it is locked.

    The lock is one on the file that has the name *now*: a cache cleaner may have removed another. Raises
    OSError from open(2) or flock(2), and TimeoutError if it is another file each of many times.
    """
    for _ in range(RENAMED):
        fd = open_lock(path, flags, opened)
        try:
            won = try_lock(fd)
            if won and has_name(fd, path):
                return fd
        except BaseException:
            close(fd)
            raise
        close(fd)
        if not won:
            return None
    raise TimeoutError(errno.ETIMEDOUT, "somebody replaces it all the time", path)


def does_not_stay(directory: str) -> FileNotFoundError:
    """What is wrong when somebody removes the pool `directory` again and again."""
    return FileNotFoundError(errno.ENOENT, "the pool directory does not stay", directory)


class Mutex:
    """The mutex of a pool, at `path`. Not reentrant.

    It makes the order of arrival exact, and nothing else rests on it. So a process that was stopped while it
    had the mutex costs the others one second, once: they put a new file in its place. Who cannot have that
    either goes on without.
    """

    __slots__ = ("_fd", "_opened_at", "_path")

    def __init__(self, path: str) -> None:
        self._path = path
        self._fd = -1
        self._opened_at = 0.0

    def tries(
        self, patience_s: float, again_s: float, flags: int = os.O_CREAT
    ) -> Generator[float, None, bool]:
        """Try to get it, and yield for how many seconds to sleep before the next try: whether it was got.

        A blocking flock would not do: it has no deadline without signals, and while we wait here we have to
        hear a signal or a cancellation as well.

        Args:
            patience_s: How long to try, whatever files have the name meanwhile.
            again_s: How long to try with a new file after that; 0 to leave the old one where it is.
            flags: O_CREAT to make it if it is missing.

        Raises:
            OSError: It cannot be made or locked.
        """
        if (yield from self._tries(patience_s, flags)):
            return True
        if again_s <= 0:
            return False
        # A new file means that others have lost patience before us. (Or somebody replaces it all the time.)
        if time.monotonic() - self._opened_at > patience_s * 0.75:
            self._replace()
        return (yield from self._tries(again_s, flags))

    def _tries(self, patience_s: float, flags: int) -> Generator[float, None, bool]:
        fd, pause_s, give_up = -1, 0.00005, time.monotonic() + patience_s
        try:
            while True:
                if fd < 0:
                    fd = open_lock(self._path, flags)
                    self._opened_at = time.monotonic()
                won = try_lock(fd)
                if not has_name(fd, self._path):
                    close(fd)
                    fd = -1
                    self._opened_at = time.monotonic()  # somebody has just made a new one, perhaps
                elif won:
                    self._fd, fd = fd, -1
                    return True
                if time.monotonic() > give_up:
                    return False
                yield pause_s
                pause_s = min(pause_s * 2, PAUSE_S)
        finally:
            if fd >= 0:
                close(fd)

    def is_old(self) -> bool:
        """Whether it was got, and is old: so is all that was new when somebody last looked at that."""
        return self._fd >= 0 and is_old(os.fstat(self._fd))

    def is_ours(self) -> bool:
        """Whether it was got, and no other file has taken its place meanwhile. Raises OSError."""
        return self._fd >= 0 and has_name(self._fd, self._path)

    def release(self) -> None:
        """Unlock it, if it was got. Idempotent, raises nothing."""
        fd, self._fd = self._fd, -1
        if fd >= 0:
            try:
                unlock(fd)  # to close it is not enough: a child forked meanwhile by another thread has a copy
            except OSError:
                pass
            finally:
                close(fd)

    def __del__(self) -> None:
        if getattr(self, "_fd", -1) >= 0:  # a Ctrl-C came before it could be unlocked
            self.release()

    def _replace(self) -> None:
        """Free the name: an empty file is what we have made, anything else is put aside."""
        try:
            about = os.lstat(self._path)
            if S_ISREG(about.st_mode) and not about.st_size:
                remove_in_room(self._path)
            else:
                put_aside(self._path)
        except OSError:
            pass  # another one was quicker, or it cannot be removed (Windows): then one goes on without
