"""What people and programs see of a pool on a server: builds of many machines, and what is wrong."""

from __future__ import annotations

import json
import signal
from typing import TYPE_CHECKING

import pytest
from builds import script, wait_until
from fleet_views import about, configure, joined, url, views
from prometheus_client.parser import text_string_to_metric_families

from buildslots import PoolUnreachableError, SlotPool
from buildslots.disk import records
from buildslots.fleet.connection import run
from buildslots.processes import boot_id, identity

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from builds import Pool
    from servers import Server
    from terminals import Terminal


@pytest.fixture
def busy(pool: Pool, server: Server) -> Server:
    """A pool of two slots: two builds of two hosts have them, and two of a third wait."""
    run(server.script("license").create("alice", 2))
    joined(server, "a1.1", about("north", pid="11"))
    joined(server, "b2.1", about("south", pid="22", waited="3", command="cargo\0"))
    joined(server, "c3.2", about("west", pid="33", command="ninja\0", priority="high"))
    joined(server, "d4.1", about("west", pid="44", own="1"))
    configure(f'[pools.license]\nurl = "{url(server)}"\n')
    return server


def table(text: str, head: str) -> list[list[str]]:
    """The cells of the rows under the line that begins with that word."""
    lines = iter(text.splitlines())
    next(line for line in lines if line.startswith(head))
    rows = []
    for line in lines:
        if not line:
            break
        rows.append([cell.strip() for cell in line.split("  ") if cell.strip()])
    return rows


def test_status_names_the_host_of_each_build(busy: Server) -> None:
    """In the order of the slots and of the line, with what each waits for."""
    result = views("status", "license")
    assert (result.returncode, result.stderr) == (0, "")
    lines = result.stdout.splitlines()
    assert lines[:3] == ["pool license: 2 held of 2, 2 waiting", f"server {url(busy)}", "cap 2: the pool"]
    assert [(row[0], row[1], row[3], row[-1]) for row in table(result.stdout, "SLOT")] == [
        ("0", "11", "north", "make"),
        ("1", "22", "south", "cargo"),
    ]
    assert [(row[0], row[1], *row[4:]) for row in table(result.stdout, "LINE")] == [
        ("1", "33", "2 slots together: 2 held of 2", "west", "src", "ninja (needs 2 slots, high priority)"),
        ("2", "44", "the build ahead", "west", "src", "make"),
    ]


def test_the_fields_that_programs_rely_on(busy: Server) -> None:
    """As of any pool, and `fleet` with what only a server has to say."""
    status = json.loads(views("status", "license", "--json").stdout)
    fields = "url unreachable on_unreachable lease_s restart_s granted overflowed lapsed regained deaf"
    assert list(status["fleet"]) == fields.split()
    assert (status["dir"], status["fleet"]["url"]) == (url(busy), url(busy))
    assert [status["fleet"][name] for name in fields.split()[1:6]] == [None, "local", 30.0, 0.0, 2]
    assert [(h["host"], h["pid"], h["slots"], h["elsewhere"], h["orphaned"]) for h in status["holders"]] == [
        ("north", 11, [0], True, False),
        ("south", 22, [1], True, False),
    ]
    assert [(h["silent_s"], h["waited_s"]) for h in status["holders"]] == [(None, 0.0), (None, 3.0)]
    assert [(w["place"], w["weight"], w["cap"], w["priority"]) for w in status["waiters"]] == [
        (1, 2, 2, "high"),
        (2, 1, 2, "normal"),
    ]


def test_all_pools_and_those_of_the_settings(busy: Server) -> None:
    """`--all` shows those on servers that a setting names; `pools` completes their names."""
    both = views("status", "--all", "--json").stdout
    assert [status["pool"] for status in json.loads(both)["pools"]] == ["default", "license"]
    assert "license" in views("pools").stdout.split()


def test_metrics(pool: Pool, busy: Server) -> None:
    """Gauges of the whole pool, and counters that the server keeps; nothing of it for other pools."""
    text = pool.run(script("buildslots"), "status", "--all", "--format", "prometheus").stdout
    samples = [sample for family in text_string_to_metric_families(text) for sample in family.samples]
    found = {s.name.removeprefix("buildslots_"): s.value for s in samples if s.labels["pool"] == "license"}
    assert [found[name] for name in ("cap", "held_slots", "running_builds", "waiting_builds")] == [2, 2, 2, 2]
    assert (found["fleet_reachable"], found["fleet_silent_builds"], found["fleet_granted_total"]) == (1, 0, 2)
    assert {s.labels["dir"] for s in samples if s.labels["pool"] == "license"} == {url(busy)}
    assert not [s for s in samples if "fleet_" in s.name and s.labels["pool"] != "license"]
    busy.stop(signal.SIGKILL)
    after = pool.run(script("buildslots"), "status", "-p", "license", "--format", "prometheus")
    assert (after.returncode, after.stderr) == (0, "")
    assert 'buildslots_fleet_reachable{pool="license"' in after.stdout
    assert "fleet_granted" not in after.stdout


# A server that cannot be asked.


def test_a_server_that_is_away(pool: Pool, busy: Server) -> None:
    """What is shown is the pool where builds of this machine go meanwhile, and why."""
    busy.stop(signal.SIGKILL)
    own = pool.dir / "pools" / "license"
    build = pool.build("--dir", str(pool.dir), "-p", "license", environ={"XDG_CONFIG_HOME": "/nowhere"})
    assert build.started() == "0"
    result = views("status", "license")
    first, second = result.stdout.splitlines()[:2]
    assert (result.returncode, result.stderr) == (1, "")
    assert first.startswith("pool license: cannot be used on its server; 1 held of ")
    assert second.startswith(f"server {url(busy)}: ")
    told = json.loads(views("status", "license", "--json").stdout)
    assert (told["dir"], len(told["holders"])) == (str(own), 1)
    assert told["fleet"]["unreachable"] in second
    with pytest.raises(PoolUnreachableError):
        SlotPool("license").status()
    configure(f'[pools.license]\nurl = "{url(busy)}"\non_unreachable = "fail"\n')
    assert views("status", "license").stdout.splitlines()[0].endswith("and builds fail")
    assert views("config", "license").returncode == 0


def test_a_pool_that_nobody_has_made(pool: Pool, server: Server) -> None:
    """It says how to make it."""
    assert "`buildslots fleet create` makes it" in views("status", url(server)).stdout


def test_release_has_nothing_to_do(busy: Server) -> None:
    """One sentence; a failure only for who has named something."""
    result = views("release", "-p", "license", "--yes")
    assert (result.returncode, result.stdout.count("\n")) == (0, 1)
    assert "leases" in result.stdout
    assert views("release", "-p", "license", "0", "--yes").returncode == 1
    assert len(SlotPool("license").status().holders) == 2


# What becomes of leases.


def test_who_is_silent_is_named(pool: Pool, server: Server) -> None:
    """A build that is cut off, stopped or killed; not one that beats."""
    one = server.script("license")
    run(one.create("alice", 2, lease_s=3, confirm_s=1))
    run(one.join("a1.1", info=about("north", waited="0")))
    held = run(one.join("b2.1", info=about("south", waited="0")))

    def silent() -> list[str | None]:
        run(one.renew("b2.1", held.known, numbers=held.numbers))
        return [h.host for h in SlotPool(url(server)).status().holders if h.silent_s]

    wait_until(lambda: silent() == ["north"], "the silence of one")
    assert "make (silent for " in views("status", url(server)).stdout
    doctor = views("doctor", url(server)).stdout
    assert "`make` on north was not heard of for" in doctor
    wait_until(lambda: silent() == [], "the end of its lease")
    assert run(one.status()).counts.lapsed == 1


def test_a_restart_of_the_server_is_what_all_wait_for(pool: Pool, servers: Callable[..., Server]) -> None:
    """Nobody starts for one lease; heading and reasons say so, and until when."""
    server = servers("appendonly yes")
    run(server.script("license").create("alice", 1))
    held = joined(server, "a1.1", about("north", waited="0"))
    server.stop()
    server.start()
    run(server.script("license").renew("a1.1", held.known, numbers=held.numbers))
    joined(server, "b2.1", about("south"))
    status = SlotPool(url(server)).status()
    assert status.fleet is not None
    assert 0 < status.fleet.restart_s <= 30
    assert [reason.kind for reason in status.waiters[0].reasons] == ["restart", "slots"]
    text = views("status", url(server)).stdout
    assert ", nobody starts for " in text.splitlines()[0]
    assert "the holders to report after a restart of the server" in text
    assert "the server was restarted" in views("doctor", url(server)).stdout


# What others write.

HOSTILE = [
    "",
    "{",
    "null",
    "[" * 2000,
    '{"pid": 1, "command": ["make"], "since": 7, "cap": [], "host": {}}',
    json.dumps(dict.fromkeys(("host", "pid", "cwd", "batch", "priority"), "\x1b[2J\u202e\n" + "x" * 300)),
    json.dumps({"command": "\x1b]0;owned\x07\0\0" * 100, "since": "nan", "waited": "-1", "own": "1e999"}),
    json.dumps(
        {"command": "make", "since": "9" * 200, "start": "x", "owner": "1 2", "cap": "0", "weight": "0"}
    ),
]


@pytest.mark.parametrize("info", HOSTILE)
def test_hostile_builds(pool: Pool, server: Server, info: str) -> None:
    """Whatever they say of themselves, they are shown in lines that fit, and steer nothing."""
    run(server.script("license").create("alice", 1))
    joined(server, "a1.1", info)
    joined(server, "b2.999999999", info)
    for result in (views("status", url(server)), views("doctor", "-v", url(server))):
        assert all(line.isprintable() for line in result.stdout.splitlines())
        assert "Traceback" not in result.stderr
        assert max(map(len, result.stdout.splitlines())) < 1500
    status = json.loads(views("status", url(server), "--json").stdout)
    assert (len(status["holders"]), len(status["waiters"])) == (1, 1)
    assert status["holders"][0]["elsewhere"] is True


def test_holders_that_nobody_can_be(pool: Pool, server: Server) -> None:
    """Members can write any number of them, each with a weight without end: a look is bounded."""
    run(server.script("license").create("alice", 1))
    for first in range(0, 20_000, 2000):
        words = [word for n in range(first, first + 2000) for word in (2**40, f"{n:x}.999999999")]
        server.do("ZADD", "bs:{license}:h", *words)
    status = SlotPool(url(server)).status()
    assert (len(status.holders), status.held) == (10_000, 20_000 - 1)


def test_a_pid_of_another_machine_is_not_looked_up(
    pool: Pool, server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Though host, namespace and pid are those of a process here: the machine's boot is another one."""
    here = identity() | {"boot": boot_id() or ""}
    run(server.script("license").create("alice", 3))
    joined(server, "a1.1", about(waited="0", **here))
    joined(server, "b2.1", about(waited="0", **here | {"boot": "0" * 36}))
    gone = here | {"pid": str(2**22 + 1)}
    joined(server, "c3.1", about(waited="0", **gone))
    asked: list[str] = []
    monkeypatch.setattr(
        records, "lives", lambda record: asked.append(record["nonce"]) or record["nonce"] == "a1"
    )
    seen = SlotPool(url(server)).status().holders
    assert asked == ["a1", "c3"]
    assert [(h.elsewhere, h.orphaned) for h in seen] == [(False, False), (True, False), (False, True)]


@pytest.mark.linux
def test_jobs_of_this_machine_s_builds(pool: Pool, server: Server, tmp_path: Path) -> None:
    """CPU tokens are the machine's, though its builds are of a pool on a server, and of no other one."""
    run(server.script("license").create("alice", 1))
    (tmp_path / "Makefile").write_text("all: a b\na b:\n\t@until [ -e go ]; do sleep 0.05; done\n")
    build = pool.popen(script("slot-run"), "-p", url(server), "--tokens=3", "make", "-j2", cwd=tmp_path)

    def jobs() -> int | None:
        holders = SlotPool(url(server)).status().holders
        return holders[0].tokens.held if holders and holders[0].tokens else None

    wait_until(lambda: jobs() == 1, "a second job")
    assert "2 of 2" in views("status", url(server)).stdout
    (tmp_path / "go").touch()
    assert build.errors() == ""
    assert build.process.returncode == 0


# In a terminal.


@pytest.mark.parametrize("columns", [40, 80, 120])
def test_in_a_terminal(terminal: Terminal, busy: Server, columns: int) -> None:
    """Each build takes one line that fits, with its host, once and in the live view."""
    terminal.resize(columns, 40)
    for option in ("", " --watch"):
        terminal.clear()
        terminal.type(f"{script('buildslots')} status license{option}")
        terminal.wait_until(lambda: sum("west" in line for line in terminal.lines()) == 2, "the line")
        lines = terminal.lines()
        rows = [line for line in lines if any(host in line for host in ("north", "south", "west"))]
        assert len(rows) == 4
        assert max(map(len, lines)) <= columns
        assert any("HOST" in line for line in lines)
    terminal.keys("q")


def test_the_live_view_outlasts_the_server(terminal: Terminal, busy: Server) -> None:
    """It says that the server is away, and goes on when that is back."""
    terminal.type(f"{script('buildslots')} status license --watch")
    terminal.wait_for("pool license: 2 held of 2")
    busy.stop(signal.SIGKILL)
    terminal.wait_for("pool license: cannot be used on its server")
    busy.start()
    run(busy.script("license").create("alice", 5))
    terminal.wait_for("pool license: 0 held of 5")
    terminal.keys("q")
