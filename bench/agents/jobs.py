"""Eight agents that make C++ projects with -j8, all at once: slots alone, slots and tokens, and neither.

Builds are bounded by slots, and the compilers in them only by tokens. Each compiler needs some 200 MiB, so
their number decides how much memory the machine needs. They are recorded one by one.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from bench.agents import figures
from bench.agents.machine import Machine, idle
from bench.agents.together import BenchError, Job, run_together
from bench.kit.installs import this
from bench.kit.recorder import compile_recorder, recorded
from bench.kit.shell import forget_settings
from bench.kit.spans import peak_overlap
from bench.report.page import KEPT, render

if TYPE_CHECKING:
    from collections.abc import Callable

AGENTS, JOBS = 8, 8
FILES, QUICK_FILES = 4, 1
ROUNDS, QUICK_ROUNDS = 3, 1
SOURCE = r"""
#include <algorithm>
#include <map>
#include <regex>
#include <string>
#include <vector>
int most{n}(const std::string &text) {{
    static const std::regex word("[a-z]+[0-9]{{{n}}}");
    std::map<std::string, int> seen;
    for (auto at = std::sregex_iterator(text.begin(), text.end(), word); at != std::sregex_iterator(); ++at)
        ++seen[at->str()];
    std::vector<std::pair<std::string, int>> all(seen.begin(), seen.end());
    std::sort(all.begin(), all.end(), [](auto &a, auto &b) {{ return a.second > b.second; }});
    return all.empty() ? 0 : all[0].second;
}}
"""


@dataclass(frozen=True)
class Measured:
    """One round.

    Attributes:
        took_s: Until the last build had ended.
        compilers: The most that ran at once.
        machine: What it did to the machine.
    """

    took_s: float
    compilers: int
    machine: Machine


def bench(root: Path, *, quick: bool, write: bool) -> int:
    """Measure, print, and with `write` keep the table; the exit status."""
    files, rounds = (QUICK_FILES, QUICK_ROUNDS) if quick else (FILES, ROUNDS)
    about = figures.environment()
    forget_settings(root)
    for name in ("MAKEFLAGS", "MAKELEVEL"):
        os.environ.pop(name, None)
    os.environ["BUILD_SLOTS_DIR"] = str(root / "pool")
    recorder = compile_recorder(root)
    sources = root / "sources"
    for agent in range(AGENTS):
        _write(sources / str(agent), files, recorder)
    status = [this().buildslots, "status", "--json"]
    slots = int(json.loads(subprocess.run(status, check=True, capture_output=True).stdout)["cap"])
    quiet = idle()
    slot_run = [this().slot_run, "--timeout", "none"]
    ways = {"slots": [*slot_run, "--"], "tokens": [*slot_run, "--tokens=auto", "--"], "free": []}
    measured: dict[str, list[Measured]] = {way: [] for way in ways}
    for number in range(rounds):
        for way, prefix in ways.items():
            measured[way].append(_round(root, f"{way}-{number}", prefix))
            print(f"{way}-{number}: {measured[way][-1].took_s:.1f} s", flush=True)

    def its(name: str, text: str, value: Callable[[Measured], float]) -> list[str]:
        return figures.row(name, text, {way: list(map(value, those)) for way, those in measured.items()})

    machines = {way: [one.machine for one in those] for way, those in measured.items()}
    told = figures.Table(
        title=f"{AGENTS} agents that make C++ with -j{JOBS} at once",
        command=f"python -m bench.agents --tokens{' --quick' * quick}",
        environment=about,
        columns=["", f"slot-run, K = {slots}", "the same with --tokens=auto", "without", "idle machine"],
        rows=[
            its("time until all are built", "{:.1f} s", lambda m: m.took_s),
            its("most compilers at once", "{:.0f}", lambda m: m.compilers),
            *figures.of_machine(machines, quiet),
        ],
        notes=[
            f"Each agent makes {files} C++ file{'s' * (files > 1)} that use std::regex, with -j{JOBS}.",
            figures.rounds_in_words(rounds),
        ],
    )
    told.show()
    if write:
        told.write(KEPT / "agents-tokens.json")
        render()
    return 0


def _write(directory: Path, files: int, recorder: Path) -> None:
    """A project: its compilers are recorded in $AGENTS_LOG."""
    directory.mkdir(parents=True)
    for n in range(files):
        (directory / f"f{n}.cpp").write_text(SOURCE.format(n=n + 1))
    objects = " ".join(f"f{n}.o" for n in range(files))
    compile_ = f"@{recorder} $(AGENTS_LOG) cc -- g++ -O1 -c -o $@ $<"
    (directory / "Makefile").write_text(f"all: {objects}\n%.o: %.cpp\n\t{compile_}\n")


def _round(root: Path, name: str, prefix: list[str]) -> Measured:
    """Build everything at once, each build behind `prefix`.

    Raises:
        BenchError: A build failed.
    """
    folder = root / name
    shutil.copytree(root / "sources", folder)
    log = folder / "recorded"
    os.sync()  # what earlier rounds wrote is not written in this one
    env = os.environ | {"AGENTS_LOG": str(log)}
    command = [*prefix, "make", "-s", f"-j{JOBS}", "-C"]
    jobs = [
        Job([*command, str(folder / str(agent))], env, folder / f"{agent}.log") for agent in range(AGENTS)
    ]
    machine = Machine()
    began = time.monotonic()
    ends = run_together(jobs, machine)
    took_s = time.monotonic() - began
    if any(status for _, status in ends):
        raise BenchError(f"a build failed: {(folder / '0.log').read_text(errors='replace')[-500:]}")
    compilers = peak_overlap(recorded(log))
    shutil.rmtree(folder)
    return Measured(took_s, compilers, machine)
