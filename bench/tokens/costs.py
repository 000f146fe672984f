"""What sharing costs: CPU time of slot-run for each job, and how often it wakes without need."""

from __future__ import annotations

import time
from pathlib import Path
from typing import TYPE_CHECKING

from bench.kit.figures import median
from bench.kit.processes import cpu_s
from bench.tokens import projects
from bench.tokens.builds import TICK_S
from bench.tokens.rows import Row

if TYPE_CHECKING:
    from collections.abc import Iterator

    from bench.tokens.builds import Build, Yard
    from bench.tokens.tools import Tool

BAR_US = 60.0
LOOKED_S = 10.0
MEASURED_S = 5.0
JOB_MS = 20


def rows(yard: Yard, tools: dict[str, Tool], rounds: int) -> Iterator[Row]:
    """CPU time of each job, in the ways in which builds come together, and wakes."""
    for name in ("make 4.3", "make 4.4", "ninja 1.13"):
        if tool := tools.get(name):
            for count, what in ((1, "alone"), (2, "each of two"), (4, "each of four")):
                used = median(_cpu_us(yard, tool, count) for _ in range(rounds))
                text = f"{name}, {what}, jobs of {JOB_MS} ms: CPU of slot-run a job"
                yield Row(text, f"{used:.0f} µs", f"{BAR_US:.0f} µs", used <= BAR_US)
    yield _wakes(yard, tools, "a build that runs no job", ["sleep", "60"])
    for name in ("make 4.3", "make 4.4", "ninja 1.13"):
        if name in tools:
            yield _wakes(yard, tools, f"{name} alone at its cap", None, name)


def _start(yard: Yard, tool: Tool, ms: int, jobs: int) -> Build:
    number = len(yard.builds)
    work = projects.Work((ms,) * 5000)
    project = projects.write(yard.root / "builds" / str(number), tool, work, yard.table, number)
    return yard.start(project, number, jobs)


def _cpu_us(yard: Yard, tool: Tool, count: int) -> float:
    """CPU time of the slot-runs of so many builds, for each job that ended."""
    builds = [_start(yard, tool, JOB_MS, 4 * yard.cap) for _ in range(count)]
    _wait(yard, 1.5)
    before, jobs = sum(cpu_s(build.group) for build in builds), len(yard.table)
    _wait(yard, MEASURED_S)
    used, jobs = sum(cpu_s(build.group) for build in builds) - before, len(yard.table) - jobs
    yard.end()
    return used / max(1, jobs) * 1e6


def _wakes(
    yard: Yard, tools: dict[str, Tool], what: str, command: list[str] | None, name: str = "make 4.3"
) -> Row:
    """How often slot-run woke in ten seconds, by the kernel's count (proc_pid_status(5))."""
    tool = tools.get(name) or next(iter(tools.values()))
    if command is None:
        build = _start(yard, tool, JOB_MS, yard.cap + 1)
    else:
        number = len(yard.builds)
        directory = yard.root / "builds" / str(number)
        directory.mkdir(parents=True)
        project = projects.Project(directory, command, {"PATH": tool.path}, 0, tool)
        build = yard.start(project, number, yard.cap + 1, by_option=True)
    _wait(yard, 2.0)
    before = _switches(build.group)
    _wait(yard, LOOKED_S)
    woken = _switches(build.group) - before
    yard.end()
    return Row(f"{what}: times that slot-run woke in {LOOKED_S:.0f} s", str(woken), "0", not woken)


def _switches(pid: int) -> int:
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith("voluntary_ctxt_switches:"):
            return int(line.split()[1])
    return 0


def _wait(yard: Yard, seconds: float) -> None:
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        yard.reap()
        time.sleep(TICK_S)
