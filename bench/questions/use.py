"""How much of the time of three slots is used, and how evenly, when many want them again and again?"""

from __future__ import annotations

import statistics
import time
from typing import TYPE_CHECKING

from bench.kit.crowds import Failed
from bench.kit.question import SLOTS, Beside, LibraryCase, LibraryQuestion, Measure, Values
from bench.kit.spans import over

if TYPE_CHECKING:
    from bench.kit.workers import Hold

HOLD_S = 0.010
PAUSE_S = 0.150
"""Without a pause a poller that takes its own slot again looks best, and starves the rest."""
BEGIN_S = 0.012
"""For each contender so long before it is watched: all join at once, on cores that are busy."""


def run(case: LibraryCase) -> Values:
    """All begin at once, get some time to do so, and are watched then, for two turns of all at least.

    Waits that have not ended by then count with their length so far: who starves is not left out.
    """
    count, pause_s = case.setting.contenders, case.setting.pause_s
    turn_s = max(count * HOLD_S / SLOTS, HOLD_S + pause_s)
    watched_s = max(2.2 * turn_s, 0.7 if case.setting.quick else 1.5)
    with case.workers(SLOTS, HOLD_S, again=True) as workers:
        workers.begin()
        time.sleep(0.02 + count * BEGIN_S)
        watched = time.monotonic_ns()
        time.sleep(watched_s)
        ended = time.monotonic_ns()
        workers.check()
        holds, spans = workers.holds(), workers.spans()
    if not holds[0].got:
        raise Failed("nobody got a slot")
    return {
        "use": used(holds, watched, ended),
        "spread": spread(holds, ended),
        "over": over(spans, SLOTS),
    }


def used(holds: list[Hold], began: int, ended: int, slots: int = SLOTS) -> float:
    """How much of the slots' time was held, in percent."""
    spans = [(hold.got, hold.ended or ended) for hold in holds if hold.got]
    held = sum(max(0, min(end, ended) - max(start, began)) for start, end in spans)
    return held / (slots * (ended - began)) * 100


def spread(holds: list[Hold], ended: int) -> float:
    """The longest wait by the mean wait."""
    waits = [(hold.got or max(ended, hold.wanted)) - hold.wanted for hold in holds]
    return max(waits) / statistics.mean(waits)


LIBRARIES = LibraryQuestion(
    name="use",
    run=run,
    slots=SLOTS,
    contenders=(64, 256),
    quick_contenders=(64,),
    pauses_s=(0.0, PAUSE_S),
    speed=True,
    measures=(
        Measure(
            "use",
            "%",
            f"Use: {SLOTS} slots, which all want again after a pause; time held, of all; holds of 10 ms",
            (Beside("longest by mean wait", "spread"), Beside("most over the cap", "over", 1.0)),
            limit=100.0,
            higher=True,
        ),
    ),
)
