"""How builds share tokens, in every order in which it can go: see `sharing`, which says what is left out."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from sharing import COARSE, FINE, WHOLE, Build, Space, World
from traced import ViolationError

from buildslots.tokens.share import LEAVE, LOCK, PUT, SAY, Share

if TYPE_CHECKING:
    from collections.abc import Generator, Iterable

    from buildslots.tokens.share import Other, Steps

ONE, TWO, THREE = Build(1, 1), Build(2, 2), Build(3, 3)
CASES = {
    "one build": World((TWO,), 2),
    "two builds, one token": World((ONE, ONE), grain=FINE),
    "two builds, two tokens": World((TWO, TWO), 2, grain=WHOLE),
    "two builds, three tokens": World((THREE, THREE), 3, grain=WHOLE),
    "one can use more than the other": World((ONE, TWO), 2),
    "three builds, one token": World((ONE, ONE, ONE), grain=WHOLE),
}
ACCIDENTS = ("changes", "killed", "frozen", "stopped", "ends", "lost")


def world(kind: str, *, grain: int = COARSE, share: type[Share] = Share) -> World:
    """Two builds and one token, and that may happen once."""
    return World((ONE, ONE), 1, 1, frozenset({kind}), grain=grain, rule=share)


@pytest.mark.parametrize("case", CASES)
def test_nothing_goes_wrong_in_any_order(case: str) -> None:
    """No job starts without a token, none lies unused while somebody wants it, and shares can get fair."""
    space = Space(CASES[case])
    space.check_fair()
    assert not space.polls  # whoever gives one rings, and who hears that and needs it looks


@pytest.mark.parametrize("kind", ACCIDENTS)
def test_nothing_goes_wrong_though(kind: str) -> None:
    """A build is killed, its slot-run or its command stopped, a ring lost, at whatever moment."""
    Space(world(kind)).check_fair()


class PutsFirst(Share):
    """It offers a byte, and takes the token for it then."""

    def _take(self, now: float) -> Generator[tuple[str, str], int, bool]:
        if self._wants_more():
            yield PUT, ""
            self.out += 1
            if not (yield LOCK, ""):
                return False
            self._changed(1, now)
        self.is_hungry = False
        yield SAY, ""
        return True


class KeepsAll(Share):
    """It gives nothing to others."""

    def _give(self, unread: int, now: float) -> Generator[tuple[str, str], int, int]:
        del now
        yield from ()
        return unread


class Silent(Share):
    """It rings nobody when it is hungry."""

    def _ring(self, others: Iterable[Other]) -> Steps:
        yield from Share._ring(self, [other for other in others if not other])


class Waits(Share):
    """It leaves a free token to who has fewer for ever, though that may be stopped."""

    def _leaves_it(self, now: float) -> bool:
        return Share._leaves_it(self, now) or any(other.held < self.held for other in self.known)


class LooksOnce(Share):
    """It does not look again, and so relies on rings."""

    def waits_for(self) -> list[str]:
        return [LEAVE]


class Hasty(Share):
    """It sleeps without a look after it has said that it is hungry."""

    def _want(self, now: float, *, is_rung: bool) -> Steps:
        steps, has_said = Share._want(self, now, is_rung=is_rung), False
        try:
            what, whom = next(steps)
            while True:
                answer = 0 if what == LOCK and has_said else (yield what, whom)
                has_said = has_said or what == SAY
                what, whom = steps.send(answer)
        except StopIteration:
            return


BROKEN = {
    PutsFirst: ("without a token", CASES["two builds, two tokens"]),
    KeepsAll: ("unfair for ever", CASES["two builds, two tokens"]),
    Silent: ("unfair|unused", World((TWO, ONE), 2)),
    Waits: ("unfair|unused", World((TWO, ONE), 2, 1, frozenset({"frozen"}))),
    LooksOnce: ("nobody will look", world("lost")),
}


@pytest.mark.parametrize("share", BROKEN, ids=lambda share: share.__name__)
def test_the_checker_finds_a_build_that_is_wrong(share: type[Share]) -> None:
    """Each rule is there because without it something goes wrong, and the checker says how."""
    what, case = BROKEN[share]
    broken = World(case.builds, case.tokens, case.accidents, case.kinds, share, case.grain)
    with pytest.raises(ViolationError, match=what) as error:
        Space(broken).check_fair()
    assert error.value.trace


def test_the_checker_finds_a_build_that_does_not_look_after_it_has_said_that_it_is_hungry() -> None:
    """What was given back in between, nobody has rung for: only a timer tells of it."""
    assert Space(world("ends", grain=FINE, share=Hasty)).polls
