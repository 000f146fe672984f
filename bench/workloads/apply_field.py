"""The skills that workload 4 applies, and what becomes of them."""

from __future__ import annotations

import json
import os
import threading
import time
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING

from bench.kit.spans import Span
from bench.workloads.skill_server import FILES
from bench.workloads.skills import Manifest, Program, Skill, Source, fetch, install

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from bench.workloads.skill_server import Server
    from buildslots import Report


@dataclass(frozen=True, slots=True)
class Sizes:
    """How much of everything there is in a run."""

    sources: int = 50
    waves: tuple[int, ...] = (10, 1, 100)
    """Numbers of jobs, the default first."""
    cached: int = 20
    crowd: int = 100
    answers_s: float = 0.5


SHORT = Sizes(sources=12, waves=(10, 1), cached=5, crowd=8, answers_s=0.05)


class Marks:
    """When functions ran, by what they worked on; they may be called from any thread."""

    def __init__(self) -> None:
        self.spans: list[Span] = []
        self._lock = threading.Lock()

    @contextmanager
    def span(self, name: str) -> Iterator[None]:
        """Mark that something runs in this block."""
        start = time.monotonic_ns()
        try:
            yield
        finally:
            with self._lock:
                self.spans.append(Span(start, time.monotonic_ns(), name))


@dataclass(slots=True)
class Field:
    """Everything below `root`: a cache, targets, and the server that sources come from."""

    root: Path
    sizes: Sizes
    server: Server

    def manifest(self, place: str, count: int, *, text: str = "1", how: str | None = None) -> Manifest:
        """`count` sources of one skill each, for targets of their own in `place`: links and copies in turn.

        Args:
            place: A directory, which is made.
            count: How many.
            text: What is in the files of the skills.
            how: "symlink" or "copy" for all of them.
        """
        (self.root / place).mkdir(exist_ok=True)
        sources, skills = [], []
        for number in range(count):
            name = f"skill-{number:02}"
            sources.append(Source(name, self.server.url(name), self.server.add(name, f"{name} {text}")))
            kind = how or ("symlink", "copy")[number % 2]
            skills.append(Skill(name, name, str(self.root / place / name), kind))
        return Manifest(tuple(sources), tuple(skills))

    def program(self, cache: str, jobs: int | None = None, marks: Marks | None = None) -> Program:
        """The program with the cache called `cache`; `marks` are made of all that it does."""
        directory = str(self.root / cache)
        os.makedirs(directory, exist_ok=True)
        program = Program(directory) if jobs is None else Program(directory, jobs)
        if marks is None:
            return program

        def marked_fetch(source: Source, path: str) -> None:
            with marks.span(f"sync {source.name}"):
                fetch(source, path)

        def marked_install(skill: Skill, path: str) -> None:
            with marks.span(f"install {skill.name}"):
                install(skill, path)

        return Program(directory, program.jobs, fetch=marked_fetch, install=marked_install)

    def save(self, manifest: Manifest, name: str) -> str:
        """Write `manifest` into a file: its path."""
        path = self.root / f"{name}.json"
        path.write_text(json.dumps(asdict(manifest)))
        return str(path)

    def tree(self, place: str) -> dict[str, str]:
        """All files below the targets in `place`, with what is in them; a link is marked as one."""
        found = {}
        for target in sorted((self.root / place).iterdir()):
            mark = " (link)" if target.is_symlink() else ""
            for path in sorted(target.iterdir()):
                found[f"{target.name}/{path.name}{mark}"] = path.read_text()
        return found


def is_whole(tree: dict[str, str], names: list[str]) -> bool:
    """Whether `tree` has the skills `names`, each with all its files."""
    return len(tree) == len(names) * (FILES + 1) and {path.partition("/")[0] for path in tree} == set(names)


def states(report: Report) -> dict[str, str]:
    """The states by the names of tasks."""
    return {outcome.name: outcome.state for outcome in report.outcomes}
