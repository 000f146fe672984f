"""Git repositories and the remotes that serve them, on loopback: git's daemon, slow ones, and one that asks.

What git itself did, and when, is read from its own trace (GIT_TRACE2_EVENT, "api-trace2" of git): it is
written by git, and knows nothing of batches.
"""

from __future__ import annotations

import json
import os
import re
import socket
import subprocess
import threading
import time
from contextlib import contextmanager, suppress
from datetime import datetime
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import TYPE_CHECKING

from bench.kit.spans import Span

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

START_S = 10.0
"""How long git's daemon may take until it listens."""
LISTEN = 128
CHUNK = 2**14
TRACE = "GIT_TRACE2_EVENT"


def git(*arguments: str, cwd: Path) -> str:
    """What git prints with these `arguments`."""
    command = ["git", *arguments]
    return subprocess.run(command, cwd=cwd, capture_output=True, text=True, check=True).stdout.strip()


def make_remote(path: Path, *, files: int = 3, size: int = 200, skill: str | None = None) -> None:
    """Make a bare repository at `path` with one commit.

    Args:
        path: Of the repository.
        files: How many there are, which do not compress.
        size: Of each of them.
        skill: What is in SKILL.md; None if there is none.
    """
    subprocess.run(["git", "init", "-q", "--bare", str(path)], check=True)
    advance(path, "first", files=files, size=size, skill=skill)


def advance(path: Path, message: str, *, files: int = 1, size: int = 200, skill: str | None = None) -> None:
    """Add a commit to the bare repository at `path`; see `make_remote`."""
    has_parent = subprocess.run(
        ["git", "-C", str(path), "rev-parse", "-q", "--verify", "main"], capture_output=True, check=False
    )
    lines = [b"commit refs/heads/main", b"committer Sam <sam@example.invalid> 1700000000 +0000"]
    lines += [b"data %d" % len(message), message.encode()]
    if has_parent.returncode == 0:
        lines.append(b"from refs/heads/main^0")
    contents = {f"file-{number}-{message}": os.urandom(size // 2).hex() for number in range(files)}
    if skill is not None:
        contents["SKILL.md"] = skill
    for name, content in contents.items():
        lines += [f"M 100644 inline {name}".encode(), b"data %d" % len(content), content.encode()]
    subprocess.run(
        ["git", "-C", str(path), "fast-import", "--quiet"], input=b"\n".join([*lines, b""]), check=True
    )


@contextmanager
def daemon(base: Path) -> Iterator[int]:
    """Git's daemon for the repositories below `base`: its port."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    program = os.path.join(git("--exec-path", cwd=base), "git-daemon")
    # `--max-connections` is 32 by default: beyond that it would refuse.
    options = ["--export-all", "--reuseaddr", "--listen=127.0.0.1", f"--port={port}", "--max-connections=0"]
    with subprocess.Popen(
        [program, *options, f"--base-path={base}", str(base)],
        start_new_session=True,
        stderr=subprocess.DEVNULL,
    ) as process:
        try:
            _wait_for(port)
            yield port
        finally:
            os.killpg(process.pid, 15)  # with the upload-packs that it has started


def _wait_for(port: int) -> None:
    deadline = time.monotonic() + START_S
    while True:
        try:
            socket.create_connection(("127.0.0.1", port)).close()
        except OSError:
            if time.monotonic() > deadline:
                raise
            time.sleep(0.01)
        else:
            return


@contextmanager
def slow(
    port: int,
    *,
    answers_s: float = 0.0,
    bytes_per_s: float | None = None,
    opened: threading.Event | None = None,
) -> Iterator[int]:
    """A relay to `port`, as a remote far away: its own port.

    Args:
        port: Of what answers.
        answers_s: How long it takes until a client hears anything.
        bytes_per_s: How fast each client gets what it asked for.
        opened: Nobody hears anything before this is set.
    """
    server = socket.create_server(("127.0.0.1", 0), backlog=LISTEN)

    def serve() -> None:
        with suppress(OSError):  # it is closed at the end
            while True:
                client, _ = server.accept()
                threading.Thread(target=relay, args=(client,), daemon=True).start()

    def relay(client: socket.socket) -> None:
        time.sleep(answers_s)
        if opened is not None:
            opened.wait()
        with client, suppress(OSError), socket.create_connection(("127.0.0.1", port)) as remote:
            up = threading.Thread(target=_pump, args=(client, remote, None), daemon=True)
            up.start()
            _pump(remote, client, bytes_per_s)
            up.join()

    threading.Thread(target=serve, daemon=True).start()
    try:
        yield server.getsockname()[1]
    finally:
        with suppress(OSError):
            server.shutdown(socket.SHUT_RDWR)  # which ends the accept; a close alone would not
        server.close()


def _pump(source: socket.socket, sink: socket.socket, bytes_per_s: float | None) -> None:
    with suppress(OSError):
        while data := source.recv(CHUNK):
            sink.sendall(data)
            if bytes_per_s is not None:
                time.sleep(len(data) / bytes_per_s)
    with suppress(OSError):
        sink.shutdown(socket.SHUT_WR)


class _Asking(BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        """Ask for a user's name and password, whatever is wanted."""
        self.send_response(401)
        self.send_header("WWW-Authenticate", 'Basic realm="private"')
        self.send_header("Content-Length", "0")
        self.end_headers()

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - as the base class has it
        """Say nothing."""


@contextmanager
def asking() -> Iterator[int]:
    """A server that asks for a password: its port."""
    with ThreadingHTTPServer(("127.0.0.1", 0), _Asking) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        try:
            yield server.server_address[1]
        finally:
            server.shutdown()


def traced(directory: Path, pattern: str) -> list[Span]:
    """When git ran that a batch has started, by the traces in `directory`; sorted by their starts.

    Args:
        directory: What GIT_TRACE2_EVENT has named.
        pattern: Finds in the arguments what is the name; a git without it does not count.
    """
    spans = []
    for path in directory.iterdir():
        events = [json.loads(line) for line in path.read_text().splitlines()]
        if not events or "/" in events[0]["sid"]:  # started by another git
            continue
        begun = next((event for event in events if event["event"] == "start"), None)
        named = re.search(pattern, " ".join(begun["argv"])) if begun else None
        if begun is not None and named is not None:
            spans.append(Span(_ns(begun["time"]), _ns(events[-1]["time"]), named[0]))
    return sorted(spans)


def _ns(text: str) -> int:
    return int(datetime.fromisoformat(text).timestamp() * 1e6) * 1000
