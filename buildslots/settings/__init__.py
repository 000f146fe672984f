"""The settings of a build: option, environment, project's file, user's and system's config file, default.

A wrong option is the caller's mistake and raises `SettingError`. A wrong value in the environment or in a
file is reported in one line, and the next source counts: a typo in a shell profile must not break
every build.

`values` knows what a setting can be, `options` what callers and variables say, `places` where the files are.
The others are loaded when they are needed. If nobody has said a number of slots: `machine`, how many builds
this machine can take. If there is a file: `config`, what files may say, and `compiled`, what they said last
time; and `file` if one has changed. If a pool is not of this machine: `address` and `server`.
"""

from __future__ import annotations

import os

from buildslots.settings.options import (
    AUTO,
    agent_of,
    defaults,
    from_environ,
    given_dir,
    given_jobs,
    given_slots,
    given_timeout,
    given_tokens,
    given_weight,
    given_word,
    parse_tokens,
    parse_where,
    warn_of_names,
)
from buildslots.settings.places import base_dir, config_paths, pool_dir, project_path
from buildslots.settings.values import (
    DEFAULT_POOL,
    GATES,
    MAX_SLOTS,
    NOT_A_LABEL,
    NOT_ON_TIMEOUT,
    NOT_PRIORITY,
    UNSET,
    Bounds,
    parse_dir,
    parse_duration,
    parse_journal,
    parse_label,
    parse_on_timeout,
    parse_priority,
    parse_slots,
    parse_switch,
    slots_variable,
)

IMPORTANCE = ("nice", "ionice", "oom_score_adj")
"""How important the command is to the kernel."""
FILED = (*GATES, *IMPORTANCE)
"""What counts only if somebody says so: in a file, or of gates as an option."""

# mypy takes a name TYPE_CHECKING for typing's own; importing typing would cost every build 8 ms.
TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from buildslots.settings.config import Config, Said
    from buildslots.settings.values import Timeout


class Settings:
    """What one build is to do, and who said so.

    Attributes:
        said: Each value that follows, with its source: "option", the name of a variable, "FILE, line N, key
            KEY" or a description of the default. The timeout is called "timeout" here, and the bounds of
            `gates` go by their own names.
        pool: The name of the pool.
        address: Where it is: `dir`, or an `Address` if it is on a server, with all that concerns that.
        dir: The pool's own directory, absolute. It need not exist. If the pool is on a server, that of the
            pool of this name on this machine.
        slots: How many slots of the pool may be held when this build starts, at least 1. `MAX_SLOTS` if the
            pool is on a server, which knows the number, and nobody has said a smaller one.
        are_own_slots: Whether anybody said so, rather than the machine's default, or the server.
        timeout_s: How long to wait for a slot, in seconds; 0.0 not at all, None for ever.
        on_timeout: "run", "paced" or "fail".
        journal: What the journal keeps: "programs", "commands" or "off".
        priority: "high", "normal" or "low": a head start in line.
        label: What others are told that the build is, or None for its command.
        wanted: How many slots it needs together, however many there are: the pool may say another number.
        weight: The same, from 1 to `slots`.
        gates: What the machine has to be like before it starts, or None; `buildslots.gates` looks at it.
        nice: The niceness that it is to have at least, or None.
        ionice: "idle" or None.
        oom_score_adj: By how much the kernel is to prefer it when memory is out, or None.
        tokens: How many tokens builds share on this machine, or None: then it takes none.
        jobs: How many jobs it may run at once, or None.
        agent: The variable by which a coding agent has told that it runs this, or None.
        disabled: Whether BUILD_SLOTS_DISABLE says that builds run at once, without slots.
    """

    __slots__ = (
        "address",
        "agent",
        "are_own_slots",
        "dir",
        "disabled",
        "gates",
        "ionice",
        "jobs",
        "journal",
        "label",
        "nice",
        "on_timeout",
        "oom_score_adj",
        "pool",
        "priority",
        "said",
        "slots",
        "timeout_s",
        "tokens",
        "wanted",
        "weight",
    )

    def __init__(
        self,
        directory: str,
        said: dict[str, Said],
        *,
        disabled: bool = False,
        are_own_slots: bool = True,
        agent: str | None = None,
    ) -> None:
        self.said = said
        self.agent = agent
        value = {name: value for name, (value, _) in said.items()}
        self.pool: str = value["pool"]
        self.dir = directory
        self.address: str = value.get("url") or directory
        self.slots: int = value["slots"]
        self.timeout_s: float | None = value["timeout"]
        self.on_timeout: str = value["on_timeout"]
        self.journal: str = value["journal"]
        self.priority: str = value["priority"]
        self.label: str | None = value["label"]
        self.wanted: int = value["weight"]
        self.weight = min(self.wanted, self.slots)
        bounds = {name: said[name][0] for name in GATES if name in said}
        self.gates = Bounds(**bounds) if bounds else None
        self.nice: int | None = value.get("nice")
        self.ionice: str | None = value.get("ionice")
        self.oom_score_adj: int | None = value.get("oom_score_adj")
        self.tokens: int | None = value["tokens"] or None
        self.jobs: int | None = value["jobs"]
        self.disabled = disabled
        self.are_own_slots = are_own_slots

    def __repr__(self) -> str:
        return f"<Settings {' '.join(f'{name}={getattr(self, name)!r}' for name in self.__slots__)}>"

    def source(self, name: str) -> str:
        """Who said the value of that name in `said`."""
        return self.said[name][1]

    def replace(  # noqa: PLR0913 - one for each option, by keyword only
        self,
        *,
        timeout_s: Timeout = UNSET,
        on_timeout: str | None = None,
        weight: int | None = None,
        priority: str | None = None,
        label: str | None = None,
        warn: Callable[[str], None] = lambda _: None,
    ) -> Settings:
        """Return these settings with options of a single wait.

        Args:
            timeout_s: How long to wait: seconds, "10m", a timedelta; 0 not at all, None for ever; UNSET for
                no change.
            on_timeout: "run", "paced" or "fail"; None for no change.
            weight: How many slots it needs together; None for no change. More than there are counts as all.
            priority: "high", "normal" or "low"; None for no change.
            label: What others are told that it is; None for no change.
            warn: Is called with one line if the weight is more.

        Raises:
            SettingError: An option has a wrong value.
        """
        given = {
            "timeout": given_timeout(timeout_s),
            "on_timeout": given_word(on_timeout, "on_timeout", parse_on_timeout, NOT_ON_TIMEOUT),
            "priority": given_word(priority, "priority", parse_priority, NOT_PRIORITY),
            "label": given_word(label, "label", parse_label, NOT_A_LABEL),
            "weight": given_weight(weight, self.slots, warn, self.are_own_slots),
        }
        said = self.said | {name: option for name, option in given.items() if option is not None}
        return Settings(
            self.dir, said, disabled=self.disabled, are_own_slots=self.are_own_slots, agent=self.agent
        )


def resolve(  # noqa: PLR0913 - one for each thing that can be set, by keyword only
    *,
    pool: str | None = None,
    slots: int | None = None,
    timeout_s: Timeout = UNSET,
    on_timeout: str | None = None,
    weight: int | None = None,
    priority: str | None = None,
    label: str | None = None,
    nice: int | None = None,
    tokens: int | str | None = None,
    jobs: int | None = None,
    gates: Mapping[str, object] | None = None,
    dir: str | os.PathLike[str] | None = None,  # noqa: A002 - the name of the option
    environ: Mapping[str, str] | None = None,
    warn: Callable[[str], None],
) -> Settings:
    """Find the settings that hold for one build.

    Each argument is an option of the caller's. It wins over the environment, which wins over the project's
    file, which wins over the user's config file, which wins over the system's. A variable that is set to
    nothing counts as not set. What a project may say of the machine's state and of priority only adds to what
    the config files say: `config.gentler`.

    Args:
        pool: The name of the pool, or its URL; before BUILD_SLOTS_POOL and "default". BUILD_SLOTS_URL, and
            then the files, say where the pool of a name is, if it is not on this machine.
        slots: How many slots; before MAX_CONCURRENT_BUILDS (for a pool other than the default one,
            MAX_CONCURRENT_BUILDS_NAME), and the machine's own number.
        timeout_s: How long to wait: seconds, "10m", a timedelta; 0 not at all, None for ever; before
            BUILD_SLOTS_TIMEOUT, and 120.
        on_timeout: "run", "paced" or "fail"; before BUILD_SLOTS_ON_TIMEOUT, and "run".
        weight: How many slots it needs together; None for 1. More than there are is reported, and all.
        priority: "high", "normal" or "low"; before BUILD_SLOTS_PRIORITY, and "normal".
        label: What others are told that it is; None for its command.
        nice: The niceness of slot-run's command, from -20 to 19.
        tokens: How many tokens builds share on this machine, 0 for none, "auto" for the cores less one;
            before BUILD_SLOTS_TOKENS, and none.
        jobs: How many jobs it may run at once.
        gates: Arguments of `buildslots.Gates`.
        dir: The directory of the default pool, which the named pools are in; before BUILD_SLOTS_DIR and
            `.build-slots` in the user's cache directory.
        environ: The environment; the process's own if None.
        warn: Is called with one line, without a line end, for each wrong value in the environment and for
            each mistake in the files. One process reports the same mistake in a file once.

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
    slots_option = given_slots(slots)
    timeout_option = given_timeout(timeout_s)
    on_timeout_option = given_word(on_timeout, "on_timeout", parse_on_timeout, NOT_ON_TIMEOUT)
    priority_option = given_word(priority, "priority", parse_priority, NOT_PRIORITY)
    label_option = given_word(label, "label", parse_label, NOT_A_LABEL)
    tokens_option = given_tokens(tokens)
    jobs_option = given_jobs(jobs)
    base = given_dir(dir)
    pool_option = None if pool is None else (parse_where(pool, "pool"), "option")
    project, configs = _load_files(environ, warn)
    its_pool, url = _its_pool(pool_option, environ, project, warn)
    pool = its_pool[0]
    directory = pool_dir(pool, base or _base(environ, warn))
    if ask_for_names:
        _looked.append(True)
        warn_of_names(environ, slots_variable(pool), warn)

    def filed(key: str) -> Said | None:
        said = next((said for config in configs if (said := config.get(key, pool))), None)
        if project is None:
            return said
        from buildslots.settings.config import gentler  # noqa: PLC0415 - loaded with the project's file

        return gentler(key, project.get(key, ""), said)

    said: dict[str, Said] = {"pool": its_pool}
    said |= _on_server(url, pool, directory, environ, configs, warn)
    its_slots = (
        slots_option or from_environ(environ, slots_variable(pool), parse_slots, warn) or filed("slots")
    )
    are_own_slots = its_slots is not None
    said["slots"] = its_slots or ((MAX_SLOTS, "the pool's own") if "url" in said else _machine_slots())
    agent = agent_of(environ)
    default = defaults(agent)
    for key, option, name, parse in (
        ("timeout", timeout_option, "BUILD_SLOTS_TIMEOUT", parse_duration),
        ("on_timeout", on_timeout_option, "BUILD_SLOTS_ON_TIMEOUT", parse_on_timeout),
        ("journal", None, "BUILD_SLOTS_JOURNAL", parse_journal),
        ("priority", priority_option, "BUILD_SLOTS_PRIORITY", parse_priority),
        ("tokens", tokens_option, "BUILD_SLOTS_TOKENS", parse_tokens),
    ):
        said[key] = option or from_environ(environ, name, parse, warn) or filed(key) or default[key]
    if said["tokens"][0] == AUTO:
        tokens_here, cores = auto_tokens()
        its_source = f"{said['tokens'][1]}: auto, of {cores} core{'' if cores == 1 else 's'}"
        said["tokens"] = tokens_here, its_source
    weight_option = given_weight(weight, said["slots"][0], warn, are_own_slots)
    said["weight"] = weight_option or filed("weight") or (1, "default")
    said["label"] = label_option or filed("label") or (None, "default")
    if project or configs:
        for key in FILED:
            if found := filed(key):
                said[key] = found
    options = {**(gates or {}), **({} if nice is None else {"nice": nice})}
    said |= {key: (value, "option") for key, value in options.items()}
    said["jobs"] = jobs_option or (None, "default")
    switch = from_environ(environ, "BUILD_SLOTS_DISABLE", parse_switch, warn)
    is_disabled = switch is not None and switch[0]
    return Settings(directory, said, disabled=is_disabled, are_own_slots=are_own_slots, agent=agent)


def _its_pool(
    option: Said | None, environ: Mapping[str, str], project: Config | None, warn: Callable[[str], None]
) -> tuple[Said, Said | None]:
    """The name of the pool, and the `Address` if it is by that that somebody has named it."""
    said: Said = (
        option
        or from_environ(environ, "BUILD_SLOTS_POOL", parse_where, warn)
        or (project and project.get("pool", ""))
        or (DEFAULT_POOL, "default")
    )
    where, source = said
    return ((where.name, source), said) if "://" in where else (said, None)


def _base(environ: Mapping[str, str], warn: Callable[[str], None]) -> str:
    from_environ(environ, "BUILD_SLOTS_DIR", parse_dir, warn)  # for what it says of a wrong one
    return base_dir(environ)


def _on_server(  # noqa: PLR0913, PLR0917 - as `server.on_server`
    url: Said | None,
    pool: str,
    directory: str,
    environ: Mapping[str, str],
    configs: list[Config],
    warn: Callable[[str], None],
) -> dict[str, Said]:
    """What is said of the server that the pool is on; nothing if it is on none."""
    if url or environ.get("BUILD_SLOTS_URL") or any(("url", pool) in config.said for config in configs):
        from buildslots.settings.server import on_server  # noqa: PLC0415 - only for a pool that is not here

        return on_server(url, pool, directory, environ, configs, warn)
    return {}


def _machine_slots() -> tuple[int, str]:
    from buildslots.settings.machine import machine_cap  # noqa: PLC0415 - not for who has said a number

    cap = machine_cap()
    return cap.slots, cap.source


def auto_tokens() -> tuple[int, int]:
    """Return how many tokens "auto" is on this machine, and how many cores it has."""
    from buildslots.settings.machine import machine_cap  # noqa: PLC0415 - only for who says "auto"

    cores = machine_cap().cores
    # On one core a token all the same: without any each build would have one job, as if it were told -j1.
    return max(1, cores - 1), cores


_looked: list[bool] = []
"""Not empty when this process has looked at the names of its variables."""


def pools_in_settings(environ: Mapping[str, str], warn: Callable[[str], None]) -> set[str]:
    """Return the names of the pools, or URLs, that a variable or a setting in a file speaks of."""
    project, configs = _load_files(environ, warn)
    chosen = from_environ(environ, "BUILD_SLOTS_POOL", parse_where, warn) or (
        project and project.get("pool", "")
    )
    url = from_environ(environ, "BUILD_SLOTS_URL", parse_where, lambda _: None) or ("", "")
    named = {*(chosen or ())[:1], url[0].rpartition("/")[2]}
    return named.union(pool for config in configs for _, pool in config.said) - {""}


def _load_files(
    environ: Mapping[str, str], warn: Callable[[str], None]
) -> tuple[Config | None, list[Config]]:
    """Read the project's file, and the user's and the system's config files, as far as there are any.

    What is wrong with them is reported and left out.
    """
    project = project_path(environ)
    paths = config_paths(environ)
    if not (project or paths):
        return None, []
    # Without a file its reader stays unloaded.
    from buildslots.settings.compiled import load  # noqa: PLC0415

    return (
        load(project, environ, warn, of_project=True) if project else None,
        [load(path, environ, warn) for path in paths],
    )
