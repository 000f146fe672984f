"""Keys: of the tasks with one key at most one runs at a time, of all batches on this machine.

A key is a file's lock by filelock, in the state directory. In one batch its tasks wait in memory, in their
order, and only the first asks for the lock. It is asked for again and again, for locks of files have no line.
"""

from __future__ import annotations

import hashlib
import os
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

import anyio

from buildslots.files import PLAIN, check_root, close, make_parents
from buildslots.settings.places import state_dir

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

FIRST_S, LAST_S = 0.01, 0.05
"""How soon, and how often at last, a key that somebody else has is asked for again."""


class Keys:
    """The keys of one batch."""

    __slots__ = ("_lines",)

    def __init__(self) -> None:
        self._lines: dict[str, list[anyio.Event]] = {}  # who is first has the key in this batch

    def stand(self, key: str) -> anyio.Event:
        """Take the last place in this batch's line for `key`; whoever has it uses it in `lock`, or leaves."""
        place = anyio.Event()
        self._lines.setdefault(key, []).append(place)
        return place

    def leave(self, key: str, place: anyio.Event) -> None:
        """Give up a place, or the key itself: the next one has it now."""
        line = self._lines[key]
        line.remove(place)
        if line:
            line[0].set()
        else:
            del self._lines[key]

    @asynccontextmanager
    async def lock(self, key: str | None, place: anyio.Event | None = None) -> AsyncIterator[int | None]:
        """Have `key` for a block; None is no key. The descriptor that has the lock, for commands to inherit.

        Where there are no locks, it is had in this batch alone.

        Args:
            key: The key.
            place: A place in line that was taken before.
        """
        if key is None:
            yield None
            return
        place = place or self.stand(key)
        try:
            if self._lines[key][0] is not place:
                await place.wait()
            from filelock import unlock_descriptor  # noqa: PLC0415 - most batches have no keys

            fd = await _lock(key)
            try:
                yield fd
            finally:
                if fd is not None:
                    try:
                        unlock_descriptor(fd)  # a daemon that has inherited it keeps nothing
                    finally:
                        close(fd)
        finally:
            self.leave(key, place)


async def _lock(key: str) -> int | None:
    """Lock the file of `key`: its descriptor; None where that cannot be."""
    from filelock import lock_descriptor  # noqa: PLC0415

    try:
        path = os.path.join(state_dir(os.environ), "serial", hashlib.sha256(key.encode()).hexdigest()[:32])
        check_root(path)
        make_parents(path)
        fd = os.open(path, os.O_RDWR | os.O_CREAT | PLAIN, 0o600)
    except OSError:
        return None
    pause_s = FIRST_S
    try:
        while not lock_descriptor(fd, blocking=False):
            await anyio.sleep(pause_s)
            pause_s = min(2 * pause_s, LAST_S)
    except OSError:
        close(fd)
        return None
    except BaseException:
        close(fd)
        raise
    return fd
