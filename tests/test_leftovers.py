"""The check that no test leaves a process behind."""

from __future__ import annotations

import os
import subprocess

import leftovers
import psutil
import pytest

pytestmark = pytest.mark.linux


def test_a_daemon_is_found_ended_and_named(monkeypatch: pytest.MonkeyPatch) -> None:
    """Though its parent has ended, its session is another one and its environment is empty."""
    monkeypatch.setattr(leftovers, "PATIENCE_S", 0.2)
    command = ["sh", "-c", "setsid env -i sleep 1000 >/dev/null 2>&1 & echo $!"]
    pid = int(subprocess.run(command, check=True, capture_output=True, text=True).stdout)
    left = leftovers.end()
    assert [line.partition(" ")[0] for line in left] == [str(pid)]
    assert not psutil.pid_exists(pid)
    assert leftovers.end() == []


def test_what_ends_by_itself_is_reaped_and_no_fault() -> None:
    """Ended already, or on its way."""
    with subprocess.Popen(["sh", "-c", "sleep 0.2 & echo $!"], stdout=subprocess.PIPE) as shell:
        assert shell.stdout is not None
        pid = int(shell.stdout.readline())
    assert leftovers.end() == []
    assert not os.path.exists(f"/proc/{pid}")
