"""The peers that wrap a command, behind one small interface, and where they come from.

What is missing comes through apt-get (as root only) and npm. A peer that cannot be had is `Missing`, with the
reason. Those written in Python run in the Python of this program.
"""

from __future__ import annotations

import functools
import importlib.metadata
import json
import os
import py_compile
import shutil
import sys
from dataclasses import dataclass
from typing import TYPE_CHECKING

from bench import environ
from bench.kit import libraries
from bench.kit.recorder import compile_recorder
from bench.kit.shell import Missing, first_line, run, say

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path
    from typing import TypeAlias

    from bench.kit.installs import Install

    Wrap: TypeAlias = Callable[[Path, int, dict[str, str]], list[str]]

BARE, OURS, LIBRARY = "python -c", "slot-run", "SlotPool"
LIMITS = (BARE, "flock(2)", "semaphore")
"""No peers but what the machine allows: an interpreter's start; one slot; K slots without crash safety."""
ONE_SLOT = ("flock(2)",)
DISTRIBUTIONS = {"portalocker": "portalocker", "filelock": "filelock"}
NOT_HAD = {
    "pueue": "Debian 12, PyPI and npm, where the other peers come from, do not have it",
}
CONFIG = """\
timeout = "10m"
on_timeout = "paced"

[pools.link]
slots = 1
"""
OPEN_GATES = ("--min-free-memory", "1M", "--max-load", "100000")


@dataclass(frozen=True)
class Command:
    """A peer on the command line.

    Attributes:
        name: For `--peers` and the report.
        version: As it says itself.
        wrap: Of the directory of a pool, its slots and an environment, which it may add to: the words to
            put in front of a command. For ours 0 slots means: with no options, as README shows it.
        only_slots: How many slots it can have; None for any number.
        most: The most contenders to try, where more would mostly show what so many starts or so much
            memory cost.
        questions: The only ones that it is for; empty for all.
        others: Those that it is not for.
    """

    name: str
    version: str
    wrap: Wrap
    only_slots: int | None = None
    most: int = 256
    questions: tuple[str, ...] = ()
    others: tuple[str, ...] = ()

    def is_for(self, question: str) -> bool:
        """Whether it is to be asked that."""
        return question not in self.others and (not self.questions or question in self.questions)


def base(peer: str) -> str:
    """The name of `peer` without its side and options: "slot-run" of "slot-run with gates, before"."""
    return peer.partition(",")[0].partition(" with ")[0].removesuffix(" -q")


class Kit:
    """What the peers are made of, in the directory `scratch`; each thing is made when it is first needed."""

    def __init__(self, scratch: Path) -> None:
        self.scratch = scratch

    @functools.cached_property
    def recorder(self) -> Path:
        """The command that notes when it ran."""
        return compile_recorder(self.scratch)

    @functools.cached_property
    def wrapper(self) -> Path:
        """`bench.kit.libraries` as a command, compiled as an installed one would be."""
        compiled = self.scratch / "libraries.pyc"
        py_compile.compile(libraries.__file__, str(compiled), doraise=True)
        return compiled

    @functools.cached_property
    def config(self) -> Path:
        """A directory for XDG_CONFIG_HOME with the config file of somebody who has settled some things."""
        home = self.scratch / "configured"
        (home / "buildslots").mkdir(parents=True)
        (home / "buildslots" / "config.toml").write_text(CONFIG)
        return home

    def tool(self, name: str, package: str) -> str:
        """The path of the program `name`, from the apt package `package` if need be."""
        if shutil.which(name) is None and shutil.which("apt-get") and os.geteuid() == 0:
            say(f"installing {package} with apt-get")
            env = os.environ | {"DEBIAN_FRONTEND": "noninteractive"}
            apt = ("apt-get", "install", "-qq", "-y", "--no-install-recommends", package)
            try:
                run(*apt, env=env)
            except Missing:  # on a fresh machine or in a container it knows no packages yet
                run("apt-get", "update", "-qq", env=env)
                run(*apt, env=env)
        path = shutil.which(name)
        if path is None:
            raise Missing(f"`apt-get install {package}` provides it, which needs root")
        return path

    def ours(self, install: Install) -> list[Command]:
        """The slot-run of `install`, for the start also with a config file, gates and tokens; its Python."""
        home = self.scratch / f"cache-{install.side}"

        def slot_run(*options: str, config: bool = False) -> Wrap:
            def wrap(pool: Path, slots: int, env: dict[str, str]) -> list[str]:
                env.update(environ(pool), XDG_CACHE_HOME=str(home))
                if config:
                    env["XDG_CONFIG_HOME"] = str(self.config)
                said = [f"-n{slots}", "-t", "none"] if slots else []
                return [install.slot_run, *said, *options, "--"]

            return wrap

        version = first_line(install.slot_run, "--version")
        name, start, waiting = OURS + install.suffix, ("start",), ("waiting",)
        # What is beside the one that is looked at may be older than tokens.
        with_tokens = [] if install.side else [f"{OURS} with tokens"]
        return [
            *(Command(each, version, slot_run("--tokens=3"), questions=start) for each in with_tokens),
            Command(name, version, slot_run("-q"), others=(*start, *waiting)),
            Command(name, version, slot_run(), questions=(*start, *waiting)),
            Command(f"{OURS} -q{install.suffix}", version, slot_run("-q"), questions=waiting),
            Command(f"{OURS} with a config{install.suffix}", version, slot_run(config=True), questions=start),
            Command(f"{OURS} with gates{install.suffix}", version, slot_run(*OPEN_GATES), questions=start),
            Command(
                BARE + install.suffix,
                first_line(install.python, "--version"),
                lambda *_: [install.python, "-c", "pass"],
                questions=start,
            ),
        ]

    def sem(self) -> Command:
        """GNU parallel's semaphore; its start is a tenth of a second of CPU."""
        program = self.tool("sem", "parallel")

        def wrap(pool: Path, slots: int, env: dict[str, str]) -> list[str]:
            env["PARALLEL_HOME"] = str(pool)
            return [program, "--fg", f"-j{slots}", "--id", "bench"]

        return Command("sem", first_line(program, "--version"), wrap, most=64)

    def flock(self) -> Command:
        """The one of util-linux."""
        program = shutil.which("flock")
        if program is None:
            raise Missing("util-linux is not installed")

        def wrap(pool: Path, slots: int, _env: dict[str, str]) -> list[str]:
            if slots != 1:
                raise ValueError(f"flock has one slot, not {slots}")
            return [program, str(pool / "lock")]

        return Command("flock", first_line(program, "--version"), wrap, only_slots=1)

    def pnpm(self) -> Command:
        """`concurrencyGroups` of pnpm 12.5 and later: a script of a project, which runs its arguments."""
        npm = shutil.which("npm")
        if npm is None:
            raise Missing("npm is not installed")
        say("installing pnpm with npm")
        home = self.scratch / "npm"
        home.mkdir()
        run(npm, "install", "--prefix", str(home), "--silent", "--no-audit", "--no-fund", "pnpm@>=12.5")
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

        return Command("pnpm", "pnpm " + first_line(program, "--version"), wrap, most=64)

    def tsp(self) -> Command:
        """task-spooler, waiting for its job in the foreground. Its server is started beforehand."""
        program = self.tool("tsp", "task-spooler")

        def wrap(pool: Path, slots: int, env: dict[str, str]) -> list[str]:
            env.update(TS_SOCKET=str(pool / "socket"), TMPDIR=str(pool))
            run(program, "-S", str(slots), env=env)
            return [program, "-nf"]

        return Command("tsp", first_line(program, "-V"), wrap)

    def library(self, name: str, most: int) -> Command:
        """A library of Python, as its users wrap a command with it."""

        def wrap(pool: Path, slots: int, _env: dict[str, str]) -> list[str]:
            return [sys.executable, str(self.wrapper), name, str(slots), str(pool)]

        return Command(f"{name}-wrapper", library_version(name), wrap, most=most)


COMMANDS: dict[str, Callable[[Kit], Command]] = {
    "pnpm": Kit.pnpm,
    "sem": Kit.sem,
    "tsp": Kit.tsp,
    "flock": Kit.flock,
    "sweep-wrapper": lambda kit: kit.library("sweep", 256),
    "filelock-wrapper": lambda kit: kit.library("filelock", 64),
    "portalocker-wrapper": lambda kit: kit.library("portalocker", 64),
}


def library_version(name: str) -> str:
    """The version of what stands behind a name of `libraries.LIBRARIES`."""
    distribution = DISTRIBUTIONS.get(name)
    if distribution is None:
        return "in bench/kit/libraries.py"
    return f"{distribution} {importlib.metadata.version(distribution)}"
