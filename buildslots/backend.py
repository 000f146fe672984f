"""What an admission asks, of whom, and what it is told: the seam between the library and the pools.

A pool on this machine is a directory (`disk.directory.PoolDirectory`); a pool on a server is to be another
`Backend`. A request goes in and is never changed; a hold or a refusal comes out.
"""

from __future__ import annotations

import os
import sys
import time

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Generator
    from typing import Any, Final, Protocol, Self, TypeAlias, TypeVar

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

    class Watch(Protocol):
        """What may end a wait from outside."""

        look_s: float
        """After so many seconds of sleep `check` is to be called, whatever happens."""

        def poll(self) -> Any:
            """What to sleep with; it also wakes when `check` has something to say."""

        def check(self) -> None:
            """Raise what ends the wait, if it is to end."""

    class Notice(Protocol):
        """What to say to people while waiting, and when."""

        due: float
        """`time.monotonic()` at which to call `tell` next; infinity for never."""

        def tell(self, pool: Any, ticket: str, gate: str | None) -> None:
            """Say where `ticket` is in line, and what `gate` is closed, if any; set `due` anew."""

    class Chore(Protocol):
        """What slot-run does besides, while its command runs: in its one loop, between two signals."""

        def due_s(self) -> float | None:
            """In how many seconds `do` is to be called; None for not before a SIGIO of the kernel comes."""

        def do(self) -> None:
            """Do what there is to do now: after that time, or a SIGIO. Sleeps never, raises nothing."""

        def stops(self) -> None:
            """The command has stopped, and this process may be next. Takes 0.1 s at most, raises nothing."""

        def continues(self) -> None:
            """The command goes on. Sleeps never, raises nothing."""

    class Hold(Protocol):
        """Slots that are held together: one, or as many as the build's weight."""

        numbers: tuple[int, ...]
        """N of each `slot-N`, ascending."""
        nonce: str
        """What marks this one holding, for the nesting check."""
        cap: int
        """K, by which they were taken: the pool's rules may have lowered or raised that of the build."""
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

        @property
        def chore(self) -> Chore | None:
            """What has to be done to keep them; None if nothing has."""

        def runs(self, child: int) -> None:
            """Tell others that the process `child` runs under the slots; raises nothing."""

        def release(self) -> None:
            """Let go of the slots. Idempotent, raises nothing; in a forked child it is not the slots' end."""

    class Place(Protocol):
        """A place in line."""

        @property
        def number(self) -> int:
            """By which places are sorted; that of the arrival in line, in microseconds."""

        def until(
            self, deadline: float, notice: Notice | None = None, since: float | None = None
        ) -> Steps[Hold | Refusal]:
            """Wait until there is a slot for us, or until `time.monotonic()` is `deadline`.

            The pool's pauses since that time, or of the whole wait for None, make the deadline later.
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

        def head_start_us(self, request: Request) -> int:
            """By how many microseconds its priority lets `request` stand in line before its arrival."""

        def ruled(self, request: Request) -> Request:
            """`request` with the cap that the pool's rules give it."""

        def paused_s(self, since: float) -> float:
            """For how many seconds since that `time.monotonic()` nobody could start; infinity in a pause."""

        def exceed(self, request: Request, refusal: Refusal) -> Steps[Hold]:
            """Take slots beyond the cap, after `refusal`."""

        def join(self, request: Request, number: int, poll: Callable[[], Any] | None) -> Place:
            """Join the line at the place of `number`: that of an arrival some time ago, in microseconds."""


class Label(str):
    """What its caller calls a build, in the place of the command. No path, though it may look like one.

    Attributes:
        program: What the journal may call it, where the label repeats a command line; None if it does not.
        batch: ID of the batch that it is a task of; None if it is none.
        cwd: Directory of the build; None for that of this process.
    """

    __slots__ = ("batch", "cwd", "program")

    program: str | None
    batch: str | None
    cwd: str | None

    def __new__(
        cls, text: str, *, program: str | None = None, batch: str | None = None, cwd: str | None = None
    ) -> Self:
        """A label; what is None counts as for any other build."""
        label = super().__new__(cls, text)
        label.program, label.batch, label.cwd = program, batch, cwd
        return label


def labelled(text: str) -> Label:
    """The label `text`, with what it says besides if it is one already."""
    return text if isinstance(text, Label) else Label(text)


def label_of(command: list[str]) -> Label | None:
    """The label in the place of `command`; None if it is a command."""
    first = command[0] if command else None
    return first if isinstance(first, Label) else None


def program_of(command: list[str]) -> str:
    """The name of the program in `command`; of this Python program, the name of its script; or a label."""
    if command is sys.orig_argv and sys.argv[:1] not in ([], [""], ["-c"]):
        command = sys.argv
    label = label_of(command)
    if label is not None:
        return label if label.program is None else label.program
    return os.path.basename(command[0]) if command else ""


class Request:
    """What a build asks of a pool. Never changed.

    Attributes:
        cap: K, by which it is decided now.
        own_cap: K of this process, if the pool says none.
        is_own_cap: Whether somebody has said that one: the pool may lower it, and not raise it.
        priority: "high", "normal" or "low".
        weight: How many slots it takes together, at most K.
        command: The arguments of the build, its program first.
        gates: What the machine has to be like, or None.
        owner: The process for which it is done, as a record says it: its number and its start; or None.
        tells: Whether it will say which command runs under the slots, as soon as that has started.
        nonce: 128 random bits in hex that mark this one holding or wait.
        began: `time.monotonic()` when it was made.
    """

    __slots__ = (
        "_wanted",
        "began",
        "cap",
        "command",
        "gates",
        "is_own_cap",
        "nonce",
        "own_cap",
        "owner",
        "priority",
        "tells",
        "weight",
    )

    def __init__(  # noqa: PLR0913 - by `Admission` only
        self,
        cap: int,
        command: list[str],
        weight: int = 1,
        gates: Gates | None = None,
        *,
        tells: bool = False,
        is_own_cap: bool = True,
        priority: str = "normal",
        owner: str | None = None,
    ) -> None:
        self.cap = self.own_cap = cap
        self.is_own_cap = is_own_cap
        self.weight = min(weight, cap)
        self.command: Final = command
        self.gates: Final = gates
        self.tells: Final = tells
        self.priority: Final = priority
        self.owner: Final = owner
        self.nonce = os.urandom(16).hex()
        self.began = time.monotonic()
        self._wanted = weight

    @property
    def limit(self) -> int:
        """Below how many held slots it may start: its cap, or less if it needs more than one slot."""
        return self.cap - self.weight + 1

    def under(self, cap: int) -> Request:
        """The same build, decided by another `cap`: this object if that is the same one."""
        if cap == self.cap:
            return self
        other = self.elsewhere(self.own_cap, self.gates)
        other.cap, other.weight = cap, min(self._wanted, cap)
        return other

    def elsewhere(self, own_cap: int, gates: Gates | None) -> Request:
        """The same build in another pool, with a cap that counts unless that pool says one."""
        other = Request(
            own_cap,
            self.command,
            self._wanted,
            gates,
            tells=self.tells,
            is_own_cap=self.is_own_cap,
            priority=self.priority,
            owner=self.owner,
        )
        other.nonce, other.began = self.nonce, self.began
        return other


class Refusal:
    """Why a request cannot be met now.

    Attributes:
        held: How many slots others hold; the request's limit if there are at least so many.
        gate: What of the machine's state keeps it from starting, in words; None if only the slots do.
        is_paused: Whether the pool's rules let nobody start now; `gate` says until when.
    """

    __slots__ = ("gate", "held", "is_paused")

    def __init__(self, held: int, gate: str | None = None, *, is_paused: bool = False) -> None:
        self.held: Final = held
        self.gate: Final = gate
        self.is_paused: Final = is_paused


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
