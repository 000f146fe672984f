"""Many callers in one process: two of them stand in line for all, the others wait in memory behind them.

A program may have a thousand tasks that all want to build. With a ticket for each they would need thousands
of descriptors; and a loop that is blocked by ordinary code for a while would hold up the line by a thousand
places. So whoever comes when two of this process are in line waits in memory. When one of the two leaves, the
next caller joins the line with the number of its own arrival, and so the order between processes stays exact.
It joins before the other leaves: nobody behind them can become the head in between. (slot-run is one caller.)
"""

from __future__ import annotations

import errno
import os
import time
from _thread import allocate_lock
from _weakref import ref
from collections import deque

from buildslots.alarm import Alarm
from buildslots.backend import Refusal
from buildslots.disk.line import NUMBER_DIGITS
from buildslots.logs import lost
from buildslots.slot import open_pool as open_for_one

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

    from buildslots.backend import Backend, Hold, Kin, Notice, Place, Request, Steps

IN_LINE = 2
"""So many callers of a process have tickets: one takes the next slot, and one is there when that leaves."""
RETRY_S = 0.05
"""How often a caller whose turn it is tries again to get the descriptors that it needs."""
CHECK_S = 1.0
"""How often the first in memory looks whether a place in line was lost, by a Ctrl-C at a bad moment."""
KIN_S = 0.1
"""For how long it is still true who holds the slots: a thousand callers need not look a thousand times."""
NO_DESCRIPTORS = (errno.EMFILE, errno.ENFILE)
MANY = 64
"""With more holds than that it is worth the time to forget those that are over."""


class Crowd:
    """The callers of this process that wait for one pool, in the order of their arrival.

    It knows them by weak references: a caller that a Ctrl-C has lost must not keep its ticket for ever.
    """

    __slots__ = ("_holds", "_kin", "_last", "_lock", "_seen_at", "_standing", "_waiting")

    def __init__(self) -> None:
        self._lock = allocate_lock()
        self._standing: list[ref[Caller]] = []  # in line, or about to join it
        self._waiting: deque[ref[Caller]] = deque()
        self._holds: list[ref[Hold]] = []
        self._last = 0
        self._kin: Kin | None = None
        self._seen_at = 0.0

    def arrives(self, caller: Caller, head_start_us: int) -> None:
        """Give `caller` its number; it stands in line, or waits in memory, from now on.

        Its priority lets it stand `head_start_us` microseconds before its arrival.
        """
        with self._lock:
            self._last = max(time.time_ns() // 1000, self._last + 1)
            caller.number = caller.order = self._last - head_start_us
            _insert(self._waiting, caller)
            self._fill()

    def leaves(self, caller: Caller) -> None:
        """Let the next callers stand in line in the place of `caller`. Idempotent."""
        with self._lock:
            self._standing = [one for one in self._standing if one() is not caller]
            if caller.may_be_in_memory:
                self._waiting = deque([one for one in self._waiting if one() is not caller])
            self._fill()
            if caller.has_place:
                self._keep_place()
            told = [one() for one in self._standing]
            if self._waiting:  # it is to see to it that somebody leaves
                told.append(self._waiting[0]())
        for one in told:
            if one is not None and not one.has_place:
                one.is_told()

    def _fill(self) -> None:
        """Let those who are first in memory stand in line. With the lock."""
        self._standing = [one for one in self._standing if one() is not None]
        while self._waiting:
            first = self._waiting[0]()
            last = self._standing[-1]() if len(self._standing) >= IN_LINE else None
            # One more ticket for who has a head start on those in line: the others of us wait behind it.
            if first is not None and last is not None and first.order > last.order:
                break
            self._waiting.popleft()
            if first is not None:
                _insert(self._standing, first)

    def _keep_place(self) -> None:
        """Let the first in memory stand in line if all who do are on their way to it. With the lock.

        Who has a head start may have come later. While it waits for the mutex nobody of us would be in line,
        and others would start before those in memory who came before them.
        """
        while self._waiting and not any((c := one()) is not None and c.may_join for one in self._standing):
            first = self._waiting.popleft()()
            if first is not None:
                _insert(self._standing, first)

    def stands(self, caller: Caller) -> bool:
        """Whether `caller` has to be in line now."""
        with self._lock:
            self._fill()
            return caller in [one() for one in self._standing]

    def is_next(self, caller: Caller) -> bool:
        """Whether `caller` is the first in memory."""
        with self._lock:
            return bool(self._waiting) and self._waiting[0]() is caller

    def number_for(self, caller: Caller) -> int:
        """The number with which `caller` joins the line: behind those of its priority who came before it."""
        number = caller.number
        with self._lock:
            for one in self._standing:
                other = one()
                if other is caller:
                    break
                if other is not None and other.priority == caller.priority:
                    number = max(number, other.number + 1)
        return number

    def has_got(self, hold: Hold) -> Hold:
        """Remember that a caller holds slots; it stays theirs to forget."""
        with self._lock:
            if len(self._holds) > MANY:
                self._holds = [one for one in self._holds if _is_held(one)]
            self._holds.append(ref(hold))
        return hold

    def kin(self, pool: Backend) -> Kin:
        """What the holders of the slots are to this process: one look for all who come at about one time."""
        now = time.monotonic()
        if self._kin is None or self._kin.may_start or now - self._seen_at > KIN_S:
            self._kin, self._seen_at = pool.kin(), now
        return self._kin

    def is_lack_of_ours(self, error: OSError, caller: Caller) -> bool:
        """Whether only this process has no descriptor left, while others of it hold slots or wait.

        That is no broken pool: to run without a slot would be a stampede of all of them.
        """
        if error.errno not in NO_DESCRIPTORS:
            return False
        with self._lock:
            others = [one for one in (*self._standing, *self._waiting) if one() not in (None, caller)]
            return bool(others) or any(map(_is_held, self._holds))


def _insert(line: list[ref[Caller]] | deque[ref[Caller]], caller: Caller) -> None:
    """Put `caller` into `line`, which is sorted by `order`; nearly always at its end."""
    at = len(line)
    while at and ((other := line[at - 1]()) is None or other.order > caller.order):
        at -= 1
    line.insert(at, ref(caller))


def _is_held(hold: ref[Hold]) -> bool:
    held = hold()
    return held is not None and held.is_held


_crowds: dict[tuple[int, str], Crowd] = {}
"""By process, for a forked child has none of its parent's threads, and by the address of the pool."""


def open_pool(address: str, late_at: float = float("inf")) -> Backend:
    """The pool at `address`, for one caller of many. Arguments as for `slot.open_pool`."""
    crowd = _crowds.setdefault((os.getpid(), address), Crowd())
    return CrowdedPool(open_for_one(address, late_at, lost), crowd)


class CrowdedPool:
    """`pool` as one of many callers uses it: see `backend.Backend`."""

    __slots__ = ("_crowd", "_pool")

    def __init__(self, pool: Backend, crowd: Crowd) -> None:
        self._pool = pool
        self._crowd = crowd

    @property
    def repaired(self) -> list[str]:
        """What of the pool could not be used, and what became of it, in words."""
        return self._pool.repaired

    def is_ours(self, number: int, nonce: str) -> bool:
        """Whether slot `number` is still held by the very holding that `nonce` marks. Raises OSError."""
        return self._pool.is_ours(number, nonce)

    def kin(self) -> Kin:
        """What those who hold the slots are to this process. Raises nothing."""
        return self._crowd.kin(self._pool)

    def attempt(self, request: Request) -> Steps[Hold | Refusal]:
        """Take slots if they are free and nobody is in line."""
        found = yield from self._pool.attempt(request)
        return found if isinstance(found, Refusal) else self._crowd.has_got(found)

    def enter(
        self, request: Request, poll: Callable[[], Any] | None = None
    ) -> Steps[tuple[Hold, None] | tuple[None, Caller]]:
        """The same; otherwise join the line, or wait in memory behind the others of this process."""
        caller = Caller(self._pool, self._crowd, request, poll)
        self._crowd.arrives(caller, self._pool.head_start_us(request))
        try:
            if not self._crowd.stands(caller):
                return None, caller
            entered = yield from self._pool.enter(request, poll)
            if entered[1] is not None:
                caller.has_joined(entered[1])
                return None, caller
            caller.leave()
            return self._crowd.has_got(entered[0]), None
        except OSError as error:
            if self._crowd.is_lack_of_ours(error, caller):
                return None, caller
            caller.leave()
            raise
        except BaseException:
            caller.leave()
            raise
        finally:
            caller.has_come()

    def head_start_us(self, request: Request) -> int:
        """By how many microseconds its priority lets `request` stand in line before its arrival."""
        return self._pool.head_start_us(request)

    def ruled(self, request: Request) -> Request:
        """`request` with the cap that the pool's rules give it."""
        return self._pool.ruled(request)

    def paused_s(self, since: float) -> float:
        """For how many seconds since that `time.monotonic()` nobody could start; infinity in a pause."""
        return self._pool.paused_s(since)

    def exceed(self, request: Request, refusal: Refusal) -> Steps[Hold]:
        """Take slots beyond the cap, after `refusal`."""
        return self._crowd.has_got((yield from self._pool.exceed(request, refusal)))

    def join(self, request: Request, number: int, poll: Callable[[], Any] | None) -> Place:
        """Join the line at the place of `number`."""
        return self._pool.join(request, number, poll)


class Caller:
    """One caller's place: in line, or in memory. See `backend.Place`.

    Attributes:
        number: Of its arrival, as of a ticket; once it is in line, that of its ticket.
        order: The first of these; callers of one process come before each other by it. A ticket that had to
            wait for the mutex has a larger number than who arrived meanwhile.
        may_be_in_memory: Whether it has never been seen to stand in line.
    """

    __slots__ = (
        "__weakref__",
        "_alarm",
        "_crowd",
        "_joining",
        "_pid",
        "_place",
        "_poll",
        "_pool",
        "_request",
        "may_be_in_memory",
        "number",
        "order",
        "priority",
    )

    def __init__(self, pool: Backend, crowd: Crowd, request: Request, poll: Callable[[], Any] | None) -> None:
        self._pool = pool
        self._crowd = crowd
        self._request = request
        self._poll = poll
        self._place: Place | None = None
        self._joining = allocate_lock()
        self._joining.acquire()
        self._pid = os.getpid()
        self._alarm = Alarm()
        self.number = self.order = 0
        self.priority = request.priority
        self.may_be_in_memory = True

    @property
    def has_place(self) -> bool:
        """Whether it is in line."""
        return self._place is not None

    @property
    def may_join(self) -> bool:
        """Whether it is in line, or others can make it join: it is not on its way there."""
        return self._place is not None or not self._joining.locked()

    def has_come(self) -> None:
        """It is in line or in memory: from now on others can make it join the line.

        On its way there, which leads to the mutex first, it joins by itself: with two places in line it would
        wait for itself.
        """
        self._joining.release()

    def has_joined(self, place: Place) -> None:
        """Take over `place` in line."""
        self.number = place.number
        self._place = place
        self.may_be_in_memory = False

    def is_told(self) -> None:
        """Join the line, if it stands there now, in whatever thread this is; and look. Raises nothing."""
        try:
            if self._crowd.stands(self):
                self.join()
        except Exception:  # noqa: BLE001, S110 - it tries itself, and says what is wrong
            pass
        self._alarm.ring()

    def join(self) -> None:
        """Join the line, in the place of the caller's arrival; by whichever thread comes first.

        Raises OSError.
        """
        if not self._joining.acquire(blocking=False):
            return
        try:
            if self._place is None:
                number = self._crowd.number_for(self)
                self.has_joined(self._pool.join(self._request, number, self._poll))
        finally:
            self._joining.release()

    def until(
        self, deadline: float, notice: Notice | None = None, since: float | None = None
    ) -> Steps[Hold | Refusal]:
        """Wait until there is a slot for us, or until `time.monotonic()` is `deadline`, and pauses longer."""
        since = self._request.began if since is None else since
        while True:
            place = self._place
            try:
                if place is not None:
                    found = yield from place.until(deadline, notice, since)
                    return found if isinstance(found, Refusal) else self._crowd.has_got(found)
                if self._crowd.stands(self):
                    self.join()
                    continue
                pause_s = CHECK_S if self._crowd.is_next(self) else float("inf")
            except OSError as error:
                if not self._crowd.is_lack_of_ours(error, self):
                    raise
                self._lose_place()
                pause_s = RETRY_S
            now, due = time.monotonic(), deadline
            if now >= deadline:
                due += self._pool.paused_s(since)
                if now >= due:
                    return Refusal(self._request.limit)
                pause_s = min(pause_s, CHECK_S)  # nobody tells those in memory that a pause is over
            if notice is not None:
                if now >= notice.due:
                    notice.tell(self._pool, f"{self.number:0{NUMBER_DIGITS}d}", None)
                pause_s = min(pause_s, max(0.0, notice.due - now))
            yield self._alarm, min(pause_s, due - now)

    def _lose_place(self) -> None:
        """Give the descriptors of the wait back, for want of one more; the number stays ours."""
        place, self._place = self._place, None
        if place is not None:
            place.leave()

    def paced_start(self, refusal: Refusal, paced_s: float) -> Steps[Hold | float]:
        """Start beyond the cap if it is our turn; those who wait in memory come after those in line."""
        if self._place is None:
            return paced_s
        found = yield from self._place.paced_start(refusal, paced_s)
        return found if isinstance(found, float) else self._crowd.has_got(found)

    def leave(self) -> None:
        """Leave the line, or the memory; before that the next caller joins. Idempotent, raises nothing."""
        try:
            if self._pid == os.getpid():
                self._crowd.leaves(self)
        finally:
            if self._place is not None:
                self._place.leave()
