"""What the journal costs a build: the same builds with it and without, in turn.

`python -m bench.journal [--pairs N]`, in an environment where buildslots is installed as a wheel by pip. With
`slot-run -- true` all that is written is in the way of the next build; a build that takes 20 ms has the
first line written while it runs, as most do.
"""

from __future__ import annotations

import argparse
import os
import statistics
import tempfile
import time

from bench import environ
from bench.handover import slot_run
from bench.start import seconds
from buildslots import SlotPool

MODES = ("off", "programs")


def build_s(mode: str, *command: str) -> float:
    """How long `command` takes below slot-run, from its start to its end."""
    os.environ["BUILD_SLOTS_JOURNAL"] = mode
    return seconds(slot_run(), "--", *command)


def acquire_s(mode: str) -> float:
    """How long `acquire()` and `release()` take; the median of a hundred."""
    os.environ["BUILD_SLOTS_JOURNAL"] = mode
    pool = SlotPool()
    rounds = []
    for _ in range(100):
        began = time.perf_counter()
        pool.acquire().release()
        rounds.append(time.perf_counter() - began)
    return statistics.median(rounds)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--pairs", type=int, default=300)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        os.environ.update(environ(scratch))
        for what, measure in (
            ("slot-run -- true", lambda mode: build_s(mode, "true")),
            ("slot-run -- sleep 0.02", lambda mode: build_s(mode, "sleep", "0.02")),
            ("acquire() + release()", acquire_s),
        ):
            pairs = [[measure(mode) for mode in MODES] for _ in range(options.pairs)][5:]
            off, on = (statistics.median(column) for column in zip(*pairs, strict=True))
            more = statistics.median(b - a for a, b in pairs)
            print(f"{what:24} {off * 1e3:.3f} ms without, {on * 1e3:.3f} with", end="; ")
            print(f"median difference {more * 1e6:.0f} µs")


if __name__ == "__main__":
    main()
