"""`buildslots config`: what counts for a build here, and who said so; `--init` writes a config file."""

from __future__ import annotations

import os
import sys

from buildslots.errors import PoolUnreachableError
from buildslots.files import check_root, make_parents
from buildslots.look import cap_of
from buildslots.settings import IMPORTANCE, resolve
from buildslots.settings.places import config_path, project_path, system_config_path
from buildslots.settings.values import GATES
from buildslots.view import warn
from buildslots.view.table import table
from buildslots.words import SENTENCE_SHOWN, short_path, shown, span

TYPE_CHECKING = False
if TYPE_CHECKING:
    import argparse

    from buildslots.settings import Settings

NAMES = ("on_timeout", *GATES, "priority", "weight", "label", "tokens", *IMPORTANCE, "journal")
"""The settings that are shown as they are."""
OF_SERVER = ("url", "password_file", "on_unreachable", "also_local", "plaintext")
"""Likewise, if the pool is on a server."""
TEMPLATE = """\
# Settings of slot-run and of build_slot(). A line counts when the "#" before it is gone, at once.
# An option and a variable of the environment count before this file. `buildslots config` shows what counts,
# `buildslots help config` explains it.

# How many builds may run at once, in the default pool. Or: MAX_CONCURRENT_BUILDS
#slots = {slots}

# How long a build waits for a slot: seconds, a duration, or "none" for ever. Or: BUILD_SLOTS_TIMEOUT
#timeout = "2m"

# What then: "run" starts it, as overflow; "paced" does so with one build in each timeout; "fail"
# ends it with status 75. Or: BUILD_SLOTS_ON_TIMEOUT
#on_timeout = "run"

# What the machine has to be like before a build starts. There is no bound unless a line is here.
#min_free_memory = "2G"
#max_load = {load}
#max_pressure = {{ io = 40, memory = 10 }}

# How important builds are to the kernel: the niceness, the class of their I/O, and by how much they are to be
# ended before others when memory is out, up to 1000.
#nice = 5
#ionice = "idle"
#oom_score_adj = 500

# How many jobs all builds together may run, besides one each: a number, or "auto" for the cores less one. For
# make, ninja and cargo. Or: BUILD_SLOTS_TOKENS
#tokens = "auto"

# What the journal keeps of a build: "programs" (its program's name), "commands" (all arguments, which may
# hold secrets), or "off". Or: BUILD_SLOTS_JOURNAL
#journal = "programs"

# A pool of its own for one kind of work: `slot-run -p link ...`. Its lines count before those above.
#[pools.link]
#slots = 1
#timeout = "none"

# A pool for several machines, on a server. Nobody but you may read the file with the password of its user.
#[pools.license]
#url = "rediss://builds@ci.example/0/license"
#password_file = "~/.config/buildslots/license.pw"
#on_unreachable = "local"
"""


def run(options: argparse.Namespace) -> int:
    """Show what counts, or write the file."""
    if options.init:
        return _init(config_path(os.environ))
    mistakes: list[str] = []
    settings = resolve(pool=options.pool, dir=options.dir, warn=mistakes.append)
    rows = _rows(options, settings)
    path, system, project = config_path(os.environ), system_config_path(os.environ), project_path(os.environ)
    if options.json:
        import json  # noqa: PLC0415

        named = [{"setting": name, "value": value, "source": source} for name, value, _, source in rows]
        told = {
            "config": path,
            "config_exists": os.path.exists(path),
            "project": project,
            "system": system,
            "system_exists": os.path.exists(system),
            "settings": named,
            "mistakes": mistakes,
        }
        sys.stdout.write(json.dumps(told, indent=2) + "\n")
        return 0
    for mistake in mistakes:
        warn(mistake)
    note = "" if os.path.exists(path) else " (there is none; `buildslots config --init` writes one)"
    files = [f"config file {short_path(path)}{note}"]
    if project:
        files.append(f"project's file {short_path(project)}")
    if os.path.exists(system):
        files.append(f"system's config file {short_path(system)}")
    paths = [one for one in (project, path, system) if one]
    cells = [[name, shown(text, SENTENCE_SHOWN), _source(source, paths)] for name, _, text, source in rows]
    lines = [*files, "", *table(["SETTING", "VALUE", "SAID BY"], cells)]
    sys.stdout.write("\n".join(lines) + "\n")
    return 0


def _rows(options: argparse.Namespace, settings: Settings) -> list[tuple[str, object, str, str]]:
    """Each setting: its name, its value for programs and for people, and who said so."""
    try:
        cap, source = cap_of(settings)
        slots: tuple[object, str, str] = cap, str(cap), source
    except PoolUnreachableError as error:
        slots = None, "?", f"nobody here: {error}"
    timeout = "none" if settings.timeout_s is None else span(settings.timeout_s)
    rows: list[tuple[str, object, str, str]] = [
        ("pool", settings.pool, settings.pool, settings.source("pool")),
        ("dir", settings.dir, short_path(settings.dir), _dir_source(options)),
        ("slots", *slots),
        ("timeout", settings.timeout_s, timeout, settings.source("timeout")),
    ]
    names = NAMES if settings.address == settings.dir else (*OF_SERVER, *NAMES)
    for name in names:
        value, source = settings.said.get(name, (None, "default"))
        rows.append((name, value, "none" if value is None else _bound(name, value), source))
    if settings.disabled:
        rows.append(("disabled", True, "yes: builds run at once, without slots", "BUILD_SLOTS_DISABLE"))
    return rows


def _bound(name: str, value: object) -> str:
    if isinstance(value, dict):
        return ", ".join(f"{name}={percent:g}" for name, percent in value.items())
    if name == "password_file":
        return short_path(str(value))
    if isinstance(value, bool):
        return "yes" if value else "no"
    if name == "tokens" and not value:
        return "off"
    if name == "min_free_memory" and isinstance(value, int):
        return f"{value / 2**30:g}G"
    return f"{value:g}" if isinstance(value, float) else str(value)


def _dir_source(options: argparse.Namespace) -> str:
    if options.dir is not None:
        return "option"
    names = ("BUILD_SLOTS_DIR", "XDG_CACHE_HOME")
    # A relative path in either is ignored: see `settings.places`.
    return next((name for name in names if os.path.isabs(os.environ.get(name, ""))), "default")


def _source(source: str, paths: list[str]) -> str:
    """`source` with the short form of the path of the file that it names, if it does."""
    for path in paths:
        if source.startswith(f"{path},"):
            source = short_path(path) + source[len(path) :]
    return shown(source, SENTENCE_SHOWN)


def _init(path: str) -> int:
    """Write the file, with every line a comment, unless there is one."""
    from buildslots.settings.machine import machine_cap  # noqa: PLC0415 - for this alone

    check_root(path)
    make_parents(path)
    cap = machine_cap()
    text = TEMPLATE.format(slots=cap.slots, load=2 * cap.cores)
    try:
        fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)  # O_EXCL follows no link: open(2)
    except FileExistsError:
        warn(f"{short_path(path)} is there already: it was left as it is")
        return 1
    with open(fd, "w", encoding="utf-8") as file:
        file.write(text)
    sys.stdout.write(f"{short_path(path)} was written: every line in it is a comment yet\n")
    return 0
