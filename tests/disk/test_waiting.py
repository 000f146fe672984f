"""Locks, tickets, bells and waits step by step: in whole builds a glance makes up for what is broken."""

from __future__ import annotations

import errno
import itertools
import os
import shutil
from threading import Event
from typing import TYPE_CHECKING

import pytest
from builds import step

from buildslots.admission import Admission
from buildslots.disk import bells, lock, queue, wait
from buildslots.disk.slots import Claim, Hold, PoolDirectory, SlotFiles
from buildslots.settings import resolve

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from builds import Pool


class Line:
    """A pool of one slot that is held, with waiters of this process."""

    def __init__(self, pool: Pool) -> None:
        self.directory = PoolDirectory(str(pool.dir))
        hold = step(self.directory, lambda: self.directory.try_take(Claim(1, ["make"])))
        assert hold is not None
        self.hold = hold
        self.tickets: list[queue.Ticket] = []
        self._ears: list[wait.Ears] = []

    def join(self, cap: int = 1) -> queue.Ticket:
        ticket = step(self.directory, lambda: queue.Ticket(self.directory.path, cap, b""))
        self.tickets.append(ticket)
        return ticket

    def ears(self, ticket: queue.Ticket) -> wait.Ears:
        """What `ticket` listens to now."""
        ahead = ticket.ahead()
        ears = wait.Ears(self.directory, ticket, ahead, bells.poll())
        ears.listen_to_slots(head=not ahead)
        self._ears.append(ears)
        return ears

    def bell(self, ticket: queue.Ticket) -> str:
        return f"{self.directory.path}/bells/{ticket.name}"

    def close(self) -> None:
        for ears in self._ears:
            ears.close()
        for ticket in self.tickets:
            ticket.leave()
        self.hold.release()


@pytest.fixture
def line(pool: Pool) -> Iterator[Line]:
    line = Line(pool)
    yield line
    line.close()


class Clock:
    """`time.monotonic` for `wait`, moved by hand."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.now = 1000.0
        monkeypatch.setattr(wait.time, "monotonic", lambda: self.now)


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    return Clock(monkeypatch)


def test_a_release_wakes_the_head_and_its_leaving_the_next(line: Line) -> None:
    """By their bells, without any glance, and nobody else."""
    head, second, third = (line.ears(line.join()) for _ in range(3))
    assert [ears.listen(0) for ears in (head, second, third)] == [False] * 3
    line.hold.release()
    assert [ears.listen(0) for ears in (head, second, third)] == [True, False, False]
    line.tickets[0].leave()
    assert [ears.listen(0) for ears in (second, third)] == [True, False]


def test_a_killed_holder_s_bell_wakes_the_head(line: Line) -> None:
    """All its descriptors are closed, and nothing is written into the bell."""
    ears = line.ears(line.join())
    assert not ears.listen(0)
    os.close(line.hold._bells.pop())
    assert ears.listen(0)


def test_a_bell_that_nobody_keeps_open_is_none(tmp_path: Path) -> None:
    """Whoever listened to it would hear its end for ever, or never."""
    path = str(tmp_path / "bell")
    assert bells.listen(path) == (None, False)
    bell = bells.hang(path)
    assert bell is not None
    os.close(bell)
    assert bells.listen(path) == (None, False)
    assert not bells.knock(path)


def test_a_ring_is_heard_though_the_bell_serves_another_holder_already(line: Line) -> None:
    """A daemon has it open as well, so the next holder hangs a new one: listeners of the old must hear."""
    first = step(line.directory, lambda: line.directory.take_overflow(Claim(1, ["make"])))
    ears = line.ears(line.join())
    daemon = os.dup(first.descriptors[-1])
    first.release()
    second = step(
        line.directory, lambda: line.directory.take_overflow(Claim(1, ["make"]))
    )  # before the head got to look
    assert second.numbers == first.numbers
    assert ears.listen(0)
    second.release()
    os.close(daemon)


def test_only_the_head_is_deaf_to_a_lock_without_a_bell(line: Line) -> None:
    """It has to look at the lock often; those behind it need not."""
    head, second = line.join(), line.join()
    assert [line.ears(ticket).deaf_head for ticket in (head, second)] == [False, False]
    foreign = lock.lock_file(f"{line.directory.path}/slot-7")
    assert foreign is not None
    assert [line.ears(ticket).deaf_head for ticket in (head, second)] == [True, False]
    os.close(foreign)


def test_a_glance_sees_a_silent_lock_go(line: Line) -> None:
    """Also that of somebody who is not the head."""
    line.join()
    foreign = lock.lock_file(f"{line.directory.path}/slot-7")
    assert foreign is not None
    ears = line.ears(line.join())
    assert ears.nothing_new()
    os.close(foreign)
    assert not ears.nothing_new()


def test_a_glance_sees_that_the_ticket_is_gone(line: Line) -> None:
    """Somebody removed the queue."""
    head = line.join()
    ears = line.ears(head)
    assert ears.nothing_new()
    os.unlink(f"{line.directory.path}/queue/{head.name}")
    assert not ears.nothing_new()


def test_a_knock_is_heard_once(line: Line) -> None:
    """Its owner reads it away, or it would never sleep again; whoever knocked sees that."""
    head = line.join()
    ears = line.ears(head)
    assert bells.knock(line.bell(head))
    assert not bells.answered(line.bell(head))
    assert not bells.answered(line.bell(head))  # asking does not answer
    assert ears.listen(0)
    assert bells.answered(line.bell(head))
    assert not ears.listen(0)


def test_who_comes_near_is_told(line: Line) -> None:
    """It sleeps as long as one who is far back, and has to watch those before it from now on."""
    head, second, third, fourth = (line.join() for _ in range(4))
    for _ in range(2):  # the first answer is what it found when it joined
        assert head.ahead() == []
    head.leave()
    assert [bells.answered(line.bell(ticket)) for ticket in (second, third, fourth)] == [True, True, False]


@pytest.mark.parametrize("place", range(1, 9))
def test_the_first_three_glance_twice_a_second(line: Line, place: int) -> None:
    """Those who have joined so near, and those who come there: each is told by one that is the head."""
    tickets = [line.join() for _ in range(place)]
    for _ in range(2):  # the first answer is what it found when it joined
        assert tickets[0].ahead() == []
    ears = line.ears(line.join())  # not in time for the first head to see it
    for head, following in list(itertools.pairwise(tickets))[: max(0, place - 2)]:
        head.leave()
        following.ahead()  # likewise
        assert following.ahead() == []
    ears.listen(0)
    assert ears.period_s == wait.GLANCE_S


def test_one_that_is_killed_as_the_second_leaves_nobody_untold(line: Line) -> None:
    """Nor does one that is stopped behind it: the fourth knows that it comes near."""
    head, second, _, fourth = (line.join() for _ in range(4))
    steps = wait.Wait(line.directory, head, Claim(1, ["make"]), wait.NEVER, None).steps()
    next(steps)
    steps.send(False)
    queue.unlock(second._fd)  # as the kernel does
    second._close_bell()
    head.leave()
    assert fourth.bell is not None
    assert bells.hear(fourth.bell) == set(bells.NEAR)
    steps.close()


def test_the_head_tells_beforehand_who_is_third_after_it(line: Line) -> None:
    """When it leaves it has a slot, and no time; and it may be stopped by then."""
    first, head, second, third, fourth = (line.join() for _ in range(5))
    steps = wait.Wait(line.directory, head, Claim(1, ["make"]), wait.NEVER, None).steps()
    ears, _ = next(steps)
    first.leave()
    assert ears.listen(0)
    steps.send(True)
    assert [bells.answered(line.bell(ticket)) for ticket in (second, third, fourth)] == [True, True, False]
    assert fourth.bell is not None
    assert bells.hear(fourth.bell) == set(bells.NEAR)
    steps.send(False)
    head.leave()
    assert bells.answered(line.bell(fourth))  # once
    steps.close()


def test_who_is_told_to_be_near_sleeps_on(line: Line) -> None:
    """It need not look, only glance more often from now on."""
    ears = [line.ears(line.join()) for _ in range(9)][-1]
    assert ears.period_s > wait.GLANCE_S
    assert bells.knock(line.bell(line.tickets[-1]), bells.NEAR)
    assert (ears.listen(0), ears.period_s, ears.knocked) == (False, wait.GLANCE_S, False)
    assert bells.knock(line.bell(line.tickets[-1]), bells.NEAR)
    assert bells.knock(line.bell(line.tickets[-1]))
    assert (ears.listen(0), ears.knocked) == (True, True)


def test_who_is_told_so_while_it_can_be_cancelled_glances_more_often_too(line: Line) -> None:
    """It sleeps in pieces of a tenth of a second, and none of them may swallow that."""
    ears = [line.ears(line.join()) for _ in range(9)][-1]
    admission = Admission(resolve(warn=print), ["make"])
    assert bells.knock(line.bell(line.tickets[-1]), bells.NEAR)
    assert not admission._listen(ears, 60.0, Event())
    assert ears.period_s == wait.GLANCE_S


def test_a_ticket_that_cannot_have_a_bell_keeps_nothing_open(
    line: Line, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The disk is full: its lock goes, and with it the place in line."""

    def full(_: str, **__: bool) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    before = len(os.listdir("/dev/fd"))
    monkeypatch.setattr(bells, "hang", full)
    with pytest.raises(OSError, match="No space"):
        line.join()
    assert (len(os.listdir("/dev/fd")), queue.waiting(line.directory.path)) == (before, [])


def test_who_leaves_does_not_look_alive_to_the_next(line: Line, monkeypatch: pytest.MonkeyPatch) -> None:
    """It removes its files before it rings, or the next would find them locked once more, and sleep on."""
    head, second = line.join(), line.join()
    seen, close = [], queue.Ticket._close_bell

    def look_and_close(ticket: queue.Ticket) -> None:
        seen.append(queue.waiting(line.directory.path))
        close(ticket)

    monkeypatch.setattr(queue.Ticket, "_close_bell", look_and_close)
    head.leave()
    assert seen[0] == [second.name]


def test_an_interrupt_while_one_gives_way_lets_the_bell_ring_all_the_same(
    line: Line, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Unlocked already, and then a Ctrl-C: what is called in the end still closes the bell."""
    head, second = line.join(), line.join()
    ears, close = line.ears(second), queue.Ticket._close_bell

    def interrupted(_: queue.Ticket) -> None:
        monkeypatch.setattr(queue.Ticket, "_close_bell", close)
        raise KeyboardInterrupt

    monkeypatch.setattr(queue.Ticket, "_close_bell", interrupted)
    with pytest.raises(KeyboardInterrupt):
        head.give_way()
    assert not ears.listen(0)
    head.leave()
    assert ears.listen(0)


def test_who_gives_way_leaves_its_files_to_the_next(line: Line) -> None:
    """Who has a slot has no time for them; nobody comes after the last, so it removes them in the end."""
    head, second = line.join(), line.join()
    ears = line.ears(second)
    head.give_way()
    assert ears.listen(0)
    assert queue.waiting(line.directory.path) == [head.name, second.name]
    assert second.ahead() == []
    assert queue.waiting(line.directory.path) == [second.name]
    head.leave()
    second.give_way()
    assert queue.waiting(line.directory.path) == [second.name]
    second.leave()
    assert (queue.waiting(line.directory.path), os.listdir(f"{line.directory.path}/bells")) == (
        [],
        ["slot-0"],
    )


def test_one_that_leaves_while_the_next_looks_is_not_waited_for(
    line: Line, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Seen alive, and gone with its bell when that is to be listened to: nothing would wake the next."""
    head, second = line.join(), line.join()
    listen = bells.listen

    def left_meanwhile(path: str) -> tuple[int | None, bool]:
        if path.endswith(head.name):
            head.leave()
        return listen(path)

    monkeypatch.setattr(bells, "listen", left_meanwhile)
    ears, _ = next(wait.Wait(line.directory, second, Claim(1, ["make"]), wait.NEVER, None).steps())
    line._ears.append(ears)
    line.hold.release()
    assert ears.listen(0)  # it is the head now, and hears the slot


def test_the_head_takes_a_slot_of_a_pool_that_was_made_anew(line: Line) -> None:
    """The slot files that it keeps open have lost their names, and are still locked."""
    steps = wait.Wait(line.directory, line.join(), Claim(1, ["make"]), wait.NEVER, None).steps()
    next(steps)
    shutil.rmtree(line.directory.path)
    with pytest.raises(StopIteration) as end:
        steps.send(True)
    assert end.value.value.numbers == (0,)
    assert lock.locked(f"{line.directory.path}/slot-0")
    end.value.value.release()


def test_who_joins_again_late_is_first_all_the_same(line: Line) -> None:
    """The second has taken itself for the head meanwhile, and looks no more at the line at a ring."""
    head, second = line.join(), line.join()
    steps = wait.Wait(line.directory, second, Claim(1, ["make"]), wait.NEVER, None).steps()
    next(steps)
    for name in (head.name, second.name):
        os.unlink(f"{line.directory.path}/queue/{name}")
    ears, _ = steps.send(False)  # joins again, alone
    step(line.directory, head.rejoin)
    line.hold.release()
    assert ears.listen(0)
    next_ears, _ = steps.send(True)
    line._ears.append(next_ears)
    assert (ears.knocked, lock.locked(f"{line.directory.path}/slot-0")) == (True, False)


def looks(line: Line, sleepers: wait.Sleepers, clock: Clock, ahead: list[queue.Ticket], held: int) -> int:
    """What one who stands behind `ahead` with K = 2 sees when it is told to look."""
    clock.now = max(clock.now, min(sleepers.look_at, clock.now + 1)) + 0.001
    names = [ticket.name for ticket in ahead]
    return step(line.directory, lambda: sleepers.overtake(line.directory.path, names, 2, held))


def test_sleepers_are_overtaken_after_a_knock_that_they_leave_unread_for_a_second(
    line: Line, clock: Clock
) -> None:
    """Not before, and with the bound that their caps allow."""
    ahead, sleepers = [line.join(2), line.join(2)], wait.Sleepers()
    limits = [looks(line, sleepers, clock, ahead, 1)]
    began = clock.now
    while not any(limits):
        limits.append(looks(line, sleepers, clock, ahead, 1))
        assert len(limits) < 100
    assert limits[-1] == 2
    assert clock.now - began >= 1.0
    assert [bells.answered(line.bell(ticket)) for ticket in ahead] == [False, False]


def test_who_answers_a_knock_is_not_overtaken(line: Line, clock: Clock) -> None:
    """One of several that is awake is enough."""
    ahead, sleepers = [line.join(2), line.join(2)], wait.Sleepers()
    for _ in range(50):
        assert looks(line, sleepers, clock, ahead, 1) == 0
        assert ahead[1].bell is not None
        bells.hear(ahead[1].bell)


@pytest.mark.parametrize("held", [1, 2])
def test_a_slot_that_one_ahead_may_not_take_is_left(line: Line, clock: Clock, held: int) -> None:
    """K = 1 ahead of us, or our own K, and nobody is knocked at."""
    ahead, sleepers = [line.join(1 if held == 1 else 2)], wait.Sleepers()
    for _ in range(50):
        assert looks(line, sleepers, clock, ahead, held) == 0
    assert bells.answered(line.bell(ahead[0]))


def test_a_slot_that_is_freed_while_one_looks_is_taken(line: Line, monkeypatch: pytest.MonkeyPatch) -> None:
    """Let go after the head's try and before it listens: no bell would ever tell."""
    head = line.join()
    held = line.directory.held

    def freed_meanwhile(_: PoolDirectory, files: SlotFiles) -> list[int]:
        line.hold.release()
        return held(files)

    monkeypatch.setattr(PoolDirectory, "held", freed_meanwhile)
    with pytest.raises(StopIteration) as end:  # without a sleep
        next(wait.Wait(line.directory, head, Claim(1, ["make"]), wait.NEVER, None).steps())
    assert end.value.value.numbers == (0,)
    end.value.value.release()


def test_a_slot_that_is_free_at_the_deadline_is_taken(line: Line) -> None:
    """Whoever was stopped until long after it looks once more."""
    steps = wait.Wait(line.directory, line.join(), Claim(1, ["make"]), 0.0, None).steps()
    next(steps)
    line.hold.release()
    with pytest.raises(StopIteration) as end:
        steps.send(False)
    assert end.value.value.numbers == (0,)
    end.value.value.release()


def test_who_joins_again_keeps_its_number(line: Line) -> None:
    """After the queue was removed, in whichever order they notice."""
    names = [line.join().name for _ in range(3)]
    for name in names:
        os.unlink(f"{line.directory.path}/queue/{name}")
    assert not any(ticket.in_line() for ticket in line.tickets)
    for ticket in reversed(line.tickets):
        step(line.directory, ticket.rejoin)
    assert queue.waiting(line.directory.path) == names == [ticket.name for ticket in line.tickets]
    assert all(ticket.in_line() for ticket in line.tickets)


def test_a_step_outlives_many_removals(pool: Pool) -> None:
    """Somebody removes the directory over and over while one process arrives."""
    removals = iter(range(20))

    def action() -> str:
        for _ in removals:
            raise FileNotFoundError
        return "done"

    assert step(PoolDirectory(str(pool.dir)), action) == "done"


def test_a_lock_without_the_record_s_nonce_or_the_lock_is_not_ours(line: Line) -> None:
    """Each of record, lock and bell is asked for."""
    ours: Callable[[], bool] = lambda: line.directory.is_ours(0, line.hold.nonce)  # noqa: E731
    assert ours()
    assert not line.directory.is_ours(0, "0" * 32)
    lock.unlock(line.hold._locks[0])  # the bell has not rung, and the record is there
    assert not ours()
    assert lock.try_lock(line.hold._locks[0])
    assert ours()
    bells.ring(line.hold._bells[0])
    assert not ours()


def test_a_release_leaves_no_descriptor(line: Line) -> None:
    """Neither lock nor bell nor record."""
    before = len(os.listdir("/dev/fd"))
    hold = step(line.directory, lambda: line.directory.take_overflow(Claim(1, ["make"])))
    assert isinstance(hold, Hold)
    assert len(os.listdir("/dev/fd")) == before + 3
    hold.release()
    assert len(os.listdir("/dev/fd")) == before


def test_a_pool_is_its_user_s_own(pool: Pool) -> None:
    """Whatever the umask says: records hold command lines, and a lock is for whoever can open the file."""
    first = pool.build("-n1", umask=0)
    first.started()
    pool.queued("-n1", umask=0)
    modes = {str(path): path.stat().st_mode & 0o077 for path in [pool.dir, *pool.dir.rglob("*")]}
    assert set(modes.values()) == {0}, modes


def test_a_ticket_that_is_tidied_away_does_not_look_alive(
    line: Line, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Who looks in that moment would take it for a waiter without a bell, and ask again only after 50 ms."""
    first = line.join()
    looks: list[bool] = []
    remove = queue._remove

    def look_and_remove(directory: str, name: str, *, ours: bool = True) -> bool:
        looks.append(lock.locked(f"{directory}/queue/{name}"))
        return remove(directory, name, ours=ours)

    first.give_way()
    monkeypatch.setattr(queue, "_remove", look_and_remove)
    first.leave()
    assert looks == [False]
