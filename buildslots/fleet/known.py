"""What this process knows of a pool on a server: what that said last, to whichever build of this process.

Many builds of one process may wait for one pool, most of them in memory (`crowd`) and without a connection.
What they have to know of its rules, its clock and its pauses the others have been told.
"""

from __future__ import annotations

import time

from buildslots.fleet.replies import HEAD_START_S, LEASE_S
from buildslots.words import NAME_SHOWN, shown

TYPE_CHECKING = False
if TYPE_CHECKING:
    from buildslots.backend import Request
    from buildslots.fleet.replies import Answer, Pause

MARK = "@"
"""What the nonces of slots on servers begin with, in the marks of `slot.HELD`."""
MOST_SEEN = 100
"""So many moments are remembered at which the time of pauses had become more."""
MOST_REASON = 160
"""Cells of the reason of a pause."""
NEVER = float("inf")


class Known:
    """What was said of one pool.

    Attributes:
        rules: To be said with each call, so that a server that has lost them learns them again; "" if
        unknown.
        cap: K; 0 if that is unknown.
        used: How many slots were held.
        length: How many waited.
        lease_s: How long a slot is kept for who does not beat.
        beat_s: How often to beat.
        head_start_s: What a priority is worth.
    """

    __slots__ = (
        "_ahead_us",
        "_pause",
        "_paused_until",
        "_seen",
        "beat_s",
        "cap",
        "head_start_s",
        "lease_s",
        "length",
        "rules",
        "used",
    )

    def __init__(self) -> None:
        self.rules = ""
        self.cap = self.used = self.length = 0
        self.lease_s, self.beat_s, self.head_start_s = LEASE_S, LEASE_S / 3, HEAD_START_S
        self._pause: str | None = None
        self._paused_until = 0.0
        self._ahead_us: int | None = None  # the server's clock, before ours
        # `time.monotonic()` of answers, and how many seconds in all nobody could start by then. Of those in a
        # row that say the same the first and the last.
        self._seen: list[tuple[float, float]] = []

    def note(self, answer: Answer, asked_us: int) -> None:
        """Learn what there is to learn of `answer`, which has just come, and was asked for at that time."""
        now = time.monotonic()
        self.cap, self.used, self.length = answer.cap, answer.used, answer.length
        self.rules, self.lease_s, self.head_start_s = answer.known, answer.lease_s, answer.head_start_s
        self.beat_s = min(answer.lease_s, answer.ticket_s) / 3
        # As long as it can be true what is known of the clocks stays: numbers of this process, which are by
        # its own clock, would lose their order if that were compared anew with every answer.
        least, most = answer.server_us - time.time_ns() // 1000, answer.server_us - asked_us
        before = least if self._ahead_us is None else self._ahead_us
        self._ahead_us = max(least, min(before, most))
        self._paused_until = 0.0 if answer.pause is None else now + answer.pause.left_s
        self._pause = None if answer.pause is None else in_words(answer.pause)
        seen = (now, answer.paused_us / 1e6)
        if len(self._seen) > 1 and self._seen[-2][1] == self._seen[-1][1] == seen[1]:
            self._seen[-1] = seen
        else:
            self._seen = [*self._seen[-MOST_SEEN:], seen]

    @property
    def pause(self) -> str | None:
        """The pause that is on, in words that follow "waiting for"; None if none is."""
        return self._pause if time.monotonic() < self._paused_until else None

    def paused_s(self, since: float) -> float:
        """For how many seconds since that `time.monotonic()` nobody could start; infinity in a pause."""
        return NEVER if time.monotonic() < self._paused_until else self.paused_so_far_s(since)

    def paused_so_far_s(self, since: float) -> float:
        """The same, without what is left of a pause that is on.

        At most so many: a pause lay somewhere between two answers, and may have been over before.
        """
        paused_s, before = 0.0, None
        for at, total_s in self._seen:
            if at > since and before is not None:
                paused_s += max(0.0, min(total_s - before[1], at - max(since, before[0])))
            before = at, total_s
        if before is not None:  # the pause that was on then, as far as it has gone on
            paused_s += max(0.0, min(self._paused_until, time.monotonic()) - max(since, before[0]))
        return paused_s

    def ruled(self, request: Request) -> Request:
        """`request` with the cap that the pool gives it."""
        if not self.cap:
            return request
        return request.under(min(request.own_cap, self.cap) if request.is_own_cap else self.cap)

    def number_of(self, seq: int) -> int:
        """The place `seq` in line, by the server's clock, as one by ours."""
        return seq - (self._ahead_us or 0)

    def seq_of(self, number: int) -> int:
        """The place `number`, by our clock, as one by the server's; 0 if that clock is unknown."""
        return 0 if self._ahead_us is None else max(0, number + self._ahead_us)

    @property
    def server_time(self) -> float:
        """Unix time by the server's clock, as far as it is known; or else by ours."""
        return time.time() + (self._ahead_us or 0) / 1e6


def in_words(pause: Pause) -> str:
    """What who waits for the end of `pause` waits for."""
    why = f": {shown(pause.reason, MOST_REASON)}" if pause.reason else ""
    end = time.strftime("%H:%M:%S", time.localtime(time.time() + pause.left_s))
    return f"the end of a pause at {end}, set by {shown(pause.who, NAME_SHOWN)}{why}"


_known: dict[str, Known] = {}


def known_of(address: str) -> Known:
    """What this process knows of the pool at `address`."""
    return _known.setdefault(address, Known())
