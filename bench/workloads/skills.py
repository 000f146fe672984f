"""A program that applies skills: directories of instructions that come from sources, and go to targets.

`python -m bench.workloads.skills MANIFEST.json --cache DIR [--jobs N]`. It is what workload 4 is about, and
uses nothing but the public API. In the first phase sources are fetched into the cache, in the second one
skills are installed from there. Sources come by http, as a tar archive, or from a git repository.

An install takes no care of others: it removes what is there, and puts something new there, file by file. The
key `serial`, with the target for its value, keeps the installs of one target apart, of all runs on this
machine.
"""

from __future__ import annotations

import argparse
import asyncio
import filecmp
import hashlib
import io
import json
import os
import shutil
import sys
import tarfile
import urllib.request
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from buildslots import Batch, current_task

if TYPE_CHECKING:
    from buildslots import Outcome, Report

DEFAULT_JOBS, MOST_JOBS = 10, 100
SKILL = "SKILL.md"
"""A directory is a skill if this is in it."""
CLONE = 'exec git clone --quiet --depth 1 "$URL" "$STAGE"'
ANSWER_S = 60.0


@dataclass(frozen=True, slots=True)
class Source:
    """Where a skill comes from.

    Attributes:
        name: Of the source.
        url: http://…, of a tar archive, or git://….
        sha256: Of the archive; it is a part of the cache's key, too.
    """

    name: str
    url: str
    sha256: str = ""

    def path(self, cache: str) -> str:
        """Where it is in `cache`."""
        return os.path.join(cache, f"{self.name}-{self.sha256[:12] or 'git'}")


@dataclass(frozen=True, slots=True)
class Skill:
    """What is to be installed.

    Attributes:
        name: Of the skill.
        source: The name of its source.
        target: Where it is to be.
        how: "symlink" or "copy".
    """

    name: str
    source: str
    target: str
    how: str = "copy"


@dataclass(frozen=True, slots=True)
class Manifest:
    """All sources and skills, in their order."""

    sources: tuple[Source, ...]
    skills: tuple[Skill, ...]


def load(path: str) -> Manifest:
    """The manifest in the JSON file at `path`."""
    given = json.loads(Path(path).read_text())
    return Manifest(
        tuple(Source(**source) for source in given["sources"]),
        tuple(Skill(**skill) for skill in given["skills"]),
    )


def fetch(source: Source, path: str) -> None:
    """Fetch the archive of `source` into the stage of this task, which becomes `path`."""
    stage = current_task().stage
    assert stage is not None, path
    fetch_into(source, stage)


def fetch_into(source: Source, directory: str) -> None:
    """Fetch the archive of `source` into `directory`."""
    with urllib.request.urlopen(source.url, timeout=ANSWER_S) as answer:
        data = answer.read()
    if hashlib.sha256(data).hexdigest() != source.sha256:
        raise ValueError("the archive is not the one that the manifest names: another SHA-256")
    with tarfile.open(fileobj=io.BytesIO(data), mode="r:") as archive:
        archive.extractall(directory, filter="data")


def install(skill: Skill, path: str) -> None:
    """Install `skill` from `path`, in place of what is at its target."""
    if os.path.islink(skill.target):
        os.unlink(skill.target)
    elif os.path.isdir(skill.target):
        shutil.rmtree(skill.target)
    if skill.how == "symlink":
        os.symlink(path, skill.target)
        return
    os.mkdir(skill.target)
    for entry in sorted(os.listdir(path)):
        if entry != ".git":
            shutil.copyfile(os.path.join(path, entry), os.path.join(skill.target, entry))


def is_cached(_source: Source, path: str) -> bool:
    """Whether the source is in the cache; it is there whole or not at all, for it was staged."""
    return os.path.exists(os.path.join(path, SKILL))


def is_installed(skill: Skill, path: str) -> bool:
    """Whether `skill` is at its target as it is at `path`."""
    if skill.how == "symlink" or os.path.islink(skill.target):
        return os.path.islink(skill.target) and os.readlink(skill.target) == path and skill.how == "symlink"
    if not os.path.isdir(skill.target):
        return False
    entries = sorted(entry for entry in os.listdir(path) if entry != ".git")
    same, _, _ = filecmp.cmpfiles(path, skill.target, entries, shallow=False)
    return same == entries == sorted(os.listdir(skill.target))


def place(target: str) -> str:
    """One name for `target`, however it is written; what it points to, if it is a link, does not matter."""
    return os.path.join(os.path.realpath(os.path.dirname(target)), os.path.basename(target))


@dataclass(frozen=True, slots=True)
class Program:
    """What applies a manifest; a workload puts functions of its own into it.

    Attributes:
        cache: The directory that sources are fetched into.
        jobs: Sources at once, 1 to 100; 1 is one after the other, in the order of the manifest.
        fetch, install, is_installed: What does it.
        is_serial: Whether installs of one target are kept apart.
        told: Called with each outcome.
    """

    cache: str
    jobs: int = DEFAULT_JOBS
    fetch: Callable[[Source, str], object] = fetch
    install: Callable[[Skill, str], object] = install
    is_installed: Callable[[Skill, str], bool] = is_installed
    is_serial: bool = True
    told: Callable[[Outcome], object] = field(default=lambda _: None)

    def __post_init__(self) -> None:
        if not 1 <= self.jobs <= MOST_JOBS:
            raise ValueError(f"{self.jobs} jobs: it may be 1 to {MOST_JOBS}")

    def apply(self, manifest: Manifest) -> Report:
        """Apply `manifest`, and wait for it."""
        return asyncio.run(self.applied(manifest))

    async def applied(self, manifest: Manifest) -> Report:
        """Apply `manifest`."""
        paths = {source.name: source.path(self.cache) for source in manifest.sources}
        # Whatever fails, all the rest is applied.
        batch = Batch(name="skills", jobs=self.jobs, fail="never", phases=("sync", "install"))
        async with batch:
            for source in manifest.sources:
                self._add_source(batch, source, paths[source.name])
            for skill in manifest.skills:
                self._add_skill(batch, skill, paths[skill.source])
            async for outcome in batch:
                self.told(outcome)
        assert batch.report is not None
        return batch.report

    def _add_skill(self, batch: Batch, skill: Skill, path: str) -> None:
        keys: dict[str, object] = {"serial": place(skill.target)} if self.is_serial else {}
        keys |= {"name": f"install {skill.name}", "phase": "install", "needs": [f"sync {skill.source}"]}
        batch.add(self.install, skill, path, unless=self.is_installed, pool="", **keys)

    def _add_source(self, batch: Batch, source: Source, path: str) -> None:
        # It is a remote that it waits for, and no core: it needs no slot.
        keys = {"name": f"sync {source.name}", "phase": "sync", "stage": path, "pool": "", "retries": 1}
        if source.url.startswith("git:"):
            unless = ["test", "-e", os.path.join(path, SKILL)]
            batch.add(CLONE, env={"URL": source.url}, unless=unless, **keys)
        else:
            batch.add(self.fetch, source, path, unless=is_cached, **keys)


def main() -> int:
    """Apply a manifest; the exit status."""
    parser = argparse.ArgumentParser(prog="python -m bench.workloads.skills", description=__doc__)
    parser.add_argument("manifest")
    parser.add_argument("--cache", required=True)
    parser.add_argument("--jobs", type=int, default=DEFAULT_JOBS)
    options = parser.parse_args()
    if not 1 <= options.jobs <= MOST_JOBS:
        parser.error(f"--jobs is 1 to {MOST_JOBS}")
    program = Program(options.cache, options.jobs, told=_tell)
    report = program.apply(load(options.manifest))
    print(", ".join(f"{count} {state}" for state, count in report.counts.items()))
    return 0 if report.is_good else 1


def _tell(outcome: Outcome) -> None:
    if not outcome.is_good:
        print(f"{outcome.state:<8} {outcome.name}: {outcome.reason}")


if __name__ == "__main__":
    sys.exit(main())
