"""The order of a batch's tasks: what each needs, and in which phase it is. It starts nothing itself."""

from __future__ import annotations

import os
from collections import Counter
from typing import TYPE_CHECKING

from buildslots.batch.state import CANCELLED, GOOD, SKIPPED, TIMED_OUT
from buildslots.batch.task import PlanError, near

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from buildslots.batch.state import TaskRun
    from buildslots.batch.task import Task


class Order:
    """Which tasks have to wait for which.

    Args:
        phases: In their order.
    """

    __slots__ = ("_above", "_left", "_names", "_needed_by", "_parked", "_phases", "_stages")

    def __init__(self, phases: Iterable[str]) -> None:
        self._phases = {phase: place for place, phase in enumerate(phases)}
        self._left = [0] * max(1, len(self._phases))  # in each phase
        self._parked: list[TaskRun] = []  # of later phases
        self._names: dict[str, TaskRun] = {}  # of all, where others may need them
        self._needed_by: dict[str, list[TaskRun]] = {}
        self._stages: dict[str, str] = {}  # by destination, the task that stages for it
        self._above: Counter[str] = Counter()  # how many of these lie below a directory

    @property
    def has_phases(self) -> bool:
        """Whether there are any."""
        return bool(self._phases)

    def check(self, task: Task, *, keep: bool) -> None:
        """See to it that `task` can be added.

        Args:
            task: Checked by itself.
            keep: Whether others may need it by its name.

        Raises:
            PlanError: It cannot be.
        """
        problems = []
        if keep and task.name in self._names:
            problems.append(f"two tasks have the name {task.name!r}: give one another name")
        if task.phase is not None and task.phase not in self._phases:
            known = near(task.phase, self._phases)
            problems.append(f"task {task.name!r}: there is no phase {task.phase!r}{known}")
        problems += [
            f"task {task.name!r} needs {name!r}, which was not added before{near(name, self._names)}"
            for name in task.needs
            if name not in self._names
        ]
        if task.stage is not None:
            other = next((self._stages[path] for path in _ways(task.stage) if path in self._stages), None)
            if other is not None or self._above[task.stage]:
                its = f"that of {other!r}" if other is not None else "another task's"
                problems.append(f"task {task.name!r}: the stage {task.stage!r} is, or lies in, {its}")
        if problems:
            raise PlanError(problems)

    def add(self, run: TaskRun, *, keep: bool) -> str | None:
        """Add a checked task: why it can never run; None if it can, once `run.unmet` is 0."""
        self._left[self.phase(run)] += 1
        if keep:
            self._names[run.name] = run
        if run.task.stage is not None:
            self._stages[run.task.stage] = run.name
            self._above.update(list(_ways(run.task.stage))[1:])
        for name in run.task.needs:
            needed = self._names[name]
            if needed.outcome is None:
                run.unmet += 1
                self._needed_by.setdefault(name, []).append(run)
            elif not needed.outcome.is_good:
                return f"needs {name}, which {became(needed.state)}"
        return None

    def phase(self, run: TaskRun) -> int:
        """The place of its phase; that of the first one if it names none."""
        return self._phases.get(run.task.phase or "", 0)

    def due(self, runs: Iterable[TaskRun]) -> Iterator[TaskRun]:
        """Those of `runs` whose phase it is, as they were added; the others are kept for later."""
        current = next((place for place, left in enumerate(self._left) if left), 0)
        for run in sorted(runs, key=lambda run: run.number):
            if run.outcome is None:
                if self.phase(run) > current:
                    self._parked.append(run)
                else:
                    yield run

    def ended(self, run: TaskRun, *, is_staged: bool) -> tuple[list[TaskRun], list[tuple[TaskRun, str]]]:
        """`run` has ended: the tasks that may start now, and those that never can, and why.

        Args:
            run: The task.
            is_staged: Whether its stage is still there.
        """
        if run.task.stage is not None and not is_staged:
            del self._stages[run.task.stage]
            self._above -= Counter(list(_ways(run.task.stage))[1:])  # which drops those that are 0
        free: list[TaskRun] = []
        lost: list[tuple[TaskRun, str]] = []
        for other in self._needed_by.pop(run.name, ()):
            other.unmet -= 1
            if other.outcome is not None:
                continue
            if run.state not in GOOD:
                lost.append((other, f"needs {run.name}, which {became(run.state)}"))
            elif not other.unmet:
                free.append(other)
        place = self.phase(run)
        self._left[place] -= 1
        if self._parked and not self._left[place]:
            free += self._parked
            self._parked = []
        return free, lost


def _ways(path: str) -> Iterator[str]:
    """`path`, and the directories above it."""
    while True:
        yield path
        above = os.path.dirname(path)
        if above == path:
            return
        path = above


def became(state: str) -> str:
    """A state as the end of "needs x, which ..."."""
    return {TIMED_OUT: "timed out", SKIPPED: "was skipped", CANCELLED: "was cancelled"}.get(state, state)
