"""The owner of a build: the process for which it is done, and what becomes of the build when that is gone."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from typing import TYPE_CHECKING

import psutil
import pytest
from builds import HELD_BUILD, Build, script, wait_until

from buildslots import jobs

if TYPE_CHECKING:
    from collections.abc import Iterator

    from builds import Pool


@pytest.fixture
def owner() -> Iterator[subprocess.Popen[bytes]]:
    """A process that lives until it is ended."""
    with subprocess.Popen(["sleep", "1000"]) as process:
        yield process
        process.kill()


def end(owner: subprocess.Popen[bytes]) -> None:
    owner.kill()
    owner.wait()


def owned(pool: Pool, owner: subprocess.Popen[bytes], *options: str) -> Build:
    return pool.build("-n1", f"--owner={owner.pid}", *options)


def test_who_waits_leaves_the_line(pool: Pool, owner: subprocess.Popen[bytes]) -> None:
    """Wherever it stands in line, and at once; the next one is not kept by it."""
    holder = pool.build("-n1")
    holder.started()
    first = owned(pool, owner, "-t", "none")
    wait_until(lambda: len(pool.status().waiters) == 1, "one in line")
    last = owned(pool, owner, "-t", "none")
    wait_until(lambda: len(pool.status().waiters) == 2, "two in line")
    end(owner)
    for build in (first, last):
        _, said = build.process.communicate(timeout=30)
        assert build.process.returncode == 75
        assert f"process {owner.pid}, for which this build waited, is gone" in said.decode()
    assert pool.status().waiters == ()
    assert pool.leftovers() == []
    holder.finish()


@pytest.mark.linux
def test_who_runs_goes_on_and_can_be_released(pool: Pool, owner: subprocess.Popen[bytes]) -> None:
    """Status says that it has no owner any more; release offers just those."""
    build = owned(pool, owner)
    pool.record()
    other = pool.build("-n2")
    pool.record(1)
    assert [holder.ownerless for holder in pool.status().holders] == [False, False]
    assert "no build is ownerless" in pool.run(script("buildslots"), "release", "--ownerless").stdout
    end(owner)
    assert [holder.ownerless for holder in pool.status().holders] == [True, False]
    assert "(ownerless)" in pool.run(script("buildslots"), "status").stdout
    told = json.loads(pool.run(script("buildslots"), "status", "--json").stdout)
    assert [holder["ownerless"] for holder in told["holders"]] == [True, False]
    assert build.process.poll() is None
    result = pool.run(script("buildslots"), "release", "--ownerless", "--yes")
    assert result.returncode == 0, result
    build.process.wait(timeout=30)
    assert [holder.slot for holder in pool.status().holders] == [1]
    other.finish()


def lives(pid: int) -> bool:
    """Whether the process runs; to the one that adopts it, it remains as a zombie."""
    return psutil.pid_exists(pid) and psutil.Process(pid).status() != psutil.STATUS_ZOMBIE


SOON = """
import sys
from buildslots.run import main, owner
owner.GRACE_S = owner.KILL_S = 0.3
sys.argv = ["slot-run", *sys.argv[1:]]
main.main()
"""


@pytest.mark.parametrize("stubborn", [False, True])
def test_who_is_to_end_with_it_ends(pool: Pool, owner: subprocess.Popen[bytes], stubborn: bool) -> None:
    """With all below it, by SIGTERM and then by SIGKILL."""
    trap = "trap '' TERM; " if stubborn else ""
    command = f"{trap}sleep 1000 & echo $!; {trap}wait; wait"
    options = (f"--owner={owner.pid}", "--owner-gone", "end")
    build = pool.popen(sys.executable, "-P", "-c", SOON, *options, "sh", "-c", command)
    assert build.process.stdout is not None
    below = int(build.process.stdout.readline())
    assert build.process.poll() is None
    end(owner)
    assert build.process.wait(timeout=30) == (-9 if stubborn else -15)
    wait_until(lambda: not lives(below), "what was below it has ended")
    assert pool.held() == []


def test_claude_s_own_number_counts(pool: Pool, owner: subprocess.Popen[bytes]) -> None:
    """If it is one of a process here; an option counts before it."""
    holder = pool.build("-n1")
    holder.started()
    environ = {"CLAUDE_PID": str(owner.pid), "BUILD_SLOTS_AGENT": "0"}
    build = pool.popen(script("slot-run"), "-n1", "true", environ=environ)
    mine = pool.popen(script("slot-run"), "-n1", f"--owner={os.getpid()}", "true", environ=environ)
    wait_until(lambda: len(pool.status().waiters) == 2, "both in line")
    end(owner)
    assert build.process.wait(timeout=30) == 75
    assert mine.process.poll() is None
    holder.finish()
    assert mine.process.wait(timeout=30) == 0
    for text in ("4194000", "x", "-1", "1" * 5000):
        result = pool.slot_run("true", environ={"CLAUDE_PID": text})
        assert (result.returncode, result.stderr) == (0, "")


def test_a_detached_build_has_no_owner_unless_it_is_named(pool: Pool, owner: subprocess.Popen[bytes]) -> None:
    """It is to outlive the agent that has started it; also in line."""
    holder = pool.build("-n1")
    holder.started()
    environ = {"CLAUDE_PID": str(owner.pid)}
    starts = [("true",), (f"--owner={owner.pid}", "false")]
    lines = [pool.slot_run("--detach", "-n1", *start, environ=environ).stdout for start in starts]
    outliving, owned = (jobs.Job(os.path.join(jobs.base_dir(), line.partition(":")[0])) for line in lines)
    wait_until(lambda: len(pool.status().waiters) == 2, "both in line")
    end(owner)
    wait_until(lambda: owned.state().status == 75, "the one with an owner has left the line")
    assert outliving.state().word == jobs.WAITING
    holder.finish()
    wait_until(lambda: outliving.state().status == 0, "the other one has had its turn")


@pytest.mark.parametrize(
    ("option", "why"),
    [
        ("--owner=4194000", "--owner: '4194000' is no process that is there"),
        ("--owner=0", "--owner: '0' is not the number of a process"),
        ("--owner=x", "--owner: 'x' is not the number of a process"),
        ("--owner-gone=stay", "--owner-gone: 'stay' is neither 'leave' nor 'end'"),
    ],
)
def test_what_is_no_owner(pool: Pool, option: str, why: str) -> None:
    """A mistake on the command line."""
    result = pool.slot_run(option, "true")
    assert (result.returncode, result.stdout) == (125, "")
    assert why in result.stderr


def test_without_pidfds_it_is_looked_at(pool: Pool, owner: subprocess.Popen[bytes]) -> None:
    """As on macOS, and on kernels before 5.3."""
    holder = pool.build("-n1")
    holder.started()
    program = "import os; del os.pidfd_open\n" + SOON
    build = pool.popen(
        sys.executable, "-P", "-c", program, "-n1", f"--owner={owner.pid}", "sh", "-c", HELD_BUILD
    )
    wait_until(lambda: len(pool.status().waiters) == 1, "it is in line")
    end(owner)
    assert build.process.wait(timeout=30) == 75
    holder.finish()
