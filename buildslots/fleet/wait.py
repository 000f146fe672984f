"""Waiting in the line of a pool on a server: asleep until the server says that it is our turn.

A contended turn costs SUBSCRIBE and `join` in one write, a message, `join` once more, which takes the slots
for good before the build starts, and `drop`. Besides, a waiter beats, and whoever is among the first looks
when a slot may have become free by the mere passing of time. While the server cannot be reached it is tried
again and again, and the place in line stays.
"""

from __future__ import annotations

import os
import time

from buildslots.backend import Refusal
from buildslots.errors import PoolUnreachableError
from buildslots.fleet.here import LOOK_S
from buildslots.fleet.holding import Hold, give_back
from buildslots.fleet.script import GO, NEAR, SOON
from buildslots.fleet.task import Task, pause_s
from buildslots.fleet.transport import IN, sleep

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

    from buildslots.backend import Hold as AnyHold
    from buildslots.backend import Notice, Place, Request, Steps
    from buildslots.fleet.client import Client
    from buildslots.fleet.here import Here
    from buildslots.fleet.pool import FleetPool
    from buildslots.fleet.replies import Answer

NEVER = float("inf")
LEAST_S = 0.005
"""So long, at least, until it is looked again whether a slot has become free."""
MOST_REFUSALS = 2
"""So often a server may keep one whose timeout is over from running, though no pause is on."""
LATE_S = 1.0
"""How long one whose timeout is over waits for what the server says to that."""
STATUS_S, STATUS_AGAIN_S = 5.0, 1.0
"""How old may be what is told of others who wait or hold; how long their names may be awaited."""


class Wait:
    """A place in the line of `pool` for the build of `client`: see `backend.Place`.

    `new_poll` makes what to sleep with, None for a thread's; `number` is the place of an earlier arrival.
    """

    __slots__ = (
        "_answered_at",
        "_ask_at",
        "_came_forward",
        "_client",
        "_errand",
        "_here",
        "_hold",
        "_instead",
        "_is_left",
        "_is_near",
        "_is_ready",
        "_is_wanted",
        "_look_here_at",
        "_new_poll",
        "_number",
        "_pid",
        "_place",
        "_pool",
        "_problem",
        "_request",
        "_seen_at",
        "_task",
        "_wanted_at",
    )

    def __init__(  # noqa: PLR0913 - by `FleetPool` only
        self,
        pool: FleetPool,
        client: Client,
        request: Request,
        here: Here,
        *,
        new_poll: Callable[[], Any] | None,
        number: int | None = None,
    ) -> None:
        self._pool = pool
        self._client = client
        self._request = request
        self._here = here
        self._new_poll = new_poll
        self._number = number
        self._pid = os.getpid()
        self._task = Task(self._stay())
        self._hold: Hold | None = None
        self._instead: Place | None = None  # in the pool of this machine, if the server was never reached
        self._is_left = False
        # What the server said last, and when; and the problem if it cannot be reached.
        self._answered_at: float | None = None
        self._problem: PoolUnreachableError | None = None
        self._place = -1
        self._came_forward = request.began
        # Whether it may be passed over, and whether it is so near the head that it should see about that.
        self._is_ready = not here.is_needed
        self._is_near = False
        self._look_here_at = 0.0
        # When to ask the server again, and what else is wanted of the steps that do so.
        self._ask_at = 0.0
        self._is_wanted = False
        self._errand: Steps[None] | None = None
        self._wanted_at = self._seen_at = -NEVER

    @property
    def number(self) -> int:
        """By which places are sorted."""
        return self._client.known.number_of(self._client.seq) if self._number is None else self._number

    # What is said to the server, and what it says: one thing after the other.

    def attempt(self) -> Steps[Hold | Refusal]:
        """Take slots if they are free and nobody is in line. Raises PoolUnreachableError."""
        answer = yield from self._client.join("try")
        if self._is_to_confirm(answer):
            answer = yield from self._client.join("try")
        if answer.state == "held":
            if (yield from self._here.take(_others(answer))):
                self._take(answer)
                return self._got()
            yield from self._client.drop()
        self._is_left = True
        self._client.connection.close()
        self._here.leave()
        return self._refusal()

    def begin(self) -> None:
        """Say to the server what can be said at once: who leaves the line now is to have us behind it."""
        self._task.go_on()

    def arrive(self) -> Steps[Hold | None]:
        """Join the line: what it got at once, if that is so. Raises PoolUnreachableError."""
        yield from self._join()
        return self._got() if self._hold is not None else None

    def _stay(self) -> Steps[None]:
        """Be in line, and come back whenever the server is; to the end of the wait, when `_hold` is set."""
        tries = 0
        while self._hold is None:
            try:
                if self._answered_at is not None and self._problem is None:
                    yield from self._listen()
                yield from self._join()
                tries = 0
            except PoolUnreachableError as error:
                self._problem = error
                yield None, pause_s(tries)
                tries += 1

    def _join(self) -> Steps[None]:
        """Join the line, or say that it is still there; and take what it was given, if it can start now."""
        client = self._client
        if not self._is_ready and self._answered_at is None:
            self._is_ready = yield from self._here.is_ready(None)
        while True:
            self._is_wanted = False
            answer = yield from client.join("wait" if self._is_ready else "unready")
            if self._is_to_confirm(answer):
                continue
            if answer.state != "held":
                client.held_at = None
                self._note(answer)
                return
            if (yield from self._here.take(_others(answer))):
                self._take(answer)
                return
            # Not before it can start: nobody keeps a slot of twenty hosts from the others for nothing.
            self._is_ready = False
            yield from client.drop()

    def _is_to_confirm(self, answer: Answer) -> bool:
        """Whether it was given slots just now: it has them for a moment, and for a lease once it confirms.

        A server that stood still reads what was said to it when nobody waits for the answer any more.
        """
        is_new = answer.state == "held" and self._client.held_at is None
        if is_new:
            self._client.held_at = time.monotonic()
        return is_new

    def _note(self, answer: Answer) -> None:
        self._answered_at = time.monotonic()
        self._problem = None
        self._is_near = answer.is_near
        if answer.place < self._place or self._place < 0:
            self._came_forward = self._answered_at if self._place >= 0 else self._came_forward
            self._place = answer.place

    def _take(self, answer: Answer, despite: str | None = None) -> None:
        self._note(answer)
        client = self._client
        client.sleeps_with(None)
        client.held_at = client.held_at or time.monotonic()
        self._hold = Hold(
            client, answer, self._request, here=self._here.hand_over(), despite=despite, say=self._pool.say
        )

    def _listen(self) -> Steps[None]:
        """Sleep until there is a reason to `join` again: we were told something, or it is time."""
        client = self._client
        answer, opened, now = client.answer, client.connection.opened, time.monotonic()
        self._ask_at = now + client.known.beat_s
        if answer is not None and answer.next_s is not None:
            self._ask_at = min(self._ask_at, now + max(answer.next_s, LEAST_S))
        # A connection that was opened anew may have lost what was said in between.
        while client.connection.opened == opened:
            self._hear()
            if self._errand is not None:
                errand, self._errand = self._errand, None
                yield from errand
                continue
            if self._is_wanted or time.monotonic() >= self._ask_at:
                return
            until = self._ask_at
            if self._is_near and not self._is_ready:
                if (yield from self._can_start_here()):
                    self._is_ready = True
                    return
                until = min(until, self._look_here_at)
            try:
                yield from sleep(client.connection.fileno(), IN, until, self._new_poll)
            except TimeoutError:
                pass

    def _hear(self) -> None:
        """Hear what we are told, without waiting. Raises PoolUnreachableError."""
        for text in self._client.told():
            word, _, milliseconds = text.partition(" ")
            now = time.monotonic()
            if word == GO:
                self._client.held_at = now
                self._is_wanted = True
            elif word == SOON and milliseconds.isdecimal():
                self._ask_at = min(self._ask_at, now + max(int(milliseconds[:9]) / 1000, LEAST_S))
            elif word == NEAR:
                self._is_near = True

    def _can_start_here(self) -> Steps[bool]:
        """Look now and then whether this machine has what the build needs."""
        if time.monotonic() < self._look_here_at:
            return False
        answer = self._client.answer
        assert answer is not None  # noqa: S101 - who is not ready has been told so
        is_ready = yield from self._here.is_ready(answer.used, stands=answer.place < answer.cap)
        self._look_here_at = time.monotonic() + LOOK_S
        return is_ready

    # What an admission asks.

    def until(
        self, deadline: float, notice: Notice | None = None, since: float | None = None
    ) -> Steps[AnyHold | Refusal]:
        """Wait until there are slots for us, or until `time.monotonic()` is `deadline`, and pauses longer.

        The server need not be reached meanwhile, if it was once. One that never was is as a pool on a server
        that cannot be reached from the beginning. Raises PoolUnreachableError if that is to be a failure.
        """
        since = self._request.began if since is None else since
        asked_at: float | None = None
        while self._instead is None:
            self._task.go_on()
            if self._hold is not None:
                return self._got()
            if self._problem is not None and self._answered_at is None:
                self._go_elsewhere(self._problem)
                break
            now = time.monotonic()
            due = deadline + self._client.known.paused_s(since)
            if now < due:
                asked_at = None
            elif self._problem is not None or (asked_at is not None and self._has_answered(asked_at, now)):
                return self._refusal()
            else:
                # It may have been paused since we asked last; and who was stopped may have a slot by now.
                if asked_at is None:
                    asked_at, self._is_wanted = now, True
                    self._task.poke()
                    continue
                due = asked_at + LATE_S
            tell_at = NEVER if notice is None else self._tell(notice, now)
            yield self._task.ear, max(0.0, min(self._task.left_s(), due - now, tell_at - now))
        assert self._instead is not None  # noqa: S101 - the loop has ended by that
        return (yield from self._instead.until(deadline, notice, since))

    def _has_answered(self, asked_at: float, now: float) -> bool:
        return (self._answered_at or 0.0) > asked_at or now >= asked_at + LATE_S

    def _go_elsewhere(self, problem: PoolUnreachableError) -> None:
        """Wait in the pool of this machine, as nobody knows of us on the server; or raise the `problem`."""
        pool, request = self._pool.instead(problem, self._request)
        number = time.time_ns() // 1000 if self._number is None else self._number
        self._instead = pool.join(request, number, self._new_poll)

    def _tell(self, notice: Notice, now: float) -> float:
        """Say what there is to be said of the wait: when to come again."""
        if now < notice.due:
            return notice.due
        is_known = self._problem is not None or now - self._seen_at < STATUS_S
        if not is_known and now - self._wanted_at > STATUS_S:
            self._wanted_at, self._errand = now, self._see()
            self._task.poke()
        if not is_known and now - self._wanted_at < STATUS_AGAIN_S:
            return self._wanted_at + STATUS_AGAIN_S
        self._pool.problem = None if self._problem is None else self._problem.cause
        notice.tell(self._pool, self._client.id, self._here.gate)
        return notice.due

    def _see(self) -> Steps[None]:
        yield from self._client.look()
        self._seen_at = time.monotonic()

    def _refusal(self) -> Refusal:
        known = self._client.known
        gate = known.pause or self._here.gate
        return Refusal(known.used, gate, is_paused=known.pause is not None)

    def _got(self) -> Hold:
        """What it has got, which is somebody else's to let go of from now on."""
        hold, self._hold = self._hold, None
        self._is_left = True
        assert hold is not None  # noqa: S101 - callers look first
        return hold

    def paced_start(self, refusal: Refusal, paced_s: float) -> Steps[AnyHold | float]:
        """Start beyond the cap if it is our turn to; otherwise for how many seconds to wait until then.

        Raises PoolUnreachableError: nobody can say whose turn it is.
        """
        if self._instead is not None:
            return (yield from self._instead.paced_start(refusal, paced_s))
        now, known = time.monotonic(), self._client.known
        waited_s, stuck_s = (
            max(0.0, now - since - known.paused_s(since))
            for since in (self._request.began, self._came_forward)
        )
        found = yield from self._beyond(refusal, (paced_s, waited_s, stuck_s))
        if isinstance(found, Hold):
            return found
        return max(found.turn_s, LEAST_S)

    def exceed(self, refusal: Refusal) -> Steps[AnyHold]:
        """Take slots beyond the cap, or free ones; not in a pause. Raises PoolUnreachableError."""
        refusals = 0
        while True:
            found = yield from self._beyond(refusal, (0.0, 0.0, 0.0))
            if isinstance(found, Hold):
                return found
            refusals += found.pause is None
            if refusals > MOST_REFUSALS:  # one that a pause has caused may be told when that is over
                raise PoolUnreachableError(
                    self._client.connection.address, "it lets nobody run beyond the cap, and no pause is on"
                )
            now = time.monotonic()
            got = yield from self.until(now, None, now)
            if not isinstance(got, Refusal):
                return got

    def _beyond(self, refusal: Refusal, pace: tuple[float, float, float]) -> Steps[Hold | Answer]:
        """Ask for slots beyond the cap, and take what there is of this machine."""
        answers: list[Answer] = []

        def errand() -> Steps[None]:
            answers.append((yield from self._client.over(*pace)))

        # Whatever its gates say: their time is over, too.
        self._is_ready = True
        until = time.monotonic() + LATE_S
        self._errand = errand()
        self._task.poke()
        while not answers:
            self._task.go_on()
            if self._hold is not None:
                return self._got()
            if self._problem is not None:
                raise self._problem
            if time.monotonic() >= until:
                raise PoolUnreachableError(self._client.connection.address, f"no answer within {LATE_S:g} s")
            if not answers:
                yield self._task.ear, min(self._task.left_s(), max(0.0, until - time.monotonic()))
        answer = answers[0]
        if answer.state != "held":
            self._note(answer)
            return answer
        yield from self._here.exceed(refusal)
        self._take(answer, refusal.gate)
        return self._got()

    def leave(self) -> None:
        """Leave the line. Idempotent, raises nothing; in a forked child the place stays its parent's."""
        if self._instead is not None:
            self._instead.leave()
        if self._is_left:
            return
        self._is_left = True
        if self._pid != os.getpid():
            return
        connection = self._client.connection
        was_open = connection.is_open
        self._task.close()
        hold, self._hold = self._hold, None
        if hold is not None:
            hold.release()
        elif connection.is_open:
            self._client.leave()
        elif was_open:
            # An answer was on its way: perhaps it has slots. They must not be kept for a whole lease.
            give_back(self._client, in_thread=not self._request.tells)
        self._here.leave()


def _others(answer: Answer) -> int:
    """How many slots others hold."""
    return answer.used - len(answer.numbers)
