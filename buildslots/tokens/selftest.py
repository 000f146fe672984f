"""Whether the kernel tells of what clients do with a FIFO: by SIGIO, for each read and each write.

poll(2) cannot tell of reads, and to look again and again would cost. O_ASYNC in fcntl(2) and open(2).
"""

from __future__ import annotations

import errno
import os
import sys
from _thread import get_native_id
from fcntl import F_GETFL, F_SETFL, fcntl

TYPE_CHECKING = False
if TYPE_CHECKING:
    import signal as _signal
else:
    import _signal  # `signal` itself wraps the same functions in enum, at 4 ms

SIGIO = {_signal.SIGIO}
F_SETOWN_EX, F_OWNER_TID = 15, 0
"""From <asm-generic/fcntl.h>: signals for one thread. Python has neither."""
SI_USER = 0
"""`si_code` of a signal of kill(2)."""


def listen(fd: int, *, on: bool = True) -> None:
    """Have SIGIO sent to this thread when somebody reads from the FIFO `fd` or writes into it; or not.

    Also for what we do ourselves. Raises OSError.
    """
    if on:
        # The sender need not have the right to signal us: it is the owner of `fd` who counts (sigio_perm in
        # fs/fcntl.c), and that is whoever has said this.
        fcntl(fd, F_SETOWN_EX, _two(F_OWNER_TID, get_native_id()))
    flags = fcntl(fd, F_GETFL)
    fcntl(fd, F_SETFL, flags | os.O_ASYNC if on else flags & ~os.O_ASYNC)


def _two(one: int, other: int) -> bytes:
    """A `struct` of two ints: `struct f_owner_ex`."""
    return one.to_bytes(4, sys.byteorder) + other.to_bytes(4, sys.byteorder)


def forget() -> None:
    """Drop a SIGIO that has come for what we have done ourselves; the signal is blocked. Raises OSError."""
    info = _signal.sigtimedwait(SIGIO, 0)
    if info is not None and info.si_code == SI_USER:
        os.kill(os.getpid(), _signal.SIGIO)  # this one is meant for the command


def check(fd: int, other: int) -> None:
    """See whether SIGIO comes for a byte that is written into an empty FIFO, and when it is read elsewhere.

    Args:
        fd: The FIFO, for reading and writing.
        other: Another description of it, for reading.

    Raises:
        OSError: It does not.
    """
    mask = _signal.pthread_sigmask(_signal.SIG_BLOCK, SIGIO)
    try:
        listen(fd)
        os.write(fd, b"?")
        written = _has_come()
        os.read(other, 1)
        if not (_has_come() and written):
            raise OSError(errno.EOPNOTSUPP, "this kernel does not tell what is done with a FIFO (O_ASYNC)")
        listen(fd, on=False)
    finally:
        _signal.pthread_sigmask(_signal.SIG_SETMASK, mask)


def _has_come() -> bool:
    """Whether SIGIO is pending; drops it, because what we do before the command starts is not for it."""
    is_pending = _signal.SIGIO in _signal.sigpending()
    forget()
    return is_pending
