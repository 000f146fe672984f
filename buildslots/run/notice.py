"""What slot-run says on stderr while it waits: its place in line, who holds the slots, when the wait ends.

It says a line after a second, and another one every 30 s. On a terminal one line is kept up to date in place.
"""

from __future__ import annotations

import os
import time

from buildslots.waiting import AGAIN_S, FIRST_S, Waiting
from buildslots.words import fit, span

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    from buildslots.disk.directory import PoolDirectory
    from buildslots.settings import Settings
    from buildslots.slot import Slot

LIVE_S = 1.0


class Notice:
    """The line about a wait that begins now.

    Attributes:
        due: `time.monotonic()` at which `tell` is to be called.
    """

    def __init__(self, settings: Settings, write: Callable[[bytes], None]) -> None:
        """A line for a wait by `settings`, which `write` writes to stderr without being kept there."""
        self._settings = settings
        self._to_stderr = write
        self._began = time.monotonic()
        self._stands = False  # whether a line that is to be rewritten is on the terminal now
        self._spoken = False
        self.due = self._began + FIRST_S

    def tell(self, pool: PoolDirectory, ticket: str, gate: str | None) -> None:
        """Say the line of this moment; `gate` is what of the machine's state keeps the command back."""
        live = _on_live_terminal()
        self.due = time.monotonic() + (LIVE_S if live else AGAIN_S)
        self._spoken = True
        text = f"slot-run: {self._line(pool, ticket, gate)}"
        if live:
            # Cut: a line that wraps cannot be rewritten, because \r leads only to its last row.
            text = fit(text, os.get_terminal_size(2).columns - 1, most=True)
            self._write(f"\r{text}\x1b[K")
            self._stands = True
        else:
            self.clear()
            self._write(text + "\n")

    def started(self, slot: Slot) -> None:
        """Say that the command starts now, if something was said about the wait."""
        if self._spoken and not slot.overflow:
            where = f"slot {slot.number}" if slot.number is not None else "no slot"
            self._write(f"slot-run: starting after {span(slot.waited_s)} with {where}\n")

    def clear(self) -> None:
        """Remove the line that is kept up to date in place."""
        if self._stands:
            self._write("\r\x1b[K")
            self._stands = False

    def _write(self, text: str) -> None:
        self._to_stderr(text.encode(errors="surrogateescape"))

    def _line(self, pool: PoolDirectory, ticket: str, gate: str | None = None) -> str:
        return str(Waiting(pool, ticket, gate, self._settings, self._began))


def _on_live_terminal() -> bool:
    """Whether stderr is a terminal that can rewrite a line, and we are in its foreground."""
    try:
        return (
            os.isatty(2)
            and os.environ.get("TERM", "dumb") != "dumb"
            and os.get_terminal_size(2).columns > 20
            and os.tcgetpgrp(2) == os.getpgrp()
        )
    except (OSError, AttributeError):
        return False
