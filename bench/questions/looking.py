"""What looking costs those who build: order, peak and throughput of 200 short builds, looked at and not.

`python -m bench.questions.looking [--rounds N] [--hz N] [--hold S] [--count N]`: 200 `slot-run` are in line
before the first one starts. In turn nobody looks at the pool, or one of three programs does all the while, N
times a second: one that asks for its status, `buildslots status --watch` on a terminal, and `buildslots
doctor` over and over (its checks in one process, or the machine would mostly start interpreters); or all
three.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import pty
import signal
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path
from typing import TYPE_CHECKING

from bench import environ
from bench.kit.figures import median
from bench.kit.installs import this
from bench.kit.recorder import compile_recorder, recorded
from bench.kit.shell import forget_settings
from bench.kit.spans import inversions, peak_overlap
from buildslots import SlotPool

if TYPE_CHECKING:
    from collections.abc import Iterator

COUNT, SLOTS = 200, 2
STATUS = """
import sys, time
from buildslots import SlotPool
pool, period = SlotPool(slots=2), 1 / float(sys.argv[1])
while True:
    began = time.monotonic()
    pool.status().as_dict()
    time.sleep(max(0.0, began + period - time.monotonic()))
"""
DOCTOR = """
import contextlib, os, sys, time
from importlib.metadata import entry_points
(script,) = entry_points(group="console_scripts", name="buildslots")
buildslots, period = script.load(), 1 / float(sys.argv[1])
sys.argv = ["buildslots", "doctor"]
with open(os.devnull, "w") as nowhere, contextlib.redirect_stdout(nowhere):
    while True:
        began = time.monotonic()
        buildslots()
        time.sleep(max(0.0, began + period - time.monotonic()))
"""


@contextlib.contextmanager
def lookers(names: tuple[str, ...], env: dict[str, str], hz: float) -> Iterator[None]:
    """The programs `names`, while the block runs."""
    buildslots = this().buildslots
    commands = {
        "status": [sys.executable, "-c", STATUS, str(hz)],
        "watch": [buildslots, "status", "--watch", "--interval", f"{1 / hz:.3f}"],
        "doctor": [sys.executable, "-c", DOCTOR, str(hz)],
    }
    master, slave = pty.openpty()
    env = env | {"TERM": "xterm-256color"}
    processes = [subprocess.Popen(commands[name], env=env, stdin=slave, stdout=slave) for name in names]
    os.close(slave)
    reader = threading.Thread(target=_drain, args=[master])
    reader.start()
    try:
        time.sleep(2)  # until they look
        yield
        ended = [process.args for process in processes if process.poll() is not None]
        if ended:
            raise SystemExit(f"not looking any more: {ended}")
    finally:
        for process in processes:
            process.send_signal(signal.SIGTERM)
        for process in processes:
            process.wait()
        reader.join()
        os.close(master)


def _drain(fd: int) -> None:
    with contextlib.suppress(OSError):  # EIO: the last process has closed the terminal
        while os.read(fd, 65536):
            pass


def measure(names: tuple[str, ...], count: int, hold_s: float, hz: float) -> tuple[float, int, int]:
    """Seconds that `count` builds took, looked at by `names`, and their peak overlap and inversions."""
    with tempfile.TemporaryDirectory() as scratch:
        forget_settings(scratch)
        directory = Path(scratch)
        recorder, log = compile_recorder(directory), directory / "log"
        env = environ(directory / "pool")
        pool = SlotPool(slots=SLOTS, dir=env["BUILD_SLOTS_DIR"])
        held = [pool.acquire(0) for _ in range(SLOTS)]
        builds = []
        for number in range(count):
            its = (recorder, log, str(number), str(hold_s))
            command = [this().slot_run, f"-n{SLOTS}", "-q", "-t", "none", "--", *map(str, its)]
            builds.append(subprocess.Popen(command, env=env))
            while len(pool.status().waiters) <= number:
                time.sleep(0.001)
        with lookers(names, env, hz):
            for slot in held:
                slot.release()
            if sum(build.wait() for build in builds):
                raise SystemExit("a build failed")
        spans = recorded(log)
    seconds = (max(span.end for span in spans) - spans[0].start) / 1e9
    return seconds, peak_overlap(spans), inversions([int(span.name) for span in spans])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--count", type=int, default=COUNT, help=f"builds ({COUNT})")
    parser.add_argument("--hz", type=float, default=10)
    parser.add_argument("--hold", type=float, default=0.1)
    options = parser.parse_args()
    ways: tuple[tuple[str, ...], ...] = (
        (),
        ("status",),
        ("watch",),
        ("doctor",),
        ("status", "watch", "doctor"),
    )
    results: dict[tuple[str, ...], list[tuple[float, int, int]]] = {names: [] for names in ways}
    for _ in range(options.rounds):
        for names in ways:
            results[names].append(measure(names, options.count, options.hold, options.hz))
    alone = median(seconds for seconds, _, _ in results[()])
    ideal_s = options.count / SLOTS * options.hold
    print(f"{options.count} builds of {options.hold} s on {SLOTS} slots, ideal {ideal_s:.2f} s")
    for names, measured in results.items():
        seconds = median(seconds for seconds, _, _ in measured)
        peaks, turned = ([m[place] for m in measured] for place in (1, 2))
        print(
            f"{' + '.join(names) or 'nobody looks':24} {seconds:.2f} s, throughput {alone / seconds:.3f},"
            f" peak {max(peaks)}, inversions {turned}"
        )


if __name__ == "__main__":
    main()
