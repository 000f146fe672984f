"""What becomes of a task: its states, and what is known of it at any moment."""

from __future__ import annotations

import time
from contextvars import ContextVar
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable

    import anyio

    from buildslots.batch.commands import Command
    from buildslots.batch.staging import Stage
    from buildslots.batch.task import Task
    from buildslots.printed import Output

QUEUED, WAITING, RUNNING, RETRYING = "queued", "waiting", "running", "retrying"
OK, UNCHANGED, FAILED, TIMED_OUT = "ok", "unchanged", "failed", "timed_out"
SKIPPED, CANCELLED, UNDONE = "skipped", "cancelled", "undone"
GOOD = frozenset((OK, UNCHANGED))
"""The states in which a task has what those that need it need."""
LINES_KEPT = 10
"""Lines of the end of a log that are kept of a task that failed."""


@dataclass(frozen=True, slots=True)
class Failure:
    """Why an attempt failed.

    Attributes:
        reason: In words.
        status: The exit status, or minus the signal; None if no command has one.
        error: What a Python function raised.
        timed_out: Whether it was the task's time limit.
        stderr: The end of what the command wrote there, if that was kept apart.
    """

    reason: str
    status: int | None = None
    error: BaseException | None = None
    timed_out: bool = False
    stderr: str = ""


@dataclass(frozen=True, slots=True)
class Outcome:
    """How a task has ended.

    >>> report = run_batch([{"run": "echo no more >&2; exit 3", "name": "a"}])
    >>> [(outcome.name, outcome.state, outcome.status, outcome.last_lines) for outcome in report.outcomes]
    [('a', 'failed', 3, ('no more',))]

    Attributes:
        name: Of the task.
        state: "ok", "unchanged", "failed", "timed_out", "skipped", "cancelled" or "undone".
        reason: Why, in words; None for "ok".
        status: The exit status of its command, or minus the signal that killed it; None if it has none.
        attempts: How often it was tried; 0 if it never started.
        waited_s: Seconds that it waited for slots, in all attempts.
        ran_s: Seconds that its last attempt ran.
        value: What its Python function has returned.
        error: What that has raised.
        log: The path of its log; None if nothing was printed, or it is kept nowhere.
        last_lines: The last lines of the log of a task that failed.
    """

    name: str
    state: str
    reason: str | None = None
    status: int | None = None
    attempts: int = 0
    waited_s: float = 0.0
    ran_s: float = 0.0
    value: Any = None
    error: BaseException | None = None
    log: str | None = None
    last_lines: tuple[str, ...] = ()

    @property
    def is_good(self) -> bool:
        """Whether it is "ok" or "unchanged"."""
        return self.state in GOOD


class TaskRun:
    """A task of a batch that runs; what `current_task()` returns inside of it.

    >>> def fetch():
    ...     task = current_task()
    ...     task.pause_all(0.1)  # a server has asked for a rest
    ...     return task.name, task.attempt, task.slot
    >>> run_batch([{"run": fetch, "name": "a"}]).outcomes[0].value
    ('a', 1, 0)

    Attributes:
        task: What was asked for.
        number: Its place in the batch, from 1.
        name: Of the task.
        batch: ID of the batch.
        state: As in `Outcome`, or "queued", "waiting" (for a slot), "running", "retrying".
        attempt: 1 for the first; 0 before.
        slot: Number of the slot that it runs under; None if it has none.
        stage: The fresh directory to be filled; None if it has no `stage`.
    """

    __slots__ = (
        "_pause",
        "attempt",
        "batch",
        "command",
        "is_running",
        "key",
        "log",
        "name",
        "number",
        "outcome",
        "place",
        "ran_s",
        "reason",
        "scope",
        "since",
        "slot",
        "stage",
        "staged",
        "state",
        "status",
        "task",
        "unmet",
        "value",
        "waited_s",
    )

    def __init__(self, task: Task, number: int, batch: str, pause: Callable[[float], None]) -> None:
        self.task = task
        self.number = number
        self.name = task.name
        self.batch = batch
        self.state = QUEUED
        self.reason: str | None = None
        self.attempt = 0
        self.slot: int | None = None
        self.stage: str | None = None
        self.staged: Stage | None = None
        self.scope: anyio.CancelScope | None = None  # around all that it does
        self.is_running = False  # and not waiting for anything
        self.command: Command | None = None
        self.key: int | None = None  # the descriptor that has the lock of its key
        self.log: Output | None = None
        self.status: int | None = None  # of the last attempt that failed
        self.value: Any = None
        self.since = time.monotonic()  # in this state
        self.waited_s = self.ran_s = 0.0
        self.place: int | None = None  # in line, as of the last look
        self.unmet = 0  # tasks that it needs, and that have not ended
        self.outcome: Outcome | None = None
        self._pause = pause

    def __repr__(self) -> str:
        return f"<TaskRun {self.name!r}, {self.state}>"

    def pause_all(self, seconds: float) -> None:
        """Start nothing new in this batch for so many seconds, an hour at most: a server asked for it.

        May be called from any thread.
        """
        self._pause(seconds)


_current: ContextVar[TaskRun] = ContextVar("buildslots_task")


def current_task() -> TaskRun:
    """The task of a batch that this code runs in.

    >>> run_batch([{"run": lambda: current_task().name, "name": "a"}]).outcomes[0].value
    'a'

    Raises:
        LookupError: It runs in none.
    """
    try:
        return _current.get()
    except LookupError:
        raise LookupError("no task of a batch runs here") from None


def set_current(run: TaskRun) -> None:
    """Let `run` be the task of this context, and of what it starts."""
    _current.set(run)
