"""What the rules of the pool were at any time: its cap, the head start, and pauses, as far as marks tell.

Whoever sets a rule marks before and after. In between, the rule before it may be in force or the new one; if
it is killed meanwhile, that is not known until somebody else has set the same rule. So what is asked here is
what *may* have been in force, and what *surely* was: a referee is to be sure.
"""

from __future__ import annotations

from bench.abuse import marks
from bench.abuse.builds import NEVER, S

MS = 10**6
HEAD_START_MS = 300_000
"""What a head start is worth where the rules do not say it."""
MOST_PAUSES = 4
"""So many pauses are kept in the file, and count for a wait that they were in."""
FORGET_NS = 60 * S
"""How long a rule is remembered that is no more in force."""


class Write:
    """A rule that somebody has set, between `begin` and `end`; not for sure unless `done`."""

    __slots__ = ("begin", "done", "end", "value")

    def __init__(self, begin: float, value: int) -> None:
        self.begin = begin
        self.end = NEVER
        self.done = False
        self.value = value

    def ends(self, ns: float, *, done: bool) -> None:
        """It was set by then, or not at all unless it is `done`."""
        self.end, self.done = ns, done


class Rule:
    """One rule of the pool; `value` without a word of the pool."""

    def __init__(self, value: int) -> None:
        self._default = value
        self.writes: list[Write] = []
        self.begins(-NEVER, value).ends(-NEVER, done=True)

    def begins(self, ns: float, value: int | None) -> Write:
        """Somebody begins to set it; None takes it back."""
        self.writes.append(Write(ns, self._default if value is None else value))
        return self.writes[-1]

    def may_count(self, since: float, until: float) -> list[Write]:
        """What may have been in force at some time in between."""
        last = max(w.begin for w in self.writes if w.done and w.end <= since)  # that surely came
        return [w for w in self.writes if w.begin <= until and w.end >= last]

    def values(self, since: float, until: float) -> set[int]:
        """The values that may have been in force at some time in between."""
        return {w.value for w in self.may_count(since, until)}

    def tidy(self, now: float) -> None:
        """Forget what has long not been in force."""
        self.writes = self.may_count(now - FORGET_NS, NEVER)


class Rules:
    """All rules of the pool."""

    def __init__(self) -> None:
        self.slots = Rule(0)
        self.head_start = Rule(HEAD_START_MS)
        self._pause = Rule(0)
        self._erased: list[Write] = []

    def begins(self, event: marks.Event) -> list[Write]:
        """Somebody begins to set a rule, or to make a file that is none."""
        if event.a == marks.TORN:
            return self.is_erased(event.ns)
        rule = {marks.SLOTS: self.slots, marks.HEAD_START: self.head_start, marks.PAUSE: self._pause}[event.a]
        return [rule.begins(event.ns, event.c)]

    def is_erased(self, ns: float) -> list[Write]:
        """Somebody begins to remove all of them."""
        writes = [rule.begins(ns, None) for rule in (self.slots, self.head_start, self._pause)]
        self._erased.append(writes[0])
        return writes

    def tidy(self, now: float) -> None:
        """Forget what no judgement needs any more."""
        for rule in (self.slots, self.head_start, self._pause):
            rule.tidy(now)
        self._erased = [w for w in self._erased if w.end > now - FORGET_NS]

    def caps(self, own: int, since: float, until: float) -> list[int]:
        """What the cap of a caller may have been that has said `own`; less than 0: its default."""
        said = self.slots.values(since, until)
        return [min(own, s or own) if own >= 0 else s or -own for s in said]

    def starts_us(self, priority: int, since: float, until: float) -> tuple[int, int]:
        """The least and the largest head start that there may have been for a priority, in µs."""
        starts = [priority * ms * 1000 for ms in self.head_start.values(since, until)]
        return min(starts), max(starts)

    def surely_paused(self, since: float, until: float) -> bool:
        """Whether nobody was to start in all that time."""
        return all(w.value and w.begin + w.value * MS >= until for w in self._pause.may_count(since, until))

    def maybe_paused(self, since: float, until: float) -> bool:
        """Whether there may have been a pause at some time in between."""
        return any(w.value and w.end + w.value * MS >= since for w in self._pause.may_count(since, until))

    def most_paused(self, since: float, until: float) -> float:
        """For how long, of that time, there was a pause at most."""
        spans = []
        for w in self._pause.writes:
            if w.value:
                over = min([o.end for o in self._pause.writes if o.done and o.begin > w.end], default=NEVER)
                spans.append((max(since, w.begin), min(until, over, w.end + w.value * MS)))
        paused = 0.0
        for begin, end in sorted(spans):
            paused += max(0.0, end - max(begin, since))
            since = max(since, end)
        return paused

    def least_paused(self, since: float, until: float) -> float:
        """For how long, of that time, there was a pause for sure, of which the file told until its end."""
        if any(w.begin <= until and w.end >= since for w in self._erased):
            return 0.0
        paused = 0.0
        for w in [w for w in self._pause.writes if w.value][-MOST_PAUSES:]:
            others = (o.begin for o in self._pause.writes if o is not w and o.end >= w.begin)
            end = min([w.begin + w.value * MS, *others])
            if w.done:
                paused += max(0.0, min(until, end) - max(since, w.end))
        return paused
