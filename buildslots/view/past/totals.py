"""Totals: what the journal has told in all, for counters that do not fall when it drops its oldest files.

Prometheus takes a counter that falls for one that began again at 0, and counts what is left once more
(https://prometheus.io/docs/concepts/metric_types/#counter). So a small file beside the journal, STATE, keeps
the totals, and the place in each file of the journal up to which they count. A run adds the lines behind
these places. It replaces STATE by rename, so that totals and places are always those of one moment: whenever
a run is killed, the next one counts each line once.

A file of the journal is known by its first bytes. Its name changes when it is put aside, its inode is given
to another file once it is gone, and a power cut may shorten it. A file that was put aside has a place too:
a build may have opened it before, and write its line after that.

One run at a time does this, under a lock. One that does not get the lock counts for itself and keeps nothing.
"""

from __future__ import annotations

import hashlib
import json
import os
import time
from bisect import bisect_left
from stat import S_ISREG

from buildslots.disk.lock import lock_file, unlock
from buildslots.errors import SettingError
from buildslots.files import PLAIN, check_root, close
from buildslots.journal import NAME, archives
from buildslots.settings.values import DEFAULT_PRIORITY, PRIORITIES, parse_pool
from buildslots.view.output import replace
from buildslots.view.past.builds import LONGEST_LINE, files, number, parse

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, BinaryIO

    Key = tuple[str, str, str]
    """Directory and name of a pool, and a priority."""
    Counts = dict[str, float]
    """A number for each of NAMES."""

STATE, LOCK = "metrics.json", "metrics.lock"
VERSION = 1
MOST_BYTES = 256 * 1024
"""Of STATE: some 1,000 pools. Beyond that the counts of the pools are dropped that were not used for longest.
They begin again at 0 with the next build there, which Prometheus understands: nothing counts twice."""
HEAD = 512
"""Bytes by which a file is known, or its first line if that is shorter: both have the ID of a build."""
LOCK_S, AGAIN_S = 5.0, 0.02
"""How long a run waits for another one, and how often it asks."""
BUCKETS_S = (0.1, 1, 5, 15, 60, 120, 300, 900, 3600)
"""Upper bounds of the waits that are counted together, inclusive. A slot that was free takes 0.1 s at most;
120 s is the default timeout."""
WAITS = tuple(f"wait {bound:g}" for bound in (*BUCKETS_S, float("inf")))
"""The names of these counts, each for the waits above the bound before."""
SECONDS = ("waited_s", "ran_s")
NAMES = (
    *("queued", "started", "overflow", "degraded"),
    *("gave up timeout", "gave up interrupted", "gave up unreachable"),
    *("ended ok", "ended failed", "ended killed", "ended unknown"),
    *WAITS,
    *SECONDS,
)
MOST = 2.0**53
"""No count is larger; nor are seconds, lest adding one changes nothing."""


class Totals:
    """Counts by pool and priority, and how far the journal is counted.

    Attributes:
        counts: The pool that was told of last comes last.
        places: By the `_head` of each file that there was: how many of its bytes are counted.
    """

    def __init__(self) -> None:
        self.counts: dict[Key, Counts] = {}
        self.places: dict[str, int] = {}

    def add_new_lines(self, directory: str) -> None:
        """Count what has come to the journal in `directory`. Raises OSError if it cannot be read."""
        places = {}
        for file in files(directory):
            head = _head(file)
            if head:
                places[head] = self._add_lines(file, self.places.get(head, 0))
        self.places = places

    def _add_lines(self, file: BinaryIO, place: int) -> int:
        """Count the lines from `place` on: the place behind the last of them."""
        # A power cut may have taken lines that are counted.
        place = file.seek(min(place, os.fstat(file.fileno()).st_size))
        while line := file.readline(LONGEST_LINE):
            if not line.endswith(b"\n") and len(line) < LONGEST_LINE:
                break  # it is being written; or it is torn, and then it will be read with the one behind it
            place += len(line)
            event = parse(line)
            if event is not None:
                self._add(event)
        return place

    def _add(self, event: dict[str, Any]) -> None:
        names = _names(event)
        if not names:
            return
        priority = next((one for one in PRIORITIES if one == event.get("priority")), DEFAULT_PRIORITY)
        key = event["dir"], event["pool"], priority
        counts = self.counts[key] = self.counts.pop(key, {}) or dict.fromkeys(NAMES, 0)
        for name in names:
            counts[name] += 1
        waited_s, ran_s = number(event.get("waited_s")), number(event.get("ran_s"))
        if "started" in names and waited_s is not None:
            counts["waited_s"] = min(round(counts["waited_s"] + waited_s, 6), MOST)
            counts[WAITS[bisect_left(BUCKETS_S, waited_s)]] += 1
        elif event["event"] == "ended" and ran_s is not None:
            counts["ran_s"] = min(round(counts["ran_s"] + ran_s, 6), MOST)

    def text(self) -> str:
        """What to keep, in MOST_BYTES."""
        rows = [
            [*key, {name: value for name, value in counts.items() if value}]
            for key, counts in self.counts.items()
        ]
        while True:
            told = {"v": VERSION, "places": self.places, "counts": rows}
            text = json.dumps(told, separators=(",", ":"))
            if len(text) <= MOST_BYTES or not rows:
                return text
            del rows[: len(rows) // 2 + 1]


def totals(directory: str) -> tuple[dict[Key, Counts], str] | None:
    """What the journal in `directory` has told in all, and why that cannot be kept, or "".

    None if there is no journal: then nothing is made either. Raises OSError if it cannot be read.
    """
    path = os.path.join(directory, STATE)
    try:
        if not (os.path.exists(path) or os.path.exists(os.path.join(directory, NAME)) or archives(directory)):
            return None
    except FileNotFoundError:
        return None
    problem, lock = "", None
    try:
        check_root(path)
        lock = _lock(os.path.join(directory, LOCK))
    except OSError as error:
        problem = str(error)
    try:
        found = _kept(path)
        before = found.text()
        found.add_new_lines(directory)
        after = found.text()
        if lock is not None and after != before:
            try:
                replace(path, after)
            except OSError as error:
                problem = str(error)
        return found.counts, problem
    finally:
        if lock is not None:
            try:
                unlock(lock)
            finally:
                close(lock)


def _lock(path: str) -> int | None:
    """The locked descriptor, or None if somebody else keeps it. Raises OSError."""
    until = time.monotonic() + LOCK_S
    while (lock := lock_file(path)) is None and time.monotonic() < until:
        time.sleep(AGAIN_S)
    return lock


def _names(event: dict[str, Any]) -> tuple[str, ...]:
    """What is counted of `event`."""
    match event["event"]:
        case "queued" | "started" | "degraded" as name:
            return (name,)
        case "fell_through":
            return "started", "overflow"
        case "gave_up":
            name = f"gave up {event.get('cause')}"
            return (name if name in NAMES else "gave up interrupted",)
        case "ended":
            status = event.get("status")
            if not isinstance(status, int) or isinstance(status, bool):
                return ("ended unknown",)
            return ("ended ok" if not status else "ended failed" if status > 0 else "ended killed",)
    return ()


def _head(file: BinaryIO) -> str:
    """By what `file` is known; "" while it has no whole line."""
    file.seek(0)
    head = file.readline(HEAD)
    whole = len(head) == HEAD or head.endswith(b"\n")
    return hashlib.blake2b(head, digest_size=16).hexdigest() if whole else ""


def _kept(path: str) -> Totals:
    """What the last run has kept at `path`; nothing if it is missing, torn or another's."""
    found = Totals()
    try:
        told = json.loads(_private_text(path))
        if told["v"] != VERSION:
            return Totals()
        for head, place in told["places"].items():
            found.places[head] = int(_checked(place, whole=True))
        for folder, pool, priority, row in told["counts"]:
            parse_pool(pool, STATE)
            if not isinstance(folder, str) or priority not in PRIORITIES or not row.keys() <= set(NAMES):
                return Totals()
            counts = {name: _checked(value, whole=name not in SECONDS) for name, value in row.items()}
            found.counts[folder, pool, priority] = dict.fromkeys(NAMES, 0) | counts
    except (OSError, ValueError, TypeError, LookupError, AttributeError, RecursionError, SettingError):
        return Totals()
    return found


def _private_text(path: str) -> bytes:
    """What is in the file at `path`. Raises OSError if there is none, or others may have written it."""
    fd = os.open(path, os.O_RDONLY | PLAIN)
    try:
        about = os.fstat(fd)
        ours = not hasattr(os, "geteuid") or (about.st_uid == os.geteuid() and not about.st_mode & 0o022)
        if not (ours and S_ISREG(about.st_mode) and about.st_size <= MOST_BYTES):
            raise PermissionError
        with open(fd, "rb", closefd=False) as file:
            return file.read(MOST_BYTES)
    finally:
        close(fd)


def _checked(value: object, *, whole: bool) -> float:
    """`value` if it can be a count, or else seconds. Raises ValueError."""
    kinds = int if whole else (int, float)
    if isinstance(value, bool) or not isinstance(value, kinds) or not 0 <= value <= MOST:
        raise ValueError
    return value
