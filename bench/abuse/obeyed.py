"""Whether the rules of the pool are obeyed: nobody starts in a pause, and the cap is the one in force.

A rule counts for whoever decides RULES_NS after it was set, or later. Who decided before that may have read
the rule before it, and who runs goes on in any case.
"""

from __future__ import annotations

import time
from collections import deque

from bench.abuse import marks
from bench.abuse.builds import S
from bench.abuse.ruled import HEAD_START_MS, MS

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    from bench.abuse.builds import Hold, Process
    from bench.abuse.ledger import Ledger
    from bench.abuse.look import Look

RULES_NS = S // 5
"""How long after a rule was set somebody may still decide by the one before."""
COMMAND_NS = 1 * S
"""How long before its first mark the command of a `slot-run` may have got its slot."""
MUTEXES_NS = 2 * S
"""How long one build spends on the mutex in all, where somebody is stopped with it; and who starts beyond the
cap has asked for a pause before that."""


class Obeyed:
    """Judges that of one run.

    Args:
        ledger: What is known of it.
        violation: Is told what is wrong: its kind, a text, and whom it concerns.
        slack_ns: How much longer everything may take because the machine is loaded.
    """

    def __init__(self, ledger: Ledger, violation: Callable[..., None], slack_ns: int) -> None:
        self._ledger = ledger
        self._rules = ledger.rules
        self._violation = violation
        self._slack_ns = slack_ns
        self._read: deque[tuple[int, int, tuple[int, int, bool] | None]] = deque()

    def _decided(self, hold: Hold) -> tuple[int, int]:
        """Between which times it was decided, at the earliest and at the latest."""
        if hold.decided_itself:
            return hold.before, hold.before
        return max(hold.before, hold.start - COMMAND_NS - self._slack_ns), hold.start

    def cap(self, hold: Hold) -> int:
        """The largest cap by which it may have been decided."""
        since, until = self._decided(hold)
        return max(self._rules.caps(hold.cap, since - RULES_NS, until))

    def judge_start(self, hold: Hold) -> None:
        """Whether it started in a pause."""
        since, until = self._decided(hold)
        if hold.how == marks.OVERFLOW and self._ledger.were_stopped(since - MUTEXES_NS, hold.start):
            return  # it may have waited for the mutex since it asked
        if not hold.owner.clock_us and self._rules.surely_paused(since - RULES_NS, until):
            self._violation("starts in a pause", str(hold), hold.owner)

    def judge_timeout(self, kind: str, ns: int, call: marks.Event, process: Process) -> None:
        """Whether it gave up waiting before its timeout, in which pauses do not count."""
        paused = 0.0 if process.clock_us else self._rules.least_paused(call.ns, ns)
        if paused:
            paused -= RULES_NS + MUTEXES_NS * self._ledger.were_stopped(call.ns, ns)
        early = call.ns + call.c + max(0.0, paused) - ns
        if early > 0:
            text = f"process {process.pid} gave up waiting {early / S:.3f} s before its timeout"
            self._violation(kind, text, process)

    def limit(self, ticket: str, look: Look) -> int:
        """Below how many held slots its owner may start, by the rules of now, whatever its name says."""
        record, now = look.record(ticket), time.monotonic_ns()
        limits = []
        for slots in self._rules.slots.values(now, now):
            caps = [cap for cap in (record.get("own"), slots) if cap]
            if caps:
                limits.append(max(1, min(caps) - record.get("weight", 1) + 1))
        # Nobody but its owner knows a default.
        return min(limits, default=0) or int(ticket.partition("-")[2])

    def read(self, look: Look) -> None:
        """Note what the file says."""
        since, found = time.monotonic_ns(), look.rules()
        self._read.append((since, time.monotonic_ns(), found))

    def judge_file(self, until: int) -> None:
        """Whether the file has said what somebody had set, and whoever wanted to set something could."""
        rules = self._rules
        while self._read and self._read[0][1] <= until:
            since, at, found = self._read.popleft()
            slots, head_start_ms, paused = found or (0, HEAD_START_MS, False)
            right = slots in rules.slots.values(since, at)
            right &= head_start_ms in rules.head_start.values(since, at)
            if paused:
                right &= rules.maybe_paused(since - MS, at + MS)
            else:
                right &= not rules.surely_paused(since - MS, at + MS)
            if not right:
                self._violation("lost rules", f"the file says {found} at {at / S:.4f}")
        while self._ledger.failed and self._ledger.failed[0][1] <= until:
            write, ns, process = self._ledger.failed.popleft()
            removed = any(begin <= ns and end >= write.begin for begin, end in self._ledger.removals)
            if not removed and not self._ledger.were_stopped(write.begin, ns):
                self._violation("lost rules", f"process {process.pid} could not set one", process)
