"""Where `slot-run ` belongs in a line of shell commands that an agent is about to run.

`rewrite` reads the line as sh, bash and zsh agree to read it ("Shell Command Language" in POSIX.1-2024), and
runs and expands nothing of it. It knows simple commands that are joined by `&&`, `||`, `;`, `|`, `&` and
newlines; quotes, assignments, redirections, comments; `$x`, `${x}` and `$(nproc)` without quotes or brackets
in them. Whatever else it meets it does not guess at: the line stays as it is. So it is with subshells,
compound commands, functions, here-documents, arrays, backquotes and `$'…'`.

What it cannot see it takes for as usual: no alias or function of a build's name, and a PATH that keeps
slot-run. The lines that say otherwise themselves stay as they are too.
"""

from __future__ import annotations

import re
from itertools import pairwise
from typing import NamedTuple

from buildslots.wrappers import behind

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

SLOT_RUN = "slot-run"

RESERVED = frozenset(
    (
        *("if", "then", "elif", "else", "fi", "for", "foreach", "while", "until", "repeat", "do", "done"),
        *("case", "esac", "select", "function", "coproc", "{", "}", "[[", "end", "nocorrect", "alias"),
    )
)
"""First words of what is no simple command in one of the shells; and `alias`, which makes more of them."""
KEYWORDS = ("!", "time")
"""Reserved words, in one of the shells at least, with a command behind them: slot-run belongs behind them."""
OURS = ("command", "exec", "nohup", "setsid")
"""Behind these too: two are builtins; a waiting slot-run needs what `nohup` gives; `setsid` may not wait for
its command, so in front of it the slot would be free at once."""
SPOIL = ("PATH", "LD_PRELOAD", "PYTHONHOME")
"""With these set for a command, slot-run would not be found, or might not start."""
EXPORTS = ("export", "declare", "typeset", "local", "readonly")

_REDIRECTION = re.compile(r"[0-9]*(?:<<<|<<|<>|<&|<|>>|>\||>&|>)|&>>?")
_OPERATOR = re.compile(r"&&|\|\||\|&|[;&|\n]")
_PLAIN = re.compile(r"[^ \t\n'\"\\$`&|;()<>\0]+")
_PLAIN_IN_QUOTES = re.compile(r"[^\"\\$`\0]+")
_EXPANSION = re.compile(
    r"\$(?:[A-Za-z_][A-Za-z0-9_]*|[0-9@*#?$!-]|\{[A-Za-z0-9_@*#?!:=+./,%^ -]+\}"
    r"|\([A-Za-z0-9 _./:=+,@%$*?|&;>-]+\))"
)
_COMMENT = re.compile(r"#[^\n]*")
_ASSIGNMENT = re.compile(r"([A-Za-z_][A-Za-z0-9_]*)=")
_GAP = re.compile(r"(?:[ \t]|\\\n)+")
_EXPANDED = frozenset("*?[~{=")
"""With one of these outside quotes a word may not be the name that it looks like."""


class _UnclearError(Exception):
    """Something in the line makes all of it uncertain."""


class _Word(NamedTuple):
    """A word: where it begins, how it is written, what it is without quotes, and if nothing expands in it."""

    at: int
    raw: str
    text: str
    is_literal: bool


def rewrite(command: str, is_build: Callable[[Sequence[str]], bool]) -> list[int]:
    """Where `slot-run ` is to be inserted into `command`: offsets in characters, ascending.

    Before each simple command that is a build, and before the `timeout`, `nice`, `env` in front of it; but
    once at most in a pipeline: of two builds that wait for each other's data, one could wait for a slot that
    the other one has.

    Args:
        command: The line, or the lines, as the shell is to read them.
        is_build: Whether a command is a build, by its words without quotes; expansions stand in them as
            they are written.
    """
    try:
        places = [_place(pipeline, is_build) for pipeline in _pipelines(command)]
    except _UnclearError:
        return []
    return [place for place in places if place is not None]


def insert(command: str, places: Sequence[int]) -> str:
    """`command` with `slot-run ` at each of `places`."""
    return f"{SLOT_RUN} ".join(command[start:end] for start, end in pairwise([0, *places, len(command)]))


def _place(pipeline: list[list[_Word]], is_build: Callable[[Sequence[str]], bool]) -> int | None:
    """Where slot-run belongs in a pipeline, if anywhere."""
    places = [_place_in_command(words, is_build) for words in pipeline]
    for words in pipeline:
        if any(word.text.rpartition("/")[2] == SLOT_RUN for word in words):
            return None
    return next((place for place in places if place is not None), None)


def _place_in_command(words: list[_Word], is_build: Callable[[Sequence[str]], bool]) -> int | None:
    """Where slot-run belongs in a simple command, if anywhere.

    Raises:
        _UnclearError: It is none, or changes what the words after it mean.
    """
    program, is_spoilt = _program(words)
    if program == len(words):
        if is_spoilt:
            raise _UnclearError
        return None
    name = words[program].raw
    changes_path = any(_sets(word, ("PATH",)) for word in words[program + 1 :])
    if name in RESERVED or (name in EXPORTS and changes_path):
        raise _UnclearError
    inner = _inner(words[program:])
    if is_spoilt or not inner or not inner[0].is_literal:
        return None
    return words[program].at if is_build([word.text for word in inner]) else None


def _program(words: list[_Word]) -> tuple[int, bool]:
    """The index of the word that slot-run would stand before; whether an assignment spoils that."""
    index, is_spoilt = 0, False
    while index < len(words):
        word, after = words[index], words[index + 1 : index + 2]
        if _ASSIGNMENT.match(word.raw):
            is_spoilt = is_spoilt or _sets(word, SPOIL)
        elif word.raw == "time" and after and after[0].raw == "-p":
            index += 1
        elif word.raw not in KEYWORDS and (
            word.raw not in OURS or not after or after[0].text.startswith("-")
        ):
            break
        index += 1
    return index, is_spoilt


def _sets(word: _Word, names: tuple[str, ...]) -> bool:
    """Whether a word sets one of `names` to what has not the old value in it."""
    found = _ASSIGNMENT.match(word.raw)
    name = found[1] if found else ""
    return name in names and f"${name}" not in word.raw and f"${{{name}" not in word.raw


def _inner(words: list[_Word]) -> list[_Word] | None:
    """The command behind the wrappers that stand in front of it; None if their options are not clear."""
    while words and words[0].is_literal and (start := behind([word.text for word in words])) != 0:
        if start is None:
            return None
        words = words[start:]
    return words


def _pipelines(line: str) -> Iterator[list[list[_Word]]]:
    """The pipelines of the line, as the words of their commands; without redirections.

    Raises:
        _UnclearError: Something in the line makes all of it uncertain.
    """
    pipeline: list[list[_Word]] = []
    words: list[_Word] = []
    is_empty = True  # of a redirection, too
    at = 0
    while at < len(line):
        if (found := _GAP.match(line, at)) or (found := _COMMENT.match(line, at)):
            at = found.end()
        elif found := _REDIRECTION.match(line, at):
            if found[0].endswith("<<"):
                raise _UnclearError  # a here-document, or a here-string, which dash does not know
            gap = _GAP.match(line, found.end())
            _, at = _word(line, gap.end() if gap else found.end())
            is_empty = False
        elif found := _OPERATOR.match(line, at):
            at = found.end()
            if is_empty:
                if found[0] == "\n":
                    continue
                raise _UnclearError  # `;;`, or a mistake
            pipeline.append(words)
            words, is_empty = [], True
            if found[0] not in ("|", "|&"):
                yield pipeline
                pipeline = []
        else:
            word, at = _word(line, at)
            words.append(word)
            is_empty = False
    yield [*pipeline, words]


def _word(line: str, start: int) -> tuple[_Word, int]:
    """The word that begins at `start`, and where it ends.

    Raises:
        _UnclearError: None does, or there is something in it that makes the line uncertain.
    """
    text: list[str] = []
    is_literal, at = True, start
    while at < len(line) and line[at] not in " \t\n&|;()<>":
        if found := _PLAIN.match(line, at):
            text.append(found[0])
            is_literal = is_literal and _EXPANDED.isdisjoint(found[0])
            at = found.end()
        elif line[at] == "'":
            end = line.find("'", at + 1)
            if end < 0:
                raise _UnclearError
            text.append(line[at + 1 : end])
            at = end + 1
        elif line[at] == '"':
            at, is_plain = _quoted(line, at + 1, text)
            is_literal = is_literal and is_plain
        elif line[at] == "\\" and at + 1 < len(line):
            text.append(line[at + 1 : at + 2].replace("\n", ""))
            at += 2
        elif line[at] == "$":
            end = _expansion(line, at, in_quotes=False)
            text.append(line[at:end])
            is_literal, at = False, end
        else:
            raise _UnclearError  # a backquote, a NUL, or a backslash at the end
    if at == start:
        raise _UnclearError
    return _Word(start, line[start:at], "".join(text), is_literal), at


def _quoted(line: str, at: int, text: list[str]) -> tuple[int, bool]:
    """Add to `text` what double quotes hold, from `at` on: where they end, and if nothing expands in them."""
    is_literal = True
    while at < len(line):
        if found := _PLAIN_IN_QUOTES.match(line, at):
            text.append(found[0])
            at = found.end()
        elif line[at] == '"':
            return at + 1, is_literal
        elif line[at] == "\\" and at + 1 < len(line):
            after = line[at + 1]
            text.append("" if after == "\n" else after if after in '"$`\\' else f"\\{after}")
            at += 2
        elif line[at] == "$":
            end = _expansion(line, at, in_quotes=True)
            text.append(line[at:end])
            is_literal, at = False, end
        else:
            break
    raise _UnclearError


def _expansion(line: str, at: int, *, in_quotes: bool) -> int:
    """Where the expansion that begins at `at` ends."""
    if found := _EXPANSION.match(line, at):
        if "case" in found[0] and found[0][1] == "(":
            raise _UnclearError  # the bracket may be one of a pattern
        return found.end()
    after = line[at + 1 : at + 2]
    is_quote = after in ("'", '"') and not in_quotes
    if is_quote or after in ("(", "{", "[", "`") or line.startswith("\\\n", at + 1):
        raise _UnclearError
    return at + 1
