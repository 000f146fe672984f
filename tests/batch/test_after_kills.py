"""What the next run makes of a batch that was killed at a moment which is hard to hit: from made-up records.

Each of these was found by bench/workloads/kills.
"""

from __future__ import annotations

import fcntl
import json
import os
import subprocess
import time
from typing import TYPE_CHECKING, Any

import pytest
from builds import DEADLINE_S, script, wait_until

from buildslots.batch.staging import Stage

if TYPE_CHECKING:
    from pathlib import Path

    from builds import Pool

pytestmark = pytest.mark.linux


class Plan:
    """A plan of tasks that each append a line to the file `log`, and the records of its runs."""

    def __init__(self, pool: Pool, directory: Path) -> None:
        self.directory = directory
        directory.mkdir(mode=0o755)
        directory.chmod(0o755)
        state = directory / "state"
        self.records = state / "buildslots" / "batches"
        self._environ = pool.environ | {"XDG_STATE_HOME": str(state)}

    def write(self, *names: str, top: str = "", stage: bool = False) -> None:
        lines = [top]
        for name in names:
            lines += ["[[task]]", f'name = "{name}"', f"run = 'echo {name} >>log'"]
            lines += [f'stage = "{name}"'] * stage
        (self.directory / "plan.toml").write_text("\n".join(lines))

    def start(self) -> subprocess.Popen[str]:
        command = [script("buildslots"), "batch", "--resume", "plan.toml"]
        pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
        return subprocess.Popen(command, cwd=self.directory, env=self._environ, text=True, **pipes)

    def run(self) -> str:
        """Run it: what it has said on stderr."""
        with self.start() as process:
            _, err = process.communicate(timeout=DEADLINE_S)
        assert process.returncode == 0, err
        return str(err)

    def log(self) -> list[str]:
        path = self.directory / "log"
        return path.read_text().split() if path.exists() else []

    def killed(self, *steps: dict[str, Any], **begin: Any) -> Path:
        """Make up the records of a run that was killed after `steps`, later than those that there are."""
        *_, last = sorted(self.records.iterdir())
        first = json.loads((last / "events.ndjson").read_text().splitlines()[0])
        path = self.records / f"{last.name}.killed"
        path.mkdir(mode=0o700)
        events = [first | {"t": time.time(), "batch": path.name} | begin]
        events += [{"v": 1, "seq": 1, "t": time.time(), **step} for step in steps]
        (path / "events.ndjson").write_text("".join(f"{json.dumps(event)}\n" for event in events))
        (path / "running").touch()
        return path


@pytest.fixture
def plan(pool: Pool, tmp_path: Path) -> Plan:
    plan = Plan(pool, tmp_path / "work")
    plan.write("a", "b")
    plan.run()
    return plan


def step(step: str, number: int, **about: Any) -> dict[str, Any]:
    return {"event": "step", "step": step, "task": "ab"[number - 1], "n": number, **about}


def test_resume_reaches_behind_a_run_that_was_killed_before_it_said_what_is_done(plan: Plan) -> None:
    """One that did not go on with what was before it says by that that everything is to run."""
    plan.killed(resume=True)
    plan.killed(resume=True)
    plan.run()
    assert plan.log() == ["a", "b"]
    plan.killed(resume=False)
    plan.run()
    assert sorted(plan.log()) == ["a", "a", "b", "b"]


def test_a_command_that_was_started_but_not_written_down_is_waited_for(plan: Plan) -> None:
    """It has a lock of its batch; nothing else tells of it."""
    killed = plan.killed(step("starting", 1), resume=False)
    with open(killed / "commands", "w") as commands:
        fcntl.flock(commands, fcntl.LOCK_EX)
        process = plan.start()
        assert process.stderr is not None
        assert process.stderr.readline().endswith("its commands still run: waiting for a\n")
        assert sorted(plan.log()) == ["a", "b"]
    with process:
        process.communicate(timeout=DEADLINE_S)
    assert sorted(plan.log()) == ["a", "a", "b", "b"]


def test_a_command_in_another_container_is_known_by_its_lock(plan: Plan) -> None:
    """Its pid means nothing here; nobody has the lock, so it does not run."""
    killed = plan.killed(step("starting", 1), step("command", 1, pid=1), pidns="pid:[1]")
    (killed / "commands").touch()
    assert "still run" not in plan.run()


def test_a_zombie_is_waited_for_no_longer(plan: Plan) -> None:
    """In many containers nobody reaps an orphan."""
    with subprocess.Popen(["true"]) as zombie:
        os.waitid(os.P_PID, zombie.pid, os.WEXITED | os.WNOWAIT)
        plan.killed(step("starting", 1), step("command", 1, pid=zombie.pid))
        assert "still run" not in plan.run()


def test_all_moves_are_undone_when_one_cannot_be_completed(plan: Plan) -> None:
    """A was moved; where B is to go, a file is now. Afterwards A is the old one, and nothing lies beside."""
    steps = []
    for number, name in enumerate("ab", 1):
        stage = Stage(str(plan.directory / name), f".{name}.stage-killed")
        (plan.directory / "a").mkdir(exist_ok=True)
        stage.make()
        (plan.directory / stage.name / "new" / "it").touch()
        where = {"dest": stage.dest, "stage": stage.name}
        steps += [step("stage", number, **where), step("move", number, **where, identity=stage.identity)]
        if name == "a":
            stage.move()
        stage.close()
    (plan.directory / "b").touch()
    plan.killed(*steps, {"event": "step", "step": "commit"}, all_or_nothing=True)
    plan.write("c")
    said = plan.run()
    assert "cannot be completed, and is undone" in said
    assert not list((plan.directory / "a").iterdir())
    assert (plan.directory / "b").is_file()
    assert not list(plan.directory.glob(".*"))


def test_a_move_that_cannot_be_completed_is_given_up_and_its_task_runs_again(plan: Plan) -> None:
    """Where it is to go, a file is now; when that is gone, the task makes its stage anew."""
    stage = Stage(str(plan.directory / "a"), ".a.stage-killed")
    stage.make()
    (plan.directory / "a").touch()
    where = {"dest": stage.dest, "stage": stage.name}
    plan.killed(step("stage", 1, **where), step("move", 1, **where, identity=stage.identity))
    stage.close()
    plan.write("c")
    assert "is no directory: a stage becomes one; removed what was staged" in plan.run()
    assert not list(plan.directory.glob(".*"))


def test_records_of_a_batch_that_was_killed_before_its_first_event_go_when_they_are_old(plan: Plan) -> None:
    """Until then they may be of one that begins; and what else is there is somebody's."""
    paths = [plan.killed() for _ in range(3)]
    for path in paths:
        (path / "events.ndjson").write_text("")
    (paths[2] / "mine").touch()
    theirs = plan.records / "theirs"
    theirs.mkdir()
    for path in (paths[0], paths[2], theirs):
        os.utime(path, (time.time() - 90, time.time() - 90))
    plan.run()
    assert [path.exists() for path in [*paths, theirs]] == [False, True, True, True]


def test_old_records_go_and_what_else_lies_there_stays(plan: Plan) -> None:
    """Name by name: the logs too, and no directory in which somebody has put something."""
    month_ago = time.time() - 30 * 86400
    paths = [plan.killed(t=month_ago) for _ in range(3)]
    for path in paths:
        (path / "running").unlink()
        (path / "logs").mkdir()
        (path / "logs" / "0001-a.log").touch()
    (paths[1] / "logs" / "mine").touch()
    (paths[2] / "mine").touch()
    plan.run()
    assert [path.exists() for path in paths] == [False, True, True]
    assert [(path / "events.ndjson").exists() for path in paths[1:]] == [True, True]
    assert (paths[2] / "logs" / "0001-a.log").exists()


def test_who_looks_whether_a_run_lives_does_not_make_it_live(plan: Plan) -> None:
    """Both look by shared locks."""
    killed = plan.killed()
    with open(killed / "running") as running:
        fcntl.flock(running, fcntl.LOCK_SH)
        plan.run()
    assert not (killed / "running").exists()
    wait_until(lambda: not (killed / "staged").exists(), "the end")


def test_a_task_whose_stage_was_moved_and_removed_is_done(plan: Plan) -> None:
    """Its batch was killed before it wrote down that it is: the directory at the destination tells."""
    plan.write("a", stage=True)
    plan.run()
    (run,) = [path for path in plan.records.iterdir() if '"move"' in (path / "events.ndjson").read_text()]
    events = [json.loads(line) for line in (run / "events.ndjson").read_text().splitlines()]
    is_last = [event.get("step") == "removed" for event in events].index(True)
    plan.killed(*events[1 : is_last + 1], resume=False)
    plan.run()
    assert plan.log() == ["a", "b", "a"]
