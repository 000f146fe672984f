"""Whatever order processes take their steps in, wherever they are paused or killed: hypothesis makes it up.

`EXAMPLES=50` in the environment tries 50 times as much, see `examples`. The model (`test_model`) looks at all
orders, but at few processes and at a model; this looks at some, at the real thing.
"""

from __future__ import annotations

import os
import shutil
import tempfile
import time
from typing import Any

from actors import Actor
from builds import wait_until
from examples import tried
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from buildslots import SlotPool
from buildslots.disk import lock

ACTORS, LARGEST_CAP, FILES = 4, 2, 4
AWAKE_S = 0.5
"""Whoever was told to step so recently is not asleep for those behind it."""

actors = st.integers(0, ACTORS - 1)
pauses = st.one_of(st.just(0), st.just(0), st.just(0), st.integers(1, 40))
numbers = st.integers(0, FILES - 1)
arrivals = st.fixed_dictionaries(
    {
        "cap": st.integers(1, LARGEST_CAP),
        "weight": st.sampled_from([1, 1, 2]),
        "timeout": st.sampled_from([None, None, None, 0.0, 0.002]),
        "on_timeout": st.sampled_from(["run", "fail"]),
    }
)


class Interleavings(RuleBasedStateMachine):
    """Some actors, a foreign program that locks slots, and somebody who removes files."""

    def __init__(self) -> None:
        super().__init__()
        self.above = tempfile.mkdtemp()
        self.dir = os.path.join(self.above, "pool")
        self.foreign: dict[int, int] = {}
        self.torn = False  # whether a ticket may be gone without its bell, which then nobody removes
        self.actors = [Actor(self.dir) for _ in range(ACTORS)]
        self.limits = [0] * ACTORS
        self.stepped = [0.0] * ACTORS

    def teardown(self) -> None:
        try:
            self._settle()
        finally:
            for actor in self.actors:
                actor.kill()
            for fd in self.foreign.values():
                os.close(fd)
            shutil.rmtree(self.above)

    # What happens.

    @initialize(
        who=st.permutations(range(ACTORS)), caps=st.lists(st.integers(1, LARGEST_CAP), min_size=ACTORS)
    )
    def some_have_come(self, who: list[int], caps: list[int]) -> None:
        for number, cap in zip(who, caps, strict=False):
            self._arrive(number, cap=cap, weight=1, timeout=None, on_timeout="run")

    @rule(who=actors, goes_on=st.booleans(), pause=pauses, arrival=arrivals)
    def move(self, who: int, goes_on: bool, pause: int, arrival: dict[str, Any]) -> None:
        """It does what comes next for it."""
        actor = self.actors[who]
        if actor.at == "out":
            self._arrive(who, pause=pause, **arrival)
        elif actor.at == "waiting":
            self._do(who, "step", pause)
        elif actor.at == "holding":
            self._do(who, "release", pause)
        elif goes_on:
            actor.go_on()

    move_too = move_as_well = move_again = move

    @rule(who=actors)
    def kill(self, who: int) -> None:
        self.torn |= self.actors[who].at == "paused"
        self.actors[who].kill()
        self.actors[who] = Actor(self.dir)

    @rule(number=numbers)
    def lock_by_another_program(self, number: int) -> None:
        if number in self.foreign:
            fd = self.foreign.pop(number)
            lock.unlock(fd)  # actors that were forked meanwhile have copies
            os.close(fd)
        elif os.path.isdir(self.dir) and (fd := lock.lock_file(f"{self.dir}/slot-{number}") or -1) >= 0:
            self.foreign[number] = fd

    @rule(
        what=st.sampled_from(
            ["", "", "bells", "queue", "holders", "mutex", *map("bells/slot-{}".format, range(4))]
        )
    )
    def remove(self, what: str) -> None:
        """The whole pool, or something in it."""
        self.torn |= what == "queue"
        path = os.path.join(self.dir, what)
        if os.path.isdir(path):
            shutil.rmtree(path)
        elif os.path.exists(path):
            os.unlink(path)

    @rule()
    def look(self) -> None:
        """Status makes nobody wait, and tells what is so, but for those in the middle of a step."""
        if any(actor.at == "paused" for actor in self.actors):
            return
        held = {n for holder in SlotPool(dir=self.dir).status().holders for n in holder.slots}
        assert held == self._held()

    # What must be so.

    @invariant()
    def never_more_than_the_cap(self) -> None:
        held = sum(
            len(self._named(a.about)) for a in self.actors if a.at == "holding" and not a.about["overflow"]
        )
        assert held <= LARGEST_CAP

    def _arrive(self, who: int, *, cap: int, weight: int, pause: int = 0, **arrival: object) -> None:
        self.actors[who].disturbed = False
        self.limits[who] = cap - min(weight, cap) + 1
        self._do(who, "arrive", pause, cap=cap, weight=weight, **arrival)

    def _do(self, who: int, command: str, pause: int, **arguments: object) -> None:
        """Tell an actor what to do; if it has a slot then, see whether it may have that one."""
        actor, held = self.actors[who], self._held()
        ticket = actor.about.get("ticket", "~")
        self.stepped[who] = time.monotonic()
        actor.tell(command, pause=pause, **arguments)
        self.stepped[who] = time.monotonic()
        if actor.at != "holding" or any(other.at == "paused" for other in self.actors):
            return
        if actor.about["overflow"]:
            return
        taken = actor.about["numbers"]
        assert len(held) < self.limits[who], (held, taken)
        lowest = [n for n in range(FILES + LARGEST_CAP) if n not in held]
        assert taken == lowest[: len(taken)], (held, taken)
        for other, its in enumerate(self.actors):
            if its.at == "waiting" and not its.disturbed and not actor.disturbed:
                before = its.about["ticket"] < ticket and os.path.exists(
                    f"{self.dir}/queue/{its.about['ticket']}"
                )
                awake = time.monotonic() - self.stepped[other] < AWAKE_S
                assert not (before and awake), (its.about, ticket)

    def _held(self) -> set[int]:
        """The numbers of the slots that are held, as far as the actors have told."""
        held = {n for a in self.actors if a.at == "holding" for n in self._named(a.about)}
        return held | set(
            self._named({"numbers": self.foreign, "inodes": map(_inode, self.foreign.values())})
        )

    def _named(self, about: dict[str, object]) -> list[int]:
        """Those of the slots whose files still have their names: others count no more."""
        named = []
        for number, inode in zip(about["numbers"], about["inodes"], strict=True):  # type: ignore[call-overload]
            try:
                if os.stat(f"{self.dir}/slot-{number}").st_ino == inode:
                    named.append(number)
            except FileNotFoundError:
                pass
        return named

    def _settle(self) -> None:
        """When nothing more happens, whoever can run does; and when all have run, nothing is left."""
        for actor in self.actors:
            while actor.at == "paused":
                actor.go_on()
        wait_until(self._all_run_that_can, "all run that can")
        for number in list(self.foreign):
            self.lock_by_another_program(number)
        wait_until(self._all_have_run, "all have run")
        SlotPool(dir=self.dir, slots=1).acquire(timeout=0, on_timeout="fail").release()
        assert os.listdir(f"{self.dir}/queue") == []
        if not self.torn:
            assert [name for name in os.listdir(f"{self.dir}/bells") if not name.startswith("slot-")] == []

    def _all_run_that_can(self) -> bool:
        for actor in self.actors:
            if actor.at == "waiting":
                actor.tell("step")
        line = sorted(
            (a.about["ticket"], limit)
            for a, limit in zip(self.actors, self.limits, strict=True)
            if a.at == "waiting"
        )
        return not line or len(self._held()) >= line[0][1]

    def _all_have_run(self) -> bool:
        for actor in self.actors:
            if actor.at in {"waiting", "holding"}:
                actor.tell("step" if actor.at == "waiting" else "release")
        return all(actor.at == "out" for actor in self.actors)


def _inode(fd: int) -> int:
    return os.fstat(fd).st_ino


Interleavings.TestCase.settings = tried(80, stateful_step_count=30)


class TestInterleavings(Interleavings.TestCase):  # type: ignore[misc, name-defined]
    """Bound, order, the lowest slot, and an end for all."""
