"""The stages of a batch: made, moved and removed one by one, or all or nothing.

Each step is told to the records before it is done. So the next run of a batch that was killed knows what may
lie beside a destination, and whether to complete the moves or to undo them (`recovery`).
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

from buildslots.batch.attempt import Attempt
from buildslots.batch.calls import in_thread
from buildslots.batch.staging import Stage
from buildslots.batch.state import Failure, TaskRun

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable

    from buildslots.batch.pools import Environment
    from buildslots.batch.records import Records


class Stages:
    """The stages of one run of a batch."""

    __slots__ = ("_environ", "_records", "_tell")

    def __init__(
        self,
        records: Records,
        environ: Environment,
        tell: Callable[[TaskRun | None, str, dict[str, Any]], None],
    ) -> None:
        self._records = records
        self._environ = environ
        self._tell = tell

    async def make(self, run: TaskRun, dest: str) -> None:
        """Make a fresh stage for `run`. Raises OSError."""
        await self.remove(run)
        self._records.may_be_staged()
        name = Stage.name_for(dest, f"{self._records.id}-{run.number}")
        self._tell(run, "stage", {"dest": dest, "stage": name})
        stage = Stage(dest, name)
        stage.make()
        run.staged, run.stage = stage, stage.path

    def move(self, run: TaskRun) -> Failure | None:
        """Move the stage of `run` to its destination: why that failed; None if it did not."""
        self._intend(run)
        return _move(run)

    def _intend(self, run: TaskRun) -> None:
        stage = run.staged
        assert stage is not None
        self._tell(run, "move", {"dest": stage.dest, "stage": stage.name, "identity": stage.identity})

    async def remove(self, run: TaskRun) -> None:
        """Remove what `run` has staged, or what its stage has replaced; nothing if there is no stage."""
        stage, run.staged, run.stage = run.staged, None, None
        if stage is not None:
            if await in_thread(_remove, stage):
                self._tell(run, "removed", {"dest": stage.dest, "stage": stage.name})
            else:
                self._records.warn(f"{os.path.dirname(stage.path)} of task {run.name!r} cannot be removed")

    async def commit(self, runs: list[TaskRun]) -> tuple[TaskRun, Failure] | None:
        """Move all stages of `runs`: which one could not be moved, and why; None if all are moved."""
        staged = [run for run in runs if run.staged is not None]
        if not staged:
            return None
        for run in staged:
            self._intend(run)
        self._tell(None, "commit", {})  # from here on all of it counts, and before nothing
        for run in staged:
            failure = _move(run)
            if failure is not None:
                return run, failure
        self._tell(None, "committed", {})
        for run in staged:
            await self.remove(run)
        return None

    async def roll_back(self, runs: list[TaskRun]) -> AsyncIterator[tuple[TaskRun, Failure | None]]:
        """Undo what `runs` did, in reverse order: each that had something to undo, and what went wrong."""
        self._tell(None, "rollback", {})
        for run in reversed(runs):
            if run.staged is None and run.task.undo is None:
                continue
            failure = None
            if run.staged is not None:
                try:
                    run.staged.open()
                    run.staged.undo()
                    await self.remove(run)
                except OSError as error:
                    failure = Failure(f"{run.staged.dest if run.staged else ''} was not undone: {error}")
            yield run, await self._undo(run) or failure

    async def _undo(self, run: TaskRun) -> Failure | None:
        """Run what undoes `run`, if there is something: why that failed."""
        if run.task.undo is None:
            return None
        run.log = self._records.log(run.number, f"{run.name}.undo")
        attempt = Attempt(run, self._environ, self._tell, self._records.kept)
        try:
            failure = await attempt.run(run.task.undo, None, what="undo: ")
        finally:
            attempt.close()
        return failure


def _move(run: TaskRun) -> Failure | None:
    stage = run.staged
    assert stage is not None
    try:
        stage.open()
        stage.move()
    except OSError as error:
        return Failure(f"cannot move it to {stage.dest}: {error}", error=error)
    return None


def _remove(stage: Stage) -> bool:
    """Remove what is left of `stage`: whether it is gone. Raises nothing."""
    try:
        stage.open()
    except FileNotFoundError:
        return True
    except OSError:
        return False
    return stage.remove()
