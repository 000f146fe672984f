"""Locks and FIFOs tried for real: another process takes both, is killed, and both must tell.

In a scratch directory on the file system of the pool, which goes away whatever happens: the other
process removes it should this one be killed.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import threading
import time

from buildslots.disk import bells
from buildslots.disk.lock import lock_file, locked, try_lock, unlock
from buildslots.view.checks import NOTE, OK, PROBLEM, Finding, Subject, existing
from buildslots.view.owner import BELL, LOCK
from buildslots.words import SENTENCE_SHOWN, short_path, shown

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator

PATIENCE_S = 30.0
"""How long the other process may take, on a machine that is as busy as those where people ask a doctor.
Not for ever: a dead file server can make a lock wait that long."""
RELEASE_S = 2.0
"""How long after the end of its owner a lock may last: Windows does not promise "at once"."""
ROUNDS = 100
OWNER = "import sys; from buildslots.view.owner import own; own(sys.argv[1])"


def trial(subject: Subject) -> list[Finding]:
    """Whether locks exclude and are freed by kill -9, and whether bells ring then."""
    where = existing(subject.settings.dir)
    where = where if os.path.isdir(where) else os.path.dirname(where)
    scratch = os.path.join(where, f".doctor-{os.urandom(8).hex()}")
    try:
        os.mkdir(scratch, 0o700)
    except OSError as error:
        text = f"nothing can be created in {short_path(where)}, so builds run without slots: {error.strerror}"
        return [Finding("locks", PROBLEM, text)]
    try:
        return list(_tried(scratch))
    except OSError as error:
        text = f"locks do not work in {short_path(where)}, so builds run without slots: {error.strerror}"
        return [Finding("locks", PROBLEM, text)]
    finally:
        shutil.rmtree(scratch, ignore_errors=True)


def _tried(scratch: str) -> Iterator[Finding]:
    # -P: what happens to lie in the working directory is not to be imported.
    command = [sys.executable, "-P", "-c", OWNER, scratch]
    pipe = subprocess.PIPE
    with subprocess.Popen(command, stdin=pipe, stdout=pipe, stderr=pipe, text=True) as owner:  # noqa: S603
        watchdog = threading.Timer(PATIENCE_S, owner.kill)
        watchdog.start()
        try:
            said = owner.stdout.readline().strip() if owner.stdout else ""
            if said not in {"True True", "True False"}:
                yield Finding("locks", PROBLEM, _failed(owner, said))
                return
            lock, refused = f"{scratch}/{LOCK}", None
            seen = locked(lock) and (refused := lock_file(lock)) is None
            if refused is not None:
                os.close(refused)
            bell, rung = bells.listen(f"{scratch}/{BELL}")
            try:
                owner.kill()
                owner.wait()
                yield _locks(lock, seen=seen)
                yield _fifos(bell, hung=said == "True True", rung=rung)
            finally:
                if bell is not None:
                    os.close(bell)
        finally:
            watchdog.cancel()
            owner.kill()


def _failed(owner: subprocess.Popen[str], said: str) -> str:
    """What to say of a process that could not take lock and bell."""
    owner.kill()
    complaint = owner.stderr.read().strip() if owner.stderr else ""
    why = said or complaint.rpartition("\n")[2] or f"no lock within {PATIENCE_S:.0f} s"
    return f"another process could not lock a file or make a FIFO there: {shown(why, SENTENCE_SHOWN)}"


def _locks(path: str, *, seen: bool) -> Finding:
    if not seen:
        text = (
            "a lock that one process has does not exclude another, so nothing is bounded: "
            "set BUILD_SLOTS_DIR to another file system"
        )
        return Finding("locks", PROBLEM, text)
    deadline = time.monotonic() + RELEASE_S
    while (fd := lock_file(path)) is None:
        if time.monotonic() > deadline:
            text = (
                "a lock outlives the process that had it, so a crash keeps a slot: "
                "set BUILD_SLOTS_DIR to another file system"
            )
            return Finding("locks", PROBLEM, text)
        time.sleep(0.01)
    try:
        unlock(fd)
        began = time.perf_counter()
        for _ in range(ROUNDS):
            try_lock(fd)
            unlock(fd)
        each_s = (time.perf_counter() - began) / ROUNDS
    finally:
        os.close(fd)
    text = f"locks exclude, and are freed by kill -9; one takes {each_s * 1e6:.0f} µs"
    return Finding("locks", OK, text, {"lock_s": round(each_s, 9)})


def _fifos(bell: int | None, *, hung: bool, rung: bool) -> Finding:
    if not hung:
        text = "there are no FIFOs here, so who is next in line looks every 50 ms instead of sleeping"
        return Finding("fifos", NOTE, text)
    if bell is not None and not rung:
        listener = bells.poll()
        listener.register(bell, bells.POLLIN)
        if listener.poll(RELEASE_S * 1000):
            return Finding("fifos", OK, "FIFOs tell at once when their owner is gone")
    text = (
        "a FIFO does not tell when its owner is gone, so builds wait longer than they need: "
        "set BUILD_SLOTS_DIR to another file system"
    )
    return Finding("fifos", PROBLEM, text)
