"""`Admission`: the way of one build to its slot, for Python code and for `slot-run` alike.

Holds no state of the pool: every admission works on descriptors of its own, so threads exclude each
other just as processes do. Of this package `slot-run` loads nothing above this module.
"""

from __future__ import annotations

import os
import time

from buildslots.backend import Refusal, Request, labelled
from buildslots.errors import PoolUnreachableError, SlotCancelledError, SlotTimeoutError
from buildslots.slot import HELD, MARKS, Slot, open_pool

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from threading import Event
    from types import TracebackType
    from typing import Self

    from buildslots.backend import Backend, Chore, Hold, Listener, Notice, Place, Steps, Watch
    from buildslots.gates import Gates
    from buildslots.journal import Log
    from buildslots.settings import Settings

LATE_S = 1.0
"""By how much whatever others do to the pool may delay a build beyond its timeout."""
ABOVE_S, ABOVE_AGAIN_S = 0.3, 0.03
"""For how long, and how often, to look whether a slot-run above us says now what it runs."""
PACE_S = 5.0
"""How often, at least, one whose timeout is over looks whether it is its turn to fall through: those ahead
may have left, which makes it come sooner."""
CANCEL_S = 0.1
"""How often a wait that can be cancelled looks whether it was."""


class Admission:
    """The way of one build to its slot; tells the journal.

    >>> with Admission(settings, command) as admission:
    ...     slot = admission.acquire()
    ...     child = start(command, slot)
    ...     admission.started(slot, child.pid)

    At the end of the block the place in line is gone, and so is the slot, if no build has `started` in it.

    Args:
        settings: Pool, cap, and what to do at the timeout.
        command: What others are told that this build is, if the settings give it no label.
        open_pool: Opens the pool: that of `slot`, or that of `crowd`.
        late_s: By how much whatever others do to the pool may delay it beyond its timeout.
        tells: Whether the child that `started` is told of is all that runs under the slot.
        owner: For which process the build is done: see `backend.Request`.

    Attributes:
        has_failed: Whether our machinery has failed, and so no slot was got.
    """

    __slots__ = (
        "_hold",
        "_late_s",
        "_log",
        "_pid",
        "_place",
        "_pool",
        "_request",
        "_settings",
        "_started",
        "has_failed",
    )

    def __init__(  # noqa: PLR0913 - all that one build needs
        self,
        settings: Settings,
        command: list[str],
        open_pool: Callable[[str, float], Backend] = open_pool,
        late_s: float = LATE_S,
        *,
        tells: bool = False,
        owner: str | None = None,
    ) -> None:
        self._settings = settings
        self._late_s = late_s
        self._request = Request(
            settings.slots,
            command if settings.label is None else [labelled(settings.label)],
            settings.wanted,
            _gates(settings),
            tells=tells,
            is_own_cap=settings.are_own_slots,
            priority=settings.priority,
            owner=owner,
        )
        late_at = float("inf")  # whose turn comes after the timeout has time for the mutex then
        if settings.timeout_s is not None and settings.on_timeout != "paced":
            late_at = self._request.began + settings.timeout_s + late_s
        self._pool = open_pool(settings.address, late_at)
        self._hold: Hold | None = None
        self._place: Place | None = None
        self._log: Log | None = None
        self._pid = os.getpid()
        self._started = False
        self.has_failed = False

    @property
    def despite(self) -> str | None:
        """What of the machine's state it did not wait for any longer, at the timeout; None if nothing."""
        return None if self._hold is None else self._hold.despite

    @property
    def chores(self) -> list[Chore]:
        """What has to be done while the build runs, to keep its slots."""
        chore = None if self._hold is None else self._hold.chore
        return [] if chore is None else [chore]

    @property
    def cap(self) -> int:
        """K, by which it was decided at last."""
        return self._settings.slots if self._hold is None else self._hold.cap

    @property
    def repaired(self) -> list[str]:
        """What of the pool could not be used, and what became of it, in words."""
        return self._pool.repaired

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close(error)

    def close(self, error: BaseException | None = None) -> None:
        """Leave the line, and let go of the slot unless the build has started. Idempotent, raises nothing.

        Args:
            error: Why there is no slot; the journal is told.
        """
        if self._place is not None:
            self._place.leave()
        if self._started or self._pid != os.getpid():  # a forked child drops what its parent waits for
            return
        self._started = True  # it never will
        if self._hold is not None:
            self._hold.release()
        if error is not None:
            self._failed(error)

    def acquire(
        self,
        notice: Callable[[], Notice | None] | None = None,
        cancel: Event | None = None,
        nap: Callable[[float], None] = time.sleep,
        watch: Watch | None = None,
    ) -> Slot:
        """Get a slot as `SlotPool.acquire` does, which calls this, as does `slot-run`.

        Who had to wait for it keeps its place in line: nobody behind it starts before `started()`, so
        that builds start in exactly the order in which they came.

        Args:
            notice: Called when a wait begins; what it returns, if anything, is told when to speak.
            cancel: Ends the wait when it is set.
            nap: Sleeps for so many seconds at most, while somebody has the mutex.
            watch: What may end the wait by an exception of its own.

        Raises:
            SlotTimeoutError: A TimeoutError, and so an OSError; no slot in time.
            SlotCancelledError: `cancel` was set.
            OSError: The pool cannot be used.
        """
        steps = self.steps(notice, None if watch is None else watch.poll)
        try:
            ears, seconds = next(steps)
            while True:
                if watch is not None:
                    seconds = min(seconds, watch.look_s)
                if cancel is not None:
                    sound = self._listen(ears, seconds, cancel)
                elif ears is not None:
                    sound = ears.listen(seconds)
                else:
                    sound = False
                    nap(seconds)
                if watch is not None:
                    watch.check()
                ears, seconds = steps.send(sound)
        except StopIteration as end:
            slot: Slot = end.value
            return slot
        except OSError as error:  # of poll(2), say
            self.blame(error)
            raise
        finally:
            steps.close()  # whatever ended the wait, and wherever it came: the mutex is let go of

    def steps(
        self, notice: Callable[[], Notice | None] | None = None, poll: Callable[[], object] | None = None
    ) -> Steps[Slot]:
        """`acquire` without the sleeping, with what `poll` makes: see `backend.Steps`."""
        try:
            return (yield from self._steps(notice, poll))
        except Exception as error:  # what comes while the caller sleeps only closes this generator
            self.blame(error)
            raise

    def blame(self, error: Exception) -> None:
        """Note whether `error`, which ended the wait, is a failure of our machinery: `has_failed`."""
        if isinstance(error, SlotTimeoutError) or _is_the_caller_s(error):
            return
        self.has_failed = not (isinstance(error, PoolUnreachableError) and is_to_fail(self._settings))

    def _steps(
        self, notice: Callable[[], Notice | None] | None, poll: Callable[[], object] | None
    ) -> Steps[Slot]:
        settings = self._settings
        if settings.disabled:
            self._started = True
            return Slot(settings.pool, unthrottled="BUILD_SLOTS_DISABLE is set")
        outer = _outer(self._pool)
        if outer is not None:
            return self._nested(outer)
        found: Hold | Refusal | None = None
        if settings.timeout_s == 0:
            found = yield from self._pool.attempt(self._request)
            if isinstance(found, Refusal):
                if (outer := (yield from self._above())) is not None:
                    return self._nested(outer)
                # The time of a pause does not count: who has no time to wait still waits for its end.
                wait = found.is_paused and settings.on_timeout != "fail"
                found = None if wait else (yield from self._at_timeout(found))
            self._hold = found
        if found is None:
            self._hold, self._place = yield from self._pool.enter(self._request, poll)
            if self._place is not None:
                if (outer := (yield from self._above())) is not None:
                    return self._nested(outer)
                self._hold = yield from self._wait(self._place, notice)
        waited_s = time.monotonic() - self._request.began
        return Slot(settings.pool, settings.address, hold=self._hold, waited_s=waited_s, settings=settings)

    def _above(self) -> Steps[str | None]:
        """The mark of the slot of a command below which we run, though our environment does not say so.

        Its slot-run says which process that is only after it has started it. Whoever has no time to wait has
        some for that, as for the mutex.
        """
        timeout_s = self._settings.timeout_s
        most_s = ABOVE_S if timeout_s is None else min(ABOVE_S, max(timeout_s / 2, self._late_s))
        until = time.monotonic() + most_s
        kin = self._pool.kin()
        while kin.may_start and kin.mark is None and time.monotonic() < until:
            yield None, ABOVE_AGAIN_S
            kin = self._pool.kin()
        return kin.mark

    def _nested(self, mark: str) -> Slot:
        """The slot of an outer holder, which `mark` names; nobody waits for this build in line."""
        if self._place is not None:
            self._place.leave()
        self._started = True  # long ago
        settings = self._settings
        return Slot(settings.pool, settings.address, mark=mark, settings=settings)

    def started(self, slot: Slot, child: int | None = None) -> Log | None:
        """Leave the line: the build has started under `slot`, as the process `child`.

        The slot stays from now on, whatever becomes of the admission. Raises nothing but a Ctrl-C.

        Returns:
            What tells the journal of this build, at the slot's release; None if nothing does.
        """
        if child is not None:
            self._started = True
        if self._place is not None:
            self._place.leave()
        if self._hold is not None:
            if child is not None:
                self._hold.runs(child)
            if log := self._told():
                log.started(self._hold.numbers, slot.waited_s, overflow=slot.overflow, cap=self._hold.cap)
                slot._log = log
        self._started = True
        return slot._log

    def _wait(self, place: Place, notice: Callable[[], Notice | None] | None) -> Steps[Hold]:
        """Wait in line for a slot, and do at the timeout what the settings say."""
        if log := self._told():
            log.queued(self._pool.ruled(self._request))
        told = notice() if notice else None
        timeout_s = self._settings.timeout_s
        found = yield from place.until(
            float("inf") if timeout_s is None else self._request.began + timeout_s, told
        )
        while isinstance(found, Refusal):
            if self._settings.on_timeout != "paced":
                return (yield from self._at_timeout(found))
            turn = yield from place.paced_start(found, timeout_s or 0.0)
            if not isinstance(turn, float):
                return turn
            now = time.monotonic()
            found = yield from place.until(now + min(turn, PACE_S), told, now)
        return found

    def _at_timeout(self, refusal: Refusal) -> Steps[Hold]:
        """Start beyond the cap, or give up. Paced starts are `_wait`'s business."""
        if self._settings.on_timeout == "fail":
            waited_s = time.monotonic() - self._request.began
            timeout_s = self._settings.timeout_s or 0.0
            raise SlotTimeoutError(self._settings.pool, timeout_s, waited_s, refusal.gate)
        return (yield from self._pool.exceed(self._request, refusal))

    def _listen(self, ears: Listener | None, seconds: float, cancel: Event) -> bool:
        """Sleep as `ears.listen` does, and look now and then whether `cancel`, which has no bell, is set."""
        until = time.monotonic() + seconds
        while not cancel.is_set():
            left = until - time.monotonic()
            if ears is None:
                time.sleep(max(0.0, min(left, CANCEL_S)))
            elif ears.listen(min(left, CANCEL_S)):
                return True
            if left <= CANCEL_S:
                return False
        raise SlotCancelledError(self._settings.pool)

    def _failed(self, error: BaseException) -> None:
        """Tell the journal why there is no slot; not of a look (`try_acquire`) that found none."""
        is_gone = isinstance(error, PoolUnreachableError)
        if (self._place is not None or self.has_failed or is_gone) and (log := self._told()):
            if self.has_failed:
                log.degraded(str(error) or repr(error))
            elif is_gone:
                log.gave_up("unreachable")
            else:
                log.gave_up("timeout" if isinstance(error, SlotTimeoutError) else "interrupted")

    def _told(self) -> Log | None:
        """What tells the journal of this build; None if it is off, or cannot be loaded. Raises nothing."""
        if self._log is None and self._settings.journal != "off":
            try:
                from buildslots.journal import Log  # noqa: PLC0415 - when the command runs, or has to wait

                self._log = Log(self._settings, self._request.command, self._request.nonce[:12])
            except Exception:  # noqa: BLE001 - no descriptor left, say, or an upgrade has removed the module
                return None
        return self._log


def is_to_fail(settings: Settings) -> bool:
    """Whether a server that cannot be reached is a failure, and no reason to build without it."""
    return getattr(settings.address, "on_unreachable", "") == "fail"


def _is_the_caller_s(error: Exception) -> bool:
    """Whether `error` comes from a signal handler of the program, or was put into this thread.

    A handler runs in the middle of whatever runs, and so in our code, too; the traceback shows its frame.
    What another thread puts into this one has no frame (PyThreadState_SetAsyncExc); but what a system call
    raises has a number.
    """
    if isinstance(error, OSError) and error.errno is None:
        return True
    known = (os.path.dirname(__file__), os.path.dirname(os.__file__), "<frozen")
    trace = error.__traceback__
    while trace is not None:
        if not trace.tb_frame.f_code.co_filename.startswith(known):
            return True
        trace = trace.tb_next
    return False


def _gates(settings: Settings) -> Gates | None:
    """What tells whether the machine is within the bounds of `settings`; None if there are none."""
    bounds = settings.gates
    if bounds is None:
        return None
    from buildslots.gates import Gates  # noqa: PLC0415 - only who has bounds needs it

    return Gates.within(bounds)


def _outer(pool: Backend) -> str | None:
    """The mark of the slot of this pool under which this process runs, from its environment, or None.

    Raises OSError if that cannot be told: a build that took "unknown" for "none" might wait for its own slot.
    """
    marks = os.environ.get(HELD)
    for mark in marks.rsplit(",", MARKS)[-MARKS:] if marks else ():
        number, _, nonce = mark.partition(":")
        if nonce and number.isdecimal() and len(number) < 10 and pool.is_ours(int(number), nonce):
            return mark
    return None
