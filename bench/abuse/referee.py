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
- The order of those who were in line when somebody lost patience with the mutex and made another one, as on a
  very busy machine: whoever had the old one may join as well.
- The order of tickets among those who were in line during a removal, or on their way to it (they join again
  one by one), and those of whom one was stopped (rule 4 lets others overtake it). Nor that of `slot-run`s,
  which leave no marks when they join; that they are not overtaken is seen as no idle slot.
- Which rule counts if its setter was killed: what was before and what it has set may both be in force, until
  somebody sets the same again. Nor what pauses are to those whose clock is wrong.
- Two marks of one process have an instant between them that nobody can know: who was overtaken by less
  than that is not seen. In practice that is the time between two system calls.

Of a crowd (`crowd`), the callers of one process, two at most have tickets, and nobody can tell whose. So each
caller is judged by when it waits, be it in line or in memory:

- It has come when it says that it waits, and those of its crowd who called before that say so too, or need
  not wait any more. For the number with which it joins the line later may be the next after theirs.
- It waits until it gives up its ticket or tries the lock that it gets, until its timeout, or until somebody
  is about to cancel it.

Then all rules hold for it as for others, with these exceptions:

- It can be seen to overtake only those who had come before it called, or who have a smaller number than it
  can have, and wait still when it has its slot. When it joined the line, and when it left, is not known. Nor
  is whether it had a ticket at all, if it has not said that it waits.
- A slot that it has lost shows only when the whole crowd is over, for in /proc/locks all of them are one
  process. The crowd looks for that itself.
- One rule is for crowds alone: while some wait in memory, somebody of them is in line, or nobody wakes them.
"""

from __future__ import annotations

import json
import os
import sys
import time

from bench.abuse import marks
from bench.abuse.builds import NEVER, Process, S
from bench.abuse.ledger import Ledger
from bench.abuse.look import Look, state
from bench.abuse.obeyed import Obeyed
from bench.abuse.order import Order

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable

    from bench.abuse.builds import Hold
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
GLANCE_NS = S // 2
"""How long it may take a waiter to glance, for each place, of 16 at most, that was ahead when it looked."""
MUTEX_NS = 1 * S
"""How much longer if the mutex was seen with somebody who is stopped."""
ONCE_NS = 5 * S // 1000
"""Who does not want to wait goes on without the mutex after some milliseconds (PROTOCOL.md). If it took
longer, who was overtaken may have had the mutex, and been on the way into the line."""
LATE_NS = 1 * S
"""How long after its timeout somebody awake may still wait."""
LOST_NS = 1 * S
"""How long a slot may stay locked after the one who locked it has let go or ended."""
STRANDED_NS = 2 * S
"""How long callers may wait in memory without one in line: the first of them looks each second."""
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
        self._order = Order(self._ledger, self._violation)
        self._obeyed = Obeyed(self._ledger, self._violation, self._slack_ns)
        self._places: dict[str, int] = {}  # how many there were ahead of a ticket, at most, when it was new
        self._idle: tuple[object, int] = (None, 0)
        self._mutex_stuck = False  # since then
        self._suspects: dict[
            tuple[int, int], int
        ] = {}  # slot inode and pid: since when it should not be locked
        self._stranded: dict[tuple[Process, int], int] = {}  # likewise, by the number of changes as well
        self._reported: set[object] = set()
        self._look_at = self._tidy_at = 0

    def run(self) -> None:
        """Judge until all have come to an end: whoever started us closes our stdin then."""
        os.set_blocking(0, False)
        while not _told_to_end():
            now = time.monotonic_ns()  # before the news: what was marked later does not count as missing
            self._order.tell_time()
            self.hear(self._table.news(self._seen))
            self.judge(now - SETTLE_NS)
            if now > self._look_at:
                self._look_at = now + LOOK_NS
                self.look(now)
            if now > self._tidy_at:
                self._tidy_at = now + S // 2
                self._find_late(now)
                self._ledger.tidy(now)
            time.sleep(max(0.002, HEAR_S - (time.monotonic_ns() - now) / S))
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
        ledger = self._ledger
        while ledger.tickets and ledger.tickets[0][0].join <= until:
            self._order.judge_ticket(*ledger.tickets.popleft())
        while ledger.to_judge and ledger.to_judge[0][0].start <= until:
            hold, call, wait = ledger.to_judge.popleft()
            self._obeyed.judge_start(hold)
            if hold.how == marks.OVERFLOW:
                if call is not None:
                    self._obeyed.judge_timeout("over-admissions", hold.start, call, hold.owner)
                continue
            self._judge_number(hold)
            if call is None or hold.owner.was_stopped(call.ns, hold.start):
                continue
            if call.d != marks.ONCE or hold.start - call.ns < ONCE_NS:
                self._order.judge(hold, call, wait)
        while ledger.refused and ledger.refused[0][0] <= until:
            self._obeyed.judge_timeout("late", *ledger.refused.popleft())
        self._obeyed.judge_file(until)

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
        if sum(o.weight for o in sure) > self._obeyed.cap(hold) - hold.weight:
            self._violation("over-admissions", f"{hold} beside {sure}", hold.owner, *(o.owner for o in sure))
            return
        # Of those that hold slots within their caps, each counted those that had theirs before. So there is
        # an order in which each fits; if there is any, that by cap is one.
        within = [hold, *(o for o in others if o.how == marks.NORMAL)]
        held = 0
        for cap, weight in sorted((self._obeyed.cap(one), one.weight) for one in within):
            held += weight
            if held > cap:
                self._violation("over-admissions", f"together: {within}", *(o.owner for o in within))
                return

    def _find_late(self, now: int) -> None:
        """Find those who still wait long after their timeout."""
        callers = [c for p in self._ledger.processes.values() if p.gone == NEVER for c in p.callers.values()]
        for caller in callers:
            process, call = caller.process, caller.call
            if call is None or call.d not in (marks.ONCE, marks.FAIL, marks.RUN):
                continue
            allowed = LATE_NS + self._slack_ns + MUTEX_NS * len(self._ledger.stopped)
            due = call.ns + call.c + self._ledger.rules.most_paused(call.ns, now)
            since = max([due, *(end for _, end in process.stopped)])
            if now > since + allowed and ("late", call) not in self._reported:
                self._reported.add(("late", call))
                self._violation(
                    "late", f"process {process.pid} waits {(now - since) / S:.1f} s too long", process
                )

    def look(self, now: int) -> None:
        """Look at the pool itself: whether a slot lies idle, or is lost, or a crowd has lost the line."""
        self._obeyed.read(self._look)
        seen = self._look.once()
        self._order.see([name for name, _ in seen.line], seen.mutex_file, now)
        most = len(self._places)
        ahead = {name: max(place, most) for place, (name, _) in enumerate(seen.line)}
        self._places = {name: self._places.get(name, place) for name, place in ahead.items()}
        self._find_idle(seen, now)
        self._find_lost(seen, now)
        self._find_stranded(seen, now)

    def _find_idle(self, seen: Seen, now: int) -> None:
        """Whether a slot is free for somebody awake, and has been for too long."""
        sleepers: list[str] = []
        limit, waiter = NEVER, None
        for name, pid in seen.line:
            limit = min(limit, self._obeyed.limit(name, self._look))
            if state(pid) not in "Tt":
                waiter = name, pid
                break
            sleepers.append(name)
        paused = self._ledger.rules.maybe_paused(now, now)
        if waiter is None or paused or len(seen.held) >= limit:
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
        if idle > allowed and sleepers:
            allowed += self._until_a_glance(seen, len(sleepers))
        if idle > allowed and key not in self._reported:
            self._reported.add(key)
            text = f"held are {seen.held}, and {waiter} waits behind stopped {sleepers} for {idle / S:.2f} s"
            self._violation("idle slots", text, self._ledger.processes.get(waiter[1]))

    def _until_a_glance(self, seen: Seen, sleepers: int) -> int:
        """How much longer it may take until somebody who is awake sees that those ahead are not.

        A waiter that has looked when it was far behind glances seldom, and if the line has moved fast since,
        it is near the head by now ("A waiter is stopped while it is its turn" in PROTOCOL.md).
        """
        first = sleepers  # the place of who may overtake; one further back knocks at it, but waits for that
        awake = [(place, name) for place, (name, pid) in enumerate(seen.line) if state(pid) not in "Tt"]
        times = [min(self._places[name], 16) + (place if place > first else 0) for place, name in awake]
        return GLANCE_NS * min(times, default=0)

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
            busy = any(caller.busy for caller in process.callers.values())
            return not busy and pid not in self._ledger.stopped
        if state(pid) not in "XZ":
            return False  # a signal that ends it waits until it is continued
        return all(heir.gone != NEVER for hold in process.holds for heir in hold.heirs)

    def _find_stranded(self, seen: Seen, now: int) -> None:
        """Whether callers of a crowd wait in memory, and none of them in line, so that nobody wakes them."""
        in_line = {pid for _, pid in seen.line} | self._ledger.stopped
        stranded = {}
        for wait in self._ledger.waits:
            process = wait.owner
            if wait.in_crowd and wait.join < now and wait.leave == NEVER and process.pid not in in_line:
                key = process, self._ledger.changes
                stranded[key] = since = self._stranded.get(key, now)
                if now - since > STRANDED_NS + self._slack_ns and key not in self._reported:
                    self._reported.add(key)
                    text = f"{wait}: nobody of its crowd has been in line for {(now - since) / S:.2f} s"
                    self._violation("stranded", text, process)
        self._stranded = stranded

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
                    print(f"    {event.ns / S:.6f}", *what, *([f"of {event.task}"] if event.task else []))
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
