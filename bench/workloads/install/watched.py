"""A manager that is watched: when it fetched and verified what, and what lay at the destination then."""

from __future__ import annotations

import asyncio
import hashlib
import os
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from bench.kit.spans import Span, peak_overlap
from bench.workloads.install.manager import AT_ONCE, POOL, Manager
from buildslots import SlotPool, current_task

if TYPE_CHECKING:
    from bench.workloads.install.manager import Wanted
    from buildslots import Report, TaskRun


class Step(NamedTuple):
    """Something that was done, at a time of `time.monotonic()`."""

    t: float
    what: str
    name: str


class Watched(Manager):
    """Writes down what it does.

    Attributes:
        steps: "fetch" and "verified" of each component, and the states that its task has been in.
        pauses: From when to when nothing was to start.
        seen_early: What lay in the destination's `components` while something was verified.
        before_links: What lay there when the links were to be made, and what all links led to then.
        without_slot: What was verified while the machine's list did not show its slot as held by us.
    """

    def __init__(self, url: str, dest: Path, *, at_once: int = AT_ONCE) -> None:
        super().__init__(url, dest, at_once=at_once, on_change=self.changed)
        self.dest = dest
        self.steps: list[Step] = []
        self.pauses: list[tuple[float, float]] = []
        self.seen_early: set[str] = set()
        self.without_slot: list[str] = []
        self.before_links: tuple[list[str], dict[str, str]] | None = None

    async def fetch(self, one: Wanted) -> None:
        """See `Manager`."""
        self._step("fetch", one.name)
        await super().fetch(one)

    async def verify(self, one: Wanted) -> None:
        """See `Manager`."""
        await super().verify(one)
        slot = current_task().slot
        held = [holder.slot for holder in SlotPool(POOL).status().holders if holder.pid == os.getpid()]
        if slot not in held:
            self.without_slot.append(one.name)
        self.seen_early.update(visible(self.dest))
        self._step("verified", one.name)

    def activate(self) -> None:
        """See `Manager`."""
        self.before_links = visible(self.dest), links(self.dest)
        super().activate()

    def changed(self, run: TaskRun) -> None:
        """A task has another state."""
        self._step(run.state, run.name)

    def rest(self, seconds: float) -> None:
        """See `Manager`."""
        now = time.monotonic()
        self.pauses.append((now, now + seconds))
        super().rest(seconds)

    def run(self) -> Report:
        """Install, and wait for the end."""
        return asyncio.run(self.install())

    def peak(self) -> int:
        """How many components were between the start of a fetch and the end of its check at once."""
        began: dict[str, float] = {}
        spans = []
        for step in list(self.steps):
            if step.what == "fetch":
                began[step.name] = step.t
            elif step.what in {"verified", "retrying", "failed", "cancelled"} and step.name in began:
                spans.append(Span(int(began.pop(step.name) * 1e9), int(step.t * 1e9)))
        return peak_overlap(spans)

    def started(self) -> list[Step]:
        """The starts of all attempts."""
        return [step for step in self.steps if step.what == "running"]

    def started_in_a_pause(self) -> list[Step]:
        """Those that came in a pause."""
        return [step for step in self.started() if any(begin < step.t < end for begin, end in self.pauses)]

    def _step(self, what: str, name: str) -> None:
        self.steps.append(Step(time.monotonic(), what, name))


def command(url: str, dest: Path, *more: str) -> list[str]:
    """The command line of a manager that is not watched."""
    return [sys.executable, "-m", "bench.workloads.install.manager", "--url", url, "--dest", str(dest), *more]


def visible(dest: Path) -> list[str]:
    """What is installed in `dest`: everything that has its final name, or a link."""
    found: list[str] = []
    for directory in ("components", "bin"):
        if (dest / directory).is_dir():
            found += [f"{directory}/{name}" for name in os.listdir(dest / directory) if name[0] != "."]
    return sorted(found)


def links(dest: Path) -> dict[str, str]:
    """What the links in `bin` lead to: the names of components."""
    found = {}
    if (dest / "bin").is_dir():
        for path in (dest / "bin").iterdir():
            found[path.name] = Path(os.readlink(path)).parts[-3]
    return found


def tree(dest: Path) -> dict[str, str]:
    """All that is below `dest`, hidden as well: its paths, and the checksums of files or targets of links."""
    found = {}
    for path in sorted(dest.rglob("*")):
        if path.is_symlink():
            what = f"-> {os.readlink(path)}"
        elif path.is_file():
            what = hashlib.sha256(path.read_bytes()).hexdigest()[:16]
        else:
            what = "directory"
        found[str(path.relative_to(dest))] = what
    return found
