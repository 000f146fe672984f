"""Agents that build what there is to build, each at its own pace: makes a journal of real builds.

`python -m bench.agents.mixed DIR [--minutes M] [--agents N] [--seed S]`: in DIR, which must not exist, come
projects of different sizes (make, CMake with Ninja, and cargo where it is installed; byte-compiling and
packing of Python's own library), and agents that touch, clean and build them in turn with pauses, through
slot-run on two slots of a pool in DIR. DIR/state/buildslots has the journal then, for
`bench.questions.estimates`.
"""

from __future__ import annotations

import argparse
import os
import random
import shutil
import subprocess
import sys
import sysconfig
import threading
import time
from dataclasses import dataclass
from pathlib import Path

SLOTS = 2
PAUSE_S = 4.0
"""Mean of an agent's pauses, between a tenth of a second and several times this."""
COMPILED = shutil.ignore_patterns("__pycache__")
FUNCTION = """
static double f{n}(double *a, int k) {{
    double s = {n};
    for (int i = 0; i < k; i++) {{
        s += a[i] * {n} + s / (i + 1);
        a[i] = s > {n} ? s - a[k - i - 1] : a[i] + {n};
        switch ((int)s % 7) {{ case 0: s *= 3; break; case 1: s -= a[0]; break; default: s += i; }}
    }}
    return s;
}}
"""
MAKEFILE = """
OBJECTS = $(patsubst %.c,%.o,$(wildcard *.c))
all: app
app: $(OBJECTS)
\t$(CC) -o $@ $^
%.o: %.c
\t$(CC) -O2 -c -o $@ $<
clean:
\trm -f *.o app
"""
CMAKE = """
cmake_minimum_required(VERSION 3.13)
project(app C)
set(CMAKE_C_FLAGS "-O2")
file(GLOB SOURCES *.c)
add_executable(app ${SOURCES})
"""


@dataclass(frozen=True)
class Project:
    """A directory, how it is built, and how it is made to need building again."""

    where: Path
    command: tuple[str, ...]
    sources: tuple[Path, ...] = ()
    clean: tuple[str, ...] = ()
    removed: tuple[str, ...] = ()

    def change(self, chance: random.Random) -> None:
        """Edit some sources, or now and then begin anew."""
        if self.clean and chance.random() < 0.25:
            subprocess.run(self.clean, cwd=self.where, check=False, capture_output=True)
        for name in self.removed:
            shutil.rmtree(self.where / name, ignore_errors=True)
            (self.where / name).unlink(missing_ok=True)
        for source in chance.sample(self.sources, min(len(self.sources), chance.choice((1, 1, 2, 3, 8)))):
            source.touch()


def c_files(where: Path, files: int, functions: int) -> tuple[Path, ...]:
    """So many sources with so many functions each, one of them with `main`."""
    where.mkdir(parents=True)
    for number in range(files):
        names = [f"f{n}(a, k)" for n in range(functions)]
        text = "".join(FUNCTION.format(n=n) for n in range(functions))
        text += f"double all{number}(double *a, int k) {{ return {' + '.join(names)}; }}\n"
        if not number:
            text += "int main(void) { double a[8] = {1}; return (int)all0(a, 8); }\n"
        (where / f"part{number}.c").write_text(text)
    return tuple(sorted(where.glob("*.c")))


def projects(root: Path) -> list[Project]:
    """All of them."""
    made = []
    for name, files, functions in (("tool", 6, 80), ("library", 14, 200), ("kernel", 24, 400)):
        sources = c_files(root / name, files, functions)
        (root / name / "Makefile").write_text(MAKEFILE)
        made.append(Project(root / name, ("make",), sources, ("make", "clean")))
    for name, files, functions in (("engine", 10, 300), ("editor", 25, 200)):
        sources = c_files(root / name, files, functions)
        (root / name / "CMakeLists.txt").write_text(CMAKE)
        configure = ("cmake", "-G", "Ninja", "-B", "out")
        made.append(Project(root / name, configure, removed=("out",)))
        subprocess.run(configure, cwd=root / name, check=True, capture_output=True)
        clean = ("ninja", "-C", "out", "clean")
        made.append(Project(root / name, ("ninja", "-C", "out"), sources, clean))
    library = Path(sysconfig.get_path("stdlib"))
    for name, parts in (
        ("scripts", ("json", "email")),
        ("site", ("asyncio", "unittest", "idlelib", "xml", "test")),
    ):
        for part in parts:
            if (library / part).is_dir():
                shutil.copytree(library / part, root / name / part, ignore=COMPILED)
        made.append(Project(root / name, (sys.executable, "-m", "compileall", "-qf", ".")))
        made.append(Project(root / name, ("tar", "czf", "../packed.tgz", ".")))
    shutil.copytree(library / "test", root / "archive", ignore=COMPILED)
    made.append(Project(root / "archive", ("tar", "cJf", "../archive.tar.xz", ".")))
    if shutil.which("cargo"):
        crate = root / "crate"
        (crate / "src").mkdir(parents=True)
        (crate / "Cargo.toml").write_text('[package]\nname = "app"\nversion = "0.1.0"\nedition = "2021"\n')
        (crate / "src/main.rs").write_text('fn main() { println!("{:?}", std::env::args()); }\n')
        made.append(Project(crate, ("cargo", "build"), (crate / "src/main.rs",), ("cargo", "clean")))
    return made


def agent(made: list[Project], seed: int, until: float, environ: dict[str, str]) -> None:
    """Build now this and now that, mostly what was built before, until that `time.monotonic()`."""
    chance = random.Random(seed)
    slot_run = Path(sys.executable).with_name("slot-run")
    project = chance.choice(made)
    while time.monotonic() < until:
        if chance.random() < 0.4:
            project = chance.choice(made)
        project.change(chance)
        command = [str(slot_run), f"-n{SLOTS}", "-q", "-t", "none", "--", *project.command]
        subprocess.run(
            command,
            cwd=project.where,
            env=environ,
            check=False,
            stdin=subprocess.DEVNULL,
            capture_output=True,
        )
        time.sleep(min(0.1 + chance.expovariate(1 / PAUSE_S), max(until - time.monotonic(), 0)))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("directory", type=Path)
    parser.add_argument("--minutes", type=float, default=8)
    parser.add_argument("--agents", type=int, default=6)
    parser.add_argument("--seed", type=int, default=1)
    options = parser.parse_args()
    root = options.directory.resolve()
    environ = os.environ | {"BUILD_SLOTS_DIR": str(root / "pool"), "XDG_STATE_HOME": str(root / "state")}
    made = projects(root / "projects")
    until = time.monotonic() + 60 * options.minutes
    agents = [
        threading.Thread(target=agent, args=(made, options.seed + n, until, environ))
        for n in range(options.agents)
    ]
    for one in agents:
        one.start()
    for one in agents:
        one.join()


if __name__ == "__main__":
    main()
