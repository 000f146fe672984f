"""Why a file is left as it is."""

from __future__ import annotations

from buildslots.words import short_path


class RefusedError(ValueError):
    """Something is not set up, and nothing was written: one sentence says why, and what to do.

    Attributes:
        path: The file in question.
        why: What is wrong with it.
    """

    def __init__(self, path: str, why: str) -> None:
        super().__init__(path, why)
        self.path = path
        self.why = why

    def __str__(self) -> str:
        return f"{short_path(self.path)} is left as it is: {self.why}"
