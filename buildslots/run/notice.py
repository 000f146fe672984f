"""What slot-run says on stderr while it waits: its place in line, who holds the slots, when the wait ends.

It says a line after a second, and another one every 30 s. On a terminal one line is kept up to date in place.
A coding agent, which may have given it a terminal, gets lines all the same, one every 20 s.
"""

from __future__ import annotations

import os
import time

from buildslots.outlook import Outlook
from buildslots.waiting import AGAIN_S, FIRST_S, seen
from buildslots.words import fit, span

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    from buildslots.admission import Admission
    from buildslots.disk.directory import PoolDirectory
    from buildslots.settings import Settings
    from buildslots.slot import Slot

LIVE_S = 1.0
AGENT_AGAIN_S = 20.0
"""Tools of agents give up on what has been silent for long, or look at it that often."""
WHO = "slot-run: "


class Notice:
    """The line about a wait that begins now.

    Attributes:
        due: `time.monotonic()` at which `tell` is to be called.
    """

    def __init__(self, settings: Settings, write: Callable[[bytes], None]) -> None:
        """A line for a wait by `settings`, which `write` writes to stderr without being kept there."""
        self._settings = settings
        self._outlook = Outlook(settings)
        self._to_stderr = write
        self._began = time.monotonic()
        self._stands = False  # whether a line that is to be rewritten is on the terminal now
        self._spoken = False
        self.due = self._began + FIRST_S

    def tell(self, pool: PoolDirectory, ticket: str, gate: str | None) -> None:
        """Say the line of this moment; `gate` is what of the machine's state keeps the command back."""
        waiting = seen(pool, ticket, gate, self._settings, self._began, outlook=self._outlook)
        if waiting is None:
            self.due = time.monotonic() + FIRST_S
            return
        agent = self._settings.agent is not None
        live = not agent and _on_live_terminal()
        self.due = time.monotonic() + (LIVE_S if live else AGENT_AGAIN_S if agent else AGAIN_S)
        self._spoken = True
        if live:
            # Cut: a line that wraps cannot be rewritten, because \r leads only to its last row.
            columns = os.get_terminal_size(2).columns - 1
            text = fit(WHO + waiting.fitted(columns - len(WHO)), columns, most=True)
            self._write(f"\r{text}\x1b[K")
            self._stands = True
        else:
            self.clear()
            self._write(f"{WHO}{waiting}\n")

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


def all_the_same(slot: Slot, settings: Settings, admission: Admission) -> str:
    """What there is to say of a command that runs though there is no slot, or despite the machine's state."""
    when = f" within {span(slot.waited_s)}" if settings.timeout_s else " is free" if slot.overflow else " now"
    how = "all the same"
    if slot.overflow:
        how = f"beyond the cap of {admission.cap} (overflow slot {slot.number})"
    return f"no {admission.despite or 'slot'}{when}: running {how}"
