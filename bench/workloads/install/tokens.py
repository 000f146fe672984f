"""The token for the server: from GITHUB_TOKEN, then from `gh auth token`, then none, with a warning."""

from __future__ import annotations

import os
import shutil
import subprocess
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable

GH_S = 5.0
"""How long gh may think."""


def find_token(warn: Callable[[str], None]) -> str | None:
    """The token; None, and a warning that says what to do, if there is none."""
    token = os.environ.get("GITHUB_TOKEN", "").strip() or _of_gh()
    if token is None:
        warn(
            "no token: downloads are limited to 60 an hour."
            " Set GITHUB_TOKEN, or install gh and run `gh auth login`"
        )
    return token


def _of_gh() -> str | None:
    gh = shutil.which("gh")
    if gh is None:
        return None
    try:
        done = subprocess.run(
            [gh, "auth", "token"],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=GH_S,
            check=True,
        )
    except (OSError, subprocess.SubprocessError):
        return None
    return done.stdout.strip() or None
