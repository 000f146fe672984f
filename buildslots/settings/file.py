"""The user's config file: read, checked, and complained about with file, line and key.

Loaded only where there is such a file, and `compiled` does not know it yet. Nothing in it is ever fatal to a
build: what is wrong is reported in one line, and left out.
"""

from __future__ import annotations

import os
import stat

from buildslots.errors import SHOWN, SettingError
from buildslots.settings.values import (
    DEFAULT_POOL,
    GATES,
    MAX_SLOTS,
    MAX_TIMEOUT_S,
    NOT_A_DURATION,
    NOT_JOURNAL,
    NOT_ON_TIMEOUT,
    NOT_SLOTS,
    TOO_LONG,
    TOO_MANY_SLOTS,
    Config,
    is_seconds,
    parse_duration,
    parse_journal,
    parse_on_timeout,
    parse_pool,
    shown_number,
)
from buildslots.words import printable

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import TypeVar

    T = TypeVar("T")
    KeyPath = tuple[str, ...]

# A config file is a few lines. The limit is for what a path can lead to (a core dump, /dev/zero).
_CONFIG_BYTES = 16384

# Dots in a line, outside comments and texts: our longest key has three. tomllib takes quadratic time over the
# parts of a key, and for each line below a [table] as much as its name has parts: 2 s for 16 KiB of "a.a.a".
_DOTS = 16

# Mistakes that are reported one by one: nobody reads 3,000 of them, and difflib, which looks for what was
# meant, takes its time for each.
_PROBLEMS = 10

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


def read(path: str) -> tuple[Config, list[str], os.stat_result | None]:
    """Read the config file at `path`.

    Returns:
        What it says; what is wrong with it, in lines that are fit for a terminal; and the facts about it, of
        before it was read. None in their place if the same file may be read otherwise another time.
    """
    problems: list[str] = []
    content, facts = _read_config(path, problems)
    config = Config()
    if content:
        try:
            config = _parsed_config(path, content, problems)
        except RecursionError as error:
            # Brackets nested a thousand deep; or the caller, who has called us from as deep.
            problems.append(f"{path}: {error}; the whole file is ignored")
            facts = None
    if len(problems) > _PROBLEMS:
        problems[_PROBLEMS:] = [f"{path}: {len(problems) - _PROBLEMS} more mistakes; ignored"]
    return config, [printable(problem) for problem in problems], facts


def _read_config(path: str, problems: list[str]) -> tuple[bytes, os.stat_result | None]:
    """Return the content of the config file, nothing if there is none, and its facts if it is a file."""
    # O_NONBLOCK: a FIFO in its place must not stop a build; it reads as empty. O_BINARY is Windows'.
    flags = os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0)
    try:
        descriptor = os.open(path, flags)
        try:
            facts = os.fstat(descriptor)
            content = b""
            while len(content) <= _CONFIG_BYTES and (block := os.read(descriptor, _CONFIG_BYTES + 1)):
                content += block
        finally:
            os.close(descriptor)
    except (FileNotFoundError, NotADirectoryError):
        return b"", None
    except OSError as error:
        problems.append(f"{path}: cannot be read: {error.strerror}; ignored")
        return b"", None
    except ValueError as error:
        # A path with a character that the locale cannot encode.
        problems.append(f"{path!a}: cannot be read: {error}; ignored")
        return b"", None
    if len(content) > _CONFIG_BYTES:
        problems.append(f"{path}: is larger than {_CONFIG_BYTES // 1024} KiB; ignored")
        content = b""
    return content, facts if stat.S_ISREG(facts.st_mode) else None


def _parsed_config(path: str, content: bytes, problems: list[str]) -> Config:
    """Parse and check the content of the config file."""
    import tomllib  # noqa: PLC0415 - it brings re, typing and more; only those who have a file pay

    try:
        # Without the mark that Windows editors put at the start; TOML does not know it.
        text = content.decode("utf-8").removeprefix("\ufeff")
        statements, crowded = _statements(text)
        if crowded:
            problem = f", line {crowded}: more than {_DOTS} dots outside comments and texts"
            problems.append(f"{path}{problem}; the whole file is ignored")
            return Config()
        document = tomllib.loads(text)
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        problem = f", line {line}: byte 0x{content[error.start]:02x} is not UTF-8"
    except tomllib.TOMLDecodeError as error:
        problem = _toml_problem(str(error), text)
    except ValueError as error:
        # A number of 5000 digits: the reader lets this through from below.
        problem = f": {error}"
    else:
        return _Checker(printable(path), _key_lines(statements), problems).check(document)
    problems.append(f"{path}{problem}; the whole file is ignored")
    return Config()


def _toml_problem(message: str, text: str) -> str:
    """Turn "Invalid value (at line 3, column 5)" into ", line 3: Invalid value (column 5)"."""
    problem, _, place = message.rstrip(")").rpartition(" (at ")
    line, _, column = place.removeprefix("line ").partition(", ")
    if line.isdigit():
        return f", line {line}: {problem} ({column})"
    return f", line {text.rstrip().count(chr(10)) + 1}: {problem or message} (at the end)"


class _Checker:
    """Goes through a parsed config file, keeps what is right and names what is not."""

    __slots__ = ("config", "lines", "path", "problems")

    def __init__(self, path: str, lines: dict[KeyPath, int], problems: list[str]) -> None:
        self.path = path
        self.lines = lines
        self.problems = problems
        self.config = Config()

    def check(self, document: dict[str, object]) -> Config:
        """Check a whole document."""
        pools = document.pop("pools", {})
        self._settings(document, (), "")
        if isinstance(pools, dict):
            for name, table in pools.items():
                self._pool(name, table)
        else:
            self._ignored(
                SettingError(self._source(("pools",)), _toml_text(pools), "is not a table of pools")
            )
        return self.config

    def _pool(self, name: str, table: object) -> None:
        source = self._source(("pools", name))
        try:
            parse_pool(name, source)
            if not isinstance(table, dict):
                raise SettingError(source, _toml_text(table), "is not a table")  # noqa: TRY301 - reported below
        except SettingError as error:
            self._ignored(error)
        else:
            self._settings(table, ("pools", name), name)

    def _settings(self, table: dict[str, object], above: KeyPath, pool: str) -> None:
        """Check one table; `pool` is "" for the root, whose number of slots is the default pool's."""
        for key, value in table.items():
            source = self._source((*above, key))
            try:
                if key == "slots":
                    # The root comes first, so that [pools.default] overwrites it.
                    self.config.slots[pool or DEFAULT_POOL] = (_slots_from_toml(value, source), source)
                elif key == "timeout":
                    self.config.timeout_s[pool] = (_timeout_from_toml(value, source), source)
                elif key == "on_timeout":
                    word = _word_from_toml(value, source, parse_on_timeout, NOT_ON_TIMEOUT)
                    self.config.on_timeout[pool] = (word, source)
                elif key == "journal":
                    word = _word_from_toml(value, source, parse_journal, NOT_JOURNAL)
                    self.config.journal[pool] = (word, source)
                elif key in GATES:
                    parse, problem = GATES[key]
                    gate = _word_from_toml(_as_text(value), source, parse, problem)
                    self.config.gates.setdefault(pool, {})[key] = gate
                else:
                    hint = _hint(key, root=not above) if len(self.problems) < _PROBLEMS else ""
                    self._ignored(f"{source}: no such setting{hint}")
            except SettingError as error:
                self._ignored(error)

    def _ignored(self, problem: object) -> None:
        self.problems.append(f"{problem}; ignored")

    def _source(self, key: KeyPath) -> str:
        """Return "FILE, line N, key a.b"; without the line if it was not found."""
        line = self.lines.get(key)
        return f"{self.path}{f', line {line}' if line else ''}, key {'.'.join(map(_toml_key, key))}"


def _hint(key: str, *, root: bool) -> str:
    """Return ", perhaps 'slots'" for a key that is nearly one of ours."""
    import difflib  # noqa: PLC0415 - only for a mistake

    known = ["slots", "timeout", "on_timeout", "journal", *GATES, *(["pools"] if root else [])]
    close = difflib.get_close_matches(key, known, 1)
    return f", perhaps {close[0]!r}" if close else ""


def _slots_from_toml(value: object, source: str) -> int:
    if not isinstance(value, int) or isinstance(value, bool) or value < 1:
        raise SettingError(source, _toml_text(value), NOT_SLOTS)
    if value > MAX_SLOTS:
        raise SettingError(source, _toml_text(value), TOO_MANY_SLOTS)
    return value


def _timeout_from_toml(value: object, source: str) -> float | None:
    if isinstance(value, str):
        return parse_duration(value, source)
    if is_seconds(value):
        return float(value)
    too_long = isinstance(value, (int, float)) and value > MAX_TIMEOUT_S
    raise SettingError(source, _toml_text(value), TOO_LONG if too_long else NOT_A_DURATION)


def _as_text(value: object) -> object:
    """A number as the text that a gate's parser takes; a table of numbers as its list."""
    if isinstance(value, dict) and not any(isinstance(inner, (dict, list)) for inner in value.values()):
        return ",".join(f"{name}={_as_text(number)}" for name, number in value.items())
    if isinstance(value, (int, float)) and not isinstance(value, bool):
        return format(value, "f") if isinstance(value, float) else shown_number(value)
    return value


def _word_from_toml(value: object, source: str, parse: Callable[[str, str], T], problem: str) -> T:
    if isinstance(value, str):
        return parse(value, source)
    raise SettingError(source, _toml_text(value), problem)


def _toml_text(value: object) -> str:
    """Show a TOML value about as it is written, tables and arrays without what is in them."""
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, int):
        return shown_number(value)
    if isinstance(value, dict):
        return "{...}"
    if isinstance(value, list):
        return "[...]"
    # A text that is a number without its quotes keeps them: they are the mistake.
    return f'"{value}"' if isinstance(value, str) and value.isdigit() else str(value)


def _toml_key(key: str) -> str:
    """Show one part of a key as it is written: bare, or quoted if it has to be, and always in one line."""
    bare = key.replace("_", "0").replace("-", "0")
    shown = key if len(key) <= SHOWN else key[: SHOWN - 3] + "..."
    return shown if bare.isascii() and bare.isalnum() else repr(shown)


def _statements(text: str) -> tuple[list[tuple[int, str]], int]:
    """Cut a TOML text into its statements, each with the number of its first line.

    Also returns the first line with more than `_DOTS` dots, where it stops; 0 if there is none.
    """
    import re  # noqa: PLC0415 - tomllib's too

    found: list[tuple[int, str]] = []
    start = depth = dots = 0
    first = line = 1
    for token in re.finditer(_TOKENS, text, re.VERBOSE):
        mark = token["mark"]
        if mark == ".":
            dots += 1
            if dots > _DOTS:
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


def _key_lines(statements: list[tuple[int, str]]) -> dict[KeyPath, int]:
    """Find the line on which each key and table of a valid TOML text starts, for messages only.

    The reader keeps no positions. So it reads each statement once more, alone, and the statement's keys are
    those of what it reads as. Keys in an inline table have the line on which the table starts.
    """
    import tomllib  # noqa: PLC0415 - as above

    lines: dict[KeyPath, int] = {}
    table: KeyPath = ()
    for line, text in statements:
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
