"""What `status()` and `buildslots status` tell: who holds slots, who waits, in order, at one moment.

Looking creates nothing, waits for nobody, and takes the pool's mutex only while it finds out which
slots are held.
"""

from __future__ import annotations

import os
import time
from dataclasses import asdict, dataclass, replace

from buildslots import outlook, shares
from buildslots.disk import line, records
from buildslots.disk.directory import PoolDirectory
from buildslots.disk.foreign import Locker
from buildslots.disk.lock import locked
from buildslots.disk.seen import Seen
from buildslots.disk.taking import rules_of
from buildslots.processes import is_local, lives, number, start_of
from buildslots.settings.values import DEFAULT_PRIORITY, PRIORITIES

TYPE_CHECKING = False
if TYPE_CHECKING:
    from buildslots.disk.rules import Rules
    from buildslots.reasons import Reason
    from buildslots.settings import Settings
    from buildslots.shares import BuildTokens, PoolTokens

MASSES = 1_000_000
"""So many names in the queue are counted, if they are not looked at."""
MOST_NAMES, LOOK_S = 2000, 0.25
"""So many names in the queue are looked at in any case, more only for so long; so many waiters are told."""
MOST_FOREIGN = 64
"""Of so many slots of other programs the system is asked who has them."""


@dataclass(frozen=True, slots=True, weakref_slot=True)
class Holder:
    """Who holds a slot, or several together.

    >>> with build_slot(weight=2):
    ...     [(holder.slots, holder.weight) for holder in SlotPool().status().holders]
    [((0, 1), 2)]

    Attributes:
        slot: Number of the slot; of several the lowest.
        slots: The numbers of all its slots, ascending.
        weight: How many these are.
        overflow: Whether it runs beyond its own cap.
        foreign: Whether another program has locked the slot file; then little else is known.
        orphaned: Whether the process that took the slot is gone, and a child that it left holds it.
        pid: Process that took the slot, in its own pid namespace, or None.
        command: Arguments of the build, the last one "…" where more were left out; empty if unknown.
        cwd: Directory of the build, or None.
        held_s: Seconds since it took the slot, or None.
        waited_s: Seconds it had waited before that, or None.
        cap: Its K, or None.
        host: Name of its machine or container, or None.
        elsewhere: Whether that, or its pid namespace, is not ours, so that its pid means nothing here.
        batch: ID of the batch that it is a task of, or None; the command is the task's name then.
        ownerless: Whether the process for which it is done is gone.
        tokens: What it has of the machine's CPU tokens; None if it does not share them, or nobody knows.
        silent_s: Seconds since the server of its pool has heard of it, if it should have by now; or None.
    """

    slot: int
    slots: tuple[int, ...]
    weight: int
    overflow: bool
    foreign: bool
    orphaned: bool
    pid: int | None
    command: tuple[str, ...]
    cwd: str | None
    held_s: float | None
    waited_s: float | None
    cap: int | None
    host: str | None
    elsewhere: bool
    batch: str | None = None
    ownerless: bool = False
    tokens: BuildTokens | None = None
    silent_s: float | None = None


@dataclass(frozen=True, slots=True, weakref_slot=True)
class Waiter:
    """Who waits in line.

    >>> SlotPool().status().waiters
    ()

    Attributes:
        place: 1 for the head of the line.
        pid: The waiting process, in its own pid namespace, or None.
        command: Arguments of the build, the last one "…" where more were left out.
        cwd: Directory of the build, or None.
        waited_s: Seconds since it joined the line, or None.
        cap: Its K.
        weight: How many slots it needs together.
        priority: "high", "normal" or "low".
        eta_s: Seconds until it starts, by how long builds like those before it took; None if that is unknown.
        reasons: What keeps it back now, in the order in which it matters.
        host: Name of its machine or container, or None.
        elsewhere: Whether that, or its pid namespace, is not ours, so that its pid means nothing here.
        batch: ID of the batch that it is a task of, or None; the command is the task's name then.
        silent_s: Seconds since the server of its pool has heard of it, if it should have by now; or None.
    """

    place: int
    pid: int | None
    command: tuple[str, ...]
    cwd: str | None
    waited_s: float | None
    cap: int
    weight: int
    host: str | None
    elsewhere: bool
    batch: str | None = None
    priority: str = "normal"
    eta_s: float | None = None
    reasons: tuple[Reason, ...] = ()
    silent_s: float | None = None


@dataclass(frozen=True, slots=True, weakref_slot=True)
class Fleet:
    """What there is to say of a pool on a server besides.

    >>> SlotPool().status().fleet is None  # the pool is one of this machine
    True

    Attributes:
        url: Where it is, without a password.
        unreachable: Why it cannot be asked, in words; the rest of the status is then that of the pool of its
            name on this machine. None if it can.
        on_unreachable: What becomes of builds then: "local" (they take slots of that pool) or "fail".
        lease_s: How long a slot is kept for who is silent; 0.0 if unknown, as all that follows.
        restart_s: For how many more seconds nobody starts, because the server was restarted.
        granted: Builds that have got their slots in their turn, since the pool was made.
        overflowed: Builds that went beyond the cap at their timeout.
        lapsed: Leases that ended because nobody was heard of.
        regained: Builds whose lease was lost, and that have registered again.
        deaf: Waiters that were passed over because nobody listened.
    """

    url: str
    unreachable: str | None = None
    on_unreachable: str = "local"
    lease_s: float = 0.0
    restart_s: float = 0.0
    granted: int = 0
    overflowed: int = 0
    lapsed: int = 0
    regained: int = 0
    deaf: int = 0


@dataclass(frozen=True, slots=True, weakref_slot=True)
class PoolStatus:
    """A pool at one moment.

    >>> status = SlotPool("link", slots=3).status()
    >>> status.held, status.cap, status.cap_source
    (0, 3, 'option')

    Attributes:
        pool: Its name.
        dir: Its directory, absolute; the URL of a pool on a server.
        cap: K for who asks.
        cap_source: Where K comes from.
        holders: By slot number.
        waiters: First come first.
        unseen: How many names in the queue were not looked at, because there are too many.
        paused_until: Unix time until which nobody starts; None if the pool is not paused.
        paused_by: Who has set that; None if nobody has.
        pause_reason: Why; "" if nobody said.
        rules_problem: Why the pool's rules count as absent, in one sentence; None if they do not.
        tokens: The CPU tokens of the machine; None if nobody uses any.
        fleet: What there is to say besides of a pool on a server; None if it is one of this machine.
    """

    pool: str
    dir: str
    cap: int
    cap_source: str
    holders: tuple[Holder, ...]
    waiters: tuple[Waiter, ...]
    unseen: int = 0
    paused_until: float | None = None
    paused_by: str | None = None
    pause_reason: str = ""
    rules_problem: str | None = None
    tokens: PoolTokens | None = None
    fleet: Fleet | None = None

    @property
    def held(self) -> int:
        """How many slots are held."""
        return sum(holder.weight for holder in self.holders)

    def as_dict(self) -> dict[str, object]:
        """The same as plain dicts, lists, strings and numbers: what `--json` prints.

        Without `unseen` where that is 0, as it is in all pools that nobody has filled on purpose.
        """
        told = asdict(self)
        for told_of, waiter in zip(told["waiters"], self.waiters, strict=True):
            told_of["reasons"] = [reason.as_dict() for reason in waiter.reasons]
        if not self.unseen:
            del told["unseen"]
        return told


def cap_of(settings: Settings) -> tuple[int, str]:
    """K as it counts for `settings`, and who says so: the pool, or else whoever does in the settings."""
    return cap_by(settings, rules_of(settings.dir))


def cap_by(settings: Settings, rules: Rules | None) -> tuple[int, str]:
    """The same by those rules."""
    cap = settings.slots if rules is None else rules.cap(settings.slots, is_own=settings.are_own_slots)
    says = rules is not None and rules.slots == cap
    return cap, "the pool" if says else settings.source("slots")


def pool_status(settings: Settings) -> PoolStatus:
    """Look at the pool that `settings` name. Raises OSError if its directory cannot be read."""
    directory = PoolDirectory(settings.dir)
    rules = rules_of(settings.dir)
    cap, cap_source = cap_by(settings, rules)
    pause = None if rules is None else rules.pause(time.time())
    seen = _held(directory)
    holders = _holders(directory, seen, cap)
    names, unseen = _in_line(settings.dir)
    tickets = [records.read(f"{settings.dir}/queue/{name}") or {} for name in names]
    waiters = tuple(map(_waiter, range(1, len(names) + 1), names, tickets))
    if waiters:
        by_slot = {one.number: one.record for one in seen}
        builds = [(None if h.foreign else by_slot[h.slot], list(h.slots)) for h in holders]
        told = outlook.in_line(settings, builds, tickets, list(map(line.limit_of, names)), rules)
        waiters = tuple(
            replace(waiter, eta_s=eta_s, reasons=why)
            for waiter, (eta_s, why) in zip(waiters, told, strict=True)
        )
    tokens, its_tokens = shares.look(settings)
    records_of = {one.number: {} if one.is_foreign else one.record or {} for one in seen}
    holders = tuple(replace(h, tokens=shares.found(records_of[h.slot], its_tokens)) for h in holders)
    caps = [h.cap for h in holders if h.cap] + [w.cap for w in waiters]
    if caps:  # what is beyond the cap is so for the builds, whoever looks
        holders = tuple(replace(h, overflow=h.slot >= max(caps)) if h.foreign else h for h in holders)
    return PoolStatus(
        settings.pool,
        settings.dir,
        cap,
        cap_source,
        holders,
        waiters,
        unseen,
        None if pause is None else pause.until,
        None if pause is None else pause.who,
        "" if pause is None else pause.reason,
        None if rules is None else rules.problem,
        tokens,
    )


def _in_line(directory: str) -> tuple[list[str], int]:
    """The tickets of those who wait in the pool `directory`, and how many names were not looked at.

    Members of a shared pool can make any number of them.
    """
    names = line.waiting(directory, MASSES)
    live: list[str] = []
    until = time.monotonic() + LOOK_S
    for place, name in enumerate(names):
        if place >= MOST_NAMES and time.monotonic() > until:
            return live, len(names) - place
        if locked(f"{directory}/queue/{name}"):
            live.append(name)
            if len(live) == MOST_NAMES:
                return live, len(names) - place - 1
    return live, 0


def pid_here(directory: str, holder: Holder) -> int | None:
    """The pid by which this process can find the build that has `holder`'s slot of the pool in `directory`.

    It is that of the process that took the slot; of a batch, which has many, that of the task's command. None
    if that is gone or unknown, lives in another container, or has let go of the slot meanwhile: its number
    would be another process's here.
    """
    if holder.foreign:
        return holder.pid  # the system's word, not a record's
    record = Seen(directory, holder.slot).record
    if record is None or number(record.get("pid")) != holder.pid:
        return None
    if not (is_local(record) and records.lives(record)):
        return None
    if "batch" not in record:
        return holder.pid
    pid, _, start = record.get("child", "").partition(" ")
    child = number(pid)
    return child if child and start in ("0", str(start_of(child))) else None


def _held(directory: PoolDirectory) -> list[Seen]:
    """What is seen of the held slots."""
    if not os.path.exists(directory.path):
        return []
    return directory.glimpse(lambda: [Seen(directory.path, slot) for slot in directory.held()])


def _holders(directory: PoolDirectory, held: list[Seen], cap: int) -> tuple[Holder, ...]:
    """Who holds the slots, whoever has several of them once: their records have one nonce."""
    found: dict[str, Holder] = {}
    foreign = 0
    for seen in held:
        if seen.is_foreign:
            holder = _foreign_holder(directory, seen.number, cap, ask=foreign < MOST_FOREIGN)
            foreign += 1
        else:
            holder = _holder(seen.number, seen.record or {})
        whose = f"slot-{seen.number}" if holder.foreign or seen.nonce is None else seen.nonce
        before = found.get(whose)
        if before is not None:
            holder = replace(before, slots=(*before.slots, seen.number), weight=before.weight + 1)
        found[whose] = holder
    return tuple(found.values())


def _holder(slot: int, record: dict[str, str]) -> Holder:
    return Holder(
        slot=slot,
        slots=(slot,),
        weight=1,
        overflow="overflow" in record,
        foreign=False,
        orphaned=not records.lives(record),
        pid=number(record.get("pid")),
        command=command_of(record),
        cwd=record.get("cwd"),
        held_s=records.age_s(record),
        waited_s=records.seconds(record.get("waited")),
        cap=number(record.get("cap")),
        host=record.get("host"),
        elsewhere=not is_local(record),
        batch=record.get("batch") or None,
        ownerless=is_ownerless(record),
    )


def is_ownerless(record: dict[str, str]) -> bool:
    """Whether the process for which a build of this machine is done is gone, as far as that can be told."""
    pid, _, start = record.get("owner", "").partition(" ")
    if not number(pid) or start in {"", "0"}:
        return False
    return not lives(record | {"pid": pid, "start": start}, None)


def _waiter(place: int, name: str, record: dict[str, str]) -> Waiter:
    return Waiter(
        place=place,
        pid=number(record.get("pid")),
        command=command_of(record),
        cwd=record.get("cwd"),
        waited_s=records.age_s(record),
        cap=number(record.get("cap")) or line.limit_of(name),
        weight=number(record.get("weight")) or 1,
        host=record.get("host"),
        elsewhere=bool(record) and not is_local(record),
        batch=record.get("batch") or None,
        priority=priority_of(record),
    )


def priority_of(record: dict[str, str]) -> str:
    """The priority of the waiter that `record` is of."""
    its = record.get("priority", "")
    return its if its in PRIORITIES else DEFAULT_PRIORITY


def _foreign_holder(directory: PoolDirectory, slot: int, cap: int, *, ask: bool) -> Holder:
    """A program that locked the slot file without a record: what the system, if we `ask` it, knows of it."""
    locker = Locker(f"{directory.path}/slot-{slot}" if ask else None)
    return Holder(
        slot=slot,
        slots=(slot,),
        weight=1,
        overflow=slot >= cap,
        foreign=True,
        orphaned=False,
        pid=locker.pid,
        command=locker.command,
        cwd=locker.cwd,
        held_s=locker.age_s,
        waited_s=None,
        cap=None,
        host=None,
        elsewhere=False,
    )


def command_of(record: dict[str, str]) -> tuple[str, ...]:
    """The arguments of the build that `record` is of."""
    return tuple(record.get("command", "").split("\0")[:-1])
