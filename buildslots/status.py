"""What `status()` and `buildslots status` tell: who holds slots, who waits, in order, at one moment.

Looking creates nothing, waits for nobody, and takes the pool's mutex only while it finds out which
slots are held.
"""

from __future__ import annotations

import os
import sys
import time
from dataclasses import asdict, dataclass, replace

from buildslots.disk import line, records
from buildslots.disk.directory import PoolDirectory, Seen
from buildslots.disk.lock import locked
from buildslots.processes import is_local, number

TYPE_CHECKING = False
if TYPE_CHECKING:
    from buildslots.settings import Settings

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
        host: Name of its machine or container, or None.
        elsewhere: Whether that, or its pid namespace, is not ours, so that its pid means nothing here.
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


@dataclass(frozen=True, slots=True, weakref_slot=True)
class PoolStatus:
    """A pool at one moment.

    >>> status = SlotPool("link", slots=3).status()
    >>> status.held, status.cap, status.cap_source
    (0, 3, 'option')

    Attributes:
        pool: Its name.
        dir: Its directory, absolute.
        cap: K for who asks.
        cap_source: Where K comes from.
        holders: By slot number.
        waiters: First come first.
        unseen: How many names in the queue were not looked at, because there are too many.
    """

    pool: str
    dir: str
    cap: int
    cap_source: str
    holders: tuple[Holder, ...]
    waiters: tuple[Waiter, ...]
    unseen: int = 0

    @property
    def held(self) -> int:
        """How many slots are held."""
        return sum(holder.weight for holder in self.holders)

    def as_dict(self) -> dict[str, object]:
        """The same as plain dicts, lists, strings and numbers: what `--json` prints.

        Without `unseen` where that is 0, as it is in all pools that nobody has filled on purpose.
        """
        told = asdict(self)
        if not self.unseen:
            del told["unseen"]
        return told


def pool_status(settings: Settings) -> PoolStatus:
    """Look at the pool that `settings` name. Raises OSError if its directory cannot be read."""
    directory = PoolDirectory(settings.dir)
    holders = _holders(directory, settings.slots)
    names, unseen = _in_line(settings.dir)
    waiters = tuple(_waiter(directory, place, name) for place, name in enumerate(names, 1))
    caps = [h.cap for h in holders if h.cap] + [w.cap for w in waiters]
    if caps:  # what is beyond the cap is so for the builds, whoever looks
        holders = tuple(replace(h, overflow=h.slot >= max(caps)) if h.foreign else h for h in holders)
    return PoolStatus(
        settings.pool, settings.dir, settings.slots, settings.slots_source, holders, waiters, unseen
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
    """The pid by which this process can find the one that took `holder`'s slot of the pool in `directory`.

    None if that is gone or unknown, lives in another container, or has let go of the slot meanwhile:
    its number would be another process's here.
    """
    if holder.foreign:
        return holder.pid  # the system's word, not a record's
    record = Seen(directory, holder.slot).record
    if record is None or number(record.get("pid")) != holder.pid:
        return None
    return holder.pid if is_local(record) and records.lives(record) else None


def _held(directory: PoolDirectory) -> list[Seen]:
    """What is seen of the held slots."""
    if not os.path.exists(directory.path):
        return []
    return directory.glimpse(lambda: [Seen(directory.path, slot) for slot in directory.held()])


def _holders(directory: PoolDirectory, cap: int) -> tuple[Holder, ...]:
    """Who holds the slots, whoever has several of them once: their records have one nonce."""
    found: dict[str, Holder] = {}
    foreign = 0
    for seen in _held(directory):
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
        command=_command(record),
        cwd=record.get("cwd"),
        held_s=records.age_s(record),
        waited_s=records.seconds(record.get("waited")),
        cap=number(record.get("cap")),
        host=record.get("host"),
        elsewhere=not is_local(record),
    )


def _waiter(directory: PoolDirectory, place: int, name: str) -> Waiter:
    record = records.read(f"{directory.path}/queue/{name}") or {}
    return Waiter(
        place=place,
        pid=number(record.get("pid")),
        command=_command(record),
        cwd=record.get("cwd"),
        waited_s=records.age_s(record),
        cap=number(record.get("cap")) or line.limit_of(name),
        weight=number(record.get("weight")) or 1,
        host=record.get("host"),
        elsewhere=bool(record) and not is_local(record),
    )


def _foreign_holder(directory: PoolDirectory, slot: int, cap: int, *, ask: bool) -> Holder:
    """A program that locked the slot file without a record: what the system, if we `ask` it, knows of it."""
    pid = _lock_owner(f"{directory.path}/slot-{slot}") if ask else None
    command: tuple[str, ...] = ()
    cwd = held_s = None
    if pid is not None:
        import psutil  # noqa: PLC0415 - 25 ms, for foreign holders only

        try:
            process = psutil.Process(pid)
            command = tuple(process.cmdline())
            held_s = max(0.0, time.time() - process.create_time())  # at most: it may have locked later
            cwd = process.cwd()
        except psutil.Error:
            pass  # gone, or somebody else's
    return Holder(
        slot=slot,
        slots=(slot,),
        weight=1,
        overflow=slot >= cap,
        foreign=True,
        orphaned=False,
        pid=pid,
        command=command,
        cwd=cwd,
        held_s=held_s,
        waited_s=None,
        cap=None,
        host=None,
        elsewhere=False,
    )


def _lock_owner(path: str) -> int | None:
    """The process that took the flock of the file at `path`, from /proc/locks (proc_locks(5)), or None."""
    if sys.platform != "linux":
        return None
    try:
        file = os.stat(path)
        with open("/proc/locks", encoding="ascii") as locks:
            lines = [line.split() for line in locks]
    except OSError:
        return None
    # The device there is the superblock's, which on btrfs is not st_dev: the inode alone has to do then.
    device = f"{os.major(file.st_dev):02x}:{os.minor(file.st_dev):02x}:{file.st_ino}"
    flocks = {words[5]: int(words[4]) for words in lines if len(words) > 5 and words[1] == "FLOCK"}
    same_inode = [pid for where, pid in flocks.items() if where.endswith(f":{file.st_ino}")]
    pid = flocks.get(device, same_inode[0] if len(same_inode) == 1 else 0)
    return pid if pid > 0 else None


def _command(record: dict[str, str]) -> tuple[str, ...]:
    return tuple(record.get("command", "").split("\0")[:-1])
