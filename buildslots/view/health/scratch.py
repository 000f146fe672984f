"""The directory in which the doctor's two processes try things out: made, used and removed by descriptor.

The scratch directory may be in one that others can write, where they can rename something else into its
place at any moment. So its name is used only twice: to open it right after it was made, and to remove it at
the end. Everything else is done by its descriptor. Only the names that we made are removed, one by one, and
never a tree: if somebody has put something else into it, `rmdir` refuses.

It imports only what it cannot do without, because people run doctor when a machine is busy.
"""

from __future__ import annotations

import errno
import os
from stat import S_ISDIR

from buildslots.files import PLAIN, open_directory

LOCK, BELL = "lock", "bell"
"""The only names that are ever made in it."""
BY_DESCRIPTOR = {
    os.mkdir,
    os.open,
    os.rmdir,
    os.stat,
    os.unlink,
    getattr(os, "mkfifo", None),
} <= os.supports_dir_fd
"""Whether files can be named by a descriptor of their directory; not on Windows, nor before macOS 13."""
FOLDER = getattr(os, "O_DIRECTORY", 0) | getattr(os, "O_CLOEXEC", 0)


class SwappedError(OSError):
    """Something else is in the place of the scratch directory that we made."""


class Scratch:
    """A scratch directory. Several processes may use it, and one of them has to `remove` it.

    Attributes:
        name: Its name in the directory above it; its path where files cannot be named by descriptor.
        fds: The descriptors of the directory above and of itself; empty where they are of no use.
    """

    def __init__(self, name: str, fds: tuple[int, ...]) -> None:
        self.name = name
        self.fds = fds

    @classmethod
    def make(cls, where: str) -> Scratch:
        """Make one in the directory `where`.

        Raises:
            SwappedError: Something else is in its place already. It was not touched.
            OSError: It cannot be made.
        """
        name = f".doctor-{os.urandom(8).hex()}"
        if not BY_DESCRIPTOR:
            path = os.path.join(where, name)
            os.mkdir(path, 0o700)
            return cls(path, ())
        above = open_directory(os.path.abspath(where))
        try:
            mask = os.umask(0o077)  # with 0777 only root could open what it has made
            try:
                os.mkdir(name, 0o700, dir_fd=above)
            finally:
                os.umask(mask)
            return cls(name, (above, _opened(name, above)))
        except BaseException:
            os.close(above)
            raise

    def open(self, name: str, flags: int) -> int:
        """Open the file `name` in it: the descriptor. A new file is for us alone. Raises OSError."""
        if not self.fds:
            return os.open(os.path.join(self.name, name), flags | PLAIN, 0o600)
        return os.open(name, flags | PLAIN, 0o600, dir_fd=self.fds[1])

    def make_fifo(self, name: str) -> None:
        """Make the FIFO `name` in it. Raises OSError."""
        if not self.fds:
            os.mkfifo(os.path.join(self.name, name), 0o600)
        else:
            os.mkfifo(name, 0o600, dir_fd=self.fds[1])

    def remove(self) -> bool:
        """Remove it and what we made in it; False if it was moved, or has something else in it.

        Raises nothing. If something else has its name by now, that stays.
        """
        try:
            for name in (LOCK, BELL):
                self._unlink(name)
            if not self.fds:
                os.rmdir(self.name)
                return True
            above, here = self.fds
            named = os.stat(self.name, dir_fd=above, follow_symlinks=False)
            if not os.path.samestat(named, os.fstat(here)):
                return False
            # If it is swapped at this very moment, rmdir(2) removes an empty directory at most. Somebody who
            # can put one there could remove it as well.
            os.rmdir(self.name, dir_fd=above)
        except OSError:
            return False
        return True

    def close(self) -> None:
        """Close the descriptors; the object is of no use after that."""
        fds, self.fds = self.fds, ()
        for fd in fds:
            os.close(fd)

    def _unlink(self, name: str) -> None:
        try:
            if not self.fds:
                os.unlink(os.path.join(self.name, name))
            else:
                os.unlink(name, dir_fd=self.fds[1])
        except FileNotFoundError:
            pass


def _opened(name: str, above: int) -> int:
    """Open the directory `name`, which was just made in the directory `above`: its descriptor.

    Raises SwappedError unless it is an empty directory of ours. That is no proof: somebody may have renamed
    another empty directory of ours to that name. But then we remove nothing that they could not have removed
    themselves.
    """
    try:
        fd = os.open(name, os.O_RDONLY | FOLDER | PLAIN, dir_fd=above)
    except OSError as error:
        raise SwappedError(error.errno, os.strerror(error.errno or 0), name) from error
    if _is_new(fd):
        return fd
    os.close(fd)
    raise SwappedError(errno.EEXIST, "it is another user's, or has something in it", name)


def _is_new(fd: int) -> bool:
    """Whether the file behind `fd` is an empty directory of ours."""
    try:
        found = os.fstat(fd)
        with os.scandir(fd) as entries:
            return S_ISDIR(found.st_mode) and found.st_uid == os.geteuid() and next(entries, None) is None
    except OSError:
        return False
