"""What a build needs of its own machine before slots on a server are of use to it.

Its gates have to be open, and with `also_local` it takes a slot of the pool of that name on this machine.
Nobody may hold a slot of twenty hosts while it waits for something of one: so who is not ready is passed over
in line, and who finds at its turn that it is not ready any more gives back what it was given.

Whoever is near the head looks whether there is a slot here. It does not take it: of those near the head most
have to wait for long yet. But each of the very first stands in line here, too, and takes a slot when it is
its turn; where all slots are always taken nobody would ever see a free one. So the slots that lie idle for
this on all machines together are at most as many as the pool on the server has.
"""

from __future__ import annotations

import time

from buildslots.backend import Refusal
from buildslots.fleet.task import within

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Protocol

    from buildslots.backend import Backend, Hold, Place, Request, Steps
    from buildslots.gates import Gates

    class HostPool(Backend, Protocol):
        """A pool of this machine."""

        def has_room(self, request: Request) -> bool:
            """Whether slots seem to be free for `request`, and nobody is in line. Raises OSError."""


LOOK_S = 0.25
"""How often one that is not ready looks whether it is: as often as the first in a line of this machine."""


class Here:
    """The part of a build on this machine: its `gates`, and slots of a pool, if it wants those.

    Attributes:
        gate: What of the machine's state keeps it back, in words; None if nothing does.
        hold: The slots that it has here, or None.
    """

    __slots__ = ("_gates", "_place", "_told", "_wanted", "gate", "hold")

    def __init__(
        self, gates: Gates | None, wanted: tuple[HostPool, Request] | None = None, *, told: list[str]
    ) -> None:
        """`wanted` is the pool of this machine, and what it is asked for.

        If it cannot be used, `told` gets a sentence about that.
        """
        self._gates = gates
        self._wanted = wanted
        self._told = told
        self._place: Place | None = None
        self.gate: str | None = None
        self.hold: Hold | None = None

    @property
    def is_needed(self) -> bool:
        """Whether it needs anything here at all."""
        return self._gates is not None or self._wanted is not None

    def is_ready(self, others: int | None, *, stands: bool = False) -> Steps[bool]:
        """Whether it could start now if it had its slots on the server.

        Args:
            others: How many slots others hold there; None if that is unknown. While nobody holds any, gates
                do not matter, as in a pool of this machine.
            stands: Whether it is among the first of all, and so takes its slot here when it can.
        """
        self.gate = self._gates.closed_by() if self._gates is not None and others != 0 else None
        if self.gate is not None:
            self.leave()
            return False
        if self._wanted is None or self.hold is not None:
            return True
        pool, request = self._wanted
        try:
            if stands:
                yield from self._stand(pool, request)
                return self.hold is not None
            self._leave_line()
            return pool.has_room(request)
        except OSError as error:
            return self._do_without(error)

    def take(self, others: int | None) -> Steps[bool]:
        """Take what it needs here, as it has its slots on the server: whether it got that."""
        if not (yield from self.is_ready(others, stands=self._place is not None)):
            return False
        if self._wanted is None or self.hold is not None:
            return True
        pool, request = self._wanted
        try:
            found = yield from pool.attempt(request)
        except OSError as error:
            return self._do_without(error)
        if isinstance(found, Refusal):
            return False
        self.hold = found
        return True

    def exceed(self, refusal: Refusal) -> Steps[None]:
        """Take a slot here whatever that means for the cap: the build starts all the same."""
        self._leave_line()
        if self._wanted is None or self.hold is not None:
            return
        pool, request = self._wanted
        try:
            found = yield from pool.attempt(request)
            if isinstance(found, Refusal):
                found = yield from pool.exceed(request, refusal)
            self.hold = found
        except OSError as error:
            self._do_without(error)

    def _stand(self, pool: HostPool, request: Request) -> Steps[None]:
        """Look once whether it is our turn in the line here, and join that first."""
        if self._place is None:
            self.hold, self._place = yield from pool.enter(request)
            return
        now = time.monotonic()
        try:
            found = yield from within(self._place.until(now), now + LOOK_S)
        except TimeoutError:
            return  # the pool here is paused, say
        if not isinstance(found, Refusal):
            self.hold = found
            self._leave_line()

    def _do_without(self, error: OSError) -> bool:
        """Go on without slots here: a throttle must not become the reason why nothing builds."""
        self.leave()
        self._wanted = None
        self._told.append(f"no slot of this machine: {error}")
        return True

    def _leave_line(self) -> None:
        place, self._place = self._place, None
        if place is not None:
            place.leave()

    def hand_over(self) -> Hold | None:
        """The slots that it has here, which are somebody else's to let go of from now on."""
        self._leave_line()
        hold, self.hold = self.hold, None
        return hold

    def leave(self) -> None:
        """Let go of all it has here. Idempotent, raises nothing."""
        self._leave_line()
        hold, self.hold = self.hold, None
        if hold is not None:
            hold.release()
