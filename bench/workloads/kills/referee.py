"""The referee, a process of its own: looks at the destinations all the time, and judges when all is over.

    python -m bench.workloads.kills.referee SCRATCH SLOTS

It ends when its stdin does, and writes SCRATCH/verdict: for each rule how much there is against it, what that
is, and what else was counted.
"""

from __future__ import annotations

import json
import os
import select
import sys
import time
from collections import Counter
from pathlib import Path

from bench.workloads.kills import look
from bench.workloads.kills.plans import PLANS, destinations
from bench.workloads.kills.rules import RULES, judge
from bench.workloads.kills.story import NEVER, Story

LOOK_S = 0.003
READ_S = 0.1
"""How often records are read: they are removed when there are many newer ones."""
SETTLE_S = 2.0
"""How long what was there at the end may take to vanish."""
SHOWN = 8
"""So many of what is against one rule are shown."""


class Referee:
    """Judges one run of the bench.

    Args:
        scratch: Its directory.
        slots: K.
    """

    def __init__(self, scratch: str, slots: int) -> None:
        self.problems: list[str] = []
        self.against = Counter[str]()
        self.counts = Counter[str]()
        self.story = Story(scratch)
        self._scratch = scratch
        self._slots = slots
        self._can_exchange = look.can_exchange(scratch)
        self._seen = {path: (plan, look.NOTHING) for plan in PLANS for path in destinations(plan, scratch)}

    def watch(self) -> None:
        """Look at everything, again and again, until stdin has ended."""
        read_at = 0.0
        while not select.select([sys.stdin], [], [], LOOK_S)[0]:
            self.look()
            if time.monotonic() >= read_at:
                self.story.read_records()
                read_at = time.monotonic() + READ_S

    def look(self) -> None:
        """Look at each destination once."""
        for path, (plan, before) in self._seen.items():
            self.counts["looks at destinations"] += 1
            try:
                now = look.generation(path)
            except look.HalfError as error:
                self.tell("half", str(error), plan, time.monotonic_ns())
                continue
            if now == before:
                continue
            if now == look.NOTHING:
                if self._can_exchange:
                    self.tell("missing", f"{path}, which was {before}", plan, time.monotonic_ns())
            elif now < before and plan != "whole":
                self.tell("back", f"{path} from {before} to {now}", plan, time.monotonic_ns())
            self.counts["changes of destinations"] += 1
            self._seen[path] = plan, now

    def judge(self) -> None:
        """Judge what has happened, when nothing runs any more."""
        deadline = time.monotonic() + SETTLE_S
        while (left := look.left(self._scratch)) and time.monotonic() < deadline:
            time.sleep(0.05)
        self.look()
        for text in left:
            self.tell("left", text, "", NEVER)
        self.story.read_all()
        self.counts += judge(self.story, self._slots, self.tell)
        if not self._can_exchange:
            self.problems.append(
                "no two directories can be exchanged here: nothing can be said of missing ones"
            )

    def tell(self, rule: str, text: str, plan: str, when: int) -> None:
        """Note what is against `rule`."""
        self.against[rule] += 1
        if self.against[rule] <= SHOWN:
            at = "at the end" if when == NEVER else f"at {when / 1e9:.4f}"
            self.problems.append("\n".join([f"{RULES[rule]}, {at}: {text}", *self._context(plan, when)]))

    def _context(self, plan: str, when: int) -> list[str]:
        """The last lines of the ledger that concern `plan`; those of now, while it is being watched."""
        if self.story.executions or not plan:
            return [f"    {line}" for line in self.story.last(plan, when)]
        lines = Path(self._scratch, "ledger").read_text().splitlines()
        return [f"    {line}" for line in lines if line.split("\t")[1:2] == [plan]][-6:]


def main() -> None:
    """Watch, judge, and write what came of it."""
    scratch, slots = sys.argv[1:]
    referee = Referee(scratch, int(slots))
    referee.watch()
    referee.judge()
    verdict = {"against": referee.against, "counts": referee.counts, "problems": referee.problems}
    path = os.path.join(scratch, "verdict")
    Path(path).write_text(json.dumps(verdict))


if __name__ == "__main__":
    main()
