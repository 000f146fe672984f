"""`Slot`: what a caller holds, and what its children are told of it; and what opens the pool that it is of.

Holds no state of the pool, but for the marks that `environ` gives to children.
"""

from __future__ import annotations

import os
import time
from _thread import allocate_lock

from buildslots.errors import NotSlotOwnerError, SlotReleasedError
from buildslots.processes import occupy_standard

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence
    from contextvars import ContextVar
    from types import TracebackType
    from typing import Self, TypeAlias

    from buildslots.backend import Backend, Chore, Hold
    from buildslots.disk.directory import PoolDirectory
    from buildslots.journal import Log
    from buildslots.settings import Settings
    from buildslots.tokens.service import Service
    from buildslots.tokens.threaded import ServedJobs

    Slots: TypeAlias = "ContextVar[tuple[Slot, ...]]"

HELD = "BUILD_SLOTS_HELD"
"""Environment variable with the slots that a command runs under: `N:NONCE` joined by commas."""
NUMBER = "BUILD_SLOT"
"""Environment variable with the number of the slot that a command runs under."""
MARKS = 64
"""How many of its marks are looked up, the last ones: a command runs under as many pools' slots, not as many
slots, and one that has run under thousands says nonsense."""


class Slot:
    """A slot that is held until `release()`, until the end of `with slot:`, or until it is forgotten.

    >>> with SlotPool(slots=3).acquire(weight=2) as slot:
    ...     slot.number, slot.weight, slot.overflow
    (0, 2, False)

    Nothing is held when `number` is None (the machinery failed, and a warning said so; or slots are
    disabled) or `nested` is True (an outer holder has it, and releases it). Such a slot is released like any
    other. One that is forgotten while it is held is given back with a ResourceWarning.

    Attributes:
        pool: Name of the pool; "default" for the default one.
        number: N of `slot-N`, the lowest of those that it holds, or None.
        weight: How many slots it holds; 0 if none itself.
        overflow: Whether the cap was full at the timeout, so that this build runs beyond it.
        nested: Whether this is the slot of an outer `build_slot()` or `slot-run`.
        unthrottled: Why there is no slot, in words: the machinery failed, or is disabled; None if it has one.
        released: Whether it was given back; what a build needs of it then raises SlotReleasedError.
        waited_s: Seconds from the request to the start.
    """

    __slots__ = (
        "__weakref__",
        "_address",
        "_given",
        "_hold",
        "_log",
        "_mark",
        "_pid",
        "_root",
        "_service",
        "_settings",
        "_told",
        "nested",
        "number",
        "overflow",
        "pool",
        "released",
        "unthrottled",
        "waited_s",
        "weight",
    )

    def __init__(  # noqa: PLR0913 - by this package only
        self,
        pool: str,
        address: str | None = None,
        *,
        hold: Hold | None = None,
        mark: str | None = None,
        root: Slot | None = None,
        waited_s: float = 0.0,
        unthrottled: str | None = None,
        settings: Settings | None = None,
    ) -> None:
        """Made by this package only: of a `hold`, of the `mark` of an outer slot, or of neither.

        The outer slot is `root` if this process knows it as an object, and not by its environment only. The
        `settings` are those of the build, if it may have jobs served.
        """
        self.pool = pool
        if hold is not None:
            self.number: int | None = hold.numbers[0]
            mark = f"{self.number}:{hold.nonce}"
        else:
            self.number = None if mark is None else int(mark.partition(":")[0])
        self.weight = 0 if hold is None else len(hold.numbers)
        self.overflow = hold is not None and hold.overflow
        self.nested = hold is None and mark is not None
        self.waited_s = waited_s
        self.unthrottled = unthrottled
        self._address = address
        self._hold = hold
        self._log: Log | None = None
        self._service: Service | None = None
        self._settings = settings
        self._mark = mark
        self._root = root
        self._pid = os.getpid()
        self._given = self._told = False  # whether the caller has the slot; whether a child was told of it
        self.released = False

    def __repr__(self) -> str:
        state = "released" if self.released else "nested" if self.nested else "held"
        return f"<Slot {self.number} of pool {self.pool!r}, {state}>"

    @property
    def descriptors(self) -> list[int]:
        """What a child process inherits to hold the slot should this process be killed with SIGKILL.

        For `subprocess`: `pass_fds=slot.descriptors`. A release by this process frees the slot all
        the same. Empty when this object holds nothing itself. A child that wants to can free the slot by them
        earlier, and no more: they neither write nor read.

        Raises:
            SlotReleasedError: The slot was released.
        """
        self._check_held()
        if self._hold is None:
            return []
        occupy_standard()  # the program may have closed its stdout since
        return self._hold.descriptors

    def release(self, status: int | None = None) -> None:
        """Give the slot back; the next in line starts.

        Args:
            status: How the build ended, for the journal: its exit status, or minus the signal that
                killed it, as in `subprocess.Popen.returncode`. None if there is no telling.

        Raises:
            SlotReleasedError: It was released before.
            NotSlotOwnerError: This process was forked from the one that acquired the slot. The slot
                stays with that process.
        """
        self._given = False  # not forgotten, whatever interrupts this
        self._check_held()
        if self._pid != os.getpid():
            raise NotSlotOwnerError(self.pool, self.number, self._pid, os.getpid())
        self._let_go(status)

    def environ(self, base: Mapping[str, str] | None = None) -> dict[str, str]:
        """The environment in which a child process counts as running under this slot.

        Args:
            base: What to start from; None for `os.environ`.

        Raises:
            SlotReleasedError: The slot was released.
        """
        self._check_held()
        env = dict(os.environ if base is None else base)
        if self._mark is None:
            env.pop(NUMBER, None)
        else:
            env[NUMBER] = str(self.number)
            # A program may write this into its own environment, for each build anew: without what has ended,
            # and with no more than anybody looks at, the variable never gets too long for an exec.
            marks = [mark for mark in env.get(HELD, "").split(",") if mark and mark not in _ended]
            if self._mark not in marks:
                marks.append(self._mark)
            env[HELD] = ",".join(marks[-MARKS:])
            self._told = True
        return env

    def jobserver(
        self,
        command: Sequence[str] = (),
        *,
        jobs: int | None = None,
        tokens: int | str | None = None,
        env: Mapping[str, str] | None = None,
        cwd: str | os.PathLike[str] | None = None,
    ) -> ServedJobs:
        """Serve the jobs of a child process under this slot, as `slot-run --tokens --jobs N` does.

        >>> with SlotPool().acquire() as slot, slot.jobserver(["make", "-j8"], jobs=4) as served:
        ...     subprocess.run(served.command, env=served.environ, pass_fds=served.descriptors, check=True)

        In the block the child has its jobs beyond the first from the tokens that all builds of the machine
        share. After it the tokens are given back, so the child has to have ended. Only Linux has tokens;
        elsewhere, and whatever fails, each program of the child has a fixed share of `jobs`.

        Args:
            command: The child's arguments. Without them a -jN that it has is not taken for N.
            jobs: How many jobs it may run at once; None for what `command` and the environment say.
            tokens: How many tokens builds share on this machine, 0 for none, "auto" for the cores less one;
                None for what the settings of the pool say.
            env: What its environment starts from; None for `os.environ`.
            cwd: Its directory; None for that of this process.

        Raises:
            SettingError: An argument has a wrong value.
            SlotReleasedError: The slot was released.
        """
        from buildslots.served import served_jobs  # noqa: PLC0415 - off the fast path

        environ = self.environ(env)
        return served_jobs(
            self._settings,
            command,
            jobs=jobs,
            tokens=tokens,
            environ=environ,
            cwd=cwd,
            nonce=self.nonce,
            inherited=self.descriptors,
            told=self.had_tokens,
        )

    @property
    def nonce(self) -> str:
        """What marks the holding; empty if there is none: for this package."""
        return (self._mark or "").partition(":")[2]

    @property
    def settings(self) -> Settings | None:
        """Those of the build; None if it has none: for this package."""
        return self._settings

    def had_tokens(self, tokens_max: int) -> None:
        """The journal is to say that the build had so many tokens at once: for this package."""
        if self._log is not None:
            self._log.tokens_max = max(tokens_max, self._log.tokens_max or 0)

    def serve(self, service: Service) -> None:
        """Have the jobs of the build served by `service`, until the release: for this package."""
        self._service = service

    @property
    def chores(self) -> list[Chore]:
        """What has to be done while the build runs, to serve its jobs: for this package."""
        return [] if self._service is None else self._service.chores

    @property
    def served(self) -> list[int]:
        """What the build has to inherit under these very numbers, for its jobs: for this package."""
        return [] if self._service is None else self._service.descriptors

    def _check_held(self) -> None:
        if self.released:
            raise SlotReleasedError(self.pool, self.number)

    def _inner(self) -> Slot:
        """A nested slot under this one; it asks the one that holds, and not this one, whether it counts."""
        return Slot(
            self.pool, self._address, mark=self._mark, root=self._root or self, settings=self._settings
        )

    def __enter__(self) -> Self:
        self._check_held()
        held = slots_here()
        # What was released in another context would stay in this one for ever.
        held.set((*(slot for slot in held.get(()) if not slot.released), self))
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._leave_block()
        # Quietly, also after an early release() and in a forked child that leaves its parent's block.
        self._let_go(None)

    def _leave_block(self) -> None:
        held = slots_here()
        held.set(tuple(slot for slot in held.get(()) if slot is not self and not slot.released))

    def _let_go(self, status: int | None) -> None:
        """Let go of what is held, if it still is; in a forked child, of its copies only."""
        self.released = True
        at, until = time.time(), time.monotonic()  # before the next build may start
        is_ours = self._pid == os.getpid()
        if self._hold is not None:
            self._hold.release()
            self._hold = None  # who forgets the slot at the next acquire() has no time for it
            if self._told and is_ours and self._mark is not None:
                _ended.append(self._mark)
                del _ended[:-MARKS]
        service, self._service = self._service, None
        if service is not None and is_ours:
            service.close(failed=status not in {None, 0})
        log, self._log = self._log, None
        if log is not None and is_ours:
            if service is not None:
                log.tokens_max = service.tokens_max
            log.ended(status, at, until)

    def __del__(self) -> None:
        if getattr(self, "_hold", None) is None or self.released:
            return
        text = repr(self)
        self._let_go(None)  # lost like a file
        if self._given and self._pid == os.getpid():
            try:
                from warnings import warn  # noqa: PLC0415 - off the fast path
            except ImportError:  # the interpreter is shutting down
                return
            warn(
                f"{text} was never released: keep it in a variable or a with block", ResourceWarning, 2, self
            )

    def __reduce__(self) -> str:
        raise TypeError("a slot belongs to the process that took it, and cannot be pickled")

    def _covers(self, address: str) -> bool:
        """Whether a build of the pool at `address`, with this slot in its context, runs under it.

        A nested slot counts only while its root does. A root in another process is asked for in the pool,
        which raises OSError as in `_outer`.
        """
        if self.released or self._mark is None or not _is_same(self._address, address):
            return False
        root = self._root or self
        if root.released:
            return False
        if root._hold is not None and root._pid == os.getpid():
            return True
        number, _, nonce = self._mark.partition(":")
        return open_pool(address).is_ours(int(number), nonce)


_ended: list[str] = []
"""The last marks of this process that children were told of and that mean nothing any more."""


def _is_same(one: str | None, other: str) -> bool:
    """Whether two addresses are one pool's: links and mounts may give a directory several names."""
    if one is None or one == other or "://" in other:
        return one == other
    try:
        return os.path.samefile(one, other)
    except OSError:
        return False  # one is not there


def open_pool(
    address: str, late_at: float = float("inf"), say: Callable[[str], None] | None = None
) -> Backend:
    """The pool at `address`, as one build uses it.

    Args:
        address: An absolute directory, or a `settings.address.Address` of a pool on a server.
        late_at: `time.monotonic()` from which on nothing in the pool is worth a wait any more.
        say: Is told in a sentence when slots that a build holds were lost; None if nobody wants to know.
    """
    if type(address) is not str:
        from buildslots.fleet.pool import FleetPool  # noqa: PLC0415 - few have pools on servers

        return FleetPool(address, late_at, _open_host, say)  # type: ignore[arg-type]
    return _open_host(address, late_at)


def _open_host(directory: str, late_at: float) -> PoolDirectory:
    """The pool of this machine in `directory`."""
    from buildslots.disk.directory import PoolDirectory  # noqa: PLC0415 - one of two backends

    return PoolDirectory(directory, late_at)


def slots_here() -> Slots:
    """The context variable with the slots whose `with` blocks this thread or task is in."""
    global _context  # noqa: PLW0603 - made when first needed: slot-run never does
    if _context is None:
        from contextvars import ContextVar  # noqa: PLC0415

        with _making:
            _context = _context or ContextVar("buildslots_held")
    return _context


_context: Slots | None = None
_making = allocate_lock()
