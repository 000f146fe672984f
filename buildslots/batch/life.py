"""The life of one task, as a coroutine: its turn, its key, its slot, its attempts, its end."""

from __future__ import annotations

import os
import random
import time
from typing import TYPE_CHECKING

import anyio

from buildslots.backend import Label
from buildslots.batch.attempt import Attempt, is_reason_to_retry, named_pause_s
from buildslots.batch.jobs import NO_POOL
from buildslots.batch.state import (
    CANCELLED,
    FAILED,
    OK,
    RETRYING,
    RUNNING,
    TIMED_OUT,
    UNCHANGED,
    Failure,
    set_current,
)
from buildslots.batch.task import Call, named_after
from buildslots.errors import SlotTimeoutError

if TYPE_CHECKING:
    from buildslots.batch.jobs import Turn
    from buildslots.batch.runner import Runner
    from buildslots.batch.state import TaskRun
    from buildslots.batch.task import Action, Task
    from buildslots.slot import Slot

NO_SLOT = 75
"""The status of a task that got no slot in its time, as slot-run's: EX_TEMPFAIL of sysexits.h."""


class Life:
    """One task from its start to its end.

    With one job, the task has it from its first turn to its end, so that no other comes in between. With more
    of them, it has a job only while something of it runs.

    Args:
        runner: What it belongs to.
        run: The task.
        turn: The turn that it waits for first, if it has one.
    """

    __slots__ = ("_attempt", "_place", "_runner", "_tries", "_turn", "run")

    def __init__(self, runner: Runner, run: TaskRun, turn: Turn | None) -> None:
        self.run = run
        self._runner = runner
        self._turn = turn
        self._tries = 0  # attempts, and waits for a slot that came to nothing
        key = run.task.serial
        # In its order, now: an event loop may start coroutines in any. With one job, that decides.
        self._place = runner.keys.stand(key) if key is not None and not runner.is_serial else None
        self._attempt = Attempt(run, runner.pools.environ, runner.step, runner.records.kept)

    async def live(self) -> None:
        """Take the task to its end. Raises nothing but the cancellation of the whole batch."""
        run = self.run
        if run.outcome is not None:  # nothing was to start any more
            if self._turn is not None:
                self._turn.leave()
            if self._place is not None:
                self._runner.keys.leave(run.task.serial or "", self._place)
            return
        set_current(run)
        state: str = CANCELLED
        failure: Failure | None = None
        has_job = False
        try:
            with anyio.CancelScope() as run.scope:
                if self._runner.is_serial and self._turn is not None:
                    await self._turn.wait()
                    has_job = True
                async with self._runner.keys.lock(run.task.serial, self._place) as run.key:
                    state, failure = await self._attempts()
        except Exception as error:  # noqa: BLE001 - one task's trouble is no other's
            state, failure = FAILED, Failure(f"{type(error).__name__}: {error}", error=error)
        finally:
            self._attempt.close()
            if state == CANCELLED:
                state, failure = self._runner.stopped_state(run)
            run.is_running = False
            if run.staged is not None and state == OK and self._runner.all_or_nothing:
                run.staged.close()
            elif run.staged is not None:
                with anyio.CancelScope(shield=True):
                    await self._runner.stages.remove(run)
            self._runner.settle(run, state, failure)
            if has_job:
                self._runner.jobs.end()

    async def _attempts(self) -> tuple[str, Failure | None]:
        """Try it as often as it may be tried: its state then, and why it failed."""
        run, task = self.run, self.run.task
        if task.unless is not None and await self._is_unchanged(task.unless):
            return UNCHANGED, Failure("there is nothing to do")
        while True:
            failure = await self._in_slot()
            if failure is None:
                return OK, None
            run.status = failure.status
            pause_s = named_pause_s(failure, task.pause_on)
            if pause_s is not None:
                self._runner.pause(pause_s)
            is_last = self._tries > task.retries or self._runner.stopped is not None
            if is_last or not is_reason_to_retry(failure, task.retry_on):
                return TIMED_OUT if failure.timed_out else FAILED, failure
            run.reason = failure.reason
            self._runner.change(run, RETRYING)
            await anyio.sleep(max(_backoff_s(task, self._tries), pause_s or 0.0))

    async def _is_unchanged(self, check: Action) -> bool:
        """Whether its check succeeds. That takes a job, but no slot."""
        run = self.run
        await self._turn_for(NO_POOL)
        run.is_running = True
        try:
            self._open_log(check)
            failure = await self._attempt.run(check, None)
        finally:
            value, run.value = run.value, None
            self._job_is_over()
        run.is_running = False
        return failure is None and (not isinstance(check, Call) or bool(value))

    async def _in_slot(self) -> Failure | None:
        """Make one attempt, in its turn and under its slot: why it failed; None if it did not."""
        run = self.run
        try:
            slot = await self._slot()
        except SlotTimeoutError as error:
            run.waited_s += error.waited_s
            return Failure(str(error), NO_SLOT)
        finally:
            self._tries += 1
        run.waited_s += slot.waited_s if slot is not None else 0.0
        run.slot = slot.number if slot is not None else None
        run.attempt += 1
        run.is_running = True  # until it is cancelled, or has come through
        failure: Failure | None = None
        status: int | None = None
        began = time.monotonic()
        try:
            failure = await self._make_attempt(slot)
            status = 0 if failure is None else failure.status
        finally:
            run.ran_s = time.monotonic() - began
            if slot is not None:
                slot.release(status)
            self._job_is_over()
        run.is_running = False
        return failure

    async def _make_attempt(self, slot: Slot | None) -> Failure | None:
        run, stages = self.run, self._runner.stages
        run.value = None
        try:
            if run.task.stage is not None:
                await stages.make(run, run.task.stage)
        except OSError as error:
            return Failure(str(error), error=error)
        self._open_log(run.task.run, run.task.verify)
        self._runner.change(run, RUNNING)
        failure = await self._attempt.make(slot)
        if failure is None and run.staged is not None and not self._runner.all_or_nothing:
            failure = stages.move(run)
        if failure is not None and run.staged is not None:
            await stages.remove(run)
        return failure

    # Turns and slots.

    async def _turn_for(self, pool: str) -> None:
        """Wait for a turn, for a job or a bid; with one job only, this task has that already."""
        if self._runner.is_serial:
            await self._runner.jobs.rest()
        else:
            turn, self._turn = self._turn, None
            await (turn or self._runner.jobs.want(self.run.number, pool)).wait()

    def _job_is_over(self) -> None:
        if not self._runner.is_serial:
            self._runner.jobs.end()

    async def _slot(self) -> Slot | None:
        """Wait for its turn, and for its slot; None if it needs none. Raises SlotTimeoutError."""
        run, jobs = self.run, self._runner.jobs
        name = self._runner.pools.name(run.task)
        if name == NO_POOL:
            await self._turn_for(NO_POOL)
            return None
        pool = self._runner.pools.open(run.task, self._waits)
        while True:
            await self._turn_for(name)
            try:
                # A batch within a task, or within `with build_slot()`, would wait for itself.
                slot = pool._slot_of_context() or await pool.acquire_async(  # noqa: SLF001
                    weight=run.task.weight, priority=run.task.priority, label=_label(run)
                )
            except BaseException:
                if not self._runner.is_serial:
                    jobs.take_back(name)
                raise
            if self._runner.is_serial or jobs.win(name):
                return slot
            slot.release()

    def _waits(self, run: TaskRun, place: int) -> None:
        """`run` waits for a slot, at that place in line."""
        run.place = place
        if run.state != "waiting":
            self._runner.change(run, "waiting")

    # Logs and processes.

    def _open_log(self, *actions: Action | None) -> None:
        run = self.run
        if run.log is None:
            if any(isinstance(action, tuple) for action in actions):
                run.log = self._runner.records.log(run.number, run.name)
        elif run.attempt > 1:
            run.log.write(f"[buildslots: attempt {run.attempt}]")


def _label(run: TaskRun) -> Label:
    """What views call a task.

    The journal tells no arguments, for they may hold secrets: not in a name that repeats the command either.
    """
    task = run.task
    program = None
    if isinstance(task.run, tuple):
        line = named_after(task.run)
        number = run.name.removeprefix(line)  # of several with one command line
        if run.name.startswith(line) and (not number or number.strip().isdecimal()):
            program = os.path.basename(task.run[0])
    return Label(run.name, program=program, batch=run.batch, cwd=task.cwd)


def _backoff_s(task: Task, attempt: int) -> float:
    """How long to wait after the `attempt`-th one: twice as long each time, between half of that and all.

    "Equal jitter" of https://aws.amazon.com/blogs/architecture/exponential-backoff-and-jitter/: what failed
    at one time must not come back at one time.
    """
    whole = min(task.max_backoff_s, task.backoff_s * 2.0 ** min(attempt - 1, 64))
    return whole * random.uniform(0.5, 1.0)  # noqa: S311 - nobody gains by guessing it
