"""What the library says of waits, overflow and failures: the log, `on_wait`, `slot.unthrottled`, `strict`."""

from __future__ import annotations

import asyncio
import logging
import os
import pickle
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING

import pytest
from builds import DEADLINE_S, Pool, wait_until

from buildslots import (
    PoolUnusableError,
    SlotPool,
    SlotTimeoutError,
    UnthrottledWarning,
    Waiting,
    build_slot,
    crowd,
)
from buildslots.disk.directory import PoolDirectory

if TYPE_CHECKING:
    from collections.abc import Callable

OWN = "every slot of pool 'default' is held by this very program"


@pytest.fixture
def said(caplog: pytest.LogCaptureFixture) -> Callable[[], list[tuple[str, str]]]:
    """The level and text of each record of the logger so far."""
    caplog.set_level(logging.INFO, logger="buildslots")
    return lambda: [(r.levelname, r.getMessage()) for r in caplog.records if r.name == "buildslots"]


@pytest.mark.parametrize("is_async", [False, True])
def test_a_long_wait_is_logged_with_place_and_holders(
    pool: Pool, said: Callable[[], list[tuple[str, str]]], is_async: bool
) -> None:
    """After a second, in the words of slot-run; and its end."""
    first = pool.build("-n1")
    first.started()

    def finish() -> None:
        wait_until(said, "a record")
        first.finish()

    ender = threading.Thread(target=finish)
    ender.start()
    one = SlotPool(slots=1, timeout=None)
    (asyncio.run(one.acquire_async()) if is_async else one.acquire()).release()
    ender.join()
    (level, text), (_, end) = said()
    assert level == "INFO"
    assert text.startswith("waiting, place 1 of 1: 1 of 1 slots held by `sh -c")
    assert text.endswith("; waits as long as it takes")
    assert end.startswith("starting after ")
    assert end.endswith(" with slot 0")


def test_overflow_is_a_warning(pool: Pool, said: Callable[[], list[tuple[str, str]]]) -> None:
    """With the cap and the number of the slot; giving up is an error that the caller gets anyway."""
    first = pool.build("-n1")
    first.started()
    SlotPool(slots=1).acquire(timeout=0.05).release()
    SlotPool(slots=1).acquire(timeout=0).release()
    (level, text), (_, now) = said()
    assert level == "WARNING"
    assert text.startswith("pool 'default': no slot within ")
    assert text.endswith(": this build runs beyond the cap of 1 (overflow slot 1)")
    assert "no slot now" in now
    with pytest.raises(SlotTimeoutError):
        SlotPool(slots=1).acquire(timeout=0.05, on_timeout="fail")
    assert len(said()) == 2


def test_without_a_slot_the_cause_is_in_the_log_and_in_the_slot(
    pool: Pool, said: Callable[[], list[tuple[str, str]]]
) -> None:
    """A slot that is held has none."""
    with build_slot() as slot:
        assert slot.unthrottled is None
    with pytest.warns(UnthrottledWarning), build_slot(dir=os.devnull) as slot:
        assert slot.unthrottled
        assert "Not a directory" in slot.unthrottled
    (record,) = said()
    assert record == ("WARNING", f"this build runs without a slot of pool 'default': {slot.unthrottled}")


def test_strict_raises_when_the_pool_cannot_be_used(pool: Pool) -> None:
    """In every way to get a slot, pickled as well; a timeout stays a timeout."""
    strict = SlotPool(dir=os.devnull, strict=True)
    for attempt in (
        strict.acquire,
        strict.try_acquire,
        lambda: asyncio.run(strict.acquire_async()),
        pickle.loads(pickle.dumps(strict)).acquire,
        build_slot(dir=os.devnull, strict=True).__enter__,
        build_slot(dir=os.devnull, strict=True)(lambda: pytest.fail("it runs")),
    ):
        with pytest.raises(PoolUnusableError, match="Not a directory") as caught:
            attempt()
        assert isinstance(caught.value.__cause__, OSError)
        again = pickle.loads(pickle.dumps(caught.value))
        assert (again.pool, again.cause) == (caught.value.pool, caught.value.cause)
    one = SlotPool(slots=1, strict=True)
    with one.acquire(), pytest.raises(SlotTimeoutError):
        one.acquire(0.01, "fail")


def test_on_wait_is_called_at_once_and_told_of_the_wait(pool: Pool) -> None:
    """Not for a build that need not wait; by threads and tasks."""
    told: list[Waiting] = []
    pools = SlotPool(slots=1, timeout=None, on_wait=told.append)
    slot = pools.acquire()
    assert told == []

    def wait() -> None:
        pools.acquire().release()

    async def wait_async() -> None:
        async with build_slot(slots=1, timeout=None, on_wait=told.append):
            pass

    for number, work in enumerate((wait, lambda: asyncio.run(wait_async())), 1):
        thread = threading.Thread(target=work)
        thread.start()
        wait_until(lambda n=number: len(told) >= n, "the call")
        slot.release()
        thread.join(DEADLINE_S)
        waiting = told[number - 1]
        assert (waiting.pool, waiting.place, waiting.in_line, waiting.held, waiting.cap) == (
            "default",
            1,
            1,
            1,
            1,
        )
        assert (waiting.left_s, waiting.gate) == (None, None)
        assert [reason.kind for reason in waiting.reasons] == ["slots"]
        assert str(waiting).startswith("waiting, place 1 of 1: ")
        slot = SlotPool(slots=1).acquire()
    slot.release()


def test_all_callers_of_a_crowd_are_told_and_look_once(pool: Pool, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also those that wait in memory, behind the two that stand in line for all; in the order of arrival."""
    told: list[Waiting] = []
    looks: list[int] = []
    look = PoolDirectory.kin
    monkeypatch.setattr(PoolDirectory, "kin", lambda directory: looks.append(1) or look(directory))
    monkeypatch.setattr(crowd, "KIN_S", 3600.0)

    async def build() -> None:
        async with build_slot(slots=1, timeout=None, on_wait=told.append):
            pass

    async def main() -> None:
        first = SlotPool(slots=1).acquire()
        tasks = [asyncio.create_task(build()) for _ in range(6)]
        while len(told) < 6:  # noqa: ASYNC110 - of all tasks
            await asyncio.sleep(0.002)
        first.release()
        await asyncio.gather(*tasks)

    asyncio.run(main())
    assert [waiting.place for waiting in told[:6]] == [1, 2, 3, 3, 3, 3]
    assert len(looks) == 1


def test_what_on_wait_raises_ends_no_wait(pool: Pool, said: Callable[[], list[tuple[str, str]]]) -> None:
    """An OSError of the caller's is no failure of the pool."""

    def fail(_: Waiting) -> None:
        first.finish()
        raise ConnectionResetError

    first = pool.build("-n1")
    first.started()
    with build_slot(slots=1, timeout=None, on_wait=fail) as slot:
        assert (slot.number, slot.unthrottled) == (0, None)
    assert said()[0] == ("ERROR", "on_wait failed")


def test_a_thread_that_works_for_the_holder_is_told_at_once(
    pool: Pool, said: Callable[[], list[tuple[str, str]]]
) -> None:
    """Once, however many there are; nobody is told so while another program has a slot."""

    def work() -> int | None:
        with build_slot(slots=1, timeout=0.05) as slot:
            return slot.number

    with build_slot(slots=1), ThreadPoolExecutor(2) as executor:
        list(executor.map(lambda _: work(), range(3)))
    texts = [text for level, text in said() if level == "INFO"]
    assert len(texts) == 1
    assert texts[0].startswith(OWN)


def test_another_program_s_slots_are_not_taken_for_one_s_own(
    pool: Pool, said: Callable[[], list[tuple[str, str]]]
) -> None:
    """One of two is enough: that one ends by itself."""
    first = pool.build("-n2")
    first.started()
    with SlotPool(slots=2).acquire():
        SlotPool(slots=2).acquire(timeout=0.05).release()
    assert [level for level, _ in said()] == ["WARNING"]


def test_a_spawned_child_is_told_at_once(pool: Pool) -> None:
    """It waits for the program that has started it."""
    program = (
        "import logging; logging.basicConfig(level=logging.INFO)\n"
        "from buildslots import build_slot\n"
        "with build_slot(slots=1, timeout=2): pass\n"
    )
    with build_slot(slots=1):
        result = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    first, *_, last = result.stderr.splitlines()
    assert first.startswith(f"INFO:buildslots:{OWN}")
    assert last.startswith("WARNING:buildslots:pool 'default': no slot within")


def test_a_program_that_does_not_log_loads_no_logging(pool: Pool) -> None:
    """A wait that ends well leaves nothing behind."""
    first = pool.build("-n1")
    first.started()
    program = (
        "import sys\n"
        "from buildslots import SlotPool\n"
        "SlotPool(slots=1).acquire().release()\n"
        "print('logging' in sys.modules, flush=True)\n"
    )
    waiter = pool.popen(sys.executable, "-c", program)
    wait_until(lambda: pool.status().waiters, "a waiter")
    first.finish()
    assert waiter.started() == "False"
    assert waiter.errors() == ""


def test_a_slot_that_is_disabled_says_so(pool: Pool, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without a warning, and with `strict` as well: whoever set the variable wants it."""
    monkeypatch.setenv("BUILD_SLOTS_DISABLE", "1")
    with build_slot(strict=True) as slot:
        assert (slot.number, slot.unthrottled) == (None, "BUILD_SLOTS_DISABLE is set")
