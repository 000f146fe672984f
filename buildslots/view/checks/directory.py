"""The pool's directory: which one and why, what may be done in it, and what lies about in it."""

from __future__ import annotations

import os
import shlex
import stat
import time

from buildslots.disk import queue, records
from buildslots.disk.lock import is_shared, locked
from buildslots.settings import cache_dir
from buildslots.view.checks import NOTE, OK, PROBLEM, Finding, Subject, existing
from buildslots.words import NAME_SHOWN, PATH_SHOWN, short_path, shown

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

ROOMS = ("queue", "holders", "bells")
SETTLED_S = 10.0
"""What is younger may belong to a build that comes or goes at this moment."""
NAMED = 5
"""So many files are named, the rest is counted."""
UNFINISHED_S = 0.1
"""How long a file that somebody makes may take to get its mode."""


def place(subject: Subject) -> list[Finding]:
    """Which directory, why that one, and whether builds can work in it."""
    path = subject.settings.dir
    why = reason(subject)
    details: dict[str, object] = {"path": path, "why": why, "exists": os.path.lexists(path)}
    there = existing(path)
    problems = []
    relative = subject.environ.get("BUILD_SLOTS_DIR", "")
    if why == "BUILD_SLOTS_DIR" and not os.path.isabs(relative):
        problems.append(
            f"BUILD_SLOTS_DIR is the relative path {shown(repr(relative), PATH_SHOWN)}, another pool in "
            "every working directory: make it absolute"
        )
    if not os.path.isdir(there):
        problems.append(
            f"{short_path(there)} is no directory, so builds run without slots: move it away, "
            "or set BUILD_SLOTS_DIR to another place"
        )
    else:
        if there == path:
            details |= _owner_and_mode(path)
        problems += _not_for_us(path, there)
    if problems:
        return [Finding("directory", PROBLEM, problem, details) for problem in problems]
    state = ""
    if there != path:
        state = ", which the first build will make"
    elif is_shared(path):
        state = f", which the group {details['group']} shares"
    return [Finding("directory", OK, f"the pool is in {short_path(path)}{state} (from {why})", details)]


def reason(subject: Subject) -> str:
    """What made the pool be where it is: an option, a variable, or the system."""
    if subject.dir_option is not None:
        return "--dir"
    if subject.environ.get("BUILD_SLOTS_DIR"):
        return "BUILD_SLOTS_DIR"
    return deciding_variable(subject.environ) or (
        "the user database" if hasattr(os, "getuid") else "the user's cache directory"
    )


def deciding_variable(environ: Mapping[str, str]) -> str | None:
    """The variable that the cache directory follows from: the one whose change would move it."""
    path = cache_dir(environ)
    for name in ("XDG_CACHE_HOME", "HOME"):
        value = environ.get(name, "")
        # Longer at its end: what was absolute stays so, and what was ignored for being relative, too.
        if value and cache_dir({**environ, name: value.rstrip("/") + "/x"}) != path:
            return name
    return None


def _owner_and_mode(path: str) -> dict[str, object]:
    if not hasattr(os, "getuid"):
        return {}  # Windows has neither
    file = os.stat(path)
    return {
        "owner": _user(file.st_uid),
        "group": _group(file.st_gid),
        "mode": f"{stat.S_IMODE(file.st_mode):04o}",
        "shared": is_shared(path),
    }


def _not_for_us(path: str, there: str) -> Iterator[str]:
    """Why builds cannot use the directory `path`, of which `there` exists, or should not."""
    usable = os.access(there, os.R_OK | os.W_OK | os.X_OK)
    file = os.stat(there)
    ours = not hasattr(os, "getuid") or file.st_uid == os.geteuid()
    shown, owner, group = short_path(there), _user(file.st_uid), _group(file.st_gid)
    if not usable:
        remedy = "change its owner, mode or mount, or set BUILD_SLOTS_DIR to another place"
        if there == path and is_shared(path):
            remedy = (
                f"only the group {group} may: `usermod -aG {group} {_user(os.geteuid())}`, and log in again"
            )
        elif there == path and not ours:
            remedy = (
                f"it belongs to {owner} alone: `chgrp` it to a group that has both of you and `chmod 2770` "
                "it, or set BUILD_SLOTS_DIR to another place"
            )
        yield f"{shown} cannot be written by you, so builds run without slots: {remedy}"
    if there != path or not hasattr(os, "getuid"):
        return
    mode, above = file.st_mode, os.path.dirname(os.path.realpath(path))
    if os.stat(above).st_mode & (stat.S_IWOTH | stat.S_ISVTX) == stat.S_IWOTH:
        yield (
            f"every user of this machine can put another directory in the place of {shown}: "
            f"`chmod o-w {shlex.quote(above)}`"
        )
    if mode & stat.S_IWOTH and mode & stat.S_ISVTX:
        yield (
            f"every user of this machine can put files into {shown} and hold its slots, but none can use or "
            "remove those of another, and builds run without slots: set BUILD_SLOTS_DIR to a directory of "
            "your own, or of a group (`chmod 2770`)"
        )
    elif mode & stat.S_IWOTH:
        yield (
            f"every user of this machine can remove the files in {shown}, and the bound with "
            "them: `chmod 700` it, or `chmod 2770` it to share it with a group"
        )
    elif mode & stat.S_IWGRP:
        yield from _not_for_the_group(path, file)
    elif usable and not ours:
        yield (
            f"{shown} belongs to {owner}, who cannot use what you make in it: set BUILD_SLOTS_DIR to another "
            f"place, or `chgrp` it to a group that has both of you and `chmod 2770` it"
        )


def _not_for_the_group(path: str, file: os.stat_result) -> Iterator[str]:
    """Why those of its group cannot share the directory `path`, though they can write it."""
    shown, group = short_path(path), _group(file.st_gid)
    # A group by its user's name is that user's own (usergroups in pam_umask(8)): nobody else is in it.
    if not file.st_mode & stat.S_ISGID and group != _user(file.st_uid):
        yield (
            f"the group {group} can remove the files in {shown}, but not use them, because each has its "
            "maker's own group and mode: `chmod g+s` shares the pool with the group, `chmod g-w` does not"
        )
    if file.st_mode & stat.S_ISVTX:
        # fs.protected_regular does no harm here: see `disk.lock.open_file`.
        yield (
            f"{shown} is sticky, so that nobody can replace the mutex of another user who is stopped, and "
            "builds run without slots then: `chmod -t` it"
        )


def files(subject: Subject) -> list[Finding]:
    """Files of other users in the pool, and what is no file where one should be."""
    path = subject.settings.dir
    if not os.path.isdir(path):
        return [Finding("files", OK, "no pool yet, so no files in it")]
    closed = _closed(path)
    odd, barred, others = _unusual(path)
    barred = [name for name in barred if name not in closed]
    found = []
    if odd:
        text = f"{_names(odd)} should be {'directories' if set(odd) <= set(ROOMS) else 'files'}: remove them"
        found.append(Finding("files", PROBLEM, f"builds cannot use the pool: {text}", {"files": odd}))
    if barred:
        text = (
            f"you cannot read and write {_names(barred)}, so builds run without slots: change owner or mode"
        )
        found.append(Finding("files", PROBLEM, text, {"files": barred}))
    if closed:
        group, where = _group(os.stat(path).st_gid), shlex.quote(path)
        rooms = " ".join(shlex.quote(os.path.join(path, room)) for room in ROOMS)
        repair = f"chgrp -R {group} {where} && chmod -R g+rwX {where} && chmod g+s,-t {rooms}"
        text = (
            f"not everybody in the group {group} can use {_names(closed)}, so builds run without slots: "
            f"as root, `{repair}`"
        )
        found.append(Finding("files", PROBLEM, text, {"files": closed}))
    if others:
        text = f"other users own {_names(others)}, which you can use too"
        found.append(Finding("files", NOTE, text, {"files": others}))
    who = "you and its group" if is_shared(path) else "you"
    return found or [Finding("files", OK, f"{who} can read and write all files of the pool")]


def _unusual(path: str) -> tuple[list[str], list[str], list[str]]:
    """What in the pool `path` is of the wrong kind, what we cannot use, what is others' and no group's."""
    odd, barred, others = [], [], []
    shared = is_shared(path)
    for name, entry in _entries(path):
        is_room = name in ROOMS
        if is_room != entry.is_dir(follow_symlinks=False) or entry.is_symlink():
            odd.append(name)
        elif not os.access(entry.path, _needed(name)):
            if os.path.lexists(entry.path):  # and not just a build that ended
                barred.append(name)
        elif (
            not shared and hasattr(os, "getuid") and entry.stat(follow_symlinks=False).st_uid != os.geteuid()
        ):
            others.append(name)
    return odd, barred, others


def _needed(name: str) -> int:
    """What one must be allowed to do with `name` in a pool to build: the bits of one rwx."""
    if name in ROOMS:
        return os.R_OK | os.W_OK | os.X_OK
    return os.R_OK | os.W_OK if os.sep in name else os.R_OK  # slots and the mutex are only locked


def _closed(path: str) -> list[str]:
    """What in the pool `path`, if a group shares it, is not the whole group's; also not a moment later."""
    if not is_shared(path):
        return []
    closed = _not_the_groups(path)
    if closed:
        time.sleep(UNFINISHED_S)
        closed &= _not_the_groups(path)
    return sorted(closed)


def _not_the_groups(path: str) -> set[str]:
    group = os.stat(path).st_gid
    return {name for name, entry in _entries(path) if not _is_groups(name, entry, group)}


def _is_groups(name: str, entry: os.DirEntry[str], group: int) -> bool:
    """Whether all in `group` can use `entry`, and in a room make and remove files that they all can use."""
    file = entry.stat(follow_symlinks=False)
    bits = _needed(name) << 3
    usable = file.st_mode & bits == bits and (name not in ROOMS or file.st_mode & 0o3000 == 0o2000)
    return usable and file.st_gid == group


def _entries(path: str) -> Iterator[tuple[str, os.DirEntry[str]]]:
    """What the protocol knows in the pool `path`, by its name below that; gone ones are passed over."""
    for room in ("", *ROOMS):
        try:
            with os.scandir(os.path.join(path, room)) as entries:
                for entry in entries:
                    if room or entry.name in ROOMS or entry.name == "mutex" or entry.name.startswith("slot-"):
                        try:
                            entry.stat(follow_symlinks=False)
                        except FileNotFoundError:
                            continue
                        yield os.path.join(room, entry.name), entry
        except OSError:
            pass  # missing, or what is found above it


def leftovers(subject: Subject) -> list[Finding]:
    """What killed processes left behind; the next build removes it, and looking must not."""
    path, status = subject.settings.dir, subject.status
    if status is None:
        return [Finding("leftovers", OK, "no pool yet, so nothing left in it")]
    held = {holder.slot for holder in status.holders}
    tickets = [
        name
        for name in queue.waiting(path)
        if _settled(f"{path}/queue/{name}") and not locked(f"{path}/queue/{name}")
    ]
    bells = [name for name in _listed(f"{path}/bells") if _ownerless(path, name)]
    kept = [name for name in _listed(f"{path}/holders") if _outlived(path, name, held)]
    counts = {"tickets": len(tickets), "bells": len(bells), "records": len(kept)}
    if not any(counts.values()):
        return [Finding("leftovers", OK, "nothing is left of dead processes", dict(counts))]
    words = ", ".join(
        f"{count} {kind if count > 1 else kind[:-1]}" for kind, count in counts.items() if count
    )
    text = f"killed processes left {words}: harmless, and the next build that comes across them removes them"
    return [Finding("leftovers", NOTE, text, dict(counts))]


def _ownerless(path: str, name: str) -> bool:
    """Whether the bell `name` is a ticket's that is no more."""
    bell = f"{path}/bells/{name}"
    if name.startswith("slot-") or os.path.lexists(f"{path}/queue/{name}"):
        return False
    return _settled(bell)


def _outlived(path: str, name: str, held: set[int]) -> bool:
    """Whether the file `name` has the record of a holder whose slot nobody holds."""
    digits = name.removeprefix("slot-")
    if not digits.isdecimal() or int(digits) in held:
        return False
    record = records.read(f"{path}/holders/{name}")
    return record is not None and (records.age_s(record) or 0.0) > SETTLED_S


def _settled(path: str) -> bool:
    try:
        return time.time() - os.lstat(path).st_mtime > SETTLED_S
    except OSError:
        return False  # gone


def _listed(path: str) -> list[str]:
    try:
        return sorted(os.listdir(path))
    except OSError:
        return []


def _names(names: list[str]) -> str:
    first = ", ".join(shown(name, NAME_SHOWN) for name in sorted(names)[:NAMED])
    return first if len(names) <= NAMED else f"{first} and {len(names) - NAMED} more"


def _group(gid: int) -> str:
    try:
        import grp  # noqa: PLC0415 - not on Windows

        return grp.getgrgid(gid).gr_name
    except (ImportError, KeyError):
        return str(gid)


def _user(uid: int) -> str:
    try:
        import pwd  # noqa: PLC0415 - not on Windows

        return pwd.getpwuid(uid).pw_name
    except (ImportError, KeyError):
        return str(uid)
