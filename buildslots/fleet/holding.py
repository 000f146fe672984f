"""Holding slots on a server: a lease that has to be renewed, for as long as the build runs.

Somebody does that beside other things: slot-run in its one loop, or the thread of `beats` in another program.
A build is never ended because of its lease. Who could not be heard for longer than that has lost its slots,
and perhaps others have them by now; it registers again, and counts as overflow then.
"""

from __future__ import annotations

import os
import time
from _thread import allocate_lock

from buildslots.errors import PoolUnreachableError
from buildslots.fleet.connection import run
from buildslots.fleet.task import Task, pause_s, within
from buildslots.words import span

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    from buildslots.backend import Hold as AnyHold
    from buildslots.backend import Request, Steps
    from buildslots.fleet.client import Client
    from buildslots.fleet.replies import Answer

FIRST_LOOK_S, LAST_LOOK_S = 0.005, 0.1
"""How soon, and how often, to look for an answer where nothing wakes one: in the loop of slot-run."""
DROP_S = 1.0
"""How long slot-run tries to give its slots back. If it cannot, they are free when the lease is over."""


class _Lease:
    """What the server keeps for a build, and the beats that keep it.

    It does not know the `Hold` that it is of: that is given back when it is forgotten, and so nothing may
    lead back to it.
    """

    __slots__ = ("_client", "_is_overflow", "_numbers", "_renewed_at", "_say", "task")

    def __init__(self, client: Client, answer: Answer, say: Callable[[str], None] | None) -> None:
        self._client = client
        self._numbers = answer.numbers
        self._is_overflow = answer.overflow
        self._say = say
        self._renewed_at = time.monotonic()
        self.task = Task(self._renewals())

    def _renewals(self) -> Steps[None]:
        client, tries = self._client, 0
        yield None, client.known.beat_s
        while True:
            asked_at = time.monotonic()
            try:
                answer = yield from client.renew(self._numbers)
            except PoolUnreachableError:
                yield None, pause_s(tries)
                tries += 1
                continue
            tries = 0
            self._has_renewed(answer, asked_at)
            yield None, max(0.0, asked_at + client.known.beat_s - time.monotonic())

    def _has_renewed(self, answer: Answer, asked_at: float) -> None:
        """Say if the lease was lost meanwhile, as far as that can be known."""
        silent_s, self._renewed_at = asked_at - self._renewed_at, asked_at
        is_beyond = answer.overflow and not self._is_overflow
        self._numbers, self._is_overflow = answer.numbers or self._numbers, answer.overflow
        if self._say is None or not (is_beyond or silent_s > self._client.known.lease_s):
            return
        what = f"has not heard of this build for {span(silent_s)}"
        if silent_s <= self._client.known.lease_s:
            what = "has lost what this build holds"
        how = "; by now others have the slots, and it counts as overflow" if is_beyond else ""
        where = self._client.connection.address
        self._say(f"the server of the pool at {where} {what}: it is registered again{how}")


class Hold:
    """Slots on a server that are held together, and the chore that keeps them.

    See `backend.Hold` and `backend.Chore`.

    Attributes:
        numbers: Of the slots, ascending.
        nonce: What marks this holding.
        cap: K, by which they were taken.
        overflow: Whether they were taken beyond the cap.
        despite: The closed gate for which the build does not wait any longer, in words; None if there was
            none.
        address: Of the pool.
    """

    __slots__ = (
        "__weakref__",
        "_client",
        "_here",
        "_in_thread",
        "_lock",
        "_look_s",
        "_pid",
        "_task",
        "address",
        "cap",
        "despite",
        "nonce",
        "numbers",
        "overflow",
    )

    def __init__(  # noqa: PLR0913 - by `Wait` only
        self,
        client: Client,
        answer: Answer,
        request: Request,
        *,
        here: AnyHold | None = None,
        despite: str | None = None,
        say: Callable[[str], None] | None = None,
    ) -> None:
        """Take over what `client` has got by `answer`, and the slots `here`, of this machine.

        `say` is told in a sentence if the lease was lost.
        """
        self.numbers = answer.numbers or (0,)
        self.nonce = client.mark
        self.cap = client.known.ruled(request).cap
        self.overflow = answer.overflow
        self.despite = despite
        self.address = client.connection.address
        self._client: Client | None = client
        self._here = here
        self._pid = os.getpid()
        self._lock = allocate_lock()
        self._look_s = FIRST_LOOK_S
        self._task = _Lease(client, answer, say).task
        self._in_thread = not request.tells
        if self._in_thread:
            from buildslots.fleet.beats import keep  # noqa: PLC0415 - slot-run has a loop for it

            keep(self)

    @property
    def is_held(self) -> bool:
        """Whether this process has not let go of them."""
        return self._client is not None

    @property
    def descriptors(self) -> list[int]:
        """What a child inherits: nothing of slots on a server, but those of this machine."""
        return [] if self._here is None else self._here.descriptors

    @property
    def chore(self) -> Hold | None:
        """Itself, if no thread sees to the lease."""
        return None if self._in_thread else self

    def runs(self, child: int) -> None:
        """Tell others on this machine which process runs under the slots that are taken here."""
        if self._here is not None:
            self._here.runs(child)

    # The chore.

    def due_s(self) -> float:
        """In how many seconds `do` is to be called."""
        return self._task.left_s() if self._task.ear is None else min(self._task.left_s(), self._look_s)

    def do(self) -> None:
        """Beat if it is time, and take the answer if it is there."""
        with self._lock:
            if self._client is None:
                return
            before = self._task.ear
            self._task.go_on()
            is_same = before is not None and before is self._task.ear
            self._look_s = min(2 * self._look_s, LAST_LOOK_S) if is_same else FIRST_LOOK_S

    def stops(self) -> None:
        """Nothing: who is stopped for longer than a lease loses it."""

    def continues(self) -> None:
        """Beat at once: nobody knows for how long it was stopped."""
        self._task.poke()

    # The end.

    def release(self) -> None:
        """Let go of the slots; the next in line is told. Idempotent, raises nothing.

        In a forked child the slots stay its parent's.
        """
        if self._pid != os.getpid():  # the thread that had the lock at the fork is not here to let go of it
            self._client = None
        here, self._here = self._here, None
        if self._client is not None:
            with self._lock:
                client, self._client = self._client, None
                self._task.close()
            if client is not None:  # or another thread was quicker
                give_back(client, in_thread=self._in_thread)
        if here is not None:
            here.release()

    def __del__(self) -> None:
        if getattr(self, "_client", None) is not None:  # lost like a file that nobody closed
            self.release()


def give_back(client: Client, *, in_thread: bool) -> None:
    """Let go of what `client` has: in the thread of `beats`, or here, within DROP_S. Raises nothing."""
    if in_thread:
        from buildslots.fleet.beats import see_off  # noqa: PLC0415 - slot-run has none

        see_off(client)
        return
    try:
        run(within(client.drop(), time.monotonic() + DROP_S))
    except OSError:
        pass  # what it has is free when the lease is over
    finally:
        client.connection.close()
