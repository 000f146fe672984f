"""What is told of a batch to programs: the lines of --json, which the records keep too.

{"v": 1, "seq": 0, "t": 1790000000.25, "event": "batch", "state": "running", "batch": "install-…", …}
{"v": 1, "seq": 1, "t": …, "event": "task", "task": "fetch", "state": "ok", "attempts": 1, …}
{"v": 1, "seq": 2, "t": …, "event": "batch", "state": "ok", "counts": {"ok": 1}, …}
"""

from __future__ import annotations

import hashlib
import json
import time
from typing import TYPE_CHECKING, Any

from buildslots.batch.task import Call
from buildslots.processes import here

if TYPE_CHECKING:
    from buildslots.batch.records import Records
    from buildslots.batch.state import TaskRun
    from buildslots.batch.task import Task

VERSION = 1


def event(kind: str, seq: int, **about: Any) -> dict[str, Any]:
    """An event of now."""
    return {"v": VERSION, "seq": seq, "t": round(time.time(), 6), "event": kind, **about}


def task_event(run: TaskRun, seq: int) -> dict[str, Any]:
    """That `run` has ended."""
    outcome = run.outcome
    assert outcome is not None
    return event(
        "task",
        seq,
        task=run.name,
        n=run.number,
        state=outcome.state,
        reason=outcome.reason,
        status=outcome.status,
        attempts=outcome.attempts,
        slot=run.slot,
        waited_s=round(outcome.waited_s, 6),
        ran_s=round(outcome.ran_s, 6),
        log=outcome.log,
    )


class Recorder:
    """Writes into the records what becomes of tasks; see `runner.Watcher`."""

    __slots__ = ("_records", "_seq")

    def __init__(self, records: Records) -> None:
        self._records = records
        self._seq = 0

    def begin(self, **about: Any) -> None:
        """The run begins."""
        self._write(event("batch", 0, state="running", **about))

    def end(self, state: str, **about: Any) -> None:
        """The run has ended."""
        self._write(event("batch", self._seq, state=state, **about))

    def changed(self, run: TaskRun) -> None:
        """Write how a task has ended."""
        if run.outcome is not None:
            told = task_event(run, self._seq)
            if (mark := fingerprint(run.task)) is not None:
                told["fingerprint"] = mark
            self._write(told)

    def step(self, run: TaskRun | None, step: str, about: dict[str, Any]) -> None:
        """Write what is about to be done."""
        who: dict[str, Any] = {} if run is None else {"task": run.name, "n": run.number}
        if run is not None and step == "stage":
            who["fingerprint"] = fingerprint(run.task)
        self._write(event("step", self._seq, step=step, **who, **about))

    def _write(self, told: dict[str, Any]) -> None:
        self._seq += 1
        self._records.write(told)


def fingerprint(task: Task) -> str | None:
    """What tells whether an earlier run has done a task: command, directory, inputs; None for functions."""
    if isinstance(task.run, Call) or isinstance(task.verify, Call):
        return None
    what = [task.name, task.run, task.cwd or here(), sorted(task.env.items()), task.verify, task.stage]
    return hashlib.sha256(json.dumps(what).encode()).hexdigest()[:24]
