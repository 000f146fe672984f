"""Waiting in line: asleep in poll(2) until a bell rings, at no cost that anyone could measure.

The head of the line listens to the bells of the held slots and looks when one rings. Everyone else
listens to the bell of the ticket before its own, so that a release wakes the head and not the
line; who leaves the line wakes the next, and the third is told to come near. Besides that, everyone
glances now and then (`glance_period_s`) whether a slot has become free that nobody takes, because
those before it may be stopped (admission rule 4), and whether the pool directory is still there.
A glance is one poll(2) of bells that are open already; with the wake-up out of a deep sleep it
costs 250 µs of CPU (bench/waiting.py).

Loaded only by who has to wait.
"""

from __future__ import annotations

import errno
import time

from buildslots.disk import bells, queue
from buildslots.disk.handover import Handover
from buildslots.disk.lock import close, locked
from buildslots.disk.slots import MOST_HEARD, REMOVALS, SlotFiles

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Generator
    from typing import Protocol, TypeAlias, TypeVar

    from buildslots.disk.bells import Poll
    from buildslots.disk.slots import Claim, Hold, PoolDirectory

    T = TypeVar("T")
    Steps: TypeAlias = "Generator[tuple[Ears | None, float], bool, T]"

    class Notice(Protocol):
        """What to say while waiting, and when."""

        due: float
        """`time.monotonic()` at which to call `tell` next; infinity for never."""

        def tell(self, directory: PoolDirectory, ticket: queue.Ticket, held_back: str | None) -> None:
            """Say where we are in line, and what of the machine's state holds us back; set `due` anew."""


GLANCE_S = 0.5
GATE_S = 0.25
"""How often the head looks whether the machine is as it has to be."""
FOREIGN_POLL_S = 0.05
"""How often the head looks while a slot is held that has no bell; DESIGN promises 100 ms."""
FIRST_POLL_S = 0.0005
"""The first such look, for a bell that rang before its lock was gone; each further one doubles it."""
STEP_BACK_S = 0.0001
"""How long the next in line sleeps on when the head has left. Linux may have put it on the processor of the
head, who has got a slot but has some microseconds to go before its build starts (bench/README.md)."""
FIRST_KNOCK_S = 0.1
"""How long a free slot may lie before the second in line knocks at the head."""
IDLE_S = 0.9
"""How long a knock has to lie unread before those who got it count as asleep."""
IDLE_LOOKS = 4
MOST_PASSED = 1000
"""One does not find out whether more than so many before one are asleep."""
WAKES, DEAF_S = 50, 0.02
"""After so many sounds within a second that were for nothing, a waiter listens again only after so long:
somebody makes noise, and would have it look all the time."""
TOO_LATE = 3
"""How often one looks again at once, since what one was to listen to has happened meanwhile."""
NEAR = frozenset(bells.NEAR)
FAR = 2
"""From this place on one does not look at slots when it joins, but at its first glance."""
PACE_S = 5.0
"""How often, at least, one whose timeout is over looks whether it is its turn to fall through."""
NEVER = float("inf")


def glance_period_s(place: int) -> float:
    """Seconds between two glances of the waiter at `place` (0 is the head).

    The further back, the more rarely: the glance of a waiter matters only when everyone before it
    is asleep. 100 waiters glance 26 times a second together.
    (Who comes near is told so, see `Ticket.tell_near`, and so the first three glance twice a second.)
    """
    return GLANCE_S * min(max(1, place - 2), 12)


class Wait:
    """One wait: looks, and sleeps until there may be something new to see.

    Args:
        directory: The pool.
        ticket: Our place in line.
        claim: What is wanted.
        deadline: `time.monotonic()` at which to stop waiting.
        notice: What to say meanwhile, or None.
        paced_s: Seconds that one has to fall through after another; None if they need not.
        prepare: Called as often as the head gets ready, for what else there is no time for later.
    """

    def __init__(  # noqa: PLR0913 - made in one place
        self,
        directory: PoolDirectory,
        ticket: queue.Ticket,
        claim: Claim,
        deadline: float,
        notice: Notice | None,
        *,
        paced_s: float | None = None,
        prepare: Callable[[], None] | None = None,
    ) -> None:
        self._prepare = prepare
        self._directory = directory
        self._ticket = ticket
        self._claim = claim
        self._deadline = deadline
        self._notice = notice
        self._paced_s = paced_s
        self._new_poll = bells.poll
        self._began = self._quiet_since = time.monotonic()
        self._changed = -1.0  # the pool, when we looked last
        self._sleepers = Sleepers()
        self._poll_s = FIRST_POLL_S
        self._has_looked = False
        self._is_head = False  # when we looked last: nobody can have come before us since
        self._is_sure = True  # of the place that we looked up last, or of the one at which we joined
        self._files: SlotFiles | None = None  # of the head
        self._ears: Ears | None = None
        self._handover: Handover | None = None
        self._rejoined = 0
        self._woken, self._woken_since = 0, self._began  # how often for nothing
        self._turns = NEVER  # of those that fall through one after the other, ours the last: the least so far
        self._came_forward = self._began  # when that became less

    def steps(self, poll: Callable[[], Poll] | None = None) -> Steps[Hold | None]:
        """Wait until a slot is taken, or the deadline has passed: the held slot, or None.

        A generator that does all but the sleeping: it yields what to sleep with (None if nothing can wake
        one, while somebody has the mutex) and for how many seconds at most, and is sent whether there was a
        sound. In both cases, and when an exception ends the wait, the ticket is still in line, and leaving
        is up to the caller. Raises OSError when the directory fails.

        Args:
            poll: Makes what is slept with; None for `bells.poll`.
        """
        self._new_poll = poll or bells.poll
        late = False  # whether the timeout is over
        try:
            while True:
                # At once, if a bell of a slot rings for the head: this is what a slot lies free for.
                if self._is_sure and self._handover is not None:
                    self._claim.waited_s = time.monotonic() - self._began
                    if hold := self._handover.take(self._claim):
                        return hold
                seen = self._directory.complete(self._look)
                if seen is None:
                    yield from self._rejoin()
                    continue
                if not isinstance(seen, Ears):
                    return seen
                if seen.limit and (hold := (yield from self._directory.turn(self._overtake))):
                    return hold
                # One look after the deadline: whoever was stopped for long may find a free slot.
                if late and self._paced_s is None:
                    return None
                if late and (hold := (yield from self._directory.turn(self._fall_through))):
                    return hold
                late = (yield from self._sleep(seen, late=late)) or late
                self._is_sure = self._is_sure and not seen.knocked
        except BaseException:
            self.close()
            raise

    def _rejoin(self) -> Steps[None]:
        """Join again after the pool directory was removed."""
        self._rejoined += 1
        if self._rejoined > REMOVALS:
            raise FileNotFoundError(errno.ENOENT, "the pool directory does not stay", self._directory.path)
        yield from self._directory.turn(self._ticket.rejoin)

    def _overtake(self) -> Hold | None:
        """Take the slot that those ahead have left lying in their sleep. Under the mutex."""
        limit = self._ears.limit if self._ears else 0
        return self._directory.take(self._claim, limit)

    def close(self) -> None:
        """Close what was opened. Idempotent; up to the caller after a wait that has ended well."""
        self._close_ears()
        if self._files is not None:
            self._files.close()

    def _fall_through(self) -> Hold | None:
        """Start beyond the cap if it is our turn; otherwise set the next deadline. Under the mutex.

        While nothing happens in the pool one waiter falls through in each `paced_s`, in line order: so who
        has others before it leaves each of them that time first. It does not wait for them to do so, because
        they may never: they may be asleep, or have no timeout. And it does not believe for ever that
        something happens, for others can write the records that say so: who has not come forward in the line
        for one `paced_s` more than its turn falls through.
        """
        if hold := self._directory.take_despite(self._claim):
            return hold
        paced_s, now = self._paced_s or 0.0, time.monotonic()
        turns = 1 + queue.places(self._directory.path, self._ticket.ahead())
        if turns < self._turns:
            self._turns, self._came_forward = turns, now if self._turns != NEVER else self._came_forward
        left_s = min(turns * paced_s - self._quiet_s(), (turns + 1) * paced_s - (now - self._came_forward))
        if left_s <= 0:
            return self._directory.take_overflow(self._claim)
        self._deadline = time.monotonic() + left_s
        return None

    def _quiet_s(self) -> float:
        """For how much of our wait nothing has happened in the pool: no slot was taken, none let go of.

        The records tell, which are written then. By the wall clock, so that is asked only once about each
        change: a clock that was set back makes us wait for one turn more, and not until it is right again.
        """
        now, changed = time.monotonic(), self._directory.last_change()
        if changed != self._changed:
            self._changed = changed
            self._quiet_since = max(self._began, now - max(0.0, time.time() - changed))
        return now - self._quiet_since

    def _look(self) -> Hold | Ears | None:
        """Take a slot if it is our turn, or begin to listen; None if we are in line no more."""
        if not self._is_sure and not self._ticket.in_line():
            return None
        again = TOO_LATE
        while True:
            ahead = [] if self._is_sure and self._is_head else self._ticket.ahead()
            self._is_sure = False
            self._is_head = not ahead
            self._claim.held_back = None
            if self._is_head:
                self._claim.waited_s = time.monotonic() - self._began
                self._files = self._files or SlotFiles(self._directory.path)
                if hold := self._directory.take(self._claim, self._claim.limit, self._files):
                    return hold
            self._close_ears()
            ears = self._ears = Ears(self._directory, self._ticket, ahead, self._new_poll())
            self._listen(ears, ahead)
            again -= 1
            if ears.too_late and again and len(ahead) <= MOST_PASSED:
                continue
            if ears.too_late:  # what seems to be free is not: look again soon
                ears.deaf_head = True
            elif self._is_head:
                self._make_ready(ears)
            return ears

    def _make_ready(self, ears: Ears) -> None:
        """As the head: do beforehand what there is no time for when a bell rings."""
        self._ticket.tell_near()
        if self._files and self._claim.weight == 1 and not self._claim.gates and not ears.deaf_head:
            self._handover = Handover(self._directory.path, self._files, ears)
            if self._prepare is not None:
                self._prepare()

    def _close_ears(self) -> None:
        if self._handover is not None:
            self._handover.close()
            self._handover = None
        if self._ears is not None:
            self._ears.close()

    def _listen(self, ears: Ears, ahead: list[str]) -> None:
        """Begin to listen to slots; find out whether those `ahead` have left one lying in their sleep."""
        if len(ahead) >= FAR and not self._has_looked:
            self._has_looked = True
            return
        ears.listen_to_slots(head=self._is_head, files=self._files)
        if self._is_head and ears.held < self._claim.limit and not self._claim.held_back:
            ears.too_late = True  # one was let go after our try and before we listened
        if not ears.too_late and len(ahead) <= MOST_PASSED:
            self._claim.waited_s = time.monotonic() - self._began
            ears.limit = self._sleepers.overtake(self._directory.path, ahead, self._claim.limit, ears.held)

    def _sleep(self, ears: Ears, *, late: bool) -> Steps[bool]:
        """Sleep until something may have changed; whether the deadline has passed."""
        glance_at = time.monotonic() + ears.period_s
        while True:
            now = time.monotonic()
            if self._notice is not None and now >= self._notice.due:
                self._notice.tell(self._directory, self._ticket, self._claim.held_back)
            until = min(glance_at, self._next_look(ears, now, late=late))
            sound = yield ears, until - now
            now = time.monotonic()
            if now < until and self._is_flooded(now):
                yield None, DEAF_S
                now = time.monotonic()
            if sound:
                if not self._is_head and not ears.knocked and self._new_poll is bells.poll:
                    time.sleep(STEP_BACK_S)  # but not where other tasks run while one waits
                self._is_sure = self._is_head
                self._poll_s = FIRST_POLL_S
                return now >= self._deadline  # however often somebody knocks
            if now >= self._deadline:
                return True
            if ears.is_near and now < until:
                ears.is_near = False
                glance_at = min(glance_at, now + ears.period_s)
                continue
            if (
                self._is_head
                or self._claim.held_back
                or late
                or now >= self._sleepers.look_at
                or not ears.nothing_new()
            ):
                return False
            glance_at = now + ears.period_s

    def _is_flooded(self, now: float) -> bool:
        """Whether this is one sound too many within a second."""
        if now - self._woken_since > 1:
            self._woken, self._woken_since = 0, now
        self._woken += 1
        return self._woken > WAKES

    def _next_look(self, ears: Ears, now: float, *, late: bool) -> float:
        """`time.monotonic()` at which something other than a glance is due."""
        until = min(self._deadline, self._sleepers.look_at)
        if self._notice is not None:
            until = min(until, self._notice.due)
        if self._claim.held_back:
            until = min(until, now + GATE_S)
        if late:  # those ahead may leave, which makes our turn come sooner
            until = min(until, now + PACE_S)
        if ears.deaf_head:
            until = min(until, now + self._poll_s)
            self._poll_s = min(self._poll_s * 2, FOREIGN_POLL_S)
        return until


class Ears:
    """What one waiter listens to between two looks; open descriptors, to be given back by `close`.

    Attributes:
        wake: What to sleep with.
        held: How many slots are held.
        deaf_head: Whether this is the head, and some held slot has no bell that works.
        period_s: Seconds until the next glance.
        too_late: Whether what it was to listen to has happened meanwhile, so that nothing would wake it.
        limit: Below how many held slots we may pass those ahead, who are asleep; 0 if they are not.
        knocked: Whether somebody has knocked at our ticket.
        is_near: Whether it was told to be near the head, and so to glance more often, and no more.
        slots: Of the head: the bells of held slots that wake it, descriptors by the slots' numbers.
        silent: The numbers of those slots whose bells had not rung when it woke: they are held.
    """

    def __init__(self, directory: PoolDirectory, ticket: queue.Ticket, ahead: list[str], wake: Poll) -> None:
        self._directory = directory
        self._ticket = ticket
        self._open: list[int] = []
        self._silent: list[str] = []  # locks whose end no bell will tell
        self._bells: Poll | None = None  # of the held slots
        self.wake = wake  # what ends the sleep
        if ticket.bell is not None:
            self.wake.register(ticket.bell, bells.POLLIN)
        self.period_s = glance_period_s(len(ahead))
        self.is_near = False
        self.too_late = False
        self.limit = 0
        self.knocked = False
        self.held = 0
        self.deaf_head = False
        self.slots: dict[int, int] = {}
        self.silent: set[int] = set()
        try:
            if ahead:
                self._listen_to_ticket(ahead[-1], len(ahead))
        except BaseException:
            self.close()
            raise

    def listen_to_slots(self, *, head: bool, files: SlotFiles | None = None) -> None:
        """Listen to the bells of the held slots as well: to be woken (`head`), or for a glance."""
        slots = self._bells = bells.poll()
        held = self._directory.held(files)
        self.held = len(held)
        for number in held:
            fd, rung = bells.listen(f"{self._directory.path}/bells/slot-{number}")
            if fd is not None and fd >= MOST_HEARD:
                close(fd)
                fd = None
            if fd is not None:
                self._open.append(fd)
            if fd is None or rung:
                self._silent.append(f"{self._directory.path}/slot-{number}")
                self.deaf_head = head
                continue
            slots.register(fd, bells.POLLIN)
            if head:
                self.wake.register(fd, bells.POLLIN)
                self.slots[number] = fd
        if head and files is not None:
            # One may have been let go before we listened, and perhaps is held again, with another bell.
            self.too_late = not all(map(files.locked, held))

    def close(self) -> None:
        """Close what was opened; the object is of no use after that. Idempotent, raises nothing."""
        while self._open:
            close(self._open.pop())
        if hasattr(self.wake, "close"):  # select.poll has nothing to close
            try:
                self.wake.close()
            except OSError:
                pass  # as in `lock.close`

    def listen(self, seconds: float) -> bool:
        """Sleep until a bell rings, somebody knocks, or `seconds` have passed; whether it was a sound."""
        # poll(2) takes whole milliseconds, and Python rounds up: it never wakes too early.
        sounds = dict(self.wake.poll(max(0.0, seconds * 1000)))
        self.silent = {number for number, fd in self.slots.items() if fd not in sounds}
        self.knocked = False
        bell = self._ticket.bell
        if bell is not None and bell in sounds:
            heard = bells.hear(bell)
            self.knocked = not heard <= NEAR
            if heard == NEAR:
                del sounds[bell]
                self.period_s = min(self.period_s, GLANCE_S)
                self.is_near = True
        return bool(sounds)

    def nothing_new(self) -> bool:
        """Glance: whether all slots that were held still are, and our ticket is still in line."""
        if self._bells is None or self._bells.poll(0) or not self._ticket.in_line():
            return False
        return all(map(locked, self._silent))

    def _listen_to_ticket(self, name: str, place: int) -> None:
        fd, _ = bells.listen(f"{self._directory.path}/bells/{name}")
        if fd is not None:
            self._open.append(fd)
            self.wake.register(fd, 0)  # POLLHUP alone: a byte in it is a knock for its owner
        elif not queue.live(self._directory.path, name):
            self.too_late = True
        else:
            self._silent.append(f"{self._directory.path}/queue/{name}")
            self.period_s = min(FOREIGN_POLL_S * place, GLANCE_S)


class Sleepers:
    """Admission rule 4: whether those ahead have left a slot lying because they are asleep.

    Attributes:
        look_at: `time.monotonic()` at which to look again; infinity while no free slot lies about.
    """

    look_at: float
    _ahead: list[str]
    _knock_at: float
    _knocked: list[str] | None
    _patience_s: float

    def __init__(self) -> None:
        self._forget()

    def overtake(self, directory: str, ahead: list[str], cap: int, held: int) -> int:
        """Look; once those `ahead` are asleep, below how many held slots we may take one (else 0).

        A slot counts as free for us while fewer slots are held than the cap of anyone ahead, and
        ours: then each of them could have taken it. First we knock at all of them, so that those
        who are awake look for themselves; whoever has heard a knock at any later look is awake.
        """
        now = time.monotonic()
        if held < cap:  # rarely: now the dead among them matter, who left a cap and an unread knock
            ahead = [name for name in ahead if queue.live(directory, name)]
        limit = min([cap, *map(queue.cap_of, ahead)])
        if not ahead or held >= limit:
            self._forget()
        elif self._ahead != ahead:  # first seen, or somebody ahead took a slot: not all are asleep
            self._forget()
            # Nearly always the head is about to take it. If not, the second is to find out; only
            # then the third, and so on: or one sleeper, or load, would set all of them knocking.
            self._ahead = ahead
            self._knock_at = now + FIRST_KNOCK_S + GLANCE_S * min(len(ahead) - 1, 12)
            self.look_at = self._knock_at
        elif now < self._knock_at:
            self.look_at = self._knock_at  # woken by something else
        elif self._knocked is None:
            self._knocked = [bell for name in ahead if bells.knock(bell := f"{directory}/bells/{name}")]
            if len(self._knocked) < len(ahead):
                # No FIFOs: who is awake cannot be told, so let those ahead be quicker by their places.
                self._patience_s += GLANCE_S * len(ahead)
            self.look_at = now + IDLE_S / IDLE_LOOKS
        elif any(map(bells.answered, self._knocked)):
            self._ahead = []
            self.look_at = now + GLANCE_S
        elif now - self._knock_at >= self._patience_s:
            return limit
        else:
            self.look_at = min(now + IDLE_S / IDLE_LOOKS, self._knock_at + self._patience_s)
        return 0

    def _forget(self) -> None:
        self._ahead, self._knock_at = [], 0.0
        self._knocked, self._patience_s = None, IDLE_S
        self.look_at = NEVER
