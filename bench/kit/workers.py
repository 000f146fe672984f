"""Contenders that are forked processes, which call a library: what they did and used (Linux).

The clock is CLOCK_MONOTONIC, which all processes share.
"""

from __future__ import annotations

import contextlib
import mmap
import os
import signal
import time
from typing import TYPE_CHECKING, NamedTuple

from bench.kit.crowds import Failed
from bench.kit.processes import cpu_s
from bench.kit.spans import Span

if TYPE_CHECKING:
    from typing import Self

    from bench.kit.libraries import Acquire

CAPACITY = 20_000
"""Most holds of one contender that are kept: 20 s of 1 ms each."""


class Hold(NamedTuple):
    """What a contender of `Workers` did once, in ns; 0 for what it did not come to."""

    who: int
    wanted: int
    got: int
    ended: int


class Workers:
    """Forked processes that take slots with `acquire` and hold them, all ready before `begin()`."""

    def __init__(
        self, acquire: Acquire, count: int, hold_s: float, *, again: bool = False, pause_s: float = 0.0
    ) -> None:
        """Fork `count` of them; with `again` each wants the next slot `pause_s` after it let go of one."""
        self._acquire = acquire
        self._hold_s = hold_s
        self._pause_s = pause_s
        self._holds = CAPACITY if again else 1
        self.count = count
        self._ledgers = [mmap.mmap(-1, 24 * self._holds) for _ in range(count)]
        self._arrivals = mmap.mmap(-1, 8 * count)
        self._ready = os.pipe()
        self._gate = os.pipe()
        self._errors = os.pipe()
        os.set_blocking(self._errors[0], False)
        self._pids: dict[int, int] = {}

    def __enter__(self) -> Self:
        for who in range(self.count):
            pid = os.fork()
            if pid == 0:
                try:
                    self._contend(who)
                except BaseException as error:  # noqa: BLE001 - it must not go on as the benchmark
                    os.write(self._errors[1], f"{type(error).__name__}: {error}\n".encode())
                    os.write(self._ready[1], b"..")  # so that nobody waits for it
                try:
                    signal.pause()  # until it is killed: what its end costs is no part of anything
                finally:
                    os._exit(0)
            self._pids[pid] = who
        os.close(self._gate[0])
        awaited = self.count
        while awaited:
            awaited -= len(os.read(self._ready[0], awaited))
        return self

    def __exit__(self, *_: object) -> None:
        for pid in self._pids:
            os.kill(pid, signal.SIGKILL)
        for pid in self._pids:
            os.waitpid(pid, 0)
        for descriptor in (*self._ready, *self._errors, self._gate[1]):
            with contextlib.suppress(OSError):
                os.close(descriptor)

    def _contend(self, who: int) -> None:
        os.close(self._gate[1])
        ledger = memoryview(self._ledgers[who]).cast("q")
        arrivals = memoryview(self._arrivals).cast("q")
        os.write(self._ready[1], b".")
        os.read(self._gate[0], 1)  # its end
        time.sleep(max(0.0, (arrivals[who] - time.monotonic_ns()) / 1e9))
        for at in range(0, 3 * self._holds, 3):
            ledger[at] = time.monotonic_ns()
            release = self._acquire()
            ledger[at + 1] = time.monotonic_ns()
            time.sleep(self._hold_s)
            ledger[at + 2] = time.monotonic_ns()
            release()
            if self._pause_s:
                time.sleep(self._pause_s)
        os.write(self._ready[1], b".")

    def begin(self, every_s: float = 0.0) -> None:
        """Let them arrive, one every `every_s`."""
        arrivals = memoryview(self._arrivals).cast("q")
        first = time.monotonic_ns() + 20_000_000  # when all are awake
        for who in range(self.count):
            arrivals[who] = first + int(who * every_s * 1e9)
        os.close(self._gate[1])

    def wait(self) -> None:
        """Wait until all have held their slots, where they want no others.

        Raises:
            Failed: One failed.
        """
        awaited = self.count
        while awaited > 0:
            awaited -= len(os.read(self._ready[0], awaited))
            self.check()

    def check(self) -> None:
        """Ask whether all is well.

        Raises:
            Failed: A contender failed.
        """
        with contextlib.suppress(BlockingIOError):
            raise Failed(os.read(self._errors[0], 4096).decode().partition("\n")[0])

    def cpu_s(self) -> float:
        """CPU seconds of all."""
        return sum(cpu_s(pid) for pid in self._pids)

    def holds(self) -> list[Hold]:
        """What they have done so far, in the order in which they got their slots; who waits is last."""
        holds = []
        for who, ledger in enumerate(self._ledgers):
            entries = memoryview(ledger).cast("q")
            for at in range(0, 3 * self._holds, 3):
                if not entries[at]:
                    break
                holds.append(Hold(who, *entries[at : at + 3]))
        return sorted(holds, key=lambda hold: hold.got or float("inf"))

    def spans(self) -> list[Span]:
        """The holds that have ended, in the order of their starts."""
        return [Span(hold.got, hold.ended, str(hold.who)) for hold in self.holds() if hold.ended]
