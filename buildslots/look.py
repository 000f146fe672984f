"""A look at a pool, be it on this machine or on a server: who holds slots, who waits, and what counts."""

from __future__ import annotations

import time
from dataclasses import replace

from buildslots import afar, outlook, shares, status
from buildslots.disk import records
from buildslots.errors import PoolUnreachableError
from buildslots.fleet.known import MARK
from buildslots.processes import number
from buildslots.reasons import Reason
from buildslots.settings import Settings
from buildslots.status import Fleet, Holder, PoolStatus, Waiter

TYPE_CHECKING = False
if TYPE_CHECKING:
    from buildslots.afar import Record, Seen
    from buildslots.fleet import replies

HOST = "its own machine, which has no slot for it besides, or is not as it wants it"


def pool_status(settings: Settings) -> PoolStatus:
    """Look at the pool that `settings` name.

    Raises:
        OSError: Its directory cannot be read.
        PoolUnreachableError: An OSError as well; it is on a server that cannot be asked.
    """
    if "url" not in settings.said:
        return status.pool_status(settings)
    return _of_server(settings, afar.look(afar.address_of(settings)))


def status_here(settings: Settings) -> PoolStatus:
    """The same, for people: while a server cannot be asked that of the pool where builds of this machine go.

    Raises OSError: the directory of that cannot be read.
    """
    try:
        return pool_status(settings)
    except PoolUnreachableError as error:
        address = afar.address_of(settings)
        own = status.pool_status(of_this_machine(settings))
        if address.on_unreachable == "fail":
            own = replace(own, holders=(), waiters=())
        return replace(own, fleet=Fleet(str(address), error.cause, address.on_unreachable))


def of_this_machine(settings: Settings) -> Settings:
    """The settings of a build in the pool of that name on this machine, in the place of one on a server."""
    from buildslots.settings.machine import machine_cap  # noqa: PLC0415 - while a server is away

    said = {name: its for name, its in settings.said.items() if name != "url"}
    if not settings.are_own_slots:
        cap = machine_cap()
        said["slots"] = cap.slots, cap.source
    return Settings(
        settings.dir,
        said,
        disabled=settings.disabled,
        are_own_slots=settings.are_own_slots,
        agent=settings.agent,
    )


def cap_of(settings: Settings) -> tuple[int, str]:
    """K as it counts for `settings`, and who says so: the pool, or else whoever does in the settings.

    Raises PoolUnreachableError: an OSError; the pool is on a server that cannot be asked.
    """
    if "url" not in settings.said:
        return status.cap_of(settings)
    return status.cap_by(settings, afar.rules_of(afar.said_of(settings)))


def pid_here(at: PoolStatus, holder: Holder) -> int | None:
    """The pid by which this process can find the build of `holder` in the pool `at`; None if it cannot.

    On a server only what each machine says of its own builds tells; so the process has to live still that has
    the pid, the start and the boot of the machine that it says.
    """
    if at.fleet is None or at.fleet.unreachable is not None:
        return status.pid_here(at.dir, holder)
    is_known = not (holder.elsewhere or holder.orphaned or holder.batch)
    return holder.pid if is_known else None


def _of_server(settings: Settings, seen: Seen) -> PoolStatus:
    said, counts = seen.said, seen.said.counts
    cap, cap_source = status.cap_by(settings, seen.rules)
    pause = seen.rules.pause(time.time())
    held = seen.holders
    tickets = [seen.of_waiter(waiter) for waiter in said.waiters]
    told = []
    if tickets:
        builds: list[outlook.Build] = [(record, slots) for record, slots, _ in held]
        limits = list(map(afar.limit_of, tickets))
        told = outlook.in_line(settings, builds, tickets, limits, seen.rules, restart_s=said.closed_s)
    tokens, its_tokens = shares.look(settings)
    holders = []
    for record, slots, one in held:
        holder = _holder(record, slots, one, said.rules.lease_s)
        if not holder.elsewhere:
            mark = f"{MARK}{one.id}{MARK}{afar.address_of(settings).name}"
            holder = replace(holder, tokens=shares.found(record | {"nonce": mark}, its_tokens))
        holders.append(holder)
    return PoolStatus(
        pool=settings.pool,
        dir=str(settings.address),
        cap=cap,
        cap_source=cap_source,
        holders=tuple(holders),
        waiters=tuple(
            _waiter(place, ticket, waiter, *why, said.rules.ticket_s)
            for place, (ticket, waiter, why) in enumerate(zip(tickets, said.waiters, told, strict=True), 1)
        ),
        unseen=max(0, said.length - len(said.waiters)),
        paused_until=None if pause is None else pause.until,
        paused_by=None if pause is None else pause.who,
        pause_reason="" if pause is None else pause.reason,
        tokens=tokens,
        fleet=Fleet(
            url=str(settings.address),
            on_unreachable=afar.address_of(settings).on_unreachable,
            lease_s=said.rules.lease_s,
            restart_s=said.closed_s,
            granted=counts.granted,
            overflowed=counts.overflowed,
            lapsed=counts.lapsed,
            regained=counts.regained,
            deaf=counts.deaf,
        ),
    )


def _holder(record: Record, slots: list[int], said: replies.Holder, lease_s: float) -> Holder:
    is_here = afar.is_of_this_machine(record)
    return Holder(
        slot=slots[0],
        slots=tuple(slots),
        weight=len(slots),
        overflow=said.overflow,
        foreign=False,
        orphaned=is_here and not records.lives(record),
        pid=number(record.get("pid")),
        command=status.command_of(record),
        cwd=record.get("cwd"),
        held_s=records.age_s(record),
        waited_s=records.seconds(record.get("waited")),
        cap=number(record["cap"]),
        host=record.get("host"),
        elsewhere=not is_here,
        batch=record.get("batch") or None,
        ownerless=is_here and status.is_ownerless(record),
        silent_s=_silent_s(lease_s, said.left_s) if "waited" in record else None,
    )


def _waiter(  # noqa: PLR0913, PLR0917 - all that is known of it
    place: int,
    record: Record,
    said: replies.Waiter,
    eta_s: float | None,
    why: tuple[Reason, ...],
    ticket_s: float,
) -> Waiter:
    if not said.is_ready:
        why = (*why, Reason("host", HOST))
    return Waiter(
        place=place,
        pid=number(record.get("pid")),
        command=status.command_of(record),
        cwd=record.get("cwd"),
        waited_s=records.age_s(record),
        cap=int(record["cap"]),
        weight=int(record["weight"]),
        host=record.get("host"),
        elsewhere=not afar.is_of_this_machine(record),
        batch=record.get("batch") or None,
        priority=status.priority_of(record),
        eta_s=eta_s if said.is_ready else None,
        reasons=why,
        silent_s=_silent_s(ticket_s, said.left_s),
    )


def _silent_s(kept_s: float, left_s: float) -> float | None:
    """For how long one was not heard of that is kept for so long after each beat; None if it beats.

    It does so three times in that time.
    """
    silent_s = kept_s - left_s
    return silent_s if silent_s > kept_s / 2 else None
