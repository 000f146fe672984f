"""A short run of bench/abuse: builds that are killed, stopped and robbed of their pool, and a referee."""

from __future__ import annotations

import ast
import os
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.linux

TOP = Path(__file__).resolve().parents[2]
LENGTH_S = 14
DEADLINE_S = 120.0


def test_nothing_goes_wrong_whatever_is_done_to_builds() -> None:
    """No more builds than slots, no lost slot, none overtaken, none wedged; each kind of episode once."""
    command = [sys.executable, "-m", "bench.abuse", f"--minutes={LENGTH_S / 60}", "--seed=1", "--length=0.28"]
    result = subprocess.run(
        [*command, "--processes=12", "--slack=5"],
        cwd=TOP,
        env=os.environ | {"PYTHONPATH": str(TOP)},
        capture_output=True,
        text=True,
        timeout=DEADLINE_S,
        check=False,
    )
    assert result.returncode == 0, result.stdout + result.stderr
    figures = dict(line.split(": ", 1) for line in result.stdout.splitlines() if ": " in line)
    assert int(figures["processes killed with SIGKILL"]) > 50, result.stdout
    assert int(figures["waits that ended in a slot within the cap"]) > 50, result.stdout
    assert int(figures["asked again within a build, and had its slot"]) > 0, result.stdout
    assert " 0" not in figures["episodes"], result.stdout


@pytest.mark.parametrize(
    ("removed", "violations"),
    [(None, 1), ((10, 20), 1), ((35, 45), 0), ((45, 60), 0), ((90, 95), 0), ((110, 120), 1)],
)
def test_who_is_overtaken_across_a_removal_of_the_pool(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, removed: tuple[int, int] | None, violations: int
) -> None:
    """Process 1 sets out at 30, joins at 50 and is overtaken by 2, which joins at 80 and starts at 100.

    It may have got the mutex, and its number, before the pool was removed, and have joined after that.
    """
    monkeypatch.setattr(sys, "path", [*sys.path, str(TOP)])  # last: buildslots is the one that is installed
    from bench.abuse import marks, referee  # noqa: PLC0415

    events = [
        marks.Event(1, marks.BORN, 1, 0, 0, 0, 0),
        marks.Event(2, marks.BORN, 2, 0, 0, 0, 0),
        marks.Event(30, marks.CALL, 1, 1, 1, -1, marks.EVER),
        marks.Event(50, marks.JOIN, 1, 1, 0, 2000, 0),
        marks.Event(70, marks.CALL, 2, 1, 1, -1, marks.EVER),
        marks.Event(80, marks.JOIN, 2, 1, 0, 1000, 0),
        marks.Event(99, marks.LEAVE, 2, 0, 0, 1000, 0),
        marks.Event(100, marks.START, 2, 1, 1, 98, marks.NORMAL),
        marks.Event(150, marks.LEAVE, 1, 0, 0, 2000, 0),
    ]
    if removed:
        events += [marks.Event(removed[0], marks.REMOVE, 9, 0, 0, 0, 0)]
        events += [marks.Event(removed[1], marks.REMOVED, 9, 0, 0, 0, 0)]
    judge = referee.Referee(marks.Table(str(tmp_path / "table"), 2), str(tmp_path), 0.0)
    judge.hear(events)
    judge.judge(1000)
    assert judge.counts["order violations"] == violations


def test_the_referee_is_independent() -> None:
    """It, and what it imports of ours, imports nothing of buildslots."""
    for name in ("referee", "ledger", "look", "marks"):
        tree = ast.parse((TOP / "bench" / "abuse" / f"{name}.py").read_text())
        modules = [
            name
            for node in ast.walk(tree)
            for name in (
                [alias.name for alias in node.names]
                if isinstance(node, ast.Import)
                else [str(node.module)]
                if isinstance(node, ast.ImportFrom)
                else []
            )
        ]
        assert not [module for module in modules if module.startswith("buildslots")]
