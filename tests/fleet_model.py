"""What slots.lua and rules.lua have to do, once more, in Python: one object with the whole state of a pool.

It is written from PROTOCOL.md, for being read: lists are searched, nothing is quick. `Model.keys` is what the
server has to have in its keys, so that a state can be put there, and compared with what is there.
"""

from __future__ import annotations

import copy
import math
from dataclasses import dataclass, field

S = 1_000_000
SIGNS = {"high": 1, "normal": 0, "low": -1}
PURGED, NEAR, WATCHERS = 64, 4, 3


@dataclass
class Waiter:
    """A place in line."""

    seq: int
    is_ready: bool
    until: int


@dataclass
class Hold:
    """Slots that somebody holds."""

    until: int
    numbers: tuple[int, ...]
    is_overflow: bool = False


@dataclass
class Answer:
    """What a build is told, as far as the state of the pool decides it."""

    state: str
    numbers: tuple[int, ...] = ()
    overflow: bool = False
    place: int = -1
    length: int = 0
    used: int = 0
    cap: int = 0
    seq: int = 0
    next_ms: int = -1
    is_near: bool = False
    paused_us: int = 0
    is_paused: bool = False
    closed_us: int = 0
    turn_us: int = 0


@dataclass
class Model:
    """A pool, and the clock of its server."""

    cap: int
    now: int
    lease: int = 30 * S
    confirm: int = 3 * S
    ticket: int = 30 * S
    head_start: int = 300 * S
    seen: int = 0
    last: int = 0
    last_high: int = 0
    last_low: int = 0
    grace: int = 0
    closed: int = 0
    pause_since: int = 0
    pause_until: int = 0
    paused: int = 0
    changed: int = 0
    changed_paused: int = 0
    granted: int = 0
    overflowed: int = 0
    regained: int = 0
    lapsed: int = 0
    deaf: int = 0
    line: dict[str, Waiter] = field(default_factory=dict)
    holds: dict[str, Hold] = field(default_factory=dict)
    own: dict[str, int] = field(default_factory=dict)
    listening: set[str] = field(default_factory=set)
    is_other_run: bool = False  # the server was restarted
    told: list[tuple[str, str]] = field(default_factory=list)  # what was published, until somebody takes it
    _near_left: int = 0
    _is_unfinished: bool = False

    # The operations.

    def join(
        self, who: str, mode: str = "wait", *, priority: str = "normal", own: int = 0, seq: int = 0
    ) -> Answer:
        self._begin()
        if who in self.holds:
            return self._confirmed(who)
        claim = seq if 0 < seq <= max(self.last, self.now) + self.head_start else 0
        self._enter(who, priority, claim, own, is_ready=mode != "unready")
        self._purge()
        self._advance(who)
        if who in self.holds:
            return self._end(who, "held")
        if mode == "try":
            del self.line[who], self.own[who]
            return self._end(who, "refused")
        return self._end(who, "waiting")

    def over(self, who: str, *, paced: int = 0, waited: int = 0, stuck: int = 0, own: int = 0) -> Answer:
        self._begin()
        if who in self.holds:
            return self._confirmed(who)
        self._enter(who, "normal", 0, own, is_ready=True)
        self._purge()
        self._advance(who)
        if who in self.holds:
            return self._confirmed(who)
        if self.is_paused():
            return self._end(who, "waiting")
        if paced:
            turns = 1 + sum(each.seq < self.line[who].seq for each in self.line.values())
            quiet = self.now - self.changed - (self.paused_total() - self.changed_paused)
            left = min(turns * paced - min(quiet, waited), (turns + 1) * paced - stuck)
            if left > 0:
                return self._end(who, "waiting", left)
        cap, weight = self._cap_and_weight(who)
        del self.line[who]
        self._give(who, self._lowest(cap, weight), self.lease, is_overflow=True)
        self.overflowed += 1
        return self._end(who, "held")

    def renew(self, who: str, wanted: tuple[int, ...] = ()) -> Answer:
        self._begin()
        if who in self.holds:
            return self._confirmed(who)
        self._purge()
        if len(wanted) > weight_of(who):
            wanted = ()
        weight = len(wanted) or min(weight_of(who), self.cap)
        is_overflow = self.used() + weight > self.cap
        numbers = wanted
        if not wanted or set(wanted) & self.taken():
            numbers = self._lowest(self.cap if is_overflow else 0, weight)
        self._leave(who)
        self._give(who, numbers, self.lease, is_overflow=is_overflow)
        self.regained += 1
        self._advance()
        return self._end(who, "held")

    def drop(self, who: str) -> Answer:
        self._begin()
        if self.holds.pop(who, None) is not None:
            self._changes()
        self._leave(who)
        self.own.pop(who, None)
        self._purge()
        self._advance()
        return self._end(who, "gone")

    def set_cap(self, cap: int) -> None:
        self._begin()
        self.cap = cap
        self._purge()
        self._advance()
        self._wake_the_near()

    def pause(self, length: int) -> None:
        self._begin()
        self._end_pause()
        self.pause_since, self.pause_until = self.now, self.now + length

    def resume(self) -> None:
        self._begin()
        self._end_pause()
        self._purge()
        self._advance()
        self._wake_the_near()

    # What they are made of.

    def used(self) -> int:
        return sum(len(hold.numbers) for hold in self.holds.values())

    def taken(self) -> set[int]:
        return {number for hold in self.holds.values() for number in hold.numbers}

    def is_paused(self) -> bool:
        return self.pause_since <= self.now < self.pause_until

    def paused_total(self) -> int:
        on = max(0, min(self.now, self.pause_until) - self.pause_since) if self.pause_until else 0
        return self.paused + on

    def in_order(self, *, is_ready: bool) -> list[str]:
        found = [(each.seq, who) for who, each in self.line.items() if each.is_ready == is_ready]
        return [who for _, who in sorted(found)]

    def _begin(self) -> None:
        self._near_left, self._is_unfinished = 0, False
        if self.is_other_run:
            self.closed = self.grace = self.now + self.lease
            self.is_other_run = False
        if self.seen and self.now - self.seen > self.lease / 2 and self.holds:
            self.grace = max(self.grace, math.floor(self.now + self.lease / 3 + S / 2))
        if self.now < self.seen:
            for hold in self.holds.values():
                hold.until = min(hold.until, self.now + self.lease)
            for waiter in self.line.values():
                waiter.until = min(waiter.until, self.now + self.ticket)
            self.grace = min(self.grace, self.now + self.lease)
            self.closed = min(self.closed, self.now + self.lease)
            self.changed = min(self.changed, self.now)
        self.seen = self.now
        if self.pause_until and not self.is_paused():
            self._end_pause()

    def _end_pause(self) -> None:
        self.paused, self.pause_since, self.pause_until = self.paused_total(), 0, 0

    def _changes(self) -> None:
        self.changed, self.changed_paused = self.now, self.paused_total()

    def _confirmed(self, who: str) -> Answer:
        self.holds[who].until = self.now + self.lease
        self._purge()
        self._advance()
        return self._end(who, "held")

    def _enter(self, who: str, priority: str, claim: int, own: int, *, is_ready: bool) -> None:
        if who not in self.line:
            self.line[who] = Waiter(claim or self._new_seq(priority), is_ready, 0)
            if claim:
                self.last = max(self.last, claim + SIGNS[priority] * self.head_start)
        elif is_ready and not self.line[who].is_ready:
            self._near_left += 1
        waiter = self.line[who]
        waiter.is_ready, waiter.until, self.own[who] = is_ready, self.now + self.ticket, own

    def _new_seq(self, priority: str) -> int:
        self.last = max(self.last + 1, self.now)
        if priority == "normal":
            return self.last
        name = f"last_{priority}"
        seq = max(self.last - SIGNS[priority] * self.head_start, getattr(self, name) + 1)
        setattr(self, name, seq)
        return seq

    def _leave(self, who: str) -> None:
        waiter = self.line.pop(who, None)
        self._near_left += waiter is not None and not waiter.is_ready

    def _purge(self) -> None:
        if self.now < self.grace:
            return
        dead = sorted((hold.until, who) for who, hold in self.holds.items() if hold.until <= self.now)
        for _, who in dead[:PURGED]:
            del self.holds[who]
            self.own.pop(who, None)
            self.lapsed += 1
            self._changes()
        dead = sorted((each.until, who) for who, each in self.line.items() if each.until <= self.now)
        for _, who in dead[:PURGED]:
            self._leave(who)
            self.own.pop(who, None)

    def _cap_and_weight(self, who: str) -> tuple[int, int]:
        cap = min(self.own[who] or self.cap, self.cap)
        return cap, min(weight_of(who), cap)

    def _lowest(self, least: int, wanted: int) -> tuple[int, ...]:
        taken = self.taken()
        free = [number for number in range(least, least + len(taken) + wanted) if number not in taken]
        return tuple(free[:wanted])

    def _give(self, who: str, numbers: tuple[int, ...], time: int, *, is_overflow: bool = False) -> None:
        self.holds[who] = Hold(self.now + time, numbers, is_overflow)
        self._changes()

    def _tell(self, who: str, text: str) -> bool:
        if who in self.listening:
            self.told.append((who, text))
        return who in self.listening

    def _advance(self, alive: str | None = None) -> None:
        if self.now < self.closed or self.is_paused():
            return
        must_confirm = False
        for tries in range(1, PURGED + 1):
            ready = self.in_order(is_ready=True)
            if not ready:
                break
            head = ready[0]
            cap, weight = self._cap_and_weight(head)
            if self.used() + weight > cap:
                break
            del self.line[head]
            if head == alive or self._tell(head, "go"):
                self._give(head, self._lowest(0, weight), self.confirm)
                self.granted += 1
                must_confirm = True
            else:
                del self.own[head]
                self.deaf += 1
            self._is_unfinished = tries == PURGED
        if must_confirm or self._is_unfinished:
            soon = f"soon {1 if self._is_unfinished else self.confirm // 1000}"
            for who in self.in_order(is_ready=True)[:WATCHERS]:
                if who == alive or self._tell(who, soon):
                    break

    def _wake_the_near(self) -> None:
        last = NEAR * self.cap
        for who in self.in_order(is_ready=False)[max(0, last - self._near_left) : last]:
            if self._near_left:
                self._tell(who, "near")

    def _end(self, who: str, state: str, turn: int = 0) -> Answer:
        self._wake_the_near()
        hold, waiter = self.holds.get(who), self.line.get(who)
        answer = Answer(
            state,
            hold.numbers if hold else (),
            hold is not None and hold.is_overflow,
            length=len(self.line),
            used=self.used(),
            cap=self.cap,
            paused_us=self.paused_total(),
            is_paused=self.is_paused(),
            closed_us=max(0, self.closed - self.now),
            turn_us=turn,
        )
        event = self.now if self._is_unfinished else None
        if waiter is not None:
            answer.seq = waiter.seq
            mine = self.in_order(is_ready=waiter.is_ready).index(who)
            others = [each for each in self.line.values() if each.is_ready != waiter.is_ready]
            answer.place = mine + sum(each.seq < waiter.seq for each in others)
            answer.is_near = not waiter.is_ready and mine < NEAR * self.cap
            if waiter.is_ready and mine < WATCHERS and event is None:
                event = self._next_event()
        if event is not None:
            answer.next_ms = max(1, math.ceil((event - self.now) / 1000))
        return answer

    def _next_event(self) -> int | None:
        if self.is_paused():
            return self.pause_until
        if self.now < self.closed:
            return self.closed
        until = [hold.until for hold in self.holds.values()]
        return max(min(until), self.grace) if until else None

    # As the server has it.

    def keys(self) -> dict[str, dict[str, str | int]]:
        """What is in its keys but the journal of the rules: each as member or field, and score or value."""
        numbers = {
            who: ",".join(map(str, hold.numbers)) + "!" * hold.is_overflow for who, hold in self.holds.items()
        }
        return {
            "cfg": {name: getattr(self, name) for name in FIELDS},
            "q": {who: each.seq for who, each in self.line.items() if each.is_ready},
            "u": {who: each.seq for who, each in self.line.items() if not each.is_ready},
            "hb": {who: each.until for who, each in self.line.items()},
            "h": {who: each.until for who, each in self.holds.items()},
            "n": numbers,
            "o": {who: own for who, own in self.own.items() if own},
        }

    def copy(self) -> Model:
        return copy.deepcopy(self)


FIELDS = (
    *("cap", "lease", "confirm", "ticket", "head_start", "seen", "last", "last_high", "last_low"),
    *("grace", "closed", "pause_since", "pause_until", "paused", "changed", "changed_paused"),
    *("granted", "overflowed", "regained", "lapsed", "deaf"),
)


def weight_of(who: str) -> int:
    return int(who.partition(".")[2])
