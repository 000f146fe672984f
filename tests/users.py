"""Other users, for tests that root runs: real processes with their ids, in a pool that a group shares."""

from __future__ import annotations

import os
import shlex
import stat
import sys
from typing import TYPE_CHECKING

import pytest
from builds import HELD_BUILD, Build, Pool, script, wait_until
from namespaces import unshare

import buildslots

if TYPE_CHECKING:
    from pathlib import Path

GROUP = 64000
ALICE, BOB, EVE = 64001, 64002, 64003
"""Members of the group, and one who is not; no system knows these numbers."""
several_users = pytest.mark.skipif(
    sys.platform != "linux" or os.geteuid() != 0, reason="only root can be other users, by Linux's tools"
)


class Users(Pool):
    """A pool of a group, and builds of its members in it."""

    def __init__(self, scratch: Path, environ: dict[str, str]) -> None:
        super().__init__(scratch / "pool", environ)
        self._scratch = scratch
        self.dir.mkdir()
        os.chown(self.dir, -1, GROUP)
        self.dir.chmod(0o2770)

    def as_user(self, user: int, *command: str, umask: str = "077", setup: str = ":") -> list[str]:
        """`command` as another user; `setup` is run by root before.

        In a mount namespace in which all that is needed can be reached. Elsewhere it need not be: this
        Python may be in root's home, and pytest's directories are closed to others.
        """
        groups = ["--clear-groups"] if user == EVE else ["--groups", str(GROUP)]
        become = shlex.join(["setpriv", "--reuid", str(user), "--regid", str(user), *groups, "--", *command])
        text = f"set -e; umask 022; {self._opened()}; {setup}; umask {umask}; exec {become}"
        return [*unshare("--mount"), "sh", "-c", text]

    def build_as(self, user: int, *options: str, **how: str) -> Build:
        """Start `slot-run --quiet OPTIONS` as `user`, with a build that runs until `finish()`."""
        run = (script("slot-run"), "-q", *options, "sh", "-c", HELD_BUILD)
        return self.popen(*self.as_user(user, *run, **how))

    def queued_as(self, user: int, *options: str, **how: str) -> Build:
        """Start such a build and wait until it is in line behind all others."""
        before = len(self.status().waiters)
        build = self.build_as(user, *options, **how)
        wait_until(lambda: len(self.status().waiters) == before + 1, "one more waiter")
        return build

    def _opened(self) -> str:
        """Shell commands that put what is needed below directories that everybody may search."""
        needed = {sys.base_prefix, sys.prefix, os.path.dirname(os.path.dirname(buildslots.__file__))}
        needed = {*map(os.path.realpath, needed), str(self._scratch), *needed}
        closed = {above for path in needed if (above := _closed_above(path)) is not None}
        hidden = sorted(path for path in needed if any(path.startswith(f"{top}/") for top in closed))
        lines = ["mount -t tmpfs -o mode=755 none /mnt"]
        for number, path in enumerate(hidden):
            lines += [f"mkdir /mnt/{number}", f"mount --rbind {shlex.quote(path)} /mnt/{number}"]
        lines += [f"mount -t tmpfs -o mode=755 none {shlex.quote(top)}" for top in sorted(closed)]
        for number, path in enumerate(hidden):
            lines += [f"mkdir -p {shlex.quote(path)}", f"mount --rbind /mnt/{number} {shlex.quote(path)}"]
        return "; ".join(lines)


def _closed_above(path: str) -> str | None:
    """The topmost directory above `path` that not everybody may search, or None."""
    above = [path[:end] for end in range(2, len(path)) if path[end] == "/"]
    return next((top for top in above if not os.stat(top).st_mode & stat.S_IXOTH), None)
