"""How many descriptors do the waiting tasks of one program need?"""

from __future__ import annotations

import asyncio
import os
import resource
import time

from bench.kit.processes import cpu_s
from bench.kit.question import Beside, LibraryCase, LibraryQuestion, Measure, Values

TASKS = 1500
QUIET_S = 2.0
"""All are in line when the descriptors have not become more for so long."""
ENOUGH_S = 60.0


def run(case: LibraryCase) -> Values:
    """A program with one slot and many tasks that want it: its descriptors, and its CPU, when all wait."""
    with case.acquire(1):
        return asyncio.run(wait_together(os.environ["BUILD_SLOTS_DIR"], case.setting.contenders))


async def wait_together(directory: str, count: int) -> Values:
    """Let `count` tasks wait for a slot that this one has."""
    from buildslots import SlotPool  # noqa: PLC0415 - only ours are asked

    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))  # what is counted is not what was allowed
    pool = SlotPool(dir=directory, slots=1, timeout=None)
    before = descriptors()
    held = await pool.acquire_async()
    waiting = [asyncio.create_task(pool.acquire_async()) for _ in range(count)]
    most, changed, until = 0, time.monotonic(), time.monotonic() + ENOUGH_S
    while time.monotonic() < min(changed + QUIET_S, until):
        await asyncio.sleep(0.1)
        if (now := descriptors() - before) > most:
            most, changed = now, time.monotonic()
    cpu, began = cpu_s(os.getpid()), time.monotonic()
    await asyncio.sleep(QUIET_S)
    share = (cpu_s(os.getpid()) - cpu) / (time.monotonic() - began) * 100
    still = sum(not task.done() for task in waiting)
    for task in waiting:
        task.cancel()
    await asyncio.gather(*waiting, return_exceptions=True)
    held.release()
    resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    return {"descriptors": float(most), "in line": float(still), "waiting": share}


def descriptors() -> int:
    """How many this process has open."""
    return len(os.listdir("/proc/self/fd"))


LIBRARIES = LibraryQuestion(
    name="tasks",
    run=run,
    contenders=(TASKS,),
    quick_contenders=(TASKS,),
    repetitions=1,
    ours=True,
    speed=True,
    measures=(
        Measure(
            "descriptors",
            "",
            f"Tasks: descriptors of one program in which {TASKS} tasks wait for a slot",
            (Beside("in line", "in line"), Beside("its CPU, % of a core", "waiting")),
        ),
    ),
)
