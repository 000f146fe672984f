"""How soon the next build starts, for every way in which a slot becomes free.

`python -m bench.questions.wakeups [--rounds N]`: K=1, one holder, one waiter (two where the head is stopped).
The waiter's command notes CLOCK_MONOTONIC; the time counted from the event includes its own start.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import shutil
import signal
import subprocess
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING

from bench import environ
from bench.kit.figures import median
from bench.kit.installs import this
from bench.kit.recorder import compile_recorder, recorded
from bench.kit.shell import forget_settings
from buildslots import SlotPool

if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Self

HOLD = "echo started; read line"


class Round:
    """A pool with one holder and waiters; the end of the `with` block ends them all."""

    def __init__(self, directory: Path, recorder: Path) -> None:
        shutil.rmtree(directory, ignore_errors=True)
        self._pool = SlotPool(dir=str(directory), slots=1)
        self._slot_0 = directory / "slot-0"
        self._log = directory.parent / "log"
        self._log.unlink(missing_ok=True)
        self._recorder = recorder
        self._environ = environ(directory)
        self._stack = contextlib.ExitStack()

    def __enter__(self) -> Self:
        self._pool.acquire().release()
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    def hold(self, *command: str) -> subprocess.Popen[bytes]:
        """Start the holder: `command`, followed by a shell that holds until it is told otherwise."""
        process = self._popen([*command, "sh", "-c", HOLD])
        assert process.stdout is not None
        process.stdout.readline()
        return process

    def hold_by_slot_run(self) -> subprocess.Popen[bytes]:
        """Start a holder under slot-run."""
        return self.hold(this().slot_run, "-n1", "--")

    def hold_by_flock(self) -> subprocess.Popen[bytes]:
        """Start a foreign holder."""
        return self.hold("flock", str(self._slot_0))

    def wait(self) -> subprocess.Popen[bytes]:
        """Start a waiter that notes its start, and wait until it is in line."""
        before = len(self._pool.status().waiters)
        build = [str(self._recorder), str(self._log), "w", "0"]
        command = [this().slot_run, "-q", "-n1", "-t", "none", "--", *build]
        process = self._popen(command)
        while len(self._pool.status().waiters) == before:
            time.sleep(0.001)
        time.sleep(0.1)  # asleep by now: this is about waking it
        return process

    def started_s(self) -> float:
        """When the waiter's command started, in seconds of CLOCK_MONOTONIC."""
        while not (spans := recorded(self._log)):
            time.sleep(0.001)
        return spans[0].start / 1e9

    def _popen(self, command: list[str]) -> subprocess.Popen[bytes]:
        process = subprocess.Popen(
            command, env=self._environ, stdin=subprocess.PIPE, stdout=subprocess.PIPE, start_new_session=True
        )
        self._stack.callback(process.wait)
        self._stack.callback(os.killpg, process.pid, signal.SIGKILL)
        return process


def let_go(round_: Round, holder: subprocess.Popen[bytes]) -> float:
    """Seconds from the end of the holder's command to the next start."""
    began = time.monotonic()
    assert holder.stdin is not None
    holder.stdin.close()
    return round_.started_s() - began


def released(round_: Round) -> float:
    """The holder's command ends."""
    holder = round_.hold_by_slot_run()
    round_.wait()
    return let_go(round_, holder)


def killed_with_its_slot_run(round_: Round) -> float:
    """SIGKILL to the holder's slot-run and command at once."""
    holder = round_.hold_by_slot_run()
    round_.wait()
    began = time.monotonic()
    os.killpg(holder.pid, signal.SIGKILL)
    return round_.started_s() - began


def orphan_ended(round_: Round) -> float:
    """SIGKILL to the holder's slot-run; later its command ends."""
    holder = round_.hold_by_slot_run()
    round_.wait()
    holder.kill()
    holder.wait()
    time.sleep(0.2)
    return let_go(round_, holder)


def foreign_released(round_: Round) -> float:
    """flock(1), which has no bell, lets go."""
    holder = round_.hold_by_flock()
    round_.wait()
    return let_go(round_, holder)


def head_stopped(round_: Round) -> float:
    """The holder's command ends while the head of the line is stopped."""
    holder = round_.hold_by_slot_run()
    os.kill(round_.wait().pid, signal.SIGSTOP)
    round_.wait()
    return let_go(round_, holder)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=10)
    options = parser.parse_args()
    cases: list[Callable[[Round], float]] = [
        released,
        killed_with_its_slot_run,
        orphan_ended,
        foreign_released,
        head_stopped,
    ]
    with tempfile.TemporaryDirectory() as scratch:
        forget_settings(scratch)
        recorder = compile_recorder(Path(scratch))
        for case in cases:
            times: list[float] = []
            for _ in range(options.rounds):
                with Round(Path(scratch) / "pool", recorder) as round_:
                    times.append(case(round_) * 1e3)
            print(f"{case.__doc__!s:75} median {median(times):6.1f} ms, max {max(times):6.1f} ms")


if __name__ == "__main__":
    main()
