"""Where a workload runs: a scratch directory with settings of its own, and `buildslots batch` in it.

Nothing of the user counts there: no config file of buildslots or of git, no pool, no record of earlier runs.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import threading
import time
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence

BATCH = (sys.executable, "-m", "buildslots", "batch")
DEADLINE_S = 300.0
"""When a run counts as one that hangs."""
OURS = ("BUILD_", "MAX_CONCURRENT_BUILDS", "XDG_", "GIT_", "SSH_ASKPASS", "COLUMNS", "LINES", "CI")
"""What the variables begin with that a run must not inherit."""
GIT_CONFIG = """\
[user]
    name = Sam
    email = sam@example.invalid
[init]
    defaultBranch = main
[gc]
    auto = 0
[maintenance]
    auto = false
[protocol "file"]
    allow = always
"""


@contextmanager
def scratch(name: str) -> Iterator[Path]:
    """A directory for the workload `name`, while this process has the environment that belongs to it."""
    before = dict(os.environ)
    with tempfile.TemporaryDirectory(prefix=f"{name}-", ignore_cleanup_errors=True) as directory:
        home = Path(directory) / "home"
        home.mkdir()
        (home / "gitconfig").write_text(GIT_CONFIG)
        for variable in [variable for variable in os.environ if variable.startswith(OURS)]:
            del os.environ[variable]
        os.environ |= {
            "HOME": str(home),
            "TERM": "xterm",
            "LC_ALL": "C.UTF-8",
            "XDG_STATE_HOME": str(home / "state"),
            "XDG_CONFIG_HOME": str(home / "config"),
            "XDG_CACHE_HOME": str(home / "cache"),
            "GIT_CONFIG_GLOBAL": str(home / "gitconfig"),
            "GIT_CONFIG_NOSYSTEM": "1",
        }
        try:
            yield Path(directory)
        finally:
            os.environ.clear()
            os.environ.update(before)


@dataclass(frozen=True, slots=True)
class Ran:
    """One run of `buildslots batch --json`.

    Attributes:
        status: Of the process; minus the signal that it died of.
        events: All lines, in their order.
        err: What it said to people.
        took_s: From its start to its end.
    """

    status: int
    events: tuple[dict[str, Any], ...]
    err: str
    took_s: float

    @property
    def tasks(self) -> list[dict[str, Any]]:
        """How tasks have ended, in that order."""
        return [event for event in self.events if event["event"] == "task"]

    @property
    def counts(self) -> dict[str, int]:
        """How many have ended in each state, as the last line says."""
        found: dict[str, int] = self.events[-1].get("counts", {}) if self.events else {}
        return found

    @property
    def states(self) -> dict[str, str]:
        """The states by the names of tasks."""
        return {event["task"]: event["state"] for event in self.tasks}

    def __str__(self) -> str:
        return f"{words(self.counts)}, exit status {self.status}"


def batch(
    *options: str,
    cwd: str | os.PathLike[str],
    environ: Mapping[str, str] | None = None,
    look: Callable[[dict[str, Any]], object] = lambda _: None,
) -> Ran:
    """Run `buildslots batch --json` with `options`; `look` gets each line as soon as it is there."""
    began = time.monotonic()
    events = []
    with (
        tempfile.TemporaryFile("w+") as err,
        subprocess.Popen(
            [*BATCH, "--json", *options],
            cwd=cwd,
            env={**os.environ, **(environ or {})},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=err,
            text=True,
        ) as process,
    ):
        killer = threading.Timer(DEADLINE_S, process.kill)
        killer.start()
        assert process.stdout is not None
        for line in process.stdout:
            events.append(json.loads(line))
            look(events[-1])
        status = process.wait()
        killer.cancel()
        err.seek(0)
        said = err.read()
    if status == 2 or not events:
        raise RuntimeError(f"{' '.join(options)} was not run: {said}")
    return Ran(status, tuple(events), said, time.monotonic() - began)


def words(counts: Mapping[str, int]) -> str:
    """Counts by state, as "3 ok, 1 failed"."""
    return ", ".join(f"{count} {state}" for state, count in counts.items()) or "none"


def named(names: Sequence[str], most: int = 6) -> str:
    """`names` as a list for people."""
    return ", ".join(names[:most]) + (f" and {len(names) - most} more" if len(names) > most else "")
