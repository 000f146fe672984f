"""`buildslots`: the command that shows pools to people and to programs.

`main` is the entry point. It reads the command line (`options`) and imports the module of the subcommand,
which has a function `run`. Three packages hold the subcommands about pools. They do not import each other,
but for the metrics of `now`, which have counters of the `past`:

now     who holds slots and who waits, at this moment: `status`, once or with `--watch`
past    what the journal tells of builds that are over: `history`, `trace`, `report`
health  what is wrong with a pool, and what keeps its slots: `doctor`, `release`

The other subcommands stand beside `main`: `config`, `pools`, `help`, `completion`. So does what several of
them share: `output` (files that a view writes), `table` (plain text), `pools` (names), `usage` (the options
as data).
"""

from __future__ import annotations

import sys

from buildslots.words import LONGEST_WORD, SENTENCE_SHOWN, shown

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable


def warn(text: str) -> None:
    """Say one line on stderr."""
    sys.stderr.write(f"buildslots: {shown(text, SENTENCE_SHOWN)}\n")


def nearest(word: str, known: Iterable[str]) -> str:
    """Those of `known` that somebody may have meant who wrote `word`: "status, stats", or nothing."""
    import difflib  # noqa: PLC0415 - for mistakes only

    names = {name.lower(): name for name in known}
    lower = word.lower()[:LONGEST_WORD]
    near = [name for name in names if lower and lower in name]
    for cutoff in (0.75, 0.5):  # what is not very near is worth a word only where nothing is
        near = near or difflib.get_close_matches(lower, names, n=3, cutoff=cutoff)
    return ", ".join(names[name] for name in near[:3])
