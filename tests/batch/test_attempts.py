"""Attempts: what is tried again, limits, pauses, and what verifies a task."""

from __future__ import annotations

import re
import signal
import sys
import threading
import time
from typing import TYPE_CHECKING, Any

import anyio
import psutil
import pytest
from batches import Batches, Gauge, ended, events, states, until
from builds import Pool, wait_until
from strays import is_gone

from buildslots import Batch, current_task
from buildslots.batch import commands

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable
    from subprocess import CompletedProcess

    from buildslots import Report

    Run = Callable[..., Report]
    Loop = Callable[[Callable[[], Awaitable[Any]]], Any]
    Command = Callable[..., CompletedProcess[str]]


def counting(then: str) -> str:
    """A shell command that notes each of its runs in `out`, and then runs `then` with $n the run's number."""
    return f"echo x >>out; n=$(wc -l <out); {then}"


RETRIES: dict[str, tuple[dict[str, Any], str, int, str]] = {
    "none": ({}, "exit 1", 1, "failed"),
    "until it succeeds": ({"retries": 5}, "test $n = 3", 3, "ok"),
    "all in vain": ({"retries": 2}, "exit 1", 3, "failed"),
    "this status": ({"retries": 2, "retry_on": [7, 75]}, "exit 75", 3, "failed"),
    "not this status": ({"retries": 2, "retry_on": [7]}, "exit 75", 1, "failed"),
    "one reason without a list": ({"retries": 2, "retry_on": 75}, "exit 75", 3, "failed"),
    "stderr": (
        {"retries": 2, "retry_on": ["stderr: ^E: .*reset$"]},
        "echo E: reset >&2; exit 1",
        3,
        "failed",
    ),
    "another stderr": ({"retries": 2, "retry_on": ["stderr: reset"]}, "echo E >&2; exit 1", 1, "failed"),
    "not stdout": ({"retries": 2, "retry_on": ["stderr: reset"]}, "echo reset; exit 1", 1, "failed"),
    "stderr of the last attempt": (
        {"retries": 3, "retry_on": ["stderr: reset"]},
        "test $n = 1 && echo reset >&2; exit 1",
        2,
        "failed",
    ),
    "timeout": ({"retries": 1, "retry_on": ["timeout"], "time_limit": 0.05}, "exec sleep 60", 2, "timed_out"),
    "no timeout": ({"retries": 2, "retry_on": ["timeout"], "time_limit": "1h"}, "exit 1", 1, "failed"),
    "a timeout is no status": (
        {"retries": 2, "retry_on": [1], "time_limit": 0.05},
        "exec sleep 60",
        1,
        "timed_out",
    ),
}


@pytest.mark.parametrize(("keys", "then", "attempts", "state"), RETRIES.values(), ids=list(RETRIES))
def test_a_command_is_tried_again_for_its_reasons(  # noqa: PLR0917 - pytest names them
    batches: Batches, run: Run, keys: dict[str, Any], then: str, attempts: int, state: str
) -> None:
    """As often as it may be, and only then; each attempt is counted."""
    (outcome,) = run({"run": counting(then), "backoff": 0, **keys}).outcomes
    assert (outcome.state, outcome.attempts) == (state, attempts)
    assert len(batches.text().split()) == attempts


@pytest.mark.parametrize(
    ("retry_on", "attempts"), [((), 3), (OSError, 3), ([ValueError, OSError], 3), (KeyError, 1), (75, 1)]
)
def test_a_function_is_tried_again_for_classes_of_exceptions(run: Run, retry_on: Any, attempts: int) -> None:
    """Subclasses included; its exception is in the outcome."""
    error = ConnectionResetError("again")

    async def work() -> None:
        raise error

    (outcome,) = run({"run": work, "retries": 2, "backoff": 0, "retry_on": retry_on}).outcomes
    assert (outcome.state, outcome.attempts, outcome.error) == ("failed", attempts, error)
    assert outcome.reason == "ConnectionResetError: again"


def test_the_backoff_grows_up_to_its_bound(loop: Loop, monkeypatch: pytest.MonkeyPatch) -> None:
    """Twice as long each time with jitter, and never longer than max_backoff."""
    slept: list[float] = []
    sleep = anyio.sleep

    async def short(seconds: float) -> None:
        if seconds >= 2:  # a backoff: others are shorter
            slept.append(seconds)
            seconds = 0
        await sleep(seconds)

    async def main() -> None:
        monkeypatch.setattr(anyio, "sleep", short)
        async with Batch() as batch:
            batch.add(["false"], retries=5, backoff=4, max_backoff="20s", pool="")

    loop(main)
    assert len(slept) == 5
    for seconds, most in zip(slept, (4, 8, 16, 20, 20), strict=True):
        assert most / 2 <= seconds <= most


def test_slot_and_job_are_free_while_a_task_waits_for_its_retry(loop: Loop, pool: Pool) -> None:
    """Another task runs with the only job and the only slot meanwhile."""

    async def main() -> None:
        async with Batch(jobs=2, fail="never") as batch:
            first = batch.add(["false"], retries=1, backoff="1h", max_backoff="1h")
            await until(lambda: first.state == "retrying", "the wait for a retry")
            assert pool.held() == []
            gauge = Gauge(together=2)
            others = [batch.add(gauge.enter, pool="") for _ in range(2)]
            await until(lambda: all(one.outcome for one in others), "others")
            assert first.outcome is None
            batch.cancel()

    loop(main)


def test_a_retry_survives_no_stop(run: Run, batches: Batches) -> None:
    """Neither one that waits when something else fails, nor one whose attempt ends after that."""
    report = run(
        {
            "run": "echo waits >>out; exit 4",
            "name": "waits",
            "retries": 3,
            "backoff": "1h",
            "max_backoff": "1h",
        },
        {
            "run": "touch running-too; until test -e failed; do sleep 0.01; done; echo ends >>out; exit 5",
            "name": "ends later",
            "retries": 3,
            "backoff": 0,
        },
        {
            "run": "until test -e retrying && test -e running-too; do sleep 0.01; done; exit 6",
            "name": "fails",
        },
        jobs=3,
        on_change=lambda task: (
            (batches.dir / task.state).touch()
            if (task.name, task.state) in {("waits", "retrying"), ("fails", "failed")}
            else None
        ),
    )
    about = {one.name: (one.state, one.attempts, one.status) for one in report.outcomes}
    assert about["waits"] == ("failed", 1, 4)
    assert about["ends later"] == ("failed", 1, 5)
    assert "not tried again: fails failed" in {one.name: str(one.reason) for one in report.outcomes}["waits"]
    assert sorted(batches.text().split()) == ["ends", "waits"]


TREE = 'sh -c "sleep 1000 & echo \\$! >>pids; wait" & setsid sleep 1000 & echo $! $$ >>pids; wait'
"""A shell with a child, a grandchild, and a child that leads a session of its own."""


@pytest.mark.parametrize("trap", ["", "trap '' TERM; "], ids=["willing", "deaf"])
def test_a_time_limit_ends_the_whole_tree(
    batches: Batches, run: Run, monkeypatch: pytest.MonkeyPatch, trap: str
) -> None:
    """Grandchildren and sessions below it too, and what ignores SIGTERM; and it says so."""
    monkeypatch.setattr(commands.Command.end, "__defaults__", (0.1,))
    (outcome,) = run({"run": trap + TREE, "time_limit": 1}).outcomes
    assert (outcome.state, outcome.reason) == ("timed_out", "did not end within 1 s")
    pids = [int(pid) for pid in batches.text("pids").split()]
    assert len(pids) == 3
    assert [pid for pid in pids if psutil.pid_exists(pid) and not is_gone(psutil.Process(pid))] == []


def test_a_time_limit_counts_for_functions(run: Run) -> None:
    """A coroutine is cancelled; a thread is left to itself, and ends when it does."""
    gate = threading.Event()
    cancelled: list[str] = []

    async def coroutine() -> None:
        try:
            await anyio.sleep_forever()
        finally:
            cancelled.append("it")

    report = run(
        {"run": coroutine, "name": "coroutine", "time_limit": 0.01},
        {"run": gate.wait, "name": "thread", "time_limit": 0.01},
        fail="never",
    )
    gate.set()
    assert states(report) == {"coroutine": "timed_out", "thread": "timed_out"}
    assert cancelled == ["it"]


def test_a_time_limit_does_not_count_while_a_task_waits_for_a_slot(
    pool: Pool, loop: Loop, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is of the running time."""
    monkeypatch.setenv("MAX_CONCURRENT_BUILDS", "1")
    held = pool.build("-n1")
    held.started()

    async def main() -> None:
        async with Batch() as batch:
            task = batch.add(["true"], time_limit=20)
            await until(lambda: task.state == "waiting", "a wait")
            late = time.monotonic() + 0.1
            await until(lambda: time.monotonic() > late, "some time")
            held.finish()
        assert task.state == "ok"

    loop(main)


@pytest.mark.parametrize(
    "line", ["", "Retry-After: 600", "retry-after:600 s\n\n"], ids=["table", "named", "lower"]
)
def test_a_status_pauses_the_whole_batch(loop: Loop, monkeypatch: pytest.MonkeyPatch, line: str) -> None:
    """For the time in the table, or the one that the last line of stderr names; what runs goes on."""
    paused: list[float] = []

    async def main() -> None:
        gauge = Gauge(together=2)
        async with Batch(jobs=2, fail="never") as batch:
            assert batch._runner is not None
            pause = batch._runner.pause

            def noted(seconds: float) -> None:
                paused.append(seconds)
                pause(seconds)

            monkeypatch.setattr(batch._runner, "pause", noted)
            runs_on = batch.add(gauge.enter, pool="")
            await until(lambda: gauge.now == 1, "a task that runs")
            script = f"printf '%s' 'one\n{line}' >&2; exit 75"
            first = batch.add(script, pause_on={75: "10m"} if not line else {75: "1h"})
            await until(lambda: first.outcome, "the end of the first")
            later = batch.add(["true"])
            gauge.together = 1
            await until(lambda: runs_on.outcome, "the end of what ran")
            assert later.outcome is None
            batch.cancel()
        assert (runs_on.state, later.state) == ("ok", "cancelled")

    loop(main)
    assert paused == [600.0]


def test_another_status_pauses_nothing(run: Run) -> None:
    """Whatever it writes."""
    report = run(
        {"run": "echo Retry-After: 3600 >&2; exit 74", "pause_on": {75: "1h"}, "name": "a"},
        {"run": ["true"], "name": "b"},
        jobs=1,
        fail="never",
    )
    assert states(report) == {"a": "failed", "b": "ok"}


def test_a_retry_waits_for_the_pause_that_its_task_asked_for(run: Run, batches: Batches) -> None:
    """It is tried again after it, with what others do then."""
    script = counting("test $n = 1 && { echo Retry-After: 0.2 >&2; exit 75; }; exit 0")
    report = run({"run": script, "retries": 1, "backoff": 0, "pause_on": {75: "1h"}}, {"run": ["true"]})
    assert report.counts == {"ok": 2}


@pytest.mark.parametrize("where", ["coroutine", "function", "the block", "a thread"])
def test_a_task_can_pause_all(loop: Loop, where: str) -> None:
    """From a coroutine, from a thread, from without; nothing new starts, and it ends by itself."""

    async def main() -> None:
        async with Batch(jobs=4) as batch:

            async def coroutine() -> None:
                current_task().pause_all(3600)

            def thread() -> None:
                current_task().pause_all(3600)

            if where == "the block":
                batch.pause_all(3600)
            elif where == "a thread":
                worker = threading.Thread(target=batch.pause_all, args=(3600,))
                worker.start()
                await until(lambda: not worker.is_alive(), "the end of a thread")
            else:
                first = batch.add({"coroutine": coroutine, "function": thread}[where])
                await until(lambda: first.outcome, "the one that pauses")
                assert first.state == "ok"
            later = batch.add(["true"])
            other = batch.add(["true"], pool="")
            for _ in range(5):
                await anyio.sleep(0.002)
            assert (later.outcome, other.outcome) == (None, None)
            batch.cancel()
        async with Batch() as batch:
            batch.pause_all(0.05)
            batch.add(["true"])
        assert batch.report is not None
        assert batch.report.is_good

    loop(main)


def test_verify_decides(run: Run, batches: Batches) -> None:
    """A command after the task's own, under the same slot; its failure is the task's."""
    see = 'echo "$1 $BUILD_SLOT" >>out'
    command = ["sh", "-c", see, "sh"]
    report = run(
        {"run": [*command, "run"], "verify": [*command, "verify"], "name": "good"},
        {"run": ["true"], "verify": "exit 9", "name": "bad", "retries": 1, "backoff": 0, "retry_on": [9]},
        {"run": ["false"], "verify": "touch verified", "name": "no"},
        jobs=1,
        fail="never",
    )
    assert states(report) == {"good": "ok", "bad": "failed", "no": "failed"}
    assert (report.outcomes[1].reason, report.outcomes[1].attempts) == ("verify: exit status 9", 2)
    assert batches.text() == "run 0\nverify 0\n"
    assert not (batches.dir / "verified").exists()


def test_verify_can_be_a_function(run: Run) -> None:
    """It fails by raising or by False, gets the arguments of the task, and leaves the task's value alone."""

    async def good(word: str) -> None:
        assert word == "a"

    def bad(word: str) -> None:
        raise ValueError(word)

    def value(word: str) -> str:
        return word * 2

    report = run(
        *[
            {"run": value, "args": ["a"], "verify": verify, "name": name}
            for name, verify in {
                "good": good,
                "bad": bad,
                "False": lambda _: False,
                "None": lambda _: 0,
            }.items()
        ],
        jobs=1,
        fail="never",
    )
    about = {one.name: (one.state, one.value) for one in report.outcomes}
    assert about["good"] == about["None"] == ("ok", "aa")
    assert (about["bad"][0], about["False"][0]) == ("failed", "failed")
    reasons = {one.name: str(one.reason) for one in report.outcomes}
    assert reasons["bad"] == "verify: ValueError: a"
    assert reasons["False"].endswith("returned False")


def test_unless_says_that_there_is_nothing_to_do(run: Run, batches: Batches) -> None:
    """By a command that succeeds, or a function that returns something true; else the task runs."""
    report = run(
        *[
            {"run": ["touch", f"ran {number}"], "unless": unless, "name": f"{number}"}
            for number, unless in enumerate(["exit 0", "exit 1", lambda: "yes", lambda: None, lambda: 1 / 0])
        ],
        fail="never",
    )
    assert states(report) == {"0": "unchanged", "1": "ok", "2": "unchanged", "3": "ok", "4": "ok"}
    assert sorted(path.name for path in batches.dir.glob("ran*")) == ["ran 1", "ran 3", "ran 4"]
    assert {one.attempts for one in report.outcomes if one.state == "unchanged"} == {0}


def test_unless_takes_no_slot(pool: Pool, loop: Loop, monkeypatch: pytest.MonkeyPatch) -> None:
    """What has nothing to do never stands in line."""
    monkeypatch.setenv("MAX_CONCURRENT_BUILDS", "1")
    held = pool.build("-n1")
    held.started()

    async def main() -> None:
        async with Batch() as batch:
            task = batch.add(["false"], unless=["true"])
            await until(lambda: task.outcome, "its end")
            assert task.state == "unchanged"

    loop(main)


def test_what_cannot_start_fails(run: Run, batches: Batches) -> None:
    """With the reason, and with the shell's status for it; nothing else is affected."""
    (batches.dir / "not executable").write_text("x")
    report = run(
        {"run": ["./no such program"], "name": "missing"},
        {"run": ["./not executable"], "name": "refused"},
        {"run": ["true"], "cwd": "no/such/directory", "name": "nowhere"},
        {"run": ["true"], "name": "good"},
        fail="never",
    )
    about = {one.name: (one.state, one.status, str(one.reason)) for one in report.outcomes}
    assert about["missing"] == ("failed", 127, "cannot start ./no such program: No such file or directory")
    assert about["refused"][2] == "cannot start ./not executable: Permission denied"
    assert re.fullmatch(r"cannot start: .*no/such/directory is no directory", about["nowhere"][2])
    assert about["good"][0] == "ok"


def test_a_command_that_dies_of_a_signal_fails(run: Run) -> None:
    """The signal is in its status, negative, and by name in the reason."""
    (outcome,) = run({"run": "kill -9 $$"}).outcomes
    assert (outcome.state, outcome.status, outcome.reason) == ("failed", -signal.SIGKILL, "killed by SIGKILL")


def test_a_function_that_fails_is_only_its_own_failure(run: Run) -> None:
    """Also by sys.exit, StopIteration or a GeneratorExit; the batch and other tasks go on."""

    def leave() -> None:
        raise SystemExit(3)

    def stop() -> None:
        raise StopIteration

    async def fail() -> None:
        raise ZeroDivisionError("x")

    report = run(
        {"run": leave, "name": "exit"},
        {"run": stop, "name": "stop"},
        {"run": fail, "name": "fail"},
        {"run": ["true"], "name": "good"},
        fail="never",
    )
    assert states(report) == {"exit": "failed", "stop": "failed", "fail": "failed", "good": "ok"}
    reasons = {one.name: str(one.reason) for one in report.outcomes}
    assert "sys.exit(3)" in reasons["exit"]
    assert reasons["fail"] == "ZeroDivisionError: x"


def test_a_wedged_function_does_not_keep_the_program(batches: Batches) -> None:
    """A program ends with its batch although a thread of that hangs for ever."""
    program = (
        "import threading, buildslots\n"
        "report = buildslots.run_batch([{'run': threading.Event().wait, 'time_limit': 0.05, 'pool': ''}])\n"
        "print(report.counts)\n"
    )
    result = batches.pool.run(sys.executable, "-c", program, cwd=batches.dir)
    assert (result.returncode, result.stdout, result.stderr) == (0, "{'timed_out': 1}\n", "")


def test_attempts_and_statuses_are_told(batches: Batches, batch: Command) -> None:
    """In JSON lines and in plain lines."""
    script = counting("test $n = 3 || exit 7")
    file = batches.write({"name": "a", "run": script, "retries": 2, "backoff": 0})
    (one,) = [one for one in events(batch("--json", file).stdout) if one["event"] == "task"]
    assert (one["state"], one["attempts"], one["status"]) == ("ok", 3, 0)
    (batches.dir / "out").unlink()
    lines = batch(file).stdout.splitlines()
    assert [line.split(", ")[0] for line in lines if line.startswith("start ")] == ["start     a"] * 3
    assert lines[1:3] == ["retry     a: exit status 7", "start     a, attempt 2"]
    assert ended([one]) == {"a": "ok"}
    wait_until(lambda: batches.pool.held() == [], "free slots")
