"""The system calls, and what may go wrong with each."""

from __future__ import annotations

from dataclasses import dataclass

OPENING = ("open", "openat", "openat2", "creat")
SPAWNING = ("clone", "clone3", "vfork", "fork")
STAT = ("stat", "lstat", "newfstatat", "statx", "access", "faccessat", "faccessat2", "readlink", "readlinkat")
OWN_SIGNALS = ("SIGTERM", "SIGINT", "SIGKILL", "SIGSTOP", "DELAY")
"""What comes between: signals, of which SIGCONT follows a stop, and a call that takes long to return."""

_DESCRIPTOR = {
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
#   stack of a child is one of ours: `Call.spawns`.)
# - rt_sigprocmask, rt_sigaction, rt_sigpending, getpid, gettid, getuid, uname, sysinfo, sched_getaffinity:
#   they cannot fail with valid arguments.
# - kill of oneself, exit_group: likewise.
# - futex: only threads that are not the process under test's use it.


@dataclass(frozen=True)
class Call:
    """One system call of the process under test.

    Attributes:
        name: Of the call.
        n: Which of its kind since the start of the process, from 1; strace's `when`.
        text: What it is known by in another run: see `record.again`.
        about: The file that it is about, without what differs from run to run, or "".
        foreign: Whether it is about none of the pool's or the journal's files: a module that is loaded, say.
        spawns: Whether it is one of those that start the command.
        asks_loop: Whether it is the event loop's own sleep.
        leaving: Whether it unlocks the ticket, or comes after that.
        after: Whether the block of a Python program is over.
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
    after: bool
    shown: str

    def errors(self) -> tuple[str, ...]:
        """The errors that this call may plausibly meet."""
        if self.spawns:
            return ("EAGAIN", "ENOMEM")
        if self.foreign:
            # A module that cannot be read is missed in the same way whatever the reason.
            return ("EMFILE",) if self.name in OPENING else ("EIO",) if self.name in ("read", *STAT) else ()
        if self.asks_loop:
            return ()  # asyncio passes it on to whoever runs the loop: no task can do anything about it
        if self.name in OPENING:
            return self._of_opening()
        return self._of_descriptor() or self._of_path()

    def _of_opening(self) -> tuple[str, ...]:
        makes = ("ENOSPC",) if "O_CREAT" in self.shown else ()
        writes = ("EROFS",) if "O_RDONLY" not in self.shown else ()
        return ("EACCES", "EMFILE", "ENFILE", "EIO", "ENOENT", "EINTR", *makes, *writes)

    def _of_descriptor(self) -> tuple[str, ...]:
        if self.name == "close":  # nobody tells the last two apart: by turns
            return ("EIO", "EINTR", ("EDQUOT", "ENOSPC")[self.n % 2])
        if self.name == "flock":
            return ("ENOLCK", "EIO", "EINTR") + (() if "LOCK_UN" in self.shown else ("EAGAIN",))
        if self.name == "fcntl":
            return ("EMFILE", "EINVAL") if "F_DUPFD" in self.shown else ("EIO",)
        return _DESCRIPTOR.get(self.name, ())

    def _of_path(self) -> tuple[str, ...]:
        if self.name in STAT:
            return ("EIO",) if ', "", ' in self.shown else ("EIO", "EACCES", "ENOENT")
        base = self.name.removesuffix("at2").removesuffix("at")
        return _PATH.get(self.name) or _PATH.get(base, ())
