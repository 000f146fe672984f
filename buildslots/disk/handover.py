"""The hand-over: what the head of the line has ready, so that a slot that is let go of is taken at once.

What a process does first after a sleep takes it four times as long as what it does again, and meanwhile the
slot lies free (bench/README.md). So the head opens beforehand all that it needs and, when a bell rings,
makes as few calls as it can. What is not as nearly always is left to `PoolDirectory.take`, which needs
nothing ready.

Names are not looked up again. They mean what they meant as long as the pool directory has the same time of
change, if that was no new one when it was read: Git trusts its index by the same rule (racy-git in its
documentation). On a file system that does not keep that time for directories (`git update-index
--test-untracked-cache` knows such), or where it may be an old one (NFS), a new slot file may be overlooked,
until the head glances.
"""

from __future__ import annotations

import os
import time

from buildslots.disk import bells, records
from buildslots.disk.lock import close, forks, is_locked, try_lock
from buildslots.disk.slots import Hold, Locks, slot_numbers

TYPE_CHECKING = False
if TYPE_CHECKING:
    from buildslots.disk.slots import Claim, SlotFiles
    from buildslots.disk.wait import Ears

SETTLED_S = 1.1
"""How old a directory's last change has to be for the next one to show in its time. HFS+ and ext3 count in
seconds (FAT in two, but it has no FIFOs, so that no bell rings there)."""


class Ready:
    """What is open of a slot that may be let go of.

    Attributes:
        record: The file for its record.
        ear: Who listens to its bell.
        bell: Which FIFO that is, as `bells.which` says.
        forks: What `forks()` said beforehand.
    """

    __slots__ = ("bell", "ear", "forks", "record")

    def __init__(self, record: int, ear: int, bell: tuple[int, int]) -> None:
        self.record = record
        self.ear = ear
        self.bell = bell
        self.forks = forks()


class Handover:
    """Ready to take over a slot at the ring of its bell; open descriptors, to be given back by `close`.

    Args:
        directory: Of the pool.
        files: Its slot files that stay open.
        ears: What one listens to.
    """

    __slots__ = ("_directory", "_ears", "_files", "_ready", "_seen", "_slots")

    def __init__(self, directory: str, files: SlotFiles, ears: Ears) -> None:
        self._directory = directory
        self._files = files
        self._ears = ears
        self._slots: dict[int, int] = {}  # all of the pool
        self._ready: dict[int, Ready] = {}  # those that may ring
        self._seen: tuple[int, int, int] | None = None  # which directory, and when it was changed
        try:
            self._prepare()
        except OSError:
            self.close()  # what is in the way is for `PoolDirectory.take` to say
        except BaseException:
            self.close()
            raise

    def _prepare(self) -> None:
        about = os.stat(self._directory)
        if os.name == "nt" or time.time() - about.st_ctime < SETTLED_S:  # there it is the time of creation
            return
        for number in slot_numbers(self._directory):
            fd = self._files.open(number)
            if fd is None:
                return
            self._slots[number] = fd
        for number, ear in self._ears.slots.items():
            bell = bells.which(ear)
            fd = records.reopen(f"{self._directory}/holders/slot-{number}") if number in self._slots else None
            if fd is not None:
                self._ready[number] = Ready(fd, ear, bell)
        self._seen = about.st_dev, about.st_ino, about.st_ctime_ns

    def take(self, claim: Claim) -> Hold | None:
        """Take the slot whose bell has rung; None if it is not as simple as that.

        Args:
            claim: Who wants it, one and nothing else.
        """
        silent = self._ears.silent
        rung = [number for number in self._ready if number not in silent]
        if not rung or not try_lock(self._slots[rung[0]]):
            return None
        mine = rung[0]
        locks = Locks()
        try:
            locks[mine] = self._slots[mine]
            self._files.give(mine)
            held = len(silent)
            for number, fd in self._slots.items():
                if number not in silent and number != mine:
                    if is_locked(fd):
                        held += 1
                    elif number < mine:
                        return None
            now = os.stat(self._directory)
            if held >= claim.limit or (now.st_dev, now.st_ino, now.st_ctime_ns) != self._seen:
                return None
            if os.fstat(self._ready[mine].record).st_nlink != 1:
                return None
            return Hold(self._directory, locks, claim, self._ready.pop(mine))
        except OSError:
            return None  # what is in the way is for `PoolDirectory.take` to say
        finally:
            if locks:
                locks.let_go()

    def close(self) -> None:
        """Close what was opened. Idempotent."""
        while self._ready:
            close(self._ready.popitem()[1].record)
