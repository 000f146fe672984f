"""Eight agents, each rebuilding a project of its own, all at once: what that does to the machine.

`python -m bench.agents [--quick] [--write]` builds eight PyPI sdists that contain C or C++, all started
together and each with as many compilers at once as the machine has cores (where it has several extensions):
with `slot-run -- pip wheel …` under the default cap, and without it, in turn. Three times each and about 6
minutes on two idle cores; with --quick once, smaller projects, and 2 minutes. --write stores the figures in
bench/results/agents.json, and writes bench/results.md. Exits 1 if a build fails or more of them compile at
once than there are slots. With --tokens each agent makes a C++ project with -j8 (`jobs`).

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
import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from bench.agents import figures, jobs
from bench.agents.machine import Machine, idle
from bench.agents.together import BenchError, run
from bench.agents.workshop import BACKENDS, Round, Workshop, run_round
from bench.report.page import KEPT, render

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


def table(slots: int, measured: dict[str, list[Measured]], quiet: Machine) -> list[list[str]]:
    """The rows of the table, a text for each column."""

    def its(name: str, text: str, value: Callable[[Measured], float]) -> list[str]:
        return figures.row(name, text, {way: list(map(value, rounds)) for way, rounds in measured.items()})

    machines = {way: [one.machine for one in rounds] for way, rounds in measured.items()}
    return [
        its("time until all are built", "{:.1f} s", lambda m: m.makespan_s),
        its("most builds compiling at once", "{:.0f}", lambda m: max(m.round.compiling, default=0)),
        its(f"more than {slots} compiling for", "{:.1f} s", lambda m: m.beyond_s(slots)),
        *figures.of_machine(machines, quiet),
    ]


def _bench(root: Path, *, quick: bool, write: bool) -> int:
    packages, rounds = (SMALL, QUICK_ROUNDS) if quick else (LARGE, ROUNDS)
    about = figures.environment()
    print(f"preparing {AGENTS} builds in {root}", flush=True)
    workshop = Workshop(root, packages, AGENTS, BACKENDS if quick else LARGE_BACKENDS)
    quiet = idle()
    slots, measured = measure(workshop, rounds)
    looks = [sum(len(one.machine.latencies_s) for one in measured[way]) for way in ("slots", "free")]
    idle_looks = len(quiet.latencies_s)
    told = figures.Table(
        title=f"{AGENTS} agents that build at once",
        command=f"python -m bench.agents{' --quick' * quick}",
        environment=about,
        columns=["", f"slot-run, K = {slots}", "without", "idle machine"],
        rows=table(slots, measured, quiet),
        notes=[
            f"Each agent builds one of {', '.join(packages)}, with up to {os.cpu_count()} compilers at once.",
            figures.rounds_in_words(rounds),
            f"Foreground commands: {looks[0]} with slot-run, {looks[1]} without, {idle_looks} idle.",
        ],
    )
    told.show()
    if write:
        told.write(KEPT / "agents.json")
        render()
    return 0


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m bench.agents", description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="one round each way, of small projects")
    parser.add_argument("--tokens", action="store_true", help="makes of C++ files: slots, and tokens as well")
    parser.add_argument("--write", action="store_true", help="store the figures in bench/results")
    options = parser.parse_args()
    if not sys.platform.startswith("linux"):
        parser.error("runs on Linux only")
    bench = jobs.bench if options.tokens else _bench
    return run("agents", lambda root: bench(root, quick=options.quick, write=options.write))


if __name__ == "__main__":
    sys.exit(main())
