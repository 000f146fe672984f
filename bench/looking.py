"""What looking costs those who build: order, peak and throughput of 200 short builds, looked at and not.

`python -m bench.looking [--rounds N] [--hz N] [--hold S]`: 200 `slot-run` are in line before the first one
starts. In every second round three programs look at the pool all the while, N times a second each: one that
asks for its status, `buildslots status --watch` on a terminal, and `buildslots doctor` over and over (its
checks in one process, or the machine would mostly start interpreters).
"""

from __future__ import annotations

import argparse
import contextlib
import os
import pty
import signal
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path
from typing import TYPE_CHECKING

from bench import environ
from bench.handover import compile_recorder, inversions, peak_overlap, slot_run
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
from buildslots.view.doctor import run
from buildslots.view.main import build_parser
options, period = build_parser().parse_args(["doctor"]), 1 / float(sys.argv[1])
with open(os.devnull, "w") as nowhere, contextlib.redirect_stdout(nowhere):
    while True:
        began = time.monotonic()
        run(options)
        time.sleep(max(0.0, began + period - time.monotonic()))
"""


@contextlib.contextmanager
def lookers(env: dict[str, str], hz: float) -> Iterator[None]:
    """The three programs, while the block runs."""
    buildslots = str(Path(sys.executable).parent / "buildslots")
    master, slave = pty.openpty()
    commands = [
        [sys.executable, "-c", STATUS, str(hz)],
        [buildslots, "status", "--watch", "--interval", f"{1 / hz:.3f}"],
        [sys.executable, "-c", DOCTOR, str(hz)],
    ]
    env = env | {"TERM": "xterm-256color"}
    processes = [subprocess.Popen(command, env=env, stdin=slave, stdout=slave) for command in commands]
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


def measure(hold_s: float, hz: float | None) -> tuple[float, int, int]:
    """Seconds that 200 builds took from the first start to the last end, peak overlap, inversions."""
    with tempfile.TemporaryDirectory() as scratch:
        directory = Path(scratch)
        recorder, log = compile_recorder(directory), directory / "log"
        env = environ(directory / "pool")
        pool = SlotPool(slots=SLOTS, dir=env["BUILD_SLOTS_DIR"])
        held = [pool.acquire(0) for _ in range(SLOTS)]
        builds = []
        for number in range(COUNT):
            its = (recorder, log, str(number), str(hold_s))
            command = [slot_run(), f"-n{SLOTS}", "-q", "-t", "none", "--", *map(str, its)]
            builds.append(subprocess.Popen(command, env=env))
            while len(pool.status().waiters) <= number:
                time.sleep(0.001)
        with lookers(env, hz) if hz else contextlib.nullcontext():
            for slot in held:
                slot.release()
            if sum(build.wait() for build in builds):
                raise SystemExit("a build failed")
        lines = [tuple(map(int, line.split())) for line in log.read_text().splitlines()]
    lines.sort(key=lambda line: line[1])
    seconds = (max(end for _, _, end in lines) - lines[0][1]) / 1e9
    return seconds, peak_overlap([(a, z) for _, a, z in lines]), inversions([n for n, _, _ in lines])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--hz", type=float, default=10)
    parser.add_argument("--hold", type=float, default=0.1)
    options = parser.parse_args()
    results: dict[bool, list[float]] = {False: [], True: []}
    for _ in range(options.rounds):
        for looked_at in (False, True):
            seconds, peak, turned = measure(options.hold, options.hz if looked_at else None)
            results[looked_at].append(seconds)
            what = f"looked at {options.hz:g} times a second" if looked_at else "alone"
            print(f"{what}: {seconds:.2f} s, peak {peak}, inversions {turned}", flush=True)
    alone, looked_at_s = (statistics.median(results[key]) for key in (False, True))
    ideal = COUNT / SLOTS * options.hold
    print(
        f"median {alone:.2f} and {looked_at_s:.2f} s, ideal {ideal:.2f}: throughput {alone / looked_at_s:.3f}"
    )


if __name__ == "__main__":
    main()
