"""`buildslots doctor --agent NAME`: the probe that it prints is one."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

import pytest
from builds import script

if TYPE_CHECKING:
    from builds import Pool


@pytest.mark.parametrize("name", ["claude", "codex", "gemini", "cursor", "copilot", "opencode"])
def test_an_agent_that_is_not_set_up(pool: Pool, name: str) -> None:
    """It says so, and what to do."""
    result = pool.run(script("buildslots"), "doctor", "--agent", name)
    assert (result.returncode, result.stderr) == (1, "")
    assert " is missing in ~/" in result.stdout
    assert f"`buildslots setup {name}` sets it up" in result.stdout


def test_the_probe_tells_whether_there_is_a_slot(pool: Pool) -> None:
    """As the agent's shell would run it, with slot-run and without."""
    told = pool.run(script("buildslots"), "doctor", "--agent", "claude").stdout
    line = re.search(r"^    (make -f .*)$", told, re.MULTILINE)
    assert line is not None
    assert pool.run("sh", "-c", line[1]).stdout.startswith("buildslots probe: no slot: this command came")
    with_slot = pool.run("sh", "-c", f"{script('slot-run')} {line[1]}")
    assert with_slot.stdout == "buildslots probe: slot 0: it works\n"
    off = pool.run("sh", "-c", f"{script('slot-run')} {line[1]}", environ={"BUILD_SLOTS_DISABLE": "1"})
    assert off.stdout == "buildslots probe: no slot, for BUILD_SLOTS_DISABLE is set\n"
