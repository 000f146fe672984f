"""What a pool consists of, kept young: those who clean up by age would take it from under our builds.

systemd-tmpfiles(8), tmpreaper(8), and cron jobs with `find -mtime +10 -delete` look at nothing but times, and
nothing that we do with a slot changes those. A held slot that is removed is a slot that two builds have.

Loaded when something is old, about once a day: see `PoolDirectory.under_mutex` and `keep_young`.
"""

from __future__ import annotations

import os
import time
from stat import S_ISDIR, S_ISLNK

from buildslots.disk.lock import OLD_S, keep_young
from buildslots.files import DIR_FDS, DIRECTORY, PLAIN, ROOMS, close, open_directory

TOUCH_S = 0.1
"""How long one pass may take. Members of a shared pool can make masses of names."""


def refresh(chain: list[str]) -> None:
    """Give what is old in a pool, and the directories on the way to it, the times of now; raises nothing.

    Tickets and their bells are left to their owners, who are awake: there may be thousands.

    Args:
        chain: The directory of the default pool, and those from there to the pool's own.
    """
    if not DIR_FDS:
        return  # Windows, where nobody cleans up like this
    until = time.monotonic() + TOUCH_S
    try:
        for directory in chain:
            pool = open_directory(directory)
            try:
                keep_young(pool)
                if directory == chain[-1]:
                    _refresh_pool(pool, until)
            finally:
                close(pool)
    except OSError:
        pass  # it is gone, say: then there is nothing to keep


def _refresh_pool(pool: int, until: float) -> None:
    ours = {"mutex", "rules", "rules.lock", *ROOMS}
    _refresh_names(pool, [n for n in os.listdir(pool) if n in ours or n.startswith("slot-")], until)
    for name in ("holders", "bells"):
        room = os.open(name, os.O_RDONLY | DIRECTORY | PLAIN, dir_fd=pool)
        try:
            _refresh_names(room, [n for n in os.listdir(room) if n.startswith("slot-")], until)
        finally:
            close(room)


def _refresh_names(directory: int, names: list[str], until: float) -> None:
    """The same for `names` in `directory`: no link is followed, and no file that has a second name changed.

    That one may be somebody's who is going to wonder about its times.
    """
    for name in names:
        try:
            about = os.stat(name, dir_fd=directory, follow_symlinks=False)
            is_plain = S_ISDIR(about.st_mode) or (about.st_nlink == 1 and not S_ISLNK(about.st_mode))
            before = time.time() - OLD_S
            if is_plain and about.st_mtime < before:
                os.utime(name, dir_fd=directory, follow_symlinks=False)
            elif is_plain and about.st_atime < before:
                # That of a record says when something happened in the pool (`wait.Pace`).
                kept = (time.time_ns(), about.st_mtime_ns)
                os.utime(name, ns=kept, dir_fd=directory, follow_symlinks=False)
        except OSError:
            pass  # removed meanwhile, or another user's who lets nobody write it
        if time.monotonic() > until:
            return
