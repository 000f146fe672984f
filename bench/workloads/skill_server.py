"""A server on loopback that archives of skills come from: slow, in waves, or not at all."""

from __future__ import annotations

import hashlib
import io
import tarfile
import threading
import time
from contextlib import contextmanager, suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator

WAVE_S = 30.0
"""How long a request waits for those that belong to its wave; then all of them fail."""
FILES = 4
"""In a skill, besides its SKILL.md."""


class Server(ThreadingHTTPServer):
    """Serves archives at /NAME.tar.

    Attributes:
        answers_s: How long each answer takes.
        wave: If it is set, each request waits until so many are there, all of which are answered then.
        held: What is asked for by this name is answered only when `opened` is set.
        peak: The most requests that were there at one time.
        served: How many were answered with an archive.
    """

    request_queue_size = 128
    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.archives: dict[str, bytes] = {}
        self.answers_s = 0.0
        self.wave: threading.Barrier | None = None
        self.held = ""
        self.opened = threading.Event()
        self.there = self.peak = self.served = 0
        self.lock = threading.Lock()

    def url(self, name: str) -> str:
        """Where `name` is."""
        return f"http://127.0.0.1:{self.server_address[1]}/{name}.tar"

    def add(self, name: str, text: str) -> str:
        """Serve a skill by the `name`, each file of which has the `text`: the SHA-256 of its archive."""
        buffer = io.BytesIO()
        with tarfile.open(fileobj=buffer, mode="w") as archive:
            for entry in ("SKILL.md", *(f"part-{number}.md" for number in range(FILES))):
                about = tarfile.TarInfo(entry)
                data = f"{text}\n".encode()
                about.size = len(data)
                archive.addfile(about, io.BytesIO(data))
        self.archives[name] = buffer.getvalue()
        return hashlib.sha256(self.archives[name]).hexdigest()

    def forget(self) -> None:
        """Count anew."""
        self.peak = self.served = 0

    def handle_error(self, request: object, client_address: object) -> None:
        """Say nothing: a client that gives up is what some of them are to do."""


class _Handler(BaseHTTPRequestHandler):
    server: Server

    def do_GET(self) -> None:
        """Answer when it is time to."""
        server = self.server
        with server.lock:
            server.there += 1
            server.peak = max(server.peak, server.there)
        try:
            name = self.path.strip("/").removesuffix(".tar")
            if server.wave is not None:
                with suppress(threading.BrokenBarrierError):
                    server.wave.wait(WAVE_S)
            if name == server.held:
                server.opened.wait()
            time.sleep(server.answers_s)
        finally:
            with server.lock:
                server.there -= 1  # before the client can know
        self._answer(server.archives.get(name))

    def _answer(self, data: bytes | None) -> None:
        if data is None or (self.server.wave is not None and self.server.wave.broken):
            self.send_error(404 if data is None else 503)
            return
        self.send_response(200)
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)
        with self.server.lock:
            self.server.served += 1

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - as the base class has it
        """Say nothing."""


@contextmanager
def serving() -> Iterator[Server]:
    """A server that runs."""
    with Server() as server:
        threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True).start()
        try:
            yield server
        finally:
            server.opened.set()
            server.shutdown()
