"""Marks: how processes that may be killed at any moment tell the referee what they do.

A file that all of them map. Each process appends fixed-size events to a ring of its own: first the event,
then the count that makes it visible. What was marked survives a `kill -9` of who marked it, and a process
that is killed in the middle has not marked. Knows nothing of buildslots, and imports next to nothing:
commands under `slot-run` load it.
"""

from __future__ import annotations

import mmap
import os
import struct
import time
from _thread import RLock

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import NamedTuple

    class Event(NamedTuple):
        """One event; what `a` to `d` mean is said with its kind.

        `task` tells the callers of one process apart, where it is a crowd: 1, 2, … `priority` is that of a
        CALL: 1 is high, 0 normal, -1 low.
        """

        ns: int
        kind: int
        pid: int
        a: int
        b: int
        c: int
        d: int
        task: int = 0
        priority: int = 0
else:
    from collections import namedtuple

    Event = namedtuple(  # noqa: PYI024 - typing costs each command 8 ms
        "Event", "ns kind pid a b c d task priority", defaults=[0, 0]
    )


KINDS = (
    "BORN",  # this process begins; c: its parent
    "CLOCK",  # its clock is c seconds ahead
    "CALL",  # it is about to ask for slots; a: CAP, b: weight, c: timeout in ns or -1, d: a MODE
    "JOIN",  # it is about to make its ticket; a: LIMIT, c: NUMBER
    "READY",  # it has joined the line, and knocked where it had to
    "WAITS",  # in a crowd: it waits by now, in line or in memory
    "LEAVE",  # it is about to remove its ticket; c: NUMBER; in a crowd: or to be cancelled
    "START",  # it has slots; a: CAP, b: weight, c: time before which it had not counted, d: a HOW
    "NESTED",  # it has asked again within its build, and got the same slot
    "DEGRADED",  # it runs without a slot, with a warning
    "NOSLOT",  # it was interrupted, or refused (b is 1); a: how many descriptors were leaked by that
    "END",  # it is about to let go
    "IDLE",  # it has let go
    "KILL",  # process a is about to be killed
    "OVER",  # process a, and what it runs, is about to get a signal that ends them
    "STOP",  # process a is about to be stopped
    "CONT",  # process a has been continued
    "REAPED",  # process a was reaped; b: minus the signal, or the status
    "REMOVE",  # the pool directory is about to be removed
    "REMOVED",  # it was
    "COPY",  # it is a fork of process a and has copies of the descriptors of what that holds
    "SETS",  # it is about to set a rule of the pool; a: a RULE, c: its value
    "SET",  # it has set it, if a is 1, and may have if a is 0
)
(
    BORN,
    CLOCK,
    CALL,
    JOIN,
    READY,
    WAITS,
    LEAVE,
    START,
    NESTED,
    DEGRADED,
    NOSLOT,
    END,
    IDLE,
    KILL,
    OVER,
    STOP,
    CONT,
    REAPED,
    REMOVE,
    REMOVED,
    COPY,
    SETS,
    SET,
) = range(len(KINDS))
NORMAL, OVERFLOW, FOREIGN = range(3)
"""HOW slots were got: within the cap, beyond it, or by a program that just locks slot files."""
ONCE, FAIL, RUN, PACED, EVER = range(5)
"""MODE of asking: without waiting; with a timeout and then refused, run, run paced; without a timeout."""
SLOTS, HEAD_START, PAUSE, TORN = range(4)
"""RULE of a pool: its cap (0: none), a head start in ms, a pause of so many ms (0: its end); no rule, but a
file that is none. CAP is what the caller has said; less than 0: its default, which the pool may raise."""

_EVENT = struct.Struct("<qiiiiqqii")
_COUNT = struct.Struct("<q")
_FLAGS = 64
LONG, SHORT = 4096, 32
"""Events in the ring of a worker, and of a process that lives shortly."""
SHORTS = 2048
"""Rings for processes that live shortly, each of which uses that with its pid modulo this number."""


class _Flag:
    """Something that the driver tells everybody through the table."""

    def __init__(self, place: int) -> None:
        self._place = place

    def __get__(self, table: Table, _owner: type[Table] | None = None) -> bool:
        return table.map[self._place] != 0

    def __set__(self, table: Table, value: bool) -> None:
        table.map[self._place] = value


class Table:
    """The file with all rings. Ring 0 is the driver's, 1 to `seats` are workers', the rest is by pid.

    Args:
        path: The file; made if `seats` is given.
        seats: How many workers there are at a time; read from the file if 0.

    Attributes:
        finish: Whether all are to come to an end.
        stopping: Whether processes may stop themselves now.
        patient: Whether all are to wait without a timeout.
        calm: Whether nobody is to do anything but to wait, hold and let go.
        clocks: Whether the clocks of workers that begin now may be wrong.
        slow: Whether some builds hold their slots for long.
    """

    finish, stopping, patient, calm, clocks, slow = map(_Flag, range(6))

    def __init__(self, path: str, seats: int = 0) -> None:
        fd = os.open(path, os.O_RDWR | os.O_CREAT, 0o600)
        try:
            if seats:
                os.ftruncate(fd, _size(seats))
                os.pwrite(fd, _COUNT.pack(seats), 8)
            else:
                seats = _COUNT.unpack(os.pread(fd, 8, 8))[0]
            self.map = mmap.mmap(fd, _size(seats))
        finally:
            os.close(fd)
        self.path = path
        self.seats = seats
        self._rings = 1 + seats + SHORTS
        # Written as one word, in native order: struct's pack_into clears it first, which others would see.
        self._counts = memoryview(self.map)[_FLAGS : _FLAGS + 8 * self._rings].cast("q")

    def ring(self, seat: int) -> Ring:
        """The ring of a seat (the driver's is 0) for the process that calls."""
        return Ring(self.map, self._counts, seat, self._start(seat), LONG)

    def short_ring(self) -> Ring:
        """The ring that this process uses, which has no seat."""
        ring = 1 + self.seats + os.getpid() % SHORTS
        return Ring(self.map, self._counts, ring, self._start(ring), SHORT)

    def news(self, seen: list[int]) -> list[Event]:
        """All events since `seen`, which is brought up to date; a ring's in order. Raises OverflowError."""
        events = []
        for ring, count in enumerate(self._counts.tolist()):
            if count == seen[ring]:
                continue
            length = LONG if ring <= self.seats else SHORT
            if not 0 <= count - seen[ring] <= length:
                raise OverflowError(f"{count - seen[ring]} events in ring {ring} of {length}")
            start = self._start(ring)
            places = (start + at % length * _EVENT.size for at in range(seen[ring], count))
            events += [Event(*_EVENT.unpack_from(self.map, place)) for place in places]
            seen[ring] = count
        return events

    def nothing_seen(self) -> list[int]:
        """What `news` begins with."""
        return [0] * self._rings

    def _start(self, ring: int) -> int:
        start = _FLAGS + 8 * self._rings
        longs = min(ring, 1 + self.seats)
        return start + _EVENT.size * (longs * LONG + (ring - longs) * SHORT)


class Ring:
    """Where one process marks what it does; its threads too."""

    def __init__(self, table: mmap.mmap, counts: memoryview, ring: int, start: int, length: int) -> None:
        self._map = table
        self._counts = counts
        self._ring = ring
        self._start = start
        self._length = length
        # Reentrant: what the garbage collector closes in the middle of a mark may be marked as well.
        self._lock = RLock()
        self.pid = os.getpid()

    def mark(  # noqa: PLR0913, PLR0917 - an event
        self, kind: int, a: int = 0, b: int = 0, c: int = 0, d: int = 0, task: int = 0, priority: int = 0
    ) -> None:
        """Append an event of now."""
        event = time.monotonic_ns(), kind, self.pid, a, b, c, d, task, priority
        with self._lock:
            count = self._counts[self._ring]
            _EVENT.pack_into(self._map, self._start + count % self._length * _EVENT.size, *event)
            self._counts[self._ring] = count + 1


def _size(seats: int) -> int:
    rings = 1 + seats + SHORTS
    return _FLAGS + 8 * rings + _EVENT.size * ((1 + seats) * LONG + SHORTS * SHORT)
