"""What builds say of themselves to each other: `builds/ID`, and the bell `builds/ID.bell` of each.

A record that is locked is that of a slot-run that lives. Whoever finds one that is not removes it. Records
and bells are hints: what is missing, or lies, makes shares unequal for a while, and nothing else.
"""

from __future__ import annotations

import errno
import os
import time
from stat import S_ISFIFO, S_ISREG

from buildslots.files import PLAIN, close, is_shared, make_directory, open_directory, open_in_room
from buildslots.processes import boot_id, close_kept, identity, keep_from_children
from buildslots.tokens.fifo import open_fifo
from buildslots.tokens.locks import is_locked, try_lock
from buildslots.tokens.share import Other

TYPE_CHECKING = False
if TYPE_CHECKING:
    from buildslots.tokens.share import Share

ROOM = "builds"
MAGIC = b"buildslots-build 1\n"
BELL = ".bell"
RING = b"!"
STATE = b"state %010d %07d %07d %d\n"
"""The second line of a record: how often it has looked in vain, how many tokens it has, how many it may have,
and whether it is hungry. It has always the same length, and is overwritten."""
HEAD_BYTES = len(MAGIC) + len(STATE % (0, 0, 0, 0)) + len("boot \n") + 36
"""So much of a record its readers here need."""
ID_LENGTH = 16
"""Hex digits of a build's ID."""
MOST = 256
"""So many names are looked at."""
MOST_OPEN = 32
"""The records of so many others are kept open: to open one takes longer than to read it."""
OLD_S = 10.0
"""How old a file is that nobody is about to lock, or to write a record for."""
TICK_S = 0.05
"""How far the time of a directory may be behind that of its last change: a tick of the kernel."""


class Builds:
    """The records of a stock, as one build sees them; and its own.

    Attributes:
        bell: Its bell: a FIFO with bytes in it when somebody has rung.
    """

    __slots__ = (
        "_boot",
        "_changed_ns",
        "_files",
        "_name",
        "_names",
        "_path",
        "_record",
        "_room",
        "_said",
        "bell",
    )

    def __init__(self, directory: str, name: str, about: bytes = b"") -> None:
        """Hang the bell, and make the record. Raises OSError.

        Args:
            directory: That of the stock.
            name: The build's ID.
            about: Lines of the record that say what build it is.
        """
        self._path = f"{directory}/{ROOM}"
        self._name = name
        # Only builds of one start of one kernel share tokens. Containers have that in common.
        self._boot = f"boot {boot_id() or '?'}\n".encode()
        self._files: dict[str, int] = {}  # records that are kept open
        self._names: list[str] = []
        self._changed_ns = -1
        self._said = b""
        self.bell = self._record = self._room = -1
        make_directory(self._path, shared=is_shared(directory))
        try:
            self._room = open_directory(self._path, follow=False)
            self.bell = open_fifo(f"{self._path}/{name}{BELL}", new=True)
            self._make_record(about)
        except BaseException:
            self.close()
            raise

    def _make_record(self, about: bytes) -> None:
        self._record = open_in_room(f"{self._path}/{self._name}", os.O_RDWR | os.O_EXCL)
        for fd in (self._room, self.bell, self._record):
            keep_from_children(fd)
        if not try_lock(self._record, 0):
            raise FileExistsError(errno.EEXIST, "somebody has locked it", f"{self._path}/{self._name}")
        who = b"".join(b"%b %b\n" % (key.encode(), value.encode()) for key, value in identity().items())
        text = MAGIC + STATE % (0, 0, 0, 0) + self._boot + who + about + b"end\n"
        os.pwrite(self._record, text, 0)

    def say(self, share: Share) -> None:
        """Tell the others what this build has. Raises OSError."""
        said = STATE % (share.sequence, share.held, share.cap, share.is_hungry)
        if said != self._said:
            os.pwrite(self._record, said, len(MAGIC))
            self._said = said

    def others(self) -> list[Other]:
        """What all others say of themselves; of the hungry, those that live. Raises OSError."""
        others = []
        for name in self._listed():
            try:
                other = self._other(name)
            except OSError:
                continue  # removed at this moment, or another user's, in the making
            if other is not None:
                others.append(other)
        return others

    def ring(self, name: str) -> None:
        """Ring the bell of the build `name`. Raises nothing: it will look by itself, only later."""
        try:
            # For reading, too: its owner may leave before we write, and SIGPIPE end a program.
            fd = os.open(f"{name}{BELL}", os.O_RDWR | PLAIN, dir_fd=self._room)
        except OSError:
            return
        try:
            if S_ISFIFO(os.fstat(fd).st_mode):
                os.write(fd, RING)
        except OSError:
            pass  # full of earlier rings
        finally:
            close(fd)

    def close(self) -> None:
        """Remove the record and the bell. Idempotent, raises nothing."""
        for fd in self._files.values():
            close(fd)
        self._files.clear()
        for fd, name in ((self._record, self._name), (self.bell, self._name + BELL)):
            if fd >= 0:
                try:
                    if os.path.samestat(os.fstat(fd), os.lstat(name, dir_fd=self._room)):
                        os.unlink(name, dir_fd=self._room)
                except OSError:
                    pass  # somebody has
                close_kept(fd)
        close_kept(self._room)
        self.bell = self._record = self._room = -1

    def _listed(self) -> list[str]:
        """The names of the other records. Those of the dead are removed when they are listed anew."""
        changed_ns = os.fstat(self._room).st_mtime_ns
        if changed_ns != self._changed_ns:
            names = os.listdir(self._room)[:MOST]
            self._names = [name for name in names if _is_id(name) and name != self._name]
            for name in self._files.keys() - set(self._names):
                close(self._files.pop(name))
            # What comes in the same tick does not change the time.
            is_certain = time.time() - changed_ns / 1e9 > TICK_S
            self._changed_ns = changed_ns if is_certain else -1
        return self._names

    def _other(self, name: str) -> Other | None:
        """What the build `name` says; None if it is hungry and dead, or of another machine."""
        fd = self._files.get(name, -1)
        is_kept = fd >= 0
        if not is_kept:
            fd = os.open(name, os.O_RDONLY | PLAIN, dir_fd=self._room)
        try:
            other = parse(os.pread(fd, HEAD_BYTES, 0), name, self._boot)
            if other is not None and other.is_hungry and not is_locked(fd, 0):
                other = None
            if not is_kept and len(self._files) < MOST_OPEN and S_ISREG(os.fstat(fd).st_mode):
                self._files[name] = fd
                is_kept = True
            return other
        finally:
            if not is_kept:
                close(fd)

    def tidy(self) -> None:
        """Remove what dead builds have left. Raises nothing."""
        try:
            names = set(os.listdir(self._room)[: 2 * MOST])
        except OSError:
            return
        for name in names:
            try:
                record, is_bell = name.removesuffix(BELL), name.endswith(BELL)
                if _is_id(record) and not (is_bell and record in names) and self._is_dead(name):
                    os.unlink(name, dir_fd=self._room)
                    if not is_bell:
                        os.unlink(name + BELL, dir_fd=self._room)
            except OSError:
                pass  # somebody else does the same, or may not be disturbed

    def _is_dead(self, name: str) -> bool:
        """Whether the record, or the bell, `name` is nobody's, and has been for a while. Raises OSError."""
        fd = os.open(name, os.O_RDONLY | PLAIN, dir_fd=self._room)
        try:
            about = os.fstat(fd)
            if about.st_ctime > time.time() - OLD_S:
                return False
            if S_ISFIFO(about.st_mode):
                return name.endswith(BELL)
            text = os.pread(fd, len(MAGIC), 0)
            return S_ISREG(about.st_mode) and text in (b"", MAGIC) and not is_locked(fd, 0)
        finally:
            close(fd)


def parse(head: bytes, name: str, boot_line: bytes) -> Other | None:
    """What the record with that beginning says; None if it is none, or is of another machine."""
    lines = head.split(b"\n", 3)
    if len(lines) < 4 or lines[0] + b"\n" != MAGIC or not (lines[2] + b"\n").startswith(boot_line):
        return None
    try:
        _, sequence, held, _, hungry = lines[1].split()
        return Other(name, int(held), int(sequence), is_hungry=hungry == b"1")
    except ValueError:
        return None


def _is_id(name: str) -> bool:
    return len(name) == ID_LENGTH and name.isascii() and name.isalnum()
