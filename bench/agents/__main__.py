"""Eight agents, each rebuilding a project of its own, all at once: what that does to the machine.

`python -m bench.agents [--quick] [--write]` builds eight PyPI sdists that contain C or C++, all started
together and each with as many compilers at once as the machine has cores (where it has several extensions):
with `slot-run -- pip wheel …` under the default cap, and without it, in turn. Three times each and about 6
minutes on two idle cores; with --quick once, smaller projects, and 2 minutes. --write stores the figures in
bench/results/agents.json, and writes bench/results.md. Exits 1 if a build fails or more of them compile at
once than there are slots.

What is measured in each round, besides what `bench.agents.workshop` records:

- runnable processes of the whole machine: procs_running in /proc/stat, ten times a second (proc_stat(5));
- memory: the drop of MemAvailable since the round began, likewise (proc_meminfo(5));
- pressure: the growth of `some total=` in /proc/pressure/* as a share of the round (PSI, Linux 4.20);
- the foreground: how long a bare `python -c pass` takes from its start to its end, every 200 ms, as somebody
  who types commands meanwhile would see it.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from bench.agents.machine import PRESSURES, Machine, field_of, idle
from bench.agents.together import BenchError, run
from bench.agents.workshop import BACKENDS, Round, Workshop, run_round
from bench.kit.figures import median, quantile
from bench.report.page import KEPT, render

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import TypeAlias

    Value: TypeAlias = "Callable[[Measured], float | None]"

SMALL = (
    "greenlet==3.2.3",
    "msgpack==1.1.1",
    "bitarray==3.4.2",
    "xxhash==3.5.0",
    "psutil==7.0.0",
    "simplejson==3.20.1",
    "coverage==7.9.2",
    "pyrsistent==0.20.0",
)
"""Sdists that need only libc, setuptools and no Cython, and compile for 1 to 5 s on Python 3.11 to 3.13."""
LARGE = (
    "zstandard==0.23.0",
    "lz4==4.4.4",
    "pycryptodome==3.23.0",
    "regex==2024.11.6",
    "ujson==5.10.0",
    "psutil==7.0.0",
    "greenlet==3.2.3",
    "bitarray==3.4.2",
)
"""Sdists that need only libc and no Cython; the first four compile for 10 to 35 s of CPU each."""
LARGE_BACKENDS = (*BACKENDS, "setuptools_scm==8.3.1", "pkgconfig==1.5.5")
AGENTS = 8
ROUNDS, QUICK_ROUNDS = 3, 1
RESULTS = KEPT / "agents.json"


@dataclass(frozen=True)
class Measured:
    """One round, and what it did to the machine."""

    round: Round
    machine: Machine

    @property
    def makespan_s(self) -> float:
        """From the start of the first build to the end of the last."""
        builds = self.round.builds
        last = max((span.end for build in builds for span in build.ran), default=0)
        return (last - min(build.launched_ns for build in builds)) / 1e9

    def beyond_s(self, slots: int) -> float:
        """For how long more than `slots` builds compiled."""
        return sum(length for level, length in self.round.compiling.items() if level > slots)


def measure(workshop: Workshop, rounds: int) -> tuple[int, dict[str, list[Measured]]]:
    """K, and the rounds with slot-run ("slots") and without it ("free").

    Raises:
        BenchError: A build failed, or more of them compiled at once than there are slots.
    """
    pool = workshop.root / "pool"
    slots = _cap(workshop, pool)
    # For ever: with the default timeout a slow machine would, as promised, run builds beyond the cap.
    slot_run = [str(workshop.bin / "slot-run"), "--timeout", "none", "--dir", str(pool), "--"]
    parallel = workshop.root / "parallel.cfg"
    parallel.write_text(f"[build_ext]\nparallel = {os.cpu_count()}\n")
    measured: dict[str, list[Measured]] = {"slots": [], "free": []}
    for number in range(rounds):
        for way, prefix in (("slots", slot_run), ("free", [])):
            folder = f"{way}-{number}"
            os.sync()  # what earlier rounds wrote is not written in this one
            machine = Machine()
            done = run_round(workshop, folder, prefix, machine, DIST_EXTRA_CONFIG=str(parallel))
            shutil.rmtree(workshop.root / folder)
            measured[way].append(Measured(done, machine))
            _check(done, slots if prefix else AGENTS)
            print(f"{folder}: {measured[way][-1].makespan_s:.1f} s", flush=True)
    return slots, measured


def _cap(workshop: Workshop, pool: Path) -> int:
    """K, for builds of the workshop."""
    status = [str(workshop.bin / "buildslots"), "status", "--json", "--dir", str(pool)]
    shown = subprocess.run(status, env=workshop.environ(), check=True, capture_output=True).stdout
    return int(json.loads(shown)["cap"])


def _check(done: Round, slots: int) -> None:
    failed = [f"{build.name}: {build.why}" for build in done.builds if not build.ok]
    if max(done.compiling, default=0) > slots:
        failed.append(f"{max(done.compiling)} builds compiled at once under {slots} slots")
    if failed:
        raise BenchError("\n".join(failed))


def table(slots: int, measured: dict[str, list[Measured]], quiet: Machine) -> dict[str, object]:
    """The figures, as they are stored: `columns` are names, `rows` have a text for each of them."""

    def row(name: str, text: str, value: Value, at_rest: float | None = None) -> list[str]:
        cells = [_cell(text, [value(one) for one in measured[way]]) for way in ("slots", "free")]
        return [name, *cells, "" if at_rest is None else text.format(at_rest)]

    def latency_ms(machine: Machine, share: float) -> float:
        return 1000 * quantile(machine.latencies_s, share)

    rows = [
        row("time until all are built", "{:.1f} s", lambda m: m.makespan_s),
        row("most builds compiling at once", "{:.0f}", lambda m: max(m.round.compiling, default=0)),
        row(f"more than {slots} compiling for", "{:.1f} s", lambda m: m.beyond_s(slots)),
        row("most runnable processes", "{:.0f}", lambda m: m.machine.runnable, quiet.runnable),
        row("most memory in use, beyond that before", "{:.0f} MiB", lambda m: m.machine.memory / 2**20),
        *(
            row(
                f"time in which something waited for {name}",
                "{:.1%}",
                lambda m, name=name: m.machine.pressure[name],  # type: ignore[misc]
                quiet.pressure[name],
            )
            for name in PRESSURES
        ),
        *(
            row(
                f"`python -c pass` in the foreground, {name}",
                "{:.0f} ms",
                lambda m, share=share: latency_ms(m.machine, share),  # type: ignore[misc]
                latency_ms(quiet, share),
            )
            for name, share in (("median", 0.5), ("p99", 0.99), ("worst", 1.0))
        ),
    ]
    return {
        "columns": ["", f"slot-run, K = {slots}", "without", "idle machine"],
        "rows": rows,
    }


def _cell(text: str, values: list[float | None]) -> str:
    """The median of `values`, and the least and the greatest."""
    known = [value for value in values if value is not None]
    if not known:
        return "not available"
    shown = text.format(median(known))
    extremes = [text.format(extreme) for extreme in (min(known), max(known))]
    return shown if extremes == [shown, shown] else f"{shown} ({' to '.join(extremes)})"


def environment() -> dict[str, object]:
    """What the figures hold for."""
    compiler = subprocess.run(["cc", "--version"], check=True, capture_output=True, text=True).stdout
    return {
        "cores": os.cpu_count(),
        "memory_mib": round(field_of("/proc/meminfo", "MemTotal:") / 1024),
        "kernel": platform.release(),
        "python": platform.python_version(),
        "compiler": compiler.splitlines()[0],
        "load_before": round(os.getloadavg()[0], 2),
    }


def _bench(root: Path, *, quick: bool, write: bool) -> int:
    packages, rounds = (SMALL, QUICK_ROUNDS) if quick else (LARGE, ROUNDS)
    about = environment()
    print(f"preparing {AGENTS} builds in {root}", flush=True)
    workshop = Workshop(root, packages, AGENTS, BACKENDS if quick else LARGE_BACKENDS)
    quiet = idle()
    slots, measured = measure(workshop, rounds)
    figures = table(slots, measured, quiet)
    looks = [sum(len(one.machine.latencies_s) for one in measured[way]) for way in ("slots", "free")]
    notes = [
        f"Each agent builds one of {', '.join(packages)}, with up to {os.cpu_count()} compilers at once.",
        f"{rounds} round{'s' * (rounds > 1)} each way, in turn: the median, and in parentheses the extremes.",
        f"Foreground commands: {looks[0]} with slot-run, {looks[1]} without, {len(quiet.latencies_s)} idle.",
    ]
    _print(figures, notes)
    if write:
        head = {
            "title": f"{AGENTS} agents that build at once",
            "command": f"python -m bench.agents{' --quick' * quick}",
            "environment": about,
        }
        RESULTS.write_text(json.dumps({**head, **figures, "notes": notes}, indent=2) + "\n")
        render()
    return 0


def _print(figures: dict[str, object], notes: list[str]) -> None:
    lines = [figures["columns"], *figures["rows"]]  # type: ignore[misc]
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    for line in lines:
        print("  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip())
    for note in notes:
        print(note)


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m bench.agents", description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="one round each way, of small projects")
    parser.add_argument("--write", action="store_true", help=f"store the figures in {RESULTS.name}")
    options = parser.parse_args()
    if not sys.platform.startswith("linux"):
        parser.error("runs on Linux only")
    return run("agents", lambda root: _bench(root, quick=options.quick, write=options.write))


if __name__ == "__main__":
    sys.exit(main())
