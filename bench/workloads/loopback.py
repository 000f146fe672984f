"""A real HTTP server on a free port of loopback, a thread for each connection, which keeps what it saw."""

from __future__ import annotations

import threading
import time
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import TYPE_CHECKING

from bench.kit.spans import Span, peak_overlap

if TYPE_CHECKING:
    from collections.abc import Mapping
    from typing import Any, Self

TOGETHER_S = 20.0
"""How long an answer waits at most for other requests to be there as well."""


@dataclass(frozen=True)
class Response:
    """An answer.

    Attributes:
        after_s: For so long nothing is sent.
        chunk_s: What passes after each 16th of the body.
        drops: Whether the connection is closed after half of the body; with no body, without any answer.
    """

    status: int = 200
    body: bytes = b""
    headers: Mapping[str, str] = field(default_factory=dict)
    after_s: float = 0.0
    chunk_s: float = 0.0
    drops: bool = False


@dataclass
class Seen:
    """A request that came, in seconds of `time.monotonic()`.

    Attributes:
        ended: Just before the last byte of the answer was sent; the client has it later.
        lost: Whether the client has gone before.
    """

    path: str
    headers: Mapping[str, str]
    began: float
    ended: float = 0.0
    status: int = 0
    lost: bool = False


class Loopback:
    """The server, within a `with`; what it answers says `answer`.

    Attributes:
        url: Of its root, without a slash at the end.
        seen: The requests, in the order in which they came.
        connections: How many there were.
        together: So many answers wait for each other, once: a peak that can be reached is reached.
    """

    together_below = "/"
    """Which answers wait for each other: those to paths that begin so."""

    def __init__(self) -> None:
        self.seen: list[Seen] = []
        self.connections = 0
        self.together = 1
        self._stop = threading.Event()
        self._changed = threading.Condition()
        self._active = 0
        self._server = _Server(("127.0.0.1", 0), _Handler)
        self._server.loopback = self
        self.url = f"http://127.0.0.1:{self._server.server_port}"

    def __enter__(self) -> Self:
        threading.Thread(target=self._server.serve_forever, args=[0.05], daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._server.shutdown()
        self._server.server_close()

    def answer(self, path: str, _headers: Mapping[str, str]) -> Response:
        """What `path` is answered with. Called from many threads."""
        raise NotImplementedError

    def requests(self, prefix: str = "/") -> list[Seen]:
        """What was seen of the paths that begin so."""
        return [seen for seen in self.seen if seen.path.startswith(prefix)]

    def peak(self, prefix: str = "/") -> int:
        """How many of these were being answered at one instant."""
        return peak_overlap(
            Span(int(seen.began * 1e9), int((seen.ended or time.monotonic()) * 1e9))
            for seen in self.requests(prefix)
        )

    def forget(self) -> None:
        """Begin to count anew."""
        self.seen, self.connections = [], 0

    # What the handlers of connections call.

    def handle(self, path: str, headers: Mapping[str, str], handler: _Handler) -> None:
        """Answer one request."""
        seen = Seen(path, headers, time.monotonic())
        with self._changed:
            self.seen.append(seen)
            self._active += path.startswith(self.together_below)
            self._changed.notify_all()
        try:
            response = self.answer(path, headers)
            seen.status = response.status
            if path.startswith(self.together_below):
                self._gather()
            self._stop.wait(response.after_s)
            self._send(response, seen, handler)
        except OSError:
            seen.lost = True
            handler.close_connection = True
        finally:
            seen.ended = seen.ended or time.monotonic()
            with self._changed:
                self._active -= path.startswith(self.together_below)

    def _gather(self) -> None:
        with self._changed:
            if self._changed.wait_for(lambda: self._active >= self.together, TOGETHER_S):
                self.together = 1
                self._changed.notify_all()

    def _send(self, response: Response, seen: Seen, handler: _Handler) -> None:
        body = response.body
        if response.drops and not body:
            handler.close_connection = True
            return
        handler.send_response(response.status)
        for name, value in {**response.headers, "Content-Length": str(len(body))}.items():
            handler.send_header(name, value)
        if body:
            handler.end_headers()
        size = max(1, -(-len(body) // 16))
        for at in range(0, len(body), size):
            if response.drops and at > len(body) // 2:
                handler.close_connection = True
                return
            if at + size >= len(body):
                seen.ended = time.monotonic()
            handler.wfile.write(body[at : at + size])
            if response.chunk_s:
                handler.wfile.flush()
                self._stop.wait(response.chunk_s)
        if not body:
            seen.ended = time.monotonic()
            handler.end_headers()

    def connected(self) -> None:
        """A connection was made."""
        with self._changed:
            self.connections += 1


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    block_on_close = False
    request_queue_size = 128
    loopback: Loopback

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Say nothing: clients that go away are part of the game."""


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    wbufsize = -1  # the header goes out with the body
    server: _Server

    def setup(self) -> None:
        super().setup()
        self.server.loopback.connected()

    def do_GET(self) -> None:
        self.server.loopback.handle(self.path, dict(self.headers.items()), self)
        self.wfile.flush()

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002 - likewise
        """Nothing is logged."""
