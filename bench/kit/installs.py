"""Installs of buildslots: by the README's own command, of any commit, or one that is there already."""

from __future__ import annotations

import io
import os
import re
import sys
import tarfile
from dataclasses import dataclass
from pathlib import Path
from subprocess import run as run_quietly

from bench.kit.shell import CHECKOUT, Missing, first_line, run, say

NEWER_PIP = re.compile(r"pip install -q -U '(pip[^']*)'")
"""What README says before `pip install .`: the launchers of older pips import `re`, 11 ms of each start."""


@dataclass(frozen=True)
class Install:
    """One buildslots.

    Attributes:
        bin: Where its `slot-run`, `buildslots` and `python` are.
        side: "" for the one that is looked at, or what it is called beside that.
        about: What it is, for the report.
    """

    bin: Path
    side: str = ""
    about: str = ""

    @property
    def python(self) -> str:
        """Its interpreter."""
        return str(self.bin / "python")

    @property
    def slot_run(self) -> str:
        """Its console script."""
        return str(self.bin / "slot-run")

    @property
    def buildslots(self) -> str:
        """The other one."""
        return str(self.bin / "buildslots")

    @property
    def suffix(self) -> str:
        """What the names of its peers end with."""
        return f", {self.side}" if self.side else ""


def this() -> Install:
    """The one of the environment that runs this program."""
    return Install(Path(sys.executable).parent)


def find(which: str, scratch: Path, side: str = "") -> Install:
    """The install that `which` names: a virtual environment or its bin, a commit, or "" for the checkout.

    Raises:
        Missing: There is none, or it could not be made.
    """
    path = Path(which)
    if which and path.exists():
        place = next((each for each in (path, path / "bin") if (each / "slot-run").exists()), None)
        if place is None:
            raise Missing(f"there is no slot-run in {which}")
        return Install(place, side, f"{first_line(str(place / 'slot-run'), '--version')}, installed by hand")
    return _as_readme_says(which, scratch / (side or "install"), side)


def _as_readme_says(commit: str, directory: Path, side: str) -> Install:
    """Install `commit`, or the checkout as it is, with the command of its README.

    Raises:
        Missing: It failed.
    """
    directory.mkdir()
    source = _unpacked(commit, directory / "source") if commit else CHECKOUT
    say(f"installing {commit or 'buildslots'} as its README says")
    venv = directory / "venv"
    run(sys.executable, "-m", "venv", str(venv))
    newer = NEWER_PIP.search((source / "README.md").read_text(encoding="utf-8"))
    if newer:
        run(str(venv / "bin/pip"), "install", "-q", "-U", newer[1])
    run(str(venv / "bin/pip"), "install", "-q", str(source))
    pip = first_line(str(venv / "bin/pip"), "--version").split()[1]
    return Install(venv / "bin", side, f"{_described(commit)}, installed as its README says, by pip {pip}")


def _unpacked(commit: str, directory: Path) -> Path:
    command = ["git", "-C", str(CHECKOUT), "archive", "--format=tar", commit]
    done = run_quietly(command, capture_output=True, check=False)
    if done.returncode:
        raise Missing(f"{commit} is neither a directory nor a commit: {os.fsdecode(done.stderr).strip()}")
    with tarfile.open(fileobj=io.BytesIO(done.stdout)) as archive:
        archive.extractall(directory, filter="data")
    return directory


def _described(commit: str) -> str:
    try:
        date = first_line("git", "-C", str(CHECKOUT), "log", "-1", "--format=%h of %as", commit or "HEAD")
    except Missing:  # an sdist, say
        return "a checkout"
    return f"commit {date}"
