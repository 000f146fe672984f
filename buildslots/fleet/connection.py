"""One connection to a server of Redis or Valkey: calls with deadlines, and messages that come in between.

It speaks RESP3, in which commands and messages share a connection. It connects at the first call, and again
after a failure: everything that slots.lua does may be done twice. Nothing blocks: `call_steps` is a generator
that the caller sleeps for, and `call` is that for a thread.
"""

from __future__ import annotations

import os
import time

from hiredis import ProtocolError, PushNotification, Reader, ReplyError, pack_command

from buildslots.errors import PoolUnreachableError
from buildslots.fleet.password import PasswordError, read_password
from buildslots.fleet.transport import IN, Transport, connect_steps, sleep
from buildslots.words import NAME_SHOWN, shown

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import TypeAlias, TypeVar

    from buildslots.backend import Steps
    from buildslots.fleet.transport import NewPoll, Server

    T = TypeVar("T")
    Command: TypeAlias = "tuple[str | bytes | int, ...]"
    Reply: TypeAlias = "str | int | float | bool | list[Reply] | dict[Reply, Reply] | ReplyError | None"

CALL_S = 2.0
"""How long each step may take: a name, the connection, TLS, and a call with its answer."""
MOST_BYTES = 16 * 2**20
"""Of the answers to one call, and of a message. A status of 2,000 waiters that all say a lot has half."""
MOST_MESSAGES = 1000
"""That are kept until somebody asks for them; of more the oldest are dropped."""
MOST_READS = 64
"""So often is read for what has come: there may always be more, and who waits has to look at the time."""
LEAST_VERSION = 7
"""Of Redis: the first whose scripts have flags, such as allow-oom. Valkey began with 7.2."""

LOGIN = frozenset({"NOAUTH", "WRONGPASS"})
DENIED_IN_SCRIPT = ("user executing the script", "ACL failure in script")
"""In an ERR: how Redis 7.0, and 7.2, say NOPERM of what a script calls."""
CLUSTER = frozenset({"MOVED", "ASK", "CROSSSLOT"})


def run(steps: Steps[T]) -> T:
    """What `steps` return, slept for by this thread."""
    sound = False
    try:
        ear, seconds = next(steps)
        while True:
            if ear is None:
                time.sleep(max(0.0, seconds))
                sound = False
            else:
                sound = ear.listen(seconds)
            ear, seconds = steps.send(sound)
    except StopIteration as end:
        value: T = end.value
        return value
    finally:
        steps.close()


class Connection:
    """A connection to `server`, for one thread or task at a time.

    >>> connection = Connection(parse_url("redis://localhost/0/license", "-p"))
    >>> connection.call(("PING",))
    ['PONG']

    Whatever cannot be had of the server is a PoolUnreachableError. After one the connection is closed, and
    the next call opens another, which listens to the same channels again.

    Attributes:
        messages: What came on the channels, as (channel, text), the oldest first; for whoever reads them to
            take out.
        opened: How often it was opened: messages may have been lost if that has changed.
    """

    __slots__ = (
        "_channels",
        "_left",
        "_pid",
        "_reader",
        "_server",
        "_timeout_s",
        "_transport",
        "_unwanted",
        "messages",
        "opened",
    )

    def __init__(self, server: Server, timeout_s: float = CALL_S) -> None:
        self._server = server
        self._timeout_s = timeout_s
        self._transport: Transport | None = None
        self._reader = _new_reader()
        self._left = MOST_BYTES
        self._channels: list[str] = []
        self._unwanted: list[str] = []  # which the server still sends
        self._pid = os.getpid()
        self.messages: list[tuple[str, str]] = []
        self.opened = 0

    @property
    def address(self) -> str:
        """What the server is called in sentences."""
        return str(self._server)

    @property
    def is_open(self) -> bool:
        """Whether there is a connection, as far as this process knows."""
        return self._transport is not None

    def fileno(self) -> int:
        """What becomes readable when a message comes, or the end. Raises ValueError if it is not open."""
        if self._transport is None:
            raise ValueError("the connection is not open")
        return self._transport.fileno()

    def close(self) -> None:
        """Close it. Idempotent, raises nothing."""
        transport, self._transport = self._transport, None
        if transport is not None:
            transport.close()

    def call(self, *commands: Command, listen: tuple[str, ...] = ()) -> list[Reply]:
        """`call_steps` for a thread."""
        return run(self.call_steps(*commands, listen=listen))

    def call_steps(
        self, *commands: Command, listen: tuple[str, ...] = (), new_poll: NewPoll | None = None
    ) -> Steps[list[Reply]]:
        """Send commands, in one write, and return their answers.

        A connection that was open already, and turns out to be dead, is opened anew, once.

        Args:
            commands: Each its words. Errors of the server come back as answers, `ReplyError`s.
            listen: Channels whose messages are wanted from now on, also after a failure.
            new_poll: Makes what to sleep with; None for a thread's.

        Raises:
            PoolUnreachableError: An OSError; there is no connection, or no answer, or one that is none. What
                was sent may have been done.
        """
        self._check_process()
        new = [channel for channel in listen if channel not in self._channels]
        self._channels += new
        was_open = self._transport is not None
        try:
            try:
                return (yield from self._called(new, commands, new_poll))
            except (OSError, ProtocolError) as error:
                if not was_open or isinstance(error, (TimeoutError, PoolUnreachableError)):
                    raise
            self.close()
            return (yield from self._called([], commands, new_poll))
        except PoolUnreachableError:
            self.close()
            raise
        except (OSError, ProtocolError, PasswordError, MemoryError) as error:
            self.close()
            raise PoolUnreachableError(self.address, self._cause(error)) from error
        except BaseException:
            self.close()  # the answer that is yet to come would be taken for that of the next call
            raise

    def unlisten(self, channel: str) -> None:
        """Want no more messages of `channel`: the server is told with the next call."""
        if channel in self._channels:
            self._channels.remove(channel)
            self._unwanted.append(channel)

    def hear(self) -> bool:
        """Read what has come, without waiting: whether there are messages.

        Raises PoolUnreachableError: the connection has ended, and is closed.
        """
        self._check_process()
        if self._transport is None:
            raise PoolUnreachableError(self.address, "the connection is not open")
        try:
            self._take_messages()  # one may have come right behind the last answer
            for _ in range(MOST_READS):
                if not self._feed(self._transport):
                    break
                self._take_messages()
        except (OSError, ProtocolError, MemoryError) as error:
            self.close()
            raise PoolUnreachableError(self.address, self._cause(error)) from error
        return bool(self.messages)

    def _take_messages(self) -> None:
        while (reply := self._reader.gets()) is not False:
            self._keep(reply)
            self._left = MOST_BYTES

    def _check_process(self) -> None:
        if self._pid != os.getpid():  # a forked child's copy: what it sends would be in the parent's stream
            self.close()
            self._pid = os.getpid()
            self.messages.clear()

    # One exchange.

    def _called(
        self, new: list[str], commands: tuple[Command, ...], new_poll: NewPoll | None
    ) -> Steps[list[Reply]]:
        greeting: list[Command] = []
        if self._transport is None:
            self._transport = yield from connect_steps(self._server, self._timeout_s, new_poll)
            self._reader = _new_reader()
            self.opened += 1
            greeting, new, self._unwanted = self._greeting(), self._channels, []
        listening: list[Command] = [("UNSUBSCRIBE", channel) for channel in self._unwanted]
        listening += [("SUBSCRIBE", channel) for channel in new]
        self._unwanted = []
        steps = self._exchange([*greeting, *listening, *commands], new_poll, is_greeting=bool(greeting))
        replies = yield from steps
        for reply in replies[: -len(commands) or None]:
            if isinstance(reply, ReplyError):
                raise self.refusal(reply)
        return replies[-len(commands) :] if commands else []

    def _exchange(
        self, commands: list[Command], new_poll: NewPoll | None, *, is_greeting: bool
    ) -> Steps[list[Reply]]:
        until = time.monotonic() + self._timeout_s
        transport = self._transport
        assert transport is not None  # noqa: S101 - the caller has opened it
        yield from transport.send_steps(_packed(commands), until, new_poll)
        replies: list[Reply] = []
        self._left = MOST_BYTES
        while True:
            while len(replies) < len(commands) and (reply := self._reader.gets()) is not False:
                if self._keep(reply):
                    continue
                replies.append(reply)
                if is_greeting and len(replies) == 1:
                    self._check_greeting(reply)  # whoever refuses it may not answer to more
            if len(replies) == len(commands):
                return replies
            if not self._feed(transport):
                yield from sleep(transport.fileno(), IN, until, new_poll)

    def _feed(self, transport: Transport) -> bool:
        data = transport.read()
        if data is None:
            return False
        self._left -= len(data)
        if self._left < 0:
            raise ProtocolError(f"more than {MOST_BYTES} bytes of answers")
        self._reader.feed(data)
        return True

    def _keep(self, reply: object) -> bool:
        """Whether `reply` is none to a command, but a message, which is kept. Its channel is one of ours."""
        if not isinstance(reply, PushNotification):
            return False
        if len(reply) == 3 and reply[0] in {"subscribe", "unsubscribe"}:
            return False  # as which SUBSCRIBE is answered
        if len(reply) == 3 and reply[0] == "message" and all(isinstance(text, str) for text in reply):
            self.messages = [*self.messages[1 - MOST_MESSAGES :], (reply[1], reply[2])]
        return True

    # The server.

    def _greeting(self) -> list[Command]:
        server = self._server
        password = None if server.password_file is None else read_password(server.password_file)
        login: Command = ()
        if password is not None or server.user is not None:
            # A user without a password, whom any will do for, still has to say who it is.
            login = ("AUTH", server.user or "default", password or "")
        greeting: list[Command] = [("HELLO", 3, *login, "SETNAME", "buildslots")]
        if server.db:
            greeting.append(("SELECT", server.db))
        return greeting

    def _check_greeting(self, reply: Reply) -> None:
        name = self.address
        if isinstance(reply, ReplyError):
            raise self.refusal(reply)
        if not isinstance(reply, dict):
            raise PoolUnreachableError(name, "what answers there is no server of Redis or Valkey")
        version, mode = str(reply.get("version")), reply.get("mode")
        major = version.partition(".")[0]
        if mode == "cluster":
            raise PoolUnreachableError(
                name, "it is a node of a cluster, in which a wake-up reaches one node only"
            )
        if mode == "sentinel":
            raise PoolUnreachableError(
                name, "it is a Sentinel: give the address of the server that it watches"
            )
        if not (major.isascii() and major.isdecimal() and int(major) >= LEAST_VERSION):
            raise PoolUnreachableError(
                name, f"its version is {shown(version, NAME_SHOWN)}, and 7.0 is the least"
            )

    def refusal(self, error: ReplyError) -> PoolUnreachableError:
        """What `error`, with which the server has answered, means, in one sentence without a password."""
        code, _, _ = str(error).partition(" ")
        text = shown(str(error), 200)
        who = f"user {self._server.user or 'default'!r}"
        if code in LOGIN:
            if self._server.password_file is None:
                cause = f"it wants a password of {who}: password_file in the config names a file that has it"
            else:
                cause = (
                    f"it does not know {who} with the password in {shown(self._server.password_file, 200)}"
                )
        elif code == "NOPERM" or any(words in text for words in DENIED_IN_SCRIPT):
            cause = f"{who} may not do there what a pool needs ({text})"
        elif code in CLUSTER:
            cause = "it is a node of a cluster, in which a wake-up reaches one node only"
        elif text.startswith("ERR unknown command"):
            cause = "its version is too old: 7.0 is the least"
        else:
            cause = text
        return PoolUnreachableError(self.address, cause)

    def _cause(self, error: Exception) -> str:
        if isinstance(error, TimeoutError):
            return f"no answer within {self._timeout_s:g} s"
        if isinstance(error, ProtocolError):
            return f"what it answers cannot be read ({shown(str(error), 100)})"
        if isinstance(error, MemoryError):
            return "what it answers is too large"
        return shown(getattr(error, "strerror", None) or str(error), 200)


def _packed(commands: list[Command]) -> bytes:
    # Its annotation says a tuple of one item.
    return b"".join(pack_command(command) for command in commands)  # type: ignore[arg-type]


def _new_reader() -> Reader:
    return Reader(encoding="utf-8", errors="replace")
