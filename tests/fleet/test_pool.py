"""slot-run and the library in a pool on a real server: what they do there is what they do in a pool here."""

from __future__ import annotations

import asyncio
import json
import os
import re
from typing import TYPE_CHECKING

import clients
import pytest
from builds import script, wait_until
from fleets import NAME
from servers import password_file

from buildslots import Gates, SlotPool, SlotTimeoutError, build_slot, crowd
from buildslots.backend import Request
from buildslots.fleet.connection import run
from buildslots.settings.values import MAX_SLOTS

if TYPE_CHECKING:
    from pathlib import Path

    from builds import Build
    from fleets import Fleet

LONG_S = 3000.0
"""A time that no test lasts: nobody beats, nothing ends by itself."""


def calls(fleet: Fleet, command: str) -> int:
    """How often the server was told that."""
    said = re.search(rf"cmdstat_{command}:calls=(\d+)", str(fleet.server.do("INFO", "commandstats")))
    return int(said[1]) if said else 0


def in_order(builds: list[Build]) -> None:
    """Let builds that wait for one slot end one after the other, and none start before its turn."""
    for place, build in enumerate(builds):
        assert build.started() == "0"
        assert not any(other.is_started() for other in builds[place + 1 :])
        assert build.finish() == 0


def test_builds_start_in_the_order_in_which_they_came(fleet: Fleet) -> None:
    """And each calls the server twice more when it is its turn: to take its slot, and to let it go."""
    fleet.create(1, lease_s=LONG_S, ticket_s=LONG_S, confirm_s=LONG_S)
    first = fleet.build()
    assert first.started() == "0"
    waiting = [fleet.queued() for _ in range(3)]
    fleet.server.do("CONFIG", "RESETSTAT")
    first.finish()
    in_order(waiting)
    assert calls(fleet, "evalsha") == 1 + 2 * 3
    assert calls(fleet, "publish") == 3 + 2  # go, and to the one behind: look if that one does not take it
    assert fleet.used() == 0
    assert fleet.seen().counts.granted == 4


@pytest.mark.parametrize("kind", clients.KINDS)
def test_every_kind_of_client_waits_holds_and_can_be_cancelled(fleet: Fleet, kind: str) -> None:
    """In a thread, in a task of either library, as a program."""
    fleet.create(1)
    first = clients.start(fleet, kind, 1)
    assert first.started() == "0"
    second = clients.start(fleet, kind, 1)
    wait_until(lambda: fleet.seen().length == 1, "one waits")
    third = clients.start(fleet, kind, 1)
    wait_until(lambda: fleet.seen().length == 2, "two wait")
    assert clients.cancel(second, kind) == 0
    wait_until(lambda: fleet.seen().length == 1, "it has left the line")
    first.finish()
    assert third.started() == "0"
    third.finish()
    fleet.wait_for_used(0)


def test_weights_priorities_and_caps(fleet: Fleet) -> None:
    """What needs two slots gets both, in its turn; a head start counts; a caller may have a smaller cap."""
    fleet.create(3)
    one = fleet.build()
    assert one.started() == "0"
    wide = fleet.queued("-w3")
    low = fleet.queued("--priority", "low")
    small = fleet.queued("-n1")
    assert [waiter.own_cap for waiter in fleet.seen().waiters] == [None, 1, None]
    high = fleet.build("--priority", "high", "-w2")  # stands first, and what it needs is free
    assert high.started() == "1"
    one.finish()
    high.finish()
    assert wide.started() == "0"
    assert fleet.used() == 3
    wide.finish()
    assert {small.started(), low.started()} == {"0", "1"}
    for build in (small, low):
        build.finish()


def test_the_cap_and_a_pause_of_the_pool_bind_all(fleet: Fleet) -> None:
    """At once, for those who wait too; the time of a pause does not count against a timeout."""
    fleet.create(1)
    first, second = fleet.build(), None
    assert first.started() == "0"
    second = fleet.queued()
    run(fleet.script.set("tests", slots=2))
    assert second.started() == "1"
    run(fleet.script.pause("tests", 1.0, "a new disk"))
    second.finish()
    first.finish()
    third = fleet.slot_run("-q", "-t0.2", "--on-timeout", "fail", "--", "true")
    assert third.returncode == 0, third.stderr
    fourth = fleet.build("-w2")
    assert fourth.started() == "0"
    fifth = fleet.queued("-t3", "--on-timeout", "fail")
    paused_at = run(fleet.script.pause("tests", 600.0)).server_us
    while fleet.seen().rules.server_us < paused_at + 4_000_000:
        assert fleet.seen().length == 1
    fourth.finish()
    run(fleet.script.resume("tests"))
    assert fifth.started() == "0"
    fifth.finish()


def test_at_the_timeout_it_runs_beyond_the_cap_or_gives_up(fleet: Fleet) -> None:
    """slot-run says so, and the library raises."""
    fleet.create(1)
    first = fleet.build("-t30")
    first.started()
    ran = fleet.slot_run("-t0.1", "-q", "--", "sh", "-c", "echo $BUILD_SLOT")
    assert (ran.returncode, ran.stdout) == (0, "1\n")
    assert "beyond the cap of 1 (overflow slot 1)" in ran.stderr
    gave_up = fleet.slot_run("-t0.1", "-q", "--on-timeout", "fail", "--", "true")
    assert (gave_up.returncode, gave_up.stderr.count("within 0.1 s; giving up")) == (75, 1)
    pool = SlotPool()
    with pytest.raises(SlotTimeoutError):
        pool.acquire(0.1, "fail")
    assert pool.try_acquire() is None
    with pool.acquire(0, "run") as slot:
        assert (slot.overflow, slot.number) == (True, 1)
    assert fleet.seen().length == 0
    assert fleet.seen().counts.overflowed == 2
    first.finish()


def test_paced_builds_start_beyond_the_cap_one_after_the_other(fleet: Fleet) -> None:
    """The first in line after one time, and the next after one more."""
    fleet.create(1)
    first = fleet.build()
    first.started()
    paced: list[Build] = []
    for _ in range(2):
        paced.append(fleet.build("-t1", "--on-timeout", "paced"))
        wait_until(lambda: fleet.seen().length or paced[-1].is_started(), "it has come")
    assert [build.started() for build in paced] == ["1", "2"]
    told = {one.numbers[0]: json.loads(one.info) for one in fleet.seen().holders}
    assert float(told[1]["waited"]) >= 1
    assert float(told[2]["since"]) - float(told[1]["since"]) > 0.5
    for build in (first, *paced):
        build.finish()
    wait_until(lambda: fleet.used() == 0, "all have let go")


def test_below_a_slot_the_same_pool_is_free_at_once(fleet: Fleet) -> None:
    """By the environment, without it, in Python, and in a task of a batch; not when the holder is gone."""
    fleet.create(1)
    inner = f"{script('slot-run')} -t30 --on-timeout fail -- sh -c 'echo $BUILD_SLOTS_HELD'"
    outer = fleet.slot_run(
        "--", "sh", "-c", f"{inner}; env -i HOME=$HOME BUILD_SLOTS_POOL={NAME} {inner}; true"
    )
    marks = outer.stdout.split()
    assert len(marks) == 2, outer.stderr
    assert marks[0] == marks[1]
    bare = ("env", "-i", f"HOME={fleet.environ['HOME']}", f"BUILD_SLOTS_POOL={NAME}", "sh", "-c", inner)
    assert fleet.slot_run("--", *bare).stdout.startswith("0:@")
    with build_slot() as slot:
        with build_slot() as nested:
            assert (nested.nested, nested.number) == (True, 0)
        assert fleet.run("sh", "-c", inner, environ=slot.environ()).stdout.startswith("0:@")
        left = slot.environ()
    assert fleet.used() == 0
    other = fleet.build()
    assert other.started() == "0"
    late = fleet.run(script("slot-run"), "-q", "-t0.1", "--", "sh", "-c", "echo $BUILD_SLOT", environ=left)
    assert late.stdout == "1\n", "it was taken for nested below one that is gone"
    other.finish()


def test_tasks_of_a_batch_take_slots_there(fleet: Fleet, tmp_path: Path) -> None:
    """And what they start below themselves is under them."""
    fleet.create(1)
    log = tmp_path / "log"
    command = f"echo + >> {log}; {script('slot-run')} -t30 --on-timeout fail -- true && echo - >> {log}"
    tasks = "".join(json.dumps({"name": f"t{n}", "run": command}) + "\n" for n in range(4))
    batch = fleet.run(script("buildslots"), "batch", "-j4", "-", input=tasks)
    assert batch.returncode == 0, batch.stderr
    assert log.read_text() == "+\n-\n" * 4
    assert fleet.seen().counts.overflowed == 0


def test_a_build_with_a_closed_gate_is_passed_over(fleet: Fleet) -> None:
    """It keeps nobody from slots that it could not use; while nobody holds any, gates do not count."""
    fleet.create(2)
    first = fleet.build()
    first.started()
    gated = fleet.queued("--min-free-memory", "900G")
    second = fleet.build()
    assert second.started() == "1"
    assert fleet.seen().length == 1
    late = fleet.slot_run("-q", "-t0.2", "--min-free-memory", "900G", "--", "true")
    assert "free memory" in late.stderr
    assert late.returncode == 0
    with pytest.raises(SlotTimeoutError, match="free memory"):
        SlotPool(gates=Gates(min_free_memory=2**60)).acquire(0.1, "fail")
    first.finish()
    second.finish()
    run(fleet.script.set("tests", slots=1))  # so that it hears of it at once, and not at its next beat
    assert gated.started() == "0"
    gated.finish()


def test_a_hundred_tasks_of_one_process_have_two_places_in_line(fleet: Fleet) -> None:
    """They take turns in the order in which they came; others come in between as their arrival says."""
    fleet.create(1)
    first = fleet.build()
    first.started()
    order: list[int] = []

    async def main() -> int:
        pool = SlotPool(timeout=None)

        async def task(number: int) -> None:
            async with build_slot(pool):
                order.append(number)

        tasks = [asyncio.ensure_future(task(number)) for number in range(100)]
        await asyncio.to_thread(wait_until, lambda: fleet.seen().length >= 2, "two in line")
        in_line = fleet.seen().length
        first.finish()
        await asyncio.gather(*tasks)
        return in_line

    assert asyncio.run(main()) == 2
    # Who joins the line in the place of one that leaves takes a moment for it, and the next may be quicker.
    assert max(abs(place - number) for place, number in enumerate(order)) < 3
    fleet.wait_for_used(0)
    assert fleet.seen().counts.overflowed == 0


def test_who_is_next_in_memory_is_in_line_before_another_leaves(fleet: Fleet) -> None:
    """Whatever else its program does: nobody behind it can come in between."""
    fleet.create(1)
    first = fleet.build()
    first.started()
    nonces, places = [], []
    for _ in range(3):
        request = Request(MAX_SLOTS, ["make"], is_own_cap=False)
        _, place = run(crowd.open_pool(fleet.address()).enter(request))
        assert place is not None
        nonces.append(request.nonce)
        places.append(place)

    def in_line() -> list[str]:
        return [waiter.id.partition(".")[0] for waiter in fleet.seen().waiters]

    assert in_line() == nonces[:2]
    places[0].leave()
    wait_until(lambda: in_line() == nonces[1:], "the third is in line, in its place")
    for place in places:
        place.leave()
    wait_until(lambda: not in_line(), "all have left")
    first.finish()


def test_the_journal_knows_builds_by_the_pool_s_address(fleet: Fleet) -> None:
    """Who queued, started, fell through and ended, in which slot."""
    fleet.create(1)
    first = fleet.build()
    first.started()
    second = fleet.queued("--label", "the site")
    first.finish()
    second.started()
    second.finish(3)
    path = os.path.join(fleet.environ["HOME"], ".local/state/buildslots/journal.jsonl")
    with open(path) as file:
        events = [json.loads(line) for line in file]
    assert {event["dir"] for event in events} == {fleet.url}
    its = [event for event in events if event["program"] == "the site"]
    assert [event["event"] for event in its] == ["queued", "started", "ended"]
    assert (its[0]["cap"], its[1]["slot"], its[1]["cap"], its[2]["status"]) == (1, 0, 1, 3)


def test_a_detached_build_and_one_that_ends_with_its_owner(fleet: Fleet) -> None:
    """The first waits and ends as any other; the second leaves the line when nobody wants it any more."""
    fleet.create(1)
    first = fleet.build()
    first.started()
    detached = fleet.slot_run("--detach", "--", "sh", "-c", "exit 3")
    wait_until(lambda: fleet.seen().length == 1, "it waits")
    owner = fleet.popen("sleep", "1000")
    build = fleet.queued("--owner", str(owner.pid))
    owner.process.kill()
    owner.process.wait()
    assert build.process.wait() == 75
    wait_until(lambda: fleet.seen().length == 1, "it has left the line")
    first.finish()
    assert fleet.run(script("buildslots"), "wait", detached.stdout.partition(":")[0]).returncode == 3
    assert fleet.used() == 0


def test_what_others_are_told_is_the_program_and_not_its_arguments(fleet: Fleet, tmp_path: Path) -> None:
    """Nor where it is; and the command's environment has nothing of the server but its slot."""
    fleet.create(2)
    fleet.server.do("ACL", "SETUSER", "builds", "on", ">hunter2", "~*", "&*", "+@all")
    fleet.url = f"unix://builds@{fleet.server.path}/0/{NAME}"
    fleet.configure(f'password_file = "{password_file(tmp_path, "hunter2")}"')
    build = fleet.popen(script("slot-run"), "--", "sh", "-c", "env; echo .; read line; : secret-argument")
    assert build.process.stdout is not None
    environ = b""
    while not environ.endswith(b"\n.\n"):
        environ += os.read(build.process.stdout.fileno(), 1)
    assert b"BUILD_SLOT=0" in environ
    assert b"hunter2" not in environ
    told = fleet.seen().holders[0].info
    assert json.loads(told)["command"] == "sh\0"
    assert not any(text in told for text in ("secret-argument", "hunter2", os.getcwd()))
