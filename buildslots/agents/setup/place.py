"""The files of agents: found through the links of their owner, read within bounds, and replaced as a whole.

People keep such files in a repository of their own and link them. So a symbolic link is followed where its
owner is us or root, as on the way to a pool (`files.Room`), and the file that it leads to is the one that is
replaced: by a new one beside it that takes its name. What it was before is kept beside it once, 0600.
"""

from __future__ import annotations

import os
import time
from stat import S_IMODE, S_ISLNK, S_ISREG
from typing import NamedTuple

from buildslots.agents.setup.refused import RefusedError
from buildslots.disk.lock import try_lock
from buildslots.files import PLAIN, Room, check_root, close, make_parents
from buildslots.words import short_path

MOST_BYTES = 1024 * 1024
MOST_LINKS = 8
"""In a row; people need one or two."""
SUFFIX = ".before-buildslots"
"""Behind the name of a file: what it was before anything of ours was in it."""
LOCK_S = 10.0
"""How long another run is waited for, which writes in the same directory."""
PAUSE_S = 0.02


class Found(NamedTuple):
    """A file as it was read.

    Attributes:
        path: Its path behind all links.
        data: What is in it; None if there is no file.
        mode: Its permissions.
    """

    path: str
    data: bytes | None
    mode: int

    @property
    def backup(self) -> str:
        """Where the file is kept as it was before."""
        return self.path + SUFFIX


def find(path: str, *, within: str | None = None) -> Found:
    """The file that the absolute `path` leads to; it need not exist.

    Args:
        path: Where it should be.
        within: A directory that no link may lead out of: a repository may come from anybody.

    Raises:
        RefusedError: It is not ours to write.
        OSError: It cannot be looked at.
    """
    _check_root(path, path)
    target = path
    for _ in range(MOST_LINKS):
        link = _link(target)
        if link is None:
            break
        target = os.path.join(os.path.realpath(os.path.dirname(target)), link)
        if not os.path.exists(target):
            raise RefusedError(path, f"it is a link to {short_path(target)}, which is not there")
    else:
        raise RefusedError(path, f"more than {MOST_LINKS} links in a row")
    real = os.path.join(os.path.realpath(os.path.dirname(target)), os.path.basename(target))
    if within is not None and not real.startswith(os.path.join(os.path.realpath(within), "")):
        raise RefusedError(path, f"it is a link out of the project, to {short_path(real)}")
    _check_root(real, path)
    try:
        with Room(real) as (name, room):
            data, mode = _read(name, room, path)
    except FileNotFoundError:
        data, mode = None, 0o600 if within is None else 0o644
    return Found(real, data, mode)


def _check_root(place: str, path: str) -> None:
    try:
        check_root(place)
    except PermissionError as error:
        where = short_path(str(error.filename))
        raise RefusedError(path, f"root writes nothing in a place of another user: {where}") from None


def _link(path: str) -> str | None:
    """Where the symbolic link `path` leads; None if it is none."""
    try:
        with Room(path) as (name, room):
            about = os.stat(name, dir_fd=room, follow_symlinks=False)
            if not S_ISLNK(about.st_mode):
                return None
            if hasattr(os, "geteuid") and about.st_uid not in (0, os.geteuid()):
                raise RefusedError(path, f"it is a symbolic link of another user (uid {about.st_uid})")
            return os.readlink(name, dir_fd=room)
    except FileNotFoundError:
        return None


def _read(name: str, room: int | None, path: str) -> tuple[bytes, int]:
    """The bytes and permissions of a file of ours. Raises RefusedError, and OSError."""
    about = os.stat(name, dir_fd=room, follow_symlinks=False)
    if not S_ISREG(about.st_mode):
        raise RefusedError(path, "it is no file")
    fd = os.open(name, os.O_RDONLY | PLAIN, dir_fd=room)
    try:
        about = os.fstat(fd)
        if not S_ISREG(about.st_mode):
            raise RefusedError(path, "it is no file")
        if hasattr(os, "geteuid") and about.st_uid != os.geteuid():
            raise RefusedError(path, f"it belongs to another user (uid {about.st_uid})")
        with open(fd, "rb", closefd=False) as file:
            data = file.read(MOST_BYTES + 1)
        if len(data) > MOST_BYTES:
            raise RefusedError(path, f"it is larger than {MOST_BYTES} bytes")
        return data, S_IMODE(about.st_mode)
    finally:
        close(fd)


def backup(found: Found) -> bytes | None:
    """What the file was before anything of ours was in it; None if that was not kept."""
    try:
        with Room(found.backup) as (name, room):
            return _read(name, room, found.backup)[0]
    except (OSError, RefusedError):
        return None


def write(found: Found, data: bytes | None, *, make_backup: bool = False, drop_backup: bool = False) -> None:
    """Replace the file by one with `data`, or remove it if that is None.

    Afterwards it has `data`, or it is as it was and an exception tells why. If another run has written the
    same meanwhile, all is well.

    Args:
        found: What was read, and shown to the user.
        data: What is to be in it.
        make_backup: Whether to keep what was in it.
        drop_backup: Whether to remove what was kept of it: the file is what it was then.

    Raises:
        RefusedError: It is read-only, or was changed meanwhile.
        OSError: It cannot be written.
    """
    make_parents(found.path)
    with Room(found.path) as (name, room):
        _lock(room)
        try:
            now, _ = _read(name, room, found.path)
        except FileNotFoundError:
            now = None
        if now == data:
            return
        if now is not None and not found.mode & 0o200:
            raise RefusedError(found.path, "it is read-only; `chmod u+w` it first, or change what makes it")
        if now != found.data:
            raise RefusedError(found.path, "it was changed meanwhile; please run this again")
        if make_backup and found.data is not None:
            _replace(name + SUFFIX, room, found.path, found.data, 0o600)
        if data is None:
            os.unlink(name, dir_fd=room)
        else:
            _replace(name, room, found.path, data, found.mode)
        if drop_backup:
            try:
                os.unlink(name + SUFFIX, dir_fd=room)
            except FileNotFoundError:
                pass


def _lock(room: int | None) -> None:
    """Have no other run write in the directory at the same time; where there are no locks, none has."""
    if room is None:
        return
    deadline = time.monotonic() + LOCK_S
    try:
        while not try_lock(room) and time.monotonic() < deadline:
            time.sleep(PAUSE_S)
    except OSError:
        pass


def _replace(name: str, room: int | None, path: str, data: bytes, mode: int) -> None:
    """Give the file `name` in a directory another content, all at once."""
    above = os.path.dirname(path) if room is None else ""
    unfinished = os.path.join(above, f".buildslots-{os.urandom(8).hex()}")
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | PLAIN
    fd = os.open(unfinished, flags, 0o600, dir_fd=room)
    try:
        with open(fd, "wb") as file:
            file.write(data)
            if hasattr(os, "fchmod"):
                os.fchmod(file.fileno(), mode)
            file.flush()
            os.fsync(file.fileno())  # settings are worth more than a few milliseconds
        target = os.path.join(above, os.path.basename(name))
        os.replace(unfinished, target, src_dir_fd=room, dst_dir_fd=room)
    except BaseException:
        os.unlink(unfinished, dir_fd=room)
        raise
