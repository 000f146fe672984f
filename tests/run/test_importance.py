"""nice, ionice and oom_score_adj: what the command inherits, and that it never gets more than it may."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from builds import script
from users import EVE, several_users

from buildslots.run import importance
from buildslots.settings import resolve

if TYPE_CHECKING:
    from builds import Pool
    from users import Users

ASK = (sys.executable, "-c", "import os; print(os.getpriority(os.PRIO_PROCESS, 0))")


def configured(pool: Pool, text: str) -> None:
    path = Path(pool.environ["HOME"]) / ".config/buildslots/config.toml"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)


def test_a_niceness_for_one_run(pool: Pool) -> None:
    """Also where there is no slot, and where another niceness is configured."""
    configured(pool, "nice = 3\n")
    assert pool.slot_run(*ASK).stdout == "3\n"
    assert pool.slot_run("--nice", "7", "--", *ASK).stdout == "7\n"
    holder = pool.build("-n", "1")
    pool.record()
    assert pool.slot_run("-n1", "-t0", "-q", "--nice=8", *ASK).stdout == "8\n"
    assert pool.slot_run("--nice=9", *ASK, environ={"BUILD_SLOTS_DISABLE": "1"}).stdout == "9\n"
    holder.finish()


def test_a_config_file_only_makes_it_nicer(pool: Pool) -> None:
    """Of one pool, too; who was started nicer stays so."""
    configured(pool, "nice = 3\n[pools.link]\nnice = 5\n")
    nice = ("nice", "-n", "12", script("slot-run"))
    assert pool.run(*nice, *ASK).stdout == "12\n"
    assert pool.slot_run("-p", "link", *ASK).stdout == "5\n"


@pytest.mark.parametrize("text", ["20", "-21", "1.5", "x", "", "--", "1" * 5000])
def test_what_is_no_niceness(pool: Pool, text: str) -> None:
    """A mistake on the command line."""
    result = pool.slot_run(f"--nice={text}", "true")
    assert result.returncode == 125
    assert "is not a niceness from -20 to 19" in result.stderr


@pytest.mark.parametrize(
    ("line", "why"),
    [
        ("nice = -1", "is not a niceness from 0 to 19 (slot-run --nice takes others for one run)"),
        ("nice = true", "is not a niceness from 0 to 19"),
        ('ionice = "realtime"', "is not 'idle', the one class that there is here"),
        ("ionice = 3", "is not 'idle'"),
        ("oom_score_adj = -5", "is not a whole number from 0 to 1000"),
        ("oom_score_adj = 1001", "is not a whole number from 0 to 1000"),
        ('oom_score_adj = "5"', "is not a whole number from 0 to 1000"),
    ],
)
def test_what_a_config_file_cannot_ask_for(pool: Pool, line: str, why: str) -> None:
    """One line, and the command runs as it would have."""
    configured(pool, f"{line}\n")
    result = pool.slot_run(*ASK)
    assert result.stdout == "0\n"
    assert why in result.stderr
    assert result.stderr.endswith("; ignored\n")


@several_users
def test_more_than_the_caller_may_have(users: Users) -> None:
    """One line, and the command runs all the same; here without a slot, too, for it is the group's pool."""
    result = users.run(*users.as_user(EVE, script("slot-run"), "-q", "--nice", "-5", *ASK))
    assert (result.returncode, result.stdout) == (0, "0\n")
    [line] = [line for line in result.stderr.splitlines() if "--nice" in line]
    assert line == "slot-run: --nice: -5 cannot be had here: Permission denied; running without"


@pytest.mark.linux
def test_the_class_of_its_io_and_the_score_of_the_kernel(pool: Pool) -> None:
    """Who would be ended sooner already stays so."""
    configured(pool, 'ionice = "idle"\noom_score_adj = 300\n')
    show = "ionice; cat /proc/self/oom_score_adj"
    assert pool.slot_run("sh", "-c", show).stdout.split() == ["idle", "300"]
    outer = f"echo 700 >/proc/self/oom_score_adj; exec {script('slot-run')} sh -c '{show}'"
    assert pool.run("sh", "-c", outer).stdout.split() == ["idle", "700"]


def test_whatever_fails_is_said(pool: Pool, monkeypatch: pytest.MonkeyPatch) -> None:
    """In one line each, with the file and its line; nothing is raised."""
    configured(pool, 'nice = 4\nionice = "idle"\n')

    def fails(*_: object) -> None:
        raise OSError(1, "Operation not permitted")

    def breaks(*_: object) -> None:
        raise RuntimeError

    monkeypatch.setattr(os, "setpriority", fails)
    monkeypatch.setattr(importance, "_ionice", breaks)
    said: list[str] = []
    importance.apply(resolve(environ=pool.environ, warn=pytest.fail), said.append)
    assert [line.partition("config.toml, ")[2] for line in said] == [
        "line 1, key nice: 4 cannot be had here: Operation not permitted; running without",
        "line 2, key ionice: idle cannot be had here: RuntimeError(); running without",
    ]
