"""What the files with settings say: the keys that there are, and what a project may say of them.

Loaded only where there is such a file: a project's, the user's, or the system's.

The files are TOML. The user's is `~/.config/buildslots/config.toml` on Linux, the system's, of the same form,
`/etc/buildslots/config.toml`::

    slots = 3               # of the default pool
    timeout = "10m"         # of every pool; seconds as a number, or a duration
    on_timeout = "paced"    # of every pool, as are priority, journal, nice, ionice and oom_score_adj
    max_load = 16           # of every pool, as are min_free_memory and max_pressure

    [pools.link]            # of one pool, before the lines above; [pools.default] is the default pool
    slots = 1
    timeout = "none"
    min_free_memory = "4G"
    max_pressure = { io = 40, memory = 10 }

    [pools.license]         # of one that is on a server
    url = "rediss://builds@ci.example/0/license"
    password_file = "~/.config/buildslots/license.pw"
    on_unreachable = "fail"

A project's is `.buildslots.toml` (`places.project_path`), and says less (`OF_PROJECTS`)::

    pool = "link"
    weight = 2
    label = "the whole site"
"""

from __future__ import annotations

import os

from buildslots.errors import SettingError
from buildslots.settings.options import NOT_TOKENS, parse_tokens
from buildslots.settings.values import (
    GATES,
    NOT_A_DURATION,
    NOT_A_LABEL,
    NOT_A_POOL,
    NOT_JOURNAL,
    NOT_ON_TIMEOUT,
    NOT_PRIORITY,
    NOT_SLOTS,
    PRIORITIES,
    parse_duration,
    parse_journal,
    parse_label,
    parse_nice,
    parse_on_timeout,
    parse_pool,
    parse_priority,
    parse_slots,
    parse_switch,
)

# mypy takes a name TYPE_CHECKING for typing's own; importing typing would cost every build 8 ms.
TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

    Said = tuple[Any, str]
    """A value, and who says so."""

NOT_NICER = "is not a niceness from 0 to 19 (slot-run --nice takes others for one run)"
NOT_IDLE = "is not 'idle', the one class that there is here"
NOT_AN_ADJUSTMENT = "is not a whole number from 0 to 1000"
ON_UNREACHABLE = ("local", "fail")
"""What becomes of builds while the server cannot be reached: they take the machine's own slots, or do not
start."""
NOT_ON_UNREACHABLE = "is neither 'local' nor 'fail'"
NOT_A_FILE = "is not the absolute path of a file, nor one that begins with ~/"
NOT_TRUE = "is neither true nor false"


class Config:
    """The valid settings of one file.

    Attributes:
        said: Each value with its source, by key and pool; "" stands for all pools.
    """

    __slots__ = ("said",)

    def __init__(self) -> None:
        self.said: dict[tuple[str, str], Said] = {}

    def get(self, key: str, pool: str) -> Said | None:
        """What it says of `key` for `pool`."""
        return self.said.get((key, pool)) or self.said.get((key, ""))


def _parse_nicer(text: str, source: str) -> int:
    try:
        nice = parse_nice(text, source)
    except SettingError:
        nice = -1
    if nice < 0:
        raise SettingError(source, text, NOT_NICER)
    return nice


def _parse_ionice(text: str, source: str) -> str:
    if text != "idle":
        raise SettingError(source, text, NOT_IDLE)
    return text


def _parse_oom_score_adj(text: str, source: str) -> int:
    if not (text.isascii() and text.isdigit()) or len(text) > 4 or int(text) > 1000:
        raise SettingError(source, text, NOT_AN_ADJUSTMENT)
    return int(text)


def _parse_url(text: str, _source: str) -> str:
    """The text itself. `file` has read it as a URL, and `server` does, for the builds of that pool alone."""
    return text


def _parse_file(text: str, source: str) -> str:
    if not (os.path.isabs(text) or text.startswith("~/")) or text.endswith("/") or not text.isprintable():
        raise SettingError(source, text, NOT_A_FILE)
    return text


def _parse_on_unreachable(text: str, source: str) -> str:
    if text not in ON_UNREACHABLE:
        raise SettingError(source, text, NOT_ON_UNREACHABLE)
    return text


NUMBERS: dict[str, tuple[Callable[[str, str], object], str]] = {
    "slots": (parse_slots, NOT_SLOTS),
    "weight": (parse_slots, NOT_SLOTS),
    "nice": (_parse_nicer, NOT_NICER),
    "oom_score_adj": (_parse_oom_score_adj, NOT_AN_ADJUSTMENT),
}
"""Keys of whole numbers: what reads them from text, and what is wrong with a value of another type."""

WORDS: dict[str, tuple[Callable[[str, str], object], str]] = {
    "pool": (parse_pool, NOT_A_POOL),
    "on_timeout": (parse_on_timeout, NOT_ON_TIMEOUT),
    "priority": (parse_priority, NOT_PRIORITY),
    "label": (parse_label, NOT_A_LABEL),
    "journal": (parse_journal, NOT_JOURNAL),
    "ionice": (_parse_ionice, NOT_IDLE),
    "url": (_parse_url, "is not the URL of a pool"),
    "password_file": (_parse_file, NOT_A_FILE),
    "on_unreachable": (_parse_on_unreachable, NOT_ON_UNREACHABLE),
}
"""Keys of texts; likewise."""

SWITCHES: dict[str, tuple[Callable[[str, str], object], str]] = {
    "also_local": (parse_switch, NOT_TRUE),
    "plaintext": (parse_switch, NOT_TRUE),
}
"""Keys of true or false; likewise."""

KEYS = {
    **NUMBERS,
    **WORDS,
    **SWITCHES,
    "timeout": (parse_duration, NOT_A_DURATION),
    "tokens": (parse_tokens, NOT_TOKENS),
    **GATES,
}
"""All keys."""

OF_SERVERS = ("url", "password_file", "on_unreachable", "also_local", "plaintext")
"""What a file says of one pool, in its table: it is on a server, and what concerns that."""

OF_PROJECTS = ("pool", "weight", "priority", "timeout", "on_timeout", "label", *GATES)
"""What a project may say: it asks for less of the machine, never for more."""

OF_CONFIGS = tuple(key for key in KEYS if key not in ("pool", "weight", "label"))
"""What the user's and the system's file may say, of all pools and of one."""


def gentler(key: str, project: Said | None, config: Said | None) -> Said | None:
    """What counts where a project says something, and perhaps the user or the system does as well.

    The project, except for what the user has bounded more: a gate stays as strict, and who is to be behind
    others stays there.
    """
    if project is None or config is None:
        return project or config
    ours, theirs = project[0], config[0]
    if key == "priority":
        return project if PRIORITIES[ours] <= PRIORITIES[theirs] else config
    if key == "min_free_memory":
        return project if ours >= theirs else config
    if key == "max_load":
        return project if ours <= theirs else config
    if key == "max_pressure":
        least = theirs | {name: min(most, theirs.get(name, most)) for name, most in ours.items()}
        return config if least == theirs else (least, project[1])
    return project
