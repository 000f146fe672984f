r"""In a real terminal (tmux): Ctrl-C, Ctrl-\\ and Ctrl-Z do to a command what they do without slot-run."""

from __future__ import annotations

import os
import shlex
import signal
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from builds import Pool, script, wait_until

if TYPE_CHECKING:
    from terminals import Terminal


def blocks(pid: int, signum: int) -> bool:
    """Whether process `pid` has the signal blocked."""
    mask = Path(f"/proc/{pid}/status").read_text().partition("SigBlk:")[2].split()[0]
    return bool(int(mask, 16) >> (signum - 1) & 1)


def builds(tmp_path: Path) -> dict[str, str]:
    """Commands that run until they are told otherwise: a shell pipeline, and make with a recipe."""
    makefile = tmp_path / "Makefile"
    makefile.write_text("all:\n\t@echo building; while :; do sleep 0.05; done\n")
    pipeline = "sh -c 'echo building; while :; do sleep 0.05; done | cat'"
    return {"pipeline": pipeline, "make": f"make -s -f {shlex.quote(str(makefile))}"}


STATUSES = {
    ("pipeline", "C-c"): [130],
    ("pipeline", "C-\\"): [131],
    # make dies of SIGINT itself, or exits 2 if it hears first that its recipe died of it; its
    # handler of SIGQUIT exits 1. The same without slot-run.
    ("make", "C-c"): [130, 2],
    ("make", "C-\\"): [1, 2],
}


@pytest.mark.parametrize("kind", ["pipeline", "make"])
@pytest.mark.parametrize("key", ["C-c", "C-\\"])
def test_keys_that_end_a_build(pool: Pool, terminal: Terminal, tmp_path: Path, kind: str, key: str) -> None:
    """The shell sees the same exit status with and without slot-run, and the slot is free."""
    seen = []
    for wrapper in ("", f"{script('slot-run')} "):
        terminal.clear()
        terminal.type(f"{wrapper}{builds(tmp_path)[kind]}")
        terminal.wait_for("building")
        terminal.keys(key)
        terminal.type_at_prompt("echo status=$?")
        terminal.wait_for("status=")
        seen += [line for line in terminal.lines() if line.startswith("status=")]
        wait_until(lambda: pool.held() == [], "the slot is free")
    assert len(seen) == 2
    assert set(seen) <= {f"status={status}" for status in STATUSES[kind, key]}


@pytest.mark.parametrize("kind", ["pipeline", "make"])
def test_ctrl_z_stops_a_build_and_fg_goes_on(
    pool: Pool, terminal: Terminal, tmp_path: Path, kind: str
) -> None:
    """The shell says that the job stopped; after fg it runs and can be ended with Ctrl-C."""
    terminal.type(f"{script('slot-run')} {builds(tmp_path)[kind]}")
    terminal.wait_for("building")
    terminal.keys("C-z")
    terminal.wait_for("[1]+  Stopped")
    assert pool.held() == [0]  # a stopped build still has its memory and its files
    terminal.clear()
    terminal.type("fg")
    wait_until(lambda: any("slot-run" in line for line in terminal.lines()), "fg says what goes on")
    terminal.keys("C-c")
    terminal.type_at_prompt("echo status=$?")
    terminal.wait_for("status=")
    wait_until(lambda: pool.held() == [], "the slot is free")


def test_ctrl_c_ends_a_wait(pool: Pool, terminal: Terminal) -> None:
    """A build that waits ends at once, with the status of SIGINT and without a traceback."""
    first = pool.build("-n1")
    first.started()
    terminal.type(f"{script('slot-run')} -n1 true")
    wait_until(lambda: pool.status().waiters, "a waiter")
    terminal.keys("C-c")
    terminal.type_at_prompt("echo status=$?")
    terminal.wait_for("status=130")
    assert not any("Traceback" in line for line in terminal.lines())
    assert pool.leftovers() == []


def test_the_line_of_a_wait_is_kept_up_to_date_in_place(pool: Pool, terminal: Terminal) -> None:
    """On a terminal there is one line, which changes with the place in line, and goes at the start."""
    first, second = pool.build("-n1"), None
    first.started()
    second = pool.queued("-n1")
    terminal.type(f"clear; {script('slot-run')} -n1 echo ran")
    terminal.wait_for("slot-run: waiting, place 2 of 2")
    first.finish()
    second.started()
    terminal.wait_for("slot-run: waiting, place 1 of 1")
    assert sum("waiting" in line for line in terminal.lines()) == 1
    second.finish()
    terminal.wait_for("ran")
    assert not any("waiting" in line for line in terminal.lines())


def test_ctrl_z_and_fg_while_waiting(pool: Pool, terminal: Terminal) -> None:
    """A stopped wait lets others pass, and takes its turn when it goes on."""
    first = pool.build("-n1")
    first.started()
    terminal.type(f"{script('slot-run')} -n1 echo ran")
    wait_until(lambda: pool.status().waiters, "a waiter")
    terminal.keys("C-z")
    terminal.wait_for("[1]+  Stopped")
    second = pool.build("-n1")
    first.finish()
    assert second.started() == "0"
    terminal.type("fg")
    second.finish()
    terminal.wait_for("ran")


def test_a_command_that_handles_keys_itself_is_not_disturbed(terminal: Terminal, tmp_path: Path) -> None:
    """Ctrl-C reaches it once, and Ctrl-Z in a command that goes on does not stop slot-run behind its back."""
    program = tmp_path / "program.py"
    program.write_text(
        "import os, signal, time\n"
        "def caught(signum, frame): print('caught', signum, flush=True)\n"
        "signal.signal(signal.SIGTSTP, caught)\n"
        "signal.signal(signal.SIGINT, caught)\n"
        "print('ready', flush=True)\n"
        "while not os.path.exists('done'): time.sleep(0.01)\n"
        "print('end')\n"
    )
    terminal.type(f"cd {tmp_path}; clear; {script('slot-run')} {sys.executable} program.py")
    terminal.wait_for("ready")
    for key, signum in (("C-c", signal.SIGINT), ("C-z", signal.SIGTSTP)):
        terminal.keys(key)
        wait_until(lambda n=signum: any(f"caught {n}" in line for line in terminal.lines()), "the handler")
    (tmp_path / "done").touch()
    terminal.wait_for("end")
    assert not any("Stopped" in line for line in terminal.lines())
    assert sum("caught" in line for line in terminal.lines()) == 2


def test_giving_up_clears_the_line(pool: Pool, terminal: Terminal) -> None:
    """What is said at the end of a wait stands on a line of its own."""
    first = pool.build("-n1")
    first.started()
    terminal.type(f"clear; {script('slot-run')} -n1 -t 1.5 --on-timeout fail true")
    terminal.wait_for("slot-run: no slot of pool 'default' became free within 1.5 s; giving up")


@pytest.mark.linux
def test_a_command_stopped_alone_in_a_script_does_not_hang_it(terminal: Terminal, tmp_path: Path) -> None:
    """Without job control around it, slot-run does not imitate a SIGSTOP that nobody would undo for it."""
    (tmp_path / "self-stopper").write_text("echo $$ > pid; kill -STOP $$; echo went on\n")
    (tmp_path / "script").write_text(f"{script('slot-run')} sh self-stopper; echo done\n")
    terminal.type(f"cd {tmp_path}; clear; sh script")
    pid = int(wait_until(lambda: (tmp_path / "pid").exists() and (tmp_path / "pid").read_text(), "a pid"))
    stat = Path(f"/proc/{pid}/stat")
    wait_until(lambda: stat.read_text().rpartition(")")[2].split()[0] == "T", "the command stopped itself")
    os.kill(pid, signal.SIGCONT)
    terminal.wait_for("went on")
    terminal.wait_for("done")


@pytest.mark.linux
def test_a_command_that_stops_itself_is_a_stopped_job(terminal: Terminal, tmp_path: Path) -> None:
    """The shell hears of a SIGSTOP as well, and fg continues both."""
    (tmp_path / "self-stopper").write_text("kill -STOP $$; echo went on\n")
    terminal.type(f"cd {tmp_path}; clear; {script('slot-run')} sh self-stopper")
    terminal.wait_for("[1]+  Stopped")
    terminal.type_at_prompt("fg")
    terminal.wait_for("went on")


@pytest.mark.linux
def test_ctrl_c_before_there_is_a_command_ends_it(pool: Pool, terminal: Terminal) -> None:
    """The terminal has sent it to slot-run alone, which passes it on to the command that it is starting."""
    calls = "clone,clone3,vfork"
    trace = f"strace -o /dev/null -e trace={calls} -e inject={calls}:delay_enter=700000"
    terminal.clear()
    terminal.type(f"{trace} {script('slot-run')} sleep 300")
    holder = wait_until(lambda: pool.status().holders, "the slot is held")[0]
    wait_until(lambda: blocks(holder.pid, signal.SIGINT), "slot-run is about to start the command")
    terminal.keys("C-c")
    wait_until(lambda: pool.held() == [], "the command ended by the signal")
    terminal.type_at_prompt("echo status=$?")
    terminal.wait_for("status=130")


def test_a_wait_in_the_background_says_whole_lines(pool: Pool, terminal: Terminal) -> None:
    """It does not rewrite the line in which its user types now."""
    first = pool.build("-n1")
    first.started()
    terminal.clear()
    terminal.type(f"{script('slot-run')} -n1 echo ran &")
    wait_until(lambda: any("slot-run: waiting" in line for line in terminal.lines()), "the line of the wait")
    terminal.type("echo typed")
    terminal.wait_for("typed")
    assert "echo typed" in terminal.lines()
    assert any("slot-run: waiting" in line for line in terminal.lines())


def test_a_line_longer_than_the_terminal_is_cut(pool: Pool, terminal: Terminal, tmp_path: Path) -> None:
    """What is broken into two could not be rewritten in place. Before that less is said of who holds."""
    (tmp_path / ("long" * 50)).mkdir()
    first = pool.build("-n1", cwd=tmp_path / ("long" * 50))
    first.started()
    terminal.clear()
    terminal.type(f"{script('slot-run')} -n1 true")
    terminal.wait_for("slot-run: waiting, place 1 of 1: 1 of 1 held by `sh` in …ong")
    terminal.resize(90, 50)
    terminal.wait_for("slot-run: waiting, place 1 of 1: 1 of 1 held by `sh`; runs anyway in ")
    terminal.resize(60, 50)
    terminal.wait_until(lambda: terminal.lines()[-1].endswith("held by `sh`; runs…"), "the cut line")


def test_closing_the_terminal_ends_the_build(pool: Pool, terminal: Terminal, tmp_path: Path) -> None:
    """The hang-up reaches command and slot-run, and the slot is free."""
    terminal.type(f"{script('slot-run')} {builds(tmp_path)['pipeline']}")
    terminal.wait_for("building")
    assert pool.held() == [0]
    terminal.close()
    wait_until(lambda: pool.held() == [], "the slot is free")
