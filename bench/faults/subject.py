"""The Python program under test: `python subject.py FUNCTION`.

Writes what became of it as JSON into the file $FAULTS_RESULT, and a line into $FAULTS_LOG for each run of its
block. It leaves marks in strace's record: what comes before the last `begin` is the interpreter's own, and
what comes between `pause` and `resume` is the test's.
"""

from __future__ import annotations

import contextlib
import fcntl
import gc
import json
import os
import select  # noqa: F401 - what a wait needs is loaded beforehand, as it is in a program that is not new
import sys
import warnings

from buildslots import Slot, SlotPool, build_slot

MARK = "faults-mark-"
TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any, TypeVar

    T = TypeVar("T")


class MineError(Exception):
    """What a block raises."""


def mark(what: str) -> None:
    """Leave a mark in strace's record."""
    os.access(MARK + what, os.F_OK)


def is_locked(name: str) -> bool:
    """Whether somebody has the lock of the file `name` of the pool, this process included."""
    try:
        fd = again(os.open, os.path.join(os.environ["BUILD_SLOTS_DIR"], name), os.O_RDONLY)
    except FileNotFoundError:
        return False
    try:
        fcntl.flock(fd, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    finally:
        with contextlib.suppress(OSError):
            os.close(fd)
    return False


def again(call: Callable[..., T], *args: Any) -> T:
    """What `call` gives. One call fails on purpose, and it may be this one: then it is made once more."""
    try:
        return call(*args)
    except OSError:
        return call(*args)


def own_locks() -> list[str]:
    """The files of which this process has the lock, by proc_pid_fdinfo(5)."""
    found = []
    for fd in again(os.listdir, "/proc/self/fdinfo"):
        try:
            with open(f"/proc/self/fdinfo/{fd}", encoding="ascii") as about:
                if " FLOCK " in about.read():
                    found.append(os.path.basename(os.readlink(f"/proc/self/fd/{fd}")))
        except OSError:
            pass  # the one with which the directory was listed, or a fault that came late
    return found


def block(slot: Slot) -> str:
    """What runs under the slot: says so, and whether it is held."""
    mark("pause")
    state = "" if slot.number is None else " held" if again(is_locked, f"slot-{slot.number}") else " free"
    log = again(os.open, os.environ["FAULTS_LOG"], os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
    again(os.write, log, f"began {'none' if slot.number is None else slot.number}{state}\n".encode())
    with contextlib.suppress(OSError):
        os.close(log)
    mark("resume")
    return "done"


def acquire() -> str:
    slot = SlotPool(slots=1).acquire()
    value = block(slot)
    slot.release()
    return value


def weight() -> str:
    slot = SlotPool(slots=2).acquire(weight=2)
    value = block(slot)
    slot.release()
    return value


def with_block() -> str:
    with build_slot(slots=1) as slot:
        return block(slot)


def raises() -> str:
    with build_slot(slots=1) as slot:
        block(slot)
        raise MineError


def within() -> str:
    with build_slot(slots=1) as slot:
        block(slot)
        with build_slot(slots=1) as inner:
            return block(inner)


def try_acquire() -> str:
    slot = SlotPool(slots=1).try_acquire()
    if slot is None:
        return "none to be had"
    value = block(slot)
    slot.release()
    return value


def forgotten() -> str:
    return block(SlotPool(slots=1).acquire())


def overflow() -> str:
    slot = SlotPool(slots=1).acquire(timeout=0.2)
    value = block(slot)
    slot.release()
    return value


def fails() -> str:
    slot = SlotPool(slots=1).acquire(timeout=0.2, on_timeout="fail")
    value = block(slot)
    slot.release()
    return value


def acquire_async() -> str:
    import asyncio  # noqa: PLC0415 - half of the time that the others take

    async def main() -> str:
        slot = await SlotPool(slots=1).acquire_async()
        value = block(slot)
        slot.release()
        mark("pause")  # what the loop does at its end is its own
        return value

    mark("begin")
    return asyncio.run(main())


FUNCTIONS: dict[str, Callable[[], str]] = {
    function.__name__: function
    for function in (
        acquire,
        weight,
        with_block,
        raises,
        within,
        try_acquire,
        forgotten,
        overflow,
        fails,
        acquire_async,
    )
}


def main() -> None:
    """Run one of them."""
    said: list[str] = []
    warnings.simplefilter("always")
    # A Ctrl-C may come between the opening of a directory and the `with` that closes it.
    warnings.filterwarnings("ignore", "unclosed scandir iterator", ResourceWarning)
    warnings.showwarning = lambda message, category, *_: said.append(f"{category.__name__}: {message}")
    function = FUNCTIONS[sys.argv[1]]
    value, raised = None, None
    gc.disable()  # so that nothing is collected here in one run and there in another
    try:
        mark("begin")
        value = function()
    except BaseException as error:  # noqa: BLE001 - what it is is the question
        raised = type(error).__name__
    gc.collect()
    mark("pause")
    result = {"value": value, "raised": raised, "warnings": said, "locked": own_locks()}
    with open(os.environ["FAULTS_RESULT"], "w", encoding="utf-8") as file:
        json.dump(result, file)


if __name__ == "__main__":
    main()
