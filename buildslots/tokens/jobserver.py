"""The jobserver of one build: a FIFO that nobody else knows, with a byte in it for each job that may start.

GNU make's protocol ("POSIX Jobserver Interaction" in its manual): whoever wants to start a job beyond the
first reads a byte, and writes one back when that has ended. What the bytes are is nobody's business, and make
writes back other ones than it has read: they are counted, and nothing else.

The FIFO holds 64 KiB. In one of a single page clients hang: a byte that is written goes behind the last one,
and not where others were read, so after 4,093 bytes nothing fits though hardly any lie there, unless it was
empty in between (pipe_write in fs/pipe.c; cargo's issue 9739).
"""

from __future__ import annotations

import errno
import os
import time
from fcntl import F_GETFL, F_SETFL, fcntl
from stat import S_ISDIR, S_ISFIFO

from buildslots.files import PLAIN, close, make_parents
from buildslots.settings.places import kept_dir
from buildslots.tokens.fifo import lifted, open_fifo, readable

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping

LEAST_BYTES = 65536
"""What the FIFO has to hold. Who has made a thousand gets smaller ones: pipe-user-pages-soft in pipe(7)."""
F_GETPIPE_SZ, F_SETPIPE_SZ = 1032, 1031
"""From <linux/fcntl.h>: F_LINUX_SPECIFIC_BASE + 8 and + 7. Python has them, but not on every system."""
TOKEN = b"+"
UNFIT = frozenset(" \t\n\\$")
"""What ends a word of MAKEFLAGS, or means something else in it."""
MOST_SWEPT = 256
"""So many names of old jobservers are looked at."""
OLD_S = 10.0
"""How old a jobserver is that nobody has open because its build has ended, and not because it is new."""


class Jobserver:
    """One build's jobserver.

    Attributes:
        fd: The FIFO, for us: for reading and writing, without waiting.
        fifo: What `--jobserver-auth=` is to say to those that open a FIFO by its name.
        pair: The same for those that have to inherit two descriptors.
        descriptors: These two, which the build has to inherit under these very numbers in any case: without
            slot-run, who opens the FIFO would else wait in open(2) for the other side.
    """

    __slots__ = ("_path", "descriptors", "fd", "fifo", "pair")

    def __init__(self, name: str, environ: Mapping[str, str]) -> None:
        """Make it.

        Args:
            name: Nobody else's.
            environ: Says where it may be.

        Raises:
            OSError: It cannot be made, or holds too little.
        """
        self.descriptors: list[int] = []
        self._path = f"{private_dir(environ)}/{name}"
        self.fd = open_fifo(self._path, new=True)
        try:
            self._enlarge()
            self.fifo = f"fifo:{self._path}"
            self.pair = f"{self._hand_down(os.O_RDONLY)},{self._hand_down(os.O_WRONLY)}"
        except BaseException:
            self.close()
            raise

    def _enlarge(self) -> None:
        if fcntl(self.fd, F_GETPIPE_SZ) < LEAST_BYTES:
            fcntl(self.fd, F_SETPIPE_SZ, LEAST_BYTES)  # EPERM: this user has too many

    def _hand_down(self, flags: int) -> int:
        """Open the FIFO once more, for the build: clients change flags as they like."""
        fd = lifted(os.open(self._path, flags | PLAIN))
        self.descriptors.append(fd)
        fcntl(fd, F_SETFL, fcntl(fd, F_GETFL) & ~os.O_NONBLOCK)  # needed to open it, and strange to clients
        return fd

    def unread(self) -> int:
        """How many bytes lie in it. Raises OSError."""
        return readable(self.fd)

    def is_in_use(self, within_s: float) -> bool:
        """Whether somebody has written a byte within so many seconds. Raises OSError."""
        return time.time() - os.fstat(self.fd).st_mtime < within_s

    def put(self) -> None:
        """Let one more job start. Raises OSError."""
        os.write(self.fd, TOKEN)

    def take_back(self) -> bool:
        """Let one job fewer start; False if all bytes are out. Raises OSError."""
        try:
            return bool(os.read(self.fd, 1))
        except BlockingIOError:
            return False

    def tidy(self) -> None:
        """Remove jobservers beside ours whose builds have ended after their slot-runs. Raises nothing.

        A build has its own open, for reading, too: who opens it to write is told that there is no reader.
        """
        directory = os.path.dirname(self._path)
        try:
            for name in os.listdir(directory)[:MOST_SWEPT]:
                path = f"{directory}/{name}"
                try:
                    close(os.open(path, os.O_WRONLY | PLAIN))
                except OSError as error:
                    if error.errno == errno.ENXIO and _is_old_fifo(path):
                        os.unlink(path)
        except OSError:
            pass

    def close(self) -> None:
        """Remove it. Idempotent, raises nothing."""
        for fd in (self.fd, *self.descriptors):
            if fd >= 0:
                close(fd)
        self.fd = -1
        self.descriptors.clear()
        path, self._path = self._path, ""
        if path:
            try:
                os.unlink(path)
            except OSError:
                pass  # somebody has


def private_dir(environ: Mapping[str, str]) -> str:
    """A directory for jobservers, which nobody else can look into: its path. Made if it is missing.

    What is in another user's hands is passed over. Raises OSError if there is none.
    """
    uid = os.geteuid()
    for above in (environ.get("XDG_RUNTIME_DIR", ""), f"/run/user/{uid}"):
        # Nobody but us can have made or renamed what is in it.
        if os.path.isabs(above) and not set(above) & UNFIT and _is_private(above, uid):
            try:
                return _made(f"{above}/buildslots", uid)
            except OSError:
                pass  # full, or a file is there: another place may do
    path = f"{kept_dir(environ)}/jobservers"
    if set(path) & UNFIT:
        raise OSError(
            errno.EINVAL, "make takes no jobserver whose path has a blank, a backslash or a $", path
        )
    make_parents(path)
    return _made(path, uid)


def _made(path: str, uid: int) -> str:
    try:
        os.mkdir(path, 0o700)
    except FileExistsError:
        pass
    if not _is_private(path, uid):
        raise PermissionError(errno.EPERM, "is no directory of ours alone", path)
    return path


def _is_private(path: str, uid: int) -> bool:
    """Whether `path` is a directory of this user's, and of nobody else."""
    try:
        about = os.lstat(path)
    except OSError:
        return False
    return S_ISDIR(about.st_mode) and about.st_uid == uid and about.st_mode & 0o7777 == 0o700


def _is_old_fifo(path: str) -> bool:
    """Whether `path` is a FIFO that nobody is about to open. A socket cannot be opened either."""
    about = os.lstat(path)
    return S_ISFIFO(about.st_mode) and about.st_ctime < time.time() - OLD_S
