"""`--on-timeout paced`: those who cannot get a slot in time start one after the other."""

from __future__ import annotations

import os
import shutil
import time
from itertools import pairwise
from typing import TYPE_CHECKING

import pytest
from builds import step, take_now

from buildslots.backend import Request
from buildslots.disk import records
from buildslots.disk.directory import PoolDirectory
from buildslots.disk.holding import Hold
from buildslots.disk.line import Ticket
from buildslots.disk.wait import Pace, Wait
from buildslots.gates import Gates

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from builds import Pool

PACE_S = 1000.0


class Line:
    """A pool with one slot, held, in which nothing has happened for as long as a test says."""

    def __init__(self, path: Path) -> None:
        self.directory = PoolDirectory(str(path))
        self.holds: list[Hold] = []
        self.tickets: list[Ticket] = []
        self.keep(take_now(self.directory, Request(1, ["make"])))

    def keep(self, hold: Hold | None) -> Hold:
        assert hold is not None
        self.holds.append(hold)
        return hold

    def join(self, *, waited_s: float) -> Wait:
        """A waiter at the end of the line, whose timeout is over and who has waited so long."""
        ticket = step(self.directory, lambda: Ticket(self.directory.path, 1, b""))
        self.tickets.append(ticket)
        request = Request(1, ["make"])
        request.began -= waited_s
        wait = Wait(self.directory, ticket, request)
        wait._pace = Pace(self.directory, request, PACE_S)
        wait._pace._came_forward += waited_s  # just now
        return wait

    def happened(self, ago_s: float) -> None:
        """So long ago the slot was taken."""
        os.utime(f"{self.directory.path}/holders/slot-0", (0, time.time() - ago_s))

    def after_timeout(self, wait: Wait) -> Hold | float:
        """What the waiter starts with after its timeout, or for how long it is to wait until its turn."""
        with pytest.raises(StopIteration) as look:
            next(wait.until(0.0))
        with pytest.raises(StopIteration) as end:
            next(wait.paced_start(look.value.value, PACE_S))
        return end.value.value

    def asleep(self, wait: Wait) -> float:
        """For how long the waiter is to wait after its timeout; fails if it starts."""
        seconds = self.after_timeout(wait)
        assert isinstance(seconds, float)
        return seconds

    def started(self, wait: Wait) -> Hold:
        """What it starts with after its timeout; fails if it waits on."""
        hold = self.after_timeout(wait)
        assert isinstance(hold, Hold)
        return self.keep(hold)


@pytest.fixture
def line(tmp_path: Path) -> Iterator[Line]:
    line = Line(tmp_path / "pool")
    yield line
    for ticket in line.tickets:
        ticket.leave()
    for hold in line.holds:
        hold.release()


def test_one_after_the_other_in_line_order(pool: Pool) -> None:
    """Three whose timeouts end together start a timeout apart, beyond the cap, in line order."""
    pool.build("-n1").started()
    waiters = [pool.queued("-n1", "-t1", "--on-timeout", "paced") for _ in range(3)]
    assert [waiter.started() for waiter in waiters] == ["1", "2", "3"]
    since = [float((records.read(f"{pool.dir}/holders/slot-{n}") or {})["since"]) for n in (0, 1, 2, 3)]
    # A file's times are those of the kernel's last tick, 4 ms apart at most.
    assert all(later - earlier > 0.99 for earlier, later in pairwise(since)), since


def test_a_slot_that_becomes_free_is_taken_in_turn(pool: Pool) -> None:
    """Who has not fallen through yet is in line still, and starts under the cap."""
    first = pool.build("-n1")
    first.started()
    head, second = [pool.queued("-n1", "-t3", "--on-timeout", "paced") for _ in range(2)]
    assert head.started() == "1"
    assert "runs anyway in" in second.read_error_line()
    head.finish()
    first.finish()
    assert second.started() == "0"
    second.finish()


def test_the_head_starts_after_its_timeout_without_progress(line: Line) -> None:
    """With the lowest number from K up."""
    head = line.join(waited_s=PACE_S + 1)
    line.happened(PACE_S + 1)
    hold = line.started(head)
    assert (hold.numbers, hold.overflow) == ((1,), True)


def test_progress_gives_everybody_another_timeout(line: Line) -> None:
    """A slot was taken 400 s ago: the head has 600 s left, the second 1,600."""
    waits = [line.join(waited_s=5 * PACE_S) for _ in range(2)]
    line.happened(400.0)
    assert [round(line.asleep(wait)) for wait in waits] == [600, 1600]


def test_its_own_wait_is_what_counts_at_most(line: Line) -> None:
    """Whoever came later than the last progress has not waited since then."""
    head = line.join(waited_s=300.0)
    line.happened(50 * PACE_S)
    assert round(line.asleep(head)) == 700


def test_one_that_never_falls_through_keeps_nobody(line: Line) -> None:
    """The second leaves it two timeouts, asleep, and starts then."""
    line.tickets.append(step(line.directory, lambda: Ticket(line.directory.path, 1, b"")))
    second = line.join(waited_s=5 * PACE_S)
    line.happened(1.5 * PACE_S)
    assert round(line.asleep(second)) == 500
    line.happened(2.5 * PACE_S)
    assert line.started(second).overflow


def test_when_those_ahead_leave_its_turn_comes_sooner(line: Line) -> None:
    """Its turn is counted anew at each look, and it looks now and then."""
    ahead = [line.join(waited_s=1.5 * PACE_S) for _ in range(3)]
    last = line.join(waited_s=1.5 * PACE_S)
    line.happened(10 * PACE_S)
    assert 2.4 * PACE_S < line.asleep(last) < 2.6 * PACE_S
    for wait in ahead:
        wait.leave()
    assert line.started(last).overflow


def test_a_gate_holds_no_longer_than_the_timeout(line: Line) -> None:
    """What only the machine's state kept from a free slot starts in it then, without waiting for a turn."""
    line.holds[0].release()
    other = line.keep(take_now(line.directory, Request(2, ["make"])))
    ticket = step(line.directory, lambda: Ticket(line.directory.path, 2, b""))
    line.tickets.append(ticket)
    wait = Wait(line.directory, ticket, Request(2, ["make"], gates=Gates(max_load=1e-9)))
    hold = line.started(wait)
    assert (hold.overflow, hold.numbers != other.numbers, hold.despite is not None) == (False, True, True)


def test_a_slot_that_becomes_free_after_the_timeout_behind_a_closed_gate_is_taken_soon(line: Line) -> None:
    """Though the turn to start beyond the cap is far away: the gate holds no longer than the timeout."""
    ticket = step(line.directory, lambda: Ticket(line.directory.path, 2, b""))
    line.tickets.append(ticket)
    line.keep(take_now(line.directory, Request(2, ["make"]), beyond=True))
    wait = Wait(line.directory, ticket, Request(2, ["make"], gates=Gates(max_load=1e-9)))
    assert line.asleep(wait) > PACE_S / 2
    steps = wait.until(time.monotonic() + PACE_S)
    next(steps)
    line.holds.pop(0).release()
    with pytest.raises(StopIteration) as end:
        steps.send(True)
    with pytest.raises(StopIteration) as start:
        next(wait.paced_start(end.value.value, PACE_S))
    assert line.keep(start.value.value).despite is not None


def test_a_link_that_leads_nowhere_is_no_progress(line: Line) -> None:
    """Nor a reason to start without a slot: a member of a shared pool could put one there for good."""
    link = f"{line.directory.path}/holders/slot-7"
    os.symlink("nowhere", link)
    os.utime(link, (1, 1), follow_symlinks=False)
    line.happened(PACE_S + 1)
    assert line.started(line.join(waited_s=PACE_S + 1)).overflow


def test_a_clock_that_was_set_back_costs_one_turn(line: Line) -> None:
    """And not as long as it takes to be right again."""
    head = line.join(waited_s=5 * PACE_S)
    line.happened(-3600.0)
    assert round(line.asleep(head)) == 1000
    assert head._pace is not None
    head._pace._quiet_since -= PACE_S
    assert line.started(head).overflow


def test_a_removed_directory_is_made_again(line: Line) -> None:
    """Also one that a cache cleaner removes between the last look and the turn."""
    head = line.join(waited_s=5 * PACE_S)
    with pytest.raises(StopIteration) as look:
        next(head.until(0.0))
    shutil.rmtree(f"{line.directory.path}/holders")
    with pytest.raises(StopIteration) as end:
        next(head.paced_start(look.value.value, PACE_S))
    assert line.keep(end.value.value).overflow


def test_without_a_timeout_there_is_no_pace(pool: Pool) -> None:
    """Whoever waits for ever does; whoever does not wait at all starts."""
    first = pool.build("-n1")
    first.started()
    patient = pool.queued("-n1", "-t", "none", "--on-timeout", "paced")
    hasty = pool.build("-n1", "-t0", "--on-timeout", "paced")
    assert hasty.started() == "1"
    first.finish()
    hasty.finish()
    assert patient.started() == "0"
    patient.finish()
