"""What a measure says: a row of the table in results.md, and whether it keeps its bar."""

from __future__ import annotations

from typing import NamedTuple


class Row(NamedTuple):
    """A line of the table.

    Attributes:
        what: What was measured.
        figure: What came of it, in words.
        bar: What it is to be, in words; "" if there is no bar.
        kept: Whether it is so.
    """

    what: str
    figure: str
    bar: str = ""
    kept: bool = True
