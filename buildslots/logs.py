"""What the library says: to the logger "buildslots", and of a wait to `on_wait`.

A program that has not loaded `logging` has nobody who would hear an INFO; only a warning loads it.
"""

from __future__ import annotations

import sys
import time

from buildslots.logger import own_logger
from buildslots.outlook import Outlook, never
from buildslots.waiting import AGAIN_S, FIRST_S, seen
from buildslots.words import span

TYPE_CHECKING = False
if TYPE_CHECKING:
    import logging
    from collections.abc import Callable

    from buildslots.disk.directory import PoolDirectory
    from buildslots.settings import Settings
    from buildslots.slot import Slot
    from buildslots.waiting import Waiting

OWN = (
    "every slot of pool %r is held by this very program: what works for a holder in another thread or "
    "process waits for itself; run it in a copy of the holder's context, or with slot.environ()"
)

_said: dict[str, float] = {}
"""When OWN, by the pool's directory, or another sentence may be said again: a program may have a thousand
tasks."""


class Teller:
    """What is told of a wait of the library: at once to `on_wait`, after a second and every 30 s to both.

    While nobody listens it asks every 30 s whether somebody does: a pool on a server is looked at for that.

    Attributes:
        due: `time.monotonic()` at which `tell` is to be called.
    """

    def __init__(self, settings: Settings, on_wait: Callable[[Waiting], object] | None) -> None:
        self._settings = settings
        self._on_wait = on_wait
        self._outlook: Outlook | None = None
        self._spoken = self._is_first = False
        self._began = self.due = 0.0

    def begin(self) -> Teller:
        """The wait begins: this object, to be told when to speak."""
        self._is_first = self._on_wait is not None or _listener() is not None
        self._began = time.monotonic()
        self.due = self._began if self._is_first else self._began + AGAIN_S
        if self._settings.gates is not None and "logging" in sys.modules:
            self._tell_of_never()
        return self

    def _tell_of_never(self) -> None:
        """Warn at once of what the build waits for in vain, and not for each of a thousand tasks."""
        sentence = never(self._settings)
        if sentence is not None and self._began >= _said.get(sentence, 0.0):
            _said[sentence] = self._began + AGAIN_S
            own_logger().warning("pool %r: %s", self._settings.pool, sentence)

    def tell(self, pool: PoolDirectory, ticket: str, gate: str | None) -> None:
        """Tell of this moment; `gate` is what of the machine's state keeps the build back."""
        now = time.monotonic()
        logger = _listener()
        if self._is_first:
            self._is_first = False
            self.due = self._began + FIRST_S
            if logger is not None:
                self._tell_of_own(pool, logger, now)
                logger = None
        else:
            self.due = now + AGAIN_S
        if logger is None and self._on_wait is None:
            return
        self._outlook = self._outlook or Outlook(self._settings)
        waiting = seen(pool, ticket, gate, self._settings, self._began, outlook=self._outlook)
        if waiting is None:
            self.due = now + FIRST_S
            return
        if logger is not None:
            self._spoken = True
            logger.info("%s", waiting)
        if self._on_wait is not None:
            try:
                self._on_wait(waiting)
            except Exception:  # noqa: BLE001 - the wait is not at fault, and goes on
                own_logger().exception("on_wait failed")

    def _tell_of_own(self, pool: PoolDirectory, logger: logging.Logger, now: float) -> None:
        if now < _said.get(pool.path, 0.0):
            return
        _said[pool.path] = now + AGAIN_S  # first: other threads come here as well
        if pool.kin().is_own:
            logger.info(OWN, self._settings.pool)
        else:
            _said.pop(pool.path, None)

    def started(self, slot: Slot, despite: str | None, cap: int) -> None:
        """Say that the build starts, if something was said of its wait, or if it does not start as it should.

        Args:
            slot: What it starts under.
            despite: What of the machine's state it did not wait for any longer, in words.
            cap: K, by which that was decided.
        """
        if slot.overflow or despite:
            when = f"within {span(slot.waited_s)}" if self._settings.timeout_s else "now"
            how = "all the same"
            if slot.overflow:
                how = f"beyond the cap of {cap} (overflow slot {slot.number})"
            what = f"pool {slot.pool!r}: no {despite or 'slot'}"
            own_logger().warning("%s %s: this build runs %s", what, when, how)
        elif self._spoken and (logger := _listener()) is not None:
            logger.info("starting after %s with slot %s", span(slot.waited_s), slot.number)


def lost(what: str) -> None:
    """Warn that slots which a build holds on a server were lost; `what` is a sentence. The build goes on."""
    own_logger().warning("%s", what)


def unthrottled(warning: Warning) -> None:
    """Log that a build runs without a slot, which `warning` tells who has no log."""
    if "logging" in sys.modules:
        own_logger().warning("%s", warning)


def _listener() -> logging.Logger | None:
    """The logger, if somebody wants to know of waits; None otherwise."""
    if "logging" not in sys.modules:
        return None
    logger = own_logger()
    return logger if logger.isEnabledFor(20) else None  # logging.INFO


def warn(text: str) -> None:
    """Warn the line outside of this package that called it, with a RuntimeWarning."""
    import warnings  # noqa: PLC0415 - off the fast path

    warnings.warn(f"buildslots: {text}", RuntimeWarning, stacklevel=callers())


def callers() -> int:
    """The `stacklevel` with which a warning is about the line outside of this module that called it."""
    frame, level = sys._getframe(1), 1
    while frame.f_back is not None and frame.f_globals.get("__name__", "").startswith("buildslots."):
        frame, level = frame.f_back, level + 1
    return level
