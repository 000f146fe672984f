"""How builds share the tokens: what one of them does about its own, whatever it sees. No clock, no files.

Each build decides for itself. It knows how many tokens it has, how many bytes lie unread in its jobserver,
and what the others say of themselves: how many they have, and whether they are *hungry*, which is to have no
byte to offer and to find no token for one. Sharing works like this:

1. A build offers one byte as long as there are tokens. That somebody reads it is what tells of demand: a
   jobserver is empty also during one long link.
2. A hungry build rings at those that have more, and at those that are not hungry.
3. Who has two more than a hungry build owes it one: the next byte that comes back is not offered again. Who
   has one more owes it after a while, so that what cannot be divided goes round.
4. Whoever has had a byte lie unread for a while gives it to the hungry, and wants no other one for a while.
5. A token that is free is left to a hungry build that has fewer. If that does not take it, it is stopped.

A gift is a free token and a ring. It is not for one build alone: whoever is quicker takes it, and the one for
whom it was is hungry still, says so, and is owed one again. So nothing depends on bells, nor on who is
stopped, killed or slow; and whatever builds say of themselves, each puts out no byte without a token.

`Share.look` asks for what it needs, one thing at a time, and is told: see the words for that below. The
broker does these things; a model in the tests takes them in every order that there is.
"""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Generator, Iterable
    from typing import TypeAlias

    Steps: TypeAlias = "Generator[tuple[str, str], int | list[Other], None]"
    """What is to be done or asked, and at which other build; is sent the answer, 0 where there is none."""

UNREAD = "unread"
"""How many bytes lie in the jobserver?"""
OTHERS = "others"
"""What do the other builds that live say of themselves?"""
LOCK, UNLOCK = "lock", "unlock"
"""Take a token, if there is one (1 or 0). Give one back."""
PUT, BACK = "put", "back"
"""Put a byte into the jobserver. Read one back, if there is one (1 or 0)."""
SAY, RING = "say", "ring"
"""Tell the others how many tokens we have, and whether we are hungry. Ring the bell of one of them."""

HOLD = "hold"
"""Until when an offered byte may lie unread."""
SATED = "sated"
"""Until when none is wanted."""
LEAVE = "leave"
"""Until when a free token is left to those that have fewer."""
AGAIN = "again"
"""When a hungry build looks again, and rings again."""
TURN = "turn"
"""From when on one that has one more than another owes it that."""

HOLD_S, LONGEST_HOLD_S = 0.05, 0.45
"""A make that waits for a byte takes it at once; but on a busy machine that may take a while."""
ASKED_HOLD_S, LONGEST_ASKED_HOLD_S = 0.45, 2.0
"""ninja does not wait for a byte. It tries to read one when a job has ended. If none lies there, it is sure
to want one, and not sure when it tries again."""
SATED_S, LONGEST_SATED_S = 0.2, 2.0
LEAVE_S = 0.05
AGAIN_S = 1.0
TURN_S = 1.0
MORE, LESS = 3, 2
"""By how much what was in vain lasts longer the next time, and a hold shorter that was too long."""


class Other:
    """What another build says of itself.

    Attributes:
        name: Its own.
        held: How many tokens it has.
        is_hungry: Whether it wants one more.
        sequence: Another number each time that it has looked for a token in vain.
    """

    __slots__ = ("held", "is_hungry", "name", "sequence")

    def __init__(self, name: str, held: int, sequence: int, *, is_hungry: bool) -> None:
        self.name = name
        self.held = held
        self.sequence = sequence
        self.is_hungry = is_hungry


class Share:
    """What one build has, and knows of the others.

    Attributes:
        cap: How many tokens it may have at most.
        held: Tokens that it has.
        out: Bytes that it has put into its jobserver and not read back. More than `held` only after a stop,
            when the tokens were given away under jobs that run again: that is its debt.
        is_hungry: Whether it wants one more, and has found none.
        sequence: How often it has looked in vain.
        is_stopped: Whether its command is stopped, and so wants none.
        known: Hungry others.
        deadlines: When what is over; `HOLD` and the others by their names.
    """

    __slots__ = (
        "_asked",
        "_asked_hold_s",
        "_given",
        "_hold_s",
        "_passed",
        "_sated_s",
        "_since",
        "cap",
        "deadlines",
        "held",
        "is_hungry",
        "is_stopped",
        "known",
        "out",
        "sequence",
    )

    def __init__(self, cap: int) -> None:
        self.cap = cap
        self.held = self.out = self.sequence = 0
        self.is_hungry = self.is_stopped = False
        self.known: list[Other] = []
        self.deadlines: dict[str, float] = {}
        self._given: dict[str, int] = {}  # to whom, at which sequence of theirs
        self._passed: dict[str, int] = {}  # whom it does not leave tokens to any more, likewise
        self._asked = False  # whether somebody has tried to read one in vain since
        self._since = 0.0  # since when a byte lies unread; there is one as long as there is a HOLD
        self._hold_s, self._asked_hold_s, self._sated_s = HOLD_S, ASKED_HOLD_S, SATED_S

    def look(self, now: float, *, is_rung: bool = False, is_touched: bool = False) -> Steps:
        """Do what there is to do now.

        Args:
            now: The time, on any clock.
            is_rung: Whether somebody has rung our bell.
            is_touched: Whether somebody has done something to the jobserver, and nothing else has come.
        """
        unread = yield from self._unread(now, is_touched=is_touched)
        if self.is_stopped:
            yield from self._give_all(unread)
            return
        if is_rung or self.known:
            yield from self._ask()
        unread = yield from self._give(unread, now)
        if not unread:
            self.deadlines.pop(HOLD, None)
        if self._wants_more():
            yield from self._want(now, is_rung=is_rung)
            return
        self.deadlines.pop(LEAVE, None)
        # After a ring, too: the gift that it tells of would lie there until we look again.
        if self.is_hungry and (not unread or is_rung or self._is_over(HOLD, now)):
            self.is_hungry = False
            yield SAY, ""

    def begin(self, now: float) -> Steps:
        """Offer a byte before there is a command, and before others know of us."""
        yield from self._take(now)

    def end(self) -> Steps:
        """Give all tokens back, whatever bytes are out: the build has ended."""
        self.is_stopped = True
        yield from self._give_all(0)

    def is_settled(self) -> bool:
        """Whether nothing that clients do can give us anything to do: it has all it may have, for itself."""
        return self.held >= self.cap and self.out == self.held and not (self.known or self.is_hungry)

    def is_patient(self, now: float) -> bool:
        """Whether it does to see later what clients do: all that may run does, and none is owed."""
        if HOLD in self.deadlines or not self.is_hungry or self.out > self.held:
            return False
        return not any(self._owes(other, now) for other in self.known)

    def due(self, now: float) -> float | None:
        """When there is something to do though nothing happens; None for never."""
        ends = (self.deadlines.get(name, now) for name in self.waits_for())
        return min((end for end in ends if end > now), default=None)

    def waits_for(self) -> list[str]:
        """The deadlines that are worth to wake up for. Others count at the next look, whenever that is."""
        names = [LEAVE, SATED]
        if self.known or self.is_hungry:
            names.append(HOLD)
        if self.is_hungry:
            names.append(AGAIN)
        return names

    # What lies unread, and what that says.

    def _unread(self, now: float, *, is_touched: bool) -> Generator[tuple[str, str], int, int]:
        """How many bytes lie unread, after those were read back that must not."""
        unread = yield UNREAD, ""
        if not unread:
            if self.deadlines.pop(HOLD, None) is not None:
                self._was_taken(now - self._since)
            else:
                self._asked = self._asked or is_touched
        while unread > self.out and (yield BACK, ""):  # a client has written more than it has read
            unread -= 1
        while unread and self.out > self.held and (yield BACK, ""):
            unread -= 1
            self.out -= 1
        if unread and HOLD not in self.deadlines:
            self._lies(now)
        return unread

    def _lies(self, now: float) -> None:
        """A byte lies unread from now on."""
        self._since = now
        self.deadlines[HOLD] = now + (self._asked_hold_s if self._asked else self._hold_s)

    def _was_taken(self, after_s: float) -> None:
        self._hold_s = min(max(2 * after_s, self._hold_s / LESS, HOLD_S), LONGEST_HOLD_S)
        self._asked_hold_s = min(max(2 * after_s, self._asked_hold_s / LESS, HOLD_S), LONGEST_ASKED_HOLD_S)
        self._sated_s = SATED_S

    def _spurn(self, now: float) -> None:
        """An offered byte was not wanted: offer no other one for a while."""
        if self._asked:
            self._asked_hold_s = min(MORE * self._asked_hold_s, LONGEST_ASKED_HOLD_S)
            self.deadlines[SATED] = now + SATED_S
        else:
            self.deadlines[SATED] = now + self._sated_s
            self._hold_s = min(MORE * self._hold_s, LONGEST_HOLD_S)
            self._sated_s = min(MORE * self._sated_s, LONGEST_SATED_S)
        self._asked = self.is_hungry = False

    def _is_over(self, name: str, now: float) -> bool:
        return self.deadlines.get(name, now + 1) <= now

    # The others.

    def _ask(self) -> Generator[tuple[str, str], list[Other], list[Other]]:
        """Look who is hungry: all others."""
        others = yield OTHERS, ""
        self.known = sorted((other for other in others if other.is_hungry), key=lambda other: other.held)
        now = {other.name: other.sequence for other in self.known}
        for memory in (self._given, self._passed):
            for name in [name for name, sequence in memory.items() if now.get(name) != sequence]:
                del memory[name]
        return others

    def _give(self, unread: int, now: float) -> Generator[tuple[str, str], int, int]:
        """Give what we owe, and what lies there for nothing: how many bytes lie there still."""
        for other in self.known:
            if not unread:
                break
            is_owed = self._owes(other, now)
            if other.name in self._given or not (is_owed or self._is_over(HOLD, now)):
                continue
            if not (yield BACK, ""):
                return 0
            unread -= 1
            self.out -= 1
            yield UNLOCK, ""
            self._given[other.name] = other.sequence
            self._changed(-1, now)
            if not is_owed:
                self._spurn(now)
            yield SAY, ""
            yield RING, other.name
        return unread

    def _owes(self, other: Other, now: float) -> bool:
        """Whether it has so many more that the next byte is for that one, if it was not given one yet."""
        more = self.held - other.held
        is_more = more > 1 or (more == 1 and self._is_over(TURN, now))
        return is_more and other.name not in self._given

    def _changed(self, by: int, now: float) -> None:
        self.held += by
        self.deadlines[TURN] = now + TURN_S

    def _give_all(self, unread: int) -> Steps:
        self.deadlines.clear()
        while unread and (yield BACK, ""):
            unread -= 1
            self.out -= 1
        if not (self.held or self.is_hungry):
            return
        while self.held:
            yield UNLOCK, ""
            self.held -= 1
        self.is_hungry = False
        yield SAY, ""
        yield from self._ring(other for other in (yield from self._ask()) if other.is_hungry)

    def _ring(self, others: Iterable[Other]) -> Steps:
        for other in others:
            yield RING, other.name

    # Wanting one more.

    def _wants_more(self) -> bool:
        return self.out > self.held or (HOLD not in self.deadlines and self.held < self.cap)

    def _want(self, now: float, *, is_rung: bool) -> Steps:
        """Take a token, if there is one and it is not for somebody else; be hungry if there is none."""
        again = self._is_over(AGAIN, now)
        if self.is_hungry and not (is_rung or again or self._is_over(LEAVE, now)):
            return
        if self._leaves_it(now):
            return
        if self.known and not (self._asked or self._is_over(SATED, now) or SATED not in self.deadlines):
            return
        self.deadlines.pop(SATED, None)
        if (yield from self._take(now)):
            return
        was_hungry, self.is_hungry = self.is_hungry, True
        self.sequence += 1
        yield SAY, ""
        # For what was given back before it was said that we are hungry, nobody has rung.
        if (yield from self._take(now)) or (was_hungry and not again):
            return
        self.deadlines[AGAIN] = now + AGAIN_S
        others = yield from self._ask()
        yield from self._ring(o for o in others if o.held and (not o.is_hungry or o.held > self.held))

    def _leaves_it(self, now: float) -> bool:
        """Whether a token that may be free is for somebody who has fewer."""
        poorer = {o.name: o.sequence for o in self.known if o.held < self.held and o.name not in self._passed}
        if not poorer:
            self.deadlines.pop(LEAVE, None)
            return False
        if self.deadlines.setdefault(LEAVE, now + LEAVE_S) > now:
            return True
        del self.deadlines[LEAVE]
        self._passed.update(poorer)
        return False

    def _take(self, now: float) -> Generator[tuple[str, str], int, bool]:
        """Take tokens for jobs that run without one, and one to offer: whether there were as many."""
        while self._wants_more():
            if not (yield LOCK, ""):
                return False
            self._changed(1, now)
            if self.out < self.held:
                yield PUT, ""
                self.out += 1
                self._lies(now)
        self.is_hungry = False
        yield SAY, ""
        return True
