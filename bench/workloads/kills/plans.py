"""The plans of the three batches, generation by generation.

each    stages that are moved one by one; a check of one of them, a flaky task, a need
whole   all or nothing. In some generations a task fails; in some the last of the moves cannot be made
steps   no stages; needs, and a key that a task of `each` has too

A task is another one in each generation: that stands in its command.
"""

from __future__ import annotations

import json
import os
import random
import sys

TASK = os.path.join(os.path.dirname(os.path.abspath(__file__)), "task.py")
PLANS = ("each", "whole", "steps")
STAGED = {"each": ("a", "b", "c", "d"), "whole": ("a", "b", "c"), "steps": ()}
"""The tasks that have stages, but for LATE."""
LATE = "late"
"""What fails, in some generations of `whole`, or stands in the way of its own move."""
KEY = "the key of two batches"
GOOD, ROLLED_BACK = 0, 3
"""The exit statuses that are expected."""


def destinations(plan: str, scratch: str) -> list[str]:
    """Where the stages of `plan` go to."""
    return [os.path.join(scratch, "out", plan, name) for name in STAGED[plan]]


def late(scratch: str) -> str:
    """Where the stage of LATE goes to: a file may stand there, or nothing."""
    return os.path.join(scratch, "out", "whole", LATE)


def how_late(plan: str, generation: int) -> str:
    """What LATE does in `generation`; "" if there is no such task in it."""
    return {2: "fails", 0: "blocks"}.get(generation % 4, "") if plan == "whole" else ""


def expected(plan: str, generation: int) -> tuple[int, ...]:
    """The exit statuses that `plan` may have in `generation`.

    What stands in the way of a move may be gone when the next run completes the moves of a killed one.
    """
    return {"": (GOOD,), "fails": (ROLLED_BACK,), "blocks": (ROLLED_BACK, GOOD)}[how_late(plan, generation)]


def write(plan: str, generation: int, scratch: str, *, seed: int, pace: float) -> str:
    """Write the plan of `generation`: its path. Tasks take `pace` times as long as they usually do."""
    rng = random.Random(f"{seed} {plan} {generation}")
    path = os.path.join(scratch, f"{plan}.toml")
    maker = _Maker(plan, generation, scratch, rng, pace)
    lines = [f'name = "{plan}"', 'timeout = "none"', f"jobs = {rng.choice((2, 3, 8))}"]
    if plan == "whole":
        lines.append("all_or_nothing = true")
    with open(f"{path}.new", "w") as file:
        file.write("\n".join([*lines, *MAKERS[plan](maker)]))
    os.rename(f"{path}.new", path)
    return path


class _Maker:
    """Makes the tables of tasks of one plan."""

    def __init__(self, plan: str, generation: int, scratch: str, rng: random.Random, pace: float) -> None:
        self.plan = plan
        self.generation = generation
        self.scratch = scratch
        self._rng = rng
        self._pace = pace

    def task(self, name: str, *, how: str = "well", serial: str = "", **keys: object) -> str:
        seconds = self._pace * self._rng.choice((0.02, 0.1, 0.2, 0.4, 1.0))
        seen = destinations(self.plan, self.scratch) if self.plan == "whole" else []
        run = [sys.executable, "-ISs", TASK, os.path.join(self.scratch, "ledger"), self.plan]
        run += [str(self.generation), f"{seconds:.3f}", how, serial, ":".join(seen)]
        if serial:
            keys["serial"] = serial
        if name in STAGED[self.plan] or name == LATE:
            keys["stage"] = os.path.join(self.scratch, "out", self.plan, name)
        lines = ["", "[[task]]"]
        lines += [f"{key} = {json.dumps(value)}" for key, value in {"name": name, "run": run, **keys}.items()]
        return "\n".join(lines)


def _each(maker: _Maker) -> list[str]:
    return [
        maker.task("a"),
        maker.task("b", verify='sleep 0.05; test -s "$STAGE/MANIFEST"'),
        maker.task("c", needs=["a"]),
        maker.task("d", serial=KEY),
        maker.task("flaky", how="flaky", retries=1, backoff="50ms", retry_on=[75]),
    ]


def _whole(maker: _Maker) -> list[str]:
    tasks = [maker.task("a"), maker.task("b"), maker.task("plain"), maker.task("c")]
    if how := how_late(maker.plan, maker.generation):
        tasks.append(maker.task(LATE, how=how, needs=["a", "b", "c"]))
    return tasks


def _steps(maker: _Maker) -> list[str]:
    return [
        maker.task("first", serial=KEY),
        maker.task("second", needs=["first"]),
        maker.task("beside"),
        maker.task("third", needs=["second"], serial=KEY),
    ]


MAKERS = {"each": _each, "whole": _whole, "steps": _steps}
