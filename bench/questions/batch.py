"""A batch beside other tools that run many commands: its cost a task, its start, its memory.

`python -m bench.questions.batch [--only speed,start,memory] [--tasks N] [--rounds N] [--memory N,...]
[--peers P,...] [--install WHICH]`

- `speed`: N times `true`, eight at once, in turn by `xargs -P 8`, GNU parallel, `concurrently` of npm (with
  fewer tasks, because it takes them as arguments), and by a batch without slots and with them, as many as
  jobs, so that nobody waits;
- `start`: a batch of one task, from a stream and from a plan, beside `python -c pass`;
- `memory`: the peak resident memory of a batch with so many tasks as JSON lines, and what its records take
  up on the disk.

The tools take turns in each round, in another order each time. Ratios are those of one round, and of these
the median counts. Prints what was measured, and the bars: a missed one is no failure of this program, because
a loaded machine misses some.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from bench import environ
from bench.kit import environment, installs
from bench.kit.figures import median, shown
from bench.kit.peers import NOT_HAD, Kit
from bench.kit.processes import children_cpu_s
from bench.kit.shell import Missing, first_line, forget_settings, run, say
from bench.report.markdown import table

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from typing import IO

    from bench.kit.installs import Install

JOBS = 8
TASKS = 1000
FEW = 100
"""For a tool that takes all commands as arguments, and prints a line for each."""
COUNTS = (1000, 10_000, 100_000)
TIMES_XARGS, PLUS_S, MORE_MS, START_S, FLAT = 1.5, 0.2, 3.0, 0.25, 1.1
"""The bars. "Flat" is put into a number here: so many times as much for a hundred times the tasks."""
LOOK_S = 0.02
OFF, ON = "batch, no slots", "batch, slots"
PARTS = ("speed", "start", "memory")


@dataclass
class Runner:
    """A tool that runs many commands.

    Attributes:
        name: For `--peers` and the table.
        command: The words that run so many times `true`, with the numbers from 1 on stdin.
        most: The most tasks that it is given.
        took_s: What it has taken, in each round.
        cpu_s: Likewise of CPU time, with all that it has run.
    """

    name: str
    command: Callable[[int], list[str]]
    most: int = 10**9
    took_s: list[float] = field(default_factory=list)
    cpu_s: list[float] = field(default_factory=list)

    def row(self, tasks: int) -> list[str]:
        """Its cells in the table of `tasks` tasks."""
        count = min(tasks, self.most)
        ms, cpu_ms = ([each / count * 1e3 for each in values] for values in (self.took_s, self.cpu_s))
        spread = f"{shown(min(ms))} to {shown(max(ms))}"
        return [
            self.name,
            str(count),
            shown(median(self.took_s)),
            shown(median(ms)),
            spread,
            shown(median(cpu_ms)),
        ]


def xargs(_kit: Kit) -> Runner:
    """The one of findutils."""
    program = shutil.which("xargs")
    if program is None:
        raise Missing("findutils is not installed")
    return Runner("xargs", lambda _: [program, f"-P{JOBS}", "-n1", "true"])


def parallel(kit: Kit) -> Runner:
    """GNU parallel; moreutils has another program of that name."""
    program = kit.tool("parallel", "parallel")
    if "GNU" not in first_line(program, "--version"):
        raise Missing(f"{program} is not GNU parallel")
    return Runner("parallel", lambda _: [program, "--will-cite", f"-j{JOBS}", "true"])


def concurrently(kit: Kit) -> Runner:
    """The one of npm, in a directory of its own."""
    npm = shutil.which("npm")
    if npm is None:
        raise Missing("npm is not installed")
    say("installing concurrently with npm")
    home = kit.scratch / "npm"
    home.mkdir()
    run(npm, "install", "--prefix", str(home), "--silent", "--no-audit", "--no-fund", "concurrently")
    program = str(home / "node_modules/.bin/concurrently")
    return Runner("concurrently", lambda tasks: [program, f"-m{JOBS}", *["true"] * tasks], most=FEW)


PEERS = {"xargs": xargs, "parallel": parallel, "concurrently": concurrently}


@dataclass(frozen=True)
class Bar:
    """Something that is promised, and what was measured.

    Attributes:
        kept: None if it was not measured.
    """

    says: str
    measured: str
    kept: bool | None

    def row(self) -> list[str]:
        """Its cells."""
        return [self.says, self.measured, {True: "kept", False: "missed", None: "not measured"}[self.kept]]


class Bench:
    """One run, with its pool and records in `scratch`."""

    def __init__(self, install: Install, scratch: Path, options: argparse.Namespace) -> None:
        self._batch = [install.buildslots, "batch", f"-j{JOBS}"]
        self._install = install
        self._options = options
        self._scratch = scratch
        self._env = environ(scratch / "pool")
        self._env |= {"MAX_CONCURRENT_BUILDS": str(JOBS), "PARALLEL_HOME": str(scratch / "parallel")}
        (scratch / "parallel").mkdir()

    def speed(self) -> Iterator[Bar]:
        """Many tasks, by each tool in its turn."""
        tasks = self._options.tasks
        numbers = self._scratch / "numbers"
        numbers.write_text("".join(f"{number}\n" for number in range(1, tasks + 1)))
        ours = [
            Runner(OFF, lambda _: [*self._batch, "-p", "", "--", "true"]),
            Runner(ON, lambda _: [*self._batch, "--", "true"]),
        ]
        runners = [*self._peers(), *ours]
        for turn in range(self._options.rounds):
            at = turn % len(runners)
            for runner in (*runners[at:], *runners[:at]):
                with numbers.open() as stdin:
                    took_s, cpu_s = self._took_s(runner.command(min(tasks, runner.most)), stdin)
                runner.took_s.append(took_s)
                runner.cpu_s.append(cpu_s)
        titles = ["tool", "tasks", "median, s", "ms a task", "min to max", "CPU ms a task"]
        print_table(titles, [runner.row(tasks) for runner in runners])
        took = {runner.name: runner.took_s for runner in runners}
        return self._speed_bars(took, tasks)

    def _peers(self) -> Iterator[Runner]:
        kit = Kit(self._scratch)
        for name in self._options.peers:
            try:
                yield PEERS[name](kit)
            except Missing as error:
                say(f"{name}: {error}")

    def _speed_bars(self, took: dict[str, list[float]], tasks: int) -> Iterator[Bar]:
        says = f"{tasks} tasks, no slots: at most {TIMES_XARGS} x `xargs -P{JOBS}` plus {PLUS_S} s"
        if "xargs" in took:
            over = [(ours - PLUS_S) / its for ours, its in zip(took[OFF], took["xargs"], strict=True)]
            yield Bar(says, f"{shown(median(over))} x, plus {PLUS_S} s", median(over) <= TIMES_XARGS)
        else:
            yield Bar(says, "", None)
        says = "the same below GNU parallel"
        if "parallel" in took:
            times = [ours / its for ours, its in zip(took[OFF], took["parallel"], strict=True)]
            yield Bar(says, f"{shown(median(times))} x", median(times) < 1)
        else:
            yield Bar(says, "", None)
        more = [(on - off) / tasks * 1e3 for on, off in zip(took[ON], took[OFF], strict=True)]
        says = f"with slots at most {MORE_MS:g} ms more a task"
        yield Bar(says, f"{shown(median(more))} ms", median(more) <= MORE_MS)

    def start(self) -> Iterator[Bar]:
        """A batch of one."""
        plan = self._scratch / "plan.toml"
        plan.write_text('[[task]]\nrun = ["true"]\n')
        one = self._scratch / "one"
        one.write_text("1\n")
        ways = {
            "python -c pass": [self._install.python, "-c", "pass"],
            "a stream of one": [*self._batch, "--", "true"],
            "a plan of one": [*self._batch, str(plan)],
        }
        took: dict[str, list[tuple[float, float]]] = {name: [] for name in ways}
        for _ in range(5 * self._options.rounds + 1):
            for name, command in ways.items():
                with one.open() as stdin:
                    took[name].append(self._took_s(command, stdin))
        rows, medians = [], {}
        for name, runs in took.items():
            wall, cpu = zip(*runs[1:], strict=True)  # the first one compiles and makes things
            medians[name] = median(wall)
            rows.append(
                [name, shown(median(wall)), f"{shown(min(wall))} to {shown(max(wall))}", shown(median(cpu))]
            )
        print_table(["start", "median, s", "min to max", "CPU, s"], rows)
        worst = max(medians["a stream of one"], medians["a plan of one"])
        yield Bar(f"a batch of one: below {START_S} s", f"{shown(worst)} s", worst < START_S)

    def memory(self) -> Iterator[Bar]:
        """Streams of more and more tasks."""
        rows, peaks = [], []
        for count in self._options.memory:
            tasks = self._scratch / f"{count}.ndjson"
            with tasks.open("w") as file:
                file.writelines(f'{{"name": "{number}", "run": ["true"]}}\n' for number in range(count))
            began = time.monotonic()
            peak_mib = self._peak_mib([*self._batch, "-p", "", str(tasks)])
            took = time.monotonic() - began
            peaks.append(peak_mib)
            rows.append([str(count), shown(peak_mib), shown(self._records_mib(str(count))), shown(took)])
            tasks.unlink()
        print_table(["tasks of a stream", "peak memory, MiB", "records, MiB", "took, s"], rows)
        least, most = self._options.memory[0], self._options.memory[-1]
        times = peaks[-1] / peaks[0]
        kept = times <= FLAT if len(peaks) > 1 else None
        yield Bar(f"memory flat from {least} to {most} tasks: {FLAT} x", f"{shown(times)} x", kept)

    def _took_s(self, command: list[str], stdin: IO[str]) -> tuple[float, float]:
        """Seconds that `command` takes, and those of CPU.

        Raises:
            SystemExit: It fails.
        """
        began, used = time.perf_counter(), children_cpu_s()
        done = subprocess.run(
            command,
            env=self._env,
            stdin=stdin,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            check=False,
        )
        took = time.perf_counter() - began, children_cpu_s() - used
        if done.returncode:
            raise SystemExit(f"{' '.join(command[:6])}: status {done.returncode}: {os.fsdecode(done.stderr)}")
        return took

    def _peak_mib(self, command: list[str]) -> float:
        """The most memory that `command` itself had at a time (VmHWM of proc(5)).

        Not that of getrusage(2): across exec it keeps what the process had before, which was ours.
        """
        peak = 0
        with subprocess.Popen(command, env=self._env, stdout=subprocess.DEVNULL) as process:
            while process.poll() is None:
                with contextlib.suppress(OSError, TypeError):
                    text = Path(f"/proc/{process.pid}/status").read_text()
                    peak = int(re.search(r"^VmHWM:\s+(\d+) kB", text, re.MULTILINE)[1])  # type: ignore[index]
                time.sleep(LOOK_S)
        if process.returncode:
            raise SystemExit(f"{' '.join(command[:6])}: status {process.returncode}")
        return peak / 1024

    def _records_mib(self, name: str) -> float:
        base = Path(self._env["XDG_STATE_HOME"]) / "buildslots" / "batches"
        return sum(path.stat().st_size for path in base.glob(f"{name}-*/events.ndjson")) / 2**20


def print_table(titles: list[str], rows: list[list[str]]) -> None:
    print("\n".join(table(titles, rows)))


def counts(text: str) -> list[int]:
    """Numbers of tasks."""
    return sorted(int(word.replace("_", "")) for word in text.split(","))


def some_of(names: tuple[str, ...]) -> Callable[[str], list[str]]:
    """A reader of a list of some of `names`; "none" is none of them."""

    def read(text: str) -> list[str]:
        chosen = [] if text == "none" else text.split(",")
        if unknown := [name for name in chosen if name not in names]:
            raise argparse.ArgumentTypeError(f"no {unknown[0]!r} among {', '.join(names)}")
        return chosen

    return read


def main() -> int:
    parser = argparse.ArgumentParser(
        prog="python -m bench.questions.batch", description=__doc__.partition("\n")[0]
    )
    parser.add_argument(
        "--only", type=some_of(PARTS), default=PARTS, metavar="PART,...", help=", ".join(PARTS)
    )
    parser.add_argument("--tasks", type=int, default=TASKS, help=f"of each tool ({TASKS})")
    parser.add_argument("--rounds", type=int, default=5, help="how often each is asked (5)")
    parser.add_argument(
        "--memory",
        type=counts,
        default=list(COUNTS),
        metavar="N,...",
        help="tasks of streams (1000,10000,100000)",
    )
    names = tuple(PEERS)
    parser.add_argument("--peers", type=some_of(names), default=names, metavar="P,...", help=", ".join(names))
    parser.add_argument(
        "--install", default="", help="a virtual environment, or a commit, in place of this one"
    )
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="bench-") as scratch:
        forget_settings(scratch)
        install = installs.find(options.install, Path(scratch)) if options.install else installs.this()
        about = environment.describe(Path(scratch))
        bench = Bench(install, Path(scratch), options)
        parts = {"speed": bench.speed, "start": bench.start, "memory": bench.memory}
        bars = [bar for name, part in parts.items() if name in options.only for bar in part()]
        about["load after"] = environment.load()
    print_table(["bar", "measured", "verdict"], [bar.row() for bar in bars])
    print("; ".join(f"{label}: {text}" for label, text in about.items()))
    print("".join(f"Missing: {peer}: {why}.\n" for peer, why in NOT_HAD.items()), end="")
    return 0


if __name__ == "__main__":
    sys.exit(main())
