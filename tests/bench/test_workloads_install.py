"""A short run of bench/workloads/install: what a toolchain install on a batch promises."""

from __future__ import annotations

import pytest
from benches import said

pytestmark = pytest.mark.linux

DEADLINE_S = 150.0


@pytest.mark.parametrize("part", ["bounded", "whole", "limits", "people"])
def test_each_promise_holds(part: str) -> None:
    """All lines are "ok", but for those about time, which a short run does not judge."""
    out = said("bench.workloads.install", "--short", "--only", part, deadline_s=DEADLINE_S)
    assert "NO  " not in out
    assert [line for line in out.splitlines() if line.startswith("ok  ")]
