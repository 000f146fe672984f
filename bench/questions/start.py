"""What does a build pay for its slot when one is free?"""

from __future__ import annotations

import time

from bench.kit.peers import BARE, OURS
from bench.kit.question import CommandCase, CommandQuestion, Measure, Values

STARTS = 5
"""In a row, by one peer, before it is another's turn."""


def seconds(case: CommandCase, count: int) -> list[float]:
    """How long `PEER true` takes from its start to its end, with nobody else there.

    One start before, which makes the pool, does not count. The bare interpreter runs `pass` instead.
    """
    what = () if case.command.name.startswith(BARE) else ("true",)
    took = []
    with case.crowd(0 if case.command.name.startswith(OURS) else 1) as crowd:
        for _ in range(count + 1):
            began = time.perf_counter()
            crowd.start(*what).wait()
            took.append(time.perf_counter() - began)
        crowd.ended()
    return took[1:]


def run(case: CommandCase) -> Values:
    """The starts, in ms."""
    return {"start": [took * 1e3 for took in seconds(case, STARTS)]}


COMMANDS = CommandQuestion(
    name="start",
    run=run,
    repetitions=20,
    quick_repetitions=4,
    speed=True,
    measures=(
        Measure("start", "ms", "Start: `PEER true` with a free slot, from its start to its end", limit=BARE),
    ),
)
