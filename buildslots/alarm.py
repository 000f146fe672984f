"""What a caller sleeps with that waits in the memory of its own program: see `crowd`."""

from __future__ import annotations

from _thread import TIMEOUT_MAX, allocate_lock

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable


class Alarm:
    """What a caller in memory sleeps with: a `backend.Listener` without a descriptor."""

    __slots__ = ("_lock", "_when_rung")

    def __init__(self) -> None:
        self._lock = allocate_lock()
        self._lock.acquire()
        self._when_rung: Callable[[], object] | None = None

    @property
    def wake(self) -> Alarm:
        """What an event loop waits for, by `when_rung`."""
        return self

    def ring(self) -> None:
        """End the sleep, in whatever thread that is."""
        if self._lock.locked():
            try:
                self._lock.release()
            except RuntimeError:
                pass  # rung by another thread at the same moment
        told = self._when_rung
        if told is not None:
            try:
                told()
            except RuntimeError:
                pass  # its event loop is closed

    def when_rung(self, told: Callable[[], object] | None) -> None:
        """Call `told` at each ring from now on, in the thread that rings; at once if it has rung already."""
        self._when_rung = told
        if told is not None and not self._lock.locked():
            told()

    def listen(self, seconds: float) -> bool:
        """Sleep until it rings, or for so many seconds at most: whether it has rung."""
        return self._lock.acquire(timeout=min(max(0.0, seconds), TIMEOUT_MAX))
