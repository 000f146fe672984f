"""Locks, tickets, bells and waits step by step: in whole builds a glance makes up for what is broken."""

from __future__ import annotations

import errno
import os
import shutil
import time
from typing import TYPE_CHECKING

import pytest
from builds import step, take_now

from buildslots.backend import Request
from buildslots.disk import bells, lock, wait
from buildslots.disk import ears as ears_module
from buildslots.disk import line as line_module
from buildslots.disk.directory import PoolDirectory
from buildslots.disk.ears import Ears
from buildslots.disk.holding import Hold
from buildslots.disk.line import Ticket, waiting
from buildslots.disk.sleepers import Sleepers
from buildslots.processes import close_kept

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from builds import Pool


class Line:
    """A pool of one slot that is held, with waiters of this process."""

    def __init__(self, pool: Pool) -> None:
        self.directory = PoolDirectory(str(pool.dir))
        self.hold = take_now(self.directory, Request(1, ["make"]))
        self.tickets: list[Ticket] = []
        self._ears: list[Ears] = []

    def join(self, cap: int = 1) -> Ticket:
        ticket = step(self.directory, lambda: Ticket(self.directory.path, cap, b""))
        self.tickets.append(ticket)
        return ticket

    def ears(self, ticket: Ticket) -> Ears:
        """What `ticket` listens to now."""
        ahead = ticket.ahead()
        ears = Ears(self.directory.path, ticket, ahead, bells.poll())
        self._ears.append(ears)
        return ears

    def bell(self, ticket: Ticket) -> str:
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
        monkeypatch.setattr(time, "monotonic", lambda: self.now)


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
    first = take_now(line.directory, Request(1, ["make"]), beyond=True)
    ears = line.ears(line.join())
    daemon = os.dup(first.descriptors[-1])
    first.release()
    second = take_now(line.directory, Request(1, ["make"]), beyond=True)  # before the head got to look
    assert second.numbers == first.numbers
    assert ears.listen(0)
    second.release()
    os.close(daemon)


def test_only_the_head_is_deaf_to_a_lock_without_a_bell(line: Line) -> None:
    """It has to look at the lock often; those behind it need not."""
    head, second = line.join(), line.join()
    assert [line.ears(ticket).is_deaf for ticket in (head, second)] == [False, False]
    foreign = lock.lock_file(f"{line.directory.path}/slot-7")
    assert foreign is not None
    assert [line.ears(ticket).is_deaf for ticket in (head, second)] == [True, False]
    os.close(foreign)


def second_in_line(line: Line, cap: int) -> tuple[wait.Wait, Callable[[], bool]]:
    """One that sleeps behind the head, and whether its glance finds nothing new."""
    line.join(cap)
    place = wait.Wait(line.directory, line.join(cap), Request(cap, ["make"]))
    ears, _ = next(place.until(wait.NEVER))
    line._ears.append(ears)
    return place, lambda: place._nothing_new(ears)


def test_a_glance_sees_a_lock_without_a_bell_go(line: Line) -> None:
    """Also that of somebody who is not the head."""
    foreign = lock.lock_file(f"{line.directory.path}/slot-7")
    assert foreign is not None
    _, nothing_new = second_in_line(line, 2)
    assert nothing_new()
    os.close(foreign)
    assert not nothing_new()


def test_a_glance_sees_that_the_ticket_is_gone(line: Line) -> None:
    """Somebody removed the queue."""
    place, nothing_new = second_in_line(line, 1)
    assert nothing_new()
    os.unlink(f"{line.directory.path}/queue/{place._ticket.name}")
    assert not nothing_new()


def test_who_hears_of_a_death_before_its_lock_is_gone_looks_again_at_once(line: Line) -> None:
    """The kernel closes what a killed process had open in turn, often the bell first."""
    head, second = line.join(), line.join()
    place = wait.Wait(line.directory, second, Request(1, ["make"]))
    steps = place.until(wait.NEVER)
    ears, _ = next(steps)
    assert head.bell is not None
    close_kept(head.bell)
    assert ears.listen(0)
    ears, seconds = steps.send(True)
    slept = [seconds]
    for _ in range(20):
        ears, seconds = steps.send(False)
        slept.append(seconds)
    assert slept[0] < wait.FIRST_POLL_S * 1.01
    assert slept[0] < slept[1] < slept[2]
    assert wait.POLL_S * 0.9 < max(slept) <= wait.POLL_S
    steps.close()
    place.leave()


@pytest.mark.parametrize("number", [errno.EMFILE, errno.ENFILE, errno.EIO])
def test_a_glance_without_a_descriptor_is_no_reason_to_look(
    line: Line, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    """To look takes more of them, and to fail then would start the build without a slot."""
    _, nothing_new = second_in_line(line, 1)

    def refused(_: PoolDirectory) -> list[int]:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(PoolDirectory, "held", refused)
    assert nothing_new() is (number != errno.EIO)


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
    assert (len(os.listdir("/dev/fd")), waiting(line.directory.path)) == (before, [])


def test_who_leaves_does_not_look_alive_to_the_next(line: Line, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is unlocked before its bell tells the next, who would find it locked once more, and sleep on."""
    head, second = line.join(), line.join()
    seen, close = [second.ahead()], line_module.close_kept  # as it was when it joined

    def look_and_close(fd: int) -> None:
        if fd == head.bell:
            seen.append(second.ahead())
        close(fd)

    monkeypatch.setattr(line_module, "close_kept", look_and_close)
    head.leave()
    assert seen == [[head.name], []]


def test_an_interrupt_while_one_leaves_lets_the_bell_ring_all_the_same(
    line: Line, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Unlocked already, and then a Ctrl-C: what is called in the end still closes the bell."""
    head, second = line.join(), line.join()
    ears, close = line.ears(second), line_module.close_kept

    def interrupted(_: int) -> None:
        monkeypatch.setattr(line_module, "close_kept", close)
        raise KeyboardInterrupt

    monkeypatch.setattr(line_module, "close_kept", interrupted)
    with pytest.raises(KeyboardInterrupt):
        head.leave()
    assert not ears.listen(0)
    head.leave()
    assert ears.listen(0)


def test_who_leaves_wakes_the_next_before_it_removes_its_files(
    line: Line, monkeypatch: pytest.MonkeyPatch
) -> None:
    """That may take long on a busy disk; the next finds a dead ticket, and removes it too."""
    head, second = line.join(), line.join()
    ears, live, heard = line.ears(second), line_module.live, []

    def listen_and_look(directory: str, name: str) -> bool:
        monkeypatch.setattr(line_module, "live", live)
        heard.append((ears.listen(0), second.ahead()))
        return live(directory, name)

    monkeypatch.setattr(line_module, "live", listen_and_look)
    head.leave()
    assert heard == [(True, [])]
    assert waiting(line.directory.path) == [second.name]
    second.leave()
    assert (waiting(line.directory.path), os.listdir(f"{line.directory.path}/bells")) == ([], ["slot-0"])


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
    ears, _ = next(wait.Wait(line.directory, second, Request(1, ["make"])).until(wait.NEVER))
    line._ears.append(ears)
    line.hold.release()
    assert ears.listen(0)  # it is the head now, and hears the slot


def test_the_head_takes_a_slot_of_a_pool_that_was_made_anew(line: Line) -> None:
    """The slot files that it has listened for have lost their names, and are still locked."""
    steps = wait.Wait(line.directory, line.join(), Request(1, ["make"])).until(wait.NEVER)
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
    steps = wait.Wait(line.directory, second, Request(1, ["make"])).until(wait.NEVER)
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


def looks(line: Line, sleepers: Sleepers, clock: Clock, ahead: list[Ticket], held: int) -> int:
    """What one who stands behind `ahead` with K = 2 sees when it is told to look."""
    clock.now = max(clock.now, min(sleepers.look_at, clock.now + 1)) + 0.001
    names = [ticket.name for ticket in ahead]
    return step(line.directory, lambda: sleepers.overtake(line.directory.path, names, 2, held))


def test_sleepers_are_overtaken_after_a_knock_that_they_leave_unread_for_a_second(
    line: Line, clock: Clock
) -> None:
    """Not before, and with the bound that their caps allow."""
    ahead, sleepers = [line.join(2), line.join(2)], Sleepers()
    limits = [looks(line, sleepers, clock, ahead, 1)]
    began = clock.now
    while not any(limits):
        limits.append(looks(line, sleepers, clock, ahead, 1))
        assert len(limits) < 100
    assert limits[-1] == 2
    assert clock.now - began >= 1.0
    assert [bells.answered(line.bell(ticket)) for ticket in ahead] == [False, False]


def test_who_was_asleep_itself_gives_those_ahead_their_time_after_the_knock(line: Line, clock: Clock) -> None:
    """All were frozen for an hour, say: the knock was due long ago, and nobody could have heard it yet."""
    ahead, sleepers = [line.join(2)], Sleepers()
    assert looks(line, sleepers, clock, ahead, 1) == 0
    clock.now += 3600
    knocked_at = clock.now
    while not looks(line, sleepers, clock, ahead, 1):
        pass
    assert clock.now - knocked_at >= 0.9


def test_who_answers_a_knock_is_not_overtaken(line: Line, clock: Clock) -> None:
    """One of several that is awake is enough."""
    ahead, sleepers = [line.join(2), line.join(2)], Sleepers()
    for _ in range(50):
        assert looks(line, sleepers, clock, ahead, 1) == 0
        assert ahead[1].bell is not None
        bells.hear(ahead[1].bell)


@pytest.mark.parametrize("held", [1, 2])
def test_a_slot_that_one_ahead_may_not_take_is_left(line: Line, clock: Clock, held: int) -> None:
    """K = 1 ahead of us, or our own K, and nobody is knocked at."""
    ahead, sleepers = [line.join(1 if held == 1 else 2)], Sleepers()
    for _ in range(50):
        assert looks(line, sleepers, clock, ahead, held) == 0
    assert bells.answered(line.bell(ahead[0]))


def test_a_slot_that_is_freed_while_one_looks_is_taken(line: Line, monkeypatch: pytest.MonkeyPatch) -> None:
    """Let go after the head's try and before it listens: no bell would ever tell."""
    head, numbers = line.join(), ears_module.slot_numbers

    def freed_meanwhile(directory: str) -> list[int]:
        line.hold.release()
        return numbers(directory)

    monkeypatch.setattr(ears_module, "slot_numbers", freed_meanwhile)
    with pytest.raises(StopIteration) as end:  # without a sleep
        next(wait.Wait(line.directory, head, Request(1, ["make"])).until(wait.NEVER))
    assert end.value.value.numbers == (0,)
    end.value.value.release()


def test_a_slot_that_is_free_at_the_deadline_is_taken(line: Line, clock: Clock) -> None:
    """Whoever was stopped until long after it looks once more."""
    steps = wait.Wait(line.directory, line.join(), Request(1, ["make"])).until(clock.now + 10)
    next(steps)
    clock.now += 1000
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
    assert waiting(line.directory.path) == names == [ticket.name for ticket in line.tickets]
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
    hold = take_now(line.directory, Request(1, ["make"]), beyond=True)
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
    remove = line_module._remove

    def look_and_remove(directory: str, name: str, *, ours: bool = True) -> bool:
        looks.append(lock.locked(f"{directory}/queue/{name}"))
        return remove(directory, name, ours=ours)

    monkeypatch.setattr(line_module, "_remove", look_and_remove)
    first.leave()
    assert looks == [False]
