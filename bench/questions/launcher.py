"""What slot-run costs as a launcher: a C project of some hundred files, built by CMake and Ninja.

`python -m bench.questions.launcher [--files N] [--links N] [--rounds N] [--only compilers|links]` generates
the project and builds it in turn

- `plain`: without slot-run;
- `compilers`: with slot-run as the compiler launcher, in a pool with more slots than Ninja has jobs, so that
  nobody waits and what is left is the cost of a start;
- `nested`: the same under a `slot-run ninja`, in one pool, so that each compile already has its slot;
- `ninja pool`: with Ninja's own pool, one link at a time (JOB_POOLS, JOB_POOL_LINK);
- `slot pool`: with slot-run as the linker launcher, in a pool of one slot;
- `both`: with Ninja's pool and that launcher, which is for when other builds link as well.

The recorder around each link, in all of them, notes when it ran; `plain` shows that it can see more than
one. Prints the medians and the shortest of the times, the medians over the rounds of the ratios to the build
that each is to be compared with, and the most links that ran together. Where a machine has other work, the
shortest times and the CPU time are what can be compared. Fails if links ran together that were not to.
"""

from __future__ import annotations

import argparse
import os
import resource
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass, field
from pathlib import Path

from bench import environ
from bench.kit.figures import median
from bench.kit.installs import this
from bench.kit.recorder import compile_recorder, recorded
from bench.kit.shell import forget_settings
from bench.kit.spans import peak_overlap

SOURCE = r"""
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
struct item {{ int key; char name[16]; }};
static int compare(const void *a, const void *b) {{
    return ((const struct item *)a)->key - ((const struct item *)b)->key;
}}
int f{n}(const char *text) {{
    struct item items[{n} % 7 + 3];
    for (unsigned i = 0; i < sizeof items / sizeof *items; i++) {{
        items[i].key = (int)(i * {n} % 11 + strlen(text));
        snprintf(items[i].name, sizeof items[i].name, "%s %u", text, i);
    }}
    qsort(items, sizeof items / sizeof *items, sizeof *items, compare);
    return items[0].key + items[1].name[0];
}}
"""
WIDE = 64
"""Slots where none is to be waited for."""


@dataclass
class Variant:
    """A way to build the project, and what came of it.

    Attributes:
        name: What it is called in the table.
        against: The variant that it is compared with.
        defines: What CMake is told, `NAME=VALUE` each.
        prefix: What stands before `ninja`.
        serial: Whether links are to run one by one.
        compiles: Whether it is the compiles that go through slot-run.
    """

    name: str
    against: str
    defines: list[str]
    prefix: list[str] = field(default_factory=list)
    serial: bool = False
    compiles: bool = False
    wall_s: list[float] = field(default_factory=list)
    cpu_s: list[float] = field(default_factory=list)
    peaks: list[int] = field(default_factory=list)


def generate(directory: Path, files: int, links: int) -> None:
    """Write a CMake project of `files` C files: a library, and `links` programs of one file that use it.

    As with a library and its tests, the links all become possible at once, when the library is there.
    """
    library = [f"f{n}.c" for n in range(files - links)]
    lists = ["cmake_minimum_required(VERSION 3.21)", "project(bench C)"]
    for n, source in enumerate(library):
        (directory / source).write_text(SOURCE.format(n=n))
    lists.append(f"add_library(common STATIC {' '.join(library)})")
    declarations = "".join(f"int f{n}(const char *);\n" for n in range(len(library)))
    for link in range(links):
        calls = "".join(f"    sum += f{n}(argv[0]);\n" for n in range(link % 2, len(library), 2))
        (directory / f"p{link}.c").write_text(
            f"{declarations}int main(int argc, char **argv) {{\n    int sum = argc;\n{calls}"
            "    return sum < 0;\n}\n"
        )
        lists += [f"add_executable(p{link} p{link}.c)", f"target_link_libraries(p{link} common)"]
    (directory / "CMakeLists.txt").write_text("\n".join(lists) + "\n")


def variants(recorder: Path, log: Path) -> list[Variant]:
    """All ways to build, each after the one that it is compared with."""
    one, wide = "--slots;1", f"--slots;{WIDE}"
    launcher = f"{this().slot_run};--quiet;--timeout;none"
    record = f"CMAKE_C_LINKER_LAUNCHER={recorder};{log};link;--"
    slot_link = f"CMAKE_C_LINKER_LAUNCHER={launcher};--pool;link;{one};--;{recorder};{log};link;--"
    ninja_link = ["CMAKE_JOB_POOLS=link=1", "CMAKE_JOB_POOL_LINK=link"]
    compiler = f"CMAKE_C_COMPILER_LAUNCHER={launcher}"
    return [
        Variant("plain", "plain", [record]),
        Variant("compilers", "plain", [record, f"{compiler};--pool;compile;{wide};--"], compiles=True),
        Variant(
            "nested",
            "plain",
            [record, f"{compiler};--"],
            prefix=[this().slot_run, "--slots", "1", "--"],
            compiles=True,
        ),
        Variant("ninja pool", "ninja pool", [record, *ninja_link], serial=True),
        Variant("slot pool", "ninja pool", [slot_link], serial=True),
        Variant("both", "ninja pool", [slot_link, *ninja_link], serial=True),
    ]


def build(variant: Variant, directory: Path, log: Path, env: dict[str, str]) -> None:
    """Build all of it once, from nothing, and note how that went."""
    ninja = ["ninja", "-C", str(directory)]
    subprocess.run([*ninja, "-t", "clean"], check=True, stdout=subprocess.DEVNULL)
    log.unlink(missing_ok=True)
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    began = time.monotonic()
    subprocess.run([*variant.prefix, *ninja, "--quiet"], check=True, env=env, stdout=subprocess.DEVNULL)
    variant.wall_s.append(time.monotonic() - began)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    variant.cpu_s.append(after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime)
    variant.peaks.append(peak_overlap(recorded(log)))


def report(tried: list[Variant], files: int) -> int:
    """Print what came of it; 1 if links ran together that were not to."""
    by_name = {variant.name: variant for variant in tried}
    print("build       wall s  best s  ratio to its base     CPU s  CPU ms a compile  links together")
    for variant in tried:
        base = by_name[variant.against]
        ratios = [a / b for a, b in zip(variant.wall_s, base.wall_s, strict=True)]
        cpu = [a - b for a, b in zip(variant.cpu_s, base.cpu_s, strict=True)]
        compared = "" if variant is base else f"{median(ratios):.3f} {variant.against}"
        each = f"{median(cpu) * 1e3 / files:.1f}" if variant.compiles else ""
        print(
            f"{variant.name:10}  {median(variant.wall_s):6.2f}  {min(variant.wall_s):6.2f}"
            f"  {compared:20}"
            f"  {median(variant.cpu_s):5.2f}  {each:>16}  {max(variant.peaks):14}"
        )
    together = [variant.name for variant in tried if variant.serial and max(variant.peaks) > 1]
    if together:
        print(f"FAIL: links ran together in {', '.join(together)}")
    return 1 if together else 0


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--files", type=int, default=300, help="C files (default 300)")
    parser.add_argument("--links", type=int, default=20, help="programs that they are linked to (default 20)")
    parser.add_argument("--rounds", type=int, default=5, help="how often each is built (default 5)")
    parser.add_argument("--only", choices=["compilers", "links"], help="leave out the other half")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        root = Path(scratch)
        source, recorder, log = root / "source", compile_recorder(root), root / "log"
        source.mkdir()
        generate(source, options.files, options.links)
        forget_settings(scratch)
        env = environ(root / "pool")
        tried = [
            v for v in variants(recorder, log) if not options.only or v.serial == (options.only == "links")
        ]
        for variant in tried:
            defines = [f"-D{define}" for define in variant.defines]
            subprocess.run(
                ["cmake", "-G", "Ninja", "-S", source, "-B", root / variant.name, *defines],
                check=True,
                stdout=subprocess.DEVNULL,
            )
        for number in range(options.rounds):
            # Every other round backwards: what a machine does the longer it is busy falls on all alike.
            for variant in tried if number % 2 == 0 else reversed(tried):
                build(variant, root / variant.name, log, env)
        jobs = os.cpu_count()
        print(f"{options.files} files, {options.links} links, {options.rounds} rounds, {jobs} cores")
        return report(tried, options.files)


if __name__ == "__main__":
    sys.exit(main())
