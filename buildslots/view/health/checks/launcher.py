"""The script `slot-run`, which an installer has written: whether it loads more than it needs."""

from __future__ import annotations

import os
import re
import shutil
import sysconfig
from stat import S_ISREG

from buildslots.view.health.checks import NOTE, Finding, Subject
from buildslots.words import prose_path

NEEDED = {b"sys", b"_buildslots"}
"""What such a script has to load."""
LENGTH = 4096
"""Bytes of it that are looked at; it has some 200."""
IMPORT = re.compile(rb"^(?:import|from) +(\w+)", re.MULTILINE)


def launcher(subject: Subject) -> list[Finding]:
    """What makes each start slower; nothing of a script that is as fast as it can be.

    That is the script that a shell finds, or else this installation's. One that pip before 25.2 wrote
    loads `re`, which takes as long as all of slot-run.
    """
    path = shutil.which("slot-run", path=subject.environ.get("PATH"))
    path = path or os.path.join(sysconfig.get_path("scripts"), "slot-run")
    text = _beginning(path)
    if b"buildslots" not in text:
        return []  # missing; or no script of ours: a shim of pyenv's, a binary
    loads = [name.decode() for name in dict.fromkeys(IMPORT.findall(text)) if name not in NEEDED]
    if not loads:
        return []
    what = ", ".join(f"`{name}`" for name in loads)
    sentence = (
        f"each start of slot-run takes longer than it needs to, because the script {prose_path(path)} loads "
        f"{what}, as those of pip before 25.2 do: `pip install -U pip` and install buildslots again, "
        "or install it with uv or pipx"
    )
    return [Finding("launcher", NOTE, sentence, {"path": path, "loads": loads})]


def _beginning(path: str) -> bytes:
    """The first bytes of a file; none of what is no file, or cannot be read."""
    try:
        descriptor = os.open(path, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0))
    except OSError:
        return b""
    try:
        return os.read(descriptor, LENGTH) if S_ISREG(os.fstat(descriptor).st_mode) else b""
    finally:
        os.close(descriptor)
