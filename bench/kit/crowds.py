"""Contenders that are commands below a wrapper: what they did and used.

Whatever a crowd started has ended, by its pid, when the `with` block ends. Linux only: /proc says what
belongs to it.
"""

from __future__ import annotations

import contextlib
import os
import select
import signal
import subprocess
import tempfile
import time
import uuid
from pathlib import Path
from typing import TYPE_CHECKING

from bench.kit.recorder import recorded

if TYPE_CHECKING:
    from collections.abc import Iterator
    from typing import Self

    from bench.kit.peers import Command, Kit
    from bench.kit.spans import Span

MARK = "BUILDSLOTS_BENCH_MARK"


class Failed(Exception):  # noqa: N818 - a result, shown as such
    """A peer did not do what was asked of it."""


@contextlib.contextmanager
def deadline(seconds: float) -> Iterator[None]:
    """The block fails with `Failed` after `seconds`, whatever call it hangs in."""

    def late(*_: object) -> None:
        raise Failed(f"not done after {seconds:.0f} s")

    before = signal.signal(signal.SIGALRM, late)
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


class Commands:
    """Commands below the wrapper `peer` on a fresh pool. Each is the recorder, which notes when it ran.

    All that belongs to them, a server of the peer's and what it starts included, is known by a variable in
    its environment.
    """

    def __init__(self, kit: Kit, peer: Command, slots: int) -> None:
        self._recorder = str(kit.recorder)
        self._directory = tempfile.TemporaryDirectory(dir=kit.scratch, prefix="pool-")
        self._pool = Path(self._directory.name) / "pool"
        self._pool.mkdir()
        self.log = self._pool.parent / "log"
        self._errors = self._pool.parent / "stderr"
        self._mark = uuid.uuid4().hex
        self._env = os.environ | {MARK: self._mark}
        self._started: list[subprocess.Popen[bytes]] = []
        self._prefix = peer.wrap(self._pool, slots, self._env)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        while pids := self.pids():
            for pid in pids:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
            for process in self._started:
                process.poll()
        for process in self._started:
            process.wait()
        self._directory.cleanup()

    def start(self, *command: str) -> subprocess.Popen[bytes]:
        """Start `command` below the wrapper."""
        with open(self._errors, "ab") as errors:
            process = subprocess.Popen(
                [*self._prefix, *command],
                env=self._env,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=errors,
            )
        self._started.append(process)
        return process

    def start_recorder(self, name: int, hold_s: float, *fifo: str) -> subprocess.Popen[bytes]:
        """Start a recorder that holds its slot for `hold_s`."""
        return self.start(self._recorder, str(self.log), str(name), str(hold_s), *fifo)

    def hold(self, name: int) -> tuple[subprocess.Popen[bytes], int]:
        """Start a recorder and wait until it runs, until the descriptor that is returned is closed."""
        fifo = str(self._pool.parent / f"gate-{name}")
        os.mkfifo(fifo)
        process = self.start_recorder(name, 0.0, fifo)
        while True:
            with contextlib.suppress(OSError):  # nobody has opened it to read
                return process, os.open(fifo, os.O_WRONLY | os.O_NONBLOCK)
            if process.poll() is not None:
                raise Failed(f"it ended without running its command: {self.complaint()}")
            time.sleep(0.002)

    def pids(self) -> set[int]:
        """The processes alive that belong to this crowd."""
        mark = f"{MARK}={self._mark}".encode()
        mine = set()
        for name in os.listdir("/proc"):
            with contextlib.suppress(OSError):  # it has ended, or is another user's
                if name.isdigit() and mark in Path(f"/proc/{name}/environ").read_bytes():
                    mine.add(int(name))
        return mine

    def ended(self) -> list[Span]:
        """Wait for all that were started; when each ran, in the order of the starts.

        Raises:
            Failed: One failed, or did not run its command.
        """
        failed = [process.returncode for process in self._started if process.wait()]
        if failed:
            raise Failed(f"{len(failed)} of {len(self._started)} ended with {failed[0]}: {self.complaint()}")
        return self.recorded()

    def recorded(self) -> list[Span]:
        """What has ended by now."""
        return recorded(self.log)

    def complaint(self) -> str:
        """The last line that one of them wrote to stderr."""
        lines = self._errors.read_text(errors="replace").split("\n") if self._errors.exists() else []
        return next((line.strip() for line in reversed(lines) if line.strip()), "no message")


def has_reader(gate: int) -> bool:
    """Whether the command that `Commands.hold()` started is still there."""
    poll = select.poll()
    poll.register(gate, 0)
    return not any(events & select.POLLERR for _, events in poll.poll(0))
