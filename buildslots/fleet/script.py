"""The calls of the scripts, with types: what PROTOCOL.md says in words.

A `Script` has one method an operation, each a generator of steps; `connection.run` does one in a thread::

    script = Script(Connection(address), address.name)
    answer = run(script.join(build_id(request.nonce, request.weight), own_cap=2))

Whatever fails is a PoolUnreachableError.
"""

from __future__ import annotations

import os

from hiredis import ReplyError

from buildslots.errors import PoolUnreachableError
from buildslots.fleet.replies import HEAD_START_S, LEASE_S, Answer, Rules, Status
from buildslots.words import SENTENCE_SHOWN, shown

try:
    from _sha1 import sha1  # type: ignore[import-not-found, unused-ignore] # hashlib costs 6 ms, for OpenSSL
except ImportError:
    from hashlib import sha1

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Final, Literal, TypeAlias, TypeVar

    from buildslots.backend import Steps
    from buildslots.fleet.connection import Command, Connection, Reply
    from buildslots.fleet.transport import NewPoll

    T = TypeVar("T")
    Mode: TypeAlias = Literal["wait", "unready", "try"]

CONFIRM_S, TICKET_S = 3.0, 30.0
"""Of a new pool: how long a slot waits for the first beat of who was given it; how long a place in line is
kept after a beat."""
MOST_SLOTS = 10_000
"""Of a pool on a server, and of a weight; more than that is so much."""
MOST_INFO = 4096
"""Bytes that a build may say about itself."""
GO, SOON, NEAR = "go", "soon", "near"
"""Messages: you have been given your slots, confirm; you are the first in line, look after so many
milliseconds ("soon 3000"); you are near the head, become ready."""

_US = 1_000_000


class NoPoolError(PoolUnreachableError):
    """There is no such pool on the server, or not any more: nobody has said its cap."""


class PoolExistsError(PoolUnreachableError):
    """There is such a pool already."""


class Source:
    """A script, by its name and with its text: pool.lua, and one of the files that go behind it.

    Args:
        flags: What the server lets it do, in its first line.
        texts: Of its files.
    """

    __slots__ = ("name", "text")

    def __init__(self, flags: str, *texts: bytes) -> None:
        self.text: Final = b"".join((f"#!lua flags={flags}\n".encode(), *texts))
        self.name: Final = sha1(self.text, usedforsecurity=False).hexdigest()


FLAGS = {"slots": "allow-oom", "rules": "allow-oom", "look": "no-writes"}
"""Of the scripts, by the name of the file that goes behind pool.lua."""


def packaged(name: str) -> Source:
    """That script of this package, read once. Raises OSError."""
    if name not in _sources:
        _sources[name] = Source(FLAGS[name], *(_text_of(each) for each in ("pool", name)))
    return _sources[name]


def _text_of(name: str) -> bytes:
    with open(f"{os.path.dirname(__file__)}/{name}.lua", "rb") as file:
        return file.read()


_sources: dict[str, Source] = {}


def build_id(nonce: str, weight: int) -> str:
    """The id of a build that waits or holds."""
    return f"{nonce}.{weight}"


class Script:
    """The pool `name` on a server: one method an operation, each for `connection.run` or a task.

    Args:
        connection: To the server.
        name: Of the pool.
        new_poll: Makes what to sleep with; None for a thread's.
        source: Finds a script by its name; for tests, which have others.
    """

    __slots__ = ("_connection", "_key", "_new_poll", "_source")

    def __init__(
        self,
        connection: Connection,
        name: str,
        new_poll: NewPoll | None = None,
        source: Callable[[str], Source] = packaged,
    ) -> None:
        self._connection = connection
        self._key = f"bs:{{{name}}}:"
        self._new_poll = new_poll
        self._source = source

    def channel(self, build: str) -> str:
        """On which `build` is told `GO`, `SOON` and `NEAR`: listen to it before or with the first `join`."""
        return self._key + build

    def join(  # noqa: PLR0913 - all that a place in line is made of
        self,
        build: str,
        known: str = "",
        *,
        mode: Mode = "wait",
        priority: str = "normal",
        own_cap: int | None = None,
        seq: int = 0,
        info: str = "",
    ) -> Steps[Answer]:
        """Take slots or join the line; be heard there again; confirm slots that were given. Idempotent.

        Args:
            build: Its id.
            known: `Answer.known` of the last answer; "" for the first call.
            mode: "wait"; "unready" to be in line and passed over; "try" to be in line not at all.
            priority: "high", "normal" or "low".
            own_cap: A cap of the caller; that of the pool if it is less.
            seq: `Answer.seq` of the last answer that had one, or the place of an earlier arrival; 0 for none.
            info: What others are told, at most MOST_INFO bytes; "" changes nothing.
        """
        listen = () if mode == "try" else (self.channel(build),)
        words = ("join", build, known, mode, priority, own_cap or 0, seq, info)
        return (yield from self._answered(words, listen))

    def over(  # noqa: PLR0913
        self,
        build: str,
        known: str = "",
        *,
        paced_s: float = 0.0,
        waited_s: float = 0.0,
        stuck_s: float = 0.0,
        own_cap: int | None = None,
        info: str = "",
    ) -> Steps[Answer]:
        """Take slots beyond the cap, at the timeout; those within it if they are free. Idempotent.

        In a pause, and before its turn if it is paced, it joins the line instead, or stays in it.

        Args:
            build: Its id, in line or not.
            known: As for `join`.
            paced_s: One waiter in so many seconds starts beyond the cap; 0: at once.
            waited_s: How long it has waited, without pauses. Only if it is paced, as is the next.
            stuck_s: How long it has not come forward in line, without pauses.
            own_cap: As for `join`.
            info: As for `join`.
        """
        times = (_us(paced_s), _us(waited_s), _us(stuck_s))
        return (yield from self._answered(("over", build, known, *times, own_cap or 0, info)))

    def renew(
        self, build: str, known: str = "", *, numbers: tuple[int, ...] = (), info: str = ""
    ) -> Steps[Answer]:
        """Go on holding. One whose lease is lost registers again, beyond the cap if need be. Idempotent.

        Args:
            build: Its id. It runs: to confirm slots that were given, `join`.
            known: As for `join`.
            numbers: Of its slots: it gets those again if nobody has them.
            info: As for `join`.
        """
        return (yield from self._answered(("renew", build, known, ",".join(map(str, numbers)), info)))

    def drop(self, build: str) -> Steps[Answer]:
        """Let go of all that `build` holds, and leave the line; the next in line is told. Idempotent."""
        return (yield from self._answered(("drop", build)))

    def status(self) -> Steps[Status]:
        """Look. Writes nothing: a replica answers it, too."""
        return self._checked(Status, (yield from self._call("look", ("status", ""))))

    def holds(self, build: str) -> Steps[bool]:
        """Whether `build` holds slots. Writes nothing: a replica answers it, too."""
        command = ("ZSCORE", f"{self._key}h", build)
        (reply,) = yield from self._connection.call_steps(command, new_poll=self._new_poll)
        if isinstance(reply, ReplyError):
            raise self._refusal(reply)
        return reply is not None

    def create(  # noqa: PLR0913
        self,
        who: str,
        slots: int,
        *,
        lease_s: float = LEASE_S,
        confirm_s: float = CONFIRM_S,
        ticket_s: float = TICKET_S,
        head_start_s: float = HEAD_START_S,
    ) -> Steps[Rules]:
        """Make the pool. Raises PoolExistsError: it is there.

        Args:
            who: Who does this, for the journal of the rules.
            slots: Its cap.
            lease_s: See `Rules`, for this and the others.
            confirm_s: At most the lease.
            ticket_s: At least a few beats.
            head_start_s: At most a day.
        """
        times = (_us(lease_s), _us(confirm_s), _us(ticket_s), _us(head_start_s))
        return (yield from self._ruled(("create", "", who, slots, *times)))

    def set(self, who: str, *, slots: int | None = None, head_start_s: float | None = None) -> Steps[Rules]:
        """Change the cap, or what a priority is worth; None leaves it. Whoever waits is told what follows."""
        head_start = "" if head_start_s is None else _us(head_start_s)
        return (yield from self._ruled(("set", "", who, "" if slots is None else slots, head_start)))

    def pause(self, who: str, seconds: float, reason: str = "") -> Steps[Rules]:
        """Give nobody anything for so long, at most four hours; in the place of a pause that is on."""
        return (yield from self._ruled(("pause", "", who, _us(seconds), reason)))

    def resume(self, who: str) -> Steps[Rules]:
        """End the pause that is on, if one is."""
        return (yield from self._ruled(("resume", "", who)))

    def _answered(self, words: tuple[str | int, ...], listen: tuple[str, ...] = ()) -> Steps[Answer]:
        return self._checked(Answer, (yield from self._call("slots", words, listen)))

    def _ruled(self, words: tuple[str | int, ...]) -> Steps[Rules]:
        return self._checked(Rules, (yield from self._call("rules", words)))

    def _call(self, name: str, words: tuple[str | int, ...], listen: tuple[str, ...] = ()) -> Steps[Reply]:
        """Run a script by its name; with its text if the server does not know that yet."""
        source, connection, new_poll = self._source(name), self._connection, self._new_poll
        command: Command = ("EVALSHA", source.name, 1, self._key, *words)
        (reply,) = yield from connection.call_steps(command, listen=listen, new_poll=new_poll)
        if isinstance(reply, ReplyError) and str(reply).startswith("NOSCRIPT"):
            command = ("EVAL", source.text, 1, self._key, *words)
            (reply,) = yield from connection.call_steps(command, new_poll=new_poll)
        if isinstance(reply, ReplyError):
            raise self._refusal(reply)
        return reply

    def _refusal(self, error: ReplyError) -> PoolUnreachableError:
        address = self._connection.address
        code, _, text = str(error).partition(" ")
        if code == "NOPOOL":
            return NoPoolError(address, "there is no such pool: `buildslots fleet create` makes it")
        if code == "EXISTS":
            return PoolExistsError(address, "it exists")
        if code == "FULL":
            return PoolUnreachableError(address, "its line is full")
        if code == "BADCALL":
            return PoolUnreachableError(address, f"it does not understand this version: {shown(text, 200)}")
        return self._connection.refusal(error)

    def _checked(self, kind: Callable[[Reply], T], reply: Reply) -> T:
        try:
            return kind(reply)
        except ValueError as error:
            self._connection.close()
            cause = f"what it answers is not what a pool answers ({shown(str(error), SENTENCE_SHOWN)})"
            raise PoolUnreachableError(self._connection.address, cause) from error


def _us(seconds: float) -> int:
    return max(0, round(seconds * _US))
