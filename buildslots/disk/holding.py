"""Holding slots: taking them, what is told of it, letting go.

Relies on `disk.lock` for the truth: holding slot N is having the lock of `slot-N`. Records and bells are
hints.
"""

from __future__ import annotations

import os
import sys
import time

from buildslots.backend import label_of
from buildslots.disk import bells, records
from buildslots.disk.lock import keep_young, unlock
from buildslots.files import DIR_FDS, close, open_directory
from buildslots.processes import forget, forks

TYPE_CHECKING = False
if TYPE_CHECKING:
    from buildslots.backend import Request
    from buildslots.gates import Gates


class Hold:
    """Slots that are held together: one, or as many as the build's weight.

    Attributes:
        numbers: N of each `slot-N`, ascending.
        nonce: What marks this one holding in its records, for the nesting check.
        cap: K, by which it was taken.
        overflow: Whether they were taken beyond the cap.
        despite: The closed gate for which it does not wait any longer, in words; None if there was none.
    """

    __slots__ = (
        "__weakref__",
        "_about",
        "_bells",
        "_directory",
        "_forks",
        "_handed",
        "_locks",
        "_pid",
        "_records",
        "_waited_s",
        "cap",
        "despite",
        "nonce",
        "numbers",
        "overflow",
    )

    def __init__(
        self, directory: str, locks: Locks, request: Request, *, overflow: bool = False, despite: str | None
    ) -> None:
        """Take over `locks`, slots of the pool `directory`.

        `locks` is emptied once this object owns them; until then the caller lets go of them.

        Raises OSError, and then nothing is told of a holding.
        """
        self.numbers = tuple(locks)
        self.nonce = request.nonce
        self.cap = request.cap
        self.overflow = overflow
        self.despite = despite
        self._directory = directory
        self._about = about(request)
        self._waited_s = time.monotonic() - request.began
        self._pid = os.getpid()
        self._forks = forks()
        self._locks: list[int] = []
        self._bells: list[int] = []
        self._handed: list[int] = []
        self._records: list[int] = []
        for lock in locks.values():
            keep_young(lock)
        record = self._record(0 if request.tells else None)
        # Once for both rooms: to look at the way to it takes longer than to open it.
        pool = open_directory(directory) if DIR_FDS else None
        try:
            for number in locks:
                # The record before the bell: see `Seen`.
                self._records.append(records.keep(f"{directory}/holders/slot-{number}", pool))
                records.write(self._records[-1], record)
                bell = bells.hang(f"{directory}/bells/slot-{number}", pool)
                if bell is not None:
                    self._bells.append(bell)
        except BaseException:
            for fd in self._records:
                records.remove(fd)
            for fd in (*self._bells, *self._records):
                close(fd)
            raise
        finally:
            if pool is not None:
                close(pool)
        self._locks = list(locks.values())
        locks.clear()

    def _record(self, child: int | None) -> bytes:
        return records.record(self._about, waited_s=self._waited_s, overflow=self.overflow, child=child)

    @property
    def is_held(self) -> bool:
        """Whether this process has not let go of them."""
        return bool(self._locks)

    def runs(self, child: int) -> None:
        """Write into the records that the process `child` runs under the slots; raises nothing."""
        text = self._record(child)
        for record in self._records:
            try:
                os.lseek(record, 0, os.SEEK_SET)
                records.write(record, text)
            except OSError:
                pass  # a hint only

    chore = None
    """The lock is all that keeps them."""

    @property
    def descriptors(self) -> list[int]:
        """What a child inherits to hold the slots: the locks, and bells to ring by. Empty after the release.

        A child can do as much as it can do with these: unlock the slots, and ring. It cannot write into the
        slots' files, nor read away what was rung. Raises nothing.
        """
        if not self._locks:
            return []
        if not self._handed:
            for number, bell in zip(self.numbers, self._bells, strict=False):
                fd = bells.hand_down(f"{self._directory}/bells/slot-{number}", bell)
                if fd is not None:
                    self._handed.append(fd)
        self._forks = -1  # whatever becomes of them: others have copies
        return [*self._locks, *self._handed]

    def release(self) -> None:
        """Let go of the slots, though a child may have copies of the descriptors; wake the head.

        Idempotent, raises nothing. In a forked child it only closes the child's copies: the slots are the
        parent's.
        """
        ours = self._pid == os.getpid()
        locks: list[int] = []
        try:
            locks, self._locks = self._locks, []
            if locks and ours:
                self._free(locks)
        except BaseException:
            if locks and ours:
                self._free(locks)  # interrupted: closing alone would leave a child that has copies its locks
            raise
        finally:
            if locks and not ours:
                self._forget_what_is_not_ours(locks)
            for fds in (locks, self._bells, self._handed, self._records) if locks else ():
                while fds:
                    _close_last(fds)

    def _forget_what_is_not_ours(self, locks: list[int]) -> None:
        """In a forked child: keep of the numbers only those that still are what they were.

        A daemon closes all that it has inherited, and what it opens then has the same numbers.
        """
        rooms = ((locks, ""), (self._bells, "bells/"), (self._handed, "bells/"), (self._records, "holders/"))
        for fds, room in rooms:
            names = [f"{self._directory}/{room}slot-{number}" for number in self.numbers]
            fds[:] = [fd for fd, name in zip(fds, names, strict=False) if _is_at(fd, name)]

    def _free(self, locks: list[int]) -> None:
        if not self._bells:  # then the record alone tells the nesting check that the holding has ended
            self._end_records()
        for lock in locks:
            try:
                unlock(lock)
            except OSError:
                pass  # it ends with the descriptor, unless a child keeps a copy
        while self._bells:
            # To close it rings, if nobody has a copy; on Linux, where that was measured. (A child that C code
            # has forked is not counted: then the head hears nothing, and finds the slot at its glance.)
            if self._forks != forks() or sys.platform != "linux":
                bells.ring(self._bells[-1])
            _close_last(self._bells)
        _let_the_woken_run()
        self._end_records()  # not before: it takes as long as all that went before

    def _end_records(self) -> None:
        for record in self._records:
            records.end(record, self.nonce)

    def __del__(self) -> None:
        if getattr(self, "_locks", None):  # lost like a file that nobody closed
            self.release()


def _is_at(fd: int, path: str) -> bool:
    """Whether `fd` is open, and the file at `path`."""
    try:
        return os.path.samestat(os.fstat(fd), os.lstat(path))
    except OSError:
        return False


def about(request: Request, own: int | None = None, gates: Gates | None = None) -> bytes:
    """What records say of the build that asks for `request`; of a waiter also its `own` cap and its gates."""
    label = label_of(request.command)
    return records.about(
        request.command,
        cap=request.cap,
        nonce=request.nonce,
        cwd=label and label.cwd,
        weight=request.weight,
        batch=label and label.batch,
        own=own,
        priority=request.priority,
        gates=gates,
        owner=request.owner,
    )


def ticket_record(request: Request, since: float | None = None) -> bytes:
    """The record in the ticket of a build that asks for `request`, and waits since that Unix time."""
    own = request.own_cap if request.is_own_cap else None
    return records.record(about(request, own, request.gates), since=since)


def _close_last(fds: list[int]) -> None:
    try:
        os.close(fds.pop())  # in one line: no Ctrl-C comes in between
    except OSError:
        pass  # as in `files.close`


def _let_the_woken_run() -> None:
    """Give the processor to the process that was woken just now, if it is to run on this one.

    Linux likes to put who is woken through a pipe on the processor of who woke it, even if others
    are idle: then the slot would lie free until this process sleeps (bench/README.md).
    """
    if hasattr(os, "sched_yield"):
        try:
            os.sched_yield()
        except OSError:
            pass  # a sandbox may refuse any call (seccomp(2))


class Locks(dict[int, int]):
    """Locked descriptors of slot files, by number; let go of with the object, whatever ends its use."""

    def let_go(self) -> None:
        """Unlock and close what is left. Idempotent, raises nothing."""
        for number, fd in list(self.items()):
            try:
                unlock(fd)
            except OSError:
                pass  # it ends with the descriptor
            forget(fd)
            del self[number]
            try:
                os.close(fd)
            except OSError:
                pass  # as in `files.close`, in which a Ctrl-C may strike

    def __del__(self) -> None:
        if self:
            self.let_go()
