"""Ctrl-C in a Python program, at each moment at which Python can deliver it: nothing may stay locked."""

from __future__ import annotations

import fcntl
import os
import sys
from contextlib import contextmanager
from typing import TYPE_CHECKING

import pytest
from builds import is_refused, take_now

from buildslots import SlotPool
from buildslots.backend import Request
from buildslots.disk import line
from buildslots.disk.directory import PoolDirectory

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path
    from types import FrameType

    from builds import Pool

    from buildslots import Slot
    from buildslots.backend import Steps
    from buildslots.disk.holding import Hold

MOST = 1000


class Interrupt:
    """A tracer that raises KeyboardInterrupt at the n-th entry into a function of ours."""

    def __init__(self, when: int) -> None:
        self.left = when
        self.where = ""

    def __call__(self, frame: FrameType, event: str, _: object) -> None:
        """Count one more; Python looks for signals whenever it enters a function.

        Not in `__del__`: Python drops what is raised there.
        """
        if event != "call" or frame.f_code.co_name == "__del__":
            return
        if frame.f_globals.get("__name__", "").startswith("buildslots."):
            self.left -= 1
            if self.left == 0:
                self.where = frame.f_code.co_qualname
                raise KeyboardInterrupt


def interrupted(action: Callable[[], object], when: int) -> str:
    """Run `action` with an interrupt at the entry number `when`; into which function, or nothing."""
    interrupt = Interrupt(when)
    sys.settrace(interrupt)
    try:
        action()
    except KeyboardInterrupt:
        pass
    finally:
        sys.settrace(None)
    return interrupt.where


def locked(directory: Path) -> list[str]:
    """What of slots, mutex and tickets is locked."""
    names = []
    for path in (*directory.glob("slot-*"), directory / "mutex", *(directory / "queue").iterdir()):
        fd = os.open(path, os.O_RDWR)
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            names.append(path.name)
        os.close(fd)
    return names


def at_once(pool: SlotPool, _: PoolDirectory) -> None:
    """Nobody is in the way."""
    pool.acquire().release()


def behind_a_dead_ticket(pool: SlotPool, directory: PoolDirectory) -> None:
    """Somebody was killed while waiting."""
    with open(f"{directory.path}/queue/{1:020d}-1", "w"):
        pass
    pool.acquire().release()


def in_vain(pool: SlotPool, directory: PoolDirectory) -> None:
    """The slot is held until the timeout."""
    hold = take_now(directory, Request(9, ["make"]))
    try:
        pool.acquire(0.001, "fail")
    except TimeoutError:
        pass
    finally:
        hold.release()


@contextmanager
def waiting(pool: SlotPool, directory: PoolDirectory) -> Iterator[tuple[Steps[Slot], Hold]]:
    """One that waits, step by step, for the slot that is held; nothing of both remains afterwards."""
    hold = take_now(directory, Request(9, ["make"]))
    admission = pool._admission()
    steps = admission.steps()
    try:
        next(steps)
        yield steps, hold
    finally:
        steps.close()
        admission.close()
        hold.release()


def in_turn(pool: SlotPool, directory: PoolDirectory) -> None:
    """The slot is let go of while one waits for it."""
    with waiting(pool, directory) as (steps, hold):
        hold.release()
        try:
            steps.send(True)
        except StopIteration as end:
            end.value.release()


def after_a_removal(pool: SlotPool, directory: PoolDirectory) -> None:
    """The queue is removed while one waits, and it joins again."""
    with waiting(pool, directory) as (steps, _):
        for name in line.waiting(directory.path):
            os.unlink(f"{directory.path}/queue/{name}")
        steps.send(False)


def two_for_which_there_is_no_room(_: SlotPool, directory: PoolDirectory) -> None:
    """Somebody with a larger cap has one more than may be held: what was locked is let go of."""
    hold = take_now(directory, Request(3, ["make"]), beyond=True)
    try:
        assert is_refused(directory, Request(2, ["make"], 2))
    finally:
        hold.release()


ACTIONS = (
    at_once,
    behind_a_dead_ticket,
    in_vain,
    in_turn,
    after_a_removal,
    two_for_which_there_is_no_room,
)


@pytest.mark.filterwarnings("ignore:.* was never released:ResourceWarning")  # interrupted before release()
@pytest.mark.parametrize("action", ACTIONS)
def test_an_interrupt_leaves_nothing_locked(
    pool: Pool, action: Callable[[SlotPool, PoolDirectory], None]
) -> None:
    """At each entry into each of our functions on the way."""
    slots, directory = SlotPool(slots=1), PoolDirectory(str(pool.dir))
    slots.acquire().release()
    for when in range(1, MOST):
        where = interrupted(lambda: action(slots, directory), when)
        assert (where, locked(pool.dir)) == (where, [])
        if not where:
            return
    pytest.fail(f"more than {MOST} entries")
