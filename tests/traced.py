"""How one state of a model was reached, and what is raised where it breaks a promise."""

from __future__ import annotations


class ViolationError(AssertionError):
    """Something that must never happen can; `trace` says how."""

    def __init__(self, what: str, trace: list[str]) -> None:
        super().__init__("\n  ".join([what, *trace]))
        self.what = what
        self.trace = trace


class Traced:
    """All states by number, each with the one that it was reached from first, and the step that led there."""

    def __init__(self) -> None:
        self._came: list[tuple[int, str]] = [(-1, "")]

    def trace(self, number: int) -> list[str]:
        """How the state was reached."""
        steps = []
        while number:
            number, what = self._came[number]
            steps.append(what)
        return steps[::-1]

    def _fail(self, what: str, number: int) -> None:
        raise ViolationError(what, self.trace(number))
