"""Tables of Markdown."""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator


def line(cells: Iterable[str]) -> str:
    """One line of a table."""
    texts = [cell.replace("|", r"\|").replace("\n", " ") for cell in cells]
    return f"| {' | '.join(texts)} |"


def table(titles: list[str], body: Iterable[Iterable[str]]) -> Iterator[str]:
    """A table, and an empty line after it."""
    yield line(titles)
    yield "|" + " --- |" * len(titles)
    yield from map(line, body)
    yield ""
