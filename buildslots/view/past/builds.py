"""The past of the pools: what the journal's lines say of each build, for `history`, `trace` and `report`.

A line of the journal may be torn: on a full disk only its beginning is written, and the next line follows
without a line end between them. So a line is parsed from its last START on. START cannot occur within the
texts of a line, because JSON puts a backslash before every quotation mark there.
"""

from __future__ import annotations

import json
import os
import shlex
import time
from contextlib import ExitStack
from dataclasses import dataclass, field
from stat import S_ISREG

from buildslots.disk.records import lives
from buildslots.errors import SettingError
from buildslots.files import NO_WAIT
from buildslots.journal import NAME, START, archives
from buildslots.processes import is_local
from buildslots.settings import resolve
from buildslots.settings.places import state_dir
from buildslots.settings.values import DEFAULT_PRIORITY, PRIORITIES, parse_pool
from buildslots.view import warn
from buildslots.view.pools import unknown
from buildslots.words import batch_name

TYPE_CHECKING = False
if TYPE_CHECKING:
    import argparse
    from collections.abc import Iterator
    from typing import Any, BinaryIO

LONGEST_LINE = 1024 * 1024
"""Bytes that are read at once. Only a file that is no journal has longer lines."""


@dataclass(slots=True)
class Build:
    """One build, as far as the journal knows it. Times are Unix times, durations seconds.

    Attributes:
        id: What marks it in the journal.
        pool: Name of its pool.
        dir: Directory of that pool.
        pid: Process of its slot-run, or of its Python program.
        process: More of that process, as in a record: `start`, `host` and `pidns`, as far as known.
        program: Name of its program; the whole command line if the journal is configured to keep that; of a
            task of a batch the task's name.
        cwd: Directory in which it was started.
        cap: Its cap, or None.
        queued_at: When it joined the line; None if it did not have to.
        started_at: When it began to run, or None.
        ended_at: When it ended or gave up, or None.
        slot: Number of its slot, of several the lowest; or None.
        slots: The numbers of all its slots, ascending; empty if it has or had none.
        weight: How many slots it needs, or has.
        overflow: Whether it ran beyond its cap, after the timeout.
        waited_s: How long it waited before it began or gave up, or None.
        ran_s: How long it ran, or None.
        status: Its exit status, minus the signal that killed it, or None.
        outcome: "ended", "gave up" (its timeout, or the server was away), "interrupted" (while it waited),
            "degraded" (ran without any slot), "running", "waiting", or "lost" (no end was written: killed
            together with its slot-run, or the disk was full).
        cause: Why it was degraded, or "".
        batch: ID of the batch that it is a task of, or "".
        priority: "high", "normal" or "low".
        cpu_s: Seconds of CPU time that its command used, or None.
        max_rss: Bytes of memory that the largest process of its command had, or None.
        tokens_max: The most CPU tokens that it had at once; None if it took no part in sharing them.
    """

    id: str
    pool: str
    dir: str
    pid: int
    program: str
    cwd: str
    cap: int | None = None
    queued_at: float | None = None
    started_at: float | None = None
    ended_at: float | None = None
    slot: int | None = None
    overflow: bool = False
    waited_s: float | None = None
    ran_s: float | None = None
    status: int | None = None
    outcome: str = "lost"
    cause: str = ""
    slots: tuple[int, ...] = ()
    weight: int = 1
    process: dict[str, str] = field(default_factory=dict)
    batch: str = ""
    priority: str = DEFAULT_PRIORITY
    cpu_s: float | None = None
    max_rss: int | None = None
    tokens_max: int | None = None

    @property
    def kind(self) -> tuple[str, str]:
        """What builds of its kind have in common: the name of their batch, or "" and their program."""
        return (batch_name(self.batch), "") if self.batch else ("", self.program)

    @property
    def came_at(self) -> float:
        """The earliest time that the journal gives for it."""
        times = (self.queued_at, self.started_at, self.ended_at)
        return min(at for at in times if at is not None)

    def run_between(self, now: float) -> tuple[float, float] | None:
        """From when to when it ran under a slot; None if it never did.

        The end is `now` if it still runs, and the beginning if nobody knows when it ended.
        """
        if self.started_at is None or self.outcome == "degraded":
            return None
        end = self.ended_at or (now if self.outcome == "running" else self.started_at)
        return self.started_at, max(self.started_at, end)

    def wait_between(self, now: float) -> tuple[float, float] | None:
        """From when to when it waited in line; None if it never did. The end is found in the same way."""
        if self.queued_at is None:
            return None
        end = self.started_at or self.ended_at or (now if self.outcome == "waiting" else self.queued_at)
        return self.queued_at, max(self.queued_at, end)


@dataclass(frozen=True, slots=True)
class Past:
    """The builds of a period, by arrival, and the machine's load.

    Attributes:
        since: Unix time at which the period begins: as asked for, or that of the first build.
        until: Unix time at which it ends: now.
        builds: All builds that waited or ran in it.
        loads: Pairs of a Unix time and the load average over a minute, by time. Builds note one when they
            come and when they start.
    """

    since: float
    until: float
    builds: tuple[Build, ...]
    loads: tuple[tuple[float, float], ...]


def asked_for(options: argparse.Namespace) -> Past:
    """The past that the options --pool and --since name. Raises SettingError, and OSError as `past` does."""
    if options.pool is not None:
        parse_pool(options.pool, "pool")
    found = past(options.pool, options.since, time.time())
    if options.pool is not None and not found.builds:
        sentence = unknown(resolve(pool=options.pool, slots=1, warn=lambda _: None), None)
        if sentence:
            warn(sentence)
    return found


def past(pool: str | None, period_s: float | None, now: float, directory: str | None = None) -> Past:
    """What the journal tells of the last `period_s` seconds, or of all time if that is None.

    `pool` is the name of the one pool whose builds count; with None, those of all pools do. Raises OSError if
    the journal exists and cannot be read.
    """
    since = None if period_s is None else now - period_s
    builds: dict[str, Build] = {}
    loads = []
    for event in events(directory or state_dir(os.environ)):
        if pool is not None and event.get("pool") != pool:
            continue
        _tell(builds, event)
        load = number(event.get("load"))
        if load is not None and (since is None or event["t"] >= since):
            loads.append((event["t"], load))
    shown = [build for build in builds.values() if _settle(build, now) and _is_in(build, since)]
    shown.sort(key=lambda build: build.came_at)
    if since is None or (shown and shown[0].came_at > since):
        since = min(shown[0].came_at, now) if shown else now  # the clock may have been set back
    return Past(since, now, tuple(shown), tuple(sorted(loads)))


def events(directory: str) -> Iterator[dict[str, Any]]:
    """All lines of the journal in `directory` that can be read, older files first. Raises OSError."""
    for file in files(directory):
        yield from _parsed(file)


def files(directory: str) -> Iterator[BinaryIO]:
    """The files of the journal in `directory`, each once and open, older ones first. Raises OSError."""
    # The newest file is opened first and read last: if it were opened last, and a build moved it to the
    # archives meanwhile, it would be missed. Now it is found among these then.
    with ExitStack() as kept:
        newest = _open(os.path.join(directory, NAME))
        if newest is not None:
            kept.enter_context(newest)
        try:
            older = archives(directory)
        except FileNotFoundError:
            older = []
        for path in older:
            if (file := _open(path)) is not None:
                with file:
                    if newest is not None and os.path.sameopenfile(file.fileno(), newest.fileno()):
                        newest = None
                    yield file
        if newest is not None:
            yield newest


def _open(path: str) -> BinaryIO | None:
    """Open the file at `path`; None if it is gone, or no regular file: the end of a FIFO may never come."""
    try:
        file = open(path, "rb", opener=_opener)  # noqa: SIM115 - the caller's
    except FileNotFoundError:
        return None
    if S_ISREG(os.fstat(file.fileno()).st_mode):
        return file
    file.close()
    return None


def _parsed(file: BinaryIO) -> Iterator[dict[str, Any]]:
    while line := file.readline(LONGEST_LINE):
        event = parse(line)
        if event is not None:
            yield event


def parse(line: bytes) -> dict[str, Any] | None:
    """The event in a line of the journal; None if the line lacks what every event has."""
    try:
        event = json.loads(line[max(0, line.rfind(START)) :])
    except (ValueError, RecursionError):
        return None
    if not isinstance(event, dict) or event.get("v") != 1 or number(event.get("t")) is None:
        return None
    words = event.get("command")
    if "program" not in event and isinstance(words, list) and all(isinstance(word, str) for word in words):
        event["program"] = shlex.join(words).replace("'…'", "…")
    texts = (event.get(name) for name in ("event", "id", "pool", "dir", "program", "cwd"))
    if not all(isinstance(text, str) for text in texts) or _whole(event.get("pid")) is None:
        return None
    try:
        parse_pool(event["pool"], "journal")
    except SettingError:
        return None
    return event


def _opener(path: str, flags: int) -> int:
    return os.open(path, flags | NO_WAIT)


def _tell(builds: dict[str, Build], event: dict[str, Any]) -> None:
    """Add what `event` says to its build."""
    build = builds.get(event["id"])
    if build is None:
        build = Build(*(event[name] for name in ("id", "pool", "dir", "pid", "program", "cwd")))
        names = ("start", "host", "pidns")
        build.process = {name: event[name] for name in names if isinstance(event.get(name), str)}
        build.batch = event["batch"] if isinstance(event.get("batch"), str) else ""
        build.priority = next((one for one in PRIORITIES if one == event.get("priority")), DEFAULT_PRIORITY)
        builds[build.id] = build
    at = event["t"]
    build.cap = _whole(event.get("cap")) or build.cap
    if (slot := _whole(event.get("slot"))) is not None:
        build.slot = slot
        build.slots = build.slots or (slot,)
    if slots := _slots(event.get("slots")):
        build.slots = slots
    build.weight = _whole(event.get("weight")) or build.weight
    if (waited_s := number(event.get("waited_s"))) is not None:
        build.waited_s = waited_s
    match event["event"]:
        case "queued":
            build.queued_at = at
        case "started" | "fell_through":
            build.started_at = at
            build.overflow = event["event"] == "fell_through"
        case "gave_up":
            build.ended_at = at
            build.outcome = "interrupted" if event.get("cause") == "interrupted" else "gave up"
        case "ended":
            build.ended_at = at
            build.ran_s = number(event.get("ran_s"))
            build.cpu_s = number(event.get("cpu_s"))
            build.max_rss = _whole(event.get("max_rss"), 2**53) or None  # emulated kernels say 0
            build.tokens_max = _whole(event.get("tokens_max"))
            status = event.get("status")
            whole = isinstance(status, int) and not isinstance(status, bool) and abs(status) < 2**32
            build.status = status if whole else None
            build.outcome = "ended"
        case "degraded":
            build.started_at = at
            build.cause = str(event.get("cause", ""))
            build.outcome = "degraded"


def _slots(value: object) -> tuple[int, ...]:
    """The numbers of slots in `value`, if that is a list; what cannot be one is left out."""
    numbers = [_whole(number) for number in value] if isinstance(value, list) else []
    return tuple(number for number in numbers if number is not None)


def _settle(build: Build, now: float) -> bool:
    """Fill in what follows from all the lines of `build`, and return whether it can be shown.

    A build of which only unknown events are told has no times, and cannot be shown.
    """
    if build.outcome == "ended" and build.started_at is None:  # its first line was lost, or removed long ago
        build.started_at = (build.ended_at or now) - (build.ran_s or 0.0)
    if build.outcome == "lost" and (build.started_at or build.queued_at) and _lives(build):
        build.outcome = "running" if build.started_at else "waiting"
    return any(at is not None for at in (build.queued_at, build.started_at, build.ended_at))


def _is_in(build: Build, since: float | None) -> bool:
    if since is None or build.outcome in ("running", "waiting"):
        return True
    return (build.ended_at or build.came_at) >= since


def _lives(build: Build) -> bool:
    """Whether the process that wrote the build's lines lives; False if that cannot be known from here."""
    record = {"pid": str(build.pid), "since": str(build.came_at), **build.process}
    return is_local(record) and lives(record)


def number(value: object) -> float | None:
    """`value` if it can be a time or a number of seconds, else None."""
    good = isinstance(value, (int, float)) and not isinstance(value, bool) and 0 <= value < 1e11
    return float(value) if good else None  # type: ignore[arg-type]


def _whole(value: object, below: int = 2**31) -> int | None:
    """`value` if it can be a pid, a slot or a cap, or another number `below` that, else None."""
    good = isinstance(value, int) and not isinstance(value, bool) and 0 <= value < below
    return value if good else None  # type: ignore[return-value]
