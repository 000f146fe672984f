"""`Slot`, and `Admission`: the way of one build to it, for Python code and for `slot-run` alike.

Holds no state of the pool: every admission works on descriptors of its own, so threads exclude each
other just as processes do. Of this package `slot-run` loads nothing above this module.
"""

from __future__ import annotations

import os
import time
from _thread import allocate_lock

from buildslots.disk.lock import check_root
from buildslots.disk.slots import Claim, PoolDirectory
from buildslots.errors import NotSlotOwnerError, SlotCancelledError, SlotReleasedError, SlotTimeoutError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from contextvars import ContextVar
    from threading import Event
    from types import TracebackType
    from typing import Self, TypeAlias

    from buildslots.disk.bells import Poll
    from buildslots.disk.queue import Ticket
    from buildslots.disk.slots import Hold
    from buildslots.disk.wait import Ears, Notice, Steps, Wait
    from buildslots.gates import Gates
    from buildslots.journal import Log
    from buildslots.settings import Settings

    Slots: TypeAlias = "ContextVar[tuple[Slot, ...]]"

HELD = "BUILD_SLOTS_HELD"
"""Environment variable with the slots that a command runs under: `N:NONCE` joined by commas."""
MARKS = 64
"""How many of its marks are looked up, the last ones: a command runs under as many pools' slots, not as many
slots, and one that has run under thousands says nonsense."""
LATE_S = 1.0
"""By how much whatever others do to the pool may delay a build beyond its timeout."""
FEW = 8
"""With so many slots at most, what a wait has opened, three descriptors a slot, stays so until release."""
CANCEL_S = 0.1
"""How often a wait that can be cancelled looks whether it was."""
NUMBER = "BUILD_SLOT"
"""Environment variable with the number of the slot that a command runs under."""


class Slot:
    """A slot that is held until `release()`, until the end of `with slot:`, or until it is forgotten.

    >>> with SlotPool(slots=3).acquire(weight=2) as slot:
    ...     slot.number, slot.weight, slot.overflow
    (0, 2, False)

    Nothing is held when `number` is None (the machinery failed, and a warning said so) or
    `nested` is True (an outer holder has it, and releases it). Such a slot is released like any other.

    Attributes:
        pool: Name of the pool; "default" for the default one.
        number: N of `slot-N`, the lowest of those that it holds, or None.
        weight: How many slots it holds; 0 if none itself.
        overflow: Whether the cap was full at the timeout, so that this build runs beyond it.
        nested: Whether this is the slot of an outer `build_slot()` or `slot-run`.
        waited_s: Seconds from the request to the start.
    """

    __slots__ = (
        "_admission",
        "_block",
        "_directory",
        "_hold",
        "_log",
        "_mark",
        "_pid",
        "_released",
        "nested",
        "number",
        "overflow",
        "pool",
        "waited_s",
        "weight",
    )

    def __init__(
        self,
        pool: str,
        directory: str | None = None,
        *,
        hold: Hold | None = None,
        mark: str | None = None,
        waited_s: float = 0.0,
    ) -> None:
        """Made by this package only: of a `hold`, of the `mark` of an outer slot, or of neither."""
        self.pool = pool
        if hold is not None:
            self.number: int | None = hold.numbers[0]
            mark = f"{self.number}:{hold.nonce}"
        else:
            self.number = None if mark is None else int(mark.partition(":")[0])
        self.weight = 0 if hold is None else len(hold.numbers)
        self.overflow = hold is not None and hold.overflow
        self.nested = hold is None and mark is not None
        self.waited_s = waited_s
        self._directory = directory
        self._hold = hold
        self._log: Log | None = None
        self._admission: Admission | None = None
        self._mark = mark
        self._pid = os.getpid()
        self._released = False
        self._block: object = None

    def __repr__(self) -> str:
        state = "released" if self._released else "nested" if self.nested else "held"
        return f"<Slot {self.number} of pool {self.pool!r}, {state}>"

    @property
    def descriptors(self) -> list[int]:
        """What a child process inherits to hold the slot should this process be killed with SIGKILL.

        For `subprocess`: `pass_fds=slot.descriptors`. A release by this process frees the slot all
        the same. Empty when this object holds nothing itself. A child that wants to can free the slot by them
        earlier, and no more: they neither write nor read.
        """
        if self._hold is None or self._released:
            return []
        return self._hold.descriptors

    def release(self, status: int | None = None) -> None:
        """Give the slot back; the next in line starts.

        Args:
            status: How the build ended, for the journal: its exit status, or minus the signal that
                killed it, as in `subprocess.Popen.returncode`. None if there is no telling.

        Raises:
            SlotReleasedError: It was released before.
            NotSlotOwnerError: This process was forked from the one that acquired the slot. The slot
                stays with that process.
        """
        if self._released:
            raise SlotReleasedError(self.pool, self.number)
        if self._pid != os.getpid():
            raise NotSlotOwnerError(self.pool, self.number, self._pid, os.getpid())
        self._let_go(status)

    def environ(self, base: Mapping[str, str] | None = None) -> dict[str, str]:
        """The environment in which a child process counts as running under this slot.

        Args:
            base: What to start from; None for `os.environ`.
        """
        env = dict(os.environ if base is None else base)
        if self._mark is None:
            env.pop(NUMBER, None)
        else:
            env[NUMBER] = str(self.number)
            marks = env.get(HELD, "")
            if self._mark not in marks.split(","):
                env[HELD] = f"{marks},{self._mark}".lstrip(",")
        return env

    def _inner(self) -> Slot:
        """A nested slot under this one."""
        return Slot(self.pool, self._directory, mark=self._mark)

    def __enter__(self) -> Self:
        held = slots_here()
        held.set((*held.get(()), self))
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        held = slots_here()
        held.set(tuple(slot for slot in held.get(()) if slot is not self))
        # Quietly, also after an early release() and in a forked child that leaves its parent's block.
        self._let_go(None)

    def _let_go(self, status: int | None) -> None:
        """Let go of what is held, if it still is; in a forked child, of its copies only."""
        self._released = True
        at, until = time.time(), time.monotonic()  # before the next build may start
        if self._hold is not None:
            self._hold.release()
            self._hold = None  # who forgets the slot at the next acquire() has no time for it
        admission, self._admission = self._admission, None
        if admission is not None:
            admission.tidy()
        log, self._log = self._log, None
        if log is not None and self._pid == os.getpid():
            log.ended(status, at, until)

    def __del__(self) -> None:
        if getattr(self, "_hold", None) is not None and not self._released:  # lost like a file
            self._let_go(None)

    def __reduce__(self) -> str:
        raise TypeError("a slot belongs to the process that took it, and cannot be pickled")

    def _covers(self, directory: str) -> bool:
        """Whether a build of the pool in `directory`, with this slot in its context, runs under it."""
        if self._released or self._directory != directory or self.number is None:
            return False
        if self._hold is None or self._pid == os.getpid():
            return True
        # In a forked child; raises OSError, as in `_outer`.
        return PoolDirectory(directory).is_ours(self._hold.numbers[0], self._hold.nonce)


class Admission:
    """The way of one build to its slot: `acquire()`, and `started()` when it runs. Tells the journal.

    Args:
        settings: Pool, cap, and what to do at the timeout.
        command: What others are told that this build is.
    """

    __slots__ = ("_claim", "_directory", "_hold", "_log", "_pid", "_settings", "_ticket", "_wait")

    def __init__(self, settings: Settings, command: list[str]) -> None:
        self._settings = settings
        self._claim = Claim(settings.slots, command, settings.weight, _gates(settings))
        late_at = float("inf")  # whose turn comes after the timeout has time for the mutex then
        if settings.timeout_s is not None and settings.on_timeout != "paced":
            late_at = time.monotonic() + settings.timeout_s + LATE_S
        self._directory = PoolDirectory(settings.dir, late_at)
        self._hold: Hold | None = None
        self._ticket: Ticket | None = None
        self._wait: Wait | None = None
        self._log: Log | None = None
        self._pid = os.getpid()

    @property
    def despite(self) -> str | None:
        """What of the machine's state it did not wait for any longer, at the timeout; None if nothing."""
        return self._claim.despite

    @property
    def repaired(self) -> list[str]:
        """What of the pool could not be used, and what became of it, in words."""
        return self._directory.repaired

    def acquire(
        self,
        notice: Callable[[], Notice | None] | None = None,
        cancel: Event | None = None,
        nap: Callable[[float], None] = time.sleep,
    ) -> Slot:
        """Get a slot as `SlotPool.acquire` does, which calls this, as does `slot-run`.

        Who had to wait for it keeps its place in line: nobody behind it starts before `started()`, so
        that builds start in exactly the order in which they came.

        Args:
            notice: Called when a wait begins; what it returns, if anything, is told when to speak.
            cancel: Ends the wait when it is set.
            nap: Sleeps for so many seconds at most, while somebody has the mutex.

        Raises:
            SlotTimeoutError: A TimeoutError, and so an OSError; no slot in time.
            SlotCancelledError: `cancel` was set.
            OSError: The pool directory cannot be used. Nothing is held, and no place in line.
        """
        steps = self.steps(notice)
        try:
            ears, seconds = next(steps)
            while True:
                if cancel is not None:
                    sound = self._listen(ears, seconds, cancel)
                elif ears is not None:
                    sound = ears.listen(seconds)
                else:
                    sound = False
                    nap(seconds)
                ears, seconds = steps.send(sound)
        except StopIteration as end:
            slot: Slot = end.value
            return slot
        except BaseException:
            self.abandon()  # it may have come when the slot was taken already
            raise
        finally:
            steps.close()  # whatever ended the wait, and wherever it came: nothing may stay in line

    def tidy(self) -> None:
        """Leave the line, and close what the wait has left open. Idempotent, raises nothing."""
        if self._ticket is not None:
            self._ticket.leave()
        self._close()

    def _close(self) -> None:
        if self._wait is not None:
            self._wait.close()
        if self._log is not None:
            self._log.close()

    def abandon(self) -> None:
        """Let go of the slot and of the place in line, if there are any. Idempotent, raises nothing."""
        self.tidy()
        if self._hold is not None:
            self._hold.release()

    def steps(
        self, notice: Callable[[], Notice | None] | None = None, poll: Callable[[], Poll] | None = None
    ) -> Steps[Slot]:
        """`acquire` without the sleeping: see `disk.wait.Wait.steps`."""
        try:
            outer = _outer(self._directory)
            if outer is not None:
                return Slot(self._settings.pool, self._settings.dir, mark=outer)
            check_root(self._settings.dir)
            hold = self._hold = yield from self._take(notice, poll)
            return Slot(self._settings.pool, self._settings.dir, hold=hold, waited_s=self._claim.waited_s)
        except BaseException as error:
            self.abandon()
            self._failed(error)
            raise

    def started(self, slot: Slot, child: int | None = None) -> None:
        """Leave the line: the build has started under `slot`, as the process `child`.

        Raises nothing but a Ctrl-C, and then, without a `child`, nothing is kept.
        """
        try:
            if self._ticket is not None:
                self._ticket.give_way()
            if child is not None and slot._hold is not None:
                slot._hold.runs(child)
            if slot._hold is not None and (log := self._log or self._told()):
                log.started(slot._hold.numbers, slot.waited_s, overflow=slot.overflow)
                slot._log = log
            if child is not None:
                self.tidy()
            elif self._ticket is not None:
                slot._admission = self  # to tidy up has time until the slot is released
                if self._claim.cap > FEW:
                    self._close()
        except BaseException:
            if child is None:
                self.abandon()
            raise

    def _take(
        self, notice: Callable[[], Notice | None] | None, poll: Callable[[], Poll] | None
    ) -> Steps[Hold]:
        """Take a slot at once, or wait in line for it; at the timeout do what the settings say."""
        began = time.monotonic()
        claim, timeout_s = self._claim, self._settings.timeout_s
        if timeout_s == 0:
            hold = yield from self._directory.turn(lambda: self._directory.try_take(claim))
        else:
            hold, self._ticket = yield from self._directory.turn(lambda: self._directory.take_or_join(claim))
        if self._ticket is not None:
            if log := self._told():
                log.queued()
            prepare = log.prepare if log else None
            from buildslots.disk.wait import Wait  # noqa: PLC0415 - only who has to wait needs it

            deadline = float("inf") if timeout_s is None else began + timeout_s
            paced_s = timeout_s if self._settings.on_timeout == "paced" else None
            told = notice() if notice else None
            self._wait = Wait(
                self._directory, self._ticket, claim, deadline, told, paced_s=paced_s, prepare=prepare
            )
            hold = yield from self._wait.steps(poll)
        claim.waited_s = time.monotonic() - began
        if hold is not None:
            return hold
        if self._settings.on_timeout != "fail":
            return (yield from self._directory.turn(lambda: self._directory.take_overflow(claim)))
        raise SlotTimeoutError(self._settings.pool, timeout_s or 0.0, claim.waited_s)

    def _listen(self, ears: Ears | None, seconds: float, cancel: Event) -> bool:
        """Sleep as `ears.listen` does, and look now and then whether `cancel`, which has no bell, is set."""
        until = time.monotonic() + seconds
        while not cancel.is_set():
            left = until - time.monotonic()
            if ears is None:
                time.sleep(max(0.0, min(left, CANCEL_S)))
            elif ears.listen(min(left, CANCEL_S)):
                return True
            if left <= CANCEL_S or (ears is not None and ears.is_near):
                return False
        raise SlotCancelledError(self._settings.pool)

    def _failed(self, error: BaseException) -> None:
        """Tell the journal why there is no slot; not of a look (`try_acquire`) that found none."""
        if self._pid != os.getpid():
            return  # a forked child drops what its parent waits for
        # What ends a sleep, a cancellation say, arrives here as the GeneratorExit of `acquire`.
        gave_up = isinstance(error, SlotTimeoutError) or not isinstance(error, Exception)
        if (self._ticket is not None or not gave_up) and (log := self._told()):
            if gave_up:
                log.gave_up("timeout" if isinstance(error, SlotTimeoutError) else "interrupted")
            else:
                log.degraded(str(error) or repr(error))

    def _told(self) -> Log | None:
        """What tells the journal of this build; None if it is off, or cannot be loaded. Raises nothing."""
        if self._log is None and self._settings.journal != "off":
            try:
                from buildslots.journal import Log  # noqa: PLC0415 - when the command runs, or has to wait

                self._log = Log(self._settings, self._claim.command, self._claim.nonce[:12])
            except Exception:  # noqa: BLE001 - no descriptor left, say, or an upgrade has removed the module
                return None
        return self._log


def _gates(settings: Settings) -> Gates | None:
    """What tells whether the machine is within the bounds of `settings`; None if there are none."""
    bounds = settings.gates
    if bounds is None:
        return None
    from buildslots.gates import Gates  # noqa: PLC0415 - only who has bounds needs it

    return Gates(bounds.min_free_memory, bounds.max_load, bounds.max_pressure)


def _outer(directory: PoolDirectory) -> str | None:
    """The mark of the slot of this pool under which this process runs, from its environment, or None.

    Raises OSError if that cannot be told: a build that took "unknown" for "none" might wait for its own slot.
    """
    marks = os.environ.get(HELD)
    for mark in marks.rsplit(",", MARKS)[-MARKS:] if marks else ():
        number, _, nonce = mark.partition(":")
        if nonce and number.isdecimal() and len(number) < 10 and directory.is_ours(int(number), nonce):
            return mark
    return None


def slots_here() -> Slots:
    """The context variable with the slots whose `with` blocks this thread or task is in."""
    global _context  # noqa: PLW0603 - made when first needed: slot-run never does
    if _context is None:
        from contextvars import ContextVar  # noqa: PLC0415

        with _making:
            _context = _context or ContextVar("buildslots_held")
    return _context


_context: Slots | None = None
_making = allocate_lock()
