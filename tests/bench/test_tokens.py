"""`bench.tokens`: real builds that share tokens, and what its judge makes of jobs."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from bench.tokens.judge import Notes, beyond_live, breaches, peak, pieces
from bench.tokens.table import Job

pytestmark = pytest.mark.linux
TOP = Path(__file__).resolve().parents[2]


def jobs(*spans: tuple[int, int, int]) -> list[Job]:
    """A job for each build, start and end."""
    return [Job(number, start, end, 100 + number, build) for number, (build, start, end) in enumerate(spans)]


def test_builds_left_alone_keep_the_bound() -> None:
    """Of those tools that the tests have."""
    command = [sys.executable, "-m", "bench.tokens", "--only", "builds"]
    command += [
        "--tools",
        "make 4.4,ninja 1.13,cargo",
        "--builds",
        "6",
        "--live",
        "3",
        "--rate",
        "0",
        "--seed",
        "1",
    ]
    done = subprocess.run(command, cwd=TOP, capture_output=True, text=True, timeout=150, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "times with more of them than C: 0 (bar: 0)" in done.stdout


def test_the_first_job_of_each_build_needs_no_token() -> None:
    """Each further one does; who ends and who starts at one instant do not overlap."""
    alone = jobs((1, 10, 20), (2, 10, 20), (3, 10, 20))
    assert peak(pieces(alone, Notes())) == 0
    two = jobs((1, 10, 20), (1, 10, 20), (1, 20, 30), (2, 15, 30), (2, 15, 30))
    assert peak(pieces(two, Notes())) == 2
    assert breaches(pieces(two, Notes()), 2) == []
    assert beyond_live(pieces(two, Notes()), [(0, 40), (0, 40)], 2) == (0, 0)
    assert beyond_live(pieces(two, Notes()), [(0, 40), (0, 40)], 1) == (1, 1)
    (breach,) = breaches(pieces(two, Notes()), 1)
    assert (breach.start, breach.end, breach.most, breach.excuses) == (15, 20, 1, "")


def test_who_was_killed_ran_until_then() -> None:
    """A job by itself, or with all of its build."""
    killed = jobs((1, 10, 50), (1, 10, 0), (1, 30, 0))
    assert peak(pieces(killed, Notes(killed={1: 20}, ending={1: 25}))) == 1


def test_who_is_stopped_does_not_run_and_may_be_one_too_many_later() -> None:
    """What goes on is told apart from what has started."""
    both = jobs((1, 10, 90), (1, 10, 90), (2, 30, 60), (2, 30, 60))
    (unexcused,) = breaches(pieces(both, Notes()), 1)
    assert unexcused.excuses == ""
    stopped = Notes(stopped={0: [(20, 50)], 1: [(20, 50)]}, continued={1: [50]})
    (breach,) = breaches(pieces(both, stopped), 1)
    assert (breach.start, breach.end, breach.excuses) == (50, 60, "resumed")
    assert beyond_live(pieces(both, Notes()), [(0, 90), (0, 90)], 1) == (1, 1)
    assert beyond_live(pieces(both, stopped), [(0, 90), (0, 90)], 1) == (0, 0)
