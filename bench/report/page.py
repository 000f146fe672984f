"""The page: bench/results.md, from what the programs of this directory have left in bench/results/."""

from __future__ import annotations

import json
import os
import platform
from pathlib import Path
from typing import TYPE_CHECKING

from bench.kit.shell import CHECKOUT
from bench.report.markdown import table
from bench.report.rows import Results
from bench.report.tables import tables
from bench.report.verdict import verdict

if TYPE_CHECKING:
    from collections.abc import Iterator

PAGE = CHECKOUT / "bench" / "results.md"
KEPT = CHECKOUT / "bench" / "results"
PEERS, SPEED = "peers", "speed"
OTHERS = ("agents", "agents-tokens", "tokens", "fleet", "fleet-scale", "fleet-faults", "fleet-storm", "abuse")
"""Programs that leave a table of their own in NAME.json."""
NOTES = """
Peers alternate within each repetition, in another order each time, so that what else the machine does hits
all of them. Medians are over all that was observed in all repetitions. All times are CLOCK_MONOTONIC.

"To the best peer" and "to the limit" divide medians. A limit is no peer: `python -c pass` for a start, a
blocking flock(1) or flock(2) for a hand-over, all slots in use all the time. A POSIX semaphore is shown as
a speed limit: it loses a slot for good when its holder is killed. tsp can be faster than flock(1): its
server starts the next command itself, and no process has to wake up for that.

NAME-wrapper is a library around `subprocess.call`, as its users write it. sweep is the algorithm of K
flock'ed files that are tried every 150 ms, written for this benchmark; filelock is tried on K files every
50 ms, its default.

pnpm runs a script of a project that belongs to a concurrency group: the script is `exec`, and the command
its arguments. The server of tsp is started beforehand, and its CPU counts.

With 256 contenders sem, filelock-wrapper, portalocker-wrapper (20 to 30 s of CPU for the starts) and pnpm
(6 GiB of memory) are left out. flock has one slot, and runs with that where others have three.

On a virtual machine whose host kept more than 3 % of the CPU time from it during a sample, that is taken
again, once, if it is short, and the less disturbed one counts, whoever the peer is.

SlotPool's pool is not a new one, as a user's is not. A gap below zero means over-admission: the next
started before the last had ended.

Where contenders want a slot again at once, a peer without a line often gives it to the one that just let
go, while the others starve. That counts as used, and shows in the longest wait, in which waits count that
had not ended.
"""


def report(results: Results) -> str:
    """One session by itself, as it is printed."""
    return "\n".join([*about(results), *tables(results)])


def about(results: Results) -> Iterator[str]:
    """What was measured where, and what could not be."""
    yield from table(["environment", ""], [[label, str(text)] for label, text in results.about.items()])
    yield from (f"- Missing: **{peer}**: {why}." for peer, why in results.missing.items())
    yield ""


def program(path: Path) -> Iterator[str]:
    """The table that a program left in `path`, as it is."""
    data = json.loads(path.read_text())
    yield f"## {data['title']}"
    yield ""
    where = "; ".join(f"{label}: {text}" for label, text in data["environment"].items())
    yield f"Again: `{data['command']}`. {where}."
    yield ""
    yield from table(data["columns"], [map(str, row) for row in data["rows"]])
    yield from (f"- {note}" for note in data["notes"])
    yield ""


def keep(  # noqa: PLR0913, PLR0917 - all that a table is
    name: str, title: str, command: str, columns: list[str], rows: list[list[str]], notes: list[str]
) -> None:
    """Have `program` find the table of `python -m COMMAND` as NAME.json, and write the page."""
    text = {
        "title": title,
        "command": f"python -m {command}",
        "environment": {
            "cores": os.cpu_count(),
            "system": f"{platform.system()} {platform.release()}",
            "python": platform.python_version(),
            "load in the last minute": f"{os.getloadavg()[0]:.1f}",
        },
        "columns": columns,
        "rows": rows,
        "notes": notes,
    }
    (KEPT / f"{name}.json").write_text(json.dumps(text, indent=2) + "\n")
    render()


def page(kept: Path, charts: list[tuple[str, str]]) -> str:
    """The whole page; `charts` are file names and what they show."""
    sessions = {
        name: Results.read(kept / f"{name}.ndjson")
        for name in (SPEED, PEERS)
        if (kept / f"{name}.ndjson").exists()
    }
    speed = sessions.get(SPEED) or sessions[PEERS]
    lines = ["# How fast, and how sure", "", *verdict(speed), *_measured(speed), ""]
    for name, title in charts:
        lines += [f"![{title}]({kept.name}/{name})", ""]
    lines += ["[What the numbers mean, and how to measure them again](README.md)", ""]
    if SPEED in sessions:
        lines += ["## Behind the verdict", "", *tables(speed)]
    if PEERS in sessions:
        lines += ["## Side by side", "", *tables(sessions[PEERS]), "### How", ""]
        lines += [f"- {' '.join(note.split())}" for note in NOTES.split("\n\n")]
        lines += ["", *about(sessions[PEERS])]
    for name in OTHERS:
        if (kept / f"{name}.json").exists():
            lines += program(kept / f"{name}.json")
    return "\n".join(lines).rstrip() + "\n"


def _measured(results: Results) -> Iterator[str]:
    """One paragraph on where the verdict comes from."""
    known = results.about
    yield (
        f"Measured by `{known['command']}` on {known['date']}: {known['CPU']}, {known['kernel']}, "
        f"{known['file system of the pools']}, {known['Python']}, load {known['load before']} before."
    )
    yield from (
        f"{label.capitalize()}: {known[label]}." for label in ("measured", "before") if label in known
    )


def render() -> None:
    """Write the page and its charts from what was kept.

    Raises:
        FileNotFoundError: Nothing was.
    """
    from bench.report import charts  # noqa: PLC0415 - matplotlib, which only this needs

    peers = KEPT / f"{PEERS}.ndjson"
    drawn = Results.read(peers if peers.exists() else KEPT / f"{SPEED}.ndjson")
    PAGE.write_text(page(KEPT, charts.draw(drawn, KEPT)))
