"""The queue: numbered tickets, each locked by its waiter, in the order of arrival.

All functions but `Ticket.leave` and the bells are for processes that have the pool's mutex. They
stay right without it (a stopped owner loses it, see `disk.lock.Mutex`): a ticket whose file lost
its name before it was locked is made again, and nobody removes a ticket that is locked.
"""

from __future__ import annotations

import os
import time

from buildslots.disk import bells, records
from buildslots.disk.lock import has_name, lock_file, locked, unlock

NUMBER_DIGITS = 20
LARGEST_CAP = 10**9 - 1
"""What a ticket's name says of a larger limit, so that names stay short."""


def waiting(directory: str) -> list[str]:
    """The names of all tickets in the pool `directory`, live or not, first come first."""
    try:
        names = os.listdir(f"{directory}/queue")
    except FileNotFoundError:
        return []
    return sorted(name for name in names if name[:NUMBER_DIGITS].isdecimal())


def number_of(name: str) -> int:
    """The number of the ticket `name`."""
    return int(name[:NUMBER_DIGITS])


def cap_of(name: str) -> int:
    """Below how many held slots the owner of the ticket `name` may start; 1 if the name does not tell."""
    cap = name[NUMBER_DIGITS + 1 :]
    return int(cap) if cap.isdecimal() and cap.isascii() else 1


def live(directory: str, name: str) -> bool:
    """Whether somebody waits with the ticket `name`. A dead one is removed with its bell."""
    path = f"{directory}/queue/{name}"
    if locked(path):
        return True
    # Removed while locked: its owner may be between creating and locking it (if we lost the mutex).
    try:
        fd = lock_file(path, 0)
    except (FileNotFoundError, IsADirectoryError):
        return False
    if fd is None:
        return locked(path)
    _discard(directory, name, fd)
    return False


def anybody_waits(directory: str) -> bool:
    """Whether a live ticket is in the queue; dead ones behind the last live one are removed."""
    return any(live(directory, name) for name in reversed(waiting(directory)))


class Ticket:
    """A place in line; from `Ticket(...)` until `leave()`.

    Attributes:
        name: NUMBER-LIMIT, sorts by arrival.
        bell: Descriptor of its bell, or None where there are no FIFOs.
    """

    __slots__ = ("_directory", "_fd", "_next_but_one", "_pid", "_record", "bell", "name")

    def __init__(self, directory: str, cap: int, record: bytes) -> None:
        """Join the queue at its end. Raises OSError, and then nothing is left behind."""
        self._directory = directory
        self._record = record
        self._fd = -1
        self._pid = os.getpid()
        self._next_but_one: str | None = None
        self.bell: int | None = None
        names = waiting(directory)
        number = time.time_ns() // 1000
        if names:
            number = max(number, number_of(names[-1]) + 1)
        self._take_place(number, min(cap, LARGEST_CAP))

    def in_line(self) -> bool:
        """Whether this ticket still has its name: somebody may have removed the pool directory."""
        return has_name(self._fd, f"{self._directory}/queue/{self.name}")

    def rejoin(self) -> None:
        """Join again with the same number, after the pool directory was removed."""
        fd, self._fd = self._fd, -1
        self._close_bell()
        if fd >= 0:  # not at a second try
            del _kept_from_children[fd]
            unlock(fd)
            os.close(fd)
        self._take_place(number_of(self.name), cap_of(self.name))

    def ahead(self) -> list[str]:
        """The tickets before this one, first come first; the last of them, if any, is live."""
        line = waiting(self._directory)
        place = sum(name < self.name for name in line)
        names = line[:place]
        self._next_but_one = line[place + 2] if len(line) > place + 2 else None
        while names and not live(self._directory, names[-1]):
            names.pop()
        return names

    def leave(self) -> None:
        """Leave the line and wake who comes next. Idempotent; raises nothing; needs no mutex.

        The one after that gets a knock: it may be second now, and glance too rarely (`wait`).
        In a forked child nothing happens: the place is the parent's.
        """
        if self._fd < 0 or self._pid != os.getpid():
            return
        fd, self._fd = self._fd, -1
        _kept_from_children.pop(fd, None)
        _discard(self._directory, self.name, fd)
        self._close_bell()
        if self._next_but_one is not None:
            bells.knock(f"{self._directory}/bells/{self._next_but_one}")

    def __del__(self) -> None:
        if getattr(self, "_fd", -1) >= 0:  # lost when an exception came at a bad moment
            self.leave()

    def _take_place(self, number: int, cap: int) -> None:
        while True:
            self.name = f"{number:0{NUMBER_DIGITS}d}-{cap}"
            try:
                fd = lock_file(f"{self._directory}/queue/{self.name}", os.O_CREAT | os.O_EXCL)
            except FileExistsError:
                fd = None
            if fd is not None:
                break
            number += 1
        self._fd = fd
        try:
            self.bell = bells.hang(f"{self._directory}/bells/{self.name}")
            _keep_from_children(fd, self.bell)
            records.write(fd, self._record)
        except BaseException:
            self.leave()
            raise

    def _close_bell(self) -> None:
        if self.bell is not None:
            os.close(self.bell)
            self.bell = None


def _discard(directory: str, name: str, fd: int) -> None:
    """Remove the files of the ticket `name`, whose lock `fd` we have, and close it. Raises nothing."""
    removed = _remove(directory, name)
    unlock(fd)
    os.close(fd)
    if not removed:  # Windows removes no open file
        _remove(directory, name)


def _remove(directory: str, name: str) -> bool:
    removed = True
    for path in (f"{directory}/queue/{name}", f"{directory}/bells/{name}"):
        try:
            os.unlink(path)
        except FileNotFoundError:
            pass
        except OSError:
            removed = False  # whoever looks next will: nobody has it locked then
    return removed


_kept_from_children: dict[int, int | None] = {}
"""The descriptors of this process's tickets: of the file, and of the bell."""
_hook_installed = False


def _keep_from_children(fd: int, bell: int | None) -> None:
    """See to it that a child forked while the ticket is in line does not keep it alive."""
    global _hook_installed  # noqa: PLW0603 - hooks cannot be removed, so one serves all tickets
    _kept_from_children[fd] = bell
    if not _hook_installed and hasattr(os, "register_at_fork"):
        _hook_installed = True
        os.register_at_fork(after_in_child=_close_in_child)


def _close_in_child() -> None:
    for fd, bell in _kept_from_children.items():
        os.close(fd)
        if bell is not None:
            os.close(bell)
    _kept_from_children.clear()
