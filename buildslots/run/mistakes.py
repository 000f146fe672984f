"""What somebody may have meant whose command line slot-run cannot run; loaded only then.

Such command lines come from habits: of `flock -c`, of shells, which know words that are no programs, and of
`make`, whose options belong behind it. Each answer is the rest of a sentence that says what is wrong.
"""

from __future__ import annotations

import difflib
import re
import shlex

from buildslots.run.options import BY_NAME, UnknownOptionError
from buildslots.words import shell_word

OF_SH = """
. : alias bg break case cd command continue eval exec exit export fc fg for getopts hash if jobs local read
readonly return set shift times trap type ulimit umask unalias unset until wait while {
"""
"""Words of sh that are no programs (POSIX, "Shell Command Language"). Some systems do have programs of a few
of these names; then they are found."""
OF_BASH = "[[ builtin declare dirs disown function let popd pushd select shopt source time typeset"
"""Words of bash that sh need not know."""
SYNTAX = frozenset("&|;<>$`*?(){}")
"""What makes a line one that only a shell understands."""
ASSIGNMENT = re.compile(r"[A-Za-z_][A-Za-z0-9_]*=")
SIMILAR = 0.75
"""How similar an option has to be (`difflib`): `--time` is meant to be --timeout, `--verbose` not
--version."""


def about_command(command: list[str]) -> str:
    """What to write in place of `command`, whose program is not found: "; …", or "" if we cannot tell."""
    word, *rest = command
    is_several = len(word.split()) > 1
    if ASSIGNMENT.match(word) and (rest or not is_several):
        return _write("env sets variables", "env", *command)
    if word in (*OF_SH.split(), *OF_BASH.split()):
        shell = "bash" if word in OF_BASH.split() else "sh"
        return _write("that is a word of the shell, and no program", shell, "-c", shlex.join(command))
    if not is_several:
        return ""
    try:
        words = [] if SYNTAX.intersection(word) else shlex.split(word)
    except ValueError:  # a quotation mark without its other half
        words = []
    if not words:
        return _write("only a shell understands such a line", "sh", "-c", word, *rest)
    return about_command([*words, *rest]) or _write("without the quotes", *words, *rest)


def about_option(error: UnknownOptionError) -> str:
    """What to write in place of an option that slot-run does not have: "; …"."""
    similar = difflib.get_close_matches(error.name, BY_NAME, 1, SIMILAR) if error.name[:2] == "--" else []
    if error.name.swapcase() in BY_NAME:
        similar = [error.name.swapcase()]
    if similar:
        return f"; did you mean {similar[0]}?"
    if error.name == "-c" and error.rest:
        return _write("a shell reads such a line", "sh", "-c", *error.rest)
    reason = "options of the command belong behind it"
    if error.name != "-j":
        return f"; {reason}"
    jobs, rest = [error.written], error.rest
    if error.written == "-j" and rest and rest[0].isdecimal():
        jobs, rest = [*jobs, rest[0]], rest[1:]
    return _write(reason, *(rest or ["make"]), *jobs)


def _write(reason: str, *command: str) -> str:
    words = [shell_word(word) or "…" for word in command]
    return f"; {reason}: slot-run {' '.join(words)}"
