"""`buildslots status --watch`: a live picture on a terminal, a stream of texts or JSON lines elsewhere."""

from __future__ import annotations

import sys
import time
from contextlib import ExitStack

import psutil
from rich.console import Group
from rich.live import Live
from rich.text import Text

from buildslots.look import pid_here
from buildslots.view.now import colour
from buildslots.view.now.chosen import for_eyes
from buildslots.view.now.costs import Trees
from buildslots.view.now.keyboard import Keyboard
from buildslots.view.table import cap_line, is_fleet, place
from buildslots.words import short_path, size

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    from rich.console import RenderableType

    from buildslots.status import PoolStatus, Waiter
    from buildslots.view.now.chosen import Pools
    from buildslots.view.now.costs import Cost

LEAST_ROWS = 3
"""With fewer rows than this in each table, lines of air between them are a waste."""
SECOND_S = 1.0
"""The second picture comes after this time at most, because the first one cannot say yet what builds cost."""


def watch(pools: Pools, interval_s: float, *, json: bool) -> int:
    """Show `pools` every `interval_s` seconds until the user ends it."""
    if for_eyes() and not json:
        return _show(pools, interval_s)
    between = ""
    while True:
        began = time.monotonic()
        sys.stdout.write(between + pools.text(pools.look(), json=json) + "\n")
        sys.stdout.flush()
        between = "" if json else "\n"
        time.sleep(max(0.0, began + interval_s - time.monotonic()))


def _show(pools: Pools, interval_s: float) -> int:
    terminal = colour.console()
    trees = Trees()
    due = time.monotonic() + min(interval_s, SECOND_S)
    with Keyboard() as keyboard, ExitStack() as screen:
        live = screen.enter_context(Live(console=terminal, screen=True, auto_refresh=False))
        screen.enter_context(colour.unwrapped(terminal))
        while True:
            statuses = pools.look()
            below = pools.others()
            room = terminal.height - 2 * bool(below)
            picture = _picture(statuses, _costs(statuses, trees), terminal.width, room)
            if below:
                line = Text(below, "cyan", no_wrap=True, overflow="ellipsis")
                picture = Group(picture, "", line)
            live.update(picture, refresh=True)
            happened = keyboard.wait(due - time.monotonic())
            if happened == "q":
                return 0
            if happened == "stop":
                screen.close()
                keyboard.stop()
                screen.enter_context(live)
                screen.enter_context(colour.unwrapped(terminal))
            elif happened is None:
                due = max(due + interval_s, time.monotonic())


def _costs(statuses: list[PoolStatus], trees: Trees) -> list[dict[int, Cost | None]]:
    """What the builds of each pool cost, by slot; None where that cannot be known."""
    pids = [{holder.slot: pid_here(status, holder) for holder in status.holders} for status in statuses]
    costs = trees.look(pid for by_slot in pids for pid in by_slot.values() if pid is not None)
    return [{slot: costs.get(pid or 0) for slot, pid in by_slot.items()} for by_slot in pids]


def _picture(
    statuses: list[PoolStatus], costs: list[dict[int, Cost | None]], width: int, height: int
) -> RenderableType:
    """All pools in `height` lines: tables are cut to the rows that fit, then pools to their headlines."""
    room = height - 2
    parts: list[RenderableType] = [_machine(width), ""]
    limit = _loose_limit(statuses, room)
    if limit:
        for status, cost in zip(statuses, costs, strict=True):
            parts += _section(status, cost, width, limit)
        return Group(*parts)
    # Those first in which something happens, without air between the lines.
    order = sorted(range(len(statuses)), key=lambda number: not _is_busy(statuses[number]))
    limits = _limits([statuses[number] for number in order], room)
    for number, limit in zip(order, limits, strict=False):
        parts += _section(statuses[number], costs[number], width, limit, dense=True)
    if len(limits) < len(statuses):
        parts.append(Text(f"… and {len(statuses) - len(limits)} more pools", "dim"))
    return Group(*parts)


def _is_busy(status: PoolStatus) -> bool:
    return bool(status.holders or status.waiters)


def _rows(statuses: list[PoolStatus]) -> int:
    return max(max(len(s.holders), len(s.waiters)) for s in statuses)


def _loose_limit(statuses: list[PoolStatus], room: int) -> int:
    """How many rows the tables of all pools may have, with lines of air; 0 if that leaves hardly any."""
    rows = min(_rows(statuses), room)
    for limit in range(max(rows, 1), max(min(rows, LEAST_ROWS), 1) - 1, -1):
        if sum(_height(status, limit) for status in statuses) <= room:
            return limit
    return 0


def _limits(statuses: list[PoolStatus], room: int) -> list[int]:
    """How many rows the tables of each pool may have in a dense picture: 0 for a headline alone.

    One number for the first pools, 0 for the others; the last ones may be left out.
    """
    busy = sum(map(_is_busy, statuses))
    idle = len(statuses) - busy
    for pools in range(busy, 0, -1):
        for limit in range(min(_rows(statuses), room), 0, -1):
            left = room - sum(_height(s, limit, dense=True) for s in statuses[:pools]) - (busy - pools)
            if left >= min(idle, 1):
                shown = idle if idle <= left else left - 1
                return [limit] * pools + [0] * (busy - pools + shown)
    return [0] * (len(statuses) if len(statuses) <= room else max(room - 1, 0))


def _section(
    status: PoolStatus, costs: dict[int, Cost | None], width: int, limit: int, *, dense: bool = False
) -> list[RenderableType]:
    """A pool in `_height(status, limit, dense)` lines, and one of air behind it."""
    parts: list[RenderableType] = [colour.headline(status)]
    if not limit or not _is_busy(status):
        return parts
    air = [] if dense else [""]
    if not dense:
        where = place(status) if status.fleet else short_path(status.dir)
        source = f"{cap_line(status)}, {where}"
        parts.append(Text(source, "dim", no_wrap=True, overflow="ellipsis"))
    in_line, fleet = colour.rows_in_line(status.waiters, limit), is_fleet(status)
    tables: list[tuple[list[int], Callable[[int], RenderableType]]] = [
        ([1] * len(status.holders), lambda rows: colour.live_holders(status, costs, width, rows)),
        ([len(row) for row in in_line], lambda rows: colour.line(in_line[:rows], width, fleet=fleet)),
    ]
    for builds, table in tables:  # how many each row stands for
        if builds:
            rows = len(builds) if len(builds) <= limit else max(limit - 1, 1)
            parts += [*air, table(rows)]
            if rows < min(len(builds), limit):
                parts.append(Text(f"… and {sum(builds[rows:])} more", "dim"))
    return [*parts, *air]


def _height(status: PoolStatus, limit: int, *, dense: bool = False) -> int:
    """How many lines a pool takes if its tables have at most `limit`."""
    head = 1 if dense else 2
    counts = min(len(status.holders), limit), _rows_in_line(status.waiters, limit)
    tables = [head + count for count in counts if count]
    return (1 if dense else 3) + sum(tables) if tables else 1


def _rows_in_line(waiters: tuple[Waiter, ...], limit: int) -> int:
    """How many of at most `limit` rows the line takes: as many as `colour.rows_in_line` has."""
    if len(waiters) <= limit:
        return len(waiters)
    rows: set[object] = set()
    for waiter in waiters:
        rows.add(colour.row_of(waiter))
        if len(rows) >= limit:
            break
    return len(rows)


def _machine(width: int) -> Text:
    """The line about the machine, and the key that ends the view if there is room for it."""
    memory = psutil.virtual_memory()
    text = Text.assemble(
        (time.strftime("%X"), "bold"),
        f"  load {psutil.getloadavg()[0]:.1f} on {psutil.cpu_count()} cores",
        f"  memory {size(memory.total - memory.available)} of {size(memory.total)}",
        no_wrap=True,
        overflow="ellipsis",
    )
    hint = "q or Ctrl-C ends"
    room = width - text.cell_len - len(hint)
    return text.append(" " * room + hint, "dim") if room > 2 else text
