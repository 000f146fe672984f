"""Builds that take a slot of their own machine besides one of the server: `also_local`."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from builds import Mounts, wait_until

from buildslots import SlotPool, SlotTimeoutError
from buildslots.disk.directory import PoolDirectory
from buildslots.disk.ruling import change

if TYPE_CHECKING:
    from pathlib import Path

    from fleets import Fleet

    from buildslots.disk.rules import Rules


@pytest.fixture
def other(fleet: Fleet, tmp_path: Path) -> dict[str, str]:
    """What makes a build one of another machine: slots of its own. There and here there is one."""

    def one(rules: Rules, _now: float) -> str:
        rules.slots = 1
        return "slots=1"

    base = tmp_path / "other"
    for directory in (fleet.dir, base / "pools" / fleet.dir.name):
        PoolDirectory(str(directory)).make()
        change(str(directory), one)
    fleet.configure("also_local = true")
    return {"BUILD_SLOTS_DIR": str(base)}


def ready(fleet: Fleet) -> list[bool]:
    return [waiter.is_ready for waiter in fleet.seen().waiters]


def test_nobody_holds_a_slot_of_the_server_while_it_waits_for_one_of_its_machine(
    fleet: Fleet, other: dict[str, str]
) -> None:
    """It is passed over by those that can start, and keeps its place."""
    fleet.create(2)
    first = fleet.build()
    assert first.started() == "0"
    assert (fleet.dir / "holders/slot-0").exists()
    second = fleet.queued()
    wait_until(lambda: ready(fleet) == [False], "it is not ready")
    assert fleet.used() == 1
    elsewhere = fleet.build(environ=other)
    assert elsewhere.started() == "1"
    third = fleet.queued(environ=other)
    first.finish()
    assert second.started() == "0"
    assert not third.is_started()
    elsewhere.finish()
    assert third.started() in {"0", "1"}
    for build in (second, third):
        build.finish()
    assert fleet.used() == 0


def test_one_that_finds_no_slot_here_at_its_turn_gives_back_what_it_was_given(
    fleet: Fleet, other: dict[str, str]
) -> None:
    """Two see the same free slot here, and both get one of the server at the same moment."""
    fleet.create(2)
    wide = fleet.build("-w2", environ=other)
    wide.started()
    two = [fleet.queued(), fleet.queued()]
    wait_until(lambda: ready(fleet) == [True, True], "both are ready")
    wide.finish()
    wait_until(lambda: any(build.is_started() for build in two), "one starts")
    wait_until(lambda: ready(fleet) == [False], "the other one is back in line")
    assert fleet.used() == 1
    early, late = sorted(two, key=lambda build: not build.is_started())
    assert early.started() in {"0", "1"}
    assert not late.is_started()
    early.finish()
    assert late.started() in {"0", "1"}
    late.finish()


def test_one_that_is_first_has_its_turn_on_a_machine_that_is_always_full(
    fleet: Fleet, other: dict[str, str]
) -> None:
    """It stands in line there, too: those that come after it wait behind it."""
    fleet.create(1)
    here = {"BUILD_SLOTS_POOL": "", "BUILD_SLOTS_DIR": str(fleet.dir)}
    local = fleet.build("-n1", environ=here)
    local.started()
    build = fleet.queued()
    queue = fleet.dir / "queue"
    wait_until(lambda: len(list(queue.iterdir())) == 1, "it stands in line here")
    late = fleet.build("-n1", environ=here)
    wait_until(lambda: len(list(queue.iterdir())) == 2, "one more is in line")
    local.finish()
    assert build.started() == "0"
    assert not late.is_started()
    build.finish()
    assert late.started() == "0"
    late.finish()


def test_at_the_timeout_it_takes_what_there_is_or_gives_up(fleet: Fleet, other: dict[str, str]) -> None:
    """Here beyond the cap, there within it."""
    fleet.create(2)
    first = fleet.build()
    first.started()
    with pytest.raises(SlotTimeoutError):
        SlotPool().acquire(0.1, "fail")
    assert SlotPool().try_acquire() is None
    assert fleet.used() == 1
    ran = fleet.slot_run("-q", "-t0.1", "--", "sh", "-c", "echo $BUILD_SLOT")
    assert (ran.stdout, ran.returncode) == ("1\n", 0)
    assert fleet.seen().counts.overflowed == 0
    assert (fleet.dir / "slot-1").exists()
    first.finish()


def test_a_slot_here_stays_held_when_slot_run_is_killed(fleet: Fleet, other: dict[str, str]) -> None:
    """The command has it, as in every pool of this machine; that on the server ends with its lease."""
    fleet.create_short(2)
    first = fleet.build()
    first.started()
    first.process.kill()
    second = fleet.queued()
    wait_until(lambda: fleet.seen().counts.lapsed == 1, "the lease has ended")
    wait_until(lambda: ready(fleet) == [False], "it is not ready")
    assert first.process.stdin is not None
    first.process.stdin.close()  # which ends the command
    assert second.started() == "0"
    second.finish()


def test_a_machine_s_pool_that_cannot_be_used_is_named_and_stops_no_build(fleet: Fleet) -> None:
    """It has its slot on the server, and no other one."""
    fleet.create(1)
    fleet.configure("also_local = true")
    result = Mounts(fleet).run("mount -t tmpfs -o ro tmpfs $P", "$R -- sh -c 'echo $BUILD_SLOT'")
    assert (result.returncode, result.stdout) == (0, "0\n"), result.stderr
    assert result.stderr.count("\n") == 1
    assert result.stderr.startswith("slot-run: no slot of this machine: ")
    assert "Read-only file system" in result.stderr
