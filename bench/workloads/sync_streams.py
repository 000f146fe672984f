"""Tasks that come as a stream, and lines of JSON that go out as they end."""

from __future__ import annotations

import json
import re
import subprocess
import threading
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bench.workloads.place import BATCH, DEADLINE_S
from bench.workloads.sync_field import default_jobs

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from bench.workloads.checklist import Checklist
    from bench.workloads.sync_field import Field

LAST = 10
"""Memory is looked at last when so many are left: at the end there is nobody to ask."""
GROWTH_KIB = 2048
"""So much more memory may be used at most; a task that was kept would be more than 1 KiB."""


class Stream:
    """`buildslots batch --json -` that tasks are written to, and whose lines are read as they come."""

    def __init__(self, tasks: Iterable[dict[str, Any]], *options: str, cwd: Path) -> None:
        self.process = subprocess.Popen(
            [*BATCH, "--json", "--pool", "", *options, "-"],
            cwd=cwd,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
        )
        self._tasks = tasks
        self._writer = threading.Thread(target=self._write, daemon=True)
        self._killer = threading.Timer(DEADLINE_S, self.process.kill)
        self._writer.start()
        self._killer.start()

    def _write(self) -> None:
        assert self.process.stdin is not None
        with self.process.stdin as stdin:
            for task in self._tasks:
                stdin.write(f"{json.dumps(task)}\n")

    def events(self) -> Iterator[dict[str, Any]]:
        """The lines, as they come."""
        assert self.process.stdout is not None
        with self.process.stdout as stdout:
            yield from map(json.loads, stdout)

    def status(self) -> int:
        """Its exit status, at its end."""
        self._writer.join()
        try:
            return self.process.wait()
        finally:
            self._killer.cancel()

    def peak_kib(self) -> int:
        """The most memory that it has had until now; that of its commands does not count."""
        text = Path(f"/proc/{self.process.pid}/status").read_text()
        (found,) = re.findall(r"^VmHWM:\s+(\d+) kB$", text, re.MULTILINE)
        return int(found)


def check(promises: Checklist, field: Field) -> None:
    """In the order of the ends, as they come, in constant memory."""
    _as_they_end(promises, field)
    _in_constant_memory(promises, field)


def _as_they_end(promises: Checklist, field: Field) -> None:
    """Each waits for a file that is there only when the line of the one behind it has been read."""
    names = [f"task-{number}" for number in range(default_jobs())]
    tasks = [
        {
            "name": name,
            "run": ["sh", "-c", f"while [ ! -e go-{name} ]; do sleep 0.02; done"],
            "time_limit": 60,
        }
        for name in names
    ]
    stream = Stream(tasks, "--jobs", str(len(names)), cwd=field.root)
    waiting = list(names)
    read = []
    (field.root / f"go-{waiting.pop()}").touch()
    for event in stream.events():
        if event["event"] == "task":
            read.append(f"{event['task']} {event['state']}")
            if waiting:
                (field.root / f"go-{waiting.pop()}").touch()
    status = stream.status()
    promises.check(
        "a line can be read as soon as its task has ended, while others run",
        read == [f"{name} ok" for name in reversed(names)] and status == 0,
        f"{', '.join(read)}; each was let go after the line before it was read",
    )


def _in_constant_memory(promises: Checklist, field: Field) -> None:
    total, warm = field.sizes.no_ops, field.sizes.warm
    tasks = ({"name": f"no-op-{number}", "run": ["true"]} for number in range(total))
    stream = Stream(tasks, cwd=field.root)
    peaks: dict[int, int] = {}
    seqs_are_whole = True
    ended = 0
    for number, event in enumerate(stream.events()):
        seqs_are_whole &= event["seq"] == number
        if event["event"] != "task":
            continue
        ended += event["state"] == "ok"
        if number in (warm, total - LAST):
            peaks[number] = stream.peak_kib()
    status = stream.status()
    first, last = peaks[min(peaks)], peaks[max(peaks)]
    promises.check(
        f"{total} no-op tasks through NDJSON: a line for each",
        ended == total and seqs_are_whole and status == 0,
        f"{ended} ok, exit status {status}",
    )
    promises.check(
        "in constant memory",
        last - first <= GROWTH_KIB,
        f"at most {first / 1024:.1f} MiB after {min(peaks)} tasks, {last / 1024:.1f} MiB after {max(peaks)}",
    )
