"""What a shim costs below a slot: a call of each tool, and a make that calls make 200 times.

`python -m bench.questions.shims [--calls N] [--makes N] [--rounds N]`, with real tools and all of it below a
slot-run, as builds are:

- a call: `TOOL --version` of make, ninja and cmake through its shim, less the same by its path, in pairs, one
  right after the other;
- a recursive make, with shims first on PATH and without, in turn: once by `$(MAKE)`, which make sets to the
  path by which it was started, so that nothing but the first call meets a shim; once by `make`, a shim each
  time. Each compiles a C file.

Prints medians; of the makes, those of the rounds' ratios; and the same of the CPU time, which other work on
the machine changes less. Fails if a call costs more than 3 ms in the median, or a make 1.02 times as much.
"""

from __future__ import annotations

import argparse
import os
import resource
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from bench import environ
from bench.kit.figures import median
from bench.kit.installs import this
from bench.kit.shell import forget_settings
from bench.questions.launcher import SOURCE
from buildslots.agents import shims

MOST_MS, MOST_RATIO = 3.0, 1.02
TOOLS = ("make", "ninja", "cmake")
BELOW = "--below"
"""Given to this program when it runs below its own slot-run."""


def timed_ms(*command: str, env: dict[str, str] | None = None) -> tuple[float, float]:
    """How long `command` takes, and how much CPU time."""
    before, began = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter()
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL, env=env)
    took, after = time.perf_counter() - began, resource.getrusage(resource.RUSAGE_CHILDREN)
    cpu = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    return took * 1e3, cpu * 1e3


def calls(directory: str, count: int) -> bool:
    """Print what a call costs; whether that is little enough."""
    print("tool    by its path ms  through the shim, more ms: median, 90 %  more CPU ms")
    good = True
    for tool in TOOLS:
        real = shutil.which(tool)
        if real is None:
            continue
        plain, more, cpu = [], [], []
        for _ in range(count):
            alone, own = timed_ms(real, "--version")
            shimmed, both = timed_ms(f"{directory}/{tool}", "--version")
            plain.append(alone)
            more.append(shimmed - alone)
            cpu.append(both - own)
        more.sort()
        good = good and median(more) <= MOST_MS
        last = more[len(more) * 9 // 10]
        print(f"{tool:6}  {median(plain):14.2f}  {median(more):32.2f}  {last:6.2f}  {median(cpu):11.2f}")
    return good


def write_makes(root: Path, count: int, call: str) -> None:
    """A Makefile that calls make in `count` directories, and those in them."""
    root.mkdir()
    names = [f"part{n}" for n in range(count)]
    parts = " ".join(names)
    (root / "Makefile").write_text(
        f".PHONY: all {parts}\nall: {parts}\n{parts}:\n\t+@{call} --no-print-directory -s -C $@\n"
    )
    for n, name in enumerate(names):
        (root / name).mkdir()
        (root / name / "f.c").write_text(SOURCE.format(n=n))
        (root / name / "Makefile").write_text(".PHONY: all\nall:\n\t@cc -O2 -c f.c -o f.o\n")


def makes(root: Path, directory: str, count: int, rounds: int) -> bool:
    """Print what a recursive make costs; whether that is little enough."""
    print("a make of          without s  with shims s  ratio  of the CPU time")
    good = True
    with_shims = os.environ | {"PATH": f"{directory}{os.pathsep}{os.environ['PATH']}"}
    for call in ("$(MAKE)", "make"):
        tree = root / f"tree-{len(call)}"
        write_makes(tree, count, call)
        plain: list[tuple[float, float]] = []
        shimmed: list[tuple[float, float]] = []
        for turn in range(rounds):
            for env in (None, with_shims) if turn % 2 else (with_shims, None):
                command = ["sh", "-c", f"exec make -j2 -C {tree}"]
                (shimmed if env else plain).append(timed_ms(*command, env=env))
        pairs = list(zip(shimmed, plain, strict=True))
        ratio, of_cpu = (median([one[what] / other[what] for one, other in pairs]) for what in (0, 1))
        good = good and ratio <= MOST_RATIO
        seconds = [median([wall for wall, _ in some]) / 1e3 for some in (plain, shimmed)]
        print(f"{count} {call:12}  {seconds[0]:9.2f}  {seconds[1]:12.2f}  {ratio:5.3f}  {of_cpu:15.3f}")
    return good


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--calls", type=int, default=200, help="of each tool (default 200)")
    parser.add_argument("--makes", type=int, default=200, help="that a make calls (default 200)")
    parser.add_argument("--rounds", type=int, default=9, help="how often each make runs (default 9)")
    parser.add_argument(BELOW, metavar="PATH", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.below:
        directory = shims.status(os.environ).directory
        both = (
            calls(directory, options.calls),
            makes(Path(options.below), directory, options.makes, options.rounds),
        )
        return 0 if all(both) else 1
    with tempfile.TemporaryDirectory() as scratch:
        forget_settings(scratch)
        env = environ(Path(scratch) / "pool") | {"XDG_DATA_HOME": scratch}
        shims.install(env)
        again = [sys.executable, "-m", "bench.questions.shims", *sys.argv[1:], BELOW, scratch]
        return subprocess.run([this().slot_run, "--", *again], env=env, check=False).returncode


if __name__ == "__main__":
    sys.exit(main())
