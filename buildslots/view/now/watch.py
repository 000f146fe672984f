"""`buildslots status --watch`: a live picture on a terminal, a stream of texts or JSON lines elsewhere."""

from __future__ import annotations

import sys
import time
from contextlib import ExitStack

import psutil
from rich.console import Group
from rich.live import Live
from rich.text import Text

from buildslots.status import pid_here
from buildslots.view.now import colour
from buildslots.view.now.chosen import for_eyes
from buildslots.view.now.costs import Trees
from buildslots.view.now.keyboard import Keyboard
from buildslots.words import SENTENCE_SHOWN, short_path, shown, size

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    from rich.console import RenderableType

    from buildslots.status import PoolStatus
    from buildslots.view.now.chosen import Pools
    from buildslots.view.now.costs import Cost

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
    pids = [{holder.slot: pid_here(status.dir, holder) for holder in status.holders} for status in statuses]
    costs = trees.look(pid for by_slot in pids for pid in by_slot.values() if pid is not None)
    return [{slot: costs.get(pid or 0) for slot, pid in by_slot.items()} for by_slot in pids]


def _picture(
    statuses: list[PoolStatus], costs: list[dict[int, Cost | None]], width: int, height: int
) -> RenderableType:
    """All pools in `height` lines: tables are cut to the rows that fit, then pools to their headlines."""
    room = height - 2
    limits = _limits(statuses, room)
    if len(statuses) > room:
        limits = limits[: room - 1]
    parts: list[RenderableType] = [_machine(width), ""]
    for status, cost, limit in zip(statuses, costs, limits, strict=False):
        parts += _section(status, cost, width, limit)
    if len(limits) < len(statuses):
        parts.append(Text(f"… and {len(statuses) - len(limits)} more pools", "dim"))
    return Group(*parts)


def _limits(statuses: list[PoolStatus], room: int) -> list[int]:
    """How many rows the tables of each pool may have: one number for the first pools, 0 for the others."""
    rows = max(max(len(s.holders), len(s.waiters)) for s in statuses)
    for pools in range(len(statuses), 0, -1):
        for limit in range(min(rows, room), 0, -1):
            height = sum(_height(status, limit) for status in statuses[:pools]) + len(statuses) - pools
            if height <= room:
                return [limit] * pools + [0] * (len(statuses) - pools)
    return [0] * len(statuses)


def _section(
    status: PoolStatus, costs: dict[int, Cost | None], width: int, limit: int
) -> list[RenderableType]:
    """A pool in `_height(status, limit)` lines."""
    parts: list[RenderableType] = [colour.headline(status)]
    if not limit or not (status.holders or status.waiters):
        return parts
    source = f"cap {status.cap}: {shown(status.cap_source, SENTENCE_SHOWN)}, {short_path(status.dir)}"
    parts.append(Text(source, "dim", no_wrap=True, overflow="ellipsis"))
    tables: list[tuple[int, Callable[[int], RenderableType]]] = [
        (len(status.holders), lambda rows: colour.live_holders(status, costs, width, rows)),
        (len(status.waiters), lambda rows: colour.line(status, width, rows)),
    ]
    for count, table in tables:
        if count:
            rows = count if count <= limit else limit - 1
            parts += ["", table(rows)]
            if rows < count:
                parts.append(Text(f"… and {count - rows} more", "dim"))
    return [*parts, ""]


def _height(status: PoolStatus, limit: int) -> int:
    """How many lines a pool takes if its tables have at most `limit`."""
    tables = [2 + min(count, limit) for count in (len(status.holders), len(status.waiters)) if count]
    return 3 + sum(tables) if tables else 1


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
