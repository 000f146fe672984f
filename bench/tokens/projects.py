"""Projects of so many jobs of so many milliseconds, for any of the tools; no job needs another one."""

from __future__ import annotations

import shlex
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pathlib import Path

    from bench.tokens.table import Table
    from bench.tokens.tools import Tool

QUIET = {"make": ["-s"], "ninja": ["--quiet"], "cargo": ["build", "-q", "--offline"]}


@dataclass(frozen=True)
class Work:
    """What is to be done: jobs of so many milliseconds each, and the same in sub-makes, of a make.

    Attributes:
        jobs_ms: Of the build itself.
        below_ms: Of each make below it.
        busy: Whether they use the CPU.
    """

    jobs_ms: tuple[int, ...]
    below_ms: tuple[tuple[int, ...], ...] = ()
    busy: bool = False

    @property
    def count(self) -> int:
        """How many jobs these are in all."""
        return len(self.jobs_ms) + sum(map(len, self.below_ms))


@dataclass(frozen=True)
class Project:
    """Files in a directory, and how they are built.

    Attributes:
        directory: Where.
        command: The tool with its arguments, without `-j`.
        environ: What the tool needs besides.
        count: How many jobs there are.
    """

    directory: Path
    command: list[str]
    environ: dict[str, str]
    count: int
    tool: Tool = field(repr=False)


def write(directory: Path, tool: Tool, work: Work, table: Table, number: int) -> Project:
    """Write the files of build `number` into the new `directory`, in which `table` is told of each job."""
    directory.mkdir(parents=True)
    command, environ = [tool.kind, *QUIET[tool.kind]], tool.environ | {"PATH": tool.path}
    line = shlex.join([str(table.job), str(table.path), str(number)])
    if tool.kind == "make":
        _makefile(directory / "Makefile", line, work)
        for at, jobs_ms in enumerate(work.below_ms):
            _makefile(directory / f"{at}.mk", line, Work(jobs_ms, busy=work.busy))
    elif tool.kind == "ninja":
        text = f"rule job\n  command = {line} $ms{' busy' * work.busy}\n"
        text += "".join(f"build j{at}: job\n  ms = {ms}\n" for at, ms in enumerate(work.jobs_ms))
        (directory / "build.ninja").write_text(text)
    else:
        _workspace(directory, len(work.jobs_ms))
        environ |= {"RUSTC_WRAPPER": str(table.rustc), "JOB_TABLE": str(table.path), "JOB_BUILD": str(number)}
        environ["JOB_MS"] = str(max(work.jobs_ms))
    return Project(directory, command, environ, work.count, tool)


def _makefile(path: Path, line: str, work: Work) -> None:
    jobs = {f"j{at}": f"@{line} {ms}{' busy' * work.busy}" for at, ms in enumerate(work.jobs_ms)}
    jobs |= {f"s{at}": f"@$(MAKE) -f {at}.mk" for at in range(len(work.below_ms))}
    lines = [f"all: {' '.join(jobs)}", f".PHONY: all {' '.join(jobs)}"]
    path.write_text("\n".join([*lines, *(f"{name}:\n\t{recipe}" for name, recipe in jobs.items()), ""]))


def _workspace(directory: Path, count: int) -> None:
    names = [f"c{at}" for at in range(count)]
    for name in names:
        (directory / name / "src").mkdir(parents=True)
        (directory / name / "src" / "lib.rs").touch()
        (directory / name / "Cargo.toml").write_text(
            f'[package]\nname = "{name}"\nversion = "0.1.0"\nedition = "2021"\n'
        )
    members = ", ".join(f'"{name}"' for name in names)
    (directory / "Cargo.toml").write_text(f'[workspace]\nresolver = "2"\nmembers = [{members}]\n')
