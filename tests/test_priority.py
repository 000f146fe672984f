"""Priority: a head start in time. Age and priority are one number, and so nobody starves."""

from __future__ import annotations

import asyncio
import os
import sys
import threading
import time
from typing import TYPE_CHECKING

import pytest
from builds import DEADLINE_S, Pool, script, wait_until

from buildslots import SettingError, SlotPool, build_slot, crowd, run_batch
from buildslots.disk import directory as directory_module
from buildslots.disk import line, records
from buildslots.disk.directory import PoolDirectory
from buildslots.disk.lock import lock_file

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from buildslots.status import PoolStatus

KINDS = ("normal", "low", "high", "normal", "low", "high")
AGES = {"low": 600, "normal": 400, "young": 200}
"""How long some have waited, in seconds, the head start of `low` taken off."""
ORDER = [2, 5, 0, 3, 1, 4]
"""The order in which builds of KINDS start that come one after the other."""


def in_line(pool: Pool, count: int) -> PoolStatus:
    """The pool's status once so many wait."""
    wait_until(lambda: len(pool.status().waiters) == count, f"{count} in line")
    return pool.status()


@pytest.mark.parametrize("how", ["option", "environment", "config"])
def test_builds_start_by_priority_and_among_equals_by_arrival(pool: Pool, how: str, tmp_path: Path) -> None:
    """However they say it; and status tells."""
    log = tmp_path / "log"
    first = pool.build("-n1")
    first.started()
    builds = []
    for number, kind in enumerate(KINDS):
        options = ["--priority", kind] if how == "option" else []
        if how == "config":
            path = f"{pool.environ['HOME']}/.config/buildslots/config.toml"
            os.makedirs(os.path.dirname(path), exist_ok=True)
            with open(path, "w") as config:
                config.write(f'priority = "{kind}"\n')
        environ = {"BUILD_SLOTS_PRIORITY": kind} if how == "environment" else {}
        command = ["sh", "-c", f"echo {number} >>{log}"]
        builds.append(pool.popen(script("slot-run"), "-qn1", "-tnone", *options, *command, environ=environ))
        status = in_line(pool, number + 1)
    assert [waiter.priority for waiter in status.waiters] == ["high"] * 2 + ["normal"] * 2 + ["low"] * 2
    assert [waiter["priority"] for waiter in status.as_dict()["waiters"]][:2] == ["high", "high"]
    first.finish()
    for build in builds:
        assert build.process.wait(30) == 0
    assert log.read_text().split() == [str(number) for number in ORDER]


def test_tasks_of_one_program_start_by_priority(pool: Pool) -> None:
    """In line and in memory: who has a head start gets a ticket of its own."""
    started = []

    async def build(number: int, kind: str) -> None:
        async with build_slot(slots=1, timeout=None, priority=kind):
            started.append(number)

    async def all_of_them() -> None:
        held = await SlotPool(slots=1).acquire_async()
        tasks = []
        for number, kind in enumerate(KINDS):
            tasks.append(asyncio.ensure_future(build(number, kind)))
            await asyncio.sleep(0.02)
        held.release()
        await asyncio.gather(*tasks)

    asyncio.run(all_of_them())
    assert started == ORDER
    assert (pool.held(), pool.leftovers()) == ([], [])


def test_threads_start_by_priority(pool: Pool) -> None:
    """As tasks do."""
    started: list[int] = []

    def build(number: int, kind: str) -> None:
        with SlotPool(slots=1, timeout=None).acquire(priority=kind):
            started.append(number)

    held = SlotPool(slots=1).acquire()
    threads = []
    for number, kind in enumerate(KINDS):
        threads.append(threading.Thread(target=build, args=(number, kind)))
        threads[-1].start()
        time.sleep(0.02)
    held.release()
    for thread in threads:
        thread.join()
    assert started == ORDER
    assert pool.leftovers() == []


async def until(condition: Callable[[], bool]) -> None:
    """Wait until it is true."""
    while not condition():  # noqa: ASYNC110 - no event tells
        await asyncio.sleep(0.01)


def test_who_is_on_its_way_with_a_head_start_keeps_no_place_for_those_in_memory(
    pool: Pool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Until it has a ticket, others would start before those in memory that came before them."""
    for name in ("MUTEX_PATIENCE_S", "MUTEXES_S"):
        monkeypatch.setattr(directory_module, name, DEADLINE_S)
    started = []

    async def build(kind: str) -> None:
        async with build_slot(slots=1, timeout=None, priority=kind):
            started.append(kind)

    def stand() -> int:
        return len(crowd._crowds[os.getpid(), str(pool.dir)]._standing)

    async def all_of_them() -> None:
        held = await SlotPool(slots=1).acquire_async()
        tasks = [asyncio.ensure_future(build("normal")) for _ in range(crowd.IN_LINE + 1)]
        await until(lambda: len(line.waiting(str(pool.dir))) == crowd.IN_LINE)
        mutex = lock_file(f"{pool.dir}/mutex")
        assert mutex is not None
        tasks += [asyncio.ensure_future(build("high")) for _ in range(crowd.IN_LINE)]
        await until(lambda: stand() == 2 * crowd.IN_LINE)
        for task in tasks[: crowd.IN_LINE]:
            task.cancel()
        await asyncio.wait(tasks[: crowd.IN_LINE])
        assert len(line.waiting(str(pool.dir))) == 1
        os.close(mutex)
        await until(lambda: len(line.waiting(str(pool.dir))) == 1 + crowd.IN_LINE)
        held.release()
        await asyncio.gather(*tasks[crowd.IN_LINE :])

    asyncio.run(asyncio.wait_for(all_of_them(), DEADLINE_S))
    assert started == ["high", "high", "normal"]
    assert (pool.held(), pool.leftovers()) == ([], [])


def test_a_ticket_far_behind_keeps_back_none_of_its_process_with_another_priority(pool: Pool) -> None:
    """One of a low build may be there, because one in line has come when a head start was worth more."""

    async def build(kind: str) -> None:
        async with build_slot(slots=1, timeout=None, priority=kind):
            pass

    async def all_of_them() -> None:
        held = await SlotPool(slots=1).acquire_async()
        old = line.Ticket(str(pool.dir), 1, _record("low"), head_start_us=-line.HEAD_START_S * 10**6)
        SlotPool().set_rules(head_start=0)
        tasks = [asyncio.ensure_future(build("low")) for _ in range(crowd.IN_LINE)]
        await until(lambda: len(line.waiting(str(pool.dir))) == 1 + crowd.IN_LINE)
        tasks.append(asyncio.ensure_future(build("normal")))  # in memory
        await asyncio.sleep(0)
        tasks[0].cancel()
        await asyncio.wait(tasks[:1])
        kinds = [waiter.priority for waiter in pool.status().waiters]
        old.leave()
        held.release()
        await asyncio.gather(*tasks[1:])
        assert kinds == ["normal", "low", "low"]

    asyncio.run(asyncio.wait_for(all_of_them(), DEADLINE_S))
    assert (pool.held(), pool.leftovers()) == ([], [])


def test_age_counts_as_much_as_priority(pool: Pool) -> None:
    """Who has waited for longer than a head start is before whoever comes with one."""
    PoolDirectory(str(pool.dir)).make()
    now, head_start_us = time.time_ns() // 1000, line.HEAD_START_S * 10**6
    old = {
        kind: line.Ticket(str(pool.dir), 1, _record(kind), number=now - s * 10**6) for kind, s in AGES.items()
    }
    newcomer = line.Ticket(str(pool.dir), 1, _record("high"), head_start_us=head_start_us)
    names = [old["low"].name, old["normal"].name, newcomer.name, old["young"].name]
    assert names == line.waiting(str(pool.dir))
    for ticket in (*old.values(), newcomer):
        ticket.leave()


def test_a_clock_that_was_ahead_keeps_the_order_among_equals(
    pool: Pool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whoever comes after the clock was set back is behind those of its priority, and of a higher one."""
    held = SlotPool(slots=1).acquire()
    late = pool.popen(script("slot-run"), "-qn1", "-tnone", "--priority", "low", "true")
    in_line(pool, 1)
    tickets = line.waiting(str(pool.dir))
    ahead = time.time_ns() + 3600 * 10**9
    with monkeypatch.context() as clock:
        clock.setattr(line.time, "time_ns", lambda: ahead)
        first = line.Ticket(str(pool.dir), 1, _record("normal"))
    second = line.Ticket(str(pool.dir), 1, _record("normal"))
    low = line.Ticket(str(pool.dir), 1, _record("low"), head_start_us=-line.HEAD_START_S * 10**6)
    assert first.name < second.name
    assert tickets[0] < low.name
    for ticket in (first, second, low):
        ticket.leave()
    held.release()
    assert late.process.wait(30) == 0


def test_one_that_died_before_it_had_a_record_is_nobody_s_equal(pool: Pool) -> None:
    """Among those of a lower priority: behind it one would have their place, and all after that, too."""
    PoolDirectory(str(pool.dir)).make()
    head_start_us = line.HEAD_START_S * 10**6
    low = [line.Ticket(str(pool.dir), 1, _record("low"), head_start_us=-head_start_us) for _ in range(2)]
    between = line.number_of(low[0].name) + 1
    assert between < line.number_of(low[1].name)
    (pool.dir / "queue" / f"{between:020d}-1").touch()
    normal = line.Ticket(str(pool.dir), 1, _record("normal"))
    assert normal.name < low[0].name
    for ticket in (*low, normal):
        ticket.leave()


def _record(kind: str) -> bytes:
    return records.record(records.about(["x"], cap=1, nonce="0" * 32, priority=kind))


def test_the_pool_says_what_a_head_start_is_worth(pool: Pool) -> None:
    """And 0 makes all equal."""
    told = SlotPool().set_rules(head_start="1m")
    assert (told.head_start_s, told.slots) == (60.0, None)
    assert SlotPool().set_rules(slots=1).head_start_s == 60.0
    result = pool.run(script("buildslots"), "rules")
    assert "head_start 1 min 0 s" in result.stdout
    assert pool.run(script("buildslots"), "set", "head_start=0").returncode == 0
    held = SlotPool().acquire()
    builds = [pool.popen(script("slot-run"), "-q", "-tnone", "sh", "-c", "sleep 0.1")]
    in_line(pool, 1)
    builds.append(pool.popen(script("slot-run"), "-q", "-tnone", "--priority", "high", "true"))
    status = in_line(pool, 2)
    assert [waiter.priority for waiter in status.waiters] == ["normal", "high"]
    held.release()
    for build in builds:
        assert build.process.wait(30) == 0
    with pytest.raises(SettingError, match="is no time of at most 24h"):
        SlotPool().set_rules(head_start=86401)


def test_high_ones_without_end_keep_nobody_waiting_for_ever(pool: Pool, tmp_path: Path) -> None:
    """They overtake until whoever waits has waited for longer than their head start."""
    log, end = tmp_path / "log", tmp_path / "end"
    SlotPool().set_rules(slots=1, head_start=1)
    one = [script("slot-run"), "-q", "-tnone", "--priority"]
    feed = f'until [ -e {end} ]; do "$@" high sh -c "echo high >>{log}; sleep 0.1"; done'
    held = SlotPool().acquire()
    others = []
    for kind in ("normal", "low"):
        others.append(pool.popen(*one, kind, "sh", "-c", f"echo {kind} >>{log}"))
        in_line(pool, len(others))
    feeders = [pool.popen("sh", "-c", feed, "sh", *one) for _ in range(6)]
    in_line(pool, 8)
    held.release()
    for build in others:
        assert build.process.wait(60) == 0
    seen = len(log.read_text().split())
    wait_until(lambda: len(log.read_text().split()) > seen, "high ones that come yet")
    end.touch()
    for feeder in feeders:
        assert feeder.process.wait(30) == 0
    order = log.read_text().split()
    assert order.index("normal") < order.index("low")
    assert pool.leftovers() == []


def test_a_task_of_a_batch_has_a_priority(pool: Pool, tmp_path: Path) -> None:
    """As slot-run has it."""
    log = tmp_path / "log"
    release = tmp_path / "release"
    tasks = [
        {"name": "first", "run": f"until [ -e {release} ]; do sleep 0.01; done"},
        {"name": "low", "run": f"echo low >>{log}", "priority": "low"},
        {"name": "normal", "run": f"echo normal >>{log}"},
        {"name": "high", "run": f"echo high >>{log}", "priority": "high"},
    ]
    program = f"from buildslots import run_batch; print(run_batch({tasks!r}, jobs=4, name='p').counts)"
    batch = pool.popen(sys.executable, "-c", program, environ={"MAX_CONCURRENT_BUILDS": "1"})
    wait_until(lambda: len(pool.status().waiters) >= 2, "tasks in line")
    time.sleep(0.1)
    release.touch()
    assert batch.process.wait(30) == 0
    assert log.read_text().split() == ["high", "normal", "low"]


@pytest.mark.parametrize("value", ["urgent", "", "HIGH"])
def test_other_words_are_refused(pool: Pool, value: str) -> None:
    """In one sentence that says what there is."""
    result = pool.slot_run("--priority", value, "true")
    assert (result.returncode, result.stderr.count("\n")) == (125, 1)
    assert "is none of 'high', 'normal' and 'low'" in result.stderr
    with pytest.raises(SettingError, match="is none of"):
        build_slot(priority=value)
    if value:
        result = pool.run(script("slot-run"), "true", environ={"BUILD_SLOTS_PRIORITY": value})
        assert (result.returncode, "ignored" in result.stderr) == (0, True)
    with pytest.raises(ValueError, match="priority"):
        run_batch([{"run": ["true"], "priority": value}])
