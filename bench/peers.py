"""The peers that wrap a command, behind one small interface, and where they come from.

`Kit` makes a virtual environment with buildslots as a wheel and installs what is missing through apt-get (as
root only) and npm. A peer that cannot be had is `Missing`, with the reason.
"""

from __future__ import annotations

import functools
import importlib.metadata
import json
import os
import py_compile
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from bench import environ, libraries
from bench.handover import compile_recorder

if TYPE_CHECKING:
    from collections.abc import Callable

CHECKOUT = Path(__file__).resolve().parent.parent
INSTALL_S = 300.0
BARE = "python -c"
LIMITS = (BARE, "flock(2)", "semaphore")
"""No peers but what the machine allows: an interpreter's start; one slot; K slots without crash safety."""
ONE_SLOT = ("flock(2)",)
DISTRIBUTIONS = {"SlotPool": "buildslots", "portalocker": "portalocker", "filelock": "filelock"}
NOT_HAD = {
    "pueue": "Debian 12, PyPI and npm, where the other peers come from, do not have it",
}


class Missing(Exception):  # noqa: N818 - no error: the report names it
    """This peer cannot be had here."""


@dataclass(frozen=True)
class Command:
    """A peer on the command line.

    Attributes:
        name: For `--peers` and the report.
        version: As it says itself.
        wrap: Of the directory of a pool, its slots and an environment, which it may add to: the words to
            put in front of a command.
        only_slots: How many slots it can have; None for any number.
        most: The most contenders to try, where more would mostly show what so many starts or so much
            memory cost.
    """

    name: str
    version: str
    wrap: Callable[[Path, int, dict[str, str]], list[str]]
    only_slots: int | None = None
    most: int = 256


class Kit:
    """What the peers are made of, in the directory `scratch`; each thing is made when it is first needed."""

    def __init__(self, scratch: Path) -> None:
        self.scratch = scratch

    @functools.cached_property
    def recorder(self) -> Path:
        """The command that notes when it ran."""
        return compile_recorder(self.scratch)

    @functools.cached_property
    def bin(self) -> Path:
        """The scripts of a fresh virtual environment with buildslots, as a wheel, and the Python peers."""
        say("making a virtual environment with buildslots as a wheel")
        venv = self.scratch / "venv"
        # Otherwise each start compiles the package anew.
        env = {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}
        peers = [f"{name}=={importlib.metadata.version(name)}" for name in ("filelock", "portalocker")]
        # With a new pip: the console scripts that pip 24 writes import `re`, 11 ms of each start.
        run([sys.executable, "-m", "venv", "--upgrade-deps", str(venv)], env=env)
        run([str(venv / "bin/pip"), "install", "--quiet", str(CHECKOUT), *peers], env=env)
        return venv / "bin"

    @functools.cached_property
    def wrapper(self) -> Path:
        """`bench.libraries` as a command, compiled as an installed one would be."""
        compiled = self.scratch / "libraries.pyc"
        py_compile.compile(libraries.__file__, str(compiled), doraise=True)
        return compiled

    def tool(self, name: str, package: str) -> str:
        """The path of the program `name`, from the apt package `package` if need be."""
        if shutil.which(name) is None and shutil.which("apt-get") and os.geteuid() == 0:
            say(f"installing {package} with apt-get")
            env = os.environ | {"DEBIAN_FRONTEND": "noninteractive"}
            apt = ["apt-get", "install", "-qq", "-y", "--no-install-recommends", package]
            try:
                run(apt, env=env)
            except Missing:  # on a fresh machine or in a container it knows no packages yet
                run(["apt-get", "update", "-qq"], env=env)
                run(apt, env=env)
        path = shutil.which(name)
        if path is None:
            raise Missing(f"`apt-get install {package}` provides it, which needs root")
        return path

    def slot_run(self) -> Command:
        """Ours."""
        program = str(self.bin / "slot-run")

        def wrap(pool: Path, slots: int, env: dict[str, str]) -> list[str]:
            env.update(environ(pool))
            return [program, "-q", f"-n{slots}", "-t", "none", "--"]

        return Command("slot-run", first_line([program, "--version"]), wrap)

    def sem(self) -> Command:
        """GNU parallel's semaphore; its start is a tenth of a second of CPU."""
        program = self.tool("sem", "parallel")

        def wrap(pool: Path, slots: int, env: dict[str, str]) -> list[str]:
            env["PARALLEL_HOME"] = str(pool)
            return [program, "--fg", f"-j{slots}", "--id", "bench"]

        return Command("sem", first_line([program, "--version"]), wrap, most=64)

    def flock(self) -> Command:
        """The one of util-linux."""
        program = shutil.which("flock")
        if program is None:
            raise Missing("util-linux is not installed")

        def wrap(pool: Path, slots: int, _env: dict[str, str]) -> list[str]:
            if slots != 1:
                raise ValueError(f"flock has one slot, not {slots}")
            return [program, str(pool / "lock")]

        return Command("flock", first_line([program, "--version"]), wrap, only_slots=1)

    def pnpm(self) -> Command:
        """`concurrencyGroups` of pnpm 12.5 and later: a script of a project, which runs its arguments."""
        npm = shutil.which("npm")
        if npm is None:
            raise Missing("npm is not installed")
        say("installing pnpm with npm")
        home = self.scratch / "npm"
        home.mkdir()
        run([npm, "install", "--prefix", str(home), "--silent", "--no-audit", "--no-fund", "pnpm@>=12.5"])
        program = str(home / "node_modules/.bin/pnpm")

        def wrap(pool: Path, slots: int, env: dict[str, str]) -> list[str]:
            env["XDG_STATE_HOME"] = str(pool / "state")
            manifest = {"name": "bench", "version": "0.0.0", "private": True, "scripts": {"task": "exec"}}
            settings = {
                "tasks": {"task": {"concurrencyGroup": "bench"}},
                "concurrencyGroups": {"bench": slots},
            }
            (pool / "package.json").write_text(json.dumps(manifest))
            (pool / "pnpm-workspace.yaml").write_text(json.dumps(settings))  # JSON is YAML
            return [program, "-C", str(pool), "--silent", "run", "task"]

        return Command("pnpm", "pnpm " + first_line([program, "--version"]), wrap, most=64)

    def tsp(self) -> Command:
        """task-spooler, waiting for its job in the foreground. Its server is started beforehand."""
        program = self.tool("tsp", "task-spooler")

        def wrap(pool: Path, slots: int, env: dict[str, str]) -> list[str]:
            env.update(TS_SOCKET=str(pool / "socket"), TMPDIR=str(pool))
            run([program, "-S", str(slots)], env=env)
            return [program, "-nf"]

        return Command("tsp", first_line([program, "-V"]), wrap)

    def bare(self) -> Command:
        """The interpreter of all that is written in Python here, by itself."""
        return Command(BARE, first_line([str(self.bin / "python"), "--version"]), lambda *_: [], most=1)

    def library(self, name: str, most: int) -> Command:
        """A library of Python, as its users wrap a command with it."""
        command = [str(self.bin / "python"), str(self.wrapper), name]

        def wrap(pool: Path, slots: int, _env: dict[str, str]) -> list[str]:
            return [*command, str(slots), str(pool)]

        return Command(f"{name}-wrapper", library_version(name), wrap, most=most)


COMMANDS: dict[str, Callable[[Kit], Command]] = {
    "slot-run": Kit.slot_run,
    "pnpm": Kit.pnpm,
    "sem": Kit.sem,
    "tsp": Kit.tsp,
    "flock": Kit.flock,
    "sweep-wrapper": lambda kit: kit.library("sweep", 256),
    "filelock-wrapper": lambda kit: kit.library("filelock", 64),
    "portalocker-wrapper": lambda kit: kit.library("portalocker", 64),
    BARE: Kit.bare,
}


def library_version(name: str) -> str:
    """The version of what stands behind a name of `libraries.LIBRARIES`."""
    distribution = DISTRIBUTIONS.get(name)
    if distribution is None:
        return "in bench/libraries.py"
    return f"{distribution} {importlib.metadata.version(distribution)}"


def say(text: str) -> None:
    """Tell whoever waits."""
    print(text, file=sys.stderr, flush=True)


def first_line(command: list[str]) -> str:
    """The first line that `command` prints."""
    return run(command).partition("\n")[0].strip()


def run(command: list[str], env: dict[str, str] | None = None) -> str:
    """The output of `command`; Missing if it fails."""
    try:
        done = subprocess.run(
            command,
            env=env,
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
