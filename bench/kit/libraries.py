"""The peers that Python code calls: how each takes one of K slots, blocking until it has it.

Also a command: `python libraries.py PEER SLOTS DIRECTORY COMMAND...` runs COMMAND in a slot, as the users of
such a library wrap their builds; for that, each imports only what it needs itself.
"""

from __future__ import annotations

import contextlib
import functools
import os
import subprocess
import sys
import time

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import TypeAlias

    Release: TypeAlias = Callable[[], object]
    Acquire: TypeAlias = Callable[[], Release]
    """Blocks until it has a slot; what it returns gives that back."""

SWEEP_S = 0.150
FILELOCK_POLL_S = 0.050  # poll_interval of FileLock.acquire
FOR_EVER_S = 1e6
SETTLED_S = 1.2
"""How old a pool is before it is measured, as a user's is: what is younger than a second takes more care."""


def slot_pool(directory: str, slots: int) -> Acquire:
    """Ours, with a pool as a user has it: not just made."""
    from buildslots import SlotPool, SlotTimeoutError  # noqa: PLC0415 - see above

    # One slot file more than will be used: many that come at once may look for it.
    SlotPool(dir=directory, slots=slots + 1).acquire(weight=slots + 1).release()
    time.sleep(SETTLED_S)
    with contextlib.suppress(SlotTimeoutError):  # what the first wait of a process loads, is loaded
        held = SlotPool(dir=directory, slots=1).acquire()
        try:
            SlotPool(dir=directory, slots=1, timeout=0.01, on_timeout="fail").acquire()
        finally:
            held.release()
    pool = SlotPool(dir=directory, slots=slots, timeout=None)
    return lambda: pool.acquire().release


def portalocker(directory: str, slots: int) -> Acquire:
    """NamedBoundedSemaphore with its default poll interval (250 ms)."""
    from portalocker import NamedBoundedSemaphore  # noqa: PLC0415 - see above

    semaphore = NamedBoundedSemaphore(slots, name="bench", directory=directory, timeout=FOR_EVER_S)

    def acquire() -> Release:
        if semaphore.acquire() is None:
            raise TimeoutError("portalocker gave up")
        return semaphore.release

    return acquire


def filelock(directory: str, slots: int) -> Acquire:
    """K files, each tried without blocking, and again after filelock's default poll interval."""
    from filelock import FileLock, Timeout  # noqa: PLC0415 - see above

    @functools.cache
    def locks(_pid: int) -> list[FileLock]:
        """One set for each process: filelock refuses a lock that was inherited over a fork."""
        return [FileLock(f"{directory}/{number}.lock") for number in range(slots)]

    def acquire() -> Release:
        while True:
            for lock in locks(os.getpid()):
                try:
                    lock.acquire(blocking=False)
                except Timeout:
                    continue
                return lock.release
            time.sleep(FILELOCK_POLL_S)

    return acquire


def sweep(directory: str, slots: int) -> Acquire:
    """K flock'ed files, each tried every 150 ms: what most home-made throttles do."""
    import fcntl  # noqa: PLC0415 - see above

    def acquire() -> Release:
        while True:
            for number in range(slots):
                descriptor = os.open(f"{directory}/{number}", os.O_RDWR | os.O_CREAT, 0o600)
                try:
                    fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                except BlockingIOError:
                    os.close(descriptor)
                else:
                    return functools.partial(os.close, descriptor)
            time.sleep(SWEEP_S)

    return acquire


def flock(directory: str, slots: int) -> Acquire:
    """The kernel's own, for one slot: it blocks until it has the lock."""
    import fcntl  # noqa: PLC0415 - see above

    if slots != 1:
        raise ValueError(f"flock has one slot, not {slots}")
    path = f"{directory}/lock"

    def acquire() -> Release:
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o600)
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        return functools.partial(os.close, descriptor)

    return acquire


def semaphore(_directory: str, slots: int) -> Acquire:
    """A POSIX semaphore, inherited by forked contenders: fast, but a kill loses a slot for good."""
    from multiprocessing import get_context  # noqa: PLC0415 - see above

    semaphore = get_context("fork").Semaphore(slots)

    def acquire() -> Release:
        semaphore.acquire()
        return semaphore.release

    return acquire


LIBRARIES: dict[str, Callable[[str, int], Acquire]] = {
    "SlotPool": slot_pool,
    "portalocker": portalocker,
    "filelock": filelock,
    "sweep": sweep,
    "flock(2)": flock,
    "semaphore": semaphore,
}


def main() -> int:
    name, slots, directory, *command = sys.argv[1:]
    release = LIBRARIES[name](directory, int(slots))()
    try:
        return subprocess.call(command)
    finally:
        release()


if __name__ == "__main__":
    sys.exit(main())
