"""`buildslots pools`: the names of the pools. Shell completion asks for them at every Tab."""

from __future__ import annotations

import os
import sys

from buildslots.errors import SettingError
from buildslots.settings import DEFAULT_POOL, parse_pool, pools_in_settings, resolve
from buildslots.view.main import warn

TYPE_CHECKING = False
if TYPE_CHECKING:
    import argparse


def run(options: argparse.Namespace) -> int:
    """Print the pools that exist in the directory, and those that the settings name."""
    # A number of slots, so that the machine's cores need not be counted for one.
    base = resolve(pool=DEFAULT_POOL, slots=1, dir=options.dir, warn=warn).dir
    names = pools_in_settings(os.environ, warn)
    status = 0
    try:
        names |= pools_on_disk(base)
    except OSError as error:
        # The other names are still good.
        warn(str(error))
        status = 1
    sys.stdout.write("".join(f"{name}\n" for name in [DEFAULT_POOL, *sorted(names - {DEFAULT_POOL})]))
    return status


def pools_on_disk(base: str) -> set[str]:
    """Return the names of the pools that have a directory in the default pool's, none if it does not exist.

    Raises:
        OSError: There is one that cannot be read.
    """
    try:
        with os.scandir(os.path.join(base, "pools")) as entries:
            return {entry.name for entry in entries if entry.is_dir() and _is_pool(entry.name)}
    except (FileNotFoundError, NotADirectoryError):
        return set()


def _is_pool(name: str) -> bool:
    try:
        parse_pool(name, "directory")
    except SettingError:
        return False
    return True
