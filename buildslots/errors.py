"""The errors and the warning of buildslots.

Each one subclasses a built-in, so that `except TimeoutError` works without knowing this package; carries what
it speaks of as attributes, so that nobody has to parse a sentence; and survives pickling, so that it crosses
from a worker process to its parent with everything it carries.
"""

from __future__ import annotations

import errno

# mypy takes a name TYPE_CHECKING for typing's own; importing typing would cost every build 8 ms.
TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import ClassVar

SHOWN = 60
"""Characters of a bad value that a sentence shows; the attribute has all of it."""


def _slot(number: int | None) -> str:
    return "a slot" if number is None else f"slot {number}"


def without_password(text: str) -> str:
    """`text` with *** in place of what a URL has for a password, even one that is written wrong."""
    before, at, behind = text.rpartition("@")
    scheme = before[: before.find("://") + 3] if "://" in before else ""
    user, colon, _ = before.removeprefix(scheme).partition(":")
    if at and colon:
        text = f"{scheme}{user}:***@{behind}"
    url, mark, query = text.partition("?")
    return f"{url}?***" if mark and query and "://" in url else text


class _Carrying:
    """Pickles an exception by its own attributes.

    The default rebuilds an exception from `args`, which here is the one finished sentence, and the
    constructors want the values instead.
    """

    _values: ClassVar[tuple[str, ...]]

    def __reduce__(self) -> tuple[type, tuple[object, ...], dict[str, object]]:
        # The third item is restored into __dict__: notes added with add_note() travel along.
        return type(self), tuple(getattr(self, name) for name in self._values), self.__dict__


class SettingError(_Carrying, ValueError):
    """A setting has a value that it cannot have.

    >>> try:
    ...     SlotPool(slots=0)
    ... except SettingError as error:
    ...     print(error.source, error.problem)
    slots is not a positive int

    Attributes:
        source: Where the value was found, such as "--slots", "MAX_CONCURRENT_BUILDS" or
            "/home/me/.config/buildslots/config.toml, line 3, key slots".
        value: The value as written, but for a password in it.
        problem: What is wrong with it, a phrase that follows the value: "is not a positive whole number".
    """

    _values = ("source", "value", "problem")

    def __init__(self, source: str, value: str, problem: str) -> None:
        self.source = source
        self.value = value = without_password(value)
        self.problem = problem
        shown = value if len(value) <= SHOWN else value[: SHOWN - 3] + "..."
        # repr, not quotes: a value with a line end or a terminal escape in it stays one harmless line.
        super().__init__(f"{source}: {shown!r} {problem}")


class SlotTimeoutError(_Carrying, TimeoutError):
    """No slot became free in time.

    >>> pool = SlotPool(slots=1)
    >>> with pool.acquire():
    ...     try:
    ...         pool.acquire(timeout=0.1, on_timeout="fail")
    ...     except TimeoutError as error:
    ...         print(error)
    no slot of pool 'default' became free within 0.1 s

    `errno` is None: no system call timed out.

    Attributes:
        pool: The name of the pool.
        timeout_s: How long the caller was willing to wait, in seconds.
        waited_s: How long it did wait, in seconds.
        gate: What of the machine's state kept it back at last, in words; None if it was the slots alone.
    """

    _values = ("pool", "timeout_s", "waited_s", "gate")

    def __init__(self, pool: str, timeout_s: float, waited_s: float, gate: str | None = None) -> None:
        self.pool = pool
        self.timeout_s = timeout_s
        self.waited_s = waited_s
        self.gate = gate
        # Not :g, which writes a month as 2.592e+06.
        seconds = f"{timeout_s:.3f}".rstrip("0").rstrip(".")
        what = f"no slot of pool {pool!r} became free" if gate is None else f"pool {pool!r}: no {gate}"
        super().__init__(f"{what} within {seconds} s")


class SlotCancelledError(_Carrying, RuntimeError):
    """A wait for a slot was cancelled by the event that its caller had given for that.

    >>> pool, stop = SlotPool(slots=1), threading.Event()
    >>> with pool.acquire():
    ...     stop.set()  # some other thread does
    ...     pool.acquire(cancel=stop)
    Traceback (most recent call last):
    buildslots.errors.SlotCancelledError: the wait for a slot of pool 'default' was cancelled

    Attributes:
        pool: The name of the pool.
    """

    _values = ("pool",)

    def __init__(self, pool: str) -> None:
        self.pool = pool
        super().__init__(f"the wait for a slot of pool {pool!r} was cancelled")


class SlotReleasedError(_Carrying, RuntimeError):
    """A slot was released a second time, or used after its release.

    >>> slot = SlotPool().acquire()
    >>> slot.release()
    >>> slot.release()
    Traceback (most recent call last):
    buildslots.errors.SlotReleasedError: slot 0 of pool 'default' has already been released

    Attributes:
        pool: The name of the pool.
        number: The slot's number; None if it was none, because the build ran without.
    """

    _values = ("pool", "number")

    def __init__(self, pool: str, number: int | None) -> None:
        self.pool = pool
        self.number = number
        super().__init__(f"{_slot(number)} of pool {pool!r} has already been released")


class NotSlotOwnerError(_Carrying, RuntimeError):
    """A process tried to release a slot that another process took, as a forked child does with its parent's.

    >>> def child():
    ...     try:
    ...         slot.release()
    ...     except NotSlotOwnerError as error:
    ...         os._exit(error.owner_pid == os.getppid())
    >>> with SlotPool().acquire() as slot:
    ...     pid = os.fork() or child()
    ...     os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    1

    Attributes:
        pool: The name of the pool.
        number: The slot's number; None if it was none, because the build ran without.
        owner_pid: The process that took the slot.
        pid: The process that tried to release it.
    """

    _values = ("pool", "number", "owner_pid", "pid")

    def __init__(self, pool: str, number: int | None, owner_pid: int, pid: int) -> None:
        self.pool = pool
        self.number = number
        self.owner_pid = owner_pid
        self.pid = pid
        super().__init__(
            f"{_slot(number)} of pool {pool!r} belongs to process {owner_pid}, not to process {pid}"
        )


class PoolUnusableError(_Carrying, OSError):
    """There is no slot because the machinery failed, and the pool is `strict`: nothing runs without one.

    >>> try:
    ...     SlotPool(dir=os.devnull, strict=True).acquire()
    ... except PoolUnusableError as error:
    ...     print(error.pool)
    default

    Attributes:
        pool: The name of the pool.
        cause: What failed, in words.
    """

    _values = ("pool", "cause")

    def __init__(self, pool: str, cause: str) -> None:
        self.pool = pool
        self.cause = cause
        super().__init__(f"no slot of pool {pool!r} can be had: {cause}")


class PoolUnreachableError(_Carrying, OSError):
    """A pool on a server cannot be used: the server is not there, does not answer, or refuses.

    >>> raise PoolUnreachableError("redis://localhost/0/license", "no answer")
    Traceback (most recent call last):
    buildslots.errors.PoolUnreachableError: the pool at redis://localhost/0/license cannot be used: no answer

    `errno` is ENOTCONN, whatever the cause.

    Attributes:
        address: The pool's URL.
        cause: What is wrong, in words.
    """

    _values = ("address", "cause")

    def __init__(self, address: str, cause: str) -> None:
        self.address = address
        self.cause = cause
        super().__init__(f"the pool at {address} cannot be used: {cause}")
        self.errno = errno.ENOTCONN  # one without a number is a program's own: see `admission`


class UnthrottledWarning(_Carrying, RuntimeWarning):
    """A build runs without a slot because the machinery failed; better an unthrottled build than none.

    >>> with warnings.catch_warnings(record=True, action="always") as caught:
    ...     with build_slot(dir=os.devnull) as slot:
    ...         print(slot.number, caught[0].category.__name__)
    None UnthrottledWarning

    Attributes:
        pool: The name of the pool.
        cause: What failed, in words.
    """

    _values = ("pool", "cause")

    def __init__(self, pool: str, cause: str) -> None:
        self.pool = pool
        self.cause = cause
        super().__init__(f"this build runs without a slot of pool {pool!r}: {cause}")
