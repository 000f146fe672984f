"""What a killed slot-run leaves: its build's tokens and jobserver until that ends, and nothing for long."""

from __future__ import annotations

import os
import sys
import time
from typing import TYPE_CHECKING

import psutil
import pytest
from builds import script, wait_until

from buildslots.tokens import builds
from buildslots.tokens.builds import Builds
from buildslots.tokens.share import Share
from buildslots.tokens.stock import held

if TYPE_CHECKING:
    from pathlib import Path

    from builds import Pool

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="only Linux has tokens")

C = 3
JOBS = (
    "all: 1 2 3 4 sub\n"
    "1 2 3 4:\n\t@touch $@; while [ ! -e go ]; do sleep 0.05; done\n"
    "sub: 1 2 3 4\n\t@$(MAKE) below\n"
)
BELOW = "below: 5 6\n5 6:\n\t@touch $@\n"


def test_a_build_goes_on_with_its_tokens_when_its_slot_run_is_killed(pool: Pool, tmp_path: Path) -> None:
    """Also what it starts then; and at its end all tokens are free."""
    (tmp_path / "Makefile").write_text(JOBS + BELOW)
    build = pool.popen(script("slot-run"), f"--tokens={C}", "make", "-j4", cwd=tmp_path)
    wait_until(lambda: len(list(tmp_path.glob("[1-4]"))) == 4, "its jobs")
    make = psutil.Process(build.pid).children()[0]
    build.process.kill()
    build.process.wait()
    assert held(str(pool.dir), C) == C
    (tmp_path / "go").touch()
    wait_until(lambda: not make.is_running() or make.status() == psutil.STATUS_ZOMBIE, "the end of make")
    assert {path.name for path in tmp_path.glob("[56]")} == {"5", "6"}
    wait_until(lambda: held(str(pool.dir), C) == 0, "free tokens")


def test_the_files_of_the_dead_are_removed_by_who_builds_next(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Those of the living are not, nor what nobody of us has made."""
    monkeypatch.setattr(builds, "OLD_S", 0.0)
    room = tmp_path / "builds"
    room.mkdir(mode=0o700)
    alive = Builds(str(tmp_path), "a" * 16)
    alive.say(Share(1))
    (room / ("b" * 16)).write_bytes(b"buildslots-build 1\nstate 0000000000 0000000 0000001 0\n")
    for name in ("b" * 16, "c" * 16):
        os.mkfifo(room / f"{name}.bell")
    (room / ("d" * 16)).write_text("another's")
    (room / "notes").write_text("another's")
    time.sleep(0.02)  # a tick of the kernel: files are older than now then
    other = Builds(str(tmp_path), "e" * 16)
    other.tidy()
    other.close()
    assert {path.name for path in room.iterdir()} == {"a" * 16, f"{'a' * 16}.bell", "d" * 16, "notes"}
    alive.close()
    assert {path.name for path in room.iterdir()} == {"d" * 16, "notes"}
