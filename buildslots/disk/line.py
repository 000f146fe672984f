"""The line: numbered tickets in `queue`, each locked by its waiter, in the order of arrival.

To join takes the pool's mutex, all else does not. Even to join stays right without it (a stopped owner loses
it, see `disk.lock.Mutex`): a ticket whose file lost its name before it was locked is made again, and nobody
removes a ticket that is locked.
"""

from __future__ import annotations

import os
import time

from buildslots.disk import bells, records
from buildslots.disk.lock import does_not_stay, has_name, keep_young, lock_file, locked, share, unlock
from buildslots.files import (
    NO_FILE,
    PLAIN,
    Room,
    close,
    is_shared,
    open_in_room,
    put_aside,
    remove_in_room,
)
from buildslots.processes import close_kept, keep_from_children

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

NUMBER_DIGITS = 20
LARGEST_NUMBER = 10**17
"""In microseconds the year 5138. A larger number is no ticket."""
LARGEST_LIMIT = 10**9 - 1
"""What a ticket's name says of a larger limit, so that names stay short."""
HEAD_START_S = 300
"""How far a priority lets a build stand before its arrival, or behind it, unless the pool's rules say it."""
TIDY_S = 0.1
"""How long one look at the line may take over tickets of the dead. What is left counts as alive meanwhile."""
MANY = 5000
"""So many tickets are looked at in one look. A waiter that sees so many never counts as the head."""
REMOVALS = 100
"""How often one makes anew what somebody removes, before one gives up."""
LATE = 3
"""How often one looks at the line until no more are found dead."""
YOUNG_S = 1.0
"""How long another user's ticket that cannot be opened may be in the making."""


def waiting(directory: str, most: int = MANY) -> list[str]:
    """The names of all tickets in the pool `directory`, live or not, first come first; of masses so many."""
    names: list[str] = []
    try:
        with os.scandir(f"{directory}/queue") as entries:
            for entry in entries:
                names.append(entry.name)
                if len(names) == most:  # in no order: the others will be seen when some of these are gone
                    break
    except FileNotFoundError:
        return []
    names.sort()
    # To look at each takes as long as to list them, and what is no ticket sorts before them or behind.
    if names and not (_is_ticket(names[0]) and _is_ticket(names[-1])):
        return list(filter(_is_ticket, names))
    return names


def _is_ticket(name: str) -> bool:
    # Nothing else: dead tickets are removed, and somebody may have led us to another directory.
    number, limit = name[:NUMBER_DIGITS], name[NUMBER_DIGITS + 1 :]
    return (
        name[NUMBER_DIGITS : NUMBER_DIGITS + 1] == "-"
        and name.isascii()
        and number.isdecimal()
        and number < _FIRST_NO_NUMBER
        and limit.isdecimal()
        and len(limit) <= len(str(LARGEST_LIMIT))
    )


_FIRST_NO_NUMBER = f"{LARGEST_NUMBER:0{NUMBER_DIGITS}d}"


def number_of(name: str) -> int:
    """The number of the ticket `name`."""
    return int(name[:NUMBER_DIGITS])


def limit_of(name: str) -> int:
    """Below how many held slots the owner of the ticket `name` may start; 1 if the name does not tell."""
    limit = name[NUMBER_DIGITS + 1 :]
    return int(limit) if limit.isdecimal() and limit.isascii() else 1


def live(directory: str, name: str) -> bool:
    """Whether somebody waits with the ticket `name`. A dead one is removed with its bell."""
    if not _is_ticket(name):
        return False
    path = f"{directory}/queue/{name}"
    try:
        fd = os.open(path, os.O_RDONLY | PLAIN)
    except OSError as error:
        _clear(path, error)
        return False
    removed = ours = False
    try:
        # Shared, as a mere look is. An exclusive lock would make the dead ticket look alive to others: they
        # would listen for a bell that it no longer has. Shared is enough: an owner that has made its file but
        # not locked it yet (because it lost the mutex) cannot lock it now, and takes another number.
        if not share(fd):
            return True
        if not has_name(fd, path):
            return locked(path)  # another file has the name by now
        ours = _is_ours(fd)
        removed = _remove(directory, name, ours=ours)
    except OSError as error:
        _clear(path, error)
        return False
    finally:
        close(fd)
    if not removed:  # Windows removes no open file
        _remove(directory, name, ours=ours)
    return False


def _is_young(path: str) -> bool:
    """Whether what another user has made, or given another mode, is so new that it may not be finished."""
    try:
        return is_shared(os.path.dirname(path)) and time.time() - os.lstat(path).st_ctime < YOUNG_S
    except FileNotFoundError:
        return True


def _clear(path: str, error: OSError) -> None:
    """Take what `error` shows to be no ticket out of the line; raises any other error."""
    if isinstance(error, FileNotFoundError):
        return
    if isinstance(error, PermissionError):
        if _is_young(path):
            raise error  # another user makes it at this moment
    elif error.errno not in NO_FILE and not isinstance(error, IsADirectoryError):
        raise error
    try:
        # An empty directory is no loss to anybody.
        with Room(path) as (name, room):
            os.rmdir(name, dir_fd=room)
    except OSError:
        try:
            put_aside(path)
        except OSError:
            pass  # gone, or none that we may move


def tickets(directory: str) -> list[str]:
    """The names of the tickets up to the last live one, first come first; dead ones behind it are removed.

    After TIDY_S the last one that was not looked at yet counts as alive.
    """
    return _up_to_live(directory)


def _up_to_live(directory: str, before: str | None = None) -> list[str]:
    """The same, of the tickets before the ticket `before`.

    If all are dead it looks again. Who joins late, with the number of an earlier arrival, does so before
    another one of its process leaves; and both may have come after the names were read.
    """
    names: list[str] = []
    dead: list[str] = []
    for _ in range(LATE):
        names = waiting(directory)
        least = int(len(names) >= MANY)
        if before is not None:
            names = names[: max(sum(name < before for name in names), least)]
        found = names.copy()
        if _live(directory, names, least) or found in ([], dead):
            break
        dead = found  # and there still, if they cannot be removed
    return names


def _live(directory: str, names: list[str], least: int) -> list[str]:
    """Drop dead tickets from the end of `names`, but none of the first `least`; remove their files."""
    until = time.monotonic() + TIDY_S
    while len(names) > least and not live(directory, names[-1]):
        names.pop()
        if time.monotonic() > until:
            break
    return names


class Ticket:
    """A place in line, until `leave()`.

    Attributes:
        name: NUMBER-LIMIT, sorts by arrival.
        bell: Descriptor of its bell, or None where there are no FIFOs.
    """

    __slots__ = ("_before", "_directory", "_fd", "_pid", "_record", "_rejoined", "bell", "name")

    def __init__(  # noqa: PLR0913 - what a place in line depends on
        self,
        directory: str,
        limit: int,
        record: bytes,
        before: list[str] | None = None,
        *,
        number: int | None = None,
        head_start_us: int = 0,
    ) -> None:
        """Join the line of the pool `directory`, under the mutex; or at the place of `number`, without.

        Raises OSError, and then nothing is left behind.

        Args:
            directory: Of the pool.
            limit: Below how many held slots we may start.
            record: What others are told of us.
            before: Those in line, if they are known; see `tickets`.
            number: That of an earlier arrival; None for now.
            head_start_us: How far before now its priority lets it stand, in microseconds.
        """
        self._directory = directory
        self._record = record
        self._fd = -1
        self._pid = os.getpid()
        self._rejoined = 0
        self.bell: int | None = None
        self._before: list[str] | None = before
        if number is not None:
            self._take_place(number, min(limit, LARGEST_LIMIT))
            self._knock_behind()
            return
        if self._before is None:
            self._before = tickets(directory)
        now = number = time.time_ns() // 1000 - head_start_us
        if self._before and number_of(self._before[-1]) >= now:
            from buildslots.disk.equals import last_equal  # noqa: PLC0415 - rarely somebody is further back

            number = max(now, last_equal(directory, self._before, now, record) + 1)
        if number >= LARGEST_NUMBER:
            number = now
        self._take_place(number, min(limit, LARGEST_LIMIT))
        if self._before and self._before[-1] > self.name:
            self._before = None
            self._knock_behind()

    def in_line(self) -> bool:
        """Whether this ticket still has its name: somebody may have removed the pool directory."""
        return has_name(self._fd, f"{self._directory}/queue/{self.name}")

    def keep_young(self) -> None:
        """See to it that nobody who cleans up by age takes the ticket or its bell; raises nothing."""
        for fd in (self._fd, self.bell):
            if fd is not None and fd >= 0:
                keep_young(fd)

    def rejoin(self) -> None:
        """Join again with the same number, after the pool directory was removed. Raises OSError."""
        self._rejoined += 1
        if self._rejoined > REMOVALS:
            raise does_not_stay(self._directory)
        self._let_go()
        self._take_place(number_of(self.name), limit_of(self.name))
        self._knock_behind()

    def under(self, limit: int, record: bytes) -> Ticket:
        """This place in line with another limit in its name; this object if that is the same one.

        The new ticket is there before the old one goes, so that nobody behind becomes the head in between.
        Raises OSError, and then the old one stays.
        """
        if min(limit, LARGEST_LIMIT) == limit_of(self.name):
            self._record = record
            os.lseek(self._fd, 0, os.SEEK_SET)
            records.write(self._fd, record)
            return self
        new = Ticket(self._directory, limit, record, number=number_of(self.name))
        try:
            self.leave()
            # Who knocks at all tickets may have read the names before the new one was there.
            bells.knock(f"{self._directory}/bells/{new.name}")
        except BaseException:  # a Ctrl-C: whoever keeps its traceback keeps the new ticket
            new.leave()
            raise
        return new

    def _knock_behind(self) -> None:
        """Knock at the next ticket behind: it may take itself for the head already."""
        try:
            for name in waiting(self._directory):
                if name > self.name and bells.knock(f"{self._directory}/bells/{name}"):
                    break
        except BaseException:
            self.leave()
            raise

    def ahead(self) -> list[str]:
        """The tickets before this one, first come first; the last of them, if any, was live just now."""
        names, self._before = self._before, None
        return _up_to_live(self._directory, self.name) if names is None else names

    def leave(self) -> None:
        """Leave the line: wake whoever comes next, and remove the files. Idempotent, raises nothing.

        Needs no mutex. In a forked child nothing happens: the place is the parent's.
        """
        if self._fd < 0 or self._pid != os.getpid():
            return
        # In this order: a removal may take long on a busy disk, and whoever looks meanwhile finds a dead
        # ticket.
        self._let_go()
        try:
            live(self._directory, self.name)
        except OSError:
            pass  # whoever looks next removes it

    def __del__(self) -> None:
        if getattr(self, "_fd", -1) >= 0:  # lost when an exception came at a bad moment
            self.leave()

    def _let_go(self) -> None:
        """Unlock, and then close the bell, which tells the next. After a Ctrl-C `leave` does the rest."""
        if self._fd >= 0:
            try:
                unlock(self._fd)
            except OSError:
                pass  # it ends with the descriptor: no child has a copy
        if self.bell is not None:
            close_kept(self.bell)
            self.bell = None
        fd, self._fd = self._fd, -1
        if fd >= 0:
            close_kept(fd)

    def _take_place(self, number: int, limit: int) -> None:
        while True:
            self.name = f"{number:0{NUMBER_DIGITS}d}-{limit}"
            try:
                path = f"{self._directory}/queue/{self.name}"
                fd = lock_file(path, os.O_RDWR | os.O_CREAT | os.O_EXCL, open_in_room)
            except FileExistsError:
                fd = None
            if fd is not None:
                break
            number += 1
        self._fd = fd
        try:
            keep_from_children(fd)
            self.bell = bells.hang(f"{self._directory}/bells/{self.name}", new=True)
            if self.bell is not None:
                keep_from_children(self.bell)
            records.write(fd, self._record)
        except BaseException:
            self.leave()
            raise


def _remove(directory: str, name: str, *, ours: bool = True) -> bool:
    """Remove the ticket `name` and its bell; raises nothing. Whether nothing of them is left.

    What is no ticket of `ours` is not removed, but put aside.
    """
    # The bell first: of one that is killed in between a ticket remains, which the next arrival finds.
    without = _gone(remove_in_room, f"{directory}/bells/{name}")
    free = remove_in_room if ours else put_aside
    return _gone(free, f"{directory}/queue/{name}") and without


def _gone(free: Callable[[str], object], path: str) -> bool:
    """Free the name `path`: whether it is free. If not, whoever looks next will: nobody has it locked."""
    try:
        free(path)
    except FileNotFoundError:
        pass
    except OSError:
        return False
    return True


def _is_ours(fd: int) -> bool:
    """Whether the file `fd` is a ticket: with a record in it, or with nothing."""
    try:
        return records.begins(os.read(fd, len(records.MAGIC)))
    except OSError:
        return False
