"""Taking part in a pool that cannot be written, as in a sandbox with a read-only home: by looking.

A lock needs no right to write: flock(2) locks what is open for reading, on a read-only mount too. So those
slots can be held that there are already, and all others see it, as they see a slot of any other program. But
there is no ticket, no bell and no record. Who waits looks again and again, and leaves the way to those who
stand in line before it came.

Relies on `disk.taking` for the bound, as everybody does. Loaded only where the pool cannot be written.
"""

from __future__ import annotations

import os
import time
from itertools import islice

from buildslots.backend import Refusal
from buildslots.disk import bells, line
from buildslots.disk.holding import Locks
from buildslots.disk.lock import locked, unlock
from buildslots.disk.taking import LOOKS, TAKE_S, count_held, held_slots, lock_slot, rules_of, slot_numbers
from buildslots.processes import forget, has_open, lineage

TYPE_CHECKING = False
if TYPE_CHECKING:
    from buildslots.backend import Notice, Request, Steps
    from buildslots.disk.directory import PoolDirectory

FIRST_S, LAST_S = 0.02, 1.0
"""How soon, and how often, to look again: each look doubles it."""
ASLEEP_S = 1.0
"""How long a slot lies free until those ahead, each for so long, count as stopped."""
MOST_ASLEEP = 16
"""More of those ahead than this make it no longer."""


class Reader:
    """The pool `directory`, as one build uses it that may not write into it."""

    def __init__(self, directory: PoolDirectory, error: OSError) -> None:
        """Say once why: `error` is what a try to write has ended with."""
        self._directory = directory
        self._error = error
        told = f"{directory.path} cannot be written here ({error.strerror}): this build has no place in line,"
        told += " and looks for a free slot now and then"
        if told not in directory.repaired:
            directory.repaired.append(told)

    def attempt(self, request: Request) -> ReadOnlyHold | Refusal:
        """Take slots if they are free and nobody is in line. Raises OSError."""
        return Look(self._directory, request, line.LARGEST_NUMBER).take()

    def look(self, request: Request, number: int | None = None) -> Look:
        """Wait as one that has come at `number`, in microseconds of Unix time; None for now."""
        if number is None:
            number = time.time_ns() // 1000 - self._directory.head_start_us(request)
        return Look(self._directory, request, number)

    def exceed(self, request: Request, refusal: Refusal) -> ReadOnlyHold:
        """Take slots beyond the cap, if there are such.

        Raises the error with which writing ended: then a build runs without a slot, as it does in every pool
        that cannot be used.
        """
        path = self._directory.path
        ruled = self._directory.ruled(request)
        locks = Locks()
        try:
            if refusal.gate is not None and _lock(path, ruled, 0, locks) < ruled.limit:
                return ReadOnlyHold(path, locks, ruled, despite=refusal.gate)
            locks.let_go()
            _lock(path, ruled, ruled.cap, locks)
            if len(locks) == ruled.weight:
                return ReadOnlyHold(path, locks, ruled, overflow=True, despite=refusal.gate)
        finally:
            locks.let_go()
        raise self._error


class Look:
    """A wait without a ticket: see `backend.Place`."""

    def __init__(self, directory: PoolDirectory, request: Request, number: int) -> None:
        self._directory = directory
        self._request = request
        self._name = f"{number:0{line.NUMBER_DIGITS}d}-{request.limit}"
        self._free_since: float | None = None
        self.number = number

    def take(self) -> ReadOnlyHold | Refusal:
        """Take slots if they are free, and nobody is ahead who would take them. Raises OSError."""
        path = self._directory.path
        rules = rules_of(path, self._directory.repaired)
        request = self._request if rules is None else rules.applied(self._request)
        pause = None if rules is None else rules.pause(time.time())
        if pause is not None:
            return Refusal(request.limit, str(pause), is_paused=True)
        before = (name for name in line.waiting(path) if name < self._name and _waits(path, name))
        ahead = list(islice(before, MOST_ASLEEP))  # more make no difference
        if ahead and not self._are_asleep(ahead, request):
            return Refusal(request.limit)
        locks = Locks()
        try:
            held = _lock(path, request, 0, locks)
            gate = request.gates.closed_by() if request.gates and 0 < held < request.limit else None
            if held < request.limit and gate is None:
                return ReadOnlyHold(path, locks, request)
            return Refusal(held, gate)
        finally:
            locks.let_go()

    def _are_asleep(self, ahead: list[str], request: Request) -> bool:
        """Whether a slot has been lying free for so long that those ahead must be stopped."""
        now = time.monotonic()
        if len(held_slots(self._directory.path)) >= request.limit:
            self._free_since = None
            return False
        self._free_since = self._free_since or now
        return now - self._free_since > ASLEEP_S * len(ahead)

    def until(
        self, deadline: float, notice: Notice | None = None, since: float | None = None
    ) -> Steps[ReadOnlyHold | Refusal]:
        """Wait until there is a slot, or until `time.monotonic()` is `deadline`, and pauses longer."""
        pause_s = FIRST_S
        since = self._request.began if since is None else since
        while True:
            found = self.take()
            if isinstance(found, ReadOnlyHold):
                return found
            now = time.monotonic()
            due = deadline + self._directory.paused_s(since)
            if now >= due:
                return found
            if self._free_since is not None:
                pause_s = FIRST_S  # one look must not be taken for a second of them
            until = min(now + pause_s, due)
            if notice is not None:
                if now >= notice.due:
                    notice.tell(self._directory, self._name, found.gate)
                until = min(until, notice.due)
            yield None, max(0.0, until - now)
            pause_s = min(2 * pause_s, LAST_S)

    def paced_start(self, refusal: Refusal, _paced_s: float) -> Steps[ReadOnlyHold | float]:
        """Start beyond the cap: those in line do not see us, so there are no turns to take."""
        return (yield from self._directory.exceed(self._request, refusal))  # type: ignore[return-value]

    def leave(self) -> None:
        """There is no place to leave."""


class ReadOnlyHold:
    """Slots that are held without a record and a bell: see `backend.Hold`."""

    def __init__(
        self,
        directory: str,
        locks: Locks,
        request: Request,
        *,
        overflow: bool = False,
        despite: str | None = None,
    ) -> None:
        """Take over `locks`."""
        self.numbers = tuple(locks)
        self.nonce = f"-{request.nonce}"
        self.cap = request.cap
        self.overflow = overflow
        self.despite = despite
        self._directory = directory
        self._pid = os.getpid()
        self._locks = list(locks.values())
        locks.clear()

    @property
    def is_held(self) -> bool:
        """Whether this process has not let go of them."""
        return bool(self._locks)

    chore = None
    """The lock is all that keeps them."""

    @property
    def descriptors(self) -> list[int]:
        """What a child inherits to hold the slots."""
        return list(self._locks)

    def runs(self, child: int) -> None:
        """There is no record to write that into."""

    def release(self) -> None:
        """Let go of the slots, and knock at who is first in line. Idempotent, raises nothing."""
        locks, self._locks = self._locks, []
        for fd in locks:
            try:
                if self._pid == os.getpid():
                    unlock(fd)
            except OSError:
                pass  # it ends with the descriptor, unless a child keeps a copy
            forget(fd)
            try:
                os.close(fd)
            except OSError:
                pass  # as in `files.close`
        if locks and self._pid == os.getpid():
            _knock_at_the_first(self._directory)

    def __del__(self) -> None:
        if getattr(self, "_locks", None):  # lost like a file that nobody closed
            self.release()


def is_above(directory: str, number: int) -> bool:
    """Whether this process runs under slot `number`, as its environment says: there is no record to ask.

    It does if it, or a process above it, has the slot's file open: whoever took it, or a command below that.
    False where the system does not tell.
    """
    return any(has_open(pid, f"{directory}/slot-{number}") for pid in lineage())


def _lock(directory: str, request: Request, lowest: int, locks: Locks) -> int:
    """Lock the lowest free slots from `lowest` on that there are: how many others hold, or the limit if more.

    Raises OSError.
    """
    until = time.monotonic() + TAKE_S
    for number in slot_numbers(directory):
        if len(locks) == request.weight or time.monotonic() > until:
            break
        if number >= lowest:
            try:
                lock_slot(directory, number, locks, LOOKS, 0)
            except FileNotFoundError:
                continue  # removed at this moment
    if len(locks) < request.weight:
        return request.limit
    return count_held(directory, request.limit, locks, set(), until)


def _waits(directory: str, name: str) -> bool:
    try:
        return locked(f"{directory}/queue/{name}")
    except OSError:
        return False  # none that we may look at


def _knock_at_the_first(directory: str) -> None:
    """A FIFO that is there can be written on a read-only mount, too: open(2), EROFS. Raises nothing."""
    try:
        for name in line.waiting(directory):
            if bells.knock(f"{directory}/bells/{name}"):
                break
    except OSError:
        pass  # they find the slot at their next glance
