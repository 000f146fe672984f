"""What is lost, and what is not: servers, leases, builds, processes. Leases of three seconds, real kills."""

from __future__ import annotations

import os
import signal
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from builds import DEADLINE_S, script, wait_until

from buildslots import PoolUnreachableError, SlotPool

if TYPE_CHECKING:
    from builds import Build
    from fleets import Fleet

HOLDER = """
import logging, os, sys
from buildslots import SlotPool
logging.basicConfig()
slot = SlotPool().acquire()
print(slot.number, flush=True)
exec(sys.stdin.readline())
"""
"""A program that holds a slot, and then does what it is told."""


def holder(fleet: Fleet) -> Build:
    return fleet.popen(sys.executable, "-c", HOLDER)


def tell(build: Build, code: str) -> None:
    assert build.process.stdin is not None
    build.process.stdin.write(code.encode() + b"\n")


def wait_for_beat(fleet: Fleet, slot: int) -> None:
    """Wait until the lease of who holds that slot has become longer."""
    left_s = float("inf")

    def has_beaten() -> bool:
        nonlocal left_s
        (mine,) = (one for one in fleet.seen().holders if one.numbers == (slot,))
        before, left_s = left_s, mine.left_s
        return left_s > before

    wait_until(has_beaten, "a beat")


def test_without_a_server_the_pool_of_this_machine_takes_its_place(fleet: Fleet) -> None:
    """With one line; with as many slots as that has; and a build below one of those is nested."""
    fleet.server.stop()
    first = fleet.build("-n1")
    assert first.started() == "0"
    assert os.listdir(fleet.dir / "holders") == ["slot-0"]
    inner = f"{script('slot-run')} -n1 -t30 --on-timeout fail -- sh -c 'echo $BUILD_SLOT'"
    second = fleet.build("-n1")
    first.finish()
    assert second.started() == "0"
    second.finish()
    said = second.errors()
    assert said.count("\n") == 1
    assert (
        "cannot be used: No such file or directory: this build takes a slot of this machine's own pool"
        in said
    )
    assert fleet.slot_run("-n1", "--", "sh", "-c", inner).stdout == "0\n"
    with pytest.warns(RuntimeWarning, match="this machine's own pool"), SlotPool().acquire() as slot:
        assert slot.number == 0
        assert fleet.run("sh", "-c", inner, environ=slot.environ()).stdout == "0\n"


def test_a_pool_that_nobody_has_made_is_said_to_be_none(fleet: Fleet) -> None:
    """And how it is made."""
    ran = fleet.slot_run("--", "true")
    assert ran.returncode == 0
    assert "there is no such pool: `buildslots fleet create` makes it" in ran.stderr


def test_without_a_server_it_may_be_a_failure(fleet: Fleet) -> None:
    """If that is what on_unreachable says: nothing runs, at the beginning and at the timeout."""
    fleet.configure('on_unreachable = "fail"')
    fleet.create(1)
    first = fleet.build()
    first.started()
    second = fleet.queued("-t", "2")
    fleet.server.stop(signal.SIGKILL)
    assert second.process.wait(DEADLINE_S) == 75
    assert "on_unreachable" in second.errors()
    third = fleet.slot_run("--", "true")
    assert third.returncode == 75
    assert third.stderr.count("\n") == 1
    with pytest.raises(PoolUnreachableError):
        SlotPool().acquire()
    first.finish()


def test_one_that_waits_keeps_its_place_without_the_server(fleet: Fleet) -> None:
    """A server that comes back empty knows the order again; nothing starts while holders may register."""
    fleet.create_short(1)
    first = fleet.build()
    first.started()
    waiting = [fleet.queued() for _ in range(3)]
    fleet.server.stop(signal.SIGKILL)
    fleet.server.start()
    wait_until(lambda: _length(fleet) == 3, "all are back in line")
    wait_until(lambda: fleet.used() == 1, "the holder is back")
    assert not any(build.is_started() for build in waiting)
    first.finish()
    for place, build in enumerate(waiting):
        assert build.started() == "0"
        assert not any(other.is_started() for other in waiting[place + 1 :])
        build.finish()
    assert fleet.seen().counts.overflowed == 0


def _length(fleet: Fleet) -> int:
    try:
        return fleet.seen().length
    except PoolUnreachableError:
        return -1  # nobody has told it the rules yet


def test_a_signal_is_heard_while_the_server_says_nothing(fleet: Fleet) -> None:
    """Before there is a place in line, too: slot-run ends, and its command never runs."""
    fleet.create(1)
    fleet.configure('on_unreachable = "fail"')  # after a while, with another status
    assert fleet.server.process is not None
    fleet.server.process.send_signal(signal.SIGSTOP)
    build = fleet.build()
    wait_until(lambda: has_socket(build.pid), "it has connected")
    build.process.terminate()
    assert build.process.wait(DEADLINE_S) == -signal.SIGTERM
    assert build.process.stdout is not None
    assert build.process.stdout.read() == b""


def has_socket(pid: int) -> bool:
    try:
        return any(os.readlink(file).startswith("socket:") for file in Path(f"/proc/{pid}/fd").iterdir())
    except FileNotFoundError:
        return False  # closed at this moment


def test_at_the_timeout_a_server_that_is_gone_keeps_nobody(fleet: Fleet) -> None:
    """It runs without a slot, with one line."""
    fleet.create(1)
    first = fleet.build()
    first.started()
    second = fleet.queued("-q", "-t2")
    fleet.server.stop(signal.SIGKILL)
    assert second.started() == "none"
    second.finish()
    said = second.errors()
    assert said.startswith("slot-run: running without a slot: the pool at unix://")
    assert said.count("\n") == 1
    first.finish()


def test_a_waiter_that_is_killed_is_passed_over(fleet: Fleet) -> None:
    """Also one that is stopped: the next one gets the slot when the time to take it is over."""
    fleet.create_short(1)
    first = fleet.build()
    first.started()
    killed, stopped, last = (fleet.queued() for _ in range(3))
    killed.process.kill()
    stopped.process.send_signal(signal.SIGSTOP)
    first.finish()
    assert last.started() == "0"
    stopped.process.send_signal(signal.SIGCONT)
    wait_until(lambda: fleet.seen().length == 1, "it is back in line")
    last.finish()
    assert stopped.started() == "0"
    stopped.finish()


@pytest.mark.parametrize("kind", ["slot-run", "program"])
def test_a_holder_that_is_killed_frees_its_slot_after_a_lease(fleet: Fleet, kind: str) -> None:
    """slot-run's command runs on, and has no slot any more."""
    fleet.create_short(1)
    first = fleet.build() if kind == "slot-run" else holder(fleet)
    assert first.started() == "0"
    second = fleet.queued()
    first.process.kill()
    assert second.started() == "0"
    assert fleet.seen().counts.lapsed == 1
    second.finish()


@pytest.mark.parametrize("kind", ["slot-run", "program"])
def test_one_that_was_stopped_for_longer_than_its_lease_registers_again(fleet: Fleet, kind: str) -> None:
    """Its build goes on, beyond the cap, and one line says so."""
    fleet.create_short(1)
    first = fleet.build() if kind == "slot-run" else holder(fleet)
    first.started()
    second = fleet.queued()
    first.process.send_signal(signal.SIGSTOP)
    assert second.started() == "0"
    first.process.send_signal(signal.SIGCONT)
    said = first.read_error_line()
    assert "has not heard of this build for" in said
    assert "counts as overflow" in said
    assert [holder.overflow for holder in fleet.seen().holders if holder.numbers != (0,)] == [True]
    assert fleet.used() == 2
    assert second.finish() == 0
    tell(first, "0")
    assert first.process.wait(DEADLINE_S) == 0
    assert fleet.used() == 0


def test_leases_outlast_many_beats(fleet: Fleet) -> None:
    """In the loop of slot-run, and in the thread of a program, whose main thread does something else."""
    fleet.create(3, lease_s=0.9, ticket_s=0.9, confirm_s=0.9)
    first, second, third = fleet.build(), holder(fleet), holder(fleet)
    started = {build.started() for build in (first, second, third)}
    assert started == {"0", "1", "2"}
    waiting = fleet.queued()
    until = fleet.seen().rules.server_us + 4 * 900_000
    while (seen := fleet.seen()).rules.server_us < until:
        assert seen.counts.lapsed == 0
    assert not waiting.is_started()
    tell(second, "slot.release(); input()")
    assert waiting.started() in started
    waiting.finish()
    first.finish()
    tell(third, "pass")


KEPT = "import threading as t; t.Thread(target=lambda _: t.Event().wait(), args=[slot], daemon=True).start()"
"""A thread has the slot that is there to the end, and never lets go of it."""


@pytest.mark.parametrize("end", ["del slot", "sys.exit(1)", KEPT], ids=["forgotten", "exit", "thread"])
def test_a_program_that_ends_gives_back_what_it_has_forgotten(fleet: Fleet, end: str) -> None:
    """As the system does with a lock; at once, and not after a lease."""
    fleet.create(1)
    first = holder(fleet)
    first.started()
    second = fleet.queued()
    tell(first, end)
    assert second.started() == "0"
    assert fleet.seen().counts.lapsed == 0
    second.finish()


FORKER = """
import gc, os, sys
from buildslots import SlotPool
slot = SlotPool().acquire()
print(slot.number, flush=True)
sys.stdin.readline()
child = os.fork()
if not child:
    os.closerange(3, 100)
    files = [os.open(os.devnull, os.O_RDONLY) for _ in range(20)]
    slot.__exit__(None, None, None)
    del slot
    gc.collect()
    for fd in files:
        os.fstat(fd)
    own = SlotPool().acquire()
    print(own.number, flush=True)
    sys.stdin.readline()
    own.release()
    sys.exit(0)
print(os.waitpid(child, 0)[1], flush=True)
sys.stdin.readline()
"""


def test_what_a_forked_child_does_is_nothing_to_its_parent_s_slots(fleet: Fleet) -> None:
    """It lets go of them, closes all it has, takes a slot of its own, and ends; the parent holds on."""
    fleet.create_short(2)
    parent = fleet.popen(sys.executable, "-c", FORKER)
    assert parent.started() == "0"
    tell(parent, "go")
    assert parent.started() == "1", "the child's own slot"
    wait_for_beat(fleet, 1)
    tell(parent, "go")
    assert parent.started() == "0", "how the child has ended"
    fleet.wait_for_used(1)
    waiting = fleet.queued("-w2")
    wait_for_beat(fleet, 0)
    assert not waiting.is_started()
    tell(parent, "go")
    assert waiting.started() == "0"
    assert fleet.seen().counts.lapsed == 0
    waiting.finish()
