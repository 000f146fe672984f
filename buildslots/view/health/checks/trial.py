"""Locks and FIFOs tried for real: another process has one of each, and both must tell when it is killed.

They are tried in a scratch directory on the file system of the pool. It is removed whatever happens: by the
other process if this one is killed. `view.health.scratch` says why both use it by descriptor only.
"""

from __future__ import annotations

import os
import subprocess
import sys
import threading
import time

from buildslots.disk import bells
from buildslots.disk.lock import is_locked, try_lock, unlock
from buildslots.files import check_root
from buildslots.view.health.checks import NOTE, OK, PROBLEM, Finding, Subject, existing
from buildslots.view.health.scratch import BELL, LOCK, Scratch, SwappedError
from buildslots.words import prose, prose_path

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator

PATIENCE_S = 30.0
"""How long the other process may take. It is long, because people run doctor when a machine is busy. It has
an end, because a lock can wait for a dead file server for ever."""
RELEASE_S = 2.0
"""How long a lock may outlast its owner: Windows does not promise to free it at once."""
ROUNDS = 100
OWNER = "import sys; from buildslots.view.health.owner import own; own(*sys.argv[1:])"


def trial(subject: Subject) -> list[Finding]:
    """Whether locks exclude and are freed by kill -9, and whether bells ring then."""
    where = existing(subject.settings.dir)
    where = where if os.path.isdir(where) else os.path.dirname(where)
    try:
        check_root(subject.settings.dir)
    except PermissionError as error:
        text = f"{error.strerror}: root's builds run without slots; nothing was tried"
        return [Finding("locks", PROBLEM, text)]
    try:
        scratch = Scratch.make(where)
    except SwappedError as error:
        text = (
            f"somebody puts other things into the place of what you make in {prose_path(where)}, "
            f"so nothing was tried: {error.filename}: {error.strerror}"
        )
        return [Finding("locks", PROBLEM, text)]
    except OSError as error:
        text = f"nothing can be created in {prose_path(where)}, so builds run without slots: {error.strerror}"
        return [Finding("locks", PROBLEM, text)]
    try:
        found = list(_tried(scratch))
    except OSError as error:
        text = f"locks do not work in {prose_path(where)}, so builds run without slots: {error.strerror}"
        found = [Finding("locks", PROBLEM, text)]
    finally:
        is_gone = scratch.remove()
        scratch.close()
    if not is_gone:
        text = (
            f"somebody has moved the directory {os.path.basename(scratch.name)} that you made in "
            f"{prose_path(where)}, or put files into it: it was left as it is"
        )
        found.append(Finding("locks", PROBLEM, text))
    return found


def _tried(scratch: Scratch) -> Iterator[Finding]:
    # -P: modules that happen to be in the working directory must not be imported.
    command = [sys.executable, "-P", "-c", OWNER, scratch.name, *map(str, scratch.fds)]
    pipe = subprocess.PIPE
    with subprocess.Popen(  # noqa: S603
        command, stdin=pipe, stdout=pipe, stderr=pipe, text=True, pass_fds=scratch.fds
    ) as owner:
        watchdog = threading.Timer(PATIENCE_S, owner.kill)
        watchdog.start()
        try:
            said = owner.stdout.readline().strip() if owner.stdout else ""
            if said not in {"True True", "True False"}:
                yield Finding("locks", PROBLEM, _failed(owner, said))
                return
            yield from _seen(scratch, owner, hung=said == "True True")
        finally:
            watchdog.cancel()
            owner.kill()


def _seen(scratch: Scratch, owner: subprocess.Popen[str], *, hung: bool) -> Iterator[Finding]:
    """What is seen of the lock and the bell of `owner` while it lives and after it was killed."""
    lock = scratch.open(LOCK, os.O_RDWR)
    bell = None
    try:
        # Both ways to ask: `status` only looks, a build tries to take the lock.
        seen = is_locked(lock) and not try_lock(lock)
        bell = _listen(scratch)
        owner.kill()
        owner.wait()
        yield _locks(lock, seen=seen)
        yield _fifos(bell, hung=hung)
    finally:
        os.close(lock)
        if bell is not None:
            os.close(bell)


def _listen(scratch: Scratch) -> int | None:
    """Open the bell for poll(2), as a waiter does: its descriptor, or None if nobody keeps it open."""
    try:
        fd = scratch.open(BELL, os.O_RDONLY)
    except OSError:
        return None
    try:
        os.read(fd, 1)
    except BlockingIOError:
        return fd
    except OSError:
        pass
    os.close(fd)
    return None


def _failed(owner: subprocess.Popen[str], said: str) -> str:
    """What to say of a process that could not take lock and bell."""
    owner.kill()
    complaint = owner.stderr.read().strip() if owner.stderr else ""
    why = said or complaint.rpartition("\n")[2] or f"no lock within {PATIENCE_S:.0f} s"
    return f"another process could not lock a file or make a FIFO there: {prose(why)}"


def _locks(fd: int, *, seen: bool) -> Finding:
    if not seen:
        text = (
            "a lock that one process has does not exclude another, so nothing is bounded: "
            "set BUILD_SLOTS_DIR to another file system"
        )
        return Finding("locks", PROBLEM, text)
    deadline = time.monotonic() + RELEASE_S
    while not try_lock(fd):
        if time.monotonic() > deadline:
            text = (
                "a lock outlives the process that had it, so a crash keeps a slot: "
                "set BUILD_SLOTS_DIR to another file system"
            )
            return Finding("locks", PROBLEM, text)
        time.sleep(0.01)
    unlock(fd)
    began = time.perf_counter()
    for _ in range(ROUNDS):
        try_lock(fd)
        unlock(fd)
    each_s = (time.perf_counter() - began) / ROUNDS
    text = f"locks exclude, and are freed by kill -9; one takes {each_s * 1e6:.0f} µs"
    return Finding("locks", OK, text, {"lock_s": round(each_s, 9)})


def _fifos(bell: int | None, *, hung: bool) -> Finding:
    if not hung:
        text = "there are no FIFOs here, so who is next in line looks every 50 ms instead of sleeping"
        return Finding("fifos", NOTE, text)
    if bell is not None:
        listener = bells.poll()
        listener.register(bell, bells.POLLIN)
        if listener.poll(RELEASE_S * 1000):
            return Finding("fifos", OK, "FIFOs tell at once when their owner is gone")
    text = (
        "a FIFO does not tell when its owner is gone, so builds wait longer than they need: "
        "set BUILD_SLOTS_DIR to another file system"
    )
    return Finding("fifos", PROBLEM, text)
