"""The snapshot of an audit: a JSON file, which whoever reads it finds old or new, but whole."""

from __future__ import annotations

import json
import os
from typing import Any

Entry = dict[str, Any]
"""Of a tool: its name, version, latest version, where that is from, and how old it is."""


def write(path: str, entries: dict[str, Entry]) -> None:
    """Let `path` have these entries, whatever happens meanwhile."""
    temporary = f"{path}.new"  # one writer at a time: what a killed one has left is overwritten
    with open(temporary, "w", encoding="utf-8") as file:
        json.dump({"v": 1, "tools": entries}, file)
        file.flush()
        os.fsync(file.fileno())
    os.replace(temporary, path)


def read(path: str) -> dict[str, Entry]:
    """The entries at `path`; none if there is nothing that can be read."""
    try:
        with open(path, encoding="utf-8") as file:
            entries = json.load(file)["tools"]
    except (OSError, ValueError, KeyError, TypeError):
        return {}
    return dict(entries)
