"""Variables whose names are nearly ours. They say nothing to us, though somebody meant them to.

Loaded only where the name of some variable looks like one of ours.
"""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable

NEAR = 2
"""So many letters may be wrong, missing, superfluous or exchanged with their neighbour."""


def nearest(name: str, known: Iterable[str]) -> str | None:
    """That of the `known` names for which `name` is most likely meant; None if it is near none."""
    distance, found = min((_distance(name, other), other) for other in known)
    return found if 0 < distance <= NEAR else None


def _distance(one: str, other: str) -> int:
    """How many such slips lead from one name to the other (optimal string alignment); 99 if far too many."""
    if abs(len(one) - len(other)) > NEAR:
        return 99
    above: list[int] = []
    row = list(range(len(other) + 1))
    for i, letter in enumerate(one, 1):
        above, before, row = row, above, [i]
        for j, its in enumerate(other, 1):
            row.append(min(above[j] + 1, row[j - 1] + 1, above[j - 1] + (letter != its)))
            if i > 1 and j > 1 and letter == other[j - 2] and one[i - 2] == its:
                row[j] = min(row[j], before[j - 2] + 1)
    return row[-1]
