"""What proves that a process belongs to the build that a record names, for `release`.

A user who can write a pool can forge a record with any pid in it, and can pass a locked descriptor to a
process of ours (SCM_RIGHTS in unix(7)). So neither the record nor the lock proves whose build a process is.
Other users cannot forge the environment that a process of ours was started with. Each build, and everything
that it has started, has the mark of its slot in there: `N:NONCE`.
"""

from __future__ import annotations

import os
from stat import S_ISREG, S_ISVTX, S_IWGRP, S_IWOTH

import psutil

from buildslots.disk import records
from buildslots.files import PLAIN
from buildslots.slot import HELD

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable

MOST_ABOVE = 100
"""At most so many ancestors of a process are looked at."""


def is_private(directory: str) -> bool:
    """Whether only we and root can write the pool `directory`, or put another directory into its place."""
    if not hasattr(os, "geteuid"):
        return True  # Windows: a user's cache directory is its own
    path = os.path.realpath(directory)
    try:
        if not all(_is_ours_alone(os.stat(place)) for place in (path, f"{path}/holders")):
            return False
        while (above := os.path.dirname(path)) != path:
            path, found = above, os.stat(above)
            # In a sticky directory nobody can rename what belongs to another user: inode(7).
            if not _is_ours_alone(found) and not (found.st_mode & S_ISVTX and found.st_uid in _trusted()):
                return False
    except OSError:
        return False
    return True


def marks(directory: str, slots: Iterable[int]) -> frozenset[str]:
    """The marks of the builds that last had those slots of the pool `directory`, ended or not.

    The slots of one build share a nonce, and its mark names only one of them. In a private pool the nonce is
    proof enough, so a mark may name any slot. Where others can write the pool, they could copy the nonce of a
    running build into the record of another slot, so there the mark must name the slot in question.
    """
    found = set()
    nonces = {slot: _last_nonce(f"{directory}/holders/slot-{slot}") for slot in slots}
    for slot, nonce in nonces.items():
        if nonce is not None:
            found.add(f"{slot}:{nonce}")
    if is_private(directory):
        found |= {f":{nonce}" for nonce in nonces.values() if nonce is not None}
    return frozenset(found)


def belongs(process: psutil.Process, wanted: frozenset[str]) -> bool:
    """Whether `process`, or a process of ours above it, was started with one of the marks `wanted`."""
    if not wanted:
        return False
    try:
        for _ in range(MOST_ABOVE):
            if not is_ours(process):
                return False  # other users choose the environment of their processes
            held = process.environ().get(HELD, "").split(",")
            if any(mark in wanted or mark[mark.find(":") :] in wanted for mark in held if ":" in mark):
                return process.is_running()
            above = process.parent()
            if above is None:
                return False
            process = above
    except psutil.Error:
        pass  # gone, or hidden from us
    return False


def is_ours(process: psutil.Process) -> bool:
    """Whether `process` runs as our user. Raises `psutil.Error`."""
    if hasattr(os, "getuid"):
        return bool(process.uids().real == os.getuid())
    return bool(process.username() == psutil.Process().username())


def _trusted() -> set[int]:
    return {0, os.geteuid()}


def _is_ours_alone(found: os.stat_result) -> bool:
    """Whether only we and root can write a directory."""
    if found.st_uid not in _trusted() or found.st_mode & S_IWOTH:
        return False
    return not found.st_mode & S_IWGRP or _is_own_group(found.st_gid, found.st_uid)


def _is_own_group(gid: int, uid: int) -> bool:
    """Whether a group is a user's own: it has that name and no other member (usergroups in pam_umask(8))."""
    import grp  # noqa: PLC0415 - not on Windows
    import pwd  # noqa: PLC0415

    try:
        group, user = grp.getgrgid(gid), pwd.getpwuid(uid).pw_name
    except KeyError:
        return False
    return group.gr_name == user and set(group.gr_mem) <= {user}


def _last_nonce(path: str) -> str | None:
    try:
        fd = os.open(path, os.O_RDONLY | PLAIN)
        try:
            return records.last_nonce(os.read(fd, records.ENDED_AT)) if _is_regular(fd) else None
        finally:
            os.close(fd)
    except OSError:
        return None


def _is_regular(fd: int) -> bool:
    return S_ISREG(os.fstat(fd).st_mode)
