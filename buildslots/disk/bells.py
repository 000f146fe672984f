"""Bells: FIFOs that tell those who wait that a slot was let go of, or a place in line.

Relies on pipe(7) and fifo(7): the kernel closes the write end with the process, however that ended, and
poll(2) then reports POLLHUP. To listen may fail without harm: a waiter that has no bell to listen to
looks at the lock again after a while.
"""

from __future__ import annotations

import errno
import os
import sys
import time
from stat import S_ISFIFO

from buildslots.files import PLAIN, Room, close, give_mode_by_name, is_new, is_shared, put_aside

if sys.platform == "win32":
    from os import read, write
else:
    # eventlet's monkey_patch has os.read and os.write wait where these say at once that they would have to
    # (eventlet/green/os.py).
    from posix import read, write

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Protocol

    class Poll(Protocol):
        """What waiting needs of `select.poll`."""

        def register(self, fd: int, eventmask: int, /) -> object:
            """Listen to `fd`; POLLHUP and POLLERR are always listened to."""

        def poll(self, timeout_ms: float, /) -> list[tuple[int, int]]:
            """Sleep until something happens or milliseconds have passed; (fd, events) of what did."""


POLLIN = 1
"""The same number on every system that has poll(2); `select` is not imported to be told."""

SELECT_MOST = 1024
"""FD_SETSIZE of select(2): it takes no descriptor from this number on."""
UNHEARD_S = 0.05
"""How often to look at what cannot be listened to."""

FIFOS = hasattr(os, "mkfifo")
"""Whether this platform has FIFOs at all; Windows has none."""
RING = b"!" * 64
"""What is put into the bell of a slot. A listener reads one byte at most, so the others still find some."""
KNOCK = b"?" * 64
"""What is put into the bell of a ticket."""
CAPACITY = 65536
"""Bytes that a FIFO holds (pipe(7)). So much is read at once: somebody may fill it as fast as it is read."""
NO_FIFO_HERE = frozenset({errno.EPERM, errno.EOPNOTSUPP, errno.ENOSYS, errno.EINVAL})
"""How mkfifo(3) says that this file system or kernel has no FIFOs; a full disk speaks otherwise."""


def hang(path: str, pool: int | None = None, *, new: bool = False) -> int | None:
    """Keep the bell at `path` open: its descriptor, or None where FIFOs do not exist.

    A FIFO that is there, and that nobody keeps open, is used again, because making one costs a write to disk.
    One that a daemon of an earlier build still has open is left to it, and a new one made. Opened for reading
    and writing, so that neither open(2) nor write(2) ever waits or fails for want of a reader. Raises OSError
    if the directory cannot be written.

    Args:
        path: Where.
        pool: The pool as `files.open_directory` has opened it, or None.
        new: Whether there is most likely none yet.
    """
    if not FIFOS:
        return None
    with Room(path, pool) as (name, room):
        try:
            since = _make(name, room) if new else None
            if since is None:
                if _silenced(name, room):
                    return _open_own(name, room)
                _clear(path, name, room)
                since = _make(name, room) or time.time()
        except OSError as error:
            if error.errno in NO_FIFO_HERE:
                return None
            raise
        # To listen takes reading, to knock takes writing.
        mode = 0o660 if is_shared(os.path.dirname(path) if room is None else room) else 0o600
        try:
            fd = _open_own(name, room)
        except PermissionError:  # the umask has closed it to ourselves
            give_mode_by_name(name, room, mode, since, S_ISFIFO)
            fd = _open_own(name, room)
        try:
            about = os.fstat(fd)
            if about.st_mode & 0o7777 != mode and is_new(about, since):
                os.fchmod(fd, mode)
        except BaseException:
            close(fd)
            raise
        return fd


def _clear(path: str, name: str, room: int | None) -> None:
    """Free the name of a bell: a FIFO is one, anything else is put aside."""
    try:
        if S_ISFIFO(os.lstat(name, dir_fd=room).st_mode):
            os.unlink(name, dir_fd=room)
        else:
            put_aside(path)
    except FileNotFoundError:
        pass


def ring(fd: int) -> None:
    """Ring the bell `fd`, which is closed next. Raises nothing.

    To close it would be enough if no child had a copy of `fd`: the bytes are for that case.
    """
    try:
        write(fd, RING)
    except OSError:
        pass  # full of earlier bytes: it has rung already


def listen(path: str) -> tuple[int | None, bool]:
    """Open the bell at `path` for poll(2): its descriptor or None, and whether a byte lies in it.

    None when there is no bell, nobody keeps it open, or no descriptor is left to listen with.
    """
    try:
        return listen_or_fail(path) if FIFOS else (None, False)
    except OSError:
        return None, False


def listen_or_fail(path: str) -> tuple[int | None, bool]:
    """The same, for who must not take a failure for silence: raises OSError if it cannot be told."""
    try:
        fd = os.open(path, os.O_RDONLY | PLAIN)
    except FileNotFoundError:
        return None, False
    try:
        # A device could be read for ever. And poll(2) does not report POLLHUP on a FIFO that had no writer
        # since it was opened; read does, if it was not rung since we asked.
        if S_ISFIFO(os.fstat(fd).st_mode) and (_has_byte(fd) or read(fd, 1)):
            return fd, True
    except BlockingIOError:
        return fd, False
    except BaseException:
        close(fd)
        raise
    close(fd)
    return None, False


def has_owner(path: str) -> bool | None:
    """Whether somebody keeps the bell at `path` open and has not rung it; None if there is no bell.

    Raises OSError if that cannot be told.
    """
    if not os.path.exists(path):
        return None
    fd, rung = listen_or_fail(path)
    if fd is not None:
        close(fd)
    return fd is not None and not rung


def hand_down(path: str, bell: int) -> int | None:
    """A descriptor of the bell `bell` at `path`, for a child; None if it cannot be had. Raises nothing.

    A child can ring by it, but not listen: one that could read might take away what was rung.
    """
    fd = _open(path, os.O_WRONLY)
    if fd is None:
        return None
    try:
        if os.path.samestat(os.fstat(fd), os.fstat(bell)):
            return fd
    except OSError:
        pass
    close(fd)
    return None


def knock(path: str) -> bool:
    """Ask the owner of the ticket whose bell is at `path` to look; False if there is no bell, or no owner."""
    if not FIFOS:
        return False
    try:
        with Room(path) as (name, room):
            return _write(name, KNOCK, room)
    except OSError:
        return False  # the room is gone, or no room of the pool


def answered(path: str) -> bool:
    """Whether the last knock at the bell `path` was heard: no byte lies in it, or it is gone."""
    fd, pending = listen(path)
    if fd is not None:
        close(fd)
    return not pending


def hear(fd: int) -> None:
    """Read all knocks from one's own bell `fd`, which says that they were heard."""
    try:
        read(fd, CAPACITY)
    except BlockingIOError:
        pass


def _make(name: str, room: int | None) -> float | None:
    """Make the FIFO `name`: the Unix time before that; None if something has that name."""
    since = time.time()
    try:
        os.mkfifo(name, 0o600, dir_fd=room)
    except FileExistsError:
        return None
    return since


def _silenced(name: str, room: int | None) -> bool:
    """Whether there is a bell `name` that nobody keeps open; what was rung is read away."""
    fd = _open(name, os.O_RDONLY, room)
    if fd is None:
        return False
    rung = b""
    try:
        if os.fstat(fd).st_nlink > 1:
            return False  # it may be another program's, and what lies in it not for us
        rung = read(fd, CAPACITY)
        return not rung or not read(fd, 1)
    except BlockingIOError:  # somebody has it open to write
        if rung:  # its listeners may not have got to hear it yet, and would listen to a daemon's for ever
            _write(name, RING, room)
        return False
    finally:
        close(fd)


def _open_own(name: str, room: int | None) -> int:
    """Open the bell `name` that is to be rung; raises OSError if it has become something else meanwhile."""
    fd = os.open(name, os.O_RDWR | PLAIN, dir_fd=room)
    if S_ISFIFO(os.fstat(fd).st_mode):
        return fd
    close(fd)
    raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST), name)


def _write(path: str, text: bytes, room: int | None = None) -> bool:
    """Write `text` into the bell at `path`; False if there is no bell or nobody to hear it."""
    fd = _open(path, os.O_WRONLY, room)
    if fd is None:
        return False
    # Its owner may leave before we write. SIGPIPE would then end a program that has set it to SIG_DFL, as
    # command line tools in Python do ("Note on SIGPIPE", library/signal): so we are a reader ourselves.
    reader = _open(path, os.O_RDONLY, room)
    try:
        if reader is None or not os.path.samestat(os.fstat(fd), os.fstat(reader)):
            return False  # its owner has left, and it is gone
        write(fd, text)
    except OSError:
        pass  # full of earlier bytes
    finally:
        close(fd)
        if reader is not None:
            close(reader)
    return True


def _open(path: str, flags: int, room: int | None = None) -> int | None:
    """Open the FIFO at `path`; None if there is none (a device could be read for ever), or no reader."""
    try:
        fd = os.open(path, flags | PLAIN, dir_fd=room)
    except OSError:
        return None
    try:
        if S_ISFIFO(os.fstat(fd).st_mode):
            return fd
    except OSError:
        pass
    close(fd)
    return None


def poll() -> Poll:
    """A `select.poll` object, or what does instead where there is none."""
    import select  # noqa: PLC0415 - 0.3 ms that a build which need not wait saves

    if hasattr(select, "poll"):
        return select.poll()
    return _Select() if FIFOS else _Sleep()


class _Select:
    """`select.poll` by select(2), for a program in which eventlet has replaced the `select` module.

    Its monkey_patch removes poll and epoll, and lets other greenlets run in `select.select`.
    """

    hears_ends = False
    """select(2) does not tell the end of a FIFO from a byte in it, which may be a knock for somebody else."""

    def __init__(self) -> None:
        self._fds: list[int] = []
        self._longest_s = float("inf")

    def register(self, fd: int, eventmask: int) -> None:
        del eventmask
        if fd < SELECT_MOST:
            self._fds.append(fd)
        else:
            self._longest_s = UNHEARD_S  # whoever waits looks again, though nothing was heard

    def poll(self, timeout_ms: float) -> list[tuple[int, int]]:
        from select import select  # noqa: PLC0415 - of this moment: it may be replaced after the import

        ready, _, _ = select(self._fds, [], [], min(timeout_ms / 1000, self._longest_s))
        return [(fd, POLLIN) for fd in ready]


class _Sleep:
    """`select.poll` for a platform without bells: a sleep."""

    def register(self, fd: int, eventmask: int) -> None:
        raise NotImplementedError

    def poll(self, timeout_ms: float) -> list[tuple[int, int]]:
        time.sleep(timeout_ms / 1000)
        return []


def _has_byte(fd: int) -> bool:
    listener = poll()
    listener.register(fd, POLLIN)
    return any(event & POLLIN for _, event in listener.poll(0))
