"""The command's process on Windows; the counterpart of `child`. We have not measured it.

Windows has no signals to pass on: a console's Ctrl-C reaches every process of the console.

A child cannot keep the lock of its parent, because a lock ends with the process that took it (LockFileEx). So
when slot-run is killed, a job object ends the command and all its processes. When the command ends by itself,
the job lets its other processes go, because a daemon of the build may live on.
"""

from __future__ import annotations

import errno
import os
import shutil
import subprocess
import sys
import time

TYPE_CHECKING = False
if TYPE_CHECKING:
    import signal as _signal
    from collections.abc import Sequence
    from typing import NoReturn, Protocol, Self, TypeAlias

    from buildslots.backend import Chore
    from buildslots.processes import Usage

    Spawned: TypeAlias = "tuple[subprocess.Popen[bytes], Job]"

    class Kernel32(Protocol):
        """The functions of kernel32.dll that we use; each returns 0 if it fails."""

        def CreateJobObjectW(self, attributes: None, name: None, /) -> int: ...
        def SetInformationJobObject(self, job: int, kind: int, info: object, size: int, /) -> int: ...
        def AssignProcessToJobObject(self, job: int, process: int, /) -> int: ...
        def CloseHandle(self, handle: int, /) -> int: ...
else:
    import _signal  # `signal` itself wraps the same functions in enum, at 4 ms

EXTENDED_LIMITS = 9
"""JobObjectExtendedLimitInformation, winnt.h."""
KILL_ON_JOB_CLOSE = 0x2000
"""JOB_OBJECT_LIMIT_KILL_ON_JOB_CLOSE, winnt.h."""


def defer_signals() -> None:
    """Do nothing: there are no signal masks here."""


def admit_signals() -> None:
    """Do nothing, for the same reason."""


def nap(seconds: float, signals: set[int]) -> int:
    """Sleep for `seconds`; signal handlers run meanwhile."""
    del signals
    time.sleep(seconds)
    return 0


def find(program: bytes) -> bytes:
    """The path of `program`, as cmd.exe finds it, with PATHEXT: CreateProcess finds only .exe.

    Raises FileNotFoundError if there is none and `program` names a place. A bare name is left to
    CreateProcess, which looks in more directories than PATH has.
    """
    name = os.fsdecode(program)
    found = shutil.which(name)
    if found is None and os.path.dirname(name):
        raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT))
    return os.fsencode(found or name)


def become(path: bytes, command: list[bytes]) -> NoReturn:
    """Run `command` and exit as it does: Windows cannot replace a process. Raises OSError."""
    status, _ = supervise(spawn(path, command, []), measured=False)
    os._exit(status)


def spawn(path: bytes, command: list[bytes], inherited: Sequence[int], kept: Sequence[int] = ()) -> Spawned:
    """Start `command`, whose program `find` found at `path`; `inherited` and `kept` are of no use here.

    Raises OSError when it cannot be executed.
    """
    del inherited, kept
    # Ctrl-C reaches the command as well. slot-run stays, and holds the slot until the command has ended.
    _signal.signal(_signal.SIGINT, lambda *_: None)
    process = subprocess.Popen([os.fsdecode(word) for word in (path, *command[1:])])
    job = Job(_kernel32())
    job.add(int(process._handle))  # type: ignore[attr-defined]  # noqa: SLF001 - Popen has no public one
    return process, job


def pid_of(spawned: Spawned) -> int:
    """The pid of what `spawn` has started."""
    return spawned[0].pid


def supervise(spawned: Spawned, *, measured: bool, chores: Sequence[Chore] = ()) -> tuple[int, Usage | None]:
    """Wait for the end of the command, doing the `chores`: its exit status. What it used is not asked for."""
    del measured
    process, job = spawned
    with job:
        while True:
            due_s = [seconds for chore in chores if (seconds := chore.due_s()) is not None]
            try:
                return process.wait(min(due_s, default=None)), None
            except subprocess.TimeoutExpired:
                for chore in chores:
                    chore.do()


def die_of(signum: int) -> None:
    """Do nothing: no signal ends a process here. The caller exits with 128 + `signum`."""
    del signum


class Job:
    """A job object: its processes end when this process does, unless its `with` block has ended before."""

    def __init__(self, kernel32: Kernel32) -> None:
        self._kernel32 = kernel32
        self._handle = kernel32.CreateJobObjectW(None, None)
        self._limit(KILL_ON_JOB_CLOSE)

    def add(self, process: int) -> None:
        """Put a process into the job, by its handle. Processes that it has started already are not in it."""
        if self._handle:
            self._kernel32.AssignProcessToJobObject(self._handle, process)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._limit(0)
        if self._handle:
            self._kernel32.CloseHandle(self._handle)

    def _limit(self, flags: int) -> None:
        """Set the job's limit flags. Without a job there is a protection less, which is no failure."""
        if self._handle:
            info = _limits(flags)
            self._kernel32.SetInformationJobObject(self._handle, EXTENDED_LIMITS, info, len(info))


def _limits(flags: int) -> bytes:
    """A JOBOBJECT_EXTENDED_LIMIT_INFORMATION with nothing but LimitFlags: two LARGE_INTEGERs before it."""
    pointer = 8 if sys.maxsize > 2**32 else 4
    size = 144 if pointer == 8 else 112
    return bytes(16) + flags.to_bytes(4, "little") + bytes(size - 20)


def _kernel32() -> Kernel32:
    import ctypes  # noqa: PLC0415

    library = ctypes.WinDLL("kernel32", use_last_error=True)  # type: ignore[attr-defined]
    library.CreateJobObjectW.restype = ctypes.c_void_p
    handle = ctypes.c_void_p
    library.CreateJobObjectW.argtypes = [handle, ctypes.c_wchar_p]
    library.SetInformationJobObject.argtypes = [handle, ctypes.c_int, ctypes.c_char_p, ctypes.c_uint32]
    library.AssignProcessToJobObject.argtypes = [handle, handle]
    library.CloseHandle.argtypes = [handle]
    return library  # type: ignore[no-any-return]
