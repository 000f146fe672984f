"""The referee: whether what happened was allowed. Knows the protocol by its documents, not its code.

Two sources. The marks that processes leave (`marks`) tell what each has done; a mark says `running` only
while that is so (set after `acquire` has returned, taken back before `release` is called; of a killed process
until just before the kill), so what marks say is never too much: an alarm is real. And five times a second
the referee looks at the pool itself: /proc/locks tells which files are locked, and by whom,
without taking any lock that could disturb.

What is not checked, and why:

- Holders before and after a removal of the pool directory are not counted together: they have locks of
  different files, which is all that the protocol promises. Nor is a build that took its slots while the
  removal was under way counted with either.
- The order of tickets among those who were in line during a removal, or on their way to it (they join again
  one by one), and those of whom one was stopped (rule 4 lets others overtake it). Nor that of `slot-run`s,
  which leave no marks when they join; that they are not overtaken is seen as no idle slot.
- Two marks of one process have an instant between them that nobody can know: who was overtaken by less
  than that is not seen. In practice that is the time between two system calls.
"""

from __future__ import annotations

import json
import os
import sys
import time

from bench.abuse import marks
from bench.abuse.ledger import NEVER, Ledger, Process, S
from bench.abuse.look import Look, state

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable

    from bench.abuse.ledger import Hold, Wait
    from bench.abuse.look import Seen

HEAR_S = 0.02
LOOK_NS = S // 5
"""How often the pool is looked at. Not more often: reading /proc/locks stops all locking on the machine for
an RCU grace period (`percpu_down_write` in fs/locks.c), and at 50 times a second builds waited for that."""
SETTLE_NS = 1 * S
"""How old a start is when it is judged: by then everybody has published what they marked before."""
PROBE_NS = S // 2
"""When a slot that looks free is probed by a lock: in a container /proc/locks hides locks of the dead."""
IDLE_NS = 1 * S
"""How long a slot may lie while somebody awake waits for it who may have it."""
SLEEPER_NS = 1 * S, 6 * S // 10
"""How long for each stopped process before that one, and for all together (`disk/wait.py`: 0.5 s until
it glances, 0.1 s until it knocks, 0.5 s more for each place, 0.9 s until the knock counts as unheard)."""
MUTEX_NS = 1 * S
"""How much longer if the mutex was seen with somebody who is stopped."""
LATE_NS = 1 * S
"""How long after its timeout somebody awake may still wait."""
LOST_NS = 1 * S
"""How long a slot may stay locked after the one who locked it has let go or ended."""
SHOWN = 5
"""How many violations of a kind are printed."""


class Referee:
    """Judges one run.

    Args:
        table: Where all mark what they do.
        pool: The directory of the pool.
        slack_s: How much longer everything may take because the machine is loaded.
    """

    def __init__(self, table: marks.Table, pool: str, slack_s: float) -> None:
        self._slack_ns = int(slack_s * S)
        self._ledger = Ledger(self._violation)
        self.counts, self.worst_ns = self._ledger.counts, self._ledger.worst_ns
        self._table = table
        self._seen = table.nothing_seen()
        self._look = Look(pool)
        self._idle: tuple[object, int] = (None, 0)
        self._mutex_stuck = False  # since then
        self._suspects: dict[
            tuple[int, int], int
        ] = {}  # slot inode and pid: since when it should not be locked
        self._reported: set[object] = set()
        self._look_at = self._tidy_at = 0

    def run(self) -> None:
        """Judge until all have come to an end: whoever started us closes our stdin then."""
        os.set_blocking(0, False)
        while not _told_to_end():
            began = time.monotonic()
            self.hear(self._table.news(self._seen))
            now = time.monotonic_ns()
            self.judge(now - SETTLE_NS)
            if now > self._look_at:
                self._look_at = now + LOOK_NS
                self.look(now)
            if now > self._tidy_at:
                self._tidy_at = now + S // 2
                self._find_late(now)
                self._ledger.tidy(now)
            time.sleep(max(0.002, HEAR_S - (time.monotonic() - began)))
        self.hear(self._table.news(self._seen))
        self.judge(time.monotonic_ns())
        for what, path in self._look.left_locked():
            self._violation(
                "lost slots" if what == "slot" else "lost tickets", f"{path} is locked when all have ended"
            )

    def hear(self, events: Iterable[marks.Event]) -> None:
        """Take note of what was marked."""
        self._ledger.hear(events)

    def judge(self, until: int) -> None:
        """Judge all starts up to then."""
        while self._ledger.to_judge and self._ledger.to_judge[0][0].start <= until:
            hold, call, wait = self._ledger.to_judge.popleft()
            self._judge_number(hold)
            if call is not None and not hold.owner.was_stopped(call.ns, hold.start):
                self._judge_order(hold, call, wait)

    def _epoch(self, hold: Hold) -> int | None:
        """How many removals there were before the hold; None if it may have begun during one."""
        epoch = 0
        for begin, end in self._ledger.removals:
            if begin <= hold.start and end >= hold.before:
                return None
            epoch += end < hold.before
        return epoch

    def _judge_number(self, hold: Hold) -> None:
        """Whether it could start, for all that is known of what others held."""
        epoch = self._epoch(hold)
        if epoch is None:
            self.counts["not judged (removal)"] += 1
            return
        at = hold.start
        others = [
            o
            for o in self._ledger.holds
            if o.start <= at < o.end and o is not hold and self._epoch(o) == epoch
        ]
        # Who certainly held slots while it counted, in whatever way, counts by its own cap.
        sure = [o for o in others if o.start <= hold.before]
        if sum(o.weight for o in sure) > hold.cap - hold.weight:
            self._violation("over-admissions", f"{hold} beside {sure}", hold.owner, *(o.owner for o in sure))
            return
        # Of those that hold slots within their caps, each counted those that had theirs before. So there is
        # an order in which each fits; if there is any, that by cap is one.
        within = sorted([hold, *(o for o in others if o.how == marks.NORMAL)], key=lambda o: o.cap)
        held = 0
        for one in within:
            held += one.weight
            if held > one.cap:
                self._violation("over-admissions", f"together: {within}", *(o.owner for o in within))
                return

    def _judge_order(self, hold: Hold, call: marks.Event, wait: Wait | None) -> None:
        """Whether it overtook somebody who was in line when it joined, or came, and still is."""
        if wait is None:
            overtaken = [w for w in self._ledger.waits if w.join < call.ns and w.leave > hold.start]
            until: float = hold.start
        else:
            before = [w for w in self._ledger.waits if w.join < wait.join and w.leave > wait.left]
            overtaken = [w for w in before if w.number < wait.number or not wait.again]
            until = wait.left
        for other in overtaken:
            since = min(call.ns, other.called)
            removed = any(begin <= until and end >= since for begin, end in self._ledger.removals)
            if not removed and not other.owner.was_stopped(other.join, until):
                text = f"{hold} ({wait or 'a newcomer'}) overtook {other}"
                self._violation("order violations", text, hold.owner, other.owner)

    def _find_late(self, now: int) -> None:
        """Find those who still wait long after their timeout."""
        for process in self._ledger.processes.values():
            call = process.call
            if call is None or process.gone != NEVER or call.d not in (marks.ONCE, marks.FAIL, marks.RUN):
                continue
            allowed = LATE_NS + self._slack_ns + MUTEX_NS * len(self._ledger.stopped)
            since = max([call.ns + call.c, *(end for _, end in process.stopped)])
            if now > since + allowed and ("late", call) not in self._reported:
                self._reported.add(("late", call))
                self._violation(
                    "late", f"process {process.pid} waits {(now - since) / S:.1f} s too long", process
                )

    def look(self, now: int) -> None:
        """Look at the pool itself: whether a slot lies idle, or is lost."""
        seen = self._look.once()
        self._find_idle(seen, now)
        self._find_lost(seen, now)

    def _find_idle(self, seen: Seen, now: int) -> None:
        """Whether a slot is free for somebody awake, and has been for too long."""
        sleepers: list[str] = []
        limit, waiter = NEVER, None
        for name, pid in seen.line:
            limit = min(limit, int(name.partition("-")[2]))
            if state(pid) not in "Tt":
                waiter = name, pid
                break
            sleepers.append(name)
        if waiter is None or len(seen.held) >= limit:
            self._idle = None, 0
            return
        key = waiter, tuple(sleepers), self._ledger.changes
        if self._idle[0] != key:
            self._idle, self._mutex_stuck = (key, now), False
        self._mutex_stuck |= seen.mutex is not None and state(seen.mutex) in "Tt"
        idle = now - self._idle[1]
        if idle > PROBE_NS and self._look.probe() >= limit:
            self._idle = None, 0
            return
        quiet = not sleepers and not self._ledger.stopped
        which = "idle" if quiet else "idle behind stopped ones"
        self.worst_ns[which] = max(self.worst_ns[which], idle)
        allowed = SLEEPER_NS[0] * len(sleepers) + SLEEPER_NS[1] if sleepers else IDLE_NS
        allowed += self._slack_ns + MUTEX_NS * self._mutex_stuck
        if idle > allowed and key not in self._reported:
            self._reported.add(key)
            text = f"held are {seen.held}, and {waiter} waits behind stopped {sleepers} for {idle / S:.2f} s"
            self._violation("idle slots", text, self._ledger.processes.get(waiter[1]))

    def _find_lost(self, seen: Seen, now: int) -> None:
        """Whether a slot stays locked by somebody who has let go of it, or ended in peace."""
        suspects = {}
        for inode, pid in seen.lockers:
            if self._should_have_let_go(pid):
                suspects[inode, pid] = since = self._suspects.get((inode, pid), now)
                if now - since > LOST_NS + self._slack_ns and (inode, pid) not in self._reported:
                    self._reported.add((inode, pid))
                    text = f"inode {inode} is locked by {pid}, which let go {(now - since) / S:.2f} s ago"
                    self._violation("lost slots", text, self._ledger.processes.get(pid))
        self._suspects = suspects

    def _should_have_let_go(self, pid: int) -> bool:
        process = self._ledger.processes.get(pid)
        if process is None:
            return pid in self._ledger.ended
        if process.gone == NEVER:
            return not process.busy and pid not in self._ledger.stopped
        if state(pid) not in "XZ":
            return False  # a signal that ends it waits until it is continued
        return process.hold is None or all(heir.gone != NEVER for heir in process.hold.heirs)

    def _violation(self, kind: str, text: str, *concerned: Process | None) -> None:
        self.counts[kind] += 1
        if self.counts[kind] > SHOWN:
            return
        print(f"{time.monotonic():.4f} {kind}: {text}", flush=True)
        for process in dict.fromkeys(concerned):
            if process is not None:
                print(f"  process {process.pid}, born {process.born / S:.4f}, gone {process.gone / S:.4f}")
                for event in process.last:
                    what = (marks.KINDS[event.kind], event.a, event.b, event.c, event.d)
                    print(f"    {event.ns / S:.6f}", *what)
        sys.stdout.flush()


def _told_to_end() -> bool:
    try:
        return os.read(0, 1) == b""
    except BlockingIOError:
        return False


def main() -> None:
    """`python -m bench.abuse.referee TABLE POOL RESULT SLACK_S`, until the end of stdin."""
    table, pool, result, slack_s = sys.argv[1:]
    referee = Referee(marks.Table(table), pool, float(slack_s))
    referee.run()
    with open(result, "w") as file:
        json.dump({"counts": referee.counts, "worst_ns": referee.worst_ns}, file)


if __name__ == "__main__":
    main()
