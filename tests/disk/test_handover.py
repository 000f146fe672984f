"""The hand-over of a slot to the head of the line, and what may have changed since the head looked last."""

from __future__ import annotations

import errno
import fcntl
import glob
import os
import signal
from typing import TYPE_CHECKING

import pytest
from builds import step, take_now

from buildslots import Gates
from buildslots.backend import Request
from buildslots.disk import bells, directory, lock, records, wait
from buildslots.disk.directory import PoolDirectory
from buildslots.disk.holding import Hold
from buildslots.disk.line import Ticket
from buildslots.disk.taking import take

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from builds import Pool

K = 2


class Head:
    """K slots are held, and the head of the line waits for one."""

    def __init__(self, path: str, request: Request | None = None) -> None:
        self.directory = PoolDirectory(path)
        self.holds = [self.take() for _ in range(K)]
        request = request or Request(K, ["make"])
        ticket = step(self.directory, lambda: Ticket(path, request.limit, b""))
        self._wait = wait.Wait(self.directory, ticket, request)
        self._steps = self._wait.until(wait.NEVER)
        self._ears, _ = next(self._steps)
        self.hold: Hold | None = None
        self.heard = False

    def take(self) -> Hold:
        hold = step(self.directory, lambda: take(self.directory.path, Request(9, ["make"]), 9))
        assert isinstance(hold, Hold)
        return hold

    def free(self, number: int) -> None:
        """Let go of slot `number`, and let the head hear it."""
        self.holds[number].release()
        self.hear()

    def hear(self) -> None:
        self.heard = self._ears.listen(0)
        try:
            self._ears, _ = self._steps.send(self.heard)
        except StopIteration as end:
            self.hold = end.value

    @property
    def numbers(self) -> tuple[int, ...] | None:
        """What the head has got."""
        return self.hold.numbers if self.hold else None

    def close(self) -> None:
        self._steps.close()
        self._wait.leave()
        for hold in (*self.holds, *filter(None, [self.hold])):
            hold.release()


@pytest.fixture
def head(pool: Pool) -> Iterator[Head]:
    head = Head(str(pool.dir))
    yield head
    head.close()


@pytest.mark.parametrize("number", range(K))
def test_the_slot_that_is_let_go_of_is_taken(head: Head, number: int) -> None:
    """It has a bell that rings and a record as any other."""
    head.free(number)
    assert head.numbers == (number,)
    path = head.directory.path
    assert head.hold is not None
    assert (records.read(f"{path}/holders/slot-{number}") or {})["nonce"] == head.hold.nonce
    ear, rung = bells.listen(f"{path}/bells/slot-{number}")
    assert (ear is not None, rung, lock.locked(f"{path}/slot-{number}")) == (True, False, True)
    head.hold.release()
    assert os.read(ear, 1) == b""
    os.close(ear)


def test_an_overflow_that_came_meanwhile_counts(head: Head) -> None:
    """It holds a slot file that was not there when the head looked last."""
    overflow = take_now(head.directory, Request(K, ["make"]), beyond=True)
    head.free(0)
    assert (head.numbers, overflow.numbers) == (None, (K,))
    overflow.release()
    head.hear()
    assert head.numbers == (0,)


def test_a_foreign_lock_that_came_meanwhile_counts(head: Head) -> None:
    """On a slot file that was there, and free: nothing in the directory has changed."""
    head.close()
    path = head.directory.path
    take_now(head.directory, Request(K, ["make"]), beyond=True).release()
    again = Head(path)
    with open(f"{path}/slot-{K}") as foreign:
        fcntl.flock(foreign, fcntl.LOCK_EX)
        again.free(1)
        assert again.numbers is None
    again.hear()
    assert again.numbers == (1,)
    again.close()


def test_the_lowest_of_the_slots_that_are_let_go_of(head: Head) -> None:
    """Both have rung when the head comes to look."""
    head.holds[1].release()
    head.free(0)
    assert head.numbers == (0,)


def test_a_slot_whose_bell_has_rung_may_be_held_again(head: Head) -> None:
    """By one that has passed sleepers, say."""
    head.holds[0].release()
    head.holds[0] = head.take()
    head.free(1)
    assert head.numbers == (1,)


def test_a_slot_file_that_was_removed_meanwhile_is_not_taken(head: Head) -> None:
    """Its lock excludes nobody."""
    path = f"{head.directory.path}/slot-0"
    os.unlink(path)
    head.free(0)
    assert (head.numbers, lock.locked(path)) == ((0,), True)


def test_a_record_that_was_removed_meanwhile_is_made_again(head: Head) -> None:
    """Nested builds look for it under its name."""
    path = f"{head.directory.path}/holders/slot-0"
    os.unlink(path)
    head.free(0)
    assert head.hold is not None
    assert (records.read(path) or {})["nonce"] == head.hold.nonce


@pytest.mark.parametrize("other", ["nothing", "file", "bell"])
def test_a_bell_that_was_replaced_meanwhile_is_not_hung(head: Head, other: str) -> None:
    """The next in line listens to the one that has the name, and to nobody else's."""
    path, daemon = f"{head.directory.path}/bells/slot-0", -1
    os.unlink(path)
    if other == "bell":
        os.mkfifo(path)
        daemon = os.open(path, os.O_RDWR)
    elif other == "file":
        os.close(os.open(path, os.O_CREAT))
    head.free(0)
    ear, rung = bells.listen(path)
    assert (head.numbers, ear is not None, rung) == ((0,), True, False)
    assert head.hold is not None
    head.hold.release()
    assert os.read(ear, 1) == b""
    for fd in {ear, daemon} - {-1}:
        os.close(fd)


def test_a_daemon_that_keeps_the_bell_is_left_with_it(head: Head) -> None:
    """And the next holder hangs a new one, which rings for it."""
    daemon = os.dup(head.holds[0].descriptors[-1])
    head.free(0)
    ear, rung = bells.listen(f"{head.directory.path}/bells/slot-0")
    assert (head.numbers, ear is not None, rung) == ((0,), True, False)
    assert head.hold is not None
    head.hold.release()
    assert os.read(ear, 1) == b""
    for fd in (daemon, ear):
        os.close(fd)


@pytest.mark.parametrize("kind", ["directory", "link", "fifo"])
def test_what_is_no_slot_file_keeps_nobody_waiting(head: Head, kind: str) -> None:
    """Nobody's build runs without a slot because of it."""
    path = f"{head.directory.path}/slot-7"
    {"directory": os.mkdir, "link": lambda p: os.symlink("nowhere", p), "fifo": os.mkfifo}[kind](path)
    head.hear()  # looks again
    head.free(0)
    assert head.numbers == (0,)


@pytest.fixture
def children() -> Iterator[Callable[[], None]]:
    """Forks children that do nothing until the test is over."""
    pids = []

    def fork() -> None:
        pid = os.fork()
        if pid == 0:
            signal.pause()
            os._exit(0)
        pids.append(pid)

    yield fork
    for pid in pids:
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)


def test_a_forked_child_that_keeps_the_bell_does_not_silence_it(
    head: Head, children: Callable[[], None]
) -> None:
    """Its end alone would be heard only when the child ends."""
    children()
    head.free(0)
    assert (head.heard, head.numbers) == (True, (0,))


def test_a_child_that_is_forked_while_the_bell_is_hung_does_not_silence_it(
    head: Head, children: Callable[[], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    """By another thread."""
    hang = bells.hang

    def hang_and_fork(*args: object) -> int | None:
        bell = hang(*args)
        children()
        return bell

    monkeypatch.setattr(bells, "hang", hang_and_fork)
    head.free(0)
    ear, _ = bells.listen(f"{head.directory.path}/bells/slot-0")
    assert head.hold is not None
    head.hold.release()
    assert os.read(ear, 1) == bells.RING[:1]
    os.close(ear)


def test_the_record_of_who_still_holds_the_slot_is_left_alone(head: Head) -> None:
    """A backup that makes hard links gives it a second name; nested builds look for the record."""
    path = f"{head.directory.path}/holders/slot-0"
    os.link(path, f"{path}-backup")
    head.hear()  # looks again
    assert head.directory.is_ours(0, head.holds[0].nonce)
    head.free(0)
    assert head.hold is not None
    assert ((records.read(path) or {})["nonce"], os.stat(path).st_nlink) == (head.hold.nonce, 1)


def test_an_old_record_is_never_taken_for_the_next_holding(
    head: Head, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What a daemon of the old build starts is not nested in the next one, which is yet to write its own."""
    nonce, asked, hang = head.holds[0].nonce, [], bells.hang

    def hang_and_ask(*args: object) -> int | None:
        asked.append(head.directory.is_ours(0, nonce))
        bell = hang(*args)
        asked.append(head.directory.is_ours(0, nonce))
        return bell

    monkeypatch.setattr(records, "end", lambda *_: None)  # the old holder is stopped before it gets there
    monkeypatch.setattr(bells, "hang", hang_and_ask)
    assert head.directory.is_ours(0, nonce)
    head.free(0)
    assert (head.numbers, asked) == ((0,), [False] * 2)


@pytest.mark.parametrize("when", ["after the lock", "after the bell", "after the record"])
def test_a_hand_over_while_one_asks_passes_for_no_holding_that_goes_on(
    head: Head, monkeypatch: pytest.MonkeyPatch, when: str
) -> None:
    """Who asks is not answered with the lock and the bell of the next holder."""
    module, name = {
        "after the lock": (directory, "locked"),
        "after the bell": (bells, "has_owner"),
        "after the record": (records, "read_or_fail"),
    }[when]
    nonce, real = head.holds[0].nonce, getattr(module, name)

    def then_handed_over(path: str) -> object:
        seen = real(path)
        if head.hold is None:
            monkeypatch.setattr(module, name, real)
            head.free(0)
        return seen

    monkeypatch.setattr(module, name, then_handed_over)
    assert head.directory.is_ours(0, nonce) is (when == "after the record")  # it was, when that was read
    assert head.numbers == (0,)


def test_a_holding_that_is_begun_twice_has_a_record(head: Head, monkeypatch: pytest.MonkeyPatch) -> None:
    """It has one nonce: what was said of the first try, which failed, is not said of the second."""
    hang, tries = bells.hang, [OSError(errno.ENOENT, "removed")]

    def fail_once(path: str, *more: object) -> int | None:
        if tries:
            raise tries.pop()
        return hang(path, *more)

    monkeypatch.setattr(bells, "hang", fail_once)
    head.free(0)
    assert head.numbers == (0,)
    assert head.hold is not None
    assert head.directory.is_ours(0, head.hold.nonce)


def test_a_bell_with_another_name_is_not_hung(head: Head) -> None:
    """It may be another program's."""
    path = f"{head.directory.path}/bells/slot-0"
    os.link(path, f"{path}-other")
    head.free(0)
    assert (head.numbers, os.stat(path).st_nlink) == ((0,), 1)


@pytest.mark.parametrize("gates", [None, Gates(max_load=1e9)])
def test_who_wants_more_than_a_slot_takes_no_less(
    pool: Pool, monkeypatch: pytest.MonkeyPatch, gates: Gates | None
) -> None:
    """Two slots, or a machine that is idle enough."""
    closed = iter(["busy"])
    if gates is not None:
        monkeypatch.setattr(Gates, "closed_by", lambda _: next(closed, None))
    head = Head(str(pool.dir), Request(K, ["make"], 1 if gates else 2, gates))
    head.free(0)
    assert head.numbers is None
    head.free(1)
    assert head.numbers == ((0,) if gates else (0, 1))
    head.close()


def test_a_disk_that_is_full_when_the_record_is_written_leaves_nothing_open(
    head: Head, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nor locked."""

    def full(_fd: int, _text: bytes) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(records, "write", full)
    with pytest.raises(OSError, match="No space"):
        head.free(0)
    head.close()
    left = [os.path.realpath(path) for path in glob.glob("/proc/self/fd/*")]
    assert [path for path in left if path.startswith(head.directory.path)] == []


def test_descriptors_are_given_back(head: Head) -> None:
    """Of what the head has listened to, and of what it has taken."""
    head.close()
    path = head.directory.path
    before = len(os.listdir("/dev/fd"))
    for number in range(K):
        again = Head(path)
        again.free(number)
        again.close()
        assert len(os.listdir("/dev/fd")) == before
