"""`buildslots history`: how long builds waited and ran, by pool, directory, program, priority; and advice."""

from __future__ import annotations

import shutil
import sys
import time
from dataclasses import asdict

from buildslots.look import of_this_machine
from buildslots.settings import resolve
from buildslots.view.past.advice import advice_now
from buildslots.view.past.builds import asked_for
from buildslots.view.past.figures import Figures, builds_in_words, by, caps_in_words, figures, is_url
from buildslots.view.table import table
from buildslots.words import cells, fit, fit_end, short_path, shown, size, span

TYPE_CHECKING = False
if TYPE_CHECKING:
    import argparse
    from collections.abc import Callable

    from buildslots.view.past.builds import Build, Past

ROWS = 10
"""How many directories and programs people are shown; --json has all of them."""
NAMED = 60
"""Cells of the name of a directory or a program in a table."""
USE = (11, 12)
"""Columns of HEAD that are left out where nothing stands in them: of old journals, and of Python code."""
FIRST_TO_GO = (*USE, 10, 9, 6, 8, 5, 3, 2)
"""Columns of HEAD that are left out where the terminal has no room for them, in this order."""
SHORT_NAME, LEAST_NAME = 30, 10
"""Cells that a name keeps before columns go, and however narrow the terminal is."""
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
    "CORES",
    "MEMORY",
]
UNKNOWN = "-"
"""What stands in a table for a figure of nothing."""


def run(options: argparse.Namespace) -> int:
    """Print the history that the options ask for."""
    shown = asked_for(options)
    pools = by(shown.builds, "dir", "pool")
    advices = {key: advice_now(shown, *key) for key in pools}
    if options.json:
        import json  # noqa: PLC0415

        sys.stdout.write(json.dumps(_as_dict(shown, pools, advices), indent=2) + "\n")
    else:
        width = shutil.get_terminal_size().columns if sys.stdout.isatty() else None
        sys.stdout.write(_text(shown, pools, advices, width) + "\n")
    return 0


def _as_dict(
    shown: Past, pools: dict[tuple[str, ...], list[Build]], advices: dict[tuple[str, ...], str]
) -> object:
    def groups(builds: list[Build], name: str) -> list[dict[str, object]]:
        return [{name: key, **_counts(some, shown)} for (key,), some in by(builds, name).items()]

    def kinds(builds: list[Build]) -> dict[str, object]:
        found: dict[str, list[dict[str, object]]] = {"programs": [], "batches": []}
        for ((batch, program),), some in by(builds, "kind").items():
            if batch:
                found["batches"].append({"batch": batch, "ids": _ids(some), **_counts(some, shown)})
            else:
                found["programs"].append({"program": program, **_counts(some, shown)})
        return {**found}

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
                **kinds(builds),
                "priorities": groups(builds, "priority"),
            }
            for (directory, pool), builds in pools.items()
        ],
    }


def _counts(builds: list[Build], shown: Past) -> dict[str, object]:
    """The figures of some of a pool's builds, without how full the slots were: only a whole pool has that."""
    its = asdict(figures(builds, shown.since, shown.until))
    return {name: value for name, value in its.items() if name not in ("full_s", "busy_s", "period_s")}


def _text(
    shown: Past,
    pools: dict[tuple[str, ...], list[Build]],
    advices: dict[tuple[str, ...], str],
    width: int | None,
) -> str:
    """All of it for people; on a terminal `width` columns wide no row of a table is wider."""
    if not pools:
        return "The journal has no builds of this time."
    since = time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(shown.since))
    lines = [f"since {since}, {span(shown.until - shown.since)} ago"]
    for (directory, pool), builds in pools.items():
        its = figures(builds, shown.since, shown.until)
        is_afar = is_url(directory)
        where = (
            f"at {short_path(directory)}, builds of this machine"
            if is_afar
            else f"in {short_path(directory)}"
        )
        settings = resolve(pool=pool, warn=lambda _: None)
        if "url" in settings.said:  # these were of this machine
            settings = of_this_machine(settings)
        caps = "" if is_afar else caps_in_words(builds, settings.slots)
        lines += [
            "",
            f"pool {pool} {where}",
            *_summary(its, is_afar=is_afar),
            *([caps] if caps else []),
            "",
        ]
        for title, name in (("DIRECTORY", "cwd"), ("PROGRAM", "kind"), ("PRIORITY", "priority")):
            groups = list(by(builds, name).items())
            if name == "priority" and len(groups) == 1:
                continue
            rows = [
                [*_row(figures(some, shown.since, shown.until)), _shown(key, some)]
                for (key,), some in groups[:ROWS]
            ]
            lines += _fitted([*HEAD, title], rows, width, fit_end if name == "cwd" else fit)
            if len(groups) > ROWS:
                lines.append(f"… and {len(groups) - ROWS} more: see --json")
            lines.append("")
        lines.append(advices[directory, pool])
    return "\n".join(lines)


def _fitted(
    head: list[str], rows: list[list[str]], width: int | None, cut: Callable[[str, int], str]
) -> list[str]:
    """The table: names are cut by `cut`, and columns left out, as far as `width` asks for it."""
    kept = [c for c in range(len(head)) if c not in USE or any(row[c] != UNKNOWN for row in rows)]
    names = max(cells(row[-1]) for row in rows)
    for dropped in (None, *FIRST_TO_GO):
        kept = [column for column in kept if column != dropped]
        lines = _columns(head, rows, kept)
        room = names if width is None else width - (max(map(cells, lines)) - names)
        if room >= min(names, SHORT_NAME):
            break
    return _columns(head, [[*row[:-1], cut(row[-1], max(room, LEAST_NAME))] for row in rows], kept)


def _columns(head: list[str], rows: list[list[str]], kept: list[int]) -> list[str]:
    """The table of the columns `kept`, of which the last has names, and the others numbers."""
    return table(
        [head[c] for c in kept], [[row[c] for c in kept] for row in rows], right=range(len(kept) - 1)
    )


def _summary(its: Figures, *, is_afar: bool) -> list[str]:
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
    # How many slots others have held meanwhile, no journal of this machine tells.
    full = "" if is_afar else f"; all slots held for {span(its.full_s)}, {share:.0%} of the time"
    used = [] if its.cores is None else [f"{its.cores:.1f} cores each on average"]
    if its.max_rss.max is not None:
        used.append(f"processes of at most {size(its.max_rss.max)}")
    tokens = []
    if its.tokens_max is not None:
        tokens = [
            f"{builds_in_words(its.with_tokens)} with CPU tokens, at most {its.tokens_max} at once in one"
        ]
    return [
        ", ".join([f"{builds_in_words(its.builds)}, {its.queued} of them queued", *others]),
        f"at most {its.peak} at once{slots}{full}",
        *([", ".join(used)] if used else []),
        *tokens,
    ]


def _row(its: Figures) -> list[str]:
    counts = [its.builds, its.queued, its.fell_through, its.failed]
    spans = [its.wait.p50_s, its.wait.p95_s, its.wait.max_s, its.run.p50_s, its.run.p95_s, its.run.max_s]
    return [
        *map(str, counts),
        *(UNKNOWN if s is None else span(s) for s in spans),
        str(its.peak),
        UNKNOWN if its.cores is None else f"{its.cores:.1f}",
        UNKNOWN if its.max_rss.max is None else size(its.max_rss.max),
    ]


def _shown(key: str | tuple[str, str], builds: list[Build]) -> str:
    """A directory; or what `builds` have in common, a program or a batch."""
    if isinstance(key, str):
        return short_path(key, NAMED)
    batch, program = key
    if not batch:
        return shown(program, NAMED)
    runs = len(_ids(builds))
    times = f", {runs} runs" if runs > 1 else ""
    return f"batch {shown(batch, NAMED - len(f'batch {times}'))}{times}"


def _ids(builds: list[Build]) -> list[str]:
    """The batches that `builds` are tasks of, the first one first."""
    return list(dict.fromkeys(build.batch for build in builds))
