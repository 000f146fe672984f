"""strace's record of a process, as the calls that are to be tried."""

from __future__ import annotations

import re

from bench.faults.calls import OPENING, SPAWNING, Call

MARK = "faults-mark-"
"""Begins the names that the subject asks for, none of which is there, to leave marks in the record."""
TICKET = re.compile(r"\d{20}-\d{1,9}")
DATA = ("read", "write", "pread64", "pwrite64", "getcwd", "uname")
"""What quotes no path."""
SLEEPING = ("epoll_wait", "epoll_pwait", "epoll_pwait2")
_LINE = re.compile(r"^(\w+)\((.*)\)\s+= (\S+)(.*)$")
_DOING = re.compile(r"LOCK_(UN|EX|SH)|F_[A-Z]+|EPOLL_CTL_[A-Z]+")
_QUOTED = re.compile(r'"([^"]*)"')


def read(record: str, own: str) -> list[Call]:
    """The calls in the text `record` of strace that are to be tried.

    Args:
        record: Of the whole process, without those of its children.
        own: The directory in which the files of the pool and the journal are, and nothing else.
    """
    reader = _Reader(own)
    for line in record.splitlines():
        if not reader.hear(line):
            break
    return reader.calls


def again(line: str) -> str:
    """What of a line of strace is the same in each run: the call, the file that it names, what it is to do.

    Of the descriptors, data and results nothing is: they differ, or strace does not know them yet when the
    process is killed.
    """
    name, _, arguments = line.partition("(")
    file = _QUOTED.search(arguments) if name not in DATA else None
    doing = _DOING.search(arguments)
    return f"{name} {_nameless(file[1]) if file else ''} {doing[0] if doing else ''}"


def _nameless(path: str) -> str:
    """`path` without the numbers, and the random names, that are others in each run."""
    return re.sub(r"\d+", "#", re.sub(r"[0-9a-f]{8,}", "#", path))


class _Reader:
    """Goes through a record line by line, and knows which descriptor is which file.

    Attributes:
        calls: What is to be tried.
    """

    def __init__(self, own: str) -> None:
        self.calls: list[Call] = []
        self._own = own
        self._counts: dict[str, int] = {}
        self._files: dict[str, str] = {}
        self._tickets: set[str] = set()
        self._loop = ""
        self._began = self._paused = self._leaving = self._after = False

    def hear(self, line: str) -> bool:
        """The next line; False if what follows is not under test any more."""
        match = _LINE.match(line)
        if not match:
            return True
        name, arguments, result, _ = match.groups()
        self._counts[name] = self._counts.get(name, 0) + 1
        if MARK in arguments:
            self._marked(arguments)
            return True
        if name == "execve":
            return not self._began  # the first is the beginning, another one the command
        first = arguments.split(",", 1)[0]
        about = self._about(name, arguments, first)
        self._began = self._began or self._own in about
        if name == "flock" and first in self._tickets and "LOCK_UN" in arguments:
            self._leaving = True
        if self._began and not self._paused:
            self.calls.append(
                Call(
                    name=name,
                    n=self._counts[name],
                    text=again(line.replace(self._own, "")),
                    about=_nameless(about.replace(self._own, "")),
                    foreign=bool(about) and self._own not in about and not about.startswith("/proc"),
                    spawns=name in SPAWNING or (name == "mmap" and "MAP_STACK" in arguments),
                    asks_loop=name in SLEEPING and first == self._loop,
                    leaving=self._leaving,
                    after=self._after,
                    shown=line.replace(self._own, "…"),
                )
            )
        self._keep(name, arguments, first, about, result)
        return True

    def _marked(self, arguments: str) -> None:
        """The subject has left a mark."""
        self._paused = f"{MARK}pause" in arguments
        self._after = self._after or f"{MARK}resume" in arguments
        if f"{MARK}begin" in arguments:
            self.calls.clear()
            self._began = False

    def _about(self, name: str, arguments: str, first: str) -> str:
        """The file that a call is about, or ""."""
        quoted = _QUOTED.search(arguments) if name not in DATA else None
        if not quoted:
            return self._files.get(first, "")
        path = quoted[1]
        above = self._files.get(first, "")
        return f"{above}/{path}" if above and not path.startswith("/") else path

    def _keep(self, name: str, arguments: str, first: str, about: str, result: str) -> None:
        """See which descriptors there are after the call."""
        if name == "close":
            self._files.pop(first, None)
            self._tickets.discard(first)
        if not result.isdecimal():
            return
        if name in OPENING:
            self._files[result] = about
            if TICKET.search(about) and "O_CREAT" in arguments:
                self._tickets.add(result)
        elif name == "fcntl" and "F_DUPFD" in arguments:
            self._files[result] = self._files.get(first, "")
        elif name == "epoll_create1":
            self._files.pop(result, None)
            self._loop = self._loop or result
