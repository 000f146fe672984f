"""The library: `SlotPool`, `Slot`, `build_slot`, with threads, tasks, forks and errors."""

from __future__ import annotations

import asyncio
import contextvars
import datetime as dt
import gc
import json
import os
import pickle
import signal
import subprocess
import sys
import threading
import warnings
import weakref
from contextlib import AsyncExitStack, ExitStack
from typing import TYPE_CHECKING, Any

import pytest
from builds import DEADLINE_S, Pool, script, wait_until

import buildslots
from buildslots import (
    Gates,
    NotSlotOwnerError,
    SettingError,
    Slot,
    SlotPool,
    SlotReleasedError,
    SlotTimeoutError,
    UnthrottledWarning,
    build_slot,
    processes,
)
from buildslots.disk import bells
from buildslots.settings.places import state_dir
from buildslots.slot import slots_here

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path


def descriptors() -> set[str]:
    return set(os.listdir("/dev/fd"))


def test_every_public_name_loads_and_is_listed() -> None:
    """`__all__`, `dir()` and lazy loading agree, and unknown names are an AttributeError."""
    for name in buildslots.__all__:
        assert getattr(buildslots, name).__module__.startswith("buildslots.")
    assert dir(buildslots) == sorted(buildslots.__all__)
    with pytest.raises(AttributeError, match="no_such_name"):
        buildslots.no_such_name  # noqa: B018


def test_acquire_and_release(pool: Pool) -> None:
    """Slots have the lowest free numbers, and a released one is free, with no descriptor left."""
    before = descriptors()
    two = SlotPool(slots=2)
    first, second = two.acquire(), two.acquire()
    assert [first.number, second.number, two.try_acquire()] == [0, 1, None]
    assert (first.overflow, first.nested, first.pool) == (False, False, "default")
    first.release()
    assert pool.held() == [1]
    third = two.try_acquire()
    assert third is not None
    assert third.number == 0
    second.release()
    third.release()
    assert (pool.held(), descriptors()) == ([], before)


def test_a_second_release_raises() -> None:
    """With the pool and number as attributes, and the slot of the next holder is untouched."""
    pool = SlotPool(slots=1)
    slot = pool.acquire()
    slot.release()
    other = pool.acquire()
    with pytest.raises(SlotReleasedError, match="slot 0 of pool 'default'") as caught:
        slot.release()
    assert (caught.value.pool, caught.value.number) == ("default", 0)
    assert pool.try_acquire() is None
    other.release()


def test_timeout_runs_as_overflow_or_raises(pool: Pool) -> None:
    """As the caller says, and nothing is left in line."""
    one = SlotPool(slots=1)
    first = one.acquire()
    beyond = one.acquire(timeout=0.05)
    assert (beyond.number, beyond.overflow, beyond.waited_s >= 0.05) == (1, True, True)
    with pytest.raises(SlotTimeoutError) as caught:
        one.acquire(timeout=0.05, on_timeout="fail")
    assert isinstance(caught.value, TimeoutError)
    assert (caught.value.pool, caught.value.timeout_s) == ("default", 0.05)
    assert pool.leftovers() == []
    beyond.release()
    first.release()


def test_wrong_arguments_are_value_errors() -> None:
    """With the argument's name and value, before anything is touched."""
    for arguments in (
        {"slots": 0},
        {"slots": True},
        {"timeout": -1},
        {"on_timeout": "explode"},
        {"pool": "a/b"},
    ):
        with pytest.raises(SettingError, match=next(iter(arguments))):
            SlotPool(**arguments)
    with pytest.raises(SettingError, match="timeout"):
        SlotPool().acquire(timeout=float("nan"))


def test_threads_exclude_each_other(pool: Pool) -> None:
    """Twelve threads on three slots of one object: three at a time, each thread once."""
    three = SlotPool(slots=3, timeout=None)
    lock, running, peak, done = threading.Lock(), 0, 0, 0
    full = threading.Event()

    def work() -> None:
        nonlocal running, peak, done
        with three.acquire():
            with lock:
                running += 1
                peak = max(peak, running)
                if running == 3:
                    full.set()
            assert full.wait(DEADLINE_S)
            with lock:
                running -= 1
                done += 1

    before = descriptors()
    threads = [threading.Thread(target=work) for _ in range(12)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(DEADLINE_S)
    assert (peak, done, pool.held(), pool.leftovers(), descriptors()) == (3, 12, [], [], before)


def test_build_slot_is_reentrant_in_a_thread_and_not_across(pool: Pool) -> None:
    """An inner block has the outer one's slot; another thread has its own."""
    seen = []
    with build_slot(slots=2) as outer, build_slot(slots=2) as inner:
        assert (outer.number, outer.nested, inner.number, inner.nested) == (0, False, 0, True)

        def other() -> None:
            with build_slot(slots=2) as slot:
                seen.append((slot.number, slot.nested))

        thread = threading.Thread(target=other)
        thread.start()
        thread.join()
        assert pool.held() == [0]
    expected = (0, True) if sys.version_info >= (3, 14) and sys.flags.thread_inherit_context else (1, False)
    assert (seen, pool.held()) == ([expected], [])


def test_tasks_are_under_the_slot_of_the_block_that_started_them(pool: Pool) -> None:
    """A task that outlives the block has to take a slot of its own."""

    async def build(go: asyncio.Event) -> tuple[int | None, bool]:
        await go.wait()
        with build_slot(slots=1) as slot:
            return slot.number, slot.nested

    async def main() -> list[tuple[int | None, bool]]:
        go, later = asyncio.Event(), asyncio.Event()
        with build_slot(slots=1):
            early = [asyncio.create_task(build(go)) for _ in range(2)]
            late = asyncio.create_task(build(later))
            go.set()
            results = await asyncio.gather(*early)
        later.set()
        return [*results, await late]

    assert asyncio.run(main()) == [(0, True), (0, True), (0, False)]
    assert pool.held() == []


def test_a_slot_entered_as_a_block_is_one_for_build_slot() -> None:
    """`with pool.acquire():` and `with build_slot():` are the same block."""
    with SlotPool(slots=1).acquire() as outer, build_slot(slots=1) as inner:
        assert (inner.number, inner.nested) == (outer.number, True)


def test_blocks_of_other_pools_are_no_outer_blocks(pool: Pool) -> None:
    """Each pool has its own nesting, and nothing is left in the context afterwards."""
    with build_slot(slots=1), build_slot("link", slots=1) as link:
        assert link.nested is False
    assert slots_here().get(()) == ()


def test_one_object_entered_twice(pool: Pool) -> None:
    """The inner block ends first, and ends nothing else."""
    shared = build_slot(slots=1)
    with shared as outer:
        with shared as inner:
            assert inner.nested
        assert pool.held() == [0]
    assert (outer.released, pool.held()) == (True, [])


def test_a_released_outer_slot_covers_nothing(pool: Pool) -> None:
    """A context that was copied under a slot does not give it for ever."""
    with build_slot(slots=1):
        context = contextvars.copy_context()

    def inner() -> bool:
        with build_slot(slots=1) as slot:
            return slot.nested

    assert context.run(inner) is False


def test_an_exception_in_the_block_gives_the_slot_back(pool: Pool) -> None:
    """And passes through."""
    with pytest.raises(ZeroDivisionError), build_slot(slots=1):
        1 / 0  # noqa: B018
    assert pool.held() == []


def test_an_early_release_in_the_block_is_enough(pool: Pool) -> None:
    """Leaving the block then releases nothing more, least of all what somebody else holds now."""
    with build_slot(slots=1) as slot:
        slot.release()
        other = SlotPool(slots=1).acquire()
    assert pool.held() == [0]
    other.release()


def test_a_lost_slot_object_gives_its_slot_back(pool: Pool) -> None:
    """Like a file that nobody closed, and with the same warning, at the line that lost it."""
    with pytest.warns(ResourceWarning, match="Slot 0 of pool 'default', held> was never released") as caught:
        SlotPool(slots=1).acquire()
        gc.collect()
    assert (caught[0].filename, pool.held()) == (__file__, [])


@pytest.mark.parametrize("how", ["-Wdefault", "-Werror", "-Wignore"])
def test_a_slot_that_is_held_at_the_end_of_a_program(pool: Pool, how: str) -> None:
    """It is free, whatever becomes of warnings while the interpreter shuts down."""
    program = "from buildslots import SlotPool; slot = SlotPool(slots=1).acquire()"
    result = pool.run(sys.executable, how, "-c", program)
    assert (result.returncode, "Slot 0" in result.stderr) == (0, how != "-Wignore")
    assert pool.held() == []


def in_fork(work: Callable[[], bool]) -> bool:
    """What `work` returns in a forked child; an exception is a False."""
    pid = os.fork()
    if pid == 0:
        status = 1
        try:
            status = 0 if work() else 1
        finally:
            os._exit(status)
    return os.waitpid(pid, 0)[1] == 0


def test_a_forked_child_does_not_own_its_parent_s_slot(pool: Pool) -> None:
    """It can neither release it nor lose it, by leaving the block or by forgetting the object."""
    one = SlotPool(slots=1)

    def child() -> bool:
        with pytest.raises(NotSlotOwnerError):
            slot.release()
        with build_slot(slots=1) as nested:  # under the parent's slot, as a subprocess would be
            if not nested.nested:
                return False
        slot.__exit__(None, None, None)
        return True

    with one.acquire() as slot:
        assert in_fork(child)
        assert pool.held() == [0]
        assert one.try_acquire() is None
    assert pool.held() == []


def test_a_forked_child_that_lives_on_keeps_no_slot(pool: Pool) -> None:
    """The parent's release frees the slot and wakes the next, though the child has copies of all."""
    slot = SlotPool(slots=1).acquire()
    pid = os.fork()
    if pid == 0:
        signal.pause()
        os._exit(0)
    try:
        waiter = pool.queued("-n1")
        slot.release()
        assert waiter.started() == "0"
    finally:
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)


def test_a_fork_during_a_wait_keeps_no_place_in_line(pool: Pool) -> None:
    """A child that is forked while a thread waits does not wait on in its place."""
    first = pool.build("-n1")
    first.started()
    got = []
    thread = threading.Thread(target=lambda: got.append(SlotPool(slots=1, timeout=None).acquire()))
    thread.start()
    wait_until(lambda: pool.status().waiters, "the thread in line")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # 3.12: fork with threads
        pid = os.fork()
    if pid == 0:
        signal.pause()
        os._exit(0)
    try:
        second = pool.queued("-n1")
        first.finish()
        thread.join(DEADLINE_S)
        assert pool.status().holders[0].pid == os.getpid()
        got.pop().release()
        assert second.started() == "0"
    finally:
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)


def test_a_child_of_a_killed_waiter_does_not_wait_for_it(pool: Pool) -> None:
    """The place in line is gone with the process, though a child that it forked meanwhile lives on."""
    first = pool.build("-n1")
    first.started()
    program = (
        "import os, signal, threading, time, warnings\n"
        "warnings.simplefilter('ignore')\n"
        "from buildslots import SlotPool\n"
        "pool = SlotPool(slots=1, timeout=None)\n"
        "threading.Thread(target=pool.acquire).start()\n"
        "while not pool.status().waiters: time.sleep(0.01)\n"
        "child = os.fork()\n"
        "if child == 0: signal.pause()\n"
        "print(child, flush=True)\n"
    )
    build = pool.popen(sys.executable, "-c", program)
    child = int(build.started())
    try:
        build.process.kill()
        build.process.wait()
        wait_until(lambda: not pool.status().waiters, "nobody waits")
        (bell,) = pool.dir.glob("bells/*-1")
        wait_until(lambda: bells.listen(str(bell)) == (None, False), "nobody has its bell")
    finally:
        os.kill(child, signal.SIGKILL)


def test_keyboard_interrupt_leaves_the_line(pool: Pool) -> None:
    """Ctrl-C during `acquire()` ends the wait; the process may go on."""
    first = pool.build("-n1")
    first.started()
    program = (
        "from buildslots import SlotPool, journal\n"
        "from buildslots.disk import wait\n"  # a Ctrl-C may be dropped in an import's callbacks
        "try: SlotPool(slots=1).acquire()\n"
        "except KeyboardInterrupt: print('interrupted', flush=True)\n"
        "input()\n"
    )
    build = pool.popen(sys.executable, "-c", program)
    wait_until(lambda: pool.status().waiters, "a waiter")
    build.process.send_signal(signal.SIGINT)
    assert build.started() == "interrupted"
    # What it was about to do stands in the traceback, as long as there is one.
    wait_until(lambda: (pool.status().waiters, pool.leftovers()) == ((), []), "the line without it")


def test_a_nested_slot_hands_the_nesting_on(pool: Pool) -> None:
    """`environ()` of an inner slot makes a child nested just as that of the outer one."""
    with build_slot(slots=1) as outer, build_slot(slots=1) as inner:
        assert inner.environ() == outer.environ()
        command = [script("slot-run"), "-n1", "-t0", "--on-timeout=fail", "sh", "-c", "echo $BUILD_SLOT"]
        environ = inner.environ()
        assert subprocess.run(command, env=environ, capture_output=True, check=True).stdout == b"0\n"
        assert inner.environ(environ) == environ


def test_one_build_slot_object_in_many_threads(pool: Pool) -> None:
    """Each thread leaves its own block, whoever came last."""
    shared = build_slot(slots=2)
    entered, leave = threading.Event(), threading.Event()

    def first() -> None:
        with shared:
            entered.set()
            leave.wait(DEADLINE_S)

    thread = threading.Thread(target=first)
    thread.start()
    entered.wait(DEADLINE_S)
    with shared as slot:
        assert slot.number == 1
        leave.set()
        thread.join(DEADLINE_S)
        assert pool.held() == [1]
    assert pool.held() == []


def test_a_forked_child_whose_pool_failed_is_not_stopped(pool: Pool) -> None:
    """The nesting check of a forked child degrades like everything else."""

    def child() -> bool:
        (pool.dir / "holders").rename(pool.dir / "kept")
        (pool.dir / "holders").write_text("")
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            with build_slot(slots=1) as slot:
                return slot.number is None

    with build_slot(slots=1):
        assert in_fork(child)


def test_a_child_with_the_descriptors_holds_the_slot_of_a_killed_program(pool: Pool) -> None:
    """`pass_fds=slot.descriptors` does for Python code what slot-run does."""
    program = (
        "import subprocess\n"
        "from buildslots import build_slot\n"
        "with build_slot(slots=1) as slot:\n"
        "    subprocess.run(['sh', '-c', 'echo started; read line'], pass_fds=slot.descriptors)\n"
    )
    build = pool.popen(sys.executable, "-c", program)
    build.started()
    waiter = pool.queued("-n1")
    build.process.kill()
    build.process.wait()
    wait_until(lambda: pool.status().holders[0].orphaned, "the orphan")
    assert not waiter.is_started()
    build.process.stdin.close()
    assert waiter.started() == "0"


def test_a_directory_that_fails_is_a_warning(pool: Pool) -> None:
    """The block runs without a slot, and `environ()` says so."""
    pool.dir.write_text("a file")
    with pytest.warns(UnthrottledWarning, match="Not a directory") as caught, build_slot() as slot:
        assert (slot.number, slot.overflow, slot.nested, slot.descriptors) == (None, False, False, [])
        assert "BUILD_SLOT" not in slot.environ({"BUILD_SLOT": "3"})
    assert caught[0].message.pool == "default"
    assert caught[0].filename == __file__


def test_no_home_is_a_warning(monkeypatch: pytest.MonkeyPatch) -> None:
    """The constructor does not fail where no directory can be named."""

    def no_home(_: object) -> str:
        raise FileNotFoundError(2, "no home directory")

    monkeypatch.setattr("buildslots.settings.places.cache_dir", no_home)
    pool = SlotPool()
    with pytest.warns(UnthrottledWarning, match="no home directory"):
        pool.acquire().release()
    with pytest.raises(FileNotFoundError):
        pool.status()


def test_named_pools_are_apart(pool: Pool) -> None:
    """A full pool does not keep another one waiting, and lies below the default one."""
    with SlotPool(slots=1).acquire(), SlotPool("link", slots=1).acquire() as link:
        assert (link.pool, link.number) == ("link", 0)
        assert (pool.dir / "pools" / "link" / "slot-0").exists()


def test_descriptors_of_a_slot(pool: Pool) -> None:
    """They are open until the release, and then nobody's."""
    slot = SlotPool(slots=1).acquire()
    assert len(slot.descriptors) == 2
    assert not any(os.get_inheritable(fd) for fd in slot.descriptors)
    slot.release()
    with pytest.raises(SlotReleasedError):
        slot.descriptors  # noqa: B018


def test_a_forked_child_that_leaves_the_block_has_no_copies(pool: Pool) -> None:
    """It lives on without what would hold the slot of its killed parent."""

    def child() -> bool:
        copies = slot.descriptors
        slot.__exit__(None, None, None)
        for fd in copies:
            with pytest.raises(OSError, match="Bad file descriptor"):
                os.fstat(fd)
        return True

    with SlotPool(slots=1).acquire() as slot:
        assert in_fork(child)


@pytest.mark.parametrize("weight", [1, 2])
def test_a_daemon_s_own_files_are_left_alone(pool: Pool, weight: int) -> None:
    """It closes all that it has inherited, and opens files that have the same numbers then."""

    def child() -> bool:
        os.closerange(3, 256)
        own = [os.open(os.devnull, os.O_RDONLY) for _ in range(32)]
        slot.__exit__(None, None, None)
        del held[:]
        gc.collect()
        for fd in own:
            os.fstat(fd)
        return True

    held = [SlotPool(slots=4).acquire()]
    with SlotPool(slots=4).acquire(weight=weight) as slot:
        assert in_fork(child)
    for other in held:
        other.release()


def test_what_a_program_has_closed_and_opened_is_not_closed_in_a_child(tmp_path: Path) -> None:
    """A daemon closes all there is; the numbers of what is kept from children are those of its files then."""
    kept = os.open(os.devnull, os.O_RDONLY)
    processes.keep_from_children(kept)
    os.close(kept)
    own = os.open(tmp_path, os.O_RDONLY)
    assert own == kept
    try:
        assert in_fork(lambda: bool(os.fstat(own)))
    finally:
        processes.close_kept(own)


def test_importing_is_cheap() -> None:
    """`import buildslots` loads nothing but the package itself."""
    program = (
        "import sys; before = set(sys.modules); import buildslots; "
        "print(sorted(set(sys.modules) - before - {'__future__'}))"
    )
    out = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert out.stdout == "['buildslots']\n"


def test_an_interrupt_when_the_slot_is_taken_already(pool: Pool, monkeypatch: pytest.MonkeyPatch) -> None:
    """Neither the slot nor the place in line is kept, though the traceback lives."""
    first = pool.build("-n1")
    first.started()
    make = Slot.__init__

    def interrupted(*args: object, **options: object) -> None:
        monkeypatch.setattr(Slot, "__init__", make)
        raise KeyboardInterrupt

    monkeypatch.setattr(Slot, "__init__", interrupted)
    ender = threading.Thread(
        target=lambda: (wait_until(lambda: pool.status().waiters, "a waiter"), first.finish())
    )
    ender.start()
    with pytest.raises(KeyboardInterrupt) as kept:
        SlotPool(slots=1).acquire()
    ender.join()
    assert (pool.held(), pool.leftovers()) == ([], [])
    assert kept.value is not None
    SlotPool(slots=1).try_acquire().release()


INTERRUPTED_RELEASE = """
import os, signal, sys
from buildslots import SlotPool

slot = SlotPool(slots=2).acquire(weight=2)
if os.fork() == 0:
    sys.stdin.read()
    os._exit(0)
unlocks = iter(range(int(sys.argv[1])))
at = [True]

def interrupt(event, _):
    if at[0] and event == "fcntl.flock" and next(unlocks, None) is None:
        at[0] = False
        os.kill(os.getpid(), signal.SIGINT)

sys.addaudithook(interrupt)
try:
    slot.release()
except KeyboardInterrupt:
    print("interrupted", flush=True)
sys.stdin.read()
"""


@pytest.mark.parametrize("unlocked", [0, 1])
def test_an_interrupted_release_leaves_nothing_to_a_forked_child(pool: Pool, unlocked: int) -> None:
    """It comes before the first or the second of two slots is unlocked, and a child has copies of both."""
    build = pool.popen(sys.executable, "-c", INTERRUPTED_RELEASE, str(unlocked))
    assert build.started() == "interrupted"
    assert pool.held() == []


def test_a_released_slot_says_so(pool: Pool) -> None:
    """Whatever a build needs of it raises then, nested or not, and `released` tells without."""
    with build_slot(slots=1) as outer, build_slot(slots=1) as inner:
        assert (outer.released, inner.released) == (False, False)
    for slot in (outer, inner):
        assert slot.released
        with pytest.raises(SlotReleasedError, match="slot 0 of pool 'default' has already been released"):
            slot.environ()
        with pytest.raises(SlotReleasedError):
            slot.descriptors  # noqa: B018
        with pytest.raises(SlotReleasedError), slot:
            pytest.fail("entered")
    assert slots_here().get(()) == ()


def test_a_pool_is_a_block(pool: Pool) -> None:
    """`with pool:` is `with build_slot(pool):`, for threads and tasks; pickled it has entered nothing."""
    one = SlotPool(slots=1)
    with one as outer, one as inner, build_slot(one, timeout="10m", weight=1) as third:
        assert (outer.number, inner.nested, third.nested, pool.held()) == (0, True, True, [0])
        again = pickle.loads(pickle.dumps(one))
        assert (again.cap, again._entered) == (1, {})

    async def main() -> None:
        async with one as slot, build_slot(one) as inner:
            assert (slot.number, inner.nested, pool.held()) == (0, True, [0])

    asyncio.run(main())
    assert (pool.held(), outer.released) == ([], True)


@pytest.mark.parametrize("name", ["slots", "gates", "dir"])
def test_a_pool_object_has_its_settings(name: str) -> None:
    """What belongs to it cannot be said beside it."""
    with pytest.raises(TypeError, match=f"^{name} is for the SlotPool"):
        build_slot(SlotPool(slots=1), **{name: Gates(max_load=1) if name == "gates" else 1})


@pytest.mark.parametrize("timeout", ["1m30s", "90", dt.timedelta(seconds=90), 90, 90.0])
def test_timeouts_in_people_s_words(pool: Pool, timeout: str | float) -> None:
    """A text or a timedelta is as good as seconds, wherever a timeout is taken."""
    one = SlotPool(slots=1, timeout=timeout)
    assert one._settings is not None
    assert one._settings.timeout_s == 90
    one.acquire(timeout=timeout).release()
    with build_slot(timeout=timeout):
        pass
    assert SlotPool(timeout="none")._settings.timeout_s is None  # type: ignore[union-attr]


@pytest.mark.parametrize(
    "options",
    [
        {"timeout": "soon"},
        {"timeout": dt.timedelta(-1)},
        {"slots": 0},
        {"on_timeout": "explode"},
        {"weight": 0},
        {"dir": ""},
        {"pool": "a/b"},
        {"label": " "},
    ],
)
def test_wrong_settings_of_a_block_raise_where_they_are_written(options: dict[str, Any]) -> None:
    """Not when a decorated function is called for the first time."""
    with pytest.raises(SettingError, match=next(iter(options))):
        build_slot(**options)


def test_a_label_names_the_build(pool: Pool) -> None:
    """In the pool's records, for holders and waiters, and in the journal."""
    one = SlotPool(slots=1)
    with one.acquire(label="web: bundle"):
        assert pool.status().holders[0].command == ("web: bundle",)
        thread = threading.Thread(target=lambda: one.acquire(label="docs").release())
        thread.start()
        wait_until(lambda: pool.status().waiters, "a waiter")
        assert pool.status().waiters[0].command == ("docs",)
    thread.join(DEADLINE_S)
    with build_slot(label="third/party"):
        assert pool.status().holders[0].command == ("third/party",)
    with open(os.path.join(state_dir(os.environ), "journal.jsonl"), encoding="ascii") as journal:
        assert {json.loads(line)["program"] for line in journal} == {"web: bundle", "docs", "third/party"}


def test_settings_of_a_decorator_are_resolved_at_the_call(
    pool: Pool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Those of a block where it is made, also if it is entered often, or pickled."""
    monkeypatch.setenv("BUILD_SLOTS_POOL", "web")

    @build_slot()
    def where() -> list[Path]:
        return [path for path in pool.dir.glob("pools/*") if (path / "slot-0").exists()]

    guard = build_slot()
    for name in ("link", "docs"):
        monkeypatch.setenv("BUILD_SLOTS_POOL", name)
        assert pool.dir / "pools" / name in where()
    for block in (guard, pickle.loads(pickle.dumps(guard))):
        with block as slot:
            assert slot.pool == "web"


def test_a_relative_directory_stays_where_it_was_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The program may change its directory before the block."""
    monkeypatch.chdir(tmp_path)

    @build_slot(dir="slots", slots=1)
    def where() -> bool:
        return (tmp_path / "slots" / "slot-0").exists()

    monkeypatch.chdir("/")
    assert where()


def test_all_can_be_referred_to_weakly(pool: Pool) -> None:
    """A registry of pools or slots must not keep them."""
    one = SlotPool(slots=1)
    with build_slot(one) as slot:
        for thing in (one, slot, build_slot(one), one.status(), one.status().holders[0], Gates(max_load=1)):
            assert weakref.ref(thing)() is thing
    lost = weakref.ref(slot)
    del slot, thing
    gc.collect()
    assert lost() is None


def test_slots_can_be_disabled(pool: Pool, monkeypatch: pytest.MonkeyPatch) -> None:
    """By a variable: nothing is made, held or said; a wrong value is one line, and ignored."""
    monkeypatch.setenv("BUILD_SLOTS_DISABLE", "1")
    with build_slot(slots=1) as slot, SlotPool(slots=1).acquire() as other:
        assert (slot.number, other.number, slot.nested, slot.descriptors) == (None, None, False, [])
    result = pool.slot_run(
        "-n1", "sh", "-c", 'echo "${BUILD_SLOT-none}"', environ={"BUILD_SLOTS_DISABLE": "1"}
    )
    assert (result.returncode, result.stdout, result.stderr) == (0, "none\n", "")
    assert not pool.dir.exists()
    monkeypatch.setenv("BUILD_SLOTS_DISABLE", "0")
    with build_slot(slots=1) as slot:
        assert slot.number == 0
    monkeypatch.setenv("BUILD_SLOTS_DISABLE", "maybe")
    with pytest.warns(RuntimeWarning, match="BUILD_SLOTS_DISABLE: 'maybe' is neither 1 nor 0; ignored"):
        SlotPool()


def test_the_package_is_a_command(pool: Pool) -> None:
    """`python -m buildslots` is `buildslots`, where no script is on PATH."""
    result = pool.run(sys.executable, "-m", "buildslots", "status")
    assert (result.returncode, result.stderr) == (0, "")
    assert result.stdout == pool.run(script("buildslots"), "status").stdout
    wrong = pool.run(sys.executable, "-m", "buildslots", "nonsense")
    assert wrong.returncode == 2
    assert wrong.stderr.startswith("usage: buildslots ")


@pytest.mark.linux
@pytest.mark.parametrize("fd", [0, 1, 2])
def test_a_program_without_stdout(pool: Pool, fd: int) -> None:
    """Nothing of the pool gets the number of a descriptor that was closed, before or while it has a slot."""
    program = (
        "import os, sys\n"
        "from buildslots import SlotPool\n"
        "fd = int(sys.argv[1])\n"
        "def where(): return os.readlink(f'/proc/self/fd/{fd}')\n"
        "slot = SlotPool(slots=1).acquire()\n"
        "first = where()\n"
        "os.close(fd)\n"
        "handed = slot.descriptors\n"
        "ok = first == where() == os.devnull and min(handed) > 2\n"
        "slot.release()\n"
        "sys.exit(not ok)\n"
    )
    closed = f'exec "$0" -c "$1" {fd} {fd}>&-'
    assert pool.run("sh", "-c", closed, sys.executable, program).returncode == 0


def test_a_knock_does_not_end_a_program_with_its_own_sigpipe(pool: Pool, tmp_path: Path) -> None:
    """Who is knocked at leaves between our open and our write, and the program has SIGPIPE at SIG_DFL."""
    program = (
        "import os, signal, sys\n"
        "from buildslots.disk import bells\n"
        "signal.signal(signal.SIGPIPE, signal.SIG_DFL)\n"
        "os.mkfifo(sys.argv[1])\n"
        "reader, write = os.open(sys.argv[1], os.O_RDONLY | os.O_NONBLOCK), os.write\n"
        "def late(fd, text):\n"
        "    os.close(reader)\n"
        "    return write(fd, text)\n"
        "os.write = late\n"
        "bells.knock(sys.argv[1])\n"
    )
    result = pool.run(sys.executable, "-c", program, str(tmp_path / "bell"))
    assert (result.returncode, result.stderr) == (0, "")


def test_contexts_forget_what_was_released_elsewhere(pool: Pool) -> None:
    """A thread that enters blocks which others leave does not keep them all."""
    many = SlotPool(slots=100)
    for _ in range(50):
        stack = ExitStack()
        stack.enter_context(many.acquire())
        thread = threading.Thread(target=stack.close)
        thread.start()
        thread.join()
    with many:
        assert len(slots_here().get()) == 1


def test_one_guard_in_many_contexts(pool: Pool) -> None:
    """Whichever context a block ends in, no exit fails, and each ends one entry."""
    guard = build_slot(slots=9)
    first, second = contextvars.copy_context(), contextvars.copy_context()
    one, two = first.run(guard.__enter__), second.run(guard.__enter__)
    first.run(guard.__exit__, None, None, None)
    assert (one.released, two.released) == (True, False)
    guard.__exit__(None, None, None)  # the second context keeps what was released here
    assert two.released
    guard.__enter__()
    second.run(guard.__exit__, None, None, None)
    assert (pool.held(), guard._entered) == ([], {})


def test_a_stack_that_is_closed_elsewhere_ends_its_own_block(pool: Pool) -> None:
    """A service enters a guard in a task that ends, and others are under the guard meanwhile."""
    guard = build_slot(slots=9)

    async def main() -> None:
        stack = AsyncExitStack()
        service = await asyncio.create_task(stack.enter_async_context(guard))
        async with guard as request:
            await asyncio.create_task(stack.aclose())
            assert (service.released, request.released) == (True, False)
            setup = AsyncExitStack()
            fixture = await asyncio.create_task(setup.enter_async_context(guard))
            assert fixture.nested
            await asyncio.create_task(setup.aclose())
            assert (fixture.released, request.released) == (True, False)

    asyncio.run(main())
    assert pool.held() == []
