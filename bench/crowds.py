"""Contenders: commands below a wrapper, and forked processes that call a library; what they did and used.

The clock is CLOCK_MONOTONIC, which all processes share. Whatever a crowd started has ended, by its pid, when
the `with` block ends. Linux only: /proc says what belongs to a crowd and what it used.
"""

from __future__ import annotations

import contextlib
import mmap
import os
import resource
import select
import signal
import subprocess
import tempfile
import time
import uuid
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from bench.handover import recorded
from bench.waiting import cpu_s

if TYPE_CHECKING:
    from collections.abc import Iterator
    from typing import Self

    from bench.libraries import Acquire
    from bench.peers import Command, Kit

MARK = "BUILDSLOTS_BENCH_MARK"
TICK_S = 1 / os.sysconf("SC_CLK_TCK")
CAPACITY = 20_000
"""Most holds of one contender that are kept: 20 s of 1 ms each."""
Run = tuple[int, int, int]
"""(contender, start ns, end ns) of a hold."""


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


def children_cpu_s() -> float:
    """CPU seconds of all descendants that ended and were waited for."""
    usage = resource.getrusage(resource.RUSAGE_CHILDREN)
    return usage.ru_utime + usage.ru_stime


def used_s(pids: set[int]) -> float:
    """CPU seconds of the processes `pids` and of their children that have ended."""
    total = 0.0
    for pid in pids:
        with contextlib.suppress(OSError):
            ended_children = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[13:15]
            total += cpu_s(pid) + sum(map(int, ended_children)) * TICK_S
    return total


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

    def ended(self) -> list[Run]:
        """Wait for all that were started; when each ran, in the order of the starts.

        Raises:
            Failed: One failed, or did not run its command.
        """
        failed = [process.returncode for process in self._started if process.wait()]
        if failed:
            raise Failed(f"{len(failed)} of {len(self._started)} ended with {failed[0]}: {self.complaint()}")
        return self.recorded()

    def recorded(self) -> list[Run]:
        """What has ended by now."""
        return recorded(self.log) if self.log.exists() else []

    def complaint(self) -> str:
        """The last line that one of them wrote to stderr."""
        lines = self._errors.read_text(errors="replace").split("\n") if self._errors.exists() else []
        return next((line.strip() for line in reversed(lines) if line.strip()), "no message")


def has_reader(gate: int) -> bool:
    """Whether the command that `Commands.hold()` started is still there."""
    poll = select.poll()
    poll.register(gate, 0)
    return not any(events & select.POLLERR for _, events in poll.poll(0))


class Hold(NamedTuple):
    """What a contender of `Workers` did once, in ns; 0 for what it did not come to."""

    who: int
    wanted: int
    got: int
    ended: int


class Workers:
    """Forked processes that take slots with `acquire` and hold them, all ready before `begin()`."""

    def __init__(self, acquire: Acquire, count: int, hold_s: float, *, again: bool) -> None:
        """Fork `count` of them; with `again` each wants the next slot as soon as it let go of one."""
        self._acquire = acquire
        self._hold_s = hold_s
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

    def runs(self) -> list[Run]:
        """The holds that have ended, in the order of their starts."""
        return [(hold.who, hold.got, hold.ended) for hold in self.holds() if hold.ended]
