"""Starts in order of arrival, peak overlap, and the gap from a release to the next start.

`python -m bench.handover [--slots K] [--count N] [--every MS] [--hold S]`: N `slot-run -nK` arrive
one every MS milliseconds; each one's command notes when it starts and ends (CLOCK_MONOTONIC).
Prints the peak overlap, the order inversions, and the gaps at the hand-overs.
"""

from __future__ import annotations

import argparse
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING

from bench import environ

if TYPE_CHECKING:
    from collections.abc import Callable

RECORDER = r"""
#define _POSIX_C_SOURCE 200809L
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <time.h>
#include <unistd.h>
/* recorder LOG NAME SECONDS [FIFO]: appends "NAME START END" in ns of CLOCK_MONOTONIC. With FIFO, it reads
   that to its end first, which is when some other process has closed it. */
static long long now(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return t.tv_sec * 1000000000LL + t.tv_nsec;
}
int main(int argc, char **argv) {
    char line[128];
    long long start = now();
    double seconds = atof(argv[3]);
    struct timespec t = {(time_t)seconds, (long)((seconds - (time_t)seconds) * 1e9)};
    if (argc == 5) {
        int gate = open(argv[4], O_RDONLY);
        while (read(gate, line, 1) > 0)
            ;
    }
    nanosleep(&t, NULL);
    int fd = open(argv[1], O_WRONLY | O_APPEND | O_CREAT, 0600);
    int size = snprintf(line, sizeof line, "%s %lld %lld\n", argv[2], start, now());
    return argc >= 4 && write(fd, line, size) == size ? 0 : 1;
}
"""


def peak_overlap(spans: list[tuple[int, int]]) -> int:
    """The largest number of `spans` (start, end) that contain one instant; an end comes before a start."""
    events = sorted([(start, 1) for start, _ in spans] + [(end, -1) for _, end in spans])
    running = peak = 0
    for _, change in events:
        running += change
        peak = max(peak, running)
    return peak


def inversions(order: list[int]) -> int:
    """Pairs of arrivals that started the other way round."""
    return sum(later < earlier for at, earlier in enumerate(order) for later in order[at + 1 :])


def compile_recorder(directory: Path) -> Path:
    """A command that notes when it ran; in C, so that its own start costs under a millisecond."""
    source = directory / "recorder.c"
    source.write_text(RECORDER)
    recorder = directory / "recorder"
    subprocess.run(["cc", "-O1", "-o", recorder, source], check=True)
    return recorder


def slot_run() -> str:
    """The console script of this environment."""
    return shutil.which("slot-run", path=str(Path(sys.executable).parent)) or "slot-run"


def recorded(log: Path) -> list[tuple[int, int, int]]:
    """(name, start ns, end ns) of what the recorder noted in `log`, in the order of the starts."""
    lines = [line.split() for line in log.read_text().splitlines()]
    return sorted(((int(n), int(start), int(end)) for n, start, end in lines), key=lambda line: line[1])


def arrive(start: Callable[[int], subprocess.Popen[bytes]], count: int, every_s: float) -> None:
    """Start `count` builds with `start(0)`, `start(1)`, …, one every `every_s`, and wait for their ends.

    Raises:
        ChildProcessError: A build failed.
    """
    began = time.monotonic()
    builds = []
    for arrival in range(count):
        time.sleep(max(0.0, began + arrival * every_s - time.monotonic()))
        builds.append(start(arrival))
    failed = [build.returncode for build in builds if build.wait()]
    if failed:
        raise ChildProcessError(f"{len(failed)} of {count} builds failed, the first with status {failed[0]}")


def gaps_s(runs: list[tuple[int, int, int]], slots: int) -> list[float]:
    """Seconds from each end that somebody waited for to the start that it made possible."""
    ends = sorted(end for _, _, end in runs)
    starts = [start for _, start, _ in runs]
    return [(start - end) / 1e9 for end, start in zip(ends, starts[slots:], strict=False)]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--slots", type=int, default=3)
    parser.add_argument("--count", type=int, default=30)
    parser.add_argument("--every", type=float, default=20.0, help="milliseconds between arrivals")
    parser.add_argument("--hold", type=float, default=0.2, help="seconds that each build takes")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        directory = Path(scratch)
        env, log = environ(directory / "pool"), directory / "log"
        command = [slot_run(), f"-n{options.slots}", "-q", "-t", "none", "--"]
        command += [str(compile_recorder(directory)), str(log)]

        def start(arrival: int) -> subprocess.Popen[bytes]:
            return subprocess.Popen([*command, str(arrival), str(options.hold)], env=env)

        arrive(start, options.count, options.every / 1000)
        runs = recorded(log)
    spans = [(start, end) for _, start, end in runs]
    gaps = sorted(gaps_s(runs, options.slots))
    wall = (max(end for _, end in spans) - min(start for start, _ in spans)) / 1e9
    ideal = -(-options.count // options.slots) * options.hold
    print(
        f"{options.count} builds of {options.hold} s on {options.slots} slots, one every {options.every} ms"
    )
    print(f"peak overlap {peak_overlap(spans)}, inversions {inversions([n for n, _, _ in runs])}")
    print(f"wall {wall:.2f} s, ideal {ideal:.2f} s")
    if gaps:
        print(f"gap p50 {gaps[len(gaps) // 2] * 1e3:.1f} ms, max {gaps[-1] * 1e3:.1f} ms")


if __name__ == "__main__":
    main()
