"""`buildslots pools`: the names of the pools. Shell completion asks for them at every Tab."""

from __future__ import annotations

import os
import sys

from buildslots.errors import SettingError
from buildslots.settings import pools_in_settings, resolve
from buildslots.settings.values import DEFAULT_POOL, parse_pool, slots_variable
from buildslots.view import nearest, warn

TYPE_CHECKING = False
if TYPE_CHECKING:
    import argparse

    from buildslots.settings import Settings


def run(options: argparse.Namespace) -> int:
    """Print the pools that exist in the directory, and those that the settings name."""
    base = base_of(options.dir)
    names = pools_in_settings(os.environ, warn)
    status = 0
    try:
        names.update(existing_pools(base))
    except OSError as error:
        # The other names are still good.
        warn(str(error))
        status = 1
    sys.stdout.write("".join(f"{name}\n" for name in [DEFAULT_POOL, *sorted(names - {DEFAULT_POOL})]))
    return status


def base_of(directory: str | None) -> str:
    """The directory of all pools; `directory` is the value of --dir, or None."""
    # With a number of slots given, `resolve` need not count the machine's cores.
    return resolve(pool=DEFAULT_POOL, slots=1, dir=directory, warn=lambda _: None).dir


def unknown(settings: Settings, directory: str | None) -> str:
    """A sentence that says so if no build has used the pool of `settings` and no setting names it.

    Such a name is most often a mistake in typing. Where nobody has ever built, that cannot be told.
    """
    base = base_of(directory)
    if (
        "url" in settings.said
        or os.path.isdir(settings.dir)
        or not os.path.isdir(base)
        or os.environ.get(slots_variable(settings.pool))
    ):
        return ""
    names = pools_in_settings(os.environ, lambda _: None)
    if settings.pool in names:
        return ""
    try:
        names.update(existing_pools(base))
    except OSError:
        return ""
    near = nearest(settings.pool, sorted(names))
    hint = f"the nearest: {near}" if near else "`buildslots pools` lists those that there are"
    return f"no build has used a pool {settings.pool!r}, and no setting names it; {hint}"


def existing_pools(base: str) -> list[str]:
    """The default pool in the directory `base`, then the named pools that were used there, sorted.

    Raises OSError if the directory exists and cannot be read.
    """
    try:
        with os.scandir(os.path.join(base, "pools")) as entries:
            names = sorted(
                entry.name for entry in entries if _is_named(entry.name) and os.path.isdir(entry.path)
            )
    except (FileNotFoundError, NotADirectoryError):
        names = []
    return [DEFAULT_POOL, *names]


def _is_named(name: str) -> bool:
    try:
        return parse_pool(name, "directory") != DEFAULT_POOL  # which is `base` itself
    except SettingError:
        return False
