"""How a batch of Python code has ended."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from buildslots.batch.state import FAILED, GOOD, TIMED_OUT

if TYPE_CHECKING:
    from collections.abc import Mapping
    from typing import Self

    from buildslots.batch.state import Outcome


class BatchError(RuntimeError):
    """Tasks of a batch have failed.

    >>> try:
    ...     run_batch([{"run": ["false"], "name": "no"}]).check()
    ... except BatchError as error:
    ...     print(error)
    1 of 1 tasks has failed; the first is 'no': exit status 1

    Attributes:
        report: How the batch has ended.
    """

    def __init__(self, report: Report) -> None:
        self.report = report
        bad = [outcome for outcome in report.outcomes if not outcome.is_good]
        # What was skipped or undone because of them says nothing about why.
        failed = [outcome for outcome in bad if outcome.state in (FAILED, TIMED_OUT)]
        what = "failed" if failed else "not succeeded"
        bad = failed or bad
        first = f"; the first is {bad[0].name!r}: {bad[0].reason}" if bad else ""
        undone = "; everything was undone" if report.rolled_back else ""
        verb = "has" if len(bad) == 1 else "have"
        super().__init__(f"{len(bad)} of {len(report.outcomes)} tasks {verb} {what}{first}{undone}")

    def __reduce__(self) -> tuple[type, tuple[Report]]:
        return type(self), (self.report,)


@dataclass(frozen=True, slots=True)
class Report:
    """How a batch has ended.

    >>> report = run_batch([{"run": "exit 3", "name": "a"}, {"run": ["true"], "name": "b", "needs": ["a"]}])
    >>> report.is_good, report.counts
    (False, {'failed': 1, 'skipped': 1})

    Attributes:
        id: Of this run, as `buildslots batches` lists it.
        path: The directory of its records; None if there are none.
        outcomes: Of all tasks, in the order of their ends.
        counts: How many tasks have ended in each state.
        rolled_back: Whether everything was undone, with all-or-nothing.
        ran_s: Seconds from its begin to its end.
    """

    id: str
    path: str | None
    outcomes: tuple[Outcome, ...]
    counts: Mapping[str, int]
    rolled_back: bool
    ran_s: float

    @property
    def is_good(self) -> bool:
        """Whether every task is "ok" or "unchanged"."""
        return not self.rolled_back and not self.counts.keys() - GOOD

    def check(self) -> Self:
        """This report, if every task has ended well.

        Raises:
            BatchError: One has not.
        """
        if not self.is_good:
            raise BatchError(self)
        return self
