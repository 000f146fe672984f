"""Homes in which agents are set up, and `buildslots setup` in them."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from builds import script

if TYPE_CHECKING:
    import subprocess

    from builds import Pool

GOLDEN = Path(__file__).parent / "agents" / "golden"
FILES = {
    "claude": ".claude/settings.json",
    "codex": ".codex/hooks.json",
    "gemini": ".gemini/settings.json",
    "cursor": ".cursor/hooks.json",
    "copilot": ".copilot/hooks/buildslots.json",
}


def home_in(home: Path) -> Path:
    """Give `home` a buildslots that stays."""
    program = home / ".local" / "bin" / "buildslots"
    program.parent.mkdir(parents=True)
    program.write_text(f'#!/bin/sh\nexec {script("buildslots")} "$@"\n')
    program.chmod(0o755)
    return home


def setup(pool: Pool, *args: str, **more: object) -> subprocess.CompletedProcess[str]:
    """Run `buildslots setup ARGS`, in mode rewrite unless another one is said."""
    mode = () if {"--mode", "--uninstall", "--status"} & set(args) or not args else ("--mode", "rewrite")
    return pool.run(script("buildslots"), "setup", *args, *mode, **more)


def done(pool: Pool, *args: str, **more: object) -> str:
    """The same without a question; what it says."""
    result = setup(pool, *args, "--yes", **more)
    assert (result.returncode, result.stderr) == (0, ""), result
    return result.stdout


def refused(pool: Pool, *args: str, **more: object) -> str:
    """What `buildslots setup ARGS` says that refuses: one sentence."""
    result = setup(pool, *args, "--yes", **more)
    assert (result.returncode, result.stdout, result.stderr.count("\n")) == (1, "", 1), result
    return result.stderr


def put(home: Path, agent: str, data: bytes | str) -> Path:
    """Give an agent a file."""
    path = home / FILES[agent]
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data if isinstance(data, bytes) else data.encode())
    return path


def left(directory: Path) -> list[str]:
    return sorted(path.name for path in directory.iterdir())
