"""Files that repeat what the journal knows: for their owner alone, and written whole or not at all.

The text goes into a new file in the same directory, which is then renamed to the name that was asked for.
So a file that existed stays whole if anything fails, and other hard links to it keep their text. Paths are
walked by descriptor, and a symbolic link is followed only if we or root made it: in a directory that others
can write, a link of theirs could lead us to overwrite any file of ours.
"""

from __future__ import annotations

import os
import sys
from stat import S_ISDIR, S_ISFIFO, S_ISLNK, S_ISREG

from buildslots.files import open_directory
from buildslots.words import short_path

BY_DESCRIPTOR = {os.open, os.readlink, os.rename, os.stat, os.unlink} <= os.supports_dir_fd
"""Whether the system names files by a descriptor of their directory; not on Windows."""
MOST_LINKS = 40
"""As many as Linux follows: path_resolution(7)."""
NO_FOLLOW = getattr(os, "O_NOFOLLOW", 0)
FOLDER = os.O_RDONLY | getattr(os, "O_DIRECTORY", 0) | NO_FOLLOW
STEP = getattr(os, "O_PATH", os.O_RDONLY) | FOLDER
"""To pass through a directory that need not be readable."""
DESCRIPTORS = "/proc/self/fd"


def write(path: str, text: str) -> None:
    """Write `text` to the file at `path`, 0600 whatever the umask, or to stdout for "-".

    If `path` is no regular file (but a FIFO, /dev/stdout, /dev/null), the text goes into what is there.

    Raises:
        OSError: It cannot be written. A file that was there is unchanged, and no other file is left behind.
    """
    data = text.encode()  # whatever the terminal's encoding: the formats are UTF-8
    if path == "-":
        sys.stdout.buffer.write(data)
        return
    if not BY_DESCRIPTOR:
        _write_by_path(path, data)
        return
    folder, name = _walk(path)
    try:
        if name.isdecimal() and _is_descriptors(folder):
            _write_all(int(name), data)
        elif _is_regular_or_new(name, folder, path):
            _replace(name, folder, data)
        else:
            _write_into(name, folder, path, data)
    except OSError as error:
        if isinstance(error.filename, str):
            error.filename = path  # for people
        raise
    finally:
        os.close(folder)


def replace(path: str, text: str) -> None:
    """Give the name `path` to a new file with `text`, 0600 whatever the umask.

    For files of our own in directories of our own: a link that has the name is not followed but replaced.

    Raises:
        OSError: It cannot be written, or a directory has the name. What has the name stays as it is.
    """
    if not BY_DESCRIPTOR:
        _replace_by_path(path, text.encode())
        return
    directory, name = os.path.split(path)
    folder = open_directory(directory)
    try:
        _replace(name, folder, text.encode())
    finally:
        os.close(folder)


def _walk(path: str) -> tuple[int, str]:
    """The directory that `path` leads to, as a descriptor, and the name of the file, which is no link."""
    parts = _parts(path)
    folder = os.open("/" if path.startswith("/") else ".", STEP)
    try:
        links = 0
        while True:
            name = parts.pop()
            found = _found(name, folder)
            if found is not None and S_ISLNK(found.st_mode) and not (not parts and _is_descriptors(folder)):
                links += 1
                if links > MOST_LINKS or not (_is_ours(found) or _is_in_proc(folder)):
                    raise PermissionError(_not_followed(path, name))
                target = os.readlink(name, dir_fd=folder)
                parts += _parts(target)
                if target.startswith("/"):
                    folder = _step("/", folder)
            elif parts:
                folder = _step(name, folder)
            else:
                return folder, name
    except OSError as error:
        os.close(folder)
        if isinstance(error.filename, str):
            error.filename = path
        raise


def _parts(path: str) -> list[str]:
    """The names in `path`, the last one first. A slash at its end means a directory: its name is then "."."""
    parts = [part for part in path.split("/") if part]
    if not parts or path.endswith("/"):
        parts.append(".")
    return parts[::-1]


def _step(name: str, folder: int) -> int:
    """Open the directory `name` and close `folder`, which it is in."""
    inner = os.open(name, STEP, dir_fd=folder)
    os.close(folder)
    return inner


def _found(name: str, folder: int) -> os.stat_result | None:
    try:
        return os.stat(name, dir_fd=folder, follow_symlinks=False)
    except FileNotFoundError:
        return None


def _not_followed(path: str, name: str) -> str:
    where = short_path(path)
    link = "it" if os.path.basename(path) == name else short_path(name)
    return (
        f"{where} was not written: {link} is a symbolic link that another user has made, or one of a circle"
    )


def _is_ours(found: os.stat_result) -> bool:
    """Whether it belongs to us or to root."""
    return found.st_uid in (0, os.geteuid())


def _is_in_proc(folder: int) -> bool:
    """Whether `folder` is in /proc: the kernel made its links, and in a user namespace nobody owns them."""
    try:
        return os.fstat(folder).st_dev == os.stat(DESCRIPTORS).st_dev
    except OSError:
        return False


def _is_descriptors(folder: int) -> bool:
    """Whether `folder` is that of our own descriptors, where /dev/stdout leads."""
    try:
        return os.path.samestat(os.fstat(folder), os.stat(DESCRIPTORS))
    except OSError:
        return False


def _is_regular_or_new(name: str, folder: int, path: str) -> bool:
    found = _found(name, folder)
    if found is None or S_ISREG(found.st_mode):
        return True
    if S_ISDIR(found.st_mode):
        raise IsADirectoryError(f"{short_path(path)} was not written: it is a directory")
    if S_ISFIFO(found.st_mode) and not _is_ours(found):
        raise PermissionError(f"{short_path(path)} was not written: another user listens there")
    return False


def _write_into(name: str, folder: int, path: str, data: bytes) -> None:
    """Write into a file that is not regular; once it is open, make sure that it still is not."""
    fd = os.open(name, os.O_WRONLY | NO_FOLLOW | os.O_NOCTTY, dir_fd=folder)
    try:
        found = os.fstat(fd)
        if S_ISREG(found.st_mode) or (S_ISFIFO(found.st_mode) and not _is_ours(found)):
            raise PermissionError(f"{short_path(path)} was not written: it was exchanged meanwhile")
        _write_all(fd, data)
    finally:
        os.close(fd)


def _replace(name: str, folder: int, data: bytes) -> None:
    """Write a new file and rename it to `name`."""
    unfinished = f".buildslots-{os.urandom(8).hex()}"
    fd = os.open(unfinished, os.O_WRONLY | os.O_CREAT | os.O_EXCL | NO_FOLLOW, 0o600, dir_fd=folder)
    try:
        try:
            os.fchmod(fd, 0o600)  # whatever the umask takes away
            _write_all(fd, data)
        finally:
            os.close(fd)
        os.rename(unfinished, name, src_dir_fd=folder, dst_dir_fd=folder)
    except BaseException:
        os.unlink(unfinished, dir_fd=folder)
        raise


def _write_by_path(path: str, data: bytes) -> None:
    if os.path.exists(path) and not os.path.isfile(path):
        with open(path, "wb") as file:
            file.write(data)
        return
    _replace_by_path(path, data)


def _replace_by_path(path: str, data: bytes) -> None:
    unfinished = os.path.join(os.path.dirname(path), f".buildslots-{os.urandom(8).hex()}")
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | getattr(os, "O_BINARY", 0)
    fd = os.open(unfinished, flags, 0o600)
    try:
        try:
            _write_all(fd, data)
        finally:
            os.close(fd)
        os.replace(unfinished, path)
    except BaseException:
        os.unlink(unfinished)
        raise


def _write_all(fd: int, data: bytes) -> None:
    rest = memoryview(data)
    while rest:
        rest = rest[os.write(fd, rest) :]
