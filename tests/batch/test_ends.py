"""How batches end: what a failure does, undoing, exit statuses, signals, cancellation."""

from __future__ import annotations

import functools
import os
import pty
import signal
import sys
from typing import TYPE_CHECKING, Any

import anyio
import psutil
import pytest
from batches import Batches, Gauge, ended, events, states, until
from builds import Build, Pool, script, wait_until
from strays import is_gone

from buildslots import Batch
from buildslots.batch import commands

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable
    from subprocess import CompletedProcess

    from buildslots import Report

    Run = Callable[..., Report]
    Loop = Callable[[Callable[[], Awaitable[Any]]], Any]
    Command = Callable[..., CompletedProcess[str]]


FAIL = {
    "soon": {"bad": "failed", "runs": "ok", "later": "skipped"},
    "never": {"bad": "failed", "runs": "ok", "later": "ok"},
    "now": {"bad": "failed", "runs": "cancelled", "later": "skipped"},
}


@pytest.mark.parametrize("fail", FAIL)
def test_what_a_failure_does(run: Run, batches: Batches, fail: str) -> None:
    """soon: what runs comes to its end; never: all the rest runs; now: what runs is ended."""
    go_on = "sleep 1000" if fail == "now" else "until test -e settled; do sleep 0.01; done"
    report = run(
        {"run": f"touch runs; {go_on}", "name": "runs"},
        {"run": "until test -e runs; do sleep 0.01; done; exit 1", "name": "bad"},
        {"run": ["true"], "name": "later"},
        jobs=2,
        fail=fail,
        on_change=lambda task: (batches.dir / "settled").touch() if task.state == "failed" else None,
    )
    assert states(report) == FAIL[fail]
    assert not report.is_good
    if fail != "never":
        assert {one.name: one.reason for one in report.outcomes}["later"] == "bad failed"


STATUSES = {
    "all well": ([{"run": ["true"]}, {"run": ["false"], "unless": ["true"]}], [], 0),
    "nothing": ([], [], 0),
    "a failure": ([{"run": ["false"]}], [], 1),
    "a failure of one": ([{"run": ["false"]}, {"run": ["true"]}], ["--fail", "never"], 1),
    "rolled back": ([{"run": ["true"]}, {"run": ["false"]}], ["--all-or-nothing"], 3),
}


@pytest.mark.parametrize(("tasks", "options", "status"), STATUSES.values(), ids=list(STATUSES))
def test_the_exit_status_says_how_it_went(
    batches: Batches, batch: Command, tasks: list[dict[str, Any]], options: list[str], status: int
) -> None:
    """0 all ok or unchanged, 1 some failed, 3 rolled back; a mistake is 2, see test_plan."""
    result = batch("-j1", *options, batches.write(*tasks))
    assert (result.returncode, result.stderr) == (status, "")


def test_undo_runs_in_reverse_for_what_had_succeeded(run: Run, batches: Batches) -> None:
    """Not for what failed, was unchanged or never ran; by commands, and functions with the same arguments."""
    said: list[str] = []

    def note(word: str) -> None:
        said.append(word)

    undone: list[str] = []
    report = run(
        {"run": ["true"], "undo": "echo a >>out", "name": "a"},
        {"run": note, "args": ["b"], "undo": undone.append, "name": "b"},
        {"run": ["true"], "undo": "echo c >>out", "name": "c"},
        {"run": ["false"], "unless": ["true"], "undo": "echo unchanged >>out", "name": "unchanged"},
        {"run": ["true"], "name": "no undo"},
        {"run": ["false"], "undo": "echo failed >>out", "name": "failed"},
        {"run": ["true"], "undo": "echo never >>out", "name": "never"},
        jobs=1,
        all_or_nothing=True,
    )
    assert report.rolled_back
    assert (batches.text().split(), said, undone) == (["c", "a"], ["b"], ["b"])
    assert states(report) == {
        "a": "undone",
        "b": "undone",
        "c": "undone",
        "unchanged": "unchanged",
        "no undo": "ok",
        "failed": "failed",
        "never": "skipped",
    }
    assert report.counts["undone"] == 3


def test_nothing_is_undone_when_all_went_well(run: Run, batches: Batches) -> None:
    """Nor without all-or-nothing."""
    tasks = [{"run": ["true"], "undo": "echo x >>out"}, {"run": ["true"]}]
    assert not run(*tasks, all_or_nothing=True, jobs=1).rolled_back
    assert not run(*tasks, {"run": ["false"]}, jobs=1).rolled_back
    assert batches.text() == ""


def test_an_undo_that_fails_is_said_and_the_others_run(run: Run, batches: Batches) -> None:
    """With its reason; the batch is rolled back all the same."""
    report = run(
        {"run": ["true"], "undo": "echo a >>out", "name": "a"},
        {"run": ["true"], "undo": "exit 9", "name": "b"},
        {"run": ["false"], "name": "c"},
        jobs=1,
        all_or_nothing=True,
    )
    assert batches.text() == "a\n"
    assert {one.name: one.reason for one in report.outcomes}["b"] == "undo: exit status 9"


PATIENT = (
    "import sys; from buildslots.batch import commands; commands.Command.end.__defaults__ = (1000.0,); "
    "from buildslots.view.main import main; sys.exit(main(['batch', *sys.argv[1:]]))"
)
"""`buildslots batch`, but what is to end has very long for that."""


def started(batches: Batches, build: Build, count: int = 1) -> None:
    """Wait until so many commands have noted that they run."""
    wait_until(lambda: len(batches.text("started").split()) >= count, "commands that run")
    assert build.process.poll() is None


def test_the_first_ctrl_c_drains(batches: Batches) -> None:
    """What runs comes to its end, nothing new starts, and then it dies of SIGINT."""
    shell = "echo x >>started; until test -e go; do sleep 0.01; done; echo {} >>out"
    build = batches.start("-j2", "--json", "--", "sh", "-c", shell)
    assert build.process.stdin is not None
    build.process.stdin.write(b"1\n2\n3\n4\n")
    build.process.stdin.close()
    started(batches, build, 2)
    build.process.send_signal(signal.SIGINT)
    assert "nothing new starts" in build.read_error_line()
    (batches.dir / "go").touch()
    assert build.process.wait(30) == -signal.SIGINT
    assert build.process.stdout is not None
    told = events(build.process.stdout.read().decode())
    assert ended(told) == {"1": "ok", "2": "ok", "3": "cancelled", "4": "cancelled"}
    assert told[-1]["state"] == "interrupted"
    assert sorted(batches.text().split()) == ["1", "2"]


@pytest.mark.parametrize(
    ("signals", "trap"),
    [
        ([signal.SIGINT, signal.SIGINT], ""),
        ([signal.SIGTERM], ""),
        ([signal.SIGHUP], ""),
        ([signal.SIGINT] * 3, "trap '' TERM; "),
        ([signal.SIGTERM] * 3, "trap '' TERM; "),
    ],
    ids=["INT twice", "TERM", "HUP", "INT thrice", "TERM thrice"],
)
def test_further_signals_end_and_kill_what_runs(batches: Batches, signals: list[int], trap: str) -> None:
    """The second Ctrl-C, or a SIGTERM or SIGHUP, ends what runs; the third kills what ignores that."""
    shell = trap + "setsid sleep 1000 & echo $! $$ >>pids; echo x >>started; wait; sleep 1000"
    file = batches.write({"run": shell, "name": "a"}, {"run": ["true"], "needs": ["a"]})
    build = batches.pool.popen(sys.executable, "-c", PATIENT, file, cwd=batches.dir)
    started(batches, build)
    for signum in signals[:2]:
        build.process.send_signal(signum)
        assert build.read_error_line().startswith("buildslots: ")
    for signum in signals[2:]:
        build.process.send_signal(signum)
    assert build.process.wait(30) == -signals[0]
    pids = [int(pid) for pid in batches.text("pids").split()]
    assert len(pids) == 2
    assert [pid for pid in pids if psutil.pid_exists(pid) and not is_gone(psutil.Process(pid))] == []
    assert build.process.stdout is not None
    assert "2 tasks: 2 cancelled" in build.process.stdout.read().decode()


def test_ctrl_c_with_all_or_nothing_undoes(batches: Batches) -> None:
    """What had succeeded is undone after the drain."""
    build = batches.start(
        "-j1",
        "--all-or-nothing",
        batches.write(
            {"run": ["true"], "undo": "echo undone >>out", "stage": "dest", "name": "a"},
            {"run": "echo x >>started; until test -e go; do sleep 0.01; done", "name": "b"},
            {"run": ["true"], "name": "c"},
        ),
    )
    started(batches, build)
    build.process.send_signal(signal.SIGINT)
    build.read_error_line()
    (batches.dir / "go").touch()
    assert build.process.wait(30) == -signal.SIGINT
    assert batches.text() == "undone\n"
    assert not (batches.dir / "dest").exists()


def test_a_signal_that_its_caller_ignores_stays_ignored(batches: Batches) -> None:
    """As under nohup."""
    shell = "echo x >>started; until test -e go; do sleep 0.01; done"
    ignore = functools.partial(signal.signal, signal.SIGHUP, signal.SIG_IGN)
    build = batches.start(batches.write({"run": shell}), preexec_fn=ignore)
    started(batches, build)
    build.process.send_signal(signal.SIGHUP)
    (batches.dir / "go").touch()
    assert build.process.wait(30) == 0


def test_a_second_run_of_a_batch_waits_for_the_first(batches: Batches) -> None:
    """And says so; the two would stage for the same destinations."""
    file = batches.write({"run": "echo x >>started; until test -e go; do sleep 0.01; done"})
    first = batches.start(file)
    started(batches, first)
    second = batches.start(file)
    assert "another run of this batch is under way" in second.read_error_line()
    assert len(batches.text("started").split()) == 1
    (batches.dir / "go").touch()
    assert (first.process.wait(30), second.process.wait(30)) == (0, 0)
    assert len(batches.text("started").split()) == 2


# Python.


def test_cancellation_of_what_is_around_leaves_nothing_running(
    loop: Loop, batches: Batches, pool: Pool
) -> None:
    """Commands are ended with all below them, coroutines cancelled, slots free, what waits is forgotten."""
    cancelled: list[str] = []

    async def forever() -> None:
        try:
            await anyio.sleep_forever()
        except anyio.get_cancelled_exc_class():
            cancelled.append("coroutine")
            raise

    async def main() -> None:
        with anyio.CancelScope() as scope:
            async with Batch(jobs=2) as batch:
                batch.add("setsid sleep 1000 & echo $! $$ >pids; touch started; wait")
                coroutine = batch.add(forever)
                waits = batch.add(["touch", "late"])
                await until(
                    lambda: (batches.dir / "started").exists() and coroutine.state == "running", "both"
                )
                scope.cancel()
                await anyio.sleep_forever()
        assert scope.cancelled_caught
        assert waits.outcome is None or waits.state == "cancelled"
        assert batch.report is not None
        assert not batch.report.is_good

    loop(main)
    assert cancelled == ["coroutine"]
    pids = [int(pid) for pid in batches.text("pids").split()]
    assert [pid for pid in pids if psutil.pid_exists(pid) and not is_gone(psutil.Process(pid))] == []
    assert (pool.held(), (batches.dir / "late").exists()) == ([], False)


def test_an_exception_in_the_block_comes_out_as_it_is(loop: Loop, batches: Batches) -> None:
    """Unwrapped, after what runs has come to its end; nothing new starts."""

    async def main() -> None:
        error = ZeroDivisionError("mine")
        with pytest.raises(ZeroDivisionError) as caught:  # noqa: PT012
            async with Batch(jobs=1) as batch:
                running = batch.add("touch started; exec sleep 1000", name="runs")
                later = batch.add(["touch", "late"])
                await until((batches.dir / "started").exists, "a command")
                raise error
        assert caught.value is error
        assert (running.state, later.state) == ("cancelled", "cancelled")
        assert batch.report is not None
        assert batch.report.counts == {"cancelled": 2}

    loop(main)
    assert not (batches.dir / "late").exists()


def test_an_exception_in_the_block_undoes(loop: Loop, batches: Batches) -> None:
    """With all-or-nothing: what had succeeded."""

    async def main() -> None:
        with pytest.raises(KeyError):  # noqa: PT012
            async with Batch(all_or_nothing=True) as batch:
                done = batch.add(["true"], stage=batches.dir / "dest", undo="touch undone")
                await until(lambda: done.outcome, "its end")
                raise KeyError
        assert done.state == "undone"

    loop(main)
    assert (batches.dir / "undone").exists()
    assert not (batches.dir / "dest").exists()
    assert not list(batches.dir.glob(".dest*"))


def test_cancel_ends_all(loop: Loop, batches: Batches) -> None:
    """And the block goes on, with a report."""

    async def main() -> None:
        async with Batch(jobs=1) as batch:
            running = batch.add("touch started; exec sleep 1000")
            later = batch.add(["true"])
            await until((batches.dir / "started").exists, "a command")
            batch.cancel()
            added = batch.add(["true"])
            names = [outcome.state async for outcome in batch]
        assert names == ["cancelled"] * 3
        assert (running.state, later.state, added.state) == ("cancelled",) * 3
        assert running.outcome is not None
        assert running.outcome.reason == "the batch was cancelled"

    loop(main)


def test_what_ignores_term_is_killed_in_the_end(
    loop: Loop, batches: Batches, monkeypatch: pytest.MonkeyPatch
) -> None:
    """When its time is over."""
    monkeypatch.setattr(commands.Command.end, "__defaults__", (0.05,))

    async def main() -> None:
        async with Batch() as batch:
            task = batch.add("trap '' TERM; touch started; while :; do sleep 1; done")
            await until((batches.dir / "started").exists, "a command")
            batch.cancel()
        assert task.state == "cancelled"

    loop(main)


def test_a_stopped_command_hears_of_its_end(loop: Loop, batches: Batches) -> None:
    """It is continued, so that its SIGTERM reaches it."""

    async def main() -> None:
        async with Batch() as batch:
            batch.add(
                "trap 'echo heard >>out; exit' TERM; touch started; kill -STOP $$; while :; do sleep 1; done"
            )
            await until((batches.dir / "started").exists, "a command")
            batch.cancel()

    loop(main)
    assert batches.text() == "heard\n"


def test_batches_nest(loop: Loop, batches: Batches, monkeypatch: pytest.MonkeyPatch) -> None:
    """A task may run a batch of its own, whose tasks run under its slot, here the only one."""
    monkeypatch.setenv("MAX_CONCURRENT_BUILDS", "1")
    gauge = Gauge()

    async def inner() -> None:
        async with Batch(jobs=1) as batch:
            batch.add(gauge.enter)
            batch.add(["true"])
        assert batch.report is not None
        batch.report.check()

    async def main() -> None:
        async with Batch(jobs=2) as batch:
            batch.add(inner)
            batch.add([script("buildslots"), "batch", batches.write({"run": ["true"]})])
            batch.add(["true"])
        assert batch.report is not None
        batch.report.check()

    loop(main)
    assert gauge.peak == 1


# What commands find.


def test_commands_find_no_input_no_terminal_and_no_prompt(batches: Batches) -> None:
    """Their input is /dev/null, no terminal controls them, git asks nobody; also from a real terminal."""
    show = (
        'readlink /proc/self/fd/0; echo "$GIT_TERMINAL_PROMPT"; '
        "if (: </dev/tty) 2>/dev/null; then echo tty; else echo none; fi; "
        "ps -o sid= -p $$ | tr -d ' '; echo $$"
    )
    file = batches.write({"run": f"{{ {show}; }} >out 2>&1"})
    pid, terminal = pty.fork()
    if not pid:
        try:
            os.chdir(batches.dir)
            os.execve(script("buildslots"), ["buildslots", "batch", file], batches.pool.environ)
        finally:
            os._exit(99)
    while True:
        try:
            if not os.read(terminal, 4096):
                break
        except OSError:
            break
    os.close(terminal)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
    stdin, prompt, tty, session, shell = batches.text().split()
    assert (stdin, prompt, tty) == ("/dev/null", "0", "none")
    assert session == shell


def test_what_asks_for_a_password_fails(run: Run) -> None:
    """It reads the end of its input; nothing hangs."""
    (outcome,) = run({"run": "read password || exit 9"}).outcomes
    assert outcome.status == 9


def test_commands_find_who_they_are(run: Run, batches: Batches, monkeypatch: pytest.MonkeyPatch) -> None:
    """BATCH_ID, BATCH_TASK, BUILD_SLOT and STAGE, their own env last, and the rest of the environment."""
    monkeypatch.setenv("MINE", "mine")
    show = 'echo "$BATCH_ID|$BATCH_TASK|${BUILD_SLOT-none}|${STAGE-none}|$MINE|$OWN|$PWD" >>"$OUT"'
    env = {"OUT": str(batches.dir / "out")}
    report = run(
        {"run": show, "name": "a b", "env": {"OWN": "own", **env}},
        {"run": show, "name": "c", "pool": "", "stage": "dest", "cwd": "running", "verify": show, "env": env},
        jobs=1,
    )
    assert report.is_good
    first, second, third = batches.text().splitlines()
    assert first == f"{report.id}|a b|0|none|mine|own|{batches.dir}"
    assert second == third
    stage = f"{batches.dir}/.dest.stage-{report.id}-2/new"
    assert second == f"{report.id}|c|none|{stage}|mine||{batches.dir}/running"


def test_a_task_that_adds_a_task_lends_it_no_slot(loop: Loop, monkeypatch: pytest.MonkeyPatch) -> None:
    """What a task adds to its own batch takes a slot of its own."""
    monkeypatch.setenv("MAX_CONCURRENT_BUILDS", "1")

    async def main() -> None:
        async with Batch(jobs=4) as batch:

            async def parent() -> None:
                child = batch.add(["true"], name="child")
                await until(lambda: child.state == "waiting", "a child that waits for its parent's slot")

            batch.add(parent, name="parent")
            names = [outcome.name async for outcome in batch]
        assert names == ["parent", "child"]

    loop(main)
