"""In a sandbox that may not write the pool: real read-only mounts, pid namespaces and Landlock."""

from __future__ import annotations

import os
import shlex
import signal
import sys
import time
from typing import TYPE_CHECKING

import pytest
from builds import HELD_BUILD, Build, Pool, script, wait_until
from namespaces import unshare

from buildslots import SlotPool

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

pytestmark = pytest.mark.linux

SHOW = ("sh", "-c", 'echo "ran ${BUILD_SLOT-none}"')

LANDLOCK = """
import ctypes, os, sys
libc = ctypes.CDLL(None, use_errno=True)
def call(number, *args):
    if (result := libc.syscall(number, *args)) < 0:
        sys.exit(f"landlock: {os.strerror(ctypes.get_errno())}")
    return result
WRITES = sum(1 << bit for bit in (1, 4, 5, 6, 7, 8, 9, 10, 11, 12))  # linux/landlock.h: to write, to make
class Below(ctypes.Structure):
    _pack_ = 1
    _fields_ = [("allowed", ctypes.c_uint64), ("fd", ctypes.c_int32)]
ruleset = call(444, ctypes.byref(ctypes.c_uint64(WRITES)), 8, 0)
for path in ("/dev", "/proc"):
    below = Below(WRITES, os.open(path, os.O_PATH))
    call(445, ruleset, 1, ctypes.byref(below), 0)
libc.prctl(38, 1, 0, 0, 0)  # PR_SET_NO_NEW_PRIVS
call(446, ruleset, 0)
os.execvp(sys.argv[1], sys.argv[1:])
"""


def read_only(pool: Pool) -> list[str]:
    """What has a command find the pool on a read-only mount."""
    path = shlex.quote(str(pool.dir))
    mount = f'mount --bind {path} {path} && mount -o remount,bind,ro {path} && exec "$@"'
    return [*unshare("--mount"), "sh", "-c", mount, "sh"]


def with_pids_of_its_own(pool: Pool) -> list[str]:
    """The same, where the processes outside cannot be seen."""
    return [
        *unshare("--mount", "--pid"),
        "--fork",
        "--mount-proc",
        *read_only(pool)[len(unshare("--mount")) :],
    ]


def landlocked(_: Pool) -> list[str]:
    """What forbids a command to write anywhere, by Landlock."""
    return [sys.executable, "-P", "-c", LANDLOCK]


SANDBOXES = [read_only, with_pids_of_its_own, landlocked]


@pytest.fixture(params=SANDBOXES)
def sandbox(request: pytest.FixtureRequest, pool: Pool) -> Callable[..., Build]:
    """What starts slot-run in a sandbox, in a pool of one slot that exists already."""
    assert pool.slot_run("-n1", "true").returncode == 0
    front = request.param(pool)

    def start(*args: str) -> Build:
        return pool.popen(*front, script("slot-run"), "-n1", *args)

    return start


def held(sandbox: Callable[..., Build], *options: str) -> Build:
    return sandbox(*options, "sh", "-c", HELD_BUILD)


def out_of(build: Build) -> tuple[int, str, str]:
    """Exit status, stdout and stderr of a build that ends by itself."""
    out, err = build.process.communicate(timeout=30)
    return build.process.returncode, out.decode(), err.decode()


def test_a_slot_is_held_though_nothing_can_be_written(pool: Pool, sandbox: Callable[..., Build]) -> None:
    """One line says how; who wants the slot outside waits until the command in the sandbox has ended."""
    status, out, err = out_of(sandbox(*SHOW))
    assert (status, out, err.count("\n")) == (0, "ran 0\n", 1), err
    assert err.startswith(f"slot-run: {pool.dir} cannot be written here (")
    inside = held(sandbox)
    wait_until(lambda: pool.held() == [0], "the slot is held")
    outside = pool.queued("-n1")
    inside.finish()
    outside.started()
    outside.finish()


def test_it_finds_the_slot_that_is_let_go_of(pool: Pool, sandbox: Callable[..., Build]) -> None:
    """Without being told."""
    outside = pool.build("-n1")
    outside.started()
    inside = held(sandbox, "-q")
    time.sleep(0.5)  # it waits by now, in all likelihood
    assert pool.held() == [0]
    outside.finish()
    inside.started()
    inside.finish()


def test_it_leaves_the_way_to_those_who_came_before(pool: Pool, sandbox: Callable[..., Build]) -> None:
    """It sees them in line, though they do not see it."""
    first = pool.build("-n1")
    first.started()
    second = pool.queued("-n1")
    inside = held(sandbox, "-q")
    time.sleep(0.5)  # it waits by now, in all likelihood
    first.finish()
    second.started()
    assert inside.process.poll() is None
    second.finish()
    inside.started()
    inside.finish()


def test_the_stopped_do_not_keep_it_for_ever(pool: Pool, sandbox: Callable[..., Build]) -> None:
    """Though a slot is free and theirs."""
    first = pool.build("-n1")
    first.started()
    second = pool.queued("-n1")
    os.kill(second.pid, signal.SIGSTOP)
    inside = held(sandbox, "-q")
    first.finish()
    inside.started()
    os.kill(second.pid, signal.SIGCONT)
    inside.finish()
    second.started()
    second.finish()


def test_the_wait_ends_at_its_timeout(pool: Pool, sandbox: Callable[..., Build]) -> None:
    """There is no slot beyond the cap that could be made, so it runs without one; or fails if it is to."""
    outside = pool.build("-n1")
    outside.started()
    status, out, err = out_of(sandbox("-t0.2", *SHOW))
    assert (status, out) == (0, "ran none\n")
    assert "running without a slot: " in err
    status, out, err = out_of(sandbox("-t0.2", "--on-timeout", "fail", *SHOW))
    assert (status, out) == (75, "")
    outside.finish()


def test_a_pause_keeps_it_too(pool: Pool, sandbox: Callable[..., Build]) -> None:
    """The rules can be read."""
    rules = SlotPool(dir=pool.dir)
    rules.pause("1h")
    inside = held(sandbox, "-q", "-t0.2")
    time.sleep(0.5)
    assert pool.held() == []
    rules.resume()
    inside.started()
    inside.finish()


def test_what_runs_below_it_is_nested(sandbox: Callable[..., Build]) -> None:
    """Its slot is the one of the command above it."""
    inner = shlex.join([script("slot-run"), "-n1", "-t", "none", *SHOW])
    status, out, err = out_of(sandbox("sh", "-c", f"{inner}; {inner}"))
    assert (status, out) == (0, "ran 0\nran 0\n"), err


def test_to_kill_it_does_not_free_the_slot(pool: Pool) -> None:
    """The command has the lock."""
    pool.slot_run("-n1", "true")
    inside = pool.popen(*landlocked(pool), script("slot-run"), "-q", "-n1", "sh", "-c", HELD_BUILD)
    inside.started()
    os.kill(inside.pid, signal.SIGKILL)
    inside.process.wait()
    assert pool.held() == [0]
    inside.finish()
    wait_until(lambda: pool.held() == [], "the command has ended")


LIBRARY = """
import sys, threading, warnings
from buildslots import SlotPool
warnings.simplefilter("ignore")
pool, got = SlotPool(slots=1, timeout=None), []
def build():
    with pool.acquire() as slot:
        got.append(slot.number)
threads = [threading.Thread(target=build) for _ in range(5)]
[thread.start() for thread in threads]
[thread.join() for thread in threads]
print(*got)
"""


def test_the_library_does_the_same(pool: Pool) -> None:
    """Many callers of one process, too."""
    outside = pool.build("-n1")
    outside.started()
    program = pool.popen(*landlocked(pool), sys.executable, "-P", "-c", LIBRARY)
    time.sleep(0.5)
    outside.finish()
    status, out, err = out_of(program)
    assert (status, out) == (0, "0 0 0 0 0\n"), err


COUNT = """
import os, sys, time
with open(sys.argv[1], "a") as log:
    os.write(log.fileno(), b"+")
    time.sleep(0.02)
    os.write(log.fileno(), b"-")
"""


def test_never_more_than_there_are_slots(pool: Pool, tmp_path: Path) -> None:
    """Inside and outside together, who takes them as they come."""
    for _ in range(2):  # both slots have to be there already
        pool.run("sh", "-c", f"{script('slot-run')} -n2 sleep 0.2 & {script('slot-run')} -n2 sleep 0.2; wait")
    log = tmp_path / "log"
    log.touch()
    build = shlex.join([script("slot-run"), "-q", "-n2", "-t", "none"])
    build += " " + shlex.join([sys.executable, "-S", "-E", "-c", COUNT, str(log)])
    loop = f"for _ in 1 2 3 4 5 6; do {build}; done"
    crowd = [pool.popen("sh", "-c", loop) for _ in range(4)]
    crowd += [pool.popen(*read_only(pool), "sh", "-c", loop) for _ in range(4)]
    for one in crowd:
        assert out_of(one)[0] == 0
    text = log.read_text()
    depths = [text[:end].count("+") - text[:end].count("-") for end in range(len(text) + 1)]
    assert len(text) == 2 * 8 * 6
    assert max(depths) <= 2
