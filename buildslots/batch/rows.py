"""A batch on a terminal: a row for each task that runs, the longest first, and above them what has ended.

Drawn by rich, in the speaker's thread. The rows are drawn anew some times a second; lines of tasks that have
ended are printed once, above them, and scroll away with everything else.
"""

from __future__ import annotations

import time
from collections import Counter
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.live import Live
from rich.text import Text

from buildslots.batch.speaker import STATES, Speaker, again, ending, name, progress, summary, words
from buildslots.batch.state import RETRYING, RUNNING, UNDONE, WAITING
from buildslots.words import cells, fit, span

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from buildslots.batch.state import TaskRun

DRAWN_EVERY_S = 0.25
PLACES_EVERY_S = 1.0
"""How often the line is looked at, in which tasks wait for slots."""
LEFT_FREE = 3
"""Lines of the terminal that rows leave to what has ended."""
NARROW = 60
"""In fewer columns a row has no last line."""
COLOURS = {"ok": "green", "unchanged": "cyan", "failed": "bold red", "timed_out": "bold red"}
OTHER = "yellow"


class Rows(Speaker):
    """Rows on a terminal.

    Args:
        total: How many tasks there are; None if nobody knows.
        command: What runs again what was not done.
        places: Asks the machine's line: the places of the tasks that wait, by number.
    """

    tick_s = DRAWN_EVERY_S

    def __init__(
        self, total: int | None, *, command: str | None, places: Callable[[], Mapping[int, int]]
    ) -> None:
        super().__init__(lambda _: None, total)
        self._console = Console(highlight=False)
        self._command = command
        self._places = places
        self._looked = 0.0
        self._paused_until = 0.0
        self._runs: dict[int, TaskRun] = {}
        self._live = Live(
            console=self._console, auto_refresh=False, get_renderable=self._drawing, transient=True
        )

    def begin(self, **about: Any) -> None:
        """Nothing is drawn before a task is there."""

    def changed(self, run: TaskRun) -> None:
        """See `Speaker`."""
        if run.outcome is None:
            self.post("show", run)
            return
        if run.state != UNDONE:
            self.ended += 1
        self.post("over", (run.number, run.state, ending(run, progress(self.ended, self.total))))

    def paused(self, seconds: float) -> None:
        """See `Speaker`."""
        self._paused_until = max(self._paused_until, time.monotonic() + seconds)

    def end(self, state: str, counts: Mapping[str, int], **about: Any) -> None:
        """The batch has ended in `state`."""
        self.post("summary", summary(state, counts, about.get("ran_s"), about.get("batch"), self._command))

    def tick(self) -> None:
        """Draw the rows."""
        now = time.monotonic()
        runs = list(self._runs.values())
        if now - self._looked > PLACES_EVERY_S and any(run.state == WAITING for run in runs):
            self._looked = now
            for number, place in self._places().items():
                if number in self._runs:
                    self._runs[number].place = place
        if runs and not self._live.is_started:
            self._live.start()
        if self._live.is_started:
            self._live.refresh()

    # What the thread is handed.

    def _show(self, run: TaskRun) -> None:
        self._runs[run.number] = run

    def _over(self, about: tuple[int, str, str]) -> None:
        number, state, text = about
        self._runs.pop(number, None)
        if self._live.is_started:
            self._live.refresh()  # without its row, which would be drawn once more below
        first, line_end, rest = text.partition("\n")
        told = Text(first[:10], style=COLOURS.get(state, OTHER))
        told.append(first[10:] + line_end + rest, style="default")
        # Nothing of it is cut: the terminal itself breaks what is too long.
        self._console.print(told, soft_wrap=True)

    def _summary(self, text: str) -> None:
        self._close()
        self._console.print(Text(text.rstrip("\n")), soft_wrap=True)

    def _close(self) -> None:
        if self._live.is_started:
            self._live.stop()

    # The drawing.

    def _drawing(self) -> Text:
        now = time.monotonic()
        width = max(10, self._console.width - 1)
        runs = [run for run in list(self._runs.values()) if run.state in STATES]
        # What runs, the longest first; then what waits, in its order.
        runs.sort(key=lambda run: (run.state != RUNNING, run.state, run.since))
        if not runs:
            return Text("")
        counts = Counter(run.state for run in runs)
        parts = [f"{counts[state]} {what}" for state, what in STATES.items() if counts[state]]
        if now < self._paused_until:
            parts.append(f"paused for {span(self._paused_until - now)}")
        lines = [fit(f"{progress(self.ended, self.total)} {', '.join(parts)}", width)]
        room = max(1, self._console.height - LEFT_FREE - 1)
        title = min(max((cells(name(run)) for run in runs), default=0), max(12, width // 3))
        shown = runs if len(runs) <= room else runs[: room - 1]
        lines += [fit(self._row(run, now, title, width), width) for run in shown]
        if len(shown) < len(runs):
            lines.append(fit(f"  and {len(runs) - len(shown)} more", width))
        return Text("\n".join(lines), no_wrap=True, overflow="crop")

    def _row(self, run: TaskRun, now: float, title: int, width: int) -> str:
        head = fit(name(run), title)
        row = f"  {head}{' ' * (title - cells(head))}  {span(now - run.since):>8}"
        if run.state == WAITING:
            place = f", place {run.place}" if run.place else ""
            return f"{row}  {STATES[WAITING]}{place}"
        if run.state == RETRYING:
            return f"{row}  {STATES[RETRYING]}: {words(run.reason)}"
        log = run.log
        last = log.last_line() if log is not None and width >= NARROW else ""
        return f"{row}  {again(run).removeprefix(', ')}{' ' if run.attempt > 1 else ''}{last}"
