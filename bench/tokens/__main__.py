"""Are the jobs of all builds together bounded, are they shared fairly, and what does that cost?

`python -m bench.tokens --builds 1000 --seed 1` runs random builds of two makes, two ninjas and cargo, kills
and stops them, and judges by what their jobs have marked, without importing buildslots: never more jobs than
tokens and builds (but for those of a build that was stopped, or of a make that was killed), no file and no
lock left, nobody hungry for longer than 3 s while tokens lie unused, all who were left alone have done all
their jobs. `--only PART,…` asks the rest: `shares`, `creep`, `costs`, `makespan`. `--write` writes
bench/results/tokens.json and bench/results.md. Exits 1 if a bar is missed.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import random
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING

from bench.kit.figures import quantile
from bench.kit.shell import say
from bench.report.page import KEPT, render
from bench.tokens import chaos, costs, creep, judge, makespan, tools
from bench.tokens.builds import Yard
from bench.tokens.hunger import LONGEST_S
from bench.tokens.rows import Row
from bench.tokens.shares import CAP, Shares
from bench.tokens.table import Table

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from bench.tokens.tools import Tool

PARTS = ("builds", "creep", "shares", "costs", "makespan")
RESULT = KEPT / "tokens.json"
OLD_S = 12.0
"""What is younger than ten seconds is left alone: it may be somebody's who has only just begun."""
SHOWN = 20
"""So many problems are printed of each kind."""


def main() -> int:
    """Measure what the command line asks for; the exit status."""
    options = parse()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))  # with all that it started
    print(f"seed {options.seed}", flush=True)
    rows: list[tuple[str, Row]] = []
    with tempfile.TemporaryDirectory(prefix="tokens-") as scratch:
        names = tuple(options.tools or tools.NAMES)
        found = tools.find(names, Path(scratch))
        for part in options.only:
            root = Path(scratch, part)
            root.mkdir()
            yard = Yard(root, Table(root), CAP if part != "builds" else options.cap)
            try:
                for row in MEASURES[part](yard, found, options):
                    rows.append((part, row))
                    missed = "" if row.kept else "  MISSED"
                    print(
                        f"{row.what}: {row.figure}{f' (bar: {row.bar})' if row.bar else ''}{missed}",
                        flush=True,
                    )
            finally:
                yard.end()
    if options.write:
        write(rows, options, found)
        render()
    return 0 if all(row.kept for _, row in rows) else 1


def _builds(yard: Yard, found: dict[str, Tool], options: argparse.Namespace) -> Iterator[Row]:
    """The random builds."""
    run = chaos.Chaos(yard, found, options.seed, rate=options.rate, live=options.live)
    began = time.monotonic()
    run.run(options.builds)
    took_s = time.monotonic() - began
    outside = {build.number for build in yard.builds if not build.project.tool.obeys}
    pieces = list(judge.pieces((job for job in yard.table.jobs() if job.build not in outside), run.notes))
    breaches = judge.breaches(pieces, yard.cap)
    problems = [*run.problems, *_left(yard)]
    for problem in problems[:SHOWN]:
        say(problem)
    unexcused = [breach for breach in breaches if not breach.excuses]
    orphaned = [breach for breach in breaches if breach.excuses == "orphaned"]
    for breach in [*unexcused, *orphaned][:SHOWN]:
        who = ", ".join(_told(yard, number) for number in breach.builds)
        say(f"{breach.most} too many for {(breach.end - breach.start) / 1e6:.1f} ms: {who}")
    made = {name: run.counts.pop(f"builds of {name}", 0) for name in found}
    yield Row("builds; jobs; seconds", f"{options.builds:,}; {len(yard.table):,}; {took_s:.0f}")
    yield Row("of each tool", ", ".join(f"{count} {name}" for name, count in made.items()))
    yield Row(
        "what was done to them", ", ".join(f"{count} {name}" for name, count in sorted(run.counts.items()))
    )
    lives = [(build.began, build.ended) for build in yard.builds if build.number not in outside]
    times, worst = judge.beyond_live(pieces, lives, yard.cap)
    yield Row(
        "times with more jobs than C and the builds that lived, but for the two kinds below",
        f"{times}; at most {worst}",
        "0",
        not times,
    )
    peak = judge.peak(pieces)
    yield Row(f"most jobs beyond the first of each build, C = {yard.cap}", str(peak))
    yield Row("times with more of them than C", str(len(unexcused)), "0", not unexcused)
    yield _told_of(orphaned, "because jobs outlived the tool that had started them")
    resumed = [breach for breach in breaches if "resumed" in breach.excuses]
    yield _told_of(resumed, "until jobs of a stopped build, which went on, had ended")
    hungry = list(run.hunger.longest.values()) or [0.0]
    figure = f"{max(hungry):.2f} s; p99 {quantile(hungry, 0.99):.2f} s"
    yield Row("longest hungry while tokens lay unused", figure, f"{LONGEST_S:g} s", max(hungry) <= LONGEST_S)
    yield Row("hung, failed, or files or locks left", str(len(problems)), "0", not problems)


def _told_of(those: list[judge.Breach], why: str) -> Row:
    """How often it was so, and how bad it was; buildslots/help/tokens.md says that it may be."""
    longest = max(((breach.end - breach.start) / 1e9 for breach in those), default=0.0)
    worst = max((breach.most for breach in those), default=0)
    return Row(f"the same, {why}", f"{len(those)}; at most {worst} for {longest:.2f} s")


def _left(yard: Yard) -> list[str]:
    """What is left once somebody has come after all of them, and not too soon after."""
    if yard.left():
        time.sleep(OLD_S)
    subprocess.run([*yard.slot_run(), "sleep", "1"], env=yard.environ, check=True, stdin=subprocess.DEVNULL)
    left = [f"left: {path}" for path in yard.left()]
    return left + [f"token {number} is held" for number in sorted(yard.held())]


def _told(yard: Yard, number: int) -> str:
    build = yard.builds[number]
    hurt = f" ({', '.join(build.hurt)})" if build.hurt else ""
    return f"{number} {build.project.tool.name} -j{build.jobs}{hurt}"


MEASURES: dict[str, Callable[[Yard, dict[str, Tool], argparse.Namespace], Iterator[Row]]] = {
    "builds": _builds,
    "creep": lambda yard, found, _: creep.rows(yard, found),
    "shares": lambda yard, found, options: Shares(yard, found, options.rounds).rows(),
    "costs": lambda yard, found, options: costs.rows(yard, found, options.rounds),
    "makespan": lambda yard, found, options: makespan.rows(yard, found["make 4.3"], options.rounds),
}


def write(rows: list[tuple[str, Row]], options: argparse.Namespace, found: dict[str, Tool]) -> None:
    """Keep the figures for the page; those of parts that were not measured now stay."""
    kept = json.loads(RESULT.read_text())["parts"] if RESULT.exists() else {}
    for part in options.only:
        kept[part] = [[row.what, row.figure, row.bar] for its, row in rows if its == part]
    text = {
        "title": "Tokens: the jobs of all builds together",
        "command": f"python -m bench.tokens --builds {options.builds} --seed {options.seed}",
        "environment": {
            "cores": os.cpu_count(),
            "system": f"{platform.system()} {platform.release()}",
            "python": platform.python_version(),
            "tools": ", ".join(found),
        },
        "columns": ["what", "figure", "bar"],
        "rows": [row for part in PARTS for row in kept.get(part, [])],
        "notes": [" ".join(note.split()) for note in NOTES.split("\n\n")],
        "parts": kept,
    }
    RESULT.write_text(json.dumps(text, indent=2) + "\n")


NOTES = """ The first job of a build needs no token, so tokens bound the jobs beyond the first of each build.
What is promised is a little more: C and the builds that live.

A job marks its own start and end. One that is killed counts until it was, and one that is stopped until it
was.

A build is hungry if it has jobs left and fewer than its -j run. A token lies unused if no process has it
locked (/proc/locks), or, while nobody is hurt or stopped, if it is used for no job.

ninja 1.11 takes no tokens and keeps its -jN: its jobs are in no sum here. It is killed and stopped like the
others, and takes their processors.
"""


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m bench.tokens", description=__doc__.partition("\n")[0])
    parser.add_argument("--builds", type=int, default=1000, help="random builds")
    parser.add_argument("--seed", type=int, default=None)
    parser.add_argument("--cap", type=int, default=3, help="C, of the random builds")
    parser.add_argument("--live", type=int, default=5, help="builds at once, of the random ones")
    parser.add_argument("--rate", type=float, default=4.0, help="kills and stops in a second; 0 is none")
    parser.add_argument("--rounds", type=int, default=3, help="of each other measure")
    parser.add_argument(
        "--only", type=_some(PARTS), default=list(PARTS), metavar="PART,…", help=", ".join(PARTS)
    )
    parser.add_argument(
        "--tools", type=_some(tools.NAMES), default=[], metavar="TOOL,…", help=", ".join(tools.NAMES)
    )
    parser.add_argument("--write", action="store_true", help=f"write {RESULT.name} and results.md")
    options = parser.parse_args()
    if not sys.platform.startswith("linux"):
        parser.error("runs on Linux only")
    if options.seed is None:
        options.seed = random.SystemRandom().randrange(10**6)
    return options


def _some(names: tuple[str, ...]) -> Callable[[str], list[str]]:
    def names_in(text: str) -> list[str]:
        wanted = text.split(",")
        if wrong := [name for name in wanted if name not in names]:
            raise argparse.ArgumentTypeError(f"{wrong[0]!r} is none of {', '.join(names)}")
        return wanted

    return names_in


if __name__ == "__main__":
    sys.exit(main())
