"""Other pools that builds of the same user end up in, because their environments name another directory."""

from __future__ import annotations

import os
import sys

import psutil

from buildslots.disk import records
from buildslots.processes import is_local, number
from buildslots.settings.places import base_dir, pool_dir
from buildslots.settings.values import DEFAULT_POOL
from buildslots.view.health.checks import NOTE, OK, PROBLEM, Finding, Subject, listed
from buildslots.view.health.keepers import command_of, in_our_namespace, quoted
from buildslots.view.pools import existing_pools
from buildslots.words import prose, prose_path

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

VARIABLES = ("BUILD_SLOTS_DIR", "XDG_CACHE_HOME", "HOME")
"""The variables that decide about the directory on Linux. TMPDIR is not one of them."""

MOST_POOLS = 64
"""At most so many pools of a directory are looked at."""
LONGEST = 200
"""Characters of a variable that are shown."""


def split(subject: Subject) -> list[Finding]:
    """Directories other than ours in which processes of this user, or this user's cron jobs, would build."""
    if sys.platform != "linux":
        return [Finding("split", OK, "other processes' environments are compared on Linux only")]
    if subject.dir_option is not None:
        return [Finding("split", OK, "nothing to compare: --dir names the directory")]
    environ = {name: subject.environ[name] for name in VARIABLES if subject.environ.get(name)}
    ours = os.path.realpath(base_dir(environ))
    found = _of_user_database(environ, ours)
    for path, (processes, theirs) in sorted(_groups(ours).items()):
        if not _is_used(path):
            continue  # nobody who is led there builds
        names = _differing(environ, theirs)
        settings = ", ".join(
            f"{name}={prose(theirs[name][:LONGEST])}" if name in theirs else f"no {name}" for name in names
        )
        builders = _builders(path)
        known = [process for process in processes if process.pid in builders]
        details: dict[str, object] = {
            "dir": path,
            "pids": [process.pid for process in known],
            "variables": {name: theirs.get(name) for name in names},
        }
        found.append(_finding(path, ours, known, f"with {settings}", details))
    return found or [Finding("split", OK, "no process of yours that can be seen builds in another pool")]


def _of_user_database(environ: Mapping[str, str], ours: str) -> list[Finding]:
    """The pool of jobs without our HOME (cron, ssh, sudo), if the user database has another home."""
    import pwd  # noqa: PLC0415 - not on Windows

    try:
        home = pwd.getpwuid(os.getuid()).pw_dir
    except KeyError:
        return []
    path = os.path.realpath(base_dir({**environ, "HOME": home}))
    if path == ours:
        return []
    details: dict[str, object] = {"dir": path, "pids": [], "variables": {"HOME": home}}
    who = f"whatever starts with the home of the user database, {prose_path(home)}, such as a cron job,"
    used = _is_used(path)
    details["used"] = used
    if used:
        return [Finding("split", PROBLEM, f"{who} {_builds_in(path)}", details)]
    return [Finding("split", NOTE, f"{who} would build in another pool, {prose_path(path)}", details)]


def _finding(
    path: str, ours: str, known: list[psutil.Process], settings: str, details: dict[str, object]
) -> Finding:
    """What to say of the used pool at `path`, and of the processes that are `known` to build there now."""
    details = {**details, "used": True}
    if not known:
        text = f"builds {settings} go to another pool, {prose_path(path)}, in which nobody builds now"
        return Finding("split", NOTE, text, details)
    more = f" and {len(known) - 1} more" if len(known) > 1 else ""
    who = f"process {known[0].pid} {quoted(command_of(known[0]))}{more}, {settings},"
    if path.startswith(ours + os.sep):  # somebody has named a pool by its directory
        return Finding("split", NOTE, f"{who} builds in another pool, {prose_path(path)}", details)
    return Finding("split", PROBLEM, f"{who} {_builds_in(path)}", details)


def _builds_in(path: str) -> str:
    return (
        f"builds in the pool {prose_path(path)}, which yours does not count: "
        "set BUILD_SLOTS_DIR to one directory everywhere"
    )


def _builders(base: str) -> set[int]:
    """The processes that hold slots or wait in the pools of the directory `base`, by their records.

    Only they are named: every daemon of a desktop has some HOME, and most of them never build.
    """
    found = set()
    try:
        pools = existing_pools(base)
    except OSError:
        pools = [DEFAULT_POOL]
    for pool in pools[:MOST_POOLS]:
        for room in ("holders", "queue"):
            path = os.path.join(pool_dir(pool, base), room)
            for name in listed(path)[0]:
                record = records.read(os.path.join(path, name))
                pid = number((record or {}).get("pid"))
                if record is not None and pid is not None and is_local(record) and records.lives(record):
                    found.add(pid)
    return found


def _groups(ours: str) -> dict[str, tuple[list[psutil.Process], dict[str, str]]]:
    """Directories other than `ours`: the processes that build there, and the variables of the first one."""
    groups: dict[str, tuple[list[psutil.Process], dict[str, str]]] = {}
    paths: dict[tuple[str | None, ...], str] = {}
    for process, environ in _environments():
        key: tuple[str | None, ...] = tuple(environ.get(name) for name in VARIABLES)
        try:
            base = base_dir(environ)
            if not os.path.isabs(base):
                base = os.path.join(process.cwd(), base)
                key = (*key, base)
        except (OSError, psutil.Error):
            continue
        if key not in paths:
            paths[key] = os.path.realpath(pool_dir(DEFAULT_POOL, base))
        if paths[key] != ours:
            groups.setdefault(paths[key], ([], environ))[0].append(process)
    return groups


def _environments() -> Iterator[tuple[psutil.Process, dict[str, str]]]:
    """The processes of this user on this machine, with those of VARIABLES that each was started with."""
    for process in psutil.process_iter():
        try:
            if process.uids().real != os.getuid() or not in_our_namespace(process.pid):
                continue
            environ = process.environ()
        except psutil.Error:
            continue
        if environ:  # the kernel's own threads have none, nor has a process that is about to end
            yield process, {name: environ[name] for name in VARIABLES if environ.get(name)}


def _differing(ours: Mapping[str, str], theirs: Mapping[str, str]) -> list[str]:
    """The variables that make the difference; if none does alone, all that differ."""
    names = [name for name in VARIABLES if ours.get(name) != theirs.get(name)]

    def moves(name: str) -> bool:
        changed = {key: value for key, value in ours.items() if key != name}
        if name in theirs:
            changed[name] = theirs[name]
        return base_dir(changed) != base_dir(ours)

    return [name for name in names if moves(name)] or names


def _is_used(path: str) -> bool:
    try:
        return any(name.startswith("slot-") for name in os.listdir(path))
    except OSError:
        return False
