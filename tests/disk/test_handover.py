"""The hand-over of a slot to the head, which has everything ready, and finds what has changed meanwhile."""

from __future__ import annotations

import errno
import fcntl
import glob
import os
import signal
from typing import TYPE_CHECKING

import pytest
from builds import step, wait_until

from buildslots import Gates, SlotPool
from buildslots.admission import FEW
from buildslots.disk import bells, handover, lock, queue, records, wait
from buildslots.disk.slots import Claim, Hold, PoolDirectory

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from builds import Pool

K = 2


class Head:
    """K slots are held, and the head of the line waits for one, with everything ready."""

    def __init__(self, path: str, claim: Claim | None = None) -> None:
        self.directory = PoolDirectory(path)
        self.holds = [self.take() for _ in range(K)]
        claim = claim or Claim(K, ["make"])
        self._ticket = step(self.directory, lambda: queue.Ticket(path, claim.limit, b""))
        self._wait = wait.Wait(self.directory, self._ticket, claim, wait.NEVER, None)
        wait_until(self.has_settled, "a later tick of the file system's clock")
        self._steps = self._wait.steps()
        self._ears, _ = next(self._steps)
        self.hold: Hold | None = None
        self.heard = False
        self.left_to_take = 0

    def has_settled(self) -> bool:
        """Whether the next change of the directory will have another time than the last."""
        bell = f"{self.directory.path}/bells/{self._ticket.name}"
        os.utime(bell)
        return os.stat(bell).st_ctime_ns > os.stat(self.directory.path).st_ctime_ns

    def take(self) -> Hold:
        hold = self.directory.complete(lambda: self.directory.take(Claim(9, ["make"]), 9))
        assert hold is not None
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
        self._wait.close()
        self._ticket.leave()
        for hold in (*self.holds, *filter(None, [self.hold])):
            hold.release()


@pytest.fixture
def head(pool: Pool, monkeypatch: pytest.MonkeyPatch) -> Iterator[Head]:
    monkeypatch.setattr(handover, "SETTLED_S", -1e6)  # its last change was long ago
    head = Head(str(pool.dir))
    take = PoolDirectory.take

    def counted(self: PoolDirectory, *args: object) -> Hold | None:
        head.left_to_take += 1
        return take(self, *args)  # type: ignore[arg-type]

    monkeypatch.setattr(PoolDirectory, "take", counted)
    yield head
    head.close()


@pytest.mark.parametrize("number", range(K))
def test_the_slot_that_is_let_go_of_is_taken_with_what_is_ready(head: Head, number: int) -> None:
    """It has a bell that rings and a record as any other."""
    head.free(number)
    assert (head.numbers, head.left_to_take) == ((number,), 0)
    path = head.directory.path
    assert head.hold is not None
    assert (records.read(f"{path}/holders/slot-{number}") or {})["nonce"] == head.hold.nonce
    ear, rung = bells.listen(f"{path}/bells/slot-{number}")
    assert (ear is not None, rung, lock.locked(f"{path}/slot-{number}")) == (True, False, True)
    head.hold.release()
    assert os.read(ear, 1) == b""
    os.close(ear)


def test_an_overflow_that_came_meanwhile_counts(head: Head) -> None:
    """It holds a slot file that was not there when everything was made ready."""
    overflow = step(head.directory, lambda: head.directory.take_overflow(Claim(K, ["make"])))
    head.free(0)
    assert (head.numbers, overflow.numbers, head.left_to_take) == (None, (K,), 1)
    overflow.release()
    head.hear()
    assert head.numbers == (0,)


def test_a_foreign_lock_that_came_meanwhile_counts(head: Head) -> None:
    """On a slot file that was there, and free: nothing in the directory has changed."""
    head.close()
    path = head.directory.path
    step(head.directory, lambda: head.directory.take_overflow(Claim(K, ["make"]))).release()
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
    assert (head.numbers, head.left_to_take) == ((0,), 0)


def test_a_slot_whose_bell_has_rung_may_be_held_again(head: Head) -> None:
    """By one that has passed sleepers, say."""
    head.holds[0].release()
    head.holds[0] = head.take()
    head.left_to_take = 0
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
def test_what_is_no_slot_file_leaves_it_to_the_usual_way(head: Head, kind: str) -> None:
    """Nobody's build runs without a slot because of it."""
    path = f"{head.directory.path}/slot-7"
    {"directory": os.mkdir, "link": lambda p: os.symlink("nowhere", p), "fifo": os.mkfifo}[kind](path)
    head.hear()  # looks again
    head.free(0)
    assert head.numbers == (0,)


def test_nothing_is_ready_where_the_directory_has_just_changed(
    head: Head, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The next change might have the same time."""
    monkeypatch.setattr(handover, "SETTLED_S", handover.SETTLED_S * -1)
    head.hear()  # looks again
    head.left_to_take = 0
    head.free(0)
    assert (head.numbers, head.left_to_take) == ((0,), 1)


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
    hang_again = bells.hang_again

    def hang_and_fork(path: str, ear: int, known: tuple[int, int]) -> int | None:
        bell = hang_again(path, ear, known)
        children()
        return bell

    monkeypatch.setattr(bells, "hang_again", hang_and_fork)
    head.free(0)
    ear, _ = bells.listen(f"{head.directory.path}/bells/slot-0")
    assert head.hold is not None
    head.hold.release()
    assert (head.left_to_take, os.read(ear, 1)) == (0, bells.RING[:1])
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


@pytest.mark.parametrize("way", ["ready", "general"])
def test_an_old_record_is_never_taken_for_the_next_holding(
    head: Head, monkeypatch: pytest.MonkeyPatch, way: str
) -> None:
    """What a daemon of the old build starts is not nested in the next one, which is yet to write its own."""
    nonce, asked = head.holds[0].nonce, []

    def asking(hang: Callable[..., int | None]) -> Callable[..., int | None]:
        def hang_and_ask(*args: object) -> int | None:
            bell = None if way == "general" and hang is hang_again else hang(*args)
            asked.append(head.directory.is_ours(0, nonce))
            return bell

        return hang_and_ask

    hang_again = bells.hang_again
    monkeypatch.setattr(records, "end", lambda *_: None)  # the old holder is stopped before it gets there
    monkeypatch.setattr(bells, "hang", asking(bells.hang))
    monkeypatch.setattr(bells, "hang_again", asking(hang_again))
    assert head.directory.is_ours(0, nonce)
    head.free(0)
    assert (head.numbers, asked) == ((0,), [False] * (2 if way == "general" else 1))


def test_a_record_that_was_read_before_the_hand_over_is_read_again(
    head: Head, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Who asks whether a holding goes on is not answered with the lock and the bell of the next one."""
    nonce, read = head.holds[0].nonce, records.read_or_fail

    def read_and_wait(path: str) -> dict[str, str] | None:
        record = read(path)
        if head.hold is None:
            head.free(0)
        return record

    monkeypatch.setattr(records, "read_or_fail", read_and_wait)
    assert not head.directory.is_ours(0, nonce)
    assert (head.numbers, head.left_to_take) == ((0,), 0)


def test_a_holding_that_is_begun_twice_has_a_record(head: Head, monkeypatch: pytest.MonkeyPatch) -> None:
    """It has one nonce: what was said of the first try, which failed, is not said of the second."""
    hang, tries = bells.hang, [OSError(errno.EMFILE, "too many")]

    def fail_once(path: str, *more: object) -> int | None:
        if tries:
            raise tries.pop()
        return hang(path, *more)

    monkeypatch.setattr(bells, "hang_again", lambda *_: None)
    monkeypatch.setattr(bells, "hang", fail_once)
    head.free(0)
    assert (head.numbers, head.left_to_take) == ((0,), 1)
    assert head.hold is not None
    assert head.directory.is_ours(0, head.hold.nonce)


def test_a_bell_with_another_name_is_not_hung(head: Head) -> None:
    """It may be another program's."""
    path = f"{head.directory.path}/bells/slot-0"
    os.link(path, f"{path}-other")
    head.free(0)
    assert (head.numbers, os.stat(path).st_nlink) == ((0,), 1)


def test_a_slot_file_that_is_removed_while_all_is_made_ready_is_made_again(
    head: Head, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Seen by who listens, and gone when the files are opened."""
    monkeypatch.setattr(handover, "slot_numbers", lambda _: [1])
    head.hear()  # looks again
    head.free(0)
    assert head.numbers == (0,)


@pytest.mark.parametrize("gates", [None, Gates(max_load=1e9)])
def test_who_wants_more_than_a_slot_has_nothing_ready(
    pool: Pool, monkeypatch: pytest.MonkeyPatch, gates: Gates | None
) -> None:
    """Two slots, or a machine that is idle enough: that takes its time."""
    monkeypatch.setattr(handover, "SETTLED_S", -1e6)
    closed = iter(["busy"])
    if gates is not None:
        monkeypatch.setattr(Gates, "closed_by", lambda _: next(closed, None))
    head = Head(str(pool.dir), Claim(K, ["make"], 1 if gates else 2, gates))
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


def test_with_many_slots_nothing_stays_open_while_one_is_held(pool: Pool) -> None:
    """But what holds it, and the ticket."""
    slots, directory = SlotPool(slots=FEW + 1), PoolDirectory(str(pool.dir))
    holds = [directory.complete(lambda: directory.take(Claim(99, ["make"]), 99)) for _ in range(FEW + 1)]
    before = len(os.listdir("/dev/fd"))
    admission = slots._admission(None, "run", None)
    steps = admission.steps()
    next(steps)
    assert holds[0] is not None
    holds[0].release()
    with pytest.raises(StopIteration) as end:
        steps.send(True)
    admission.started(end.value.value)
    assert len(os.listdir("/dev/fd")) == before - 3 + 3 + 1
    end.value.value.release()
    for hold in filter(None, holds):
        hold.release()


def test_descriptors_are_given_back(head: Head) -> None:
    """Of what was ready, and of what was not used."""
    head.close()
    path = head.directory.path
    before = len(os.listdir("/dev/fd"))
    for number in range(K):
        again = Head(path)
        again.free(number)
        again.close()
        assert len(os.listdir("/dev/fd")) == before
