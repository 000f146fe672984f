"""slot-run with tokens: what may go wrong does, and the command runs as it would have without them."""

from __future__ import annotations

import os
import shutil
import signal
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from builds import Mounts, Pool, script, wait_until

from buildslots.tokens.stock import held

if TYPE_CHECKING:
    import subprocess

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="only Linux has tokens")

C = 3
SLOT_RUN = script("slot-run")
SHOW = ("sh", "-c", 'echo "[$MAKEFLAGS] [$*]"', "sh")
"""Says what it is told; of its own, the arguments behind it."""


@pytest.fixture(autouse=True)
def _with_tokens(pool: Pool) -> None:
    pool.environ["BUILD_SLOTS_TOKENS"] = str(C)
    for name in ("MAKEFLAGS", "CARGO_MAKEFLAGS", "GNUMAKEFLAGS"):
        pool.environ.pop(name, None)


def left(pool: Pool) -> list[str]:
    """Files of jobservers and of builds that are there, and tokens that are held."""
    places = [Path(pool.environ["HOME"], ".cache/buildslots/jobservers"), pool.dir / "builds"]
    if runtime := pool.environ.get("XDG_RUNTIME_DIR"):
        places.append(Path(runtime, "buildslots"))
    files = [str(path) for place in places for path in place.glob("*")]
    return files + ["a token"] * held(str(pool.dir), C)


def assert_untold(result: subprocess.CompletedProcess[str], cause: str) -> None:
    """The original command ran, under a slot, and one line said why it has no tokens."""
    assert (result.returncode, result.stdout) == (0, "[] [-j8]\n"), result
    assert result.stderr.count("\n") == 1, result.stderr
    assert result.stderr.startswith("slot-run: no CPU tokens: ")
    assert cause in result.stderr


def test_a_command_is_told_where_its_jobs_are_and_leaves_nothing(pool: Pool) -> None:
    """Status, output, input and arguments are its own."""
    told = pool.slot_run(*SHOW, "-j8")
    assert (told.returncode, told.stderr) == (0, "")
    assert "--jobserver-auth=fifo:" in told.stdout
    assert told.stdout.endswith(" [-j8]\n")
    assert pool.slot_run("sh", "-c", "read x; echo $x; exit 7", input="in\n").stdout == "in\n"
    assert pool.slot_run("sh", "-c", "exit 7").returncode == 7
    assert pool.slot_run("sh", "-c", "kill -TERM $$").returncode == -signal.SIGTERM
    assert left(pool) == []


def test_its_descriptors_are_those_that_it_is_told_of_and_no_others(pool: Pool) -> None:
    """With numbers that scripts do not use."""
    shown = pool.slot_run("sh", "-c", "echo $CARGO_MAKEFLAGS; ls -l /proc/$$/fd")
    opened = [line.partition(" -> ")[::2] for line in shown.stdout.splitlines() if " -> " in line]
    paths = {int(name.split()[-1]): path for name, path in opened}
    ours = {fd: path for fd, path in paths.items() if fd > 2}
    assert min(ours) >= 64
    kinds = sorted("jobserver" if "jobservers" in path else Path(path).name for path in ours.values())
    assert [kind for kind in kinds if kind in ("jobserver", "tokens")] == ["jobserver"] * 2 + ["tokens"]


def test_a_script_without_an_interpreter_line_is_served(pool: Pool, tmp_path: Path) -> None:
    """It runs in a shell, as everywhere."""
    plain = tmp_path / "plain"
    plain.write_text('echo "[$MAKEFLAGS]"\n')
    plain.chmod(0o755)
    told = pool.slot_run(str(plain))
    assert (told.returncode, told.stderr) == (0, "")
    assert "--jobserver-auth=fifo:" in told.stdout
    assert left(pool) == []


def test_what_cannot_be_executed_leaves_nothing(pool: Pool, tmp_path: Path) -> None:
    """Neither a command that is not there, nor one whose interpreter is not."""
    bad = tmp_path / "bad"
    bad.write_text("#!/no/such/interpreter\n")
    bad.chmod(0o755)
    for command in (str(bad), "no-such-command"):
        result = pool.slot_run(command, "-j8")
        assert (result.returncode, result.stderr.count("\n")) == (127, 1)
        assert left(pool) == []
    assert pool.held() == []


@pytest.mark.parametrize("limit", [8, 20, 64, 66])
def test_too_few_descriptors(pool: Pool, limit: int) -> None:
    """EMFILE: wherever it comes, the command runs."""
    pool.slot_run("true")
    result = pool.run("sh", "-c", f'ulimit -n {limit}; exec {SLOT_RUN} "$@"', "sh", *SHOW, "-j8")
    assert (result.returncode, result.stdout) == (0, "[] [-j8]\n"), result
    assert result.stderr.startswith(("slot-run: no CPU tokens: ", "slot-run: running without ")), result
    assert left(pool) == []


@pytest.mark.parametrize(
    ("setup", "cause"),
    [
        ("mount -t tmpfs none $C; mount -o remount,bind,ro $C", "Read-only file system"),
        ("mount -t tmpfs -o nr_inodes=1 none $C", "No space left on device"),
    ],
    ids=["read-only", "full"],
)
def test_no_place_for_a_jobserver(mounts: Mounts, setup: str, cause: str) -> None:
    """Neither the runtime directory nor the cache can be written."""
    everywhere = f'for C in "$HOME/.cache/buildslots" /run; do mkdir -p "$C"; {setup}; done'
    shown = " ".join(f"'{word}'" for word in SHOW)
    assert_untold(mounts.run(f"$R true; {everywhere}", f"$R {shown} -j8"), cause)


def test_a_file_in_the_place_of_the_stock_is_put_aside(pool: Pool) -> None:
    """And the build has tokens."""
    pool.dir.mkdir()
    (pool.dir / "tokens").write_text("mine")
    told = pool.slot_run(*SHOW)
    assert "--jobserver-auth=" in told.stdout
    (aside,) = pool.dir.glob(".aside-tokens-*")
    assert aside.read_text() == "mine"


WITHOUT_SIGIO = """
import sys
from buildslots.tokens import selftest
selftest.listen = lambda fd, on=True: None  # as a kernel that does not know O_ASYNC for FIFOs
from buildslots.run.main import main
main()
"""


def test_a_kernel_that_does_not_tell(pool: Pool) -> None:
    """It is tried before anything is promised to the command."""
    assert_untold(
        pool.run(sys.executable, "-c", WITHOUT_SIGIO, *SHOW, "-j8"), "does not tell what is done with a FIFO"
    )
    assert left(pool) == []


def test_a_build_goes_on_without_its_fifo(pool: Pool, tmp_path: Path) -> None:
    """Whoever opens it later runs one job at a time."""
    if shutil.which("make") is None:
        pytest.skip("there is no make")
    (tmp_path / "Makefile").write_text(
        "all: a b\n"
        '\t@rm "$$(printf %s "$$MAKEFLAGS" | sed "s/.*fifo://; s/ .*//")"\n'
        "\t+@$(MAKE) --no-print-directory c d\n"
        "a b c d:\n\t@echo $@\n"
    )
    result = pool.slot_run("make", "-j4", cwd=tmp_path)
    assert result.returncode == 0, result
    assert sorted(result.stdout.split()) == ["a", "b", "c", "d"]
    assert left(pool) == []


def test_a_slot_run_that_is_killed_leaves_its_build_its_jobs(pool: Pool, tmp_path: Path) -> None:
    """A build goes on to its end with what it has; then everybody has it."""
    if shutil.which("make") is None:
        pytest.skip("there is no make")
    (tmp_path / "Makefile").write_text(
        "all: 1 2 3 4 5 6 7 8\n1 2 3 4 5 6 7 8:\n\t@touch $@; while [ ! -e go ]; do sleep 0.05; done\n"
    )
    build = pool.popen(SLOT_RUN, "make", "-j8", cwd=tmp_path)
    wait_until(lambda: len(list(tmp_path.glob("[1-8]"))) == C + 1, "its jobs")
    os.kill(build.process.pid, signal.SIGKILL)
    build.process.wait()
    assert held(str(pool.dir), C) == C
    (tmp_path / "go").touch()
    wait_until(lambda: len(list(tmp_path.glob("[1-8]"))) == 8, "all jobs")
    wait_until(lambda: held(str(pool.dir), C) == 0, "the end of the build")


def test_without_tokens_jobs_are_a_share_for_each(pool: Pool) -> None:
    """And no word is said."""
    del pool.environ["BUILD_SLOTS_TOKENS"]
    shown = pool.slot_run("--jobs", "2", "sh", "-c", "echo $MAKEFLAGS $GOMAXPROCS")
    assert (shown.stdout, shown.stderr) == ("-j2 2\n", "")
    assert pool.slot_run("--jobs", "2", *SHOW, "-j8").stdout == "[ -j2] [-j8]\n"


def test_makes_that_are_to_run_one_job_do_and_the_rest_is_served(pool: Pool) -> None:
    """A -j1 in MAKEFLAGS is said of makes."""
    shown = pool.slot_run("sh", "-c", "echo $MAKEFLAGS", environ={"MAKEFLAGS": "-j1"})
    assert shown.stdout.startswith("-j1 -- ")
    assert "--jobserver-auth=fifo:" in shown.stdout


def test_a_disabled_slot_run_disables_tokens(pool: Pool) -> None:
    """And shares."""
    shown = pool.slot_run("--jobs", "2", *SHOW, environ={"BUILD_SLOTS_DISABLE": "1"})
    assert shown.stdout == "[] []\n"


def test_a_nested_build_is_served_where_nobody_above_does(pool: Pool) -> None:
    """Though it has no slot of its own to give back."""
    inner = f"{SLOT_RUN} --tokens=2 sh -c 'echo $MAKEFLAGS'"
    outer = pool.slot_run("sh", "-c", inner, environ={"BUILD_SLOTS_TOKENS": "off"})
    assert "--jobserver-auth=" in outer.stdout
    assert left(pool) == []
