"""Fixtures: servers that nobody else uses."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import pytest
from fleets import NAME, Fleet
from servers import Server

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path


@pytest.fixture
def servers() -> Iterator[Callable[..., Server]]:
    """Starts a redis-server with such lines in its redis.conf; all are ended after the test."""
    started: list[Server] = []

    def start(*options: str, **kinds: bool) -> Server:
        server = Server(*options, **kinds)
        started.append(server)
        server.start()
        return server

    yield start
    for server in started:
        server.close()


@pytest.fixture
def server(servers: Callable[..., Server]) -> Server:
    """A redis-server that has nothing, on a Unix socket."""
    return servers()


@pytest.fixture
def fleet(server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Fleet]:
    """A pool on that server that nobody has made yet, of this process too."""
    monkeypatch.setenv("BUILD_SLOTS_DIR", str(tmp_path / "slots"))
    monkeypatch.setenv("BUILD_SLOTS_POOL", NAME)
    fleet = Fleet(server, tmp_path / "home", dict(os.environ))
    yield fleet
    fleet.end()
