"""What a process does first after a sleep, against the same once more: what a waiter pays when it is woken.

`python -m bench.cold [--rounds N]`: after sleeps of several lengths, two times 20 system calls and strings,
and a byte written into a file. Medians. Caches and address translations have gone meanwhile; on a virtual
machine the host may have run something else.
"""

from __future__ import annotations

import argparse
import os
import tempfile
import time
from itertools import pairwise
from statistics import median

SLEEPS_S = (0.0001, 0.001, 0.003, 0.01, 0.05)


def work() -> dict[str, int]:
    """Some Python and some kernel."""
    return {str(number): os.getpid() for number in range(20)}


def after(sleep_s: float, fd: int) -> list[float]:
    """Microseconds of the work, the same work again, a byte written, and one again."""
    time.sleep(sleep_s)
    times = [time.perf_counter()]
    for _ in range(2):
        work()
        times.append(time.perf_counter())
    for _ in range(2):
        os.pwrite(fd, b"\n", 0)
        times.append(time.perf_counter())
    return [(until - since) * 1e6 for since, until in pairwise(times)]


def main() -> None:
    """Print a row for each sleep."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--rounds", type=int, default=200, metavar="N", help="sleeps of each length (200)")
    options = parser.parse_args()
    print("sleep, ms  work, us  again  ratio  write, us  again")
    with tempfile.TemporaryFile() as file:
        for sleep_s in SLEEPS_S:
            rows = zip(*(after(sleep_s, file.fileno()) for _ in range(options.rounds)), strict=True)
            work_us, again_us, write_us, rewrite_us = map(median, rows)
            columns = (sleep_s * 1e3, work_us, again_us, work_us / again_us, write_us, rewrite_us)
            print("{:9.1f} {:9.1f} {:6.1f} {:6.1f} {:10.1f} {:6.1f}".format(*columns))


if __name__ == "__main__":
    main()
