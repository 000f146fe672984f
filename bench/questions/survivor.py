"""Who has the slot after `kill -9` of the wrapper, while its command runs on?"""

from __future__ import annotations

import os
import time
from typing import TYPE_CHECKING

from bench.kit.crowds import has_reader
from bench.kit.question import Beside, CommandCase, CommandQuestion, Measure, Values
from bench.questions.handover import start_cost_s

if TYPE_CHECKING:
    from bench.kit.crowds import Commands

FREE_S = 2.0
"""How soon a slot must be free when the command of a killed wrapper has ended."""


def run(case: CommandCase) -> Values:
    """One slot; the wrapper is killed while its command runs and another waits.

    100 for yes: whether nobody else runs while the command does; whether the one that waits (or, if that is
    through already, another) runs soon after the command has ended.
    """
    with case.crowd(1) as crowd:
        wrapper, gate = crowd.hold(0)
        crowd.start_recorder(1, 0.0)
        time.sleep(0.5 + 2 * start_cost_s(case))
        wrapper.kill()
        wrapper.wait()
        time.sleep(0.2)
        lives = has_reader(gate)
        time.sleep(0.8)
        kept = not crowd.recorded()
        os.close(gate)
        if not kept:
            crowd.start_recorder(2, 0.0)
        free = appears(crowd, "1" if kept else "2", FREE_S)
    return {"lives": 100.0 * lives, "kept": 100.0 * (kept or not lives), "free": 100.0 * free}


def appears(crowd: Commands, wanted: str, within_s: float) -> bool:
    """Whether `wanted` has run, in time."""
    until = time.monotonic() + within_s
    while time.monotonic() < until:
        if any(span.name == wanted for span in crowd.recorded()):
            return True
        time.sleep(0.01)
    return False


COMMANDS = CommandQuestion(
    name="survivor",
    run=run,
    measures=(
        Measure(
            "kept",
            "% of kills",
            "After `kill -9` of the wrapper: the slot stays taken while its command runs on",
            (
                Beside("free within 2 s after it ended, %", "free"),
                Beside("the command lived on, %", "lives"),
            ),
            limit=100.0,
            higher=True,
        ),
    ),
)
