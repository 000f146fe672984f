"""The stock: locks of bytes, which builds inherit."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from typing import TYPE_CHECKING

from builds import wait_until

from buildslots.tokens.stock import Stock, held

if TYPE_CHECKING:
    from pathlib import Path


def test_no_two_have_one_token(tmp_path: Path) -> None:
    """What one has the other cannot take, and what is given back anybody can."""
    one, other = Stock(str(tmp_path), 3), Stock(str(tmp_path), 3)
    assert [one.take(), one.take(), other.take()] == [True] * 3
    assert not one.take()
    assert not other.take()
    assert held(str(tmp_path), 3) == 3
    one.give()
    assert other.take()
    assert not one.take()
    one.close()
    assert other.take()
    other.close()
    assert held(str(tmp_path), 3) == 0


OWNER = """
import os, subprocess, sys
from buildslots.tokens.stock import Stock
stock = Stock(sys.argv[1], 3)
child = subprocess.Popen(["cat"], pass_fds=[stock.fd])
stock.take()
stock.take()
print(child.pid, flush=True)
sys.stdin.read()
"""


def test_a_build_keeps_what_its_killed_slot_run_had_taken(tmp_path: Path) -> None:
    """Also what was taken after its start; and when it has ended nobody has it."""
    with subprocess.Popen(
        [sys.executable, "-c", OWNER, str(tmp_path)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    ) as owner:
        assert owner.stdout is not None
        build = int(owner.stdout.readline())
        owner.kill()
        owner.wait()
        assert held(str(tmp_path), 3) == 2
    os.kill(build, signal.SIGKILL)
    wait_until(lambda: held(str(tmp_path), 3) == 0, "the end of the build")
