"""What command lines and MAKEFLAGS say of jobs, and what builds are told; without any tool."""

from __future__ import annotations

import os
import shlex
import sys
from typing import TYPE_CHECKING

import pytest

from buildslots.tokens import fixed, makeflags
from buildslots.tokens.commands import read
from buildslots.tokens.plan import Plan

if TYPE_CHECKING:
    from pathlib import Path

# A command, the jobs that it says, and the same command without them.
SAID: list[tuple[str, int | None, str]] = [
    ("make", None, "make"),
    ("make -j8", 8, "make"),
    ("make -j 8 all", 8, "make all"),
    ("make all -j8", 8, "make all"),
    ("make --jobs=8", 8, "make"),
    ("make --jobs 8 all", 8, "make all"),
    ("make -j", 0, "make"),
    ("make -j all", 0, "make all"),
    ("make --jobs all", 0, "make all"),
    ("make -kj8", 8, "make -k"),
    ("make -kj 8", 8, "make -k"),
    ("make -skj", 0, "make -sk"),
    ("make -j2 -j4", 4, "make"),
    ("make -C sub -j8", 8, "make -C sub"),
    ("make -Csub -j8", 8, "make -Csub"),
    ("make -C -j8", None, "make -C -j8"),
    ("make -fj8", None, "make -fj8"),
    ("make -kf j8 -j3", 3, "make -kf j8"),
    ("make --file -j8", None, "make --file -j8"),
    ("make --file=x -j8", 8, "make --file=x"),
    ("make -l4 -j8", 8, "make -l4"),
    ("make -l 4.5 -j8", 8, "make -l 4.5"),
    ("make -l all -j8", 8, "make -l all"),
    ("make -O -j8", 8, "make -O"),
    ("make -Oline -j8", 8, "make -Oline"),
    ("make -j8 -- -j3", 8, "make -- -j3"),
    ("make CC=clang -j8 V=1", 8, "make CC=clang V=1"),
    ("make -j8x", None, "make -j8x"),
    ("make -j0", None, "make -j0"),
    ("make -j-1", None, "make -j-1"),
    ("make -j '' all", 0, "make '' all"),
    ("make - -j8", 8, "make -"),
    ("/opt/bin/gmake -j8", 8, "/opt/bin/gmake"),
    ("ninja", None, "ninja"),
    ("ninja -j8 -C out", 8, "ninja -C out"),
    ("ninja -j 8 all", 8, "ninja all"),
    ("ninja -vj8", 8, "ninja -v"),
    ("ninja -j0", 0, "ninja"),
    ("ninja -C -j8", None, "ninja -C -j8"),
    ("ninja -k0 -j8", 8, "ninja -k0"),
    ("ninja -k -j8", None, "ninja -k -j8"),
    ("ninja all -j", None, "ninja all -j"),
    ("ninja --status -j8", None, "ninja --status -j8"),
    ("ninja-build -j8", 8, "ninja-build"),
    ("cmake --build out", None, "cmake --build out"),
    ("cmake --build out -j8", 8, "cmake --build out"),
    ("cmake --build out -j 8 --target all", 8, "cmake --build out --target all"),
    ("cmake --build out --parallel 8", 8, "cmake --build out"),
    ("cmake --build out --parallel=8 -v", 8, "cmake --build out -v"),
    ("cmake --build out -j", 0, "cmake --build out"),
    ("cmake --build out -- -j8 -k", 8, "cmake --build out -- -k"),
    ("cmake --build out -- -j8", 8, "cmake --build out"),
    ("cmake --build out -j4 -- -j8", 8, "cmake --build out"),
    ("cmake --build out -t -j8", 8, "cmake --build out -t"),
    ("cmake -S . -B out -j8", None, "cmake -S . -B out -j8"),
    ("cargo build", None, "cargo build"),
    ("cargo build -j8", 8, "cargo build"),
    ("cargo +nightly -q build --jobs 8", 8, "cargo +nightly -q build"),
    ("cargo --color never test -j=8 -- -j3", 8, "cargo --color never test -- -j3"),
    ("cargo build -j default", None, "cargo build -j default"),
    ("cargo build -j-1", None, "cargo build -j-1"),
    ("cargo run -- -j8", None, "cargo run -- -j8"),
    ("cargo nextest run -j8", None, "cargo nextest run -j8"),
    ("timeout 10m make -j8", 8, "timeout 10m make"),
    ("timeout -s KILL 10m nice -n 5 make -kj8", 8, "timeout -s KILL 10m nice -n 5 make -k"),
    ("env A=1 B=2 ninja -j8", 8, "env A=1 B=2 ninja"),
    ("nice -10 time -p make -j8", 8, "nice -10 time -p make"),
    ("env -i make -j8", None, "env -i make -j8"),
    ("env MAKEFLAGS=-k make -j8", None, "env MAKEFLAGS=-k make -j8"),
    ("env -u MAKEFLAGS make -j8", None, "env -u MAKEFLAGS make -j8"),
    ("timeout --odd 10m make -j8", None, "timeout --odd 10m make -j8"),
    ("timeout 10m", None, "timeout 10m"),
    ("timeout", None, "timeout"),
    ("sh -c 'make -j8'", None, "sh -c 'make -j8'"),
    ("emake -j8", None, "emake -j8"),
]


@pytest.mark.parametrize(("command", "jobs", "bare"), SAID, ids=[row[0] for row in SAID])
def test_what_a_command_says(command: str, jobs: int | None, bare: str) -> None:
    """And what is left of it; where nothing is said, all of it."""
    found = read(shlex.split(command))
    assert (found.jobs, shlex.join(found.bare)) == (jobs, bare)


FLAGS: list[tuple[str, int | None, str]] = [
    ("", None, " -j5 --jobserver-auth=A"),
    ("k", None, "k -j5 --jobserver-auth=A"),
    ("kj8", 8, "k -j5 --jobserver-auth=A"),
    (" -j8", 8, " -j5 --jobserver-auth=A"),
    ("-k -j 8 --no-print-directory", 8, " -j5 --jobserver-auth=A -k --no-print-directory"),
    ("-j", 0, " -j5 --jobserver-auth=A"),
    ("nj", 0, "n -j5 --jobserver-auth=A"),
    (r"ks -j8 -- CC=a\ b -j9", 8, r"ks -j5 --jobserver-auth=A -- CC=a\ b -j9"),
    ("CC=clang", None, " -j5 --jobserver-auth=A CC=clang"),
    ("I dir", None, " -j5 --jobserver-auth=A -I dir"),
    ("-jx k", None, " -j5 --jobserver-auth=A -jx k"),
]


@pytest.mark.parametrize(("flags", "jobs", "told"), FLAGS, ids=[row[0] or "empty" for row in FLAGS])
def test_what_makeflags_say(flags: str, jobs: int | None, told: str) -> None:
    """And the same with a jobserver, as make itself would write it: letters first, variables last."""
    assert makeflags.jobs_of({"MAKEFLAGS": flags}) == jobs
    assert makeflags.with_jobs(flags, 5, "A") == told


def test_a_jobserver_that_is_not_for_make_stands_where_make_takes_it_for_a_variable() -> None:
    """In the last place that others look at, and not in the last one that gcc looks at."""
    assert makeflags.with_jobs("k -- CC=c", 5, "3,4", "fifo:P") == (
        "k -j5 --jobserver-auth=3,4 -- CC=c --jobserver-auth=fifo:P"
    )
    flags = makeflags.without_jobs("k", "fifo:P")
    assert flags == "k -- --x--jobserver-auth=gcc --jobserver-auth=fifo:P --xx--jobserver-auth=gcc"
    assert makeflags.without_jobs("k -- CC=c", "fifo:P").startswith("k -- CC=c --x--jobserver-auth=gcc ")


@pytest.mark.parametrize(
    "environ",
    [
        {"MAKEFLAGS": " -j8 --jobserver-auth=3,4"},
        {"MAKEFLAGS": "k -j --jobserver-fds=3,4"},
        {"CARGO_MAKEFLAGS": "-j --jobserver-fds=8,9 --jobserver-auth=8,9"},
        {"MAKEFLAGS": makeflags.without_jobs("", "fifo:P")},
        {"MAKEFLAGS": makeflags.with_jobs("", 4, "fifo:P")},
    ],
)
def test_a_jobserver_above_us_is_seen(environ: dict[str, str]) -> None:
    """Whoever made it."""
    assert makeflags.has_jobserver(environ)


def test_a_share_is_what_each_program_may_run() -> None:
    """What the user has set stays, but for what is about the command itself; and more is lowered to N."""
    told = fixed.told(["./build.sh"], {"GOMAXPROCS": "7", "MAKEFLAGS": "k"}, 3)
    assert told.command == ["./build.sh"]
    assert told.environ.get("MAKEFLAGS") == (None if sys.platform == "win32" else "k -j3")
    assert told.environ["CARGO_BUILD_JOBS"] == told.environ["CMAKE_BUILD_PARALLEL_LEVEL"] == "3"
    assert "GOMAXPROCS" not in told.environ

    assert fixed.told(["make", "-j8"], {}, 3).command == ["make"]
    assert fixed.told(["make", "-j2"], {}, 3).command == ["make", "-j2"]
    assert "MAKEFLAGS" not in fixed.told(["make"], {"MAKEFLAGS": "-j2"}, 3).environ
    assert fixed.told(["nice", "ninja", "-v"], {}, 3).command == ["nice", "ninja", "-j3", "-v"]
    assert fixed.told(["ninja", "-j8"], {}, 3).command == ["ninja", "-j3"]
    level = {"CMAKE_BUILD_PARALLEL_LEVEL": "8"}
    assert fixed.told(["cmake", "--build", "x"], level, 3).environ["CMAKE_BUILD_PARALLEL_LEVEL"] == "3"
    assert "CMAKE_BUILD_PARALLEL_LEVEL" not in fixed.told(["make"], level, 3).environ


def test_a_share_leaves_the_jobserver_above_us_alone() -> None:
    """A make below a make is told its jobs by that, unless it says a number itself: then it has its own."""
    above = {"MAKEFLAGS": " -j8 --jobserver-auth=3,4"}
    assert fixed.told(["make", "all"], above, 3).command == ["make", "all"]
    assert fixed.told(["make", "-j2"], above, 3).command == ["make", "-j2"]
    told = fixed.told(["make", "-j8", "all"], above, 3)
    assert told.command == ["make", "-j3", "all"]
    assert "MAKEFLAGS" not in told.environ
    assert "CMAKE_BUILD_PARALLEL_LEVEL" not in told.environ
    assert told.environ["GOMAXPROCS"] == "3"


@pytest.mark.parametrize("word", ["-uMAKEFLAGS", "-u MAKEFLAGS", "--unset=MAKEFLAGS", "MAKEFLAGS=", "-i"])
def test_a_make_that_does_not_get_our_variables_keeps_its_number(word: str) -> None:
    """Else it would have neither."""
    argv = ["env", *word.split(), "make", "-j8"]
    assert read(argv).bare == argv


@pytest.mark.parametrize(
    ("line", "is_unclear"),
    [
        ("cargo run -j1", True),
        ("cargo nextest run --jobs=2", True),
        ("cargo run --release", False),
        ("cargo run -- -j8", False),
        ("cargo build -j1", False),
        ("cargo rustc -j1 -- -C debuginfo=2", False),
    ],
)
def test_a_cargo_whose_number_is_not_understood_has_no_jobserver(line: str, is_unclear: bool) -> None:
    """Below one it would not listen to its `-j`."""
    assert read(line.split()).is_unclear == is_unclear
    assert Plan(line.split(), {}).is_left_alone == is_unclear


def test_an_empty_level_is_as_many_as_there_are(tmp_path: Path) -> None:
    """That is how CMake takes it: for a bare `-j`, which beats a jobserver."""
    (tmp_path / "CMakeCache.txt").write_text("\nCMAKE_GENERATOR:INTERNAL=Unix Makefiles\n")
    plan = Plan(
        ["cmake", "--build", str(tmp_path)], {"CMAKE_BUILD_PARALLEL_LEVEL": "", "PATH": os.environ["PATH"]}
    )
    told = plan.told(2, "fifo:P", "3,4")
    assert told.environ["CMAKE_BUILD_PARALLEL_LEVEL"] is None
    assert " -j3 " in f" {told.environ['MAKEFLAGS']}"


@pytest.mark.parametrize("words", ["--preset dev -j2", "no-such-directory -j2"])
def test_a_cmake_of_which_nobody_knows_what_it_runs_keeps_its_number(words: str) -> None:
    """It may be a ninja that takes no tokens."""
    argv = ["cmake", "--build", *words.split()]
    plan = Plan(argv, {})
    assert plan.unserved == "there is no telling what cmake runs here"
    assert plan.told(2, "fifo:P", "3,4").command == argv


@pytest.mark.parametrize("line", ["cargo build", "ninja"])
def test_makes_below_what_takes_no_tokens_take_some_if_the_user_says_how_many(
    line: str, tmp_path: Path
) -> None:
    """A `-j8` in MAKEFLAGS without a jobserver is eight jobs for each of them."""
    ninja = tmp_path / "ninja"
    ninja.write_bytes(b"\0001.11.1\0")
    ninja.chmod(0o755)
    environ = {"MAKEFLAGS": "-j8", "PATH": f"{tmp_path}:{os.environ['PATH']}"}
    flags = Plan(line.split(), environ).told(2, "fifo:P", "3,4").environ["MAKEFLAGS"]
    assert flags is not None
    assert "-j8" not in flags
    assert "--jobserver-auth=" in flags.partition(" -- ")[0]


def test_a_makefile_that_looks_for_letters_finds_none_of_ours() -> None:
    """As by `$(findstring s,$(filter-out --%,$(MAKEFLAGS)))`, and `$(findstring n,$(MAKEFLAGS))`."""
    words = makeflags.without_jobs("", "fifo:/P").split()
    assert all(word.startswith("--") for word in words)
    assert not any("n" in word for word in words)
