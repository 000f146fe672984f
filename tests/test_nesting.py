"""A command under a slot that asks for one again: under the slot it has, but only while it has it."""

from __future__ import annotations

import asyncio
import os
import shutil
import signal
import sys
from pathlib import Path

import pytest
from builds import Pool, script

from buildslots import SlotPool, SlotTimeoutError, build_slot
from buildslots.disk import bells

SHOW = 'echo "${BUILD_SLOT-none}"'


def test_nested_builds_run_under_the_outer_slot(pool: Pool) -> None:
    """At any depth and at once, though the pool is full."""
    run = script("slot-run")
    result = pool.slot_run("-n1", run, "-n1", run, "-n1", "sh", "-c", SHOW)
    assert (result.returncode, result.stdout, result.stderr) == (0, "0\n", "")


def test_the_exit_status_and_death_of_a_nested_build_pass_through(pool: Pool) -> None:
    """The inner slot-run becomes the command, so nothing is in between."""
    run = script("slot-run")
    assert pool.slot_run(run, "sh", "-c", "exit 7").returncode == 7
    assert pool.slot_run(run, "sh", "-c", "kill -9 $$").returncode == -signal.SIGKILL
    assert pool.slot_run(run, "no-such-command-here").returncode == 127


def test_each_pool_has_its_own_nesting(pool: Pool) -> None:
    """A link slot below a build slot is a second slot; below both, either is nested."""
    run = script("slot-run")
    result = pool.slot_run("-n1", run, "-p", "link", "-n2", run, "-n1", "sh", "-c", SHOW)
    assert (result.stdout, result.stderr) == ("0\n", "")
    result = pool.slot_run(
        "-n1",
        run,
        "-p",
        "link",
        "-n2",
        "sh",
        "-c",
        f"{run} -p link -- sh -c '{SHOW}'; echo $BUILD_SLOTS_HELD",
    )
    assert result.stdout.splitlines()[0] == "0"
    assert result.stdout.count(",") == 1


def test_an_overflow_build_nests_as_well(pool: Pool) -> None:
    """Its slot counts like any other."""
    first = pool.build("-n1")
    first.started()
    result = pool.slot_run("-n1", "-t", "0", script("slot-run"), "-n1", "sh", "-c", SHOW)
    assert result.stdout == "1\n"


def test_the_marker_is_worth_nothing_when_the_slot_is_free(pool: Pool) -> None:
    """A daemon that outlives its build has to wait like everybody else."""
    stale = pool.slot_run("-n1", "sh", "-c", 'echo "$BUILD_SLOTS_HELD"').stdout.strip()
    first = pool.build("-n1")
    assert first.started() == "0"
    result = pool.slot_run(
        "-n1", "-t0", "--on-timeout=fail", "true", environ={"BUILD_SLOTS_HELD": stale, "BUILD_SLOT": "0"}
    )
    assert result.returncode == 75


@pytest.mark.linux
def test_the_marker_of_a_killed_holder_is_worth_nothing_to_a_foreign_lock(pool: Pool) -> None:
    """The record is still there and the slot is locked, but not by the holder that the marker names."""
    build = pool.popen(script("slot-run"), "-n1", "sh", "-c", 'echo "$BUILD_SLOTS_HELD"; exec sleep 300')
    marker = build.started()
    children = Path(f"/proc/{build.pid}/task/{build.pid}/children").read_text().split()
    build.process.kill()
    pool.run("kill", "-9", *children)
    foreign = pool.popen("flock", str(pool.dir / "slot-0"), "sh", "-c", "echo locked; read line")
    assert foreign.started() == "locked"
    fail = ("-n1", "-t0", "--on-timeout=fail", "true")
    assert pool.slot_run(*fail, environ={"BUILD_SLOTS_HELD": marker}).returncode == 75


def test_the_marker_holds_when_slot_run_was_killed_but_its_command_runs_on(pool: Pool) -> None:
    """The command still has the slot, so what it starts is under it."""
    run = script("slot-run")
    command = f"echo started; read line; {run} -n1 -t0 --on-timeout=fail sh -c '{SHOW}'"
    build = pool.popen(run, "-n1", "sh", "-c", command)
    build.started()
    build.process.kill()
    build.process.stdin.write(b"go\n")
    assert build.started() == "0"


def test_hostile_markers_are_no_markers(pool: Pool) -> None:
    """Whatever stands in the variable, a build with it waits like one without."""
    first = pool.build("-n1")
    first.started()
    for marker in (":", "0:", "0", "x:y", "0:" + "0" * 32, ",,", "-1:ab", "../slot-0:ab", "9" * 5000 + ":a"):
        result = pool.slot_run(
            "-n1", "-t0", "--on-timeout=fail", "true", environ={"BUILD_SLOTS_HELD": marker}
        )
        assert result.returncode == 75, (marker, result.stderr)


def test_a_pool_that_is_removed_while_the_marker_is_looked_up(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What asks for a slot gets one of the new pool, and does not run without any."""
    slots = SlotPool(dir=str(tmp_path / "pool"), slots=1)
    outer, ask = slots.acquire(), bells.has_owner
    monkeypatch.setenv("BUILD_SLOTS_HELD", outer.environ()["BUILD_SLOTS_HELD"])

    def ask_and_remove(path: str) -> bool | None:
        has_owner = ask(path)
        shutil.rmtree(tmp_path / "pool")
        return has_owner

    monkeypatch.setattr(bells, "has_owner", ask_and_remove)
    inner = slots.acquire()
    assert (inner.number, inner.nested) == (0, False)
    inner.release()
    outer.release()


def test_the_library_nests_in_slot_run_and_slot_run_in_the_library(pool: Pool) -> None:
    """`build_slot()` below slot-run is its slot, and `Slot.environ()` makes the child nested."""
    program = (
        "import subprocess\n"
        "from buildslots import build_slot\n"
        "with build_slot(slots=1) as slot:\n"
        "    command = ['slot-run', '-n1', 'sh', '-c', 'echo $BUILD_SLOT']\n"
        f"    command[0] = {script('slot-run')!r}\n"
        "    out = subprocess.run(command, env=slot.environ(), capture_output=True, text=True).stdout\n"
        "    print(slot.number, slot.nested, out.strip())\n"
    )
    assert pool.run(sys.executable, "-c", program).stdout == "0 False 0\n"
    assert pool.slot_run("-n1", sys.executable, "-c", program).stdout == "0 True 0\n"


FAIL = {"slots": 1, "timeout": 0, "on_timeout": "fail"}


def test_a_nested_block_covers_no_longer_than_its_root(pool: Pool) -> None:
    """The outer slot is given away while an inner block is open: one more inside of that has to wait."""
    outer = SlotPool(slots=1).acquire()
    with outer, build_slot(slots=1) as inner:
        with build_slot(**FAIL) as third:
            assert (inner.nested, third.nested) == (True, True)
        outer.release()
        other = pool.build("-n1")
        other.started()
        with pytest.raises(SlotTimeoutError), build_slot(**FAIL):
            pass
    other.finish()


def test_tasks_and_forks_of_a_nested_block_ask_its_root(pool: Pool) -> None:
    """They outlive the outer slot, and are under nothing then."""
    outcomes: list[object] = []

    async def late(go: asyncio.Event) -> None:
        await go.wait()
        with pytest.raises(SlotTimeoutError), build_slot(**FAIL):
            pass
        outcomes.append("task")

    async def main() -> None:
        go = asyncio.Event()
        with build_slot(slots=1) as outer, build_slot(slots=1):
            task = asyncio.create_task(late(go))
            read, write = os.pipe()
            pid = os.fork()
            if pid == 0:
                status = 1
                try:
                    os.read(read, 1)
                    with pytest.raises(SlotTimeoutError), build_slot(**FAIL):
                        pass
                    status = 0
                finally:
                    os._exit(status)
            await asyncio.sleep(0)
            outer.release()
            other = pool.build("-n1")
            other.started()
            os.write(write, b"!")
            outcomes.append(os.waitpid(pid, 0)[1])  # noqa: ASYNC222
            os.close(read)
            os.close(write)
            go.set()
            await task
            other.finish()

    asyncio.run(main())
    assert outcomes == [0, "task"]


def test_a_block_that_is_nested_by_its_environment_asks_the_pool(
    pool: Pool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its program runs on below a slot-run that is gone, and another build has the slot."""
    outer = pool.popen(script("slot-run"), "-n1", "sh", "-c", "echo $BUILD_SLOTS_HELD; read line")
    monkeypatch.setenv("BUILD_SLOTS_HELD", outer.started())
    with build_slot(slots=1) as first:
        assert first.nested
        outer.finish()
        other = pool.build("-n1")
        other.started()
        with pytest.raises(SlotTimeoutError), build_slot(**FAIL):
            pass
        other.finish()


def test_a_pool_by_another_name_is_the_same_pool(pool: Pool, tmp_path: Path) -> None:
    """A block that names it by a link does not wait for the one around it, also where it is a named pool."""
    (tmp_path / "link").symlink_to(pool.dir)
    for name in (None, "web"):
        with build_slot(name, slots=1), build_slot(name, dir=tmp_path / "link", **FAIL) as inner:
            assert inner.nested


def test_marks_do_not_pile_up(pool: Pool, monkeypatch: pytest.MonkeyPatch) -> None:
    """A program that writes each slot into its own environment keeps what counts, and can start programs."""
    below = pool.popen(
        script("slot-run"), "-n1", "-p", "web", "sh", "-c", "echo $BUILD_SLOTS_HELD; read line"
    )
    mark = below.started()
    monkeypatch.setenv("BUILD_SLOTS_HELD", mark)
    one = SlotPool(slots=1)
    for _ in range(200):
        with one.acquire() as slot:
            for name, value in slot.environ().items():
                monkeypatch.setenv(name, value)
    marks = os.environ["BUILD_SLOTS_HELD"].split(",")
    assert (len(marks), marks[0]) == (2, mark)
    monkeypatch.setenv("BUILD_SLOTS_HELD", ",".join(f"{n}:{n:032x}" for n in range(5000)))
    with one.acquire() as slot:
        assert len(slot.environ()["BUILD_SLOTS_HELD"]) < 4096
        assert slot.environ(slot.environ()) == slot.environ()
    below.finish()
