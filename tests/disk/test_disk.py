"""The pieces of the protocol on disk, each in the one moment that matters for it."""

from __future__ import annotations

import os
import re
import socket
import time
from typing import TYPE_CHECKING

import pytest
from builds import is_refused, step, take_now

from buildslots import files
from buildslots.backend import Request
from buildslots.disk import bells, line, lock, records, taking, wait
from buildslots.disk import directory as directory_module
from buildslots.disk.directory import PoolDirectory
from buildslots.disk.holding import ticket_record
from buildslots.outlook import Outlook
from buildslots.settings import resolve
from buildslots.waiting import seen

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


@pytest.fixture
def directory(tmp_path: Path) -> PoolDirectory:
    """A pool directory with its rooms."""
    directory = PoolDirectory(str(tmp_path / "pool"))
    step(directory, lambda: None)
    return directory


@pytest.fixture
def tickets(directory: PoolDirectory) -> Iterator[list[line.Ticket]]:
    """Tickets that leave the line at the end."""
    tickets: list[line.Ticket] = []
    yield tickets
    for ticket in tickets:
        ticket.leave()


def test_a_lock_that_was_won_on_a_file_without_its_name_is_tried_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The file is removed between open(2) and flock(2): the lock returned is one on the new file."""
    path, real, removed = tmp_path / "slot-0", lock.try_lock, []

    def remove_once(fd: int) -> bool:
        if not removed:
            removed.append(path.unlink())
        return real(fd)

    monkeypatch.setattr(lock, "try_lock", remove_once)
    fd = lock.lock_file(str(path))
    assert fd is not None
    assert os.fstat(fd).st_ino == path.stat().st_ino
    os.close(fd)


def test_a_good_slot_that_another_build_has_put_there_meanwhile_stays(
    directory: PoolDirectory, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two builds see a directory in a slot's place, one puts it aside and takes the slot: it is not lost."""
    path, real, won = f"{directory.path}/slot-0", files.put_aside, []
    os.mkdir(path)

    def slower(path: str) -> str:
        if not won:
            real(path)
            won.append(lock.lock_file(path))
        return real(path)

    monkeypatch.setattr(directory_module, "put_aside", slower)
    assert is_refused(directory, Request(1, ["make"]))
    assert os.fstat(won[0]).st_ino == os.stat(path).st_ino
    assert lock.locked(path)
    assert directory.repaired == []
    os.close(won[0])


def test_the_mutex_is_unlocked_for_those_too_who_inherited_it(directory: PoolDirectory) -> None:
    """A child that was forked meanwhile does not keep it."""
    mutex = lock.Mutex(f"{directory.path}/mutex")
    assert list(mutex.tries(1.0, 0.5)) == []
    copy = os.dup(mutex._fd)
    mutex.release()
    assert not lock.locked(f"{directory.path}/mutex")
    os.close(copy)


def test_a_new_bell_knows_nothing_of_an_old_one(tmp_path: Path) -> None:
    """Though somebody still keeps the old one open, and it has rung."""
    path = str(tmp_path / "bell")
    old = bells.hang(path)
    bells.ring(old)
    new = bells.hang(path)
    listener, rung = bells.listen(path)
    assert (listener is not None, rung) == (True, False)
    for fd in (old, new, listener):
        os.close(fd)


def test_a_bell_that_nobody_has_open_serves_again(tmp_path: Path) -> None:
    """Whoever listens to it hears the new owner, and no longer the old one."""
    path = tmp_path / "bell"
    old = bells.hang(str(path))
    inode = path.stat().st_ino
    ear, _ = bells.listen(str(path))
    bells.ring(old)
    os.close(old)
    new = bells.hang(str(path))
    assert path.stat().st_ino == inode
    listener = bells.poll()
    listener.register(ear, bells.POLLIN)
    assert listener.poll(0) == []
    bells.ring(new)
    assert listener.poll(0) == [(ear, bells.POLLIN)]
    os.close(new)
    os.close(ear)


def test_a_file_in_the_bell_s_place_is_no_bell(tmp_path: Path) -> None:
    """It is replaced."""
    path = tmp_path / "bell"
    path.write_text("not a FIFO")
    os.close(bells.hang(str(path)))
    assert path.is_fifo()


def test_tickets_stay_in_order_when_the_clock_is_set_back(
    directory: PoolDirectory, tickets: list[line.Ticket], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A number is larger than all that are in the queue."""
    record = ticket_record(Request(3, ["make"]))
    for now in (5_000_000, 4_000_000, 1_000):
        monkeypatch.setattr(line.time, "time_ns", lambda now=now: now)
        tickets.append(line.Ticket(directory.path, 3, record))
    assert [ticket.name for ticket in tickets] == line.waiting(directory.path)


@pytest.mark.parametrize("step", ["knock", "leave"])
def test_an_interrupt_leaves_no_ticket_behind(
    directory: PoolDirectory, tickets: list[line.Ticket], monkeypatch: pytest.MonkeyPatch, step: str
) -> None:
    """Not even while somebody keeps the exception: one with another limit was about to take a place."""
    tickets.append(line.Ticket(directory.path, 3, b""))

    def interrupted(ticket: line.Ticket | str) -> None:
        if isinstance(ticket, str) or ticket is tickets[0]:
            raise KeyboardInterrupt
        real(ticket)

    tickets.append(line.Ticket(directory.path, 3, b""))  # whom it knocks at
    real = line.Ticket.leave
    with monkeypatch.context() as patch:
        patch.setattr(line.Ticket if step == "leave" else line.bells, step, interrupted)
        with pytest.raises(KeyboardInterrupt) as kept:
            tickets[0].under(2, b"")
    assert line.waiting(directory.path) == [ticket.name for ticket in tickets]
    del kept


def test_a_dead_ticket_is_nobody_ahead(directory: PoolDirectory, tickets: list[line.Ticket]) -> None:
    """It is removed with its bell when it is found."""
    name = "0" * 19 + "1-3"
    for room in ("queue", "bells"):
        open(f"{directory.path}/{room}/{name}", "w").close()
    tickets.append(line.Ticket(directory.path, 3, b""))
    assert tickets[0].ahead() == []
    assert os.listdir(f"{directory.path}/bells") == [tickets[0].name]


@pytest.mark.parametrize("is_newcomer", [False, True])
def test_who_joins_late_is_seen_though_the_names_were_read_before(
    directory: PoolDirectory, tickets: list[line.Ticket], monkeypatch: pytest.MonkeyPatch, is_newcomer: bool
) -> None:
    """It joins before another one of its process leaves, and that one was all that the names had."""
    path, live = directory.path, line.live
    tickets += [line.Ticket(path, 1, b"", number=10)]
    if not is_newcomer:
        tickets += [line.Ticket(path, 1, b"", number=30)]

    def later(path: str, name: str) -> bool:
        monkeypatch.setattr(line, "live", live)
        tickets.append(line.Ticket(path, 1, b"", number=20))
        tickets[0].leave()
        return live(path, name)

    monkeypatch.setattr(line, "live", later)
    found = line.tickets(path) if is_newcomer else tickets[1].ahead()
    assert found == [tickets[-1].name]


def test_whoever_is_in_line_counts_though_the_last_one_died(
    directory: PoolDirectory, tickets: list[line.Ticket]
) -> None:
    """A newcomer does not overtake those before a dead ticket."""
    tickets.append(line.Ticket(directory.path, 3, b""))
    open(f"{directory.path}/queue/{'9' * 20}-3", "w").close()
    assert is_refused(directory, Request(3, ["make"]))


def test_overflow_does_not_take_a_number_below_the_cap(
    directory: PoolDirectory, tickets: list[line.Ticket]
) -> None:
    """Even if one is free: it belongs to those in line."""
    tickets.append(line.Ticket(directory.path, 2, b""))
    hold = take_now(directory, Request(2, ["make"]), beyond=True)
    assert (hold.numbers, hold.overflow) == ((2,), True)
    hold.release()


def test_a_stray_file_in_the_line_is_nobody(directory: PoolDirectory, tickets: list[line.Ticket]) -> None:
    """Such as desktops and file servers leave behind."""
    tickets += [line.Ticket(directory.path, 1, b"") for _ in range(2)]
    for name in (".DS_Store", ".nfs0001", "note"):
        with open(f"{directory.path}/queue/{name}", "w"):
            pass
    for _ in range(2):
        assert tickets[1].ahead() == [tickets[0].name]
    assert line.tickets(directory.path) == [ticket.name for ticket in tickets]


def test_a_released_slot_has_no_record(directory: PoolDirectory) -> None:
    """Who held it last is not what a foreign program in its place is taken for."""
    hold = take_now(directory, Request(1, ["make"]))
    assert (records.read(f"{directory.path}/holders/slot-0") or {})["nonce"] == hold.nonce
    hold.release()
    assert records.read(f"{directory.path}/holders/slot-0") is None


def test_a_record_has_the_place_for_its_end_from_its_beginning(directory: PoolDirectory) -> None:
    """The disk may be full by then."""
    hold = take_now(directory, Request(1, ["make"]))
    path = f"{directory.path}/holders/slot-0"
    size = os.stat(path).st_size
    hold.release()
    assert (records.read(path), os.stat(path).st_size) == (None, size)


def test_an_interrupt_while_one_lets_go_leaves_nothing_locked(
    directory: PoolDirectory, monkeypatch: pytest.MonkeyPatch
) -> None:
    """If it comes before anything was done, the object still has the lock, and lets go of it at its end."""
    hold = take_now(directory, Request(1, ["make"]))

    def interrupt() -> int:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(os, "getpid", interrupt)
        with pytest.raises(KeyboardInterrupt):
            hold.release()
    assert directory.held() == [0]
    hold.release()
    assert directory.held() == []


def test_who_ends_late_spoils_nobody_else_s_record(tmp_path: Path) -> None:
    """By then the next holder may have written its own."""
    path = str(tmp_path / "slot-0")
    old, new = os.open(path, os.O_RDWR | os.O_CREAT), os.open(path, os.O_RDWR)
    try:
        records.write(old, records.record(records.about(["long", "a" * 4000], cap=1, nonce="a" * 32)))
        records.write(new, records.record(records.about(["make"], cap=1, nonce="b" * 32)))
        records.end(old, "a" * 32)
        assert (records.read(path) or {})["nonce"] == "b" * 32
        records.end(new, "b" * 32)
        assert records.read(path) is None
    finally:
        os.close(old)
        os.close(new)


def test_ears_are_closed(directory: PoolDirectory, tickets: list[line.Ticket]) -> None:
    """However often a waiter looks, it keeps no descriptor that it no longer listens to."""
    hold = take_now(directory, Request(1, ["make"]))
    before = os.listdir("/dev/fd")
    tickets += [line.Ticket(directory.path, 1, b"") for _ in range(2)]
    places = [wait.Wait(directory, ticket, Request(1, ["make"])) for ticket in tickets]
    for place in places:
        steps = place.until(wait.NEVER)
        next(steps)
        looks = len(os.listdir("/dev/fd"))
        for _ in range(3):
            steps.send(False)
        assert len(os.listdir("/dev/fd")) == looks
        steps.close()
    for place in places:
        place.leave()
    assert os.listdir("/dev/fd") == before
    hold.release()


def test_the_words_of_the_waiting_line(
    directory: PoolDirectory, tickets: list[line.Ticket], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Programs without their directories, cut commands, nothing that steers a terminal, who else holds."""
    commands = [["/usr/bin/make", "-j8"], ["cc", "x" * 99], ["evil\x1b[2J"], ["d"], ["e"], ["f"]]
    holds = [take_now(directory, Request(9, command)) for command in commands]
    stale = holds[3]
    os.close(stale._bells.pop())  # as if it had died, and another program had locked its slot since
    tickets += [line.Ticket(directory.path, 6, b"") for _ in range(2)]

    def words(**settings: object) -> str:
        options = {"slots": 6, "timeout_s": 90.0, "dir": directory.path} | settings
        chosen = resolve(environ={"HOME": "/nowhere"}, warn=pytest.fail, **options)
        return str(seen(directory, tickets[1].name, None, chosen, time.monotonic(), outlook=Outlook(chosen)))

    text = re.sub(r"\([\d.]+ s\)", "(*)", words())  # how long they have run
    where = f"in {os.getcwd()} (*)"
    place = "waiting, place 2 of 2: 6 of 6 slots held by "
    assert text.startswith(place)
    assert (
        f"`make -j8` {where}, `cc {'x' * 36}…` {where}, `evil?[2J` {where}, another program (slot-3)" in text
    )
    assert text.endswith(", 2 more; runs anyway in 1 min 30 s")
    assert words(timeout_s=None).endswith(", 2 more; waits as long as it takes")
    assert words(on_timeout="fail").endswith(", 2 more; gives up in 1 min 30 s")
    assert words(pool="link").startswith("waiting in pool 'link', place 2 of 2: ")
    for hold in holds:
        hold.release()


def test_what_is_taken_is_below_the_cap_though_a_lower_one_was_let_go_this_moment(
    directory: PoolDirectory, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each slot that was passed over was held, and so there are fewer of them than the cap."""
    first = take_now(directory, Request(2, ["make"]))
    is_locked = taking.is_locked

    def let_go_after_the_refusal(fd: int) -> bool:
        seen = is_locked(fd)
        if seen:
            first.release()
        return seen

    monkeypatch.setattr(taking, "is_locked", let_go_after_the_refusal)
    second = take_now(directory, Request(2, ["make"]))
    assert second.numbers == (1,)
    second.release()


@pytest.mark.parametrize("kind", ["link", "socket"])
def test_what_is_no_file_is_no_ticket(
    directory: PoolDirectory, kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It cannot even be opened: that is no reason to let all builds run without slots."""
    monkeypatch.chdir(f"{directory.path}/queue")  # a socket's path has to be short
    name = f"{1:020d}-1"
    if kind == "link":
        os.symlink("nowhere", name)
    else:
        with socket.socket(socket.AF_UNIX) as server:
            server.bind(name)
    hold = take_now(directory, Request(1, ["make"]))
    hold.release()
