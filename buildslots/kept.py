"""What is kept of runs: a directory for each in the state directory, 0700, named after what runs and when.

Of batches and of detached builds. Old ones are removed name by name: what we have not made is left, and the
directory with it.
"""

from __future__ import annotations

import os
import re
import time

from buildslots.disk.lock import share
from buildslots.files import DIR_FDS, PLAIN, close, open_directory

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

KEPT_RUNS, KEPT_S = 50, 14 * 86400.0
"""So many runs are kept at most, and for so long."""
MOST_RUNS = 10_000
"""So many names are looked at."""
UNBORN_S = 60.0
"""A directory that is younger may be of a run that is about to write down how it begins."""
SLUG = 40
_RUN = re.compile(r"-\d{8}-\d{6}(\.[^/]*)?$")


def slug(name: str, instead: str) -> str:
    """`name` as a part of a file's name, on any file system; `instead` if nothing is left of it."""
    return re.sub(r"[^A-Za-z0-9._+-]+", "-", name)[:SLUG].strip("-.") or instead


def run_name(name: str, instead: str) -> str:
    """What a run that begins now is called: `name` and the time."""
    return f"{slug(name, instead)}-{time.strftime('%Y%m%d-%H%M%S')}"


def make_numbered(base: str, named: str) -> str:
    """Make a directory `named` in `base`, or one with a number behind it: its name. Raises OSError."""
    for number in range(1, MOST_RUNS):
        numbered = named if number == 1 else f"{named}.{number}"
        try:
            os.mkdir(os.path.join(base, numbered), 0o700)
        except FileExistsError:
            continue
        return numbered
    raise FileExistsError(f"there are too many runs in {base}")


def names(base: str) -> list[str]:
    """The names in `base`, not all if there are too many; none if it is missing. Raises OSError."""
    try:
        return os.listdir(base)[:MOST_RUNS]
    except FileNotFoundError:
        return []


def open_in(directory: str, name: str) -> int:
    """Open the file `name` of a run to append to it, made if missing: its descriptor. Raises OSError."""
    return os.open(os.path.join(directory, name), os.O_RDWR | os.O_APPEND | os.O_CREAT | PLAIN, 0o600)


def is_locked(directory: str, name: str) -> bool:
    """Whether somebody has the file `name` in `directory` locked."""
    try:
        fd = os.open(os.path.join(directory, name), os.O_RDWR | PLAIN)
    except OSError:
        return False
    try:
        return not share(fd)  # two that look at once must not take each other for the run
    except OSError:
        return True  # no locks here: nobody can know
    finally:
        close(fd)


def never_began(path: str, first: str, lock: str, now: float) -> bool:
    """Whether the directory `path`, by its name one of a run, is of one killed before it wrote anything.

    Args:
        path: Of the directory.
        first: The name of the file that says how a run began.
        lock: The name of the file that a run has locked.
        now: Unix time.

    Raises:
        OSError: It is gone.
    """
    if _RUN.search(path) is None:
        return False
    try:
        if os.stat(os.path.join(path, first)).st_size:
            return False
    except FileNotFoundError:
        pass
    return now - os.stat(path).st_mtime > UNBORN_S and not is_locked(path, lock)


def remove_unborn(base: str, first: str, lock: str, remove: Callable[[str], object]) -> None:
    """Call `remove` with each directory in `base` that `never_began`. Raises nothing."""
    now = time.time()
    try:
        with os.scandir(base) as entries:
            for entry in entries:
                if entry.is_dir(follow_symlinks=False) and never_began(entry.path, first, lock, now):
                    remove(entry.path)
    except OSError:
        pass  # another one has been here


def remove_files(directory: str, ours: re.Pattern[str]) -> None:
    """Remove the files in `directory` with names that are `ours`, and then that. Raises OSError."""
    fd = open_directory(directory, follow=False) if DIR_FDS else None
    try:
        for name in os.listdir(directory if fd is None else fd):
            if ours.fullmatch(name):
                os.unlink(name if fd is not None else os.path.join(directory, name), dir_fd=fd)
    finally:
        if fd is not None:
            close(fd)
    os.rmdir(directory)
