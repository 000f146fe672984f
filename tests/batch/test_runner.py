"""The runner: in what order tasks run, how many at once, under which slots."""

from __future__ import annotations

import os
import threading
from typing import TYPE_CHECKING, Any

import anyio
import pytest
from batches import OVERLAP, Batches, Gauge, states, until
from builds import Pool, script, wait_until

from buildslots import Batch, BatchError, SlotPool, build_slot, current_task

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from buildslots import Report, TaskRun

    Run = Callable[..., Report]
    Loop = Callable[[Callable[[], Awaitable[Any]]], Any]


def reasons(report: Report) -> dict[str, str | None]:
    return {outcome.name: outcome.reason for outcome in report.outcomes}


def test_a_task_starts_after_those_that_it_needs(run: Run) -> None:
    """In whatever number of jobs, and along a chain and a diamond."""
    order: list[str] = []
    needs = {"a": [], "b": ["a"], "c": ["a"], "d": ["b", "c"], "e": ["d"]}
    report = run(
        *[{"run": order.append, "args": [name], "name": name, "needs": of} for name, of in needs.items()]
    )
    assert report.is_good
    assert sorted(order[1:3]) == ["b", "c"]
    assert order[0] + "".join(order[3:]) == "ade"
    assert [outcome.name for outcome in report.outcomes][3:] == ["d", "e"]


def test_what_needs_a_failed_task_is_skipped_at_once_with_the_reason(run: Run) -> None:
    """Also what needs that; with fail="never" the rest runs."""
    report = run(
        {"run": "exit 3", "name": "a"},
        {"run": ["true"], "name": "b", "needs": ["a"]},
        {"run": ["true"], "name": "c", "needs": ["b"]},
        {"run": ["true"], "name": "d"},
        fail="never",
    )
    assert states(report) == {"a": "failed", "b": "skipped", "c": "skipped", "d": "ok"}
    assert reasons(report) == {
        "a": "exit status 3",
        "b": "needs a, which failed",
        "c": "needs b, which was skipped",
        "d": None,
    }
    assert report.counts == {"failed": 1, "skipped": 2, "ok": 1}
    with pytest.raises(BatchError, match="1 of 4 tasks has failed; the first is 'a': exit status 3"):
        report.check()


def test_skipping_does_not_wait_for_what_still_runs(loop: Loop) -> None:
    """A task that needs a failed one and a running one is skipped while that runs."""

    async def main() -> None:
        async with Batch(fail="never") as batch:
            gate = anyio.Event()
            batch.add(["false"], name="bad")
            batch.add(gate.wait, name="slow")
            last = batch.add(["true"], name="last", needs=["bad", "slow"])
            await until(lambda: last.outcome, "the end of `last`")
            gate.set()
        assert batch.report is not None
        assert states(batch.report) == {"bad": "failed", "last": "skipped", "slow": "ok"}

    loop(main)


def test_unchanged_is_as_good_as_ok_for_those_that_need_it(run: Run) -> None:
    """What needs it runs, and the batch is good."""
    report = run(
        {"run": ["false"], "unless": ["true"], "name": "a"}, {"run": ["true"], "name": "b", "needs": ["a"]}
    )
    assert (states(report), report.is_good) == ({"a": "unchanged", "b": "ok"}, True)


def test_phases_are_barriers(run: Run) -> None:
    """Nothing of a phase starts before all of the one before has ended, in whatever order they were added."""
    began: list[str] = []
    left: list[int] = []
    one = Gauge(together=3)

    async def first(name: str) -> None:
        await one.enter()
        began.append(name)

    def later(name: str) -> None:
        left.append(one.now + 3 - len([1 for name in began if name[0] == "1"]))
        began.append(name)

    report = run(
        {"run": later, "args": ["3a"], "phase": "three"},
        *[{"run": later, "args": [f"2{n}"], "phase": "two", "pool": ""} for n in "abc"],
        *[{"run": first, "args": [f"1{n}"], "pool": "", "phase": "one"} for n in "ab"],
        {"run": first, "args": ["1c"], "pool": ""},
        phases=["one", "two", "three"],
        jobs=8,
    )
    assert report.is_good, reasons(report)
    assert [name[0] for name in began] == list("1112223")
    assert set(left) == {0}


def test_what_failed_in_a_phase_is_not_run_in_the_next(batches: Batches) -> None:
    """What needs it is skipped; the rest of the next phase runs, with --fail never."""
    file = batches.write(
        {"name": "sync a", "run": ["true"], "phase": "A"},
        {"name": "sync b", "run": ["false"], "phase": "A"},
        {"name": "install a", "run": ["true"], "phase": "B", "needs": ["sync a"]},
        {"name": "install b", "run": ["true"], "phase": "B", "needs": ["sync b"]},
        phases=["A", "B"],
        fail="never",
    )
    result = batches.run(file)
    assert result.returncode == 1
    assert "ok        install a" in result.stdout
    assert "skipped   install b: needs sync b, which failed" in result.stdout


@pytest.mark.parametrize("jobs", [2, 3])
def test_jobs_bound_what_runs_at_once(run: Run, jobs: int) -> None:
    """So many run together, and never more; measured by the tasks."""
    gauge = Gauge(together=jobs)
    report = run(*[{"run": gauge.enter, "pool": ""} for _ in range(4 * jobs)], jobs=jobs)
    assert (report.counts, gauge.peak) == ({"ok": 4 * jobs}, jobs)


def test_one_job_is_strictly_in_order(run: Run) -> None:
    """Also with retries, which nothing comes in between, and with tasks of several pools."""
    order: list[str] = []

    def work(name: str) -> None:
        order.append(name)
        if name == "b" and order.count("b") < 3:
            raise OSError("not yet")

    about: list[dict[str, Any]] = [
        {},
        {"retries": 2, "backoff": 0.01},
        {"pool": ""},
        {"pool": "link"},
        {"serial": "k"},
    ]
    tasks = [
        {"run": work, "args": [name], "name": name, **more} for name, more in zip("abcde", about, strict=True)
    ]
    assert run(*tasks, jobs=1).is_good
    assert "".join(order) == "abbbcde"


def test_a_chain_of_a_plan_runs_in_order_with_one_job(batches: Batches, batch: Callable[..., Any]) -> None:
    """As it is written, as far as needs allow it."""
    tasks = [{"name": name, "run": f"echo {name} >>out"} for name in "abcd"]
    assert batch("-j1", batches.write(*tasks)).returncode == 0
    tasks[0]["needs"] = ["c"]  # type: ignore[assignment]
    assert batch("-j1", batches.write(*tasks)).returncode == 0
    first, second = batches.text().split()[:4], batches.text().split()[4:]
    assert first == list("abcd")
    assert second.index("c") < second.index("a")


def test_a_task_that_waits_for_a_slot_occupies_no_job(
    pool: Pool, loop: Loop, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Others, of another pool or none, run while the only slot is held elsewhere."""
    monkeypatch.setenv("MAX_CONCURRENT_BUILDS_FULL", "1")
    held = pool.build("-n1", "-p", "full")
    held.started()

    async def main() -> None:
        async with Batch(jobs=2) as batch:
            waiting = [batch.add(["true"], name=f"waits {n}", pool="full") for n in range(4)]
            await until(lambda: waiting[0].state == "waiting", "a task that waits")
            others = [batch.add(["true"], pool="", name=f"runs {n}") for n in range(4)]
            await until(lambda: all(one.outcome for one in others), "the end of others")
            assert [one.outcome for one in waiting] == [None] * 4
            held.finish()
        assert batch.report is not None
        assert batch.report.counts == {"ok": 8}
        assert waiting[0].outcome is not None
        assert waiting[0].outcome.waited_s > 0

    loop(main)


def test_tasks_of_two_pools_are_bounded_each(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    """One at a time in each pool of one slot, and both at once."""
    monkeypatch.setenv("MAX_CONCURRENT_BUILDS_ONE", "1")
    monkeypatch.setenv("MAX_CONCURRENT_BUILDS_TWO", "1")
    gauges = {"one": Gauge(), "two": Gauge()}
    both = Gauge(together=2)

    async def work(pool: str) -> None:
        gauges[pool].now += 1
        gauges[pool].peak = max(gauges[pool].peak, gauges[pool].now)
        await both.enter()
        gauges[pool].now -= 1

    report = run(*[{"run": work, "args": [pool], "pool": pool} for pool in ["one", "two"] * 4], jobs=8)
    assert report.is_good, reasons(report)
    assert (both.peak, gauges["one"].peak, gauges["two"].peak) == (2, 1, 1)


def test_slots_bound_what_runs_at_once(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    """Never more than there are slots, whatever the jobs; without a pool, as many as there are jobs."""
    monkeypatch.setenv("MAX_CONCURRENT_BUILDS", "2")
    gauge = Gauge(together=2)
    assert run(*[{"run": gauge.enter} for _ in range(8)], jobs=6).is_good
    assert gauge.peak == 2
    free = Gauge(together=6)
    assert run(*[{"run": free.enter, "pool": ""} for _ in range(8)], jobs=6).is_good
    assert free.peak == 6


def test_weights_count(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    """Two tasks of weight two never run at once on three slots."""
    monkeypatch.setenv("MAX_CONCURRENT_BUILDS", "3")
    heavy, light = Gauge(), Gauge()
    tasks: list[dict[str, Any]] = [{"run": heavy.enter, "weight": 2} for _ in range(4)]
    assert run(*tasks, *[{"run": light.enter} for _ in range(4)], jobs=8).is_good
    assert heavy.peak == 1


def test_no_slot_is_taken_without_a_pool(batches: Batches, run: Run) -> None:
    """Nothing is made where pools are."""
    report = run({"run": 'test -z "${BUILD_SLOT-}"', "pool": ""})
    assert (report.is_good, batches.pool.dir.exists()) == (True, False)


def test_batches_at_once_share_the_slots(batches: Batches) -> None:
    """Three batches of four jobs on two slots: all end, and never more than two commands run."""
    environ = {"MAX_CONCURRENT_BUILDS": "2"}
    text = "".join(f"{number}\n" for number in range(6)).encode()
    builds = [batches.start("-j4", "--", "sh", "-c", OVERLAP, environ=environ) for _ in range(3)]
    for build in builds:
        assert build.process.stdin is not None
        build.process.stdin.write(text)
        build.process.stdin.close()
    assert [build.process.wait(60) for build in builds] == [0, 0, 0]
    assert batches.peak() == 2
    assert len(batches.text("peaks").split()) == 18
    assert batches.pool.held() == []


def test_tasks_of_one_key_run_one_at_a_time(run: Run) -> None:
    """In one batch, in their order; tasks of another key run meanwhile."""
    keys = {"a": Gauge(), "b": Gauge()}
    both = Gauge(together=2)

    async def work(key: str, number: int) -> None:
        keys[key].order.append(number)
        await both.enter()

    report = run(
        *[{"run": work, "args": [key, n], "serial": key, "pool": ""} for n in range(4) for key in "ab"],
        jobs=8,
    )
    assert report.is_good, reasons(report)
    assert both.peak == 2
    assert keys["a"].order == keys["b"].order == [0, 1, 2, 3]


def test_a_key_counts_for_all_batches(batches: Batches) -> None:
    """Two batches with slots to spare never run two tasks of one key at once."""
    tasks = [{"name": f"{n}", "run": OVERLAP, "serial": "key", "pool": ""} for n in range(5)]
    builds = [batches.start(batches.write(*tasks, file=file)) for file in ("one.toml", "two.toml")]
    assert [build.process.wait(60) for build in builds] == [0, 0]
    assert (batches.peak(), len(batches.text("peaks").split())) == (1, 10)


def test_a_key_stays_with_a_command_whose_batch_was_killed(batches: Batches) -> None:
    """The command has inherited the lock: the next batch waits for its end."""
    hold = "mkfifo go; touch started; read line <go; echo one >>out"
    first = batches.start(batches.write({"run": hold, "serial": "key", "pool": ""}, file="one.toml"))
    wait_until((batches.dir / "started").exists, "the command")
    first.process.kill()
    first.process.wait()
    tasks: list[dict[str, Any]] = [
        {"name": "two", "run": "echo two >>out", "serial": "key"},
        {"name": "x", "run": ["true"]},
        {"name": "y", "run": ["touch", "seen"], "needs": ["x"]},
    ]
    second = batches.start("-j3", batches.write(*tasks, file="two.toml", pool=""))
    wait_until((batches.dir / "seen").exists, "the second run")
    assert batches.text() == ""
    (batches.dir / "go").write_text("\n")
    assert second.process.wait(30) == 0
    assert batches.text() == "one\ntwo\n"


def test_the_slot_counts_below_a_task(batches: Batches, run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    """slot-run in a command, and the library in a function, go on at once though no other slot is there."""
    monkeypatch.setenv("MAX_CONCURRENT_BUILDS", "1")
    slot_run = script("slot-run")

    def function() -> object:
        with build_slot(timeout=0, on_timeout="fail") as slot:
            return slot.number

    async def coroutine() -> object:
        async with SlotPool(timeout=0, on_timeout="fail") as slot:
            return slot.number

    report = run(
        {"run": [slot_run, "--timeout", "0", "--on-timeout", "fail", "true"]},
        {"run": function, "name": "function"},
        {"run": coroutine, "name": "coroutine"},
        jobs=4,
        fail="never",
    )
    assert report.is_good, reasons(report)
    assert {one.name: one.value for one in report.outcomes}["function"] == 0
    assert {one.name: one.value for one in report.outcomes}["coroutine"] == 0


def test_who_gets_no_slot_in_its_time_fails_with_75(
    pool: Pool, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As slot-run does, if it is to; it is tried again for that, too, though it never started."""
    monkeypatch.setenv("MAX_CONCURRENT_BUILDS", "1")
    held = pool.build("-n1")
    held.started()
    told: list[str] = []
    keys = {"timeout": 0, "on_timeout": "fail", "retries": 1, "backoff": 0, "retry_on": 75}
    report = run({"run": ["true"], **keys}, on_change=lambda task: told.append(task.state))
    (outcome,) = report.outcomes
    assert (outcome.state, outcome.status, outcome.attempts) == ("failed", 75, 0)
    assert told.count("retrying") == 1


def test_tasks_can_be_added_while_others_run(loop: Loop) -> None:
    """By the block, by what watches outcomes, and by tasks; outcomes come as tasks end."""

    async def main() -> None:
        async with Batch(jobs=2) as batch:

            async def parent() -> None:
                batch.add(["true"], name="child")

            gate = anyio.Event()
            batch.add(gate.wait, name="slow")
            batch.add(parent, name="parent")
            names = []
            async for outcome in batch:
                names.append(outcome.name)
                if outcome.name == "child":
                    batch.add(["true"], name="grandchild")
                if outcome.name == "grandchild":
                    gate.set()
        assert names == ["parent", "child", "grandchild", "slow"]
        with pytest.raises(RuntimeError, match="tasks are added within"):
            batch.add(["true"])

    loop(main)


def test_a_task_knows_itself(run: Run) -> None:
    """By current_task(), in a coroutine, in a thread and in what they call; elsewhere there is none."""
    seen: list[tuple[Any, ...]] = []

    def function() -> None:
        task = current_task()
        seen.append((task.name, task.attempt, task.slot, task.state, threading.current_thread().daemon))

    async def coroutine() -> None:
        function()

    report = run({"run": function, "name": "a"}, {"run": coroutine, "name": "b", "pool": ""}, jobs=1)
    assert report.is_good
    assert seen[0] == ("a", 1, 0, "running", True)
    assert seen[1][:4] == ("b", 1, None, "running")
    with pytest.raises(LookupError):
        current_task()


def test_each_change_of_a_state_is_told(run: Run) -> None:
    """To on_change, in their order."""
    told: list[str] = []

    def on_change(task: TaskRun) -> None:
        told.append(f"{task.name} {task.state}")

    calls = iter([False, True])

    def work() -> None:
        if not next(calls):
            raise ValueError("not yet")

    assert run({"run": work, "retries": 1, "backoff": 0, "name": "work"}, on_change=on_change).is_good
    assert told == ["work running", "work retrying", "work running", "work ok"]


def test_names_that_nobody_gave_differ(run: Run) -> None:
    """Of tasks with one command or one function."""

    def work() -> None:
        pass

    report = run(*[{"run": ["true"]} for _ in range(3)], *[{"run": work} for _ in range(2)], jobs=1)
    names = [outcome.name for outcome in report.outcomes]
    assert names[:3] == ["true", "true 2", "true 3"]
    assert names[4] == f"{names[3]} 2"


def test_many_tasks_that_do_nothing(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    """A hundred on two slots with eight jobs all end, and leave no descriptor behind."""
    monkeypatch.setenv("MAX_CONCURRENT_BUILDS", "2")
    before = set(os.listdir("/dev/fd"))
    report = run(
        *[{"run": ["true"], "name": f"{n}", "needs": [f"{n - 7}"] if n > 7 else []} for n in range(100)]
    )
    assert report.counts == {"ok": 100}
    assert set(os.listdir("/dev/fd")) == before
