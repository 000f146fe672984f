"""Which programs take tokens, and how, found out by running them: the table in help/tokens.md is this one."""

from __future__ import annotations

import os
import shutil
import stat
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from projects import HOME, LONG, MANY, SHORT, SLOT_RUN, C, Project, tool

from buildslots.tokens.clients import DESCRIPTORS, FIFO, STRANGE, make_style

if TYPE_CHECKING:
    from builds import Pool

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="only Linux has tokens")


@pytest.fixture
def project(pool: Pool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Project:
    """A project of its own, which knows nothing of a make or cargo that runs the tests."""
    for name in list(pool.environ):
        if name.startswith(("MAKE", "GNUMAKE", "MFLAGS", "CMAKE_", "CARGO_", "NINJA")):
            del pool.environ[name]
    pool.environ["BUILD_SLOTS_TOKENS"] = str(C)
    return Project(pool, tmp_path / "project")


@pytest.mark.parametrize("make", ["make 4.3", "make 4.4"])
class TestMake:
    """make takes tokens where somebody says that it may run several jobs; both kinds of it."""

    def test_its_j_is_taken_for_n(self, project: Project, make: str) -> None:
        """N jobs at most, and C + 1."""
        project.has(make)
        project.makefile()
        assert project.peak(C + 1, SLOT_RUN, "make", "-sj8", "many") == C + 1
        assert project.done.stderr == ""
        assert project.peak(2, SLOT_RUN, "timeout", "60", "make", "-j2", "-s", "many") == 2

    def test_without_j_it_is_serial_unless_jobs_are_said(self, project: Project, make: str) -> None:
        """By --jobs, or by its own variable."""
        project.has(make)
        project.makefile()
        assert project.peak(1, SLOT_RUN, "make", "-s", "many") == 1
        assert project.peak(3, SLOT_RUN, "--jobs", "3", "make", "-s", "many") == 3
        assert project.peak(C + 1, SLOT_RUN, "make", "-s", "many", MAKEFLAGS="-j8") == C + 1

    def test_makes_below_it_share(self, project: Project, make: str) -> None:
        """Also one behind a slot-run of its own, which leaves the jobserver above it alone."""
        project.has(make)
        project.makefile("+@$(MAKE) -s many")
        assert project.peak(C + 1, SLOT_RUN, "make", "-sj8") == C + 1
        project.makefile("+@slot-run $(MAKE) -s many")
        assert project.peak(C + 1, SLOT_RUN, "make", "-sj8") == C + 1
        assert project.done.stderr == ""
        project.makefile("+@echo $$MAKEFLAGS; slot-run sh -c 'echo $$MAKEFLAGS'")
        outer, inner = project.run(SLOT_RUN, "make", "-sj8").stdout.splitlines()
        assert outer == inner

    def test_a_j_inside_a_makefile_is_not_caught(self, project: Project, make: str) -> None:
        """It says that it takes its own jobs."""
        project.has(make)
        project.makefile("+@$(MAKE) -s -j8 many")
        assert project.peak(8, SLOT_RUN, "make", "-sj4") == 8
        assert "resetting jobserver mode" in project.done.stderr

    @pytest.mark.parametrize(("plus", "jobs"), [("", ["-j8"]), ("+", [])])
    def test_a_ninja_in_a_recipe_takes_tokens(
        self, project: Project, make: str, plus: str, jobs: list[str]
    ) -> None:
        """Whether make does or not: it has a FIFO for itself."""
        project.has(make, "ninja 1.13")
        project.ninja()
        project.makefile(f"{plus}@ninja --quiet")
        assert project.peak(C + 1, SLOT_RUN, "make", "-s", *jobs, patience=SHORT) == C + 1


def test_an_older_make_has_descriptors_and_a_newer_one_a_fifo(project: Project) -> None:
    """A make in a recipe without `+` has the second one, and could not have the first."""
    seen = "@echo $$MAKEFLAGS; $(MAKE) -s many"
    project.has("make 4.3")
    project.makefile(seen)
    assert make_style([], {"PATH": str(project.bin)}) == DESCRIPTORS
    assert project.peak(C + 1, SLOT_RUN, "make", "-sj8") == C + 1  # $(MAKE) has a `+`, in effect
    assert "--jobserver-auth=fifo:" in project.done.stdout.partition(" -- ")[2]

    project.has("make 4.4")
    assert make_style([], {"PATH": str(project.bin)}) == FIFO
    project.makefile(f"@echo $$MAKEFLAGS; {project.bin}/make -s many")
    assert project.peak(C + 1, SLOT_RUN, "make", "-sj8") == C + 1
    assert "--jobserver-auth=fifo:" in project.done.stdout
    assert " -- " not in project.done.stdout


def test_a_make_that_is_none_of_gnu_stays_as_it_is(project: Project) -> None:
    """Whatever it would make of our MAKEFLAGS."""
    (project.bin / "make").symlink_to("/bin/true")
    assert make_style([], {"PATH": str(project.bin)}) == STRANGE
    shown = project.run(SLOT_RUN, "sh", "-c", "echo $MAKEFLAGS", MAKEFLAGS="-j8")
    assert shown.stdout.startswith("-j8 -- ")


@pytest.mark.parametrize("make", ["make 4.3", "make 4.4"])
def test_a_ninja_takes_tokens_by_itself(project: Project, make: str) -> None:
    """With -jN and without, whichever make is there."""
    project.has(make, "ninja 1.13")
    project.ninja()
    assert project.peak(C + 1, SLOT_RUN, "ninja", "-j8", "--quiet", patience=SHORT) == C + 1
    assert project.peak(2, SLOT_RUN, "--jobs", "2", "ninja", "--quiet", patience=SHORT) == 2


def test_a_ninja_before_1_13_takes_none(project: Project) -> None:
    """It keeps its -jN, and without one it has the share of --jobs."""
    project.has("ninja 1.11")
    project.ninja()
    assert project.peak(8, SLOT_RUN, "ninja", "-j8") == 8
    assert project.peak(2, SLOT_RUN, "--jobs", "2", "ninja", patience=SHORT) == 2


@pytest.mark.parametrize("generator", ["Unix Makefiles", "Ninja"])
def test_cmake_hands_on_what_its_program_takes(project: Project, generator: str) -> None:
    """Its -jN, the program's own behind a `--`, and its variable."""
    patience = SHORT if generator == "Ninja" else LONG
    project.has("make 4.3", "ninja 1.13", "cmake")
    listed = "".join(f"add_custom_target(j{number} ALL {project.job})\n" for number in range(MANY))
    project.write("CMakeLists.txt", f"cmake_minimum_required(VERSION 3.10)\nproject(p NONE)\n{listed}")
    configured = project.run("cmake", "-S", ".", "-B", "out", "-G", generator)
    assert configured.returncode == 0, configured.stderr
    build = (SLOT_RUN, "cmake", "--build", "out")
    assert project.peak(C + 1, *build, "-j8", patience=patience) == C + 1
    assert project.peak(C + 1, *build, "--", "-j8", patience=patience) == C + 1
    level = {"CMAKE_BUILD_PARALLEL_LEVEL": "8"}
    assert project.peak(C + 1, *build, patience=patience, **level) == C + 1


@pytest.mark.parametrize("make", ["make 4.3", "make 4.4"])
def test_cargo_takes_tokens(project: Project, make: str) -> None:
    """With -jN and without, and does not warn."""
    project.has(make)
    cargo = tool("cargo")
    project.write("Cargo.toml", '[workspace]\nmembers = ["c[0-7]"]\nresolver = "2"\n')
    for number in range(8):
        crate = project.path / f"c{number}"
        (crate / "src").mkdir(parents=True)
        (crate / "src/lib.rs").touch()
        (crate / "Cargo.toml").write_text(f'[package]\nname = "c{number}"\nversion = "1.0.0"\n')
    wrapper = project.write(
        "rustc", f'#!/bin/sh\ncase $* in *"crate-name c"*) {project.job} ;; esac\nexec "$@"\n'
    )
    wrapper.chmod(0o755)
    environ = {
        "RUSTC_WRAPPER": str(wrapper),
        "CARGO_NET_OFFLINE": "true",
        "CARGO_HOME": str(project.path / "cargo"),
        "RUSTUP_HOME": os.environ.get("RUSTUP_HOME", f"{HOME}/.rustup"),
        "PATH": f"{project.bin}:{Path(cargo).parent}",
    }
    assert project.peak(C + 1, SLOT_RUN, "cargo", "build", "-j8", **environ) == C + 1
    assert "jobserver" not in project.done.stderr
    shutil.rmtree(project.path / "target")
    assert project.peak(2, SLOT_RUN, "--jobs", "2", "cargo", "build", **environ) == 2


def test_gcc_links_with_tokens_below_a_make_and_with_its_own_threads_elsewhere(project: Project) -> None:
    """It starts a make for -flto=auto: without -jN where it takes that make's jobs from a jobserver."""
    project.has("make 4.3")
    tool("gcc")
    project.write("m.c", "int main(void) { return 0; }\n")
    make = project.write("make.sh", f'#!/bin/sh\necho "$@" >>{project.path}/asked\nexec make "$@"\n')
    make.chmod(make.stat().st_mode | stat.S_IXUSR)
    link = f"@MAKE={make} gcc -O1 -flto=auto -o m m.c"
    asked = []
    for recipe, jobs in ((f"+{link}", ["-j8"]), (link, ["-j8"]), (f"+{link}", [])):
        project.makefile(recipe)
        (project.path / "asked").unlink(missing_ok=True)
        done = project.run(SLOT_RUN, "make", *jobs)
        assert done.returncode == 0, done.stderr
        asked.append("-j" in (project.path / "asked").read_text())
    # For a recipe without `+` make has closed the descriptors.
    assert asked == [False, True, True]
