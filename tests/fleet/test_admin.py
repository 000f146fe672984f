"""`buildslots fleet create`, and what people say to a pool on a server: `set`, `rules`, `pause`, `resume`."""

from __future__ import annotations

import json
import sys
import time
import tomllib
from typing import TYPE_CHECKING

import pytest
from fleet_views import configure, url, views
from servers import password_file

from buildslots import PoolUnreachableError, SettingError, SlotPool, afar
from buildslots.fleet.connection import run
from buildslots.fleet.script import MOST_SLOTS
from buildslots.words import whoami

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from builds import Pool
    from servers import Server


def said(text: str) -> str:
    """The lines of a config file that `fleet create` has printed."""
    lines = text.splitlines()
    begin = next(n for n, line in enumerate(lines) if line.strip().startswith("[pools."))
    return "\n".join(line.strip() for line in lines[begin : lines.index("", begin)])


def test_a_pool_is_made_and_its_hosts_need_what_is_printed(
    pool: Pool, servers: Callable, tmp_path: Path
) -> None:
    """Those lines in the config file, and the name is all that anybody has to say."""
    server = servers("user builds on >hunter2 ~* &* +@all")
    secret = password_file(tmp_path, "hunter2")
    made = views("fleet", "create", url(server, user="builds@"), "--slots", "3", "--password-file", secret)
    assert (made.returncode, made.stderr) == (0, "")
    assert made.stdout.splitlines()[0].endswith("was made, with 3 slots for all machines")
    lines = said(made.stdout)
    assert tomllib.loads(lines) == {
        "pools": {"license": {"url": url(server, user="builds@"), "password_file": secret}}
    }
    configure(lines)
    assert "slot-run -p license" in made.stdout
    assert views("status", "license").stdout.startswith("pool license: 0 held of 3, 0 waiting\nserver ")
    assert "license" in views("pools").stdout.splitlines()
    assert "hunter2" not in made.stdout + made.stderr


def test_a_pool_that_is_there_stays_as_it_is(pool: Pool, server: Server) -> None:
    """One sentence; it is a failure only if another number was asked for, and then it says how to set it."""
    views("fleet", "create", url(server), "--slots", "3")
    same = views("fleet", "create", url(server), "--slots", "3")
    assert (same.returncode, same.stdout.count("\n")) == (0, 1)
    assert "is there already, with 3 slots" in same.stdout
    other = views("fleet", "create", url(server), "--slots", "1")
    assert (other.returncode, other.stdout.count("\n")) == (1, 1)
    command = other.stdout.split("`")[1]
    assert views(*command.split()[1:]).returncode == 0
    told = json.loads(views("fleet", "create", url(server), "--slots", "1", "--json").stdout)
    assert (told["created"], told["slots"], told["url"]) == (False, 1, url(server))


def test_fleet_alone_explains_itself(pool: Pool) -> None:
    """With an exit status of 0, as --help."""
    result = views("fleet")
    assert (result.returncode, result.stderr) == (0, "")
    assert "create" in result.stdout


@pytest.mark.parametrize(
    ("args", "status", "words"),
    [
        (("create", "license", "--slots", "3"), 2, "is a pool of this machine"),
        (("create", "redis://localhost/0/license"), 2, "with how many slots?"),
        (("create", "redis://localhost/0/license", "--slots", "0"), 2, "not a positive whole number"),
        (("create", "redis://me:hunter2@localhost/0/license", "--slots", "3"), 2, "has a password in it"),
        (("create", "redis://ci.example/0/license", "--slots", "3"), 2, "plaintext = true"),
        (
            ("create", "redis://localhost:1/0/license", "--slots", "3"),
            1,
            "cannot be used: Connection refused",
        ),
        (("remove", "redis://localhost/0/license"), 2, "invalid choice"),
    ],
)
def test_mistakes(pool: Pool, args: tuple[str, ...], status: int, words: str) -> None:
    """One sentence each, in which no password is."""
    result = views("fleet", *args)
    assert (result.returncode, result.stdout) == (status, "")
    assert words in result.stderr
    assert "hunter2" not in result.stderr


def test_rules_as_of_a_pool_of_this_machine(pool: Pool, server: Server) -> None:
    """By name or by URL, on the command line or in Python: all see what anybody has said, and who."""
    views("fleet", "create", url(server), "--slots", "3")
    configure(f'[pools.license]\nurl = "{url(server)}"\n')
    library = SlotPool("license")
    assert views("set", "-p", "license", "slots=4", "head_start=1m").returncode == 0
    assert (library.rules().slots, library.rules().head_start_s) == (4, 60)
    assert library.cap == 4
    library.pause("10m", "a new kernel")
    paused = views("rules", url(server))
    assert paused.stdout.startswith(f"pool license at {url(server)}\nslots 4, for every caller\n")
    assert f"by {whoami()}: a new kernel" in paused.stdout
    changes = [line.split()[-3:] for line in paused.stdout.splitlines()[-3:]]
    assert changes[-1] == [whoami(), "create", "slots=3"]
    told = json.loads(views("rules", "license", "--json").stdout)
    assert (told["dir"], told["slots"], told["reason"], told["problem"]) == (
        url(server),
        4,
        "a new kernel",
        None,
    )
    assert 590 < told["paused_until"] - time.time() <= 600
    assert ", paused until " in views("status", "license").stdout.splitlines()[0]
    assert views("resume", "license").returncode == 0
    assert library.rules().paused_until is None
    assert library.set_rules(slots=2).slots == 2
    assert library.set_rules().slots == 2


def test_what_a_pool_on_a_server_cannot_be_told(pool: Pool, server: Server) -> None:
    """Its cap cannot be taken back, for there is no other; a pause has an end."""
    views("fleet", "create", url(server), "--slots", "3")
    taken_back = views("set", "-p", url(server), "slots=")
    assert (taken_back.returncode, "has no other one" in taken_back.stderr) == (2, True)
    assert views("pause", "-p", url(server), "5h").returncode == 2
    with pytest.raises(SettingError):
        SlotPool(url(server)).set_rules(slots=None)
    assert afar.MOST_SLOTS == MOST_SLOTS
    assert "more than the 10000" in views("set", "-p", url(server), "slots=10001").stderr
    assert views("set", "-p", url(server), "slots=10000").returncode == 0
    assert "let the config file of each say it" in views("set", "-p", url(server), "tokens=4").stderr


def test_a_pool_that_nobody_has_made(pool: Pool, server: Server) -> None:
    """Each command says how to make it, in one line."""
    for args in (("rules",), ("set", "-p"), ("pause", "-p"), ("resume",)):
        result = views(*args, url(server), *(["slots=3"] if args[0] == "set" else []))
        assert (result.returncode, result.stdout, result.stderr.count("\n")) == (1, "", 1)
        assert "`buildslots fleet create` makes it" in result.stderr
    with pytest.raises(PoolUnreachableError, match="no such pool"):
        SlotPool(url(server)).status()


def test_hostile_words_in_the_rules(pool: Pool, server: Server) -> None:
    """Whoever may change the pool may write anything there: it is bounded, and cannot steer a terminal."""
    script_ = server.script("license")
    run(script_.create("\x1b[31m" + "x" * 300, 3))
    run(script_.pause("a\nb\u202e", 600, "\x1b]0;\x07" + "y" * 1000))
    for result in (views("rules", url(server)), views("status", url(server))):
        assert result.returncode == 0
        assert all(line.isprintable() for line in result.stdout.splitlines())
        assert len(result.stdout) < 2000
    doctor = views("doctor", "-v", url(server)).stdout
    assert all(line.isprintable() for line in doctor.splitlines())


def test_without_hiredis(pool: Pool, server: Server) -> None:
    """It is an extra: one sentence names it, and pools of this machine need none."""
    blocked = (
        "import sys; sys.modules['hiredis'] = None; from buildslots.view.main import main; sys.exit(main())"
    )
    result = pool.run(sys.executable, "-c", blocked, "rules", url(server))
    assert (result.returncode, result.stderr.count("\n")) == (1, 1)
    assert "buildslots[redis]" in result.stderr
    assert pool.run(sys.executable, "-c", blocked, "rules").returncode == 0
