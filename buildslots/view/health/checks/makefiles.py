"""Makefiles of the current directory that say `-j` themselves, and so have jobs beside the tokens.

A make that is told `-jN` makes a jobserver of its own, whatever it has inherited ("resetting jobserver mode",
src/main.c of GNU make). On slot-run's command line that is taken care of; what a recipe says is out of reach.
"""

from __future__ import annotations

import os
import re
from stat import S_ISREG

from buildslots.files import NO_WAIT
from buildslots.shares import tokens_of
from buildslots.view.health.checks import NOTE, Finding, Subject, listed
from buildslots.words import prose, shown

NAMES = ("GNUmakefile", "makefile", "Makefile")
MOST_FILES, MOST_BYTES = 50, 1024 * 1024
"""So many files are read, and so much of each."""
MOST_SHOWN = 3
"""So many places are named; the others are counted."""
LINE_SHOWN = 60
"""Cells of a line in a sentence."""
JOBS = r"(?:-[a-zA-Z]*j(?! ?1\b) ?[\d$]*|--jobs(?:=(?!1\b)\S+)?)(?=[\s;&|()]|$)"
"""`-j8`, `-j`, `-kj8`, `--jobs=8`, `-j$(nproc)`; with one job a make stays within its own."""
RECIPE = re.compile(rf"^[^#]*?(?:\$[({{]MAKE[)}}]|\bg?make\b|\bninja\b)[^;&|#]*\s{JOBS}")
VARIABLE = re.compile(rf"^\s*(?:export\s+|override\s+)*(?:GNU)?MAKEFLAGS\s*[:+?]*=[^#]*?(?:^|[\s=]){JOBS}")


def makefiles(subject: Subject) -> list[Finding]:
    """The lines that start a make or a ninja with jobs of its own; nothing if tokens are off."""
    if not tokens_of(subject.settings)[0]:
        return []
    here = os.getcwd()
    names, _ = listed(here)
    wanted = [name for name in names if name in NAMES or name.endswith(".mk")][:MOST_FILES]
    places = [(name, *line) for name in wanted for line in _lines(f"{here}/{name}")]
    if not places:
        return []
    said = [f"{prose(name)} line {number}, `{_shown(text)}`" for name, number, text in places[:MOST_SHOWN]]
    more = f", and {len(places) - MOST_SHOWN} more" if len(places) > MOST_SHOWN else ""
    text = f"jobs that take no tokens, for `-j` gives a make a jobserver of its own: {'; '.join(said)}{more}"
    lines = [{"file": name, "line": number, "text": text} for name, number, text in places]
    return [Finding("makefiles", NOTE, text, {"lines": lines})]


def _lines(path: str) -> list[tuple[int, str]]:
    """The number and the text of each such line in the file at `path`; none of what is no file."""
    try:
        fd = os.open(path, os.O_RDONLY | NO_WAIT)
    except OSError:
        return []
    with open(fd, "rb") as file:
        if not S_ISREG(os.fstat(fd).st_mode):
            return []
        text = file.read(MOST_BYTES).decode(errors="replace")
    lines = enumerate(text.split("\n"), 1)
    return [(number, line.strip()) for number, line in lines if RECIPE.search(line) or VARIABLE.search(line)]


def _shown(line: str) -> str:
    return shown(line, LINE_SHOWN).replace("`", "'")
