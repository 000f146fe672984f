"""The command of a `slot-run`: marks when it runs, and may leave a daemon that keeps all descriptors."""

from __future__ import annotations

import os
import sys
import time

from bench.abuse import marks


def main() -> None:
    """`command TABLE CAP WEIGHT BEFORE_NS HOLD_S DAEMON_S`; its slot-run began after BEFORE_NS."""
    path, *numbers = sys.argv[1:]
    cap, weight, before_ns = map(int, numbers[:3])
    hold_s, daemon_s = map(float, numbers[3:])
    table = marks.Table(path)
    ring = table.short_ring()
    ring.mark(marks.BORN, c=os.getppid())
    number = int(os.environ.get("BUILD_SLOT", "-1"))
    if number < 0:
        ring.mark(marks.DEGRADED)
    else:
        # Within its cap a build finds a number below that, so the number tells.
        ring.mark(marks.START, cap, weight, before_ns, marks.NORMAL if number < cap else marks.OVERFLOW)
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
