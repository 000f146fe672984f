"""What callers give, as options of slot-run, arguments of Python code, and variables: checked, or None.

And what counts if they give nothing, which depends on who they are: people, or a coding agent.
"""

from __future__ import annotations

import os

from buildslots.errors import SettingError
from buildslots.settings.values import (
    DEFAULT_JOURNAL,
    DEFAULT_ON_TIMEOUT,
    DEFAULT_PRIORITY,
    DEFAULT_TIMEOUT_S,
    MAX_SLOTS,
    MAX_TIMEOUT_S,
    NOT_A_POOL,
    NOT_HOME,
    TOO_MANY_SLOTS,
    VARIABLES,
    Unset,
    is_seconds,
    parse_duration,
    parse_pool,
    shown_number,
)

# mypy takes a name TYPE_CHECKING for typing's own; importing typing would cost every build 8 ms.
TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from typing import Any, TypeVar

    T = TypeVar("T")

AGENT_TIMEOUT_S = 600.0
"""How long an agent's build waits. Its tool gives up after two minutes (Claude Code, opencode), and then the
build must not start beyond the cap just when nobody waits for it any more."""

AUTO = "auto"
"""As many tokens as there are cores, less one: each build has one job without a token."""
OFF = ("off", "0")
MOST_TOKENS = 4096
NOT_TOKENS = f"is not a number of tokens from 1 to {MOST_TOKENS}, nor 'auto' or 'off'"
NOT_JOBS = f"is not a number of jobs from 1 to {MOST_TOKENS}"


def parse_where(text: str, source: str) -> str:
    """Return which pool is meant: its name, or if it is on a server an `Address`.

    Raises:
        SettingError: It is neither.
    """
    if isinstance(text, str) and "://" in text:
        from buildslots.settings.address import parse_url  # noqa: PLC0415 - only who has such a pool needs it

        return parse_url(text, source)
    if isinstance(text, str) and ":" in text:
        raise SettingError(source, text, NOT_A_POOL + ", nor the URL of one, such as redis://HOST/0/NAME")
    return parse_pool(text, source)


def parse_tokens(text: str, source: str) -> int | str:
    """Return a number of tokens: `AUTO`, or 0 for "off".

    Raises:
        SettingError: It is none, or more than `MOST_TOKENS`.
    """
    word = text.strip()
    if word in {AUTO, *OFF}:
        return AUTO if word == AUTO else 0
    return _from_1(word, text, source, NOT_TOKENS)


def parse_jobs(text: str, source: str) -> int:
    """Return how many jobs a build may run at once.

    Raises:
        SettingError: It is no number from 1 to `MOST_TOKENS`.
    """
    return _from_1(text.strip(), text, source, NOT_JOBS)


def _from_1(digits: str, text: str, source: str, problem: str) -> int:
    if not (digits.isascii() and digits.isdigit()) or len(digits) > 4 or not 1 <= int(digits) <= MOST_TOKENS:
        raise SettingError(source, text, problem)
    return int(digits)


def from_environ(
    environ: Mapping[str, str], name: str, parse: Callable[[str, str], T], warn: Callable[[str], None]
) -> tuple[T, str] | None:
    """Return the parsed value of a variable and its name; None if it is not set, or wrong and reported."""
    text = environ.get(name)
    if not text:
        return None
    try:
        return parse(text, name), name
    except SettingError as error:
        warn(f"{error}; ignored")
        return None


def warn_of_names(environ: Mapping[str, str], its_slots: str, warn: Callable[[str], None]) -> None:
    """Report each variable that is nearly one of ours: a setting that is misspelt would be none, silently.

    To look at all names takes as long as all else in `resolve`: once in a process is enough.
    """
    for name in environ:
        if ("SLOT" in name or "CONC" in name) and name not in VARIABLES:
            if name == its_slots or name.startswith("MAX_CONCURRENT_BUILDS_"):
                continue  # of some pool
            from buildslots.settings.near import nearest  # noqa: PLC0415 - hardly ever

            meant = nearest(name, {*VARIABLES, its_slots})
            if meant is not None:
                warn(f"{name} is no setting, and ignored: the variable is {meant}")


def agent_of(environ: Mapping[str, str]) -> str | None:
    """The variable by which a coding agent tells that it runs this; None if none does.

    BUILD_SLOTS_AGENT=0 tells that none does, whatever else is set. People set CODEX_HOME for themselves.
    """
    own = environ.get("BUILD_SLOTS_AGENT", "")
    if own:
        return None if own.strip().lower() in {"0", "no", "off", "false"} else "BUILD_SLOTS_AGENT"
    names = (name for name in environ if name in {"CLAUDECODE", "GEMINI_CLI"} or name.startswith("CODEX_"))
    return next((name for name in names if environ[name] and name != "CODEX_HOME"), None)


def defaults(agent: str | None) -> dict[str, tuple[Any, str]]:
    """What counts if nobody says anything, by key: for an agent that `agent_of` has found, or for people."""
    found: dict[str, tuple[Any, str]] = {
        "timeout": (DEFAULT_TIMEOUT_S, "default"),
        "on_timeout": (DEFAULT_ON_TIMEOUT, "default"),
        "journal": (DEFAULT_JOURNAL, "default"),
        "priority": (DEFAULT_PRIORITY, "default"),
        "tokens": (None, "default"),
    }
    if agent is not None:
        source = f"default for agents ({agent} is set)"
        found["timeout"], found["on_timeout"] = (AGENT_TIMEOUT_S, source), ("paced", source)
        found["priority"] = "low", source
    return found


def given_slots(slots: object) -> tuple[int, str] | None:
    """The cap, and who says so. Raises SettingError: it is none."""
    return None if slots is None else (_positive(slots, "slots"), "option")


def given_weight(
    weight: object, slots: int, warn: Callable[[str], None], are_own: bool
) -> tuple[int, str] | None:
    """How many slots a build needs, and who says so; `warn` is told if these are more than all.

    Raises SettingError.
    """
    if weight is None:
        return None
    wanted = _positive(weight, "weight")
    if wanted > slots:
        less = "" if are_own else ", unless the pool says more"
        count = f"{slots} slot{'s' * (slots != 1)}"
        warn(f"weight {wanted} is more than the pool's {count}: it takes them all{less}")
    return wanted, "option"


def _positive(value: object, name: str) -> int:
    # bool is an int, and slots=True is a mistake.
    if not isinstance(value, int) or isinstance(value, bool) or value < 1:
        raise SettingError(name, shown_number(value), "is not a positive int")
    if value > MAX_SLOTS:
        raise SettingError(name, shown_number(value), TOO_MANY_SLOTS)
    return value


def given_timeout(timeout_s: object) -> tuple[float | None, str] | None:
    """The seconds of a timeout, None for ever, and who says so. Raises SettingError: it is none."""
    if isinstance(timeout_s, Unset):
        return None
    if timeout_s is None:
        return None, "option"
    if isinstance(timeout_s, str):
        return parse_duration(timeout_s, "timeout"), "option"
    # A timedelta, whose module is not loaded for this.
    seconds = timeout_s.total_seconds() if hasattr(timeout_s, "total_seconds") else timeout_s
    if is_seconds(seconds):
        return float(seconds), "option"
    problem = f"is not a number of seconds from 0 to {MAX_TIMEOUT_S:.0f}, nor None"
    raise SettingError("timeout", shown_number(timeout_s), problem)


def given_word(
    word: object, name: str, parse: Callable[[str, str], str], problem: str
) -> tuple[str, str] | None:
    """A word that `parse` takes, and who says so. Raises SettingError: it is none, which is its `problem`."""
    if word is None:
        return None
    if not isinstance(word, str):
        raise SettingError(name, shown_number(word), problem)
    return parse(word, name), "option"


def given_tokens(tokens: object) -> tuple[int | str, str] | None:
    """A number of tokens, 0 for none; "auto"; and who says so. Raises SettingError: it is neither."""
    if tokens is None:
        return None
    if isinstance(tokens, int) and not isinstance(tokens, bool):
        tokens = shown_number(tokens)
    if not isinstance(tokens, str):
        raise SettingError("tokens", shown_number(tokens), NOT_TOKENS)
    return parse_tokens(tokens, "tokens"), "option"


def given_jobs(jobs: object) -> tuple[int, str] | None:
    """How many jobs a build may run at once, and who says so. Raises SettingError: it is no such number."""
    if jobs is None:
        return None
    if not isinstance(jobs, int) or isinstance(jobs, bool):
        raise SettingError("jobs", shown_number(jobs), NOT_JOBS)
    return parse_jobs(shown_number(jobs), "jobs"), "option"


def given_dir(path: str | os.PathLike[str] | None) -> str | None:
    """A directory. Raises SettingError: it is none."""
    if path is None:
        return None
    try:
        text = os.fsdecode(path)
    except TypeError:
        text = ""
    if text == "~" or text.startswith(("~/", f"~{os.sep}")):
        raise SettingError("dir", text, NOT_HOME)
    # A NUL would surface as a ValueError from the first system call, where only OSError is expected.
    if not text or "\0" in text:
        raise SettingError("dir", repr(path), "is not a path")
    return text
