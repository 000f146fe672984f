"""What the user does while the live view is on the terminal: presses `q` or Ctrl-Z, or changes its size.

Keys need POSIX. Elsewhere `wait` only sleeps, and Ctrl-C ends the view as it does everywhere.
"""

from __future__ import annotations

import os
import select
import signal
import sys
import time

try:
    import termios
    import tty
except ImportError:  # Windows
    termios = None  # type: ignore[assignment]

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, Self


ENDING = tuple(getattr(signal, name) for name in ("SIGTERM", "SIGHUP", "SIGQUIT") if hasattr(signal, name))


class Keyboard:
    """The keyboard from `__enter__` to `__exit__`: keys count at once and are not echoed.

    Signals reach `wait` through a pipe, so that nothing happens in the middle of drawing. Only signals that
    end the program count at once: the pool's disk may hang, and `wait` would then never be called.
    """

    def __enter__(self) -> Self:
        self._fds: list[int] = []
        self._modes: list[Any] | None = None
        if termios is None:
            return self
        for number in ENDING:
            signal.signal(number, _terminated)
        self._pipe = os.pipe()
        for fd in self._pipe:
            os.set_blocking(fd, False)
        signal.set_wakeup_fd(self._pipe[1])
        for number in (signal.SIGTSTP, signal.SIGWINCH):
            signal.signal(number, _noted)
        self._fds = [self._pipe[0], *([0] if os.isatty(0) else [])]
        self._take()
        return self

    def __exit__(self, *_: object) -> None:
        if termios is not None:
            for number in (signal.SIGINT, *ENDING):  # nothing may interrupt the clean-up
                signal.signal(number, signal.SIG_IGN)
            self._give_back()
            signal.set_wakeup_fd(-1)
            for number in (signal.SIGTSTP, signal.SIGWINCH, *ENDING):
                signal.signal(number, signal.SIG_DFL)
            signal.signal(signal.SIGINT, signal.default_int_handler)
            for fd in self._pipe:
                os.close(fd)

    def wait(self, seconds: float) -> str | None:
        """Wait for `seconds`, or until the user does something.

        Returns "q", "stop" (Ctrl-Z), "other" (another key, another size), or None if nothing happened.
        """
        if not self._fds:
            time.sleep(max(0.0, seconds))
            return None
        ready = select.select(self._fds, [], [], max(0.0, seconds))[0]
        if not ready:
            return None
        read = os.read(ready[0], 1024)
        if ready[0] == 0:
            if not read:
                self._fds.remove(0)
            return "q" if b"q" in read.lower() else "other"
        return "stop" if signal.SIGTSTP in read else "other"

    def stop(self) -> None:
        """Stop this process, as Ctrl-Z does to others; return when it goes on in the foreground."""
        self._give_back()
        signal.signal(signal.SIGTSTP, signal.SIG_DFL)
        os.kill(os.getpid(), signal.SIGTSTP)
        signal.signal(signal.SIGTSTP, _noted)
        self._take()  # the system stops a process that does this in the background (`bg`)

    def _take(self) -> None:
        if 0 in self._fds:
            self._modes = termios.tcgetattr(0)
            tty.setcbreak(0, termios.TCSADRAIN)

    def _give_back(self) -> None:
        if self._modes is not None:
            termios.tcsetattr(0, termios.TCSADRAIN, self._modes)
            self._modes = None


def _noted(*_: object) -> None:
    """Do nothing: the number of the signal is in the pipe."""


def _terminated(number: int, _frame: object) -> None:
    sys.exit(128 + number)
