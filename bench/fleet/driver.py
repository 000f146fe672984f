"""Builds that come and go on several hosts, and what is done to them, to the network and to the server."""

from __future__ import annotations

import heapq
import json
import os
import random
import signal
import subprocess
import time
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from bench.fleet.referee import Mark, Seen
from bench.kit.hosts import Hosts
from bench.kit.installs import this
from bench.kit.servers import Connection, Redis
from buildslots.fleet.connection import Connection as Client
from buildslots.fleet.connection import run
from buildslots.fleet.script import Script
from buildslots.settings.address import parse_url

if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Self

NAME, PORT = "license", 6379
CONFIG = """\
[pools.{name}]
url = "redis://{host}:{port}/0/{name}"
plaintext = true
on_unreachable = "fail"
"""
BUILD = Path(__file__).with_name("build.c")
HOLD_S = (0.05, 1.0)
TURN_S, LOOK_S = 0.005, 0.1
UNREACHABLE = 75
QUIET_S = 60.0
"""How long the builds that are left may take to end, once nothing is done to them any more."""


@dataclass
class Place:
    """A client: it starts one build after the other on `host`.

    Attributes:
        name: Of the build that is there.
        process: Its slot-run; None if it is to start the next.
        is_stopped: Whether it was stopped.
    """

    host: int
    name: str = ""
    process: subprocess.Popen[bytes] | None = None
    is_stopped: bool = False


@dataclass
class World:
    """Hosts, a server on the first of them, a pool with `slots`, and `clients` on each other host."""

    scratch: Path
    hosts: int
    clients: int
    slots: int
    lease_s: float
    seed: int
    marks: list[Mark] = field(default_factory=list)
    seen: list[Seen] = field(default_factory=list)
    counts: Counter[str] = field(default_factory=Counter)
    problems: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        self._random = random.Random(self.seed)
        self.log = self.scratch / "log"
        self._build = str(self.scratch / "build")
        subprocess.run(["cc", "-O1", "-o", self._build, BUILD], check=True)
        self._net = Hosts(self.hosts + 1)
        self._places = [Place(host + 1) for host in range(self.hosts) for _ in range(self.clients)]
        self._later: list[tuple[float, int, Callable[[], None]]] = []
        self._number = 0
        self._cut: set[int] = set()
        self._is_harmed = False  # whether the server is down or stopped
        self._look_at = 0.0

    def __enter__(self) -> Self:
        self._net.__enter__()
        self.redis = Redis(self.scratch / "redis", self._net.prefix(0), port=PORT)
        self.redis.start()
        self._client = Client(parse_url(f"{self.redis.url}/0/{NAME}", "bench"))
        self._script = Script(self._client, NAME)
        run(
            self._script.create(
                "bench", self.slots, lease_s=self.lease_s, confirm_s=1.0, ticket_s=self.lease_s
            )
        )
        home = self.scratch / "config" / "buildslots"
        home.mkdir(parents=True)
        (home / "config.toml").write_text(CONFIG.format(name=NAME, host=self._net.address(0), port=PORT))
        return self

    def __exit__(self, *_: object) -> None:
        for place in self._places:
            self._kill(place)
        self._client.close()
        self.redis.kill()
        self._net.__exit__()

    def run(self, seconds: float, harms_a_second: float) -> None:
        """Let them come and go, and harm them; then let those that are left end."""
        harms = list(HARMS)
        weights = [HARMS[harm] for harm in harms]
        until, harm_at = time.monotonic() + seconds, time.monotonic() + 1.0
        while time.monotonic() < until:
            self._go_on(is_starting=True)
            if time.monotonic() >= harm_at:
                harm_at += self._random.expovariate(harms_a_second)
                self._random.choices(harms, weights)[0](self)
            time.sleep(TURN_S)
        self._settle()

    def _settle(self) -> None:
        until = time.monotonic() + QUIET_S
        while any(place.process for place in self._places) or self._later:
            self._go_on(is_starting=False)
            if time.monotonic() > until:
                left = [place.name for place in self._places if place.process]
                self.problems.append(f"not ended {QUIET_S:.0f} s after the last harm: {left}")
                return
            time.sleep(TURN_S)
        until = time.monotonic() + 2 * self.lease_s + 5
        # A lease that is over is taken away by the next who calls, and nobody does any more.
        while (status := run(self._script.status())).length or any(h.left_s > 0 for h in status.holders):
            if time.monotonic() > until:
                self.problems.append(f"left in the pool: {status.used} held, {status.length} in line")
                return
            time.sleep(LOOK_S)

    def _go_on(self, *, is_starting: bool) -> None:
        for place in self._places:
            if place.process is not None and place.process.poll() is not None:
                self._ended(place)
            if place.process is None and is_starting and place.host not in self._cut:
                self._start(place)
        while self._later and self._later[0][0] <= time.monotonic():
            heapq.heappop(self._later)[2]()
        if time.monotonic() >= self._look_at and not self._is_harmed:
            self._look_at = time.monotonic() + LOOK_S
            self._look()

    def _look(self) -> None:
        try:
            status = run(self._script.status())
        except OSError:
            return
        now = time.monotonic_ns()
        overflow = sum(len(holder.numbers) for holder in status.holders if holder.overflow)
        named = frozenset(json.loads(holder.info)["command"].strip("\0") for holder in status.holders)
        self.seen.append(Seen(now, status.used, overflow, named))

    # Builds.

    def _start(self, place: Place) -> None:
        self._number += 1
        place.name = f"b{self._number}"
        place.is_stopped = False
        hold_s = self._random.uniform(*HOLD_S)
        command = [*self._net.prefix(place.host), this().slot_run, "-q", "-t", "none", "-p", NAME]
        command += ["--label", place.name, "--", self._build, str(self.log), place.name, f"{hold_s:.3f}"]
        self._mark("on", place.name, place.host)
        with open(self.scratch / "errors", "ab") as errors:
            place.process = subprocess.Popen(
                command, stdin=subprocess.DEVNULL, stderr=errors, start_new_session=True
            )

    def _ended(self, place: Place) -> None:
        assert place.process is not None
        status, place.process = place.process.returncode, None
        if status == UNREACHABLE:
            self.counts["refused, because the server could not be reached"] += 1
        elif status:
            self.problems.append(f"{place.name} ended with {status}")

    def _kill(self, place: Place) -> None:
        process, place.process = place.process, None
        if process is not None:
            self._mark("kill", place.name, place.host)
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()

    def _mark(self, what: str, name: str = "", host: int = 0) -> None:
        self.marks.append(Mark(time.monotonic_ns(), what, name, host))

    def _in(self, seconds: float, then: Callable[[], None]) -> None:
        self._number += 1
        heapq.heappush(self._later, (time.monotonic() + seconds, self._number, then))

    def _alive(self) -> list[Place]:
        return [place for place in self._places if place.process is not None and not place.is_stopped]

    # Harms.

    def kill(self) -> None:
        """Kill a build with its slot-run."""
        if alive := self._alive():
            self._kill(self._random.choice(alive))
            self.counts["killed"] += 1

    def stop(self) -> None:
        """Stop a build with its slot-run, for up to two leases."""
        if not (alive := self._alive()):
            return
        place = self._random.choice(alive)
        process, place.is_stopped = place.process, True
        assert process is not None
        self._mark("stop", place.name, place.host)
        os.killpg(process.pid, signal.SIGSTOP)
        self.counts["stopped"] += 1

        def go_on() -> None:
            if place.process is process:
                os.killpg(process.pid, signal.SIGCONT)
                place.is_stopped = False
                self._mark("go on", place.name, place.host)

        self._in(self._random.uniform(0, 2 * self.lease_s), go_on)

    def cut(self) -> None:
        """Cut a host off, for up to two leases."""
        host = self._random.randint(1, self.hosts)
        if host in self._cut:
            return
        self._cut.add(host)
        self._mark("cut", host=host)
        self._net.cut(host)
        self.counts["hosts cut off"] += 1

        def heal() -> None:
            self._net.heal(host)
            self._mark("heal", host=host)
            self._cut.discard(host)

        self._in(self._random.uniform(0, 2 * self.lease_s), heal)

    def forget_connections(self) -> None:
        """Have the server close all connections."""
        self._call("CLIENT", "KILL", "TYPE", "normal", "SKIPME", "yes")
        self._call("CLIENT", "KILL", "TYPE", "pubsub")
        self.counts["times that all connections were closed"] += 1

    def forget_scripts(self) -> None:
        """Have the server forget the script."""
        self._call("SCRIPT", "FLUSH")
        self.counts["times that the script was forgotten"] += 1

    def forget_all(self) -> None:
        """Have the server forget everything."""
        self._mark("flush")
        self._call("FLUSHALL")
        self.counts["times that the server forgot all"] += 1

    def restart(self) -> None:
        """Kill the server, which has nothing on disk, and start it again."""
        if not self._is_harmed:
            self._mark("restart")
            self.redis.kill()
            self.redis.start()
            self.counts["restarts of the server"] += 1

    def stand_still(self) -> None:
        """Stop the server for up to two leases."""
        if self._is_harmed:
            return
        self._is_harmed = True
        self._mark("stand still")
        self.redis.stop()
        self.counts["stops of the server"] += 1

        def go_on() -> None:
            self.redis.go_on()
            self._mark("serve")
            self._is_harmed = False

        self._in(self._random.uniform(0, 2 * self.lease_s), go_on)

    def _call(self, *words: str) -> None:
        if self._is_harmed:
            return
        connection = Connection(str(self.redis.socket))
        try:
            connection.call(*words)
        except ConnectionError:
            pass  # it has closed this one, too
        finally:
            connection.close()


HARMS: dict[Callable[[World], None], float] = {
    World.kill: 80,
    World.stop: 4,
    World.cut: 4,
    World.forget_connections: 5,
    World.forget_scripts: 5,
    World.forget_all: 0.7,
    World.restart: 0.7,
    World.stand_still: 0.6,
}
"""What is done, and how often, in a hundred."""
