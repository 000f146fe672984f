"""Real servers to test with: Debian's redis-server, in a directory of its own, that ends with the test."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import tempfile
import threading
from typing import TYPE_CHECKING

import pytest
from builds import DEADLINE_S, wait_until

from buildslots.errors import PoolUnreachableError
from buildslots.fleet.connection import Connection
from buildslots.fleet.script import Script, packaged

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from buildslots.fleet.connection import Command, Reply
    from buildslots.fleet.script import Source

TRIES = 10
"""How often to look for a port that is still free when the server asks for it."""


class Place(str):
    """Where a server is: what `settings.address.Address` says of it."""

    __slots__ = ("db", "host", "password_file", "path", "port", "scheme", "user")


class Server:
    """A redis-server that listens on a Unix socket, and with `tcp` on a port of 127.0.0.1 as well.

    It writes nothing to disk unless `options`, lines of redis.conf, say so.
    """

    def __init__(
        self, *options: str, tcp: bool = False, tls: bool = False, is_sentinel: bool = False
    ) -> None:
        self.dir = tempfile.mkdtemp(prefix="rs-")  # short: a socket's path has 107 bytes at most
        self.path = f"{self.dir}/s"
        self.port = 0
        self._tcp = tcp or tls
        self._port = "tls-port" if tls else "port"
        self._arguments = ["--sentinel"] if is_sentinel else []
        self._options = options
        self._connections: list[Connection] = []
        self.process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Start it, and wait until it answers."""
        program = shutil.which("redis-server")
        if program is None:
            pytest.fail("no redis-server here: apt-get install redis-server", pytrace=False)
        for _ in range(TRIES):
            if self._tcp and not self.port:
                self.port = free_port()
            lines = [
                f"{self._port} {self.port}",
                *["port 0"] * (self._port != "port"),
                "bind 127.0.0.1",
                f"unixsocket {self.path}",
                f"dir {self.dir}",
            ]
            lines += ['save ""', "appendonly no", "daemonize no", f"logfile {self.dir}/log", *self._options]
            with open(f"{self.dir}/conf", "w") as file:
                file.write("\n".join(lines))
            self.process = subprocess.Popen(
                [program, f"{self.dir}/conf", *self._arguments], stdin=subprocess.DEVNULL
            )
            if wait_until(lambda: self._answers() or self.process.poll() is not None, "redis-server answers"):
                if self.process.poll() is None:
                    return
                self.port = 0  # somebody else has taken it
        pytest.fail(f"redis-server does not start: {self.log()}")

    def _answers(self) -> bool:
        connection = Connection(self.place())
        try:
            return connection.call(("PING",)) == ["PONG"]
        except PoolUnreachableError as error:
            return any(word in str(error) for word in ("password", "may not", "cluster", "Sentinel"))
        finally:
            connection.close()

    def log(self) -> str:
        """What it has written."""
        with open(f"{self.dir}/log") as file:
            return file.read()

    def place(self, *, tcp: bool = False, user: str | None = None, password_file: str | None = None) -> Place:
        """Where it is."""
        place = Place(f"redis://127.0.0.1:{self.port}/0" if tcp else f"unix://{self.path}/0")
        place.scheme = "redis" if tcp else "unix"
        place.host, place.port, place.path = ("127.0.0.1", self.port, "") if tcp else ("", 0, self.path)
        place.user, place.password_file, place.db = user, password_file, 0
        return place

    def do(self, *words: str | int) -> Reply:
        """One command, on a connection of its own; an error of the server is returned."""
        command: Command = words
        connection = Connection(self.place())
        try:
            return connection.call(command)[0]
        finally:
            connection.close()

    def script(self, name: str = "p", source: Callable[[str], Source] = packaged) -> Script:
        """The calls of the pool `name`, on a connection of their own."""
        return Script(self.connection(), name, source=source)

    def connection(self) -> Connection:
        """A connection, which is closed with the server at the latest."""
        self._connections.append(Connection(self.place()))
        return self._connections[-1]

    def stop(self, how: int = signal.SIGTERM) -> None:
        """End it, and wait for that. It can be started again, with what it has on disk."""
        if self.process is not None:
            if self.process.poll() is None:
                self.process.send_signal(signal.SIGCONT)
                self.process.send_signal(how)
            self.process.wait(DEADLINE_S)
            self.process = None

    def close(self) -> None:
        """End it and all connections, and remove its directory."""
        for connection in self._connections:
            connection.close()
        self.stop(signal.SIGKILL)
        shutil.rmtree(self.dir)


def free_port() -> int:
    """A port of 127.0.0.1 that nobody has just now."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port: int = listener.getsockname()[1]
        return port


def password_file(directory: Path, password: str) -> str:
    """A file with that password, as a server's user has it."""
    path = directory / "password"
    path.touch(0o600)
    path.write_text(password + "\n")
    return os.fspath(path)


class Actor:
    """Something that listens on a port and is no good server: it answers each connection with `answer`.

    With None it accepts nobody, and has room for nobody more: connecting to it takes for ever.
    """

    def __init__(self, answer: bytes | None) -> None:
        self._socket = socket.create_server(("127.0.0.1", 0), backlog=0)
        self.port = self._socket.getsockname()[1]
        self._answer = answer
        self._others: list[socket.socket] = []
        if answer is None:
            self._crowd()
        else:
            self._thread = threading.Thread(target=self._serve)
            self._thread.start()

    def _crowd(self) -> None:
        """Connect until the next one has to wait: the kernel has room for one or two."""
        while True:
            one = socket.socket()
            self._others.append(one)
            one.settimeout(0.2)
            try:
                one.connect(("127.0.0.1", self.port))
            except TimeoutError:
                return

    def _serve(self) -> None:
        while True:
            try:
                client, _ = self._socket.accept()
            except OSError:
                return  # closed
            self._others.append(client)
            client.settimeout(DEADLINE_S)
            try:
                client.recv(65536)
                client.sendall(self._answer or b"")
                if self._answer == b"":
                    client.close()
            except OSError:
                pass  # it has heard enough

    def place(self, scheme: str = "redis") -> Place:
        """Where it is."""
        place = Place(f"{scheme}://127.0.0.1:{self.port}/0/p")
        place.scheme, place.host, place.port, place.path = scheme, "127.0.0.1", self.port, ""
        place.user, place.password_file, place.db = None, None, 0
        return place

    def close(self) -> None:
        """End it."""
        if self._answer is not None:
            self._socket.shutdown(socket.SHUT_RDWR)
            self._thread.join(DEADLINE_S)
        for each in (self._socket, *self._others):
            each.close()
