"""CPU tokens in `buildslots status`: how many are held, each build's jobs, and why a build takes none."""

from __future__ import annotations

import json
import os
import signal
from typing import TYPE_CHECKING

import pytest
from builds import Pool, script, wait_until
from prometheus_client.parser import text_string_to_metric_families

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from builds import Build
    from terminals import Terminal

pytestmark = pytest.mark.linux
GATED = "JOBS = a b c d e f g h\nall: $(JOBS)\n$(JOBS):\n\t@read line <gate\n"
"""Jobs that run until somebody writes into a FIFO."""


class Makes:
    """Makes of one project whose jobs do not end by themselves."""

    def __init__(self, pool: Pool, directory: Path) -> None:
        directory.mkdir()
        (directory / "Makefile").write_text(GATED)
        os.mkfifo(directory / "gate")
        self._pool, self._directory = pool, directory
        self._builds: list[Build] = []
        self.gate = os.open(directory / "gate", os.O_RDWR)

    def start(self, *options: str, command: tuple[str, ...] = ("make", "-s", "-j4")) -> Build:
        """Start `slot-run OPTIONS -- COMMAND`, and wait until it has its slot."""
        before = len(self._pool.held())
        words = (script("slot-run"), "-n9", *options, "--", *command)
        build = self._pool.popen(*words, cwd=self._directory, process_group=0)
        self._builds.append(build)
        wait_until(lambda: len(self._pool.held()) > before, "one more slot that is held")
        return build

    def end(self) -> None:
        for build in self._builds:
            try:
                os.killpg(build.pid, signal.SIGKILL)
            except ProcessLookupError:
                pass
            build.process.wait()
        os.close(self.gate)


@pytest.fixture
def makes(pool: Pool, tmp_path: Path) -> Iterator[Makes]:
    makes = Makes(pool, tmp_path / "project")
    yield makes
    makes.end()


def look(pool: Pool, **environ: str) -> dict:
    """The document of `status --json`."""
    result = pool.run(script("buildslots"), "status", "--json", environ=environ)
    assert (result.returncode, result.stderr) == (0, "")
    return json.loads(result.stdout)


def held(pool: Pool) -> list[int | None]:
    """How many tokens each build has."""
    return [its["tokens"] and its["tokens"]["held"] for its in look(pool)["holders"]]


def test_nobody_uses_any(pool: Pool, makes: Makes) -> None:
    """Then nothing is said of them."""
    makes.start()
    seen = look(pool)
    assert (seen["tokens"], seen["holders"][0]["tokens"]) == (None, None)
    text = pool.run(script("buildslots"), "status").stdout
    assert "token" not in text
    assert "JOBS" not in text


def test_what_each_build_has(pool: Pool, makes: Makes) -> None:
    """Tokens by the locks in the file, jobs by what builds say: the first job of each needs no token."""
    makes.start("--tokens=4", command=("make", "-s", "-j3"))
    wait_until(lambda: held(pool) == [2], "the tokens of the first build")
    makes.start("--tokens=4", command=("make", "-s", "-j9"))
    wait_until(lambda: held(pool) == [2, 2], "the tokens of both")
    seen = look(pool, BUILD_SLOTS_TOKENS="4")
    assert seen["tokens"] == {"count": 4, "source": "BUILD_SLOTS_TOKENS", "held": 4, "builds": 2}
    first, second = (holder["tokens"] for holder in seen["holders"])
    assert first == {"held": 2, "most": 2, "wants_more": False, "not_in_use": None}
    assert second == {"held": 2, "most": 4, "wants_more": True, "not_in_use": None}
    text = pool.run(script("buildslots"), "status", environ={"BUILD_SLOTS_TOKENS": "4"}).stdout
    assert " waiting, 4 of 4 tokens" in text
    jobs = {line.rpartition("-j")[2]: line for line in text.splitlines() if "make -s -j" in line}
    assert " 3 of 3 " in jobs["3"]
    assert " 3 of 5 " in jobs["9"]


def test_who_asks_may_use_none(pool: Pool, makes: Makes) -> None:
    """What others have is said all the same; and who says how many there are for who asks."""
    makes.start("--tokens=1")
    wait_until(lambda: held(pool) == [1], "the token")
    assert look(pool)["tokens"] == {"count": None, "source": "default", "held": 1, "builds": 1}
    assert ", 1 tokens held" in pool.run(script("buildslots"), "status").stdout
    pool.run(script("buildslots"), "set", "tokens=3")
    assert look(pool)["tokens"]["count"] == 3
    assert look(pool)["tokens"]["source"] == "the pool"
    assert look(pool, BUILD_SLOTS_TOKENS="2")["tokens"]["count"] == 2
    assert look(pool, BUILD_SLOTS_TOKENS="off")["tokens"]["count"] is None


def test_why_a_build_takes_none(pool: Pool, makes: Makes, tmp_path: Path) -> None:
    """It is said of a program that does not know them; to run one job is nothing unusual."""
    ninja = tmp_path / "ninja"
    ninja.write_text("#!/bin/sh\nread line <gate\n")
    ninja.chmod(0o755)
    makes.start("--tokens=2", command=(str(ninja), "-j4"))
    makes.start("--tokens=2", command=("make", "-s"))
    wait_until(lambda: None not in held(pool), "the records of both")
    lines = pool.run(script("buildslots"), "status").stdout.splitlines()
    (its,) = (line for line in lines if "ninja -j4" in line)
    assert "(tokens not in use: ninja" in its
    (other,) = (line for line in lines if line.endswith("make -s"))
    assert " 1  " in other


def test_a_killed_slot_run_is_no_build_any_more(pool: Pool, makes: Makes) -> None:
    """Its build has its tokens until it ends; they are counted, and nobody is said to have them."""
    build = makes.start("--tokens=2", command=("make", "-s", "-j2"))
    wait_until(lambda: held(pool) == [1], "the token")
    build.process.kill()
    wait_until(lambda: look(pool)["tokens"]["builds"] == 0, "the end of slot-run")
    assert look(pool)["tokens"]["held"] >= 1
    assert held(pool) == [None]


def test_hostile_records(pool: Pool, makes: Makes) -> None:
    """What is no record, or is nobody's, is passed over."""
    makes.start("--tokens=2", command=("make", "-s", "-j2"))
    wait_until(lambda: held(pool) == [1], "the token")
    room = pool.dir / "builds"
    (room / "0123456789abcdef").write_bytes(b"buildslots-build 1\nstate 1 9 9 1\nend\n")
    (room / "0123456789abcde0").write_bytes(b"\xff" * 10000)
    (room / "0123456789abcde1").mkdir()
    (room / "0123456789abcde2").symlink_to("/dev/zero")
    os.mkfifo(room / "0123456789abcde3")
    assert held(pool) == [1]
    assert look(pool)["tokens"]["builds"] == 1


def test_metrics(pool: Pool, makes: Makes) -> None:
    """The gauges of tokens have no pool: they are the machine's."""
    makes.start("--tokens=2", command=("make", "-s", "-j2"))
    wait_until(lambda: held(pool) == [1], "the token")
    text = pool.run(
        script("buildslots"), "status", "--format", "prometheus", environ={"BUILD_SLOTS_TOKENS": "2"}
    ).stdout
    samples = [sample for family in text_string_to_metric_families(text) for sample in family.samples]
    values = {s.name: (s.labels, s.value) for s in samples if "tokens" in s.name}
    assert values == {
        "buildslots_tokens": ({}, 2),
        "buildslots_tokens_held": ({}, 1),
        "buildslots_tokens_builds": ({}, 1),
    }


def test_the_live_view(pool: Pool, makes: Makes, terminal: Terminal) -> None:
    """It has the column of jobs, too."""
    makes.start("--tokens=2", command=("make", "-s", "-j2"))
    wait_until(lambda: held(pool) == [1], "the token")
    terminal.type(f"BUILD_SLOTS_TOKENS=2 {script('buildslots')} status --watch")
    terminal.wait_until(lambda: any("2 of 2" in line and "make" in line for line in terminal.lines()), "jobs")
    assert any("1 of 2 tokens" in line for line in terminal.lines())
    terminal.keys("q")
