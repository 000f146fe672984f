"""What is seen of CPU tokens: how many there are, who says so, and what each build has of them.

Looking makes nothing, locks nothing, and believes no more than numbers: records are hints (`tokens.builds`).
"""

from __future__ import annotations

import os
import sys
from dataclasses import dataclass
from itertools import islice
from stat import S_ISREG

from buildslots.disk.taking import rules_of
from buildslots.files import PLAIN, close
from buildslots.processes import is_local, number
from buildslots.settings import auto_tokens
from buildslots.words import NAME_SHOWN, shown

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from buildslots.settings import Settings

MOST_BYTES = 4096
"""Of a record."""


@dataclass(frozen=True, slots=True, weakref_slot=True)
class BuildTokens:
    """What one build has of the CPU tokens.

    >>> SlotPool().status().holders
    ()

    Attributes:
        held: How many tokens it has: jobs that it may run beyond its first one.
        most: How many it may have at once; of a build with -j4 three.
        wants_more: Whether it has looked for one more in vain.
        not_in_use: Why the program that it runs takes none, such as "ninja 1.11.1"; None if it does.
    """

    held: int
    most: int
    wants_more: bool
    not_in_use: str | None


@dataclass(frozen=True, slots=True, weakref_slot=True)
class PoolTokens:
    """The CPU tokens of the machine, as a pool's builds use them.

    >>> SlotPool().status().tokens is None
    True

    Attributes:
        count: C, for who asks; None if his builds take none.
        source: Who says so.
        held: How many builds of this machine have, of all its pools.
        builds: How many builds share them.
    """

    count: int | None
    source: str
    held: int
    builds: int


def tokens_of(settings: Settings) -> tuple[int | None, str]:
    """C as it counts for `settings`, None for none, and who says so: the pool, or else who does in there."""
    own, source = settings.tokens, settings.source("tokens")
    rules = rules_of(settings.dir)
    if rules is None or rules.tokens is None:
        return own, source
    count = rules.tokens_of(own, auto_tokens()[0], is_own=source != "default")
    return count, source if source != "default" and count == own else "the pool"


def served(settings: Settings) -> tuple[int, set[int]]:
    """How many tokens the builds that live have by their own word, and the processes that got them."""
    if sys.platform != "linux":
        return 0, set()
    from buildslots.tokens.builds import ROOM  # noqa: PLC0415 - Linux only
    from buildslots.tokens.service import stock_dir  # noqa: PLC0415

    records = [(record, _build(record)) for record in _records(f"{stock_dir(settings)}/{ROOM}")]
    pids = {number(record.get("pid")) or 0 for record, _ in records if is_local(record)}
    return sum(its.held for _, its in records if its is not None), pids


def look(settings: Settings) -> tuple[PoolTokens | None, dict[str, BuildTokens]]:
    """The tokens of the machine, None if nobody uses any; and what builds have of them.

    These are found by the nonce of their slot's holding, and if their record says none by `PID START`.
    """
    count, source = tokens_of(settings)
    if sys.platform != "linux":
        return None, {}
    try:
        from buildslots.tokens.builds import ROOM  # noqa: PLC0415 - Linux only
        from buildslots.tokens.service import stock_dir  # noqa: PLC0415
        from buildslots.tokens.stock import STOCK  # noqa: PLC0415
    except (ImportError, OSError):
        return None, {}  # an upgrade has removed them, or no descriptor is left

    directory = stock_dir(settings)
    records = [(record, _build(record)) for record in _records(f"{directory}/{ROOM}")]
    builds = {key: its for record, its in records if its is not None and (key := _key(record))}
    held = _held(f"{directory}/{STOCK}")
    if count is None and not records and not held:
        return None, {}
    return PoolTokens(count, source, held, sum(its is not None for _, its in records)), builds


def found(record: Mapping[str, str], tokens: Mapping[str, BuildTokens]) -> BuildTokens | None:
    """What the build has whose slot has that record; None if it has no part in `tokens`."""
    process = f"{record.get('pid')} {record.get('start')}"
    return tokens.get(record.get("nonce", "")) or tokens.get(process)


def _key(record: dict[str, str]) -> str | None:
    """By what the slot of that build is found; None if it cannot be found from here."""
    process = f"{record.get('pid')} {record.get('start')}"
    return record.get("nonce") or (process if is_local(record) else None)


def _records(room: str) -> Iterator[dict[str, str]]:
    """The records of those builds that live."""
    from buildslots.tokens.builds import MAGIC, MOST  # noqa: PLC0415
    from buildslots.tokens.locks import is_locked  # noqa: PLC0415

    try:
        with os.scandir(room) as entries:
            names = [entry.path for entry in islice(entries, 2 * MOST) if "." not in entry.name]
    except OSError:
        return
    for path in names:
        try:
            fd = os.open(path, os.O_RDONLY | PLAIN)
        except OSError:
            continue  # gone, or another user's
        try:
            text = os.read(fd, MOST_BYTES) if S_ISREG(os.fstat(fd).st_mode) else b""
            lives = text.startswith(MAGIC) and is_locked(fd, 0)
        except OSError:
            continue
        finally:
            close(fd)
        lines = text.decode(errors="replace").partition("\nend\n")[0].split("\n")[1:]
        if lives:
            yield {name: value for name, _, value in (line.partition(" ") for line in lines)}


def _build(record: dict[str, str]) -> BuildTokens | None:
    """What a record says; None if it is no such record."""
    numbers = record.get("state", "").split()
    if len(numbers) != 4 or not all(
        each.isascii() and each.isdecimal() and len(each) < 12 for each in numbers
    ):
        return None
    _, held, most, hungry = map(int, numbers)
    why = record.get("unserved")
    return BuildTokens(held, most, bool(hungry), None if why is None else shown(why, NAME_SHOWN))


def _held(path: str) -> int:
    """How many locks there are in the file at `path`: a byte each (proc_locks(5)).

    Whoever asks by fcntl(2) has to know how many bytes there may be.
    """
    try:
        inode = os.stat(path).st_ino
        with open("/proc/locks", encoding="ascii") as locks:
            lines = [line.split() for line in locks]
    except OSError:
        return 0
    ranges = [
        (int(words[6]), words[7])
        for words in lines
        if words[1:4] == ["OFDLCK", "ADVISORY", "WRITE"] and words[5].endswith(f":{inode}")
    ]
    return sum(1 if last == "EOF" else int(last) - first + 1 for first, last in ranges)
