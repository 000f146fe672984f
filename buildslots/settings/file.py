"""A file with settings: read, checked, and complained about with file, line and key.

Loaded only where there is such a file, and `compiled` does not know it yet. Nothing in it is ever fatal to a
build: what is wrong is reported in one line, and left out.
"""

from __future__ import annotations

import os
import stat

from buildslots.errors import SHOWN, SettingError, without_password
from buildslots.settings.address import parse_url
from buildslots.settings.config import (
    KEYS,
    NUMBERS,
    OF_CONFIGS,
    OF_PROJECTS,
    OF_SERVERS,
    SWITCHES,
    WORDS,
    Config,
)
from buildslots.settings.lines import MOST_DOTS, key_lines, statements
from buildslots.settings.values import (
    DEFAULT_POOL,
    MAX_TIMEOUT_S,
    TOO_LONG,
    is_seconds,
    parse_pool,
    shown_number,
)
from buildslots.words import printable

TYPE_CHECKING = False
if TYPE_CHECKING:
    KeyPath = tuple[str, ...]

# A file with settings is a few lines. The limit is for what a path can lead to (a core dump, /dev/zero).
_BYTES = 16384

# Mistakes that are reported one by one: nobody reads 3,000 of them, and difflib, which looks for what was
# meant, takes its time for each.
_PROBLEMS = 10

YOURS = "it is yours, in your config file"
PUSHING = "it may ask for less of the machine, never for more"
UNBOUND = 'nothing would bound its builds then, unless on_timeout = "fail"'
OF_ONE = "it is of one pool, and belongs below a line [pools.NAME]"
ELSEWHERE = "a pool on a server is not for a project to name: its pool has a name, and you say where that is"
MORE = {"slots": PUSHING, "pools": PUSHING, "dir": PUSHING}
"""What a project may not say, though others may; and why not."""


def read(path: str, *, of_project: bool = False) -> tuple[Config, list[str], os.stat_result | None]:
    """Read the file at `path`, which is a project's, the user's or the system's.

    Returns:
        What it says; what is wrong with it, in lines that are fit for a terminal; and the facts about it, of
        before it was read. None in their place if the same file may be read otherwise another time.
    """
    problems: list[str] = []
    content, facts = _read_content(path, problems, of_project=of_project)
    config = Config()
    if content:
        try:
            config = _parsed_config(path, content, problems, of_project=of_project)
        except RecursionError as error:
            # Brackets nested a thousand deep; or the caller, who has called us from as deep.
            problems.append(f"{path}: {error}; the whole file is ignored")
            facts = None
    if len(problems) > _PROBLEMS:
        problems[_PROBLEMS:] = [f"{path}: {len(problems) - _PROBLEMS} more mistakes; ignored"]
    return config, [printable(problem) for problem in problems], facts


def _read_content(path: str, problems: list[str], *, of_project: bool) -> tuple[bytes, os.stat_result | None]:
    """Return the content of the file, nothing if there is none that counts, and its facts if it is a file."""
    # O_NONBLOCK: a FIFO in its place must not stop a build; it reads as empty. O_BINARY is Windows'.
    flags = os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0)
    problem = None
    try:
        descriptor = os.open(path, flags)
        try:
            facts = os.fstat(descriptor)
            content = b""
            if of_project:
                problem = _distrust(path, facts)
            while not problem and len(content) <= _BYTES and (block := os.read(descriptor, _BYTES + 1)):
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
    if len(content) > _BYTES:
        problem = f"is larger than {_BYTES // 1024} KiB"
    if problem:
        problems.append(f"{path}: {problem}; ignored")
        content = b""
    return content, facts if stat.S_ISREG(facts.st_mode) else None


def _distrust(path: str, facts: os.stat_result) -> str | None:
    """Why somebody else may have said what the project's file at `path` says; None if nobody else can.

    Raises OSError.
    """
    if not stat.S_ISREG(facts.st_mode):
        return "is no regular file"
    if not hasattr(os, "geteuid"):
        return None  # Windows: its access lists are not looked at
    if os.geteuid() == 0:
        return "root obeys no project"
    # The link's own owner, too: whoever made it has said which file of ours this is to be.
    for owner in (facts.st_uid, os.lstat(path).st_uid):
        if owner not in {os.geteuid(), 0}:
            return f"belongs to user {owner}, and neither to you nor to root"
    if facts.st_mode & stat.S_IWOTH or (facts.st_mode & stat.S_IWGRP and not _is_our_own(facts.st_gid)):
        return "others can write it (chmod go-w)"
    return None


def _is_our_own(gid: int) -> bool:
    """Whether the group is ours alone, and of our name, as systems make one for each user.

    There umask is 002, and what git checks out its group can write: pam_umask(8), "usergroups".
    """
    import grp  # noqa: PLC0415 - for files that a group can write
    import pwd  # noqa: PLC0415

    try:
        ours, group = pwd.getpwuid(os.geteuid()), grp.getgrgid(gid)
    except KeyError:
        return False
    return group.gr_name == ours.pw_name and gid == ours.pw_gid and set(group.gr_mem) <= {ours.pw_name}


def _parsed_config(path: str, content: bytes, problems: list[str], *, of_project: bool) -> Config:
    """Parse and check the content of the file."""
    import tomllib  # noqa: PLC0415 - it brings re, typing and more; only those who have a file pay

    try:
        # Without the mark that Windows editors put at the start; TOML does not know it.
        text = content.decode("utf-8").removeprefix("\ufeff")
        cut, crowded = statements(text)
        if crowded:
            problem = f", line {crowded}: more than {MOST_DOTS} dots outside comments and texts"
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
        checker = _Checker(printable(path), key_lines(cut), problems)
        return checker.check_project(document) if of_project else checker.check(document)
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
    """Goes through a parsed file, keeps what is right and names what is not."""

    __slots__ = ("config", "lines", "path", "problems")

    def __init__(self, path: str, lines: dict[KeyPath, int], problems: list[str]) -> None:
        self.path = path
        self.lines = lines
        self.problems = problems
        self.config = Config()

    def check(self, document: dict[str, object]) -> Config:
        """Check a whole document of the user or the system."""
        pools = document.pop("pools", {})
        document.pop("agents", None)  # whoever asks which commands are builds reads that: agents.heavy
        self._settings(document, (), "")
        if isinstance(pools, dict):
            for name, table in pools.items():
                self._pool(name, table)
        else:
            self._ignored(
                SettingError(self._source(("pools",)), _toml_text(pools), "is not a table of pools")
            )
        return self.config

    def check_project(self, document: dict[str, object]) -> Config:
        """Check a whole document of a project, which may ask for less of the machine, and never for more."""
        for key in [key for key in document if key in MORE or (key in KEYS and key not in OF_PROJECTS)]:
            del document[key]
            self._ignored(f"{self._source((key,))}: not for a project to say: {MORE.get(key, YOURS)}")
        pool = document.get("pool")
        if isinstance(pool, str) and "://" in pool:
            del document["pool"]
            self._ignored(f"{self._source(('pool',))}: {ELSEWHERE}")
        self._settings(document, (), "", OF_PROJECTS)
        said = self.config.said
        if said.get(("priority", ""), ("",))[0] == "high":
            source = said.pop(("priority", ""))[1]
            self._ignored(f"{source}: 'high' is not for a project to say: {PUSHING}")
        if said.get(("timeout", ""), (None,))[0] == 0 and said.get(("on_timeout", ""), ("",))[0] != "fail":
            source = said.pop(("timeout", ""))[1]
            self._ignored(f"{source}: 0 is not for a project to say: {UNBOUND}")
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

    def _settings(
        self, table: dict[str, object], above: KeyPath, pool: str, keys: tuple[str, ...] = OF_CONFIGS
    ) -> None:
        """Check one table; `pool` is "" for the root, whose number of slots is the default pool's."""
        for key, value in table.items():
            source = self._source((*above, key))
            if key not in keys:
                known = keys if above or keys is OF_PROJECTS else (*keys, "pools")
                hint = _hint(key, known) if len(self.problems) < _PROBLEMS else ""
                self._ignored(f"{source}: no such setting{hint}")
                continue
            if key in OF_SERVERS and not above:
                self._ignored(f"{source}: {OF_ONE}")
                continue
            # The root comes first, so that [pools.default] overwrites it.
            whose = DEFAULT_POOL if key == "slots" and not pool else pool
            try:
                self.config.said[key, whose] = _from_toml(key, value, source), source
            except SettingError as error:
                self._ignored(error)

    def _ignored(self, problem: object) -> None:
        self.problems.append(f"{problem}; ignored")

    def _source(self, key: KeyPath) -> str:
        """Return "FILE, line N, key a.b"; without the line if it was not found."""
        line = self.lines.get(key)
        return f"{self.path}{f', line {line}' if line else ''}, key {'.'.join(map(_toml_key, key))}"


def _hint(key: str, known: tuple[str, ...]) -> str:
    """Return ", perhaps 'slots'" for a key that is nearly one of those."""
    import difflib  # noqa: PLC0415 - only for a mistake

    close = difflib.get_close_matches(key, known, 1)
    return f", perhaps {close[0]!r}" if close else ""


def _from_toml(key: str, value: object, source: str) -> object:
    """Return the value of a key. Raises SettingError: it cannot have that."""
    parse, problem = KEYS[key]
    if key in NUMBERS:
        if not isinstance(value, int) or isinstance(value, bool):
            raise SettingError(source, _toml_text(value), problem)
        return parse(shown_number(value), source)
    if key in SWITCHES:
        if not isinstance(value, bool):
            raise SettingError(source, _toml_text(value), problem)
        return value
    if key == "timeout" and not isinstance(value, str):
        if is_seconds(value):
            return float(value)
        too_long = isinstance(value, (int, float)) and value > MAX_TIMEOUT_S
        raise SettingError(source, _toml_text(value), TOO_LONG if too_long else problem)
    text = value if key in WORDS else _as_text(value)
    if not isinstance(text, str):
        raise SettingError(source, _toml_text(value), problem)
    if key == "url":
        return str(parse_url(text, source))
    return parse(text, source)


def _as_text(value: object) -> object:
    """A number as the text that a gate's parser takes; a table of numbers as its list."""
    if isinstance(value, dict) and not any(isinstance(inner, (dict, list)) for inner in value.values()):
        return ",".join(f"{name}={_as_text(number)}" for name, number in value.items())
    if isinstance(value, (int, float)) and not isinstance(value, bool):
        return format(value, "f") if isinstance(value, float) else shown_number(value)
    return value


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
    key = without_password(key)  # somebody may have taken a URL for the name of a pool
    shown = key if len(key) <= SHOWN else key[: SHOWN - 3] + "..."
    return shown if bare.isascii() and bare.isalnum() else repr(shown)
