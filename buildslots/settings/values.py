"""What a setting can be: its bounds, what reads it from text, and the words about a wrong one.

Whoever reads settings, from options, the environment, a file or Python code, reads and complains of them with
what is here. It knows nothing of where they come from.
"""

from __future__ import annotations

import os

from buildslots.errors import SettingError

# mypy takes a name TYPE_CHECKING for typing's own; importing typing would cost every build 8 ms.
TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from datetime import timedelta
    from typing import NoReturn, TypeAlias, TypeGuard

    Timeout: TypeAlias = "float | str | timedelta | Unset | None"

DEFAULT_POOL = "default"
"""The name of the pool that has the whole directory, and that `MAX_CONCURRENT_BUILDS` speaks of."""

DEFAULT_TIMEOUT_S = 120.0
"""How long a build waits for a slot if nobody says otherwise."""

DEFAULT_ON_TIMEOUT = "run"
"""What happens after that, one of `ON_TIMEOUT`."""

ON_TIMEOUT = ("run", "paced", "fail")
"""Start beyond the cap; the same, but one after the other; or do not start."""

PRIORITIES = {"high": 1, "normal": 0, "low": -1}
"""Each is a head start in line: so many times that of the pool's rules."""

DEFAULT_PRIORITY = "normal"
"""The priority of a build if nobody says otherwise."""

DEFAULT_JOURNAL = "programs"
"""What the journal keeps of a build: its program's name ("programs"), its whole command line ("commands",
which may hold secrets), or nothing ("off")."""

VARIABLES = frozenset(
    (
        "BUILD_SLOT",  # these two are what a command is told
        "BUILD_SLOTS_HELD",
        "BUILD_SLOTS_AGENT",
        "BUILD_SLOTS_DIR",
        "BUILD_SLOTS_DISABLE",
        "BUILD_SLOTS_JOURNAL",
        "BUILD_SLOTS_ON_TIMEOUT",
        "BUILD_SLOTS_POOL",
        "BUILD_SLOTS_PRIORITY",
        "BUILD_SLOTS_TIMEOUT",
        "BUILD_SLOTS_TOKENS",
        "BUILD_SLOTS_URL",
        "MAX_CONCURRENT_BUILDS",
    )
)
"""The variables of the environment that mean something to us, but for the other pools' numbers of slots."""

MAX_SLOTS = 999_999_999
"""More is a mistake, and would make a number that other programs cannot read back."""

MAX_TIMEOUT_S = 10 * 365 * 86400.0
"""Ten years: longer than any machine runs, far below where clocks and `poll()` overflow."""

_POOL_NAME_LENGTH = 64

# A file of these names, whatever its extension, is a device on Windows:
# https://learn.microsoft.com/windows/win32/fileio/naming-a-file, "Naming Conventions".
_WINDOWS_DEVICES = frozenset(
    ["CON", "PRN", "AUX", "NUL", *(port + digit for port in ("COM", "LPT") for digit in "0123456789")]
)

NOT_HOME = "begins with a ~ that no shell has replaced: write $HOME, or ./~ for a directory of that name"
NOT_ABSOLUTE = (
    "is not an absolute path, and would be another pool in every directory (a ~ is your home only where a "
    "shell replaces it: write $HOME)"
)
NOT_A_POOL = (
    "is not the name of a pool: letters, digits, '.', '_' and '-', a letter or digit first and no '.' last"
)
NOT_SLOTS = "is not a positive whole number"
TOO_MANY_SLOTS = f"is more than {MAX_SLOTS} slots"
NOT_A_DURATION = "is not a duration such as 90, 90s, 2m, 1h30m or none"
TOO_LONG = "is longer than ten years; 'none' waits for ever"
NOT_ON_TIMEOUT = "is none of 'run', 'paced' and 'fail'"
NOT_PRIORITY = "is none of 'high', 'normal' and 'low'"
NOT_BYTES = "is not an amount of memory such as 512M, 2G or 1.5G"
NOT_LOAD = "is not a number above 0"
NOT_PRESSURE = "is not a list such as io=40,memory=10 of cpu, io or memory with percentages"
NOT_A_SWITCH = "is neither 1 nor 0"
NOT_JOURNAL = "is none of 'off', 'programs' and 'commands'"
NOT_A_LABEL = "is not a text that names the build"
NOT_NICE = "is not a niceness from -20 to 19"


class Unset:
    """The type of `UNSET`, which stands for "not given" where None means "for ever"."""

    __slots__ = ()

    def __repr__(self) -> str:
        return "UNSET"


UNSET = Unset()


class Bounds:
    """What the machine has to be like before a build starts, as plain values; None for what does not matter.

    The arguments are those of `buildslots.Gates`, which checks them and reads the machine's state.
    """

    __slots__ = ("max_load", "max_pressure", "min_free_memory")

    min_free_memory: int | None
    max_load: float | None
    max_pressure: dict[str, float]

    def __init__(
        self,
        min_free_memory: int | None = None,
        max_load: float | None = None,
        max_pressure: Mapping[str, float] | None = None,
    ) -> None:
        set_once = super().__setattr__
        set_once("min_free_memory", min_free_memory)
        set_once("max_load", max_load)
        set_once("max_pressure", dict(max_pressure or {}))

    def __setattr__(self, name: str, value: object) -> NoReturn:
        raise AttributeError(f"{type(self).__name__} cannot be changed: {name}")

    def __reduce__(self) -> tuple[type, tuple[object, ...]]:
        return type(self), (self.min_free_memory, self.max_load, self.max_pressure)

    def __repr__(self) -> str:
        return (
            f"{type(self).__name__}({', '.join(f'{key}={bound!r}' for key, bound in self.as_dict().items())})"
        )

    def as_dict(self) -> dict[str, object]:
        """The bounds that matter, by name."""
        return {name: bound for name in Bounds.__slots__ if (bound := getattr(self, name))}


def parse_slots(text: str, source: str) -> int:
    """Return a number of slots given as text: ASCII digits, blanks around them allowed.

    Args:
        text: The text; `wc -l` on macOS is why blanks are allowed.
        source: Where it comes from, for the error.

    Raises:
        SettingError: It is not a whole number from 1 to `MAX_SLOTS`.
    """
    digits = text.strip()
    if not (digits.isascii() and digits.isdigit()) or not digits.strip("0"):
        raise SettingError(source, text, NOT_SLOTS)
    # Compared by length first: int() refuses numbers of more than 4300 digits with an error of its own.
    if len(digits.lstrip("0")) > len(str(MAX_SLOTS)):
        raise SettingError(source, text, TOO_MANY_SLOTS)
    return int(digits)


def parse_duration(text: str, source: str) -> float | None:
    """Return a duration given as text, in seconds.

    A number is seconds; else hours, minutes and seconds in this order, each at most once: `90`, `90s`, `2m`,
    `1h30m`, `0.5`, `1.5h`. No sign, no exponent. `none` is no limit.

    Args:
        text: The text, blanks around it allowed.
        source: Where it comes from, for the error.

    Returns:
        The seconds, or None for "none".

    Raises:
        SettingError: It is not a duration, or one above `MAX_TIMEOUT_S`.
    """
    wanted = text.strip()
    if wanted == "none":
        return None
    seconds = _seconds(wanted)
    if seconds is None:
        raise SettingError(source, text, NOT_A_DURATION)
    if seconds > MAX_TIMEOUT_S:
        raise SettingError(source, text, TOO_LONG)
    return seconds


def _seconds(text: str) -> float | None:
    """Add up `1h30m5s`, or take a bare number; inf if it is too large for a float, None if it is neither."""
    if _is_number(text):
        return float(text)
    total, rest = 0.0, text
    for unit, worth_s in (("h", 3600), ("m", 60), ("s", 1)):
        number, found, after = rest.partition(unit)
        if found:
            if not _is_number(number):
                return None
            total += float(number) * worth_s
            rest = after
    return None if rest or not text else total


def _is_number(text: str) -> bool:
    """Tell whether a text is digits, perhaps with a point and more digits: less than float() would take."""
    whole, point, fraction = text.partition(".")
    return text.isascii() and whole.isdigit() and (fraction.isdigit() or not point)


def parse_on_timeout(text: str, source: str) -> str:
    """Return what is to happen after the timeout, "run", "paced" or "fail".

    Raises:
        SettingError: It is none of these.
    """
    if text not in ON_TIMEOUT:
        raise SettingError(source, text, NOT_ON_TIMEOUT)
    return text


def parse_priority(text: str, source: str) -> str:
    """Return a priority, "high", "normal" or "low".

    Raises:
        SettingError: It is none of these.
    """
    if text not in PRIORITIES:
        raise SettingError(source, text, NOT_PRIORITY)
    return text


def parse_switch(text: str, source: str) -> bool:
    """Return what turns something on ("1", also "true", "yes", "on") or off ("0", "false", "no", "off").

    Raises:
        SettingError: It is none of these.
    """
    word = text.strip().lower()
    if word not in ("1", "true", "yes", "on", "0", "false", "no", "off"):
        raise SettingError(source, text, NOT_A_SWITCH)
    return word in ("1", "true", "yes", "on")


def parse_journal(text: str, source: str) -> str:
    """Return what the journal is to keep, "off", "programs" or "commands".

    Raises:
        SettingError: It is none of these.
    """
    if text not in ("off", "programs", "commands"):
        raise SettingError(source, text, NOT_JOURNAL)
    return text


def parse_label(text: str, source: str) -> str:
    """Return what views and the waiting line are to call a build.

    Raises:
        SettingError: It is blank, or not even text.
    """
    if not text.strip() or any("\ud800" <= c < "\udc80" for c in text):
        raise SettingError(source, text, NOT_A_LABEL)
    return text


def parse_nice(text: str, source: str) -> int:
    """Return a niceness as nice(1) shows it, from -20 to 19.

    Raises:
        SettingError: It is none.
    """
    digits = text.strip().removeprefix("-")
    if not (digits.isascii() and digits.isdigit()) or len(digits) > 2 or not -20 <= int(text) <= 19:
        raise SettingError(source, text, NOT_NICE)
    return int(text)


def parse_memory(text: str, source: str) -> int:
    """Return an amount of memory given as text, in bytes: a number, with K, M, G or T for powers of 1024.

    Raises:
        SettingError: It is none, or nothing at all.
    """
    wanted = text.strip().upper().removesuffix("B").removesuffix("I")
    power = " KMGT".find(wanted[-1:] or "?")
    number = wanted[:-1] if power > 0 else wanted
    amount = int(float(number) * 1024 ** max(0, power)) if _is_number(number) and len(number) <= 15 else 0
    if not amount:
        raise SettingError(source, text, NOT_BYTES)
    return amount


def parse_load(text: str, source: str) -> float:
    """Return a load average given as text.

    Raises:
        SettingError: It is no positive number.
    """
    number = text.strip()
    if not _is_number(number) or len(number) > 15 or not float(number):
        raise SettingError(source, text, NOT_LOAD)
    return float(number)


def parse_pressure(text: str, source: str) -> dict[str, float]:
    """Return percentages by resource, given as "io=40,memory=10".

    Raises:
        SettingError: It is no such list.
    """
    found = {}
    for part in text.split(","):
        name, _, percent = part.strip().partition("=")
        percent = percent.removesuffix("%")
        if name not in ("cpu", "io", "memory") or not _is_number(percent) or len(percent) > 15:
            raise SettingError(source, text, NOT_PRESSURE)
        found[name] = float(percent)
    return found


GATES: dict[str, tuple[Callable[[str, str], object], str]] = {
    "min_free_memory": (parse_memory, NOT_BYTES),
    "max_load": (parse_load, NOT_LOAD),
    "max_pressure": (parse_pressure, NOT_PRESSURE),
}
"""What reads the value of each key about the machine's state, and what is wrong with one of another type."""


def parse_dir(text: str, source: str) -> str:
    """Return the directory of the default pool, an absolute path.

    Raises:
        SettingError: It is relative, or begins with a ~ that no shell has replaced.
    """
    if not os.path.isabs(text):
        raise SettingError(source, text, NOT_ABSOLUTE)
    return text


def parse_pool(text: str, source: str) -> str:
    """Return the name of a pool, "default" for the default one.

    The name becomes a directory's, so it is kept to what every file system takes: ASCII letters, digits, ".",
    "_" and "-", at most 64 of them, a letter or digit first, no "." at the end, not the name of a Windows
    device. "Link" and "link" are two pools, except on a file system that does not tell them apart (macOS,
    Windows), where they are one.

    Args:
        text: The name.
        source: Where it comes from, for the error.

    Raises:
        SettingError: It is no such name.
    """
    if not isinstance(text, str):
        raise SettingError(source, shown_number(text), NOT_A_POOL)
    bare = text.replace(".", "0").replace("_", "0").replace("-", "0")
    if not (bare.isascii() and bare.isalnum()) or not text[0].isalnum() or text.endswith("."):
        raise SettingError(source, text, NOT_A_POOL)
    if len(text) > _POOL_NAME_LENGTH:
        raise SettingError(source, text, f"is longer than {_POOL_NAME_LENGTH} characters")
    if text.partition(".")[0].upper() in _WINDOWS_DEVICES:
        raise SettingError(source, text, "is the name of a device on Windows")
    return text


def slots_variable(pool: str) -> str:
    """Return the name of the variable with the number of slots of a pool.

    It is `MAX_CONCURRENT_BUILDS` for the default pool. For another one its name follows, in capitals, with
    "_" for whatever is no letter or digit: `MAX_CONCURRENT_BUILDS_WEB_LINK` for "web-link", and for
    "web.link" too.
    """
    if pool == DEFAULT_POOL:
        return "MAX_CONCURRENT_BUILDS"
    return "MAX_CONCURRENT_BUILDS_" + pool.upper().replace(".", "_").replace("-", "_")


def is_seconds(value: object) -> TypeGuard[float]:
    """Tell whether a value is an int or a float of seconds in range; nan fails both comparisons."""
    return isinstance(value, (int, float)) and not isinstance(value, bool) and 0 <= value <= MAX_TIMEOUT_S


def shown_number(value: object) -> str:
    """Return the repr of a value; a huge int in hexadecimal, because repr refuses more than 4300 digits."""
    return hex(value) if isinstance(value, int) and abs(value) > MAX_SLOTS * MAX_SLOTS else repr(value)
