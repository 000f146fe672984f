"""Fixtures: a user who has set nothing yet."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import pytest
from hosts import Host

from buildslots.settings import places

if TYPE_CHECKING:
    from pathlib import Path


@pytest.fixture
def host(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Host:
    """A user who has set nothing yet."""
    found = Host(tmp_path)
    monkeypatch.setattr(places, "system_config_path", lambda _environ: str(found.system))
    monkeypatch.chdir(found.home)
    if os.geteuid() == 0:  # which obeys no project
        monkeypatch.setattr(os, "geteuid", lambda: 12345)
    return found
