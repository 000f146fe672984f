"""Programs of bench/ to test with, each in a process of its own."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

TOP = Path(__file__).resolve().parents[1]
"""The checkout, which has bench/."""


def said(module: str, *args: str, deadline_s: float) -> str:
    """What `python -m MODULE ARGS` prints; it has to exit with 0 within `deadline_s` seconds."""
    result = subprocess.run(
        [sys.executable, "-m", module, *args],
        cwd=TOP,
        env=os.environ | {"PYTHONPATH": str(TOP)},
        capture_output=True,
        text=True,
        timeout=deadline_s,
        check=False,
    )
    assert result.returncode == 0, result.stdout + result.stderr
    return result.stdout
