"""A program on a terminal of its own: what it prints, as it comes, and keys that are pressed meanwhile.

As a program: `python terminal.py COMMAND…` makes the terminal on its stdin that of its session, and becomes
the command. That is no preexec_fn, which may hang in a process with threads.
"""

from __future__ import annotations

import fcntl
import os
import re
import select
import struct
import subprocess
import sys
import termios
import time
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

CTRL_C = b"\x03"
READ = 2**16
# Colours, cursor movements, titles: ECMA-48, 5.4 and 5.6.
_ESCAPES = re.compile(r"\x1b(?:\[[0-?]*[ -/]*[@-~]|[\]PX^_][^\x07\x1b]*(?:\x07|\x1b\\)?|[@-Z\\-_])")


class Terminal:
    """A command on a terminal.

    Args:
        command: What runs there.
        cwd: Its directory.
        columns: Of the terminal.
        lines: Likewise.

    Attributes:
        status: Of the command, after `run`; minus the signal that it died of.
    """

    def __init__(
        self, command: Sequence[str], *, cwd: str | os.PathLike[str], columns: int = 100, lines: int = 30
    ) -> None:
        self.status: int | None = None
        self._printed = b""
        self._main, other = os.openpty()
        fcntl.ioctl(other, termios.TIOCSWINSZ, struct.pack("HHHH", lines, columns, 0, 0))
        try:
            self._process = subprocess.Popen(
                [sys.executable, os.path.abspath(__file__), *command],
                cwd=cwd,
                stdin=other,
                stdout=other,
                stderr=other,
                start_new_session=True,
            )
        finally:
            os.close(other)

    @property
    def text(self) -> str:
        """All that was printed, without escapes; what was overwritten is still in it."""
        return _ESCAPES.sub("", self._printed.decode(errors="replace"))

    @property
    def lines(self) -> list[str]:
        """The lines of `text`, and of what was written over others."""
        return [line.rstrip() for line in re.split(r"[\r\n]+", self.text)]

    def press(self, keys: bytes) -> None:
        """Press keys."""
        os.write(self._main, keys)

    def run(self, deadline_s: float, look: Callable[[Terminal], object] | None = None) -> bool:
        """Take what is printed, until the command has ended: whether it did; after `deadline_s` it is killed.

        Args:
            deadline_s: How long it may take.
            look: Called now and then, for what is to be done meanwhile.
        """
        deadline = time.monotonic() + deadline_s
        try:
            while time.monotonic() < deadline:
                if look is not None:
                    look(self)
                if select.select([self._main], [], [], 0.02)[0] and not self._take():
                    self.status = self._process.wait(max(0.0, deadline - time.monotonic()))
                    return True
        except subprocess.TimeoutExpired:
            pass
        finally:
            if self._process.poll() is None:
                self._process.kill()
                self._process.wait()
            os.close(self._main)
        return False

    def _take(self) -> bool:
        try:
            data = os.read(self._main, READ)
        except OSError:  # EIO: nobody has the other side open any more
            return False
        self._printed += data
        return bool(data)


def main() -> None:
    """Make the terminal that of this session, and become the command."""
    fcntl.ioctl(0, termios.TIOCSCTTY, 0)
    os.execvp(sys.argv[1], sys.argv[1:])


if __name__ == "__main__":
    main()
