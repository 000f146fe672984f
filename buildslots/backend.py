"""What an admission asks, of whom, and what it is told: the seam between the library and the pools.

A pool on this machine is a directory (`disk.directory.PoolDirectory`); a pool on a server is to be another
`Backend`. A request goes in and is never changed; a hold or a refusal comes out.
"""

from __future__ import annotations

import os
import time

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Generator
    from typing import Any, Final, Protocol, TypeAlias, TypeVar

    from buildslots.gates import Gates

    T = TypeVar("T")

    class Listener(Protocol):
        """What one sleeps with while one waits."""

        @property
        def wake(self) -> object:
            """What an event loop can wait for, if it has a `fileno`."""

        def listen(self, seconds: float) -> bool:
            """Sleep until there may be news, or for so many seconds at most: whether there was a sound."""

    Steps: TypeAlias = "Generator[tuple[Listener | None, float], bool, T]"
    """All but the sleeping. Yields what to sleep with (None if nothing can wake one) and for how many seconds
    at most, and is sent whether there was a sound; the caller may be a thread or a task. Returns a T."""

    class Notice(Protocol):
        """What to say to people while waiting, and when."""

        due: float
        """`time.monotonic()` at which to call `tell` next; infinity for never."""

        def tell(self, pool: Any, ticket: str, gate: str | None) -> None:
            """Say where `ticket` is in line, and what `gate` is closed, if any; set `due` anew."""

    class Hold(Protocol):
        """Slots that are held together: one, or as many as the build's weight."""

        numbers: tuple[int, ...]
        """N of each `slot-N`, ascending."""
        nonce: str
        """What marks this one holding, for the nesting check."""
        overflow: bool
        """Whether they were taken beyond the cap."""

        @property
        def is_held(self) -> bool:
            """Whether this process has not let go of them."""

        despite: str | None
        """The closed gate for which it does not wait any longer, in words; None if there was none."""

        @property
        def descriptors(self) -> list[int]:
            """What a child inherits to hold the slots."""

        def runs(self, child: int) -> None:
            """Tell others that the process `child` runs under the slots; raises nothing."""

        def release(self) -> None:
            """Let go of the slots. Idempotent, raises nothing; in a forked child it is not the slots' end."""

    class Place(Protocol):
        """A place in line."""

        @property
        def number(self) -> int:
            """By which places are sorted; that of the arrival in line, in microseconds."""

        def until(self, deadline: float, notice: Notice | None = None) -> Steps[Hold | Refusal]:
            """Wait until there is a slot for us, or until `time.monotonic()` is `deadline`.

            In both cases, and when an exception ends it, the place is still ours. Can be called again.
            """

        def paced_start(self, refusal: Refusal, paced_s: float) -> Steps[Hold | float]:
            """Start beyond the cap if it is our turn; otherwise for how many seconds to wait until then."""

        def leave(self) -> None:
            """Leave the line. Idempotent, raises nothing; in a forked child the place stays its parent's."""

    class Backend(Protocol):
        """One pool, as one build uses it. All but `is_ours` and `kin` raise OSError if it cannot be used."""

        @property
        def repaired(self) -> list[str]:
            """What of the pool could not be used, and what became of it, in words."""

        def is_ours(self, number: int, nonce: str) -> bool:
            """Whether slot `number` is still held by the very holding that `nonce` marks.

            Raises OSError if that cannot be told.
            """

        def kin(self) -> Kin:
            """What those who hold the slots are to this process, for who has to wait. Raises nothing."""

        def attempt(self, request: Request) -> Steps[Hold | Refusal]:
            """Take slots if they are free and nobody is in line."""

        def enter(
            self, request: Request, poll: Callable[[], Any] | None = None
        ) -> Steps[tuple[Hold, None] | tuple[None, Place]]:
            """The same; otherwise join the line, and sleep with what `poll` makes (None for a thread's)."""

        def exceed(self, request: Request, refusal: Refusal) -> Steps[Hold]:
            """Take slots beyond the cap, after `refusal`."""

        def join(self, request: Request, number: int, poll: Callable[[], Any] | None) -> Place:
            """Join the line at the place of `number`: that of an arrival some time ago, in microseconds."""


class Label(str):
    """What its caller calls a build, in the place of the command. No path, though it may look like one."""

    __slots__ = ()


class Request:
    """What a build asks of a pool. Never changed.

    Attributes:
        cap: K of this process.
        weight: How many slots it takes together, at most K.
        command: The arguments of the build, its program first.
        gates: What the machine has to be like, or None.
        nonce: 128 random bits in hex that mark this one holding or wait.
        began: `time.monotonic()` when it was made.
    """

    __slots__ = ("began", "cap", "command", "gates", "nonce", "weight")

    def __init__(self, cap: int, command: list[str], weight: int = 1, gates: Gates | None = None) -> None:
        self.cap: Final = cap
        self.weight: Final = weight
        self.command: Final = command
        self.gates: Final = gates
        self.nonce: Final = os.urandom(16).hex()
        self.began: Final = time.monotonic()

    @property
    def limit(self) -> int:
        """Below how many held slots it may start: its cap, or less if it needs more than one slot."""
        return self.cap - self.weight + 1


class Refusal:
    """Why a request cannot be met now.

    Attributes:
        held: How many slots others hold; the request's limit if there are at least so many.
        gate: What of the machine's state keeps it from starting, in words; None if only the slots do.
    """

    __slots__ = ("gate", "held")

    def __init__(self, held: int, gate: str | None = None) -> None:
        self.held: Final = held
        self.gate: Final = gate


class Kin:
    """What those who hold the slots are to the process that has to wait for them.

    Attributes:
        mark: The slot of a command below which this process runs, as `N:NONCE`; None if there is none.
        is_own: Whether every slot is held by this very process, or by one above it.
        may_start: Whether one above us took a slot just now, and may be about to say which command it runs.
    """

    __slots__ = ("is_own", "mark", "may_start")

    def __init__(self, mark: str | None, *, is_own: bool, may_start: bool = False) -> None:
        self.mark: Final = mark
        self.is_own: Final = is_own
        self.may_start: Final = may_start
