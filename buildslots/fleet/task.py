"""Steps that go on beside other things: in the loop of slot-run, in a thread, in the wait of a task.

All that is said to a server is a generator of steps (`backend.Steps`), and somebody has to sleep for it. A
`Task` lets that be somebody who has more to do: it goes on when there is a sound, or when it is time.
"""

from __future__ import annotations

import os
import time

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import TypeVar

    from buildslots.backend import Listener, Steps

    T = TypeVar("T")

FIRST_S, LAST_S = 0.02, 1.0
"""How soon, and how often at least, to try again to reach a server; each try doubles it."""
MOST_STEPS = 64
"""So many are taken at a time: with what else its owner listens to there may be a sound that does not end."""


class Task:
    """Steps that are taken when they can be, without ever sleeping.

    Attributes:
        ear: What to listen to until the next step; None if nothing can be heard.
        is_over: Whether they have come to their end, or were ended.
    """

    __slots__ = ("_at", "_has_begun", "_steps", "ear", "is_over")

    def __init__(self, steps: Steps[None]) -> None:
        self._steps = steps
        self._at = 0.0
        self._has_begun = False
        self.ear: Listener | None = None
        self.is_over = False

    def left_s(self) -> float:
        """In how many seconds to go on though there was no sound."""
        return max(0.0, self._at - time.monotonic())

    def poke(self) -> None:
        """Let the next step be taken though its time has not come."""
        self._at = 0.0

    def go_on(self) -> None:
        """Take the steps that can be taken now. Raises what they raise."""
        for _ in range(MOST_STEPS):
            if self.is_over:
                return
            sound = self.ear is not None and self.ear.listen(0.0)
            if not sound and time.monotonic() < self._at:
                return
            try:
                self.ear, seconds = self._steps.send(sound) if self._has_begun else next(self._steps)
            except StopIteration:
                self.close()
                return
            except BaseException:
                self.close()
                raise
            self._has_begun = True
            self._at = time.monotonic() + seconds

    def close(self) -> None:
        """End it wherever it is; a connection that waits for an answer is closed. Idempotent."""
        self.is_over = True
        self.ear = None
        self._steps.close()


def within(steps: Steps[T], until: float) -> Steps[T]:
    """`steps`, to that `time.monotonic()` at the latest. Raises TimeoutError if they have not ended then."""
    try:
        ear, seconds = next(steps)
        while (left_s := until - time.monotonic()) > 0:
            ear, seconds = steps.send((yield ear, min(seconds, left_s)))
    except StopIteration as end:
        value: T = end.value
        return value
    finally:
        steps.close()
    raise TimeoutError


def pause_s(tries: int) -> float:
    """For how long to leave a server alone after so many tries: half to one and a half of what they double.

    Not all at the same time: a thousand builds lose a server at one moment.
    """
    doubled_s = FIRST_S * float(2 ** min(tries, 10))
    return min(doubled_s, LAST_S) * (0.5 + os.urandom(1)[0] / 255)
