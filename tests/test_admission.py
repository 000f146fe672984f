"""The rules of admission, with real processes: the cap, the order, dead and stopped ones, foreign locks."""

from __future__ import annotations

import ctypes
import fcntl
import os
import shutil
import signal
import subprocess
import sys
import threading
from typing import TYPE_CHECKING

import filelock
import portalocker
import pytest
from builds import DEADLINE_S, Build, Pool, script, wait_until

from buildslots import SlotPool, SlotTimeoutError
from buildslots.backend import Refusal, Request
from buildslots.disk import bells, ears, lock, sleepers, taking

if TYPE_CHECKING:
    from pathlib import Path

RECORDER = """
import os, sys, time
log, marks, slots = sys.argv[1:]
start = time.monotonic_ns()
open(os.path.join(marks, str(os.getpid())), "w").close()
while len(os.listdir(marks)) < int(slots):  # the first ones wait until all slots are in use
    time.sleep(0.001)
time.sleep(0.05)  # the build, long enough to be caught with one too many
with open(log, "a") as file:
    file.write(f"{start} {time.monotonic_ns()}\\n")
"""


def peak_overlap(spans: list[tuple[int, int]]) -> int:
    events = sorted([(start, 1) for start, _ in spans] + [(end, -1) for _, end in spans])
    running = peak = 0
    for _, change in events:
        running += change
        peak = max(peak, running)
    return peak


@pytest.mark.parametrize("slots", [1, 3])
def test_a_burst_runs_exactly_as_many_at_once_as_there_are_slots(pool: Pool, slots: int) -> None:
    """Twenty builds that arrive together overlap K at a time, no more and no fewer."""
    log, marks = pool.dir.parent / "log", pool.dir.parent / "marks"
    marks.mkdir()
    recorder = [sys.executable, "-I", "-S", "-c", RECORDER, str(log), str(marks), str(slots)]
    builds = [pool.popen(script("slot-run"), f"-n{slots}", "-t", "none", *recorder) for _ in range(20)]
    assert [build.process.wait(60) for build in builds] == [0] * 20
    spans = [(int(start), int(end)) for start, end in map(str.split, log.read_text().splitlines())]
    assert (len(spans), peak_overlap(spans)) == (20, slots)
    assert (pool.held(), pool.leftovers()) == ([], [])


def test_builds_start_in_the_order_in_which_they_joined_the_line(pool: Pool) -> None:
    """Each release starts the one that has waited longest, and nobody else."""
    running = pool.build("-n1")
    running.started()
    waiting = [pool.queued("-n1") for _ in range(6)]
    while waiting:
        running.finish()
        running = waiting.pop(0)
        assert running.started() == "0"
        assert [build.is_started() for build in waiting] == [False] * len(waiting)
    running.finish()


def test_a_slot_has_the_lowest_free_number(pool: Pool) -> None:
    """A slot that was given back in the middle is the next one taken."""
    builds = [pool.build("-n3") for _ in range(3)]
    numbers = {build.started(): build for build in builds}
    assert sorted(numbers) == ["0", "1", "2"]
    numbers["1"].finish()
    assert pool.build("-n3").started() == "1"


def test_slots_of_any_number_count_against_the_cap(pool: Pool) -> None:
    """With K = 2, a foreign lock on slot-7 and one build leave no room, though slot-1 is free."""
    pool.slot_run("true")
    with open(pool.dir / "slot-7", "w") as foreign:
        fcntl.flock(foreign, fcntl.LOCK_EX)
        first = pool.build("-n2")
        assert first.started() == "0"
        second = pool.queued("-n2")
        first.finish()
        assert second.started() == "0"


def test_overflow_has_a_number_from_the_cap_up_and_counts(pool: Pool) -> None:
    """A build that waited long enough runs beyond the cap, and its slot keeps others waiting."""
    first = pool.build("-n1")
    first.started()
    beyond = pool.build("-n1", "-t", "0")
    assert beyond.started() == "1"
    waiter = pool.queued("-n1")
    first.finish()
    wait_until(lambda: pool.held() == [1], "the overflow build alone")
    assert not waiter.is_started()
    beyond.finish()
    assert waiter.started() == "0"
    assert "running beyond the cap of 1 (overflow slot 1)" in beyond.errors()


def test_nobody_overtakes_the_line(pool: Pool) -> None:
    """While somebody waits, trying finds no slot, even if one lies free for the moment."""
    first = pool.build("-n1")
    first.started()
    waiter = pool.queued("-n1")
    os.kill(waiter.pid, signal.SIGSTOP)
    first.finish()
    assert SlotPool(dir=str(pool.dir), slots=1).try_acquire() is None
    result = pool.slot_run("-n1", "-t", "0", "--on-timeout", "fail", "true")
    assert result.returncode == 75
    os.kill(waiter.pid, signal.SIGCONT)
    assert waiter.started() == "0"


@pytest.mark.parametrize("victim", [0, 1, 2])
def test_a_killed_waiter_blocks_nobody(pool: Pool, victim: int) -> None:
    """After kill -9 of head, middle or tail of the line the others start in their order."""
    first = pool.build("-n1")
    first.started()
    waiting = [pool.queued("-n1") for _ in range(3)]
    waiting[victim].process.kill()
    waiting.pop(victim).process.wait()
    running = first
    for build in waiting:
        running.finish()
        running = build
        assert running.started() == "0"
    running.finish()
    assert pool.slot_run("true").returncode == 0
    assert pool.leftovers() == []


KILLED_WHILE_IT_LEAVES = """
import os, signal, sys
from buildslots.disk import line
from buildslots.disk.directory import PoolDirectory

directory = PoolDirectory(sys.argv[1])
try:
    next(directory.under_mutex(lambda: line.Ticket(directory.path, 1, b"")))
except StopIteration as end:
    ticket = end.value
removals = iter(range(int(sys.argv[2])))

def kill(event, _):
    if event == "os.remove" and next(removals, None) is None:
        os.kill(os.getpid(), signal.SIGKILL)

sys.addaudithook(kill)
ticket.leave()
"""


@pytest.mark.parametrize("removed", [0, 1])
def test_of_a_waiter_killed_while_it_leaves_nothing_remains(pool: Pool, removed: int) -> None:
    """It has removed neither of its files, or one: the next arrival finds what is left."""
    result = pool.run(sys.executable, "-c", KILLED_WHILE_IT_LEAVES, str(pool.dir), str(removed))
    assert (result.returncode, len(pool.leftovers())) == (-signal.SIGKILL, 2 - removed)
    assert pool.slot_run("true").returncode == 0
    assert pool.leftovers() == []


def test_a_stopped_head_is_passed_by_the_next_in_order_and_then_goes_on(pool: Pool) -> None:
    """Two stopped waiters at the head cost those behind them a second, not the turn of each other."""
    first = pool.build("-n1")
    first.started()
    sleepers = [pool.queued("-n1") for _ in range(2)]
    awake = [pool.queued("-n1") for _ in range(3)]
    for sleeper in sleepers:
        os.kill(sleeper.pid, signal.SIGSTOP)
    running = first
    for at, build in enumerate(awake):
        running.finish()
        running = build
        assert running.started() == "0"
        assert [later.is_started() for later in awake[at + 1 :]] == [False] * (len(awake) - at - 1)
    for sleeper in sleepers:
        os.kill(sleeper.pid, signal.SIGCONT)
    for sleeper in sleepers:
        running.finish()
        running = sleeper
        assert running.started() == "0"


def test_a_waiter_that_its_own_cap_keeps_waiting_is_not_overtaken(pool: Pool) -> None:
    """A head with K = 1 waits behind one build; the next with K = 3 does not pass it, however long."""
    first = pool.build("-n3")
    first.started()
    small, large = pool.queued("-n1"), pool.queued("-n3")
    wait_until(lambda: (pool.status().waiters[1].waited_s or 0) > 2.5, "a wait much longer than the patience")
    assert not small.is_started()
    assert not large.is_started()
    first.finish()
    assert small.started() == "0"
    assert large.started() == "1"


def test_a_process_stopped_with_the_mutex_stops_nobody(pool: Pool) -> None:
    """A mutex that somebody keeps is replaced, and builds start."""
    pool.slot_run("true")
    with open(pool.dir / "mutex") as stuck:
        fcntl.flock(stuck, fcntl.LOCK_EX)
        result = pool.slot_run("sh", "-c", 'echo "$BUILD_SLOT"')
        assert (result.returncode, result.stdout, result.stderr) == (0, "0\n", "")


def locked_by_flock(pool: Pool) -> Build:
    return pool.popen("flock", str(pool.dir / "slot-0"), "sh", "-c", "echo locked; read line; exit 0")


@pytest.fixture(params=["flock", "filelock", "portalocker"])
def peer(request: pytest.FixtureRequest, pool: Pool) -> Build:
    """A foreign program that locks slot-0 until it is finished."""
    pool.slot_run("true")
    path = str(pool.dir / "slot-0")
    hold = "print('locked', flush=True); input()"
    program = {
        "filelock": f"import filelock\nwith filelock.FileLock({path!r}): {hold}",
        "portalocker": f"import portalocker\nwith portalocker.Lock({path!r}, timeout=9): {hold}",
    }
    if request.param == "flock":
        return locked_by_flock(pool)
    return pool.popen(sys.executable, "-c", program[request.param])


@pytest.mark.linux
def test_a_foreign_lock_is_a_held_slot_and_its_release_is_noticed(pool: Pool, peer: Build) -> None:
    """A build waits for a peer that has slot-0, and starts when the peer lets go, without a bell."""
    assert peer.started() == "locked"
    waiter = pool.queued("-n1")
    holder = pool.status().holders[0]
    assert (holder.slot, holder.foreign, holder.pid) == (0, True, peer.pid)
    assert not waiter.is_started()
    peer.finish()
    assert waiter.started() == "0"


def test_peers_respect_a_held_slot(pool: Pool) -> None:
    """flock(1), filelock and portalocker find the slot of a running build locked."""
    build = pool.build("-n1")
    build.started()
    path = str(pool.dir / "slot-0")
    assert subprocess.run(["flock", "-n", path, "true"], check=False).returncode == 1
    with pytest.raises(filelock.Timeout):
        filelock.FileLock(path).acquire(timeout=0)
    with pytest.raises(portalocker.LockException):
        portalocker.Lock(path, timeout=0, fail_when_locked=True).acquire()
    build.finish()
    assert subprocess.run(["flock", "-n", path, "true"], check=False).returncode == 0


def test_a_lock_on_a_file_without_its_name_is_no_slot(pool: Pool) -> None:
    """Whoever holds a slot file that a cleaner removed keeps nobody from the new one."""
    pool.slot_run("true")
    with open(pool.dir / "slot-0") as nameless:
        fcntl.flock(nameless, fcntl.LOCK_EX)
        (pool.dir / "slot-0").unlink()
        build = pool.build("-n1")
        assert build.started() == "0"
        assert pool.held() == [0]


def test_waiters_stay_in_order_when_the_pool_directory_is_removed(pool: Pool) -> None:
    """Those who wait join the new directory with their numbers, and nobody is left behind."""
    first = pool.build("-n1")
    first.started()
    waiting = [pool.queued("-n1") for _ in range(3)]
    for build in waiting:
        os.kill(build.pid, signal.SIGSTOP)
    shutil.rmtree(pool.dir)
    blocker = pool.build("-n1")
    assert blocker.started() == "0"
    for build in waiting:
        os.kill(build.pid, signal.SIGCONT)
    wait_until(lambda: len(pool.status().waiters) == 3, "all three in the new line")
    running = blocker
    for build in waiting:
        running.finish()
        running = build
        assert running.started() == "0"


def test_waiters_go_on_when_only_the_queue_is_removed(pool: Pool) -> None:
    """`rm -rf POOL/queue` takes the tickets and leaves the pool."""
    first = pool.build("-n1")
    first.started()
    waiting = [pool.queued("-n1") for _ in range(2)]
    shutil.rmtree(pool.dir / "queue")
    wait_until(lambda: len(pool.status().waiters) == 2, "both in line again")
    first.finish()
    for _ in range(2):
        build = wait_until(lambda: next((b for b in waiting if b.is_started()), None), "a start")
        waiting.remove(build)
        assert build.started() == "0"
        build.finish()
        assert "without a slot" not in build.errors()


def test_a_dead_waiter_between_sleepers_does_not_count(pool: Pool) -> None:
    """Its small cap does not keep those behind it waiting, though nobody awake stood next to it."""
    first = pool.build("-n2")
    first.started()
    blocker = pool.build("-n2")
    blocker.started()
    stopped, dead, also_stopped, awake = (pool.queued(cap) for cap in ("-n2", "-n1", "-n2", "-n2"))
    os.kill(stopped.pid, signal.SIGSTOP)
    os.kill(also_stopped.pid, signal.SIGSTOP)
    dead.process.kill()
    dead.process.wait()
    blocker.finish()
    assert awake.started() == "1"


def test_a_line_that_drains_up_to_a_stopped_waiter(pool: Pool) -> None:
    """Who was far back when it joined passes the sleeper that it now stands behind."""
    running = pool.build("-n1")
    running.started()
    waiting = [pool.queued("-n1") for _ in range(8)]
    last = waiting.pop()
    os.kill(waiting.pop().pid, signal.SIGSTOP)
    for build in waiting:
        running.finish()
        running = build
        running.started()
    running.finish()
    assert last.started() == "0"


def test_a_shared_foreign_lock_makes_no_overflow(pool: Pool) -> None:
    """A slot file that somebody only reads is not held, but not to be had either."""
    pool.slot_run("true")
    with open(pool.dir / "slot-0") as shared:
        fcntl.flock(shared, fcntl.LOCK_SH)
        result = pool.slot_run("-n1", "sh", "-c", 'echo "$BUILD_SLOT"')
    assert (result.stdout, result.stderr) == ("1\n", "")


def test_taking_counts_after_it_has_locked(pool: Pool, monkeypatch: pytest.MonkeyPatch) -> None:
    """A slot that was refused because somebody looked, and is held a moment later, counts."""
    pool.slot_run("true")
    real, fds = taking.lock_slot, []

    def refused_then_held(directory: str, number: int, locks: taking.Locks, looks: int) -> bool | None:
        if number == 0:
            return None
        fds.append(lock.lock_file(str(pool.dir / "slot-0")))  # at this moment it is taken by somebody else
        return real(directory, number, locks, looks)

    monkeypatch.setattr(taking, "lock_slot", refused_then_held)
    assert isinstance(taking.take(str(pool.dir), Request(1, ["make"]), 1), Refusal)
    os.close(fds[0])


def test_a_new_mutex_is_not_taken_away(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Many who wait for one stopped owner do not take each other's new mutex away."""
    path, now, removed = str(tmp_path / "mutex"), [0.0], []
    owners = [lock.lock_file(path)]
    monkeypatch.setattr(lock.time, "monotonic", lambda: now[0])
    monkeypatch.setattr(lock.Mutex, "_replace", lambda _: removed.append(True))
    mutex = lock.Mutex(path)
    for _ in mutex.tries(1.0, 0.5):
        # Somebody else has lost patience at half of ours.
        now[0] += 0.6
        os.unlink(path)
        if len(owners) < 2:
            owners.append(lock.lock_file(path))
    assert (mutex._fd >= 0, removed, now[0]) == (True, [], 1.2)
    mutex.release()
    for fd in owners:
        assert fd is not None
        os.close(fd)


def test_a_mutex_that_others_have_made_just_now_is_not_taken_away(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also if that was at the end of our patience, and we have not opened it yet."""
    path, now, removed = str(tmp_path / "mutex"), [0.0], []
    owners = [lock.lock_file(path)]
    monkeypatch.setattr(lock.time, "monotonic", lambda: now[0])
    monkeypatch.setattr(lock.Mutex, "_replace", lambda _: removed.append(True))
    mutex = lock.Mutex(path)
    for _ in mutex.tries(1.0, 0.0001):
        if len(owners) < 2:
            now[0] += 0.99
            os.unlink(path)
            owners.append(lock.lock_file(path))
        now[0] += 0.02
    assert removed == []
    for fd in owners:
        assert fd is not None
        os.close(fd)


def test_a_bell_that_rang_is_heard_by_all(tmp_path: Path) -> None:
    """Whoever begins to listen just then takes one byte away, and leaves some to the others."""
    path = str(tmp_path / "bell")
    bell = bells.hang(path)
    first, _ = bells.listen(path)
    second, _ = bells.listen(path)
    assert bells.answered(path)
    bells.ring(bell)  # `bell` stays open, as in a daemon that inherited it
    os.read(second, 1)
    assert not bells.answered(path)
    listener = bells.poll()
    listener.register(first, bells.POLLIN)
    assert listener.poll(0) == [(first, bells.POLLIN)]
    for fd in (bell, first, second):
        os.close(fd)


def test_only_the_second_in_line_is_quick_to_knock(monkeypatch: pytest.MonkeyPatch) -> None:
    """Those further back wait until those before them had the time to; or all would wake all."""
    now, knocks = [0.0], []
    monkeypatch.setattr(sleepers.time, "monotonic", lambda: now[0])
    monkeypatch.setattr(sleepers.line, "live", lambda *_: True)
    monkeypatch.setattr(sleepers.bells, "knock", lambda path: knocks.append(path) or True)
    for place, quiet_s in ((1, 0.09), (2, 0.59), (4, 1.59)):
        ahead = [f"{number:020d}-3" for number in range(place)]
        watch, now[0] = sleepers.Sleepers(), 0.0
        for now[0] in (0.0, quiet_s):
            assert watch.overtake("pool", ahead, 3, 0) == 0
        assert knocks == []
        now[0] = watch.look_at
        assert watch.overtake("pool", ahead, 3, 0) == 0
        assert knocks == [f"pool/bells/{name}" for name in ahead]
        knocks.clear()


def test_looking_leaves_no_trace(pool: Pool) -> None:
    """The status of a pool that does not exist creates nothing."""
    status = pool.status()
    assert (status.holders, status.waiters, pool.dir.exists()) == ((), (), False)
    pool.dir.mkdir()
    (pool.dir / "slot-0").touch()
    assert pool.held() == []
    assert [path.name for path in pool.dir.iterdir()] == ["slot-0"]


@pytest.mark.parametrize(
    "error", [TimeoutError("enough"), ConnectionResetError(104, "reset"), ImportError("no")]
)
@pytest.mark.parametrize("when", ["asleep", "in our code"])
def test_what_a_handler_of_the_program_raises_is_no_broken_pool(
    pool: Pool, monkeypatch: pytest.MonkeyPatch, error: Exception, when: str
) -> None:
    """It arrives at the caller, and the block does not run without a slot."""

    def handler(*_: object) -> None:
        raise error

    def then_signalled(directory: str) -> list[int]:
        os.kill(os.getpid(), signal.SIGUSR1)
        return slot_numbers(directory)

    before, slot_numbers = signal.signal(signal.SIGUSR1, handler), ears.slot_numbers
    try:
        with SlotPool(slots=1).acquire():
            if when == "asleep":
                timer = threading.Timer(0.3, os.kill, (os.getpid(), signal.SIGUSR1))
                timer.start()
            else:
                monkeypatch.setattr(ears, "slot_numbers", then_signalled)
            with pytest.raises(type(error)) as raised:
                SlotPool(slots=1).acquire(on_timeout="fail")
            monkeypatch.undo()
        assert raised.value is error
    finally:
        signal.signal(signal.SIGUSR1, before)
    assert (pool.held(), pool.leftovers()) == ([], [])


def test_what_another_thread_puts_into_one_that_waits_is_no_broken_pool(pool: Pool) -> None:
    """As debuggers and time limits do (PyThreadState_SetAsyncExc).

    What comes beside a system call that may fail counts as its failure, so it is put until it gets through.
    """
    raised: list[BaseException] = []
    over = threading.Event()

    def wait() -> None:
        try:
            while not over.is_set():
                try:
                    SlotPool(slots=1).acquire(0.05, "fail")
                except SlotTimeoutError:
                    continue
        except BaseException as error:  # noqa: BLE001 - which one it is, is the question
            raised.append(error)

    with SlotPool(slots=1).acquire():
        thread = threading.Thread(target=wait)
        thread.start()
        wait_until(lambda: pool.status().waiters, "a waiter")
        assert thread.ident is not None
        put = ctypes.pythonapi.PyThreadState_SetAsyncExc
        try:
            for _ in range(10):
                put(ctypes.c_ulong(thread.ident), ctypes.py_object(ConnectionResetError))
                thread.join(DEADLINE_S / 10)
                if not thread.is_alive():
                    break
        finally:
            over.set()
            thread.join(DEADLINE_S)
    assert [type(error) for error in raised] == [ConnectionResetError]
