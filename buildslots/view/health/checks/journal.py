"""The journal: whether builds can write it, and whether others can read it."""

from __future__ import annotations

import os
from stat import S_IMODE, S_ISREG, S_IWOTH

from buildslots.journal import NAME
from buildslots.settings.places import state_dir
from buildslots.view.health.checks import NOTE, OK, PROBLEM, Finding, Subject, command, existing
from buildslots.words import prose_path, size

OTHERS = 0o077


def journal(subject: Subject) -> list[Finding]:
    """Where it is, how large it is, and why builds cannot write it: they do not say that themselves."""
    kept, source = subject.settings.journal, subject.settings.source("journal")
    details: dict[str, object] = {"journal": kept, "journal_source": source}
    if kept == "off":
        return [Finding("journal", OK, f"off ({source})", details)]
    path = os.path.join(state_dir(subject.environ), NAME)
    shown = prose_path(path)
    details["path"] = path
    try:
        file = os.lstat(path)  # builds follow no link there
    except FileNotFoundError:
        if os.access(existing(path), os.W_OK):
            return [Finding("journal", OK, f"{shown}, no builds yet", details)]
        text = f"{shown} cannot be made: {prose_path(existing(path))} is not writable for you"
        return [Finding("journal", PROBLEM, text, details)]
    details |= {"bytes": file.st_size, "mode": f"{S_IMODE(file.st_mode):04o}"}
    level, text = OK, f"{shown}, {size(file.st_size)}"
    if not S_ISREG(file.st_mode):
        level, text = PROBLEM, f"{shown} is no regular file: builds are not noted"
    elif not os.access(path, os.W_OK):
        level, text = PROBLEM, f"{shown} is not writable for you: builds are not noted"
    elif os.name == "posix" and S_IMODE(file.st_mode) & OTHERS:
        level, text = PROBLEM, f"others may read {shown}, which tells what you build: `chmod 600` it"
    elif os.name == "posix" and S_IMODE(os.stat(os.path.dirname(path)).st_mode) & S_IWOTH:
        repair = command("chmod", "700", os.path.dirname(path)) or "close the directory that it is in"
        level, text = PROBLEM, f"every user of this machine can replace {shown}: {repair}"
    elif kept == "commands":
        level, text = NOTE, f"{text}, with whole command lines ({source})"
    return [Finding("journal", level, text, details)]
