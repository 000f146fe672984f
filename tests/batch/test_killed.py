"""Batches killed with SIGKILL at every step: what they leave, and what the next run makes of it."""

from __future__ import annotations

import itertools
import os
import shutil
import signal
import sys
from typing import TYPE_CHECKING, Any

import pytest
from batches import Batches, ended, events, tree
from builds import Pool, script, wait_until

from buildslots.batch import staging
from buildslots.batch.records import Records
from buildslots.view.main import main

if TYPE_CHECKING:
    from collections.abc import Callable
    from subprocess import CompletedProcess

    Command = Callable[..., CompletedProcess[str]]

DESTINATIONS = ("a", "b")
STEPS = [(os, "mkdir"), (os, "rename"), (os, "rmdir"), (os, "unlink"), (shutil, "rmtree")]
STEPS += [(staging, "_renameat2"), (Records, "write")]
"""Calls before which a batch is killed: what it does to directories, and the lines of its records."""
FEWEST = 15
"""So many of them there are at least in a batch with two stages."""


def die_before(number: int) -> None:
    """Let this process be killed before the call of that number."""
    count = itertools.count(1)

    def deadly(call: Callable[..., Any]) -> Callable[..., Any]:
        def called(*args: Any, **options: Any) -> Any:
            if next(count) == number:
                os.kill(os.getpid(), signal.SIGKILL)
            return call(*args, **options)

        return called

    for where, name in STEPS:
        setattr(where, name, deadly(getattr(where, name)))


def batch_killed_before(number: int, *args: str) -> bool:
    """Run `buildslots batch ARGS` in a fork, killed before the call of that number: whether it was."""
    pid = os.fork()
    if not pid:
        try:
            die_before(number)
            os._exit(main(["batch", *args]))
        finally:
            os._exit(99)
    status = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    assert status in (0, -signal.SIGKILL)
    return status != 0


def prepare(batches: Batches) -> str:
    """A plan of two stages, of which one has a destination already: its file."""
    for name in DESTINATIONS:
        shutil.rmtree(batches.dir / name, ignore_errors=True)
    (batches.dir / "a").mkdir()
    (batches.dir / "a" / "it").write_text("old\n")
    shutil.rmtree(batches.state, ignore_errors=True)
    tasks = [
        {"name": name, "run": 'echo "$BATCH_ID" >"$STAGE/it"; echo x >"$STAGE/other"', "stage": name}
        for name in DESTINATIONS
    ]
    return batches.write(*tasks, {"name": "c", "run": ["true"]}, pool="")


def contents(batches: Batches) -> dict[str, str]:
    """What is at each destination: "old", "none", or the id of the run that it comes from; always whole."""
    found = {}
    for name in DESTINATIONS:
        files = tree(batches.dir / name)
        what = files.pop("it", "none\n").strip()
        assert files == ({} if what in ("old", "none") else {"other": "x\n"}), (
            f"half of {name}: {what}, {files}"
        )
        found[name] = what
    return found


def before(batches: Batches) -> dict[str, str]:
    """What was at the destinations before any run."""
    return dict(zip(DESTINATIONS, ("old", "none"), strict=True))


def beside(batches: Batches) -> list[str]:
    return sorted(path.name for path in batches.dir.glob(".*"))


@pytest.mark.parametrize("way", ["exchange", "rename"])
@pytest.mark.parametrize("number", range(8))
def test_killed_anywhere_each_destination_is_whole_and_resume_does_the_rest(
    batches: Batches, batch: Command, monkeypatch: pytest.MonkeyPatch, way: str, number: int
) -> None:
    """Old or new; the next run names and removes what was left, and runs exactly what was not done."""
    if way == "rename":
        monkeypatch.setattr(staging, "_renameat2", lambda *_: False)
    point, points = number + 1, 0
    file = prepare(batches)
    while batch_killed_before(point, "-j1", file):
        points += 1
        killed = batches.runs()[-1].name if batches.runs() else None
        found = contents(batches)
        left = beside(batches)
        assert found["a"] in (["old", killed] if way == "exchange" else ["old", "none", killed])
        assert found["b"] in ("none", killed)
        result = batch("--json", "--resume", "-j1", file)
        assert result.returncode == 0
        told = ended(events(result.stdout))
        newest = batches.runs()[-1].name
        for name in DESTINATIONS:
            # Never twice without reason, and never taken for done without being there.
            assert contents(batches)[name] == (killed if told[name] == "unchanged" else newest), (point, name)
            assert found[name] != killed or told[name] == "unchanged", (point, name)
        assert beside(batches) == []
        for name in left:
            task = name[1]
            assert any(
                f"of task '{task}'" in line and "was killed: " in line for line in result.stderr.splitlines()
            )
        point += 8
        file = prepare(batches)
    assert points or number > 0
    assert contents(batches) == dict.fromkeys(DESTINATIONS, batches.runs()[-1].name)
    assert point > FEWEST


@pytest.mark.parametrize("way", ["exchange", "rename"])
@pytest.mark.parametrize("number", range(8))
def test_killed_anywhere_all_or_nothing_is_all_or_nothing(
    batches: Batches, batch: Command, monkeypatch: pytest.MonkeyPatch, way: str, number: int
) -> None:
    """After the next run, whatever that does itself, all destinations are old or all are new."""
    if way == "rename":
        monkeypatch.setattr(staging, "_renameat2", lambda *_: False)
    point = number + 1
    seen = set()
    file = prepare(batches)
    while batch_killed_before(point, "-j1", "--all-or-nothing", file):
        killed = batches.runs()[-1].name if batches.runs() else None
        contents(batches)
        batches.write({"run": ["false"]}, file=file)
        batch(file)
        found = contents(batches)
        assert found in (before(batches), dict.fromkeys(DESTINATIONS, killed)), point
        assert beside(batches) == []
        seen.add(found["a"])
        point += 8
        file = prepare(batches)
    assert contents(batches) == dict.fromkeys(DESTINATIONS, batches.runs()[-1].name)
    assert seen
    assert point > FEWEST


@pytest.mark.parametrize("number", range(4))
def test_killed_while_undoing_it_is_undone_by_the_next_run(
    batches: Batches, batch: Command, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    """A batch that was rolling back, with one move made, is rolled back in the end."""
    rename = staging.Stage.move

    def move(stage: staging.Stage) -> None:
        if stage.dest.endswith("/b"):
            raise OSError(5, "Input/output error")
        rename(stage)

    point = number + 1
    file = prepare(batches)
    while True:
        with monkeypatch.context() as patch:
            patch.setattr(staging.Stage, "move", move)
            pid = os.fork()
            if not pid:
                try:
                    die_before(point)
                    os._exit(main(["batch", "-j1", "--all-or-nothing", file]))
                finally:
                    os._exit(99)
        status = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
        if status != -signal.SIGKILL:
            break
        told = batches.events() if batches.runs() else []
        is_committed = any(one.get("step") == "commit" for one in told)
        is_undoing = any(one.get("step") == "rollback" for one in told)
        batches.write({"run": ["false"]}, file=file)
        batch(file)
        expected = [before(batches)]
        if is_committed and not is_undoing:
            expected = [dict.fromkeys(DESTINATIONS, told[0]["batch"])]  # the next run could move it
        assert contents(batches) in expected, point
        assert beside(batches) == []
        point += 4
        file = prepare(batches)
    assert status == 3
    assert contents(batches) == before(batches)
    assert point > FEWEST


@pytest.mark.linux
@pytest.mark.parametrize(
    ("call", "when"), [("renameat2", 1), ("renameat2", 2), ("mkdirat", 1), ("mkdirat", 4), ("unlinkat", 1)]
)
def test_killed_in_a_system_call_it_is_put_right(
    batches: Batches, batch: Command, call: str, when: int
) -> None:
    """The whole program under strace: old or new, and the next run completes it."""
    file = prepare(batches)
    trace = ["strace", "-f", "-o", "/dev/null", "-e", f"trace={call}"]
    inject = f"inject={call}:signal=KILL:when={when}"
    result = batches.pool.run(
        *trace, "-e", inject, script("buildslots"), "batch", "-j1", "--all-or-nothing", file, cwd=batches.dir
    )
    assert result.returncode == -signal.SIGKILL
    contents(batches)
    result = batch("-j1", file)
    assert result.returncode == 0
    assert contents(batches) == dict.fromkeys(DESTINATIONS, batches.runs()[-1].name)
    assert beside(batches) == []


def test_commands_keep_their_slots_when_their_batch_is_killed(batches: Batches, pool: Pool) -> None:
    """As below slot-run; the next run of the batch waits for them, and names them."""
    wait = "echo $$ >>started; until test -e go; do sleep 0.01; done"
    file = batches.write({"name": "a", "run": wait})
    first = batches.start(file)
    wait_until(lambda: batches.text("started"), "the command")
    wait_until(lambda: any(one.get("step") == "command" for one in batches.events()), "its record")
    first.process.kill()
    first.process.wait()
    assert pool.held() == [0]
    second = batches.start("--resume", file)
    line = second.read_error_line()
    assert "was killed, and its commands still run: waiting for a (pid " in line
    assert batches.text("started").strip() in line
    assert pool.held() == [0]
    assert len(batches.text("started").split()) == 1
    (batches.dir / "go").touch()
    assert second.process.wait(30) == 0
    assert pool.held() == []
    assert len(batches.text("started").split()) == 2  # nobody knows how the first one has ended


def test_resume_runs_exactly_what_was_not_done(batches: Batches, batch: Command) -> None:
    """What failed, was skipped or has another command now; what was done is unchanged, also next time."""
    tasks: list[dict[str, Any]] = [
        {"name": "good", "run": "echo good >>out"},
        {"name": "bad", "run": "echo bad >>out; test -e fixed"},
        {"name": "needs bad", "run": "echo needs >>out", "needs": ["bad"]},
        {"name": "other", "run": "echo other >>out"},
        {"name": "checked", "run": "echo checked >>out", "unless": ["true"]},
    ]
    file = batches.write(*tasks)
    assert "no earlier run of this batch to go on with" in batch("--resume", "--fail", "never", file).stderr
    assert sorted(batches.text().split()) == ["bad", "good", "other"]
    (batches.dir / "fixed").touch()
    (batches.dir / "out").unlink()
    tasks[3]["env"] = {"MORE": "1"}
    batches.write(*tasks)
    result = batch("--json", "--resume", file)
    assert ended(events(result.stdout)) == {
        "good": "unchanged",
        "checked": "unchanged",
        "bad": "ok",
        "needs bad": "ok",
        "other": "ok",
    }
    assert sorted(batches.text().split()) == ["bad", "needs", "other"]
    result = batch("--json", "--resume", file)
    assert set(ended(events(result.stdout)).values()) == {"unchanged"}
    assert {one["reason"] for one in events(result.stdout) if one["event"] == "task"} == {
        "done by an earlier run"
    }
    assert batch("--json", file).returncode == 0
    assert sorted(batches.text().split())[:2] == ["bad", "bad"]


def test_resume_goes_on_with_a_stream(batches: Batches, batch: Command) -> None:
    """Of the same file, line by line."""
    lines = [f'{{"name": "{n}", "run": "echo {n} >>out; test {n} != 2 || test -e fixed"}}' for n in range(4)]
    (batches.dir / "tasks.ndjson").write_text("\n".join(lines))
    assert batch("-j1", "--fail", "never", "tasks.ndjson").returncode == 1
    (batches.dir / "fixed").touch()
    result = batch("-j1", "--json", "--resume", "tasks.ndjson")
    assert ended(events(result.stdout)) == {"0": "unchanged", "1": "unchanged", "2": "ok", "3": "unchanged"}
    assert batches.text().split() == ["0", "1", "2", "3", "2"]


def test_the_library_takes_care_of_what_its_killed_batch_has_left(batches: Batches) -> None:
    """The next batch of that name and program removes it, with a warning that names it."""
    program = batches.dir / "program.py"
    program.write_text(
        "import os, signal, sys, buildslots\n"
        "def fill():\n"
        "    open(buildslots.current_task().stage + '/it', 'w').close()\n"
        "    if sys.argv[1] == 'die': os.kill(os.getpid(), signal.SIGKILL)\n"
        "print(buildslots.run_batch([{'run': fill, 'stage': 'dest', 'name': 'fill'}], name='mine').counts)\n"
    )
    command = [sys.executable, str(program)]
    assert batches.pool.run(*command, "die", cwd=batches.dir).returncode == -signal.SIGKILL
    assert len(beside(batches)) == 1
    result = batches.pool.run(*command, "live", cwd=batches.dir)
    assert result.stdout == "{'ok': 1}\n"
    assert "was killed: removed what was staged for" in result.stderr
    assert (beside(batches), tree(batches.dir / "dest")) == ([], {"it": ""})
