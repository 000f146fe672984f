"""The system calls of a process: read from strace's record, and what may go wrong with each."""

from __future__ import annotations

import re
from dataclasses import dataclass

MARK = "faults-mark-"
"""Begins the name of a file that the subject asks for, and that is not there, to leave a mark in the record."""
TICKET = re.compile(r"\d{20}-\d{1,9}")
OPENING = ("open", "openat", "openat2", "creat")
SPAWNING = ("clone", "clone3", "vfork", "fork")
STAT = ("stat", "lstat", "newfstatat", "statx", "access", "faccessat", "faccessat2", "readlink", "readlinkat")
OWN_SIGNALS = ("SIGTERM", "SIGINT", "SIGKILL", "SIGSTOP", "DELAY")
"""What comes between: these signals, a stop being followed by SIGCONT, and a call that takes long to return."""

_DESCRIPTOR = {
    "close": ("EIO", "EDQUOT", "ENOSPC", "EINTR"),
    "read": ("EIO", "EINTR"),
    "pread64": ("EIO", "EINTR"),
    "write": ("ENOSPC", "EIO", "EDQUOT"),
    "pwrite64": ("ENOSPC", "EIO", "EDQUOT"),
    "writev": ("ENOSPC", "EIO", "EDQUOT"),
    "fstat": ("EIO",),
    "getdents64": ("EIO", "ENOENT"),
    "fchmod": ("EPERM", "EIO", "EROFS"),
    "ftruncate": ("EIO", "EPERM"),
    "lseek": ("EIO",),
    "ioctl": ("EIO",),
    "fsync": ("EIO",),
    "fdatasync": ("EIO",),
    "poll": ("EINTR", "ENOMEM"),
    "ppoll": ("EINTR", "ENOMEM"),
    "epoll_create1": ("EMFILE", "ENFILE", "ENOMEM"),
    "epoll_ctl": ("ENOSPC", "ENOMEM"),
    "epoll_wait": ("EINTR",),
    "sched_yield": ("ENOSYS",),
    "clock_nanosleep": ("EINTR",),
    "rt_sigtimedwait": ("EINTR",),
    "wait4": ("EINTR",),
    "waitid": ("EINTR",),
    "getrandom": ("EINTR",),
    "getcwd": ("ENOENT", "EACCES"),
    "prlimit64": ("EPERM",),
}
_PATH = {
    "mkdir": ("EACCES", "ENOSPC", "EROFS", "EIO", "EDQUOT"),
    "rename": ("EACCES", "EIO", "ENOSPC", "ENOENT"),
    "unlink": ("EACCES", "EIO", "EROFS", "ENOENT"),
    "rmdir": ("EACCES", "EIO", "ENOENT"),
    "mknod": ("EACCES", "ENOSPC", "EPERM", "EIO", "EROFS"),
    "chmod": ("EPERM", "EIO", "EROFS"),
    "statfs": ("EIO", "EACCES"),
    "utimensat": ("EPERM", "EIO"),
    "link": ("EPERM", "EIO"),
}
# Not tried, for no promise can be kept or broken by them:
# - execve: past it there is no slot-run any more, and before it the error is the command's own (126 and 127).
# - mmap, munmap, brk, mremap, mprotect: the allocator of the interpreter, which ends without memory. (The
#   stack of a child is one of ours: `_spawns`.)
# - rt_sigprocmask, rt_sigaction, rt_sigpending, getpid, gettid, getuid, uname, sysinfo, sched_getaffinity: they
#   cannot fail with valid arguments.
# - kill of oneself, exit_group: likewise.
# - futex: only threads that are not the process under test's use it.


@dataclass(frozen=True)
class Call:
    """One system call of the process under test.

    Attributes:
        name: Of the call.
        n: Which of its kind since the start of the process, from 1; strace's `when`.
        text: As strace shows it, numbers and addresses replaced, to know it again in another run.
        about: The file that it is about, or "".
        foreign: Whether it is about none of the pool's or the journal's files: a module that is loaded, say.
        spawns: Whether it is one of those that start the command.
        asks_loop: Whether it is the event loop's own sleep.
        leaving: Whether it is made when the wait has ended in vain: the ticket is unlocked by it or was before.
        shown: As strace shows it.
    """

    name: str
    n: int
    text: str
    about: str
    foreign: bool
    spawns: bool
    asks_loop: bool
    leaving: bool
    shown: str

    def errors(self) -> tuple[str, ...]:
        """The errors that this call may plausibly meet."""
        base = self.name.removesuffix("at2").removesuffix("at")
        if self.spawns:
            return ("EAGAIN", "ENOMEM")
        if self.foreign:
            # A module that cannot be read is missed in the same way whatever the reason.
            return ("EMFILE",) if self.name in OPENING else ("EIO",) if self.name in ("read", *STAT) else ()
        if self.asks_loop:
            return ()  # asyncio passes it on to whoever runs the loop: no task can do anything about it
        if self.name in OPENING:
            found = ["EACCES", "EMFILE", "ENFILE", "EIO", "ENOENT", "EINTR"]
            if "O_CREAT" in self.shown:
                found += ["ENOSPC"]
            if "O_CREAT" in self.shown or "O_RDWR" in self.shown or "O_WRONLY" in self.shown:
                found += ["EROFS"]
            return tuple(found)
        if self.name == "flock":
            return ("ENOLCK", "EIO", "EINTR") + (() if "LOCK_UN" in self.shown else ("EAGAIN",))
        if self.name == "fcntl":
            return ("EMFILE", "EINVAL") if "F_DUPFD" in self.shown else ("EIO",)
        if self.name in STAT:
            return ("EIO",) if '(AT_FDCWD, ""' in self.shown or ', "", ' in self.shown else ("EIO", "EACCES", "ENOENT")
        return _DESCRIPTOR.get(self.name) or _PATH.get(self.name) or _PATH.get(base, ())


_LINE = re.compile(r"^(\w+)\((.*)\)\s+= (\S+)(.*)$")
_FIRST_FD = re.compile(r"^(\d+)")
_PATH_ARGUMENT = re.compile(r'"([^"]*)"')


def again(shown: str) -> str:
    """What of a line of strace is the same in each run."""
    arguments = shown.split(") ", 1)[0].split(" = ", 1)[0]
    return re.sub(r"0x[0-9a-f]+|\d+|\{.*|\"\\?.{0,3}.*\.\.\.", "#", arguments)


def read(record: str, own: str) -> list[Call]:
    """The calls in the text `record` of strace that are to be tried.

    Args:
        record: Of the whole process, without those of its children.
        own: The directory in which the files of the pool and the journal are, and nothing else.
    """
    calls: list[Call] = []
    counts: dict[str, int] = {}
    files: dict[str, str] = {}
    tickets: set[str] = set()
    began = paused = leaving = False
    loop = ""
    for line in record.splitlines():
        match = _LINE.match(line)
        if not match:
            continue
        name, arguments, result, _ = match.groups()
        counts[name] = counts.get(name, 0) + 1
        first = match[2].split(",", 1)[0]
        quoted = _PATH_ARGUMENT.search(arguments)
        path = quoted[1] if quoted and name not in ("read", "write", "pread64", "pwrite64") else ""
        about = path or files.get(first, "")
        if path and not path.startswith("/") and first in files:
            about = f"{files[first]}/{path}"
        if name in OPENING and result.isdecimal():
            files[result] = about
        elif name == "fcntl" and "F_DUPFD" in arguments and result.isdecimal():
            files[result] = files.get(first, "")
        elif name == "epoll_create1":
            files.pop(result, None)
            loop = loop or result
        if MARK in arguments:
            paused = f"{MARK}pause" in arguments
            if f"{MARK}begin" in arguments:
                calls.clear()
                began = False
            continue
        if name == "execve" and began:
            break
        # The name of the directory itself is in the arguments of `execve` as well.
        began = began or (name != "execve" and own in about)
        if name == "openat" and TICKET.search(about) and "O_CREAT" in arguments and result.isdecimal():
            tickets.add(result)
        leaving = leaving or (name == "flock" and first in tickets and "LOCK_UN" in arguments)
        if began and not paused:
            calls.append(
                Call(
                    name=name,
                    n=counts[name],
                    text=again(line.replace(own, "")),
                    about=about.replace(own, ""),
                    foreign=bool(about) and own not in about and not about.startswith("/proc"),
                    spawns=name in SPAWNING or (name == "mmap" and "MAP_STACK" in arguments),
                    asks_loop=name in ("epoll_wait", "epoll_pwait") and first == loop,
                    leaving=leaving,
                    shown=line.replace(own, "…"),
                )
            )
        if name == "close":
            files.pop(first, None)
            tickets.discard(first)
    return calls
