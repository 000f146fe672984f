"""Staging: a fresh directory beside its destination, which takes that one's place by one rename.

`.NAME.stage-MARK` is private (0700), and in it lies `new`, which a task fills. Both are on the file system of
the destination, so that one call moves `new` there. Where a directory is there already, the two are exchanged
(renameat2(2) with RENAME_EXCHANGE: Linux 3.15, most file systems). Elsewhere the old one is moved away first,
and for an instant nothing is there. What was there is kept in the private directory until the task, or with
all-or-nothing the batch, is done. So at any moment the destination is the old directory or the new one,
whole.

Everything is done by the descriptors of the two directories, and refused where others could rename things.
"""

from __future__ import annotations

import errno
import os
import shutil
from stat import S_ISDIR, S_ISVTX

from buildslots.files import DIR_FDS, DIRECTORY, close, open_directory
from buildslots.words import short_path

NEW, OLD, GONE = "new", "old", "gone"
TRIES = 3
"""How often what is to be removed is looked at, while somebody still writes there."""
RENAME_NOREPLACE, RENAME_EXCHANGE = 1, 2
"""Flags of renameat2(2): linux/fs.h."""
CANNOT = frozenset({errno.ENOSYS, errno.EINVAL, errno.EOPNOTSUPP})
"""How renameat2(2) says that the kernel or the file system has no such flag."""


class StageError(OSError):
    """Nothing can be staged for a destination; in one sentence that names it."""


class Stage:
    """A directory that is to become the one at `dest`.

    Attributes:
        dest: The destination, absolute.
        name: Of the private directory beside it.
        path: Of the directory that a task fills.
        identity: Device and inode of that directory: they tell whether it was moved.
    """

    __slots__ = ("_above", "_private", "dest", "identity", "name", "path")

    def __init__(self, dest: str, name: str) -> None:
        """The stage with the private directory `name` beside `dest`; not opened yet."""
        self.dest = dest
        self.name = name
        self.path = os.path.join(os.path.dirname(dest), name, NEW)
        self.identity = (0, 0)
        self._above: _Folder = _NOWHERE
        self._private: _Folder = _NOWHERE

    @staticmethod
    def name_for(dest: str, mark: str) -> str:
        """The name of the private directory beside `dest`."""
        return f".{os.path.basename(dest)[:100]}.stage-{mark}"

    def make(self) -> None:
        """Make its directories, and those above the destination that are missing.

        Raises:
            StageError: Something else than a directory of ours is there, or others could interfere.
            OSError: It cannot be made.
        """
        os.makedirs(os.path.dirname(self.dest), exist_ok=True)
        self.open(make=True)
        try:
            self._check_destination()
            os.mkdir(self._private.name(NEW), dir_fd=self._private.fd)
            self.identity = _identity(self._private, NEW)
        except BaseException:
            self.remove()
            raise

    def open(self, *, make: bool = False) -> None:
        """Open its directories, unless they are open. Raises StageError, OSError."""
        if self._private is not _NOWHERE:
            return
        above = _Folder(os.path.dirname(self.dest), None, ours=False)
        try:
            _check_private(above.path)
            if make:
                os.mkdir(above.name(self.name), 0o700, dir_fd=above.fd)
            self._private = _Folder(os.path.join(above.path, self.name), above, ours=True)
        except BaseException:
            above.close()
            raise
        self._above = above

    def move(self) -> None:
        """Let the new directory take the place of the destination; what was there is kept. Raises OSError."""
        self._check_destination()
        dest = os.path.basename(self.dest)
        if not self._above.has(dest):
            _rename(self._private, NEW, self._above, dest, RENAME_NOREPLACE)
        elif not _renameat2(self._private, NEW, self._above, dest, RENAME_EXCHANGE):
            _rename(self._above, dest, self._private, OLD)
            try:
                _rename(self._private, NEW, self._above, dest)
            except BaseException:
                _rename(self._private, OLD, self._above, dest)
                raise

    def finish(self) -> None:
        """Complete a move that was begun, perhaps by a run that was killed. Raises OSError."""
        if not self.has_moved():
            self.move()

    def undo(self) -> None:
        """Undo a move, whether it was made, made by half, or not begun. Raises OSError."""
        dest = os.path.basename(self.dest)
        if self.has_moved():
            is_exchanged = self._private.has(NEW)
            if not (is_exchanged and _renameat2(self._private, NEW, self._above, dest, RENAME_EXCHANGE)):
                if is_exchanged:
                    _rename(self._private, NEW, self._private, OLD)
                _rename(self._above, dest, self._private, NEW)
        if self._private.has(OLD) and not self._above.has(dest):
            _rename(self._private, OLD, self._above, dest)

    def has_moved(self) -> bool:
        """Whether the new directory is at the destination."""
        try:
            return _identity(self._above, os.path.basename(self.dest)) == self.identity
        except FileNotFoundError:
            return False

    def keeps_old(self) -> bool:
        """Whether what was at the destination was moved away, and still lies in the private directory."""
        return self._private.has(OLD)

    def remove(self) -> bool:
        """Remove the private directory and what is in it: a stage, or what a stage has replaced.

        Whether it is gone. Raises nothing: what cannot be removed stays, under a name that says what it is.
        """
        is_gone = False
        try:
            for name in (GONE, NEW, OLD):
                self._clear(name)
            os.rmdir(self._above.name(self.name), dir_fd=self._above.fd)
            is_gone = True
        except OSError:
            pass
        self.close()
        return is_gone

    def _clear(self, name: str) -> None:
        """Remove a directory in the private one. Raises OSError.

        The thread of a function that was cancelled may still write there, and nobody can end it. So the
        directory gets another name first, under which that thread finds it no more.
        """
        if not self._private.has(name):
            return
        if name != GONE:
            _rename(self._private, name, self._private, GONE)
        for _ in range(TRIES):  # what was looked up before may yet be written
            shutil.rmtree(self._private.name(GONE), ignore_errors=True, dir_fd=self._private.fd)
            if not self._private.has(GONE):
                return
            _open_up(GONE, self._private)

    def close(self) -> None:
        """Close its descriptors; `open` opens them again. A batch may have more stages than descriptors."""
        self._private.close()
        self._above.close()
        self._above = self._private = _NOWHERE

    def _check_destination(self) -> None:
        """Raise StageError unless the destination is free, or a directory of ours."""
        try:
            about = os.lstat(self._above.name(os.path.basename(self.dest)), dir_fd=self._above.fd)
        except FileNotFoundError:
            return
        if not S_ISDIR(about.st_mode):
            raise _refused(self.dest, "is there, and is no directory: a stage becomes one")
        if hasattr(os, "geteuid") and about.st_uid != os.geteuid():
            raise _refused(self.dest, f"is another user's (uid {about.st_uid})")
        # What a stage replaces is removed with all that is in it: not /tmp, and no file system's root.
        if about.st_mode & S_ISVTX or os.path.ismount(self.dest):
            raise _refused(
                self.dest, "is a place of many, such as /tmp, or a mount point: stage for one below it"
            )


def is_there(dest: str, identity: tuple[int, int] | None) -> bool:
    """Whether what has that device and inode is at `dest`."""
    try:
        about = os.lstat(dest)
    except OSError:
        return False
    return (about.st_dev, about.st_ino) == identity


class _Folder:
    """An open directory; files in it are named by its descriptor, or by path where the system cannot do that.

    Attributes:
        path: Absolute.
        fd: For `dir_fd`; None where there is no such thing.
    """

    __slots__ = ("fd", "path")

    def __init__(self, path: str, above: _Folder | None, *, ours: bool) -> None:
        self.path = path
        self.fd: int | None = None
        if not DIR_FDS:
            os.listdir(path)
        elif above is None:
            self.fd = open_directory(path)
        else:
            self.fd = os.open(
                os.path.basename(path), os.O_RDONLY | DIRECTORY | os.O_NOFOLLOW, dir_fd=above.fd
            )
        if ours and self.fd is not None and os.fstat(self.fd).st_uid != os.geteuid():
            self.close()
            raise _refused(path, "is another user's")

    def name(self, name: str) -> str:
        return name if self.fd is not None else os.path.join(self.path, name)

    def has(self, name: str) -> bool:
        try:
            os.lstat(self.name(name), dir_fd=self.fd)
        except FileNotFoundError:
            return False
        return True

    def close(self) -> None:
        if self.fd is not None:
            close(self.fd)
            self.fd = None


class _Nowhere(_Folder):
    """In place of a folder that is not open."""

    __slots__ = ()

    def __init__(self) -> None:
        self.path = ""
        self.fd = None


_NOWHERE = _Nowhere()


def _open_up(name: str, folder: _Folder) -> None:
    """Let us write in all directories of a tree. Some tools take that right away: Go, in its module cache."""
    if folder.fd is None or not S_ISDIR(os.lstat(name, dir_fd=folder.fd).st_mode):
        return
    os.chmod(name, 0o700, dir_fd=folder.fd)
    for _, names, _, fd in os.fwalk(name, dir_fd=folder.fd):
        for inner in names:
            if S_ISDIR(os.lstat(inner, dir_fd=fd).st_mode):
                os.chmod(inner, 0o700, dir_fd=fd)


def _refused(path: str, why: str) -> StageError:
    return StageError(f"cannot stage: {short_path(path)} {why}")


def _identity(folder: _Folder, name: str) -> tuple[int, int]:
    about = os.lstat(folder.name(name), dir_fd=folder.fd)
    return about.st_dev, about.st_ino


def _check_private(directory: str) -> None:
    """Raise StageError if others can rename things in `directory`, or exchange a directory above it.

    Above it a sticky directory, as /tmp is, is as good as one that others cannot write: what is ours there
    only we can rename (the restricted deletion flag of inode(7)).
    """
    if not hasattr(os, "geteuid"):
        return
    path = os.path.realpath(directory)
    is_first = True
    while True:
        about = os.stat(path)
        sticky = bool(about.st_mode & S_ISVTX) and not is_first
        if about.st_uid not in (0, os.geteuid()):
            raise _refused(path, f"is another user's (uid {about.st_uid}), who could exchange what is staged")
        if about.st_mode & 0o002 and not sticky:
            raise _refused(path, "can be written by everybody: use a directory of your own")
        if about.st_mode & 0o020 and not sticky and not _is_private_group(about.st_gid):
            raise _refused(path, "can be written by its group: use a directory of your own")
        if path == os.path.dirname(path):
            return
        path, is_first = os.path.dirname(path), False


def _is_private_group(gid: int) -> bool:
    """Whether the group `gid` is root's, or the one of its own that many systems give each user.

    That is called like the user and has no other members (USERGROUPS_ENAB in login.defs(5)); with it people
    have a umask of 002, and every directory of theirs can be written by "the group".
    """
    if gid == 0:
        return True
    try:
        import grp  # noqa: PLC0415 - not on Windows
        import pwd  # noqa: PLC0415

        me, group = pwd.getpwuid(os.geteuid()), grp.getgrgid(gid)
    except (ImportError, KeyError):
        return False
    return gid == me.pw_gid and group.gr_name == me.pw_name and set(group.gr_mem) <= {me.pw_name}


def _rename(one: _Folder, name: str, other: _Folder, new_name: str, flags: int = 0) -> None:
    """Rename `name` in `one` to `new_name` in `other`. Raises OSError."""
    if not (flags and _renameat2(one, name, other, new_name, flags)):
        os.rename(one.name(name), other.name(new_name), src_dir_fd=one.fd, dst_dir_fd=other.fd)


def _renameat2(one: _Folder, name: str, other: _Folder, new_name: str, flags: int) -> bool:
    """Rename with `flags`; False if the system cannot. Raises OSError if it could, and failed."""
    if one.fd is None or other.fd is None:
        return False
    import ctypes  # noqa: PLC0415 - 10 ms

    call = getattr(ctypes.CDLL(None, use_errno=True), "renameat2", None)  # glibc 2.28; not on macOS
    if call is None:
        return False
    if call(one.fd, os.fsencode(name), other.fd, os.fsencode(new_name), flags) == 0:
        return True
    error = ctypes.get_errno()
    if error in CANNOT:
        return False
    raise OSError(error, os.strerror(error), os.path.join(other.path, new_name))
