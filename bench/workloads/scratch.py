"""A place where a workload runs: directories of its own, and nothing of its user's settings."""

from __future__ import annotations

import os
import tempfile
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from bench.kit.shell import forget_settings

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

OTHERS = ("BUILD_BATCH_", "PIP_", "GITHUB_", "GH_", "CI", "VIRTUAL_ENV")
"""What else in the environment would decide something."""


@contextmanager
def scratch(pools: Mapping[str, int]) -> Iterator[Path]:
    """A directory, for a block; the state and the config of buildslots, with `pools`, are in there."""
    with tempfile.TemporaryDirectory(prefix="workload-", ignore_cleanup_errors=True) as directory:
        forget_settings(directory)
        for name in list(os.environ):
            if name.startswith(OTHERS):
                del os.environ[name]
        set_pools(Path(directory), pools)
        yield Path(directory)


def set_pools(scratch: Path, pools: Mapping[str, int]) -> None:
    """Let the config of buildslots say how many slots `pools` have."""
    config = scratch / "config" / "buildslots" / "config.toml"
    config.parent.mkdir(parents=True, exist_ok=True)
    config.write_text("".join(f"[pools.{name}]\nslots = {slots}\n" for name, slots in pools.items()))
