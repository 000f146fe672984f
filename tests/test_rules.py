"""What the pool itself says binds every caller: waiters of every kind act on it while they wait."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import threading
import time
from itertools import cycle, islice
from typing import TYPE_CHECKING

import pytest
from builds import DEADLINE_S, HELD_BUILD, Build, script, step, take_now, wait_until
from namespaces import unshare
from users import ALICE, BOB, GROUP, several_users

from buildslots import SettingError, SlotPool, SlotTimeoutError, crowd
from buildslots.backend import Refusal, Request
from buildslots.disk import line, sleepers
from buildslots.disk.directory import PoolDirectory
from buildslots.disk.holding import Hold, ticket_record
from buildslots.disk.rules import Pause, Rules
from buildslots.disk.ruling import change
from buildslots.disk.wait import NEVER, Wait
from buildslots.words import whoami

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from builds import Pool
    from users import Users

    from buildslots import Slot
    from buildslots.backend import Steps

HELD = ("sh", "-c", HELD_BUILD)


def said(pool: Pool) -> SlotPool:
    """The pool, to ask and to set its rules."""
    return SlotPool("default", dir=str(pool.dir), timeout=None)


def paused(directory: str, begin_s: float, end_s: float) -> None:
    """Let there be a pause that lasts from so many seconds ago until so many."""

    def alter(rules: Rules, now: float) -> str:
        rules.pauses.append(Pause(now - begin_s, now - end_s, "alice", ""))
        return "a pause"

    change(directory, alter)


# Waiters of every kind.


class Client:
    """A waiter that a test drives, whatever its kind."""

    def started(self) -> None:
        """Wait for it to start."""
        wait_until(self.is_started, "a start")

    def is_started(self) -> bool:
        raise NotImplementedError

    def finish(self) -> None:
        """Let it give its slot back."""
        raise NotImplementedError


class Process(Client):
    """A `slot-run`."""

    def __init__(self, pool: Pool) -> None:
        self.build = pool.build("-t", "none")
        self._has_started = False

    def is_started(self) -> bool:
        if not self._has_started and self.build.is_started():
            self.build.started()
            self._has_started = True
        return self._has_started

    def finish(self) -> None:
        self.build.finish()


class Thread(Client):
    """A thread of this process."""

    def __init__(self, pool: Pool) -> None:
        self._slot: Slot | None = None
        self._over = threading.Event()
        self._pool = said(pool)
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def _run(self) -> None:
        with self._pool.acquire() as self._slot:
            self._over.wait(10 * DEADLINE_S)

    def is_started(self) -> bool:
        return self._slot is not None

    def finish(self) -> None:
        self._over.set()
        self._thread.join(DEADLINE_S)


class Task(Thread):
    """A task of an event loop in a thread of this process."""

    def _run(self) -> None:
        asyncio.run(self._hold())

    async def _hold(self) -> None:
        async with self._pool as self._slot:
            await asyncio.get_running_loop().run_in_executor(None, self._over.wait, 10 * DEADLINE_S)


class Stopped(Process):
    """A `slot-run` that a test stops and continues."""

    def stop(self) -> None:
        os.kill(self.build.pid, signal.SIGSTOP)

    def go_on(self) -> None:
        os.kill(self.build.pid, signal.SIGCONT)


KINDS: tuple[type[Client], ...] = (Process, Thread, Stopped, Task)


def in_memory(pool: Pool) -> int:
    """How many callers of this process wait in memory."""
    one = crowd._crowds.get((os.getpid(), str(pool.dir)))
    return 0 if one is None else len(one._waiting)


def arrive(pool: Pool, kind: type[Client]) -> Client:
    """One more waiter, in line or in memory behind all others."""

    def count() -> int:
        return len(pool.status().waiters) + in_memory(pool)

    before = count()
    client = kind(pool)
    wait_until(lambda: count() == before + 1, "one more waiter")
    return client


def test_the_cap_changes_while_they_wait(pool: Pool) -> None:
    """3, 1, 5, a pause, its end: at each moment so many start as the rules say, in the order of arrival."""
    pool_ = said(pool)
    pool_.set_rules(slots=3)
    running: list[Client] = [Process(pool) for _ in range(3)]
    for client in running:
        client.started()
    waiters = [arrive(pool, kind) for kind in islice(cycle(KINDS), 12)]
    everybody = list(waiters)

    def start(count: int) -> None:
        for _ in range(count):
            running.append(waiters.pop(0))
            running[-1].started()
        assert not any(client.is_started() for client in waiters)

    def caps() -> set[int]:
        return {waiter.cap for waiter in pool.status().waiters}

    assert caps() == {3}
    pool_.set_rules(slots=1)
    wait_until(lambda: caps() == {1}, "all in line know of it")
    for client in running[:2]:  # who runs goes on, and what they leave is taken by nobody
        client.finish()
    assert (pool.status().cap, pool.status().cap_source, len(pool.held())) == (1, "the pool", 1)
    running.pop().finish()
    running.clear()
    start(1)

    pool_.pause("1h", "a new kernel")
    stopped = [client for client in waiters if isinstance(client, Stopped)]
    for client in stopped:
        client.stop()
    pool_.set_rules(slots=5)
    for client in stopped:
        client.go_on()
    wait_until(lambda: caps() == {5}, "all in line know of it")
    assert pool.held() == [0]
    assert not any(client.is_started() for client in waiters)
    pool_.resume()
    start(4)

    pool_.pause("1h")
    for client in running[:2]:
        client.finish()
    assert len(pool.held()) == 3
    assert not any(client.is_started() for client in waiters)
    del running[:2]
    pool_.resume()
    start(2)

    pool_.set_rules(slots=None)
    pool_.set_rules(slots=12)
    start(5)
    assert running[-5:] == everybody[-5:]
    for client in running:
        client.finish()
    assert (pool.held(), pool.leftovers()) == ([], [])


def test_a_weight_that_waits_takes_what_there_is(pool: Pool) -> None:
    """It needs four: of a cap of two both, and four when the pool says more."""
    pool_ = said(pool)
    pool_.set_rules(slots=4)
    first = take_now(PoolDirectory(str(pool.dir)), Request(4, ["make"], is_own_cap=False))
    build = pool.queued("-w4", "-t", "none")
    assert [(w.cap, w.weight) for w in pool.status().waiters] == [(4, 4)]
    pool_.set_rules(slots=2)
    wait_until(lambda: [(w.cap, w.weight) for w in pool.status().waiters] == [(2, 2)], "less")
    pool_.set_rules(slots=1)
    wait_until(lambda: [(w.cap, w.weight) for w in pool.status().waiters] == [(1, 1)], "even less")
    pool_.set_rules(slots=4)
    wait_until(lambda: [(w.cap, w.weight) for w in pool.status().waiters] == [(4, 4)], "all of it")
    first.release()
    build.started()
    assert [holder.slots for holder in pool.status().holders] == [(0, 1, 2, 3)]
    build.finish()


# The cap of a caller.


@pytest.mark.parametrize("how", ["option", "variable", "file"])
def test_one_s_own_cap_lowers_and_never_raises(pool: Pool, how: str, tmp_path: Path) -> None:
    """Whoever says two gets two of the pool's three; whoever says five gets three."""
    pool_ = said(pool)
    pool_.set_rules(slots=3)
    config = tmp_path / "home" / ".config" / "buildslots"
    config.mkdir(parents=True)

    def build(cap: int) -> Build:
        if how == "file":
            (config / "config.toml").write_text(f"slots = {cap}\n")
        options = [f"-n{cap}"] if how == "option" else []
        environ = {"MAX_CONCURRENT_BUILDS": str(cap)} if how == "variable" else {}
        return pool.build("-t", "none", *options, environ=environ)

    first, second = build(2), build(2)
    assert {first.started(), second.started()} == {"0", "1"}
    low = build(2)
    wait_until(lambda: [w.cap for w in pool.status().waiters] == [2], "one that lowers it")
    low.process.kill()
    wait_until(lambda: not pool.status().waiters, "nobody")
    third = build(5)
    assert third.started() == "2"
    high = build(5)
    wait_until(lambda: [w.cap for w in pool.status().waiters] == [3], "one that would raise it")
    pool_.set_rules(slots=4)
    assert high.started() == "3"
    for one in (first, second, third, high):
        one.finish()


def test_a_default_cap_is_lowered_and_raised(pool: Pool) -> None:
    """Nobody has said it, so the pool's word is all there is; it is taken back as it was given."""
    pool_ = said(pool)
    own = pool_.cap
    assert pool_.set_rules(slots=own + 3).slots == own + 3
    assert (pool_.cap, SlotPool(slots=1).cap, SlotPool(slots=own + 9).cap) == (own + 3, 1, own + 3)
    pool_.set_rules(slots=1)
    assert (pool_.cap, pool_.status().cap_source) == (1, "the pool")
    told = pool_.set_rules(slots=None)
    assert (told.slots, pool_.cap) == (None, own)
    assert [what for _, _, what in told.changes] == [f"slots={own + 3}", "slots=1", "slots="]


@pytest.mark.parametrize("slots", [0, -1, True, 1.5, "3", 10**12])
def test_what_is_no_cap_is_the_callers_mistake(pool: Pool, slots: object) -> None:
    """And nothing is written."""
    with pytest.raises(SettingError):
        said(pool).set_rules(slots=slots)  # type: ignore[arg-type]
    assert not (pool.dir / "rules").exists()


@pytest.mark.parametrize("duration", [0, -1, 4 * 3600 + 1, "5h", "soon", float("nan"), True, b"1"])
def test_what_is_no_pause_is_the_callers_mistake(pool: Pool, duration: object) -> None:
    """Nobody may turn a pool off for good."""
    with pytest.raises(SettingError):
        said(pool).pause(duration)  # type: ignore[arg-type]
    assert not (pool.dir / "rules").exists()


# Pauses.


def test_who_does_not_wait_at_all_waits_for_the_end_of_a_pause(pool: Pool) -> None:
    """Alone, and behind one in line; whoever is to fail then fails at once."""
    pool_ = said(pool)
    pool_.pause("1h", "a new kernel")
    first = pool.queued("-t0")
    second = pool.queued("-t0", "-n1")
    failed = pool.slot_run("-t0", "--on-timeout", "fail", "true")
    assert failed.returncode == 75
    assert "the end of a pause" in failed.stderr
    assert SlotPool().try_acquire() is None
    with pytest.raises(SlotTimeoutError, match="the end of a pause"):
        SlotPool(timeout=0, on_timeout="fail").acquire()
    assert len(pool.status().waiters) == 2
    pool_.resume()
    assert {first.started(), second.started()} <= {"0", "1"}
    first.finish()
    second.finish()


def test_a_build_below_another_starts_in_a_pause(pool: Pool) -> None:
    """It has the slot of that one."""
    outer = pool.popen(
        script("slot-run"), "sh", "-c", f'echo "$BUILD_SLOT"; read line; {script("slot-run")} -t0 echo inner'
    )
    assert outer.started() == "0"
    said(pool).pause("1h")
    assert outer.process.stdin is not None
    outer.process.stdin.write(b"\n")
    outer.process.stdin.flush()
    assert outer.started() == "inner"
    assert outer.process.wait(DEADLINE_S) == 0


def test_a_pause_ends_by_itself(pool: Pool) -> None:
    """All who wait start without a word from anybody, and the line says what they wait for."""
    said(pool).pause(1.5, "a new kernel")
    builds = [pool.queued("-t", "none") for _ in range(3)]
    assert [pool.status().paused_until is not None, pool.status().pause_reason] == [True, "a new kernel"]
    assert ", for the end of a pause at " in (told := builds[0].read_error_line())
    assert f"set by {whoami()}: a new kernel" in told
    said(pool).set_rules(slots=3)
    assert {build.started() for build in builds} == {"0", "1", "2"}
    assert pool.status().paused_until is None
    for build in builds:
        build.finish()


def test_all_in_line_say_that_the_pool_is_paused(pool: Pool) -> None:
    """Not only the head, whose turn it would be."""
    said(pool).pause("1h", "a new kernel")
    lines = [pool.queued("-t", "none").read_error_line() for _ in range(3)]
    assert all(", for the end of a pause at " in each and "a new kernel" in each for each in lines)


@pytest.fixture
def directory(pool: Pool) -> Iterator[PoolDirectory]:
    """A pool whose one slot is held."""
    directory = PoolDirectory(str(pool.dir))
    hold = take_now(directory, Request(1, ["make"]))
    yield directory
    hold.release()


def joined(directory: PoolDirectory, *, waited_s: float) -> Wait:
    """One in line who came so long ago."""
    request = Request(1, ["make"])
    request.began -= waited_s
    ticket = step(directory, lambda: line.Ticket(directory.path, 1, ticket_record(request)))
    return Wait(directory, ticket, request)


def outcome(steps: object) -> object:
    """What a wait gives at once; None if it goes on."""
    try:
        next(steps)  # type: ignore[call-overload]
    except StopIteration as end:
        return end.value
    return None


def entered(steps: Steps[tuple[Hold, None] | tuple[None, crowd.Caller]]) -> crowd.Caller:
    """The place of one that has to wait."""
    while True:
        try:
            next(steps)
        except StopIteration as end:
            place: crowd.Caller = end.value[1]
            return place


@pytest.mark.parametrize(
    ("began_ago_s", "ended_ago_s", "is_over"),
    [
        (700, -3600, False),  # a pause is on
        (700, 10, False),  # it has lasted 690 of 1,000 s
        (200, 10, True),  # it has lasted 190 s only
        (5000, 1000, True),  # it was over when the wait began
        (5000, 100, False),  # it was on when the wait began
    ],
)
def test_the_time_of_a_pause_does_not_count(
    directory: PoolDirectory, began_ago_s: float, ended_ago_s: float, is_over: bool
) -> None:
    """A wait of 1,000 s with a timeout of 500 s, in line and in memory."""
    wait = joined(directory, waited_s=1000.0)
    paused(directory.path, began_ago_s, ended_ago_s)
    found = outcome(wait.until(wait._request.began + 500.0))
    assert isinstance(found, Refusal) == is_over
    wait.leave()
    callers = []
    pool = crowd.open_pool(directory.path)
    for _ in range(3):
        request = Request(1, ["make"])
        request.began -= 1000.0
        callers.append(entered(pool.enter(request)))
    assert not callers[2].has_place
    assert isinstance(outcome(callers[2].until(request.began + 500.0)), Refusal) == is_over
    for caller in callers:
        caller.leave()


def test_a_pause_prolongs_each_wait_for_a_paced_turn_once(directory: PoolDirectory) -> None:
    """Who looks every some seconds whether it is its turn does not sleep the whole pause again each time."""
    wait = joined(directory, waited_s=1000.0)
    paused(directory.path, 900, 10)
    now = time.monotonic()
    _, seconds = next(wait.until(now + 5.0, None, now))
    assert seconds <= 5.0
    wait.leave()


def test_a_pause_is_no_quiet_time(directory: PoolDirectory) -> None:
    """For 1,000 s nothing has happened, but 900 of them nothing could: the head has 400 of 500 s to go."""
    head = joined(directory, waited_s=1000.0)
    os.utime(f"{directory.path}/holders/slot-0", (0, time.time() - 1000.0))
    paused(directory.path, 950, 50)
    found = outcome(head.until(head._request.began))
    assert isinstance(found, Refusal)
    left_s = outcome(head.paced_start(found, 500.0))
    assert isinstance(left_s, float)
    assert 390 < left_s < 410
    said = PoolDirectory(directory.path)
    paused(directory.path, 1, -60)
    assert said.paused_s(time.monotonic()) == NEVER
    assert outcome(head.paced_start(found, 500.0)) == NEVER
    head.leave()


# What comes in between.


def test_a_change_while_a_waiter_changes_its_ticket_is_not_lost(
    directory: PoolDirectory, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whoever sets rules knocks at the tickets that there are, and the new one may not be there yet."""
    request = Request(1, ["make"], is_own_cap=False)
    head, second = [
        step(directory, lambda: line.Ticket(directory.path, 1, ticket_record(request))) for _ in range(2)
    ]
    wait = Wait(directory, second, request)
    pool = SlotPool(dir=directory.path)
    pool.set_rules(slots=2)
    under = line.Ticket.under

    def set_meanwhile(self: line.Ticket, limit: int, record: bytes) -> line.Ticket:
        monkeypatch.setattr(line.Ticket, "under", under)
        pool.set_rules(slots=3)
        return under(self, limit, record)

    monkeypatch.setattr(line.Ticket, "under", set_meanwhile)
    steps = wait.until(NEVER)
    ears, _ = next(steps)
    assert pool.status().waiters[1].cap == 2
    assert ears is not None
    assert ears.listen(0)
    steps.send(True)
    assert pool.status().waiters[1].cap == 3
    wait.leave()
    head.leave()


def test_a_sleeper_of_an_older_cap_is_overtaken(
    directory: PoolDirectory, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It could start under the rules of now, though its name says less; unless it has said itself so."""
    monkeypatch.setattr(sleepers, "FIRST_KNOCK_S", 0.0)
    monkeypatch.setattr(sleepers, "IDLE_S", 0.0)
    for is_own, gets in ((False, True), (True, False)):
        asleep = Request(1, ["make"], is_own_cap=is_own)
        head = step(directory, lambda: line.Ticket(directory.path, 1, ticket_record(asleep)))  # noqa: B023
        SlotPool(dir=directory.path).set_rules(slots=2)
        request = Request(1, ["make"], is_own_cap=False)
        second = step(directory, lambda: line.Ticket(directory.path, 2, ticket_record(request)))  # noqa: B023
        wait = Wait(directory, second, request)
        steps = wait.until(NEVER)
        ears, seconds = next(steps)
        found = None
        for _ in range(4):
            try:
                ears, seconds = steps.send(ears is not None and ears.listen(min(seconds, 0.01)))
            except StopIteration as end:
                found = end.value
                break
        assert isinstance(found, Hold) == gets
        if found is not None:
            found.release()
        steps.close()
        wait.leave()
        head.leave()


def test_nobody_knocks_in_a_pause(directory: PoolDirectory) -> None:
    """What is free is not left lying by a head that sleeps."""
    request = Request(2, ["make"])
    head = step(directory, lambda: line.Ticket(directory.path, 2, ticket_record(request)))
    second = step(directory, lambda: line.Ticket(directory.path, 2, ticket_record(request)))
    SlotPool(dir=directory.path).pause("1h")
    assert head.bell is not None
    os.read(head.bell, 65536)
    wait = Wait(directory, second, request)
    next(wait.until(NEVER))
    assert wait._sleepers.look_at == NEVER
    wait.leave()
    head.leave()


def test_rules_that_are_removed_say_nothing_any_more(directory: PoolDirectory) -> None:
    """Also to those who joined the line while they were there."""
    SlotPool(dir=directory.path).set_rules(slots=1)
    request = Request(2, ["make"], is_own_cap=False)
    place = directory.join(request, time.time_ns() // 1000)
    os.unlink(f"{directory.path}/rules")
    found = outcome(place.until(NEVER))
    assert isinstance(found, Hold)
    found.release()
    place.leave()


# Contents that others have written.


def plant(path: Path, kind: str, tmp_path: Path) -> None:
    """Put something into the place of the rules."""
    if kind == "FIFO":
        os.mkfifo(path)
    elif kind == "link":
        (tmp_path / "victim").write_text("mine")
        path.symlink_to(tmp_path / "victim")
    else:
        path.write_text("slots 1\n")


@pytest.mark.linux
@pytest.mark.parametrize("kind", ["FIFO", "link", "text"])
def test_what_is_planted_is_one_line_and_no_more(pool: Pool, tmp_path: Path, kind: str) -> None:
    """slot-run, status and doctor say so; no build waits, no other file is touched, `set` mends it."""
    pool.slot_run("true")
    plant(pool.dir / "rules", kind, tmp_path)
    result = pool.slot_run("echo", "built")
    assert (result.returncode, result.stdout) == (0, "built\n")
    assert result.stderr.count("\n") == 1
    assert "/rules counts as absent: it is " in result.stderr
    status = pool.run(script("buildslots"), "status")
    assert status.stderr.count("/rules counts as absent: it is ") == status.stderr.count("\n") == 1
    doctor = pool.run(script("buildslots"), "doctor", "--json")
    (found,) = [each for each in json.loads(doctor.stdout)["checks"] if each["check"] == "rules"]
    assert (doctor.returncode, found["level"]) == (1, "problem")
    assert pool.run(script("buildslots"), "set", "slots=2").returncode == 0
    assert pool.status().cap == 2
    if kind == "link":
        assert (tmp_path / "victim").read_text() == "mine"


# Other users, other containers.


@several_users
def test_members_of_a_group_set_rules_for_each_other(users: Users) -> None:
    """Whoever may write the pool may set it, and all who wait there act on it; others may not."""
    holder = users.build_as(ALICE, "-tnone")
    holder.started()
    sets = (script("buildslots"), "set", "slots=1")
    assert users.run(*users.as_user(BOB, *sets)).returncode == 0
    file = users.dir / "rules"
    assert (file.stat().st_uid, file.stat().st_gid, file.stat().st_mode & 0o777) == (BOB, GROUP, 0o660)
    waiters = [users.queued_as(user, "-tnone") for user in (BOB, ALICE)]
    assert [w.cap for w in users.status().waiters] == [1, 1]
    assert users.run(*users.as_user(ALICE, script("buildslots"), "pause", "1h")).returncode == 0
    holder.finish()
    assert users.held() == []
    assert users.run(*users.as_user(BOB, script("buildslots"), "resume")).returncode == 0
    waiters[0].started()
    assert users.run(*users.as_user(ALICE, script("buildslots"), "set", "slots=2")).returncode == 0
    waiters[1].started()
    for waiter in waiters:
        waiter.finish()
    told = SlotPool(dir=str(users.dir)).rules()
    assert [(who.split("@")[0], what) for _, who, what in told.changes] == [
        (f"uid-{BOB}", "slots=1"),
        (f"uid-{ALICE}", "pause 1 h 0 min"),
        (f"uid-{BOB}", "resume"),
        (f"uid-{ALICE}", "slots=2"),
    ]


@several_users
def test_a_file_of_somebody_else_is_not_heard(users: Users) -> None:
    """In a pool that is one user's alone, though another could put it there."""
    users.dir.chmod(0o700)
    os.chown(users.dir, BOB, GROUP)
    file = users.dir / "rules"
    file.write_text("buildslots-rules 1\nslots 1\nend\n")
    os.chown(file, ALICE, GROUP)
    file.chmod(0o644)
    result = users.run(*users.as_user(BOB, script("slot-run"), "echo", "built"))
    assert (result.stdout, result.stderr.count("\n")) == ("built\n", 1)
    assert f"counts as absent: it is another user's (uid {ALICE})" in result.stderr


@pytest.mark.linux
def test_containers_hear_of_a_change(pool: Pool) -> None:
    """Each with its own pids and users: what one sets, those who wait in the other act on."""
    spaces = unshare("--pid", "--mount", "--mount-proc", "--fork", "--kill-child")
    pool.dir.mkdir()
    assert pool.run(*spaces, script("buildslots"), "set", "slots=1").returncode == 0
    first = pool.popen(*spaces, script("slot-run"), "-tnone", *HELD)
    assert first.started() == "0"
    waiters = []
    for number in range(2):
        waiters.append(pool.popen(*spaces, script("slot-run"), "-tnone", *HELD))
        wait_until(lambda number=number: len(pool.status().waiters) == number + 1, "one more waiter")
    assert pool.run(*spaces, script("buildslots"), "pause", "1h").returncode == 0
    assert pool.run(*spaces, script("buildslots"), "set", "slots=3").returncode == 0
    wait_until(lambda: [w.cap for w in pool.status().waiters] == [3, 3], "both know of it")
    assert pool.held() == [0]
    assert pool.run(script("buildslots"), "resume").returncode == 0
    assert {waiter.started() for waiter in waiters} == {"1", "2"}
    for build in (first, *waiters):
        build.finish()
