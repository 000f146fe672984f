"""What is said of a batch, by a thread of its own.

A terminal after Ctrl-S takes nothing, nor does a pipe whose reader is busy. In the event loop that would keep
tasks from starting, and slots from being given back. So the loop only hands over what is to be said, and the
thread waits for the terminal.
"""

from __future__ import annotations

import json
import os
import queue
import shlex
import sys
import threading
import time
from typing import TYPE_CHECKING, Any

from buildslots.batch.events import event, task_event
from buildslots.batch.state import (
    FAILED,
    GOOD,
    OK,
    RETRYING,
    RUNNING,
    TIMED_OUT,
    UNDONE,
    WAITING,
)
from buildslots.batch.task import Call
from buildslots.processes import here
from buildslots.words import SENTENCE_SHOWN, printable, shell_word, short_path, shown, span

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from buildslots.batch.state import TaskRun
    from buildslots.batch.task import Task

MOST_WAITING = 10_000
"""So many things to be said wait at most."""
PATIENCE_S = 2.0
"""How long the end of a batch waits for a terminal or a pipe that takes nothing."""
HEARTBEAT_S = 30.0
"""How often it is said what still runs: silence gets jobs killed."""
NAME_SHOWN = 60
RUNNING_SHOWN = 8
"""So many tasks are named in a heartbeat."""
STATES = {RUNNING: "running", WAITING: "waiting for a slot", RETRYING: "to be retried"}
"""What is said of a task that has not ended; of one that is not yet due nothing is."""


class Speaker:
    """Says what becomes of tasks; see `runner.Watcher`. What it is made of says how.

    Args:
        write: Writes text to where people or programs read it.
        total: How many tasks there are; None if nobody knows.
    """

    tick_s: float | None = None
    """How often `tick` is called."""
    is_lossless = False
    """Whether a reader that is slow holds up the batch, rather than losing lines."""

    def __init__(self, write: Callable[[str], None], total: int | None) -> None:
        self._write = write
        self.total = total
        self.ended = 0
        self._lost = 0
        self._queue: queue.Queue[tuple[str, Any]] = queue.Queue(MOST_WAITING)
        self._thread = threading.Thread(target=self._run, name="batch: speaker", daemon=True)

    def start(self) -> None:
        """Begin to listen."""
        self._thread.start()

    def close(self) -> None:
        """Say what is left, and end; but wait for a reader that takes nothing only so long."""
        self.post("close", None)
        self._thread.join(None if self.is_lossless else PATIENCE_S)

    def post(self, what: str, about: Any) -> None:
        """Hand over something to be said: the name of a method without its underscore, and what it gets."""
        try:
            if self.is_lossless:
                self._queue.put((what, about))
            else:
                self._queue.put_nowait((what, about))
        except queue.Full:
            self._lost += 1

    def changed(self, run: TaskRun) -> None:
        """A task has another state: what is to be said of it, if anything, is put together now."""
        raise NotImplementedError

    def step(self, run: TaskRun | None, step: str, about: dict[str, Any]) -> None:
        """Nobody is told of steps but pauses: nothing happens then, and people wonder why."""
        del run
        if step == "pause":
            self.paused(about["seconds"])

    def paused(self, seconds: float) -> None:
        """Nothing new starts for so many seconds."""

    def tick(self) -> None:
        """Called every `tick_s`."""

    def _run(self) -> None:
        due = time.monotonic() + (self.tick_s or 0.0)
        what = ""
        try:
            while True:
                now = time.monotonic()
                if self.tick_s is not None and now >= due:
                    self.tick()
                    due = now + self.tick_s
                try:
                    what, about = self._queue.get(
                        timeout=None if self.tick_s is None else max(0.0, due - now)
                    )
                except queue.Empty:
                    continue
                if what == "close":
                    self._close()
                    return
                getattr(self, f"_{what}")(about)
        except Exception:  # noqa: BLE001 - nothing that is said is worth a batch
            while what != "close":  # nobody reads it any more: the batch goes on
                what = self._queue.get()[0]

    def _close(self) -> None:
        """The last thing that is done."""

    def _text(self, text: str) -> None:
        self._write(text)


class JsonLines(Speaker):
    """A JSON object a line: the batch, each task when it ends, the batch."""

    is_lossless = True

    def __init__(self, write: Callable[[str], None], total: int | None) -> None:
        super().__init__(write, total)
        self._seq = 0

    def begin(self, **about: Any) -> None:
        """The batch begins."""
        self._say(event("batch", self._seq, state=RUNNING, **about))

    def end(self, state: str, counts: Mapping[str, int], **about: Any) -> None:
        """The batch has ended in `state`."""
        self._say(event("batch", self._seq, state=state, counts=dict(counts), **about))

    def changed(self, run: TaskRun) -> None:
        """See `Speaker`."""
        if run.outcome is not None:
            self._say(task_event(run, self._seq))

    def _say(self, told: dict[str, Any]) -> None:
        self._seq += 1
        self.post("text", f"{json.dumps(told, default=str)}\n")


class Lines(Speaker):
    """Lines for a log: one when a task starts, one when it ends, and what runs every 30 s."""

    def __init__(
        self, write: Callable[[str], None], total: int | None, *, command: str | None = None
    ) -> None:
        super().__init__(write, total)
        self.tick_s = HEARTBEAT_S
        self._again = command
        self._there: dict[int, tuple[str, str, float]] = {}

    def begin(self, **about: Any) -> None:
        """Nothing: the first task says enough."""

    def changed(self, run: TaskRun) -> None:
        """See `Speaker`."""
        if run.outcome is not None:
            if run.state != UNDONE:
                self.ended += 1
            self._there.pop(run.number, None)
            self.post("text", self._ended(run))
        else:
            if run.state == RUNNING:
                self.post("text", f"start     {name(run)}{again(run)}\n")
            elif run.state == RETRYING:
                self.post("text", f"retry     {name(run)}: {words(run.reason)}\n")
            self._there[run.number] = (name(run), run.state, time.monotonic())

    def paused(self, seconds: float) -> None:
        """See `Speaker`."""
        self.post("text", f"pause     nothing new starts for {span(seconds)}\n")

    def end(self, state: str, counts: Mapping[str, int], **about: Any) -> None:
        """The batch has ended in `state`."""
        self.post("text", summary(state, counts, about.get("ran_s"), about.get("batch"), self._again))

    def _ended(self, run: TaskRun) -> str:
        return f"{ending(run, progress(self.ended, self.total))}\n"

    def tick(self) -> None:
        """Say what still runs, so that nobody takes silence for the end."""
        now = time.monotonic()
        by_state: dict[str, list[str]] = {state: [] for state in STATES}
        for title, state, since in list(self._there.values()):
            by_state.setdefault(state, []).append(f"{title} ({span(now - since)})")
        told = []
        for state, what in STATES.items():
            titles = by_state[state]
            if titles:
                more = len(titles) - RUNNING_SHOWN
                told.append(
                    f"{what}: {', '.join(titles[:RUNNING_SHOWN])}" + (f" and {more} more" if more > 0 else "")
                )
        self._write(f"{progress(self.ended, self.total)} {'; '.join(told) or 'nothing runs'}\n")


# Words that all of them share.


def name(run: TaskRun) -> str:
    """The name of a task, fit for a terminal."""
    return shown(run.name, NAME_SHOWN)


def words(text: str | None) -> str:
    """A reason, fit for a terminal."""
    return shown(text or "", SENTENCE_SHOWN)


def progress(ended: int, total: int | None) -> str:
    """How many have ended: "[3/7]", or "[3]" where nobody knows how many there are."""
    return f"[{ended}/{total}]" if total else f"[{ended}]"


def again(run: TaskRun) -> str:
    """Which attempt it is, if it is not the first."""
    return f", attempt {run.attempt}" if run.attempt > 1 else ""


def ending(run: TaskRun, count: str) -> str:
    """How a task has ended; after a failure its last lines, its log, and a line to run it again."""
    outcome = run.outcome
    assert outcome is not None
    took = span(outcome.ran_s) if outcome.attempts else ""
    tries = f"{outcome.attempts} attempts" if outcome.attempts > 1 else ""
    details = ", ".join(part for part in (words(outcome.reason), took, tries) if part)
    lines = [f"{run.state.replace('_', ' '):<9} {name(run)}{f': {details}' if details else ''} {count}"]
    if run.state in (FAILED, TIMED_OUT):
        lines += [f"    | {line}" for line in outcome.last_lines]
        if outcome.log is not None:
            lines.append(f"    log:   {short_path(outcome.log, SENTENCE_SHOWN)}")
        if (command := command_again(run.task)) is not None:
            lines.append(f"    again: {command}")
    return "\n".join(lines)


def command_again(task: Task) -> str | None:
    """A line for sh(1) that runs a task's command again; None for a function, and where there was a stage."""
    if isinstance(task.run, Call) or task.stage is not None:
        return None
    command = shlex.join(task.run)
    if task.env:
        command = (
            f"env {' '.join(shlex.quote(f'{key}={value}') for key, value in task.env.items())} {command}"
        )
    if task.cwd is not None and task.cwd != here():
        word = shell_word(task.cwd)
        if word is None:
            return None
        command = f"cd {word} && {command}"
    return command if printable(command) == command and len(command) <= SENTENCE_SHOWN else None


def summary(
    state: str, counts: Mapping[str, int], ran_s: float | None, batch: str | None, again: str | None
) -> str:
    """The last line of a batch; after a failure with where more can be read, and what runs the rest again."""
    total = sum(counts.values())
    parts = ", ".join(
        f"{count} {state.replace('_', ' ')}" for state, count in sorted(counts.items(), key=_order)
    )
    took = f" in {span(ran_s)}" if ran_s is not None else ""
    how = {"rolled_back": "; everything was undone", "interrupted": "; interrupted"}.get(state, "")
    text = f"{total} {'task' if total == 1 else 'tasks'}: {parts or 'nothing to do'}{took}{how}\n"
    if state != OK and batch:
        text += f"details: buildslots batches show {batch}\n"
        if again is not None:
            text += f"what was not done: {again}\n"
    return text


def _order(item: tuple[str, int]) -> tuple[bool, str]:
    return item[0] not in GOOD, item[0]


def to_stdout(text: str) -> None:
    """Write `text` to stdout, whole. Raises OSError."""
    data = memoryview(text.encode(sys.stdout.encoding or "utf-8", "replace"))
    while data:
        data = data[os.write(1, data) :]
