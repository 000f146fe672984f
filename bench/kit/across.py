"""The peers that take slots across machines, and the servers that they need.

Each is called as its users call it, with its defaults. Three of them have one slot only: a lock.
"""

from __future__ import annotations

import contextlib
import functools
import os
import subprocess
import time
import uuid
from dataclasses import dataclass
from typing import TYPE_CHECKING

from bench.kit.peers import LIBRARY
from bench.kit.servers import Etcd, Postgres, Redis, Server

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path
    from typing import Self

    from bench.kit.libraries import Acquire, Release

POLL_S = 0.050
"""Of the polling semaphore: as filelock polls. Half of it doubles what it asks of the server."""
LEASE_S = 30.0


class Servers:
    """One server of each kind, in `scratch`; each is started when it is first needed."""

    def __init__(self, scratch: Path) -> None:
        self.scratch = scratch
        self._stack = contextlib.ExitStack()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    @functools.cached_property
    def redis(self) -> Redis:
        """A Redis on a socket, which writes nothing to disk."""
        return self._stack.enter_context(Redis(self.scratch / "redis"))

    @functools.cached_property
    def postgres(self) -> Postgres:
        """A PostgreSQL on a socket."""
        return self._stack.enter_context(Postgres(self.scratch / "postgres"))

    @functools.cached_property
    def etcd(self) -> Etcd:
        """An etcd on loopback."""
        return self._stack.enter_context(Etcd(self.scratch / "etcd"))

    def of(self, peer: Peer) -> Server:
        """The one that `peer` uses."""
        server: Server = getattr(self, peer.server)
        return server


@dataclass(frozen=True)
class Peer:
    """One way to take slots across machines.

    Attributes:
        name: For `--peers` and the report.
        acquire: Makes the call that takes one of so many slots.
        slots: How many it can have; None for any number.
        server: The name of its server's attribute.
        distribution: On PyPI, or "".
    """

    name: str
    acquire: Callable[[Servers, int], Acquire]
    slots: int | None = None
    server: str = "redis"
    distribution: str = ""


def fleet(servers: Servers, slots: int) -> Acquire:
    """Ours."""
    from buildslots import SlotPool  # noqa: PLC0415 - each imports what it needs

    pool = SlotPool(create(servers.redis, fresh_name(), slots), timeout=None)
    return lambda: pool.acquire().release


def create(server: Redis, name: str, slots: int, **rules: float) -> str:
    """Make the pool `name` of ours on `server`; its address. `rules` are those of `Script.create`."""
    from buildslots.fleet.connection import Connection, run  # noqa: PLC0415
    from buildslots.fleet.script import Script  # noqa: PLC0415
    from buildslots.settings.address import parse_url  # noqa: PLC0415

    address = parse_url(f"{server.url}/0/{name}", "bench")
    connection = Connection(address)
    run(Script(connection, name).create("bench", slots, **rules))
    connection.close()
    return str(address)


def redis_lock(servers: Servers, slots: int) -> Acquire:
    """python-redis-lock: SET NX, and BLPOP on a list that a release pushes to."""
    import redis  # noqa: PLC0415
    from redis_lock import Lock  # type: ignore[import-untyped]  # noqa: PLC0415

    only_one(slots)
    path, name = str(servers.redis.socket), fresh_name()

    @functools.cache
    def client(_pid: int) -> redis.Redis:
        return redis.Redis(unix_socket_path=path)

    def acquire() -> Release:
        lock = Lock(client(os.getpid()), name, expire=int(LEASE_S), auto_renewal=True)
        lock.acquire()
        release: Release = lock.release
        return release

    return acquire


def polling(servers: Servers, slots: int) -> Acquire:
    """A sorted set of leases by time, as in "Redis in Action", 6.3.1: whoever is too late tries again."""
    import redis  # noqa: PLC0415

    path, key = str(servers.redis.socket), fresh_name()

    @functools.cache
    def client(_pid: int) -> redis.Redis:
        return redis.Redis(unix_socket_path=path)

    def acquire() -> Release:
        server, me = client(os.getpid()), uuid.uuid4().hex
        while True:
            now = time.time()
            pipeline = server.pipeline(transaction=True)
            pipeline.zremrangebyscore(key, "-inf", now - LEASE_S)
            pipeline.zadd(key, {me: now})
            pipeline.zrank(key, me)
            if pipeline.execute()[-1] < slots:
                return lambda: server.zrem(key, me)
            server.zrem(key, me)
            time.sleep(POLL_S)

    return acquire


def advisory(servers: Servers, slots: int) -> Acquire:
    """pg_advisory_lock: the session waits in the server, a backend of its own, first come, first served."""
    import psycopg  # noqa: PLC0415

    only_one(slots)
    address = servers.postgres.address

    @functools.cache
    def session(_pid: int) -> psycopg.Connection:
        return psycopg.connect(address, autocommit=True, prepare_threshold=0)

    def acquire() -> Release:
        mine = session(os.getpid())
        mine.execute("select pg_advisory_lock(1)")
        return lambda: mine.execute("select pg_advisory_unlock(1)")

    return acquire


def etcdctl(servers: Servers, slots: int) -> Acquire:
    """`etcdctl lock`, which prints its key when it has the lock, and lets go when it is interrupted."""
    only_one(slots)
    # A contender is killed at the end, and what it has started is to end with it.
    command = ["setpriv", "--pdeathsig", "KILL", *servers.etcd.ctl, "lock", fresh_name()]

    def acquire() -> Release:
        process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL)
        assert process.stdout is not None
        if not process.stdout.readline():
            raise ConnectionError("etcdctl ended without the lock")

        def release() -> None:
            process.terminate()
            process.communicate()

        return release

    return acquire


def fresh_name() -> str:
    """A name that no killed contender has a lease of."""
    return f"bench-{uuid.uuid4().hex[:8]}"


def only_one(slots: int) -> None:
    """Refuse more than one slot."""
    if slots != 1:
        raise ValueError(f"a lock has one slot, not {slots}")


PEERS = (
    Peer(LIBRARY, fleet),
    Peer("polling", polling, distribution="redis"),
    Peer("python-redis-lock", redis_lock, 1, distribution="python-redis-lock"),
    Peer("pg_advisory_lock", advisory, 1, "postgres", "psycopg"),
    Peer("etcdctl lock", etcdctl, 1, "etcd"),
)
