"""What slots.lua answers, checked: whatever a server sends, these hold what they say they hold.

Texts that others have written (`info`, `who`, `reason`) are bounded, and not fit to print as they are.
"""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Final, Literal, TypeAlias

    from buildslots.fleet.connection import Reply

    State: TypeAlias = Literal["held", "waiting", "refused", "gone"]

LEASE_S, HEAD_START_S = 30.0, 300.0
"""What a pool says unless somebody has chosen otherwise: how long a slot stays taken after the last beat of
who holds it; how far `high` lets a build stand before its arrival, and `low` behind."""

_STATES = frozenset({"held", "waiting", "refused", "gone"})
_LARGEST = 2**53
_MOST_ITEMS = 1_000_000
_MOST_TEXT = 65536
_US = 1_000_000


class Pause:
    """A pause that is on. Never changed.

    Attributes:
        left_s: Seconds until it ends by itself.
        who: Who has set it, in words.
        reason: Why; "" if nobody said.
    """

    __slots__ = ("left_s", "reason", "who")

    def __init__(self, left_s: float, who: str, reason: str) -> None:
        self.left_s: Final = left_s
        self.who: Final = who
        self.reason: Final = reason


class Answer:
    """What a build is told. Never changed.

    Attributes:
        state: "held", "waiting", "refused" (it only tried) or "gone" (it has left).
        numbers: Of the slots that it holds, ascending.
        overflow: Whether it holds them beyond the cap.
        place: How many are before it in line; -1 if it is not in line.
        length: How many are in line.
        used: How many slots are held.
        cap: K of the pool.
        seq: Its number in line, to be given back with each `join`; 0 if it is not in line.
        next_s: Seconds after which to `join` again though no message came; None for the next beat.
        server_us: Unix time of the server, in microseconds.
        paused_us: For how many microseconds in all nobody could start: two answers tell what was between.
        pause: The pause that is on, or None.
        closed_s: For how many seconds nobody is given anything, because the server may have lost who holds.
        is_near: Whether it is not ready, and near enough to the head to become so.
        turn_s: After `over` with a pace: seconds until it may be its turn; 0 if that was no question.
        known: The rules, to be given back with each call.
        lease_s: What of them it acts by, as `Rules` has it; so for the next three.
    """

    __slots__ = (
        "cap",
        "closed_s",
        "confirm_s",
        "head_start_s",
        "is_near",
        "known",
        "lease_s",
        "length",
        "next_s",
        "numbers",
        "overflow",
        "pause",
        "paused_us",
        "place",
        "seq",
        "server_us",
        "state",
        "ticket_s",
        "turn_s",
        "used",
    )

    def __init__(self, reply: Reply) -> None:
        """Raises ValueError: it is none."""
        fields = _Fields(reply, 17)
        state = fields.text()
        if state not in _STATES:
            raise ValueError(f"state {state!r}")
        self.state: Final[State] = state  # type: ignore[assignment]
        self.numbers, self.overflow = _numbers(fields.text())
        self.place: Final = fields.number()
        self.length: Final = fields.number()
        self.used: Final = fields.number()
        self.cap: Final = fields.number()
        self.seq: Final = fields.number()
        next_ms = fields.number()
        self.next_s: Final = None if next_ms < 0 else next_ms / 1000
        self.server_us: Final = fields.number()
        self.paused_us: Final = fields.number()
        self.pause: Final = _pause(fields, self.server_us)
        self.closed_s: Final = fields.number() / _US
        self.is_near: Final = fields.number() == 1
        self.turn_s: Final = fields.number() / _US
        self.known: Final = fields.text()
        _, *times = _rules(self.known)
        self.lease_s, self.confirm_s, self.ticket_s, self.head_start_s = times


class Change:
    """A change of the rules. Never changed.

    Attributes:
        t: Unix time of the server.
        who: Who has made it, in words.
        what: What was set, in words.
    """

    __slots__ = ("t", "what", "who")

    def __init__(self, text: str) -> None:
        """Raises ValueError: it is none."""
        t, who, what = text.split("\n")
        self.t: Final = int(t) / _US
        self.who: Final = who
        self.what: Final = what


class Rules:
    """What a pool says. Never changed.

    Attributes:
        known: The same, as builds give it back.
        cap: K.
        lease_s: How long a slot stays taken after a beat.
        confirm_s: How long it waits for the first beat of who was given it.
        ticket_s: How long a place in line is kept after a beat.
        head_start_s: What a priority is worth.
        server_us: Unix time of the server, in microseconds.
        pause: The pause that is on, or None.
        changes: The last 20 changes, the newest last.
    """

    __slots__ = (
        "cap",
        "changes",
        "confirm_s",
        "head_start_s",
        "known",
        "lease_s",
        "pause",
        "server_us",
        "ticket_s",
    )

    def __init__(self, reply: Reply) -> None:
        """Raises ValueError: it is none."""
        fields = _Fields(reply, 6)
        self.known: Final = fields.text()
        cap, *times = _rules(self.known)
        self.cap: Final = int(cap)
        self.lease_s, self.confirm_s, self.ticket_s, self.head_start_s = times
        self.server_us: Final = fields.number()
        self.pause: Final = _pause(fields, self.server_us)
        self.changes: Final = tuple(Change(_text(each)) for each in fields.items())


class Holder:
    """Who holds slots. Never changed.

    Attributes:
        id: NONCE.WEIGHT.
        numbers: Of its slots, ascending; () if the server has lost them.
        overflow: Whether it took them beyond the cap.
        left_s: Seconds until they are taken away unless it beats; negative if nobody has done so yet.
        info: What it says of itself.
    """

    __slots__ = ("id", "info", "left_s", "numbers", "overflow")

    def __init__(self, reply: Reply) -> None:
        """Raises ValueError: it is none."""
        fields = _Fields(reply, 4)
        self.id: Final = fields.text()
        self.numbers, self.overflow = _numbers(fields.text())
        self.left_s: Final = fields.number() / _US
        self.info: Final = fields.text()


class Waiter:
    """Who waits. Never changed.

    Attributes:
        id: NONCE.WEIGHT.
        seq: By which places are sorted.
        left_s: Seconds until it is removed from the line unless it beats.
        own_cap: Its own cap; None if it has none.
        info: What it says of itself.
        is_ready: Whether it may be given slots; those that are not are passed.
    """

    __slots__ = ("id", "info", "is_ready", "left_s", "own_cap", "seq")

    def __init__(self, reply: Reply, *, is_ready: bool) -> None:
        """Raises ValueError: it is none."""
        fields = _Fields(reply, 5)
        self.id: Final = fields.text()
        self.seq: Final = fields.number()
        self.left_s: Final = fields.number() / _US
        self.own_cap: Final = fields.number() or None
        self.info: Final = fields.text()
        self.is_ready: Final = is_ready


class Counts:
    """What has happened in a pool since it was made. Never changed.

    Attributes:
        granted: Slots given to who was first in line.
        overflowed: Builds that went beyond the cap at their timeout.
        regained: Builds that registered again because their lease was lost.
        lapsed: Leases that ended without a word.
        deaf: Waiters that were passed over because nobody listened.
    """

    __slots__ = ("deaf", "granted", "lapsed", "overflowed", "regained")

    def __init__(self, reply: Reply) -> None:
        """Raises ValueError: they are none."""
        fields = _Fields(reply, 5)
        self.granted: Final = fields.number()
        self.overflowed: Final = fields.number()
        self.regained: Final = fields.number()
        self.lapsed: Final = fields.number()
        self.deaf: Final = fields.number()


class Status:
    """All that there is to see of a pool. Never changed.

    Attributes:
        rules: What it says.
        used: How many slots are held.
        holders: Who holds them, the next to lose them first.
        length: How many wait.
        waiters: Those of them that are first, in the order of the line: 1,000 that are ready, and 1,000 that
            are not.
        closed_s: For how many seconds nobody is given anything.
        grace_s: For how many seconds nothing is taken away from who does not beat.
        paused_us: As in `Answer`.
        counts: What has happened.
    """

    __slots__ = (
        "closed_s",
        "counts",
        "grace_s",
        "holders",
        "length",
        "paused_us",
        "rules",
        "used",
        "waiters",
    )

    def __init__(self, reply: Reply) -> None:
        """Raises ValueError: it is none."""
        fields = _Fields(reply, 11)
        self.rules: Final = Rules(fields.items())
        self.used: Final = fields.number()
        self.holders: Final = tuple(Holder(each) for each in fields.items())
        ready, waiters = fields.number(), [Waiter(each, is_ready=True) for each in fields.items()]
        self.length: Final = ready + fields.number()
        waiters += [Waiter(each, is_ready=False) for each in fields.items()]
        self.waiters: Final = tuple(sorted(waiters, key=lambda waiter: (waiter.seq, waiter.id)))
        self.closed_s: Final = fields.number() / _US
        self.grace_s: Final = fields.number() / _US
        self.paused_us: Final = fields.number()
        self.counts: Final = Counts(fields.items())


class _Fields:
    """The items of an array, one after the other; raises ValueError if one is not what it has to be."""

    __slots__ = ("_items",)

    def __init__(self, reply: Reply, length: int) -> None:
        if not isinstance(reply, list) or len(reply) != length:
            raise ValueError(f"no array of {length}")
        self._items = iter(reply)

    def text(self) -> str:
        return _text(next(self._items))

    def number(self) -> int:
        item = next(self._items)
        if not isinstance(item, int) or isinstance(item, bool) or abs(item) > _LARGEST:
            raise ValueError("no number")
        return item

    def items(self) -> list[Reply]:
        item = next(self._items)
        if not isinstance(item, list) or len(item) > _MOST_ITEMS:
            raise ValueError("no array")
        return item


def _text(item: Reply) -> str:
    if not isinstance(item, str) or len(item) > _MOST_TEXT:
        raise ValueError("no text")
    return item


def _numbers(text: str) -> tuple[tuple[int, ...], bool]:
    """The numbers in "3,4", and whether they are beyond the cap, as in "3,4!"."""
    numbers = text.rstrip("!")
    return tuple(sorted(int(each) for each in numbers.split(","))) if numbers else (), text.endswith("!")


def _rules(known: str) -> list[float]:
    """The cap in what is known of the rules, and their times in seconds."""
    _, cap, *times = (int(word) for word in known.split(" "))
    return [float(cap), *(us / _US for us in times)]


def _pause(fields: _Fields, server_us: int) -> Pause | None:
    until_us, who, reason = fields.number(), fields.text(), fields.text()
    return Pause((until_us - server_us) / _US, who, reason) if until_us else None
