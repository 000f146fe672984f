"""Changing the rules of a pool: one after the other, whole or not at all. `disk.rules` reads them."""

from __future__ import annotations

import errno
import os
import time
from stat import S_ISREG

from buildslots.disk import bells, line
from buildslots.disk.lock import Mutex, write_to_lock
from buildslots.disk.rules import (
    KEPT_S,
    MOST_BYTES,
    MOST_CHANGES,
    MOST_PAUSES,
    MOST_REASON,
    NAME,
    Change,
    Rules,
    read,
)
from buildslots.files import PLAIN, Room, cannot_be, close, give_mode, is_shared, put_aside
from buildslots.words import shown, whoami

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

LOCK = "rules.lock"
LOCK_S, LOCK_AGAIN_S = 5.0, 1.0
"""How long whoever sets rules waits for somebody else who does; and how long for a new lock in the place of
that one, whose owner counts as stopped by then."""
TRIES = 10
"""How often one begins anew because somebody has made another lock meanwhile, or put something in the way."""


def change(directory: str, alter: Callable[[Rules, float], str]) -> Rules:
    """Change the rules of the pool in `directory`, and tell all who wait there.

    Two who do so at one time lose nothing: one comes after the other.

    Args:
        directory: Of the pool, which exists.
        alter: Alters the rules that there are, at the Unix time that it gets: what was set, in words.

    Raises:
        OSError: They cannot be written, or somebody has kept the lock for LOCK_S.
    """
    for left in reversed(range(TRIES)):
        mutex = Mutex(f"{directory}/{LOCK}")
        try:
            _get(mutex, directory)
            rules = _changed(directory, alter)
            if _write(directory, rules.text().encode(), mutex) or not left:
                break
        except OSError as error:
            if not left or not (write_to_lock(error) or _make_way(directory)):
                raise
        finally:
            mutex.release()
    tell(directory)
    return rules


def _get(mutex: Mutex, directory: str) -> None:
    """Raises TimeoutError: somebody keeps it, whatever file has its name."""
    tries = mutex.tries(LOCK_S, LOCK_AGAIN_S)
    try:
        while True:
            time.sleep(next(tries))
    except StopIteration as end:
        if not end.value:
            raise TimeoutError(
                errno.ETIMEDOUT, "somebody else keeps it locked", f"{directory}/{LOCK}"
            ) from None
    finally:
        tries.close()


def _make_way(directory: str) -> bool:
    """Put aside what is in the place of one of our files and can be none: whether anything was."""
    wrong = [path for name in (NAME, LOCK) if cannot_be(path := f"{directory}/{name}", S_ISREG, os.R_OK)]
    for path in wrong:
        put_aside(path)
    return bool(wrong)


def _changed(directory: str, alter: Callable[[Rules, float], str]) -> Rules:
    """The rules that there are, altered."""
    rules = read(directory) or Rules()
    if rules.problem is not None:
        rules = Rules()  # what counts as absent is replaced
    now = int(time.time() * 1000) / 1000  # as in the file
    rules.pauses = [pause for pause in rules.pauses if now - pause.until < KEPT_S]
    what = alter(rules, now)
    rules.pauses = rules.pauses[-MOST_PAUSES:]
    rules.changes = [*rules.changes, Change(now, whoami(), shown(what, MOST_REASON))][-MOST_CHANGES:]
    while len(rules.text().encode()) > MOST_BYTES and rules.changes:
        rules.changes.pop(0)
    return rules


def _write(directory: str, text: bytes, mutex: Mutex) -> bool:
    """Put a new file in the place of the rules, whole or not at all, unless the mutex is not ours any more.

    Whether that was done. Raises OSError.
    """
    with Room(f"{directory}/{NAME}") as (name, room):
        new = f".{NAME}-{os.urandom(8).hex()}"
        path = new if room is not None else f"{directory}/{new}"
        fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | PLAIN, 0o600, dir_fd=room)
        try:
            try:
                give_mode(fd, 0o660 if is_shared(directory if room is None else room) else 0o600)
                if os.write(fd, text) < len(text):
                    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), path)
                os.fsync(fd)
            finally:
                close(fd)
            is_ours = mutex.is_ours()  # we may have been stopped for so long that others lost patience
            if is_ours:
                os.replace(path, name, src_dir_fd=room, dst_dir_fd=room)
            else:
                os.unlink(path, dir_fd=room)
        except BaseException:
            os.unlink(path, dir_fd=room)
            raise
    return is_ours


def tell(directory: str) -> None:
    """Have all who wait in the pool look: knock at each ticket. Raises nothing."""
    try:
        for name in line.waiting(directory):
            bells.knock(f"{directory}/bells/{name}")
    except OSError:
        pass  # they notice it at their next look
