"""One build's part in a pool on a server: its calls, what it says of itself, and what it is told."""

from __future__ import annotations

import os
import sys
import time

from buildslots.backend import label_of, program_of
from buildslots.fleet.connection import Connection
from buildslots.fleet.known import MARK, known_of
from buildslots.fleet.script import Script, build_id
from buildslots.processes import boot_id, here, identity

try:
    from _json import encode_basestring_ascii as quoted  # `json` costs 7 ms
except ImportError:
    from json import dumps as quoted

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

    from buildslots.backend import Request, Steps
    from buildslots.fleet.replies import Answer, Status
    from buildslots.fleet.script import Mode
    from buildslots.settings.address import Address

MOST_TEXT = 300
"""Characters of a text that is said of a build."""


class Client:
    """The part of the build that asks for `request` in the pool at `address`.

    Attributes:
        connection: To the server.
        known: What this process knows of the pool.
        id: What the build is called there.
        seq: Its place in line; 0 if it has none yet.
        answer: The last one; None if there was none.
        held_at: `time.monotonic()` when it took its slots; None while it waits.
        status: What there was to see of the pool when it was looked at last; None if it was not.
    """

    __slots__ = (
        "_address",
        "_request",
        "_script",
        "answer",
        "connection",
        "held_at",
        "id",
        "known",
        "seq",
        "status",
    )

    def __init__(
        self, address: Address, request: Request, new_poll: Callable[[], Any] | None = None, seq: int = 0
    ) -> None:
        self._address = address
        self._request = request
        self.connection = Connection(address)
        self.known = known_of(address)
        self.id = build_id(request.nonce, request.weight)
        self.seq = seq
        self.answer: Answer | None = None
        self.held_at: float | None = None
        self.status: Status | None = None
        self._script = Script(self.connection, address.name, new_poll)

    @property
    def mark(self) -> str:
        """What marks its holding for those below it, and which pool that is of."""
        return f"{MARK}{self.id}{MARK}{self._address.name}"

    def sleeps_with(self, new_poll: Callable[[], Any] | None) -> None:
        """Sleep with what that makes from now on; None for what a thread sleeps with."""
        self._script = Script(self.connection, self._address.name, new_poll)

    def join(self, mode: Mode = "wait") -> Steps[Answer]:
        """Take slots or join the line, at its place there; be heard there again; say that it takes its slots.

        This and all other calls raise PoolUnreachableError.
        """
        request = self._request
        steps = self._script.join(
            self.id,
            self.known.rules,
            mode=mode,
            priority=request.priority,
            own_cap=self._own_cap,
            seq=self.seq,
            info=self.about(),
        )
        return (yield from self._noted(steps))

    def over(self, paced_s: float = 0.0, waited_s: float = 0.0, stuck_s: float = 0.0) -> Steps[Answer]:
        """Take slots beyond the cap, or free ones; if it is paced, only in its turn."""
        self.held_at = time.monotonic()  # what others are told goes with the call
        steps = self._script.over(
            self.id,
            self.known.rules,
            paced_s=paced_s,
            waited_s=waited_s,
            stuck_s=stuck_s,
            own_cap=self._own_cap,
            info=self.about(),
        )
        answer = yield from self._noted(steps)
        if answer.state != "held":
            self.held_at = None
        return answer

    def renew(self, numbers: tuple[int, ...]) -> Steps[Answer]:
        """Go on holding the slots `numbers`."""
        steps = self._script.renew(self.id, self.known.rules, numbers=numbers, info=self.about())
        return (yield from self._noted(steps))

    def drop(self) -> Steps[Answer]:
        """Let go of all it holds, and leave the line."""
        return (yield from self._noted(self._script.drop(self.id)))

    def look(self) -> Steps[Status]:
        """See who holds slots, and who waits."""
        self.status = yield from self._script.status()
        return self.status

    def told(self) -> list[str]:
        """What it was told since the last time, without waiting. Raises PoolUnreachableError."""
        self.connection.hear()
        messages, self.connection.messages = self.connection.messages, []
        return [text for _, text in messages]

    def leave(self) -> None:
        """Say that it is gone, if that can be said at once, and hang up. Raises nothing but a Ctrl-C.

        Who hangs up is passed over in any case: it cannot be told of its slots any more.
        """
        steps = self._script.drop(self.id)
        try:
            if self.connection.is_open:
                next(steps)
        except (OSError, StopIteration):
            pass
        finally:
            steps.close()
            self.connection.close()

    def about(self) -> str:
        """What others are told of the build, as JSON: the fields of a record of `disk.records`.

        But `command` is the program's name alone, or the build's label, and `cwd` the last part of the
        directory: whoever may look at the pool may be anybody of twenty hosts. Times are the server's.
        """
        request = self._request
        label = label_of(request.command)
        cwd = label.cwd if label is not None and label.cwd is not None else here()
        since = request.began if self.held_at is None else self.held_at
        fields = {
            **identity(),
            "command": program_of(request.command) + "\0",
            "cwd": os.path.basename(cwd) or cwd,
            "cap": str(self.known.ruled(request).cap),
            "weight": str(request.weight),
            "priority": request.priority,
            "nonce": request.nonce,
            "since": f"{self.known.server_time - (time.monotonic() - since):.6f}",
        }
        fields.setdefault("host", _host())
        if (boot := boot_id()) is not None:
            fields["boot"] = boot  # hosts may have one name, and one number of the first namespace of pids
        if self.held_at is not None:
            fields["waited"] = f"{self.held_at - request.began:.6f}"
        if request.tells:
            fields["child"] = "?"  # all that runs below the process runs under its slots
        if request.is_own_cap:
            fields["own"] = str(request.own_cap)
        if label is not None and label.batch:
            fields["batch"] = label.batch
        if request.owner is not None:
            fields["owner"] = request.owner
        return "{" + ",".join(f'"{name}":{quoted(value[:MOST_TEXT])}' for name, value in fields.items()) + "}"

    @property
    def _own_cap(self) -> int | None:
        return self._request.own_cap if self._request.is_own_cap else None

    def _noted(self, steps: Steps[Answer]) -> Steps[Answer]:
        asked_us = time.time_ns() // 1000
        answer = yield from steps
        self.answer = answer
        self.seq = answer.seq or self.seq
        self.known.note(answer, asked_us)
        return answer


def _host() -> str:
    return os.uname().nodename if sys.platform != "win32" else os.environ.get("COMPUTERNAME", "")
