"""The settings of a build: option, then environment, then the user's config file, then the default.

A wrong option is the caller's mistake and raises `SettingError`. A wrong value in the environment or in the
config file is reported in one line, and the next source counts: a typo in a shell profile must not break
every build.

The config file is TOML, `~/.config/buildslots/config.toml` on Linux::

    slots = 3               # of the default pool
    timeout = "10m"         # of every pool; seconds as a number, or a duration
    on_timeout = "paced"    # of every pool
    journal = "off"         # of every pool
    max_load = 16           # of every pool, as are min_free_memory and max_pressure

    [pools.link]            # of one pool, before the lines above; [pools.default] is the default pool
    slots = 1
    timeout = "none"
    min_free_memory = "4G"
    max_pressure = { io = 40, memory = 10 }

On the way to a build this module imports nothing but `cap` and `errors`, and reads the machine's core count
only if nobody has said a number of slots. The TOML reader is loaded when there is a file for it to read.
"""

from __future__ import annotations

import errno
import os
import sys

from buildslots.cap import machine_cap
from buildslots.errors import SettingError

# mypy takes a name TYPE_CHECKING for typing's own; importing typing would cost every build 8 ms.
TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from typing import TypeGuard, TypeVar

    from buildslots.gates import Gates

    T = TypeVar("T")

DEFAULT_POOL = "default"
"""The name of the pool that has the whole directory, and that `MAX_CONCURRENT_BUILDS` speaks of."""

DEFAULT_TIMEOUT_S = 120.0
"""How long a build waits for a slot if nobody says otherwise."""

DEFAULT_ON_TIMEOUT = "run"
"""What happens after that, one of `ON_TIMEOUT`."""

ON_TIMEOUT = ("run", "paced", "fail")
"""Start beyond the cap; the same, but one after the other; or do not start."""

DEFAULT_JOURNAL = "programs"
"""What the journal keeps of a build: its program's name ("programs"), its whole command line ("commands",
which may hold secrets), or nothing ("off")."""

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

_NOT_A_POOL = (
    "is not the name of a pool: letters, digits, '.', '_' and '-', a letter or digit first and no '.' last"
)
NOT_SLOTS = "is not a positive whole number"
TOO_MANY_SLOTS = f"is more than {MAX_SLOTS} slots"
NOT_A_DURATION = "is not a duration such as 90, 90s, 2m, 1h30m or none"
TOO_LONG = "is longer than ten years; 'none' waits for ever"
NOT_ON_TIMEOUT = "is none of 'run', 'paced' and 'fail'"
NOT_BYTES = "is not an amount of memory such as 512M, 2G or 1.5G"
NOT_LOAD = "is not a number above 0"
NOT_PRESSURE = "is not a list such as io=40,memory=10 of cpu, io or memory with percentages"
NOT_JOURNAL = "is none of 'off', 'programs' and 'commands'"


class Unset:
    """The type of `UNSET`, which stands for "not given" where None means "for ever"."""

    __slots__ = ()

    def __repr__(self) -> str:
        return "UNSET"


UNSET = Unset()


class Settings:
    """What one build is to do, and who said so.

    A source is "option", the name of a variable, "FILE, line N, key KEY" or a description of the default.

    Attributes:
        pool: The name of the pool.
        dir: The pool's own directory, absolute. It need not exist.
        slots: How many slots of the pool may be held when this build starts, at least 1.
        slots_source: Who said so.
        timeout_s: How long to wait for a slot, in seconds; 0.0 not at all, None for ever.
        timeout_source: Who said so.
        on_timeout: "run", "paced" or "fail".
        on_timeout_source: Who said so.
        journal: What the journal keeps: "programs", "commands" or "off".
        journal_source: Who said so.
        weight: How many slots the build needs together, from 1 to `slots`.
        gates: What the machine has to be like before it starts, or None.
    """

    __slots__ = (
        "dir",
        "gates",
        "journal",
        "journal_source",
        "on_timeout",
        "on_timeout_source",
        "pool",
        "slots",
        "slots_source",
        "timeout_s",
        "timeout_source",
        "weight",
    )

    def __init__(  # noqa: PLR0913 - one for each thing that can be set
        self,
        pool: str,
        directory: str,
        *,
        slots: tuple[int, str],
        timeout: tuple[float | None, str],
        on_timeout: tuple[str, str],
        journal: tuple[str, str],
        weight: int,
        gates: Gates | None,
    ) -> None:
        self.pool = pool
        self.dir = directory
        self.slots, self.slots_source = slots
        self.timeout_s, self.timeout_source = timeout
        self.on_timeout, self.on_timeout_source = on_timeout
        self.journal, self.journal_source = journal
        self.weight = weight
        self.gates = gates

    def __repr__(self) -> str:
        return f"<Settings {' '.join(f'{name}={getattr(self, name)!r}' for name in self.__slots__)}>"

    def replace(
        self,
        *,
        timeout_s: float | Unset | None = UNSET,
        on_timeout: str | None = None,
        weight: int | None = None,
        warn: Callable[[str], None] = lambda _: None,
    ) -> Settings:
        """Return these settings with options of a single wait.

        Args:
            timeout_s: How long to wait, in seconds, 0 not at all, None for ever; UNSET for no change.
            on_timeout: "run", "paced" or "fail"; None for no change.
            weight: How many slots it needs together; None for no change. More than there are counts as all.
            warn: Is called with one line if the weight is more.

        Raises:
            SettingError: An option has a wrong value.
        """
        return Settings(
            self.pool,
            self.dir,
            slots=(self.slots, self.slots_source),
            timeout=_timeout_option(timeout_s) or (self.timeout_s, self.timeout_source),
            on_timeout=_on_timeout_option(on_timeout) or (self.on_timeout, self.on_timeout_source),
            journal=(self.journal, self.journal_source),
            weight=_weight_option(weight, self.slots, warn) or self.weight,
            gates=self.gates,
        )


def resolve(  # noqa: PLR0913 - one for each thing that can be set, by keyword only
    *,
    pool: str | None = None,
    slots: int | None = None,
    timeout_s: float | Unset | None = UNSET,
    on_timeout: str | None = None,
    weight: int | None = None,
    gates: Mapping[str, object] | None = None,
    dir: str | os.PathLike[str] | None = None,  # noqa: A002 - the name of the option
    environ: Mapping[str, str] | None = None,
    warn: Callable[[str], None],
) -> Settings:
    """Find the settings that hold for one build.

    Each argument is an option of the caller's and wins over the environment, which wins over the config file.
    A variable that is set to nothing counts as not set.

    Args:
        pool: The name of the pool; before BUILD_SLOTS_POOL and "default".
        slots: How many slots; before MAX_CONCURRENT_BUILDS (for a pool other than the default one,
            MAX_CONCURRENT_BUILDS_NAME), `slots` in the config file, and the machine's own number.
        timeout_s: How long to wait, in seconds, 0 not at all, None for ever; before BUILD_SLOTS_TIMEOUT,
            `timeout` in the config file, and 120.
        on_timeout: "run", "paced" or "fail"; before BUILD_SLOTS_ON_TIMEOUT, `on_timeout` in the config
            file, and "run".
        weight: How many slots it needs together; None for 1. More than there are counts as
            all, and is reported.
        gates: What the machine has to be like: arguments of `buildslots.Gates`, each before the key of
            that name in the config file.
        dir: The directory of the default pool, which the named pools are in; before BUILD_SLOTS_DIR and
            `.build-slots` in the user's cache directory.
        environ: The environment; the process's own if None.
        warn: Is called with one line, without a line end, for each wrong value in the environment and for
            each mistake in the config file. One process reports the same mistake in the file once.

    Returns:
        The settings. Nothing has been created on disk.

    Raises:
        SettingError: An option has a wrong value.
        OSError: No directory can be named: there is no home directory, or the working directory is gone.
    """
    if environ is None:
        environ = os.environ
    # All options first: a wrong one raises before anything is reported.
    slots_option = _slots_option(slots)
    timeout_option = _timeout_option(timeout_s)
    on_timeout_option = _on_timeout_option(on_timeout)
    base = _dir_option(dir)
    if pool is None:
        pool = (_from_environ(environ, "BUILD_SLOTS_POOL", parse_pool, warn) or (DEFAULT_POOL, ""))[0]
    else:
        pool = parse_pool(pool, "pool")
    base = base or base_dir(environ)
    config = _load_config(environ, warn)
    its_slots = (
        slots_option
        or _from_environ(environ, slots_variable(pool), parse_slots, warn)
        or config.slots.get(pool)
        or _machine_slots()
    )
    return Settings(
        pool,
        pool_dir(pool, base),
        slots=its_slots,
        timeout=timeout_option
        or _from_environ(environ, "BUILD_SLOTS_TIMEOUT", parse_duration, warn)
        or config.timeout_s.get(pool)
        or config.timeout_s.get("")
        or (DEFAULT_TIMEOUT_S, "default"),
        on_timeout=on_timeout_option
        or _from_environ(environ, "BUILD_SLOTS_ON_TIMEOUT", parse_on_timeout, warn)
        or config.on_timeout.get(pool)
        or config.on_timeout.get("")
        or (DEFAULT_ON_TIMEOUT, "default"),
        journal=_from_environ(environ, "BUILD_SLOTS_JOURNAL", parse_journal, warn)
        or config.journal.get(pool)
        or config.journal.get("")
        or (DEFAULT_JOURNAL, "default"),
        weight=_weight_option(weight, its_slots[0], warn) or 1,
        gates=_gates(config, pool, gates),
    )


def _gates(config: Config, pool: str, options: Mapping[str, object] | None) -> Gates | None:
    arguments = config.gates.get("", {}) | config.gates.get(pool, {}) | dict(options or {})
    if not arguments:
        return None
    from buildslots.gates import Gates  # noqa: PLC0415 - psutil

    return Gates(**arguments)  # type: ignore[arg-type]


def _machine_slots() -> tuple[int, str]:
    cap = machine_cap()
    return cap.slots, cap.source


def _from_environ(
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


# The values, as text.


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


def parse_journal(text: str, source: str) -> str:
    """Return what the journal is to keep, "off", "programs" or "commands".

    Raises:
        SettingError: It is none of these.
    """
    if text not in ("off", "programs", "commands"):
        raise SettingError(source, text, NOT_JOURNAL)
    return text


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
        raise SettingError(source, shown_number(text), _NOT_A_POOL)
    bare = text.replace(".", "0").replace("_", "0").replace("-", "0")
    if not (bare.isascii() and bare.isalnum()) or not text[0].isalnum() or text.endswith("."):
        raise SettingError(source, text, _NOT_A_POOL)
    if len(text) > _POOL_NAME_LENGTH:
        raise SettingError(source, text, f"is longer than {_POOL_NAME_LENGTH} characters")
    if text.partition(".")[0].upper() in _WINDOWS_DEVICES:
        raise SettingError(source, text, "is the name of a device on Windows")
    return text


# The values, from Python code.


def _slots_option(slots: object) -> tuple[int, str] | None:
    return None if slots is None else (_positive(slots, "slots"), "option")


def _weight_option(weight: object, slots: int, warn: Callable[[str], None]) -> int | None:
    if weight is None:
        return None
    wanted = _positive(weight, "weight")
    if wanted > slots:
        warn(f"weight {wanted} is more than the pool's {slots} slot{'s' * (slots != 1)}: it takes them all")
    return min(wanted, slots)


def _positive(value: object, name: str) -> int:
    # bool is an int, and slots=True is a mistake.
    if not isinstance(value, int) or isinstance(value, bool) or value < 1:
        raise SettingError(name, shown_number(value), "is not a positive int")
    if value > MAX_SLOTS:
        raise SettingError(name, shown_number(value), TOO_MANY_SLOTS)
    return value


def _timeout_option(timeout_s: object) -> tuple[float | None, str] | None:
    if isinstance(timeout_s, Unset):
        return None
    if timeout_s is None:
        return None, "option"
    if is_seconds(timeout_s):
        return float(timeout_s), "option"
    problem = f"is not a number of seconds from 0 to {MAX_TIMEOUT_S:.0f}, nor None"
    raise SettingError("timeout", shown_number(timeout_s), problem)


def _on_timeout_option(on_timeout: object) -> tuple[str, str] | None:
    if on_timeout is None:
        return None
    if not isinstance(on_timeout, str):
        raise SettingError("on_timeout", shown_number(on_timeout), NOT_ON_TIMEOUT)
    return parse_on_timeout(on_timeout, "on_timeout"), "option"


def _dir_option(path: str | os.PathLike[str] | None) -> str | None:
    if path is None:
        return None
    try:
        text = os.fsdecode(path)
    except TypeError:
        text = ""
    # A NUL would surface as a ValueError from the first system call, where only OSError is expected.
    if not text or "\0" in text:
        raise SettingError("dir", repr(path), "is not a path")
    return text


def is_seconds(value: object) -> TypeGuard[float]:
    """Tell whether a value is an int or a float of seconds in range; nan fails both comparisons."""
    return isinstance(value, (int, float)) and not isinstance(value, bool) and 0 <= value <= MAX_TIMEOUT_S


def shown_number(value: object) -> str:
    """Return the repr of a value; a huge int in hexadecimal, because repr refuses more than 4300 digits."""
    return hex(value) if isinstance(value, int) and abs(value) > MAX_SLOTS * MAX_SLOTS else repr(value)


# Directories and names.


def slots_variable(pool: str) -> str:
    """Return the name of the variable with the number of slots of a pool.

    It is `MAX_CONCURRENT_BUILDS` for the default pool. For another one its name follows, in capitals, with
    "_" for whatever is no letter or digit: `MAX_CONCURRENT_BUILDS_WEB_LINK` for "web-link", and for
    "web.link" too.
    """
    if pool == DEFAULT_POOL:
        return "MAX_CONCURRENT_BUILDS"
    return "MAX_CONCURRENT_BUILDS_" + pool.upper().replace(".", "_").replace("-", "_")


def pool_dir(pool: str, base: str) -> str:
    """Return the absolute directory of a pool: `base` itself, or `base/pools/NAME` for a named pool.

    Raises:
        OSError: `base` is relative and the working directory is gone.
    """
    base = os.path.abspath(base)
    return base if pool == DEFAULT_POOL else os.path.join(base, "pools", pool)


def base_dir(environ: Mapping[str, str]) -> str:
    """Return the directory of the default pool that an environment leads to, perhaps a relative path.

    Raises:
        OSError: There is no home directory to put it in.
    """
    return environ.get("BUILD_SLOTS_DIR") or os.path.join(cache_dir(environ), ".build-slots")


def cache_dir(environ: Mapping[str, str]) -> str:
    """Return the user's cache directory.

    On Linux `$XDG_CACHE_HOME`, or `~/.cache`, as platformdirs has it; elsewhere platformdirs says.

    Raises:
        OSError: There is no home directory to put it in.
    """
    if sys.platform == "linux":
        return _xdg_dir(environ, "XDG_CACHE_HOME", ".cache")
    import platformdirs  # noqa: PLC0415 - 20 ms

    try:
        return platformdirs.user_cache_dir()
    except RuntimeError as error:
        raise _no_home() from error


def state_dir(environ: Mapping[str, str]) -> str:
    """Return this program's directory of what is to outlast a reboot and is no setting: the journal.

    On Linux `$XDG_STATE_HOME/buildslots`, or `~/.local/state/buildslots`; elsewhere platformdirs says.

    Raises:
        OSError: There is no home directory to put it in.
    """
    if sys.platform == "linux":
        return os.path.join(_xdg_dir(environ, "XDG_STATE_HOME", ".local/state"), "buildslots")
    import platformdirs  # noqa: PLC0415 - 20 ms

    try:
        return platformdirs.user_state_dir("buildslots", appauthor=False)
    except RuntimeError as error:
        raise _no_home() from error


def config_path(environ: Mapping[str, str]) -> str:
    """Return the path of the user's config file, which need not exist.

    On Linux in `$XDG_CONFIG_HOME/buildslots`, or `~/.config/buildslots`; elsewhere platformdirs says.

    Raises:
        OSError: There is no home directory to look in.
    """
    if sys.platform == "linux":
        directory = os.path.join(_xdg_dir(environ, "XDG_CONFIG_HOME", ".config"), "buildslots")
    else:
        import platformdirs  # noqa: PLC0415 - 20 ms

        try:
            directory = platformdirs.user_config_dir("buildslots", appauthor=False)
        except RuntimeError as error:
            raise _no_home() from error
    return os.path.join(directory, "config.toml")


def _xdg_dir(environ: Mapping[str, str], name: str, below_home: str) -> str:
    """Apply the XDG rule: the variable if it is an absolute path, and anything else in it is to be ignored.

    https://specifications.freedesktop.org/basedir-spec/latest/
    """
    directory = environ.get(name, "")
    return directory if os.path.isabs(directory) else os.path.join(_home(environ), below_home)


def _home(environ: Mapping[str, str]) -> str:
    """Return the home directory: `$HOME`, or what the user database says.

    Not `os.path.expanduser`: it takes an empty or relative $HOME for good, reads the process's own
    environment, and returns "~" where nobody knows, which would become a directory of that name.
    """
    home = environ.get("HOME", "")
    if not os.path.isabs(home):
        try:
            import pwd  # noqa: PLC0415 - seldom needed, and absent on Windows

            home = pwd.getpwuid(os.getuid()).pw_dir  # type: ignore[attr-defined, unused-ignore]
        except (ImportError, KeyError):
            raise _no_home() from None
        if not os.path.isabs(home):
            raise _no_home()
    return home.rstrip("/") or "/"


def _no_home() -> OSError:
    return OSError(errno.ENOENT, "no home directory: set HOME or BUILD_SLOTS_DIR")


# The config file.


class Config:
    """The valid settings of a config file, with their sources, by pool; "" stands for all pools."""

    __slots__ = ("gates", "journal", "on_timeout", "slots", "timeout_s")

    def __init__(self) -> None:
        self.slots: dict[str, tuple[int, str]] = {}
        self.timeout_s: dict[str, tuple[float | None, str]] = {}
        self.on_timeout: dict[str, tuple[str, str]] = {}
        self.journal: dict[str, tuple[str, str]] = {}
        self.gates: dict[str, dict[str, object]] = {}


def pools_in_settings(environ: Mapping[str, str], warn: Callable[[str], None]) -> set[str]:
    """Return the names of the pools that BUILD_SLOTS_POOL or a setting in the config file speaks of.

    Args:
        environ: The environment.
        warn: As in `resolve`.
    """
    config = _load_config(environ, warn)
    chosen = _from_environ(environ, "BUILD_SLOTS_POOL", parse_pool, warn)
    return {
        *config.slots,
        *config.timeout_s,
        *config.on_timeout,
        *config.journal,
        *config.gates,
        *(chosen or ())[:1],
    } - {""}


def _load_config(environ: Mapping[str, str], warn: Callable[[str], None]) -> Config:
    """Read the user's config file; what is wrong with it is reported and left out."""
    try:
        path = config_path(environ)
        os.stat(path)
    except (FileNotFoundError, NotADirectoryError):
        return Config()
    except (OSError, ValueError):
        pass  # the reader says what is wrong with it
    # Without a file its reader stays unloaded.
    from buildslots.config import load  # noqa: PLC0415

    return load(path, warn)
