"""`buildslots release`: what it ends, what it leaves alone, and what it says."""

from __future__ import annotations

import argparse
import os
import re
import signal
import sys
from typing import TYPE_CHECKING

import psutil
import pytest
from builds import DEADLINE_S, Pool, script, wait_until
from namespaces import unshare
from strays import Strays, is_gone

from buildslots import SlotPool
from buildslots.view.health import keepers, release

if TYPE_CHECKING:
    import subprocess
    from collections.abc import Iterator

    from terminals import Terminal

pytestmark = pytest.mark.linux  # what has a lock can be seen on Linux only


@pytest.fixture
def strays(pool: Pool) -> Iterator[Strays]:
    strays = Strays(pool)
    yield strays
    strays.end()


def released(pool: Pool, *args: str) -> subprocess.CompletedProcess[str]:
    result = pool.run(script("buildslots"), "release", *args, stdin=-3)  # subprocess.DEVNULL
    assert result.stderr == ""
    return result


def options(*slots: int, yes: bool = True) -> argparse.Namespace:
    return argparse.Namespace(pool=None, dir=None, slots=list(slots), ownerless=False, yes=yes)


def test_nothing_to_release(pool: Pool) -> None:
    """In a pool that does not exist, and beside a build that runs, which is left alone."""
    assert (released(pool).returncode, released(pool).stdout) == (0, "nothing to release\n")
    build = pool.build("-n1")
    build.started()
    result = released(pool, "--yes")
    alone, nothing = result.stdout.splitlines()
    assert alone.startswith(f"slot 0 is left alone: its build runs ({build.pid} `sh -c ")
    assert (nothing, result.returncode) == ("nothing to release", 0)
    assert build.finish(7) == 7


def test_a_stray_is_named_and_left_without_a_yes(pool: Pool, strays: Strays) -> None:
    """Without a terminal to ask on nothing is ended."""
    stray = strays.leave()
    result = released(pool)
    named, undone = result.stdout.splitlines()
    assert named.startswith(f"slot 0: kept by {stray.pid} `sleep 1000` in ")
    assert named.endswith(", 1 process")
    assert undone == "not done: there is no terminal to ask on, and no --yes"
    assert (result.returncode, pool.held(), is_gone(stray)) == (1, [0], False)


def test_a_stray_is_ended_with_its_tree(pool: Pool, strays: Strays) -> None:
    """The slot is free then, and those below the stray are gone."""
    stray = strays.leave("setsid sh -c 'sleep 1000; true'")
    tree = strays.tree(stray)
    assert len(tree) == 2
    result = released(pool, "--yes")
    named, free = result.stdout.splitlines()
    assert named.endswith(", 2 processes")
    assert (free, result.returncode, pool.held()) == ("slot 0 is free", 0, [])
    assert [is_gone(process) for process in tree] == [True, True]
    assert released(pool).stdout == "nothing to release\n"


def test_what_ignores_sigterm_is_killed(pool: Pool, strays: Strays, monkeypatch: pytest.MonkeyPatch) -> None:
    """SIGKILL comes after a while."""
    monkeypatch.setattr(release, "TERM_S", 0.2)
    stray = strays.leave("setsid sh -c 'trap \"\" TERM; sleep 1000; true'")
    assert release.run(options()) == 0
    assert is_gone(stray)


def test_a_zombie_is_not_waited_for(pool: Pool, monkeypatch: pytest.MonkeyPatch) -> None:
    """Who has ended and is not reaped, as below an init that does not, has no slot and gets no SIGKILL."""
    pool.slot_run("true")
    held = pool.popen("flock", "-o", str(pool.dir / "slot-0"), "sh", "-c", "echo up; read line")
    held.started()
    kills: list[int] = []
    send = release._send

    def sent(process: psutil.Process, signum: signal.Signals) -> None:
        kills.extend([process.pid] if signum == signal.SIGKILL else [])
        send(process, signum)

    monkeypatch.setattr(release, "_send", sent)
    # psutil would reap it for us, as it is our child.
    monkeypatch.setattr(psutil, "wait_procs", lambda processes, **_: ([], processes))
    assert release.run(options(0)) == 0
    assert kills == []


def test_a_running_build_only_with_its_number(pool: Pool) -> None:
    """The line says that the build still runs; slot-run tells by its status what happened."""
    build = pool.build("-n1")
    build.started()
    result = released(pool, "0", "--yes")
    assert result.stdout.startswith(f"slot 0: ITS BUILD STILL RUNS: {build.pid} `")
    assert result.stdout.splitlines()[1:] == ["slot 0 is free"]
    assert (result.returncode, build.process.wait(DEADLINE_S)) == (0, -signal.SIGTERM)


def test_a_build_that_runs_on_only_with_its_number(pool: Pool, strays: Strays) -> None:
    """After kill -9 of slot-run its build is no stray."""
    build = strays.orphan("sh", "-c", "echo up; read line")
    result = released(pool, "--yes")
    assert "slot 0 is left alone: its build runs, though who took it was killed" in result.stdout
    assert not is_gone(build)
    result = released(pool, "--yes", "slot-0")
    assert f"slot 0: ITS BUILD STILL RUNS: {build.pid} `sh -c" in result.stdout
    assert (result.returncode, is_gone(build)) == (0, True)


def test_a_slot_that_is_not_held(pool: Pool) -> None:
    """It is said, and no failure."""
    result = released(pool, "3")
    assert (result.stdout, result.returncode) == ("slot 3 is not held\n", 0)


def test_another_program_only_with_its_number(pool: Pool) -> None:
    """flock(1) and what it runs."""
    pool.slot_run("true")
    foreign = pool.popen("flock", str(pool.dir / "slot-0"), "sh", "-c", "echo up; read line")
    foreign.started()
    assert "slot 0 is left alone: another program has locked it" in released(pool, "--yes").stdout
    result = released(pool, "0", "--yes")
    named, free = result.stdout.splitlines()
    assert named.startswith(f"slot 0: another program has locked it: {foreign.pid} `flock ")
    assert named.endswith(", 2 processes")
    assert (free, result.returncode, pool.held()) == ("slot 0 is free", 0, [])


def test_the_next_in_line_gets_it(pool: Pool, strays: Strays) -> None:
    """A slot that is held again by then was freed all the same."""
    strays.leave()
    waiter = pool.queued("-n1")
    result = released(pool, "--yes")
    assert waiter.started() == "0"
    last = result.stdout.splitlines()[-1]
    assert last == "slot 0 is free" or last.startswith(
        f"slot 0 was freed, and the next build has it ({waiter.pid}"
    )
    assert result.returncode == 0


def test_it_never_ends_what_it_runs_under(pool: Pool) -> None:
    """Neither slot-run nor a program with a slot of its own."""
    result = pool.slot_run("-n1", "--", script("buildslots"), "release", "--yes", "0")
    assert "is left alone: this command runs under it" in result.stdout
    assert result.returncode == 1
    program = (
        "import subprocess, sys; from buildslots import SlotPool; slot = SlotPool(slots=1).acquire();"
        "sys.exit(subprocess.run(sys.argv[1:]).returncode)"
    )
    result = pool.run(sys.executable, "-c", program, script("buildslots"), "release", "--yes", "0")
    assert "is left alone: this command runs under it" in result.stdout
    assert result.returncode == 1


def test_it_never_ends_itself(pool: Pool, capsys: pytest.CaptureFixture[str]) -> None:
    """A program that has a slot and calls it is left alone."""
    with SlotPool(slots=1).acquire():
        assert release.run(options(0)) == 1
    assert "is left alone: it is this process" in capsys.readouterr().out


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can start processes of another user")
def test_another_user_s_process_is_left_alone(pool: Pool, strays: Strays) -> None:
    """Even by root."""
    stray = strays.leave("setsid setpriv --reuid 12345 sleep 1000")
    result = released(pool, "--yes")
    assert f"{stray.pid} `sleep 1000`" in result.stdout
    assert "is left alone: it is another user's" in result.stdout
    assert (result.returncode, is_gone(stray)) == (1, False)


def test_another_pid_namespace_is_left_alone(pool: Pool, strays: Strays) -> None:
    """What lives in a container keeps the slot, and is named as who does."""
    stray = strays.leave(f"setsid {' '.join(unshare('--pid', '--fork'))} sleep 1000")
    (inner,) = stray.children()
    result = released(pool, "--yes")
    assert f"{inner.pid} `sleep 1000`" in result.stdout
    assert "is left alone: it lives in another pid namespace" in result.stdout
    assert result.stdout.splitlines()[-1].startswith(f"slot 0 is still held by {inner.pid} `sleep 1000`")
    assert (result.returncode, is_gone(stray), is_gone(inner)) == (1, True, False)


def test_a_holder_in_another_pid_namespace_is_left_alone(pool: Pool) -> None:
    """Its pid is another process's here."""
    command = [*unshare("--pid", "--fork", "--kill-child"), script("slot-run"), "-n1"]
    inside = pool.popen(*command, "--", "sh", "-c", "echo up; read line")
    inside.started()
    result = released(pool, "--yes", "0")
    assert "held from another container or machine" in result.stdout
    assert (result.returncode, pool.held()) == (1, [0])
    assert inside.finish() == 0


def test_a_pid_that_is_another_process_s_by_now(pool: Pool) -> None:
    """The start of a process in the record tells; who took the slot cannot be found then."""
    build = pool.build("-n1")
    build.started()
    (holder,) = pool.status().holders
    assert keepers.taker(str(pool.dir), holder) == psutil.Process(build.pid)
    path = pool.record()
    path.write_bytes(re.sub(rb"\nstart \d+\n", b"\nstart 1\n", path.read_bytes()))
    assert keepers.taker(str(pool.dir), holder) is None


def test_an_answer_that_comes_too_late_ends_nothing(
    pool: Pool, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A program that has let go of the slot while we asked is not ended."""
    text = (
        "from buildslots import SlotPool; s = SlotPool(slots=1).acquire(); print('up', flush=True); input();"
    )
    build = pool.popen(sys.executable, "-c", text + "s.release(); print('done', flush=True); input()")
    build.started()

    def answer(_: str) -> str:
        assert build.process.stdin is not None
        build.process.stdin.write(b"\n")
        assert build.started() == "done"
        return "y"

    monkeypatch.setattr("builtins.input", answer)
    monkeypatch.setattr(sys.stdin, "isatty", lambda: True)
    assert release.run(options(0, yes=False)) == 0
    assert capsys.readouterr().out.endswith("slot 0 was freed meanwhile; nothing was ended\n")
    assert build.process.poll() is None


def test_on_a_terminal_it_asks(pool: Pool, strays: Strays, terminal: Terminal) -> None:
    """Anything but a yes ends nothing."""
    stray = strays.leave()
    terminal.type(f"{script('buildslots')} release; echo status $?")
    question = "End them (1 process)? [y/N]"
    wait_until(lambda: terminal.lines()[-1:] == [question], "the question")
    terminal.type("")
    wait_until(lambda: "status 1" in terminal.lines(), "the end")
    assert not is_gone(stray)
    terminal.clear()
    terminal.type(f"{script('buildslots')} release; echo status $?")
    wait_until(lambda: terminal.lines()[-1:] == [question], "the question")
    terminal.type("y")
    wait_until(lambda: "status 0" in terminal.lines(), "the end")
    assert "slot 0 is free" in terminal.lines()
    assert is_gone(stray)


def test_two_slots_of_which_one_stays(pool: Pool, strays: Strays) -> None:
    """The exit status tells of the failure, and the other slot was released."""
    strays.leave()
    other = pool.popen(
        script("slot-run"), "-n1", "-t0", "--", script("buildslots"), "release", "--yes", "0", "1"
    )
    assert other.process.wait(DEADLINE_S) == 1
    assert pool.held() == []


def test_a_process_that_only_has_the_file_open_keeps_nothing(pool: Pool, strays: Strays) -> None:
    """Who opened the slot file without locking it is no keeper."""
    stray = strays.leave()
    with open(pool.dir / "slot-0", "rb"):
        assert keepers.keepers(str(pool.dir / "slot-0")) == (stray,)
