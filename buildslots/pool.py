"""`SlotPool`, `Slot` and `build_slot`: build slots for Python code, and for `slot-run` itself.

Holds no state of the pool: every acquire works on descriptors of its own, so threads exclude
each other just as processes do. What a failing directory means is decided here: nothing but a
warning (`UnthrottledWarning`), for a throttle must not become the reason why nothing builds.
"""

from __future__ import annotations

import os
import sys
import time
from _thread import allocate_lock

from buildslots.disk.slots import Claim, PoolDirectory
from buildslots.errors import NotSlotOwnerError, SlotCancelledError, SlotReleasedError, SlotTimeoutError
from buildslots.settings import UNSET, Settings, resolve

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from threading import Event
    from types import TracebackType
    from typing import ParamSpec, Self, TypeVar

    from buildslots.disk.bells import Poll
    from buildslots.disk.queue import Ticket
    from buildslots.disk.slots import Hold
    from buildslots.disk.wait import Ears, Notice, Steps
    from buildslots.gates import Gates
    from buildslots.journal import Log
    from buildslots.settings import Unset
    from buildslots.status import PoolStatus

    P = ParamSpec("P")
    R = TypeVar("R")

HELD = "BUILD_SLOTS_HELD"
"""Environment variable with the slots that a command runs under: `N:NONCE` joined by commas."""
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
        if hold is not None:
            mark = f"{hold.numbers[0]}:{hold.nonce}"
        self.pool = pool
        self.number = None if mark is None else int(mark.partition(":")[0])
        self.weight = 0 if hold is None else len(hold.numbers)
        self.overflow = hold is not None and hold.overflow
        self.nested = hold is None and mark is not None
        self.waited_s = waited_s
        self._directory = directory
        self._hold = hold
        self._log: Log | None = None
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
        the same. Empty when this object holds nothing itself.
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
        held = _held()
        held.set((*held.get(()), self))
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        held = _held()
        held.set(tuple(slot for slot in held.get(()) if slot is not self))
        # Quietly, also after an early release() and in a forked child that leaves its parent's block.
        self._let_go(None)

    def _let_go(self, status: int | None) -> None:
        """Let go of what is held, if it still is; in a forked child, of its copies only."""
        self._released = True
        log, self._log = self._log, None
        if log is not None:
            log.stopped()  # before the next build may start
        if self._hold is not None:
            self._hold.release()
        if log is not None and self._pid == os.getpid():
            log.ended(status)

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
        try:  # in a forked child
            return PoolDirectory(directory).is_ours(self._hold.numbers[0], self._hold.nonce)
        except OSError:
            return False


class SlotPool:
    """The build slots of one pool, with settings as `slot-run` has them.

    Safe to share among threads and with forked children; pickled, it is the same pool with the same settings.

    >>> pool = SlotPool("link", slots=2)
    >>> slot = pool.acquire(timeout=30)
    >>> pool.status().held, pool.try_acquire(weight=2)
    (1, None)
    >>> slot.release()

    Args:
        pool: Name of the pool; None for `BUILD_SLOTS_POOL` or the default pool.
        slots: The cap K; None for environment, config file or the machine's default.
        timeout: Seconds for which `acquire()` waits, None for ever; by default environment, config
            file, or 120 s.
        on_timeout: "run" (as overflow), "paced" (likewise, but one after the other) or "fail"; None for
            environment, config file or "run".
        gates: What the machine has to be like before a build starts; what it leaves open the config file
            may say.
        dir: The directory of the default pool; None for `BUILD_SLOTS_DIR` or the user's cache.

    Raises:
        SettingError: A ValueError; an argument is not usable. (What the environment or the config
            file has wrong is a warning.)
    """

    __slots__ = ("_broken", "_settings", "name")

    def __init__(  # noqa: PLR0913 - one for each thing that can be set, by keyword only
        self,
        pool: str | None = None,
        *,
        slots: int | None = None,
        timeout: float | Unset | None = UNSET,
        on_timeout: str | None = None,
        gates: Gates | None = None,
        dir: str | None = None,  # noqa: A002 - the word that users know from --dir
    ) -> None:
        self._settings: Settings | None = None
        self._broken: OSError | None = None
        try:
            self._settings = resolve(
                pool=pool,
                slots=slots,
                timeout_s=timeout,
                on_timeout=on_timeout,
                gates=gates.as_dict() if gates else None,
                dir=dir,
                warn=_warn,
            )
        except OSError as error:  # no home directory
            self._broken = error
        self.name = self._settings.pool if self._settings else pool or "default"

    def __repr__(self) -> str:
        return f"<SlotPool {self.name!r}>"

    def acquire(
        self,
        timeout: float | Unset | None = UNSET,
        on_timeout: str | None = None,
        *,
        weight: int | None = None,
        cancel: Event | None = None,
    ) -> Slot:
        """Wait in line for a slot and take it.

        In a process that runs under a slot of this pool (below `slot-run`, or with the environment
        of `Slot.environ()`), that slot is returned at once, nested. If the pool directory cannot be
        used, the slot returned holds nothing, at once, with an `UnthrottledWarning`.

        Args:
            timeout: Seconds to wait, 0 not at all, None for ever; by default that of the pool.
            on_timeout: "run" or "paced": return an overflow slot then; "fail": raise; None for the pool's.
            weight: How many slots the build needs; it gets them together, in its turn. None for 1; more
                than K counts as K, with a warning.
            cancel: Ends the wait within a tenth of a second when some other thread sets it.

        Raises:
            SlotTimeoutError: A TimeoutError; no slot in time. Nothing is held, and the place in
                line is gone.
            SlotCancelledError: A RuntimeError; `cancel` was set. Likewise.
            SettingError: A ValueError; an argument is not usable.
        """
        try:
            admission = self._admission(timeout, on_timeout, weight)
            slot = admission.acquire(cancel=cancel)
        except SlotTimeoutError:
            raise
        except OSError as error:
            return self._unthrottled(error)
        admission.started(slot)
        return slot

    async def acquire_async(
        self,
        timeout: float | Unset | None = UNSET,  # noqa: ASYNC109 - it bounds the wait, and may end in a slot
        on_timeout: str | None = None,
        *,
        weight: int | None = None,
    ) -> Slot:
        """`acquire` for a task of asyncio, trio or anyio: others run while it waits, without a thread.

        When the task is cancelled, nothing is held, and the place in line is gone.
        """
        from buildslots import aio  # noqa: PLC0415 - asyncio

        try:
            admission = self._admission(timeout, on_timeout, weight)
            slot = await aio.acquire(admission)
        except SlotTimeoutError:
            raise
        except OSError as error:
            return self._unthrottled(error)
        admission.started(slot)
        return slot

    def try_acquire(self, *, weight: int | None = None) -> Slot | None:
        """Take a slot if one is free and nobody is in line; None otherwise. Otherwise like `acquire`."""
        try:
            return self.acquire(0, "fail", weight=weight)
        except SlotTimeoutError:
            return None

    def status(self) -> PoolStatus:
        """Who holds slots and who waits, in order, at this moment.

        Raises:
            OSError: The pool cannot be read.
        """
        from buildslots.status import pool_status  # noqa: PLC0415 - dataclasses, psutil

        return pool_status(self._usable_settings())

    def _admission(
        self, timeout: float | Unset | None, on_timeout: str | None, weight: int | None
    ) -> Admission:
        settings = self._usable_settings()
        settings = settings.replace(timeout_s=timeout, on_timeout=on_timeout, weight=weight, warn=_warn)
        return Admission(settings, sys.orig_argv)

    def _unthrottled(self, error: OSError) -> Slot:
        """A slot that holds nothing, because of `error`."""
        import warnings  # noqa: PLC0415 - off the fast path

        from buildslots.errors import UnthrottledWarning  # noqa: PLC0415

        warnings.warn(UnthrottledWarning(self.name, str(error)), stacklevel=_callers())
        return Slot(self.name)

    def _usable_settings(self) -> Settings:
        if self._settings is None:
            raise OSError(*(self._broken.args if self._broken else ("no pool directory",)))
        return self._settings

    def _slot_of_context(self) -> Slot | None:
        """The slot of this pool that this thread or task is under, as a nested one, or None."""
        if self._settings is not None:
            for slot in _held().get(()):
                if slot._covers(self._settings.dir):
                    return slot._inner()
        return None


class build_slot:  # noqa: N801 - used like a function
    """`with build_slot() as slot:` holds a build slot for the block; `async with` and `@build_slot()` too.

    >>> with build_slot("link", slots=1) as slot:
    ...     slot.number
    0
    >>> @build_slot(weight=2)
    ... async def build(what):
    ...     async with build_slot() as slot:  # the same slots
    ...         return what, slot.nested
    >>> asyncio.run(build("all"))
    ('all', True)

    Arguments as for `SlotPool`, and `weight`, how many slots it needs, as for `SlotPool.acquire`.

    Re-entrant: inside of it, in the same thread or task and in tasks that it starts, a further
    `build_slot()` of the same pool is the same slot. Raises what `SlotPool` and `SlotPool.acquire`
    raise; the block is not entered then.
    """

    __slots__ = ("_entered", "_pool", "_weight")

    def __init__(  # noqa: PLR0913 - one for each thing that can be said, by keyword only
        self,
        pool: str | None = None,
        *,
        slots: int | None = None,
        timeout: float | Unset | None = UNSET,
        on_timeout: str | None = None,
        weight: int | None = None,
        gates: Gates | None = None,
        dir: str | None = None,  # noqa: A002 - the word that users know from --dir
    ) -> None:
        if callable(pool):
            raise TypeError("as a decorator it takes its arguments first: write @build_slot()")
        self._pool = SlotPool(pool, slots=slots, timeout=timeout, on_timeout=on_timeout, gates=gates, dir=dir)
        self._weight = weight
        self._entered: list[Slot] = []

    def __getstate__(self) -> tuple[SlotPool, int | None]:
        # What this process holds is its own.
        return self._pool, self._weight

    def __setstate__(self, state: tuple[SlotPool, int | None]) -> None:
        self._pool, self._weight = state
        self._entered = []

    def __enter__(self) -> Slot:
        pool = self._pool
        return self._enter(pool._slot_of_context() or pool.acquire(weight=self._weight))

    def _enter(self, slot: Slot) -> Slot:
        slot._block = self
        self._entered.append(slot)
        return slot.__enter__()

    async def __aenter__(self) -> Slot:
        pool = self._pool
        return self._enter(pool._slot_of_context() or await pool.acquire_async(weight=self._weight))

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.__exit__(kind, error, trace)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        # Of this thread or task, and the innermost: the object may be entered more than once. An exit stack
        # may be closed in another task than it was filled in: then what was entered last.
        ours = (slot for slot in reversed(_held().get(())) if slot._block is self)
        slot = next(ours, None) or self._entered[-1]
        self._entered.remove(slot)
        slot.__exit__(kind, error, trace)

    def __call__(self, function: Callable[P, R]) -> Callable[P, R]:
        """As a decorator: each call of `function`, sync or async, runs under a slot.

        Raises:
            TypeError: `function` is a generator function: its body would run after the slot was released.
        """
        import functools  # noqa: PLC0415 - off the fast path
        import inspect  # noqa: PLC0415

        if inspect.isgeneratorfunction(function) or inspect.isasyncgenfunction(function):
            raise TypeError(
                f"{function.__qualname__} is a generator function: use `with build_slot()` inside"
            )
        call = getattr(function, "__call__", None)  # noqa: B004 - it may be an object with an async one
        if inspect.iscoroutinefunction(function) or inspect.iscoroutinefunction(call):

            @functools.wraps(function)
            async def run_async(*args: P.args, **kwargs: P.kwargs) -> object:
                async with self:
                    return await function(*args, **kwargs)  # type: ignore[misc]

            return run_async  # type: ignore[return-value]  # R is the coroutine that it returns

        @functools.wraps(function)
        def run(*args: P.args, **kwargs: P.kwargs) -> R:
            with self:
                return function(*args, **kwargs)

        return run


class Admission:
    """The way of one build to its slot: `acquire()`, and `started()` when it runs. Tells the journal.

    Args:
        settings: Pool, cap, and what to do at the timeout.
        command: What others are told that this build is.
    """

    __slots__ = ("_claim", "_directory", "_log", "_pid", "_settings", "_ticket")

    def __init__(self, settings: Settings, command: list[str]) -> None:
        self._settings = settings
        self._claim = Claim(settings.slots, command, settings.weight, settings.gates)
        self._directory = PoolDirectory(settings.dir)
        self._ticket: Ticket | None = None
        self._log: Log | None = None
        self._pid = os.getpid()

    @property
    def despite(self) -> str | None:
        """What of the machine's state it did not wait for any longer, at the timeout; None if nothing."""
        return self._claim.despite

    def acquire(self, notice: Callable[[], Notice | None] | None = None, cancel: Event | None = None) -> Slot:
        """Get a slot as `SlotPool.acquire` does, which calls this, as does `slot-run`.

        Who had to wait for it keeps its place in line: nobody behind it starts before `started()`, so
        that builds start in exactly the order in which they came.

        Args:
            notice: Called when a wait begins; what it returns, if anything, is told when to speak.
            cancel: Ends the wait when it is set.

        Raises:
            SlotTimeoutError: A TimeoutError, and so an OSError; no slot in time.
            SlotCancelledError: `cancel` was set.
            OSError: The pool directory cannot be used. Nothing is held, and no place in line.
        """
        steps = self.steps(notice)
        try:
            ears, seconds = next(steps)
            while True:
                sound = ears.listen(seconds) if cancel is None else self._listen(ears, seconds, cancel)
                ears, seconds = steps.send(sound)
        except StopIteration as end:
            slot: Slot = end.value
            return slot
        finally:
            steps.close()  # whatever ended the wait, and wherever it came: nothing may stay in line

    def steps(
        self, notice: Callable[[], Notice | None] | None = None, poll: Callable[[], Poll] | None = None
    ) -> Steps[Slot]:
        """`acquire` without the sleeping: see `disk.wait.Wait.steps`."""
        try:
            outer = _outer(self._directory)
            if outer is not None:
                return Slot(self._settings.pool, self._settings.dir, mark=outer)
            hold = yield from self._take(notice, poll)
        except BaseException as error:
            if self._ticket is not None:
                self._ticket.leave()
            self._failed(error)
            raise
        return Slot(self._settings.pool, self._settings.dir, hold=hold, waited_s=self._claim.waited_s)

    def started(self, slot: Slot, child: int | None = None) -> None:
        """Leave the line: the build has started under `slot`, as the process `child`. Raises nothing."""
        if self._ticket is not None:
            self._ticket.leave()
        if child is not None and slot._hold is not None:
            slot._hold.runs(child)
        if slot._hold is not None and (log := self._told()):
            log.started(slot._hold.numbers, slot.waited_s, overflow=slot.overflow)
            slot._log = log

    def _take(
        self, notice: Callable[[], Notice | None] | None, poll: Callable[[], Poll] | None
    ) -> Steps[Hold]:
        """Take a slot at once, or wait in line for it; at the timeout do what the settings say."""
        began = time.monotonic()
        claim, timeout_s = self._claim, self._settings.timeout_s
        if timeout_s == 0:
            hold = self._directory.try_take(claim)
        else:
            hold, self._ticket = self._directory.take_or_join(claim)
        if self._ticket is not None:
            if log := self._told():
                log.queued()
            from buildslots.disk.wait import Wait  # noqa: PLC0415 - only who has to wait needs it

            deadline = float("inf") if timeout_s is None else began + timeout_s
            paced_s = timeout_s if self._settings.on_timeout == "paced" else None
            told = notice() if notice else None
            wait = Wait(self._directory, self._ticket, claim, deadline, told, paced_s=paced_s)
            hold = yield from wait.steps(poll)
        claim.waited_s = time.monotonic() - began
        if hold is not None:
            return hold
        if self._settings.on_timeout != "fail":
            return self._directory.take_overflow(claim)
        raise SlotTimeoutError(self._settings.pool, timeout_s or 0.0, claim.waited_s)

    def _listen(self, ears: Ears, seconds: float, cancel: Event) -> bool:
        """Sleep as `ears.listen` does, and look now and then whether `cancel`, which has no bell, is set."""
        until = time.monotonic() + seconds
        while not cancel.is_set():
            left = until - time.monotonic()
            if ears.listen(min(left, CANCEL_S)):
                return True
            if left <= CANCEL_S:
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


def _outer(directory: PoolDirectory) -> str | None:
    """The mark of the slot of this pool under which this process runs, from its environment, or None."""
    for mark in os.environ.get(HELD, "").split(","):
        number, _, nonce = mark.partition(":")
        if nonce and number.isdecimal() and len(number) < 10 and directory.is_ours(int(number), nonce):
            return mark
    return None


def _held() -> _ContextVar:
    """The context variable with the slots whose `with` blocks this thread or task is in."""
    global _context  # noqa: PLW0603 - made when first needed: slot-run never does
    if _context is None:
        from contextvars import ContextVar  # noqa: PLC0415

        with _making:
            _context = _context or ContextVar("buildslots_held")
    return _context


if TYPE_CHECKING:
    from contextvars import ContextVar

    _ContextVar = ContextVar[tuple[Slot, ...]]

_context: _ContextVar | None = None
_making = allocate_lock()


def _warn(text: str) -> None:
    import warnings  # noqa: PLC0415 - off the fast path

    warnings.warn(f"buildslots: {text}", RuntimeWarning, stacklevel=_callers())


def _callers() -> int:
    """The `stacklevel` with which a warning is about the line outside of this module that called it."""
    frame, level = sys._getframe(1), 1
    while frame.f_back is not None and frame.f_globals.get("__name__", "").startswith("buildslots."):
        frame, level = frame.f_back, level + 1
    return level
