"""Who stands behind whom, where somebody in line has a number that is yet to come.

That is so where builds of a lower priority wait, or where a clock was ahead. Nobody else loads this.
"""

from __future__ import annotations

from buildslots.disk import records

MOST_READ = 64
"""So many records of those who stand further back are read at an arrival."""


def last_equal(directory: str, names: list[str], number: int, record: bytes) -> int:
    """The last number in line, of `names`, of those that have the priority of an arrival with `number`.

    Their clock may have been ahead. Those of a lower priority stand further back with good reason. So may one
    without a record, which was killed before it had one, or is about to write it: nobody goes behind that.
    Whoever did would stand among those of a lower priority, and all that come later would go behind it.
    """
    ours = records.parse(record) or {}
    for count, name in enumerate(reversed(names)):
        if _number_of(name) < number or count == MOST_READ:
            break
        its = records.read(f"{directory}/queue/{name}")
        if its is not None and its.get("priority") == ours.get("priority"):
            return _number_of(name)
    return 0


def _number_of(name: str) -> int:
    return int(name.partition("-")[0])
