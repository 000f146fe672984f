"""How many examples hypothesis tries: few, always the same, so that tests are quick and never fail by chance.

`EXAMPLES=50 pytest tests/disk/test_interleavings.py` tries 50 times as many, other ones each time.
"""

from __future__ import annotations

import os

from hypothesis import HealthCheck, settings

TIMES = int(os.environ.get("EXAMPLES", "1"))


def tried(examples: int, **more: object) -> settings:
    """Settings for a test that tries so many examples, or TIMES as many."""
    return settings(
        max_examples=examples * TIMES,
        derandomize=TIMES == 1,
        database=None,  # nothing is left in the checkout
        deadline=None,  # other processes have the cores at times
        suppress_health_check=[HealthCheck.too_slow, HealthCheck.function_scoped_fixture],
        print_blob=False,
        **more,  # type: ignore[arg-type]
    )
