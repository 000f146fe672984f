"""In real terminals: a command that leads a process group of its own, and slot-run at the head of a session.

Each test does the same without slot-run first, and prints both.
"""

from __future__ import annotations

import os
import shutil
import signal
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from builds import Pool, script, wait_until
from terminals import BASH, ZSH, Terminal

if TYPE_CHECKING:
    from collections.abc import Iterator

pytestmark = pytest.mark.linux

OWN_GROUP = {
    "timeout": "timeout 300",
    "perl": "perl -e 'setpgrp; exec @ARGV'",
    "late": "perl -e 'select undef, undef, undef, 0.3; setpgrp; exec @ARGV'",
    "shell": "env timeout 300 sh -c '\"$@\"; exit $?' sh",
}
"""Programs that lead a group of their own, before the command that they run."""
WRAPPERS = ("", f"{script('slot-run')} ")


@pytest.fixture(params=[BASH, ZSH], ids=["bash", "zsh"])
def prompt(request: pytest.FixtureRequest, pool: Pool, tmp_path: Path) -> Iterator[Terminal]:
    """An interactive shell in a terminal, with that pool."""
    if shutil.which(request.param.split()[0]) is None:
        pytest.skip(f"no {request.param}")
    terminal = Terminal(tmp_path / "tmux", pool.environ, request.param)
    yield terminal
    terminal.close()


def build(tmp_path: Path) -> str:
    """A build of two processes that runs until it is told otherwise."""
    (tmp_path / "build").write_text("echo building; while :; do sleep 0.05; done | cat\n")
    return f"sh {tmp_path}/build"


def status(terminal: Terminal) -> str:
    """What the shell says of the last command."""
    terminal.type_at_prompt("echo status=$?")
    terminal.wait_for("status=")
    return next(line for line in terminal.lines() if line.startswith("status="))


def state(pid: int) -> str:
    """The state of process `pid` in one letter, see proc_pid_stat(5); "-" if there is none."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except OSError:
        return "-"


@pytest.mark.parametrize("program", OWN_GROUP)
@pytest.mark.parametrize("key", ["C-c", "C-\\"])
def test_keys_end_a_group_of_its_own(
    pool: Pool, prompt: Terminal, tmp_path: Path, program: str, key: str
) -> None:
    """The shell sees the same status, nothing runs on, and the slot is free."""
    seen = []
    for wrapper in WRAPPERS:
        prompt.clear()
        prompt.type(f"{wrapper}{OWN_GROUP[program]} {build(tmp_path)}")
        prompt.wait_for("building")
        prompt.keys(key)
        seen.append(status(prompt))
        wait_until(lambda: pool.held() == [], "the slot is free")
    print(program, key, seen)
    assert seen[0] == seen[1]


@pytest.mark.parametrize("program", OWN_GROUP)
def test_a_group_of_its_own_reads_the_terminal(prompt: Terminal, program: str) -> None:
    """It asks a question, and gets the answer that is typed, before and after Ctrl-Z and fg."""
    for wrapper in WRAPPERS:
        prompt.clear()
        asks = "sh -c 'echo asks; read a; echo got $a; read b; echo got $b'"
        prompt.type(f"{wrapper}{OWN_GROUP[program]} {asks}")
        prompt.wait_for("asks")
        prompt.type("one")
        prompt.wait_for("got one")
        prompt.keys("C-z")
        prompt.wait_for_stop()
        prompt.clear()
        prompt.type("fg")
        prompt.wait_until(
            lambda: any("asks;" in line or "continued" in line for line in prompt.lines()), "what goes on"
        )
        prompt.type("two")
        prompt.wait_for("got two")
        assert status(prompt) == "status=0"


def test_keys_reach_all_of_a_pipeline(pool: Pool, prompt: Terminal, tmp_path: Path) -> None:
    """Ctrl-Z stops it, fg goes on, Ctrl-C ends it: the terminal stays with the group of the pipeline."""
    for wrapper in WRAPPERS:
        prompt.clear()
        prompt.type(f"{wrapper}timeout 300 {build(tmp_path)} | cat")
        prompt.wait_for("building")
        prompt.keys("C-z")
        prompt.wait_for_stop()
        prompt.clear()
        prompt.type("fg")
        prompt.wait_until(
            lambda: any("continued" in line or "sh " in line for line in prompt.lines()), "what goes on"
        )
        prompt.keys("C-c")
        assert status(prompt) in {"status=0", "status=130"}
        wait_until(lambda: pool.held() == [], "the slot is free")


def test_a_pager_behind_a_group_of_its_own_reads_keys(terminal: Terminal) -> None:
    """The terminal is not given away from under it."""
    for wrapper in WRAPPERS:
        terminal.clear()
        pager = "sh -c 'read first; echo pager asks; read key </dev/tty; echo pager got $key; cat'"
        terminal.type(f"{wrapper}timeout 300 sh -c 'echo line; sleep 1' | {pager}")
        terminal.wait_for("pager asks")
        terminal.type("x")
        terminal.wait_for("pager got x")
        terminal.type_at_prompt("true")


def test_reading_in_the_background_stops_the_job(terminal: Terminal) -> None:
    """The shell says so, and fg gives it what is typed."""
    for wrapper in WRAPPERS:
        terminal.clear()
        terminal.type(f"{wrapper}perl -e 'setpgrp; exec @ARGV' sh -c 'read a; echo got $a' &")
        terminal.wait_until(lambda: terminal.type("") or terminal.says_stopped(), "a stopped job")
        terminal.clear()
        terminal.type("fg")
        terminal.wait_until(lambda: any("perl" in line for line in terminal.lines()), "what goes on")
        terminal.type("one")
        terminal.wait_for("got one")


def test_suspend_in_a_shell_below_slot_run(terminal: Terminal) -> None:
    """The outer shell takes over, and fg gives the keyboard back to the inner one."""
    for wrapper in WRAPPERS:
        terminal.clear()
        terminal.type(f"{wrapper}{BASH}")
        terminal.type("PS1='inner '")
        terminal.wait_until(lambda: terminal.lines()[-1:] == ["inner"], "the inner shell")
        terminal.type("suspend")
        terminal.wait_for("[1]+  Stopped")
        terminal.type_at_prompt("echo outer $((1 + 1))")
        terminal.wait_for("outer 2")
        terminal.type_at_prompt("fg")
        terminal.type("echo inner $((1 + 2)); exit")
        terminal.wait_for("inner 3")
        terminal.type_at_prompt("true")


@pytest.mark.parametrize("wrapper", WRAPPERS, ids=["bare", "slot-run"])
@pytest.mark.parametrize("before", ["", "exec ", "exec setsid -cw ", "exec nohup "])
@pytest.mark.parametrize("program", ["", "timeout 300 "], ids=["", "timeout"])
def test_a_terminal_closes_on_the_head_of_its_session(
    pool: Pool, terminal: Terminal, wrapper: str, before: str, program: str
) -> None:
    """The kernel tells the leader of the session alone, and that tells the command. nohup protects both."""
    if "nohup" in before and program:
        pytest.skip("timeout(1) handles SIGHUP itself")
    told = pool.dir.parent / "pid"
    build = f"sh -c 'echo $$ >{told}.new; mv {told}.new {told}; while :; do sleep 0.05; done'"
    terminal.window("bash", "-c", f"cd {told.parent}; {before}{wrapper}{program}{build}")
    pid = int(wait_until(lambda: told.exists() and told.read_text(), "the build"))
    assert pool.held() == ([0] if wrapper else [])
    terminal.close_window()
    if "nohup" in before:
        wait_until(lambda: terminal_is_gone(pid), "the hang-up")
        assert state(pid) not in "TZ-"
        os.kill(pid, signal.SIGTERM)
    wait_until(lambda: state(pid) in "Z-", "the build has ended")
    wait_until(lambda: pool.held() == [], "the slot is free")


def terminal_is_gone(pid: int) -> bool:
    """Whether process `pid` has no controlling terminal (any more)."""
    return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[4] == "0"


def test_ctrl_z_at_the_head_of_a_session_does_nothing(terminal: Terminal, tmp_path: Path) -> None:
    """There is no shell that could continue it, also where the command leads a group of its own."""
    for wrapper in WRAPPERS:
        terminal.window("bash", "-c", f"{wrapper}timeout 300 sh -c 'echo asks; read a; echo got $a; cat'")
        terminal.wait_for("asks")
        terminal.keys("C-z")
        terminal.type("one")
        terminal.wait_for("got one")
        terminal.close_window()
