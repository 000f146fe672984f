"""What commands print: one log for each task, which its commands write themselves.

No pipe stands between: whoever kills the batch does not break its commands with SIGPIPE, and a command that
prints much is not slowed down by us. What people see of a log is read from the file, when they look.
"""

from __future__ import annotations

import os
import re
import tempfile

from buildslots.files import PLAIN, close
from buildslots.words import shown

LIMIT = 64 * 2**20
"""Bytes of a log. Of a longer one HEAD and TAIL are kept; the disk must not be what a wild command fills."""
HEAD, TAIL = 2**20, 8 * 2**20
READ = 64 * 2**10
"""Bytes of the end of a log that people are shown, and of stderr in which reasons to retry are looked for."""
LINE_SHOWN = 400
"""Cells of a line of a log that are shown."""
APPEND = os.O_RDWR | os.O_APPEND | os.O_CREAT | os.O_EXCL | PLAIN
# Colours, cursor movements, titles: ECMA-48, 5.4 and 5.6.
_ESCAPES = re.compile(r"\x1b(?:\[[0-?]*[ -/]*[@-~]|[\]PX^_][^\x07\x1b]*(?:\x07|\x1b\\)?|[@-Z\\-_])")


class Output:
    """The log of one task; for the stderr of a task that asks for it, a file without a name.

    Attributes:
        fd: For the command's stdout and stderr.
        path: Where it is; None if it has no name.
    """

    __slots__ = ("fd", "path")

    def __init__(self, fd: int, path: str | None) -> None:
        self.fd = fd
        self.path = path

    @classmethod
    def nameless(cls) -> Output:
        """A file without a name, which goes with its descriptor. Raises OSError."""
        with tempfile.TemporaryFile() as file:
            fd = os.dup(file.fileno())
        return cls(fd, None)

    def write(self, text: str) -> None:
        """Add a line of ours. Raises nothing: on a full disk there is none."""
        try:
            os.write(self.fd, f"{text}\n".encode(errors="replace"))
        except OSError:
            pass

    def append(self, other: Output) -> None:
        """Add what is in `other`, and empty that. Raises nothing."""
        try:
            end, at = os.fstat(other.fd).st_size, 0
            while at < end:
                part = os.pread(other.fd, min(READ, end - at), at)
                if not part:
                    break
                os.write(self.fd, part)
                at += len(part)
            os.ftruncate(other.fd, 0)
            os.lseek(other.fd, 0, os.SEEK_SET)
        except OSError:
            pass

    def bound(self) -> None:
        """Cut the middle out of a log that has more than LIMIT bytes; whoever writes it goes on.

        What is written at that very moment may be lost. Raises nothing.
        """
        try:
            size = os.fstat(self.fd).st_size
            if size <= LIMIT:
                return
            tail = os.pread(self.fd, TAIL, size - TAIL)
            os.ftruncate(self.fd, HEAD)
            os.write(
                self.fd, f"\n[buildslots: {size - HEAD - TAIL} bytes are left out here]\n".encode() + tail
            )
        except OSError:
            pass

    def end(self) -> str:
        """The last READ bytes as text, without escapes; "" if it cannot be read."""
        try:
            size = os.fstat(self.fd).st_size
            data = os.pread(self.fd, READ, max(0, size - READ)) if size else b""
        except OSError:
            return ""
        return _ESCAPES.sub("", data.decode(errors="replace"))

    def last_line(self) -> str:
        """The last line with something in it, as progress lines end, fit for a terminal."""
        return next(iter(self.last_lines(1)), "")

    def last_lines(self, count: int) -> list[str]:
        """The last lines that are not blank, fit for a terminal; of one rewritten in place its last state."""
        lines = self.end().splitlines() if count == 1 else settled(self.end())
        found = [line for line in lines if line.strip()][-count:]
        return [shown(line.expandtabs().rstrip(), LINE_SHOWN) for line in found]

    def close(self) -> None:
        """Close it; remove it as well if it is empty. Idempotent."""
        if self.path is not None and self.fd >= 0:
            try:
                if not os.fstat(self.fd).st_size:
                    os.unlink(self.path)
                    self.path = None
            except OSError:
                pass
        if self.fd >= 0:
            close(self.fd)
            self.fd = -1


def settled(text: str) -> list[str]:
    """The lines of `text` as a terminal would show them at last: what stands behind the last CR of each.

    Without colours and the like; not yet fit for a terminal for all that.
    """
    return [line.rstrip("\r").rpartition("\r")[2] for line in _ESCAPES.sub("", text).split("\n")]
