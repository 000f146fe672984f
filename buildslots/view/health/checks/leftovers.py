"""What killed processes have left in a pool."""

from __future__ import annotations

import os
import stat
import time

from buildslots.disk import line, records
from buildslots.disk.lock import locked
from buildslots.files import ROOMS
from buildslots.view.health.checks import NOTE, OK, Finding, Subject, listed

SETTLED_S = 10.0
"""A younger file may belong to a build that comes or goes at this moment."""
MOST_DIGITS = 9


def leftovers(subject: Subject) -> list[Finding]:
    """Count what killed processes left behind. The next build removes it; a look must change nothing."""
    path, status = subject.settings.dir, subject.status
    if status is None:
        return [Finding("leftovers", OK, "no pool yet, so nothing left in it")]
    held = {holder.slot for holder in status.holders}
    found = {room: listed(f"{path}/{room}") for room in ROOMS}
    tickets = [
        name
        for name in found["queue"][0]
        if _is_ticket(name)
        and _settled(f"{path}/queue/{name}", stat.S_IFREG)
        and not locked(f"{path}/queue/{name}")
    ]
    bells = [name for name in found["bells"][0] if _ownerless(path, name)]
    kept = [name for name in found["holders"][0] if _outlived(path, name, held)]
    counts = {"tickets": len(tickets), "bells": len(bells), "records": len(kept)}
    crowded = [room for room in ROOMS if found[room][1]]
    details = {**counts, **({"crowded": crowded} if crowded else {})}
    if not any(counts.values()):
        return [Finding("leftovers", OK, "nothing is left of dead processes", details)]
    words = ", ".join(
        f"{count} {kind if count > 1 else kind[:-1]}" for kind, count in counts.items() if count
    )
    more = " and more" if crowded else ""
    text = (
        f"killed processes left {words}{more}: "
        "harmless, and the next build that comes across them removes them"
    )
    return [Finding("leftovers", NOTE, text, details)]


def _is_ticket(name: str) -> bool:
    return len(name) > line.NUMBER_DIGITS and name[: line.NUMBER_DIGITS].isdecimal()


def _ownerless(path: str, name: str) -> bool:
    """Whether the bell `name` belongs to a ticket that no longer exists."""
    bell = f"{path}/bells/{name}"
    if name.startswith("slot-") or os.path.lexists(f"{path}/queue/{name}"):
        return False
    return _settled(bell, stat.S_IFIFO)


def _outlived(path: str, name: str, held: set[int]) -> bool:
    """Whether the file `name` still has the record of a holder although nobody holds its slot."""
    digits = name.removeprefix("slot-")
    if not digits.isdecimal() or len(digits) > MOST_DIGITS or int(digits) in held:
        return False
    record = records.read(f"{path}/holders/{name}")
    return record is not None and (records.age_s(record) or 0.0) > SETTLED_S


def _settled(path: str, kind: int) -> bool:
    """Whether the file is of that kind, and too old to belong to a build that comes or goes right now."""
    try:
        file = os.lstat(path)
    except OSError:
        return False  # gone
    return stat.S_IFMT(file.st_mode) == kind and time.time() - file.st_mtime > SETTLED_S
