"""The pool directory: which slots are held, taking one, letting it go.

Relies on `disk.lock` for the truth and `disk.queue` for the order. The caller sees a `Hold`, a `Ticket`
or nothing, and after an exception nothing is kept.
"""

from __future__ import annotations

import errno
import os
import sys
import time
from stat import S_ISDIR, S_ISFIFO, S_ISREG

from buildslots.disk import bells, queue, records
from buildslots.disk.lock import (
    DIR_FDS,
    NO_FILE,
    ROOMS,
    Mutex,
    cannot_be,
    close,
    close_kept,
    forget,
    forks,
    give_back_mode,
    give_back_name,
    is_locked,
    is_shared,
    keep_from_children,
    lock_file,
    locked,
    make_directory,
    make_parents,
    open_directory,
    open_lock,
    put_aside,
    try_lock,
    unlock,
    write_to_lock,
)

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Generator
    from typing import TypeAlias, TypeVar

    from buildslots.disk.handover import Ready
    from buildslots.gates import Gates

    T = TypeVar("T")
    Naps: TypeAlias = "Generator[tuple[None, float], object, T]"


HELD, LOOKED_AT = -1, -2
"""Why a slot could not be locked; one that somebody just looks at is not held, but not to be had."""
NEVER = float("inf")
LOOKS = 10
"""How often a slot is tried that is not held but looked at, for a microsecond each."""
OPEN_MAX = os.sysconf("SC_OPEN_MAX") if hasattr(os, "sysconf") else 1024
MOST_KEPT, MOST_HEARD = OPEN_MAX // 4, OPEN_MAX * 3 // 4
"""No descriptor from these numbers on is kept for the next try, or listened to and kept otherwise: all else
needs some, too."""
REMOVALS = 100
"""How often one step makes the directories again that somebody removes, before it gives up."""
SKIPPED = 8
"""So many slots that are looked at are passed over in peace; with more, somebody does that on purpose, and
the next number is the first that no slot has."""
MANY = 64
"""With more slot files than that it is worth a look whether some are one file."""
TAKE_S = 0.5
"""How long one try to take slots may last. Nearly always it is over in some microseconds a slot."""
MUTEX_PATIENCE_S = 1.0
"""How long the mutex may resist, under whatever file has its name, before its owner counts as stopped and a
new file takes the place of that one (DESIGN, admission rule 4)."""
MUTEX_AGAIN_S = 0.5
"""How long that one may resist. Then somebody keeps it on purpose, and one goes on without."""
MUTEXES_S = 2.0
"""How long one build tries to get the mutex in all; then it goes without."""
GLIMPSE_S = 0.2
"""How long who only looks tries to get it."""
FDS_A_SLOT = 6
"""Descriptors that a slot takes at most while it is taken and handed down."""
REPAIRS = 20
"""How often one step makes place for a file that cannot be used."""
REFUSALS, REFUSED_S = 10, 0.005
"""How often, and how far apart, a step is tried in a group's pool that may not open something there: what
another user makes at this moment gets its mode a moment later."""


class Hold:
    """Slots that are held together: one, or as many as the build's weight.

    Attributes:
        numbers: N of each `slot-N`, ascending.
        overflow: Whether they were taken beyond the cap.
        nonce: What marks this one holding in its records, for the nesting check.
    """

    __slots__ = (
        "_bells",
        "_claim",
        "_directory",
        "_forks",
        "_handed",
        "_locks",
        "_pid",
        "_records",
        "nonce",
        "numbers",
        "overflow",
    )

    def __init__(self, directory: str, locks: Locks, claim: Claim, ready: Ready | None = None) -> None:
        """Take over `locks`; they are empty as soon as they are this object's.

        Args:
            directory: Of the pool.
            locks: The slots.
            claim: Who has them.
            ready: What is open already, of one slot; its file for the record is taken over.
        """
        self.numbers = tuple(locks)
        self._directory = directory
        self._claim = claim
        self.overflow = claim.overflow
        self.nonce = claim.nonce
        self._pid = os.getpid()
        self._forks = forks() if ready is None else ready.forks
        self._locks: list[int] = []
        self._bells: list[int] = []
        self._handed: list[int] = []
        self._records: list[int] = []
        record = claim.record()
        # Once for all rooms: to look at the way to it takes longer than to open it. But not by who has
        # waited, and may have no descriptor to spare.
        pool = open_directory(directory) if DIR_FDS and not claim.waited_s else None
        try:
            for number in locks:
                path = f"{directory}/holders/slot-{number}"
                self._records.append(records.keep(path, pool) if ready is None else ready.record)
                # Before there is a bell: see `PoolDirectory.is_ours`.
                records.write(self._records[-1], record)
                path = f"{directory}/bells/slot-{number}"
                bell = None if ready is None else bells.hang_again(path, ready.ear, ready.bell)
                if bell is None:
                    bell = bells.hang(path, pool)
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

    def runs(self, child: int) -> None:
        """Write into the records that the process `child` runs under the slots; raises nothing."""
        text = self._claim.record(child=child)
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
            if locks:
                for fds in (locks, self._bells, self._handed, self._records):
                    _close_all(fds)

    def _free(self, locks: list[int]) -> None:
        if not self._bells:  # what else tells that it has ended
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


def _close_all(fds: list[int]) -> None:
    """Close `fds` and forget them; raises nothing but a Ctrl-C, after which it can be called again."""
    while fds:
        _close_last(fds)


def _close_last(fds: list[int]) -> None:
    try:
        os.close(fds.pop())  # in one line: nothing is interrupted in between
    except OSError:
        pass  # as in `lock.close`


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


class Claim:
    """Who wants a slot: what records say of it.

    Attributes:
        cap: K of this process.
        weight: How many slots it takes together, at most K.
        command: The arguments of the build, its program first.
        nonce: 128 random bits in hex.
        waited_s: How long it has waited.
        overflow: Whether it is to run beyond the cap.
        gates: What the machine has to be like, or None.
        held_back: What of that kept it from taking a slot at the last try, in words; None if nothing did.
        despite: What of that it did not wait for any longer, at the timeout; None if nothing.
    """

    __slots__ = (
        "_about",
        "cap",
        "command",
        "despite",
        "gates",
        "held_back",
        "nonce",
        "overflow",
        "waited_s",
        "weight",
    )

    def __init__(self, cap: int, command: list[str], weight: int = 1, gates: Gates | None = None) -> None:
        self.cap = cap
        self.weight = weight
        self.command = command
        self.nonce = os.urandom(16).hex()
        self.waited_s = 0.0
        self.overflow = False
        self.gates = gates
        self.held_back: str | None = None
        self.despite: str | None = None
        self._about = b""

    @property
    def limit(self) -> int:
        """Below how many held slots it may start: its cap, or less if it needs more than one slot."""
        return self.cap - self.weight + 1

    def record(self, *, waits: bool = False, child: int | None = None) -> bytes:
        """The record of a waiter, or of a holder, whose command is the process `child`."""
        if not self._about:
            self._about = records.about(self.command, cap=self.cap, weight=self.weight, nonce=self.nonce)
        waited_s = None if waits else self.waited_s
        return records.record(self._about, waited_s=waited_s, overflow=self.overflow, child=child)


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
                pass  # as in `lock.close`, in which a Ctrl-C may strike

    def __del__(self) -> None:
        if self:
            self.let_go()


class SlotFiles:
    """The slot files of a pool, kept open by who will ask again: then a bell that rings finds them open.

    Every answer is about the file that has the name at that moment.
    """

    __slots__ = ("_open", "_path", "_pid", "skipped")

    def __init__(self, path: str) -> None:
        self._path = path
        self._pid = os.getpid()
        self.skipped = 0  # slots that were LOOKED_AT in this try
        self._open: dict[int, tuple[int, os.stat_result]] = {}

    def lock(self, number: int) -> int:
        """Lock slot `number`: its descriptor, to be taken over with `give`, or HELD, or LOOKED_AT."""
        for _ in range(LOOKS if self.skipped < SKIPPED else 1):
            fd = self._fd(number)
            if try_lock(fd):
                if self._has_name(number):
                    return fd
            elif is_locked(fd) and self._has_name(number):
                if fd >= MOST_KEPT:
                    self._close(number)
                return HELD
        self.skipped += 1
        self._close(number)
        return LOOKED_AT

    def give(self, number: int) -> None:
        """Leave the descriptor of slot `number` to the caller, who has it already: a Ctrl-C would lose it."""
        forget(self._open[number][0])
        del self._open[number]

    def locked(self, number: int) -> bool:
        """Whether somebody holds slot `number`."""
        if number in self._open and self._has_name(number):
            return is_locked(self._open[number][0])
        return locked(f"{self._path}/slot-{number}")

    def open(self, number: int) -> int | None:
        """The descriptor of the file that has the name of slot `number`; None if too many are open."""
        if number in self._open:
            self._has_name(number)
        fd = self._fd(number)
        if fd < MOST_KEPT:
            return fd
        self._close(number)
        return None

    def _fd(self, number: int) -> int:
        if number not in self._open:
            path = f"{self._path}/slot-{number}"
            fd = open_lock(path)
            about = os.fstat(fd)
            if S_ISDIR(about.st_mode):  # it could be locked
                close(fd)
                raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), path)
            self._open[number] = fd, about
            keep_from_children(fd)
        return self._open[number][0]

    def close(self) -> None:
        """Close them all. Idempotent; the object can be used again."""
        for number in list(self._open):
            self._close(number)

    def __del__(self) -> None:
        if getattr(self, "_open", None):
            self.close()

    def _has_name(self, number: int) -> bool:
        """Whether the open file of slot `number` still has its name; if not it is closed."""
        try:
            if os.path.samestat(self._open[number][1], os.lstat(f"{self._path}/slot-{number}")):
                return True
        except FileNotFoundError:
            pass
        self._close(number)
        return False

    def _close(self, number: int) -> None:
        fd, _ = self._open.pop(number, (-1, None))
        if fd >= 0 and self._pid == os.getpid():  # in a forked child they are closed
            close_kept(fd)


def slot_numbers(path: str) -> list[int]:
    """The numbers of all slot files in the pool directory `path`, ascending; of many names of one, one."""
    numbers = [number for name in os.listdir(path) if (number := _number(name)) is not None]
    if len(numbers) > MANY:
        files: dict[int, int] = {}
        with os.scandir(path) as entries:
            for entry in entries:
                number = _number(entry.name)
                if number is not None:
                    files[entry.inode()] = min(number, files.get(entry.inode(), number))
        numbers = list(files.values())
    numbers.sort()
    return numbers


def _number(name: str) -> int | None:
    """The number of the slot that is called `name`; None if none is."""
    digits = name[5:]
    if name.startswith("slot-") and digits.isdecimal() and len(digits) < 10 and digits == str(int(digits)):
        return int(digits)
    return None


class PoolDirectory:
    """The directory `path` (absolute) of one pool, as one build uses it; made when first needed.

    Attributes:
        path: Where it is.
        late_at: `time.monotonic()` from which on nothing in the pool is worth a wait any more.
        repaired: What could not be used, and what became of it, in words; empty nearly always.
    """

    __slots__ = ("_mutexes_s", "late_at", "path", "repaired")

    def __init__(self, path: str, late_at: float = float("inf")) -> None:
        self.path = path
        self.late_at = late_at
        self.repaired: list[str] = []
        self._mutexes_s = MUTEXES_S

    def try_take(self, claim: Claim) -> Hold | None:
        """Take a slot if one is free and nobody is in line. Only under the mutex."""
        return None if queue.line(self.path) else self.take(claim, claim.limit)

    def take_or_join(self, claim: Claim) -> tuple[Hold, None] | tuple[None, queue.Ticket]:
        """Take a slot if one is free and nobody is in line; otherwise join the line. Only under the mutex."""
        line = queue.line(self.path)
        hold = None if line else self.take(claim, claim.limit)
        if hold is not None:
            return hold, None
        return None, queue.Ticket(self.path, claim.limit, claim.record(waits=True), line)

    def turn(self, action: Callable[[], T]) -> Naps[T]:
        """Run `action` under the mutex, as `complete` does; yields (None, seconds) to sleep meanwhile.

        Who keeps it keeps nobody for longer than MUTEXES_S in all, nor beyond `late_at`: then `action` runs
        without, and the order of arrival is not exact.
        """
        mishaps = None
        while True:
            mutex = Mutex(f"{self.path}/mutex")
            try:
                try:
                    if not mutex.take():
                        yield from self._wait_for(mutex)
                    return action()
                finally:
                    mutex.release()
            except OSError as error:
                mishaps = mishaps or _Mishaps(self)
                mishaps.mend(error)

    def _wait_for(self, mutex: Mutex) -> Naps[bool]:
        began = time.monotonic()
        left_s = max(0.0, min(self._mutexes_s, self.late_at - began))
        patience_s = min(MUTEX_PATIENCE_S, left_s * 2 / 3)
        tries = mutex.tries(patience_s, min(MUTEX_AGAIN_S, left_s - patience_s))
        try:
            while True:
                yield None, next(tries)
        except StopIteration as end:
            return bool(end.value)
        finally:
            tries.close()
            self._mutexes_s -= time.monotonic() - began

    def glimpse(self, action: Callable[[], T]) -> T:
        """Run `action`, which only looks, under the mutex if there is one and it can be had soon.

        Makes nothing and removes nothing.
        """
        mutex = Mutex(f"{self.path}/mutex")
        try:
            try:
                for pause_s in mutex.tries(GLIMPSE_S, 0.0, 0):
                    time.sleep(pause_s)
            except OSError:
                pass  # another tool's directory, a new one, a read-only one or another user's
            return action()
        finally:
            mutex.release()

    def complete(self, action: Callable[[], T]) -> T:
        """Run `action`, making the directories that are missing. Raises OSError.

        What is in the way of a file or directory of the pool, and cannot be used, is put aside.
        """
        mishaps = None
        while True:
            try:
                return action()
            except OSError as error:
                mishaps = mishaps or _Mishaps(self)
                mishaps.mend(error)

    def take(self, claim: Claim, limit: int, files: SlotFiles | None = None) -> Hold | None:
        """Take the lowest free slots, all it needs, if fewer than `limit` are held.

        Only under the mutex, or at the head of the line. Takes first and counts then, so that two
        processes that do this at the same moment cannot both pass (see the package docstring). Once
        more if a lower one was let go in between.

        Args:
            claim: Who wants them.
            limit: Below how many held slots it may start.
            files: What stays open for the next try; None to open and close them all.
        """
        if files is None:
            files = SlotFiles(self.path)
            try:
                return self.take(claim, limit, files)
            finally:
                files.close()
        if claim.weight > 1:
            self._check_weight(claim.weight)
        files.skipped = 0
        for again in (True, True, False):  # not for ever: somebody may be stopped while looking at it
            locks = Locks()
            try:
                held, missed = self._lock_lowest(claim.weight, limit, files, locks)
                # Never while nothing else of the pool runs: what is in the way then is none of its builds.
                claim.held_back = claim.gates.closed_by() if claim.gates and 0 < held < limit else None
                if held < limit and not claim.held_back and not (missed and again):
                    return Hold(self.path, locks, claim)
            finally:
                if locks:
                    locks.let_go()
            if held >= limit or claim.held_back:
                break
        return None

    def _check_weight(self, weight: int) -> None:
        """Raise OSError (EMFILE) if no process could have `weight` slots, before a file of them is made."""
        if weight > OPEN_MAX // FDS_A_SLOT:
            text = f"{weight} slots together need more open files than the {OPEN_MAX} of `ulimit -n`"
            raise OSError(errno.EMFILE, text)

    def _lock_lowest(self, weight: int, limit: int, files: SlotFiles, locks: Locks) -> tuple[int, bool]:
        """Lock the lowest slots into `locks`: how many others are held, and whether one below is not.

        Who cannot tell within TAKE_S, because of masses of slots, takes none.
        """
        until = time.monotonic() + TAKE_S
        held = number = 0
        while len(locks) < weight and held < limit:
            fd = files.lock(number)
            if fd >= 0:
                locks[number] = fd
                files.give(number)
            elif fd == HELD:
                held += 1
            elif files.skipped == SKIPPED:
                number = self._last(number)
            elif files.skipped > SKIPPED and time.monotonic() > until:
                return limit, False
            number += 1
        if held >= limit:
            return held, False
        held, lowest = self._count(limit, files, locks, until)
        return held, not files.skipped and lowest < number

    def _count(self, limit: int, files: SlotFiles, locks: Locks, until: float) -> tuple[int, float]:
        """How many slots others hold (`limit` if that cannot be told by then); the lowest that nobody has."""
        held, lowest = 0, NEVER
        for count, other in enumerate(slot_numbers(self.path)):
            if other in locks:
                continue
            if not files.locked(other) or self._is_one_of(locks, other):
                lowest = min(lowest, other)
            else:
                held += 1
            if held >= limit or (count & 255 == 255 and time.monotonic() > until):
                return limit, NEVER
        return held, lowest

    def _last(self, number: int) -> int:
        """The largest number that a slot has, and `number` at least."""
        names = (_number(name) for name in os.listdir(self.path))
        return max(number, *(other for other in names if other is not None))

    def _is_one_of(self, locks: Locks, number: int) -> bool:
        """Whether slot `number` is another name of one of `locks`, which somebody has given it."""
        try:
            about = os.stat(self._slot(number))
        except OSError:
            return False
        return any(os.path.samestat(about, os.fstat(fd)) for fd in locks.values())

    def take_despite(self, claim: Claim) -> Hold | None:
        """Take what only the machine's state has kept from the claim, which no longer waits for that."""
        if not claim.held_back:
            return None
        claim.despite, claim.gates = claim.held_back, None
        return self.take(claim, claim.limit)

    def take_overflow(self, claim: Claim) -> Hold:
        """Take the lowest free slots numbered `claim.cap` or above. Only under the mutex.

        Unless those below are free, and nothing but the machine's state kept the claim from them: then those.
        """
        if hold := self.take_despite(claim):
            return hold
        if claim.weight > 1:
            self._check_weight(claim.weight)
        claim.overflow = True
        locks = Locks()
        number = claim.cap
        until = time.monotonic() + TAKE_S
        try:
            while len(locks) < claim.weight:
                if (fd := lock_file(self._slot(number))) is not None:
                    locks[number] = fd
                elif time.monotonic() > until:
                    number = self._last(number)
                    until = NEVER
                number += 1
            return Hold(self.path, locks, claim)
        finally:
            locks.let_go()

    def held(self, files: SlotFiles | None = None) -> list[int]:
        """The numbers of the held slots, ascending; exact only under the mutex."""
        is_held = files.locked if files is not None else lambda n: locked(self._slot(n))
        return [n for n in slot_numbers(self.path) if is_held(n)]

    def last_change(self) -> float:
        """Unix time at which one of ours last took a slot or let go of one; 0 if none ever did.

        Only in a `step`: the directory may be gone.
        """
        names = os.listdir(f"{self.path}/holders")
        return max((os.stat(f"{self.path}/holders/{name}").st_mtime for name in names), default=0.0)

    def is_ours(self, number: int, nonce: str) -> bool:
        """Whether slot `number` is still held by the very holding that `nonce` marks.

        It is when the slot is locked, the bell, if there is one, has not rung, and the record has the nonce:
        after a crash the record remains, and a foreign program may have the lock. The record is asked last,
        for that of the next holder is there before its bell. Raises OSError if that cannot be told: only
        what is not there is nobody's.
        """

        def marked() -> bool:
            record = records.read_or_fail(f"{self.path}/holders/slot-{number}")
            return record is not None and record.get("nonce") == nonce

        return marked() and locked(self._slot(number)) and self.has_owner(number) is not False and marked()

    def has_owner(self, number: int) -> bool | None:
        """Whether the last one of ours to hold slot `number`, or its child, lives; None without a bell.

        Raises OSError if that cannot be told.
        """
        path = f"{self.path}/bells/slot-{number}"
        if not os.path.exists(path):
            return None
        fd, rung = bells.listen_or_fail(path)
        if fd is not None:
            close(fd)
        return fd is not None and not rung

    def make(self) -> None:
        """Make the directories; 0700, because records hold command lines, but in a group's pool 2770."""
        chain = self.chain()
        try:
            make_parents(chain[0])
            shared = False  # whether a pool is shared is for whoever makes its directory to say, never for us
            for directory in chain:
                make_directory(directory, shared=shared)
                shared = is_shared(directory)
            close(open_directory(self.path))  # which no link of others has led to
            for room in ROOMS:
                make_directory(f"{self.path}/{room}", shared=shared)
        except FileNotFoundError:
            pass  # removed again already

    def chain(self) -> list[str]:
        """The directory of the default pool and those from there to this one, which is shared as that is."""
        above = os.path.dirname(self.path)
        named = os.path.basename(above) == "pools"
        return [os.path.dirname(above), above, self.path] if named else [self.path]

    def may_be_unfinished(self) -> bool:
        """Whether what could not be opened may be something of a group's pool that is being made."""
        return any(is_shared(path) and os.access(path, os.W_OK | os.X_OK) for path in self.chain())

    def _slot(self, number: int) -> str:
        return f"{self.path}/slot-{number}"


class _Mishaps:
    """What went wrong in one step of a build in the pool `directory`, and what can be done about it."""

    __slots__ = ("_directory", "_refused", "_removed", "_repaired")

    def __init__(self, directory: PoolDirectory) -> None:
        self._directory = directory
        self._removed = self._refused = self._repaired = 0

    def mend(self, error: OSError) -> None:
        """See to it that the step can be tried again; raises `error` if there is nothing to be done."""
        if isinstance(error, FileNotFoundError):  # never made, or removed under us
            self._removed += 1
            if self._removed == REMOVALS:
                raise FileNotFoundError(
                    errno.ENOENT, "the pool directory does not stay", self._directory.path
                ) from error
            try:
                self._directory.make()
            except OSError as other:
                self._repair(other)
        elif isinstance(error, PermissionError) and self._may_be_unfinished():
            self._refused += 1
            time.sleep(REFUSED_S)
        elif not write_to_lock(error):
            self._repair(error)

    def _may_be_unfinished(self) -> bool:
        return self._refused < REFUSALS and self._directory.may_be_unfinished()

    def _repair(self, error: OSError) -> None:
        """Free the name of what cannot be opened as what it should be; raises `error` if that is not it."""
        path, is_wrong = self._in_the_way(error)
        self._repaired += 1
        if not is_wrong(path) or self._repaired > REPAIRS:
            raise error
        try:
            if isinstance(error, PermissionError) and give_back_mode(path):
                self._directory.repaired.append(f"{path} had been closed to its owner: it is open again")
                return
            aside = put_aside(path)
        except FileNotFoundError:
            return  # another one was quicker
        except OSError:
            raise error from None
        if not is_wrong(aside):  # another build has put a good one there meanwhile, and may hold it
            give_back_name(aside, path)
            return
        self._directory.repaired.append(f"{path} could not be used ({error.strerror}): it was put aside")

    def _in_the_way(self, error: OSError) -> tuple[str, Callable[[str], bool]]:
        """The path of what `error` is about, and what tells whether a thing cannot be of use at that path."""
        kinds = (PermissionError, IsADirectoryError, NotADirectoryError, FileExistsError)
        path, pool = error.filename, self._directory.path
        if isinstance(path, str) and (isinstance(error, kinds) or error.errno in NO_FILE):
            room, name = os.path.split(path)
            if path in self._directory.chain()[1:] or (room == pool and name in ROOMS):
                return path, _is_no_directory
            if room == pool and (name == "mutex" or name.startswith("slot-")):
                return path, lambda path: cannot_be(path, S_ISREG, os.R_OK)
            if os.path.dirname(room) == pool and os.path.basename(room) in ROOMS:
                if _is_no_directory(room):
                    return room, _is_no_directory
                is_kind = S_ISFIFO if room.endswith("bells") else S_ISREG
                return path, lambda path: cannot_be(path, is_kind, os.R_OK | os.W_OK)
        return "", lambda _: False  # none of the pool's names


def _is_no_directory(path: str) -> bool:
    return os.path.lexists(path) and (os.path.islink(path) or not os.path.isdir(path))
