"""The ledger: what processes have marked, kept as processes, holds and waits for the referee to judge.

A mark says `running` only while that is so (set after `acquire` has returned, taken back before `release` is
called; of a killed process until just before the kill), so what marks say is never too much.
"""

from __future__ import annotations

from collections import Counter, deque

from bench.abuse import marks
from bench.abuse.builds import NEVER, Caller, Hold, Process, S, Wait
from bench.abuse.ruled import Rules

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from bench.abuse.ruled import Write

KEEP_NS = 3 * S
"""How long what is over is kept to judge others by, who started before it was."""
REMEMBER_NS = 60 * S
"""How long it is remembered that somebody was stopped."""
NEXT = 10
"""How much larger the number of a ticket may be that is made again, because there is one of that name."""
FORGET_NS = 10 * S
"""How long what has ended is remembered; shorter than it takes until a pid is used again."""


class Ledger:
    """All that is known of a run from marks.

    Args:
        violation: Is told what the marks by themselves show to be wrong: its kind, a text, and
            whom it concerns.

    Attributes:
        counts: Of what has happened, by name.
        worst_ns: The longest times, by name.
        processes: By pid.
        ended: When processes ended of themselves, by pid.
        stopped: The pids of those that are stopped.
        holds: Those that may still matter.
        waits: Likewise.
        to_judge: Starts, with the call and the wait that they come from.
        tickets: That were made, with the call that they come from.
        refused: Calls that were refused, with the time and the process.
        removals: Begin and end of each removal of the pool directory.
        rules: Those of the pool.
        failed: Rules that could not be set, when, and the process.
        changes: How often who is stopped, or the directory, or a rule, has changed.
    """

    def __init__(self, violation: Callable[..., None]) -> None:
        self._violation = violation
        self.counts = Counter[str]()
        self.worst_ns = Counter[str]()
        self.processes: dict[int, Process] = {}
        self._killed: dict[int, int] = {}
        self._over: dict[int, int] = {}  # processes that get a signal which ends what they run, too
        self.ended: dict[int, int] = {}
        self.stopped: set[int] = set()
        self._stops: list[list[float]] = []  # of all processes
        self.holds: list[Hold] = []
        self.waits: list[Wait] = []
        self.to_judge: deque[tuple[Hold, marks.Event | None, Wait | None]] = deque()
        self.tickets: deque[tuple[Wait, marks.Event]] = deque()
        self.refused: deque[tuple[int, marks.Event, Process]] = deque()
        self.removals: list[list[float]] = []
        self.rules = Rules()
        self._vanishing: list[Write] = []
        self.failed: deque[tuple[Write, int, Process]] = deque()
        self.changes = 0

    def hear(self, events: Iterable[marks.Event]) -> None:
        """Take note of what was marked."""
        for event in sorted(events, key=lambda event: event.ns):
            if event.kind == marks.BORN:
                self._born(event)
            elif event.kind in ABOUT_OTHERS:
                ABOUT_OTHERS[event.kind](self, event)
            if process := self.processes.get(event.pid):
                process.last.append(event)
                if event.kind in ABOUT_ITSELF:
                    ABOUT_ITSELF[event.kind](self, event, process.caller(event.task))

    def _born(self, event: marks.Event) -> None:
        process = self.processes[event.pid] = Process(event)
        self.counts["processes"] += 1
        ends = [ns for ns in (self._killed.get(event.pid), self._over.get(event.pid)) if ns and ns > event.ns]
        if event.c in self._over:  # slot-run passes on to a command what came before that
            ends.append(max(event.ns, self._over[event.c]))
        if ends:
            process.gone = min(ends)

    def hear_kill(self, event: marks.Event) -> None:
        """Process a is about to die."""
        self._killed[event.a] = event.ns
        self._dies(event.a, event.ns)

    def hear_over_with(self, event: marks.Event) -> None:
        """Process a, and what runs under it, is about to die."""
        self._over[event.a] = event.ns
        self._dies(event.a, event.ns)
        for process in self.processes.values():
            if process.parent == event.a and process.heir_of is None:
                self._dies(process.pid, event.ns)

    def hear_reaped(self, event: marks.Event) -> None:
        """Process a is gone, if nobody has told before."""
        self._dies(event.a, event.ns)
        process = self.processes.get(event.a)
        if process is not None and process.stopped:
            process.stopped[-1][1] = min(process.stopped[-1][1], event.ns)
        if process is not None and process.setting:
            self._has_set(process.setting, event.ns, done=False)
        self._over.pop(event.a, None)
        if event.a in self.stopped:
            self.stopped.remove(event.a)
            self.changes += 1
        if event.b != -9:
            self.ended[event.a] = event.ns

    def _dies(self, pid: int, ns: int) -> None:
        process = self.processes.get(pid)
        if process is None or process.born > ns or process.gone != NEVER:
            return
        process.gone = ns
        for caller in process.callers.values():
            self._wait_is_over(caller, ns)
        for hold in process.holds:
            hold.settle()
        if process.heir_of is not None:
            process.heir_of.settle()

    def hear_stop(self, event: marks.Event) -> None:
        """Process a is about to be stopped."""
        self.counts["stops"] += 1
        self.changes += 1
        self.stopped.add(event.a)
        if process := self.processes.get(event.a):
            process.stopped.append([event.ns, NEVER])
            self._stops.append(process.stopped[-1])

    def hear_continue(self, event: marks.Event) -> None:
        """Process a runs again."""
        self.changes += 1
        self.stopped.discard(event.a)
        process = self.processes.get(event.a)
        if process and process.stopped:
            process.stopped[-1][1] = event.ns

    def hear_remove(self, event: marks.Event) -> None:
        """The pool directory begins to vanish."""
        self.changes += 1
        self.removals.append([event.ns, NEVER])
        self._vanishing = self.rules.is_erased(event.ns)

    def hear_removed(self, event: marks.Event) -> None:
        """The pool directory has vanished."""
        self.removals[-1][1] = event.ns
        self._has_set(self._vanishing, event.ns, done=True)

    def hear_sets(self, event: marks.Event, caller: Caller) -> None:
        """It is about to set a rule of the pool."""
        self.changes += 1
        caller.process.setting = self.rules.begins(event)

    def hear_set(self, event: marks.Event, caller: Caller) -> None:
        """It has set it, or could not."""
        setting = caller.process.setting
        self.counts["rules set"] += event.a
        if not event.a and setting:
            self.failed.append((setting[0], event.ns, caller.process))
        self._has_set(setting, event.ns, done=bool(event.a))

    def _has_set(self, writes: list[Write], ns: float, *, done: bool) -> None:
        self.changes += 1
        for write in writes:
            write.ends(ns, done=done)
        writes.clear()

    def were_stopped(self, since: float, until: float) -> bool:
        """Whether anybody was stopped at some time in between."""
        return any(begin <= until and end >= since for begin, end in self._stops)

    def hear_clock(self, event: marks.Event, caller: Caller) -> None:
        """Its clock is wrong."""
        self.counts["wrong clocks"] += 1
        caller.process.clock_us = event.c * 10**6

    def hear_call(self, event: marks.Event, caller: Caller) -> None:
        """It asks for slots."""
        self._wait_is_over(caller, event.ns)
        caller.call, caller.wait, caller.busy = event, None, True

    def hear_join(self, event: marks.Event, caller: Caller) -> None:
        """It joins the line, or does so again."""
        place = caller.wait
        if place is not None and place.leave == NEVER and place.number <= event.c <= place.number + NEXT:
            place.number = event.c  # with another limit: it leaves its old ticket after that
            return
        self._wait_is_over(caller, event.ns)  # if it joins again
        caller.wait = Wait(event, caller)
        if caller.process.gone != NEVER:
            caller.wait.leave = max(event.ns, caller.process.gone)
        self.waits.append(caller.wait)
        if caller.call and not (caller.wait.in_crowd or caller.wait.again):
            self.tickets.append((caller.wait, caller.call))

    def hear_ready(self, event: marks.Event, caller: Caller) -> None:
        """It has joined."""
        if caller.wait is not None and caller.wait.ready == NEVER:
            caller.wait.ready = event.ns

    def hear_waits(self, event: marks.Event, caller: Caller) -> None:
        """It waits, as one of a crowd; it says so again after a second."""
        if caller.call is None or caller.wait is not None:
            return
        self.hear_join(event, caller)
        assert caller.wait is not None
        others = [other for other in caller.process.callers.values() if other.call is not None]
        caller.wait.after = {other for other in others if other.wait is None}
        caller.wait.called = min(other.wait.called for other in others if other.wait is not None)
        caller.wait.join = NEVER if caller.wait.after else event.ns
        caller.wait.ready = event.ns
        self._has_place(caller, event.ns)

    def _has_place(self, caller: Caller, ns: int) -> None:
        """Those who wait after `caller`, and nobody else who has no place, have theirs now."""
        for other in caller.process.callers.values():
            if other.wait is not None and caller in other.wait.after:
                other.wait.after.remove(caller)
                other.wait.join = NEVER if other.wait.after else ns

    def hear_leave(self, event: marks.Event, caller: Caller) -> None:
        """It leaves the line."""
        self._wait_is_over(caller, event.ns)
        if caller.wait is not None and not caller.wait.in_crowd:
            caller.wait.left = event.ns

    @staticmethod
    def _wait_is_over(caller: Caller, ns: int) -> None:
        if caller.wait is not None:
            caller.wait.leave = min(caller.wait.leave, ns)

    def hear_start(self, event: marks.Event, caller: Caller) -> None:
        """It has slots."""
        self.counts["acquisitions"] += 1
        wait = caller.wait
        if wait is None and caller.call is not None and event.task:
            wait = Wait(caller.call._replace(kind=marks.WAITS), caller)  # too short to be told, or a newcomer
        call, caller.call, caller.busy = caller.call, None, True
        if wait is not None and wait.in_crowd:
            # It was in line when it tried the lock that it got.
            self._wait_is_over(caller, event.c)
            self.counts["waits in crowds"] += event.d == marks.NORMAL and caller.wait is not None
        elif wait is not None and wait.left == NEVER:
            # It could not make the ticket, because the directory was gone, and came as a newcomer then.
            wait.leave, wait = wait.join, None
        hold = caller.hold = Hold(event, caller.process, decided_itself=call is not None)
        hold.settle()
        self.holds.append(hold)
        self._has_place(caller, event.ns)
        if event.d != marks.FOREIGN:
            self.to_judge.append((hold, call, wait))
        self.counts["overflow"] += event.d == marks.OVERFLOW
        self.counts["foreign"] += event.d == marks.FOREIGN
        self.counts["waits"] += bool(event.d == marks.NORMAL and call and wait and not wait.in_crowd)
        if call:
            self._note_delay(call, event.ns, caller.process)

    def hear_nested(self, _event: marks.Event, _caller: Caller) -> None:
        """Within its build it needed no other slot."""
        self.counts["nested"] += 1

    def hear_without(self, event: marks.Event, caller: Caller) -> None:
        """It does not get slots of its own."""
        call, caller.call = caller.call, None
        self.counts["degraded" if event.kind == marks.DEGRADED else "refused"] += 1
        if event.kind == marks.NOSLOT:
            caller.busy = False
            self.counts["leaked"] += event.a
            self._wait_is_over(caller, event.ns)
            if call:
                if caller.wait is not None and caller.wait.in_crowd and call.c >= 0:
                    self._wait_is_over(caller, call.ns + call.c)  # it left the line at its timeout
                if event.b:
                    self.refused.append((event.ns, call, caller.process))
                self._note_delay(call, event.ns, caller.process)
        self._has_place(caller, event.ns)

    def _note_delay(self, call: marks.Event, ns: int, process: Process) -> None:
        """Note how much later than its timeout somebody came back who was not stopped."""
        if (
            call.d in (marks.ONCE, marks.FAIL, marks.RUN)
            and not process.was_stopped(call.ns, ns)
            and not self.stopped
        ):
            late = ns - call.ns - call.c - self.rules.most_paused(call.ns, ns)
            self.worst_ns["late"] = max(self.worst_ns["late"], int(late))

    def hear_end(self, event: marks.Event, caller: Caller) -> None:
        """It lets go; a fork of a holder ends."""
        caller.call = None
        if caller.hold is not None:
            caller.hold.end, caller.hold.let_go = event.ns, True
        process = caller.process
        if process.heir_of is not None and process.gone == NEVER:
            process.gone = event.ns
            process.heir_of.settle()

    def hear_idles(self, _event: marks.Event, caller: Caller) -> None:
        """It has let go."""
        caller.busy, caller.hold = False, None
        self.counts["ops"] += 1

    def hear_copy(self, event: marks.Event, caller: Caller) -> None:
        """It is a fork of a holder."""
        self.counts["forks"] += 1
        owner = self.processes.get(event.a)
        for hold in owner.holds if owner else ():
            if hold.before == event.c:
                caller.process.heir_of = hold
                hold.heirs.append(caller.process)
                hold.settle()

    def tidy(self, now: int) -> None:
        """Forget what no judgement needs any more."""
        self.holds = [hold for hold in self.holds if hold.end > now - KEEP_NS]
        self.waits = [wait for wait in self.waits if wait.leave > now - KEEP_NS]
        self._stops = [span for span in self._stops if span[1] > now - REMEMBER_NS]
        self.rules.tidy(now)
        for pid in [pid for pid, ns in self.ended.items() if ns < now - FORGET_NS]:
            del self.ended[pid]
        for pid in [pid for pid, process in self.processes.items() if process.gone < now - FORGET_NS]:
            del self.processes[pid]


ABOUT_OTHERS = {
    marks.KILL: Ledger.hear_kill,
    marks.OVER: Ledger.hear_over_with,
    marks.STOP: Ledger.hear_stop,
    marks.CONT: Ledger.hear_continue,
    marks.REAPED: Ledger.hear_reaped,
    marks.REMOVE: Ledger.hear_remove,
    marks.REMOVED: Ledger.hear_removed,
}
ABOUT_ITSELF = {
    marks.CLOCK: Ledger.hear_clock,
    marks.CALL: Ledger.hear_call,
    marks.JOIN: Ledger.hear_join,
    marks.READY: Ledger.hear_ready,
    marks.WAITS: Ledger.hear_waits,
    marks.LEAVE: Ledger.hear_leave,
    marks.START: Ledger.hear_start,
    marks.NESTED: Ledger.hear_nested,
    marks.DEGRADED: Ledger.hear_without,
    marks.NOSLOT: Ledger.hear_without,
    marks.END: Ledger.hear_end,
    marks.IDLE: Ledger.hear_idles,
    marks.COPY: Ledger.hear_copy,
    marks.SETS: Ledger.hear_sets,
    marks.SET: Ledger.hear_set,
}
