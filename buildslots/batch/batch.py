"""`Batch` and `run_batch`: many tasks from Python code, on the machine's slots."""

from __future__ import annotations

import hashlib
import os
import sys
import time
from collections import deque
from contextlib import AsyncExitStack
from typing import TYPE_CHECKING, Any

import anyio

from buildslots.batch.display import for_people
from buildslots.batch.events import Recorder
from buildslots.batch.plan import FAIL, MOST_JOBS, Plan, check, is_jobs
from buildslots.batch.records import Records, whoami
from buildslots.batch.recovery import earlier_runs
from buildslots.batch.report import Report
from buildslots.batch.runner import Runner
from buildslots.batch.task import Call, PlanError, Task, named_after, read_task
from buildslots.errors import SettingError
from buildslots.settings.machine import affinity_cores, cgroup_quota, usable_cores
from buildslots.settings.options import given_tokens

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Iterable, Mapping
    from types import TracebackType
    from typing import Self

    from buildslots.batch.runner import Watcher
    from buildslots.batch.state import Outcome, TaskRun

JOBS_VARIABLE = "BUILD_BATCH_JOBS"
CALLED = ("verify", "undo", "unless")
"""Keys that may name functions; these are called with what the task's own function is called with."""


class Batch:
    """Many tasks, bounded, retried, verified, staged: coroutines, functions and commands.

    >>> async def main():
    ...     async with Batch(jobs=4) as batch:
    ...         for word in ("one", "two"):
    ...             batch.add(["echo", word], name=word)
    ...         async for outcome in batch:
    ...             print(outcome.name, outcome.state)
    ...     return batch.report.is_good
    >>> asyncio.run(main())  # or anyio.run(main), or trio.run(main)
    one ok
    two ok
    True

    Each task takes a slot of the machine, of the pool that it names, unless that is `pool=""`. The block ends
    when all tasks have ended; nothing of the batch outlives it. What the block itself raises, and a
    cancellation, ends all tasks. That tasks fail raises nothing: see `report`.

    Args:
        name: Of the batch, in views and records; None for the name of this program.
        jobs: How many tasks run at once; 1 is one after the other, in the order in which they were added.
            None for `BUILD_BATCH_JOBS`, or twice the cores and at most 8.
        fail: What a failure does: "soon" lets nothing new start, "never" nothing, "now" ends what runs as
            well.
        all_or_nothing: Whether stages are moved only when all tasks have succeeded, and everything is undone
            if one has not.
        phases: Names of phases, in their order; see the key `phase` of a task.
        progress: Whether people see on stdout what happens, as `buildslots batch` shows it.
        on_change: Called with the `TaskRun` whenever its state has changed. What it raises is a warning.
        log_dir: Where logs of commands are kept; None for the directory of the records.
        dir: The directory of the default pool; None for `BUILD_SLOTS_DIR` or the user's cache.
        tokens: How many CPU tokens builds share on this machine, of which each command takes its jobs beyond
            the first; 0 for none, "auto" for the cores less one, None for what the settings say.

    Raises:
        SettingError: A ValueError; an argument is not usable.

    Attributes:
        report: How it has ended; None before.
    """

    def __init__(  # noqa: PLR0913 - one for each thing that can be said, by keyword only
        self,
        *,
        name: str | None = None,
        jobs: int | None = None,
        fail: str = "soon",
        all_or_nothing: bool = False,
        phases: Iterable[str] = (),
        progress: bool = False,
        on_change: Callable[[TaskRun], object] | None = None,
        log_dir: str | os.PathLike[str] | None = None,
        dir: str | os.PathLike[str] | None = None,  # noqa: A002 - the word that users know from --dir
        tokens: int | str | None = None,
    ) -> None:
        given_tokens(tokens)
        if fail not in FAIL:
            raise SettingError("fail", str(fail), 'is none of "soon", "never" and "now"')
        self.report: Report | None = None
        self._name = name or os.path.basename(sys.argv[0] or "python")
        self._jobs = checked_jobs(jobs, _warn)
        self._fail = fail
        self._all_or_nothing = all_or_nothing
        self._phases = tuple(phases)
        self._progress = progress
        self._display: Any = None
        self._on_change = on_change
        self._log_dir = None if log_dir is None else os.fsdecode(log_dir)
        self._dir = None if dir is None else os.fsdecode(dir)
        self._tokens = tokens
        self._ended: deque[Outcome] = deque()
        self._outcomes: dict[int, Outcome] = {}
        self._names: set[str] = set()
        self._runner: Runner | None = None

    async def __aenter__(self) -> Self:
        if self._runner is not None:
            raise RuntimeError("a Batch is for one `async with`: make another one")
        origin = _origin(self._name)
        for _ in earlier_runs(origin, _warn, wait=False):
            pass
        self._records = Records(self._name, _warn, self._log_dir)
        self._recorder = Recorder(self._records)
        watchers: tuple[Watcher, ...] = (self._recorder, self)
        if self._progress:
            self._display = for_people(0, command=None, places=self._places)
            self._display.start()
            watchers += (self._display,)
        self._runner = Runner(
            jobs=self._jobs,
            fail=self._fail,
            all_or_nothing=self._all_or_nothing,
            phases=self._phases,
            records=self._records,
            watchers=watchers,
            dir=self._dir,
            tokens=self._tokens,
        )
        self._began = time.monotonic()
        about = {"batch": self._records.id, "name": self._name, "origin": origin, "jobs": self._jobs}
        about["all_or_nothing"] = self._all_or_nothing
        self._recorder.begin(**about, **whoami())
        self._stack = AsyncExitStack()
        await self._stack.enter_async_context(self._runner.running())
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        assert self._runner is not None
        try:
            await self._stack.__aexit__(kind, error, trace)
        finally:
            runner = self._runner
            self.report = Report(
                self._records.id,
                self._records.path,
                tuple(self._outcomes.values()),
                dict(runner.counts),
                runner.rolled_back,
                time.monotonic() - self._began,
            )
            state = "ok" if self.report.is_good else "rolled_back" if runner.rolled_back else "failed"
            self._recorder.end(state, counts=runner.counts, ran_s=round(self.report.ran_s, 6))
            self._records.close(keep_lock=False)
            if self._display is not None:
                ran_s, batch = self.report.ran_s, self.report.id if self.report.path else None
                self._display.end(state, runner.counts, ran_s=ran_s, batch=batch)
                self._display.close()

    def add(self, what: Any, *args: Any, **keys: Any) -> TaskRun:
        """Add a task; it runs when its turn comes.

        Args:
            what: A coroutine function, any other function (it runs in a daemon thread), a command as a list,
                or one for the shell as a string.
            args: What the function is called with, and so are `verify`, `undo` and `unless` if they are
                functions: `verify` fails by raising or returning False, `unless` says by what is true that
                there is nothing to do.
            keys: Of the task, as in a plan: `name`, `needs`, `phase`, `serial`, `pool`, `weight`, `timeout`,
                `retries`, `backoff`, `retry_on`, `time_limit`, `stage`, … Durations are seconds, texts or
                timedeltas. `retry_on` may have classes of exceptions.

        Raises:
            PlanError: A ValueError; the task cannot be, or the name is taken.
            RuntimeError: The batch does not run.
        """
        if self._runner is None or self.report is not None:
            raise RuntimeError("tasks are added within `async with Batch() as batch:`")
        return self._added(self._read(what, args, keys))

    def _added(self, task: Task) -> TaskRun:
        assert self._runner is not None
        if self._display is not None:
            self._display.total += 1
        run = self._runner.add(task)
        self._names.add(task.name)
        return run

    def _read(self, what: Any, args: tuple[Any, ...], keys: dict[str, Any]) -> Task:
        """The task that the arguments of `add` describe, with a name that no other has."""
        given = dict(keys, run=Call(what, args) if callable(what) else what)
        if args and not callable(what):
            raise TypeError("arguments are for a function; a command is one list")
        for key in CALLED:
            if callable(given.get(key)):
                given[key] = Call(given[key], args)
        task = read_task(given, "the task")
        return task if "name" in keys else self._renamed(task, given)

    def add_all(self, tasks: Iterable[Mapping[str, Any]]) -> None:
        """Add many tasks, checked as a whole before anything starts, in any order.

        Args:
            tasks: The keys of each, as for `add`: "run" is the command or the function, and "args" what that
                is called with.

        Raises:
            PlanError: With all that is wrong, circles among it; none was added.
        """
        found: list[Task] = []
        problems: list[str] = []
        before = set(self._names)
        for given in tasks:
            keys = dict(given)
            try:
                if "run" not in keys:
                    raise PlanError([f"there is no key run in {keys!r}"])  # noqa: TRY301 - one of many
                found.append(self._read(keys.pop("run"), tuple(keys.pop("args", ())), keys))
            except PlanError as error:
                problems += error.problems
            else:
                self._names.add(found[-1].name)
        self._names = before
        problems = problems or check(found, self._phases)
        if problems:
            raise PlanError(problems)
        for task in Plan(self._name, tuple(found), self._phases).order():
            self._added(task)

    def _renamed(self, task: Task, given: dict[str, Any]) -> Task:
        """`task` with a name that no other has: that of its function or command, and a number if need be."""
        name = named_after(task.run)
        number = 1
        while task.name in self._names:
            number += 1
            task = read_task({**given, "name": f"{name} {number}"}, "the task")
        return task

    def _places(self) -> dict[int, int]:
        return {} if self._runner is None else self._runner.places()

    def pause_all(self, seconds: float) -> None:
        """Start nothing new for so many seconds. May be called from any thread."""
        if self._runner is not None:
            self._runner.pause(seconds)

    def cancel(self) -> None:
        """End all tasks; what has not started is cancelled too."""
        if self._runner is not None:
            self._runner.end("the batch was cancelled")

    async def __aiter__(self) -> AsyncIterator[Outcome]:
        """How tasks have ended, in that order, until all that were added have."""
        assert self._runner is not None
        while True:
            while self._ended:
                yield self._ended.popleft()
            if not self._runner.alive:
                return
            await self._runner.news()

    # What the runner tells.

    def changed(self, run: TaskRun) -> None:
        """See `runner.Watcher`."""
        if run.outcome is not None:
            if self._outcomes.pop(run.number, None) is None:  # else it was undone, and comes last now
                self._ended.append(run.outcome)
            self._outcomes[run.number] = run.outcome
        if self._on_change is not None:
            try:
                self._on_change(run)
            except Exception as error:  # noqa: BLE001 - no task is at fault
                _warn(f"on_change failed: {error!r}")

    def step(self, run: TaskRun | None, step: str, about: dict[str, Any]) -> None:
        """See `runner.Watcher`."""


def run_batch(tasks: Iterable[Mapping[str, Any]], *, backend: str = "asyncio", **options: Any) -> Report:
    """Run `tasks`, and wait for them: how that has ended.

    >>> report = run_batch([{"run": ["echo", "one"]}, {"run": print, "args": ["two"]}], jobs=2)
    two
    >>> report.is_good, report.counts
    (True, {'ok': 2})

    Args:
        tasks: The keys of each, as for `Batch.add`: "run" is the command or the function, and "args" what the
            function is called with; in any order.
        backend: "asyncio" or "trio".
        options: Those of `Batch`.

    Raises:
        PlanError, SettingError: ValueErrors; a task or an option is not usable. Nothing was started.
    """

    async def main() -> Report:
        batch = Batch(**options)
        async with batch:
            batch.add_all(tasks)
        assert batch.report is not None
        return batch.report

    return anyio.run(main, backend=backend)


def _origin(name: str) -> str:
    """What makes two runs runs of one batch: the program, and the name of the batch."""
    what = "\0".join([os.path.abspath(sys.argv[0]), name])
    return hashlib.sha256(os.fsencode(what)).hexdigest()[:24]


def checked_jobs(jobs: int | None, warn: Callable[[str], None]) -> int:
    """The number of jobs: `jobs`, or else BUILD_BATCH_JOBS, or else twice the cores and at most 8.

    Args:
        jobs: What was asked for; None if nothing.
        warn: Told if the variable is of no use.

    Raises:
        SettingError: `jobs` is not usable.
    """
    problem = f"is not a whole number from 1 to {MOST_JOBS}"
    if jobs is not None:
        if not is_jobs(jobs):
            raise SettingError("jobs", repr(jobs), problem)
        return jobs
    text = os.environ.get(JOBS_VARIABLE, "")
    if text.strip():
        if text.strip().isdecimal() and len(text.strip()) <= len(str(MOST_JOBS)) and is_jobs(int(text)):
            return int(text)
        warn(f"{SettingError(JOBS_VARIABLE, text, problem)}; ignored")
    return min(8, 2 * usable_cores(affinity_cores(), cgroup_quota()))


def _warn(text: str) -> None:
    import warnings  # noqa: PLC0415

    warnings.warn(f"buildslots: {text}", RuntimeWarning, stacklevel=3)
