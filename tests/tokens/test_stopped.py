"""Builds with tokens that are stopped, killed or fail: a token is given back when no job runs for it."""

from __future__ import annotations

import contextlib
import shutil
import signal
import sys
from typing import TYPE_CHECKING

import psutil
import pytest
from builds import Pool, script, wait_until
from terminals import has_stopped

from buildslots.tokens.stock import held

if TYPE_CHECKING:
    from pathlib import Path

    from builds import Build

pytestmark = [
    pytest.mark.skipif(sys.platform != "linux", reason="only Linux has tokens"),
    pytest.mark.skipif(shutil.which("make") is None, reason="there is no make"),
]

C = 3
NAMES = "1 2 3 4 5 6"
JOBS = f"all: {NAMES}\n{NAMES}:\n\t@touch $@; while [ ! -e go ]; do sleep 0.05; done\n"
"""Of which each runs until there is a file "go"."""


def started(pool: Pool, project: Path) -> Build:
    """A make below a slot-run, with a job for each token, and one more."""
    (project / "Makefile").write_text(JOBS)
    build = pool.popen(script("slot-run"), f"--tokens={C}", "make", "-j6", cwd=project)
    wait_until(lambda: len(list(project.glob("[1-6]"))) == C + 1, "its jobs")
    return build


def tokens(pool: Pool) -> int:
    """How many are held."""
    return held(str(pool.dir), C)


def make_of(build: Build) -> psutil.Process:
    """The command of a slot-run."""
    return psutil.Process(build.process.pid).children()[0]


def test_jobs_of_a_killed_make_keep_their_tokens(pool: Pool, tmp_path: Path) -> None:
    """They run on, and whoever builds meanwhile must not have as many more."""
    build = started(pool, tmp_path)
    make_of(build).kill()
    assert build.process.wait() == -signal.SIGKILL
    assert tokens(pool) == C
    (tmp_path / "go").touch()
    wait_until(lambda: tokens(pool) == 0, "the end of the jobs")
    assert not any((pool.dir / "builds").iterdir())


def test_a_build_that_fails_leaves_no_token_with_its_daemon(pool: Pool, tmp_path: Path) -> None:
    """What make has put back is nobody's, whoever has inherited the descriptors."""
    (tmp_path / "Makefile").write_text(
        "all: a b c d\na b c:\n\t@sleep 0.1\nd:\n\t@sleep 300 >/dev/null 2>&1 & echo $$! >pid; false\n"
    )
    result = pool.slot_run(f"--tokens={C}", "make", "-j4", cwd=tmp_path)
    daemon = psutil.Process(int((tmp_path / "pid").read_text()))
    try:
        assert result.returncode == 2
        assert tokens(pool) == 0
    finally:
        daemon.kill()


def test_a_stopped_make_keeps_tokens_while_its_jobs_run(pool: Pool, tmp_path: Path) -> None:
    """As ninja does after Ctrl-Z, whose jobs have groups of their own; then it gives them to others."""
    build = started(pool, tmp_path)
    make = make_of(build)
    make.suspend()
    wait_until(lambda: make.status() == psutil.STATUS_STOPPED, "a stopped make")
    result = pool.slot_run(f"--tokens={C}", "-t", "0", "--slots", "2", "sh", "-c", "echo $MAKEFLAGS")
    assert "--jobserver-auth" in result.stdout  # it was served, and has ended
    assert tokens(pool) == C
    (tmp_path / "go").touch()
    wait_until(lambda: tokens(pool) == 0, "the end of the jobs")
    make.resume()
    assert build.process.wait() == 0
    assert len(list(tmp_path.glob("[1-6]"))) == 6


def test_a_build_that_is_stopped_as_a_whole_gives_its_tokens_back(pool: Pool, tmp_path: Path) -> None:
    """And has them again when it goes on."""
    build = started(pool, tmp_path)
    make = make_of(build)
    for process in (*make.children(), make):  # a stopped shell starts no further process
        process.suspend()
        wait_until(lambda process=process: process.status() == psutil.STATUS_STOPPED, "a stopped process")
    for process in make.children(recursive=True):
        with contextlib.suppress(psutil.NoSuchProcess):  # one that ends just now
            process.suspend()
    wait_until(lambda: has_stopped(make), "a stopped build")
    wait_until(lambda: tokens(pool) == 0, "tokens for others")
    for process in (*make.children(recursive=True), make):
        with contextlib.suppress(psutil.NoSuchProcess):
            process.resume()
    wait_until(lambda: tokens(pool) == C, "tokens for its jobs")
    (tmp_path / "go").touch()
    assert build.process.wait() == 0
    assert tokens(pool) == 0
