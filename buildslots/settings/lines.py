"""On which line of a TOML text each key stands, for messages: the reader of TOML keeps no positions.

Loaded with `file`. It also refuses what that reader would take too long for.
"""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    KeyPath = tuple[str, ...]

# Dots in a line, outside comments and texts: our longest key has three. tomllib takes quadratic time over the
# parts of a key, and for each line below a [table] as much as its name has parts: 2 s for 16 KiB of "a.a.a".
MOST_DOTS = 16

# What tells where a statement of TOML ends, and whether a dot is one of a key. A text that is not closed goes
# to the end of its line, or of the file: the reader complains of it before it comes to what follows. Each
# alternative takes whatever stands behind its first characters, so that nothing is looked at twice.
_TOKENS = r"""
    (?P<text> \"{3} (?: [^"\\]+ | \\[\s\S]? | "{1,2}(?!") )* (?: "{3,5} )?
            | '{3} (?: [^']+ | '{1,2}(?!') )* (?: '{3,5} )?
            | " (?: [^"\\\n]+ | \\[^\n]? )* "?
            | ' [^'\n]* '? )
  | \#[^\n]*
  | (?P<mark> [.\n\[\]{}] )
"""


def statements(text: str) -> tuple[list[tuple[int, str]], int]:
    """Cut a TOML text into its statements, each with the number of its first line.

    Also returns the first line with more than `MOST_DOTS` dots, where it stops; 0 if there is none.
    """
    import re  # noqa: PLC0415 - tomllib's too

    found: list[tuple[int, str]] = []
    start = depth = dots = 0
    first = line = 1
    for token in re.finditer(_TOKENS, text, re.VERBOSE):
        mark = token["mark"]
        if mark == ".":
            dots += 1
            if dots > MOST_DOTS:
                return found, line
        elif mark == "\n":
            line += 1
            dots = 0
            if depth <= 0:  # less than 0 in what is no TOML
                found.append((first, text[start : token.end()]))
                start, first, depth = token.end(), line, 0
        elif mark:
            depth += 1 if mark in "[{" else -1
        elif token["text"]:
            line += token["text"].count("\n")
    found.append((first, text[start:]))
    return found, 0


def key_lines(cut: list[tuple[int, str]]) -> dict[KeyPath, int]:
    """Find the line on which each key and table of a valid TOML text starts, for messages only.

    The reader keeps no positions. So it reads each statement once more, alone, and the statement's keys are
    those of what it reads as. Keys in an inline table have the line on which the table starts.
    """
    import tomllib  # noqa: PLC0415 - as above

    lines: dict[KeyPath, int] = {}
    table: KeyPath = ()
    for line, text in cut:
        bare = text.strip()
        if not bare or bare.startswith("#"):
            continue
        try:
            paths = _paths(tomllib.loads(bare))
        except (ValueError, RecursionError):
            continue
        header = bare.startswith("[")
        for path in paths:
            lines.setdefault(path if header else table + path, line)
        if header:
            table = paths[-1]
    return lines


def _paths(value: object, depth: int = 3) -> list[KeyPath]:
    """Return the path of every key in nested tables, outer before inner, down to pools.NAME.KEY.

    Deeper keys are nobody's, and a file may have them a thousand deep.
    """
    if isinstance(value, list) and value:
        # [[a]] is an array with a table in it.
        value = value[0]
    if not isinstance(value, dict) or not depth:
        return []
    found: list[KeyPath] = []
    for key, inner in value.items():
        found.append((key,))
        found.extend((key, *rest) for rest in _paths(inner, depth - 1))
    return found
