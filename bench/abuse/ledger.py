"""The ledger: what processes have marked, kept as processes, holds and waits for the referee to judge.

A mark says `running` only while that is so (set after `acquire` has returned, taken back before `release` is
called; of a killed process until just before the kill), so what marks say is never too much.
"""

from __future__ import annotations

from collections import Counter, deque

from bench.abuse import marks

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

S = 10**9
NEVER = float("inf")
KEEP_NS = 3 * S
"""How long what is over is kept to judge others by, who started before it was."""
FORGET_NS = 10 * S
"""How long what has ended is remembered; shorter than it takes until a pid is used again."""


class Process:
    """What is known of one process."""

    def __init__(self, event: marks.Event) -> None:
        self.pid = event.pid
        self.born = event.ns
        self.parent = event.c
        self.call: marks.Event | None = None  # while it asks
        self.wait: Wait | None = None  # of this call
        self.hold: Hold | None = None
        self.heir_of: Hold | None = None
        self.busy = False  # asks, holds or lets go
        self.gone = NEVER
        self.stopped: list[list[float]] = []
        self.last: deque[marks.Event] = deque(maxlen=16)

    def was_stopped(self, since: float, until: float) -> bool:
        """Whether it was stopped at some time in between."""
        return any(begin <= until and end >= since for begin, end in self.stopped)


class Hold:
    """Slots that are held, as far as is certain: from `start` to `end`.

    Attributes:
        before: A time before which its owner had not counted the slots of others.
        heirs: Forks of the owner that have copies of its descriptors.
        let_go: Whether the owner has let go of it, which ends it for the heirs too.
    """

    __slots__ = ("before", "cap", "end", "heirs", "how", "let_go", "owner", "start", "weight")

    def __init__(self, event: marks.Event, owner: Process) -> None:
        self.owner = owner
        self.cap, self.weight, self.before, self.how = event.a, event.b, event.c, event.d
        self.start = event.ns
        self.end = NEVER
        self.heirs: list[Process] = []
        self.let_go = False

    def __repr__(self) -> str:
        how = ("", "overflow ", "foreign ")[self.how]
        span = f"{self.before / S:.4f}-{self.start / S:.4f} to {self.end / S:.4f}"
        return f"{how}hold of {self.weight} (cap {self.cap}) by {self.owner.pid}, {span}"

    def settle(self) -> None:
        """Find the end, if the owner and all heirs have ended without letting go."""
        ends = [self.owner.gone, *(heir.gone for heir in self.heirs)]
        if not self.let_go:
            self.end = max(self.start, *ends)


class Wait:
    """A place in line: from `join` to `leave`.

    Attributes:
        again: Whether it joined again, with its old number, after the pool directory had been removed.
        called: When its owner set out for the line: it may have the mutex, and a number, of a pool that was
            removed before it joined.
        leave: Until when it certainly was in line.
        left: When it left by its own mark: later than that, if a kill was under way.
    """

    __slots__ = ("again", "called", "join", "leave", "left", "number", "owner")

    def __init__(self, event: marks.Event, owner: Process) -> None:
        self.again = owner.wait is not None
        self.owner = owner
        self.number = event.c
        self.called = owner.call.ns if owner.call else event.ns
        self.join = event.ns
        self.leave = self.left = NEVER

    def __repr__(self) -> str:
        return f"wait {self.number} of {self.owner.pid}, {self.join / S:.4f} to {self.leave / S:.4f}"


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
        removals: Begin and end of each removal of the pool directory.
        changes: How often who is stopped, or the directory, has changed.
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
        self.holds: list[Hold] = []
        self.waits: list[Wait] = []
        self.to_judge: deque[tuple[Hold, marks.Event | None, Wait | None]] = deque()
        self.removals: list[list[float]] = []
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
                    ABOUT_ITSELF[event.kind](self, event, process)

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
        self._wait_is_over(process, ns)
        for hold in (process.hold, process.heir_of):
            if hold is not None:
                hold.settle()

    def hear_stop(self, event: marks.Event) -> None:
        """Process a is about to be stopped."""
        self.counts["stops"] += 1
        self.changes += 1
        self.stopped.add(event.a)
        if process := self.processes.get(event.a):
            process.stopped.append([event.ns, NEVER])

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

    def hear_removed(self, event: marks.Event) -> None:
        """The pool directory has vanished."""
        self.changes += 1
        self.removals[-1][1] = event.ns

    def hear_call(self, event: marks.Event, process: Process) -> None:
        """It asks for slots."""
        self._wait_is_over(process, event.ns)
        process.call, process.wait, process.busy = event, None, True

    def hear_join(self, event: marks.Event, process: Process) -> None:
        """It joins the line, or does so again."""
        self._wait_is_over(process, event.ns)  # if it joins again
        process.wait = Wait(event, process)
        if process.gone != NEVER:
            process.wait.leave = max(event.ns, process.gone)
        self.waits.append(process.wait)

    def hear_leave(self, event: marks.Event, process: Process) -> None:
        """It leaves the line."""
        self._wait_is_over(process, event.ns)
        if process.wait is not None:
            process.wait.left = event.ns

    @staticmethod
    def _wait_is_over(process: Process, ns: int) -> None:
        if process.wait is not None:
            process.wait.leave = min(process.wait.leave, ns)

    def hear_start(self, event: marks.Event, process: Process) -> None:
        """It has slots."""
        self.counts["acquisitions"] += 1
        call, process.call, process.busy = process.call, None, True
        if process.wait is not None and process.wait.left == NEVER:
            # It could not make the ticket, because the directory was gone, and came as a newcomer then.
            process.wait.leave, process.wait = process.wait.join, None
        hold = process.hold = Hold(event, process)
        hold.settle()
        self.holds.append(hold)
        if event.d == marks.NORMAL:
            self.to_judge.append((hold, call, process.wait))
            if call and process.wait:
                self.counts["waits"] += 1
        elif event.d == marks.OVERFLOW:
            self.counts["overflow"] += 1
            if call and event.ns < call.ns + call.c:
                self._violation("over-admissions", f"overflow before its timeout: {hold}", process)
        else:
            self.counts["foreign"] += 1
        if call:
            self._note_delay(call, event.ns, process)

    def hear_nested(self, _event: marks.Event, _process: Process) -> None:
        """Within its build it needed no other slot."""
        self.counts["nested"] += 1

    def hear_without(self, event: marks.Event, process: Process) -> None:
        """It does not get slots of its own."""
        call, process.call = process.call, None
        self.counts["degraded" if event.kind == marks.DEGRADED else "refused"] += 1
        if event.kind == marks.NOSLOT:
            process.busy = False
            self.counts["leaked"] += event.a
            self._wait_is_over(process, event.ns)
            if call:
                self._note_delay(call, event.ns, process)

    def _note_delay(self, call: marks.Event, ns: int, process: Process) -> None:
        """Note how much later than its timeout somebody came back who was not stopped."""
        if (
            call.d in (marks.ONCE, marks.FAIL, marks.RUN)
            and not process.was_stopped(call.ns, ns)
            and not self.stopped
        ):
            self.worst_ns["late"] = max(self.worst_ns["late"], ns - call.ns - call.c)

    def hear_end(self, event: marks.Event, process: Process) -> None:
        """It lets go; a fork of a holder ends."""
        process.call = None
        if process.hold is not None:
            process.hold.end, process.hold.let_go = event.ns, True
        if process.heir_of is not None and process.gone == NEVER:
            process.gone = event.ns
            process.heir_of.settle()

    def hear_idles(self, _event: marks.Event, process: Process) -> None:
        """It has let go."""
        process.busy, process.hold = False, None
        self.counts["ops"] += 1

    def hear_copy(self, event: marks.Event, process: Process) -> None:
        """It is a fork of a holder."""
        self.counts["forks"] += 1
        owner = self.processes.get(event.a)
        if owner and owner.hold and owner.hold.before == event.c:
            process.heir_of = owner.hold
            owner.hold.heirs.append(process)
            owner.hold.settle()

    def tidy(self, now: int) -> None:
        """Forget what no judgement needs any more."""
        self.holds = [hold for hold in self.holds if hold.end > now - KEEP_NS]
        self.waits = [wait for wait in self.waits if wait.leave > now - KEEP_NS]
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
    marks.CALL: Ledger.hear_call,
    marks.JOIN: Ledger.hear_join,
    marks.LEAVE: Ledger.hear_leave,
    marks.START: Ledger.hear_start,
    marks.NESTED: Ledger.hear_nested,
    marks.DEGRADED: Ledger.hear_without,
    marks.NOSLOT: Ledger.hear_without,
    marks.END: Ledger.hear_end,
    marks.IDLE: Ledger.hear_idles,
    marks.COPY: Ledger.hear_copy,
}
