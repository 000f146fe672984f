"""What users write, with the types that checkers have to see; checked by test_typing.py, never run."""

import threading
from collections.abc import Callable, Coroutine
from datetime import timedelta
from pathlib import Path
from typing import Any, assert_type

from buildslots import (
    Gates,
    Holder,
    NotSlotOwnerError,
    PoolRules,
    PoolStatus,
    Reason,
    SettingError,
    Slot,
    SlotCancelledError,
    SlotPool,
    SlotReleasedError,
    SlotTimeoutError,
    UnthrottledWarning,
    Waiter,
    build_slot,
)

with build_slot() as slot:
    assert_type(slot, Slot)
    assert_type(slot.number, int | None)
    assert_type(slot.weight, int)
    assert_type(slot.environ(), dict[str, str])
    assert_type(slot.descriptors, list[int])

pool = SlotPool(
    "link", slots=2, timeout=None, on_timeout="paced", gates=Gates(2**30, max_pressure={"io": 40})
)
with pool.acquire(weight=2, cancel=threading.Event()) as slot:
    assert_type(slot, Slot)
assert_type(pool.try_acquire(label="web"), Slot | None)
assert_type(pool.cap, int)
with pool as slot, build_slot(pool, timeout="10m", label="web", cancel=threading.Event()) as inner:
    assert_type((slot, inner.released), tuple[Slot, bool])
SlotPool(timeout=timedelta(minutes=10), dir=Path("slots")).acquire("1m30s").release()

assert_type(pool.set_rules(slots=4), PoolRules)
assert_type(pool.pause("10m", "a new kernel").paused_until, float | None)
assert_type((pool.resume().slots, pool.rules().problem), tuple[int | None, str | None])
status = pool.status()
assert_type(status.paused_until, float | None)
assert_type(status, PoolStatus)
assert_type(status.holders, tuple[Holder, ...])
assert_type(status.waiters, tuple[Waiter, ...])
assert_type(status.waiters[0].eta_s, float | None)
assert_type(status.waiters[0].reasons, tuple[Reason, ...])
assert_type(status.held, int)
assert_type(status.holders[0].slots, tuple[int, ...])


async def tasks() -> None:
    async with build_slot(pool="link", weight=2) as held:
        assert_type(held, Slot)
    assert_type(await pool.acquire_async(timeout=30, label="web"), Slot)
    async with pool as held:
        assert_type(held, Slot)


@build_slot(weight=2)
def make(target: str, *, jobs: int = 1) -> bytes:
    return target.encode() * jobs


@build_slot()
async def make_async(target: str) -> bytes:
    return target.encode()


class Maker:
    @build_slot()
    def make(self, target: str) -> int:
        return len(target)

    @staticmethod
    @build_slot(dir=Path("slots"))
    def make_all() -> int:
        return 0


assert_type(make("all", jobs=2), bytes)
assert_type(Maker().make("all"), int)
make_async_again: Callable[[str], Coroutine[Any, Any, bytes]] = make_async
make(1)  # wrong: str
make("all", job=2)  # wrong: jobs
assert_type(Maker.make_all(), int)
build_slot(slots="2")  # wrong: int
build_slot(timeout=b"10m")  # wrong: str


def errors(
    error: SettingError
    | SlotTimeoutError
    | SlotCancelledError
    | SlotReleasedError
    | NotSlotOwnerError
    | UnthrottledWarning,
) -> str:
    if isinstance(error, (SlotTimeoutError, SlotCancelledError)):
        assert_type(error.pool, str)
    if isinstance(error, NotSlotOwnerError):
        assert_type(error.owner_pid, int)
    return str(error)
