"""A password of a server is in its file, and nowhere else: all that is written or shown is searched."""

from __future__ import annotations

import os
import subprocess
import sys
from typing import TYPE_CHECKING

import pytest
from builds import DEADLINE_S, script, wait_until
from fleets import NAME, Fleet
from servers import password_file

from buildslots.fleet.connection import run

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from servers import Server

SECRET = f"s3cret{os.urandom(6).hex()}"
OTHER = f"0ther{os.urandom(6).hex()}"
"""One that stands where none belongs."""
SEEN_FROM_INSIDE = "cat /proc/self/environ /proc/$PPID/environ /proc/$PPID/cmdline; ps -efww; read line"
"""What a build can see of itself, of its slot-run, and of all others."""
LIBRARY = """
import sys, warnings
from buildslots import SlotPool, SettingError
with SlotPool().acquire() as slot:
    print(slot, slot.environ(), SlotPool().status(), SlotPool()._settings)
try:
    SlotPool(sys.stdin.read())
except SettingError as error:
    print(error, repr(error))
"""


@pytest.fixture
def guarded(
    servers: Callable[..., Server], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Fleet]:
    """A pool on a server that wants a password, in a config that names its file."""
    monkeypatch.setenv("BUILD_SLOTS_DIR", str(tmp_path / "slots"))
    server = servers(f"user builds on >{SECRET} ~* &* +@all")
    fleet = Fleet(server, tmp_path / "home", dict(os.environ))
    fleet.url = f"unix://builds@{server.path}/0/{NAME}"
    fleet.configure(f'password_file = "{password_file(tmp_path, SECRET)}"', 'journal = "commands"')
    fleet.create(2)
    yield fleet
    fleet.end()


def test_a_password_is_nowhere_but_in_its_file(guarded: Fleet, tmp_path: Path) -> None:
    """Not in processes, environments, messages, files, views, the journal, nor in what others read."""
    said: dict[str, str] = {}

    def note(name: str, *args: str, stdin: str = "", **environ: str) -> None:
        result = guarded.run(*args, environ=environ, input=stdin)
        said[name] = result.stdout + result.stderr

    views = script("buildslots")
    build = guarded.popen(script("slot-run"), "--", "sh", "-c", SEEN_FROM_INSIDE)
    guarded.wait_for_used(1)
    held = guarded.seen().holders[0]
    said["what others read"] = held.info
    for name in ("status", "status --json", "config --json", "doctor --json", "rules --json", "doctor -v"):
        note(name, views, *name.split(), NAME)
    note("metrics", views, "status", "--all", "--format", "prometheus")
    said["build"] = build.process.communicate(b"\n", DEADLINE_S)[0].decode()
    assert "BUILD_SLOTS_HELD" in said["build"]
    note("library", sys.executable, "-c", LIBRARY, stdin=f"redis://me:{OTHER}@localhost/0/x")
    note("history", views, "history", "--json")
    note("trace", views, "trace")
    note("report", views, "report", "-o", str(tmp_path / "report.html"))
    for place, words in {
        "slot-run -p": (script("slot-run"), "-p", f"redis://me:{OTHER}@localhost/0/x", "true"),
        "status -p": (views, "status", "-p", f"redis://:{OTHER}@localhost/0/x"),
        "create": (views, "fleet", "create", f"rediss://me:{OTHER}@localhost/0/x", "--slots", "1"),
        "doctor -p": (views, "doctor", "-p", f"redis://me:{OTHER}@@localhost/x"),
    }.items():
        note(place, *words)
    note("variable", script("slot-run"), "true", BUILD_SLOTS_URL=f"redis://me:{OTHER}@localhost/0/license")
    note("pool variable", script("slot-run"), "true", BUILD_SLOTS_POOL=f"redis://me:{OTHER}@localhost/0/x")
    password = tmp_path / "password"
    password.write_text(f"{OTHER}\n")
    note("wrong password", script("slot-run"), "true")
    note("wrong password, doctor", views, "doctor", NAME)
    password.write_text(f"{SECRET}\n")
    password.chmod(0o644)
    note("open file", script("slot-run"), "true")
    password.chmod(0o600)
    guarded.server.stop()
    note("away", script("slot-run"), "true")
    said |= {str(path): path.read_bytes().decode("latin-1") for path in files(tmp_path) if path != password}
    assert any(path.endswith("journal.jsonl") for path in said)
    assert any(path.endswith("report.html") for path in said)
    assert [name for name, text in said.items() if SECRET in text or OTHER in text] == []
    assert all("Traceback" not in text for text in said.values())
    assert "has a password in it" in said["library"]


def files(top: Path) -> list[Path]:
    """All regular files below it."""
    return [path for path in top.rglob("*") if path.is_file() and not path.is_symlink()]


def test_it_is_not_among_the_arguments_of_any_process(guarded: Fleet) -> None:
    """Nor in an environment, while builds wait and run, and while somebody makes a pool with it."""
    builds = [guarded.build() for _ in range(3)]
    wait_until(lambda: guarded.used() == 2 and guarded.seen().length == 1, "two that run and one that waits")
    views = script("buildslots")
    create = [views, "fleet", "create", guarded.url.replace(NAME, "gpu"), "--slots", "1"]
    create += ["--password-file", str(guarded.dir.parents[2] / "password")]
    guarded.server.do("CLIENT", "PAUSE", 1000, "WRITE")  # so that it can be seen
    with subprocess.Popen(create, env=guarded.environ, stdout=subprocess.PIPE) as maker:
        pids = [build.pid for build in builds] + [maker.pid]
        for pid in pids:
            for file in ("cmdline", "environ"):
                with open(f"/proc/{pid}/{file}", "rb") as text:
                    assert SECRET.encode() not in text.read()
        assert maker.stdout is not None
        assert SECRET not in maker.stdout.read().decode()
        assert maker.wait(DEADLINE_S) == 0
    assert run(guarded.server.script("gpu").status()).rules.cap == 1
    for build in builds:
        build.process.kill()
