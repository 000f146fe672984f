"""The typed calls against a real server: what each operation answers, and who is told what."""

from __future__ import annotations

import signal
from typing import TYPE_CHECKING

import pytest
from builds import wait_until
from clocked import Pool
from fleet_model import Model, S

from buildslots.errors import PoolUnreachableError
from buildslots.fleet.connection import run
from buildslots.fleet.script import NoPoolError, PoolExistsError

if TYPE_CHECKING:
    from collections.abc import Callable

    from servers import Server

T0 = 1_800_000_000 * S


def test_a_free_slot_is_had_at_once_and_the_next_in_line_is_told(server: Server) -> None:
    """Take, wait, be told, confirm, let go."""
    one, two = server.script(), server.script()
    rules = run(one.create("me", 1))
    assert (rules.cap, rules.lease_s, rules.changes[-1].what) == (1, 30.0, "create slots=1")
    held = run(one.join("a1.1", rules.known))
    assert (held.state, held.numbers, held.used, held.overflow) == ("held", (0,), 1, False)
    waiting = run(two.join("b2.1", info='{"pid": 1}'))
    assert (waiting.state, waiting.place, waiting.length) == ("waiting", 0, 1)
    assert waiting.next_s == pytest.approx(3, abs=1)  # so long it has what it does not confirm
    assert run(one.join("a1.1", rules.known)).numbers == (0,)
    assert run(two.join("b2.1", rules.known)).next_s == pytest.approx(30, abs=1)
    assert run(one.drop("a1.1")).state == "gone"
    assert run(two.join("b2.1", waiting.known, seq=waiting.seq)).numbers == (0,)


def test_a_pool_is_made_once(server: Server) -> None:
    """Nothing can be had of one that nobody has made; nobody makes one that is there."""
    script = server.script()
    with pytest.raises(NoPoolError, match="no such pool"):
        run(script.join("a1.1"))
    run(script.create("me", 1))
    with pytest.raises(PoolExistsError):
        run(script.create("me", 2))


@pytest.mark.parametrize("lost", ["all", "who holds", "nothing", "all but the server itself"])
def test_a_server_that_has_lost_something_gives_nothing_for_a_lease(
    servers: Callable[..., Server], lost: str
) -> None:
    """Restarted with nothing, with an old copy, with all it had; and flushed. Who runs keeps its slot."""
    server = servers("appendonly yes", "appendfsync always") if lost == "nothing" else servers()
    pool, now = Pool(server), T0
    pool.create(Model(1, now))
    if lost == "who holds":
        server.do("SAVE")
    known = pool.join(now, "a1.1").known
    if lost == "all but the server itself":
        server.do("FLUSHALL")
    else:
        server.stop(signal.SIGKILL)
        server.start()
    pool = Pool(server)
    if lost.startswith("all"):
        with pytest.raises(NoPoolError):
            run(server.script().join("b1.1"))
    join = ("wait", "normal", 0, 0, "")
    newcomer = pool.build(now + S, "join", "b1.1", *join, known=known)
    assert (newcomer.state, newcomer.closed_s, newcomer.next_s) == ("waiting", 30, 30)
    answer = pool.build(now + 10 * S, "renew", "a1.1", "0", "", known=known)
    assert (answer.numbers, answer.overflow, answer.cap, answer.used) == ((0,), False, 1, 1)
    pool.drop(now + 20 * S, "a1.1")
    assert pool.join(now + 30 * S, "b1.1").state == "waiting"
    assert pool.join(now + 31 * S, "b1.1").state == "held"


def test_who_waits_comes_back_to_its_old_place(server: Server) -> None:
    """Whatever comes between: priorities, one that is not ready, a flush, rules that were set meanwhile."""
    script = server.script()
    known = run(script.create("test", 1)).known
    run(script.join("a0.1", known))
    builds = (("b1.1", "normal", "wait"), ("c1.1", "high", "wait"), ("d1.2", "low", "wait"))
    builds += (("e1.1", "normal", "unready"),)
    answers = {
        build: run(server.script().join(build, mode=mode, priority=priority))
        for build, priority, mode in builds
    }
    order = ["c1.1", "b1.1", "e1.1", "d1.2"]
    status = run(script.status())
    assert [waiter.id for waiter in status.waiters] == order
    assert [waiter.is_ready for waiter in status.waiters] == [True, True, False, True]
    known = run(script.set("me", slots=2, head_start_s=60)).known
    assert known != answers["d1.2"].known
    server.do("FLUSHALL")
    run(script.renew("a0.1", known, numbers=(0,)))
    for build, priority, mode in reversed(builds):
        answer = run(server.script().join(build, known, mode=mode, priority=priority, seq=answers[build].seq))
    status = run(script.status())
    assert [waiter.id for waiter in status.waiters] == order
    assert (status.rules.cap, status.rules.head_start_s) == (2, 60)
    assert answer.cap == 2
    late = run(server.script().join("f1.1"))
    assert late.place == 3, "behind all but the low one"


def test_the_near_are_told_when_one_has_become_ready(server: Server) -> None:
    """Of those that are not ready, the first four times the cap are near."""
    scripts = [server.script() for _ in range(6)]
    run(scripts[0].create("test", 1))
    run(scripts[5].join("f0.1"))
    near = [run(script.join(f"a{each}.1", mode="unready")).is_near for each, script in enumerate(scripts[:5])]
    assert near == [True] * 4 + [False]
    run(scripts[1].join("a1.1"))
    ears = scripts[4]._connection
    wait_until(ears.hear, "a message")
    assert ears.messages == [(scripts[4].channel("a4.1"), "near")]
    assert run(scripts[4].join("a4.1", mode="unready")).is_near
    run(scripts[5].drop("f0.1"))
    assert run(scripts[1].join("a1.1")).state == "held", "those before it are not ready, and are passed"


def test_rules_are_kept_with_who_and_when(server: Server) -> None:
    """The last twenty changes; a name cannot forge a line of them."""
    script = server.script()
    run(script.create("alice", 1))
    for slots in range(1, 25):
        rules = run(script.set("mallory\n17\nroot", slots=slots))
    rules = run(script.pause("bob", 7200, "a new kernel"))
    assert len(rules.changes) == 20
    assert [change.what for change in rules.changes[-2:]] == ["slots=24", "pause 7200s: a new kernel"]
    assert {change.who for change in rules.changes} == {"mallory 17 root", "bob"}
    assert rules.pause is not None
    assert (rules.pause.who, rules.pause.reason) == ("bob", "a new kernel")
    assert 7100 < rules.pause.left_s <= 7200
    answer = run(script.join("a1.1"))
    assert (answer.state, answer.pause and answer.pause.reason) == ("waiting", "a new kernel")
    assert run(script.over("a1.1")).state == "waiting"
    assert run(script.resume("bob")).pause is None
    assert run(script.join("a1.1")).state == "held"


WRONG = {
    "a cap of nothing": lambda script: script.create("me", 0),
    "more slots than can be counted": lambda script: script.set("me", slots=10_001),
    "a pause of five hours": lambda script: script.pause("me", 5 * 3600),
    "a head start of two days": lambda script: script.set("me", head_start_s=2 * 86400),
    "no change at all": lambda script: script.set("me"),
    "a priority": lambda script: script.join("a1.1", priority="highest"),
    "a mode": lambda script: script.join("a1.1", mode="push"),
    "an id": lambda script: script.join("a1:1"),
    "a cap of its own": lambda script: script.join("a1.1", own_cap=-1),
    "a long story": lambda script: script.join("a1.1", info="x" * 5000),
}


@pytest.mark.parametrize("name", WRONG)
def test_nonsense_is_refused_and_changes_nothing(server: Server, name: str) -> None:
    """Whoever may use a pool can still not make it worthless for all others by a mistake."""
    script = server.script()
    if not name.endswith("nothing"):
        run(script.create("me", 3))
        before = server.do("HGETALL", "bs:{p}:cfg")
    with pytest.raises(PoolUnreachableError, match="does not understand"):
        run(WRONG[name](script))
    if not name.endswith("nothing"):
        after = server.do("HGETALL", "bs:{p}:cfg")
        assert {**after, "seen": 0} == {**before, "seen": 0}
        assert server.do("EXISTS", "bs:{p}:q", "bs:{p}:h", "bs:{p}:i", "bs:{p}:o") == 0


def test_a_place_that_nobody_can_have_had_is_none(server: Server) -> None:
    """Nor are rules of the far future: they would count for ever."""
    script = server.script()
    known = run(script.create("me", 1)).known
    run(script.join("a1.1"))
    first = run(script.join("b1.1"))
    assert run(script.join("c1.1", seq=first.seq + 10**15)).seq < first.seq + 10**9
    version, rest = known.split(" ", 1)
    for text in (
        f"{int(version) + 10**12} {rest}",
        f"{int(version) + 1} 0 1 1 1 1",
        "x",
        "1 2 3",
        known * 50,
    ):
        assert run(script.join("d1.1", text)).known == known


@pytest.mark.parametrize("key", ["n", "q", "hb", "i", "o", "log"])
def test_a_key_that_was_thrown_away_comes_back(server: Server, key: str) -> None:
    """Nobody is given a slot that is held, and who waits is where it was."""
    script, waiter, other = (server.script() for _ in range(3))
    known = run(script.create("test", 3)).known
    run(script.join("a1.2", info="{}"))
    place = run(waiter.join("b1.2", own_cap=2, info="{}"))
    server.do("DEL", f"bs:{{p}}:{key}")
    assert run(other.join("c1.3")).used == 2
    assert run(waiter.join("b1.2", known, own_cap=2, seq=place.seq, info="{}")).place == 0
    answer = run(script.renew("a1.2", known, numbers=(0, 1), info="{}"))
    assert (answer.numbers, answer.overflow, answer.used) == ((0, 1), False, 2)
    run(script.drop("a1.2"))
    assert run(waiter.join("b1.2")).numbers == (0, 1)
    assert [holder.info for holder in run(script.status()).holders] == ["{}"]


def test_leases_that_were_thrown_away_are_counted_again(server: Server) -> None:
    """Without them slots are given twice; whoever runs registers again, and that is seen as overflow."""
    script, other = server.script(), server.script()
    run(script.create("test", 1))
    run(script.join("a1.1"))
    server.do("DEL", "bs:{p}:h")
    assert run(other.join("b1.1")).numbers == (0,)
    answer = run(script.renew("a1.1", numbers=(0,)))
    assert (answer.numbers, answer.overflow, answer.used) == ((1,), True, 2)
    assert run(script.status()).counts.regained == 1


def test_enormous_weights_and_caps_of_their_own_take_no_time(server: Server) -> None:
    """What nobody can mean counts as what there is; a call counts slots one by one."""
    script, other = server.script(), server.script()
    run(script.create("test", 10_000))
    held = run(script.join(f"a1.{10**15}", own_cap=10**15))
    assert (len(held.numbers), held.used) == (10_000, 10_000)
    answer = run(script.renew(f"a1.{10**15}", numbers=held.numbers))
    assert answer.numbers == held.numbers
    assert run(other.over("b1.9999999")).numbers == tuple(range(10_000, 20_000))
    for numbers in ((10**15,), tuple(range(20_000, 20_100)), (7, 7), (8, 7)):
        assert run(other.renew("c1.2", numbers=numbers)).numbers == (20_000, 20_001)
        run(other.drop("c1.2"))


def test_a_line_has_an_end(server: Server) -> None:
    """Or one program that goes mad fills the memory, as nothing else keeps a script from that."""
    script = server.script()
    run(script.create("test", 1))
    fill = "for each = 1, 20000 do redis.call('ZADD', KEYS[1], 9e15, each) end"
    assert server.do("EVAL", fill, 1, "bs:{p}:hb") is None
    with pytest.raises(PoolUnreachableError, match="line is full"):
        run(script.join("a1.1"))
    with pytest.raises(PoolUnreachableError, match="line is full"):
        run(script.over("a1.1"))
    server.do("ZREM", "bs:{p}:hb", 1)
    assert run(script.join("a1.1")).state == "held"
