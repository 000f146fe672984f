"""What has happened, from three sources: the ledger of tasks, the records of batches, the driver's notes."""

from __future__ import annotations

import json
import os
from collections import defaultdict
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator
    from typing import Any

NEVER = 2**63


@dataclass
class Execution:
    """One attempt of a task, by its own marks. Times are monotonic, but for `wall`.

    Attributes:
        batch: ID of the run of the batch.
        slot: Its number; -1 if it had none.
        wall: When it started, in ns since 1970.
        end: NEVER if it has not told.
        wall_end: Likewise.
        status: Its exit status.
        stage: "fresh", "stale" or "none".
        seen: The generations of the destinations that it saw at its start; "?" is no whole one.
    """

    plan: str
    generation: int
    batch: str
    task: str
    slot: int
    pid: int
    start: int
    wall: int
    key: str
    stage: str
    seen: list[str]
    end: int = NEVER
    wall_end: int = NEVER
    status: int | None = None

    def __str__(self) -> str:
        end = "no end" if self.end == NEVER else f"{self.end / 1e9:.4f}"
        what = f"{self.plan}/{self.task} of generation {self.generation}, {self.batch}"
        return f"{what}, slot {self.slot}, pid {self.pid}: {self.start / 1e9:.4f} to {end}, {self.status}"


@dataclass
class Records:
    """What the records of one run have said, in its order; read again and again, for they are pruned.

    Attributes:
        name: Of the batch, so of the plan; "" if that is not known yet.
    """

    name: str = ""
    events: list[dict[str, Any]] = field(default_factory=list)
    _offset: int = 0

    def read(self, path: Path) -> None:
        """Read what is new in the file at `path`."""
        try:
            with open(path, "rb") as file:
                file.seek(self._offset)
                data = file.read()
        except FileNotFoundError:
            return
        whole, newline, _ = data.rpartition(b"\n")
        self._offset += len(whole) + len(newline)
        for line in whole.splitlines():
            if line.strip():
                try:
                    self.events.append(json.loads(line))
                except ValueError:
                    continue  # a line that a kill has cut
        if self.events and not self.name:
            self.name = str(self.events[0].get("name", ""))

    def is_committed(self) -> bool:
        """Whether, with all or nothing, all that was done counts."""
        steps = [event.get("step") for event in self.events]
        return "commit" in steps and "rollback" not in steps

    def done(self) -> Iterator[tuple[str, float]]:
        """Each task that it says to be done, and since when, in seconds since 1970."""
        at_all = 0.0
        if self.events and self.events[0].get("all_or_nothing"):
            if not self.is_committed():
                return
            at_all = next(event["t"] for event in self.events if event.get("step") == "commit")
        for event in self.events:
            if event.get("event") == "task" and event.get("state") == "ok":
                yield event["task"], max(event["t"], at_all)


class Story:
    """All that is known of a run of the bench in the directory `scratch`."""

    def __init__(self, scratch: str) -> None:
        self._scratch = scratch
        self.records: dict[str, Records] = defaultdict(Records)
        self.executions: list[Execution] = []
        self.notes: list[dict[str, Any]] = []
        self.strange: list[str] = []  # marks that fit nowhere

    def read_records(self) -> None:
        """Read what is new in the records of all batches."""
        for directory in Path(self._scratch, "state", "buildslots", "batches").glob("*"):
            self.records[directory.name].read(directory / "events.ndjson")

    def read_all(self) -> None:
        """Read the rest, when nothing runs any more."""
        self.read_records()
        self.notes = [json.loads(line) for line in Path(self._scratch, "notes").read_text().splitlines()]
        running: dict[tuple[str, str, str], Execution] = {}
        for line in Path(self._scratch, "ledger").read_text().splitlines():
            if not line:
                continue
            at, plan, generation, batch, task, slot, pid, now, wall, key, status, found = line.split("\t")
            who = batch, task, pid
            if at == "start":
                stage, *seen = found.split()
                running[who] = Execution(
                    plan, int(generation), batch, task, int(slot or -1), int(pid),
                    int(now), int(wall), key, stage, seen,
                )  # fmt: skip
                self.executions.append(running[who])
            elif who in running:
                execution = running.pop(who)
                execution.end, execution.wall_end, execution.status = int(now), int(wall), int(status)
            else:
                self.strange.append(f"an end without a start: {line}")
        self.executions.sort(key=lambda execution: execution.start)

    def noted(self, at: str) -> list[dict[str, Any]]:
        """The driver's notes of one kind."""
        return [note for note in self.notes if note["at"] == at]

    def last(self, plan: str, before: int, lines: int = 6) -> list[str]:
        """The last executions of `plan` that started before a time, for people."""
        mine = [str(each) for each in self.executions if each.plan == plan and each.start <= before]
        return mine[-lines:]


def note(scratch: str, at: str, **about: Any) -> None:
    """Take a note, as the driver."""
    import time  # noqa: PLC0415

    line = json.dumps({"at": at, "t": time.monotonic_ns(), "wall": time.time_ns(), **about})
    fd = os.open(os.path.join(scratch, "notes"), os.O_WRONLY | os.O_APPEND | os.O_CREAT)
    try:
        os.write(fd, f"{line}\n".encode())
    finally:
        os.close(fd)
