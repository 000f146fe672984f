"""A pool on a server: whether it can be asked, what it is like, who may use it, and what has been lost."""

from __future__ import annotations

from buildslots.fleet.password import PasswordError, read_password
from buildslots.settings.machine import machine_cap
from buildslots.view.health.checks import NOTE, OK, PROBLEM, Finding
from buildslots.view.health.server import EXCESS, Server
from buildslots.words import prose, prose_path, size, span

TYPE_CHECKING = False
if TYPE_CHECKING:
    from buildslots.settings import Settings
    from buildslots.status import Holder, PoolStatus

SLOW_S = 0.2
"""An answer that takes longer makes each hand-over noticeably slow: that takes two of them."""
APART_S = 60.0
"""Clocks that differ by more than this are worth a word, though nothing depends on it."""
NEARLY_FULL = 0.9
MOST_NAMED = 20
"""Builds that are named one by one."""


def server(seen: Server) -> list[Finding]:
    """Whether it is there, what it is, and how fast."""
    address = seen.address
    if seen.problem is not None:
        then = "exit with 75" if address.on_unreachable == "fail" else "take slots of this machine's own pool"
        text = f"{prose(address)} cannot be used: {prose(seen.problem)}; builds {then}"
        return [Finding("server", PROBLEM, text, {"url": str(address)})]
    name, version = _version(seen)
    details: dict[str, object] = {
        "url": str(address),
        "server": name,
        "version": version,
        "answer_s": seen.answer_s,
        "up_s": seen.number("uptime_in_seconds"),
        "role": seen.info.get("role"),
    }
    found = []
    if seen.info.get("role") == "slave":
        text = "it is a replica, where nobody can take a slot: the URL has to lead to its primary"
        found.append(Finding("server", PROBLEM, text, details))
    if seen.info.get("cluster_enabled") == "1":
        text = "it is a node of a cluster, in which a wake-up reaches the waiters of one node only"
        found.append(Finding("server", PROBLEM, f"{text}: take a server that is none", details))
    answer_s = seen.answer_s or 0.0
    if answer_s > SLOW_S:
        text = f"it takes {answer_s * 1000:.0f} ms to answer, and each hand-over takes two answers"
        found.append(Finding("server", NOTE, text, details))
    text = f"{name} {version} at {prose(address)} answers within {answer_s * 1000:.1f} ms"
    return found or [Finding("server", OK, text, details)]


def _version(seen: Server) -> tuple[str, str]:
    """Valkey also says which version of Redis it is like."""
    if "valkey_version" in seen.info:
        return "Valkey", seen.info["valkey_version"]
    return "Redis", seen.info.get("redis_version", "?")


def transport(seen: Server) -> list[Finding]:
    """Who could read what is said to it."""
    address = seen.address
    if address.scheme == "rediss":
        text = f"TLS, with a certificate that has to be that of {prose(address.host)}"
        return [Finding("transport", OK, text)]
    if address.is_encrypted_or_near:
        return [Finding("transport", OK, "plain text, which does not leave this machine")]
    text = (
        "plain text, by way of a network: whoever can listen there reads the password and all names of builds"
    )
    return [Finding("transport", NOTE, f"{text}; `rediss://` is encrypted")]


def password(seen: Server) -> list[Finding]:
    """The file with it; and whether the server wants one at all."""
    path = seen.address.password_file
    if path is None:
        if seen.problem is not None or seen.address.scheme == "unix":
            return [Finding("password", OK, "none")]
        text = "the server wants no password: whoever reaches it can use and change the pool"
        return [Finding("password", NOTE, f"{text}; `buildslots help fleet` has a user with few rights")]
    details: dict[str, object] = {"password_file": path}
    try:
        read_password(path)
    except PasswordError as error:
        return [Finding("password", PROBLEM, prose(str(error)), details)]
    return [Finding("password", OK, f"in {prose_path(path)}, which only you can read", details)]


def rights(seen: Server) -> list[Finding]:
    """What the user may not do there, and a pool needs; and what it may do that no pool needs."""
    if seen.problem is not None:
        return []
    user = prose(seen.address.user or "default")
    if seen.rights is None:
        return [Finding("rights", NOTE, f"which rights the user {user} has cannot be told")]
    details: dict[str, object] = {"user": user, "missing": seen.missing}
    if seen.missing:
        lacks = " ".join(seen.missing)
        text = f"the user {user} may not do all that a pool needs: `ACL SETUSER {user} {lacks}`"
        return [Finding("rights", PROBLEM, text, details)]
    if seen.rights & set(EXCESS):
        some = " and ".join(EXCESS).upper().replace(" AND ", " and ")
        text = f"the user {user} may do more there than a pool needs, such as {some}"
        return [Finding("rights", NOTE, f"{text}; `buildslots help fleet` has the few rights", details)]
    return [Finding("rights", OK, f"the user {user} may do what a pool needs, and not much more", details)]


def memory(seen: Server) -> list[Finding]:
    """Whether it removes pools when its memory is full."""
    if seen.problem is not None:
        return []
    policy, most = seen.info.get("maxmemory_policy", "?"), seen.number("maxmemory")
    used, evicted = seen.number("used_memory"), seen.number("evicted_keys")
    details: dict[str, object] = {"policy": policy, "most": most, "used": used, "evicted": evicted}
    if policy.startswith("allkeys"):
        when = f"over {size(most)}" if most else "over its maxmemory, which is none yet"
        text = f"maxmemory-policy {policy} lets it remove pools when its memory is {when}"
        how = "`noeviction` or `volatile-…` does not, nor does a server of its own"
        return [Finding("memory", PROBLEM if most else NOTE, f"{text}: {how}", details)]
    if most and used > NEARLY_FULL * most:
        text = f"{size(used)} of {size(most)} are used: builds go on when it is full, but others may not"
        return [Finding("memory", NOTE, text, details)]
    bound = f"of {size(most)}" if most else "without a bound"
    return [Finding("memory", OK, f"{size(used)} used {bound}, maxmemory-policy {policy}", details)]


def persistence(seen: Server) -> list[Finding]:
    """What it knows after a restart, and whether it can write that."""
    if seen.problem is not None:
        return []
    info = seen.info
    details: dict[str, object] = {
        name: info.get(name)
        for name in ("aof_enabled", "aof_last_write_status", "rdb_last_bgsave_status", "rdb_saves")
    }
    for name, what in (("aof_last_write_status", "append file"), ("rdb_last_bgsave_status", "snapshot")):
        if info.get(name) == "err":
            text = f"it could not write its last {what}, and refuses all changes until it can: see its log"
            return [Finding("persistence", PROBLEM, text, details)]
    if info.get("aof_enabled") == "1":
        return [Finding("persistence", OK, "it keeps all on disk (AOF)", details)]
    if seen.number("rdb_saves") or seen.number("rdb_last_load_keys_loaded"):
        return [Finding("persistence", OK, "it keeps snapshots on disk", details)]
    text = (
        "it has written nothing to disk yet: after a restart builds teach it the pool again, but one that "
        "nobody uses just then has to be made again"
    )
    return [Finding("persistence", NOTE, text, details)]


def clock(seen: Server) -> list[Finding]:
    """How far the clocks are apart; all that counts is the server's."""
    if seen.ahead_s is None:
        return []
    details: dict[str, object] = {"ahead_s": round(seen.ahead_s, 3)}
    apart_s = abs(seen.ahead_s)
    if apart_s < APART_S:
        return [Finding("clock", OK, f"the clocks differ by {apart_s * 1000:.0f} ms", details)]
    which = "ahead of" if seen.ahead_s > 0 else "behind"
    text = f"its clock is {span(apart_s)} {which} this machine's: one is wrong, though nothing depends on it"
    return [Finding("clock", NOTE, text, details)]


def pool(seen: Server) -> list[Finding]:
    """Whether there is such a pool, what it says, and whether the server has forgotten who holds it."""
    if seen.problem is not None:
        return []
    if seen.status is None:
        text = seen.no_pool or "it cannot be looked at"
        if seen.is_missing:
            text = (
                f"there is no such pool: `buildslots fleet create {prose(seen.address)} --slots N` makes it"
            )
        return [Finding("pool", PROBLEM, text)]
    status, rules = seen.status, seen.status.rules
    details: dict[str, object] = {
        "slots": rules.cap,
        "lease_s": rules.lease_s,
        "confirm_s": rules.confirm_s,
        "held": status.used,
        "waiting": status.length,
    }
    slots = "1 slot" if rules.cap == 1 else f"{rules.cap} slots"
    text = f"{slots}, {status.used} held, {status.length} waiting, leases of {span(rules.lease_s)}"
    found = [Finding("pool", OK, text, details)]
    if status.closed_s:
        text = (
            f"the server was restarted, or has lost the pool: nobody starts for {span(status.closed_s)} more"
        )
        found.append(Finding("pool", NOTE, text, details))
    return found


def leases(seen: Server, status: PoolStatus) -> list[Finding]:
    """Builds that are not heard of, those beyond the cap, and how many leases were lost in all."""
    if seen.status is None:
        return []
    counts = seen.status.counts
    details: dict[str, object] = {name: getattr(counts, name) for name in type(counts).__slots__}
    found = [
        Finding("leases", NOTE, _silent(holder, seen.status.rules.lease_s), {"slots": list(holder.slots)})
        for holder in status.holders[:MOST_NAMED]
        if holder.silent_s is not None
    ]
    if beyond := [holder for holder in status.holders if holder.overflow]:
        who = "1 build runs" if len(beyond) == 1 else f"{len(beyond)} builds run"
        text = f"{who} beyond the cap, after a timeout or a lost lease"
        found.append(Finding("leases", NOTE, text, {"overflow": len(beyond)}))
    lost = f"leases that lapsed {counts.lapsed}, and were taken up again {counts.regained}"
    text = f"since the pool was made: {lost}; builds that went beyond the cap {counts.overflowed}"
    return [*found, Finding("leases", OK, text, details)]


def _silent(holder: Holder, lease_s: float) -> str:
    left = span(max(0.0, lease_s - (holder.silent_s or 0.0)))
    what = prose(" ".join(holder.command) or "?")
    return (
        f"slot {holder.slot}: `{what}` on {prose(holder.host or '?')} was not heard of for "
        f"{span(holder.silent_s or 0.0)}: cut off, stopped or killed; its slot is free in {left} unless it is"
    )


def fallback(seen: Server, settings: Settings) -> list[Finding]:
    """What becomes of builds while the server is away."""
    address = seen.address
    if address.on_unreachable == "fail":
        return [Finding("fallback", OK, "while the server is away builds exit with 75")]
    where = prose_path(address.directory)
    slots = settings.slots if settings.are_own_slots else machine_cap().slots
    text = f"while the server is away builds take one of {slots} slots of this machine's own pool, {where}"
    return [Finding("fallback", OK, text, {"dir": address.directory, "slots": slots})]
