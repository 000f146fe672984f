"""The programs that a build will run: which of them speak the protocol of jobservers, and how.

Their versions are told by what is in the programs (0.3 ms), not by running them.
"""

from __future__ import annotations

import errno
import os
from stat import S_ISREG

from buildslots.files import NO_WAIT, close

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

FIFO, DESCRIPTORS = "fifo", "descriptors"
"""Which `--jobserver-auth=` all makes understand: `fifo:PATH` (make 4.4 and later) or `R,W` (4.2 and 4.3)."""
STRANGE = ""
"""Neither: a make that is no GNU make, or older than 4.2. To bmake, `--jobserver-auth` is a wrong `-j`."""
MAKES = ("make", "gmake")
HAS_FIFO = b"jobserver-style"
"""An option of make 4.4, which was the first to understand `fifo:PATH`."""
HAS_AUTH = b"jobserver-auth"
"""What the option is called since make 4.2."""
NINJA_HAS = b"jobserver"
"""A word in every ninja since 1.13, which is the first that takes tokens; in its forks, too."""
MOST_BYTES = 1 << 24
"""Of a program or of a CMakeCache.txt that are read: make has 0.3 MB, a ninja with debug symbols 10."""
SCRIPT = b"#!"
VERSION_LENGTH = 16


def make_style(programs: Iterable[str], environ: Mapping[str, str]) -> str:
    """What all makes that the build may run understand: FIFO, DESCRIPTORS or STRANGE; FIFO if there is none.

    Args:
        programs: Paths of makes that it will run.
        environ: Its environment, with PATH.
    """
    styles: dict[tuple[int, int], str] = {}
    for path in (*programs, *(path for name in MAKES if (path := on_path(name, environ)))):
        try:
            about = os.stat(path)
            if (which := (about.st_dev, about.st_ino)) not in styles:
                text = _content(path)
                styles[which] = FIFO if HAS_FIFO in text else DESCRIPTORS if HAS_AUTH in text else STRANGE
        except OSError:
            continue
    found = styles.values()
    return next((style for style in (STRANGE, DESCRIPTORS) if style in found), FIFO)


def ninja_unserved(path: str) -> str | None:
    """Why the ninja at `path` uses no tokens, in words; None if it does."""
    try:
        text = _content(path)
    except OSError:
        return "ninja cannot be read"
    if NINJA_HAS in text:
        return None
    if text.startswith(SCRIPT):
        return "ninja is a script"
    return f"ninja {_version(text)}".rstrip()


def on_path(name: str, environ: Mapping[str, str]) -> str | None:
    """The program of that name that is first on PATH and no script: a script only calls another one."""
    for directory in environ.get("PATH", os.defpath).split(os.pathsep):
        path = os.path.join(directory, name)
        if os.access(path, os.X_OK):
            try:
                fd = _open(path)
            except OSError:
                continue
            try:
                if os.read(fd, len(SCRIPT)) != SCRIPT:
                    return path
            except OSError:
                continue
            finally:
                close(fd)
    return None


def generated(directory: str) -> tuple[str, str]:
    """What `cmake --build` runs in a directory: the generator's name, and the path of its program.

    Both are empty if there is no telling. They are what the project says: fit to decide what it is told
    about its jobs, and for nothing else.
    """
    try:
        text = _content(os.path.join(directory, "CMakeCache.txt"))
    except OSError:
        return "", ""
    found = []
    for key in (b"\nCMAKE_GENERATOR:", b"\nCMAKE_MAKE_PROGRAM:"):
        value = text.partition(key)[2].partition(b"\n")[0].partition(b"=")[2]
        found.append(os.fsdecode(value.strip()))
    return found[0], found[1]


def _version(program: bytes) -> str:
    """The version that a ninja before 1.13 says it has; empty if there is none in it."""
    at = program.find(b"\0001.")
    while at >= 0:
        text = program[at + 1 : program.find(b"\0", at + 1)][:VERSION_LENGTH]
        if text.count(b".") > 1 and text.partition(b"git")[0].replace(b".", b"").isdigit():
            return text.decode("ascii", "replace")
        at = program.find(b"\0001.", at + 1)
    return ""


def _content(path: str) -> bytes:
    """What is in a file. Raises OSError."""
    fd = _open(path)
    try:
        size = os.fstat(fd).st_size
        if size > MOST_BYTES:
            raise OSError(errno.EFBIG, "is too large to be read", path)
        return os.read(fd, size + 1)
    finally:
        close(fd)


def _open(path: str) -> int:
    """Open a regular file, whatever has been put in its place. Raises OSError."""
    fd = os.open(path, os.O_RDONLY | NO_WAIT | os.O_CLOEXEC)
    if S_ISREG(os.fstat(fd).st_mode):
        return fd
    close(fd)
    raise OSError(errno.EINVAL, "is no regular file", path)
