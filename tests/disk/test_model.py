"""The protocol in every order in which its steps can come: see `model`, which also says what is left out."""

from __future__ import annotations

import pytest
from model import (
    BEFORE,
    CREATED,
    FREE,
    LIVE,
    LOST,
    MUTEX,
    NOW,
    SURE,
    Process,
    Protocol,
    Space,
)
from traced import ViolationError

ONE, TWO = Process(cap=1), Process(cap=2)
CASES = {
    "2 processes, 1 slot, builds in turn": Protocol((ONE._replace(builds=2),) * 2, kills=True, stops=1),
    "3 processes, 1 slot": Protocol((ONE,) * 3, stops=1),
    "3 processes, 1 slot, some killed": Protocol((ONE,) * 3, kills=True),
    "3 processes, 2 slots": Protocol((TWO,) * 3, stops=1),
    "3 processes, 2 slots, some killed": Protocol((TWO,) * 3, kills=True),
    "a build that needs 2 slots": Protocol((TWO._replace(weight=2), TWO, TWO), kills=True),
    "one that goes beyond the cap": Protocol((ONE._replace(overflows=True), ONE, ONE), kills=True),
    "a daemon keeps a bell": Protocol((ONE._replace(overflows=True, builds=2), ONE, ONE), daemons=True),
    "the cap is raised": Protocol((ONE,) * 3, rules=(1, 2)),
    "the cap is lowered": Protocol((TWO,) * 3, rules=(2, 1)),
    "a pause": Protocol((ONE,) * 3, rules=(1, 0, 1)),
    "a pause of a pool in which one is stopped": Protocol((ONE,) * 2, rules=(1, 0, 2), stops=1),
    "one has a head start": Protocol((ONE._replace(high=True), ONE, ONE), kills=True),
    "two have a head start": Protocol((ONE._replace(high=True), ONE._replace(high=True), ONE)),
    "one that has a head start may be stopped": Protocol((ONE._replace(high=True), ONE, ONE), stops=1),
    "caps that differ": Protocol((ONE, TWO, TWO), kills=True),
}


def protocol(case: str, **changes: object) -> Protocol:
    """The case of that name, changed."""
    return Protocol(**{**vars(CASES[case]), **changes})  # type: ignore[arg-type]


@pytest.mark.parametrize("case", CASES)
def test_nothing_goes_wrong_in_any_order(case: str) -> None:
    """Neither bound nor order is broken, nobody sleeps beside a free slot, and all come to their ends."""
    space = Space(protocol(case, waiters=SURE))
    assert space.states > 900
    space.check_all_end()


@pytest.mark.parametrize("waiters", [MUTEX, FREE, SURE])
def test_nobody_tries_for_ever(waiters: str) -> None:
    """No round in which all move and nobody starts, also when one was stopped and lost the mutex."""
    processes = tuple(ONE._replace(name=name, builds=2) for name in (1, 2))
    Space(Protocol(processes, waiters=waiters, stops=1)).check_no_livelock()


def two_heads(waiters: str) -> Space:
    """Two that both think that they are the head, a build that ends, and one beyond the cap that does not."""
    first = Process(
        cap=2, name=1, at="sleep", head=True, ticket=LIVE, place=1, turn=1, ears=0b101, stopped=BEFORE
    )
    second = first._replace(name=2, place=2, turn=2)
    ends = Process(cap=2, name=3, at="run", locks=0b001, bells=0b001)
    lasts = Process(
        cap=2, overflows=True, name=4, at="run", locks=0b100, bells=0b100, beyond=True, stopped=NOW
    )
    return Space(Protocol((first, second, ends, lasts), waiters=waiters))


@pytest.mark.parametrize("waiters", [MUTEX, FREE])
def test_two_heads_do_not_stand_in_each_other_s_way(waiters: str) -> None:
    """Whoever had to let go looks at the line again, and then only one of them is the head."""
    two_heads(waiters).check_no_livelock()


def test_the_checker_finds_two_heads_in_each_other_s_way() -> None:
    """If they do not look: each locks a slot, counts the other's, and lets go, again and again, in step."""
    with pytest.raises(ViolationError, match="can be repeated for ever") as error:
        two_heads(SURE).check_no_livelock()
    assert error.value.trace


@pytest.mark.parametrize("waiters", [MUTEX, FREE, SURE])
def test_to_ask_first_and_listen_then_would_need_timers(waiters: str) -> None:
    """One may be let go between the question whether a slot is held and the listening to its bell."""
    assert Space(Protocol((ONE, ONE), waiters=waiters, listens_first=False)).polls


@pytest.mark.parametrize("waiters", [MUTEX, FREE, SURE])
def test_to_listen_first_and_ask_then_needs_no_timers(waiters: str) -> None:
    """What is let go of after the listening rings, and what is let go of before is found free."""
    for case in ("3 processes, 1 slot", "a build that needs 2 slots"):
        space = Space(protocol(case, waiters=waiters, kills=False, stops=0))
        space.check_all_end()
        assert not space.polls


@pytest.mark.parametrize("waiters", [MUTEX, FREE, SURE])
def test_timers_are_needed_for_the_killed(waiters: str) -> None:
    """Whoever hears the bell of one that dies may find its lock still there, and nothing to listen to."""
    assert Space(protocol("3 processes, 1 slot, some killed", waiters=waiters)).polls


def test_a_bell_may_ring_before_the_lock_is_gone() -> None:
    """Whoever it wakes finds the slot held by one without a bell, and polls: slower, but not for ever."""
    Space(protocol("2 processes, 1 slot, builds in turn", broken="rings before it unlocks")).check_all_end()


BROKEN = {
    "counts before it takes": ("more run than the cap allows", "one that goes beyond the cap", FREE),
    "does not look again": ("nothing will wake it", "3 processes, 1 slot", MUTEX),
    "leaves before it starts": ("starts before one that joined", "a build that needs 2 slots", MUTEX),
    "leaves without a sound": ("nothing will wake it", "3 processes, 1 slot", MUTEX),
    "newcomers push in": ("a newcomer overtakes", "3 processes, 1 slot", MUTEX),
    "waits for sleepers": ("somebody waits for ever", "3 processes, 1 slot", MUTEX),
    "joins before others in silence": ("starts before one that joined", "one has a head start", SURE),
    "sets rules in silence": ("nothing will wake it", "the cap is raised", MUTEX),
    "throws rung bells away": ("nothing will wake it", "a daemon keeps a bell", MUTEX),
}


@pytest.mark.parametrize("broken", BROKEN)
def test_the_checker_finds_a_protocol_that(broken: str) -> None:
    """Each rule is there because without it something goes wrong, and the checker says how."""
    what, case, waiters = BROKEN[broken]
    with pytest.raises(ViolationError, match=what) as error:
        Space(protocol(case, waiters=waiters, broken=broken)).check_all_end()
    assert error.value.trace


def test_a_ticket_that_nobody_has_locked_yet_may_be_removed() -> None:
    """By one who arrives while its maker has lost the mutex. It is made again, and nobody waits for ever."""
    maker = Process(cap=1, at="lock", ticket=CREATED, place=1, turn=1, mutex=LOST, stopped=BEFORE)
    space = Space(Protocol((maker, ONE, Process(cap=1, at="run", locks=1, bells=1))))
    assert any(what == "lock in vain" for moves in space.moves for _, _, what in moves)
    space.check_all_end()
