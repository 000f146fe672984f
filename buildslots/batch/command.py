"""`buildslots batch` behind its command line: one run, from the earlier ones to the exit status."""

from __future__ import annotations

import signal
import time
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Protocol

import anyio

from buildslots.batch import recovery
from buildslots.batch.events import Recorder, fingerprint
from buildslots.batch.records import Records, whoami
from buildslots.batch.runner import Runner
from buildslots.batch.serial import Keys
from buildslots.batch.source import stream
from buildslots.batch.state import OK
from buildslots.batch.task import PlanError
from buildslots.processes import here

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Mapping, Sequence

    from buildslots.batch.plan import Plan
    from buildslots.batch.records import Run
    from buildslots.batch.runner import Watcher
    from buildslots.batch.task import Task

WINDOW = 4
"""Of a stream so many tasks for each job are there at a time; and at least LEAST of them."""
LEAST = 16
SAY_S = 1.0
"""How long another run of the same batch is waited for before that is said."""
LOOK_S = 0.2
"""How often to look whether a command that a killed run has left has ended."""
ALL_WELL, FAILURES, ROLLED_BACK = 0, 1, 3
"""Exit statuses; 2 is a plan or a command line that cannot be."""


class Display(Protocol):
    """What people or programs see of a run, besides what a `Watcher` is told."""

    def begin(self, **about: Any) -> None:
        """The batch begins."""

    def end(self, state: str, counts: Mapping[str, int], **about: Any) -> None:
        """The batch has ended."""


@dataclass(frozen=True, slots=True)
class Wanted:
    """What was asked for on the command line, and in the plan.

    Attributes:
        name: Of the batch.
        origin: What makes two runs runs of one batch.
        plan: The plan; None for a stream.
        stream: The descriptor that a stream comes from, and its template, if there is one.
        pool: Of tasks that name none.
        tokens: How many tokens builds share, of which commands take theirs; None for what the settings say.
    """

    name: str
    origin: str
    plan: Plan | None
    stream: tuple[int, Sequence[str] | None] | None
    jobs: int
    fail: str
    all_or_nothing: bool
    resume: bool
    log_dir: str | None
    pool: str | None
    tokens: str | None
    dir: str | None


class Command:
    """One run of `buildslots batch`.

    Args:
        wanted: What was asked for.
        say: Says a sentence to people.
        display: Makes what is seen of the run, of the runner's `places`.

    Attributes:
        signum: The signal that has ended it; 0 if none has.
    """

    def __init__(
        self,
        wanted: Wanted,
        say: Callable[[str], None],
        display: Callable[[Callable[[], Mapping[int, int]]], Any],
    ) -> None:
        self.signum = 0
        self._wanted = wanted
        self._say = say
        self._make_display = display
        self._interrupts = 0
        self._bad_line: PlanError | None = None

    async def run(self) -> int:
        """Run it: the exit status. Raises PlanError: a line of a stream is no task."""
        async with self._alone():
            earlier = await self._earlier()
            done: frozenset[str] = frozenset()
            if self._wanted.resume:
                done = self._done(earlier)
            return await self._run(done)

    @asynccontextmanager
    async def _alone(self) -> AsyncIterator[None]:
        """Keep other runs of the same plan waiting: they would stage for the same destinations."""
        if self._wanted.plan is None:
            yield
            return
        async with anyio.create_task_group() as group:

            async def explain() -> None:
                await anyio.sleep(SAY_S)
                self._say("another run of this batch is under way: waiting for its end")

            group.start_soon(explain)
            async with Keys().lock(f"batch {self._wanted.origin}"):
                group.cancel_scope.cancel()
                with anyio.CancelScope(shield=True):
                    yield

    async def _earlier(self) -> list[Run]:
        """The earlier runs of this batch, the newest first; what killed ones have left is taken care of."""
        for earlier in recovery.earlier_runs(self._wanted.origin, self._say, wait=True):
            if earlier is not None:
                return earlier
            await anyio.sleep(LOOK_S)
        raise AssertionError  # it comes to its end

    def _done(self, earlier: list[Run]) -> frozenset[str]:
        if not earlier:
            self._say("there is no earlier run of this batch to go on with: everything runs")
            return frozenset()
        try:
            return recovery.done(earlier)
        except OSError as error:
            self._say(f"{earlier[0].id} cannot be read, so everything runs: {error}")
            return frozenset()

    async def _run(self, done: frozenset[str]) -> int:
        wanted = self._wanted
        records = Records(wanted.name, self._say, wanted.log_dir)
        recorder = Recorder(records)
        places: list[Callable[[], Mapping[int, int]]] = []
        display = self._make_display(lambda: places[0]())  # noqa: PLW0108 - it is not there yet
        watchers: tuple[Watcher, ...] = (recorder, display)
        runner = Runner(
            jobs=wanted.jobs,
            fail=wanted.fail,
            all_or_nothing=wanted.all_or_nothing,
            phases=wanted.plan.phases if wanted.plan else (),
            records=records,
            watchers=watchers,
            done=done,
            dir=wanted.dir,
            tokens=wanted.tokens,
        )
        places.append(runner.places)
        about: dict[str, Any] = {"batch": records.id, "name": wanted.name, "jobs": wanted.jobs}
        about |= {"fail": wanted.fail, "all_or_nothing": wanted.all_or_nothing, "records": records.path}
        recorder.begin(**about, origin=wanted.origin, resume=wanted.resume, cwd=here(), **whoami())
        display.start()
        display.begin(**about)
        began = time.monotonic()
        state = "interrupted"
        try:
            async with anyio.create_task_group() as group:
                group.start_soon(self._listen, runner)
                async with runner.running():
                    await self._add(runner)
                group.cancel_scope.cancel()
            state = self._state(runner)
        finally:
            ran_s = time.monotonic() - began
            recorder.end(state, counts=runner.counts, ran_s=round(ran_s, 6))
            records.close(keep_lock=False)
            display.end(state, runner.counts, ran_s=ran_s, batch=records.id if records.path else None)
            display.close()
        if self._bad_line is not None:
            raise self._bad_line
        if runner.rolled_back:
            return ROLLED_BACK
        return ALL_WELL if runner.is_good else FAILURES

    def _state(self, runner: Runner) -> str:
        if self.signum:
            return "interrupted"
        if runner.rolled_back:
            return "rolled_back"
        return OK if runner.is_good and self._bad_line is None else "failed"

    async def _add(self, runner: Runner) -> None:
        """Add the tasks of the plan, or of the stream as they come."""
        wanted = self._wanted
        if wanted.plan is not None:
            await runner.add_all((self._in_pool(task), self._mark(task)) for task in wanted.plan.order())
            return
        assert wanted.stream is not None
        most = max(LEAST, WINDOW * wanted.jobs)
        try:
            async for task in stream(*wanted.stream):
                runner.add(self._in_pool(task), keep=False, fingerprint=self._mark(task))
                if not await runner.room(most):
                    return
        except PlanError as error:
            self._bad_line = error  # what stood before it runs
        except OSError as error:  # it is a directory, say
            self._bad_line = PlanError([f"the tasks cannot be read: {error.strerror}"])

    def _mark(self, task: Task) -> str | None:
        return fingerprint(task) if self._wanted.resume else None

    def _in_pool(self, task: Task) -> Task:
        return (
            task
            if task.pool is not None or self._wanted.pool is None
            else replace(task, pool=self._wanted.pool)
        )

    async def _listen(self, runner: Runner) -> None:
        """The first Ctrl-C lets what runs come to its end, the second one ends it, the third kills it."""
        wanted = ("SIGINT", "SIGTERM", "SIGHUP")
        heard = [getattr(signal, name) for name in wanted if hasattr(signal, name)]
        # What our caller ignores (nohup, `&` in a script) is meant to stay ignored.
        heard = [signum for signum in heard if signal.getsignal(signum) is not signal.SIG_IGN]
        if not heard:
            return
        with anyio.open_signal_receiver(*heard) as signals:
            async for signum in signals:
                self.signum = self.signum or int(signum)
                self._interrupts += 1
                name = signal.Signals(signum).name
                if signum != signal.SIGINT or self._interrupts == 2:
                    self._say(f"{name}: ending what runs; once more kills it")
                    runner.end(f"ended by {name}")
                elif self._interrupts == 1:
                    self._say("Ctrl-C: nothing new starts, what runs comes to its end; once more ends it")
                    runner.drain("interrupted by Ctrl-C")
                if self._interrupts > 2:
                    runner.kill(f"killed by {name}")
