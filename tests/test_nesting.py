"""A command under a slot that asks for one again: under the slot it has, but only while it has it."""

from __future__ import annotations

import asyncio
import os
import shlex
import shutil
import signal
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from builds import DEADLINE_S, Pool, script
from users import ALICE, BOB, Users, several_users

from buildslots import SlotPool, SlotTimeoutError, build_slot, run_batch
from buildslots.admission import Admission
from buildslots.disk import bells, records
from buildslots.settings import resolve

if TYPE_CHECKING:
    from buildslots.settings import Settings

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


# Without the variable: whoever would have to wait looks who holds the slots.

CLEARED = 'env -i PATH="$PATH" HOME="$HOME" BUILD_SLOTS_DIR="$BUILD_SLOTS_DIR"'
"""How tox, sudo and build sandboxes start what they run."""
FOR_EVER = f"{CLEARED} {shlex.quote(script('slot-run'))} -n1 -t none"


def test_a_build_whose_environment_was_cleared_is_nested_all_the_same(pool: Pool) -> None:
    """At any depth, though it would wait for ever; what it starts has the mark again."""
    inner = f"{FOR_EVER} sh -c '{SHOW}; echo $BUILD_SLOTS_HELD'"
    result = pool.slot_run("-n1", "sh", "-c", f"setsid -w sh -c {shlex.quote(inner)}; :")
    assert (result.returncode, result.stderr) == (0, "")
    number, mark = result.stdout.splitlines()
    assert (number, mark.partition(":")[0]) == ("0", "0")
    result = pool.slot_run("-n1", "sh", "-c", f"exec {FOR_EVER} sh -c '{SHOW}'")
    assert (result.returncode, result.stdout, result.stderr) == (0, "0\n", ""), "it is the command itself"
    result = pool.slot_run("-n1", "sh", "-c", f"{FOR_EVER} sh -c {shlex.quote(inner)}; :")
    assert (result.returncode, result.stdout.splitlines()[0], result.stderr) == (0, "0", "")


@pytest.mark.linux
def test_a_task_whose_environment_was_cleared_covers_what_it_starts(
    pool: Pool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A batch says of each slot which command runs under it, as slot-run does."""
    monkeypatch.setenv("MAX_CONCURRENT_BUILDS", "1")
    run = f"{CLEARED} {script('slot-run')} -n1 -t20 --on-timeout fail -- sh -c '{SHOW}'"
    report = run_batch([{"name": "one", "run": run, "verify": run}])
    assert (report.outcomes[0].state, report.outcomes[0].last_lines) == ("ok", ())
    assert pool.held() == []


def test_with_no_time_to_wait_it_is_nested_as_well(pool: Pool) -> None:
    """`-t 0` looks before it gives up or runs beyond the cap."""
    for then in ("run", "paced", "fail"):
        inner = f"{FOR_EVER} -t 0 --on-timeout {then} sh -c '{SHOW}'"
        result = pool.slot_run("-n1", "sh", "-c", f"{inner}; :")
        assert (result.returncode, result.stdout, result.stderr) == (0, "0\n", "")
    assert pool.leftovers() == []


def test_an_overflow_build_and_one_of_weight_two_cover_what_is_below_them(pool: Pool) -> None:
    """The slot is the nearest ancestor's, and the lowest that it has."""
    first = pool.build("-n1")
    first.started()
    result = pool.slot_run("-q", "-n1", "-t", "0", "sh", "-c", f"{FOR_EVER} sh -c '{SHOW}'; :")
    assert result.stdout == "1\n"
    first.finish()
    result = pool.slot_run("-n2", "-w2", "sh", "-c", f"{FOR_EVER} -n2 sh -c '{SHOW}'; :")
    assert (result.stdout, result.stderr) == ("0\n", "")


def test_the_library_looks_as_well(pool: Pool) -> None:
    """In threads and in tasks, and `try_acquire` gives the outer slot."""
    program = (
        "import asyncio\n"
        "from buildslots import SlotPool, build_slot\n"
        "one = SlotPool(slots=1, timeout=None)\n"
        "async def task():\n"
        "    async with build_slot(slots=1, timeout=None) as slot: return slot.nested\n"
        "print(one.acquire().nested, one.try_acquire().nested, asyncio.run(task()))\n"
    )
    command = shlex.join([sys.executable, "-c", program])
    result = pool.slot_run("-n1", "sh", "-c", f"{CLEARED} {command}; :")
    assert (result.stdout, result.stderr) == ("True True True\n", "")


def test_a_killed_slot_run_s_command_still_covers_what_it_starts(pool: Pool) -> None:
    """The record says which process the command is."""
    build = pool.popen(
        script("slot-run"), "-n1", "sh", "-c", f"echo started; read line; {FOR_EVER} sh -c '{SHOW}'; :"
    )
    build.started()
    pool.record()
    build.process.kill()
    build.process.wait(DEADLINE_S)
    build.process.stdin.write(b"go\n")
    assert build.started() == "0"


@pytest.mark.parametrize("says_so", [True, False])
def test_a_slot_run_that_has_not_said_yet_what_it_runs(tmp_path: Path, says_so: bool) -> None:
    """It says so only after the start; what it has started looks again for a moment, and then waits."""
    settings = resolve(slots=1, timeout_s=None, dir=str(tmp_path / "pool"), warn=pytest.fail)
    (looked, look), (told, tell) = os.pipe(), os.pipe()
    with Admission(settings, ["make"], tells=True) as outer:
        slot = outer.acquire()
        child = os.fork()
        if child == 0:
            status = 1
            try:
                status = 0 if is_nested_when_told(settings, look, told) is says_so else 1
            finally:
                os._exit(status)
        assert os.read(looked, 1) == b"?"
        if says_so:
            outer.started(slot, child)
        os.write(tell, b"!")
        assert os.waitpid(child, 0)[1] == 0
    slot._let_go(None)
    for fd in (looked, look, told, tell):
        os.close(fd)


def test_a_fork_of_a_library_holder_listens_at_once(tmp_path: Path) -> None:
    """A holder that will not say what it runs keeps nobody who waits below it from hearing its bell."""
    settings = resolve(slots=1, timeout_s=None, dir=str(tmp_path / "pool"), warn=pytest.fail)
    with SlotPool(slots=1, dir=str(tmp_path / "pool")):
        child = os.fork()
        if child == 0:
            status = 1
            try:
                with Admission(settings, ["make"]) as inner:
                    steps = inner.steps()
                    status = 0 if next(steps)[0] is not None else 1
                    steps.close()
            finally:
                os._exit(status)
        assert os.waitpid(child, 0)[1] == 0


def is_nested_when_told(settings: Settings, look: int, told: int) -> bool:
    """Whether a build that has looked once, and is told then that it may look again, is nested, or waits."""
    with Admission(settings, ["make"]) as inner:
        steps = inner.steps()
        assert next(steps)[0] is None
        os.write(look, b"?")
        os.read(told, 1)
        try:
            while steps.send(False)[0] is None:
                pass
        except StopIteration as end:
            return bool(end.value.nested)
        steps.close()
        return False


def test_a_build_beside_a_holder_waits(pool: Pool) -> None:
    """Neither a sibling, nor a daemon that a build has left behind, is below one who holds a slot."""
    first = pool.build("-n1")
    first.started()
    pool.record()
    assert pool.slot_run("-n1", "-t0", "--on-timeout=fail", "true").returncode == 75
    with SlotPool(slots=2).acquire():  # this process starts other builds, too
        assert pool.slot_run("-n2", "-t0", "--on-timeout=fail", "true").returncode == 75


def test_another_pool_s_holder_covers_nothing(pool: Pool) -> None:
    """A link slot below a build slot is a second slot, and waits if it has to."""
    link = pool.build("-n1", "-p", "link")
    link.started()
    inner = f"{FOR_EVER} -p link -t0 --on-timeout fail true"
    assert pool.slot_run("-n1", "sh", "-c", f"{inner}; exit $?").returncode == 75


@several_users
def test_in_a_group_s_pool_the_system_is_asked_who_has_the_slot(users: Users) -> None:
    """One member is nested below their own build, and not below one whose record another member forged."""
    inner = f"{FOR_EVER} sh -c '{SHOW}'; :"
    honest = users.run(*users.as_user(ALICE, script("slot-run"), "-n1", "sh", "-c", inner))
    assert (honest.returncode, honest.stdout) == (0, "0\n"), honest.stderr
    bob = users.build_as(BOB, "-n1")
    bob.started()
    record = users.record()
    who = 'echo "$$ $(cut -d" " -f22 /proc/$$/stat)"'
    forged = f"{who}; read line; {FOR_EVER} -t0 --on-timeout fail true; echo $?"
    alice = users.popen(*users.as_user(ALICE, "sh", "-c", forged))
    shell = alice.started().encode()
    text, child = record.read_bytes(), records.parse(record.read_bytes())["child"].encode()
    record.write_bytes(text.replace(b"child " + child + b"\n", b"child " + shell + b"\n"))
    assert (records.read(str(record)) or {})["child"] == shell.decode()
    alice.process.stdin.write(b"go\n")
    assert alice.started() == "75"


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
