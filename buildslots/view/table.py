"""`buildslots status` as plain text."""

from __future__ import annotations

import shlex

from buildslots.words import printable, short_path, span

TYPE_CHECKING = False
if TYPE_CHECKING:
    from buildslots.status import Holder, PoolStatus


def status_text(status: PoolStatus) -> str:
    """`status` in lines for people."""
    lines = [
        f"pool {status.pool}: {len(status.holders)} held of {status.cap}, {len(status.waiters)} waiting",
        f"directory {short_path(status.dir)}",
        f"cap {status.cap}: {status.cap_source}",
    ]
    if status.holders:
        rows = [
            [str(h.slot), _pid(h.pid), _span(h.held_s), _path(h.cwd), _command(h.command) + _remark(h)]
            for h in status.holders
        ]
        lines += ["", *table(["SLOT", "PID", "HELD", "DIRECTORY", "COMMAND"], rows)]
    if status.waiters:
        rows = [
            [str(w.place), _pid(w.pid), _span(w.waited_s), _path(w.cwd), _command(w.command)]
            for w in status.waiters
        ]
        lines += ["", *table(["LINE", "PID", "WAITED", "DIRECTORY", "COMMAND"], rows)]
    return "\n".join(lines)


def table(head: list[str], rows: list[list[str]]) -> list[str]:
    """`rows` under `head`, in columns."""
    widths = [max(map(len, column)) for column in zip(head, *rows, strict=True)]
    return [
        "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()
        for row in [head, *rows]
    ]


def _remark(holder: Holder) -> str:
    remarks = [
        text
        for text, applies in (
            ("another program", holder.foreign),
            ("overflow", holder.overflow),
            ("its slot-run is gone", holder.orphaned),
        )
        if applies
    ]
    return f" ({', '.join(remarks)})" if remarks else ""


def _pid(pid: int | None) -> str:
    return "?" if pid is None else str(pid)


def _span(seconds: float | None) -> str:
    return "?" if seconds is None else span(seconds)


def _path(path: str | None) -> str:
    return "?" if path is None else short_path(path)


def _command(command: tuple[str, ...]) -> str:
    return printable(shlex.join(command).replace("'…'", "…")) or "?"
