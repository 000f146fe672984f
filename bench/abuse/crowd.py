"""Crowds: workers that are many callers at once, tasks or threads. Who kills the process kills them all.

Two callers of a process stand in line, and the others wait in memory behind them. Whoever leaves the line
makes the ticket of the next one, so the audit hook cannot tell whose it is. So a crowd does not mark that
tickets are made. Each caller marks that it waits, in line or in memory, when the library says so (`on_wait`).
"""

from __future__ import annotations

import asyncio
import fcntl
import os
import random
import threading
import time
import traceback
from contextvars import ContextVar
from typing import TYPE_CHECKING

from bench.abuse import marks
from bench.abuse.wishes import Wish
from bench.abuse.worker import Worker, path_of
from buildslots import SlotCancelledError, SlotTimeoutError, build_slot

if TYPE_CHECKING:
    from buildslots import Slot, Waiting

LEAST, MOST = 20, 60
"""Callers of a crowd."""
THREADS = 0.3
"""How many crowds are threads, and not tasks."""
QUITTERS = 0.2
"""How many callers are cancelled at some time."""
COME_S = 0.4
"""Within what time they come."""
HOLD_S = 0.004
"""How long they hold a slot on average."""
LOOK_S = 0.01
"""How often the crowd looks who is to be cancelled."""


class Caller:
    """One of a crowd.

    Attributes:
        before_ns: When it last asked for the lock of a slot: it had not counted the slots of others then.
        cancel: What cancels it, of a thread that is to be cancelled.
    """

    def __init__(self, crowd: Crowd, number: int, seed: int) -> None:
        self._crowd = crowd
        self._number = number
        self.rng = random.Random(seed)
        self._quits_at = float("inf")
        if self.rng.random() < QUITTERS:
            self._quits_at = time.monotonic() + self.rng.uniform(0.0, 3 * COME_S)
        self.before_ns = 0
        self.cancel = None if self._quits_at == float("inf") else threading.Event()

    def mark(self, kind: int, a: int = 0, b: int = 0, c: int = 0, d: int = 0) -> None:
        """Mark what it does."""
        self._crowd.ring.mark(kind, a, b, c, d, self._number)

    async def be_task(self) -> None:
        """Build some times, as a task."""
        CALLER.set(self)
        await asyncio.sleep(self.rng.uniform(0.0, COME_S))
        for _ in range(self.rng.randint(1, 3)):
            if self._crowd.goes_on():
                await self._build_as_task()

    async def _build_as_task(self) -> None:
        wish = self._crowd.wish(self.rng)
        block = self._crowd.block(wish)
        slot: Slot | None = None
        refused = False
        self._asks(wish)
        try:
            slot = await block.__aenter__()
        except SlotTimeoutError:
            refused = True
            return
        finally:  # it may be cancelled
            if slot is None:
                self.mark(marks.NOSLOT, b=refused)
        self._crowd.mark_start(slot, wish.cap, self.before_ns, self._number)
        try:
            await asyncio.sleep(self.rng.expovariate(1 / HOLD_S))
            async with self._crowd.inner_block(wish) as inner:
                self._crowd.mark_nested(slot, inner)
        finally:
            self.mark(marks.END)
            await block.__aexit__(None, None, None)
            self.mark(marks.IDLE)

    def be_thread(self) -> None:
        """Build some times, as a thread."""
        CALLER.set(self)
        try:
            time.sleep(self.rng.uniform(0.0, COME_S))
            for _ in range(self.rng.randint(1, 3)):
                if self._crowd.goes_on() and not (self.cancel and self.cancel.is_set()):
                    self._build_as_thread()
        except BaseException:  # noqa: BLE001 - a thread of ours has none to raise
            self._crowd.complain(traceback.format_exc())

    def _build_as_thread(self) -> None:
        wish = self._crowd.wish(self.rng)
        block = self._crowd.block(wish, self.cancel)
        self._asks(wish)
        try:
            slot = block.__enter__()
        except (SlotTimeoutError, SlotCancelledError) as error:
            self.mark(marks.NOSLOT, b=isinstance(error, SlotTimeoutError))
            return
        self._crowd.mark_start(slot, wish.cap, self.before_ns, self._number)
        time.sleep(self.rng.expovariate(1 / HOLD_S))
        with self._crowd.inner_block(wish) as inner:
            self._crowd.mark_nested(slot, inner)
        self.mark(marks.END)
        block.__exit__(None, None, None)
        self.mark(marks.IDLE)

    def _asks(self, wish: Wish) -> None:
        wish.mark(self._crowd.ring, self._number)
        self.before_ns = time.monotonic_ns()

    def is_to_quit(self, *, now: bool) -> bool:
        """Whether it is to be cancelled at this moment, or all are `now`; that is marked, and true once."""
        if self._quits_at == -1 or not (now or time.monotonic() > self._quits_at):
            return False
        self._quits_at = -1
        self.mark(marks.LEAVE)
        return True


CALLER: ContextVar[Caller] = ContextVar("caller")
"""Of the task or thread that runs."""


class Crowd(Worker):
    """A worker that is a crowd in place of each build; see `Worker`.

    It forks no child: that would be the heir of whatever others of the crowd hold at the moment.
    """

    def _be_odd(self) -> None:
        # A wrong clock would give those who wait in memory wrong numbers.
        pass

    def _build(self) -> None:
        """Be a crowd, of tasks or threads, until all of them are done."""
        rng = self._random
        callers = [Caller(self, n + 1, rng.randrange(2**31)) for n in range(rng.randint(LEAST, MOST))]
        everybody = Wish(self._slots, 1, marks.EVER, None, "normal")
        self._shared = everybody, self._new_block(everybody)
        self._all_quit = False
        self._plan(40 * len(callers))
        self._watching = True
        if rng.random() < THREADS:
            self._run_threads(callers)
        else:
            asyncio.run(self._run_tasks(callers))
        self._watching = False
        if left := self._leftovers():
            self.complain(f"a crowd has left open: {', '.join(left)}")

    async def _run_tasks(self, callers: list[Caller]) -> None:
        asyncio.get_running_loop().set_exception_handler(lambda _, context: self.complain(str(context)))
        tasks = [asyncio.ensure_future(caller.be_task()) for caller in callers]
        all_of_them = asyncio.gather(*tasks, return_exceptions=True)
        while not all_of_them.done():
            for caller, task in zip(callers, tasks, strict=True):
                if not task.done() and caller.is_to_quit(now=self._all_quit):
                    task.cancel()
            await asyncio.sleep(LOOK_S)
        for outcome in await all_of_them:
            if isinstance(outcome, Exception):
                self.complain("".join(traceback.format_exception(outcome)))

    def _run_threads(self, callers: list[Caller]) -> None:
        threads = [threading.Thread(target=caller.be_thread) for caller in callers]
        for thread in threads:
            thread.start()
        while any(thread.is_alive() for thread in threads):
            for caller in callers:
                if caller.cancel is not None and caller.is_to_quit(now=self._all_quit):
                    caller.cancel.set()
            time.sleep(LOOK_S)

    def _interrupt(self, _signum: int, _frame: object) -> None:
        self._all_quit = True  # as asyncio.run has it, and most programs with threads

    # What its callers need.

    def block(self, wish: Wish, cancel: threading.Event | None = None) -> build_slot:
        """A block for `wish`: what most wish for is one object, for all of them."""
        wished, shared = self._shared
        return shared if wish == wished and cancel is None else self._new_block(wish, cancel)

    def _new_block(self, wish: Wish, cancel: threading.Event | None = None) -> build_slot:
        return build_slot(
            dir=self._directory,
            slots=wish.slots,
            timeout=wish.timeout_s,
            on_timeout=wish.on_timeout,
            weight=wish.weight,
            priority=wish.priority,
            cancel=cancel,
            on_wait=_mark_wait,
        )

    def inner_block(self, wish: Wish) -> build_slot:
        """A block for within such a block: the same slot."""
        return build_slot(dir=self._directory, slots=wish.slots, timeout=0, on_timeout="run")

    def _see(self, event: str, args: tuple[object, ...]) -> None:
        """Note when which caller last asked for the lock of a slot, and mark that it gives up its ticket.

        It does that itself, though another one may have made the ticket.
        """
        caller = CALLER.get(None)
        if caller is None or event != "fcntl.flock":
            return
        room, name = os.path.split(path_of(args[0]))
        if args[1] == fcntl.LOCK_EX | fcntl.LOCK_NB and name.startswith("slot-"):
            caller.before_ns = time.monotonic_ns()
        elif args[1] == fcntl.LOCK_UN and room.endswith("/queue"):
            caller.mark(marks.LEAVE)


def _mark_wait(_: Waiting) -> None:
    CALLER.get().mark(marks.WAITS)
