"""A short run of bench/workloads/kills: batches that are killed and resumed, and a referee."""

from __future__ import annotations

import pytest
from benches import said

pytestmark = pytest.mark.linux

KILLS = 10
DEADLINE_S = 120.0


def test_batches_that_are_killed_leave_nothing_half_and_do_nothing_twice() -> None:
    """Ten kills; every rule is kept, and the last runs come to their ends."""
    out = said("bench.workloads.kills", f"--kills={KILLS}", "--seed=1", "--pace=0.2", deadline_s=DEADLINE_S)
    figures = dict(line.split(": ", 1) for line in out.splitlines() if ": " in line)
    kills = sum(int(number) for name, number in figures.items() if name.startswith("kills "))
    assert kills >= KILLS, out
    assert int(figures["executions"]) >= 13, out
    assert int(figures["changes of destinations"]) >= 7, out
