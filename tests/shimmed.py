"""Programs behind shims: a PATH as a user has it, with everything in directories of the test."""

from __future__ import annotations

import shutil
import subprocess
from typing import TYPE_CHECKING

import pytest
from builds import DEADLINE_S, script

from buildslots.agents import shims

if TYPE_CHECKING:
    from pathlib import Path

    from builds import Pool

SYSTEM = "/usr/bin:/bin"
SHOW = """\
#!/bin/sh
# Says that it runs, its arguments in brackets, and its slot.
printf '%s' "${0##*/}"
for word do printf ' <%s>' "$word"; done
echo " in ${BUILD_SLOT-none}"
"""
COUNTED = """\
#!/bin/sh
echo started >>'{log}'
exec '{slot_run}' "$@"
"""


def executable(path: Path, text: str) -> Path:
    """Write a script."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    path.chmod(0o755)
    return path


class Shimmed:
    """Shims for fake tools, which come after them on PATH, and after these a slot-run that is counted.

    Attributes:
        dir: The directory of the shims.
        tools: The directory of the fake tools.
        bin: The directory of slot-run.
    """

    def __init__(self, pool: Pool, root: Path) -> None:
        self.pool = pool
        self.root = root
        self.tools = root / "tools"
        self.bin = root / "bin"
        self.log = root / "slot-runs"
        executable(self.bin / "slot-run", COUNTED.format(log=self.log, slot_run=script("slot-run")))
        self.tool("make")
        self.environ = pool.environ | {"PATH": f"{self.tools}:{self.bin}:{SYSTEM}"}
        self.install()
        self.environ["PATH"] = f"{self.dir}:{self.environ['PATH']}"

    def install(self) -> list[str]:
        """Make the shims anew."""
        names = shims.install(self.environ)
        self.dir = self._dir()
        return names

    def _dir(self) -> Path:
        from pathlib import Path  # noqa: PLC0415

        return Path(shims.status(self.environ).directory)

    def tool(self, name: str, text: str = SHOW) -> Path:
        """A fake tool."""
        return executable(self.tools / name, text)

    def lose_slot_run(self) -> None:
        """Have none on PATH, and none where the shims were written."""
        (self.bin / "slot-run").unlink()
        for shim in self.dir.iterdir():
            shim.write_text(shim.read_text().replace(script("slot-run"), str(self.root / "gone")))

    def run(self, *args: str | Path, **environ: str) -> subprocess.CompletedProcess[str]:
        """Run a command, found on that PATH, to its end."""
        env = self.environ | environ
        first = shutil.which(args[0], path=env["PATH"])
        assert first is not None
        return subprocess.run(
            [first, *args[1:]],
            env=env,
            capture_output=True,
            text=True,
            errors="surrogateescape",
            timeout=DEADLINE_S,
            check=False,
            cwd=self.root,
        )

    def said(self, *args: str | Path, **environ: str) -> str:
        """What it wrote to stdout, having done well and without a complaint."""
        result = self.run(*args, **environ)
        assert (result.returncode, result.stderr) == (0, ""), result
        return result.stdout.strip("\n")

    def slot_runs(self) -> int:
        """How often slot-run was started, so far."""
        return len(self.log.read_text().splitlines()) if self.log.exists() else 0


SHELLS = [
    pytest.param(shell, marks=pytest.mark.skipif(shutil.which(shell[0]) is None, reason="not installed"))
    for shell in (["dash"], ["bash"], ["bash", "--posix"], ["busybox", "ash"], ["zsh", "--emulate", "sh"])
]
"""Shells that may be /bin/sh."""
