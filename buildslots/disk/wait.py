"""Waiting in line: asleep in poll(2) until a bell rings, at no cost that anyone could measure.

A waiter looks (`_look`): it takes a slot if it is its turn, or else begins to listen. Then it sleeps
(`_sleep`) until there is a sound or something is due. Besides that everybody glances now and then whether a
slot has become free that nobody takes, because those ahead may be stopped, and whether the pool directory is
still there.

Loaded only by a process that has to wait.
"""

from __future__ import annotations

import errno
import os
import time

from buildslots.backend import Refusal
from buildslots.disk import bells, line, records
from buildslots.disk.ears import POLL_S, Ears
from buildslots.disk.holding import Hold, ticket_record
from buildslots.disk.lock import locked
from buildslots.disk.sleepers import Sleepers
from buildslots.disk.taking import take, take_beyond, take_despite
from buildslots.processes import number

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    from buildslots.backend import Notice, Request, Steps
    from buildslots.disk.bells import Poll
    from buildslots.disk.directory import PoolDirectory
    from buildslots.disk.rules import Rules

GATE_S = 0.25
"""How often the head looks whether the machine is as it has to be."""
FIRST_POLL_S = 0.0005
"""The first look at a lock without a bell. Nearly always its owner has been killed at this moment, and the
kernel has closed the bell before the lock. Each further look doubles it."""
YOUNG_S = 60.0
"""How often a waiter looks whether something of the pool has become old."""
MOST_PASSED = 1000
"""With more waiters ahead than this we do not find out who is asleep: that would take too long."""
WAKES, DEAF_S = 50, 0.02
"""After so many sounds within a second that were for nothing, a waiter listens again only after so long:
somebody makes noise, and would have it look all the time."""
TOO_LATE = 3
"""How often to look again at once when the ticket ahead left, or a slot came free, before we listened."""
NEVER = float("inf")


class Wait:
    """A place in line of the pool `directory`, with `ticket`: see `backend.Place`."""

    __slots__ = (
        "_directory",
        "_ears",
        "_gate",
        "_is_head",
        "_is_told",
        "_new_poll",
        "_overtake_limit",
        "_pace",
        "_poll_s",
        "_request",
        "_resumes_at",
        "_ruled",
        "_rules",
        "_sleepers",
        "_ticket",
        "_wakes",
        "_wakes_since",
        "_young_at",
    )

    def __init__(
        self,
        directory: PoolDirectory,
        ticket: line.Ticket,
        request: Request,
        poll: Callable[[], Poll] | None = None,
    ) -> None:
        self._directory = directory
        self._ticket = ticket
        self._request = request
        self._ruled = request  # as the pool's rules have it
        self._rules: Rules | None = None
        self._is_told = False  # whether the ticket says what follows from the rules
        self._resumes_at = NEVER  # `time.monotonic()` at which a pause ends, if one is on
        self._new_poll = poll or bells.poll
        self._sleepers = Sleepers()
        self._pace: Pace | None = None
        self._ears: Ears | None = None
        # Whether nobody was ahead at the last look. That stays so until somebody knocks: whoever comes before
        # the head knocks at it.
        self._is_head = False
        self._overtake_limit = 0  # below how many held slots we may pass those ahead, who are asleep; else 0
        self._gate: str | None = None
        self._poll_s = FIRST_POLL_S
        self._wakes, self._wakes_since = 0, 0.0
        self._young_at = 0.0

    @property
    def number(self) -> int:
        """By which places are sorted."""
        return line.number_of(self._ticket.name)

    def until(
        self, deadline: float, notice: Notice | None = None, since: float | None = None
    ) -> Steps[Hold | Refusal]:
        """Wait until there is a slot for us, or until `time.monotonic()` is `deadline`.

        Pauses since that time, or of the whole wait for None, make that later.

        One look comes after the deadline: who was stopped for long may find a free slot. The place is still
        ours then, and also when an exception ends this. Raises OSError when the directory fails.

        After a `paced_start` that was refused it also returns when something has happened: our turn may have
        come.
        """
        has_slept = False
        while True:
            ears = yield from self._directory.with_repairs(self._look)
            if isinstance(ears, Hold):
                return ears
            if ears is None:
                yield from self._directory.under_mutex(self._ticket.rejoin)
                continue
            if self._overtake_limit:
                found = yield from self._directory.under_mutex(self._overtake)
                if isinstance(found, Hold):
                    return found
                self._gate = found.gate
                self._sleepers.look_at = time.monotonic() + GATE_S
            due = self._due(deadline, self._request.began if since is None else since)
            if time.monotonic() >= due or (has_slept and self._pace is not None and due != NEVER):
                return Refusal(ears.held, self._gate)
            yield from self._sleep(ears, due, notice)
            has_slept = True

    def paced_start(self, refusal: Refusal, paced_s: float) -> Steps[Hold | float]:
        """Start beyond the cap if it is our turn to; otherwise for how many seconds to wait until then."""
        if self._pace is None:
            self._pace = Pace(self._directory, self._request, paced_s)
        pace = self._pace

        def start() -> Hold | float:
            if found := take_despite(self._directory.path, self._request, refusal.gate):
                return found
            left_s = pace.left_s(self._ticket.ahead())
            return left_s if left_s > 0 else take_beyond(self._directory.path, self._request, refusal.gate)

        return (yield from self._directory.under_mutex(start))

    def leave(self) -> None:
        """Leave the line, and close what the wait has opened. Idempotent, raises nothing."""
        self._ticket.leave()
        self._close_ears()

    def _close_ears(self) -> None:
        if self._ears is not None:
            self._ears.close()

    def _overtake(self) -> Hold | Refusal:
        """Take the slot that those ahead have left lying in their sleep. Under the mutex."""
        return take(self._directory.path, self._request, most=self._overtake_limit)

    def _due(self, deadline: float, since: float) -> float:
        """The deadline of a wait that lasts since then, with the time of pauses; infinity while one is on."""
        if self._rules is None:
            return deadline
        return NEVER if self._resumes_at != NEVER else deadline + self._rules.paused_s(since)

    def _look(self) -> Hold | Ears | None:
        """Take a slot if it is our turn, or begin to listen; None if we are in line no more.

        A bell has woken the head: it stays the head, and does not read the line anew: the slot lies free
        meanwhile.
        """
        path = self._directory.path
        if time.monotonic() >= self._young_at:
            self._young_at = time.monotonic() + YOUNG_S
            self._directory.keep_young()
            self._ticket.keep_young()
        self._read_rules()
        # What is free in a pause is not left lying by those ahead: nobody may take it.
        limit = self._ruled.limit if self._resumes_at == NEVER else 0
        for tries in range(TOO_LATE):
            ahead: list[str] = []
            if tries or not self._is_head:
                if not self._ticket.in_line():
                    return None
                ahead = self._ticket.ahead()
                self._is_head = not ahead
            self._gate = None
            if self._is_head:
                found = take(path, self._request)
                if isinstance(found, Hold):
                    return found
                self._gate = found.gate
            self._close_ears()
            ears = self._ears = Ears(path, self._ticket, ahead, self._new_poll())
            if self._is_head and ears.held < limit and self._gate is None:
                ears.too_late = True  # a slot was let go of after our try and before we listened
            if not ears.too_late:
                break
        else:
            ears.is_deaf = True  # what seems to be free, or to have left, is not: look again soon
            ears.period_s = POLL_S
        self._overtake_limit = 0
        if not ears.too_late and len(ahead) <= MOST_PASSED:
            self._overtake_limit = self._sleepers.overtake(path, ahead, limit, ears.held, self._limit_of)
        return ears

    def _read_rules(self) -> None:
        """Learn what the pool says, and let the ticket say what follows for us. Raises nothing."""
        self._rules = self._directory.rules()
        before, self._ruled = self._ruled, self._request
        self._resumes_at = NEVER
        if self._rules is not None:
            self._ruled = self._rules.applied(self._request)
            now = time.time()
            if pause := self._rules.pause(now):
                self._resumes_at = time.monotonic() + pause.until - now
        # Between the making of the ticket and this look they may have changed, too.
        is_new = self._rules is not None and not self._is_told
        if is_new or self._ruled.cap != before.cap or self._ruled.limit != line.limit_of(self._ticket.name):
            self._is_told = True
            now = time.monotonic()
            record = ticket_record(self._ruled, since=time.time() - (now - self._request.began))
            try:
                self._ticket = self._ticket.under(self._ruled.limit, record)
            except OSError as error:
                if error.errno is None:
                    raise  # no system call's: somebody has put it into this thread
                # A full disk, say. Only those behind read it, and overtake us later or sooner
            self._is_head = False

    def _limit_of(self, ticket: str) -> int:
        """Below how many held slots the owner of `ticket` may start.

        The name tells, unless its owner sleeps since before the rules were changed: then its record has to.
        """
        limit = line.limit_of(ticket)
        if self._rules is None:
            return limit
        record = records.read(f"{self._directory.path}/queue/{ticket}") or {}
        own, is_own = number(record.get("own")), "own" in record
        if own is None:
            own = number(record.get("cap")) if self._request.is_own_cap else self._request.own_cap
        if own is None:
            return limit
        return self._rules.limit(own, number(record.get("weight")) or 1, is_own=is_own)

    def _sleep(self, ears: Ears, deadline: float, notice: Notice | None) -> Steps[None]:
        """Sleep until there may be something new to see, or the deadline has passed."""
        glance_at = time.monotonic() + ears.period_s
        while True:
            now = time.monotonic()
            if notice is not None and now >= notice.due:
                notice.tell(self._directory, self._ticket.name, self._gate)
            news_at = min(deadline, self._sleepers.look_at, self._resumes_at)
            until = min(glance_at, news_at, NEVER if notice is None else notice.due)
            if self._gate is not None:
                until = min(until, now + GATE_S)
            if ears.is_deaf:
                until = min(until, now + self._poll_s)
                self._poll_s = min(self._poll_s * 2, POLL_S if self._is_head else ears.period_s)
            sound = yield ears, until - now
            now = time.monotonic()
            if now < until and self._is_flooded(now):
                yield None, DEAF_S
                now = time.monotonic()
            if sound:
                self._is_head = self._is_head and not ears.knocked
                self._poll_s = FIRST_POLL_S
                return
            if self._is_head or now >= news_at or not self._nothing_new(ears):
                self._is_head = False
                return
            glance_at = now + ears.period_s

    def _nothing_new(self, ears: Ears) -> bool:
        """Glance: whether no slot is free for us, and our ticket is still in line."""
        try:
            return (
                not ears.is_deaf
                and self._ticket.in_line()
                and len(self._directory.held()) >= self._ruled.limit
            )
        except OSError as error:
            # What is wrong is for `_look` to say. But not that this process has no descriptor left just now:
            # a glance at something else is no reason to start without a slot.
            return error.errno in (errno.EMFILE, errno.ENFILE)

    def _is_flooded(self, now: float) -> bool:
        """Whether this is one sound too many within a second."""
        if now - self._wakes_since > 1:
            self._wakes, self._wakes_since = 0, now
        self._wakes += 1
        return self._wakes > WAKES


class Pace:
    """Whose turn it is to start beyond the cap, when those whose timeout is over do so one after the other.

    While nothing happens in the pool one waiter falls through in each `paced_s`, in the order of the line: so
    one that has others ahead leaves each of them that time first. It does not wait for them to do so, because
    they may never: they may be asleep, or have no timeout. And it does not believe for ever that something
    happens, for others can write the records that say so: whoever has not come forward in the line for one
    `paced_s` more than its turn falls through.
    """

    __slots__ = ("_began", "_came_forward", "_changed", "_directory", "_paced_s", "_quiet_since", "_turns")

    def __init__(self, directory: PoolDirectory, request: Request, paced_s: float) -> None:
        self._directory = directory
        self._paced_s = paced_s
        self._began = self._quiet_since = self._came_forward = request.began
        self._changed = -1.0  # when the pool changed, as we saw it last
        self._turns = NEVER  # of those that fall through one after the other, ours the last: the least so far

    def left_s(self, ahead: list[str]) -> float:
        """Seconds until it is our turn, behind the tickets `ahead`; 0 or less if it is."""
        now = time.monotonic()
        turns = 1 + _places(self._directory.path, ahead)
        if turns < self._turns:
            self._turns, self._came_forward = turns, now if self._turns != NEVER else self._came_forward
        # In a pause nothing can happen.
        stuck_s = now - self._came_forward - self._directory.paused_s(self._came_forward)
        quiet_s = self._quiet_s(now)
        return min(turns * self._paced_s - quiet_s, (turns + 1) * self._paced_s - stuck_s)

    def _quiet_s(self, now: float) -> float:
        """For how much of our wait nothing has happened in the pool: no slot was taken, none let go of.

        The records tell, which are written then. By the wall clock, so that is asked only once about each
        change: a clock that was set back makes us wait for one turn more, and not until it is right again.
        """
        changed = self._directory.last_change()
        if changed != self._changed:
            self._changed = changed
            self._quiet_since = max(self._began, now - max(0.0, time.time() - changed))
        return now - self._quiet_since - self._directory.paused_s(self._quiet_since)


def _places(directory: str, names: list[str]) -> int:
    """How many wait with the tickets `names`, as far as that can be seen within `line.TIDY_S`.

    By inode: a member of a shared pool could give one ticket many names.
    """
    until = time.monotonic() + line.TIDY_S
    files: set[tuple[int, int]] = set()
    for name in reversed(names):
        path = f"{directory}/queue/{name}"
        try:
            about = os.lstat(path)
            if (about.st_dev, about.st_ino) not in files and locked(path):
                files.add((about.st_dev, about.st_ino))
        except OSError:
            continue  # gone, or none that we may look at
        if time.monotonic() > until:
            break
    return len(files)
