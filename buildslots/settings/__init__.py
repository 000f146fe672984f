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

`values` knows what a setting can be, `places` where its files are, `machine` how many builds this machine can
take, `file` what the config file says, `compiled` what it said last time. The last three are loaded when they
are needed: `machine` if nobody has said a number of slots, `compiled` if there is a config file, `file` if it
has changed.
"""

from __future__ import annotations

import os

from buildslots.errors import SettingError
from buildslots.settings.places import base_dir, config_path, pool_dir
from buildslots.settings.values import (
    DEFAULT_JOURNAL,
    DEFAULT_ON_TIMEOUT,
    DEFAULT_POOL,
    DEFAULT_TIMEOUT_S,
    MAX_SLOTS,
    MAX_TIMEOUT_S,
    NOT_HOME,
    NOT_ON_TIMEOUT,
    TOO_MANY_SLOTS,
    UNSET,
    VARIABLES,
    Bounds,
    Config,
    Unset,
    is_seconds,
    parse_dir,
    parse_duration,
    parse_journal,
    parse_on_timeout,
    parse_pool,
    parse_slots,
    parse_switch,
    shown_number,
    slots_variable,
)

# mypy takes a name TYPE_CHECKING for typing's own; importing typing would cost every build 8 ms.
TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from typing import TypeVar

    from buildslots.settings.values import Timeout

    T = TypeVar("T")


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
        gates: What the machine has to be like before it starts, or None; `buildslots.gates` looks at it.
        disabled: Whether BUILD_SLOTS_DISABLE says that builds run at once, without slots.
    """

    __slots__ = (
        "dir",
        "disabled",
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
        gates: Bounds | None,
        disabled: bool = False,
    ) -> None:
        self.pool = pool
        self.dir = directory
        self.slots, self.slots_source = slots
        self.timeout_s, self.timeout_source = timeout
        self.on_timeout, self.on_timeout_source = on_timeout
        self.journal, self.journal_source = journal
        self.weight = weight
        self.gates = gates
        self.disabled = disabled

    def __repr__(self) -> str:
        return f"<Settings {' '.join(f'{name}={getattr(self, name)!r}' for name in self.__slots__)}>"

    def replace(
        self,
        *,
        timeout_s: Timeout = UNSET,
        on_timeout: str | None = None,
        weight: int | None = None,
        warn: Callable[[str], None] = lambda _: None,
    ) -> Settings:
        """Return these settings with options of a single wait.

        Args:
            timeout_s: How long to wait: seconds, "10m", a timedelta; 0 not at all, None for ever; UNSET for
                no change.
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
            disabled=self.disabled,
        )


def resolve(  # noqa: PLR0913 - one for each thing that can be set, by keyword only
    *,
    pool: str | None = None,
    slots: int | None = None,
    timeout_s: Timeout = UNSET,
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
        timeout_s: How long to wait: seconds, "10m", a timedelta; 0 not at all, None for ever; before
            BUILD_SLOTS_TIMEOUT, `timeout` in the config file, and 120.
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
        The settings. Of the pool nothing has been created on disk.

    Raises:
        SettingError: An option has a wrong value.
        OSError: No directory can be named: there is no home directory, or the working directory is gone.
    """
    ask_for_names = environ is not None or not _looked
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
    if base is None:
        _from_environ(environ, "BUILD_SLOTS_DIR", parse_dir, warn)  # for what it says of a wrong one
        base = base_dir(environ)
    if ask_for_names:
        _warn_of_names(environ, slots_variable(pool), warn)
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
        gates=_bounds(config, pool, gates),
        disabled=(_from_environ(environ, "BUILD_SLOTS_DISABLE", parse_switch, warn) or (False,))[0],
    )


def _bounds(config: Config, pool: str, options: Mapping[str, object] | None) -> Bounds | None:
    found = config.gates.get("", {}) | config.gates.get(pool, {}) | dict(options or {})
    return Bounds(**found) if found else None  # type: ignore[arg-type]


def _machine_slots() -> tuple[int, str]:
    from buildslots.settings.machine import machine_cap  # noqa: PLC0415 - not for who has said a number

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


def _warn_of_names(environ: Mapping[str, str], its_slots: str, warn: Callable[[str], None]) -> None:
    """Report each variable that is nearly one of ours: a setting that is misspelt would be none, silently.

    Once in a process: to look at all names takes as long as all else in `resolve`.
    """
    _looked.append(True)
    for name in environ:
        if ("SLOT" in name or "CONC" in name) and name not in VARIABLES:
            if name == its_slots or name.startswith("MAX_CONCURRENT_BUILDS_"):
                continue  # of some pool
            from buildslots.settings.near import nearest  # noqa: PLC0415 - hardly ever

            meant = nearest(name, {*VARIABLES, its_slots})
            if meant is not None:
                warn(f"{name} is no setting, and ignored: the variable is {meant}")


_looked: list[bool] = []


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
    if isinstance(timeout_s, str):
        return parse_duration(timeout_s, "timeout"), "option"
    # A timedelta, whose module is not loaded for this.
    seconds = timeout_s.total_seconds() if hasattr(timeout_s, "total_seconds") else timeout_s
    if is_seconds(seconds):
        return float(seconds), "option"
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
    if text == "~" or text.startswith(("~/", f"~{os.sep}")):
        raise SettingError("dir", text, NOT_HOME)
    # A NUL would surface as a ValueError from the first system call, where only OSError is expected.
    if not text or "\0" in text:
        raise SettingError("dir", repr(path), "is not a path")
    return text


# The config file.


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
    from buildslots.settings.compiled import load  # noqa: PLC0415

    return load(path, environ, warn)
