"""Real builds of slot-run through the faults of a server, of a network, and of each other.

A build runs until the test ends it, and says when it starts. So one too many does not go away again, and it
is enough to look when all is quiet. Who counts them asks neither them nor the server.
"""

from __future__ import annotations

import itertools
import json
import os
import signal
import sys
import threading
import time
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import pytest
from benches import TOP
from builds import DEADLINE_S, HELD_BUILD, Build, Pool, script, wait_until

from buildslots.errors import PoolUnreachableError
from buildslots.fleet.connection import Connection, run
from buildslots.fleet.script import Script
from buildslots.settings.address import parse_url

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from bench.kit.hosts import Hosts
    from bench.kit.servers import Redis
    from buildslots.fleet.replies import Status

pytestmark = pytest.mark.linux

NAME = "license"
LEASE_S, CONFIRM_S = 3.0, 1.0
EVERY_WRITE = ("--appendonly", "yes", "--appendfsync", "always")
EVERY_SECOND = ("--appendonly", "yes", "--appendfsync", "everysec")
PORT = 6379
UNAVAILABLE = 75
MOVE = """
local function later(time) return math.max(0, tonumber(time or 0) + tonumber(ARGV[1])) end
for _, name in ipairs({ 'q', 'u', 'hb', 'h' }) do
  local key = KEYS[1] .. name
  local scored = redis.call('ZRANGE', key, 0, -1, 'WITHSCORES')
  for index = 1, #scored, 2 do redis.call('ZADD', key, later(scored[index + 1]), scored[index]) end
end
for _, name in ipairs({ 'seen', 'last', 'grace', 'closed', 'changed' }) do
  redis.call('HSET', KEYS[1] .. 'cfg', name, later(redis.call('HGET', KEYS[1] .. 'cfg', name)))
end
"""
"""Moves all that a pool has written by so many microseconds: the same as the server's clock the other way."""
SHOW_CONFIG = """\
[pools.license]
url = "{url}"
plaintext = true
on_unreachable = "fail"
"""


class Fleet:
    """Builds on a pool of `redis`, and what that says of them.

    Each is at home in this machine, or by `prefix`, words in front of its command, on another host.
    """

    def __init__(self, redis: Redis, pool: Pool, url: str, slots: int, lease_s: float) -> None:
        self.redis = redis
        self._pool = pool
        self._lease_s = lease_s
        self._numbers = itertools.count()
        self.builds: list[Build] = []
        self._connection = Connection(parse_url(f"unix://{redis.socket}/0/{NAME}", "the tests"))
        self._script = Script(self._connection, NAME)
        run(self._script.create("the tests", slots, lease_s=lease_s, confirm_s=CONFIRM_S, ticket_s=lease_s))
        config = Path(pool.environ["HOME"]) / ".config" / "buildslots" / "config.toml"
        config.parent.mkdir(parents=True)
        config.write_text(SHOW_CONFIG.format(url=url))

    def close(self) -> None:
        """End all builds."""
        self._pool.end()
        self._connection.close()

    def build(self, prefix: list[str] | None = None) -> Build:
        """Start a build."""
        label = f"build-{next(self._numbers)}"
        command = [*(prefix or []), script("slot-run"), "-t", "none", "-p", NAME, "--label", label]
        # It is to end with the group that a test kills.
        build = self._pool.popen(*command, "--", "sh", "-c", HELD_BUILD, start_new_session=True)
        self.builds.append(build)
        return build

    def holder(self, prefix: list[str] | None = None) -> Build:
        """Start a build and wait until it runs."""
        build = self.build(prefix)
        wait_until(build.is_started, "the build runs")
        return build

    def waiter(self, prefix: list[str] | None = None) -> Build:
        """Start a build and wait until it is in line."""
        before = self.status().length
        build = self.build(prefix)
        wait_until(lambda: self.status().length == before + 1, "one more waiter")
        return build

    def comes(self, holders: int, waiters: int) -> list[Build]:
        """Start so many that run, and so many that wait."""
        return [self.holder() for _ in range(holders)] + [self.waiter() for _ in range(waiters)]

    def status(self) -> Status:
        """What the server says of the pool."""
        return run(self._script.status())

    def move_clock(self, seconds: float) -> None:
        """Set the server's clock forward, or back."""
        self.redis.call("EVAL", MOVE, 1, f"bs:{{{NAME}}}:", int(-seconds * 1e6))

    def live(self) -> set[int]:
        """Which builds run, by their own words and by the system's."""
        return {
            n for n, build in enumerate(self.builds) if build.is_started() and build.process.poll() is None
        }

    def settled(self, holders: int, waiters: int) -> Status:
        """What the server says when it has heard of so many from now on, and keeps nothing back or taken."""
        since = 0

        def look() -> Status | None:
            nonlocal since
            try:
                status = self.status()
            except PoolUnreachableError:
                return None
            since = since or status.rules.server_us
            if (
                (len(status.holders), status.length) != (holders, waiters)
                or status.closed_s
                or status.grace_s
            ):
                return None
            left_s = min(each.left_s for each in (*status.holders, *status.waiters))
            is_heard = status.rules.server_us - (self._lease_s - left_s) * 1e6 >= since
            return status if is_heard else None

        return wait_until(look, f"{holders} hold slots and {waiters} wait, and all were heard of")

    def keeps(self, holders: int, waiters: int) -> Status:
        """Wait until a fault is over that is to change nothing: who runs, who waits, in which order."""
        status = self.settled(holders, waiters)
        assert self.live() == set(range(holders))
        assert [name_of(each.info) for each in status.waiters] == [
            f"build-{number}" for number in range(holders, holders + waiters)
        ]
        return status

    def keeps_only(self, live: set[int]) -> None:
        """Wait until all is quiet: of those builds, and of nobody else."""
        self.settled(len(live), sum(build.process.poll() is None for build in self.builds) - len(live))
        assert self.live() == live

    def goes_on(self, holders: int, waiters: int) -> None:
        """Let one build after the other end: the next in line starts each time, and nobody else."""
        for number in range(waiters):
            assert self.builds[number].finish() == 0
            wait_until(self.builds[holders + number].is_started, "the next in line runs")
            assert self.live() == set(range(number + 1, number + 1 + holders))


def killed(build: Build) -> None:
    """Kill a build with its slot-run, as the end of its machine does."""
    os.killpg(build.pid, signal.SIGKILL)
    build.process.wait()


def name_of(info: str) -> str:
    """What a build is called by what it says of itself."""
    name: str = json.loads(info)["command"]
    return name.rstrip("\0")


class Servers(NamedTuple):
    """How to have servers, hosts and fleets in a test."""

    redis: Callable[..., Redis]
    hosts: Callable[[int], Hosts]
    fleet: Callable[..., Fleet]
    port: Callable[[], int]


@pytest.fixture
def servers(pool: Pool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Servers]:
    """All that is started ends with the test, the builds first."""
    monkeypatch.setattr(sys, "path", [*sys.path, str(TOP)])  # last: buildslots is the one that is installed
    from contextlib import ExitStack  # noqa: PLC0415

    from bench.kit.hosts import Hosts  # noqa: PLC0415
    from bench.kit.servers import Redis, free_port  # noqa: PLC0415

    numbers = itertools.count()
    with ExitStack() as stack:

        def redis(*options: str, **more: object) -> Redis:
            directory = tmp_path / f"r{next(numbers)}"
            return stack.enter_context(Redis(directory, options=options, **more))  # type: ignore[arg-type]

        def fleet(server: Redis, slots: int = 2, url: str = "", lease_s: float = LEASE_S) -> Fleet:
            fleet = Fleet(server, pool, url or f"unix://{server.socket}/0/{NAME}", slots, lease_s)
            stack.callback(fleet.close)
            return fleet

        yield Servers(redis, lambda count: stack.enter_context(Hosts(count)), fleet, free_port)


@pytest.mark.parametrize(
    ("how", "options"),
    [("term", ()), ("kill", ()), ("kill", EVERY_SECOND), ("kill", EVERY_WRITE)],
    ids=["ended", "killed", "killed, with a file", "killed, with all in a file"],
)
def test_a_server_that_is_restarted(servers: Servers, how: str, options: tuple[str, ...]) -> None:
    """With what it had on disk, all of it, or nothing: nobody starts before all holders are known again."""
    redis = servers.redis(*options)
    fleet = servers.fleet(redis)
    fleet.comes(2, 2)
    getattr(redis, how)()
    redis.start()
    fleet.keeps(2, 2)
    fleet.goes_on(2, 2)


def test_a_server_that_forgets_all(servers: Servers) -> None:
    """The pool is made anew by who knows its rules, and who runs registers again."""
    redis = servers.redis()
    fleet = servers.fleet(redis)
    fleet.comes(2, 2)
    redis.call("FLUSHALL")
    fleet.keeps(2, 2)
    fleet.goes_on(2, 2)


def test_connections_and_scripts_that_are_lost_all_the_time(servers: Servers) -> None:
    """Nobody sees anything of it."""
    redis = servers.redis()
    fleet = servers.fleet(redis)
    fleet.comes(2, 4)
    done = threading.Event()

    def harm() -> None:
        while not done.wait(0.2):
            redis.call("SCRIPT", "FLUSH")
            for kind in ("normal", "pubsub"):
                redis.call("CLIENT", "KILL", "TYPE", kind)

    thread = threading.Thread(target=harm)
    thread.start()
    try:
        fleet.goes_on(2, 4)
    finally:
        done.set()
        thread.join()
    fleet.keeps_only({4, 5})


def test_a_server_that_stands_still_for_longer_than_a_lease(servers: Servers) -> None:
    """Who waits may be heard before who runs; still nobody gets a slot that somebody runs on."""
    redis = servers.redis()
    fleet = servers.fleet(redis)
    fleet.comes(2, 2)
    redis.stop()
    time.sleep(LEASE_S + 1)  # the fault itself
    redis.go_on()
    fleet.keeps(2, 2)
    fleet.goes_on(2, 2)


@pytest.mark.parametrize("seconds", [3600.0, LEASE_S - 0.5, -3600.0])
def test_a_clock_that_is_set(servers: Servers, seconds: float) -> None:
    """Who runs keeps its slot, and who is killed then loses it within a lease, not an hour later."""
    fleet = servers.fleet(servers.redis())
    fleet.comes(2, 2)
    fleet.move_clock(seconds)
    fleet.keeps(2, 2)
    killed(fleet.builds[0])
    wait_until(fleet.builds[2].is_started, "the next in line runs")
    fleet.keeps_only({1, 2})


def test_a_holder_that_is_stopped_for_longer_than_its_lease(servers: Servers) -> None:
    """The next one starts: K + 1. It is said and counted as that, and nobody starts beyond K again."""
    fleet = servers.fleet(servers.redis())
    stopped, _, first, second = fleet.comes(2, 2)
    os.killpg(stopped.pid, signal.SIGSTOP)
    wait_until(first.is_started, "the next in line runs")
    os.killpg(stopped.pid, signal.SIGCONT)
    assert "counts as overflow" in stopped.read_error_line()
    status = fleet.settled(3, 1)
    assert [name_of(each.info) for each in status.holders if each.overflow] == ["build-0"]
    assert status.used == 3
    assert first.finish() == 0
    fleet.settled(2, 1)
    assert fleet.live() == {0, 1}
    assert stopped.finish() == 0
    wait_until(second.is_started, "the next in line runs")
    fleet.keeps_only({1, 3})


def test_a_build_whose_slot_run_is_killed_alone(servers: Servers) -> None:
    """Its slot is free a lease later, though it runs on: nobody beats for it."""
    fleet = servers.fleet(servers.redis(), 1)
    killed, waiter = fleet.comes(1, 1)
    killed.process.kill()
    wait_until(waiter.is_started, "the next in line runs")
    fleet.settled(1, 0)


def test_a_waiter_that_is_killed_is_passed_over(servers: Servers) -> None:
    """At once: nobody listens there."""
    fleet = servers.fleet(servers.redis(), 1)
    holder, dead, waiter = fleet.comes(1, 2)
    killed(dead)
    assert holder.finish() == 0
    wait_until(waiter.is_started, "the one behind it runs")
    assert fleet.status().counts.lapsed == 0


@pytest.mark.parametrize("is_behind", [False, True], ids=["in step", "behind"])
def test_a_replica_takes_over(servers: Servers, is_behind: bool) -> None:
    """Until it is promoted it can be looked at only, which is as good as no server. Then all goes on."""
    first, second = servers.redis(port=servers.port()), servers.redis()
    fleet = servers.fleet(first)
    second.call("REPLICAOF", "127.0.0.1", first.port)
    wait_until(lambda: second.call("EXISTS", f"bs:{{{NAME}}}:cfg"), "the replica knows the pool")
    if is_behind:
        second.call("REPLICAOF", "NO", "ONE")
    fleet.comes(2, 2)
    wait_until(lambda: is_behind or in_step(first, second), "the replica knows all")
    first.kill()
    second.socket.rename(first.socket)  # what a name or an address does that is moved
    fleet.redis = second
    second.socket = first.socket
    if not is_behind:
        refused = fleet.build()
        assert refused.process.wait(DEADLINE_S) == UNAVAILABLE
        assert "read only" in refused.errors() or "READONLY" in refused.errors()
        fleet.builds.remove(refused)
        second.call("REPLICAOF", "NO", "ONE")
    fleet.keeps(2, 2)
    fleet.goes_on(2, 2)


def in_step(first: Redis, second: Redis) -> bool:
    """Whether a replica has got all that its primary has written."""
    offsets = [redis.info("replication")["master_repl_offset"] for redis in (first, second)]
    return offsets[0] == offsets[1]


def test_a_memory_that_is_full(servers: Servers) -> None:
    """Slots are given and taken back as before."""
    redis = servers.redis()
    fleet = servers.fleet(redis)
    fleet.comes(2, 1)
    redis.call("CONFIG", "SET", "maxmemory-policy", "noeviction")
    redis.call("CONFIG", "SET", "maxmemory", 1)
    with pytest.raises(RuntimeError, match="OOM"):
        redis.call("SET", "key", "value")
    fleet.waiter()
    fleet.keeps(2, 2)
    fleet.goes_on(2, 2)


def test_a_pool_that_is_evicted(servers: Servers) -> None:
    """A server that throws away what it likes is as one that has forgotten all, again and again."""
    redis = servers.redis()
    fleet = servers.fleet(redis)
    fleet.comes(2, 2)
    redis.call("CONFIG", "SET", "maxmemory-policy", "allkeys-random")
    redis.call("CONFIG", "SET", "maxmemory", 1)
    for name in ("cfg", "h"):
        wait_until(
            lambda name=name: is_evicted(redis, f"bs:{{{NAME}}}:{name}"), "it has thrown the pool away"
        )
    redis.call("CONFIG", "SET", "maxmemory", 0)
    fleet.keeps(2, 2)
    fleet.goes_on(2, 2)


def is_evicted(redis: Redis, key: str) -> bool:
    """Whether `key` is gone, after a try to write that makes the server throw away what it can."""
    with pytest.raises(RuntimeError, match="OOM"):
        redis.call("SET", "key", "value")
    return redis.call("EXISTS", key) == 0


class Network(NamedTuple):
    """A fleet whose server is host 0, and the hosts."""

    hosts: Hosts
    fleet: Fleet

    def on(self, host: int) -> list[str]:
        """The words in front of a command that run it on `host`."""
        return self.hosts.prefix(host)


@pytest.fixture
def network(servers: Servers) -> Callable[..., Network]:
    """A server with so many slots, and so many hosts besides."""

    def make(slots: int, hosts: int, lease_s: float = LEASE_S) -> Network:
        there = servers.hosts(hosts + 1)
        redis = servers.redis(prefix=there.prefix(0), port=PORT)
        return Network(there, servers.fleet(redis, slots, f"redis://{there.address(0)}/0/{NAME}", lease_s))

    return make


def test_a_holder_that_is_cut_off_for_longer_than_its_lease(network: Callable[..., Network]) -> None:
    """The next one starts: K + 1. It is said and counted as that when the network is back."""
    net = network(slots=1, hosts=2)
    holder, waiter = net.fleet.holder(net.on(1)), net.fleet.waiter(net.on(2))
    net.hosts.cut(1)
    wait_until(waiter.is_started, "the next in line runs")
    net.hosts.heal(1)
    assert "counts as overflow" in holder.read_error_line()
    assert [
        each.overflow for each in sorted(net.fleet.settled(2, 0).holders, key=lambda each: name_of(each.info))
    ] == [True, False]
    assert (holder.finish(), waiter.finish()) == (0, 0)
    wait_until(lambda: not net.fleet.status().holders, "nothing is held")


def test_the_first_in_line_is_cut_off(network: Callable[..., Network]) -> None:
    """The slot waits for it for a moment, and goes to the next then; its place is kept."""
    net = network(slots=1, hosts=2)
    holder = net.fleet.holder(net.on(1))
    away, waiter = net.fleet.waiter(net.on(2)), net.fleet.waiter(net.on(1))
    last = net.fleet.waiter(net.on(1))
    net.hosts.cut(2)
    assert holder.finish() == 0
    wait_until(waiter.is_started, "the one behind it runs")
    net.hosts.heal(2)
    wait_until(lambda: net.fleet.status().length == 2, "it is in line again")
    assert waiter.finish() == 0
    wait_until(away.is_started, "it is its turn, before those that came later")
    assert not last.is_started()


def test_the_server_is_cut_off_and_waiters_are_back_first(network: Callable[..., Network]) -> None:
    """Who holds a slot keeps it, though nobody has heard of it for longer than a lease."""
    lease_s = 9.0
    net = network(slots=1, hosts=2, lease_s=lease_s)
    net.fleet.holder(net.on(1))
    waiter = net.fleet.waiter(net.on(2))
    net.hosts.cut(1, 2)
    net.fleet.move_clock(lease_s + 1)  # as if it took so long
    net.hosts.heal(2)
    wait_until(lambda: net.fleet.status().grace_s, "the waiter is back")
    net.hosts.heal(1)
    net.fleet.keeps(1, 1)
    net.fleet.goes_on(1, 1)
    assert net.fleet.live() == {net.fleet.builds.index(waiter)}
