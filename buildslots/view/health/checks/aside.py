"""What builds have put aside in a pool: it had the name of a file of the pool, and was not theirs."""

from __future__ import annotations

import os
from itertools import islice

from buildslots.files import ASIDE, ROOMS
from buildslots.view.health.checks import MOST_NAMES, NOTE, Finding, Subject
from buildslots.words import prose

NAMED = 3
"""At most so many are named; the others are counted."""


def aside(subject: Subject) -> list[Finding]:
    """Tell people to look at it: it may be somebody's file, so nothing else removes it."""
    found = sorted(name for room in ("", *ROOMS) for name in _in(subject.settings.dir, room))
    if not found:
        return []
    names = ", ".join(prose(name) for name in found[:NAMED])
    more = f" and {len(found) - NAMED} more" if len(found) > NAMED else ""
    text = (
        f"{names}{more} had the name of a file of the pool, and was put aside: look at it, and take it away"
    )
    return [Finding("leftovers", NOTE, text, {"aside": found[:MOST_NAMES]})]


def _in(pool: str, room: str) -> list[str]:
    try:
        with os.scandir(os.path.join(pool, room)) as entries:
            names = [entry.name for entry in islice(entries, MOST_NAMES)]
    except OSError:
        return []  # not made yet
    return [os.path.join(room, name) for name in names if name.startswith(ASIDE)]
