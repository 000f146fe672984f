"""The directory of one pool: made, repaired, looked at; arriving in it. The `Backend` on this machine.

Relies on `disk.holding` for the slots and on `disk.line` for the order. After an exception nothing is kept.
"""

from __future__ import annotations

import os
import time
from stat import S_ISFIFO, S_ISREG

from buildslots.backend import Kin, Refusal
from buildslots.disk import bells, line, records
from buildslots.disk.holding import MANY, Hold, about, held_slots, slot_numbers, take, take_beyond
from buildslots.disk.lock import Mutex, is_old, locked, write_to_lock
from buildslots.files import (
    NO_FILE,
    ROOMS,
    cannot_be,
    check_root,
    close,
    give_back_mode,
    give_back_name,
    is_shared,
    make_directory,
    make_parents,
    open_directory,
    put_aside,
)

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import TypeVar

    from buildslots.backend import Request, Steps
    from buildslots.disk.bells import Poll
    from buildslots.disk.line import Ticket
    from buildslots.disk.wait import Wait

    T = TypeVar("T")

MUTEX_PATIENCE_S = 1.0
"""How long the mutex may resist, under whatever file has its name, before its owner counts as stopped and a
new file takes the place of that one."""
MUTEX_AGAIN_S = 0.5
"""How long that one may resist. Then somebody keeps it on purpose, and one goes on without."""
MUTEXES_S = 2.0
"""How long one build tries to get the mutex in all; then it goes without."""
LEAST_S = 0.5
"""Who has no more time than this puts no new file in its place."""
GLIMPSE_S = 0.005
"""How long one that only looks tries to get it: it may be a task, and the others stand still meanwhile."""
REPAIRS = 20
"""How often one step makes place for a file that cannot be used."""
REFUSALS, REFUSED_S = 10, 0.005
"""How often, and how far apart, a step is tried in a group's pool that may not open something there: what
another user makes at this moment gets its mode a moment later."""


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

    # What an admission asks: see `backend.Backend`.

    def attempt(self, request: Request) -> Steps[Hold | Refusal]:
        """Take slots if they are free and nobody is in line."""
        check_root(self.path)
        return (yield from self.under_mutex(lambda: self.try_take(request)))

    def enter(
        self, request: Request, poll: Callable[[], Poll] | None = None
    ) -> Steps[tuple[Hold, None] | tuple[None, Wait]]:
        """The same; otherwise join the line."""
        check_root(self.path)
        found = yield from self.under_mutex(lambda: self.take_or_join(request))
        if isinstance(found, Hold):
            return found, None
        try:
            from buildslots.disk.wait import Wait  # noqa: PLC0415 - only a process that has to wait needs it

            return None, Wait(self, found, request, poll)
        except BaseException:
            found.leave()
            raise

    def join(self, request: Request, number: int, poll: Callable[[], Poll] | None = None) -> Wait:
        """Join the line at the place of `number`; without the mutex, which makes only arriving exact."""
        from buildslots.disk.wait import Wait  # noqa: PLC0415 - as above

        record = records.record(about(request), since=number / 1e6)
        steps = self.with_repairs(lambda: line.Ticket(self.path, request.limit, record, number=number))
        try:
            while True:
                time.sleep(next(steps)[1])
        except StopIteration as end:
            ticket: Ticket = end.value
        return Wait(self, ticket, request, poll)

    def exceed(self, request: Request, refusal: Refusal) -> Steps[Hold]:
        """Take slots beyond the cap, after `refusal`."""
        return (yield from self.under_mutex(lambda: take_beyond(self.path, request, refusal.gate)))

    def is_ours(self, number: int, nonce: str) -> bool:
        """Whether slot `number` is still held by the very holding that `nonce` marks.

        It is when the slot is locked, the bell, if there is one, has not rung, and the record has the nonce.
        Raises OSError if that cannot be told: only what is not there is nobody's.
        """
        if not locked(f"{self.path}/slot-{number}"):
            return False
        seen = Seen(self.path, number, strict=True)
        return seen.nonce == nonce and seen.has_owner is not False

    def kin(self) -> Kin:
        """What those who hold the slots are to this process. Raises nothing."""
        from buildslots.disk.kin import kin_of  # noqa: PLC0415 - only a process that has to wait needs it

        try:
            return kin_of(self.path, (Seen(self.path, number) for number in self.held()))
        except OSError:
            return Kin(None, is_own=False)  # what cannot be told keeps nobody from waiting

    # Arriving. Only under the mutex.

    def try_take(self, request: Request) -> Hold | Refusal:
        """Take slots if they are free and nobody is in line."""
        if line.tickets(self.path):
            return Refusal(request.limit)
        return take(self.path, request, request.limit)

    def take_or_join(self, request: Request) -> Hold | Ticket:
        """The same; otherwise join the line."""
        before = line.tickets(self.path)
        if not before:
            found = take(self.path, request, request.limit)
            if isinstance(found, Hold):
                return found
        return line.Ticket(self.path, request.limit, records.record(about(request)), before)

    # The mutex, and repairs.

    def under_mutex(self, action: Callable[[], T]) -> Steps[T]:
        """Run `action` under the mutex, as `with_repairs` does.

        Whoever keeps the mutex keeps nobody for longer than MUTEXES_S in all, nor beyond `late_at`: then
        `action` runs without it, and the order of arrival is not exact.
        """
        mishaps = None
        while True:
            mutex = Mutex(f"{self.path}/mutex")
            try:
                try:
                    yield from self._wait_for(mutex)
                    if mutex.is_old():
                        self._refresh()
                    return action()
                finally:
                    mutex.release()
            except OSError as error:
                mishaps = mishaps or _Mishaps(self)
                pause_s = mishaps.mend(error)
            if pause_s:
                yield None, pause_s

    def _wait_for(self, mutex: Mutex) -> Steps[bool]:
        began = time.monotonic()
        left_s = max(0.0, min(self._mutexes_s, self.late_at - began))
        patience_s = min(MUTEX_PATIENCE_S, left_s * 2 / 3)
        again_s = min(MUTEX_AGAIN_S, left_s - patience_s)
        # Who has hardly any time goes on without it, and takes it from nobody who is only slow.
        tries = mutex.tries(patience_s, again_s if left_s > LEAST_S else 0.0)
        try:
            while True:
                yield None, next(tries)
        except StopIteration as end:
            return bool(end.value)
        finally:
            tries.close()
            self._mutexes_s -= time.monotonic() - began

    def with_repairs(self, action: Callable[[], T]) -> Steps[T]:
        """Run `action`, making the directories that are missing. Raises OSError.

        What is in the way of a file or directory of the pool, and cannot be used, is put aside.
        """
        mishaps = None
        while True:
            try:
                return action()
            except OSError as error:
                mishaps = mishaps or _Mishaps(self)
                pause_s = mishaps.mend(error)
            if pause_s:
                yield None, pause_s

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

    def keep_young(self) -> None:
        """Give what is old in the pool the times of now, if a slot or the mutex is; raises nothing."""
        try:
            names = ["mutex", *(f"slot-{number}" for number in slot_numbers(self.path)[:MANY])]
            if any(is_old(os.lstat(f"{self.path}/{name}")) for name in names):
                self._refresh()
        except OSError:
            pass  # removed at this moment: the next look will tell

    def _refresh(self) -> None:
        try:
            from buildslots.disk.young import refresh  # noqa: PLC0415 - about once a day
        except (ImportError, OSError):
            return  # no descriptor is left, say: the next build does it
        refresh(self.chain())

    def chain(self) -> list[str]:
        """The directory of the default pool and those from there to this one, which is shared as that is."""
        above = os.path.dirname(self.path)
        named = os.path.basename(above) == "pools"
        return [os.path.dirname(above), above, self.path] if named else [self.path]

    # Looking. Makes nothing and removes nothing.

    def held(self) -> list[int]:
        """The numbers of the held slots, ascending; exact only under the mutex."""
        return held_slots(self.path)

    def glimpse(self, action: Callable[[], T]) -> T:
        """Run `action`, which only looks, under the mutex if there is one and it can be had soon."""
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

    def last_change(self) -> float:
        """Unix time at which one of ours last took a slot or let go of one; 0 if none ever did.

        Raises OSError: the directory may be gone.
        """
        changes = [0.0]
        for name in os.listdir(f"{self.path}/holders"):
            try:
                changes.append(os.lstat(f"{self.path}/holders/{name}").st_mtime)
            except FileNotFoundError:
                pass  # removed at this moment
        return max(changes)


class Seen:
    """What is seen of slot `number` from outside: its last record, and whether its bell still has an owner.

    One look for all who ask: status, the waiting line, the nesting check, release. The bell is asked before
    the record is read. Whoever takes a slot writes its record before it hangs its bell; so behind a bell that
    has an owner there is the record of that owner, or of a later one, and never an earlier one's.

    Attributes:
        number: N of `slot-N`.
        has_owner: Whether whoever hung the bell, or its child, lives and has not let go; None without a bell.
        record: The last record; None if there is none, if it has ended, or if it cannot be read.
    """

    __slots__ = ("has_owner", "number", "record")

    def __init__(self, directory: str, number: int, *, strict: bool = False) -> None:
        """Look at the pool `directory`. With `strict` an OSError is raised, and does not pass for "none"."""
        self.number = number
        self.has_owner: bool | None = None
        self.record: dict[str, str] | None = None
        try:
            self.has_owner = bells.has_owner(f"{directory}/bells/slot-{number}")
        except OSError:
            if strict:
                raise
        try:
            self.record = records.read_or_fail(f"{directory}/holders/slot-{number}")
        except OSError:
            if strict:
                raise

    @property
    def nonce(self) -> str | None:
        """What marks the holding, as its record says."""
        return None if self.record is None else self.record.get("nonce")

    @property
    def is_foreign(self) -> bool:
        """Whether nothing of ours explains that the slot is locked: after a crash the record remains."""
        if self.record is None or self.has_owner is False:
            return True
        return self.has_owner is None and not records.lives(self.record)


class _Mishaps:
    """What went wrong in one step of a build in the pool `directory`, and what can be done about it."""

    __slots__ = ("_directory", "_refused", "_removed", "_repaired")

    def __init__(self, directory: PoolDirectory) -> None:
        self._directory = directory
        self._removed = self._refused = self._repaired = 0

    def mend(self, error: OSError) -> float:
        """See to it that the step can be tried again after so many seconds.

        Raises `error` if there is nothing to be done.
        """
        if isinstance(error, FileNotFoundError):  # never made, or removed under us
            self._removed += 1
            if self._removed == line.REMOVALS:
                raise line.does_not_stay(self._directory.path) from error
            try:
                self._directory.make()
            except OSError as other:
                self._repair(other)
        elif isinstance(error, PermissionError) and self._may_be_unfinished():
            self._refused += 1
            return REFUSED_S
        elif not write_to_lock(error):
            self._repair(error)
        return 0.0

    def _may_be_unfinished(self) -> bool:
        """Whether what could not be opened may be something of a group's pool that is being made."""
        if self._refused == REFUSALS:
            return False
        return any(is_shared(path) and os.access(path, os.W_OK | os.X_OK) for path in self._directory.chain())

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
