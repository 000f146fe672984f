"""The one thread of a program that keeps its leases: slot-run has none, and does that in its loop.

Loaded where Python code holds slots on servers. The thread knows holds by weak references, so that one that
is forgotten is given back, as a file is closed. A forked child has holds and a thread of its own, and forgets
those of its parent.
"""

from __future__ import annotations

import atexit
import os
import time
from _thread import allocate_lock, start_new_thread
from _weakref import ref

from buildslots.alarm import Alarm
from buildslots.errors import PoolUnreachableError
from buildslots.fleet.task import Task, pause_s

TYPE_CHECKING = False
if TYPE_CHECKING:
    from buildslots.backend import Steps
    from buildslots.fleet.client import Client
    from buildslots.fleet.holding import Hold

EXIT_S = 1.0
"""How long the end of the interpreter waits for servers to say that they know that slots were given back."""
LOOK_S, END_LOOK_S = 0.05, 0.002
"""How often the thread looks for the answer of a server; and how often the end looks for the thread."""
LONGEST_S = 3600.0
"""How long it sleeps if there is nothing to do."""


class _Leave:
    """A build that gives its slots back, until the server has said so, or until they are free in any case.

    Attributes:
        has_failed: Whether the server could not be reached.
    """

    __slots__ = ("_task", "has_failed")

    def __init__(self, client: Client) -> None:
        self.has_failed = False
        self._task = Task(self._steps(client))

    @property
    def is_over(self) -> bool:
        return self._task.is_over

    def due_s(self) -> float:
        return self._task.left_s() if self._task.ear is None else min(self._task.left_s(), LOOK_S)

    def do(self) -> None:
        self._task.go_on()

    def _steps(self, client: Client) -> Steps[None]:
        until, tries = time.monotonic() + client.known.lease_s, 0
        try:
            while time.monotonic() < until:
                try:
                    yield from client.drop()
                except PoolUnreachableError:
                    self.has_failed = True
                    yield None, pause_s(tries)
                    tries += 1
                else:
                    return
        finally:
            client.connection.close()


class _Keeper:
    """The holds of this process, and what its thread sleeps with."""

    __slots__ = ("_has_thread", "_starting", "alarm", "holds", "leaving")

    def __init__(self) -> None:
        self.holds: list[ref[Hold]] = []
        self.leaving: list[_Leave] = []
        self.alarm = Alarm()
        self._starting = allocate_lock()
        self._has_thread = False

    def start(self) -> None:
        """See to it that there is a thread, and have it look."""
        if not self._has_thread and self._starting.acquire(blocking=False):
            try:
                if not self._has_thread:
                    start_new_thread(self._run, ())
                    self._has_thread = True
            except RuntimeError:
                pass  # no thread is left, or the interpreter ends: whoever comes next tries again
            finally:
                self._starting.release()
        self.alarm.ring()

    def _run(self) -> None:
        while True:
            self.alarm.listen(self._go_on())

    def _go_on(self) -> float:
        """Do what there is to do: in how many seconds there is more."""
        due_s = LONGEST_S
        for each in list(self.holds):
            hold = each()
            if hold is None or not hold.is_held:
                self.holds.remove(each)
                continue
            hold.do()
            due_s = min(due_s, hold.due_s())
        for leave in list(self.leaving):
            leave.do()
            if leave.is_over:
                self.leaving.remove(leave)
            else:
                due_s = min(due_s, leave.due_s())
        return due_s


_keeper = _Keeper()


def keep(hold: Hold) -> None:
    """Beat for `hold` until it is released or forgotten."""
    _keeper.holds.append(ref(hold))
    _keeper.start()


def see_off(client: Client) -> None:
    """Give back what `client` holds: said at once, and said again until the server has heard it."""
    leave = _Leave(client)
    leave.do()
    if not leave.is_over:
        _keeper.leaving.append(leave)
        _keeper.start()


def held(address: str) -> int:
    """How many slots of the pool at `address` this process holds."""
    holds = [hold for each in list(_keeper.holds) if (hold := each()) is not None]
    return sum(len(hold.numbers) for hold in holds if hold.is_held and hold.address == address)


def _end() -> None:
    """Give back what nobody has given back, as the system does with a lock at the end of a process."""
    for each in list(_keeper.holds):
        hold = each()
        if hold is not None:
            hold.release()
    until = time.monotonic() + EXIT_S
    while time.monotonic() < until and not all(leave.has_failed for leave in list(_keeper.leaving)):
        time.sleep(END_LOOK_S)


def _forget() -> None:
    """In a forked child, which has no thread: what its parent holds is its parent's."""
    global _keeper  # noqa: PLW0603 - one a process
    _keeper = _Keeper()


atexit.register(_end)
if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forget)
