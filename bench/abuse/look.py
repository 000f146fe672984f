"""A look at a pool by its files alone: what is locked, and by whom. Knows the protocol by its document."""

from __future__ import annotations

import fcntl
import os
import time
from pathlib import Path


class Seen:
    """What one look at the pool has shown.

    Attributes:
        held: Numbers of the locked slots.
        lockers: Inode and pid for each of them.
        line: Name and pid of each live ticket, first come first.
        mutex: Pid of who has the mutex, or None.
        mutex_file: Its inode, or None.
    """

    def __init__(
        self, slots: dict[int, int], tickets: dict[str, int], mutex: int | None, locks: dict[int, int]
    ) -> None:
        self.mutex_file = mutex
        self.mutex = None if mutex is None else locks.get(mutex)
        self.held = sorted(number for inode, number in slots.items() if inode in locks)
        self.lockers = [(inode, locks[inode]) for inode in slots if inode in locks]
        self.line = sorted((name, locks[inode]) for name, inode in tickets.items() if inode in locks)


class Look:
    """Looks at the files of a pool, by the protocol's document alone."""

    def __init__(self, directory: str) -> None:
        self._directory = directory

    def once(self) -> Seen:
        """Look without locking anything."""
        locks = {}
        with open("/proc/locks") as lines:
            for line in lines:
                # "1: FLOCK  ADVISORY  WRITE 4711 fe:00:123 0 EOF", proc_locks(5). By inode alone: what a
                # device is called there and in stat(2) differs on some file systems.
                words = line.split()
                if words[1] == "FLOCK" and words[3] == "WRITE":
                    locks[int(words[5].rpartition(":")[2])] = int(words[4])
        files = self._inodes("")
        slots = {inode: int(name[5:]) for name, inode in files if _is_slot(name)}
        tickets = {name: inode for name, inode in self._inodes("queue") if name[:20].isdecimal()}
        return Seen(slots, tickets, dict(files).get("mutex"), locks)

    def rules(self) -> tuple[int, int, bool] | None:
        """The cap (0: none) and the head start in ms that the pool says, and whether it is paused.

        None if there are no rules that count.
        """
        try:
            text = Path(self._directory, "rules").read_text(errors="replace")
        except FileNotFoundError:
            return None
        if not (text.startswith("buildslots-rules 1\n") and text.endswith("\nend\n")):
            return None
        slots, head_start_s, paused = 0, 300.0, False
        for line in text.splitlines():
            name, *values = line.split(" ")
            if name == "slots":
                slots = int(values[0])
            elif name == "head_start":
                head_start_s = float(values[0])
            elif name == "pause":
                paused |= float(values[0]) <= time.time() < float(values[1])
        return slots, round(head_start_s * 1000), paused

    def record(self, ticket: str) -> dict[str, int]:
        """What the record in the ticket says of `own`, `cap` and `weight`; nothing if it is not whole."""
        try:
            text = Path(self._directory, "queue", ticket).read_text(errors="replace")
        except FileNotFoundError:
            return {}
        if "\nend\n" not in text:
            return {}
        lines = (line.split(" ") for line in text.partition("\nend\n")[0].splitlines())
        return {words[0]: int(words[1]) for words in lines if words[0] in {"own", "cap", "weight"}}

    def probe(self) -> int:
        """How many slots are locked, asked by shared locks, which might disturb."""
        return sum(_is_locked(f"{self._directory}/{name}") for name, _ in self._inodes("") if _is_slot(name))

    def left_locked(self) -> list[tuple[str, str]]:
        """What is locked, "slot" or "ticket", and its path."""
        paths = [("slot", f"{self._directory}/{name}") for name, _ in self._inodes("") if _is_slot(name)]
        paths += [("ticket", f"{self._directory}/queue/{name}") for name, _ in self._inodes("queue")]
        return [(what, path) for what, path in paths if _is_locked(path)]

    def _inodes(self, room: str) -> list[tuple[str, int]]:
        try:
            with os.scandir(os.path.join(self._directory, room)) as entries:
                return [(entry.name, entry.inode()) for entry in entries]
        except FileNotFoundError:
            return []


def _is_slot(name: str) -> bool:
    return name.startswith("slot-") and name[5:].isdecimal()


def _is_locked(path: str) -> bool:
    try:
        fd = os.open(path, os.O_RDONLY)
    except FileNotFoundError:
        return False
    try:
        fcntl.flock(fd, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    finally:
        os.close(fd)
    return False


def state(pid: int) -> str:
    """The state of process `pid` as a letter, see proc_pid_stat(5); X if it is gone."""
    try:
        with open(f"/proc/{pid}/stat") as file:
            return file.read().rpartition(")")[2].split()[0]
    except (FileNotFoundError, ProcessLookupError):
        return "X"
