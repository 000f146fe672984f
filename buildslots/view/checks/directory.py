"""The pool's directory: which one and why, what may be done in it, and what lies about in it."""

from __future__ import annotations

import os
import stat
import time

from buildslots.disk import queue, records
from buildslots.disk.lock import locked
from buildslots.settings import cache_dir
from buildslots.view.checks import NOTE, OK, PROBLEM, Finding, Subject, existing
from buildslots.words import printable, short_path

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

ROOMS = ("queue", "holders", "bells")
SETTLED_S = 10.0
"""What is younger may belong to a build that comes or goes at this moment."""
NAMED = 5
"""So many files are named, the rest is counted."""


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
            f"BUILD_SLOTS_DIR is the relative path {relative!r}, another pool in every working directory: "
            "make it absolute"
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
    exists = "" if there == path else ", which the first build will make"
    return [Finding("directory", OK, f"the pool is in {short_path(path)}{exists} (from {why})", details)]


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
    return {"owner": _user(file.st_uid), "mode": f"{stat.S_IMODE(file.st_mode):04o}"}


def _not_for_us(path: str, there: str) -> Iterator[str]:
    """Why builds cannot use the directory `path`, of which `there` exists, or should not."""
    if not os.access(there, os.R_OK | os.W_OK | os.X_OK):
        yield (
            f"{short_path(there)} cannot be written by you, so builds run without slots: change its owner, "
            "mode or mount, or set BUILD_SLOTS_DIR to another place"
        )
    if there != path or not hasattr(os, "getuid"):
        return
    mode = os.stat(path).st_mode
    if mode & stat.S_IWOTH and mode & stat.S_ISVTX:
        yield (
            f"every user of this machine can put files into {short_path(path)} and hold its slots: "
            "`chmod 700` it, or set BUILD_SLOTS_DIR to a directory of your own"
        )
    elif mode & stat.S_IWOTH:
        yield (
            f"every user of this machine can remove the files in {short_path(path)}, and the bound with "
            "them: `chmod 700` it"
        )


def files(subject: Subject) -> list[Finding]:
    """Files of other users in the pool, and what is no file where one should be."""
    path = subject.settings.dir
    if not os.path.isdir(path):
        return [Finding("files", OK, "no pool yet, so no files in it")]
    others, barred, odd = [], [], []
    for name, entry in _entries(path):
        is_room = name in ROOMS
        if is_room != entry.is_dir():
            odd.append(name)
        elif not os.access(entry.path, os.R_OK | os.W_OK | (os.X_OK if is_room else 0)):
            if os.path.lexists(entry.path):  # and not just a build that ended
                barred.append(name)
        elif hasattr(os, "getuid") and entry.stat(follow_symlinks=False).st_uid != os.geteuid():
            others.append(name)
    found = []
    if odd:
        text = f"{_names(odd)} should be {'directories' if set(odd) <= set(ROOMS) else 'files'}: remove them"
        found.append(Finding("files", PROBLEM, f"builds cannot use the pool: {text}", {"files": odd}))
    if barred:
        text = (
            f"you cannot read and write {_names(barred)}, so builds run without slots: change owner or mode"
        )
        found.append(Finding("files", PROBLEM, text, {"files": barred}))
    if others:
        text = f"other users own {_names(others)}, which you can use too"
        found.append(Finding("files", NOTE, text, {"files": others}))
    return found or [Finding("files", OK, "you can read and write all files of the pool")]


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
    shown = ", ".join(printable(name) for name in sorted(names)[:NAMED])
    return shown if len(names) <= NAMED else f"{shown} and {len(names) - NAMED} more"


def _user(uid: int) -> str:
    try:
        import pwd  # noqa: PLC0415 - not on Windows

        return pwd.getpwuid(uid).pw_name
    except (ImportError, KeyError):
        return str(uid)
