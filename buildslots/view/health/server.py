"""What a server of a pool says of itself, and how it answers: one look, which all checks of it share.

Nothing is changed there, and nothing is asked that the rights of a pool's user do not cover.
"""

from __future__ import annotations

import statistics
import time

from buildslots.errors import PoolUnreachableError
from buildslots.words import NAME_SHOWN, WITHOUT_HIREDIS, shown

TYPE_CHECKING = False
if TYPE_CHECKING:
    from buildslots.fleet.connection import Connection, Reply
    from buildslots.fleet.replies import Status
    from buildslots.settings.address import Address

ANSWERS = 5
"""So many calls are timed."""
SECTIONS = ("server", "memory", "persistence", "stats", "replication", "cluster")
MOST_FIELDS = 1000
KEYED = {
    "evalsha": "0 1 KEY",
    "eval": "0 1 KEY",
    "hget": "KEY 0",
    "hset": "KEY 0 0",
    "hmget": "KEY 0",
    "hlen": "KEY",
    "hvals": "KEY",
    "hdel": "KEY 0",
    "hexists": "KEY 0",
    "hincrby": "KEY 0 1",
    "zadd": "KEY 0 0",
    "zrem": "KEY 0",
    "zscore": "KEY 0",
    "zrank": "KEY 0",
    "zcard": "KEY",
    "zcount": "KEY 0 1",
    "zrange": "KEY 0 1",
    "zremrangebyrank": "KEY 0 1",
}
"""What a pool needs of its keys, with arguments as each command takes them."""
SPOKEN = {"publish": "CHANNEL 0", "subscribe": "CHANNEL"}
"""What it needs of its channels."""
OTHERS = {"unsubscribe": "CHANNEL", "info": "server", "time": "", "select": "0"}
EXCESS = {"flushall": "", "keys": "0"}
"""What nobody needs who only builds."""
RIGHTS = """\
local has = {}
for _, line in ipairs(ARGV) do
  local words = {}
  for word in string.gmatch(line, '%S+') do words[#words + 1] = word end
  if redis.acl_check_cmd(unpack(words)) then has[#has + 1] = words[1] end
end
return has
"""
"""Asks which commands the user may use: `redis.acl_check_cmd`, of Redis 7.0 and Valkey
(https://redis.io/docs/latest/develop/programmability/lua-api/)."""


class Server:
    """What was found out; whatever could not be is empty or None.

    Attributes:
        address: Of the pool.
        problem: Why the server cannot be used, in words.
        info: What INFO says, by name.
        answer_s: Seconds that an answer takes, the median of some.
        ahead_s: By how much the server's clock is before ours.
        rights: Which of the commands named above the user may use; None if nobody can tell.
        status: What there is to see of the pool.
        no_pool: Why that is nothing, in words.
        is_missing: Whether there is no such pool.
    """

    __slots__ = (
        "address",
        "ahead_s",
        "answer_s",
        "info",
        "is_missing",
        "no_pool",
        "problem",
        "rights",
        "status",
    )

    def __init__(self, address: Address) -> None:
        """Look. Raises nothing but a Ctrl-C."""
        self.address = address
        self.problem: str | None = None
        self.info: dict[str, str] = {}
        self.answer_s: float | None = None
        self.ahead_s: float | None = None
        self.rights: set[str] | None = None
        self.status: Status | None = None
        self.no_pool: str | None = None
        self.is_missing = False
        try:
            from buildslots.fleet.connection import Connection  # noqa: PLC0415 - an extra: it may be missing
        except ModuleNotFoundError:
            self.problem = WITHOUT_HIREDIS
            return
        connection = Connection(address)
        try:
            self._look(connection)
        except PoolUnreachableError as error:
            self.problem = error.cause
        finally:
            connection.close()

    def _look(self, connection: Connection) -> None:
        from buildslots.fleet.connection import run  # noqa: PLC0415 - as above
        from buildslots.fleet.script import NoPoolError, Script  # noqa: PLC0415

        self._time(connection)
        (info,) = connection.call(("INFO", *SECTIONS))
        self.info = _fields(info)
        self._ask_for_rights(connection)
        try:
            self.status = run(Script(connection, self.address.name).status())
        except PoolUnreachableError as error:
            self.no_pool = error.cause
            self.is_missing = isinstance(error, NoPoolError)

    def _time(self, connection: Connection) -> None:
        connection.call(("TIME",))  # connects
        answers = []
        for _ in range(ANSWERS):
            began, at = time.monotonic(), time.time()
            (reply,) = connection.call(("TIME",))
            answers.append(time.monotonic() - began)
            if (now := _time(reply)) is not None:
                self.ahead_s = now - at - answers[-1] / 2
        self.answer_s = statistics.median(answers)

    def _ask_for_rights(self, connection: Connection) -> None:
        key = f"bs:{{{self.address.name}}}:doctor"
        asked = {**KEYED, **SPOKEN, **OTHERS, **EXCESS}
        lines = [
            f"{name} {words.replace('KEY', key).replace('CHANNEL', key)}" for name, words in asked.items()
        ]
        (reply,) = connection.call(("EVAL", RIGHTS, 0, *lines))
        if isinstance(reply, list):
            self.rights = asked.keys() & {name for name in reply if isinstance(name, str)}
        elif str(reply).startswith("NOPERM"):
            self.rights = asked.keys() - {"eval"}  # all that is known

    @property
    def missing(self) -> list[str]:
        """What the user lacks, in the words of an ACL rule."""
        if self.rights is None:
            return []
        lacks = [name for name in (*KEYED, *SPOKEN, *OTHERS) if name not in self.rights]
        if not self.address.db:
            lacks = [name for name in lacks if name != "select"]
        found = []
        # Who has none of them lacks the keys, or the channels, and most likely not each command.
        for names, pattern in ((KEYED, "~bs:*"), (SPOKEN, "&bs:*")):
            if lacks and set(lacks) >= set(names):
                found.append(pattern)
                lacks = [name for name in lacks if name not in names]
        return [*found, *(f"+{name}" for name in lacks)]

    def number(self, name: str) -> int:
        """A number of INFO; 0 if it says none."""
        text = self.info.get(name, "")
        return int(text) if text.isascii() and text.isdecimal() and len(text) < 19 else 0


def _time(reply: Reply) -> float | None:
    """The Unix time that TIME says: seconds and microseconds."""
    if not isinstance(reply, list) or len(reply) != 2:
        return None
    words = [str(part) for part in reply]
    if not all(word.isascii() and word.isdecimal() and len(word) < 12 for word in words):
        return None
    return int(words[0]) + int(words[1]) / 1e6


def _fields(info: Reply) -> dict[str, str]:
    """The lines of INFO, each NAME:VALUE."""
    if not isinstance(info, str):
        return {}
    lines = info.splitlines()[:MOST_FIELDS]
    pairs = (line.partition(":") for line in lines if not line.startswith("#"))
    return {shown(name, NAME_SHOWN): shown(value, NAME_SHOWN) for name, colon, value in pairs if colon}
