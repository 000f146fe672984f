"""`buildslots config`: what counts for a build here, and who said so; `--init` writes a config file."""

from __future__ import annotations

import os
import sys

from buildslots.files import check_root, make_parents
from buildslots.settings import resolve
from buildslots.settings.places import config_path
from buildslots.settings.values import Bounds
from buildslots.view import warn
from buildslots.view.table import table
from buildslots.words import SENTENCE_SHOWN, short_path, shown, span

TYPE_CHECKING = False
if TYPE_CHECKING:
    import argparse

    from buildslots.settings import Settings

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

# What the journal keeps of a build: "programs" (its program's name), "commands" (all arguments, which may
# hold secrets), or "off". Or: BUILD_SLOTS_JOURNAL
#journal = "programs"

# A pool of its own for one kind of work: `slot-run -p link ...`. Its lines count before those above.
#[pools.link]
#slots = 1
#timeout = "none"
"""


def run(options: argparse.Namespace) -> int:
    """Show what counts, or write the file."""
    if options.init:
        return _init(config_path(os.environ))
    mistakes: list[str] = []
    settings = resolve(pool=options.pool, dir=options.dir, warn=mistakes.append)
    rows = _rows(options, settings)
    path = config_path(os.environ)
    if options.json:
        import json  # noqa: PLC0415

        named = [{"setting": name, "value": value, "source": source} for name, value, _, source in rows]
        told = {
            "config": path,
            "config_exists": os.path.exists(path),
            "settings": named,
            "mistakes": mistakes,
        }
        sys.stdout.write(json.dumps(told, indent=2) + "\n")
        return 0
    for mistake in mistakes:
        warn(mistake)
    note = "" if os.path.exists(path) else " (there is none; `buildslots config --init` writes one)"
    cells = [[name, text, _source(source, path)] for name, _, text, source in rows]
    lines = [f"config file {short_path(path)}{note}", "", *table(["SETTING", "VALUE", "SAID BY"], cells)]
    sys.stdout.write("\n".join(lines) + "\n")
    return 0


def _rows(options: argparse.Namespace, settings: Settings) -> list[tuple[str, object, str, str]]:
    """Each setting: its name, its value for programs and for people, and who said so."""
    gates = settings.gates or Bounds()
    file = config_path(os.environ)
    timeout = "none" if settings.timeout_s is None else span(settings.timeout_s)
    rows: list[tuple[str, object, str, str]] = [
        ("pool", settings.pool, settings.pool, _pool_source(options, settings)),
        ("dir", settings.dir, short_path(settings.dir), _dir_source(options)),
        ("slots", settings.slots, str(settings.slots), settings.slots_source),
        ("timeout", settings.timeout_s, timeout, settings.timeout_source),
        ("on_timeout", settings.on_timeout, settings.on_timeout, settings.on_timeout_source),
    ]
    for name in ("min_free_memory", "max_load", "max_pressure"):
        bound = gates.as_dict().get(name)
        rows.append((name, bound, "none" if bound is None else _bound(bound), file if bound else "default"))
    rows.append(("journal", settings.journal, settings.journal, settings.journal_source))
    if settings.disabled:
        rows.append(("disabled", True, "yes: builds run at once, without slots", "BUILD_SLOTS_DISABLE"))
    return rows


def _bound(bound: object) -> str:
    if isinstance(bound, dict):
        return ", ".join(f"{name}={percent:g}" for name, percent in bound.items())
    return f"{bound / 2**30:g}G" if isinstance(bound, int) else f"{bound:g}"


def _pool_source(options: argparse.Namespace, settings: Settings) -> str:
    if options.pool is not None:
        return "option"
    return "BUILD_SLOTS_POOL" if os.environ.get("BUILD_SLOTS_POOL") == settings.pool else "default"


def _dir_source(options: argparse.Namespace) -> str:
    if options.dir is not None:
        return "option"
    names = ("BUILD_SLOTS_DIR", "XDG_CACHE_HOME")
    # A relative path in either is ignored: see `settings.places`.
    return next((name for name in names if os.path.isabs(os.environ.get(name, ""))), "default")


def _source(source: str, file: str) -> str:
    """`source` with the short form of the config file's path."""
    if source.startswith(file):
        source = short_path(file) + source[len(file) :]
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
