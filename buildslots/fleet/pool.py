"""A pool on a server, as one build uses it: the other `Backend` behind `Admission`.

What a build asks for goes to the server, and PROTOCOL.md says what becomes of it there. Where the server
cannot be used when the build begins, the pool of that name on this machine takes its place, unless that is to
be a failure.
"""

from __future__ import annotations

import errno
import sys
import time

from buildslots.backend import Kin, Refusal
from buildslots.errors import PoolUnreachableError
from buildslots.fleet.here import Here
from buildslots.fleet.known import MARK, known_of
from buildslots.fleet.task import within
from buildslots.settings.values import DEFAULT_PRIORITY, PRIORITIES

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any, TypeVar

    from buildslots.backend import Hold, Place, Request, Steps
    from buildslots.fleet.client import Client
    from buildslots.fleet.here import HostPool
    from buildslots.fleet.wait import Wait
    from buildslots.settings.address import Address

    T = TypeVar("T")

START_S, LATE_S = 2.0, 1.0
"""How long a build that begins tries to reach the server; and how long one that has hardly any time."""
HEARD_S = 0.05
"""How often slot-run looks meanwhile whether a signal has come: they are held back."""
LACKS = (errno.EMFILE, errno.ENFILE)


class FleetPool:
    """The pool at `address`, as one build uses it: see `backend.Backend`.

    Attributes:
        address: Where it is.
        late_at: `time.monotonic()` from which on nothing in the pool is worth a wait any more.
        client: The part of this build in it; None before it has asked for anything.
        problem: Why the server cannot be used just now, in words; None if it can.
        say: Is told in a sentence if slots that it has got were lost; or None.
    """

    __slots__ = (
        "_host",
        "_is_instead",
        "_open_host",
        "_told",
        "_wait",
        "address",
        "client",
        "late_at",
        "problem",
        "say",
    )

    def __init__(
        self,
        address: Address,
        late_at: float,
        open_host: Callable[[str, float], HostPool],
        say: Callable[[str], None] | None = None,
    ) -> None:
        """`open_host` opens a pool of this machine; `say` is told in a sentence if slots were lost."""
        self.address = address
        self.late_at = late_at
        self.client: Client | None = None
        self._open_host = open_host
        self.problem: str | None = None
        self.say = say
        self._host: HostPool | None = None
        self._is_instead = False  # whether the pool of this machine takes its place
        self._wait: Wait | None = None
        self._told: list[str] = []

    @property
    def path(self) -> str:
        """What tells it from other pools."""
        return str(self.address)

    @property
    def repaired(self) -> list[str]:
        """What of the pool could not be used, and what became of it, in words."""
        return [*self._told, *([] if self._host is None else self._host.repaired)]

    @property
    def host(self) -> HostPool:
        """The pool of that name on this machine."""
        if self._host is None:
            self._host = self._open_host(self.address.directory, self.late_at)
        return self._host

    # Who is below a slot of it.

    def is_ours(self, number: int, nonce: str) -> bool:
        """Whether slot `number` is still held by the very holding that `nonce` marks.

        Also a slot of this machine that was taken in the place of one of this pool.
        """
        if not nonce.startswith(MARK):
            is_here = self.address.on_unreachable == "local"
            return is_here and self.host.is_ours(number, nonce)
        from buildslots.fleet.marks import build_of, is_held  # noqa: PLC0415 - only below a slot

        build = build_of(nonce, self.address)
        return build is not None and is_held(self.address, build)

    def kin(self) -> Kin:
        """What those who hold the slots are to this process. Raises nothing."""
        if self._is_instead:
            return self.host.kin()
        from buildslots.fleet.marks import mark_above  # noqa: PLC0415 - only who has to wait

        beats = sys.modules.get("buildslots.fleet.beats")  # who holds none has not loaded it
        own = 0 if beats is None else beats.held(self.path)
        return Kin(mark_above(self.address), is_own=0 < known_of(self.path).used <= own)

    # What it says of itself.

    def head_start_us(self, request: Request) -> int:
        """By how many microseconds its priority lets `request` stand in line before its arrival."""
        if self._is_instead:
            return self.host.head_start_us(request)
        if request.priority == DEFAULT_PRIORITY:
            return 0
        return PRIORITIES[request.priority] * int(known_of(self.path).head_start_s * 1e6)

    def ruled(self, request: Request) -> Request:
        """`request` with the cap that the pool gives it, as far as that is known."""
        if self._is_instead:
            return self.host.ruled(self._on_host(request))
        return known_of(self.path).ruled(request)

    def paused_s(self, since: float) -> float:
        """For how many seconds since that `time.monotonic()` nobody could start; infinity in a pause."""
        return self.host.paused_s(since) if self._is_instead else known_of(self.path).paused_s(since)

    # Getting slots.

    def attempt(self, request: Request) -> Steps[Hold | Refusal]:
        """Take slots if they are free and nobody is in line."""
        if self._is_instead:
            return (yield from self.host.attempt(self._on_host(request)))
        wait = self._new_wait(request, None)
        try:
            return (yield from self._soon(wait.attempt()))
        except PoolUnreachableError as error:
            wait.leave()
            pool, request = self.instead(error, request)
            return (yield from pool.attempt(request))
        except BaseException:
            wait.leave()
            raise

    def enter(
        self, request: Request, poll: Callable[[], Any] | None = None
    ) -> Steps[tuple[Hold, None] | tuple[None, Place]]:
        """The same; otherwise join the line, and sleep with what `poll` makes (None for a thread's)."""
        if self._is_instead:
            return (yield from self.host.enter(self._on_host(request), poll))
        wait = self._new_wait(request, poll)
        try:
            hold = yield from self._soon(wait.arrive())
        except PoolUnreachableError as error:
            wait.leave()
            if isinstance(error.__cause__, OSError) and error.__cause__.errno in LACKS:
                raise error.__cause__ from None  # it is this process that has no descriptor left
            pool, request = self.instead(error, request)
            return (yield from pool.enter(request, poll))
        except BaseException:
            wait.leave()
            raise
        if hold is not None:
            return hold, None
        self._wait = wait
        return None, wait

    def join(self, request: Request, number: int, poll: Callable[[], Any] | None = None) -> Place:
        """Join the line at the place of `number`, as far as that goes without waiting; `until` does it."""
        if self._is_instead:
            return self.host.join(self._on_host(request), number, poll)
        self._wait = self._new_wait(request, poll, number)
        self._wait.begin()
        return self._wait

    def exceed(self, request: Request, refusal: Refusal) -> Steps[Hold]:
        """Take slots beyond the cap, after `refusal`. Raises PoolUnreachableError if the server is gone."""
        if self._is_instead:
            return (yield from self.host.exceed(self._on_host(request), refusal))
        wait = self._wait
        if wait is not None:
            return (yield from wait.exceed(refusal))
        wait = self._new_wait(request, None)
        try:
            return (yield from self._soon(wait.exceed(refusal)))
        except BaseException:
            wait.leave()
            raise

    def instead(self, problem: PoolUnreachableError, request: Request) -> tuple[HostPool, Request]:
        """The pool that takes the place of this one, which has that `problem`, and what it is asked for.

        Raises the `problem` if nothing is to take its place.
        """
        if self.address.on_unreachable != "local":
            raise problem
        if not self._is_instead:
            self._is_instead = True
            told = f"{problem}: this build takes a slot of this machine's own pool of that name"
            self._told.append(told)
        return self.host, self._on_host(request)

    def _on_host(self, request: Request, gates: bool = True) -> Request:
        """`request` as it is asked of this machine's pool, where a cap counts that nobody has said."""
        own_cap = request.own_cap
        if not request.is_own_cap:
            from buildslots.settings.machine import machine_cap  # noqa: PLC0415 - seldom needed

            own_cap = machine_cap().slots
        return request.elsewhere(own_cap, request.gates if gates else None)

    def _new_wait(self, request: Request, poll: Callable[[], Any] | None, number: int | None = None) -> Wait:
        """A wait of `request`. Raises PoolUnreachableError: what speaks to servers is not installed."""
        try:
            from buildslots.fleet.client import Client  # noqa: PLC0415 - with hiredis, which need not be there
            from buildslots.fleet.wait import Wait  # noqa: PLC0415
        except ImportError as error:
            from buildslots.words import WITHOUT_HIREDIS  # noqa: PLC0415 - loaded with the others

            cause = WITHOUT_HIREDIS if error.name == "hiredis" else str(error)
            raise PoolUnreachableError(self.path, cause) from error
        seq = 0 if number is None else known_of(self.path).seq_of(number)
        self.client = client = Client(self.address, request, poll, seq)
        wanted = (self.host, self._on_host(request, gates=False)) if self.address.also_local else None
        here = Here(request.gates, wanted, told=self._told)
        return Wait(self, client, request, here, new_poll=poll, number=number)

    def _soon(self, steps: Steps[T]) -> Steps[T]:
        """`steps`, for as long as a build may take that has just begun, or that has no time left.

        Raises PoolUnreachableError after that.
        """
        now = time.monotonic()
        until = min(now + START_S, max(self.late_at, now + LATE_S))
        steps = within(steps, until)
        try:
            ear, seconds = next(steps)
            while True:
                sound = yield ear, min(seconds, HEARD_S)
                if not sound and ear is not None:
                    yield None, 0.0
                ear, seconds = steps.send(sound)
        except StopIteration as end:
            value: T = end.value
            return value
        except TimeoutError as error:
            raise PoolUnreachableError(self.path, f"no answer within {until - now:.1f} s") from error
        finally:
            steps.close()
