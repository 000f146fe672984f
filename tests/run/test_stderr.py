"""What slot-run says never keeps a build: a stopped terminal, a full pipe, a terminal that stops writers."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import pytest
from builds import DEADLINE_S, Pool, script, wait_until

if TYPE_CHECKING:
    from pathlib import Path

    from terminals import Terminal


@pytest.mark.parametrize("end", ["timeout", "slot", "fail"])
def test_a_terminal_after_ctrl_s_does_not_keep_a_wait(
    pool: Pool, terminal: Terminal, tmp_path: Path, end: str
) -> None:
    """It starts at its timeout, or with the slot, or gives up, though it cannot say so."""
    first = pool.build("-n1")
    first.started()
    ran, said = tmp_path / "ran", tmp_path / "said"
    options = {"timeout": "-t 4", "slot": "-t none", "fail": "-t 4 --on-timeout fail"}[end]
    terminal.type(f"clear; {script('slot-run')} -n1 {options} touch {ran}; echo $? >{said}")
    terminal.wait_for("slot-run: waiting, place ")
    terminal.keys("C-s")
    if end == "slot":
        # Its line comes again each second; what it says then is lost, and it hears of the slot all the same.
        waiter = pool.status().waiters[0].pid
        before = looks(waiter)
        wait_until(lambda: looks(waiter) > before + 1, "two looks at the line")
        first.finish()
    wait_until(lambda: said.exists() and said.read_text(), "the end of slot-run")
    assert (said.read_text(), ran.exists()) == (("75\n", False) if end == "fail" else ("0\n", True))


def full_pipe() -> tuple[int, int]:
    """Both ends of a pipe that takes no more, and blocks who writes."""
    reading, writing = os.pipe()
    os.set_blocking(writing, False)
    while True:
        try:
            os.write(writing, bytes(1 << 16))
        except BlockingIOError:
            os.set_blocking(writing, True)
            return reading, writing


def looks(pid: int) -> int:
    """How often process `pid` has given the processor away by itself: at each turn of its wait."""
    with open(f"/proc/{pid}/status", encoding="ascii") as status:
        return int(status.read().partition("voluntary_ctxt_switches:")[2].split()[0])


@pytest.mark.parametrize("options", [("-t", "1.5"), ("-t", "0"), ("-t", "1.5", "--on-timeout", "fail")])
def test_a_full_pipe_does_not_keep_a_wait(pool: Pool, options: tuple[str, ...]) -> None:
    """A reader that reads nothing, such as a stopped pager."""
    pool.build("-n1").started()
    reading, writing = full_pipe()
    build = pool.popen(script("slot-run"), "-n1", *options, "true", stderr=writing)
    os.close(writing)
    assert build.process.wait(DEADLINE_S) == (75 if "fail" in options else 0)
    os.close(reading)


def test_a_mistake_is_no_reason_to_hang_either(pool: Pool) -> None:
    """A line of a slot-run that never joins."""
    reading, writing = full_pipe()
    assert pool.popen(script("slot-run"), "no-such", stderr=writing).process.wait(DEADLINE_S) == 127
    for fd in (reading, writing):
        os.close(fd)


def test_a_terminal_that_stops_who_writes_in_the_background_does_not_stop_a_wait(
    pool: Pool, terminal: Terminal, tmp_path: Path
) -> None:
    """`stty tostop`: the build would be stopped for a line of ours, and not for one of its own."""
    pool.build("-n1").started()
    ran = tmp_path / "ran"
    terminal.type(f"stty tostop; {script('slot-run')} -n1 -t 2 touch {ran} &")
    wait_until(ran.exists, "the start of the build")
    wait_until(lambda: any("running beyond the cap" in line for line in terminal.lines()), "what it says")
    terminal.type("stty -tostop")


def test_what_is_not_lost(pool: Pool) -> None:
    """A reader that is slow, and not stopped, reads each sentence whole."""
    pool.build("-n1").started()
    build = pool.popen(script("slot-run"), "-n1", "-t", "3", "true")
    assert build.read_error_line().startswith("slot-run: waiting, place ")
    assert build.read_error_line().endswith("running beyond the cap of 1 (overflow slot 1)\n")


@pytest.mark.linux
@pytest.mark.parametrize("agent", ["", "opencode"])
def test_a_line_that_is_rewritten_is_not_for_agents(pool: Pool, agent: str) -> None:
    """They may run their commands in a terminal, and read all that was ever written to it."""
    holder = pool.build("-n1")
    holder.started()
    command = f"{script('slot-run')} -n1 -t3 --on-timeout fail true"
    environ = {"BUILD_SLOTS_AGENT": agent, "TERM": "xterm"}
    result = pool.run("script", "-qec", f"stty cols 300; {command}", "/dev/null", environ=environ)
    assert result.returncode == 75, result.stdout
    assert ("\x1b[K" in result.stdout) == (not agent)
    assert result.stdout.splitlines()[0].startswith("slot-run: waiting, ") == bool(agent)
    holder.finish()
