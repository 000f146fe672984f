"""Real builds: C files of a compiler's usual size, several projects at once, with tokens and without.

Without tokens each has its own `-jN`. Compilers are recorded one by one, and memory is what all processes of
all builds have for themselves (RssAnon in proc_pid_status(5)), twenty times a second.
"""

from __future__ import annotations

import time
from pathlib import Path
from typing import TYPE_CHECKING

from bench.kit.figures import median
from bench.kit.recorder import compile_recorder, recorded
from bench.kit.spans import peak_overlap
from bench.tokens import projects
from bench.tokens.builds import Yard, below
from bench.tokens.rows import Row

if TYPE_CHECKING:
    from collections.abc import Iterator

    from bench.tokens.tools import Tool

CAP = 2
WAYS = ((2, 50, 4), (4, 50, 8))
"""How many projects, of how many files, with which -j."""
BAR = 1.05
LOOK_S = 0.05
LIMIT_S = 300.0
FUNCTIONS = 10
FUNCTION = r"""
struct item{n} {{ long key; double weight; char name[24]; struct item{n} *next; }};
static int compare{n}(const void *a, const void *b) {{
    const struct item{n} *x = a, *y = b;
    return x->key < y->key ? -1 : x->key > y->key ? 1 : x->weight < y->weight ? -1 : x->weight > y->weight;
}}
long f{n}(const char *text, int count) {{
    struct item{n} items[64];
    long sum = 0;
    for (int i = 0; i < 64; i++) {{
        items[i].key = (i * {n}L + count) % 61;
        items[i].weight = items[i].key / (1.0 + i);
        snprintf(items[i].name, sizeof items[i].name, "%s %d", text, i);
        items[i].next = i ? &items[i - 1] : 0;
    }}
    qsort(items, 64, sizeof *items, compare{n});
    for (const struct item{n} *at = &items[63]; at; at = at->next)
        for (const char *c = at->name; *c; c++)
            sum = sum * 31 + (*c ^ at->key) + (long)(at->weight * {n});
    switch (sum % 7) {{
    case 0: return sum / 3;
    case 1: return sum ^ count;
    case 2: return strlen(text) + sum;
    default: return sum - {n};
    }}
}}
"""


class Figures:
    """What one way of building has shown, a value for each round."""

    def __init__(self) -> None:
        self.took_s: list[float] = []
        self.peak: list[int] = []
        self.memory: list[int] = []


def rows(yard: Yard, tool: Tool, rounds: int) -> Iterator[Row]:
    """Time, compilers and memory, for each of the WAYS."""
    recorder = compile_recorder(yard.root)
    for count, files, jobs in WAYS:
        found = {CAP: Figures(), 0: Figures()}
        for turn in range(rounds):
            for cap in (CAP, 0) if turn % 2 else (0, CAP):
                yard.cap = cap
                _build(yard, tool, recorder, (count, files, jobs), found[cap])
        shared, free = found[CAP], found[0]
        ratio = median(shared.took_s) / median(free.took_s)
        what = f"{count} x {files} C files, make -j{jobs}, C = {CAP}"
        is_barred = (count, files, jobs) == WAYS[0]
        times = f"{ratio:.2f} ({median(shared.took_s):.1f} s, {median(free.took_s):.1f} s)"
        yield Row(f"{what}: time, in times of that without", times, f"{BAR}", ratio <= BAR)
        peaks = f"{max(shared.peak)}; without {max(free.peak)}"
        bound = CAP + count
        yield Row(f"{what}: most compilers", peaks, str(bound), max(shared.peak) <= bound)
        memory = f"{median(shared.memory) / 2**20:.0f} MiB; without {median(free.memory) / 2**20:.0f} MiB"
        less = median(shared.memory) < median(free.memory)
        yield Row(f"{what}: most memory of all processes", memory, "less", less or not is_barred)


def _build(yard: Yard, tool: Tool, recorder: Path, way: tuple[int, int, int], figures: Figures) -> None:
    """Build once, and add what came of it."""
    count, files, jobs = way
    first = len(yard.builds)
    log = yard.root / f"compilers-{first}"
    made = []
    for number in range(first, first + count):
        directory = yard.root / "builds" / str(number)
        directory.mkdir(parents=True)
        _write(directory, files, f"{recorder} {log} cc --")
        command = ["make", "-s"]
        made.append(projects.Project(directory, command, {"PATH": tool.path}, files, tool))
    began = time.monotonic()
    builds = [yard.start(project, first + at, jobs) for at, project in enumerate(made)]
    memory = 0
    while any(not build.ended for build in builds) and time.monotonic() < began + LIMIT_S:
        memory = max(memory, sum(_anonymous(pid) for build in builds for pid in below(build.group)))
        time.sleep(LOOK_S)
        yard.reap()
    figures.took_s.append(time.monotonic() - began)
    yard.end()
    if any(build.status for build in builds):
        raise SystemExit(f"a build failed: {builds[0].output.read_text()[-500:]}")
    figures.peak.append(peak_overlap(recorded(log)))
    figures.memory.append(memory)


def _write(directory: Path, files: int, launcher: str) -> None:
    """A Makefile, and C files for it."""
    for at in range(files):
        functions = "".join(FUNCTION.format(n=n) for n in range(FUNCTIONS * at, FUNCTIONS * (at + 1)))
        text = f"#include <stdio.h>\n#include <stdlib.h>\n#include <string.h>\n{functions}"
        (directory / f"f{at}.c").write_text(text)
    objects = " ".join(f"f{at}.o" for at in range(files))
    rule = f"%.o: %.c\n\t@{launcher} cc -O2 -c -o $@ $<\n"
    (directory / "Makefile").write_text(f"all: {objects}\n{rule}")


def _anonymous(pid: int) -> int:
    """Bytes that a process has for itself; 0 if it has gone."""
    try:
        lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    except OSError:
        return 0
    return next((int(line.split()[1]) * 1024 for line in lines if line.startswith("RssAnon:")), 0)
