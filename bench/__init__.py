"""What is measured, against what, and the results."""

from __future__ import annotations

import os


def environ(pool: str | os.PathLike[str]) -> dict[str, str]:
    """Our environment with the pool in the directory `pool`, and a journal of its own in there."""
    return os.environ | {"BUILD_SLOTS_DIR": str(pool), "XDG_STATE_HOME": os.path.join(pool, "state")}
