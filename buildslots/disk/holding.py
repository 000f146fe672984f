"""Holding slots: taking them, what is told of it, letting go.

Relies on `disk.lock` for the truth: holding slot N is having the lock of `slot-N`. Records and bells are
hints.
"""

from __future__ import annotations

import errno
import os
import sys
import time

from buildslots.backend import Refusal
from buildslots.disk import bells, records
from buildslots.disk.lock import has_name, is_locked, keep_young, locked, open_lock, try_lock, unlock
from buildslots.files import DIR_FDS, close, open_directory
from buildslots.processes import close_kept, forget, forks, keep_from_children

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable

    from buildslots.backend import Request

LOOKS = 10
"""How often a slot is tried that is not held but looked at, which takes a microsecond."""
SKIPPED = 8
"""So many slots that are looked at all the time are passed over one by one; with more, somebody does that on
purpose, and the first number that no slot has yet is next."""
MANY = 64
"""With more slot files than that it is worth a look whether some are one file."""
TAKE_S = 0.5
"""How long one try to take slots may last. Nearly always it is over in some microseconds a slot."""
OPEN_MAX = os.sysconf("SC_OPEN_MAX") if hasattr(os, "sysconf") else 1024
if OPEN_MAX < 0:  # "unlimited", on macOS
    OPEN_MAX = 2**20
LARGEST = 10**9 - 1
"""The largest number that a slot can have."""
FDS_A_SLOT = 6
"""Descriptors that a slot takes at most while it is taken and handed down."""


class Hold:
    """Slots that are held together: one, or as many as the build's weight.

    Attributes:
        numbers: N of each `slot-N`, ascending.
        nonce: What marks this one holding in its records, for the nesting check.
        overflow: Whether they were taken beyond the cap.
        despite: The closed gate for which it does not wait any longer, in words; None if there was none.
    """

    __slots__ = (
        "__weakref__",
        "_about",
        "_bells",
        "_directory",
        "_forks",
        "_handed",
        "_locks",
        "_pid",
        "_records",
        "_waited_s",
        "despite",
        "nonce",
        "numbers",
        "overflow",
    )

    def __init__(
        self, directory: str, locks: Locks, request: Request, *, overflow: bool = False, despite: str | None
    ) -> None:
        """Take over `locks`, slots of the pool `directory`.

        `locks` is emptied once this object owns them; until then the caller lets go of them.

        Raises OSError, and then nothing is told of a holding.
        """
        self.numbers = tuple(locks)
        self.nonce = request.nonce
        self.overflow = overflow
        self.despite = despite
        self._directory = directory
        self._about = about(request)
        self._waited_s = time.monotonic() - request.began
        self._pid = os.getpid()
        self._forks = forks()
        self._locks: list[int] = []
        self._bells: list[int] = []
        self._handed: list[int] = []
        self._records: list[int] = []
        for lock in locks.values():
            keep_young(lock)
        record = self._record()
        # Once for both rooms: to look at the way to it takes longer than to open it.
        pool = open_directory(directory) if DIR_FDS else None
        try:
            for number in locks:
                # The record before the bell: see `Seen`.
                self._records.append(records.keep(f"{directory}/holders/slot-{number}", pool))
                records.write(self._records[-1], record)
                bell = bells.hang(f"{directory}/bells/slot-{number}", pool)
                if bell is not None:
                    self._bells.append(bell)
        except BaseException:
            for fd in self._records:
                records.remove(fd)
            for fd in (*self._bells, *self._records):
                close(fd)
            raise
        finally:
            if pool is not None:
                close(pool)
        self._locks = list(locks.values())
        locks.clear()

    def _record(self, child: int | None = None) -> bytes:
        return records.record(self._about, waited_s=self._waited_s, overflow=self.overflow, child=child)

    @property
    def is_held(self) -> bool:
        """Whether this process has not let go of them."""
        return bool(self._locks)

    def runs(self, child: int) -> None:
        """Write into the records that the process `child` runs under the slots; raises nothing."""
        text = self._record(child)
        for record in self._records:
            try:
                os.lseek(record, 0, os.SEEK_SET)
                records.write(record, text)
            except OSError:
                pass  # a hint only

    @property
    def descriptors(self) -> list[int]:
        """What a child inherits to hold the slots: the locks, and bells to ring by. Empty after the release.

        A child can do as much as it can do with these: unlock the slots, and ring. It cannot write into the
        slots' files, nor read away what was rung. Raises nothing.
        """
        if not self._locks:
            return []
        if not self._handed:
            for number, bell in zip(self.numbers, self._bells, strict=False):
                fd = bells.hand_down(f"{self._directory}/bells/slot-{number}", bell)
                if fd is not None:
                    self._handed.append(fd)
        self._forks = -1  # whatever becomes of them: others have copies
        return [*self._locks, *self._handed]

    def release(self) -> None:
        """Let go of the slots, though a child may have copies of the descriptors; wake the head.

        Idempotent, raises nothing. In a forked child it only closes the child's copies: the slots are the
        parent's.
        """
        ours = self._pid == os.getpid()
        locks: list[int] = []
        try:
            locks, self._locks = self._locks, []
            if locks and ours:
                self._free(locks)
        except BaseException:
            if locks and ours:
                self._free(locks)  # interrupted: closing alone would leave a child that has copies its locks
            raise
        finally:
            if locks and not ours:
                self._forget_what_is_not_ours(locks)
            for fds in (locks, self._bells, self._handed, self._records) if locks else ():
                while fds:
                    _close_last(fds)

    def _forget_what_is_not_ours(self, locks: list[int]) -> None:
        """In a forked child: keep of the numbers only those that still are what they were.

        A daemon closes all that it has inherited, and what it opens then has the same numbers.
        """
        rooms = ((locks, ""), (self._bells, "bells/"), (self._handed, "bells/"), (self._records, "holders/"))
        for fds, room in rooms:
            names = [f"{self._directory}/{room}slot-{number}" for number in self.numbers]
            fds[:] = [fd for fd, name in zip(fds, names, strict=False) if _is_at(fd, name)]

    def _free(self, locks: list[int]) -> None:
        if not self._bells:  # then the record alone tells the nesting check that the holding has ended
            self._end_records()
        for lock in locks:
            try:
                unlock(lock)
            except OSError:
                pass  # it ends with the descriptor, unless a child keeps a copy
        while self._bells:
            # To close it rings, if nobody has a copy; on Linux, where that was measured. (A child that C code
            # has forked is not counted: then the head hears nothing, and finds the slot at its glance.)
            if self._forks != forks() or sys.platform != "linux":
                bells.ring(self._bells[-1])
            _close_last(self._bells)
        _let_the_woken_run()
        self._end_records()  # not before: it takes as long as all that went before

    def _end_records(self) -> None:
        for record in self._records:
            records.end(record, self.nonce)

    def __del__(self) -> None:
        if getattr(self, "_locks", None):  # lost like a file that nobody closed
            self.release()


def _is_at(fd: int, path: str) -> bool:
    """Whether `fd` is open, and the file at `path`."""
    try:
        return os.path.samestat(os.fstat(fd), os.lstat(path))
    except OSError:
        return False


def about(request: Request) -> bytes:
    """What records say of the build that asks for `request`."""
    return records.about(request.command, cap=request.cap, weight=request.weight, nonce=request.nonce)


def _close_last(fds: list[int]) -> None:
    try:
        os.close(fds.pop())  # in one line: no Ctrl-C comes in between
    except OSError:
        pass  # as in `files.close`


def _let_the_woken_run() -> None:
    """Give the processor to the process that was woken just now, if it is to run on this one.

    Linux likes to put who is woken through a pipe on the processor of who woke it, even if others
    are idle: then the slot would lie free until this process sleeps (bench/README.md).
    """
    if hasattr(os, "sched_yield"):
        try:
            os.sched_yield()
        except OSError:
            pass  # a sandbox may refuse any call (seccomp(2))


class Locks(dict[int, int]):
    """Locked descriptors of slot files, by number; let go of with the object, whatever ends its use."""

    def let_go(self) -> None:
        """Unlock and close what is left. Idempotent, raises nothing."""
        for number, fd in list(self.items()):
            try:
                unlock(fd)
            except OSError:
                pass  # it ends with the descriptor
            forget(fd)
            del self[number]
            try:
                os.close(fd)
            except OSError:
                pass  # as in `files.close`, in which a Ctrl-C may strike

    def __del__(self) -> None:
        if self:
            self.let_go()


def take(directory: str, request: Request, limit: int, *, gates: bool = True) -> Hold | Refusal:
    """Take the lowest free slots, all that it needs, if fewer than `limit` are held.

    For the head of the line, or under the mutex. Locks first and counts then: of two processes that take at
    the same moment the one that counts last sees the lock of the other, so both cannot pass.

    Args:
        directory: Of the pool.
        request: What is wanted.
        limit: Below how many held slots it may start.
        gates: Whether the state of the machine matters.

    Raises:
        OSError: Something of the pool cannot be used. Nothing is held.
    """
    _check_weight(request.weight)
    locks = Locks()
    try:
        held = _lock_lowest(directory, request.weight, limit, locks)
        # Never while nothing else of the pool runs: what is in the way then is none of its builds.
        gate = request.gates.closed_by() if gates and request.gates and 0 < held < limit else None
        if held < limit and gate is None:
            return Hold(directory, locks, request, despite=None)
        return Refusal(held, gate)
    finally:
        locks.let_go()


def _check_weight(weight: int) -> None:
    """Raise OSError (EMFILE) if no process could have `weight` slots, before a file of them is made."""
    if weight > max(1, OPEN_MAX // FDS_A_SLOT):
        text = f"{weight} slots together need more open files than the {OPEN_MAX} of `ulimit -n`"
        raise OSError(errno.EMFILE, text)


def _lock_lowest(directory: str, weight: int, limit: int, locks: Locks) -> int:
    """Lock the lowest slots into `locks`: how many others are held, `limit` if there are so many or more.

    The same if it cannot be told within TAKE_S, because of masses of slots.
    """
    until = time.monotonic() + TAKE_S
    held: set[int] = set()
    number = skipped = 0
    while len(locks) < weight and len(held) < limit:
        is_held = _lock_slot(directory, number, locks, LOOKS if skipped < SKIPPED else 1)
        if is_held:
            held.add(number)
        elif is_held is None:
            skipped += 1
            if skipped == SKIPPED:
                number = _above_all(directory, number)
            elif skipped > SKIPPED and time.monotonic() > until:
                return limit
        number += 1
    return _count(directory, limit, locks, held, until) if len(held) < limit else limit


def _count(directory: str, limit: int, locks: Locks, held: set[int], until: float) -> int:
    """How many slots others hold, those in `held` included; `limit` if so many or more, or if time is up.

    What was held already counts, though it may be free by now: that errs on the safe side.
    """
    for count, number in enumerate(slot_numbers(directory)):
        if number in locks or number in held:
            continue
        if locked(f"{directory}/slot-{number}") and not _is_one_of(locks, directory, number):
            held.add(number)
        if len(held) >= limit or (count & 255 == 255 and time.monotonic() > until):
            return limit
    return len(held)


def _above_all(directory: str, number: int) -> int:
    """`number`, or the largest that a slot has, if that is larger; behind the last possible one, any.

    Of all names: the lowest of many names of one file, as `slot_numbers` has it, would be no way past them.
    """
    largest = max([number, *_numbers(os.listdir(directory))])
    return largest if largest < LARGEST else max(number, int.from_bytes(os.urandom(4), "big") % LARGEST)


def _lock_slot(directory: str, number: int, locks: Locks, looks: int) -> bool | None:
    """Lock slot `number` into `locks`: False. True if it is held. None if somebody looks at it all the time.

    Who looks at a slot has a shared lock of it, which is none that counts, but keeps us from locking it.
    """
    path = f"{directory}/slot-{number}"
    if number > LARGEST:
        raise OSError(errno.ERANGE, "no slot has so large a number", path)
    for _ in range(looks):
        fd = open_lock(path)
        keep_from_children(fd)
        try:
            if try_lock(fd):
                if has_name(fd, path):
                    locks[number] = fd
                    return False
            elif is_locked(fd) and has_name(fd, path):
                return True
        finally:
            if locks.get(number) == fd:
                forget(fd)
            else:
                close_kept(fd)
    return None


def _is_one_of(locks: Locks, directory: str, number: int) -> bool:
    """Whether slot `number` is another name of one of `locks`, which somebody has given it."""
    try:
        about = os.stat(f"{directory}/slot-{number}")
    except OSError:
        return False
    return any(os.path.samestat(about, os.fstat(fd)) for fd in locks.values())


def take_beyond(directory: str, request: Request, gate: str | None) -> Hold:
    """Take the lowest free slots numbered `request.cap` or above, without counting. Only under the mutex.

    Unless those below are free, and nothing but `gate` kept the request from them: then those. Raises what
    `take` does.
    """
    if gate is not None:
        found = take(directory, request, request.limit, gates=False)
        if isinstance(found, Hold):
            found.despite = gate
            return found
    _check_weight(request.weight)
    locks = Locks()
    number = request.cap
    until = time.monotonic() + TAKE_S
    try:
        while len(locks) < request.weight:
            late = time.monotonic() > until
            _lock_slot(directory, number, locks, 1 if late else LOOKS)
            number = _above_all(directory, number) + 1 if late and number not in locks else number + 1
        return Hold(directory, locks, request, overflow=True, despite=gate)
    finally:
        locks.let_go()


def slot_numbers(directory: str) -> list[int]:
    """The numbers of all slot files in the pool, ascending; of many names of one file, the lowest."""
    numbers = _numbers(os.listdir(directory))
    if len(numbers) > MANY:
        files: dict[int, int] = {}
        with os.scandir(directory) as entries:
            for entry in entries:
                for number in _numbers([entry.name]):
                    files[entry.inode()] = min(number, files.get(entry.inode(), number))
        # Some file systems tell the same inode of all files.
        if len(files) > 1 or _is_same(directory, numbers[0], numbers[-1]):
            numbers = list(files.values())
    numbers.sort()
    return numbers


def _is_same(directory: str, one: int, other: int) -> bool:
    """Whether the two slots are one file; True if one of them is gone."""
    try:
        return os.path.samestat(*(os.lstat(f"{directory}/slot-{number}") for number in (one, other)))
    except OSError:
        return True


def held_slots(directory: str) -> list[int]:
    """The numbers of the held slots, ascending. Those not come to within TAKE_S count as held.

    Exact only under the mutex. Raises OSError.
    """
    until = time.monotonic() + TAKE_S
    numbers = slot_numbers(directory)
    held: list[int] = []
    for count, number in enumerate(numbers):
        if count & 255 == 255 and time.monotonic() > until:
            return held + numbers[count:]
        if locked(f"{directory}/slot-{number}"):
            held.append(number)
    return held


def _numbers(names: Iterable[str]) -> list[int]:
    """N of each name that is `slot-N`, without leading zeros."""
    digits = [name[5:] for name in names if name.startswith("slot-")]
    return [int(n) for n in digits if n.isdecimal() and len(n) < 10 and n == str(int(n))]
