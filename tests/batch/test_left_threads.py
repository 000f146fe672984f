"""The thread of a function that was cancelled goes on, but what it writes into a stage is not left there."""

from __future__ import annotations

import os
import threading
from typing import TYPE_CHECKING

from buildslots import current_task, run_batch
from buildslots.batch import attempt

if TYPE_CHECKING:
    from pathlib import Path

    import pytest

ROUNDS = 5


def test_a_stage_goes_although_a_thread_still_writes_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A thread that adds files faster than they are removed loses sight of their directory."""
    monkeypatch.setattr(attempt, "GRACE_S", 0.2)
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    begun, over = threading.Event(), [threading.Event() for _ in range(ROUNDS)]

    def write(end: threading.Event) -> None:
        stage = current_task().stage
        try:
            for number in range(2_000_000):
                with open(f"{stage}/{number}", "w") as file:
                    file.write("x")
                if number == 500:
                    begun.set()
        except FileNotFoundError:
            end.set()

    def fail() -> None:
        begun.wait(60)
        raise ValueError("no")

    for end in over:
        begun.clear()
        tasks = [
            {"run": write, "args": [end], "name": "writes", "stage": tmp_path / "dest" / "one", "pool": ""},
            {"run": fail, "name": "fails", "pool": ""},
        ]
        report = run_batch(tasks, jobs=2, fail="now")
        assert report.counts == {"cancelled": 1, "failed": 1}
        assert end.wait(60)
    assert os.listdir(tmp_path / "dest") == []
