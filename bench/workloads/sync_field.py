"""The repositories that workload 3 syncs, and the plans that do it."""

from __future__ import annotations

import json
import os
import shutil
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from bench.workloads.remotes import TRACE, daemon, git, make_remote, traced

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping
    from pathlib import Path

    from bench.kit.spans import Span

NAME = r"repo-\d+"
IS_UP_TO_DATE = 'test "$(git ls-remote origin HEAD | cut -f1)" = "$(git rev-parse HEAD)"'
"""One question to the remote, and nothing is written."""
CLONE = 'exec git clone --progress "$URL" "$STAGE"'
"""Into the stage, so that a clone that was broken off is never taken for a repository."""
PULL = ["git", "pull", "--ff-only", "--progress"]


def default_jobs() -> int:
    """What `--jobs` is if nobody says it, worked out anew here: twice the cores, and at most 8."""
    return min(8, 2 * len(os.sched_getaffinity(0)))


@dataclass(frozen=True, slots=True)
class Sizes:
    """How much of everything there is in a run."""

    repositories: int = 50
    no_ops: int = 10_000
    warm: int = 1_000
    """After so many no-op tasks memory is looked at first."""
    answers_s: float = 0.7
    big_kib: int = 3_000
    kib_per_s: float = 1_000.0


SHORT = Sizes(2 * default_jobs(), no_ops=300, warm=100, answers_s=0.05, big_kib=400, kib_per_s=400.0)


@dataclass(slots=True)
class Field:
    """Remotes below `root`, and what is cloned from them.

    Attributes:
        root: The directory of everything.
        sizes: How much there is.
        port: Of git's daemon, which serves all remotes.
        names: Of the repositories, in the order of the plans.
    """

    root: Path
    sizes: Sizes
    port: int
    names: list[str]
    _traces: int = field(default=0)

    def remote(self, name: str) -> Path:
        """The bare repository that `name` comes from."""
        return self.root / "remotes" / f"{name}.git"

    def url(self, name: str, port: int | None = None) -> str:
        """Where `name` comes from: git's daemon (or who answers for it at `port`)."""
        return f"git://127.0.0.1:{port or self.port}/{name}.git"

    def file_url(self, name: str) -> str:
        """Where `name` comes from without a server."""
        return f"file://{self.remote(name)}"

    def clones(self, place: str) -> Path:
        """The directory of clones called `place`."""
        return self.root / place

    def plan(self, place: str, urls: Mapping[str, str], *, head: str = "") -> str:
        """Write a plan that makes the clones in `place`, or brings them up to date: its path.

        Args:
            place: Of the clones.
            urls: By the names of repositories, in the order of the tasks.
            head: Lines for the top.
        """
        directory = self.clones(place)
        directory.mkdir(exist_ok=True)
        lines = ['pool = ""  # it is the network that they wait for, and no core', head]
        for name, url in urls.items():
            clone = directory / name
            keys: dict[str, object] = {"name": name}
            if clone.exists():
                keys |= {"run": PULL, "cwd": str(clone), "unless": IS_UP_TO_DATE}
            else:
                keys |= {"run": CLONE, "stage": str(clone)}
            lines += ["[[task]]", *(f"{key} = {json.dumps(value)}" for key, value in keys.items())]
            lines.append(f"env = {{ URL = {json.dumps(url)} }}")
        path = self.root / f"{place}.toml"
        path.write_text("\n".join([*lines, ""]))
        return str(path)

    def whole(self, place: str, names: Iterable[str]) -> list[str]:
        """Those of `names` that are in `place` with everything, and at the commit of their remotes."""
        found = []
        for name in names:
            clone = self.clones(place) / name
            if not clone.is_dir():
                continue
            git("fsck", "--strict", cwd=clone)
            is_clean = not git("status", "--porcelain", cwd=clone)
            if is_clean and git("rev-parse", "HEAD", cwd=clone) == git(
                "rev-parse", "main", cwd=self.remote(name)
            ):
                found.append(name)
        return found

    def left_over(self, place: str) -> list[str]:
        """What is in `place` and no repository."""
        return sorted(entry for entry in os.listdir(self.clones(place)) if entry not in self.names)

    def remove(self, place: str) -> None:
        """Remove the clones in `place`."""
        shutil.rmtree(self.clones(place), ignore_errors=True)

    @contextmanager
    def trace(self, spans: list[Span]) -> Iterator[dict[str, str]]:
        """The environment in which git writes when it runs; afterwards that is in `spans`."""
        self._traces += 1
        directory = self.root / f"trace-{self._traces}"
        directory.mkdir()
        yield {TRACE: str(directory)}
        spans += traced(directory, NAME)


@contextmanager
def field_of(root: Path, sizes: Sizes) -> Iterator[Field]:
    """Remotes, and git's daemon for them."""
    names = [f"repo-{number:02}" for number in range(1, sizes.repositories + 1)]
    (root / "remotes").mkdir()
    with daemon(root / "remotes") as port:
        made = Field(root, sizes, port, names)
        for name in names:
            make_remote(made.remote(name))
        yield made
