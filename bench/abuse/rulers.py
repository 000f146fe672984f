"""Who decides which rules the pool gets, and when."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, NamedTuple

from bench.abuse import marks

if TYPE_CHECKING:
    import random
    from collections.abc import Callable

PAUSE_S, LONG_PAUSE_S = 1.0, 2.5
"""The longest pauses: now and then, and where rules are what it is about."""
RESUMED = 0.4
"""How many pauses somebody ends before their time."""
HEAD_STARTS_MS = 300_000, 300_000, 300_000, 0
NEVER = float("inf")


class Mix(NamedTuple):
    """What is done beside killing.

    Attributes:
        priorities: How many of those that wait have one.
        rule_changes: How often in a second somebody sets the pool's cap or head start.
        pauses: How often in a second somebody pauses the pool.
    """

    priorities: float
    rule_changes: float
    pauses: float

    @property
    def has_rules(self) -> bool:
        """Whether the pool has rules at all."""
        return self.rule_changes > 0 or self.pauses > 0


class Ruler:
    """Chooses rules, as often as `mix` says.

    Args:
        mix: What is done.
        rng: All that is random comes from it.
        slots: K of most workers.
        set_rule: Has somebody set a rule to a value; a RULE of `marks`.
    """

    def __init__(
        self, mix: Mix, rng: random.Random, slots: int, set_rule: Callable[[int, int], None]
    ) -> None:
        self._mix = mix
        self._random = rng
        self._slots = slots
        self._set = set_rule
        self._resume_at = NEVER

    def maybe_set(self, episode: str, seconds: float) -> None:
        """Set a rule of the pool now and then, pause it, or end a pause before its time."""
        if episode != "rules" and self._random.random() < self._mix.rule_changes * seconds:
            self.change()
        # Whose clock is wrong has other pauses.
        if episode != "clocks" and self._random.random() < self._mix.pauses * seconds:
            self._pause(PAUSE_S)
        if time.monotonic() >= self._resume_at:
            self._resume_at = NEVER
            self._set(marks.PAUSE, 0)

    def maybe_set_slots(self) -> None:
        """Set the cap, if rules are to change."""
        if self._mix.rule_changes:
            # As often as not nothing.
            self._set(marks.SLOTS, self._random.choice((0, self._random.randint(1, self._slots + 1))))

    def change(self, *, pauses: bool = False) -> None:
        """Set one of the pool's rules, or tear the file, or (with `pauses`) pause it."""
        choice = self._random.random()
        if pauses and self._mix.pauses and (choice < 0.3 or not self._mix.rule_changes):
            self._pause(LONG_PAUSE_S)
        elif choice < 0.8:
            self.maybe_set_slots()
        elif choice < 0.95:
            starts_ms = (*HEAD_STARTS_MS, self._random.randint(200, 3000))
            self._set(marks.HEAD_START, self._random.choice(starts_ms))
        else:
            self._set(marks.TORN, 0)

    def _pause(self, longest_s: float) -> None:
        """Pause the pool; it goes on by itself, or somebody says so before."""
        seconds = self._random.uniform(0.05, longest_s)
        self._set(marks.PAUSE, int(seconds * 1000))
        if self._random.random() < RESUMED:
            self._resume_at = time.monotonic() + self._random.uniform(0.0, seconds)
