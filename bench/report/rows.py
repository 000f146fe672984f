"""Samples of a session, and what they say about one measure: a row for each peer and setting."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from bench.kit.figures import median, quantile
from bench.kit.peers import LIMITS

if TYPE_CHECKING:
    from pathlib import Path

    from bench.kit.question import Measure, Question

Sample = dict[str, Any]
"""`question`, `kind`, `peer`, `contenders`, `pause_s`; `values` (name: numbers) or `failed` (why)."""


@dataclass(frozen=True)
class Results:
    """What one session left.

    Attributes:
        about: Where, when and how, by labels.
        missing: Peers that could not be had, and why.
        samples: What was measured.
    """

    about: dict[str, str]
    missing: dict[str, str]
    samples: list[Sample]

    def write(self, path: Path) -> None:
        """Keep it, one sample a line."""
        lines = [{"about": self.about, "missing": self.missing}, *self.samples]
        path.parent.mkdir(exist_ok=True)
        path.write_text("".join(json.dumps(_rounded(line)) + "\n" for line in lines))

    @staticmethod
    def read(path: Path) -> Results:
        """What `write` kept.

        Raises:
            FileNotFoundError: Nothing.
        """
        head, *samples = map(json.loads, path.read_text().splitlines())
        return Results(head["about"], head["missing"], samples)


def _rounded(line: Sample) -> Sample:
    """With five digits that count: more are noise, and lines that nobody can read."""
    if "values" not in line:
        return line
    values = {
        name: [float(f"{each:.5g}") for each in value] if isinstance(value, list) else float(f"{value:.5g}")
        for name, value in line["values"].items()
    }
    return line | {"values": values}


@dataclass(frozen=True)
class Row:
    """One peer under one measure and setting, over all repetitions.

    Attributes:
        values: Of each repetition the number, or its median.
        median: Of all that was observed; None if it failed.
        beside: The further columns of the measure.
        failed: Why, if it did.
    """

    peer: str
    contenders: int
    pause_s: float
    values: list[float]
    median: float | None
    beside: tuple[float | None, ...]
    failed: str | None


def rows(question: Question, measure: Measure, samples: list[Sample]) -> list[Row]:
    """What was measured, few contenders first."""
    groups: dict[tuple[float, int, str], list[Sample]] = {}
    for sample in samples:
        if (sample["question"], sample["kind"]) == (question.name, question.kind):
            key = (sample["pause_s"], sample["contenders"], sample["peer"])
            groups.setdefault(key, []).append(sample)
    found = []
    for (pause_s, contenders, peer), group in sorted(groups.items(), key=lambda item: item[0][:2]):
        failed = next((sample["failed"] for sample in group if "failed" in sample), None)
        lists = [observed([sample], measure.value) for sample in group]
        values = [median(each) for each in lists if each]
        middle = median(together(lists)) if values and not failed else None
        beside = tuple(summary(observed(group, each.value), each.share) for each in measure.beside)
        if failed or values:
            found.append(Row(peer, contenders, pause_s, values, middle, beside, failed))
    return found


def together(lists: list[list[float]]) -> list[float]:
    """All that is in `lists`."""
    return [value for each in lists for value in each]


def observed(samples: list[Sample], name: str) -> list[float]:
    """All numbers called `name`."""
    found: list[float] = []
    for sample in samples:
        value = sample.get("values", {}).get(name, [])
        found += value if isinstance(value, list) else [value]
    return found


def summary(values: list[float], share: float) -> float | None:
    """The quantile, if there is any value."""
    return quantile(values, share) if values else None


def best(measure: Measure, row: Row, among: list[Row]) -> float | None:
    """The best median of a peer under the setting of `row`; another install of ours is none."""
    medians = [
        other.median
        for other in among
        if (other.contenders, other.pause_s) == (row.contenders, row.pause_s)
        and other.peer not in LIMITS
        and "," not in other.peer
        and other.median is not None
    ]
    if not medians:
        return None
    return max(medians) if measure.higher else min(medians)


def limit(measure: Measure, row: Row, among: list[Row]) -> float | None:
    """What the machine allows under the setting of `row`."""
    if not isinstance(measure.limit, str):
        return measure.limit
    of_limit = [other for other in among if other.peer == measure.limit]
    same = [other for other in of_limit if other.contenders == row.contenders] or of_limit
    return same[0].median if same else None
