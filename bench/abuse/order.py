"""The order of starts: by the numbers of tickets, which are those of arrival less a head start.

Of two builds with one priority the one that came first is first. Of two with different ones it is the one
with the smaller number, also if that joined later, and so before the other. Then it has knocked at the other,
which may have been taking a slot at that moment, but not begin to take one later.

Those of a crowd have tickets that nobody can tell from each other. Their numbers are somewhere between what
the clock was when they called, and when they had a place, less their head start. Unless one of their own
stands before them, and has a larger number because it had to wait for the mutex. Or something was odd,
somebody stopped, or another head start: then one ahead of them in line may have a larger one.
"""

from __future__ import annotations

import time

from bench.abuse.builds import NEVER, S

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from bench.abuse import marks
    from bench.abuse.builds import Hold, Wait
    from bench.abuse.ledger import Ledger

TAKING_NS = 3 * S // 10
"""How long before it asks for the lock of its slot somebody may have looked whether it is the head."""
MUTEX_NS = 1 * S
"""How long order is inexact before another file has taken the place of the mutex, and after that: who could
not have it for a second has put that there, and its owner may be about to join the line."""
STOPPED_NS = 2 * S
"""How much longer before, if somebody was stopped: who overtakes needs the mutex, which may be kept."""
ODD_NS = 30 * S
"""How long numbers are odd after a change of the head start: for as long as somebody waits since before."""
NEXT = 1000
"""How far behind another ticket one has a number that comes from that."""
SEEN_NS = 3 * S
"""How long a ticket that was seen in line counts as one that others may have joined behind."""


class Order:
    """Judges the order of one run.

    Args:
        ledger: What is known of it.
        violation: Is told what is wrong: its kind, a text, and whom it concerns.
    """

    def __init__(self, ledger: Ledger, violation: Callable[..., None]) -> None:
        self._ledger = ledger
        self._violation = violation
        self._least_ns = self._most_ns = time.time_ns() - time.monotonic_ns()
        self._seen: dict[int, int] = {}  # numbers of tickets: when they were seen in line
        self._mutex: int | None = None  # the inode of the mutex
        self._seen_at = 0
        self._lost: list[tuple[int, int]] = []  # between which looks another file took the place of that

    def tell_time(self) -> None:
        """Note what the clock says, which tickets are numbered by, against that of the marks."""
        ahead = time.time_ns() - time.monotonic_ns()
        self._least_ns, self._most_ns = min(ahead, self._least_ns), max(ahead, self._most_ns)

    def see(self, names: Iterable[str], mutex: int | None, now: int) -> None:
        """Note which tickets are in line, and which file is the mutex."""
        if mutex is not None and self._mutex not in {None, mutex}:
            self._ledger.counts["mutexes lost"] += 1
            self._lost = [*self._lost[-99:], (self._seen_at, now)]
        self._mutex, self._seen_at = mutex or self._mutex, now
        self._seen = {number: ns for number, ns in self._seen.items() if now - ns < SEEN_NS}
        self._seen |= {int(name.partition("-")[0]): now for name in names}

    def _numbers(self, wait: Wait, since: float, until: float) -> tuple[float, float]:
        """Between which numbers it has one, if it arrived in that time."""
        least_us, most_us = self._ledger.rules.starts_us(wait.priority, since, until)
        least = (since + self._least_ns) / 1000 - most_us
        most = (until + self._most_ns) / 1000 - least_us
        return least + wait.owner.clock_us - 1, most + wait.owner.clock_us + 1

    def judge_ticket(self, wait: Wait, call: marks.Event) -> None:
        """Whether the number of the ticket is that of its arrival less its head start."""
        least, most = self._numbers(wait, call.ns, wait.join)
        number = wait.number
        if number < least or (
            number > most + NEXT and not (self._is_next(wait) or self._may_be_next(wait, call))
        ):
            text = f"{wait} has a number {(number - most) / 1e6:.3f} s larger than its priority makes it"
            self._violation("order violations", text, wait.owner)

    def _is_next(self, wait: Wait) -> bool:
        """Whether its number comes from another ticket, of its own priority as far as that is known."""
        known = {w.number: w.priority for w in self._ledger.waits if w is not wait}
        numbers = {*self._seen, *known}
        return any(
            n < wait.number <= n + NEXT and known.get(n, wait.priority) == wait.priority for n in numbers
        )

    def _may_be_next(self, wait: Wait, call: marks.Event) -> bool:
        """Whether its number may come from a `slot-run`, which had a right clock, or another head start.

        Those leave no marks when they join, and one that is in line for a moment is not seen there.
        """
        least, most = self._numbers(wait, call.ns - SEEN_NS, wait.join)
        return least <= wait.number + wait.owner.clock_us <= most + NEXT

    def judge(self, hold: Hold, call: marks.Event, wait: Wait | None) -> None:
        """Whether it overtook somebody who was in line before it, and still is."""
        until: float = hold.start
        first = 0.0
        if wait is not None and wait.in_crowd:
            first = self._numbers(wait, wait.asked, hold.start)[0]
        elif wait is not None:
            until, first = wait.left, wait.number
        for other in self._ledger.waits:
            if other.leave <= until or other is wait or not self._is_before(other, hold, call, wait, first):
                continue
            since = min(call.ns, other.called)
            removed = any(begin <= until and end >= since for begin, end in self._ledger.removals)
            removed |= any(b - MUTEX_NS <= until and e + MUTEX_NS >= since for b, e in self._lost)
            if not removed and not other.owner.was_stopped(other.join, until):
                text = f"{hold} ({wait or 'who has no ticket that is known'}) overtook {other}"
                self._violation("order violations", text, hold.owner, other.owner)

    def _is_before(self, other: Wait, hold: Hold, call: marks.Event, wait: Wait | None, first: float) -> bool:
        """Whether `other` is before whoever has `hold`, by a number from `first` on, and that knew of it."""
        # It has the mutex when it gets its number and joins, but those in memory get theirs without.
        mutex = wait is not None and not wait.in_crowd and not other.in_crowd
        came_first = other.join < (wait.join if mutex and wait is not None else call.ns)
        if wait is None:
            return came_first  # and it was in line: a newcomer would have had to wait
        if other.priority == wait.priority:
            if mutex:
                return came_first and (other.number < wait.number or not wait.again)
            crowded = other.in_crowd or wait.priority != 0  # whose numbers a head start may have changed
            return came_first and (not crowded or self._is_surely_less(other, wait, hold, first))
        if not came_first:
            ready = max(other.join, other.ready)
            if ready + TAKING_NS >= hold.before or self._last(other) >= first:
                return False
            stopped = self._ledger.were_stopped(ready, hold.start)
            came_first = ready + TAKING_NS + STOPPED_NS * stopped < hold.before
        less = came_first and self._last(other) < first
        return less and (not other.in_crowd or self._is_surely_less(other, wait, hold, first))

    def _is_surely_less(self, other: Wait, wait: Wait, hold: Hold, first: float) -> bool:
        """Whether nothing odd has given `other` a larger number than `first`."""
        if other.in_crowd and self._largest(other) >= first:
            return False
        return self._is_settled(other, wait, hold.start)

    def _largest(self, wait: Wait) -> float:
        """The largest number of one in a crowd, or of those of its crowd behind which it may have to wait.

        By their arrival, less their head start, they come before it; but they may have waited for the mutex,
        and their tickets have the numbers of later.
        """
        last = largest = self._last(wait)
        for mate in self._ledger.waits:
            if (
                mate.owner is wait.owner
                and mate.priority != wait.priority
                and mate.leave > wait.asked
                and self._numbers(mate, mate.asked, mate.ready)[0] <= last
            ):
                largest = max(largest, self._last(mate))
        return largest

    def _last(self, wait: Wait) -> float:
        """The largest number that it may have."""
        if not wait.in_crowd:
            return wait.number
        if wait.join == NEVER:
            return NEVER
        if wait.last is None:
            wait.last = self._numbers(wait, wait.asked, wait.join)[1] + NEXT
        return wait.last

    def _is_settled(self, one: Wait, other: Wait, until: float) -> bool:
        """Whether nothing was odd since the crowds of the two began to wait."""
        since = min(one.called, other.called) - ODD_NS
        return len(self._ledger.rules.head_start.values(since, until)) == 1 and not self._ledger.were_stopped(
            since, until
        )
