"""Fixtures: an environment without the user's settings, and a pool to build in."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import pytest
from builds import Pool

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


@pytest.fixture(autouse=True)
def _no_settings_of_the_user(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Keep the variables and the config file of whoever runs the tests out of them."""
    for name in list(os.environ):
        if name.startswith(("BUILD_SLOT", "MAX_CONCURRENT_BUILDS", "XDG_")):
            monkeypatch.delenv(name)
    home = tmp_path / "home"
    home.mkdir()
    monkeypatch.setenv("HOME", str(home))


@pytest.fixture
def pool(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Pool]:
    """An empty default pool, of this process too, in a directory that does not exist yet."""
    directory = tmp_path / "pool"
    monkeypatch.setenv("BUILD_SLOTS_DIR", str(directory))
    pool = Pool(directory, dict(os.environ))
    yield pool
    pool.end()
