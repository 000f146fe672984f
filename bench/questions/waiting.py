"""What do fifty builds in line cost, beyond the time that they take to get there?"""

from __future__ import annotations

import os
import time

from bench.kit.processes import private_kib, used_s
from bench.kit.question import Beside, CommandCase, CommandQuestion, Measure, Values

WAITERS = 50
SETTLE_S = 2.0
"""From the last start: a wait's first second ends with the line on stderr."""


def run(case: CommandCase) -> Values:
    """CPU of all together while nothing happens, after each has said that it waits."""
    with case.crowd(1) as crowd:
        _, gate = crowd.hold(-1)
        holders = crowd.pids()
        for who in range(case.setting.contenders):
            crowd.start_recorder(who, 0.0)
        time.sleep(SETTLE_S + 0.05 * case.setting.contenders)
        waiting = crowd.pids() - holders
        before, began = used_s(waiting), time.monotonic()
        time.sleep(3.0 if case.setting.quick else 10.0)
        cpu = (used_s(waiting) - before) / (time.monotonic() - began) * 100
        memory = private_kib(waiting) / case.setting.contenders
        os.close(gate)
        crowd.ended()
    return {"waiting": cpu, "memory": memory}


COMMANDS = CommandQuestion(
    name="waiting",
    run=run,
    contenders=(WAITERS,),
    quick_contenders=(WAITERS,),
    ours=True,
    speed=True,
    measures=(
        Measure(
            "waiting",
            "% of a core",
            f"Waiting: CPU of {WAITERS} slot-runs in line together",
            (Beside("private memory of each, KiB", "memory"),),
        ),
    ),
)
