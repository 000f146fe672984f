"""One process is many callers: two of them stand in line, the others wait in memory behind them."""

from __future__ import annotations

import asyncio
import os
import resource
import shutil
import sys
import threading
import time
from typing import TYPE_CHECKING

import pytest
import trio
from builds import DEADLINE_S, take_now, wait_until

from buildslots import SlotPool, SlotTimeoutError, UnthrottledWarning, build_slot, crowd
from buildslots.backend import Request
from buildslots.disk import directory as directory_module
from buildslots.disk.directory import PoolDirectory
from buildslots.disk.lock import lock_file

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from builds import Pool

K = 2
FEW_DESCRIPTORS = 100


class Inside:
    """Who is in a slot now, and who has been."""

    def __init__(self) -> None:
        self.now = self.most = self.descriptors = 0
        self.order: list[object] = []
        self._lock = threading.Lock()

    def enter(self, who: object) -> None:
        with self._lock:
            self.now += 1
            self.most = max(self.most, self.now)
            self.order.append(who)
            self.descriptors = max(self.descriptors, len(os.listdir("/dev/fd")))

    def leave(self) -> None:
        with self._lock:
            self.now -= 1


@pytest.fixture
def inside() -> Inside:
    return Inside()


@pytest.fixture
def _few_descriptors() -> Iterator[None]:
    """As many as shells allow."""
    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (1024, before[1]))
    yield
    resource.setrlimit(resource.RLIMIT_NOFILE, before)


def in_line(pool: Pool) -> int:
    return len(pool.status().waiters)


async def until(condition: Callable[[], bool]) -> None:
    """`wait_until` for a task."""
    deadline = time.monotonic() + DEADLINE_S
    while not condition():
        assert time.monotonic() < deadline
        await asyncio.sleep(0.01)


@pytest.mark.usefixtures("_few_descriptors")
def test_1500_tasks_are_two_places_in_line(pool: Pool, inside: Inside) -> None:
    """No more than K at once, in the order of their arrival, and with few descriptors."""
    most = 0

    async def build(number: int) -> None:
        nonlocal most
        async with build_slot(slots=K, timeout=None):
            inside.enter(number)
            if not number % 100:
                most = max(most, in_line(pool))
            await asyncio.sleep(0)
            inside.leave()

    async def all_of_them() -> None:
        await asyncio.gather(*map(build, range(1500)))

    asyncio.run(all_of_them())
    assert (inside.most, inside.order, most) == (K, list(range(1500)), 2)
    assert inside.descriptors < FEW_DESCRIPTORS
    assert (pool.held(), pool.leftovers()) == ([], [])


@pytest.mark.usefixtures("_few_descriptors")
def test_400_threads_are_two_places_in_line(pool: Pool, inside: Inside) -> None:
    """And none of them runs without a slot."""

    def build(number: int) -> None:
        with build_slot(slots=K, timeout=None):
            inside.enter(number)
            inside.leave()

    threads = [threading.Thread(target=build, args=[number]) for number in range(400)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(DEADLINE_S)
    assert (inside.most <= K, len(inside.order)) == (True, 400)
    assert inside.descriptors < FEW_DESCRIPTORS
    assert (pool.held(), pool.leftovers()) == ([], [])


def test_tasks_of_trio(pool: Pool, inside: Inside) -> None:
    """They are told in another way that their turn comes."""

    async def build() -> None:
        async with build_slot(slots=K, timeout=None):
            inside.enter(None)
            await trio.lowlevel.checkpoint()
            inside.leave()

    async def all_of_them() -> None:
        async with trio.open_nursery() as nursery:
            for _ in range(200):
                nursery.start_soon(build)

    trio.run(all_of_them)
    assert (inside.most, len(inside.order)) == (K, 200)


ARRIVING = """
import asyncio, os, sys
from buildslots import build_slot
log = os.open(sys.argv[1], os.O_WRONLY | os.O_APPEND)
async def build(number):
    async with build_slot(slots=1, timeout=None):
        os.write(log, f"{number}\\n".encode())
async def main():
    loop, tasks = asyncio.get_running_loop(), []
    while line := await loop.run_in_executor(None, sys.stdin.readline):
        tasks.append(asyncio.ensure_future(build(int(line))))
        for _ in range(3):
            await asyncio.sleep(0.01)
        print("arrived", flush=True)
    await asyncio.gather(*tasks)
asyncio.run(main())
"""


def test_the_order_between_two_processes_is_exact(pool: Pool) -> None:
    """Callers of the two in turn, most of them in memory: each joins with the number of its arrival."""
    log = pool.dir.parent / "log"
    log.touch()
    first = pool.build("-n1")
    first.started()
    processes = [pool.popen(sys.executable, "-c", ARRIVING, str(log)) for _ in range(2)]
    for number in range(20):
        process = processes[number % 2]
        assert process.process.stdin is not None
        process.process.stdin.write(f"{number}\n".encode())
        process.process.stdin.flush()
        assert process.started() == "arrived"
    assert in_line(pool) == 4
    first.finish()
    for process in processes:
        assert process.process.stdin is not None
        process.process.stdin.close()
        assert process.process.wait(DEADLINE_S) == 0
    assert log.read_text().split() == [str(number) for number in range(20)]


def test_a_blocked_loop_holds_up_the_line_by_two_places(pool: Pool) -> None:
    """Not by as many as wait in it."""

    async def build() -> None:
        async with build_slot(slots=1, timeout=None):
            pass

    async def all_of_them() -> None:
        tasks = [asyncio.ensure_future(build()) for _ in range(50)]
        await until(lambda: in_line(pool) == crowd.IN_LINE)
        other = pool.build("-n1", "-t", "none")
        wait_until(lambda: in_line(pool) == crowd.IN_LINE + 1, "the other build in line")
        first.finish()
        assert other.started() == "0"  # while this loop does nothing else
        other.finish()
        await asyncio.gather(*tasks)

    first = pool.build("-n1")
    first.started()
    asyncio.run(all_of_them())


def test_who_is_cancelled_in_memory_is_nobody_s_place(pool: Pool, inside: Inside) -> None:
    """Nor do the others wait for it."""

    async def build(number: int) -> None:
        async with build_slot(slots=1, timeout=None):
            inside.enter(number)
            inside.leave()

    async def all_of_them() -> None:
        held = await SlotPool(slots=1).acquire_async()
        tasks = [asyncio.ensure_future(build(number)) for number in range(9)]
        await until(lambda: in_line(pool) == crowd.IN_LINE)
        for number in (0, 3, 4, 8):
            tasks[number].cancel()
        await asyncio.wait([tasks[number] for number in (0, 3, 4, 8)])
        held.release()
        await asyncio.gather(*tasks, return_exceptions=True)

    asyncio.run(all_of_them())
    assert inside.order == [1, 2, 5, 6, 7]
    assert (pool.held(), pool.leftovers()) == ([], [])


def test_who_is_on_its_way_to_the_line_joins_it_once(pool: Pool, monkeypatch: pytest.MonkeyPatch) -> None:
    """When another one of the process leaves, it still waits for the mutex, and joins with that."""
    for name in ("MUTEX_PATIENCE_S", "MUTEXES_S"):
        monkeypatch.setattr(directory_module, name, DEADLINE_S)
    queue, joined = f"{pool.dir}/queue", []

    async def build() -> None:
        async with build_slot(slots=1, timeout=None):
            joined.append(os.listdir(queue))

    async def all_of_them() -> None:
        held = await SlotPool(slots=1).acquire_async()
        mutex = lock_file(f"{pool.dir}/mutex")
        assert mutex is not None
        tasks = [asyncio.ensure_future(build()) for _ in range(crowd.IN_LINE)]
        await asyncio.sleep(0.05)
        tasks[0].cancel()
        await asyncio.wait(tasks[:1])
        assert os.listdir(queue) == []
        os.close(mutex)
        await until(lambda: in_line(pool) == 1)
        held.release()
        await tasks[1]

    asyncio.run(all_of_them())
    assert (joined, pool.held(), pool.leftovers()) == ([[]], [], [])


@pytest.mark.filterwarnings("error::buildslots.UnthrottledWarning")
def test_who_is_told_of_its_wait_while_the_pool_is_gone_waits_on(pool: Pool) -> None:
    """It is in memory, and those in line, who make the pool anew, have not noticed yet."""
    numbers = []

    async def build() -> None:
        async with build_slot(slots=1, timeout=None, on_wait=lambda _: None) as slot:
            numbers.append(slot.number)

    async def all_of_them() -> None:
        held = await SlotPool(slots=1).acquire_async()
        tasks = [asyncio.ensure_future(build()) for _ in range(crowd.IN_LINE)]
        await until(lambda: in_line(pool) == crowd.IN_LINE)
        shutil.rmtree(pool.dir)
        await asyncio.gather(*tasks, build())
        held.release()

    asyncio.run(all_of_them())
    assert numbers == [0, 0, 0]


def test_a_timeout_counts_in_memory_too(pool: Pool) -> None:
    """It gives up, or runs beyond the cap."""
    held = SlotPool(slots=1).acquire()
    gave_up, beyond = [], []

    def give_up() -> None:
        try:
            SlotPool(slots=1).acquire(0.2, "fail")
        except SlotTimeoutError as error:
            gave_up.append(error)

    def go_beyond() -> None:
        with SlotPool(slots=1).acquire(0.2, "run") as slot:
            beyond.append(slot.overflow)

    threads = [threading.Thread(target=what) for what in [give_up] * 5 + [go_beyond] * 5]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(DEADLINE_S)
    held.release()
    assert (len(gave_up), beyond) == (5, [True] * 5)
    assert (pool.held(), pool.leftovers()) == ([], [])


def test_a_forked_child_is_a_crowd_of_its_own(pool: Pool) -> None:
    """It has none of its parent's threads, and does not wait for them."""
    held = SlotPool(slots=1).acquire()
    threads = [
        threading.Thread(target=lambda: SlotPool(slots=1, timeout=None).acquire().release()) for _ in "abcd"
    ]
    for thread in threads:
        thread.start()
    wait_until(lambda: in_line(pool) == crowd.IN_LINE, "two in line")
    child = os.fork()
    if not child:
        try:
            os._exit(0 if SlotPool(slots=2).acquire(0.2, "run").overflow else 1)
        finally:
            os._exit(2)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    held.release()
    for thread in threads:
        thread.join(DEADLINE_S)
    assert (pool.held(), pool.leftovers()) == ([], [])


def test_who_comes_while_others_of_us_join_waits_in_memory(
    pool: Pool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Tickets are numbered when the mutex is there, and so behind the arrival of whoever came meanwhile."""
    monkeypatch.setattr(crowd, "CHECK_S", 0.01)

    async def build() -> None:
        async with build_slot(slots=1, timeout=None):
            pass

    async def main() -> None:
        held = SlotPool(slots=1).acquire()
        mutex = lock_file(f"{pool.dir}/mutex")
        assert mutex is not None
        tasks = [asyncio.ensure_future(build()) for _ in range(crowd.IN_LINE + 3)]
        await asyncio.sleep(0.05)
        os.close(mutex)
        await until(lambda: in_line(pool) >= crowd.IN_LINE)
        tasks.append(asyncio.ensure_future(build()))
        for _ in range(5):
            await asyncio.sleep(0.05)
            assert in_line(pool) == crowd.IN_LINE
        held.release()
        await asyncio.gather(*tasks)

    asyncio.run(main())
    assert (pool.held(), pool.leftovers()) == ([], [])


@pytest.mark.filterwarnings("error::buildslots.UnthrottledWarning")
def test_no_descriptor_left_is_no_broken_pool_while_others_of_us_build(pool: Pool) -> None:
    """It tries again until there is one, or its time is over; alone it would run without a slot."""
    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    held, got = SlotPool(slots=2).acquire(), []
    resource.setrlimit(resource.RLIMIT_NOFILE, (len(os.listdir("/dev/fd")) - 1, before[1]))
    thread = threading.Thread(target=lambda: got.append(SlotPool(slots=2, timeout=None).acquire()))
    try:
        thread.start()
        thread.join(3 * crowd.RETRY_S)
        assert (thread.is_alive(), got) == (True, [])
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, before)
    thread.join(DEADLINE_S)
    held.release()
    assert [slot.number for slot in got] == [1]
    got[0].release()


def test_alone_no_descriptor_left_is_a_broken_pool(pool: Pool) -> None:
    """There is nobody to wait for."""
    SlotPool(slots=1).acquire().release()
    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (len(os.listdir("/dev/fd")) - 1, before[1]))
    try:
        with pytest.warns(UnthrottledWarning):
            slot = SlotPool(slots=1).acquire()
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, before)
    assert slot.number is None


def samefile(one: str, other: str) -> bool:
    """Whether two paths are one file; False if one is gone."""
    try:
        return os.path.samefile(one, other)
    except OSError:
        return False


@pytest.mark.linux
def test_who_joins_late_comes_before_those_who_arrived_later(pool: Pool) -> None:
    """Its ticket has the number of its arrival, and the one behind it is told."""
    directory = PoolDirectory(str(pool.dir))
    held = take_now(directory, Request(1, ["make"]))
    arrived = time.time_ns() // 1000
    waiter = pool.queued("-n1", "-t", "none")
    place = directory.join(Request(1, ["late"]), arrived)
    assert pool.status().waiters[0].command == ("late",)
    bell = f"{pool.dir}/bells/{place._ticket.name}"
    files = f"/proc/{waiter.pid}/fd"
    wait_until(
        lambda: any(samefile(f"{files}/{fd}", bell) for fd in os.listdir(files)), "one that listens to it"
    )
    steps = place.until(float("inf"))
    ears, _ = next(steps)
    held.release()
    late = None
    while late is None:
        try:
            ears, _ = steps.send(ears.listen(DEADLINE_S))
        except StopIteration as end:
            late = end.value
    assert late.numbers == (0,)
    place.leave()
    late.release()
    assert waiter.started() == "0"
    waiter.finish()
