"""What people see of an install: rows on a terminal, lines in CI. It hears of each change from the batch."""

from __future__ import annotations

import os
import sys
from contextlib import contextmanager
from typing import TYPE_CHECKING, Protocol

from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

    from rich.console import RenderableType
    from rich.progress import TaskID

    from bench.workloads.install.manager import Manager
    from buildslots import Report, TaskRun


class Display(Protocol):
    """What shows an install."""

    def begin(self, manager: Manager) -> None:
        """That one installs."""

    def changed(self, run: TaskRun) -> None:
        """A task has another state."""

    def say(self, text: str) -> None:
        """Say a sentence."""

    def end(self, report: Report) -> None:
        """It has ended."""


@contextmanager
def display() -> Iterator[Display]:
    """Rows on a terminal, and lines elsewhere and in CI."""
    if not sys.stdout.isatty() or os.environ.get("CI"):
        yield Lines()
        return
    note = TextColumn("{task.fields[note]}")
    columns = (TextColumn("{task.description}"), BarColumn(), DownloadColumn(), note)
    with _Drawn(*columns, transient=True, refresh_per_second=10) as progress:
        yield Rows(progress)


class Lines:
    """A line when a component starts, and one when it ends."""

    def __init__(self) -> None:
        self._ended = 0
        self._manager: Manager | None = None

    def begin(self, manager: Manager) -> None:
        """See `Display`."""
        self._manager = manager

    def changed(self, run: TaskRun) -> None:
        """See `Display`."""
        if run.outcome is not None:
            self._ended += run.state != "undone"
            self.say(ending(run, self._ended, self.total))
        elif run.state == "running":
            self.say(f"start {run.name}" + (f", attempt {run.attempt}" if run.attempt > 1 else ""))

    @property
    def total(self) -> int:
        """How many components there are."""
        assert self._manager is not None
        return len(self._manager.wanted)

    def say(self, text: str) -> None:
        """See `Display`."""
        print(text, flush=True)

    def end(self, report: Report) -> None:
        """See `Display`."""
        self.say(summary(report))


class _Drawn(Progress):
    """Asks how far everything is whenever it draws."""

    ask: Callable[[], object] | None = None

    def get_renderables(self) -> Iterable[RenderableType]:
        if self.ask is not None:
            self.ask()
        return super().get_renderables()


class Rows(Lines):
    """A row for each component that is downloaded; what has ended scrolls away above them."""

    def __init__(self, progress: _Drawn) -> None:
        super().__init__()
        self._progress = progress
        progress.ask = self._ask
        self._rows: dict[str, TaskID] = {}

    def changed(self, run: TaskRun) -> None:
        """See `Display`."""
        assert self._manager is not None
        if run.outcome is not None:
            row = self._rows.pop(run.name, None)
            if row is not None:
                self._progress.remove_task(row)
            super().changed(run)
        elif run.name in self._rows or run.state == "running":
            if run.name not in self._rows:
                size = self._manager.wanted[run.name].size
                self._rows[run.name] = self._progress.add_task(run.name, total=size, note="")
            note = run.state if run.state != "running" else "" if run.attempt < 2 else "again"
            self._progress.update(self._rows[run.name], note=note)

    def _ask(self) -> None:
        """Called in the thread that draws."""
        for name, row in list(self._rows.items()):
            if self._manager is not None and row in self._progress.task_ids:
                self._progress.update(row, completed=self._manager.received.get(name, 0))

    def say(self, text: str) -> None:
        """See `Display`."""
        self._progress.console.print(text, highlight=False, markup=False)


def ending(run: TaskRun, ended: int, total: int) -> str:
    """How a component has ended."""
    assert run.outcome is not None
    why = f": {run.outcome.reason}" if run.outcome.reason else ""
    return f"{run.state:<9} {run.name}{why} [{ended}/{total}]"


def summary(report: Report) -> str:
    """How the install has ended."""
    counts = ", ".join(f"{count} {state}" for state, count in sorted(report.counts.items()))
    return f"{'installed' if report.is_good else 'nothing was changed'}: {counts} in {report.ran_s:.1f} s"
