"""Builds that share tokens, and one that takes and returns more bytes than a page of its FIFO holds."""

from __future__ import annotations

import os
import shutil
import signal
import sys
from typing import TYPE_CHECKING

import pytest
from builds import script, wait_until

from buildslots.tokens.stock import held

if TYPE_CHECKING:
    from pathlib import Path

    from builds import Build, Pool

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="only Linux has tokens")

C = 4
JOBS = "JOBS := $(shell seq 10000)\nall: $(JOBS)\n$(JOBS):\n\t@touch begun; sleep 0.1; [ ! -e end ]\n"
"""More than there is time for. The first one fails that sees a file "end"."""
CREEP = """
import os, sys
takes, returns = map(int, os.environ["CARGO_MAKEFLAGS"].rpartition("=")[2].split(","))
byte = os.read(takes, 1)
os.write(returns, os.read(takes, 1))  # from now on one lies there at every moment
open("begun", "w").close()
if sys.argv[1] == "waits":
    os.read(os.open("go", os.O_RDONLY), 1)
for _ in range(5000):
    os.write(returns, byte)
    byte = os.read(takes, 1)
os.write(returns, byte)
open("done", "w").close()
"""


def shares(pool: Pool) -> list[int]:
    """How many tokens each build says it has, the poorest first."""
    records = [path for path in (pool.dir / "builds").glob("*") if path.suffix != ".bell"]
    return sorted(int(path.read_bytes().split(b"\n")[1].split()[2]) for path in records)


@pytest.mark.skipif(shutil.which("make") is None, reason="there is no make")
def test_a_second_build_gets_its_half(pool: Pool, tmp_path: Path) -> None:
    """The first has all tokens until it comes, and again when it has gone."""

    def start(name: str) -> tuple[Path, Build]:
        project = tmp_path / name
        project.mkdir()
        (project / "Makefile").write_text(JOBS)
        command = (script("slot-run"), "-n2", f"--tokens={C}", "make", "-j9")
        build = pool.popen(*command, cwd=project)
        wait_until((project / "begun").exists, "its jobs")
        return project, build

    first, one = start("first")
    wait_until(lambda: shares(pool) == [C], "all tokens for one")
    second, other = start("second")
    wait_until(lambda: shares(pool) == [C // 2] * 2, "half of the tokens for each")
    (second / "end").touch()
    assert other.process.wait() == 2
    wait_until(lambda: shares(pool) == [C], "all tokens for who is left")
    (first / "end").touch()
    assert one.process.wait() == 2
    assert held(str(pool.dir), C) == 0


@pytest.mark.parametrize("is_killed", [False, True], ids=["alive", "killed"])
def test_a_build_that_returns_more_bytes_than_a_page_holds_ends(
    pool: Pool, tmp_path: Path, *, is_killed: bool
) -> None:
    """4,093 fit into one that is never empty. Without slot-run nobody else reads any."""
    os.mkfifo(tmp_path / "go")
    go = os.open(tmp_path / "go", os.O_RDWR)
    try:
        how = "waits" if is_killed else "goes on"
        client = (sys.executable, "-S", "-c", CREEP, how)
        build = pool.popen(script("slot-run"), f"--tokens={C}", *client, cwd=tmp_path)
        wait_until((tmp_path / "begun").exists, "a byte that lies there")
        if is_killed:
            os.kill(build.process.pid, signal.SIGKILL)
            build.process.wait()
            os.write(go, b"!")
        wait_until((tmp_path / "done").exists, "the last of its bytes")
        assert build.process.wait() == (-signal.SIGKILL if is_killed else 0)
        wait_until(lambda: held(str(pool.dir), C) == 0, "the end of the build")
    finally:
        os.close(go)
