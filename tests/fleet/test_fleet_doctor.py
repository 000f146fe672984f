"""`buildslots doctor` of a pool on a server: each thing that can be wrong there, made wrong for real."""

from __future__ import annotations

import json
import re
import signal
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from builds import wait_until
from fleet_views import configure, joined, url, views
from servers import password_file

import buildslots
from buildslots.fleet.connection import run
from buildslots.settings.address import parse_url
from buildslots.view.health import server as look
from buildslots.view.health.checks import fleet

if TYPE_CHECKING:
    from collections.abc import Callable

    from builds import Pool
    from servers import Server

PACKAGE = Path(buildslots.__file__).parent
PASSWORD = "hunter2"
NAMES = "server transport password rights memory persistence clock pool leases fallback"
NAMES += " cap rules settings journal"


def page_rights() -> str:
    """What the manual gives a user of a pool, as a line of redis.conf."""
    text = (PACKAGE / "help" / "fleet.md").read_text(encoding="utf-8")
    return re.findall(r"^user builds on \S+ (.*)$", text, re.MULTILINE)[-1]


def report(*args: str) -> dict[str, list[tuple[str, str]]]:
    """Level and text of what each check has found."""
    result = views("doctor", "--json", *args)
    assert result.stderr == ""
    told = json.loads(result.stdout)
    assert told["ok"] is (result.returncode == 0)
    found: dict[str, list[tuple[str, str]]] = {}
    for check in told["checks"]:
        found.setdefault(check["check"], []).append((check["level"], check["text"]))
    return found


@pytest.fixture
def guarded(servers: Callable[..., Server], tmp_path: Path, pool: Pool) -> Callable[..., str]:
    """Starts a server whose user has such rights, with a pool, and names it in the config: its URL."""

    def start(rights: str, *options: str) -> str:
        server = servers(*options, f"user builds on >{PASSWORD} {rights}")
        run(server.script("license").create("alice", 3))
        where = url(server, user="builds@")
        configure(
            f'[pools.license]\nurl = "{where}"\npassword_file = "{password_file(tmp_path, PASSWORD)}"\n'
        )
        return where

    return start


def test_a_healthy_pool(guarded: Callable[..., str]) -> None:
    """With the rights of the manual, no more and no less, nothing is wrong; each check says so in a line."""
    where = guarded(page_rights(), "appendonly yes")
    found = report("license")
    found.pop("launcher", None)  # says how this was installed
    assert list(found) == NAMES.split()
    assert {level for each in found.values() for level, _ in each} == {"ok"}, found
    assert where in found["server"][0][1]
    assert PASSWORD not in json.dumps(found)


def test_the_rights_of_the_manual_are_those_that_the_script_needs() -> None:
    """Each command that a script calls is one that doctor asks for, and the manual grants."""
    texts = "".join(path.read_text(encoding="utf-8") for path in (PACKAGE / "fleet").glob("*.lua"))
    called = {name.lower() for name in re.findall(r"\bcall\('(\w+)'", texts)}
    asked = {*look.KEYED, *look.SPOKEN, *look.OTHERS}
    assert called <= asked
    assert set(re.findall(r"\+(\w+)", page_rights())) == asked
    protocol = (PACKAGE / "fleet" / "PROTOCOL.md").read_text(encoding="utf-8")
    assert f"ACL SETUSER builds on >PASSWORD {page_rights()}\n" in protocol


@pytest.mark.parametrize(
    ("rights", "lacks"),
    [
        ("~bs:* &bs:* +@all -zadd -publish", "+zadd +publish"),
        ("~other:* &bs:* +@all", "~bs:*"),
        ("~bs:* &other:* +@all", "&bs:*"),
        ("~bs:* &bs:* +@all -eval", "+eval"),
    ],
)
def test_rights_that_are_missing(guarded: Callable[..., str], rights: str, lacks: str) -> None:
    """By name, with the line that grants them."""
    guarded(rights)
    level, text = report("license")["rights"][0]
    assert (level, text.endswith(f"`ACL SETUSER builds {lacks}`")) == ("problem", True), text


def test_rights_that_nobody_needs(pool: Pool, server: Server) -> None:
    """Worth a note, as is a server without a password."""
    found = report(url(server))
    assert found["rights"][0][0] == "note"
    assert found["pool"] == [
        ("problem", f"there is no such pool: `buildslots fleet create {url(server)} --slots N` makes it")
    ]


@pytest.mark.parametrize(
    ("options", "check", "level", "words"),
    [
        ("maxmemory 100mb\nmaxmemory-policy allkeys-lru", "memory", "problem", "lets it remove pools"),
        ("maxmemory-policy allkeys-random", "memory", "note", "which is none yet"),
        ("maxmemory 100mb\nmaxmemory-policy volatile-lru", "memory", "ok", "volatile-lru"),
        ("maxmemory 1mb", "memory", "note", "are used"),
        ("appendonly yes", "persistence", "ok", "AOF"),
        ("", "persistence", "note", "has to be made again"),
    ],
)
@pytest.mark.usefixtures("pool")
def test_memory_and_disk(
    servers: Callable[..., Server], options: str, check: str, level: str, words: str
) -> None:
    """What becomes of pools when memory is full, or after a restart."""
    found = report(url(servers(options)))[check][0]
    assert (found[0], words in found[1]) == (level, True), found


def test_a_disk_that_cannot_be_written(pool: Pool, server: Server) -> None:
    """By default such a server refuses all changes."""
    (Path(server.dir) / "dump.rdb").mkdir()
    server.do("BGSAVE")
    wait_until(lambda: "rdb_last_bgsave_status:err" in str(server.do("INFO", "persistence")), "the failure")
    assert report(url(server))["persistence"][0][0] == "problem"


def test_a_replica(pool: Pool, servers: Callable[..., Server]) -> None:
    """Nobody can take a slot there."""
    primary = servers("repl-diskless-sync-delay 0", tcp=True)
    run(primary.script("license").create("alice", 3))
    replica = servers(f"replicaof 127.0.0.1 {primary.port}")
    wait_until(lambda: replica.do("HEXISTS", "bs:{license}:cfg", "cap") == 1, "a copy")
    found = report(url(replica))
    assert found["server"][0] == (
        "problem",
        "it is a replica, where nobody can take a slot: the URL has to lead to its primary",
    )
    assert found["pool"][0][0] == "ok"


def test_a_node_of_a_cluster(pool: Pool, servers: Callable[..., Server]) -> None:
    """A wake-up reaches one node only."""
    level, text = report(url(servers("cluster-enabled yes")))["server"][0]
    assert (level, "cluster" in text) == ("problem", True)


def test_a_server_that_is_not_there(pool: Pool, server: Server) -> None:
    """The sentence says what builds do meanwhile; nothing else is said of the server."""
    server.stop(signal.SIGKILL)
    found = report(url(server))
    (problem,) = found["server"]
    assert problem[0] == "problem"
    assert problem[1].endswith("builds take slots of this machine's own pool")
    assert not found.keys() & {"rights", "memory", "clock", "pool", "leases", "rules"}
    configure(f'[pools.license]\nurl = "{url(server)}"\non_unreachable = "fail"\n')
    assert report("license")["server"][0][1].endswith("builds exit with 75")


@pytest.mark.parametrize("mode", [0o644, 0o000])
def test_a_password_that_others_can_read(guarded: Callable[..., str], tmp_path: Path, mode: int) -> None:
    """It is not sent; or the file is no good at all."""
    guarded("~* &* +@all")
    file = tmp_path / "password"
    if mode:
        file.chmod(mode)
    else:
        file.unlink()
    found = report("license")
    assert (found["password"][0][0], found["server"][0][0]) == ("problem", "problem")
    assert str(file).rpartition("/")[2] in found["password"][0][1]
    assert ("chmod 600" in found["password"][0][1]) is bool(mode)


def test_a_wrong_password(guarded: Callable[..., str], tmp_path: Path) -> None:
    """The user and the file are named, and not what is in it."""
    guarded("~* &* +@all")
    (tmp_path / "password").write_text("swordfish\n")
    result = views("doctor", "license")
    assert "does not know user 'builds'" in result.stdout
    assert "swordfish" not in result.stdout
    assert result.returncode == 1


def test_plain_text_by_a_network(pool: Pool) -> None:
    """Only the user can have said that it is meant: the note says what it means."""
    configure('[pools.license]\nurl = "redis://192.0.2.1:1/0/license"\nplaintext = true\n')
    seen = look.Server.__new__(look.Server)
    seen.address, seen.problem = parse_url("redis://192.0.2.1/0/license", "test"), None
    assert fleet.transport(seen)[0].level == "note"
    seen.address = parse_url("rediss://ci.example/0/license", "test")
    assert "ci.example" in fleet.transport(seen)[0].text


@pytest.mark.parametrize(
    ("ahead_s", "level", "words"), [(0.5, "ok", "500 ms"), (-7200, "note", "2 h 0 min behind")]
)
def test_clocks_that_differ(ahead_s: float, level: str, words: str) -> None:
    """Nothing depends on it, but one of the two is wrong."""
    seen = look.Server.__new__(look.Server)
    seen.ahead_s = ahead_s
    (found,) = fleet.clock(seen)
    assert (found.level, words in found.text) == (level, True)


def test_a_build_beyond_the_cap(pool: Pool, server: Server) -> None:
    """And the counters of all."""
    run(server.script("license").create("alice", 1))
    joined(server, "a1.1", "")
    run(server.script("license").over("b2.1"))
    found = report(url(server))["leases"]
    assert [level for level, _ in found] == ["note", "ok"]
    assert "1 build runs beyond the cap" in found[0][1]
    assert found[1][1].endswith("builds that went beyond the cap 1")
