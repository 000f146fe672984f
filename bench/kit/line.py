"""Thousands of waiters of a pool on a server, in a few processes: each is a connection, no process.

They call the server as builds do, by the calls of the package, and listen as builds do. What a build is
besides, an interpreter and a command, they leave out: what is measured is the server and the way to it.
"""

from __future__ import annotations

import contextlib
import heapq
import json
import os
import resource
import selectors
import signal
import time
import traceback
import uuid
from typing import TYPE_CHECKING

from bench.kit.crowds import Failed
from bench.kit.spans import Span
from buildslots.fleet.connection import Connection, run
from buildslots.fleet.replies import LEASE_S
from buildslots.fleet.script import GO, Script, build_id
from buildslots.settings.address import parse_url

if TYPE_CHECKING:
    from pathlib import Path
    from typing import NoReturn, Self

DESCRIPTORS = 20_000
"""For this process and what it starts: the server has one for each waiter."""
PROCESSES, GATE = 2, -1
INFO = json.dumps({"host": "bench", "pid": 1, "command": ["make"], "cwd": "/home/somebody/project"})


def allow_descriptors() -> None:
    """Let this process and its children have many descriptors, as far as it may."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    most = DESCRIPTORS if hard == resource.RLIM_INFINITY else min(DESCRIPTORS, hard)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, hard))


class Waiter:
    """One connection, which wants a slot again and again."""

    def __init__(self, url: str) -> None:
        address = parse_url(url, "bench")
        self.connection = Connection(address)
        self._script = Script(self.connection, address.name)
        self._id = self._known = ""
        self.seq = 0
        self.fd = -1

    def join(self) -> bool:
        """Join the line for another turn; whether it has a slot at once."""
        if self._id:
            self.connection.unlisten(self.channel)
        self._id, self.seq = build_id(uuid.uuid4().hex[:16], 1), 0
        return self._joins(INFO)

    def beat(self) -> bool:
        """Say that it is still there, or that it has heard of its slot; whether it has one."""
        return self._joins("")

    def _joins(self, info: str) -> bool:
        answer = run(self._script.join(self._id, self._known, seq=self.seq, info=info))
        self._known, self.seq = answer.known, answer.seq or self.seq
        self.fd = self.connection.fileno()
        return answer.state == "held"

    def heard(self) -> bool:
        """Whether it was told to go."""
        heard = self.connection.hear() and any(text == GO for _, text in self.connection.messages)
        self.connection.messages.clear()
        return heard

    @property
    def channel(self) -> str:
        """On which it is told to go."""
        return self._script.channel(self._id)

    def let_go(self) -> None:
        """End its hold."""
        run(self._script.drop(self._id))


class _Part:
    """The waiters of one process."""

    def __init__(self, url: str, count: int, hold_s: float, results: int, gate: int) -> None:
        self._waiters = [Waiter(url) for _ in range(count)]
        self._gate = gate
        self._is_open = False
        self._hold_s = hold_s
        self._results = results
        self._selector = selectors.DefaultSelector()
        self._due: list[tuple[float, int, int, int]] = []  # when, a number, who, in which of its turns
        self._number = 0
        self._turns = [0] * count
        self._started = [0] * count

    def join(self, index: int) -> None:
        """Have one of them in line, or have its slot at once."""
        waiter = self._waiters[index]
        self._turns[index] += 1
        self._started[index] = 0
        held = waiter.join()
        if waiter.fd not in self._selector.get_map():
            self._selector.register(waiter.fd, selectors.EVENT_READ, index)
        self._go_on(index, held=held)

    def take_turns(self) -> NoReturn:
        """Beat, and when the gate is open take turns, until this process is killed."""
        self._selector.register(self._gate, selectors.EVENT_READ, GATE)
        while True:
            if self._due and self._due[0][0] <= time.monotonic():  # one at a time: a wake-up is urgent
                self._act(*heapq.heappop(self._due)[2:])
            wait_s = max(0.0, self._due[0][0] - time.monotonic()) if self._due else None
            for key, _ in self._selector.select(wait_s):
                if key.data == GATE:
                    self._open()
                    continue
                waiter = self._waiters[key.data]
                if waiter.heard() and not self._started[key.data]:
                    self._go_on(key.data, held=waiter.beat())

    def _open(self) -> None:
        self._selector.unregister(self._gate)
        self._is_open = True
        for index, started in enumerate(self._started):
            if started:
                self._later(0.0, index)

    def _go_on(self, index: int, *, held: bool) -> None:
        if held:
            self._started[index] = time.monotonic_ns()
        self._later(self._hold_s if held and self._is_open else LEASE_S / 3, index)

    def _later(self, after_s: float, index: int) -> None:
        self._number += 1
        heapq.heappush(self._due, (time.monotonic() + after_s, self._number, index, self._turns[index]))

    def _act(self, index: int, turn: int) -> None:
        """End the hold of one, or let it beat, unless it has had another turn meanwhile."""
        if turn != self._turns[index]:
            return
        waiter, started = self._waiters[index], self._started[index]
        if started and self._is_open:
            ended = time.monotonic_ns()
            waiter.let_go()
            os.write(self._results, f"{started} {ended} {waiter.seq} {waiter.channel}\n".encode())
            self.join(index)
        else:
            self._go_on(index, held=waiter.beat())


class Line:
    """`count` waiters of the pool at `url`, which hold its slots for `hold_s` each, in some processes."""

    def __init__(self, url: str, count: int, hold_s: float, scratch: Path) -> None:
        self._url = url
        self._hold_s = hold_s
        self._log = scratch / f"line-{uuid.uuid4().hex[:8]}"
        self._counts = [count // PROCESSES + (part < count % PROCESSES) for part in range(PROCESSES)]
        self._pids: list[int] = []
        self._ready = os.pipe()
        self._gate = os.pipe()

    def __enter__(self) -> Self:
        """Have all in line. Nobody lets go before `begin`."""
        for count in self._counts:
            pid = os.fork()
            if pid == 0:
                self._be_a_part(count)
            self._pids.append(pid)
        os.close(self._gate[0])
        os.close(self._ready[1])
        for _ in self._pids:
            if os.read(self._ready[0], 1) != b".":
                self.__exit__()
                raise Failed("a part of the line has failed")
        return self

    def __exit__(self, *_: object) -> None:
        for pid in self._pids:
            os.kill(pid, signal.SIGKILL)
            os.waitpid(pid, 0)
        self._pids.clear()
        for descriptor in (self._ready[0], self._gate[1]):
            with contextlib.suppress(OSError):
                os.close(descriptor)

    def begin(self) -> None:
        """Let them take turns."""
        os.close(self._gate[1])

    def turns(self) -> list[tuple[Span, int]]:
        """The turns that have ended, with their numbers in line, in the order of their starts."""
        lines = [line.split() for line in self._log.read_text().splitlines(keepends=True) if line[-1] == "\n"]
        found = [(Span(int(start), int(end), channel), int(seq)) for start, end, seq, channel in lines]
        return sorted(found)

    def _be_a_part(self, count: int) -> NoReturn:
        try:
            os.close(self._gate[1])
            results = os.open(self._log, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
            part = _Part(self._url, count, self._hold_s, results, self._gate[0])
            for index in range(count):
                part.join(index)
            os.write(self._ready[1], b".")
            part.take_turns()
        except BaseException:  # noqa: BLE001 - a forked process must not return from here
            traceback.print_exc()
        finally:
            os._exit(1)
