"""Pools on servers to test with: their URLs, builds of many machines in them, and what people are shown."""

from __future__ import annotations

import contextlib
import io
import json
import os
import time
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from buildslots.fleet.connection import run
from buildslots.settings.places import config_path
from buildslots.view.main import main

if TYPE_CHECKING:
    from servers import Server

    from buildslots.fleet.replies import Answer


class Said(NamedTuple):
    """What a command has said."""

    returncode: int
    stdout: str
    stderr: str


def views(*args: str) -> Said:
    """Run `buildslots ARGS` in this process."""
    out, errors = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(errors):
        try:
            status = main(list(args))
        except SystemExit as end:
            status = int(str(end.code or 0))
    return Said(status, out.getvalue(), errors.getvalue())


def url(server: Server, name: str = "license", user: str = "") -> str:
    """That of a pool on the server."""
    return f"unix://{user}{server.path}/0/{name}"


def configure(text: str) -> None:
    """Let the user's config file say that."""
    path = Path(config_path(os.environ))
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8")


def about(host: str = "host", **fields: str) -> str:
    """What a build of some machine says of itself."""
    now = f"{time.time():.6f}"
    told = {"host": host, "pid": "4711", "command": "make\0", "cwd": "src", "since": now, "nonce": "x"}
    return json.dumps(told | fields)


def joined(server: Server, build: str, info: str, name: str = "license") -> Answer:
    """A build with that id takes slots in the pool, which it confirms, or joins its line."""
    script = server.script(name)
    run(script.join(build, info=info))
    return run(script.join(build, info=info))
