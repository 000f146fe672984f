"""`buildslots doctor` on CPU tokens: whether they work, tools, Makefiles, and what keeps some for nothing."""

from __future__ import annotations

import json
import os
import signal
from typing import TYPE_CHECKING

import pytest
from builds import Pool, script, wait_until

if TYPE_CHECKING:
    from pathlib import Path

pytestmark = pytest.mark.linux


def checks(pool: Pool, name: str, *, tokens: str = "3", **run: object) -> list[dict]:
    """What the check `name` found."""
    environ = {"BUILD_SLOTS_TOKENS": tokens, **run.pop("environ", {})}
    result = pool.run(script("buildslots"), "doctor", "--json", environ=environ, **run)
    assert result.stderr == ""
    return [check for check in json.loads(result.stdout)["checks"] if check["check"] == name]


def program(directory: Path, name: str, text: str) -> None:
    """A program of that name which prints that."""
    directory.mkdir(exist_ok=True)
    (directory / name).write_text(f"#!/bin/sh\necho '{text}'\n")
    (directory / name).chmod(0o755)


def test_off(pool: Pool) -> None:
    """Then it is said that they would work, and nothing else."""
    (its,) = checks(pool, "tokens", tokens="off")
    assert (its["level"], its["text"]) == ("ok", "off; they could be used here")
    assert its["details"]["works"] is True
    assert checks(pool, "makefiles", tokens="off") == []


def test_tools(pool: Pool, tmp_path: Path) -> None:
    """Each is named with its version; of one that takes none it is said why."""
    program(tmp_path / "bin", "ninja", "1.11.1")
    program(tmp_path / "bin", "make", "bmake 20220928")
    path = f"{tmp_path}/bin:{os.environ['PATH']}"
    first, *others = checks(pool, "tokens", environ={"PATH": path})
    assert first["level"] == "ok"
    assert first["text"].startswith("all builds share 3 (BUILD_SLOTS_TOKENS); these take them: ")
    tools = {tool["name"]: tool for tool in first["details"]["tools"]}
    assert (tools["ninja"]["version"], tools["ninja"]["takes"]) == ("1.11.1", False)
    assert "ninja 1.11.1 takes no tokens: ninja does since 1.13" in [other["text"] for other in others]
    assert {other["level"] for other in others} == {"note"}
    assert tools["make"]["takes"] is False


def test_a_place_for_jobservers_is_missing(pool: Pool, tmp_path: Path) -> None:
    """Tokens are on and cannot work: that is a problem, and its reason is the system's."""
    (tmp_path / "run").mkdir(mode=0o700)
    (tmp_path / "run" / "buildslots").write_text("")
    (tmp_path / "cache" / "buildslots").mkdir(parents=True)
    (tmp_path / "cache" / "buildslots" / "jobservers").write_text("")
    environ = {"XDG_RUNTIME_DIR": str(tmp_path / "run"), "XDG_CACHE_HOME": str(tmp_path / "cache")}
    (its,) = checks(pool, "tokens", environ=environ)
    assert its["level"] == "problem"
    assert its["details"]["works"] is False


MAKEFILE = """\
all:
\t$(MAKE) -j8 -C sub
\t+make -k -j$(nproc)
\t${MAKE} --jobs=4
\tcd out && ninja -j 16
export MAKEFLAGS += -j4
\t$(MAKE) -j1 -C sub
\t$(MAKE) -j 1 -C sub
\t$(MAKE) -C sub
\techo make it so -j8ust
CFLAGS = -j8
# $(MAKE) -j8
\t$(MAKE) -C jobs; run -j8
"""


def test_makefiles_with_jobs_of_their_own(pool: Pool, tmp_path: Path) -> None:
    """The lines of Makefiles in the current directory that start one; `-j1`, comments and others are none."""
    (tmp_path / "Makefile").write_text(MAKEFILE)
    (tmp_path / "more.mk").write_text("MAKEFLAGS = --jobs\n")
    (tmp_path / "not.txt").write_text(MAKEFILE)
    os.mkfifo(tmp_path / "makefile")
    (its,) = checks(pool, "makefiles", cwd=tmp_path)
    assert its["level"] == "note"
    lines = [(line["file"], line["line"]) for line in its["details"]["lines"]]
    assert lines == [("Makefile", number) for number in range(2, 7)] + [("more.mk", 1)]
    assert "Makefile line 2, `$(MAKE) -j8 -C sub`" in its["text"]
    assert its["text"].endswith(", and 3 more")


def test_what_keeps_tokens_of_a_killed_slot_run(pool: Pool, tmp_path: Path) -> None:
    """Its build, or a daemon of it; and not the builds that are served."""
    words = ("sh", "-c", "echo; read line")
    build = pool.popen(script("slot-run"), "--tokens=3", "--jobs", "2", "--", *words)
    build.started()
    wait_until(lambda: pool.status().tokens is not None and pool.status().tokens.held, "its token")
    assert [each["level"] for each in checks(pool, "tokens") if "keeps" in each["text"]] == []
    child = int(pool.record().read_text().split("\nchild ")[1].split()[0])
    os.kill(build.pid, signal.SIGKILL)
    build.process.wait()
    other = pool.popen(script("slot-run"), "--tokens=3", "--jobs", "2", "--", *words)
    other.started()
    (its,) = (each for each in checks(pool, "tokens") if "keeps" in each["text"])
    assert its["text"].startswith(f"{child} `sh ")
    assert its["details"]["process"]["pid"] == child


def test_sccache(pool: Pool) -> None:
    """Builds that use it are told what its server does with their tokens."""
    notes = checks(pool, "tokens", environ={"RUSTC_WRAPPER": "/usr/bin/sccache"})
    (its,) = (each for each in notes if "sccache" in each["text"])
    assert (its["level"], its["details"]["sccache"]["asked_for"]) == ("note", True)
