"""`buildslots status` as plain text, which other programs read, and the words of its cells."""

from __future__ import annotations

import os
import shlex
import time
from itertools import pairwise

from buildslots.status import Holder, Waiter
from buildslots.words import (
    COMMAND_SHOWN,
    NAME_SHOWN,
    SENTENCE_SHOWN,
    cells,
    counted,
    roughly,
    short_path,
    shown,
    span,
)

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Collection, Sequence

    from buildslots.shares import BuildTokens
    from buildslots.status import PoolStatus


PAUSED = "paused"
STARTS_IN, WAITS_FOR = "STARTS IN", "WAITS FOR"
"""Heads of columns: when a build starts, as it looks, and why it waits."""
HOST = "HOST"
"""Head of a column: on which machine a build is. Only in pools that several have."""
JOBS = "JOBS"
"""Head of the column of how many jobs a build may run, of how many at most."""
ONE_JOB = "runs one job"
"""How the reason ends why such a build takes no tokens."""
UNREACHABLE = "cannot be used on its server"
"""What is said of a pool whose server is not there, refuses, or does not know it."""
UNUSUAL = ("own_cap", "gate", "gate_never", "host")
"""Kinds of reasons that nothing else in the view tells."""


def status_text(status: PoolStatus) -> str:
    """`status` in lines for people."""
    lines = [heading(status), place(status), cap_line(status)]
    hosts = [HOST] if is_fleet(status) else []
    if status.holders:
        with_jobs = has_jobs(status.holders)
        rows = [
            [
                counted(h.slots),
                pid(h.pid),
                duration(h.held_s),
                *([jobs(h)] if with_jobs else []),
                *(host(h) for _ in hosts),
                path(h.cwd),
                f"{what(h)} {remarks(h, fleet=bool(hosts))}",
            ]
            for h in status.holders
        ]
        head = ["SLOT", "PID", "HELD", *([JOBS] if with_jobs else []), *hosts, "DIRECTORY", "COMMAND"]
        lines += ["", *table(head, rows, right=(1, 2, 3) if with_jobs else (1, 2))]
    if status.waiters:
        rows = [
            [
                str(w.place),
                pid(w.pid),
                duration(w.waited_s),
                starts_in(w),
                waits_for(w),
                *(host(w) for _ in hosts),
                path(w.cwd),
                f"{what(w)} {remarks(w, fleet=bool(hosts))}",
            ]
            for w in status.waiters
        ]
        head = ["LINE", "PID", "WAITED", STARTS_IN, WAITS_FOR, *hosts, "DIRECTORY", "COMMAND"]
        lines += ["", *table(head, rows, right=(1, 2, 3))]
    return "\n".join(lines)


def pools_text(statuses: list[PoolStatus]) -> str:
    """All `statuses` in lines for people; an empty pool takes one line."""
    sections = [status_text(s) if has_lines(s) else heading(s) for s in statuses]
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


def has_lines(status: PoolStatus) -> bool:
    """Whether there is more to say of a pool than its heading, among others."""
    return bool(status.holders or status.waiters) or is_cut_off(status)


def is_cut_off(status: PoolStatus) -> bool:
    """Whether the pool is on a server that cannot be asked."""
    return status.fleet is not None and status.fleet.unreachable is not None


def is_fleet(status: PoolStatus) -> bool:
    """Whether builds of several machines are seen."""
    return status.fleet is not None and status.fleet.unreachable is None


def place(status: PoolStatus) -> str:
    """Where the pool is; of one on a server that cannot be asked also why."""
    if status.fleet is None:
        return f"directory {short_path(status.dir)}"
    why = f": {status.fleet.unreachable}" if status.fleet.unreachable else ""
    return shown(f"server {status.fleet.url}{why}", SENTENCE_SHOWN)


def heading(status: PoolStatus) -> str:
    """The pool in a line."""
    if status.fleet is not None and status.fleet.unreachable is not None:
        if status.fleet.on_unreachable == "fail":
            return f"pool {status.pool}: {UNREACHABLE}, and builds fail"
        instead = f"{held_of(status)}, {len(status.waiters)} waiting in its place on this machine"
        return f"pool {status.pool}: {UNREACHABLE}; {instead}"
    its = caps(status)
    waiting = f"{len(status.waiters)} waiting{_more(status)}{tokens(status)}{paused(status)}{restart(status)}"
    if its == [status.cap]:
        return f"pool {status.pool}: {status.held} held of {status.cap}, {waiting}"
    return f"pool {status.pool}: {held_of(status)}; yours: {status.cap}; {waiting}"


def tokens(status: PoolStatus) -> str:
    """How many CPU tokens builds have, of how many; "" if nobody uses any."""
    its = status.tokens
    if its is None:
        return ""
    return f", {its.held} tokens held" if its.count is None else f", {its.held} of {its.count} tokens"


def has_jobs(holders: Sequence[Holder]) -> bool:
    """Whether it is known of any of `holders` how many jobs it may run."""
    return any(holder.tokens is not None for holder in holders)


def jobs(holder: Holder) -> str:
    """How many jobs a build may run now, and at most: its first one, and one for each token."""
    its = holder.tokens
    if its is None:
        return "-"
    if its.not_in_use:
        return "1" if _runs_one(its) else "?"
    return f"{its.held + 1} of {its.most + 1}"


def _runs_one(tokens: BuildTokens) -> bool:
    """Whether a build needs no token, because its program runs one job: then nothing is unusual about it."""
    return (tokens.not_in_use or "").endswith(ONE_JOB)


def paused(status: PoolStatus) -> str:
    """Until when nobody starts, with who has said so, and why; "" if the pool is not paused."""
    if status.paused_until is None:
        return ""
    why = f": {status.pause_reason}" if status.pause_reason else ""
    end = time.strftime("%H:%M", time.localtime(status.paused_until))
    return f", {PAUSED} until {end} by {status.paused_by}{why}"


def restart(status: PoolStatus) -> str:
    """For how long nobody starts because the server was restarted; "" if it was not."""
    if status.fleet is None or not status.fleet.restart_s:
        return ""
    return f", nobody starts for {span(status.fleet.restart_s)}: the server was restarted"


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


def remarks(build: Holder | Waiter, *, fleet: bool = False) -> str:
    """What is unusual about `build`, in parentheses; nothing if nothing is.

    In a pool of a whole `fleet` a column says where it is.
    """
    # The slots of a holder say that already.
    texts = [f"needs {build.weight} slots"] if isinstance(build, Waiter) and build.weight > 1 else []
    if isinstance(build, Waiter) and build.priority != "normal":
        texts.append(f"{build.priority} priority")
    its = build.tokens if isinstance(build, Holder) else None
    if its is not None and its.not_in_use and not _runs_one(its):
        texts.append(f"tokens not in use: {its.not_in_use}")
    texts += [
        text
        for text, attribute in (
            ("another program", "foreign"),
            ("overflow", "overflow"),
            ("its batch is gone" if build.batch else "its slot-run is gone", "orphaned"),
            ("ownerless", "ownerless"),
            *(() if fleet else ((_where(build.host), "elsewhere"),)),
        )
        if getattr(build, attribute, False)
    ]
    if build.silent_s is not None:
        texts.append(f"silent for {span(build.silent_s)}")
    return f"({', '.join(texts)})" if texts else ""


def what(build: Holder | Waiter) -> str:
    """What `build` runs: its command line, or the name of a task, and of which batch that is."""
    return f"{command(build)} {batch(build)}".rstrip()


def batch(build: Holder | Waiter) -> str:
    """Of which batch `build` is a task, in parentheses; nothing if it is none."""
    return f"(batch {shown(build.batch, NAME_SHOWN)})" if build.batch else ""


def _where(host: str | None) -> str:
    """Where a build runs whose pid means nothing here: its host's name, unless that is ours."""
    if host is None or (hasattr(os, "uname") and host == os.uname().nodename):
        return "in another pid namespace"
    return f"on {shown(host, NAME_SHOWN)}"


def host(build: Holder | Waiter) -> str:
    """Where a build is; the name of the machine may be unknown."""
    return "?" if build.host is None else shown(build.host, NAME_SHOWN)


def pid(number: int | None) -> str:
    """A pid, which may be unknown."""
    return "?" if number is None else str(number)


def duration(seconds: float | None) -> str:
    """A duration, which may be unknown."""
    return "?" if seconds is None else span(seconds)


def starts_in(waiter: Waiter) -> str:
    """In about how long it starts, which may be unknown."""
    return "?" if waiter.eta_s is None else roughly(waiter.eta_s)


def waits_for(waiter: Waiter) -> str:
    """What keeps it back now; "-" if nothing does any more."""
    return "; ".join(map(str, waiter.reasons)) or "-"


def unusual(waiter: Waiter) -> str:
    """Of what keeps it back only what the line and the number of slots do not tell."""
    return "; ".join(reason.text for reason in waiter.reasons if reason.kind in UNUSUAL)


def path(directory: str | None) -> str:
    """A directory, which may be unknown, fit to print."""
    return "?" if directory is None else short_path(directory)


def command(build: Holder | Waiter) -> str:
    """A command line or a task's name, which may be unknown, fit to print."""
    join = " ".join if build.batch else shlex.join  # a name is no word for a shell
    return shown(join(build.command).replace("'…'", "…"), COMMAND_SHOWN) or "?"
