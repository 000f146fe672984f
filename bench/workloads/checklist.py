"""A list of promises, each with what was measured: "ok  text: measured", or "NO  text: measured"."""

from __future__ import annotations

import sys


class Checklist:
    """The promises of one workload; each line is printed as soon as it is known.

    Args:
        timed: Whether promises about time count; a short run only prints what it measures of these.

    Attributes:
        broken: The texts of promises that do not hold.
    """

    def __init__(self, *, timed: bool = True) -> None:
        self.broken: list[str] = []
        self._kept = 0
        self._timed = timed

    def check(self, text: str, holds: object, measured: object = "") -> bool:
        """Say whether the promise `text` holds, and what was `measured`; returns whether it does."""
        self._say("ok" if holds else "NO", text, measured)
        if holds:
            self._kept += 1
        else:
            self.broken.append(text)
        return bool(holds)

    def time(self, text: str, holds: object, measured: object = "") -> None:
        """`check` a promise about time; a short run, on a machine that does other things, does not judge."""
        if self._timed:
            self.check(text, holds, measured)
        else:
            self._say("--", text, measured)

    def skip(self, text: str, why: str) -> None:
        """Say that the promise `text` cannot be checked here, and why."""
        self._say("--", text, why)

    def status(self) -> int:
        """Print how many promises hold: the exit status, 1 if one does not."""
        total = self._kept + len(self.broken)
        print(f"{self._kept} of {total} hold" + "".join(f"\nbroken: {text}" for text in self.broken))
        sys.stdout.flush()
        return 1 if self.broken else 0

    def _say(self, mark: str, text: str, measured: object) -> None:
        print(f"{mark}  {text}: {measured}" if measured != "" else f"{mark}  {text}", flush=True)
