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
    HOST,
    JOBS,
    PAUSED,
    STARTS_IN,
    UNREACHABLE,
    WAITS_FOR,
    batch,
    cap_line,
    command,
    duration,
    has_jobs,
    has_lines,
    heading,
    held_of,
    host,
    is_cut_off,
    is_fleet,
    is_full,
    jobs,
    path,
    pid,
    place,
    remarks,
    starts_in,
    unusual,
    waits_for,
)
from buildslots.words import cells, counted, fit, fit_end, size

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Sequence
    from typing import Any

    from rich.console import RenderableType

    from buildslots.status import Holder, PoolStatus, Waiter
    from buildslots.view.now.costs import Cost

    Row = tuple[Waiter, ...]
    """A row of the line: a waiter, or several tasks of one batch."""

TINY, NARROWER, NARROW, WIDE, WIDER = 40, 50, 66, 80, 100
"""Columns of a terminal: from each of these on there is room for more columns of a table.

DIRECTORY comes before all that can be left out: agents that build the same thing differ in nothing else.
"""
BAR = 12
DURATION = len("59 min 59 s")
JOBS_WIDTH = len("2 of 8")
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
    most = None if sum(map(_lines, statuses)) < terminal.height else 0
    had_lines = False
    for number, status in enumerate(statuses):
        more = not every or has_lines(status)
        if number and (had_lines or more):
            terminal.print()
        terminal.print(headline(status))
        if more:
            terminal.print(Text(place(status), "dim"))
            terminal.print(Text(cap_line(status), "dim"))
            in_line = rows_in_line(status.waiters, most)
            fleet = is_fleet(status)
            for table in (holders(status, terminal.width), line(in_line, terminal.width, fleet=fleet)):
                if table.row_count:
                    terminal.print(Group("", table))
        had_lines = more


def _lines(status: PoolStatus) -> int:
    """How many lines a pool takes, at most: each table with its head and two lines of air."""
    return 3 + sum(3 + len(builds) for builds in (status.holders, status.waiters) if builds)


def headline(status: PoolStatus) -> Text:
    """The pool in a line, its name and numbers in colour."""
    text = Text(heading(status), no_wrap=True, overflow="ellipsis")
    text.stylize("bold", 5, 5 + len(status.pool))
    waiting = len(status.waiters)
    text.highlight_words([held_of(status)], "bold yellow" if is_full(status) else "bold green")
    text.highlight_words([f"{waiting} waiting"], "bold cyan" if waiting else "")
    text.highlight_words([PAUSED], "bold magenta" if status.paused_until else "")
    text.highlight_words([UNREACHABLE], "bold red" if is_cut_off(status) else "")
    return text


def holders(status: PoolStatus, width: int, limit: int | None = None) -> Table:
    """The first `limit` holders in a terminal `width` columns wide."""
    fleet = is_fleet(status)
    hosts, room = _hosts(status.holders, width) if fleet else ([], width)
    others = (41 if width >= WIDE else 28) + _room_for_jobs(status, width)
    columns = [
        _Column("SLOT", lambda h: Text(counted(h.slots), "bold")),
        _Column("PID", lambda h: Text(pid(h.pid)), NARROWER if fleet else 0, right=True),
        _Column("HELD", lambda h: Text(duration(h.held_s), "green"), right=True, least=DURATION),
        _Column("WAITED", lambda h: Text(duration(h.waited_s)), WIDE, right=True, least=DURATION),
        *_jobs(status),
        *hosts,
        _Column("DIRECTORY", lambda h: _directory(h.cwd, room - others), TINY),
        _Column("COMMAND", lambda h: _build(h, fleet=fleet)),
    ]
    return _table(columns, status.holders[:limit], width)


def live_holders(status: PoolStatus, costs: dict[int, Cost | None], width: int, limit: int) -> Table:
    """The first `limit` holders with bars of the time they held, and what they cost, by slot."""
    longest_s = max((h.held_s or 0.0 for h in status.holders), default=0.0)
    scale_s = next((s for s in SCALES_S if s >= longest_s), longest_s)
    # What the columns before DIRECTORY take.
    widths = (26, TINY), (7, NARROWER), (10, NARROW), (2, WIDE), (21, WIDER)
    others = sum(taken for taken, needed in widths if width >= needed) + _room_for_jobs(status, width)
    fleet = is_fleet(status)
    hosts, room = _hosts(status.holders[:limit], width) if fleet else ([], width)
    columns = [
        _Column("SLOT", lambda h: Text(counted(h.slots), "bold")),
        _Column("PID", lambda h: Text(pid(h.pid)), NARROWER if fleet else 0, right=True),
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
        *_jobs(status),
        *hosts,
        _Column("DIRECTORY", lambda h: _directory(h.cwd, room - others), TINY),
        _Column("COMMAND", lambda h: _build(h, fleet=fleet)),
    ]
    return _table(columns, status.holders[:limit], width)


def _jobs(status: PoolStatus) -> list[_Column]:
    """The column of jobs, if there is anything to tell."""
    if not has_jobs(status.holders):
        return []
    return [_Column(JOBS, lambda h: Text(jobs(h), _jobs_style(h)), NARROW, right=True, least=JOBS_WIDTH)]


def _jobs_style(holder: Holder) -> str:
    return "yellow" if holder.tokens is not None and holder.tokens.wants_more else ""


def _room_for_jobs(status: PoolStatus, width: int) -> int:
    """What that column takes, with the gap behind it."""
    return JOBS_WIDTH + 2 if width >= NARROW and has_jobs(status.holders) else 0


def rows_in_line(waiters: Sequence[Waiter], most: int | None) -> list[Row]:
    """A row for each of `waiters`; if these are more than `most`, one for all tasks of a batch.

    It stands at the place of the first of them.
    """
    if most is None or len(waiters) <= most:
        return [(waiter,) for waiter in waiters]
    rows: dict[object, list[Waiter]] = {}
    for waiter in waiters:
        rows.setdefault(row_of(waiter), []).append(waiter)
    return [tuple(row) for row in rows.values()]


def row_of(waiter: Waiter) -> object:
    """What those waiters have in common that can share a row."""
    return (waiter.batch, waiter.pid, waiter.host) if waiter.batch else waiter.place


def line(rows: list[Row], width: int, *, fleet: bool = False) -> Table:
    """The line, as far as `rows` have it; with `fleet` that of a pool of several machines."""
    why = max((cells(waits_for(row[0])) for row in rows), default=0)
    why = max(min(why, (width - 39) // 2), len(WAITS_FOR))
    # What the columns before DIRECTORY take.
    widths = (28, TINY), (11, NARROWER), (why + 2, WIDER)
    others = sum(taken for taken, needed in widths if width >= needed)
    hosts, room = _hosts([row[0] for row in rows], width) if fleet else ([], width)
    # With its columns for times the line has less for commands than holders have.
    room = (room - others) * 4 // 5
    columns = [
        _Column("LINE", lambda row: Text(counted(tuple(w.place for w in row)), "bold")),
        _Column("PID", lambda row: Text(pid(row[0].pid)), NARROWER if fleet else 0, right=True),
        _Column("WAITED", lambda row: Text(duration(row[0].waited_s), "cyan"), right=True, least=DURATION),
        _Column(STARTS_IN, lambda row: Text(starts_in(row[0]), "cyan"), NARROWER, right=True),
        _Column(WAITS_FOR, lambda row: _waits_for(row, why), WIDER),
        *hosts,
        _Column("DIRECTORY", lambda row: _directories(row, room), TINY),
        _Column("COMMAND", lambda row: _builds(row, remark=width < WIDER, fleet=fleet)),
    ]
    return _table(columns, rows, width)


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


def _hosts(builds: Sequence[Holder | Waiter], width: int) -> tuple[list[_Column], int]:
    """The column with the machines of `builds`, or of rows of them, and the width that it leaves."""
    most = max(min(max((cells(host(build)) for build in builds), default=0), width // 5), len(HOST))

    def cell(each: Any) -> Text:
        return Text(fit(host(each[0] if isinstance(each, tuple) else each), most), "magenta")

    return [_Column(HOST, cell)], width - most - 2


def _build(build: Holder | Waiter, *, fleet: bool = False) -> Text:
    """The command behind its remarks: a narrow terminal cuts the end."""
    remark, its_batch = remarks(build, fleet=fleet), batch(build)
    return Text.assemble(
        (remark and f"{remark} ", "yellow"), command(build), (its_batch and f" {its_batch}", "dim")
    )


def _waits_for(row: Row, room: int) -> Text:
    """Why the first of a row waits."""
    return Text(fit(waits_for(row[0]), room), "yellow" if unusual(row[0]) else "")


def _builds(row: Row, *, remark: bool, fleet: bool) -> Text:
    """What the one waiter of a row wants to run, or how many tasks the row stands for.

    With `remark` also why it waits, if no column tells that and nothing else does.
    """
    why = unusual(row[0]) if remark else ""
    text = Text(f"(for {why}) " if why else "", "yellow")
    return text + _tasks(row, fleet=fleet)


def _tasks(row: Row, *, fleet: bool) -> Text:
    if len(row) == 1:
        return _build(row[0], fleet=fleet)
    return Text.assemble(f"{len(row)} tasks ", (batch(row[0]), "dim"))


def _directory(directory: str | None, room: int) -> Text:
    """The end of the path, where directories differ; the command gets the rest of the `room`."""
    return Text(fit_end(path(directory), max(room // 2, 1)), "dim")


def _directories(row: Row, room: int) -> Text:
    """The directory of those in a row, if it is one."""
    return _directory(row[0].cwd, room) if len({w.cwd for w in row}) == 1 else Text("…", "dim")


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
