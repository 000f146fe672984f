"""A short run of workload 4: skills that are synced in parallel, and installed target by target."""

from __future__ import annotations

import pytest
from benches import said

pytestmark = pytest.mark.linux

DEADLINE_S = 150.0


def test_what_an_apply_of_skills_promises() -> None:
    """Two phases, failures and panics, many runs on one target; times are not judged here."""
    out = said("bench.workloads.apply", "--short", deadline_s=DEADLINE_S)
    assert "\n17 of 17 hold" in out, out
