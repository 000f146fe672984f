"""`with` and `async with`: entering under the slot that the thread or task has, or under one of its own.

One object may be entered by many threads and tasks at once, and what Python calls at the end of a block does
not say which entry that ends. So each entry is noted with the task or thread that made it.
"""

from __future__ import annotations

import sys
import threading

from buildslots.slot import slots_here

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from threading import Event
    from types import TracebackType
    from typing import TypedDict

    from buildslots.pool import SlotPool
    from buildslots.settings.values import Timeout
    from buildslots.slot import Slot

    class Wish(TypedDict, total=False):
        """Arguments of `SlotPool.acquire`."""

        timeout: Timeout
        on_timeout: str | None
        weight: int | None
        cancel: Event | None
        label: str | None
        priority: str | None


slots_here()  # what it needs is loaded now: a block must not fail for want of a descriptor


class Block:
    """What can stand in a `with` or `async with` statement, which holds a slot for its block.

    Re-entrant: inside of it, in the same thread or task and in tasks that it starts, a further block of the
    same pool is under the same slot.
    """

    __slots__ = ("__weakref__", "_entered")

    def __init__(self) -> None:
        self._entered: dict[Slot, object] = {}

    def _wanted(self) -> tuple[SlotPool, Wish]:
        """Of which pool a slot is wanted, and what `SlotPool.acquire` is told."""
        raise NotImplementedError

    def __enter__(self) -> Slot:
        pool, wish = self._wanted()
        return self._enter(pool._slot_of_context() or pool.acquire(**wish))

    async def __aenter__(self) -> Slot:
        pool, wish = self._wanted()
        return self._enter(pool._slot_of_context() or await pool.acquire_async(**wish))

    def _enter(self, slot: Slot) -> Slot:
        self._entered[slot] = who()
        return slot.__enter__()

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.__exit__(kind, error, trace)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._leave()

    def _leave(self, when_done: Callable[[Callable[[object], None]], object] | None = None) -> None:
        """End a block and let go of its slot; with the `add_done_callback` of a future, when that is done."""
        slot = self._last()
        if when_done is None:
            slot.__exit__(None, None, None)
        else:
            slot._leave_block()
            when_done(lambda _: slot._let_go(None))

    def _last(self) -> Slot:
        """The slot whose block ends, taken out.

        Nearly always the innermost that this very thread or task has entered. An exit stack may be closed in
        another one than it was filled in: then one that nobody else can leave any more, or else the last.
        """
        mine = who()
        for slot in reversed(slots_here().get(())):
            if self._entered.get(slot) is mine and self._entered.pop(slot, None):
                return slot
        for slot, other in reversed(list(self._entered.items())):
            if _is_over(other) and self._entered.pop(slot, None):
                return slot
        return self._entered.popitem()[0]


def who() -> object:
    """The task that runs, of asyncio or trio, or else the thread."""
    for library, ask in (("asyncio", "asyncio"), ("trio", "trio.lowlevel")):
        module = sys.modules.get(ask) if library in sys.modules else None
        try:
            task = module.current_task() if module is not None else None
        except RuntimeError:
            continue  # no loop of that kind runs here
        if task is not None:
            return task
    return threading.current_thread()


def _is_over(who: object) -> bool:
    """Whether that task or thread has ended."""
    if isinstance(who, threading.Thread):
        return not who.is_alive()
    coroutine = who.get_coro() if hasattr(who, "get_coro") else getattr(who, "coro", None)
    return getattr(coroutine, "cr_frame", None) is None
