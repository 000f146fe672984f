"""The command of a `slot-run`: marks when it runs, and may leave a daemon that keeps all descriptors."""

from __future__ import annotations

import os
import sys
import time

from bench.abuse import marks


def told(number: int) -> tuple[int, bool]:
    """How many slots the holder of that one has, by its record, and whether it says that it is in overflow.

    The cap does not tell: only the holder knows by which rules of the pool it has decided. A record that is
    gone was removed with the pool.
    """
    try:
        with open(f"{os.environ['BUILD_SLOTS_DIR']}/holders/slot-{number}", errors="replace") as file:
            lines = file.read().partition("\nend\n")[0].split("\n")
    except FileNotFoundError:
        return 1, True
    weights = [int(line[7:]) for line in lines if line.startswith("weight ")]
    return max(weights, default=1), "overflow" in lines


def main() -> None:
    """`command TABLE CAP BEFORE_NS HOLD_S DAEMON_S`; its slot-run began after BEFORE_NS."""
    path, *numbers = sys.argv[1:]
    cap, before_ns = map(int, numbers[:2])
    hold_s, daemon_s = map(float, numbers[2:])
    table = marks.Table(path)
    ring = table.short_ring()
    ring.mark(marks.BORN, c=os.getppid())
    number = int(os.environ.get("BUILD_SLOT", "-1"))
    if number < 0:
        ring.mark(marks.DEGRADED)
    else:
        weight, overflow = told(number)
        ring.mark(marks.START, cap, weight, before_ns, marks.OVERFLOW if overflow else marks.NORMAL)
    time.sleep(hold_s)
    if daemon_s and os.fork() == 0:
        os.setsid()
        until = time.monotonic() + daemon_s
        while time.monotonic() < until and not table.finish:
            time.sleep(0.05)
        os._exit(0)
    if number >= 0:
        ring.mark(marks.END)
        ring.mark(marks.IDLE)
    os._exit(0)
