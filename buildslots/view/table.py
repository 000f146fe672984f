"""`buildslots status` as plain text, which other programs read, and the words of its cells."""

from __future__ import annotations

import os
import shlex
from itertools import pairwise

from buildslots.status import Waiter
from buildslots.words import (
    COMMAND_SHOWN,
    NAME_SHOWN,
    SENTENCE_SHOWN,
    cells,
    counted,
    short_path,
    shown,
    span,
)

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Collection

    from buildslots.status import Holder, PoolStatus


def status_text(status: PoolStatus) -> str:
    """`status` in lines for people."""
    lines = [
        heading(status),
        f"directory {short_path(status.dir)}",
        cap_line(status),
    ]
    if status.holders:
        rows = [
            [
                counted(h.slots),
                pid(h.pid),
                duration(h.held_s),
                path(h.cwd),
                f"{command(h.command)} {remarks(h)}",
            ]
            for h in status.holders
        ]
        lines += ["", *table(["SLOT", "PID", "HELD", "DIRECTORY", "COMMAND"], rows, right=(1, 2))]
    if status.waiters:
        rows = [
            [
                str(w.place),
                pid(w.pid),
                duration(w.waited_s),
                path(w.cwd),
                f"{command(w.command)} {remarks(w)}",
            ]
            for w in status.waiters
        ]
        lines += ["", *table(["LINE", "PID", "WAITED", "DIRECTORY", "COMMAND"], rows, right=(1, 2))]
    return "\n".join(lines)


def pools_text(statuses: list[PoolStatus]) -> str:
    """All `statuses` in lines for people; an empty pool takes one line."""
    sections = [status_text(s) if s.holders or s.waiters else heading(s) for s in statuses]
    text = sections[0]
    for before, section in pairwise(sections):
        text += ("\n\n" if "\n" in before + section else "\n") + section
    return text


def table(head: list[str], rows: list[list[str]], *, right: Collection[int] = ()) -> list[str]:
    """`rows` under `head`, in columns; those whose numbers are in `right` are aligned to the right."""
    widths = [max(map(cells, column)) for column in zip(head, *rows, strict=True)]
    lines = []
    for row in [head, *rows]:
        padded = []
        for number, (text, width) in enumerate(zip(row, widths, strict=True)):
            blanks = " " * (width - cells(text))
            padded.append(blanks + text if number in right else text + blanks)
        lines.append("  ".join(padded).rstrip())
    return lines


def heading(status: PoolStatus) -> str:
    """The pool in a line."""
    its = caps(status)
    waiting = f"{len(status.waiters)} waiting{_more(status)}"
    if its == [status.cap]:
        return f"pool {status.pool}: {status.held} held of {status.cap}, {waiting}"
    return f"pool {status.pool}: {held_of(status)}; yours: {status.cap}; {waiting}"


def held_of(status: PoolStatus) -> str:
    """How many slots are held of how many, by the caps of the builds that are there."""
    its = caps(status)
    return f"{status.held} held of {its[0] if len(its) == 1 else f'{its[0]}-{its[-1]}'}"


def caps(status: PoolStatus) -> list[int]:
    """The caps of the builds that hold and wait, ascending; that of who looks where there is no build.

    A cap belongs to each build. What keeps those waiting that wait is theirs, and not that of who looks.
    """
    its = {h.cap for h in status.holders} | {w.cap for w in status.waiters}
    return sorted(cap for cap in its if cap) or [status.cap]


def is_full(status: PoolStatus) -> bool:
    """Whether who comes next, with the cap of the others there, would have to wait."""
    return status.held >= min((w.cap for w in status.waiters), default=caps(status)[-1])


def cap_line(status: PoolStatus) -> str:
    """The cap of who looks, and where it comes from."""
    whose = "cap" if caps(status) == [status.cap] else "your cap"
    return f"{whose} {status.cap}: {shown(status.cap_source, SENTENCE_SHOWN)}"


def _more(status: PoolStatus) -> str:
    return f", {status.unseen} more names in the queue were not looked at" if status.unseen else ""


def remarks(build: Holder | Waiter) -> str:
    """What is unusual about `build`, in parentheses; nothing if nothing is."""
    # The slots of a holder say that already.
    texts = [f"needs {build.weight} slots"] if isinstance(build, Waiter) and build.weight > 1 else []
    texts += [
        text
        for text, attribute in (
            ("another program", "foreign"),
            ("overflow", "overflow"),
            ("its slot-run is gone", "orphaned"),
            (_where(build.host), "elsewhere"),
        )
        if getattr(build, attribute, False)
    ]
    return f"({', '.join(texts)})" if texts else ""


def _where(host: str | None) -> str:
    """Where a build runs whose pid means nothing here: its host's name, unless that is ours."""
    if host is None or (hasattr(os, "uname") and host == os.uname().nodename):
        return "in another pid namespace"
    return f"on {shown(host, NAME_SHOWN)}"


def pid(number: int | None) -> str:
    """A pid, which may be unknown."""
    return "?" if number is None else str(number)


def duration(seconds: float | None) -> str:
    """A duration, which may be unknown."""
    return "?" if seconds is None else span(seconds)


def path(directory: str | None) -> str:
    """A directory, which may be unknown, fit to print."""
    return "?" if directory is None else short_path(directory)


def command(arguments: tuple[str, ...]) -> str:
    """A command line, which may be unknown, fit to print."""
    return shown(shlex.join(arguments).replace("'…'", "…"), COMMAND_SHOWN) or "?"
