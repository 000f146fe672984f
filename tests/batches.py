"""Real batches to test with: `buildslots batch` processes, and tasks that measure each other."""

from __future__ import annotations

import json
import os
from typing import TYPE_CHECKING, Any

import anyio
import anyio.lowlevel
import pytest
from builds import DEADLINE_S, Build, Pool, script

if TYPE_CHECKING:
    import subprocess
    from collections.abc import Callable
    from pathlib import Path

    from buildslots import Report

STRICT = {"PYTHONWARNINGS": "error::ResourceWarning,error::DeprecationWarning"}
"""What was left open shows on stderr then."""
OVERLAP = "mkdir running/$$; ls running | wc -l >>peaks; sleep 0.02; rmdir running/$$"
"""A shell command that notes how many of its kind run: for `Batches.peak`."""


class Batches:
    """Runs `buildslots batch` in a directory of its own, with the pool of the test."""

    def __init__(self, pool: Pool, directory: Path) -> None:
        self.pool = pool
        self.dir = directory
        self.state = directory.parent / "home" / ".local" / "state" / "buildslots"
        self.records = self.state / "batches"
        pool.environ.update(STRICT)

    def write(self, *tasks: dict[str, Any], file: str = "plan.toml", **top: Any) -> str:
        """Write a plan: the name of its file."""
        lines = [f"{key} = {toml(value)}" for key, value in top.items()]
        for task in tasks:
            lines += ["[[task]]", *(f"{key} = {toml(value)}" for key, value in task.items())]
        (self.dir / file).write_text("\n".join(lines) + "\n")
        return file

    def run(self, *args: str, **options: Any) -> subprocess.CompletedProcess[str]:
        """Run `buildslots batch ARGS` to its end."""
        return self.pool.run(script("buildslots"), "batch", *args, cwd=self.dir, **options)

    def start(self, *args: str, **options: Any) -> Build:
        """Start `buildslots batch ARGS`."""
        return self.pool.popen(script("buildslots"), "batch", *args, cwd=self.dir, **options)

    def json(self, *args: str, **options: Any) -> tuple[int, list[dict[str, Any]]]:
        """Run `buildslots batch --json ARGS`: its exit status and its events; it says nothing else."""
        result = self.run("--json", *args, **options)
        assert result.stderr == ""
        return result.returncode, events(result.stdout)

    def views(self, *args: str) -> subprocess.CompletedProcess[str]:
        """Run `buildslots batches ARGS`."""
        return self.pool.run(script("buildslots"), "batches", *args, cwd=self.dir)

    def runs(self) -> list[Path]:
        """The directories of the runs that there are records of, the oldest first."""
        found = [path.parent for path in self.records.glob("*/events.ndjson") if path.stat().st_size]
        return sorted(found, key=lambda run: events((run / "events.ndjson").read_text())[0]["t"])

    def events(self) -> list[dict[str, Any]]:
        """All events in the records of the newest run that began."""
        return events((self.runs()[-1] / "events.ndjson").read_text())

    def peak(self) -> int:
        """How many OVERLAP commands ran at once, at most."""
        return max(map(int, (self.dir / "peaks").read_text().split()))

    def text(self, name: str = "out") -> str:
        """What commands have written into a file; "" if there is none."""
        path = self.dir / name
        return path.read_text() if path.exists() else ""


def toml(value: Any) -> str:
    """`value` in TOML."""
    if isinstance(value, dict):
        return "{ " + ", ".join(f"{json.dumps(str(k))} = {toml(v)}" for k, v in value.items()) + " }"
    if isinstance(value, (list, tuple)):
        return f"[{', '.join(map(toml, value))}]"
    return json.dumps(value)  # strings and numbers are the same in both


def events(text: str) -> list[dict[str, Any]]:
    """The JSON objects in `text`, one a line."""
    return [json.loads(line) for line in text.splitlines() if line]


def ended(told: list[dict[str, Any]]) -> dict[str, str]:
    """How tasks have ended, by name, as the last event of each says."""
    return {one["task"]: one["state"] for one in told if one["event"] == "task"}


def states(report: Report) -> dict[str, str]:
    """How tasks have ended, by name."""
    return {outcome.name: outcome.state for outcome in report.outcomes}


def tree(path: Path) -> dict[str, str]:
    """All files below `path`, and what is in them; and empty directories."""
    found = {}
    for where, directories, files in os.walk(path):
        for name in files:
            file = os.path.join(where, name)
            with open(file) as opened:
                found[os.path.relpath(file, path)] = opened.read()
        if not directories and not files:
            found[os.path.relpath(where, path) + "/"] = ""
    return found


async def until(condition: Callable[[], object], what: str) -> None:
    """`builds.wait_until`, while other tasks run."""
    with anyio.move_on_after(DEADLINE_S):
        while not condition():  # noqa: ASYNC110 - of threads and processes, too
            await anyio.sleep(0.002)
        return
    pytest.fail(f"not reached: {what}")


class Gauge:
    """A coroutine function that measures how many of its calls are under way at once.

    Args:
        together: Nobody leaves before so many are there, so as to see that so many can be.
    """

    def __init__(self, together: int = 1) -> None:
        self.together = together
        self.now = 0
        self.peak = 0
        self.order: list[Any] = []

    async def enter(self, *args: Any) -> None:
        self.order += args
        self.now += 1
        self.peak = max(self.peak, self.now)
        try:
            await until(lambda: self.peak >= self.together, f"{self.together} at once")
            await anyio.lowlevel.checkpoint()
        finally:
            self.now -= 1
