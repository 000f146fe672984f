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

import fcntl
import json
import os
import sys
import time
from collections import Counter, deque

from bench.abuse import marks

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable

S = 10**9
NEVER = float("inf")
HEAR_S = 0.02
LOOK_NS = S // 5
"""How often the pool is looked at. Not more often: reading /proc/locks stops all locking on the machine for
an RCU grace period (`percpu_down_write` in fs/locks.c), and at 50 times a second builds waited for that."""
SETTLE_NS = 1 * S
"""How old a start is when it is judged: by then everybody has published what they marked before."""
KEEP_NS = 3 * S
"""How long what is over is kept to judge others by, who started before it was."""
FORGET_NS = 10 * S
"""How long what has ended is remembered; shorter than it takes until a pid is used again."""
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


class Referee:
    """Judges one run.

    Args:
        table: Where all mark what they do.
        pool: The directory of the pool.
        slack_s: How much longer everything may take because the machine is loaded.
    """

    def __init__(self, table: marks.Table, pool: str, slack_s: float) -> None:
        self._slack_ns = int(slack_s * S)
        self.counts = Counter[str]()
        self.worst_ns = Counter[str]()
        self._table = table
        self._seen = table.nothing_seen()
        self._processes: dict[int, Process] = {}
        self._killed: dict[int, int] = {}
        self._over: dict[int, int] = {}  # processes that get a signal which ends what they run, too
        self._ended: dict[int, int] = {}  # processes that ended of themselves, and when
        self._stopped: set[int] = set()
        self._holds: list[Hold] = []
        self._waits: list[Wait] = []
        self._to_judge: deque[tuple[Hold, marks.Event | None, Wait | None]] = deque()
        self._removals: list[list[float]] = []
        self._changes = 0  # of who is stopped, and of the directory
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
                self._tidy(now)
            time.sleep(max(0.002, HEAR_S - (time.monotonic() - began)))
        self.hear(self._table.news(self._seen))
        self.judge(time.monotonic_ns())
        for what, path in self._look.left_locked():
            self._violation(
                "lost slots" if what == "slot" else "lost tickets", f"{path} is locked when all have ended"
            )

    # --- hearing

    def hear(self, events: Iterable[marks.Event]) -> None:
        """Take note of what was marked."""
        for event in sorted(events, key=lambda event: event.ns):
            if event.kind == marks.BORN:
                self._born(event)
            elif event.kind in ABOUT_OTHERS:
                ABOUT_OTHERS[event.kind](self, event)
            if process := self._processes.get(event.pid):
                process.last.append(event)
                if event.kind in ABOUT_ITSELF:
                    ABOUT_ITSELF[event.kind](self, event, process)

    def _born(self, event: marks.Event) -> None:
        process = self._processes[event.pid] = Process(event)
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
        for process in self._processes.values():
            if process.parent == event.a and process.heir_of is None:
                self._dies(process.pid, event.ns)

    def hear_reaped(self, event: marks.Event) -> None:
        """Process a is gone, if nobody has told before."""
        self._dies(event.a, event.ns)
        self._over.pop(event.a, None)
        if event.a in self._stopped:
            self._stopped.remove(event.a)
            self._changes += 1
        if event.b != -9:
            self._ended[event.a] = event.ns

    def _dies(self, pid: int, ns: int) -> None:
        process = self._processes.get(pid)
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
        self._changes += 1
        self._stopped.add(event.a)
        if process := self._processes.get(event.a):
            process.stopped.append([event.ns, NEVER])

    def hear_continue(self, event: marks.Event) -> None:
        """Process a runs again."""
        self._changes += 1
        self._stopped.discard(event.a)
        process = self._processes.get(event.a)
        if process and process.stopped:
            process.stopped[-1][1] = event.ns

    def hear_remove(self, event: marks.Event) -> None:
        """The pool directory begins to vanish."""
        self._changes += 1
        self._removals.append([event.ns, NEVER])

    def hear_removed(self, event: marks.Event) -> None:
        """The pool directory has vanished."""
        self._changes += 1
        self._removals[-1][1] = event.ns

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
        self._waits.append(process.wait)

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
        self._holds.append(hold)
        if event.d == marks.NORMAL:
            self._to_judge.append((hold, call, process.wait))
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
            and not self._stopped
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
        owner = self._processes.get(event.a)
        if owner and owner.hold and owner.hold.before == event.c:
            process.heir_of = owner.hold
            owner.hold.heirs.append(process)
            owner.hold.settle()

    # --- judging

    def judge(self, until: int) -> None:
        """Judge all starts up to then."""
        while self._to_judge and self._to_judge[0][0].start <= until:
            hold, call, wait = self._to_judge.popleft()
            self._judge_number(hold)
            if call is not None and not hold.owner.was_stopped(call.ns, hold.start):
                self._judge_order(hold, call, wait)

    def _epoch(self, hold: Hold) -> int | None:
        """How many removals there were before the hold; None if it may have begun during one."""
        epoch = 0
        for begin, end in self._removals:
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
            o for o in self._holds if o.start <= at < o.end and o is not hold and self._epoch(o) == epoch
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
            overtaken = [w for w in self._waits if w.join < call.ns and w.leave > hold.start]
            until: float = hold.start
        else:
            before = [w for w in self._waits if w.join < wait.join and w.leave > wait.left]
            overtaken = [w for w in before if w.number < wait.number or not wait.again]
            until = wait.left
        for other in overtaken:
            since = min(call.ns, other.called)
            removed = any(begin <= until and end >= since for begin, end in self._removals)
            if not removed and not other.owner.was_stopped(other.join, until):
                text = f"{hold} ({wait or 'a newcomer'}) overtook {other}"
                self._violation("order violations", text, hold.owner, other.owner)

    def _find_late(self, now: int) -> None:
        """Find those who still wait long after their timeout."""
        for process in self._processes.values():
            call = process.call
            if call is None or process.gone != NEVER or call.d not in (marks.ONCE, marks.FAIL, marks.RUN):
                continue
            allowed = LATE_NS + self._slack_ns + MUTEX_NS * len(self._stopped)
            since = max([call.ns + call.c, *(end for _, end in process.stopped)])
            if now > since + allowed and ("late", call) not in self._reported:
                self._reported.add(("late", call))
                self._violation(
                    "late", f"process {process.pid} waits {(now - since) / S:.1f} s too long", process
                )

    def _tidy(self, now: int) -> None:
        """Forget what no judgement needs any more."""
        self._holds = [hold for hold in self._holds if hold.end > now - KEEP_NS]
        self._waits = [wait for wait in self._waits if wait.leave > now - KEEP_NS]
        for pid in [pid for pid, ns in self._ended.items() if ns < now - FORGET_NS]:
            del self._ended[pid]
        for pid in [pid for pid, process in self._processes.items() if process.gone < now - FORGET_NS]:
            del self._processes[pid]

    # --- looking

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
            if _state(pid) not in "Tt":
                waiter = name, pid
                break
            sleepers.append(name)
        if waiter is None or len(seen.held) >= limit:
            self._idle = None, 0
            return
        key = waiter, tuple(sleepers), self._changes
        if self._idle[0] != key:
            self._idle, self._mutex_stuck = (key, now), False
        self._mutex_stuck |= seen.mutex is not None and _state(seen.mutex) in "Tt"
        idle = now - self._idle[1]
        if idle > PROBE_NS and self._look.probe() >= limit:
            self._idle = None, 0
            return
        quiet = not sleepers and not self._stopped
        which = "idle" if quiet else "idle behind stopped ones"
        self.worst_ns[which] = max(self.worst_ns[which], idle)
        allowed = SLEEPER_NS[0] * len(sleepers) + SLEEPER_NS[1] if sleepers else IDLE_NS
        allowed += self._slack_ns + MUTEX_NS * self._mutex_stuck
        if idle > allowed and key not in self._reported:
            self._reported.add(key)
            text = f"held are {seen.held}, and {waiter} waits behind stopped {sleepers} for {idle / S:.2f} s"
            self._violation("idle slots", text, self._processes.get(waiter[1]))

    def _find_lost(self, seen: Seen, now: int) -> None:
        """Whether a slot stays locked by somebody who has let go of it, or ended in peace."""
        suspects = {}
        for inode, pid in seen.lockers:
            if self._should_have_let_go(pid):
                suspects[inode, pid] = since = self._suspects.get((inode, pid), now)
                if now - since > LOST_NS + self._slack_ns and (inode, pid) not in self._reported:
                    self._reported.add((inode, pid))
                    text = f"inode {inode} is locked by {pid}, which let go {(now - since) / S:.2f} s ago"
                    self._violation("lost slots", text, self._processes.get(pid))
        self._suspects = suspects

    def _should_have_let_go(self, pid: int) -> bool:
        process = self._processes.get(pid)
        if process is None:
            return pid in self._ended
        if process.gone == NEVER:
            return not process.busy and pid not in self._stopped
        if _state(pid) not in "XZ":
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


ABOUT_OTHERS = {
    marks.KILL: Referee.hear_kill,
    marks.OVER: Referee.hear_over_with,
    marks.STOP: Referee.hear_stop,
    marks.CONT: Referee.hear_continue,
    marks.REAPED: Referee.hear_reaped,
    marks.REMOVE: Referee.hear_remove,
    marks.REMOVED: Referee.hear_removed,
}
ABOUT_ITSELF = {
    marks.CALL: Referee.hear_call,
    marks.JOIN: Referee.hear_join,
    marks.LEAVE: Referee.hear_leave,
    marks.START: Referee.hear_start,
    marks.NESTED: Referee.hear_nested,
    marks.DEGRADED: Referee.hear_without,
    marks.NOSLOT: Referee.hear_without,
    marks.END: Referee.hear_end,
    marks.IDLE: Referee.hear_idles,
    marks.COPY: Referee.hear_copy,
}


class Seen:
    """What one look at the pool has shown.

    Attributes:
        held: Numbers of the locked slots.
        lockers: Inode and pid for each of them.
        line: Name and pid of each live ticket, first come first.
        mutex: Pid of who has the mutex, or None.
    """

    def __init__(
        self, slots: dict[int, int], tickets: dict[str, int], mutex: int | None, locks: dict[int, int]
    ) -> None:
        self.mutex = None if mutex is None else locks.get(mutex)
        self.held = sorted(number for inode, number in slots.items() if inode in locks)
        self.lockers = [(inode, locks[inode]) for inode in slots if inode in locks]
        self.line = sorted((name, locks[inode]) for name, inode in tickets.items() if inode in locks)


class Look:
    """Looks at the files of a pool, by the protocol's document alone."""

    def __init__(self, directory: str) -> None:
        self._directory = directory

    def once(self) -> Seen:
        """Look without locking anything."""
        locks = {}
        with open("/proc/locks") as lines:
            for line in lines:
                # "1: FLOCK  ADVISORY  WRITE 4711 fe:00:123 0 EOF", proc_locks(5). By inode alone: what a
                # device is called there and in stat(2) differs on some file systems.
                words = line.split()
                if words[1] == "FLOCK" and words[3] == "WRITE":
                    locks[int(words[5].rpartition(":")[2])] = int(words[4])
        files = self._inodes("")
        slots = {inode: int(name[5:]) for name, inode in files if _is_slot(name)}
        tickets = {name: inode for name, inode in self._inodes("queue") if name[:20].isdecimal()}
        return Seen(slots, tickets, dict(files).get("mutex"), locks)

    def probe(self) -> int:
        """How many slots are locked, asked by shared locks, which might disturb."""
        return sum(_is_locked(f"{self._directory}/{name}") for name, _ in self._inodes("") if _is_slot(name))

    def left_locked(self) -> list[tuple[str, str]]:
        """What is locked, "slot" or "ticket", and its path."""
        paths = [("slot", f"{self._directory}/{name}") for name, _ in self._inodes("") if _is_slot(name)]
        paths += [("ticket", f"{self._directory}/queue/{name}") for name, _ in self._inodes("queue")]
        return [(what, path) for what, path in paths if _is_locked(path)]

    def _inodes(self, room: str) -> list[tuple[str, int]]:
        try:
            with os.scandir(os.path.join(self._directory, room)) as entries:
                return [(entry.name, entry.inode()) for entry in entries]
        except FileNotFoundError:
            return []


def _is_slot(name: str) -> bool:
    return name.startswith("slot-") and name[5:].isdecimal()


def _is_locked(path: str) -> bool:
    try:
        fd = os.open(path, os.O_RDONLY)
    except FileNotFoundError:
        return False
    try:
        fcntl.flock(fd, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    finally:
        os.close(fd)
    return False


def _state(pid: int) -> str:
    """The state of process `pid` as a letter, see proc_pid_stat(5); X if it is gone."""
    try:
        with open(f"/proc/{pid}/stat") as file:
            return file.read().rpartition(")")[2].split()[0]
    except (FileNotFoundError, ProcessLookupError):
        return "X"


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
