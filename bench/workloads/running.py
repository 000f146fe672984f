"""What runs at once in a batch, as its `on_change` tells."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from buildslots import TaskRun


class Change(NamedTuple):
    """A task had another state, at a time of `time.monotonic()`."""

    t: float
    name: str
    state: str


class Running:
    """To be called with each change.

    Attributes:
        peak: The most tasks that ran at once.
        changes: All, in their order.
    """

    def __init__(self) -> None:
        self.peak = 0
        self.changes: list[Change] = []
        self._now: set[str] = set()

    def __call__(self, run: TaskRun) -> None:
        """A task has another state."""
        self.changes.append(Change(time.monotonic(), run.name, run.state))
        if run.state == "running":
            self._now.add(run.name)
        else:
            self._now.discard(run.name)
        self.peak = max(self.peak, len(self._now))

    def names(self, state: str) -> list[str]:
        """Those that came into this state, in that order."""
        return [change.name for change in self.changes if change.state == state]
