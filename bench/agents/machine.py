"""What becomes of the machine while something goes on (Linux)."""

from __future__ import annotations

import subprocess
import sys
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field

TYPE_CHECKING = False
if TYPE_CHECKING:
    from types import TracebackType
    from typing import Self

FOREGROUND_S = 0.2
SAMPLE_S = 0.1
IDLE_S = 5.0
"""How long the idle machine is looked at before the first round."""
PRESSURES = ("cpu", "io", "memory")


@dataclass
class Machine:
    """What becomes of the machine from `with Machine() as machine:` to its end.

    Attributes:
        latencies_s: Of the foreground command, in order.
        runnable: The most processes that ran or wanted to at once.
        memory: Bytes that MemAvailable dropped at most.
        pressure: By resource, the share of the time in which something waited for it; None if unknown.
    """

    latencies_s: list[float] = field(default_factory=list)
    runnable: int = 0
    memory: int = 0
    pressure: dict[str, float | None] = field(default_factory=dict)

    def __enter__(self) -> Self:
        self._over = threading.Event()
        self._available = _available()
        self._stalled_us = {name: _stalled_us(name) for name in PRESSURES}
        self._began = time.monotonic()
        work = (self._sample, SAMPLE_S), (self._foreground, FOREGROUND_S)
        self._threads = [threading.Thread(target=self._every, args=each) for each in work]
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._over.set()
        elapsed_us = (time.monotonic() - self._began) * 1e6
        for name, before in self._stalled_us.items():
            now = _stalled_us(name)
            self.pressure[name] = None if before is None or now is None else (now - before) / elapsed_us
        for thread in self._threads:
            thread.join()

    def _every(self, what: Callable[[], None], period_s: float) -> None:
        due = time.monotonic()
        while not self._over.wait(due - time.monotonic()):
            what()
            due = max(due + period_s, time.monotonic())

    def _sample(self) -> None:
        # Without the sampling thread itself.
        self.runnable = max(self.runnable, field_of("/proc/stat", "procs_running") - 1)
        self.memory = max(self.memory, self._available - _available())

    def _foreground(self) -> None:
        began = time.monotonic()
        # What stops this program may end the command as well, and that is no failure of its own.
        subprocess.run([sys.executable, "-c", "pass"], check=False, stdin=subprocess.DEVNULL)
        self.latencies_s.append(time.monotonic() - began)


def field_of(path: str, name: str) -> int:
    """The first number in the line of the file `path` that begins with the word `name`."""
    with open(path, encoding="ascii") as lines:
        return next(int(words[1]) for line in lines if (words := line.split())[0] == name)


def _available() -> int:
    return field_of("/proc/meminfo", "MemAvailable:") * 1024


def _stalled_us(resource: str) -> int | None:
    """For how long something has waited for `resource` since boot; None if the kernel does not tell."""
    try:
        with open(f"/proc/pressure/{resource}", encoding="ascii") as lines:
            (total,) = (line.rpartition("total=")[2] for line in lines if line.startswith("some "))
    except OSError:
        return None
    return int(total)


def idle() -> Machine:
    """The machine with nothing but the foreground command."""
    with Machine() as machine:
        time.sleep(IDLE_S)
    return machine
