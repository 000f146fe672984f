"""The script against a model of it: random histories, and all that three builds can do with two slots."""

from __future__ import annotations

import itertools
import random
from typing import TYPE_CHECKING

import pytest
from clocked import Pool, plain
from fleet_model import Model, S

if TYPE_CHECKING:
    from collections.abc import Iterator

    from servers import Server

T0 = 1_800_000_000 * S
HISTORIES, PARTS, STEPS, CHECKED = 400, 4, 30, 3
BUILDS = ("a1.1", "b2.1", "c3.1", "d4.2", "e5.1", "f6.3", "a7.1", "b8.2")
TIMES = (0, 1, 1000, S // 3, S, S, 2 * S, 4 * S, 9 * S, 11 * S, 16 * S, 31 * S, 45 * S)
ODD_TIMES = (3600 * S, -3600 * S, -5 * S, 21 * S)


def check(pool: Pool, model: Model, what: object) -> None:
    """Fail unless the server has what the model has, and has told the same."""
    told, model.told = model.told, []
    assert pool.told() == told, what
    keys, expected = pool.keys(), model.keys()
    for key, values in expected.items():
        assert keys[key] == values, (what, key)


class History:
    """Random steps of one pool, in the script and in the model."""

    def __init__(self, server: Server, seed: int) -> None:
        self._random = random.Random(seed)
        self._seed = seed
        cap = self._random.choice((1, 2, 2, 3, 4))
        self.model = Model(cap, T0)
        self.pool = Pool(server, f"h{seed}")
        self.pool.create(self.model)
        self._seqs: dict[str, int] = {}
        self.trace: list[object] = []

    def step(self) -> None:
        roll = self._random.random()
        self.model.now += self._random.choice(ODD_TIMES if roll < 0.03 else TIMES)
        self._listen()
        if roll > 0.985:
            self.pool.restart()
            self.model.is_other_run = True
        kind = self._random.choices(
            ("join", "renew", "drop", "over", "set_cap", "pause", "resume"), (44, 12, 22, 8, 4, 3, 5)
        )[0]
        self.trace.append((self.model.now - T0, kind))
        getattr(self, f"_{kind}")()

    def _listen(self) -> None:
        for who in BUILDS:
            if self._random.random() < 0.04:
                self.model.listening ^= {who}
        self.pool.listen(self.model.listening)

    def _compare(self, op: str, who: str, *first: object, **words: object) -> None:
        self.trace.append((op, who, *first, words))
        answer = plain(getattr(self.pool, op)(self.model.now, who, *first, **words))
        assert answer == getattr(self.model, op)(who, *first, **words), (self._seed, self.trace)
        if answer.seq:
            self._seqs[who] = answer.seq

    def _join(self) -> None:
        who = self._random.choice(BUILDS)
        mode = self._random.choices(("wait", "unready", "try"), (7, 2, 1))[0]
        priority = self._random.choices(("normal", "high", "low"), (6, 2, 2))[0]
        own = self._random.choices((0, 1, 2), (7, 1, 1))[0]
        seq = self._seqs.get(who, 0) if self._random.random() < 0.5 else 0
        if mode != "try":  # as the calls of the package do it
            self.model.listening |= {who}
            self.pool.listen(self.model.listening)
        self._compare("join", who, mode, priority=priority, own=own, seq=seq)

    def _renew(self) -> None:
        holds = self.model.holds
        who = self._random.choice(sorted(holds) or BUILDS)
        if self._random.random() < 0.2:
            who = self._random.choice(BUILDS)
        wanted = holds[who].numbers if who in holds else self._random.choice(((), (0,), (1, 2)))
        self._compare("renew", who, wanted)

    def _drop(self) -> None:
        self._compare("drop", self._random.choice(sorted(self.model.holds) or BUILDS))

    def _over(self) -> None:
        paced = self._random.choice((0, 0, 5 * S))
        waited = self._random.choice((0, 3 * S, 20 * S))
        stuck = self._random.randint(0, waited)
        own = self._random.choice((0, 0, 1))
        self._compare("over", self._random.choice(BUILDS), paced=paced, waited=waited, stuck=stuck, own=own)

    def _set_cap(self) -> None:
        cap = self._random.randint(1, 5)
        self.pool.call(self.model.now, "set", "", "test", cap, "")
        self.model.set_cap(cap)

    def _pause(self) -> None:
        length = self._random.choice((S, 20 * S, 4 * 3600 * S))
        self.pool.call(self.model.now, "pause", "", "test", length, "")
        self.model.pause(length)

    def _resume(self) -> None:
        self.pool.call(self.model.now, "resume", "", "test")
        self.model.resume()


@pytest.mark.parametrize("part", range(PARTS))
def test_random_histories(server: Server, part: int) -> None:
    """Each step answers, tells and leaves behind what the model says."""
    for seed in range(part, HISTORIES, PARTS):
        history = History(server, seed)
        for step in range(STEPS):
            history.step()
            if not step % CHECKED:
                check(history.pool, history.model, (seed, history.trace))


THREE, DEPTH, WAITS_S = ("a1.1", "b2.1", "c3.1"), 6, (4, 11, 31)
"""Three builds, and the times after which an unconfirmed slot, a beat or a lease is over."""


def test_all_that_three_builds_can_do_with_two_slots(server: Server) -> None:
    """Whatever six of them join, let go, beat, start beyond the cap, die and wait: the script is the model.

    And the model keeps what is promised. States that differ only by the names of the builds count as one.
    """
    pool, first = Pool(server), Model(2, T0)
    pool.create(first)
    seen, front = {state_of(first)}, [first]
    transitions = 0
    for _ in range(DEPTH):
        reached = []
        # By who listens, because to listen is a call of its own.
        for before in sorted(front, key=lambda model: sorted(model.listening)):
            for op, who in moves(before):
                after = before.copy()
                move(pool, before, after, op, who)
                promised(before, after)
                transitions += 1
                if (state := state_of(after)) not in seen:
                    seen.add(state)
                    reached.append(after)
        front = reached
    assert transitions > 7000


def state_of(model: Model) -> object:
    """What tells two states apart, whichever names the builds have."""
    places = sorted(each.seq for each in model.line.values())
    named = []
    for names in itertools.permutations(range(len(THREE))):
        name = dict(zip(THREE, names, strict=True))
        line = sorted((name[who], places.index(x.seq), x.until - model.now) for who, x in model.line.items())
        holds = sorted(
            (name[who], x.until - model.now, x.numbers, x.is_overflow) for who, x in model.holds.items()
        )
        named.append((line, holds, sorted(name[who] for who in model.listening)))
    times = (model.grace, model.closed)
    silent = min(model.now - model.seen, 2 * model.lease)
    return repr((min(named), [max(0, each - model.now) for each in times], silent))


def moves(model: Model) -> Iterator[tuple[str, str | int]]:
    """What can happen next."""
    for who in THREE:
        yield "join", who
        yield "drop", who
        if who in model.holds:
            yield "renew", who
        if who in model.line:
            yield "over", who
        if who in model.listening:
            yield "die", who
    for seconds in WAITS_S:
        yield "wait", seconds


def move(pool: Pool, before: Model, after: Model, op: str, who: str | int) -> None:
    """Let it happen to the model, and on the server if it is anything there."""
    if isinstance(who, int):
        after.now += who * S
        return
    if op == "die":
        after.listening.remove(who)
        return
    if op == "join":
        after.listening.add(who)
    words = (before.holds[who].numbers,) if op == "renew" else ()
    expected = getattr(after, op)(who, *words)
    pool.listen(after.listening)
    pool.put(before)
    assert plain(getattr(pool, op)(after.now, who, *words)) == expected, (before, op, who)
    check(pool, after, (before, op, who))


def promised(before: Model, after: Model) -> None:
    """Fail unless `after` is as it may be."""
    numbers = [number for hold in after.holds.values() for number in hold.numbers]
    assert len(set(numbers)) == len(numbers), "two have one slot"
    within = [len(hold.numbers) for hold in after.holds.values() if not hold.is_overflow]
    assert sum(within) <= after.cap, "more have been given slots than there are"
    for who in set(after.holds) - set(before.holds):
        if who in before.line and not after.holds[who].is_overflow:
            assert all(each.seq > before.line[who].seq for each in after.line.values()), "one was passed"
    if before.now == after.now and after.now >= after.closed and after.seen == after.now:
        assert not after.line or after.used() >= after.cap, "a slot is free, and somebody waits"
