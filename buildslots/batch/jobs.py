"""Jobs: how many tasks of a batch run at once, and whose turn is next.

A task that needs no slot gets a job in its turn. One that needs a slot gets a *bid*: it may wait for the slot
now, and takes a job only when it has that. So who waits for a slot occupies no job; and there are never more
bids in a pool than jobs are free, for who has a slot should be able to start. It can happen all the same that
tasks of another pool have taken the jobs meanwhile. Then it gives its slot back, and comes again: a batch
never holds a slot that it does not use.
"""

from __future__ import annotations

import time
from collections import Counter
from heapq import heappop, heappush
from itertools import count

import anyio
from anyio.lowlevel import checkpoint_if_cancelled

NO_POOL = ""
"""In place of a pool's name: no slot is needed."""


class Turn:
    """A place in the order of a batch's tasks; `wait` returns when it has come."""

    __slots__ = ("_event", "_jobs", "given", "is_wanted", "pool")

    def __init__(self, jobs: Jobs, pool: str) -> None:
        self.pool = pool
        self.given = False
        self.is_wanted = True
        self._jobs = jobs
        self._event: anyio.Event | None = None

    async def wait(self) -> None:
        """Wait for it: there is a job now, or in a pool a bid. Cancelled, there is neither."""
        try:
            if not self.given:
                self._event = anyio.Event()
                await self._event.wait()
            await checkpoint_if_cancelled()  # nothing is to start after a stop
        except BaseException:
            self.leave()
            raise

    def leave(self) -> None:
        """Give it up, or give back what it has brought."""
        self.is_wanted = False
        if self.given:
            self._jobs.take_back(self.pool)

    def give(self) -> None:
        """Say that it has come."""
        self.given = True
        if self._event is not None:
            self._event.set()


class Jobs:
    """At most `most` jobs at once; turns come in the order of the tasks' numbers.

    Attributes:
        most: How many run at once.
        running: How many run now.
        paused_until: `time.monotonic()` before which no turn comes.
    """

    __slots__ = ("_bids", "_is_open", "_tie", "_turns", "most", "paused_until", "running")

    def __init__(self, most: int) -> None:
        self.most = most
        self.running = 0
        self.paused_until = 0.0
        self._is_open = True
        self._bids: Counter[str] = Counter()
        self._turns: dict[str, list[tuple[int, int, Turn]]] = {}
        self._tie = count()

    def want(self, number: int, pool: str) -> Turn:
        """A turn for task `number`, to be waited for: for a job, or in a pool for a bid."""
        turn = Turn(self, pool)
        heappush(self._turns.setdefault(pool, []), (number, next(self._tie), turn))
        self.give()
        return turn

    def win(self, pool: str) -> bool:
        """Turn a bid into a job, with the slot there: whether there is one; if not, the bid is over."""
        self._bids[pool] -= 1
        if self.running < self.most and self._may_start():
            self.running += 1
            return True
        return False

    def take_back(self, pool: str) -> None:
        """End a job, or in a pool a bid, that has come to nothing."""
        if pool == NO_POOL:
            self.running -= 1
        else:
            self._bids[pool] -= 1
        self.give()

    def end(self) -> None:
        """End a job."""
        self.take_back(NO_POOL)

    def pause(self, until: float) -> None:
        """Let no turn come before `time.monotonic()` is `until`; somebody has to call `give` then."""
        self.paused_until = max(self.paused_until, until)

    async def rest(self) -> None:
        """Wait until nothing is paused: who keeps its job between two attempts needs no turn."""
        while (left_s := self.paused_until - time.monotonic()) > 0:  # noqa: ASYNC110 - it may be prolonged
            await anyio.sleep(left_s)

    def stop(self) -> None:
        """Let no turn come any more."""
        self._is_open = False

    def give(self) -> None:
        """Let turns come while there is room, the lowest number first."""
        while self._may_start():
            heads = []
            for pool, turns in self._turns.items():
                while turns and not turns[0][2].is_wanted:
                    heappop(turns)
                if turns and self.running + self._bids[pool] < self.most:
                    heads.append((turns[0][:2], pool))
            if not heads:
                return
            pool = min(heads)[1]
            if pool == NO_POOL:
                self.running += 1
            else:
                self._bids[pool] += 1
            heappop(self._turns[pool])[2].give()

    def _may_start(self) -> bool:
        return self._is_open and time.monotonic() >= self.paused_until
