"""Each guard of the script keeps a promise in a fault; the same script without it breaks that promise."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import pytest
from clocked import Pool
from fleet_model import Model, S

from buildslots.fleet.connection import run
from buildslots.fleet.script import Script, Source, packaged

if TYPE_CHECKING:
    from collections.abc import Callable

    from servers import Server

T0 = 1_800_000_000 * S
LEASE = 30 * S
BEAT = 10 * S


class BrokenError(AssertionError):
    """A promise was broken, which no other failure of a test says."""


def promise(kept: object, what: str) -> None:
    if not kept:
        raise BrokenError(what)


def made(pool: Pool, cap: int) -> Pool:
    pool.create(Model(cap, T0))
    return pool


def stalled(pool: Pool) -> None:
    """The server stands still for longer than a lease; who waits is heard before those who hold."""
    made(pool, 3)
    running = {f"a{number}.1" for number in range(3)}
    assert {pool.join(T0, who).state for who in (*running, *running)} == {"held"}
    now = T0 + 40 * S
    new = {who for who in ("b1.1", "b2.1", "b3.1") if pool.join(now, who).state == "held"}
    for who in running:
        promise(not pool.renew(now + S, who).overflow, "one that runs has lost its slot")
    promise(len(running | new) <= 3, "more run than there are slots")


def jumped(pool: Pool) -> None:
    """The server's clock is set forward by less than a lease, but more than is left of one that runs."""
    made(pool, 1)
    assert [pool.join(T0, "a1.1").state for _ in range(2)] == ["held", "held"]  # the second confirms
    assert pool.join(T0 + BEAT - 1, "b1.1").state == "waiting"
    now = T0 + BEAT + 21 * S
    promise(pool.join(now, "b1.1").state == "waiting", "its slot was given away, and it runs")
    promise(not pool.renew(now + S, "a1.1").overflow, "one that runs has lost its slot")


def restarted(pool: Pool) -> None:
    """The server comes back with what it had before a slot was taken."""
    made(pool, 1)
    before = Model(1, T0, seen=T0)
    assert pool.join(T0, "a1.1").state == "held"
    pool.put(before)
    pool.restart()
    now = T0 + 2 * S
    promise(pool.join(now, "b1.1").state == "waiting", "a slot was given twice")
    promise(pool.renew(now + BEAT, "a1.1", (0,)).numbers == (0,), "one that runs has lost its slot")
    assert pool.drop(now + BEAT, "a1.1").state == "gone"
    now += LEASE
    assert pool.join(now, "b1.1").state == "held"


def forgotten(pool: Pool) -> None:
    """Everything is lost; one that waits tells the server its rules before one that runs has been heard."""
    made(pool, 1)
    known = pool.join(T0, "a1.1").known
    pool.wipe()
    join = ("wait", "normal", 0, 0, "")
    promise(
        pool.build(T0 + S, "join", "b1.1", *join, known=known).state == "waiting", "a slot was given twice"
    )
    assert pool.build(T0 + BEAT, "renew", "a1.1", "0", "", known=known).numbers == (0,)


def set_back(pool: Pool) -> None:
    """The server's clock is set back by an hour; one that holds a slot is dead."""
    made(pool, 1)
    assert pool.join(T0, "a1.1").state == "held"
    now = T0 + S - 3600 * S
    for _ in range(5):
        answer = pool.join(now, "b1.1")
        now += BEAT
    promise(answer.state == "held", "the dead keeps its slot until the clock is right again")


def passed_over(pool: Pool) -> None:
    """The first in line is dead, and its connection is closed."""
    made(pool, 1)
    assert pool.join(T0, "a1.1").state == "held"
    pool.listen({"c1.1"})
    assert pool.join(T0 + 1, "b1.1").place == 0
    assert pool.join(T0 + 2, "c1.1").place == 1
    pool.drop(T0 + S, "a1.1")
    promise(pool.told() == [("c1.1", "go")], "the slot waits for the dead")


def first_of_two_is_told(pool: Pool) -> None:
    """Who holds the slot lets go of it, and two wait for it and listen."""
    made(pool, 1)
    assert pool.join(T0, "a1.1").state == "held"
    pool.listen({"b1.1", "c1.1"})
    pool.join(T0 + 1, "b1.1")
    pool.join(T0 + 2, "c1.1")
    pool.drop(T0 + S, "a1.1")


def cut_off(pool: Pool) -> None:
    """The first in line is cut off: the server still has its connection."""
    first_of_two_is_told(pool)
    assert pool.told()[:1] == [("b1.1", "go")]
    promise(pool.join(T0 + 5 * S, "c1.1").state == "held", "the slot waits for a whole lease")


def nobody_wakes(pool: Pool) -> None:
    """The same, and nobody calls by chance: who is next has to know when to look."""
    first_of_two_is_told(pool)
    promise(("c1.1", "soon 3000") in pool.told(), "nobody looks when the time to confirm is over")


def in_order(pool: Pool) -> None:
    """The server's clock is set back, and one joins."""
    made(pool, 1)
    for who in ("a1.1", "b1.1"):
        pool.join(T0, who)
    promise(pool.join(T0 - 60 * S, "c1.1").place == 1, "it stands before one that came earlier")


def blocked(pool: Pool) -> None:
    """The first in line needs more than is free, and small ones come later."""
    made(pool, 2)
    pool.join(T0, "a1.1")
    pool.join(T0 + 1, "b1.2")
    promise(pool.join(T0 + 2, "c1.1").state == "waiting", "a small one has passed a large one")


class Guard(NamedTuple):
    """A scenario, and the text of the script without which it ends badly."""

    scenario: Callable[[Pool], None]
    text: bytes
    without: bytes = b""


GUARDS = {
    "stall guard": Guard(stalled, b"  guard_stall()\n"),
    "stall guard at half a lease": Guard(jumped, b"cfg.lease / 2 and", b"cfg.lease * 0.75 and"),
    "run id": Guard(restarted, b"  guard_restart()\n"),
    "closed after a loss": Guard(forgotten, b"    set('closed', now + lease)\n"),
    "clamp": Guard(set_back, b"  guard_clock()\n"),
    "receiver count": Guard(
        passed_over, b"PUBLISH', POOL .. head, 'go') > 0", b"PUBLISH', POOL .. head, 'go') >= 0"
    ),
    "time to confirm": Guard(cut_off, b"now + cfg.confirm)", b"now + cfg.lease)"),
    "wake for that time": Guard(nobody_wakes, b"    wake_the_next(alive)\n"),
    "order of arrival": Guard(in_order, b"math.max(cfg.last + 1, now)", b"now"),
    "blocked line": Guard(
        blocked,
        b"    if used + weight > cap then",
        b"    if used + weight > cap and call('ZCARD', QUEUE) == 1 then",
    ),
}


@pytest.mark.parametrize("name", GUARDS)
def test_a_guard_keeps_a_promise(server: Server, name: str) -> None:
    """With it the scenario ends well, without it not."""
    guard = GUARDS[name]
    guard.scenario(Pool(server, "with"))

    def change(text: bytes) -> bytes:
        changes.append(text.count(guard.text))
        return text.replace(guard.text, guard.without)

    changes: list[int] = []
    with pytest.raises(BrokenError):
        guard.scenario(Pool(server, "without", change))
    assert max(changes) == 1, "the script has no such guard any more"


def let_go_in_full_memory(server: Server, source: Callable[[str], Source]) -> None:
    """The server has no memory left; a slot is held, and one waits for it."""
    scripts = [Script(server.connection(), "p", source=source) for _ in range(2)]
    run(scripts[0].create("test", 1))
    run(scripts[0].join("a1.1"))
    run(scripts[1].join("b1.1"))
    server.do("CONFIG", "SET", "maxmemory", 1)
    try:
        run(scripts[0].drop("a1.1"))
        assert run(scripts[1].join("b1.1")).state == "held"
    except OSError as error:
        promise("OOM" not in str(error), "nobody can let go")
        raise
    finally:
        server.do("CONFIG", "SET", "maxmemory", 0)
        server.do("FLUSHALL")


def test_a_full_memory_keeps_nobody_from_letting_go(server: Server) -> None:
    """It is the flag that does it."""
    let_go_in_full_memory(server, packaged)

    def without(name: str) -> Source:
        return Source("no-cluster", packaged(name).text.split(b"\n", 1)[1])

    with pytest.raises(BrokenError):
        let_go_in_full_memory(server, without)
