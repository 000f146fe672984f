"""Fixtures: programs behind shims."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from shimmed import Shimmed

if TYPE_CHECKING:
    from pathlib import Path

    from builds import Pool


@pytest.fixture
def shimmed(pool: Pool, tmp_path: Path) -> Shimmed:
    """A fake make behind a shim."""
    return Shimmed(pool, tmp_path)
