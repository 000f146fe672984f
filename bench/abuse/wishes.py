"""Wishes: what a build asks for."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from bench.abuse import marks
from buildslots.settings.machine import machine_cap

if TYPE_CHECKING:
    import random

DEFAULT_CAP = machine_cap().slots
MODES = (
    *(marks.EVER,) * 11,
    *(marks.ONCE,) * 3,
    *(marks.FAIL,) * 3,
    marks.RUN,
    marks.PACED,
)


class Wish(NamedTuple):
    """What is asked for; `mode` is one of `marks`; `cap` is less than 0 if nothing is said of it."""

    cap: int
    weight: int
    mode: int
    timeout_s: float | None
    priority: str

    @property
    def slots(self) -> int | None:
        """The cap in the words of the library."""
        return self.cap if self.cap > 0 else None

    @property
    def on_timeout(self) -> str:
        """The same in the words of the library."""
        return {marks.RUN: "run", marks.PACED: "paced"}.get(self.mode, "fail")

    def mark(self, ring: marks.Ring, task: int = 0) -> None:
        """Mark the CALL for it."""
        timeout_ns = -1 if self.timeout_s is None else int(self.timeout_s * 1e9)
        priority = {"high": 1, "low": -1}.get(self.priority, 0)
        ring.mark(marks.CALL, self.cap, self.weight, timeout_ns, self.mode, task, priority)


def any_cap(rng: random.Random, slots: int) -> int:
    """A cap of most of `slots`, or about that; or the default, as a CAP of `marks`."""
    return rng.choice((*(slots,) * 8, max(1, slots - 1), slots + 1, -DEFAULT_CAP))


def any_weight(rng: random.Random, cap: int) -> int:
    """Nearly always 1."""
    return rng.randint(1, abs(cap)) if rng.random() < 0.2 else 1


def any_priority(rng: random.Random, share: float) -> str:
    """One that is not normal for such a share of the builds."""
    return rng.choice(("high", "low")) if rng.random() < share else "normal"


def any_wish(rng: random.Random, slots: int, priorities: float, *, patient: bool) -> Wish:
    """A wish for some of about `slots`; for ever if `patient`."""
    cap = any_cap(rng, slots)
    mode = marks.EVER if patient else rng.choice(MODES)
    timeout_s = {marks.ONCE: 0.0, marks.EVER: None}.get(mode, rng.uniform(0.05, 0.8))
    priority = "normal" if mode == marks.ONCE else any_priority(rng, priorities)
    return Wish(cap, any_weight(rng, cap), mode, timeout_s, priority)
