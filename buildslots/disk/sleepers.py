"""Sleepers: waiters that are stopped, or hang. They block nobody for long, though a slot is theirs.

Loaded only by a process that has to wait.
"""

from __future__ import annotations

import time

from buildslots.disk import bells, line

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

PLACE_S = 0.5
FIRST_KNOCK_S = 0.1
"""How long a free slot may lie before the second in line knocks at the head; each one further back waits for
PLACE_S longer. Nearly always the head is about to take the slot; and one sleeper, or load, must not set all
of them knocking."""
IDLE_S = 0.9
"""How long a knock has to lie unread before those at whom it was count as asleep."""
IDLE_LOOKS = 4
"""How often one looks in that time."""
NEVER = float("inf")


class Sleepers:
    """Whether those ahead have left a slot lying because they are asleep.

    A waiter may overtake when a slot has been free for about a second, everybody ahead was entitled to it,
    and everybody ahead has ignored a knock for that long.

    Attributes:
        look_at: `time.monotonic()` at which to look again; infinity while no free slot lies about.
    """

    look_at: float
    _ahead: list[str]
    _knock_at: float
    _knocked: list[str] | None
    _patience_s: float

    def __init__(self) -> None:
        self._forget()

    def overtake(
        self,
        directory: str,
        ahead: list[str],
        limit: int,
        held: int,
        limit_of: Callable[[str], int] = line.limit_of,
    ) -> int:
        """Look; once those `ahead` are asleep: below how many held slots we may take one. Else 0.

        A slot counts as free while fewer slots are `held` than the limit of anybody ahead, and our own
        `limit`: then each of them could have taken it. `limit_of` tells that of a ticket.
        """
        now = time.monotonic()
        if held < limit:  # rarely. Dead tickets go now: their limits and their unread knocks would count
            ahead = [name for name in ahead if line.live(directory, name)]
            limit = min([limit, *map(limit_of, ahead)])
        if not ahead or held >= limit:
            self._forget()
        elif self._ahead != ahead:  # first seen, or somebody ahead took a slot: not all are asleep
            self._forget()
            self._ahead = ahead
            self._knock_at = now + FIRST_KNOCK_S + PLACE_S * min(len(ahead) - 1, 12)
            self.look_at = self._knock_at
        elif now < self._knock_at:
            self.look_at = self._knock_at  # woken by something else
        elif self._knocked is None:
            self._knock_at = now  # we may have been asleep ourselves since it was due
            self._knocked = [bell for name in ahead if bells.knock(bell := f"{directory}/bells/{name}")]
            if len(self._knocked) < len(ahead):
                # No FIFOs: nobody can tell who is awake, so those ahead get time by their places.
                self._patience_s += PLACE_S * len(ahead)
            self.look_at = now + IDLE_S / IDLE_LOOKS
        elif any(map(bells.answered, self._knocked)):
            self._ahead = []  # somebody is awake: begin anew
            self.look_at = now + PLACE_S
        elif now - self._knock_at >= self._patience_s:
            return limit
        else:
            self.look_at = min(now + IDLE_S / IDLE_LOOKS, self._knock_at + self._patience_s)
        return 0

    def _forget(self) -> None:
        self._ahead, self._knock_at = [], 0.0
        self._knocked, self._patience_s = None, IDLE_S
        self.look_at = NEVER
