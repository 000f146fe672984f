"""Namespaces of their own for what tests start: mounts that nobody else sees, other numbers of processes."""

from __future__ import annotations

import functools
import os
import subprocess
import tempfile
from pathlib import Path

import pytest


def unshare(*spaces: str) -> list[str]:
    """The words in front of a command that run it in such namespaces, "--mount" or "--pid", as their root."""
    user = [] if os.geteuid() == 0 else ["--user", "--map-root-user"]
    propagation = ["--propagation", _propagation()] if "--mount" in spaces else []
    return ["unshare", *user, *spaces, *propagation]


@functools.cache
def _propagation() -> str:
    """How mounts are kept from the namespace outside: unshare(1) makes all private, from / on.

    It cannot where / is no mount point, as in a chroot. There nothing has to be changed if the file system
    that has / is private; what is mounted would be seen outside otherwise.
    """
    if any(line.split()[4] == "/" for line in Path("/proc/self/mountinfo").read_text().splitlines()):
        return "private"
    with tempfile.TemporaryDirectory() as there:
        command = ["unshare", "--mount", "--propagation", "unchanged", "mount", "-t", "tmpfs", "none", there]
        subprocess.run(command, check=True)
        if os.path.ismount(there):
            subprocess.run(["umount", there], check=True)
            pytest.skip("/ is no mount point, and what is mounted below it is seen in other namespaces")
    return "unchanged"
