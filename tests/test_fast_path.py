"""What `slot-run -- CMD` without options may load: every module costs every build its time."""

from __future__ import annotations

import subprocess
import sys
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from builds import Pool

OURS = {
    "buildslots",
    "buildslots.cap",
    "buildslots.disk",
    "buildslots.disk.bells",
    "buildslots.disk.lock",
    "buildslots.disk.queue",
    "buildslots.disk.records",
    "buildslots.disk.slots",
    "buildslots.errors",
    "buildslots.pool",
    "buildslots.run",
    "buildslots.run.child",
    "buildslots.run.main",
    "buildslots.run.options",
    "buildslots.settings",
}
FAST = OURS | {"__future__", "errno", "fcntl"}
WAITING = {"buildslots.disk.wait", "buildslots.run.notice", "buildslots.words", "select"}

REPORT = """
import os, sys
before = set(sys.modules)
leave = os._exit
def report(status):
    loaded = sorted(set(sys.modules) - before)
    with open(os.environ["LOADED"], "w") as file:
        file.write(" ".join(loaded))
    leave(status)
os._exit = report
sys.argv = ["slot-run", *sys.argv[1:]]
from buildslots.run.main import main
main()
"""


def loaded(pool: Pool, *args: str) -> set[str]:
    report = pool.dir.parent / "loaded"
    environ = pool.environ | {"LOADED": str(report)}
    subprocess.run([sys.executable, "-c", REPORT, *args], env=environ, check=True)
    return set(report.read_text().split())


def test_a_build_that_need_not_wait_loads_these_modules_and_no_others(pool: Pool) -> None:
    """First in a new pool, then in one that exists."""
    assert loaded(pool, "--", "true") == FAST
    assert loaded(pool, "--", "true") == FAST


def test_a_wait_loads_little_more(pool: Pool) -> None:
    """What waits keeps the memory of a bare interpreter."""
    first = pool.build("-n1")
    first.started()
    assert loaded(pool, "-n1", "-t", "1.2", "--", "true") == FAST | WAITING
