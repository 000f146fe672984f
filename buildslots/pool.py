"""`SlotPool` and `build_slot`: build slots for Python code.

What a failing directory means is decided here: nothing but a warning (`UnthrottledWarning`), for a
throttle must not become the reason why nothing builds.
"""

from __future__ import annotations

import os
import sys

# What may only be needed later is loaded now as well: a program may run for months, and this package be
# upgraded or removed meanwhile. Only slot-run has no time for that.
import buildslots.gates
import buildslots.words
from buildslots import aio, logs
from buildslots.admission import LATE_S, Admission
from buildslots.block import Block
from buildslots.crowd import open_pool
from buildslots.decorated import decorated
from buildslots.disk import directory, kin, seen, wait  # noqa: F401
from buildslots.errors import PoolUnusableError, SlotTimeoutError, UnthrottledWarning
from buildslots.look import cap_of, pool_status
from buildslots.processes import occupy_standard
from buildslots.rules import Ruled
from buildslots.settings import Settings, compiled, file, machine, resolve  # noqa: F401
from buildslots.settings.values import UNSET
from buildslots.slot import Slot, slots_here

try:
    import buildslots.journal  # noqa: F401
except Exception:  # noqa: BLE001, S110 - it is worth no build, whatever is wrong with it
    pass

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from threading import Event
    from typing import Any, ParamSpec, TypeVar

    from buildslots.block import Wish
    from buildslots.gates import Gates
    from buildslots.settings.values import Timeout
    from buildslots.status import PoolStatus
    from buildslots.waiting import Waiting

    P = ParamSpec("P")
    R = TypeVar("R")


TRY_S = 0.007
"""How long `try_acquire` and `acquire(0)` try to get the mutex: the loop of tasks stands still meanwhile."""
FAILURES = (OSError, ImportError)
"""What the machinery fails with: a call, or a module that cannot be loaded, for want of a descriptor, say."""


class SlotPool(Block, Ruled):
    """The build slots of one pool, with settings as `slot-run` has them.

    Safe to share among threads and with forked children; pickled, it is the same pool with the same settings.

    >>> pool = SlotPool("link", slots=2)
    >>> slot = pool.acquire(timeout=30)
    >>> pool.status().held, pool.try_acquire(weight=2)
    (1, None)
    >>> slot.release()
    >>> with pool as slot:  # or async with; the same as build_slot(pool)
    ...     slot.number, pool.cap
    (0, 2)

    Args:
        pool: Name of the pool, or its URL if it is on a server; None for `BUILD_SLOTS_POOL` or the default
            pool.
        slots: The cap K; None for environment, config file or the machine's default.
        timeout: How long `acquire()` waits: seconds, a duration such as "10m", or a timedelta; None for ever;
            by default environment, config file, or 120 s.
        on_timeout: "run" (as overflow), "paced" (likewise, but one after the other) or "fail"; None for
            environment, config file or "run".
        gates: What the machine has to be like before a build starts; what it leaves open the config file
            may say.
        dir: The directory of the default pool; None for `BUILD_SLOTS_DIR` or the user's cache.
        on_wait: Called with a `Waiting` when a wait begins, after a second, and every 30 s. What it raises is
            logged, and the wait goes on.
        strict: Whether to raise `PoolUnusableError` where the pool cannot be used; or else the build runs
            without a slot.

    Raises:
        SettingError: A ValueError; an argument is not usable. (What the environment or the config
            file has wrong is a warning.)
    """

    __slots__ = ("_broken", "_on_wait", "_settings", "_strict", "name")

    name: str
    """Name of the pool; "default" for the default one."""

    def __init__(  # noqa: PLR0913 - one for each thing that can be set, by keyword only
        self,
        pool: str | None = None,
        *,
        slots: int | None = None,
        timeout: Timeout = UNSET,
        on_timeout: str | None = None,
        gates: Gates | None = None,
        dir: str | os.PathLike[str] | None = None,  # noqa: A002 - the word that users know from --dir
        on_wait: Callable[[Waiting], object] | None = None,
        strict: bool = False,
    ) -> None:
        super().__init__()
        self._on_wait = on_wait
        self._strict = strict
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
                warn=logs.warn,
            )
        except OSError as error:  # no home directory
            self._broken = error
        self.name = self._settings.pool if self._settings else pool or "default"

    def __repr__(self) -> str:
        return f"<SlotPool {self.name!r}>"

    def __getstate__(self) -> tuple[Any, ...]:
        # What this process holds is its own.
        return self._settings, self._broken, self.name, self._on_wait, self._strict

    def __setstate__(self, state: tuple[Any, ...]) -> None:
        super().__init__()
        self._settings, self._broken, self.name, self._on_wait, self._strict = state

    @property
    def cap(self) -> int:
        """K: how many slots may be held when a build of this pool starts.

        Raises:
            OSError: The pool has no place: no directory can be named.
        """
        return cap_of(self._usable_settings())[0]

    def acquire(  # noqa: PLR0913 - as the class
        self,
        timeout: Timeout = UNSET,
        on_timeout: str | None = None,
        *,
        weight: int | None = None,
        cancel: Event | None = None,
        label: str | None = None,
        priority: str | None = None,
    ) -> Slot:
        """Wait in line for a slot and take it.

        Under a slot of this pool (below `slot-run`, or with the environment of `Slot.environ()`) that slot is
        returned at once, nested. If the pool directory cannot be used, the slot returned holds nothing, with
        an `UnthrottledWarning`. The logger "buildslots" is told of long waits, and of overflow.

        Args:
            timeout: How long to wait: seconds, "10m", a timedelta; 0 not at all, None for ever; by default as
                the pool says.
            on_timeout: "run" or "paced": return an overflow slot then; "fail": raise; None for the pool's.
            weight: How many slots the build needs; it gets them together, in its turn. None for 1; more
                than K counts as K, with a warning.
            cancel: Ends the wait within a tenth of a second when some other thread sets it.
            label: What views, the waiting line and the journal call this build.
            priority: "high" or "low": stand in line as if it had come 5 minutes earlier or later.

        Raises:
            SlotTimeoutError: A TimeoutError; no slot in time. Nothing is held, and the place in line is gone.
            SlotCancelledError: A RuntimeError; `cancel` was set. Likewise.
            SettingError: A ValueError; an argument is not usable.
            PoolUnusableError: An OSError; the pool cannot be used, and is strict.
            PoolUnreachableError: An OSError; its server cannot be used, and `on_unreachable` is "fail".
        """
        try:
            admission = self._admission(
                timeout_s=timeout, on_timeout=on_timeout, weight=weight, priority=priority, label=label
            )
        except OSError as error:  # no directory for the pool
            return self._unthrottled(error)
        try:
            teller = logs.Teller(admission._settings, self._on_wait)
            with admission:
                slot = admission.acquire(teller.begin, cancel)
                admission.started(slot)
        except FAILURES as error:
            if not admission.has_failed:
                raise
            return self._unthrottled(error)
        teller.started(slot, admission.despite, admission.cap)
        return _given(slot, admission)

    async def acquire_async(  # noqa: PLR0913 - as the class
        self,
        timeout: Timeout = UNSET,  # noqa: ASYNC109 - it bounds the wait, and may end in a slot
        on_timeout: str | None = None,
        *,
        weight: int | None = None,
        cancel: Event | None = None,
        label: str | None = None,
        priority: str | None = None,
    ) -> Slot:
        """`acquire` for a task of asyncio, trio or anyio: others run while it waits, without a thread.

        When the task is cancelled, nothing is held, and the place in line is gone.
        """
        try:
            admission = self._admission(
                timeout_s=timeout, on_timeout=on_timeout, weight=weight, priority=priority, label=label
            )
        except OSError as error:  # no directory for the pool
            return self._unthrottled(error)
        try:
            teller = logs.Teller(admission._settings, self._on_wait)
            with admission:
                slot = await aio.acquire(admission, cancel, teller.begin)
                admission.started(slot)
        except FAILURES as error:
            if not admission.has_failed:
                raise
            return self._unthrottled(error)
        teller.started(slot, admission.despite, admission.cap)
        return _given(slot, admission)

    def try_acquire(self, *, weight: int | None = None, label: str | None = None) -> Slot | None:
        """Take a slot if one is free and nobody is in line; None otherwise. Otherwise like `acquire`."""
        try:
            return self.acquire(0, "fail", weight=weight, label=label)
        except SlotTimeoutError:
            return None

    def status(self) -> PoolStatus:
        """Who holds slots and who waits, in order, at this moment.

        Raises:
            OSError: The pool cannot be read.
        """
        return pool_status(self._usable_settings())

    def _wanted(self) -> tuple[SlotPool, Wish]:
        return self, {}

    def _admission(self, **said: Any) -> Admission:
        settings = self._usable_settings().replace(**said, warn=logs.warn)
        occupy_standard()
        late_s = TRY_S if settings.timeout_s == 0 else LATE_S
        return Admission(settings, sys.orig_argv, open_pool, late_s)

    def _unthrottled(self, error: Exception) -> Slot:
        """A slot that holds nothing, because of `error`. Raises PoolUnusableError if the pool is strict."""
        import warnings  # noqa: PLC0415 - off the fast path

        if self._strict:
            raise PoolUnusableError(self.name, str(error)) from error
        warning = UnthrottledWarning(self.name, str(error))
        logs.unthrottled(warning)
        warnings.warn(warning, stacklevel=logs.callers())
        return Slot(self.name, unthrottled=warning.cause)

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
                    if slot._covers(self._settings.address):
                        return slot._inner()
            except OSError as error:
                return self._unthrottled(error)
        return None


class build_slot(Block):  # noqa: N801 - used like a function
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

    Arguments as for `SlotPool` and `SlotPool.acquire`. The first may also be a `SlotPool`, which has its own
    `slots`, `gates`, `dir`, `on_wait` and `strict`. Wrong ones raise here. As a decorator it reads the
    environment and the config file anew for each call.

    Re-entrant: inside of it, in the same thread or task and in tasks that it starts, a further `build_slot()`
    of the same pool is the same slot. Raises what those raise, and then the block is not entered.
    """

    __slots__ = ("_name", "_options", "_pool", "_wish")

    def __init__(  # noqa: PLR0913 - one for each thing that can be said, by keyword only
        self,
        pool: str | SlotPool | None = None,
        *,
        slots: int | None = None,
        timeout: Timeout = UNSET,
        on_timeout: str | None = None,
        weight: int | None = None,
        gates: Gates | None = None,
        dir: str | os.PathLike[str] | None = None,  # noqa: A002 - the word that users know from --dir
        cancel: Event | None = None,
        label: str | None = None,
        priority: str | None = None,
        on_wait: Callable[[Waiting], object] | None = None,
        strict: bool = False,
    ) -> None:
        if callable(pool):
            raise TypeError("as a decorator it takes its arguments first: write @build_slot()")
        super().__init__()
        self._options: dict[str, Any] = {"slots": slots, "gates": gates, "dir": dir}
        self._options |= {"on_wait": on_wait, "strict": strict}
        self._wish: Wish = {"timeout": timeout, "on_timeout": on_timeout}
        if isinstance(pool, SlotPool):
            given = [name for name, value in self._options.items() if value not in (None, False)]
            if given:
                raise TypeError(f"{given[0]} is for the SlotPool: it cannot be given beside one")
            self._pool = pool
        else:
            self._pool = SlotPool(pool, **self._options)
            if dir is not None and self._pool._settings is not None:
                # The program may change its directory before a call.
                self._options["dir"] = os.path.abspath(os.fsdecode(dir))
        if self._pool._settings is not None:  # what is wrong raises here
            self._pool._settings.replace(
                timeout_s=timeout, on_timeout=on_timeout, weight=weight, priority=priority, label=label
            )
        self._wish |= {"weight": weight, "cancel": cancel, "label": label, "priority": priority}
        self._name = pool

    def __getstate__(self) -> tuple[str | SlotPool | None, SlotPool, dict[str, Any], Wish]:
        # What this process holds is its own.
        return self._name, self._pool, self._options, self._wish

    def __setstate__(self, state: tuple[str | SlotPool | None, SlotPool, dict[str, Any], Wish]) -> None:
        super().__init__()
        self._name, self._pool, self._options, self._wish = state

    def _wanted(self) -> tuple[SlotPool, Wish]:
        return self._pool, self._wish

    def __call__(self, function: Callable[P, R]) -> Callable[P, R]:
        """As a decorator: each call of `function` runs under a slot, to the end of what it does.

        What a coroutine function, or another one, returns to be awaited is awaited under the slot; a future
        that is returned keeps the slot until it is done.

        Raises:
            TypeError: `function` is a generator function, whose body would run after the slot was released;
                or a class, or no function at all. A call raises it if a generator is returned.
        """
        return decorated(_EachCall(self), function)


class _EachCall(Block):
    """The blocks of a decorated function: it has the settings of the call, not of its module's import."""

    __slots__ = ("_block",)

    def __init__(self, block: build_slot) -> None:
        super().__init__()
        self._block = block

    def _wanted(self) -> tuple[SlotPool, Wish]:
        block = self._block
        if isinstance(block._name, SlotPool):
            return block._wanted()
        return SlotPool(block._name, **block._options), block._wish


def _given(slot: Slot, admission: Admission) -> Slot:
    """`slot`, which is the caller's from now on, to release or to lose."""
    for sentence in admission.repaired:
        logs.warn(sentence)
    slot._given = True
    return slot
