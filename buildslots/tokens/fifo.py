"""FIFOs by name: the stock of tokens, the bells of builds, jobservers.

They are opened for reading and writing (fifo(7) of Linux: that never waits), so that nobody is without a
reader or a writer.
"""

from __future__ import annotations

import errno
import os
import sys
import time
from fcntl import F_DUPFD_CLOEXEC, fcntl, ioctl
from stat import S_ISFIFO

from buildslots.files import PLAIN, Room, close, give_mode_by_name, is_shared, put_aside
from buildslots.processes import LOWEST_FD

TRIES = 10
"""How often a FIFO is opened anew that somebody removes or replaces meanwhile."""

FIONREAD = 0x541B
"""From <asm-generic/ioctls.h>; `termios` has it, too, at the price of a shared library."""
OTHER_FIONREAD = {"alpha": 0x4004667F, "mips": 0x467F, "mips64": 0x467F, "ppc64le": 0x4004667F}
"""The same for processors that have numbers of their own."""
_fionread = OTHER_FIONREAD.get(os.uname().machine, FIONREAD)


def open_fifo(path: str, *, new: bool = False) -> int:
    """Open the FIFO at `path`, its owner's or its group's alone, made if it is missing: its descriptor.

    What is no FIFO is put aside.

    Args:
        path: Absolute.
        new: Whether it is to be made: FileExistsError if the name is taken.

    Raises:
        OSError: It cannot be made.
    """
    with Room(path) as (name, room):
        for _ in range(TRIES):
            since = time.time()
            try:
                os.mkfifo(name, 0o600, dir_fd=room)
                mode = 0o660 if is_shared(os.path.dirname(path) if room is None else room) else 0o600
                give_mode_by_name(name, room, mode, since, S_ISFIFO)
            except FileExistsError:
                if new:
                    raise
            try:
                fd = os.open(name, os.O_RDWR | PLAIN, dir_fd=room)
            except FileNotFoundError:
                continue
            about = os.fstat(fd)
            if S_ISFIFO(about.st_mode) and about.st_nlink:
                return fd
            close(fd)
            if about.st_nlink:
                put_aside(path)
    raise FileExistsError(errno.EEXIST, "something takes its name again and again", path)


def lifted(fd: int) -> int:
    """A descriptor like `fd` with a number that scripts do not use; closes that. Raises OSError."""
    try:
        return fcntl(fd, F_DUPFD_CLOEXEC, LOWEST_FD)
    except OSError as error:
        if error.errno != errno.EINVAL:
            raise
        raise OSError(errno.EMFILE, f"no descriptor beyond {LOWEST_FD - 1} is allowed (ulimit -n)") from None
    finally:
        close(fd)


def readable(fd: int) -> int:
    """How many bytes lie in the FIFO `fd`. Raises OSError."""
    count = bytearray(4)
    ioctl(fd, _fionread, count)
    return int.from_bytes(count, sys.byteorder)
