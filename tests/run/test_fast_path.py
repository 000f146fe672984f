"""What `slot-run -- CMD` without options may load: every module costs every build its time."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from builds import wait_until

if TYPE_CHECKING:
    from builds import Pool

OURS = {
    "buildslots",
    "buildslots.admission",
    "buildslots.backend",
    "buildslots.disk",
    "buildslots.disk.bells",
    "buildslots.disk.directory",
    "buildslots.disk.holding",
    "buildslots.disk.line",
    "buildslots.disk.lock",
    "buildslots.disk.records",
    "buildslots.errors",
    "buildslots.files",
    "buildslots.processes",
    "buildslots.run",
    "buildslots.run.child",
    "buildslots.run.main",
    "buildslots.run.options",
    "buildslots.settings",
    "buildslots.slot",
    "buildslots.settings.places",
    "buildslots.settings.values",
}
FAST = OURS | {"__future__", "errno", "fcntl"}
CORES = {"buildslots.settings.machine"}
"""Loaded where nobody has said a number of slots."""
KEPT = {"buildslots.settings.compiled"}
"""Loaded where there is a config file."""
JOURNAL = {"buildslots.journal"}
"""Loaded when the command runs already."""
WAITING = {
    "buildslots.disk.ears",
    "buildslots.disk.kin",
    "buildslots.disk.sleepers",
    "buildslots.disk.wait",
    "buildslots.run.notice",
    "buildslots.waiting",
    "buildslots.words",
    "gc",
    "select",
}

REPORT = """
import os, sys
before = set(sys.modules) - {"errno"}  # Debian 13's python3 has loaded it before we start, others have not
spawn, leave = os.posix_spawn, os._exit
def report():
    with open(os.environ["LOADED"], "a") as file:
        print(*sorted(set(sys.modules) - before), file=file)
def reporting_spawn(*args, **options):
    report()
    return spawn(*args, **options)
def reporting_leave(status):
    report()
    leave(status)
os.posix_spawn, os._exit = reporting_spawn, reporting_leave
sys.argv = ["slot-run", *sys.argv[1:]]
from buildslots.run.main import main
main()
"""


def loaded(pool: Pool, *args: str, journal: str = "programs") -> list[set[str]]:
    """What is loaded when the command starts, and at the end."""
    report = pool.dir.parent / "loaded"
    report.unlink(missing_ok=True)
    environ = pool.environ | {"LOADED": str(report), "BUILD_SLOTS_JOURNAL": journal}
    subprocess.run([sys.executable, "-c", REPORT, *args], env=environ, check=True)
    return [set(line.split()) for line in report.read_text().splitlines()]


def test_a_build_that_need_not_wait_loads_these_modules_and_no_others(pool: Pool) -> None:
    """First in a new pool, then in one that exists."""
    assert loaded(pool, "--", "true") == [FAST | CORES, FAST | CORES | JOURNAL]
    assert loaded(pool, "--", "true") == [FAST | CORES, FAST | CORES | JOURNAL]


def test_without_the_journal_it_stays_at_that(pool: Pool) -> None:
    """What is off is not loaded."""
    assert loaded(pool, "--", "true", journal="off") == [FAST | CORES, FAST | CORES]


def test_a_config_file_is_read_once(pool: Pool) -> None:
    """When it is old enough for that. Then it costs a module, and saves the counting of cores."""
    home = Path(pool.environ["HOME"])
    config, kept = home / ".config/buildslots/config.toml", home / ".cache/buildslots"
    for path in (config, kept):
        path.parent.mkdir(parents=True)
    config.write_text("slots = 2\ntimeout = 90\n[pools.link]\nslots = 1\n")
    assert "tomllib" in loaded(pool, "--", "true")[0]
    wait_until(lambda: loaded(pool, "--", "true") and kept.exists(), "it is kept")
    assert loaded(pool, "--", "true") == [FAST | KEPT, FAST | KEPT | JOURNAL]


def test_bounds_on_the_machine_s_state_cost_a_module(pool: Pool) -> None:
    """Not psutil, which takes longer than Python itself."""
    bounded = FAST | CORES | {"buildslots.gates"}
    assert loaded(
        pool, "--min-free-memory", "1M", "--max-load", "9999", "--max-pressure", "io=100", "true"
    ) == [
        bounded,
        bounded | JOURNAL,
    ]


def test_a_wait_loads_little_more(pool: Pool) -> None:
    """What waits keeps the memory of a bare interpreter."""
    first = pool.build("-n1")
    first.started()
    waited = FAST | WAITING | JOURNAL
    assert loaded(pool, "-n1", "-t", "1.2", "--", "true") == [waited, waited]
