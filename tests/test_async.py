"""`async with`, cancellation, the decorator: what tasks and threads may do while they wait."""

from __future__ import annotations

import asyncio
import errno
import fcntl
import functools
import inspect
import os
import sys
import threading
import time
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import AsyncExitStack, asynccontextmanager, contextmanager
from typing import TYPE_CHECKING, Any
from unittest.mock import Mock

import anyio
import anyio.lowlevel
import pytest
import trio
from builds import DEADLINE_S, Pool, wait_until

from buildslots import (
    SettingError,
    Slot,
    SlotCancelledError,
    SlotPool,
    SlotTimeoutError,
    UnthrottledWarning,
    aio,
    build_slot,
)
from buildslots.admission import Admission
from buildslots.disk import ears, lock
from buildslots.disk.directory import REFUSED_S, PoolDirectory
from buildslots.slot import slots_here

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable, Iterator

    Run = Callable[[Callable[[], Awaitable[object]]], Any]

# What the tests do themselves is anyio's, which runs in a task of either library, whoever started its loop.
LOOPS = {
    "asyncio": lambda main: asyncio.run(main()),
    "trio": trio.run,
    "anyio on asyncio": functools.partial(anyio.run, backend="asyncio"),
    "anyio on trio": functools.partial(anyio.run, backend="trio"),
}


@pytest.fixture(params=LOOPS.values(), ids=list(LOOPS))
def run(request: pytest.FixtureRequest) -> Run:
    """What runs a coroutine function in each kind of loop."""
    return request.param  # type: ignore[no-any-return]


def descriptors() -> set[str]:
    return set(os.listdir("/dev/fd"))


async def until(condition: Callable[[], object], what: str) -> None:
    """`builds.wait_until`, while other tasks run."""
    with anyio.move_on_after(DEADLINE_S):
        while not condition():  # noqa: ASYNC110 - of other processes, too
            await anyio.sleep(0.002)
        return
    pytest.fail(f"not reached: {what}")


def in_line(pool: Pool) -> int:
    return len(pool.status().waiters)


def test_many_tasks(pool: Pool, run: Run) -> None:
    """Twelve tasks on three slots: three at a time, in order, and others run meanwhile."""
    three = SlotPool(slots=3, timeout=None)
    started: list[int] = []
    running = peak = ticks = 0
    full = False

    async def build(number: int) -> None:
        nonlocal running, peak, full
        with await three.acquire_async():
            started.append(number)
            running += 1
            peak = max(peak, running)
            full = full or running == 3
            before = ticks
            await until(lambda: full and ticks > before, "three at once, and a tick")
            running -= 1

    async def tick() -> None:
        nonlocal ticks
        while len(started) < 12 or running:
            ticks += 1
            await anyio.lowlevel.checkpoint()

    async def main() -> None:
        async with anyio.create_task_group() as group:
            group.start_soon(tick)
            for number in range(12):
                group.start_soon(build, number)
                await until(lambda n=number: len(started) + in_line(pool) > n, "the task has a place")

    before = descriptors()
    run(main)
    assert (peak, started) == (3, list(range(12)))
    assert (pool.held(), pool.leftovers(), descriptors()) == ([], [], before)


@pytest.mark.parametrize("sleeps", [0, 1, 2, 3])
@pytest.mark.parametrize("when", ["before", "during"])
def test_cancelled_at_any_await(
    pool: Pool, run: Run, monkeypatch: pytest.MonkeyPatch, sleeps: int, when: str
) -> None:
    """After so many sleeps, before the next one or in it: nothing in line and no descriptor is left."""
    monkeypatch.setattr(ears, "GLANCE_S", 0.01)
    sleep, slept = aio._sleep, 0
    before = descriptors()

    async def main() -> None:
        with anyio.CancelScope() as scope:

            async def counted(poll: Any, seconds: float) -> None:
                nonlocal slept
                if slept == sleeps:
                    scope.cancel()
                    if when == "before":
                        await anyio.lowlevel.checkpoint()
                await sleep(poll, seconds)
                slept += 1

            monkeypatch.setattr(aio, "_sleep", counted)
            await SlotPool(slots=1).acquire_async()
        assert scope.cancelled_caught
        assert (in_line(pool), pool.leftovers()) == (0, [])

    with SlotPool(slots=1).acquire():
        run(main)
    assert slept == sleeps
    assert (pool.held(), descriptors()) == ([], before)


def test_cancelled_at_the_moment_of_the_release(pool: Pool, run: Run) -> None:
    """The task has the slot or was cancelled, and in neither case is it lost."""
    outcomes = []

    async def main() -> None:
        slot = SlotPool(slots=1).acquire()
        async with anyio.create_task_group() as group:
            scope = anyio.CancelScope()

            async def waiter() -> None:
                with scope:
                    taken = await SlotPool(slots=1).acquire_async()
                    outcomes.append("slot")
                    taken.release()
                if scope.cancelled_caught:
                    outcomes.append("cancelled")

            group.start_soon(waiter)
            await until(lambda: in_line(pool), "a waiter")
            slot.release()
            scope.cancel()

    before = descriptors()
    run(main)
    assert outcomes in (["slot"], ["cancelled"])
    assert (pool.held(), pool.leftovers(), descriptors()) == ([], [], before)


def test_the_end_of_a_timeout(pool: Pool, run: Run) -> None:
    """A slot beyond the cap, or an error; a pool that cannot be used is a warning at the caller's line."""

    async def main() -> None:
        one = SlotPool(slots=1)
        with one.acquire():
            with await one.acquire_async(timeout=0.05) as beyond:
                assert (beyond.number, beyond.overflow, beyond.waited_s >= 0.05) == (1, True, True)
            with pytest.raises(SlotTimeoutError):
                await one.acquire_async(0.05, "fail")
            with pytest.raises(SettingError):
                await one.acquire_async(weight=0)
        pool.dir.rename(f"{pool.dir}.old")
        pool.dir.touch()
        with pytest.warns(UnthrottledWarning) as caught:
            assert (await one.acquire_async()).number is None
        assert caught[0].filename == __file__
        pool.dir.unlink()

    before = descriptors()
    run(main)
    assert descriptors() == before


def test_nesting_in_tasks(pool: Pool, run: Run) -> None:
    """Inside the block, and in tasks started there, the slot is the same; elsewhere it is another one."""
    seen: dict[str, tuple[int | None, bool]] = {}

    async def note(name: str) -> None:
        async with build_slot(slots=2) as slot:
            seen[name] = (slot.number, slot.nested)

    async def main() -> None:
        async with build_slot(slots=2) as slot:
            assert (slot.number, slot.nested) == (0, False)
            await note("same task")
            async with anyio.create_task_group() as inner:
                inner.start_soon(note, "task of the block")
            with build_slot(slots=2) as sync:
                seen["sync"] = (sync.number, sync.nested)
            await until(lambda: "outside" in seen, "the other task")
        await note("after")

    async def both() -> None:
        async with anyio.create_task_group() as group:
            group.start_soon(main)
            await until(lambda: pool.held() == [0], "the block")
            await note("outside")

    run(both)
    assert seen == {
        "same task": (0, True),
        "task of the block": (0, True),
        "sync": (0, True),
        "outside": (1, False),
        "after": (0, False),
    }
    assert pool.held() == []


def test_a_coroutine_that_is_closed(pool: Pool) -> None:
    """As a loop does that ends with its tasks unfinished."""
    before = descriptors()

    async def main() -> None:
        waiting = asyncio.create_task(SlotPool(slots=1).acquire_async())
        await until(lambda: in_line(pool), "a waiter")
        assert not waiting.done()

    with SlotPool(slots=1).acquire():
        asyncio.run(main())
        assert (in_line(pool), pool.leftovers()) == (0, [])
    assert (pool.held(), descriptors()) == ([], before)


def test_asyncio_s_own_ways_to_cancel(pool: Pool) -> None:
    """`wait_for`, `timeout` and a task group that fails."""

    async def main() -> None:
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(SlotPool(slots=1).acquire_async(), 0.05)
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.05):
                await SlotPool(slots=1).acquire_async()
        with pytest.raises(ExceptionGroup):  # noqa: PT012 - the group is what is tested
            async with asyncio.TaskGroup() as group:
                group.create_task(SlotPool(slots=1).acquire_async())
                await until(lambda: in_line(pool), "a waiter")
                raise KeyError
        assert (in_line(pool), pool.leftovers()) == (0, [])

    with SlotPool(slots=1).acquire():
        asyncio.run(main())


def test_left_in_another_task_than_entered(pool: Pool) -> None:
    """As an exit stack may be: the slot is free after that."""

    async def main() -> None:
        stack = AsyncExitStack()
        await asyncio.create_task(stack.enter_async_context(build_slot(slots=1)))
        assert pool.held() == [0]
        await asyncio.create_task(stack.aclose())
        assert pool.held() == []

    asyncio.run(main())


# Threads.


def test_a_wait_in_a_thread_is_cancelled(pool: Pool) -> None:
    """By an event that another thread sets; whoever is behind moves up."""
    one, event, ended = SlotPool(slots=1), threading.Event(), []

    def wait_for_it() -> None:
        with pytest.raises(SlotCancelledError, match="'default' was cancelled") as caught:
            one.acquire(cancel=event)
        ended.append(caught.value.pool)

    before = descriptors()
    with one.acquire():
        thread = threading.Thread(target=wait_for_it)
        thread.start()
        wait_until(lambda: in_line(pool), "a waiter")
        event.set()
        thread.join(DEADLINE_S)
        assert (ended, in_line(pool), pool.leftovers()) == (["default"], 0, [])
    assert descriptors() == before


def test_an_event_that_nobody_sets_changes_nothing(pool: Pool) -> None:
    """The timeout and the release come as without."""
    one, event = SlotPool(slots=1), threading.Event()
    first = one.acquire()
    with pytest.raises(SlotTimeoutError):
        one.acquire(0.3, "fail", cancel=event)
    got = []
    thread = threading.Thread(target=lambda: got.append(one.acquire(cancel=event)))
    thread.start()
    wait_until(lambda: in_line(pool), "a waiter")
    first.release()
    thread.join(DEADLINE_S)
    assert got[0].number == 0
    got[0].release()


@contextmanager
def traced(trace: Any) -> Iterator[None]:
    """With `trace` called for each line."""
    sys.settrace(trace)
    try:
        yield
    finally:
        sys.settrace(None)


def suspended(steps: Any) -> bool:
    """Whether the wait is between two steps."""
    return inspect.getgeneratorstate(steps) == inspect.GEN_SUSPENDED if steps is not None else False


def lines_of_a_wait() -> list[int]:
    """The lines of `Admission.acquire` that run while a wait is suspended."""
    lines: list[int] = []

    def trace(frame: Any, event: str, _: object) -> Any:
        if frame.f_code is not Admission.acquire.__code__:
            return None
        steps = frame.f_locals.get("steps")
        if event == "line" and suspended(steps) and frame.f_lineno not in lines:
            lines.append(frame.f_lineno)
        return trace

    with SlotPool(slots=1).acquire(), traced(trace), pytest.raises(SlotTimeoutError):
        SlotPool(slots=1).acquire(0.05, "fail")
    return lines


def test_an_exception_at_any_line_leaves_nothing_in_line(pool: Pool) -> None:
    """As Ctrl-C may raise one, also between two steps of the wait; even while its traceback is kept."""
    lines = lines_of_a_wait()
    assert lines

    def trace(frame: Any, event: str, _: object) -> Any:
        if frame.f_code is not Admission.acquire.__code__:
            return None
        steps = frame.f_locals.get("steps")
        if event == "line" and frame.f_lineno == line and suspended(steps):
            raise KeyboardInterrupt
        return trace

    for line in lines:
        with SlotPool(slots=1).acquire(), traced(trace), pytest.raises(KeyboardInterrupt) as caught:
            SlotPool(slots=1).acquire()
        assert (caught.value.__traceback__ is not None, pool.leftovers()) == (True, []), line


# The decorator.


def test_a_function_runs_under_a_slot(pool: Pool) -> None:
    """Each call, also within another; it keeps its name and its value."""

    @build_slot(slots=1)
    def factorial(n: int) -> int:
        """Multiply."""
        assert pool.held() == [0]
        return n * factorial(n - 1) if n else 1

    assert factorial(4) == 24
    assert (factorial.__name__, factorial.__doc__, pool.held()) == ("factorial", "Multiply.", [])
    with pytest.raises(RecursionError):
        factorial(-1)
    assert pool.held() == []


def test_a_method_runs_under_a_slot(pool: Pool) -> None:
    """With its object, and as a static one or one of the class."""

    class Maker:
        @build_slot(slots=1)
        def make(self, what: str) -> tuple[object, str, list[int]]:
            return self, what, pool.held()

        @classmethod
        @build_slot(slots=1)
        def of_class(cls) -> tuple[object, list[int]]:
            return cls, pool.held()

        @staticmethod
        @build_slot(slots=1)
        def static() -> list[int]:
            return pool.held()

    maker = Maker()
    assert maker.make("all") == (maker, "all", [0])
    assert Maker.of_class() == (Maker, [0])
    assert Maker.static() == [0]


def test_a_coroutine_runs_under_a_slot(pool: Pool, run: Run) -> None:
    """Until it has ended, and one after the other; so does an object that is called like one."""
    peak = running = 0

    async def body() -> int:
        nonlocal peak, running
        running += 1
        peak = max(peak, running)
        for _ in range(5):
            assert pool.held() == [0]
            await anyio.lowlevel.checkpoint()
        running -= 1
        return running

    class Called:
        async def __call__(self) -> int:
            return await body()

    async def main() -> None:
        for function in (body, functools.partial(body), Called()):
            under = build_slot(slots=1)(function)
            async with anyio.create_task_group() as group:
                for _ in range(4):
                    group.start_soon(under)

    run(main)
    assert (peak, pool.held(), pool.leftovers()) == (1, [], [])


def test_generators_are_refused() -> None:
    """Their body would run after the slot was released."""

    def generator() -> Iterator[int]:
        yield 1

    async def async_generator() -> AsyncIterator[int]:
        yield 1

    for function in (generator, async_generator):
        with pytest.raises(TypeError, match=f"{function.__name__} is a generator function: use `with"):
            build_slot()(function)


def wraps_it(function: Callable[..., Any]) -> Callable[..., Any]:
    """Another decorator, which returns what `function` returns."""

    @functools.wraps(function)
    def wrapper(*args: Any) -> Any:
        return function(*args)

    return wrapper


def hides_it(function: Callable[..., Any]) -> Callable[..., Any]:
    """The same without saying what it wraps."""
    return lambda *args: function(*args)  # noqa: PLW0108 - it is to hide it


@pytest.mark.parametrize("wrapper", [wraps_it, hides_it])
def test_what_returns_a_coroutine_is_awaited_under_the_slot(
    pool: Pool, run: Run, wrapper: Callable[..., Any]
) -> None:
    """Twelve at once, on one slot, whoever calls: they neither run together nor block the loop."""
    peak = running = 0

    @build_slot(slots=1, timeout=None)
    @wrapper
    async def body(number: int) -> int:
        nonlocal peak, running
        running += 1
        peak = max(peak, running)
        for _ in range(3):
            assert pool.held() == [0]
            await anyio.lowlevel.checkpoint()
        running -= 1
        return number

    async def main() -> None:
        async with anyio.create_task_group() as group:
            for number in range(12):
                group.start_soon(body, number)

    run(main)
    assert asyncio.run(body(3)) == 3  # called outside of the loop
    assert (peak, pool.held(), pool.leftovers()) == (1, [], [])


def test_a_wrapper_that_makes_a_coroutine_function_an_ordinary_one(pool: Pool) -> None:
    """It is called under the slot, and returns what it returns."""

    def in_a_loop(function: Callable[..., Any]) -> Callable[..., Any]:
        @functools.wraps(function)
        def wrapper(*args: Any) -> Any:
            return asyncio.run(function(*args))

        return wrapper

    @build_slot(slots=1)
    @in_a_loop
    async def body() -> list[int]:
        return pool.held()

    assert (body(), pool.held()) == ([0], [])


def test_a_future_keeps_the_slot_until_it_is_done(pool: Pool) -> None:
    """Work that goes on in a thread or a task after the function has returned; the caller is not under it."""
    go = threading.Event()
    with ThreadPoolExecutor() as executor:

        @build_slot(slots=1)
        def submit() -> Future[list[int]]:
            return executor.submit(lambda: go.wait(DEADLINE_S) and pool.held())

        future = submit()
        assert pool.held() == [0]
        assert slots_here().get(()) == ()
        go.set()
        assert future.result() == [0]
    assert pool.held() == []

    async def main() -> None:
        async def work() -> list[int]:
            await asyncio.sleep(0)
            return pool.held()

        @build_slot(slots=1)
        def start() -> asyncio.Task[list[int]]:
            return asyncio.create_task(work())

        assert await start() == [0]

    asyncio.run(main())
    assert pool.held() == []


def test_what_only_looks_like_a_future_is_a_value(pool: Pool) -> None:
    """A mock has all attributes, and an object of the caller's may have a generator in one."""

    class Source:
        def __init__(self) -> None:
            self.gen = (n for n in range(3))

    for value in (Mock(), Source(), [1], None):
        assert build_slot(slots=1)(hides_it(lambda value=value: value))() is value
    assert pool.held() == []


def test_what_returns_a_generator_is_refused_at_the_call(pool: Pool) -> None:
    """Also what contextlib makes of one, and what a coroutine returns: the body would run without a slot."""
    begun = []

    def generator() -> Iterator[int]:
        begun.append(1)
        yield 1

    async def async_generator() -> AsyncIterator[int]:
        yield 1

    async def late() -> Iterator[int]:
        return generator()

    for function in (
        generator,
        async_generator,
        contextmanager(generator),
        asynccontextmanager(async_generator),
    ):
        with pytest.raises(TypeError, match="returns a generator, which would run without a slot: use `with"):
            build_slot(slots=1)(hides_it(function))()
    with pytest.raises(TypeError, match="late returns a generator"):
        asyncio.run(build_slot(slots=1)(late)())
    assert (begun, pool.held()) == ([], [])


def test_what_has_no_call_is_refused_at_decoration() -> None:
    """A class, and what only becomes a function in one; a static method is one."""

    class Called:
        def __call__(self) -> Iterator[int]:
            yield 1

    with pytest.raises(TypeError, match="Called is a class: decorate the method"):
        build_slot()(Called)
    with pytest.raises(TypeError, match="is a generator function"):
        build_slot()(Called())
    for thing in (classmethod(len), property(len), functools.partialmethod(len)):
        kind = type(thing).__name__
        with pytest.raises(
            TypeError, match=rf"^a {kind} cannot be decorated: write @build_slot\(\) below @{kind}"
        ):
            build_slot()(thing)  # type: ignore[arg-type]


def test_a_static_method_stays_one(pool: Pool) -> None:
    """Also with the decorators in the other order, and through an object."""

    class Maker:
        @build_slot(slots=1)
        @staticmethod
        def make(what: str) -> tuple[str, list[int]]:
            return what, pool.held()

    assert Maker.make("all") == Maker().make("all") == ("all", [0])


def test_a_wait_of_a_task_is_cancelled_by_an_event(pool: Pool, run: Run) -> None:
    """As that of a thread; and `build_slot` takes one for both."""
    event = threading.Event()

    async def main() -> None:
        async with anyio.create_task_group() as group:

            async def wait_for_it() -> None:
                with pytest.raises(SlotCancelledError, match="'default' was cancelled"):
                    async with build_slot(slots=1, cancel=event):
                        pytest.fail("entered")

            group.start_soon(wait_for_it)
            await until(lambda: in_line(pool), "a waiter")
            event.set()

    before = descriptors()
    first = SlotPool(slots=1).acquire()  # not as a block, under which the tasks would be
    run(main)
    with pytest.raises(SlotCancelledError), build_slot(slots=1, cancel=event):
        pytest.fail("entered")
    assert (in_line(pool), pool.leftovers()) == (0, [])
    first.release()
    assert descriptors() == before


@pytest.mark.parametrize("kind", ["thread", "task"])
def test_a_poll_that_fails_stops_no_build(pool: Pool, kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """No memory for it, say: that is our machinery's fault, not the build's, wherever it waits."""
    # Raised as by poll(2): without a frame of a program, whose signal handler it might be.
    fails = Mock(side_effect=OSError(errno.ENOMEM, "no memory for poll"))
    monkeypatch.setattr(ears.Ears, "listen", fails)
    one = SlotPool(slots=1)
    other = pool.build("--slots", "1")
    other.started()
    with pytest.warns(UnthrottledWarning, match="no memory for poll"):
        slot = one.acquire() if kind == "thread" else asyncio.run(one.acquire_async())
    other.finish()
    assert slot.number is None
    assert (in_line(pool), pool.leftovers()) == (0, [])


def test_an_event_that_nobody_sets_changes_nothing_for_a_task(pool: Pool, run: Run) -> None:
    """The release and the timeout come as without."""

    async def main() -> None:
        one, event = SlotPool(slots=1), threading.Event()
        first = one.acquire()
        with pytest.raises(SlotTimeoutError):
            await one.acquire_async(0.3, "fail", cancel=event)
        async with anyio.create_task_group() as group:

            async def wait_for_it() -> None:
                with await one.acquire_async(cancel=event) as slot:
                    assert slot.number == 0

            group.start_soon(wait_for_it)
            await until(lambda: in_line(pool), "a waiter")
            first.release()

    run(main)
    assert pool.held() == []


def test_without_parentheses() -> None:
    """The mistake is named."""
    with pytest.raises(TypeError, match=r"write @build_slot\(\)"):

        @build_slot  # type: ignore[arg-type]
        def function() -> None: ...


def test_a_kqueue_is_asked_as_a_poll(monkeypatch: pytest.MonkeyPatch) -> None:
    """What a system without epoll listens with: the descriptors that have something, within the time."""
    import select  # noqa: PLC0415
    import types  # noqa: PLC0415

    asked: list[object] = []

    class Queue:
        def fileno(self) -> int:
            return 7

        def close(self) -> None:
            asked.append("closed")

        def control(self, changes: object, most: int, timeout: float | None = None) -> list[object]:
            asked.append((changes, most, timeout))
            return [types.SimpleNamespace(ident=5, filter=-1)] if most else []

    monkeypatch.delattr(select, "epoll")
    monkeypatch.setattr(select, "kqueue", Queue, raising=False)
    monkeypatch.setattr(select, "kevent", lambda *args: args, raising=False)
    for number, name in enumerate(("KQ_EV_ADD", "KQ_EV_CLEAR", "KQ_FILTER_READ")):
        monkeypatch.setattr(select, name, 2**number, raising=False)
    poll = aio._poll()()
    poll.register(5, 0)
    assert poll.poll(1500) == [(5, -1)]
    poll.close()  # type: ignore[attr-defined]
    assert (poll.fileno(), asked) == (7, [([(5, 4, 3)], 0, None), (None, 64, 1.5), "closed"])  # type: ignore[attr-defined]


# The mutex, which somebody else keeps.


@pytest.fixture
def kept_mutex(pool: Pool) -> Iterator[None]:
    """Somebody is stopped with the mutex of the pool."""
    with build_slot():
        pass
    with open(pool.dir / "mutex") as stuck:
        fcntl.flock(stuck, fcntl.LOCK_EX)
        yield


@pytest.mark.parametrize(
    "call",
    [
        lambda: SlotPool().status(),
        lambda: SlotPool().try_acquire(),
        lambda: SlotPool().acquire(0),
        lambda: SlotPool().acquire(timeout=0, on_timeout="fail"),
    ],
)
def test_what_does_not_wait_stops_no_loop_for_20_ms(
    kept_mutex: None, monkeypatch: pytest.MonkeyPatch, call: Callable[[], object]
) -> None:
    """Tasks call it: it hardly sleeps while somebody keeps the mutex, and has the slot all the same."""
    slept: list[float] = []
    tries = lock.Mutex.tries

    def counted(*args: object) -> Iterator[float]:
        for pause_s in tries(*args):  # type: ignore[arg-type]
            slept.append(pause_s)
            yield pause_s

    monkeypatch.setattr(lock.Mutex, "tries", counted)
    found = call()
    assert slept
    assert sum(slept) < 0.015
    if isinstance(found, Slot):
        assert (found.number, found.overflow) == (0, False)
        found.release()


def test_a_kept_mutex_stops_no_other_task(
    kept_mutex: None, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Who waits for it sleeps as tasks do, and never as a thread does."""
    monkeypatch.setattr(time, "sleep", lambda _: pytest.fail("the thread of the loop slept"))

    async def main() -> None:
        async with build_slot() as slot:
            assert slot.number == 0

    run(main)


def test_what_is_not_finished_yet_stops_no_other_task(pool: Pool, monkeypatch: pytest.MonkeyPatch) -> None:
    """In a group's pool another user makes something at this moment: that is looked at again, in between."""
    monkeypatch.setattr(time, "sleep", lambda _: pytest.fail("the thread of the loop slept"))
    pool.dir.mkdir(parents=True)
    pool.dir.chmod(0o2770)
    directory = PoolDirectory(str(pool.dir))
    refusals = iter(range(3))

    def action() -> str:
        if next(refusals, None) is not None:
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(pool.dir / "mutex"))
        return "done"

    for steps in (directory.under_mutex(action), directory.with_repairs(action)):
        refusals = iter(range(3))
        assert [seconds for _, seconds in steps] == [REFUSED_S] * 3
