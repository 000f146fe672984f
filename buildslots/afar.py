"""A pool on a server, asked and told from here, in the words of a pool of this machine: records and rules.

Loaded only where a pool is on a server. What others have written there is hostile text. It is bounded here,
and made fit to print where people read it. Which process a pid is can only be known on its own machine.
"""

from __future__ import annotations

import time

from buildslots.disk.records import seconds
from buildslots.disk.rules import MOST_REASON, Pause, Rules
from buildslots.errors import PoolUnreachableError
from buildslots.processes import boot_id, identity
from buildslots.words import NAME_SHOWN, WITHOUT_HIREDIS, shown

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any, TypeAlias, TypeVar

    from buildslots.backend import Steps
    from buildslots.fleet import replies
    from buildslots.fleet.script import Script
    from buildslots.settings import Settings
    from buildslots.settings.address import Address

    T = TypeVar("T")
    Record: TypeAlias = dict[str, str]
    """What is known of a build, by the names that `disk.records.parse` gives."""

MOST_SLOTS = 10_000
"""That a pool on a server may have: see `fleet.script`, which is not loaded before somebody is asked."""


def address_of(settings: Settings) -> Address:
    """Where the pool of `settings` is, which is on a server."""
    address: Address = settings.said["url"][0]
    return address


def ask(address: Address, operation: Callable[[Script], Steps[T]]) -> T:
    """Do one operation on the pool at `address`, on a connection of its own.

    Raises:
        PoolUnreachableError: An OSError; the server is not there, or refuses.
    """
    try:
        from buildslots.fleet.connection import Connection, run  # noqa: PLC0415 - an extra: it may be missing
        from buildslots.fleet.script import Script  # noqa: PLC0415
    except ModuleNotFoundError as error:
        raise PoolUnreachableError(address, WITHOUT_HIREDIS) from error
    connection = Connection(address)
    try:
        return run(operation(Script(connection, address.name)))
    finally:
        connection.close()


class Seen:
    """What is seen of a pool on a server at one moment. Never changed.

    Attributes:
        said: All of it, as the server has said it.
        rules: What the pool says; of its pauses the one that is on.
    """

    __slots__ = ("_ahead_s", "rules", "said")

    def __init__(self, said: replies.Status, ahead_s: float | None = None) -> None:
        """`ahead_s` is by how much the server's clock is before ours; None if it has said this just now."""
        self.said = said
        self._ahead_s = said.rules.server_us / 1e6 - time.time() if ahead_s is None else ahead_s
        self.rules = rules_of(said.rules, self._ahead_s)

    @property
    def holders(self) -> list[tuple[Record, list[int], replies.Holder]]:
        """By their slots: what is known of each, the numbers of its slots, and what the server says of it."""
        found = []
        room = MOST_SLOTS
        for holder in self.said.holders[:MOST_SLOTS]:
            record = self._record(holder.id, holder.info)
            if holder.overflow:
                record["overflow"] = ""
            if "waited" not in record:
                if holder.left_s > self.said.rules.confirm_s:
                    record["waited"] = "0"  # it got them as it came, which it says with its first beat
                else:  # it has been given them, and has not said yet that it takes them
                    record["since"] = f"{time.time():.6f}"
            slots = list(holder.numbers)
            if not slots:  # the server has lost them: it counts as many as it needs
                slots = [0] * max(1, min(_weight(holder.id), room))
                room -= len(slots)
            found.append((record, slots, holder))
        return sorted(found, key=lambda each: each[1])

    def of_waiter(self, waiter: replies.Waiter) -> Record:
        """What is known of one that waits."""
        record = self._record(waiter.id, waiter.info)
        if waiter.own_cap is not None:
            record["cap"] = str(min(waiter.own_cap, self.said.rules.cap))
        return record

    @property
    def restart_s(self) -> float:
        """For how many more seconds nobody starts, because the server was restarted."""
        return self._left_s(self.said.closed_s)

    def _left_s(self, left_s: float) -> float:
        """What is left now of what was left when the server said this."""
        if not left_s:
            return 0.0
        return max(0.0, self.said.rules.server_us / 1e6 + left_s - self._ahead_s - time.time())

    def _record(self, build: str, info: str) -> Record:
        """What is known of a build by its id and by what it says of itself, which may be anything.

        The fields are those of `disk.records`, but that times there are by the server's clock.
        """
        record: Record = {"command": ""}
        record |= {name: value for name, value in _object(info).items() if isinstance(value, str)}
        since = seconds(record.pop("since", None))
        if since is not None:
            record["since"] = f"{since - self._ahead_s:.6f}"
        record["nonce"] = build.partition(".")[0]
        record["weight"] = str(_weight(build))
        record["cap"] = str(self.said.rules.cap)
        return record


def look(address: Address) -> Seen:
    """Look at the pool at `address`. Raises PoolUnreachableError."""
    return Seen(ask(address, lambda script: script.status()))


def said_of(settings: Settings) -> replies.Rules:
    """What the pool of `settings` says, which is on a server. Raises PoolUnreachableError."""
    return ask(address_of(settings), lambda script: script.status()).rules


def rules_of(said: replies.Rules, ahead_s: float | None = None) -> Rules:
    """What a pool says, as one of this machine would. `ahead_s` as for `Seen`."""
    if ahead_s is None:
        ahead_s = said.server_us / 1e6 - time.time()
    rules = Rules()
    rules.slots = said.cap
    rules.head_start_s = said.head_start_s
    if said.pause is not None:
        until = said.server_us / 1e6 + said.pause.left_s - ahead_s
        who, reason = shown(said.pause.who, NAME_SHOWN), shown(said.pause.reason, MOST_REASON)
        rules.pauses = [Pause(min(until, time.time()), until, who, reason)]
    return rules


def changes_of(said: replies.Rules) -> tuple[tuple[float, str, str], ...]:
    """The last changes, the newest last: when, by the clock here, who made it, and what was set."""
    ahead_s = said.server_us / 1e6 - time.time()
    return tuple(
        (each.t - ahead_s, shown(each.who, NAME_SHOWN), shown(each.what, MOST_REASON))
        for each in said.changes
    )


def limit_of(record: Record) -> int:
    """Below how many held slots who has that record may start."""
    cap = int(record["cap"])
    return cap - min(int(record["weight"]), cap) + 1


def _object(text: str) -> dict[str, Any]:
    """The JSON object in `text`, which the server bounds; an empty one if it is none."""
    import json  # noqa: PLC0415 - 7 ms, for pools on servers only

    try:
        found = json.loads(text)
    except (ValueError, RecursionError):
        return {}
    return found if isinstance(found, dict) else {}


def _weight(build: str) -> int:
    """How many slots the build with that id needs together."""
    digits = build.partition(".")[2]
    return int(digits) if digits.isascii() and digits.isdecimal() and len(digits) < 10 else 1


def is_of_this_machine(record: Record) -> bool:
    """Whether the pid in `record` means here what it means there.

    By the machine's boot, which has a number of its own: hosts are cloned with their names, and the first
    namespace of pids has the same number on all of them.
    """
    is_here = record.get("boot") == boot_id() and record.get("pidns") == identity().get("pidns")
    return is_here and "boot" in record and "pidns" in record
