"""What people see of a batch: rows on a terminal, lines elsewhere."""

from __future__ import annotations

import os
import sys
from typing import TYPE_CHECKING

from buildslots.batch.speaker import Lines, to_stdout

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from buildslots.batch.rows import Rows


def for_people(
    total: int | None, *, command: str | None, places: Callable[[], Mapping[int, int]]
) -> Rows | Lines:
    """Rows, if stdout is a terminal on which they can be drawn; else lines.

    Args:
        total: How many tasks there are; None if nobody knows.
        command: What runs again what was not done; None if nothing does.
        places: Asks the machine's line: the places of the tasks that wait, by number.
    """
    if sys.stdout.isatty() and os.environ.get("TERM") != "dumb" and not os.environ.get("CI"):
        from buildslots.batch.rows import Rows  # noqa: PLC0415 - rich: 60 ms

        return Rows(total, command=command, places=places)
    return Lines(to_stdout, total, command=command)
