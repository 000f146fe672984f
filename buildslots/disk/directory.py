"""The directory of one pool: made, repaired, looked at; arriving in it. The `Backend` on this machine.

Relies on `disk.taking` for the slots and on `disk.line` for the order. After an exception nothing is kept.
"""

from __future__ import annotations

import errno
import os
import time
from stat import S_ISFIFO, S_ISREG

from buildslots.backend import Kin, Refusal
from buildslots.disk import line
from buildslots.disk.holding import Hold, ticket_record
from buildslots.disk.lock import Mutex, does_not_stay, is_old, locked, write_to_lock
from buildslots.disk.taking import MANY, held_slots, rules_of, slot_numbers, take, take_beyond
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
from buildslots.settings.values import DEFAULT_PRIORITY, PRIORITIES

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import TypeVar

    from buildslots.backend import Hold as AnyHold
    from buildslots.backend import Place, Request, Steps
    from buildslots.disk.bells import Poll
    from buildslots.disk.line import Ticket
    from buildslots.disk.reader import Reader
    from buildslots.disk.rules import Rules

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
ELSEWHERE = "@"
"""What the nonces of slots on servers begin with: see `fleet.client`."""
READER = "-"
"""What the nonces of those begin with who may only read the pool: see `disk.reader`."""
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

    def attempt(self, request: Request) -> Steps[AnyHold | Refusal]:
        """Take slots if they are free and nobody is in line."""
        check_root(self.path)
        try:
            return (yield from self.under_mutex(lambda: self.try_take(request)))
        except OSError as error:
            return self._reader(error).attempt(request)

    def enter(
        self, request: Request, poll: Callable[[], Poll] | None = None
    ) -> Steps[tuple[AnyHold, None] | tuple[None, Place]]:
        """The same; otherwise join the line."""
        check_root(self.path)
        try:
            found = yield from self.under_mutex(lambda: self.take_or_join(request))
        except OSError as error:
            reader = self._reader(error)
            taken = reader.attempt(request)
            return (None, reader.look(request)) if isinstance(taken, Refusal) else (taken, None)
        if isinstance(found, Hold):
            return found, None
        try:
            from buildslots.disk.wait import Wait  # noqa: PLC0415 - only a process that has to wait needs it

            return None, Wait(self, found, request, poll)
        except BaseException:
            found.leave()
            raise

    def join(self, request: Request, number: int, poll: Callable[[], Poll] | None = None) -> Place:
        """Join the line at the place of `number`; without the mutex, which makes only arriving exact."""
        from buildslots.disk.wait import Wait  # noqa: PLC0415 - as above

        ruled = self.ruled(request)
        record = ticket_record(ruled, since=(number + self.head_start_us(request)) / 1e6)
        steps = self.with_repairs(lambda: line.Ticket(self.path, ruled.limit, record, number=number))
        try:
            while True:
                time.sleep(next(steps)[1])
        except StopIteration as end:
            ticket: Ticket = end.value
        except OSError as error:
            return self._reader(error).look(request, number)
        return Wait(self, ticket, request, poll)

    def exceed(self, request: Request, refusal: Refusal) -> Steps[AnyHold]:
        """Take slots beyond the cap, after `refusal`."""
        try:
            return (yield from self.under_mutex(lambda: take_beyond(self.path, request, refusal.gate)))
        except OSError as error:
            return self._reader(error).exceed(request, refusal)

    def is_ours(self, number: int, nonce: str) -> bool:
        """Whether slot `number` is still held by the very holding that `nonce` marks.

        It is when the slot is locked, the bell, if there is one, has not rung, and the record has the nonce.
        Raises OSError if that cannot be told: only what is not there is nobody's.
        """
        if nonce.startswith(ELSEWHERE) or not locked(f"{self.path}/slot-{number}"):
            return False
        if nonce.startswith(READER):
            from buildslots.disk.reader import is_above  # noqa: PLC0415 - only in a sandbox

            return is_above(self.path, number)
        from buildslots.disk.seen import Seen  # noqa: PLC0415 - only below a slot

        seen = Seen(self.path, number, strict=True)
        return seen.nonce == nonce and seen.has_owner is not False

    def _reader(self, error: OSError) -> Reader:
        """This pool, for who may not write into it, which is what `error` says; or else raises that.

        What a sandbox has made read-only, and what is closed to us but for reading.
        """
        try:
            can_be_read = error.errno in {errno.EROFS, errno.EACCES} and bool(slot_numbers(self.path))
        except OSError:
            can_be_read = False
        if not can_be_read:
            raise error
        from buildslots.disk.reader import Reader  # noqa: PLC0415 - only in a sandbox

        return Reader(self, error)

    def kin(self) -> Kin:
        """What those who hold the slots are to this process. Raises nothing."""
        from buildslots.disk.kin import kin_of  # noqa: PLC0415 - only a process that has to wait needs them
        from buildslots.disk.seen import Seen  # noqa: PLC0415

        try:
            return kin_of(self.path, (Seen(self.path, number) for number in self.held()))
        except OSError:
            return Kin(None, is_own=False)  # what cannot be told keeps nobody from waiting

    # The rules of the pool.

    def ruled(self, request: Request) -> Request:
        """`request` with the cap that the pool's rules give it."""
        rules = self.rules()
        return request if rules is None else rules.applied(request)

    def rules(self) -> Rules | None:
        """The pool's rules; None if it has none. What is wrong with them is told once, in `repaired`."""
        return rules_of(self.path, self.repaired)

    def head_start_us(self, request: Request) -> int:
        """By how many microseconds its priority lets `request` stand in line before its arrival."""
        if request.priority == DEFAULT_PRIORITY:
            return 0
        rules = self.rules()
        head_start_s = line.HEAD_START_S if rules is None else rules.head_start_s
        return PRIORITIES[request.priority] * int(head_start_s * 1e6)

    def paused_s(self, since: float) -> float:
        """For how many seconds since that `time.monotonic()` nobody could start; infinity in a pause."""
        rules = self.rules()
        if rules is None:
            return 0.0
        return float("inf") if rules.pause(time.time()) else rules.paused_s(since)

    # Arriving. Only under the mutex.

    def try_take(self, request: Request) -> Hold | Refusal:
        """Take slots if they are free and nobody is in line."""
        if line.tickets(self.path):
            rules = self.rules()
            pause = None if rules is None else rules.pause(time.time())
            if pause is not None:
                return Refusal(request.limit, str(pause), is_paused=True)
            return Refusal(request.limit)
        return take(self.path, request, told=self.repaired)

    def take_or_join(self, request: Request) -> Hold | Ticket:
        """The same; otherwise join the line."""
        before = line.tickets(self.path)
        if not before:
            found = take(self.path, request, told=self.repaired)
            if isinstance(found, Hold):
                return found
        request = self.ruled(request)
        head_start_us = self.head_start_us(request)
        return line.Ticket(
            self.path, request.limit, ticket_record(request), before, head_start_us=head_start_us
        )

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

    def has_room(self, request: Request) -> bool:
        """Whether slots seem to be free for `request`, and nobody is in line. Raises OSError."""
        rules = self.rules()
        if rules is not None and rules.pause(time.time()):
            return False
        try:
            return not line.tickets(self.path) and len(self.held()) < self.ruled(request).limit
        except FileNotFoundError:
            return True  # nobody has used it yet

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
                raise does_not_stay(self._directory.path) from error
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
