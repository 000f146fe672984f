"""Processes, callers, holds and waits, as far as marks tell of them: what the ledger keeps."""

from __future__ import annotations

from collections import deque

from bench.abuse import marks

TYPE_CHECKING = False
if TYPE_CHECKING:
    from bench.abuse.ruled import Write

S = 10**9
NEVER = float("inf")


class Process:
    """What is known of one process. It is one caller, number 0, or a crowd."""

    def __init__(self, event: marks.Event) -> None:
        self.pid = event.pid
        self.born = event.ns
        self.parent = event.c
        self.clock_us = 0  # by how much its clock is ahead
        self.setting: list[Write] = []  # the rules of the pool that it is about to set
        self.callers: dict[int, Caller] = {}
        self.heir_of: Hold | None = None
        self.gone = NEVER
        self.stopped: list[list[float]] = []
        self.last: deque[marks.Event] = deque(maxlen=16)

    def caller(self, number: int) -> Caller:
        """Its caller of that number."""
        if number not in self.callers:
            self.callers[number] = Caller(self)
        return self.callers[number]

    @property
    def holds(self) -> list[Hold]:
        """What its callers hold."""
        return [caller.hold for caller in self.callers.values() if caller.hold is not None]

    def was_stopped(self, since: float, until: float) -> bool:
        """Whether it was stopped at some time in between."""
        return any(begin <= until and end >= since for begin, end in self.stopped)


class Caller:
    """What is known of one that asks for slots: a process, or one task or thread of it."""

    __slots__ = ("busy", "call", "hold", "process", "wait")

    def __init__(self, process: Process) -> None:
        self.process = process
        self.call: marks.Event | None = None  # while it asks
        self.wait: Wait | None = None  # of this call
        self.hold: Hold | None = None
        self.busy = False  # asks, holds or lets go


class Hold:
    """Slots that are held, as far as is certain: from `start` to `end`.

    Attributes:
        cap: What its owner has said, or its default, which is less than 0 then.
        before: A time before which its owner had not counted the slots of others.
        decided_itself: Whether its owner took it, and has told by `before` when; not one of a slot-run.
        heirs: Forks of the owner that have copies of its descriptors.
        let_go: Whether the owner has let go of it, which ends it for the heirs too.
    """

    __slots__ = (
        "before",
        "cap",
        "decided_itself",
        "end",
        "heirs",
        "how",
        "let_go",
        "owner",
        "start",
        "weight",
    )

    def __init__(self, event: marks.Event, owner: Process, *, decided_itself: bool = True) -> None:
        self.owner = owner
        self.decided_itself = decided_itself
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
    """A place in line, or behind that in the memory of a crowd: from `join` to `leave`.

    Attributes:
        asked: When its owner asked for slots.
        after: Those of the same crowd who may have come before it and have no place yet: its own, and so its
            `join`, comes when they have one.
        again: Whether it joined again, with its old number, after the pool directory had been removed.
        called: When its owner set out for the line: it may have the mutex, and a number, of a pool that was
            removed before it joined. In a crowd, the first of those who still wait then.
        in_crowd: Whether it is one of a crowd, of whose tickets nobody can tell whose they are: all that is
            known is that it waited from `join` to `leave`.
        last: The largest number that it may have had, in a crowd, once that was asked.
        leave: Until when it certainly was in line.
        priority: 1 is high, 0 normal, -1 low.
        ready: When it had joined the line, and had knocked at the ticket behind it.
        left: When it left by its own mark: later than that, if a kill was under way.
    """

    __slots__ = (
        "after",
        "again",
        "asked",
        "called",
        "in_crowd",
        "join",
        "last",
        "leave",
        "left",
        "number",
        "owner",
        "priority",
        "ready",
    )

    def __init__(self, event: marks.Event, caller: Caller) -> None:
        self.again = caller.wait is not None
        self.owner = caller.process
        self.number = event.c
        self.asked = self.called = caller.call.ns if caller.call else event.ns
        self.priority = caller.call.priority if caller.call else 0
        self.ready = NEVER
        self.last: float | None = None
        self.join: float = event.ns
        self.leave = self.left = NEVER
        self.in_crowd = event.kind == marks.WAITS
        self.after: set[Caller] = set()

    def __repr__(self) -> str:
        which = "in a crowd" if self.in_crowd else self.number
        how = ("normal", "high", "low")[self.priority]
        return f"{how} wait {which} of {self.owner.pid}, {self.join / S:.4f} to {self.leave / S:.4f}"
