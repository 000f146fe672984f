"""What `slot-run -- CMD` without options may load: every module costs every build its time."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from builds import wait_until
from servers import Server

from buildslots.fleet.connection import run

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
    "buildslots.disk.taking",
    "buildslots.errors",
    "buildslots.files",
    "buildslots.processes",
    "buildslots.run",
    "buildslots.run.child",
    "buildslots.run.main",
    "buildslots.run.options",
    "buildslots.run.terminal",
    "buildslots.settings",
    "buildslots.slot",
    "buildslots.settings.options",
    "buildslots.settings.places",
    "buildslots.settings.values",
}
FAST = OURS | {"__future__", "errno", "fcntl"}
CORES = {"buildslots.settings.machine"}
"""Loaded where nobody has said a number of slots."""
KEPT = {"buildslots.settings.compiled", "buildslots.settings.config"}
"""Loaded where there is a config file, or a project's."""
JOURNAL = {"buildslots.journal", "resource"}
"""Loaded when the command runs already: the second one to measure what it uses."""
WAITING = {
    "buildslots.disk.ears",
    "buildslots.disk.kin",
    "buildslots.disk.sleepers",
    "buildslots.disk.wait",
    "buildslots.disk.seen",
    "buildslots.estimates",
    "buildslots.outlook",
    "buildslots.reasons",
    "buildslots.run.notice",
    "buildslots.waiting",
    "buildslots.words",
    "gc",
    "select",
}

JOBS = {
    "buildslots.run.jobs",
    "buildslots.tokens",
    "buildslots.tokens.commands",
    "buildslots.tokens.makeflags",
    "buildslots.tokens.service",
    "buildslots.wrappers",
}
TOKENS = {
    "buildslots.tokens.broker",
    "buildslots.tokens.clients",
    "buildslots.tokens.fifo",
    "buildslots.tokens.jobserver",
    "buildslots.tokens.locks",
    "buildslots.tokens.plan",
    "buildslots.tokens.selftest",
    "buildslots.tokens.share",
    "buildslots.tokens.stock",
    "buildslots.tokens.stops",
}

ON_SERVER = {
    "_json",
    "_sha1",
    "_socket",
    "buildslots.fleet",
    "buildslots.fleet.client",
    "buildslots.fleet.connection",
    "buildslots.fleet.here",
    "buildslots.fleet.holding",
    "buildslots.fleet.known",
    "buildslots.fleet.password",
    "buildslots.fleet.pool",
    "buildslots.fleet.replies",
    "buildslots.fleet.script",
    "buildslots.fleet.task",
    "buildslots.fleet.transport",
    "buildslots.fleet.wait",
    "buildslots.settings.address",
    "buildslots.settings.server",
    "buildslots.words",
    "hiredis",
    "hiredis.hiredis",
    "hiredis.version",
    "select",
}
"""Loaded for a pool on a server: no socket, ssl, hashlib, json or typing, which cost more than all these."""

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
    """When it is old enough for that. Then it costs a module, and saves the counting of cores.

    The servers of other pools cost nothing.
    """
    home = Path(pool.environ["HOME"])
    config, kept = home / ".config/buildslots/config.toml", home / ".cache/buildslots"
    for path in (config, kept):
        path.parent.mkdir(parents=True)
    config.write_text(
        'slots = 2\ntimeout = 90\n[pools.link]\nslots = 1\nurl = "rediss://ci.example/0/link"\n'
    )
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


def test_tokens_cost_their_modules_and_none_of_the_library_s(pool: Pool) -> None:
    """What is not needed before the command runs is loaded then. A fixed share of jobs costs less."""
    fixed = FAST | CORES | JOBS | {"buildslots.tokens.fixed"}
    assert loaded(pool, "--jobs=2", "--", "true") == [fixed, fixed | JOURNAL]
    served = FAST | CORES | JOBS | TOKENS
    before, after = loaded(pool, "--tokens=1", "--", "true")
    assert before == served
    assert after - {"buildslots.tokens.builds"} == served | JOURNAL  # the command may have ended before that


def test_a_pool_on_a_server_costs_no_module_that_is_slow(pool: Pool) -> None:
    """And nothing of it is loaded for a pool of this machine, as all the others here show."""
    server = Server()
    server.start()
    try:
        run(server.script("link").create("test", 1))
        url = f"unix://{server.path}/0/link"
        before, after = loaded(pool, "-p", url, "--", "true")
        assert before - FAST == ON_SERVER
        assert after - before <= JOURNAL
    finally:
        server.close()


def test_a_wait_loads_little_more(pool: Pool) -> None:
    """What waits keeps the memory of a bare interpreter."""
    first = pool.build("-n1")
    first.started()
    waited = FAST | WAITING | {"buildslots.journal"}
    assert loaded(pool, "-n1", "-t", "1.2", "--", "true") == [waited, waited | JOURNAL]
