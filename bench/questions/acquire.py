"""What do acquire and release cost a program when a slot is free?"""

from __future__ import annotations

import time

from bench.kit.figures import median
from bench.kit.question import LibraryCase, LibraryQuestion, Measure, Values


def run(case: LibraryCase) -> Values:
    """The median of many, in µs; with the journal, as it is by default."""
    rounds = []
    with case.acquire(1) as call:
        for _ in range(200 if case.setting.quick else 1000):
            began = time.perf_counter()
            call()()
            rounds.append(time.perf_counter() - began)
    return {"acquire": median(rounds) * 1e6}


LIBRARIES = LibraryQuestion(
    name="acquire",
    run=run,
    repetitions=10,
    quick_repetitions=2,
    speed=True,
    measures=(Measure("acquire", "µs", "Acquire and release, a free slot", limit="flock(2)"),),
)
