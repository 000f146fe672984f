"""Eight agents, each rebuilding a project of its own, all at once: what that does to the machine.

`python -m bench.agents [--quick] [--write]` builds eight PyPI sdists that contain C or C++, all started
together and each with as many compilers at once as the machine has cores (where it has several extensions):
with `slot-run -- pip wheel …` under the default cap, and without it, in turn. Three times each and about
6 minutes on two idle cores; with --quick once, smaller projects, and 2 minutes. --write stores the figures
in bench/agents.json. Exits 1 if a build fails or more of them compile at once than there are slots.

What is measured in each round, besides what `bench.workshop` records:

- runnable processes of the whole machine: procs_running in /proc/stat, ten times a second (proc_stat(5));
- memory: the drop of MemAvailable since the round began, likewise (proc_meminfo(5));
- pressure: the growth of `some total=` in /proc/pressure/* as a share of the round (PSI, Linux 4.20);
- the foreground: how long a bare `python -c pass` takes from its start to its end, every 200 ms, as somebody
  who types commands meanwhile would see it.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import platform
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median

from bench.real_builds import PACKAGES as SMALL
from bench.workshop import BACKENDS, BenchError, Round, Workshop, run, run_round

TYPE_CHECKING = False
if TYPE_CHECKING:
    from types import TracebackType
    from typing import Self, TypeAlias

    Value: TypeAlias = "Callable[[Measured], float | None]"

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
FOREGROUND_S = 0.2
SAMPLE_S = 0.1
IDLE_S = 5.0
"""How long the idle machine is looked at before the first round."""
PRESSURES = ("cpu", "io", "memory")
RESULTS = Path(__file__).with_name("agents.json")


@dataclass
class Machine:
    """What becomes of the machine from `with Machine() as machine:` to its end.

    Attributes:
        latencies_s: Of the foreground command, in order.
        runnable: The most processes that ran or wanted to at once.
        memory: Bytes that MemAvailable dropped at most.
        pressure: By resource, the share of the time in which something waited for it; None if unknown.
    """

    latencies_s: list[float] = field(default_factory=list)
    runnable: int = 0
    memory: int = 0
    pressure: dict[str, float | None] = field(default_factory=dict)

    def __enter__(self) -> Self:
        self._over = threading.Event()
        self._available = _available()
        self._stalled_us = {name: _stalled_us(name) for name in PRESSURES}
        self._began = time.monotonic()
        work = (self._sample, SAMPLE_S), (self._foreground, FOREGROUND_S)
        self._threads = [threading.Thread(target=self._every, args=each) for each in work]
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._over.set()
        elapsed_us = (time.monotonic() - self._began) * 1e6
        for name, before in self._stalled_us.items():
            now = _stalled_us(name)
            self.pressure[name] = None if before is None or now is None else (now - before) / elapsed_us
        for thread in self._threads:
            thread.join()

    def _every(self, what: Callable[[], None], period_s: float) -> None:
        due = time.monotonic()
        while not self._over.wait(due - time.monotonic()):
            what()
            due = max(due + period_s, time.monotonic())

    def _sample(self) -> None:
        # Without the sampling thread itself.
        self.runnable = max(self.runnable, _field("/proc/stat", "procs_running") - 1)
        self.memory = max(self.memory, self._available - _available())

    def _foreground(self) -> None:
        began = time.monotonic()
        # What stops this program may end the command as well, and that is no failure of its own.
        subprocess.run([sys.executable, "-c", "pass"], check=False, stdin=subprocess.DEVNULL)
        self.latencies_s.append(time.monotonic() - began)


def _field(path: str, name: str) -> int:
    """The first number in the line of the file `path` that begins with the word `name`."""
    with open(path, encoding="ascii") as lines:
        return next(int(words[1]) for line in lines if (words := line.split())[0] == name)


def _available() -> int:
    return _field("/proc/meminfo", "MemAvailable:") * 1024


def _stalled_us(resource: str) -> int | None:
    """For how long something has waited for `resource` since boot; None if the kernel does not tell."""
    try:
        with open(f"/proc/pressure/{resource}", encoding="ascii") as lines:
            (total,) = (line.rpartition("total=")[2] for line in lines if line.startswith("some "))
    except OSError:
        return None
    return int(total)


@dataclass(frozen=True)
class Measured:
    """One round, and what it did to the machine."""

    round: Round
    machine: Machine

    @property
    def makespan_s(self) -> float:
        """From the start of the first build to the end of the last."""
        builds = self.round.builds
        last = max((span.end_ns for build in builds for span in build.ran), default=0)
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


def idle() -> Machine:
    """The machine with nothing but the foreground command."""
    with Machine() as machine:
        time.sleep(IDLE_S)
    return machine


def table(slots: int, measured: dict[str, list[Measured]], quiet: Machine) -> dict[str, object]:
    """The figures, as they are stored: `columns` are names, `rows` have a text for each of them."""

    def row(name: str, text: str, value: Value, at_rest: float | None = None) -> list[str]:
        cells = [_cell(text, [value(one) for one in measured[way]]) for way in ("slots", "free")]
        return [name, *cells, "" if at_rest is None else text.format(at_rest)]

    def latency_ms(machine: Machine, share: float) -> float:
        return 1000 * _quantile(machine.latencies_s, share)

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


def _quantile(values: list[float], share: float) -> float:
    """The value that `share` of `values` do not exceed."""
    return sorted(values)[math.ceil(share * len(values)) - 1]


def environment() -> dict[str, object]:
    """What the figures hold for."""
    compiler = subprocess.run(["cc", "--version"], check=True, capture_output=True, text=True).stdout
    return {
        "cores": os.cpu_count(),
        "memory_mib": round(_field("/proc/meminfo", "MemTotal:") / 1024),
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
