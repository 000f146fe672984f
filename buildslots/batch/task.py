"""A task of a batch: what its keys mean, and what reads them from TOML, from JSON and from Python.

Whoever writes a plan reads what is wrong with it here, in a sentence for each mistake, before anything
starts.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, NoReturn, TypeAlias

from buildslots.errors import SettingError, without_password
from buildslots.processes import here
from buildslots.settings.options import parse_where
from buildslots.settings.values import (
    MAX_SLOTS,
    MAX_TIMEOUT_S,
    UNSET,
    parse_duration,
    parse_on_timeout,
    parse_priority,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from buildslots.settings.values import Timeout

SHELL = ("cmd", "/c") if os.name == "nt" else ("/bin/sh", "-c")
"""What runs a command that is a string, and not a list of arguments."""
MOST_RETRIES = 1000
NAME_LENGTH = 200
"""Characters of a task's name; a longer argument of stdin is cut for its name."""
VALUE_SHOWN = 60
"""Characters of a bad value that a sentence shows."""


@dataclass(frozen=True, slots=True)
class Call:
    """A Python function, or coroutine function, and what it is called with."""

    function: Callable[..., Any]
    args: tuple[Any, ...] = ()

    def __str__(self) -> str:
        return f"{getattr(self.function, '__qualname__', repr(self.function))}()"


Action: TypeAlias = tuple[str, ...] | Call
"""What a task runs: the arguments of a command, or a call."""


@dataclass(frozen=True, slots=True)
class Task:
    """One task, checked: see `buildslots help batch` for its keys. Durations are in seconds.

    Attributes:
        pool: Name of the pool; None for the default one, "" for none: only the batch's jobs bound it then.
        retry_on: Exit statuses, "timeout", regular expressions for its stderr, and classes of exceptions;
            empty for any failure.
        pause_on: For how long an exit status keeps the batch from starting anything.
    """

    name: str
    run: Action
    cwd: str | None = None
    env: Mapping[str, str] = field(default_factory=dict)
    needs: tuple[str, ...] = ()
    phase: str | None = None
    serial: str | None = None
    pool: str | None = None
    weight: int | None = None
    priority: str | None = None
    timeout: Timeout = UNSET
    on_timeout: str | None = None
    retries: int = 0
    backoff_s: float = 0.2
    max_backoff_s: float = 30.0
    retry_on: tuple[int | str | re.Pattern[str] | type[BaseException], ...] = ()
    time_limit_s: float | None = None
    pause_on: Mapping[int, float] = field(default_factory=dict)
    verify: Action | None = None
    stage: str | None = None
    undo: Action | None = None
    unless: Action | None = None

    @property
    def asks_stderr(self) -> bool:
        """Whether what it writes to stderr decides something, and so is kept apart while it runs."""
        return bool(self.pause_on) or any(isinstance(what, re.Pattern) for what in self.retry_on)


class PlanError(ValueError):
    """A plan, or a task that was added to a batch, has mistakes; nothing of it was started.

    >>> try:
    ...     run_batch([{"run": ["make"], "name": "a", "retrys": 1}])
    ... except PlanError as error:
    ...     print(error)
    task 'a': there is no key 'retrys'; the nearest is retries

    Attributes:
        problems: A sentence for each mistake.
    """

    def __init__(self, problems: Iterable[str]) -> None:
        self.problems = tuple(problems)
        super().__init__("; ".join(self.problems))

    def __reduce__(self) -> tuple[type, tuple[tuple[str, ...]]]:
        return type(self), (self.problems,)


class KeyProblem(Exception):  # noqa: N818 - it never leaves this package
    """What is wrong with the value of a key, as a phrase that follows the value."""


def read_task(given: Mapping[str, Any], where: str, defaults: Mapping[str, Any] | None = None) -> Task:
    """The task that `given` describes.

    Args:
        given: Keys and values, as TOML and JSON have them; from Python also functions (`Call`).
        where: Which task this is, for mistakes: "task 3" or the like; its name is put in its place.
        defaults: Values that were read already, by `read_defaults`.

    Raises:
        PlanError: With all its mistakes.
    """
    problems: list[str] = []
    name = given.get("name")
    if isinstance(name, str) and name:
        where = f"task {_shown(name)}"
    values = _read(given, KEYS, where, problems)
    if given.get("run") is None:
        problems.append(f'{where}: there is no key run: write run = ["make", "-j4"]')
    if given.get("name") is None and not problems:
        values["name"] = named_after(values["run"])
    if problems:
        raise PlanError(problems)
    env = {**(defaults or {}).get("env", {}), **values.get("env", {})}
    return Task(**{**(defaults or {}), **values, "env": env})


def read_defaults(given: Mapping[str, Any], where: str, problems: list[str]) -> dict[str, Any]:
    """The values that `given` has for all tasks; what is wrong is added to `problems`."""
    return _read(given, {key: KEYS[key] for key in KEYS if key not in OWN_KEYS}, where, problems)


def named_after(run: Action) -> str:
    """A name for a task that has none: its command line."""
    text = str(run) if isinstance(run, Call) else " ".join(run[len(SHELL) :] if run[:2] == SHELL else run)
    return text[:NAME_LENGTH] or "?"


def near(word: str, known: Iterable[str]) -> str:
    """Half a sentence with that of the `known` words that `word` may stand for; nothing if none is near."""
    import difflib  # noqa: PLC0415 - for mistakes only

    found = difflib.get_close_matches(word, list(known), n=1, cutoff=0.6)
    return f"; the nearest is {found[0]}" if found else ""


def _read(
    given: Mapping[str, Any],
    keys: Mapping[str, tuple[str, Callable[[Any], Any]]],
    where: str,
    problems: list[str],
) -> dict[str, Any]:
    """The values of `given` by the names of Task's fields; what is wrong is added to `problems`."""
    values: dict[str, Any] = {}
    for key, value in given.items():
        if value is None and key not in UNLIMITED:
            continue  # as if it were not there: JSON and Python have a word for that
        if key not in keys:
            problems.append(f"{where}: there is no key {_shown(key)}{near(str(key), keys)}")
            continue
        name, parse = keys[key]
        try:
            values[name] = parse(value)
        except KeyProblem as problem:
            problems.append(f"{where}: {key} = {_shown(value)} {problem}")
        except SettingError as error:
            value = without_password(value) if isinstance(value, str) else value  # noqa: PLW2901 - to be shown
            problems.append(f"{where}: {key} = {_shown(value)} {error.problem}")
    return values


def _shown(value: object) -> str:
    text = repr(value)
    return text if len(text) <= VALUE_SHOWN else text[: VALUE_SHOWN - 1] + "…"


def _bad(text: str) -> NoReturn:
    raise KeyProblem(text)


def _text(value: Any) -> str:
    if not isinstance(value, str) or not value or not _can_be_given(value):
        _bad("is not a text")
    return value


def _can_be_given(text: str) -> bool:
    """Whether a program can have `text` as an argument: no NUL, no half of a surrogate pair."""
    try:
        return b"\0" not in os.fsencode(text)
    except UnicodeEncodeError:
        return False


def _name(value: Any) -> str:
    name = _text(value)
    if len(name) > NAME_LENGTH:
        _bad(f"is longer than {NAME_LENGTH} characters")
    return name


def _names(value: Any) -> tuple[str, ...]:
    if not _is_list(value):
        _bad('is not a list of names of tasks, such as ["fetch"]')
    return tuple(map(_text, value))


def _path(value: Any) -> str:
    path = _text(os.fsdecode(value) if isinstance(value, os.PathLike) else value)
    if path.startswith("~"):
        if path != "~" and not path.startswith("~/"):
            _bad("begins with a ~ that is not your home: write it out")
        path = os.path.expanduser(path)
    return os.path.abspath(path)


def _stage(value: Any) -> str:
    """A destination: what is there is removed as a whole, and so it holds neither us nor the user's home."""
    path = _path(value)
    real = os.path.realpath(path)
    for place, what in (
        (here(), "the directory in which buildslots runs"),
        (_home(), "your home directory"),
    ):
        if place is not None and (place == real or place.startswith(real.rstrip("/") + "/")):
            _bad(f"is {what}, or has it in it: a stage replaces all of its destination")
    return path


def _home() -> str | None:
    home = os.path.expanduser("~")
    return os.path.realpath(home) if os.path.isabs(home) else None


def _action(value: Any) -> Action:
    """A command as a list, a shell's as a string, or a function with what it is called with."""
    if isinstance(value, Call):
        return value
    if callable(value):
        return Call(value)
    if isinstance(value, str):
        return (*SHELL, _text(value))
    if not _is_list(value) or not value or not all(isinstance(word, (str, os.PathLike)) for word in value):
        _bad('is not a command: a list such as ["make", "-j4"], or a string for the shell')
    words = tuple(os.fsdecode(word) for word in value)
    if not words[0] or not all(map(_can_be_given, words)):
        _bad("is not a command: it names no program, or has in it what no argument can have, such as a NUL")
    return words


def _is_list(value: object) -> bool:
    return isinstance(value, Sequence) and not isinstance(value, (str, bytes))


def _env(value: Any) -> dict[str, str]:
    if not isinstance(value, Mapping):
        _bad('is not a table of variables, such as { CC = "gcc" }')
    for name, text in value.items():
        if not isinstance(name, str) or not name or "=" in name or not _can_be_given(name):
            _bad(f"names a variable that no program could have: {_shown(name)}")
        if not isinstance(text, str) or not _can_be_given(text):
            _bad(f"has for {name} a value that is no text: {_shown(text)}")
    return dict(value)


def _pool(value: Any) -> str:
    return "" if value == "" else parse_where(value, "pool")


def _whole(least: int, most: int) -> Callable[[Any], int]:
    def parse(value: Any) -> int:
        if not isinstance(value, int) or isinstance(value, bool) or not least <= value <= most:
            _bad(f"is not a whole number from {least} to {most}")
        return value

    return parse


def seconds(value: Any) -> float:
    """A duration: seconds as a number, or a text such as "200ms", "90s" and "1h30m", or a timedelta."""
    found: float | None = None
    if isinstance(value, str):
        text = value.strip()
        thousandth = text.endswith("ms")
        try:
            found = parse_duration(text[:-2] if thousandth else text, "")
        except SettingError:
            found = None
        if thousandth and found is not None:
            found /= 1000
    elif hasattr(value, "total_seconds"):
        found = value.total_seconds()
    elif isinstance(value, (int, float)) and not isinstance(value, bool):
        found = float(value)
    if found is None or not 0 <= found <= MAX_TIMEOUT_S:
        _bad("is not a duration such as 0.5, 200ms, 90s, 2m or 1h30m")
    return found


def _limit(value: Any) -> float | None:
    if value == "none" or value is None:
        return None
    limit = seconds(value)
    if not limit:
        _bad('leaves it no time at all: write "none", or leave it out')
    return limit


def _timeout(value: Any) -> float | None:
    return None if value == "none" or value is None else seconds(value)


def _status(value: Any) -> int:
    """An exit status; in a TOML or JSON table the key of a value, and so a text."""
    if isinstance(value, str) and value.isascii() and value.isdecimal() and len(value) <= len("255"):
        value = int(value)
    if not isinstance(value, int) or isinstance(value, bool) or not 1 <= value <= 255:
        _bad(f"has {_shown(value)}, which is not the exit status of a failure, 1 to 255")
    return value


def _pause_on(value: Any) -> dict[int, float]:
    if not isinstance(value, Mapping):
        _bad('is not a table of exit statuses and durations, such as { 75 = "60s" }')
    return {_status(status): seconds(duration) for status, duration in value.items()}


def _retry_on(value: Any) -> tuple[int | str | re.Pattern[str] | type[BaseException], ...]:
    """Exit statuses, "timeout", "stderr: REGEX"; from Python also classes of exceptions."""
    return tuple(map(_retry_reason, value if _is_list(value) else (value,)))


def _retry_reason(reason: Any) -> int | str | re.Pattern[str] | type[BaseException]:
    if isinstance(reason, type) and issubclass(reason, BaseException):
        return reason
    if reason == "timeout":
        return "timeout"
    if isinstance(reason, str) and reason.startswith("stderr:"):
        try:
            return re.compile(reason.removeprefix("stderr:").strip(), re.MULTILINE)
        except (re.error, RecursionError, OverflowError) as error:
            _bad(f"has a regular expression that is none: {error}")
    if isinstance(reason, str) and not reason.isdecimal():
        _bad(f'has {_shown(reason)}, which is no exit status, not "timeout" and not "stderr: REGEX"')
    return _status(reason)


KEYS: dict[str, tuple[str, Callable[[Any], Any]]] = {
    "name": ("name", _name),
    "run": ("run", _action),
    "cwd": ("cwd", _path),
    "env": ("env", _env),
    "needs": ("needs", _names),
    "phase": ("phase", _text),
    "serial": ("serial", _text),
    "pool": ("pool", _pool),
    "weight": ("weight", _whole(1, MAX_SLOTS)),
    "priority": ("priority", lambda value: parse_priority(value, "priority")),
    "timeout": ("timeout", _timeout),
    "on_timeout": ("on_timeout", lambda value: parse_on_timeout(value, "on_timeout")),
    "retries": ("retries", _whole(0, MOST_RETRIES)),
    "backoff": ("backoff_s", seconds),
    "max_backoff": ("max_backoff_s", seconds),
    "retry_on": ("retry_on", _retry_on),
    "time_limit": ("time_limit_s", _limit),
    "pause_on": ("pause_on", _pause_on),
    "verify": ("verify", _action),
    "stage": ("stage", _stage),
    "undo": ("undo", _action),
    "unless": ("unless", _action),
}
"""The keys of a task: the field of `Task` that each sets, and what reads it."""
UNLIMITED = frozenset(("timeout", "time_limit"))
"""Keys for which None is a value: no limit."""
OWN_KEYS = frozenset(("name", "run", "needs", "stage"))
"""Keys that cannot have one value for all tasks."""
