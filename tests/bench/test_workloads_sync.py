"""A short run of workload 3: git repositories that one plan keeps up to date."""

from __future__ import annotations

import pytest
from benches import said

pytestmark = pytest.mark.linux

DEADLINE_S = 150.0


def test_what_a_sync_of_repositories_promises() -> None:
    """At once, in order, as they end, failures, Ctrl-C and passwords; times are not judged here."""
    out = said("bench.workloads.sync", "--short", deadline_s=DEADLINE_S)
    assert "\n20 of 20 hold" in out, out
