"""The recipe for those without a server, as it stands in the manual, against a real sshd on loopback."""

from __future__ import annotations

import os
import re
import signal
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from benches import TOP
from builds import HELD_BUILD, Build, Pool, script, wait_until
from namespaces import unshare

import buildslots

if TYPE_CHECKING:
    from collections.abc import Iterator

    from bench.kit.servers import Sshd

pytestmark = pytest.mark.linux

PAGE = Path(buildslots.__file__).parent / "help" / "fleet.md"
LEASE, SHORT = "lease=30", "lease=3"
MAKE_RUN = 'mount -t tmpfs none /run && mkdir -m 755 /run/sshd && exec "$@"'
"""sshd wants an empty directory of root's there, which Debian makes when the service starts."""


def recipe(name: str) -> str:
    """The fenced block of the page that follows the line <!-- recipe `name` -->."""
    found = re.search(
        rf"^<!-- recipe {name} -->\n```\w*\n(.*?)^```$", PAGE.read_text(), re.MULTILINE | re.DOTALL
    )
    assert found, f"the page has no recipe {name}"
    return found[1]


class Client:
    """A host that has the recipe on its PATH, and knows H; and the pool of H."""

    def __init__(self, sshd: Sshd, tmp_path: Path, there: Pool) -> None:
        self.sshd = sshd
        self.there = there
        self.program = tmp_path / "client" / "remote-slot"
        bin_ = sshd.client(self.program.parent).parent
        text = recipe("ssh")
        assert text.count(LEASE) == 1
        self.program.write_text(text.replace(LEASE, SHORT))
        self.program.chmod(0o755)
        self._pool = Pool(tmp_path / "unused", os.environ | {"PATH": f"{bin_}:{os.environ['PATH']}"})

    def build(self) -> Build:
        """Start a build below the recipe, in a process group of its own."""
        return self._pool.popen(self.program, self.sshd.HOST, "sh", "-c", HELD_BUILD, start_new_session=True)

    def queued(self) -> Build:
        """Start such a build and wait until H has it in line."""
        before = len(self.there.status().waiters)
        build = self.build()
        wait_until(lambda: len(self.there.status().waiters) == before + 1, "one more waiter on H")
        return build

    def ssh(self, *command: str) -> Build:
        """Start `ssh H COMMAND`."""
        return self._pool.popen("ssh", self.sshd.HOST, *command)

    def end(self) -> None:
        """End all that was started."""
        self._pool.end()


@pytest.fixture
def client(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Client]:
    """A client, and a host H with one slot."""
    monkeypatch.setattr(sys, "path", [*sys.path, str(TOP)])
    from bench.kit.servers import Sshd  # noqa: PLC0415

    environ = {
        "HOME": str(tmp_path),
        "PATH": f"{os.path.dirname(script('slot-run'))}:/usr/bin:/bin",
        "BUILD_SLOTS_DIR": str(tmp_path / "there"),
        "XDG_STATE_HOME": str(tmp_path / "state"),
        "XDG_CONFIG_HOME": str(tmp_path / "config"),
        "MAX_CONCURRENT_BUILDS_LICENSE": "1",
    }
    needs_run = os.geteuid() == 0 and not Path("/run/sshd").is_dir()
    prefix = [*unshare("--mount"), "sh", "-c", MAKE_RUN, "sh"] if needs_run else []
    with Sshd(tmp_path / "sshd", environ, prefix) as sshd:
        client = Client(sshd, tmp_path, Pool(tmp_path / "there" / "pools" / "license", dict(os.environ)))
        yield client
        client.end()


def started(build: Build) -> None:
    """Wait until the command of `build` runs."""
    wait_until(build.is_started, "the command runs")


def test_one_at_a_time_in_order(client: Client) -> None:
    """The command runs here, while its slot is held there; its status and the slot come back at once."""
    first = client.build()
    started(first)
    second = client.queued()
    third = client.queued()
    assert client.there.held() == [0]
    assert first.finish(7) == 7
    started(second)
    assert not third.is_started()
    assert second.finish() == 0
    started(third)
    assert client.there.status().holders[0].command[-1].endswith(" sh")
    assert third.finish() == 0
    wait_until(lambda: not client.there.held(), "no slot is held on H")
    assert [build.errors() for build in (first, second, third)] == ["", "", ""]


def test_a_killed_client_frees_its_slot(client: Client) -> None:
    """Though its command runs on: nothing of it holds the connection."""
    build = client.build()
    started(build)
    build.process.kill()
    build.process.wait()
    wait_until(lambda: not client.there.held(), "the slot is free again")


def test_a_killed_waiter_blocks_nobody(client: Client) -> None:
    """It stays in line on H until its turn, and gives that back."""
    holder = client.build()
    started(holder)
    dead, next_one = client.queued(), client.queued()
    os.killpg(dead.process.pid, signal.SIGKILL)
    holder.finish()
    started(next_one)
    assert next_one.finish() == 0


def test_a_stopped_client_loses_its_slot_after_the_lease(client: Client) -> None:
    """The build goes on afterwards, and a line says what has happened."""
    build = client.build()
    started(build)
    os.killpg(build.process.pid, signal.SIGSTOP)
    wait_until(lambda: not client.there.held(), "H has taken the slot back")
    os.killpg(build.process.pid, signal.SIGCONT)
    assert build.finish(5) == 5
    assert "the slot on H was lost meanwhile" in build.errors()


def test_a_host_that_cannot_be_reached_stops_no_build(client: Client) -> None:
    """After its tries the command runs, with a line."""
    client.sshd.kill()
    text = client.program.read_text()
    client.program.write_text(text.replace("  sleep $((RANDOM", "  : $((RANDOM"))
    build = client.build()
    started(build)
    assert build.finish(3) == 3
    assert build.errors() == "remote-slot: H gives no slot; running without one\n"


def test_a_key_that_may_only_hold_a_slot(client: Client, tmp_path: Path) -> None:
    """Whatever its owner asks for, H holds a slot and does nothing else."""
    client.sshd.may(recipe("ssh-key").strip())
    asked = client.ssh("touch", str(tmp_path / "done"))
    wait_until(client.there.held, "a slot is held")
    asked.process.stdin.close()
    assert (asked.process.wait(), asked.process.stdout.read()) == (0, b"held\n")
    assert not (tmp_path / "done").exists()
    build = client.build()
    started(build)
    assert client.there.held() == [0]
    assert build.finish() == 0
