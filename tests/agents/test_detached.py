"""Detached builds: what outlives its starter, what is the same, what is told of one whose keeper died."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from stat import S_IMODE
from typing import TYPE_CHECKING

import psutil
import pytest
from builds import DEADLINE_S, Mounts, Pool, script, wait_until
from namespaces import unshare

from buildslots import jobs, trees
from buildslots.agents import detached
from buildslots.jobs import FINISHED, LOST, RUNNING, WAITING, Job

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

HELD = "echo here; until [ -e go ]; do sleep 0.01; done; exit 7"
"""A shell command that runs until the file `go` is there."""
SLOWLY = """
import sys, time
from buildslots import jobs
prune = jobs.prune
jobs.prune = lambda found: (time.sleep(0.1), prune(found))
from buildslots.run.main import main
sys.argv[0] = "slot-run"
main()
"""
"""Python that is slot-run, and takes its time between the look for the same build and the start."""


class Desk:
    """A directory in which somebody starts detached builds with the pool of the test."""

    def __init__(self, pool: Pool, directory: Path) -> None:
        self.pool, self.dir = pool, directory
        directory.mkdir()

    def call(self, *args: str, **options: object) -> subprocess.CompletedProcess[str]:
        """Run slot-run, or `buildslots` with a word of its own in front."""
        options = {"cwd": self.dir} | options
        return self.pool.run(*args, **options)

    def start(self, *args: str, **options: object) -> Job:
        """Start a detached build: what is kept of it."""
        result = self.call(script("slot-run"), "--detach", *args, **options)
        assert (result.returncode, result.stderr) == (0, "")
        return self.told(result.stdout)

    @staticmethod
    def told(line: str) -> Job:
        """The build that a line of slot-run is about."""
        return Job(os.path.join(jobs.base_dir(), line.partition(":")[0]))

    def held(self, *args: str) -> Job:
        """Start a build that runs until `go`, and wait until it runs."""
        job = self.start("-n1", *args, "--", "sh", "-c", HELD)
        wait_until(lambda: "here" in (self.dir / job.log).read_text(), "the command")
        wait_until(lambda: job.state().word == RUNNING, "the command is noted")
        return job

    def wait(self, *args: str, **options: object) -> subprocess.CompletedProcess[str]:
        """`buildslots wait ARGS`."""
        return self.call(script("buildslots"), "wait", *args, **options)

    def go(self) -> None:
        """Let all builds of this directory end."""
        (self.dir / "go").touch()


@pytest.fixture
def desk(pool: Pool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Desk]:
    yield Desk(pool, tmp_path / "work")
    monkeypatch.setattr(detached, "GRACE_S", 0.2)
    for job in jobs.every():
        if job.state().lives:
            detached.stop(job)


def keeper(job: Job) -> int:
    return int(wait_until(lambda: job.processes().get("pid"), "the keeper's note"))


def test_a_build_outlives_the_group_and_the_tree_of_its_starter(desk: Desk) -> None:
    """As agents' tools end what they have started: SIGKILL to the group, and to the tree."""
    command = f"{script('slot-run')} --detach -n1 -- sh -c '{HELD}'; exec sleep 1000"
    shell = desk.pool.popen("sh", "-c", command, cwd=desk.dir, start_new_session=True)
    assert shell.process.stdout is not None
    job = desk.told(shell.process.stdout.readline().decode())
    wait_until(lambda: psutil.Process(shell.pid).children(recursive=True) == [], "the starter has gone")
    os.killpg(shell.pid, signal.SIGKILL)
    shell.process.wait()
    wait_until(lambda: job.state().word == RUNNING, "the command")
    assert (os.getsid(keeper(job)), os.getpgid(keeper(job))) == (keeper(job), keeper(job))
    desk.go()
    assert desk.wait(job.id).returncode == 7


def test_the_line_says_what_to_do_next(desk: Desk) -> None:
    """Its words are commands and paths as they stand; nothing of it is others' to read."""
    result = desk.call(
        script("slot-run"), "--detach", "--", "sh", "-c", "cat; echo one; echo two >&2; exit 3"
    )
    job = desk.told(result.stdout)
    assert result.stdout == f"{job.id}: started; log {job.log}; next: buildslots wait {job.id}\n"
    waited = desk.wait(job.id)
    lines = waited.stdout.splitlines()
    assert (waited.returncode, waited.stderr, lines[:-1]) == (3, "", ["one", "two"])
    assert lines[-1].startswith(f"{job.id}: ended with status 3, after 0 s; the whole log: ")
    assert desk.call(script("buildslots"), "log", job.id).stdout == "one\ntwo\n"
    assert desk.call(script("buildslots"), "log", "-n1").stdout == "two\n"
    modes = {S_IMODE(os.stat(os.path.join(job.path, name)).st_mode) for name in os.listdir(job.path)}
    assert (S_IMODE(os.stat(job.path).st_mode), modes) == (0o700, {0o600})


def test_a_wait_ends_with_75_while_the_build_goes_on(desk: Desk) -> None:
    """And says how to go on; the last lines of the log stand behind the end alone."""
    first = desk.held()
    second = desk.start("-n1", "--", "sh", "-c", "exit 4")
    waited = desk.wait("--for", "0.2s", second.id)
    assert waited.returncode == 75
    assert f"{second.id}: waiting for its turn for " in waited.stdout
    assert waited.stdout.endswith(f"go on with: buildslots wait {second.id}\n")
    waited = desk.wait("--for", "0.2s", first.id)
    assert (waited.returncode, ": running for " in waited.stdout, ": here\n" in waited.stdout) == (
        75,
        True,
        True,
    )
    desk.go()
    assert (desk.wait(first.id).returncode, desk.wait(second.id).returncode) == (7, 4)


def test_something_is_said_in_a_long_wait(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    """Again and again, until the end, which ends the wait at once."""
    job = desk.held()
    monkeypatch.setattr(detached, "TELL_S", 0.05)
    said = []

    def tell(state: jobs.State) -> None:
        said.append(state.word)
        if len(said) == 3:
            monkeypatch.setattr(detached, "TELL_S", 1000.0)
            desk.go()

    state = detached.wait(job, None, tell)
    assert (said, state.word, state.status) == ([RUNNING] * 3, FINISHED, 7)


def test_a_signal_of_the_command_is_that_of_the_build(desk: Desk) -> None:
    """128 and its number, as a shell has it."""
    job = desk.start("--", "sh", "-c", "kill -KILL $$")
    assert desk.wait(job.id).returncode == 137
    assert "ended with signal 9" in desk.wait(job.id).stdout


def test_20_equal_starts_at_once_make_one_build(desk: Desk) -> None:
    """All print its ID; another directory, or a variable that matters, makes another build."""
    command = [script("slot-run"), "--detach", "-n1", "--", "sh", "-c", f"echo x >>ran; {HELD}"]
    slowly = [sys.executable, "-c", SLOWLY, *command[1:]]
    environs = [{"CLAUDE_CODE_SESSION_ID": str(number), "SHLVL": str(number)} for number in range(20)]
    starts = [desk.pool.popen(*slowly, cwd=desk.dir, environ=environ) for environ in environs]
    ids = {start.process.communicate(timeout=DEADLINE_S)[0].decode().partition(":")[0] for start in starts}
    (job,) = jobs.every()
    assert ids == {job.id}
    assert "the same build, " in desk.call(*command).stdout
    others = [
        desk.start(*command[2:], environ={"CFLAGS": "-O3"}),
        desk.start(*command[2:], cwd=desk.dir.parent),
    ]
    others.append(desk.start("--new", *command[2:]))
    assert len({job.id, *(other.id for other in others)}) == 4
    assert {other.state().word for other in others} <= {WAITING, RUNNING}
    desk.go()
    (desk.dir.parent / "go").touch()
    assert {desk.wait(each.id).returncode for each in jobs.every()} == {7}
    assert (desk.dir / "ran").read_text() == "x\n" * 3
    assert desk.start(*command[2:]).id not in {job.id, *(other.id for other in others)}


def test_without_an_id_it_is_the_newest_of_this_worktree(desk: Desk) -> None:
    """From anywhere in it; elsewhere the only one that there is."""
    nothing = desk.wait()
    assert (nothing.returncode, "no build was started with slot-run --detach" in nothing.stderr) == (
        125,
        True,
    )
    (desk.dir / ".git").mkdir()
    (desk.dir / "sub").mkdir()
    desk.start("--", "sh", "-c", "exit 1")
    assert desk.wait(cwd=desk.dir.parent).returncode == 1
    time.sleep(0.01)
    desk.start("--", "sh", "-c", "exit 2", cwd=desk.dir / "sub")
    assert desk.wait().returncode == 2
    several = desk.wait(cwd=desk.dir.parent)
    assert (several.returncode, "there are several others" in several.stderr) == (125, True)
    unknown = desk.wait("sh-2")
    assert (unknown.returncode, "there is no build 'sh-2'; the nearest: sh-" in unknown.stderr) == (125, True)


def test_it_takes_its_own_place_in_line_below_a_slot(desk: Desk) -> None:
    """It outlives the build around it, whose slot it would use after that has given it back."""
    inner = f"{script('slot-run')} --detach -n1 -t none -- true; read line"
    outer = desk.pool.popen(script("slot-run"), "-n1", "--", "sh", "-c", inner, cwd=desk.dir)
    assert outer.process.stdout is not None
    job = desk.told(outer.process.stdout.readline().decode())
    wait_until(lambda: desk.pool.status().waiters, "the place in line")
    assert job.state().word == WAITING
    outer.finish()
    assert desk.wait(job.id).returncode == 0


def test_stop_ends_what_waits_and_what_runs(desk: Desk) -> None:
    """All below it too; and says it of what has ended."""
    desk.start("-n1", "--", "sh", "-c", "sleep 1000 & echo $! >pid; sleep 1000; echo not reached")
    pid = int(wait_until(lambda: (desk.dir / "pid").exists() and (desk.dir / "pid").read_text(), "a child"))
    waiting = desk.start("-n1", "-t", "none", "--", "true")
    wait_until(lambda: desk.pool.status().waiters, "the place in line")
    for job, said in ((waiting, "the command was not started"), (jobs.every()[1], "ended with signal 15")):
        stopped = desk.call(script("buildslots"), "stop", job.id)
        assert (stopped.returncode, stopped.stderr) == (0, "")
        assert said in stopped.stdout
        assert job.state()[3:5] == (-15, False)
    assert os.stat(job.log).st_size == 0
    assert not (psutil.pid_exists(pid) and trees.runs(psutil.Process(pid)))
    assert desk.pool.leftovers() == []
    assert "there is nothing to stop" in desk.call(script("buildslots"), "stop", waiting.id).stdout


def test_what_hears_no_sigterm_is_killed_and_gives_its_slot_back(
    desk: Desk, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The command is, and not slot-run: the journal and the status tell of it."""
    job = desk.start("-n1", "--", "sh", "-c", "trap '' TERM; echo here; while :; do sleep 1000; done")
    wait_until(lambda: "here" in desk.call("cat", job.log).stdout, "the trap")
    wait_until(lambda: job.state().word == RUNNING, "the command is noted")
    monkeypatch.setattr(detached, "GRACE_S", 0.2)
    assert detached.stop(job)[3:5] == (-9, False)
    journal = desk.dir.parent / "home" / ".local/state/buildslots/journal.jsonl"
    assert '"status":-9' in journal.read_text()


@pytest.mark.parametrize("killed", ["waiting", "running", "slot-run"])
def test_a_build_without_its_keeper_is_lost_and_goes_on(desk: Desk, killed: str) -> None:
    """Nobody will know its status: that is told at once, and what still runs, until it does not."""
    if killed == "waiting":
        blocker = desk.pool.build("-n1")
        blocker.started()
        job = desk.start("-n1", "-t", "none", "--", "sh", "-c", HELD)
        wait_until(lambda: desk.pool.status().waiters, "the place in line")
    else:
        job = desk.held()
    pid = int(job.processes()["build"]) if killed == "slot-run" else keeper(job)
    os.kill(pid, signal.SIGKILL)
    wait_until(lambda: job.state().word == LOST, "the end of the keeper")
    waited = desk.wait(job.id)
    who, what = {
        "waiting": ("its keeper was killed", "it waits or runs on"),
        "running": ("its keeper was killed", "what it started still runs"),
        "slot-run": ("slot-run was killed", "what it started still runs"),
    }[killed]
    assert (waited.returncode, f"{job.id}: lost: {who}; {what}; " in waited.stdout) == (125, True)
    if killed == "running":
        assert desk.call(script("buildslots"), "stop", job.id).returncode == 0
    elif killed == "waiting":
        blocker.finish()
    desk.go()
    wait_until(lambda: not job.state().lives, "the end of the command")
    assert f": lost: {who}" in desk.wait(job.id).stdout
    again = desk.start("-n1", "--", "sh", "-c", HELD)
    assert again.id != job.id
    assert desk.wait(again.id).returncode == 7


def killed_at(desk: Desk, step: str) -> subprocess.CompletedProcess[str]:
    """Start a build of which a process is killed at a step, before it or (noted) after it."""
    text = f"""
import os, signal, sys
from buildslots import jobs, trees
place, name = {{"made": (jobs, "top_of"), "written": (os, "pipe"), "parting": (os, "setsid"),
    "ended": (jobs.Job, "note_ended"), "noted": (jobs.Job, "note_ended")}}[{step!r}]
original = getattr(place, name)
def dying(*args):
    if {step!r} == "noted":
        original(*args)
    os.kill(os.getpid(), signal.SIGKILL)
setattr(place, name, dying)
sys.argv[0] = "slot-run"
from buildslots.run.main import main
main()
"""
    return desk.call(sys.executable, "-c", text, "--detach", "--", "sh", "-c", "exit 6")


def test_a_start_that_is_killed_before_it_is_written_down_is_none(desk: Desk) -> None:
    """Its directory goes when it is old; the next start is not kept by it."""
    assert killed_at(desk, "made").returncode == -signal.SIGKILL
    (left,) = (name for name in os.listdir(jobs.base_dir()) if name != "lock")
    assert jobs.every() == []
    job = desk.start("--", "sh", "-c", "exit 6")
    assert desk.wait(job.id).returncode == 6
    path = os.path.join(jobs.base_dir(), left)
    os.utime(path, (time.time() - 90, time.time() - 90))
    desk.wait(desk.start("--", "true").id)
    assert not os.path.exists(path)


def test_a_start_that_is_killed_after_it_is_written_down_is_lost(desk: Desk) -> None:
    """Nothing of it runs, and after a reboot that is the reason."""
    assert killed_at(desk, "written").returncode == -signal.SIGKILL
    (job,) = jobs.every()
    waited = desk.wait()
    assert (waited.returncode, "lost: its keeper was killed before the command started" in waited.stdout) == (
        125,
        True,
    )
    assert desk.call(script("buildslots"), "stop").returncode == 0
    path = os.path.join(job.path, "job.json")
    with open(path) as file:
        about = json.load(file)
    with open(path, "w") as file:
        json.dump(about | {"boot": "of another day"}, file)
    assert "lost: the machine was restarted before its end" in desk.wait().stdout


def test_a_keeper_that_is_killed_before_it_has_left_is_told_by_the_start(desk: Desk) -> None:
    """Nothing is left of it."""
    result = killed_at(desk, "parting")
    assert (result.returncode, result.stdout) == (125, "")
    assert "cannot detach: " in result.stderr
    assert jobs.every() == []


@pytest.mark.parametrize("step", ["ended", "noted"])
def test_a_keeper_that_is_killed_at_the_end(desk: Desk, step: str) -> None:
    """Before it has written that down nobody knows; after it everybody does."""
    job = desk.told(killed_at(desk, step).stdout)
    waited = desk.wait(job.id)
    expected = (6, "ended with status 6") if step == "noted" else (125, "lost: its keeper was killed;")
    assert (waited.returncode, expected[1] in waited.stdout) == (expected[0], True)
    assert not job.state().lives


@pytest.mark.linux
def test_a_disk_that_becomes_full_loses_no_end(desk: Desk, mounts: Mounts) -> None:
    """And one that is full is said at once, with nothing left behind."""
    state = desk.dir.parent / "small"
    state.mkdir()
    setup = f"mount -t tmpfs -o size=256k none {state}; cd {desk.dir}"
    script_of_it = f"""
        export XDG_STATE_HOME={state}
        jobs={state}/buildslots/jobs
        $R --detach -- sh -c '{HELD}' | cut -d: -f1 >id
        until ls $jobs/*/started >/dev/null 2>&1; do sleep 0.01; done
        cat /dev/zero >{state}/filler 2>/dev/null
        touch go
        {script("buildslots")} wait $(cat id); echo "status $?"
        $R --detach -- true; echo "refused $?"
        ls $jobs | wc -l
    """
    result = mounts.run(setup, script_of_it)
    assert "ended with status 7" in result.stdout
    assert result.stdout.endswith("status 7\nrefused 125\n2\n")  # the lock and the first one
    assert "slot-run: cannot detach: nothing can be kept of it: [Errno 28]" in result.stderr


@pytest.mark.linux
@pytest.mark.parametrize("between", [[], ["setsid"], ["setsid", "./bwrap"]])
def test_in_a_pid_namespace_of_its_own_it_is_refused(desk: Desk, between: list[str]) -> None:
    """The kernel ends all in it with its first process, whatever sessions that has made."""
    bwrap = desk.dir / "bwrap"
    bwrap.write_text('#!/bin/sh\nsetsid -w "$@"\nexit $?\n')
    bwrap.chmod(0o700)
    command = [*between, "sh", "-c", f"{script('slot-run')} --detach -- touch ran; echo $?"]
    result = desk.call(*unshare("--pid", "--fork", "--mount"), "--mount-proc", *command)
    assert result.stdout == "125\n"
    assert "slot-run: cannot detach: this pid namespace " in result.stderr
    assert jobs.every() == []


@pytest.mark.linux
def test_in_a_container_that_lives_longer_it_works(desk: Desk) -> None:
    """Its first process leads a session, and what is started in it later has another one."""
    run, views = script("slot-run"), script("buildslots")
    first = f"setsid -w sh -c '{run} --detach -- sh -c \"exit 8\"'; {views} wait; echo $?"
    result = desk.call(*unshare("--pid", "--fork", "--mount"), "--mount-proc", "setsid", "sh", "-c", first)
    assert result.stderr == ""
    assert result.stdout.endswith("\n8\n")


def test_a_mistake_is_said_at_once_and_makes_no_build(desk: Desk) -> None:
    """In an option, or in the command."""
    for args, status in ((["-n0", "--", "true"], 125), (["--", "no-such-command"], 127)):
        result = desk.call(script("slot-run"), "--detach", *args)
        assert (result.returncode, result.stdout, result.stderr.startswith("slot-run: ")) == (
            status,
            "",
            True,
        )
    assert "--new is for --detach" in desk.pool.slot_run("--new", "true").stderr
    assert jobs.every() == []


def test_what_a_build_prints_reaches_the_terminal_as_text(desk: Desk) -> None:
    """And no more than a part of it is kept."""
    job = desk.start("--", "sh", "-c", "printf 'a\\033]0;b\\007\\033[31mc\\nd\\re\\n'")
    assert desk.wait(job.id).stdout.startswith("ac\ne\n")
    assert desk.call(script("buildslots"), "log").stdout == "ac\ne\n"
    job = desk.start("--", "sh", "-c", "head -c 70000000 /dev/zero; echo; echo last")
    assert desk.wait(job.id).stdout.splitlines()[-2] == "last"
    assert os.stat(job.log).st_size < 10 * 2**20


def test_old_ones_go_and_what_else_lies_there_stays(desk: Desk) -> None:
    """Name by name, and nothing of what still runs."""
    ended = [desk.start("--new", "--", "true") for _ in range(2)]
    for job in ended:
        desk.wait(job.id)
    running = desk.held()
    (desk.dir / "mine").touch()
    shutil.move(desk.dir / "mine", ended[1].path)
    for job in (*ended, running):
        path = os.path.join(job.path, "job.json")
        with open(path) as file:
            about = json.load(file)
        with open(path, "w") as file:
            json.dump(about | {"t": about["t"] - 15 * 86400}, file)

    def left_after_another() -> list[bool]:
        desk.wait(desk.start("--new", "--", "true").id)
        return [os.path.exists(job.log) for job in (*ended, running)]

    wait_until(lambda: left_after_another() == [False, True, True], "the keeper has gone, and what is old")


@pytest.mark.parametrize("text", ["", "{", "[]", "1", '{"t": "x"}', "[" * 10**5, '{"t": 1, "command": [1]}'])
def test_records_that_are_none_of_ours_are_left_out(desk: Desk, text: str) -> None:
    """Of a build that somebody has tampered with nothing is told."""
    job = desk.start("--", "true")
    desk.wait(job.id)
    with open(os.path.join(job.path, "job.json"), "w") as file:
        file.write(text)
    assert desk.call(script("buildslots"), "jobs").stdout == "no detached builds yet\n"


def test_jobs_lists_them(desk: Desk) -> None:
    """For people, and for programs."""
    job = desk.start("--label", "nightly", "--", "sh", "-c", "exit 3")
    desk.wait(job.id)
    listed = desk.call(script("buildslots"), "jobs").stdout.splitlines()
    assert job.id.startswith("nightly-")
    assert listed[0].split() == ["BUILD", "AGO", "STATE", "DIRECTORY", "COMMAND"]
    assert (listed[1].split()[0], "ended status 3" in listed[1]) == (job.id, True)
    (line,) = desk.call(script("buildslots"), "jobs", "--json").stdout.splitlines()
    about = json.loads(line)
    assert (about["v"], about["id"], about["state"], about["status"]) == (1, job.id, "ended", 3)
    assert about["command"] == ["sh", "-c", "exit 3"]
