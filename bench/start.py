"""What a build pays for its slot: `slot-run -- true` against a bare interpreter, and the library alone.

`python -m bench.start [--pairs N]`, in an environment where buildslots is installed as a wheel by pip.
"""

from __future__ import annotations

import argparse
import os
import statistics
import subprocess
import sys
import tempfile
import time

from bench import environ
from bench.handover import slot_run
from buildslots import SlotPool


def seconds(*command: str) -> float:
    """How long `command` takes from its start to its end."""
    began = time.perf_counter()
    subprocess.run(command, check=True)
    return time.perf_counter() - began


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--pairs", type=int, default=150)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        os.environ.update(environ(scratch))
        bare = (sys.executable, "-c", "pass")
        wrapped = (slot_run(), "--", "true")
        for _ in range(5):
            seconds(*bare)
            seconds(*wrapped)
        pairs = [(seconds(*bare), seconds(*wrapped)) for _ in range(options.pairs)]
        pool = SlotPool()
        for _ in range(200):
            pool.acquire().release()
        rounds = []
        for _ in range(2000):
            began = time.perf_counter()
            pool.acquire().release()
            rounds.append(time.perf_counter() - began)
    print(f"python -c pass      {statistics.median(a for a, _ in pairs) * 1e3:.1f} ms")
    print(f"slot-run -- true    {statistics.median(b for _, b in pairs) * 1e3:.1f} ms")
    print(f"median ratio over pairs {statistics.median(b / a for a, b in pairs):.2f}")
    print(f"acquire() + release() uncontended, median {statistics.median(rounds) * 1e6:.0f} µs")


if __name__ == "__main__":
    main()
