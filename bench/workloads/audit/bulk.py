"""Bulk installs as plans for `buildslots batch`, and what it prints of them."""

from __future__ import annotations

import json
import os
import shlex
import subprocess
import sys
from typing import TYPE_CHECKING, Any

from bench.kit.shell import CHECKOUT
from bench.workloads.audit.wheels import QUIETLY, check_of, make_environment, pip

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

POOL = "installs"
RETRY_ON = [75, "stderr: (?i)connection (aborted|broken|reset|was closed)|timed out"]
"""A package manager's lock is taken, as EX_TEMPFAIL says; or pip had trouble with the network."""
DEADLINE_S = 300.0


class Done:
    """A run of `buildslots batch`.

    Attributes:
        lines: What it printed.
        status: Its exit status.
    """

    def __init__(self, process: subprocess.CompletedProcess[str]) -> None:
        self.lines = process.stdout.splitlines()
        self.status = process.returncode
        self.errors = process.stderr

    def at(self, beginning: str) -> int:
        """The number of the first line that begins so; -1 if none does."""
        return next((at for at, line in enumerate(self.lines) if line.startswith(beginning)), -1)

    def named(self, word: str) -> list[str]:
        """The tasks in lines that begin with this word, in their order."""
        found = [line.split() for line in self.lines if line.startswith(word)]
        return [words[1].rstrip(":,") for words in found]


def staged(name: str, needs: tuple[str, ...], wheels: str, root: Path) -> dict[str, Any]:
    """A task that installs `name` into an environment of its own below `root`."""
    links = ("--no-index", "--find-links", wheels, "--retries=0")
    stage = '"$STAGE"'
    return {
        "name": name,
        "needs": list(needs),
        "pool": POOL,
        "run": f"{make_environment(stage)} && {pip(stage, 'install', *links, name)}",
        "verify": check_of(stage, name),
        "stage": str(root / name),
        "retries": 1,
        "retry_on": RETRY_ON,
    }


def shared(
    name: str, needs: tuple[str, ...], wheels: str, environment: Path, *, fails: bool
) -> dict[str, Any]:
    """A task that installs `name`, and nothing that it needs, into the one `environment`."""
    where = shlex.quote(str(environment))
    links = ("--no-index", "--no-deps", "--find-links", wheels)
    away = pip(where, "uninstall", "--yes", name)
    check = "false" if fails else check_of(where, name)
    # "undo" is for what has succeeded. What has not cleans up itself, and so this is no "verify".
    script = f"{pip(where, 'install', *links, name)} && {check} || {{ {away}; exit 9; }}"
    about = {"name": name, "needs": list(needs), "pool": POOL, "serial": str(environment)}
    return {**about, "run": script, "undo": away}


def run(scratch: Path, tasks: list[dict[str, Any]], *options: str, **top: Any) -> Done:
    """Run `tasks`, with what is true of the whole plan at the `top` of it."""
    plan = scratch / "bulk.toml"
    plan.write_text(_toml({"env": QUIETLY, **top}) + "".join(f"[[task]]\n{_toml(task)}" for task in tasks))
    process = subprocess.run(
        [sys.executable, "-m", "buildslots", "batch", *options, str(plan)],
        cwd=CHECKOUT,
        env=os.environ,
        capture_output=True,
        text=True,
        check=False,
        timeout=DEADLINE_S,
    )
    return Done(process)


def _toml(table: Mapping[str, Any]) -> str:
    return "".join(f"{key} = {_value(value)}\n" for key, value in table.items())


def _value(value: Any) -> str:
    """A value in TOML, whose strings and lists are those of JSON; a table is inline."""
    if isinstance(value, dict):
        return "{ " + ", ".join(f"{key} = {_value(one)}" for key, one in value.items()) + " }"
    return json.dumps(value)
