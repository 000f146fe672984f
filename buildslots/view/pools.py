"""`buildslots pools`: the names of the pools. Shell completion asks for them at every Tab."""

from __future__ import annotations

import os
import sys

from buildslots.errors import SettingError
from buildslots.settings import pools_in_settings, resolve
from buildslots.settings.values import DEFAULT_POOL, parse_pool
from buildslots.view import warn

TYPE_CHECKING = False
if TYPE_CHECKING:
    import argparse


def run(options: argparse.Namespace) -> int:
    """Print the pools that exist in the directory, and those that the settings name."""
    # With a number of slots given, `resolve` need not count the machine's cores.
    base = resolve(pool=DEFAULT_POOL, slots=1, dir=options.dir, warn=warn).dir
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
