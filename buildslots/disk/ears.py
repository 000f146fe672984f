"""What a waiter listens to: the head to the bells of the held slots, all others to the ticket ahead of them.

So a release wakes the head and not the line, and whoever leaves the line wakes the next. Loaded only by a
process that has to wait.
"""

from __future__ import annotations

import time

from buildslots.disk import bells, line
from buildslots.disk.lock import locked
from buildslots.disk.taking import OPEN_MAX, TAKE_S, held_slots, slot_numbers
from buildslots.processes import close_kept, keep_from_children

TYPE_CHECKING = False
if TYPE_CHECKING:
    from buildslots.disk.bells import Poll

GLANCE_S = 0.5
POLL_S = 0.05
"""How often the head looks while a slot is held that has no bell: its release is promised to be noticed
within 0.1 s. Whoever is behind a ticket without a bell looks as often for each place."""
MOST_HEARD = OPEN_MAX * 3 // 4 - 4
"""No slot is listened to by a descriptor from this number on: all else needs some, too."""


def glance_period_s(place: int) -> float:
    """Seconds between two glances of the waiter at `place` (0 is the head).

    A glance matters only if everybody ahead is asleep, and each of those may take a second. So whoever is
    further back glances more rarely: 50 waiters glance 12 times a second together.
    """
    return GLANCE_S * min(place or 2, 16)


class Ears:
    """What one waiter listens to between two looks; open descriptors, to be given back by `close`.

    Attributes:
        wake: What to sleep with.
        held: How many slots are held.
        period_s: Seconds until the next glance.
        is_deaf: Whether something that we wait for has no bell that works.
        too_late: Whether the ticket ahead has left meanwhile, so that nothing would wake us.
        knocked: Whether somebody has knocked at our ticket.
    """

    __slots__ = ("_open", "_ticket", "held", "is_deaf", "knocked", "period_s", "too_late", "wake")

    def __init__(self, directory: str, ticket: line.Ticket, ahead: list[str], wake: Poll) -> None:
        """Begin to listen for `ticket`, behind the tickets `ahead`, with `wake`. Raises OSError."""
        self.wake = wake
        self.held = 0
        self.period_s = glance_period_s(len(ahead))
        self.is_deaf = self.too_late = self.knocked = False
        self._open: list[int] = []
        self._ticket = ticket
        try:
            if ticket.bell is not None:
                wake.register(ticket.bell, bells.POLLIN)
            if ahead:
                self._listen_to_ticket(directory, ahead)
                self.held = len(held_slots(directory))
            else:
                self._listen_to_slots(directory)
        except BaseException:
            self.close()
            raise

    def _listen_to_ticket(self, directory: str, ahead: list[str]) -> None:
        fd = None
        if getattr(self.wake, "hears_ends", True):
            fd, _ = bells.listen(f"{directory}/bells/{ahead[-1]}")
        if fd is not None:
            self._keep(fd)
            self.wake.register(fd, 0)  # POLLHUP alone: a byte in it is a knock for its owner
        elif line.live(directory, ahead[-1]):
            self.is_deaf = True
            self.period_s = min(POLL_S * len(ahead), GLANCE_S)
        else:
            self.too_late = True

    def _listen_to_slots(self, directory: str) -> None:
        """As the head: count the held slots, and listen to their bells.

        To the bell first: what is let go of after that rings, and what was let go of before is found free.
        """
        until = time.monotonic() + TAKE_S
        numbers = slot_numbers(directory)
        for count, number in enumerate(numbers):
            if count & 255 == 255 and time.monotonic() > until:
                self.held += len(numbers) - count  # as in `held_slots`
                return
            fd, rung = bells.listen(f"{directory}/bells/slot-{number}")
            if fd is not None:
                self._keep(fd)
            if not locked(f"{directory}/slot-{number}"):
                continue
            self.held += 1
            if fd is None or rung or fd >= MOST_HEARD:
                self.is_deaf = True
            else:
                self.wake.register(fd, bells.POLLIN)
            if fd is not None and fd >= MOST_HEARD:
                close_kept(self._open.pop())

    def _keep(self, fd: int) -> None:
        """Close `fd` with the ears, and in a forked child at once: later its number may be another file's."""
        self._open.append(fd)
        keep_from_children(fd)

    def listen(self, seconds: float) -> bool:
        """Sleep until a bell rings, somebody knocks, or `seconds` have passed: whether it was a sound."""
        # poll(2) takes whole milliseconds, and Python rounds up: it never wakes too early.
        sounds = dict(self.wake.poll(max(0.0, seconds * 1000)))
        bell = self._ticket.bell
        self.knocked = bell is not None and bell in sounds
        if bell is not None and self.knocked:
            bells.hear(bell)
        return bool(sounds)

    def close(self) -> None:
        """Close what was opened; the object is of no use after that. Idempotent, raises nothing."""
        while self._open:
            close_kept(self._open.pop())
        if hasattr(self.wake, "close"):  # select.poll has nothing to close
            try:
                self.wake.close()
            except OSError:
                pass  # as in `files.close`
