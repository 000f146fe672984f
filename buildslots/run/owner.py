"""The owner of a build: the process for which it is done, and what becomes of the build when that is gone.

A coding agent whose tool starts a build may end, or be killed, and leave the shell and the build behind. A
build that still waits then leaves the line: nobody wants it any more. One that runs goes on, and `status`
shows it as ownerless; `--owner-gone end` ends it after a minute. Loaded only where there is an owner.

A pidfd is the process, whoever gets its number later (pidfd_open(2)). Without one it is known by its number
and its start.
"""

from __future__ import annotations

import os
import signal
import threading
import time

from buildslots import trees
from buildslots.disk import bells
from buildslots.errors import SettingError
from buildslots.processes import start_of

TYPE_CHECKING = False
if TYPE_CHECKING:
    from buildslots.disk.bells import Poll

GRACE_S = 60.0
"""How long a build goes on that is to end with its owner: an agent may hand its tasks to another one."""
KILL_S = 10.0
"""How long it has after SIGTERM."""
LOOK_S = 1.0
"""How often to look at an owner of which there is no pidfd."""


class OwnerGoneError(Exception):
    """The owner is gone, and so nobody waits for the build."""

    is_owner_gone = True
    """By which slot-run knows it without loading this module."""


class Owner:
    """The process `pid`, for which a build is done.

    Attributes:
        mark: What a record says of it: its number, and its start, 0 where that is unknown.
        look_s: After so many seconds somebody who sleeps has to look.
    """

    def __init__(self, pid: int) -> None:
        """Raises ProcessLookupError: there is no such process."""
        self._pid = pid
        self._start = start_of(pid)
        self._fd: int | None = None
        self.mark = f"{pid} {self._start}"
        try:
            self._fd = os.pidfd_open(pid)
        except (AttributeError, OSError) as error:
            if isinstance(error, ProcessLookupError) or not self._lives():
                raise ProcessLookupError from None
        self.look_s = LOOK_S if self._fd is None else float("inf")

    def _lives(self) -> bool:
        import psutil  # noqa: PLC0415 - where there is no pidfd

        return psutil.pid_exists(self._pid) and start_of(self._pid) == self._start

    def poll(self) -> Poll:
        """What a wait sleeps with: it also wakes when the owner has ended."""
        found = bells.poll()
        if self._fd is not None:
            found.register(self._fd, bells.POLLIN)
        return found

    def check(self) -> None:
        """Raise OwnerGoneError if the owner has ended."""
        if self._is_gone(0.0):
            raise OwnerGoneError(f"process {self._pid}, for which this build waited, is gone: left the line")

    def _is_gone(self, seconds: float) -> bool:
        """Whether it ends within so many seconds."""
        if self._fd is None:
            until = time.monotonic() + seconds
            while self._lives():
                if time.monotonic() >= until:
                    return False
                time.sleep(min(LOOK_S, max(0.0, until - time.monotonic())))
            return True
        poll = bells.poll()
        poll.register(self._fd, bells.POLLIN)
        return bool(poll.poll(seconds * 1000))

    def end_with_it(self, command: int) -> None:
        """From now on end the process `command`, with all below it, a while after the owner has ended."""
        threading.Thread(target=self._end, args=[command], daemon=True).start()

    def _end(self, command: int) -> None:
        while not self._is_gone(3600.0):
            pass
        time.sleep(GRACE_S)
        trees.send(trees.of(command), signal.SIGTERM)
        time.sleep(KILL_S)
        trees.send(trees.of(command), getattr(signal, "SIGKILL", signal.SIGTERM))


def find_owner(pid: int | None, named: str) -> Owner | None:
    """The process `pid`, which the command line names, or else the one that the environment has `named`.

    Raises SettingError: the command line names one that is not there. In the environment it may be one of
    another pid namespace; then there is no owner.
    """
    try:
        return Owner(int(named) if pid is None else pid)
    except ProcessLookupError:
        if pid is None:
            return None
        raise SettingError("--owner", str(pid), "is no process that is there") from None
