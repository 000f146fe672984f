"""Where slot-run is put into lines of shell commands: a corpus, ten thousand made ones, and real shells."""

from __future__ import annotations

import os
import random
import shutil
import subprocess
from pathlib import Path

import pytest
from builds import DEADLINE_S

from buildslots.agents.heavy import Heavy
from buildslots.agents.shell import insert, rewrite

CORPUS = Path(__file__).with_name("lines.txt").read_text(encoding="utf-8").rstrip("\n").split("\n%%\n")[1:]
MARK = "^^"
is_build = Heavy().is_build

WORDS = (
    "make",
    "cargo build",
    "cargo",
    "'make'",
    '"make"',
    "\\make",
    "m'a'ke",
    "npm run x",
    "echo",
    "cd sub",
)
WRAPPED = ("timeout 5", "nice -n 1", "env A=1", "time", "time -p", "!", "command", "exec", "nohup", "nice -x")
ARGUMENTS = ("-j8", "all", "'a b'", '"a $A b"', "a\\ b", "$A", "${A}", "$(echo 1)", '"$(echo 1)"', "*", "x=1")
REDIRECTIONS = (">out", "2>&1", ">>out", "</dev/null", "2>err", "> out")
JOINTS = (" && ", " || ", "; ", " | ", " & ", "\n", "&&", "||", ";", "|", " # isn't it\n", " \\\n&& ")
ODD = ("(", ")", "{", "}", "`", "$((", "$'", "<<E", "'", '"', "\\", "case", "if", "\0", "é", "$", "&>", ";;")


def made_line(chance: random.Random, *, odd: float) -> str:
    """A line of one to four commands, with something strange in it now and then."""
    line = ""
    for _ in range(chance.randint(1, 4)):
        words = [chance.choice(("A=1", "CC='a b'")) for _ in range(chance.random() < 0.2)]
        words += [chance.choice(WRAPPED) for _ in range(chance.random() < 0.3)]
        words.append(chance.choice(WORDS))
        words += [chance.choice(ARGUMENTS) for _ in range(chance.randint(0, 3))]
        words += [chance.choice(REDIRECTIONS) for _ in range(chance.random() < 0.3)]
        if chance.random() < odd:
            words.insert(chance.randint(0, len(words)), chance.choice(ODD))
        line += chance.choice((" ", "  ", "\t")).join(words) + chance.choice(JOINTS)
    return line if chance.random() < odd else line.rstrip(" &|;\n\\")


def is_race(line: str) -> bool:
    """Whether two runs may differ: commands run at the same time, with files that both see."""
    together = " & " in line or "|" in line.replace("||", "")
    return together and (" & " in line or "*" in line or "out" in line)


@pytest.mark.parametrize("line", CORPUS)
def test_the_corpus(line: str) -> None:
    """slot-run stands where a person would put it, or nowhere."""
    plain = line.replace(MARK, "")
    assert insert(plain, rewrite(plain, is_build)) == line.replace(MARK, "slot-run ")


def test_nothing_but_slot_run_is_added() -> None:
    """In 10,000 made lines, a tenth of which no shell would take."""
    chance = random.Random(18)
    changed = 0
    for _ in range(10_000):
        line = made_line(chance, odd=0.1)
        places = rewrite(line, is_build)
        said = insert(line, places)
        assert len(said) == len(line) + len(places) * len("slot-run "), line
        for place in reversed([place + n * len("slot-run ") for n, place in enumerate(places)]):
            assert said[place:].startswith("slot-run "), line
            said = said[:place] + said[place + len("slot-run ") :]
        assert said == line
        changed += bool(places)
    assert changed > 2_000


def test_twice_is_once() -> None:
    """What has slot-run is left alone."""
    for line in CORPUS:
        once = line.replace(MARK, "slot-run ")
        assert insert(once, rewrite(once, is_build)) == once


def test_a_long_line_is_read_in_one_pass() -> None:
    """Were a piece looked at again for each one behind it, this would end by the timeout."""
    for piece in ("make;", "#\n", "$(", '"$x"', "\\\n", "a|", "9", "timeout 1 ", "A=1 "):
        rewrite(piece * (2**16 // len(piece)), is_build)


STUB = r"""#!/bin/sh
name=${0##*/}
{ printf '%s|' "$name" "$PWD" "A=${A-}" "CC=${CC-}" "$@"; echo; } >>"$LOG.$name.$$"
for each; do case $each in all) status=3;; esac; echo "$name $each"; done
exit ${status:-0}
"""
SLOT_RUN = '#!/bin/sh\necho x >>"$LOG-wrapped"\nexec "$@"\n'


class Shell:
    """A shell with programs that only tell how they were called."""

    def __init__(self, shell: str, directory: Path) -> None:
        # Of two targets zsh serves one by a process of its own, which may end later than the line.
        self.shell = [shell, "-o", "nomultios"] if shell.endswith("zsh") else [shell]
        self.directory = directory
        (directory / "bin").mkdir()
        for name in ("make", "cargo", "npm", "slot-run"):
            path = directory / "bin" / name
            path.write_text(SLOT_RUN if name == "slot-run" else STUB)
            path.chmod(0o755)
        self.wrapped = 0

    def told(self, line: str) -> dict[str, object]:
        """All that is to be seen of a line's run: calls, files, what was printed, the status."""
        there = self.directory / "there"
        logs = self.directory / "logs"
        for path in (there, logs):
            shutil.rmtree(path, ignore_errors=True)
            path.mkdir()
        (there / "sub").mkdir()
        environ = {
            "PATH": f"{self.directory}/bin:/usr/bin:/bin",
            "LOG": str(logs / "log"),
            "HOME": str(there),
        }
        # The end of stdin is the end of all that the line has left in the background.
        done = subprocess.run(
            [*self.shell, "-c", line], cwd=there, env=environ, stdin=subprocess.DEVNULL, capture_output=True,
            text=True, timeout=DEADLINE_S, check=False,
        )  # fmt: skip
        self.wrapped += (logs / "log-wrapped").exists()
        files = [path for path in sorted(there.rglob("*")) if path.is_file()]
        return {
            "status": done.returncode,
            "calls": sorted(path.read_text() for path in logs.glob("log.*")),
            "printed": sorted(self._without_times(done.stdout)),
            "files": {path.name: sorted(self._without_times(path.read_text())) for path in files},
        }

    @staticmethod
    def _without_times(text: str) -> list[str]:
        starts, ends = ("real", "user", "sys"), ("total", "maxresident)k", "swaps")
        return [line for line in text.splitlines() if not (line.startswith(starts) or line.endswith(ends))]


@pytest.mark.parametrize("shell", ["bash", "dash", "zsh"])
def test_the_same_happens_in_a_shell(shell: str, tmp_path: Path) -> None:
    """With slot-run and without: the same programs, arguments, variables, directories, files, statuses."""
    found = shutil.which(shell)
    if found is None:
        pytest.skip(f"there is no {shell}")
    runner = Shell(found, tmp_path)
    chance = random.Random(shell)
    lines = []
    while len(lines) < 100:
        line = made_line(chance, odd=0.03)
        if rewrite(line, is_build) and "\0" not in line and not is_race(line):
            lines.append(line)
    for line in lines:
        assert runner.told(line) == runner.told(insert(line, rewrite(line, is_build))), line
    assert runner.wrapped > 50


def test_text_is_not_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nor is it expanded, whatever quotes are around it."""
    directory = tmp_path / "here"
    directory.mkdir()
    monkeypatch.chdir(directory)
    for canary in (
        "$(touch x)",
        "`touch x`",
        '"$(touch x)"',
        "\ntouch x\n",
        "';touch x;'",
        "${x:=$(touch x)}",
    ):
        rewrite(f"make {canary}", is_build)
    assert os.listdir(directory) == []
