"""Who runs below a slot on a server: by the marks in its environment, or in that of the processes above it.

Loaded only by who has such a mark, or has to wait.
"""

from __future__ import annotations

import os
import time

from buildslots.errors import PoolUnreachableError
from buildslots.files import close
from buildslots.fleet.connection import Connection, run
from buildslots.fleet.known import MARK
from buildslots.fleet.script import Script
from buildslots.fleet.task import within
from buildslots.processes import boot_id, identity, lineage, number

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator

    from buildslots.settings.address import Address

HELD = b"BUILD_SLOTS_HELD="
MOST_BYTES, MOST_MARKS, MOST_WORDS = 2**20, 64, 4096
"""Of a process's environment, of the marks in it, and of its arguments, that are looked at."""
LONGEST = 50
"""Characters of a build's id: 128 bits in hex, and a weight."""
ASK_S = 1.0
"""How long to ask whether a build holds its slots."""


def build_of(nonce: str, address: Address) -> str | None:
    """The build whose slots of the pool at `address` are marked by `nonce`; None if it is no such mark."""
    begin, *parts = nonce.split(MARK)
    if begin or len(parts) != 2 or parts[1] != address.name or len(parts[0]) > LONGEST:
        return None
    digits, _, weight = parts[0].partition(".")
    is_id = weight.isascii() and weight.isdecimal() and digits.strip("0123456789abcdef") == ""
    return parts[0] if is_id and digits else None


def is_held(address: Address, build: str) -> bool:
    """Whether `build` holds slots of the pool at `address`.

    True if nobody can tell. Whoever has its mark runs below it, and goes on in any case: there is nothing to
    be gained by a wait for slots that are most likely its own.
    """
    connection = Connection(address)
    try:
        return run(within(Script(connection, address.name).holds(build), time.monotonic() + ASK_S))
    except (PoolUnreachableError, TimeoutError):
        return True
    finally:
        connection.close()


def mark_above(address: Address) -> str | None:
    """The mark of the slots of the pool at `address` below which this process runs, whatever it was told.

    slot-run puts the mark into the environment of its command, and what a program was started with can be
    read later, too: proc_pid_environ(5). Where nothing but a slot-run has kept it, as below `slot-run env
    -i`, the server knows whose slots these are. Only of one's own processes, and on Linux. None if there is
    no such mark.
    """
    above = lineage()
    for pid in above:
        for mark in _marks(pid):
            build = build_of(mark.partition(":")[2], address)
            if build is not None and is_held(address, build):
                return mark
    above.pop(os.getpid(), None)
    return _mark_of(address, above) if any(map(_is_slot_run, above)) else None


def _mark_of(address: Address, above: dict[int, int]) -> str | None:
    """The mark of slots of which the server says that a slot-run has them that is one of `above`."""
    import json  # noqa: PLC0415 - 7 ms, and few have a slot-run above them and no mark

    connection = Connection(address)
    try:
        status = run(within(Script(connection, address.name).status(), time.monotonic() + ASK_S))
    except (PoolUnreachableError, TimeoutError):
        return None
    finally:
        connection.close()
    for holder in status.holders:
        try:
            about = json.loads(holder.info)
        except (ValueError, RecursionError):
            continue
        if not isinstance(about, dict) or "child" not in about or about.get("boot") != boot_id():
            continue
        pid = number(str(about.get("pid")))
        is_here = about.get("pidns") == identity().get("pidns")
        if is_here and pid is not None and str(above.get(pid)) == about.get("start"):
            return f"{(holder.numbers or (0,))[0]}:{MARK}{holder.id}{MARK}{address.name}"
    return None


def _is_slot_run(pid: int) -> bool:
    """Whether process `pid` is a slot-run, by its arguments: an interpreter, perhaps an option, and that."""
    words = _read(f"/proc/{pid}/cmdline", MOST_WORDS).split(b"\0")
    return any(word.rpartition(b"/")[2] == b"slot-run" for word in words[:3])


def _marks(pid: int) -> Iterator[str]:
    """What process `pid` was started with, the innermost first."""
    for entry in _read(f"/proc/{pid}/environ", MOST_BYTES).split(b"\0"):
        if entry.startswith(HELD):
            marks = os.fsdecode(entry[len(HELD) :]).split(",")[-MOST_MARKS:]
            yield from (mark for mark in reversed(marks) if mark.partition(":")[0].isdecimal())


def _read(path: str, most: int) -> bytes:
    """What the file at `path` begins with; nothing if it cannot be read."""
    text = b""
    try:
        fd = os.open(path, os.O_RDONLY)
        try:
            while len(text) < most and (more := os.read(fd, min(most, 1 << 16))):
                text += more
        finally:
            close(fd)
    except OSError:
        pass
    return text
