"""`--jobs N` without tokens: N for each program of the build that can be told. On every platform.

With tokens the programs that speak the protocol of jobservers have N together, and this is for the rest:
variables of the environment. Each is a number, and the program reads it that it is for. Without it the
program takes as many jobs as there are cores, so a number makes it gentler; but `cmake --build` with
Makefiles runs one job without it, and CMake writes Makefiles that are fit for more. Left out is what would
make a program run several jobs that now runs one (CTEST_PARALLEL_LEVEL, JOBS of node-gyp), and what is
about the threads of a calculation (OMP_NUM_THREADS), which may change its result.
"""

from __future__ import annotations

import sys

from buildslots.tokens import makeflags
from buildslots.tokens.commands import CARGO_LEVEL, CMAKE_LEVEL, OWN_VARIABLES, Told, number, read

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from buildslots.tokens.commands import Changes, Command

SHARES = (
    CARGO_LEVEL,
    CMAKE_LEVEL,
    "GOMAXPROCS",  # package runtime of Go: `go build` runs as many programs, and each has as many threads
    "PYTEST_XDIST_AUTO_NUM_WORKERS",  # pytest-xdist, "Running tests across multiple CPUs": -n auto
    "RUST_TEST_THREADS",  # rustc's book, "Tests": --test-threads
    "NEXTEST_TEST_THREADS",  # nextest's book, "Environment variables"
    "MAX_JOBS",  # torch.utils.cpp_extension, and the packages that are built with it
    "MESON_NUM_PROCESSES",  # Meson's release notes 1.7: `meson test` and more
    "MESON_TESTTHREADS",  # the same before
    "VITEST_MAX_WORKERS",  # src/node/config of Vitest
    "DJANGO_TEST_PROCESSES",  # django-admin, "test --parallel"
    "PARALLEL_WORKERS",  # "Parallel Testing" in Rails' guide "Testing Rails Applications"
    "UV_CONCURRENT_BUILDS",  # uv's reference, "Environment variables"
    "VCPKG_MAX_CONCURRENCY",  # vcpkg's reference, "Environment variables"
    "OPAMJOBS",  # opam(1)
    "RPM_BUILD_NCPUS",  # rpm's macros, `_smp_build_ncpus`
    "JULIA_NUM_PRECOMPILE_TASKS",  # "Environment Variables" in Julia's manual
    "EMCC_CORES",  # Emscripten's tools/utils.py
)


def shares(jobs: int, environ: Mapping[str, str]) -> dict[str, str]:
    """What to set, so that each of these programs runs `jobs` jobs: what the user has not set."""
    return {name: str(jobs) for name in SHARES if name not in environ}


def told(argv: Sequence[str], environ: Mapping[str, str], jobs: int) -> Told:
    """What the command `argv` is started with so that its programs run at most `jobs` jobs each.

    A greater number on the command line is lowered, and so is one in MAKEFLAGS. Other variables of the user
    stay as they are, and so does all that is about make if somebody above us serves this build's jobs.
    """
    command = read(argv)
    changes: Changes = dict(shares(jobs, environ))
    if makeflags.has_jobserver(environ):
        changes.pop(CMAKE_LEVEL, None)
        # A make whose command line says a number leaves that jobserver, and so does ninja.
        is_apart = command.tool in ("make", "ninja") and command.jobs is not None
        return Told(_command(command, jobs, argv, in_words=True) if is_apart else list(argv), changes)
    if (own := OWN_VARIABLES.get(command.tool)) and _is_more(number(environ.get(own)), jobs):
        changes[own] = str(jobs)
    # NMAKE reads MAKEFLAGS, too, and ends with an error where it finds `-jN`.
    is_for_make = command.tool == "make" or sys.platform != "win32"
    if is_for_make and _is_more(makeflags.jobs_of(environ), jobs):
        changes[makeflags.VARIABLE] = makeflags.with_jobs(environ.get(makeflags.VARIABLE, ""), jobs)
    return Told(_command(command, jobs, argv), changes)


def _command(command: Command, jobs: int, argv: Sequence[str], *, in_words: bool = False) -> list[str]:
    if not _is_more(command.jobs, jobs):
        return list(argv)
    if command.tool != "ninja" and not in_words:
        return command.bare  # a variable says it
    at = command.at + 1
    return [*command.bare[:at], f"-j{jobs}", *command.bare[at:]]


def _is_more(said: int | None, jobs: int) -> bool:
    """Whether `said` allows more than `jobs` jobs: if it says nothing, or 0 for as many as there are, too."""
    return not said or said > jobs
