"""Running what has to be run to get ready."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

CHECKOUT = Path(__file__).resolve().parents[2]
INSTALL_S = 300.0


class Missing(Exception):  # noqa: N818 - no error: the report names it
    """This cannot be had here."""


def say(text: str) -> None:
    """Tell whoever waits."""
    print(text, file=sys.stderr, flush=True)


def run(*command: str, env: dict[str, str] | None = None, cwd: Path | None = None) -> str:
    """The output of `command`.

    Raises:
        Missing: It failed.
    """
    try:
        done = subprocess.run(
            command,
            env=env,
            cwd=cwd,
            check=True,
            text=True,
            timeout=INSTALL_S,
            stdin=subprocess.DEVNULL,
            capture_output=True,
        )
    except subprocess.CalledProcessError as error:
        last = (error.stderr.strip() or error.stdout.strip() or "no output").splitlines()[-1]
        raise Missing(f"`{command[0]}` failed: {last}") from error
    except (OSError, subprocess.TimeoutExpired) as error:
        raise Missing(str(error)) from error
    return done.stdout


def first_line(*command: str) -> str:
    """The first line that `command` prints."""
    return run(*command).partition("\n")[0].strip()


def forget_settings(scratch: str | os.PathLike[str]) -> None:
    """Let this process, and what it starts, know nothing of its user's slots, pools, config and journal.

    Whoever measures may have a slot: a build below it would be nested.

    PYTHONPATH would put another buildslots in front of the one that is measured, and PYTHONDONTWRITEBYTECODE
    would have it compiled at each start.
    """
    for name in list(os.environ):
        if name.startswith(("BUILD_SLOT", "MAX_CONCURRENT_BUILDS", "CLAUDECODE", "CODEX_", "GEMINI_CLI")):
            del os.environ[name]
    for name in ("PYTHONPATH", "PYTHONDONTWRITEBYTECODE"):
        os.environ.pop(name, None)
    for name in ("CONFIG", "STATE", "CACHE"):
        os.environ[f"XDG_{name}_HOME"] = os.path.join(scratch, name.lower())
