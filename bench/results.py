"""Results of `python -m bench`: kept as JSON, rendered as Markdown."""

from __future__ import annotations

import json
import shlex
import statistics
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from bench.measures import MEASURES
from bench.peers import CHECKOUT, LIMITS

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from bench.measures import Measure

HERE = CHECKOUT / "bench"
JSON, MARKDOWN, CHARTS = HERE / "results.json", HERE / "results.md", HERE / "charts"
OTHERS = ("agents", "abuse")
"""Modules of ours that leave a table of their own in NAME.json."""
CAP = "cap"
"""`--only cap`: all that shows how many ran at once."""
NONE = "-"

Results = dict[str, Any]
"""`environment` (label: text), `missing` (peer: why), `notes`, and `samples`.

A sample has `scenario`, `peer`, `contenders`, `hold_s`, and `values` (name: number) or `failed` (why).
"""


@dataclass(frozen=True)
class Row:
    """One peer under one measure, over all repetitions."""

    peer: str
    contenders: int
    hold_s: float
    values: list[float]
    beside: tuple[float | None, ...]
    failed: str | None

    @property
    def median(self) -> float | None:
        """None if it failed, or was too short to say anything."""
        return statistics.median(self.values) if self.values and not self.failed else None


def rows(measure: Measure, results: Results) -> list[Row]:
    """What was measured, few contenders first."""
    groups: dict[tuple[float, int, str], list[Results]] = {}
    for sample in results["samples"]:
        if sample["scenario"] == measure.scenario:
            key = (sample["hold_s"], sample["contenders"], sample["peer"])
            groups.setdefault(key, []).append(sample)
    found = []
    for (hold_s, contenders, peer), samples in sorted(groups.items(), key=lambda group: group[0][:2]):
        failed = next((sample["failed"] for sample in samples if "failed" in sample), None)
        values = values_of(samples, measure.value)
        beside = tuple(summary(name, values_of(samples, name)) for _, name in measure.beside)
        if failed or values:
            found.append(Row(peer, contenders, hold_s, values, beside, failed))
    return found


def values_of(samples: list[Results], name: str) -> list[float]:
    """The numbers called `name` of those that have one."""
    return [sample["values"][name] for sample in samples if name in sample.get("values", ())]


def summary(name: str, values: list[float]) -> float | None:
    """The median, if there is any value; of how many ran beyond the cap the most."""
    if not values:
        return None
    return max(values) if name == "over" else statistics.median(values)


def best(measure: Measure, row: Row, among: list[Row]) -> float | None:
    """The best median of a peer under the conditions of `row`."""
    medians = [
        other.median
        for other in among
        if (other.contenders, other.hold_s) == (row.contenders, row.hold_s)
        and other.peer not in LIMITS
        and other.median is not None
    ]
    if not medians:
        return None
    return max(medians) if measure.higher else min(medians)


def limit(measure: Measure, row: Row, among: list[Row]) -> float | None:
    """What the machine allows under the conditions of `row`."""
    if not isinstance(measure.limit, str):
        return measure.limit
    of_limit = [other for other in among if other.peer == measure.limit]
    same = [other for other in of_limit if other.contenders == row.contenders] or of_limit
    return same[0].median if same else None


def number(value: float | None) -> str:
    """`value` with three digits that count."""
    if value is None:
        return NONE
    if abs(value) >= 100 or value == int(value):
        return f"{value:.0f}"
    return f"{value:.{1 if abs(value) >= 10 else 2 if abs(value) >= 0.1 else 4}f}"


def ratio(value: float | None, to: float | None) -> str:
    """`value` as so many times `to`."""
    return NONE if value is None or not to else f"{value / to:.2f}"


def reproduce(only: str, row: Row, results: Results) -> str:
    """The command that measures `row` again."""
    words = ["python", "-m", "bench", *results["quick"], "--only", only, "--peers", row.peer]
    words += ["--contenders", str(row.contenders)]
    if row.hold_s:
        words += ["--hold", f"{row.hold_s:g}"]
    return f"`{shlex.join(words)}`"


def table(measure: Measure, results: Results) -> Iterator[str]:
    """The lines of a Markdown table; none if there are no rows."""
    found = rows(measure, results)
    if not found:
        return
    holds = len({row.hold_s for row in found}) > 1
    head = ["peer", "contenders", *(["hold, s"] if holds else []), f"median, {measure.unit}".rstrip(", ")]
    head += ["min to max", "to the best peer", "to the limit"]
    head += ["to its own with 4"] * measure.against_4
    head += [*(title for title, _ in measure.beside), "again"]
    yield f"### {measure.says}"
    yield ""
    yield from markdown_head(head)
    for row in found:
        cells = [row.peer + (" (limit)" if row.peer in LIMITS else ""), str(row.contenders)]
        cells += [f"{row.hold_s:g}"] * holds
        if row.failed:
            cells += [f"failed: {row.failed}"] + [NONE] * (len(head) - len(cells) - 2)
        else:
            cells += [f"**{number(row.median)}**", f"{number(min(row.values))} to {number(max(row.values))}"]
            cells += [
                ratio(row.median, best(measure, row, found)),
                ratio(row.median, limit(measure, row, found)),
            ]
            cells += [ratio(row.median, with_four(row, found))] * measure.against_4
            cells += [number(value) for value in row.beside]
        yield markdown_row([*cells, reproduce(measure.name, row, results)])
    yield ""


def with_four(row: Row, among: list[Row]) -> float | None:
    """The same peer's median with four contenders."""
    four = [other for other in among if (other.peer, other.contenders) == (row.peer, 4)]
    return four[0].median if four else None


def cap_table(results: Results) -> Iterator[str]:
    """How often and by how much each peer had more running than slots, in all runs that can show it."""
    runs: dict[str, list[float]] = {}
    for sample in results["samples"]:
        runs.setdefault(sample["peer"], []).extend(values_of([sample], "over"))
    yield "### Over-admission: most that ran at once beyond the slots, in all runs above"
    yield ""
    yield from markdown_head(["peer", "most over the cap", "runs over the cap", "runs", "again"])
    for peer, overs in runs.items():
        if overs:
            words = ["python", "-m", "bench", *results["quick"], "--only", CAP, "--peers", peer]
            cells = [peer, f"**{max(overs):.0f}**", str(sum(map(bool, overs))), str(len(overs))]
            yield markdown_row([*cells, f"`{shlex.join(words)}`"])
    yield ""


def markdown_row(cells: list[str]) -> str:
    """One line of a table."""
    texts = [cell.replace("|", r"\|").replace("\n", " ") for cell in cells]
    return f"| {' | '.join(texts)} |"


def markdown_head(titles: list[str]) -> list[str]:
    """The head and the rule below it."""
    return [markdown_row(titles), "|" + " --- |" * len(titles)]


def tables(results: Results, only: set[str]) -> Iterator[str]:
    """The tables of the measures `only`; of all if that is empty."""
    for measure in MEASURES:
        if not only or measure.name in only:
            yield from table(measure, results)
    if not only or CAP in only:
        yield from cap_table(results)


def head(results: Results) -> Iterator[str]:
    """What was measured where, and what could not be."""
    yield from markdown_head(["environment", ""])
    yield from (markdown_row([label, str(text)]) for label, text in results["environment"].items())
    yield ""
    yield from (f"- Missing: **{peer}**: {why}." for peer, why in results["missing"].items())
    yield from (f"- {note}" for note in results["notes"])
    yield ""


def other(path: Path) -> Iterator[str]:
    """The table that a module of ours left in `path`, as it is."""
    data = json.loads(path.read_text())
    yield f"## {data['title']}"
    yield ""
    yield "; ".join(f"{label}: {text}" for label, text in data["environment"].items())
    yield ""
    yield from markdown_head([*data["columns"], "again"])
    for row in data["rows"]:
        yield markdown_row([*map(str, row), f"`{data['command']}`"])
    yield ""
    yield from (f"- {note}" for note in data["notes"])
    yield ""


def markdown(results: Results, only: set[str]) -> str:
    """The report of one session."""
    lines = ["# Side by side", "", *head(results), "## The peers", "", *tables(results, only)]
    return "\n".join(lines)


def write(results: Results) -> None:
    """Keep `results`, and render the report with its charts."""
    JSON.write_text(json.dumps(results, indent=1) + "\n")
    render()


def render() -> None:
    """Render the report and its charts from what was kept.

    Raises:
        FileNotFoundError: Nothing was.
    """
    from bench import charts  # noqa: PLC0415 - matplotlib, which only this needs

    results = json.loads(JSON.read_text())
    drawn = charts.draw(results, CHARTS)
    lines = [markdown(results, set())]
    if drawn:
        lines += ["## Charts", "", *(f"![{title}](charts/{name})\n" for name, title in drawn)]
    for name in OTHERS:
        path = HERE / f"{name}.json"
        if path.exists():
            lines += other(path)
    MARKDOWN.write_text("\n".join(lines).rstrip() + "\n")
