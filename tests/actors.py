"""Processes that share slots one system call at a time: each step is taken when a test says so.

An actor is a forked child that drives `Admission.steps`, and so the real protocol with real locks. It may
be told to pause in the middle of what it does, at its n-th audit event (open, flock, remove, listdir, …;
sys.addaudithook), until it is told to go on, and it may be killed at any time.
"""

from __future__ import annotations

import json
import os
import select
import signal
import sys
import time
from typing import TYPE_CHECKING, Any

from builds import DEADLINE_S

from buildslots.admission import Admission
from buildslots.disk import directory
from buildslots.errors import SlotTimeoutError
from buildslots.settings import resolve

if TYPE_CHECKING:
    from buildslots.backend import Steps
    from buildslots.slot import Slot

PATIENCE_S = 0.05
"""How long actors try to get the mutex before they remove it: many will be paused while they have it."""


class Actor:
    """One process, which does what it is told, one command after the other.

    Attributes:
        at: "out", "waiting", "holding", or "paused" in the middle of a command.
        about: What it told last: `ticket`, `numbers` of its slots, `inodes` of their files, `overflow`.
        disturbed: Whether it was paused since it arrived.
    """

    def __init__(self, directory: str) -> None:
        commands, self._commands = os.pipe()
        self._replies, replies = os.pipe()
        self.pid = os.fork()
        if not self.pid:
            os.close(self._commands)
            os.close(self._replies)
            status = 1
            try:
                _Child(directory, commands, replies).run()
                status = 0
            finally:
                os._exit(status)
        os.close(commands)
        os.close(replies)
        self.at = "out"
        self.about: dict[str, Any] = {}
        self.disturbed = False

    def tell(self, command: str, *, pause: int = 0, **arguments: object) -> None:
        """Tell it to do something, and wait until it has, or has paused at its event number `pause`."""
        self._send({"command": command, "pause": pause, **arguments})

    def go_on(self) -> None:
        """End its pause, and wait until it has done what it had been told."""
        self._send({})

    def kill(self) -> None:
        """SIGKILL it, and reap it."""
        os.kill(self.pid, signal.SIGKILL)
        os.waitpid(self.pid, 0)
        os.close(self._commands)
        os.close(self._replies)

    def _send(self, message: dict[str, object]) -> None:
        os.write(self._commands, json.dumps(message).encode() + b"\n")
        line = _read_line(self._replies, DEADLINE_S)
        assert line, f"actor {self.pid} did not answer to {message}"
        reply = json.loads(line)
        self.at = reply.pop("at")
        self.disturbed |= self.at == "paused"
        self.about = reply
        assert "error" not in reply, reply


class _Child:
    """What an actor does in its own process."""

    def __init__(self, directory: str, commands: int, replies: int) -> None:
        self._directory, self._commands, self._replies = directory, commands, replies
        self._events_left = 0
        self._admission: Admission | None = None
        self._steps: Steps[Slot] | None = None
        self._slot: Slot | None = None

    def run(self) -> None:
        """Do what is told until nobody tells any more."""
        directory.MUTEX_PATIENCE_S = directory.MUTEX_AGAIN_S = PATIENCE_S
        directory.MUTEXES_S = 1000.0
        sys.addaudithook(self._on_event)
        while line := _read_line(self._commands):
            arguments = json.loads(line)
            command = getattr(self, arguments.pop("command"))
            self._events_left = arguments.pop("pause")
            try:
                command(**arguments)
            except (OSError, StopIteration) as error:
                self._reply({"at": "broken", "error": repr(error)})
                return
            self._events_left = 0
            self._reply(self._about())

    def arrive(self, *, cap: int, weight: int, timeout: float | None, on_timeout: str) -> None:
        settings = resolve(
            slots=cap,
            weight=min(cap, weight),
            timeout_s=timeout,
            on_timeout=on_timeout,
            dir=self._directory,
            environ={"HOME": "/nonexistent", "BUILD_SLOTS_JOURNAL": "off"},
            warn=lambda _: None,
        )
        self._admission = Admission(settings, ["make"])
        self._steps = self._admission.steps()
        self._advance(None)

    def step(self) -> None:
        """Wake, or find that there is no reason to."""
        assert self._ears is not None
        self._advance(self._ears.listen(min(self._seconds, 0.001)))

    def release(self) -> None:
        assert self._slot is not None
        self._slot.release()
        self._slot = None

    def _advance(self, sound: bool | None) -> None:
        assert self._steps is not None
        assert self._admission is not None
        try:
            ears, self._seconds = next(self._steps) if sound is None else self._steps.send(sound)
            while ears is None:  # somebody has the mutex
                time.sleep(self._seconds)
                ears, self._seconds = self._steps.send(False)
            self._ears = ears
        except StopIteration as end:
            self._steps, self._slot = None, end.value
            self._admission.started(end.value)
        except SlotTimeoutError as error:
            self._steps = None
            self._admission.close(error)

    def _about(self) -> dict[str, object]:
        if self._steps is not None and self._admission is not None:
            place = self._admission._place
            return {"at": "waiting", "ticket": place._ticket.name if place else ""}
        if self._slot is None or self._slot._hold is None:
            return {"at": "out"}
        hold = self._slot._hold
        inodes = [os.fstat(fd).st_ino for fd in hold._locks]
        return {"at": "holding", "numbers": hold.numbers, "inodes": inodes, "overflow": hold.overflow}

    def _on_event(self, _event: str, _arguments: tuple[object, ...]) -> None:
        if self._events_left:
            self._events_left -= 1
            if not self._events_left:
                self._reply({"at": "paused"})
                _read_line(self._commands)

    def _reply(self, reply: dict[str, object]) -> None:
        os.write(self._replies, json.dumps(reply).encode() + b"\n")


def _read_line(fd: int, timeout_s: float | None = None) -> bytes:
    """The next line, or nothing at the end of the file or of the time."""
    line = b""
    while not line.endswith(b"\n"):
        if not select.select([fd], [], [], timeout_s)[0] or not (more := os.read(fd, 1)):
            return b""
        line += more
    return line
