"""The question on batches, in a short form: it runs the real tools, and says how its bars were kept."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

CHECKOUT = Path(__file__).resolve().parents[2]
LIMIT_S = 60.0

pytestmark = pytest.mark.linux


def test_a_batch_beside_xargs() -> None:
    """Each tool has a row, each bar a verdict; whether a bar was kept is not for a loaded machine to say."""
    options = ["--tasks", "10", "--rounds", "1", "--memory", "5,10", "--peers", "xargs"]
    command = [sys.executable, "-m", "bench.questions.batch", *options]
    done = subprocess.run(
        command, cwd=CHECKOUT, env=os.environ, capture_output=True, text=True, timeout=LIMIT_S, check=False
    )
    assert done.returncode == 0, done.stderr
    rows = [line.strip("| ").split(" | ") for line in done.stdout.splitlines() if line.startswith("| ")]
    assert [row[0] for row in rows if row[1] == "10"] == ["xargs", "batch, no slots", "batch, slots"]
    verdicts = [row[-1] for row in rows if row[-1] in {"kept", "missed", "not measured"}]
    assert len(verdicts) == 5
    assert verdicts.count("not measured") == 1  # below GNU parallel, which was not asked
    peaks = [float(row[1]) for row in rows if row[0] in {"5", "10"}]
    assert all(5 < peak < 200 for peak in peaks)
    assert re.search(r"^date: .* load after: ", done.stdout, re.MULTILINE)
