"""The tables of a session: one a measure, a row for each peer and setting."""

from __future__ import annotations

import shlex
from typing import TYPE_CHECKING

from bench.kit.figures import NONE, ratio, shown
from bench.kit.peers import LIMITS
from bench.questions import QUESTIONS
from bench.report.markdown import table
from bench.report.rows import Results, best, limit, observed, rows

if TYPE_CHECKING:
    from collections.abc import Iterator

    from bench.kit.question import Measure, Question
    from bench.report.rows import Row


def tables(results: Results, level: str = "###") -> Iterator[str]:
    """All tables for which there are samples."""
    for question in QUESTIONS:
        for measure in question.measures:
            found = rows(question, measure, results.samples)
            if found:
                yield f"{level} {measure.says}"
                yield ""
                yield f"Again: `{again(question, results)}`"
                yield ""
                yield from table(titles(measure, found), [cells(measure, row, found) for row in found])
    yield from cap_table(results, level)


def again(question: Question, results: Results) -> str:
    """The command that measures the rows of `question` again."""
    words = ["python", "-m", "bench", *shlex.split(results.about.get("options", "")), "--only", question.name]
    return shlex.join(words)


def titles(measure: Measure, found: list[Row]) -> list[str]:
    """The head of a table; of pauses only where they differ."""
    pauses = len({row.pause_s for row in found}) > 1
    head = ["peer", "contenders", *(["pause, s"] if pauses else [])]
    head += [f"median, {measure.unit}".rstrip(", "), "min to max of the runs"]
    return [*head, "to the best peer", "to the limit", *(beside.title for beside in measure.beside)]


def cells(measure: Measure, row: Row, found: list[Row]) -> list[str]:
    """The texts of one row."""
    pauses = len({row.pause_s for row in found}) > 1
    texts = [row.peer + (" (limit)" if row.peer.partition(",")[0] in LIMITS else ""), str(row.contenders)]
    texts += [f"{row.pause_s:g}"] * pauses
    if row.failed:
        return texts + [f"failed: {row.failed}"] + [NONE] * (3 + len(measure.beside))
    texts += [f"**{shown(row.median)}**", f"{shown(min(row.values))} to {shown(max(row.values))}"]
    for other in (best(measure, row, found), limit(measure, row, found)):
        times = ratio(row.median, other)
        texts.append(NONE if times is None else f"{times:.2f}")
    return texts + [shown(value) for value in row.beside]


def cap_table(results: Results, level: str) -> Iterator[str]:
    """How often and by how much each peer had more running than slots, in all runs that can show it."""
    overs: dict[str, list[float]] = {}
    for sample in results.samples:
        if found := observed([sample], "over"):
            overs.setdefault(sample["peer"], []).extend(found)
    if overs:
        yield f"{level} Over-admission: most that ran at once beyond the slots, in all runs above"
        yield ""
        yield from table(
            ["peer", "most over the cap", "runs over the cap", "runs"],
            [
                [peer, f"**{max(found):.0f}**", str(sum(map(bool, found))), str(len(found))]
                for peer, found in overs.items()
            ],
        )
