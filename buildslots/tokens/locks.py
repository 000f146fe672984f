"""Locks of single bytes of a file, which belong to an open file description: F_OFD_SETLK in fcntl(2).

The kernel frees such a lock with the last descriptor of that description, however its processes ended. A
child that has inherited the descriptor keeps all locks that are taken later, too: flock(2) would need a
descriptor for each. It takes a descriptor that can write.
"""

from __future__ import annotations

import sys

TYPE_CHECKING = False

if TYPE_CHECKING or sys.platform == "linux":
    from fcntl import F_OFD_GETLK, F_OFD_SETLK, F_UNLCK, F_WRLCK, fcntl


def _flock(kind: int, byte: int, length: int = 1) -> bytes:
    """`struct flock`: type, whence (0 is SEEK_SET), start, length, and a pid that has to be 0 here.

    By hand, because the module `struct` takes a third of a millisecond to load.
    """
    order = sys.byteorder
    return b"%b%b%b%b%b" % (
        kind.to_bytes(2, order),
        bytes(6),
        byte.to_bytes(8, order),
        length.to_bytes(8, order),
        bytes(8),
    )


def try_lock(fd: int, byte: int) -> bool:
    """Lock `byte` of the file behind `fd`; False if another description has it locked. Raises OSError."""
    try:
        fcntl(fd, F_OFD_SETLK, _flock(F_WRLCK, byte))
    except (BlockingIOError, PermissionError):  # POSIX lets it be either
        return False
    return True


def unlock(fd: int, byte: int) -> None:
    """Unlock `byte`, also for those who have inherited the description. Raises OSError."""
    fcntl(fd, F_OFD_SETLK, _flock(F_UNLCK, byte))


def unlock_all(fd: int) -> None:
    """Unlock all bytes that the description behind `fd` has locked. Raises OSError."""
    fcntl(fd, F_OFD_SETLK, _flock(F_UNLCK, 0, 0))  # a length of 0 is one without an end


def is_locked(fd: int, byte: int) -> bool:
    """Whether another description has `byte` locked. Takes no lock to find out. Raises OSError."""
    found: bytes = fcntl(fd, F_OFD_GETLK, _flock(F_WRLCK, byte))
    return int.from_bytes(found[:2], sys.byteorder) != F_UNLCK
