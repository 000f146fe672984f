"""Real builds to test with: `slot-run` processes whose commands start and end when a test says so."""

from __future__ import annotations

import os
import select
import shutil
import subprocess
import sys
import time
from typing import TYPE_CHECKING, TypeVar

import pytest
from namespaces import unshare

from buildslots import PoolStatus, SlotPool
from buildslots.backend import Refusal
from buildslots.disk import records
from buildslots.disk.holding import Hold
from buildslots.disk.taking import take_beyond

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from buildslots.backend import Request
    from buildslots.disk.directory import PoolDirectory

T = TypeVar("T")

DEADLINE_S = 30.0
"""When a state that a test waits for counts as not reached. Nothing else is asserted about time."""
HELD_BUILD = 'echo "${BUILD_SLOT-none}"; read line || exit 0; exit "$line"'
"""A shell command that tells its slot when it starts, and ends at the end of its stdin."""


def wait_until(condition: Callable[[], T], what: str) -> T:
    """Wait until `condition()` is true; its value."""
    deadline = time.monotonic() + DEADLINE_S
    while not (value := condition()):
        if time.monotonic() > deadline:
            pytest.fail(f"not reached within {DEADLINE_S} s: {what}")
        time.sleep(0.005)
    return value


def step(directory: PoolDirectory, action: Callable[[], T]) -> T:
    """Run `action` under the mutex of a pool, as a build does."""
    turn = directory.under_mutex(action)
    try:
        while True:
            time.sleep(next(turn)[1])
    except StopIteration as end:
        done: T = end.value
        return done


def take_now(directory: PoolDirectory, request: Request, *, beyond: bool = False) -> Hold:
    """What `request` gets at once, or `beyond` its cap; the test fails if it is refused."""
    if beyond:
        return step(directory, lambda: take_beyond(directory.path, request, None))
    found = step(directory, lambda: directory.try_take(request))
    assert isinstance(found, Hold), f"refused: {found.held} held, {found.gate}"
    return found


def is_refused(directory: PoolDirectory, request: Request) -> bool:
    """Whether `request` gets nothing now."""
    return isinstance(step(directory, lambda: directory.try_take(request)), Refusal)


def script(name: str) -> str:
    """The installed console script `name` of this environment."""
    path = shutil.which(name, path=os.path.dirname(sys.executable))
    assert path, f"{name} is not installed beside {sys.executable}: pip install -e '.[tests]'"
    return path


KILLED_AT = """
import os, sys
from {module} import {function}
left = int(sys.argv[2])
def hook(event, arguments):
    global left
    if event in ("open", "os.rename", "os.listdir", "os.remove"):
        left -= 1
        if not left:
            os.kill(os.getpid(), 9)
sys.addaudithook(hook)
{function}(sys.argv[1])
"""
"""A program that calls a function with its first argument, and is killed before step N of it, the second."""


class Build:
    """A `slot-run` (or another command) whose build runs until `finish()`."""

    def __init__(self, process: subprocess.Popen[bytes]) -> None:
        self.process = process
        self.pid = process.pid

    def started(self) -> str:
        """Wait for the build to start; the number of its slot, or "none"."""
        line = b""
        assert self.process.stdout is not None
        while not line.endswith(b"\n"):
            ready, _, _ = select.select([self.process.stdout], [], [], DEADLINE_S)
            assert ready, f"build {self.process.args!r} did not start"
            more = os.read(self.process.stdout.fileno(), 1)
            assert more, f"build {self.process.args!r} ended without starting: {self.errors()}"
            line += more
        return line.decode().strip()

    def is_started(self) -> bool:
        """Whether the build has started, and nobody has asked for its slot yet."""
        return bool(select.select([self.process.stdout], [], [], 0)[0])

    def finish(self, status: int = 0) -> int:
        """Let the build end with `status`; the exit status of slot-run."""
        assert self.process.stdin is not None
        self.process.stdin.write(b"%d\n" % status)
        self.process.stdin.close()
        return self.process.wait(DEADLINE_S)

    def errors(self) -> str:
        """All that it wrote to stderr, once it has ended."""
        self.process.wait(DEADLINE_S)
        assert self.process.stderr is not None
        return self.process.stderr.read().decode()

    def read_error_line(self) -> str:
        """The next line on stderr."""
        assert self.process.stderr is not None
        line = b""
        while not line.endswith(b"\n"):
            assert select.select([self.process.stderr], [], [], DEADLINE_S)[0], "no line on stderr"
            more = os.read(self.process.stderr.fileno(), 1)
            assert more, "stderr was closed"
            line += more
        return line.decode()


class Pool:
    """A pool of a test: its directory, and builds in it."""

    def __init__(self, directory: Path, environ: dict[str, str]) -> None:
        self.dir = directory
        self.environ = environ
        self._builds: list[Build] = []

    def popen(self, *args: str | os.PathLike[str], **options: object) -> Build:
        """Start any command with this pool in its environment."""
        settings = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
        environ = self.environ | dict(options.pop("environ", {}))  # type: ignore[call-overload]
        build = Build(subprocess.Popen(args, env=environ, bufsize=0, **(settings | options)))  # type: ignore[call-overload]
        self._builds.append(build)
        return build

    def build(self, *options: str, **popen: object) -> Build:
        """Start `slot-run OPTIONS` with a build that runs until `finish()`."""
        return self.popen(script("slot-run"), *options, "--", "sh", "-c", HELD_BUILD, **popen)

    def record(self, slot: int = 0) -> Path:
        """The record of a slot whose command runs: what slot-run had to write into it has been written."""
        path = self.dir / "holders" / f"slot-{slot}"
        wait_until(
            lambda: (records.read(str(path)) or {}).get("child", "?") != "?", "the command in the record"
        )
        return path

    def queued(self, *options: str, **popen: object) -> Build:
        """Start such a build and wait until it is in line behind all others."""
        before = len(self.status().waiters)
        build = self.build(*options, **popen)
        wait_until(lambda: len(self.status().waiters) == before + 1, "one more waiter")
        return build

    def run(self, *args: str, **options: object) -> subprocess.CompletedProcess[str]:
        """Run a command with this pool in its environment to its end."""
        environ = self.environ | dict(options.pop("environ", {}))  # type: ignore[call-overload]
        return subprocess.run(  # type: ignore[call-overload, no-any-return]
            args, env=environ, capture_output=True, text=True, timeout=DEADLINE_S, check=False, **options
        )

    def slot_run(self, *args: str, **options: object) -> subprocess.CompletedProcess[str]:
        """Run `slot-run ARGS` to its end."""
        return self.run(script("slot-run"), *args, **options)

    def status(self, **settings: object) -> PoolStatus:
        """The status of the pool now."""
        return SlotPool("default", dir=str(self.dir), **settings).status()  # type: ignore[arg-type]

    def held(self) -> list[int]:
        """The numbers of the held slots now."""
        return [holder.slot for holder in self.status().holders]

    def leftovers(self) -> list[str]:
        """Files of tickets that were not removed."""
        names = [p.name for room in ("queue", "bells") for p in self.dir.glob(f"{room}/*")]
        return [name for name in names if not name.startswith("slot-")]

    def end(self) -> None:
        """Kill and reap everything that was started."""
        for build in self._builds:
            if build.process.poll() is None:
                build.process.kill()
        for build in self._builds:
            build.process.wait(DEADLINE_S)
            for stream in (build.process.stdin, build.process.stdout, build.process.stderr):
                if stream is not None:
                    try:
                        stream.close()
                    except BrokenPipeError:
                        pass


class Mounts:
    """A shell in a mount namespace of its own, as root of a user namespace where we are not root."""

    def __init__(self, pool: Pool) -> None:
        self._pool = pool

    def run(self, setup: str, command: str) -> subprocess.CompletedProcess[str]:
        """Run `setup`, with $P the directory of the pool, and then `command`."""
        text = f"set -e; P={self._pool.dir}; R={script('slot-run')}; mkdir -p $P; {setup}; set +e; {command}"
        return self._pool.run(*unshare("--mount"), "sh", "-c", text)
