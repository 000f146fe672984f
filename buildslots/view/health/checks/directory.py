"""The pool's directory: which one and why, what may be done in it, and what is in it that should not be."""

from __future__ import annotations

import os
import stat
import time
from dataclasses import dataclass, field

from buildslots.files import ROOMS, is_shared
from buildslots.settings.places import cache_dir
from buildslots.view.health.checks import (
    MOST_NAMES,
    NOTE,
    OK,
    PROBLEM,
    Finding,
    Subject,
    command,
    existing,
    listed,
    shell_line,
    to_write,
    without_writing,
)
from buildslots.words import prose, prose_path

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

NAMED = 5
"""At most so many files are named; the others are counted."""
FIRST_SLOTS = 64
"""So many slots are looked at even if the directory has more names than are listed."""
KINDS = {
    stat.S_IFREG: "a regular file",
    stat.S_IFDIR: "a directory",
    stat.S_IFLNK: "a symbolic link",
    stat.S_IFIFO: "a FIFO",
    stat.S_IFSOCK: "a socket",
    stat.S_IFCHR: "a device",
    stat.S_IFBLK: "a device",
}
UNFINISHED_S = 0.1
"""How long it may take until a new file has its mode."""


def place(subject: Subject) -> list[Finding]:
    """Which directory, why that one, and whether builds can work in it."""
    path = subject.settings.dir
    why = reason(subject)
    details: dict[str, object] = {"path": path, "why": why, "exists": os.path.lexists(path)}
    there = existing(path)
    problems = []
    if not os.path.isdir(there):
        problems.append(
            f"{prose_path(there)} is no directory, so builds run without slots: move it away, "
            "or set BUILD_SLOTS_DIR to another place"
        )
    else:
        if there == path:
            details |= _owner_and_mode(path)
        problems += _not_for_us(subject, path, there)
    if problems:
        return [Finding("directory", PROBLEM, problem, details) for problem in problems]
    state = ""
    if there != path:
        state = ", which the first build will make"
    elif is_shared(path):
        state = f", which the group {prose(str(details['group']))} shares"
    return [Finding("directory", OK, f"the pool is in {prose_path(path)}{state} (from {why})", details)]


def reason(subject: Subject) -> str:
    """What decides where the pool is: an option, a variable, or the system."""
    if subject.dir_option is not None:
        return "--dir"
    if os.path.isabs(subject.environ.get("BUILD_SLOTS_DIR", "")):  # else it is ignored
        return "BUILD_SLOTS_DIR"
    return deciding_variable(subject.environ) or (
        "the user database" if hasattr(os, "getuid") else "the user's cache directory"
    )


def deciding_variable(environ: Mapping[str, str]) -> str | None:
    """The variable that the cache directory follows from: the one whose change would move it."""
    path = cache_dir(environ)
    for name in ("XDG_CACHE_HOME", "HOME"):
        value = environ.get(name, "")
        # Longer at its end, so that an absolute path stays absolute, and a relative one is ignored as before.
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


def _not_for_us(subject: Subject, path: str, there: str) -> Iterator[str]:
    """Why builds cannot or should not use the directory `path`; `there` is what exists of it."""
    usable = os.access(there, os.R_OK | os.W_OK | os.X_OK)
    file = os.stat(there)
    ours = not hasattr(os, "getuid") or file.st_uid == os.geteuid()
    shown, owner, group = prose_path(there), prose(_user(file.st_uid)), prose(_group(file.st_gid))
    if not usable:
        remedy = "change its owner, mode or mount, or set BUILD_SLOTS_DIR to another place"
        remedy = to_write(subject, remedy)
        if there == path and is_shared(path):
            join = command("usermod", "-aG", _group(file.st_gid), _user(os.geteuid())) or "become a member"
            remedy = f"only the group {group} may: {join}, and log in again"
        elif there == path and not ours:
            remedy = (
                f"it belongs to {owner} alone: `chgrp` it to a group that has both of you and `chmod 2770` "
                "it, or set BUILD_SLOTS_DIR to another place"
            )
        yield f"{shown} cannot be written by you, {without_writing(path)}: {remedy}"
    if there != path or not hasattr(os, "getuid"):
        return
    mode, above = file.st_mode, os.path.dirname(os.path.realpath(path))
    if os.stat(above).st_mode & (stat.S_IWOTH | stat.S_ISVTX) == stat.S_IWOTH:
        repair = command("chmod", "o-w", above) or "take from others the right to write the one that it is in"
        yield f"every user of this machine can put another directory in the place of {shown}: {repair}"
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
    """Why the group of the directory `path` cannot share it, although its members can write it."""
    shown, group = prose_path(path), prose(_group(file.st_gid))
    # A group with its user's name is that user's own, without other members (usergroups in pam_umask(8)).
    if not file.st_mode & stat.S_ISGID and _group(file.st_gid) != _user(file.st_uid):
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
    """What in the pool is of the wrong kind, not usable for us or its group, or another user's."""
    path = subject.settings.dir
    if not os.path.isdir(path):
        return [Finding("files", OK, "no pool yet, so no files in it")]
    closed = _closed(path)
    seen = _unusual(path)
    odd, others = seen.odd, seen.others
    barred = [name for name in seen.barred if name not in closed]
    found = []
    if odd:
        should = "directories" if set(odd) <= set(ROOMS) else "files"
        text = f"{_names(list(odd))} should be {should}: remove them ({_kinds(odd)})"
        found.append(Finding("files", PROBLEM, f"builds cannot use the pool: {text}", {"files": list(odd)}))
    if seen.no_tickets:
        text = (
            f"in the queue lies what is no ticket, and nothing but you removes it: {_kinds(seen.no_tickets)}"
        )
        found.append(Finding("files", NOTE, text, {"files": list(seen.no_tickets)}))
    if barred:
        text = (
            f"you cannot read and write {_names(barred)}, so builds run without slots: change owner or mode"
        )
        found.append(Finding("files", PROBLEM, text, {"files": barred}))
    if closed:
        group = _group(os.stat(path).st_gid)
        text = (
            f"not everybody in the group {prose(group)} can use {_names(closed)}, "
            f"so builds run without slots: {_repair(path, group)}"
        )
        found.append(Finding("files", PROBLEM, text, {"files": closed}))
    if others:
        text = f"other users own {_names(others)}, which you can use too"
        found.append(Finding("files", NOTE, text, {"files": others}))
    if seen.crowded:
        text = f"only {MOST_NAMES} names were looked at in each of {', '.join(seen.crowded)}: there are more"
        found.append(Finding("files", NOTE, text, {"crowded": seen.crowded}))
    who = "you and its group" if is_shared(path) else "you"
    return found or [Finding("files", OK, f"{who} can read and write all files of the pool")]


def _repair(path: str, group: str) -> str:
    """The command that makes everything in the pool `path` usable for its group."""
    steps = (
        shell_line("chgrp", "-R", group, path),
        shell_line("chmod", "-R", "g+rwX", path),
        shell_line("chmod", "g+s,-t", *(os.path.join(path, room) for room in ROOMS)),
    )
    if None in steps:
        return "as root, give all in it to that group, readable and writable, the directories setgid"
    return f"as root, `{' && '.join(filter(None, steps))}`"


@dataclass(slots=True)
class _Unusual:
    """What in a pool is not as it should be, by its path relative to the pool.

    Attributes:
        odd: What is of the wrong kind and stops builds, and what kind that is.
        no_tickets: What is of the wrong kind in the queue, where builds pass it over, and what kind that is.
        barred: What we may not use.
        others: What belongs to other users, in a pool that no group shares.
        crowded: Directories with more names than were looked at.
    """

    odd: dict[str, str] = field(default_factory=dict)
    no_tickets: dict[str, str] = field(default_factory=dict)
    barred: list[str] = field(default_factory=list)
    others: list[str] = field(default_factory=list)
    crowded: list[str] = field(default_factory=list)


def _unusual(path: str) -> _Unusual:
    """What is unusual in the pool `path`."""
    found = _Unusual()
    shared = is_shared(path)
    for room in ("", *ROOMS):
        names, more = listed(os.path.join(path, room))
        found.crowded += [room or "the pool"] * more
        for name, file in _known(path, room, names):
            kind = KINDS.get(stat.S_IFMT(file.st_mode), "something else")
            where = os.path.join(path, name)
            if (name in ROOMS) != stat.S_ISDIR(file.st_mode) or stat.S_ISLNK(file.st_mode):
                (found.no_tickets if room == "queue" else found.odd)[name] = kind
            elif room == "queue" and not stat.S_ISREG(file.st_mode):
                found.no_tickets[name] = kind
            elif not os.access(where, _needed(name)):
                if os.path.lexists(where):  # and not just a build that ended
                    found.barred.append(name)
            elif not shared and hasattr(os, "getuid") and file.st_uid != os.geteuid():
                found.others.append(name)
    return found


def _kinds(named: dict[str, str]) -> str:
    """What the names are, in words: "queue/1 is a directory, queue/2 is a FIFO and 3 more"."""
    shown = ", ".join(f"{prose(name)} is {kind}" for name, kind in sorted(named.items())[:NAMED])
    return shown if len(named) <= NAMED else f"{shown} and {len(named) - NAMED} more"


def _needed(name: str) -> int:
    """The permissions that a build needs for `name` in a pool: the bits of one rwx."""
    if name in ROOMS:
        return os.R_OK | os.W_OK | os.X_OK
    return os.R_OK | os.W_OK if os.sep in name else os.R_OK  # slots and the mutex are only locked


def _closed(path: str) -> list[str]:
    """What the whole group of a shared pool cannot use, and still cannot a moment later."""
    if not is_shared(path):
        return []
    closed = _not_the_groups(path)
    if closed:
        time.sleep(UNFINISHED_S)
        closed &= _not_the_groups(path)
    return sorted(closed)


def _not_the_groups(path: str) -> set[str]:
    group = os.stat(path).st_gid
    return {
        name
        for room in ("", *ROOMS)
        for name, file in _known(path, room, listed(os.path.join(path, room))[0])
        if not _is_groups(name, file, group)
    }


def _is_groups(name: str, file: os.stat_result, group: int) -> bool:
    """Whether all of `group` can use the file; of a room also, whether they can use all files made in it."""
    bits = _needed(name) << 3
    usable = file.st_mode & bits == bits and (name not in ROOMS or file.st_mode & 0o3000 == 0o2000)
    return usable and file.st_gid == group


def _known(path: str, room: str, names: list[str]) -> Iterator[tuple[str, os.stat_result]]:
    """Those of the `names` in a room of the pool `path` that the protocol knows, by their paths in the pool.

    Files that are gone are left out. In the pool itself the first slots are looked at even if not listed.
    """
    if not room:
        first = [*ROOMS, "mutex", *(f"slot-{number}" for number in range(FIRST_SLOTS))]
        names = list(dict.fromkeys([*first, *(name for name in names if name.startswith("slot-"))]))
    for name in names:
        below = os.path.join(room, name)
        try:
            yield below, os.lstat(os.path.join(path, below))
        except OSError:
            pass  # gone, never made, or in something that is no directory, which is reported itself


def _names(names: list[str]) -> str:
    shown = ", ".join(prose(name) for name in sorted(names)[:NAMED])
    return shown if len(names) <= NAMED else f"{shown} and {len(names) - NAMED} more"


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
