"""Do builds start in the order in which they come? Thirty of them, 20 ms apart, on three slots."""

from __future__ import annotations

import subprocess
import time
from typing import TYPE_CHECKING

from bench.kit.question import (
    SLOTS,
    Beside,
    CommandCase,
    CommandQuestion,
    LibraryCase,
    LibraryQuestion,
    Measure,
    Values,
)
from bench.kit.spans import Span, gaps_s, inversions, over

if TYPE_CHECKING:
    from collections.abc import Callable

ARRIVALS, EVERY_S, HOLD_S = 30, 0.020, 0.2


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


def seen(spans: list[Span], slots: int) -> Values:
    """What one sees of arrivals one after the other."""
    return {
        "inversions": float(inversions([int(span.name) for span in spans])),
        "wall": (max(span.end for span in spans) - spans[0].start) / 1e9,
        "over": over(spans, slots),
        "gap": [round(gap * 1e3, 3) for gap in gaps_s(spans, slots)],
    }


def commands(case: CommandCase) -> Values:
    """Where there is only one slot each holds it a third of the time."""
    slots = case.slots()
    with case.crowd(slots) as crowd:
        hold_s = HOLD_S * slots / SLOTS
        arrive(lambda who: crowd.start_recorder(who, hold_s), case.setting.contenders, EVERY_S)
        return seen(crowd.ended(), slots)


def library_calls(case: LibraryCase) -> Values:
    """The same of library calls."""
    with case.workers(SLOTS, HOLD_S) as workers:
        workers.begin(EVERY_S)
        workers.wait()
        return seen(workers.spans(), SLOTS)


UNIT = f"of {ARRIVALS * (ARRIVALS - 1) // 2}"
BESIDE = (
    Beside("wall, s", "wall"),
    Beside("gap p50, ms", "gap"),
    Beside("most over the cap", "over", 1.0),
)
COMMANDS = CommandQuestion(
    name="order",
    run=commands,
    contenders=(ARRIVALS,),
    quick_contenders=(ARRIVALS,),
    measures=(
        Measure(
            "inversions",
            UNIT,
            f"Order: {ARRIVALS} commands come {EVERY_S * 1e3:.0f} ms apart on {SLOTS} slots, held {HOLD_S} s"
            " (flock: one slot, a third of that); pairs that started the other way round",
            BESIDE,
        ),
    ),
)
LIBRARIES = LibraryQuestion(
    name="order",
    run=library_calls,
    slots=SLOTS,
    contenders=(ARRIVALS,),
    quick_contenders=(ARRIVALS,),
    measures=(Measure("inversions", UNIT, "Order: the same of library calls", BESIDE),),
)
