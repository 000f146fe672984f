"""The password of a server's user, from a file that nobody else can read.

Never from an argument or a variable: those are seen by others, in ps(1) and in logs of CI.
"""

from __future__ import annotations

import errno
import os
from stat import S_ISREG

from buildslots.files import PLAIN, close
from buildslots.words import PATH_SHOWN, shown

MOST_BYTES = 4096


class PasswordError(Exception):
    """The file cannot be used, in one sentence without what is in it."""


def read_password(path: str) -> str:
    """The first line of the file at `path`.

    Raises:
        PasswordError: It is not there, others may read it, it is somebody else's, or has nothing in it.
    """
    name = shown(path, PATH_SHOWN)
    try:
        fd = os.open(path, os.O_RDONLY | PLAIN)
    except OSError as error:
        # Who may change a link says which of our files is sent to the server.
        why = "is a symbolic link" if error.errno == errno.ELOOP else f"cannot be read: {error.strerror}"
        raise PasswordError(f"password_file {name} {why}") from None
    except ValueError as error:  # a character that the locale cannot encode
        raise PasswordError(f"password_file {name} cannot be read: {error}") from None
    try:
        problem = _distrust(os.fstat(fd))
        text = b"" if problem else os.read(fd, MOST_BYTES + 1)
    except OSError as error:
        raise PasswordError(f"password_file {name} cannot be read: {error.strerror}") from None
    finally:
        close(fd)
    if problem:
        raise PasswordError(f"password_file {name} {problem}")
    line = text.split(b"\n", 1)[0].rstrip(b"\r")
    try:
        password = line.decode()
    except UnicodeDecodeError:
        password = ""
    if not password or len(text) > MOST_BYTES:
        raise PasswordError(f"password_file {name} has no password in its first line")
    return password


def _distrust(about: os.stat_result) -> str | None:
    """Why others may have read the file, or may have said which one it is; None if they have not."""
    if not S_ISREG(about.st_mode):
        return "is no regular file"
    if about.st_nlink != 1:
        return "has another name as well: write it anew"
    if hasattr(os, "geteuid"):
        if about.st_uid not in {0, os.geteuid()}:
            return f"is another user's (uid {about.st_uid})"
        if about.st_mode & 0o077:
            return "can be read by others: chmod 600 it"
    return None
