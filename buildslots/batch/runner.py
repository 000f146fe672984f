"""The runner of a batch: what starts a task, what its end means for others, and what stops everything.

Everything runs in one event loop, of asyncio or trio, and so nothing here needs a lock. Each task is a
coroutine of its own (`life`), which waits for its turn and its slot and makes its attempts. When it has
ended, it settles its task here. Whoever watches is told of each change: the records, and what people see.
"""

from __future__ import annotations

import contextvars
import threading
import time
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any, Protocol

import anyio
from anyio import from_thread
from anyio.lowlevel import checkpoint, current_token

from buildslots.batch.attempt import LONGEST_PAUSE_S
from buildslots.batch.jobs import NO_POOL, Jobs
from buildslots.batch.life import Life
from buildslots.batch.order import Order, became
from buildslots.batch.pools import Pools
from buildslots.batch.serial import Keys
from buildslots.batch.stages import Stages
from buildslots.batch.state import (
    CANCELLED,
    FAILED,
    GOOD,
    LINES_KEPT,
    OK,
    SKIPPED,
    TIMED_OUT,
    UNCHANGED,
    UNDONE,
    WAITING,
    Failure,
    Outcome,
    TaskRun,
)

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterable

    from buildslots.batch.jobs import Turn
    from buildslots.batch.records import Records
    from buildslots.batch.task import Task

BOUND_S = 1.0
"""How often logs are looked at that may have become too long."""
YIELD_EVERY = 50
"""After so many new tasks others get to run."""


class Watcher(Protocol):
    """Who is told what becomes of tasks. No method may raise, or take long."""

    def changed(self, run: TaskRun) -> None:
        """The task has another state."""

    def step(self, run: TaskRun | None, step: str, about: dict[str, Any]) -> None:
        """A command has started; or something is about to be made, moved or removed beside a destination."""


class Runner:
    """Runs tasks; nothing of them outlives the block of `running()`.

    Args:
        jobs: How many tasks run at once; 1 is strictly one after the other, in the order of the plan.
        fail: What a failure does: "soon", "never" or "now", see `plan.FAIL`.
        all_or_nothing: Whether everything is undone if anything fails.
        phases: In their order.
        records: What is kept of this run.
        watchers: Who is told of changes.
        done: Fingerprints of tasks that an earlier run has done.
        dir: Directory of the default pool; None for the usual one.
        tokens: How many tokens builds share; None for what the settings say.

    Attributes:
        counts: How many tasks have ended in each state.
        is_serial: Whether there is only one job.
        stopped: Why nothing new starts; None while it does.
        rolled_back: Whether everything was undone.
    """

    def __init__(  # noqa: PLR0913 - the options of a batch
        self,
        *,
        jobs: int,
        fail: str,
        all_or_nothing: bool,
        phases: Iterable[str],
        records: Records,
        watchers: Iterable[Watcher],
        done: frozenset[str] = frozenset(),
        dir: str | None = None,  # noqa: A002 - as everywhere
        tokens: int | str | None = None,
    ) -> None:
        self.counts: dict[str, int] = {}
        self.is_serial = jobs == 1
        self.stopped: str | None = None
        self.rolled_back = False
        self.all_or_nothing = all_or_nothing
        self.jobs = Jobs(jobs)
        self.keys = Keys()
        self.pools = Pools(dir, tokens)
        self.records = records
        self.stages = Stages(records, self.pools.environ, self.step)
        self._stop_state = SKIPPED
        self._fail = fail
        self._order = Order(phases)
        self._watchers = tuple(watchers)
        self._done = done
        self._numbers = 0
        self._alive: dict[int, TaskRun] = {}  # by number: added, and not ended
        self._fresh: list[TaskRun] = []  # which nothing keeps from starting any more
        self._succeeded: list[TaskRun] = []  # in their order, with all-or-nothing
        self._news = anyio.Event()

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """Run what is added in the block, and wait for it; with all-or-nothing move it then, or undo it.

        Raises what the block raises, after all has ended and, with all-or-nothing, was undone.
        """
        self._token = current_token()
        self._thread = threading.get_ident()
        self._context = contextvars.copy_context()
        failed: Exception | None = None
        is_whole = False
        try:
            async with anyio.create_task_group() as self._group:
                self._group.start_soon(self._bound_logs)
                try:
                    yield
                    await self.until_idle()
                    is_whole = True
                except Exception as error:  # noqa: BLE001 - a group would wrap it
                    failed = error
                    self.drain("the batch was cancelled")
                self._group.cancel_scope.cancel()
        finally:
            if self.all_or_nothing:
                with anyio.CancelScope(shield=True):
                    await self._commit(is_whole=is_whole)
        if failed is not None:
            raise failed

    # Adding tasks.

    def add(self, task: Task, *, keep: bool = True, fingerprint: str | None = None) -> TaskRun:
        """Run `task` when its turn comes.

        Args:
            task: Checked by itself.
            keep: Whether others may need it by its name.
            fingerprint: What tells whether an earlier run has done it.

        Raises:
            PlanError: It needs what was not added before, or its name or phase cannot be.
        """
        self._order.check(task, keep=keep)
        self._numbers += 1
        run = TaskRun(task, self._numbers, self.records.id, self.pause)
        self._alive[run.number] = run
        why = self._order.add(run, keep=keep)
        if fingerprint is not None and fingerprint in self._done:
            self.settle(run, UNCHANGED, Failure("done by an earlier run"))
        elif why is not None:
            self.settle(run, SKIPPED, Failure(why))
        elif self.stopped is not None:
            self.settle(run, self._stop_state, Failure(self.stopped))
        elif not run.unmet:
            self._start_soon(run)
        return run

    async def add_all(self, tasks: Iterable[tuple[Task, str | None]]) -> None:
        """`add` tasks, each after those that it needs, and with its fingerprint."""
        for count, (task, fingerprint) in enumerate(tasks, 1):
            self.add(task, fingerprint=fingerprint)
            if not count % YIELD_EVERY and not self._order.has_phases:
                await checkpoint()

    async def room(self, most: int) -> bool:
        """Wait until fewer than `most` tasks are there: whether a further one may still start."""
        while len(self._alive) >= most and self.stopped is None:
            await self.news()
        return self.stopped is None

    async def until_idle(self) -> None:
        """Wait until all that was added has ended."""
        while self._alive:
            await self.news()

    async def news(self) -> None:
        """Wait until a task has ended, or everything stops."""
        if self._news.is_set():
            self._news = anyio.Event()
        await self._news.wait()

    @property
    def is_good(self) -> bool:
        """Whether no task has ended in another way than well."""
        return not self.counts.keys() - GOOD

    @property
    def alive(self) -> list[TaskRun]:
        """The tasks that have not ended."""
        return list(self._alive.values())

    def places(self) -> dict[int, int]:
        """The places in line of the tasks that wait, by their numbers. May be called from any thread."""
        waiting = sorted((run for run in self.alive if run.state == WAITING), key=lambda run: run.since)
        return self.pools.places(waiting)

    # Starting them.

    def _start_soon(self, run: TaskRun) -> None:
        """Start `run`, but after all that is added with it: some may belong to an earlier phase."""
        self._fresh.append(run)
        if len(self._fresh) == 1:
            self._group.start_soon(self._start_fresh)

    async def _start_fresh(self) -> None:
        fresh, self._fresh = self._fresh, []
        self._start(fresh)

    def _start(self, runs: list[TaskRun]) -> None:
        """Start those of `runs` whose phase it is, in the order of the plan."""
        for run in self._order.due(runs):
            # Here, in their order: an event loop may start coroutines in any.
            turn: Turn | None = None
            if self.is_serial:
                turn = self.jobs.want(run.number, NO_POOL)
            elif run.task.serial is None:
                pool = self.pools.name(run.task, is_check=run.task.unless is not None)
                turn = self.jobs.want(run.number, pool)
            # In the context of the batch: that of the task that happens to add it, or to end before it, has a
            # slot of its own, which is none for others.
            self._context.copy().run(self._group.start_soon, Life(self, run, turn).live)

    # Stopping them.

    def drain(self, why: str, state: str = CANCELLED) -> None:
        """Start nothing any more: what waits ends in `state`, because of `why`; what runs goes on."""
        if self.stopped is not None:
            return
        self.stopped, self._stop_state = why, state
        self.jobs.stop()
        for run in self.alive:
            if run.outcome is None and not run.is_running:
                if run.scope is not None:
                    run.scope.cancel()
                else:
                    self.settle(run, state, Failure(why))
        self._news.set()

    def end(self, why: str) -> None:
        """End what runs as well, with SIGTERM, and with SIGKILL after a while."""
        self.drain(why)
        for run in self.alive:
            if run.scope is not None:
                run.scope.cancel()

    def kill(self, why: str) -> None:
        """End what runs with SIGKILL."""
        self.end(why)
        for run in self.alive:
            if run.command is not None:
                run.command.kill()

    def stopped_state(self, run: TaskRun) -> tuple[str, Failure]:
        """In which state `run` ends, which was cancelled, and why."""
        why = self.stopped or "the batch was cancelled"
        if run.is_running:
            return CANCELLED, Failure(why)
        if run.attempt and run.reason is not None:  # a retry survives no stop
            return FAILED, Failure(f"{run.reason}; not tried again: {why}", run.status)
        return self._stop_state if self.stopped else CANCELLED, Failure(why)

    def pause(self, seconds: float) -> None:
        """Start nothing for so many seconds, at most LONGEST_PAUSE_S. May be called from any thread."""
        if threading.get_ident() != self._thread:
            from_thread.run_sync(self.pause, seconds, token=self._token)
            return
        seconds = min(seconds, LONGEST_PAUSE_S)
        until = time.monotonic() + seconds
        if until > self.jobs.paused_until:
            self.jobs.pause(until)
            self.step(None, "pause", {"seconds": round(seconds, 3)})
            self._group.start_soon(self._go_on_at, until)

    async def _go_on_at(self, until: float) -> None:
        await anyio.sleep(max(0.0, until - time.monotonic()))
        self.jobs.give()

    # What follows from an end.

    def settle(self, run: TaskRun, state: str, failure: Failure | None = None) -> None:
        """`run` has ended in `state`, for the reason that `failure` says."""
        is_first = run.outcome is None
        run.reason = failure.reason if failure else None
        lines = run.log.last_lines(LINES_KEPT) if run.log and state in (FAILED, TIMED_OUT) else []
        if run.log is not None:
            run.log.bound()
            run.log.close()
        status = failure.status if failure else 0 if state == OK and run.log is not None else None
        run.outcome = Outcome(
            name=run.name,
            state=state,
            reason=run.reason,
            status=status,
            attempts=run.attempt,
            waited_s=run.waited_s,
            ran_s=run.ran_s,
            value=run.value,
            error=failure.error if failure else None,
            log=run.log.path if run.log is not None else None,
            last_lines=tuple(lines),
        )
        self.counts[state] = self.counts.get(state, 0) + 1
        self.change(run, state)
        if is_first:
            self._follow(run)

    def _follow(self, run: TaskRun) -> None:
        """See to what waits for the end of `run`."""
        self._alive.pop(run.number, None)
        if self.all_or_nothing and run.state == OK:
            self._succeeded.append(run)
        free, lost = self._order.ended(run, is_staged=self.all_or_nothing and run.state == OK)
        for other, why in lost:
            self.settle(other, SKIPPED, Failure(why))
        # At once, and before the job of `run` is given away: one of these may be next in the plan.
        if self.stopped is None:
            self._start(free)
        if run.state in (FAILED, TIMED_OUT) and self._fail != "never":
            why = f"{run.name} {became(run.state)}"
            self.drain(why, SKIPPED)
            if self._fail == "now":
                self.end(why)
        self._news.set()

    def change(self, run: TaskRun, state: str) -> None:
        """`run` is in `state` now."""
        run.state = state
        run.since = time.monotonic()
        for watcher in self._watchers:
            watcher.changed(run)

    def step(self, run: TaskRun | None, step: str, about: dict[str, Any]) -> None:
        """Tell those who watch of a step."""
        for watcher in self._watchers:
            watcher.step(run, step, about)

    async def _commit(self, *, is_whole: bool) -> None:
        """With all-or-nothing: move what is staged if all went well, or undo everything."""
        if is_whole and self.is_good:
            failed = await self.stages.commit(self._succeeded)
            if failed is None:
                return
            failed[0].reason = failed[1].reason
        self.rolled_back = True
        async for run, failure in self.stages.roll_back(self._succeeded):
            self.counts[run.state] -= 1
            if not self.counts[run.state]:
                del self.counts[run.state]
            self.settle(run, UNDONE, failure or (Failure(run.reason) if run.reason else None))

    async def _bound_logs(self) -> None:
        while True:
            await anyio.sleep(BOUND_S)
            for run in self.alive:
                if run.log is not None and run.is_running:
                    run.log.bound()
