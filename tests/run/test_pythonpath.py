"""PYTHONPATH of another program: our commands load their own modules, and the command gets it unchanged."""

from __future__ import annotations

import os
import subprocess
import sys
import sysconfig
from typing import TYPE_CHECKING

import pytest
from builds import Pool, script

if TYPE_CHECKING:
    from pathlib import Path

# All that the commands load after the start of Python, and what a program may well call a module of its own.
NAMES = ["__future__", "_signal", "argparse", "buildslots", "errno", "fcntl", "gc", "json", "marshal"]
NAMES += ["platformdirs", "psutil", "pwd", "rich", "select", "signal", "stat", "struct", "time", "tomllib"]
NAMES += ["unicodedata", "utils"]
SHADOW = (
    "import os; open(os.environ['LOADED'], 'a').write(__name__ + '\\n'); raise ImportError('not that one')\n"
)


@pytest.fixture
def theirs(pool: Pool, tmp_path: Path) -> Path:
    """A directory with modules of those names, each of which fails and says that it was loaded."""
    directory = tmp_path / "theirs"
    for name in NAMES:
        directory.joinpath(name).mkdir(parents=True)
        directory.joinpath(name, "__init__.py").write_text(SHADOW)
        directory.joinpath(f"{name}.py").write_text(SHADOW)
    pool.environ["LOADED"] = str(tmp_path / "loaded")
    return directory


def at_the_start(pool: Pool, where: str, cwd: Path) -> set[str]:
    """Which of them Python loads itself, before any script (for an editable installation, say)."""
    command = [sys.executable, "-c", "pass"]
    environ = pool.environ | {"PYTHONPATH": where}
    subprocess.run(command, env=environ, cwd=cwd, check=False, stderr=subprocess.DEVNULL)
    return loaded(pool)


def loaded(pool: Pool) -> set[str]:
    try:
        with open(pool.environ["LOADED"], encoding="ascii") as file:
            return set(file.read().split())
    except FileNotFoundError:
        return set()


LIBRARY = sysconfig.get_path("stdlib")
WAYS = {
    "directory": "{theirs}",
    "empty": "",
    "the current one": ":{theirs}/nothing",
    "before the library": "{theirs}:{library}:{library}/lib-dynload",
    "behind the library": "{library}:{theirs}",
}


@pytest.mark.linux
@pytest.mark.parametrize("way", WAYS)
def test_slot_run_loads_its_own(pool: Pool, theirs: Path, way: str) -> None:
    """Whether it runs at once, says that it waits, reads a config file, or explains itself."""
    where = WAYS[way].format(theirs=theirs, library=LIBRARY)
    if at_the_start(pool, where, theirs):
        pytest.skip("this Python's own start loads some of them")
    home = theirs.parent / "home" / ".config" / "buildslots"
    home.mkdir(parents=True)
    home.joinpath("config.toml").write_text("timeout = 0.1\n")
    pool.environ["PYTHONPATH"] = where
    pool.build("-n1", cwd=str(theirs)).started()

    def run(*args: str) -> tuple[int, str, str]:
        command = [script("slot-run"), *args]
        result = subprocess.run(
            command, env=pool.environ, cwd=theirs, capture_output=True, text=True, check=False
        )
        return result.returncode, result.stdout, result.stderr

    status, out, said = run("-n1", "sh", "-c", 'echo "$PYTHONPATH"')
    assert (status, out, said.count("\n")) == (0, f"{where}\n", 1)
    assert said.endswith("running beyond the cap of 1 (overflow slot 1)\n")
    assert run("-n9", "--min-free-memory", "1K", "--max-load", "9999", "true") == (0, "", "")
    assert run("--version")[0] == run("--help")[0] == 0
    assert loaded(pool) == set()


@pytest.mark.linux
def test_buildslots_loads_its_own(pool: Pool, theirs: Path) -> None:
    """The views as well."""
    if at_the_start(pool, str(theirs), theirs):
        pytest.skip("this Python's own start loads some of them")
    pool.environ["PYTHONPATH"] = str(theirs)
    for args in (["status", "--json"], ["pools"], ["history"], ["help"]):
        command = [script("buildslots"), *args]
        result = subprocess.run(command, env=pool.environ, capture_output=True, text=True, check=False)
        assert (result.returncode, result.stderr) == (0, ""), args
    assert loaded(pool) == set()


ORDER = """
import sys
before = list(sys.path)
sys.path.append(sys.argv[1])
import _buildslots
sys.path.pop()
_buildslots._put_our_own_first()
assert sorted(sys.path) == sorted(before), sys.path
print(*sys.path, sep="\\n")
"""


@pytest.mark.parametrize("options", [[], ["-P"], ["-I"]])
def test_nothing_is_lost(tmp_path: Path, options: list[str]) -> None:
    """What is installed in a directory of PYTHONPATH is found there, after all else."""
    top = os.path.abspath(f"{os.path.dirname(__file__)}/../..")
    program = tmp_path / "bin" / "program.py"
    program.parent.mkdir()
    program.write_text(ORDER)
    environ = os.environ | {"PYTHONPATH": str(tmp_path / "theirs")}
    command = [sys.executable, *options, str(program), top]
    found = subprocess.run(command, env=environ, capture_output=True, text=True, check=True)
    order = found.stdout.splitlines()
    moved = {"-I": [], "-P": [str(tmp_path / "theirs")]}
    expected = moved.get(" ".join(options), [str(program.parent), str(tmp_path / "theirs")])
    assert order[len(order) - len(expected) :] == expected
    assert order[0].endswith(".zip")
