"""What those who hold slots are to this process: a build above it, itself, or others.

Relies on the records for who holds a slot, and on the process tree for who is above us. Loaded only by a
process that has to wait.
"""

from __future__ import annotations

import os
import time

from buildslots.backend import Kin
from buildslots.disk import records
from buildslots.files import is_shared
from buildslots.processes import has_open, is_local, lineage

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable

    from buildslots.disk.seen import Seen

STARTING_S = 1.0
"""So long after a slot was taken its slot-run may not have said yet which command it runs."""
MANY, LOOK_S = 64, 0.01
"""So many slots are looked at in any case, more only for so long."""


def kin_of(directory: str, held: Iterable[Seen]) -> Kin:
    """What those who hold the slots `held` of the pool `directory`, ascending, are to this process."""
    above = lineage()
    depths = {pid: depth for depth, pid in enumerate(above)}
    this, *parents = map(str, above or [os.getpid()])
    marks: dict[int, str] = {}
    count = strangers = 0
    may_start = False
    until = time.monotonic() + LOOK_S
    for count, seen in enumerate(held, 1):
        if count > MANY and time.monotonic() > until:  # which somebody holds on purpose
            strangers += 1
            break
        record = None if seen.is_foreign else seen.record
        if record is None or not is_local(record):
            strangers += 1
            continue
        if record.get("pid") not in (this, *parents):
            strangers += 1
        elif record.get("child") == "?" and record["pid"] in parents:
            may_start = may_start or (records.age_s(record) or 0.0) < STARTING_S
        command = _command_above(record, above)
        if command is not None and _is_told_truly(directory, seen.number, above):
            marks.setdefault(depths[command], f"{seen.number}:{seen.nonce}")
    mark = marks[min(marks)] if marks else None
    return Kin(mark, is_own=bool(count) and not strangers, may_start=may_start)


def _command_above(record: dict[str, str], above: dict[int, int]) -> int | None:
    """The process of the command that runs under a slot, if it is ourselves or is `above` us.

    Only slot-run and batches say which that is. A program that takes a slot by itself may start processes for
    other builds as well; its children are nested by `Slot.environ()`.
    """
    child, _, start = record.get("child", "").partition(" ")
    return next((pid for pid, began in above.items() if (child, start) == (str(pid), str(began))), None)


def _is_told_truly(directory: str, number: int, above: dict[int, int]) -> bool:
    """Whether somebody `above` us has slot `number`, as its record says.

    In our own pool nobody else writes records. In a group's pool each member can, and can hold the slot that
    goes with it: there the system has to say that somebody above us has the slot's file open.
    """
    return not is_shared(directory) or any(has_open(pid, f"{directory}/slot-{number}") for pid in above)
