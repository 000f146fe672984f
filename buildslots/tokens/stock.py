"""The stock of a machine: C tokens, each of which one build has at a time.

Having token N is having byte N of the file `tokens` locked, and nothing else counts. The build inherits the
descriptor before the first token is taken: if its slot-run is killed, the tokens that it has at that moment
stay with the build until that has ended.

The file is a FIFO. Who is to lock has to be able to write, and what a build might write into a FIFO is
64 KiB at most, and on no disk. And locks of a FIFO are the kernel's own also where the directory is another
machine's (NFS), which has processors of its own.
"""

from __future__ import annotations

import os

from buildslots.files import close
from buildslots.tokens.fifo import lifted, open_fifo
from buildslots.tokens.locks import is_locked, try_lock, unlock, unlock_all

STOCK = "tokens"
"""The name of the file, in the directory of the default pool."""


class Stock:
    """The tokens 0 to `count` - 1 of the stock in `directory`, as one build uses them.

    Attributes:
        fd: Its descriptor, with a high number; whoever inherits it keeps what is locked.
        tokens: Those that this build has.
    """

    __slots__ = ("_count", "_next", "_path", "fd", "tokens")

    def __init__(self, directory: str, count: int) -> None:
        """Open it, and make it if it is missing. Raises OSError."""
        self._path = f"{directory}/{STOCK}"
        self._count = count
        self._next = 0
        self.tokens: list[int] = []
        self.fd = lifted(open_fifo(self._path))

    def take(self) -> bool:
        """Take a token; False if there is none. Raises OSError."""
        for step in range(self._count):
            byte = (self._next + step) % self._count
            if byte not in self.tokens and try_lock(self.fd, byte):
                self.tokens.append(byte)
                self._next = byte + 1
                return True
        return False

    def give(self) -> None:
        """Give one of the tokens back. Raises OSError."""
        self._next = self.tokens[-1]
        unlock(self.fd, self._next)
        self.tokens.pop()

    def give_all(self) -> None:
        """Give all tokens back, also for those who have inherited them. Raises nothing."""
        self.tokens.clear()
        try:
            unlock_all(self.fd)
        except OSError:
            pass  # of a file system that has just gone

    def leave(self) -> None:
        """Leave the tokens to those who have inherited the descriptor, until all of them have ended."""
        self.tokens.clear()
        close(self.fd)
        self.fd = -1

    def close(self) -> None:
        """Give all tokens back, for good. Idempotent, raises nothing."""
        if self.fd >= 0:
            self.give_all()
            close(self.fd)
            self.fd = -1


def held(directory: str, count: int) -> int:
    """How many of the tokens 0 to `count` - 1 builds have; 0 if there is no stock. Raises OSError."""
    try:
        fd = os.open(f"{directory}/{STOCK}", os.O_RDONLY | os.O_NONBLOCK | os.O_NOFOLLOW)
    except FileNotFoundError:
        return 0
    try:
        return sum(is_locked(fd, byte) for byte in range(count))
    finally:
        close(fd)
