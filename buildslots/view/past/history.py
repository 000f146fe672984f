"""`buildslots history`: how long builds waited and ran, by pool, directory and program, with advice."""

from __future__ import annotations

import sys
import time
from dataclasses import asdict

from buildslots.view.past.builds import asked_for
from buildslots.view.past.figures import Figures, advice_now, builds_in_words, by, figures
from buildslots.view.table import table
from buildslots.words import short_path, shown, span

TYPE_CHECKING = False
if TYPE_CHECKING:
    import argparse

    from buildslots.view.past.builds import Build, Past

ROWS = 10
"""How many directories and programs people are shown; --json has all of them."""
NAMED = 60
"""Cells of the name of a directory or a program in a table."""
HEAD = [
    "BUILDS",
    "QUEUED",
    "OVERFLOW",
    "FAILED",
    "WAIT p50",
    "p95",
    "max",
    "RUN p50",
    "p95",
    "max",
    "PEAK",
]


def run(options: argparse.Namespace) -> int:
    """Print the history that the options ask for."""
    shown = asked_for(options)
    pools = by(shown.builds, "dir", "pool")
    advices = {key: advice_now(shown, *key) for key in pools}
    if options.json:
        import json  # noqa: PLC0415

        sys.stdout.write(json.dumps(_as_dict(shown, pools, advices), indent=2) + "\n")
    else:
        sys.stdout.write(_text(shown, pools, advices) + "\n")
    return 0


def _as_dict(
    shown: Past, pools: dict[tuple[str, ...], list[Build]], advices: dict[tuple[str, ...], str]
) -> object:
    def groups(builds: list[Build], name: str) -> list[dict[str, object]]:
        return [{name: key, **_counts(some, shown)} for (key,), some in by(builds, name).items()]

    return {
        "since": shown.since,
        "until": shown.until,
        "pools": [
            {
                "pool": pool,
                "dir": directory,
                **asdict(figures(builds, shown.since, shown.until)),
                "advice": advices[directory, pool],
                "directories": groups(builds, "cwd"),
                "programs": groups(builds, "program"),
            }
            for (directory, pool), builds in pools.items()
        ],
    }


def _counts(builds: list[Build], shown: Past) -> dict[str, object]:
    """The figures of some of a pool's builds, without how full the slots were: only a whole pool has that."""
    its = asdict(figures(builds, shown.since, shown.until))
    return {name: value for name, value in its.items() if name not in ("full_s", "busy_s", "period_s")}


def _text(shown: Past, pools: dict[tuple[str, ...], list[Build]], advices: dict[tuple[str, ...], str]) -> str:
    if not pools:
        return "The journal has no builds of this time."
    since = time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(shown.since))
    lines = [f"since {since}, {span(shown.until - shown.since)} ago"]
    for (directory, pool), builds in pools.items():
        its = figures(builds, shown.since, shown.until)
        lines += ["", f"pool {pool} in {short_path(directory)}", *_summary(its), ""]
        for title, name in (("DIRECTORY", "cwd"), ("PROGRAM", "program")):
            groups = list(by(builds, name).items())
            rows = [
                [*_row(figures(some, shown.since, shown.until)), _shown(key, name)]
                for (key,), some in groups[:ROWS]
            ]
            lines += table([*HEAD, title], rows)
            if len(groups) > ROWS:
                lines.append(f"… and {len(groups) - ROWS} more: see --json")
            lines.append("")
        lines.append(advices[directory, pool])
    return "\n".join(lines)


def _summary(its: Figures) -> list[str]:
    """The sentences about a pool, above its tables."""
    others = [
        f"{count} {what}"
        for count, what in (
            (its.fell_through, "overflow"),
            (its.gave_up, "gave up"),
            (its.interrupted, "interrupted while waiting"),
            (its.degraded, "without a slot"),
            (its.failed, "failed"),
            (its.lost, "without a known end"),
        )
        if count
    ]
    share = its.full_s / its.period_s if its.period_s else 0.0
    slots = f" with {its.peak_slots} slots" if its.peak_slots > its.peak else ""
    return [
        ", ".join([f"{builds_in_words(its.builds)}, {its.queued} of them queued", *others]),
        f"at most {its.peak} at once{slots}; all slots held for {span(its.full_s)}, {share:.0%} of the time",
    ]


def _row(its: Figures) -> list[str]:
    counts = [its.builds, its.queued, its.fell_through, its.failed]
    spans = [its.wait.p50_s, its.wait.p95_s, its.wait.max_s, its.run.p50_s, its.run.p95_s, its.run.max_s]
    return [*map(str, counts), *("-" if s is None else span(s) for s in spans), str(its.peak)]


def _shown(key: str, name: str) -> str:
    return short_path(key, NAMED) if name == "cwd" else shown(key, NAMED)
