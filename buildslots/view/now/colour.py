"""`buildslots status` on a terminal: the words of `view.table` in columns that fit its width, in colour.

No row wraps: a table takes a line for each row, so the live view can tell how many lines it needs. Commands
and directories are cut where the terminal is narrow; pids and times never are.
"""

from __future__ import annotations

from contextlib import contextmanager
from typing import NamedTuple

from rich.console import Console, Group
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from buildslots.view.table import (
    cap_line,
    command,
    duration,
    heading,
    held_of,
    is_full,
    path,
    pid,
    remarks,
)
from buildslots.words import counted, fit_end, short_path, size

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator
    from typing import Any

    from rich.console import RenderableType

    from buildslots.status import Holder, PoolStatus, Waiter
    from buildslots.view.now.costs import Cost

TINY, NARROWER, NARROW, WIDE, WIDER = 40, 50, 66, 80, 100
"""Columns of a terminal: from each of these on there is room for more columns of a table.

DIRECTORY comes before all that can be left out: agents that build the same thing differ in nothing else.
"""
BAR = 12
DURATION = len("59 min 59 s")
SCALES_S = tuple(60.0 * minutes for minutes in (1, 2, 5, 10, 20, 30, 60, 120, 300, 600, 1440))
"""What a full bar may stand for. In fixed steps, so that bars grow and do not all shrink when one grows."""


class _Column(NamedTuple):
    head: str
    cell: Callable[[Any], RenderableType]
    width: int = 0  # of the narrowest terminal that has room for it
    right: bool = False
    least: int = 0  # width of the column where there is room, so that a live view does not jump


def console() -> Console:
    """The terminal, without markup: commands and paths are other people's words."""
    return Console(markup=False, emoji=False, highlight=False)


@contextmanager
def unwrapped(terminal: Console) -> Iterator[None]:
    """Keep the terminal from wrapping a row that it draws wider than rich expects (DECAWM).

    rich counts no cells for the vowels of India and the colours of emoji's skin. Terminals that follow the C
    library's wcwidth(3), tmux among them, give them cells of their own.
    """
    terminal.file.write("\x1b[?7l")
    try:
        yield
    finally:
        terminal.file.write("\x1b[?7h")
        terminal.file.flush()


def print_statuses(statuses: list[PoolStatus], *, every: bool, below: str = "") -> None:
    """Print in colour what `view.table` makes as plain text, and the line `below` it."""
    terminal = console()
    with unwrapped(terminal):
        _print_statuses(terminal, statuses, every=every)
        if below:
            terminal.print(Group("", Text(below, "cyan")))


def _print_statuses(terminal: Console, statuses: list[PoolStatus], *, every: bool) -> None:
    had_lines = False
    for number, status in enumerate(statuses):
        has_lines = not every or bool(status.holders or status.waiters)
        if number and (had_lines or has_lines):
            terminal.print()
        terminal.print(headline(status))
        if has_lines:
            terminal.print(Text(f"directory {short_path(status.dir)}", "dim"))
            terminal.print(Text(cap_line(status), "dim"))
            for table in (holders(status, terminal.width), line(status, terminal.width)):
                if table.row_count:
                    terminal.print(Group("", table))
        had_lines = has_lines


def headline(status: PoolStatus) -> Text:
    """The pool in a line, its name and numbers in colour."""
    text = Text(heading(status), no_wrap=True, overflow="ellipsis")
    text.stylize("bold", 5, 5 + len(status.pool))
    waiting = len(status.waiters)
    text.highlight_words([held_of(status)], "bold yellow" if is_full(status) else "bold green")
    text.highlight_words([f"{waiting} waiting"], "bold cyan" if waiting else "")
    return text


def holders(status: PoolStatus, width: int, limit: int | None = None) -> Table:
    """The first `limit` holders in a terminal `width` columns wide."""
    columns = [
        _Column("SLOT", lambda h: Text(counted(h.slots), "bold")),
        _Column("PID", lambda h: Text(pid(h.pid)), right=True),
        _Column("HELD", lambda h: Text(duration(h.held_s), "green"), right=True, least=DURATION),
        _Column("WAITED", lambda h: Text(duration(h.waited_s)), WIDE, right=True, least=DURATION),
        _Column("DIRECTORY", lambda h: _directory(h.cwd, width - (41 if width >= WIDE else 28)), TINY),
        _Column("COMMAND", _build),
    ]
    return _table(columns, status.holders[:limit], width)


def live_holders(status: PoolStatus, costs: dict[int, Cost | None], width: int, limit: int) -> Table:
    """The first `limit` holders with bars of the time they held, and what they cost, by slot."""
    longest_s = max((h.held_s or 0.0 for h in status.holders), default=0.0)
    scale_s = next((s for s in SCALES_S if s >= longest_s), longest_s)
    # What the columns before DIRECTORY take.
    widths = (26, TINY), (7, NARROWER), (10, NARROW), (2, WIDE), (21, WIDER)
    others = sum(taken for taken, needed in widths if width >= needed)
    columns = [
        _Column("SLOT", lambda h: Text(counted(h.slots), "bold")),
        _Column("PID", lambda h: Text(pid(h.pid)), right=True),
        _Column("HELD", lambda h: Text(duration(h.held_s), "green"), right=True, least=DURATION),
        _Column(_scale(scale_s), lambda h: _bar(h.held_s, scale_s), WIDER),
        _Column("CPU", lambda h: _cpu(costs[h.slot]), NARROWER, right=True, least=5),
        _Column(
            "MEMORY",
            lambda h: _cost(costs[h.slot], lambda cost: size(cost.memory)),
            NARROW,
            right=True,
            least=8,
        ),
        _Column("PROCS", lambda h: _cost(costs[h.slot], lambda c: str(c.processes)), WIDER, right=True),
        _Column("DIRECTORY", lambda h: _directory(h.cwd, width - others), TINY),
        _Column("COMMAND", _build),
    ]
    return _table(columns, status.holders[:limit], width)


def line(status: PoolStatus, width: int, limit: int | None = None) -> Table:
    """The first `limit` in line."""
    columns = [
        _Column("LINE", lambda w: Text(str(w.place), "bold")),
        _Column("PID", lambda w: Text(pid(w.pid)), right=True),
        _Column("WAITED", lambda w: Text(duration(w.waited_s), "cyan"), right=True, least=DURATION),
        _Column("DIRECTORY", lambda w: _directory(w.cwd, width - 28), TINY),
        _Column("COMMAND", _build),
    ]
    return _table(columns, status.waiters[:limit], width)


def _table(columns: list[_Column], rows: Iterable[object], width: int) -> Table:
    """A table in which the last column gets what room the others leave."""
    columns = [column for column in columns if width >= column.width]
    table = Table(box=None, expand=True, padding=(0, 2, 0, 0), pad_edge=False, header_style="bold dim")
    for column in columns:
        table.add_column(
            Text(column.head),
            justify="right" if column.right else "left",
            ratio=1 if column is columns[-1] else None,
            no_wrap=True,
            min_width=column.least if width >= WIDE else None,
            overflow="ellipsis",
        )
    for row in rows:
        table.add_row(*(column.cell(row) for column in columns))
    return table


def _build(build: Holder | Waiter) -> Text:
    """The command behind its remarks: a narrow terminal cuts the end."""
    remark = remarks(build)
    return Text.assemble((remark and f"{remark} ", "yellow"), command(build.command))


def _directory(directory: str | None, room: int) -> Text:
    """The end of the path, where directories differ; the command gets the rest of the `room`."""
    return Text(fit_end(path(directory), max(room // 2, 1)), "dim")


def _scale(scale_s: float) -> str:
    """The head of the bars' column: the time of a full bar, at its right end."""
    return duration(scale_s).replace(" 0 min", "").replace(" 0 s", "").rjust(BAR)


def _bar(held_s: float | None, scale_s: float) -> RenderableType:
    if held_s is None:
        return Text("")
    return ProgressBar(
        total=scale_s,
        completed=held_s,
        width=BAR,
        style="bright_black",
        complete_style="green",
        finished_style="green",
    )


def _cpu(cost: Cost | None) -> Text:
    return _cost(cost, lambda cost: "…" if cost.cpu is None else f"{100 * cost.cpu:.0f} %")


def _cost(cost: Cost | None, words: Callable[[Cost], str]) -> Text:
    return Text("?" if cost is None else words(cost))
