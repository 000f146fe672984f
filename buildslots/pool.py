"""`SlotPool` and `build_slot`: build slots for Python code.

What a failing directory means is decided here: nothing but a warning (`UnthrottledWarning`), for a
throttle must not become the reason why nothing builds.
"""

from __future__ import annotations

import sys

from buildslots.admission import LATE_S, Admission, Slot, slots_here
from buildslots.crowd import open_pool
from buildslots.errors import SlotTimeoutError
from buildslots.settings import Settings, resolve
from buildslots.settings.values import UNSET

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from threading import Event
    from types import TracebackType
    from typing import ParamSpec, TypeVar

    from buildslots.gates import Gates
    from buildslots.settings.values import Unset
    from buildslots.status import PoolStatus

    P = ParamSpec("P")
    R = TypeVar("R")


TRY_S = 0.007
"""How long `try_acquire` and `acquire(0)` try to get the mutex: tasks call them, and the others of the loop
stand still meanwhile."""
FAILURES = (OSError, ImportError)
"""What the machinery fails with: a call, or a module that cannot be loaded, for want of a descriptor, say."""


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
        except OSError as error:  # no directory for the pool
            return self._unthrottled(error)
        try:
            with admission:
                slot = admission.acquire(cancel=cancel)
                admission.started(slot)
        except FAILURES as error:
            if not admission.has_failed:
                raise
            return self._unthrottled(error)
        for sentence in admission.repaired:
            _warn(sentence)
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
        except OSError as error:  # no directory for the pool
            return self._unthrottled(error)
        try:
            with admission:
                slot = await aio.acquire(admission)
                admission.started(slot)
        except FAILURES as error:
            if not admission.has_failed:
                raise
            return self._unthrottled(error)
        for sentence in admission.repaired:
            _warn(sentence)
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
        late_s = TRY_S if settings.timeout_s == 0 else LATE_S
        return Admission(settings, sys.orig_argv, open_pool, late_s)

    def _unthrottled(self, error: Exception) -> Slot:
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
        """The slot of this pool that this thread or task is under, as a nested one, or None.

        One that holds nothing if that cannot be told: to wait might be to wait for oneself.
        """
        if self._settings is not None:
            try:
                for slot in slots_here().get(()):
                    if slot._covers(self._settings.dir):
                        return slot._inner()
            except OSError as error:
                return self._unthrottled(error)
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
        ours = (slot for slot in reversed(slots_here().get(())) if slot._block is self)
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


def _warn(text: str) -> None:
    import warnings  # noqa: PLC0415 - off the fast path

    warnings.warn(f"buildslots: {text}", RuntimeWarning, stacklevel=_callers())


def _callers() -> int:
    """The `stacklevel` with which a warning is about the line outside of this module that called it."""
    frame, level = sys._getframe(1), 1
    while frame.f_back is not None and frame.f_globals.get("__name__", "").startswith("buildslots."):
        frame, level = frame.f_back, level + 1
    return level
