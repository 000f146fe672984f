"""The way of a new user, as the manual has it: a server, two hosts with nothing but a wire, and one line."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from benches import TOP
from builds import DEADLINE_S, HELD_BUILD, Build, Pool, script, wait_until

import buildslots

if TYPE_CHECKING:
    from collections.abc import Iterator

    from bench.kit.hosts import Hosts

pytestmark = pytest.mark.linux

PAGE = Path(buildslots.__file__).parent / "help" / "fleet.md"
DEBIANS = Path("/etc/redis/redis.conf")
STANDINS = dict.fromkeys(("apt-get", "systemctl", "chown", "update-ca-certificates", "pipx"), ":")
STANDINS["sudo"] = 'exec "$@"'
STANDINS["scp"] = 'shift $(($# - 2)); cp "${1#*:}" "$2"'
"""What only an administrator can do is left out, and files are copied without a network."""


def recipe(name: str) -> str:
    """The block of the page behind the line <!-- fleet `name` -->."""
    found = re.search(
        rf"^<!-- fleet {name} -->\n```sh\n(.*?)^```$", PAGE.read_text(), re.MULTILINE | re.DOTALL
    )
    assert found, name
    return found[1]


class Machines:
    """The host ci.example, which has the server, and two that build, each with a home of its own."""

    def __init__(self, hosts: Hosts, top: Path) -> None:
        self._hosts = hosts
        self._top = top
        self._pool = Pool(top / "unused", {"LC_ALL": "C.UTF-8"})
        self.etc = top / "redis"
        self.etc.mkdir()
        (top / "bin").mkdir()
        for name, text in STANDINS.items():
            (top / "bin" / name).write_text(f"#!/bin/sh\n{text}\n")
            (top / "bin" / name).chmod(0o755)
        (top / "hosts").write_text(f"127.0.0.1 localhost\n{hosts.address(0)} ci.example\n")
        for number in range(3):
            self.home(number).mkdir()

    def home(self, number: int) -> Path:
        return self._top / f"home{number}"

    def start(self, number: int, *words: str) -> Build:
        """Start a command on a host, whose user has their own home, and finds ci.example."""
        bin_ = os.path.dirname(script("slot-run"))
        environ = {
            "HOME": str(self.home(number)),
            "PATH": f"{bin_}:{os.environ['PATH']}",
            "LC_ALL": "C.UTF-8",
        }
        environ["SSL_CERT_FILE"] = f"{self.home(number)}/trusted"
        mount = f'mount --bind {self._top}/hosts /etc/hosts && cd && exec "$@"'
        place = ["unshare", "--mount", "sh", "-c", mount, "sh"]
        return self._pool.popen(*self._hosts.prefix(number), *place, *words, environ=environ)

    def run(self, number: int, *words: str) -> str:
        """What a command says on a host, which succeeds."""
        process = self.start(number, *words).process
        out, errors = process.communicate(timeout=DEADLINE_S)
        assert process.returncode == 0, errors.decode()
        return out.decode()

    def do(self, number: int, recipe: str) -> str:
        """Do on a host what the page says."""
        trusted = f"{self.home(number)}/trusted"
        text = recipe.replace("/etc/redis", str(self.etc)).replace(
            "/usr/local/share/ca-certificates", trusted
        )
        text = text.replace(":license.pw", f":{self.home(0)}/license.pw")
        return self.run(number, "sh", "-ec", f'PATH="{self._top}/bin:$PATH"\n{text}')

    def end(self) -> None:
        self._pool.end()


@pytest.fixture
def machines(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Machines]:
    monkeypatch.setattr(sys, "path", [*sys.path, str(TOP)])
    from bench.kit.hosts import Hosts, Missing  # noqa: PLC0415

    try:
        with Hosts(3) as hosts:
            machines = Machines(hosts, tmp_path)
            try:
                yield machines
            finally:
                machines.end()
    except Missing as problem:
        pytest.skip(str(problem))


def test_from_nothing_to_two_hosts(machines: Machines) -> None:
    """With TLS, a password and few rights: what one host has, the other one waits for, and both see both."""
    if DEBIANS.exists():
        shutil.copy(DEBIANS, machines.etc / "redis.conf")
    machines.do(0, recipe("server"))
    ours = f"\ndaemonize no\ndir {machines.etc}\nlogfile {machines.etc}/log\npidfile {machines.etc}/pid\n"
    with (machines.etc / "redis.conf").open("a") as conf:
        conf.write(ours)
    server = machines.start(0, "redis-server", str(machines.etc / "redis.conf")).process
    (machines.etc / "log").touch()
    wait_until(lambda: "Ready to accept" in (machines.etc / "log").read_text(), "the server")
    for number in (1, 2):
        machines.do(number, recipe("host"))
    made = machines.do(1, recipe("create").replace("--slots 3", "--slots 1"))
    lines = re.findall(r"^    (\[pools.*|url = .*|password_file = .*)$", made, re.MULTILINE)
    assert len(lines) == 3
    for number in (1, 2):
        config = machines.home(number) / ".config/buildslots/config.toml"
        config.write_text("\n".join(lines) + "\n")
    first = machines.start(1, "slot-run", "-p", "license", "sh", "-c", HELD_BUILD)
    assert first.started() == "0"
    second = machines.start(2, "slot-run", "-p", "license", "sh", "-c", HELD_BUILD)
    assert "place 1 of 1: 1 of 1 slots held by `sh` on host1 in " in second.read_error_line()
    for number in (1, 2):
        status = json.loads(machines.run(number, "buildslots", "status", "license", "--json"))
        assert [each["host"] for each in (*status["holders"], *status["waiters"])] == ["host1", "host2"]
        assert "nothing is wrong" in machines.run(number, "buildslots", "doctor", "license")
    assert first.finish() == 0
    assert second.started() == "0"
    server.send_signal(signal.SIGKILL)
    assert second.finish() == 0
