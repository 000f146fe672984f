"""Batches whose commands have jobs of their own."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

import pytest
from builds import script
from projects import LONG, C, Project, tool

from buildslots import SettingError, run_batch
from buildslots.tokens.stock import held

if TYPE_CHECKING:
    from pathlib import Path

    from builds import Pool

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="only Linux has tokens")

BUILDS = 3


@pytest.fixture
def project(pool: Pool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Project:
    """A project, and a pool with a slot for each of its builds."""
    for name in ("MAKEFLAGS", "CARGO_MAKEFLAGS", "GNUMAKEFLAGS"):
        pool.environ.pop(name, None)
        monkeypatch.delenv(name, raising=False)
    pool.environ["MAX_CONCURRENT_BUILDS"] = str(BUILDS)
    project = Project(pool, tmp_path / "project")
    project.makefile()
    return project


@pytest.mark.parametrize("make", ["make 4.3", "make 4.4"])
def test_all_builds_of_a_batch_share(project: Project, make: str) -> None:
    """Each has its own first job, and they have C more together."""
    project.has(make)
    command = (script("buildslots"), "batch", f"--tokens={C}", "-j", str(BUILDS))
    build = ("--", "make", "-sj8", "many", "N={}")
    assert project.peak(C + BUILDS, *command, *build, stdin="1\n2\n3\n") == C + BUILDS
    assert held(str(project.pool.dir), C) == 0
    assert not any((project.pool.dir / "builds").iterdir())


def test_a_batch_in_python_does_so_too(project: Project, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also for tasks that need no slot, and where the environment says so."""
    tool("make 4.4")
    monkeypatch.setenv("BUILD_SLOTS_TOKENS", str(C))
    environ = {"JOBS": str(project.path), "WANT": str(C + BUILDS), "PATIENCE": str(LONG)}
    tasks = [
        {
            "run": [tool("make 4.4"), "-sj8", "many"],
            "name": str(number),
            "cwd": str(project.path),
            "env": environ,
            "pool": "" if number else None,
        }
        for number in range(BUILDS)
    ]
    run_batch(tasks, jobs=BUILDS).check()
    assert max(int(line) for line in (project.path / "counts").read_text().split()) == C + BUILDS
    with pytest.raises(SettingError):
        run_batch(tasks, tokens="many")
