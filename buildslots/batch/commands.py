"""Commands of a batch: each leads a session of its own, is waited for, and is ended with all below it.

A session of its own has no terminal. So a command cannot ask for a password there and hang, Ctrl-C reaches
the batch alone, and what belongs to a command can be found, even after its parent has died. Each inherits its
slot, as with slot-run: if the batch is killed, the slot stays held until the command has ended.
"""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import time
from typing import TYPE_CHECKING, Any

import anyio

from buildslots import trees
from buildslots.batch.calls import in_thread
from buildslots.files import close

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    import psutil

GRACE_S = 5.0
"""How long a command has to end after SIGTERM, before SIGKILL."""
KILLED_S = 1.0
"""How long what was killed is waited for; it would take longer only in a call that nothing interrupts."""
LOOK_S = 0.05
"""How often to look whether all below a command has ended."""
KILL = getattr(signal, "SIGKILL", signal.SIGTERM)


class Command:
    """A command that runs.

    Attributes:
        pid: Its process.

    Args:
        arguments: Of the command, its program first.
        env: Its whole environment.
        cwd: Its directory; None for ours.
        out: The descriptor for its stdout.
        err: Likewise for its stderr.
        inherited: Descriptors that it is to have as well.

    Raises:
        OSError: It cannot be started.
    """

    def __init__(  # noqa: PLR0913 - what a process consists of
        self,
        arguments: Sequence[str],
        *,
        env: Mapping[Any, Any],
        cwd: str | None,
        out: int,
        err: int,
        inherited: Sequence[int] = (),
    ) -> None:
        self._process = subprocess.Popen(  # noqa: S603 - it is what a batch is for
            arguments,
            env=env,
            cwd=cwd,
            stdin=subprocess.DEVNULL,
            stdout=out,
            stderr=err,
            pass_fds=inherited if os.name == "posix" else (),
            start_new_session=True,
        )
        self.pid = self._process.pid
        self._members: list[psutil.Process] = []

    async def wait(self) -> int:
        """Its exit status, or minus the signal that it died of. Cancelled, it ends the command first."""
        try:
            await self._exit()
        except BaseException:
            with anyio.CancelScope(shield=True):
                await self.end()
            raise
        return self._process.wait()

    async def end(self, grace_s: float = GRACE_S) -> int:
        """End it and all below it: SIGTERM, and SIGKILL for what is left after `grace_s`. As `wait`."""
        deadline = time.monotonic() + grace_s
        self._find()
        self.send(signal.SIGTERM)
        self.send(getattr(signal, "SIGCONT", signal.SIGTERM))  # a stopped one would not hear of it
        with anyio.move_on_after(grace_s):
            await self._exit()
        await self._members_end(deadline, LOOK_S)
        self._find()
        self.send(KILL)
        await self._exit()
        # What is killed may still be at the end of a call, such as one that makes a file in a stage.
        await self._members_end(time.monotonic() + KILLED_S, LOOK_S / 10)
        # Only now: until it is waited for, nobody else gets its pid, nor the number of its group.
        return self._process.wait()

    async def _members_end(self, deadline: float, every_s: float) -> None:
        """Wait until nothing below it runs, or until `time.monotonic()` is `deadline`."""
        while time.monotonic() < deadline and any(map(trees.runs, self._members)):  # noqa: ASYNC110 - nobody tells
            await anyio.sleep(every_s)

    def kill(self) -> None:
        """End it and all below it at once. Raises nothing."""
        self._find()
        self.send(KILL)

    def send(self, signum: int) -> None:
        """Send a signal to it and all that is known to be below it. Raises nothing."""
        with contextlib.suppress(OSError):
            if hasattr(os, "killpg"):
                os.killpg(self.pid, signum)
            else:
                self._process.send_signal(signum)
        trees.send(self._members, signum)

    def _find(self) -> None:
        """Remember all that is below the command, in its session or by its parents."""
        found = trees.below(self.pid).union(self._members)
        self._members = [process for process in found if trees.runs(process)]

    async def _exit(self) -> None:
        """Wait for its end, but leave it a zombie: its pid stays its own."""
        if self._process.returncode is not None:
            return
        try:
            pidfd = os.pidfd_open(self.pid)
        except (AttributeError, OSError):  # macOS, Windows, Linux before 5.3; or no descriptor is left
            await in_thread(_until_exit, self._process)
            return
        try:
            await anyio.wait_readable(pidfd)
        finally:
            close(pidfd)


def _until_exit(process: subprocess.Popen[bytes]) -> None:
    if hasattr(os, "waitid"):
        os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT)
    else:
        process.wait()
