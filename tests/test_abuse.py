"""A short run of bench/abuse: builds that are killed, stopped and robbed of their pool, and a referee."""

from __future__ import annotations

import ast
import os
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.linux

TOP = Path(__file__).resolve().parents[1]
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
    assert " 0" not in figures["episodes"], result.stdout


def test_the_referee_is_independent() -> None:
    """It, and what it imports of ours, imports nothing of buildslots."""
    for name in ("referee", "marks"):
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
