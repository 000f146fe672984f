"""A command line that cannot be run is said at once, with what its writer may have meant."""

from __future__ import annotations

import shlex
from typing import TYPE_CHECKING

import pytest
from builds import DEADLINE_S, script, wait_until

if TYPE_CHECKING:
    from pathlib import Path

    from builds import Pool


@pytest.mark.parametrize("options", [(), ("--on-timeout", "fail"), ("-t", "none")])
def test_a_typo_is_said_while_all_slots_are_held(pool: Pool, options: tuple[str, ...]) -> None:
    """Nobody waits in line for a program that does not exist, and the journal has no such build."""
    pool.build("-n1").started()
    said = "slot-run: no-such-command: No such file or directory\n"
    result = pool.slot_run("-n1", *options, "no-such-command")
    assert (result.returncode, result.stdout, result.stderr) == (127, "", said)
    assert "no-such-command" not in pool.run(script("buildslots"), "history", "--json").stdout


@pytest.mark.parametrize("kind", ["directory", "file"])
def test_so_is_what_may_not_be_executed(pool: Pool, tmp_path: Path, kind: str) -> None:
    """126, as env(1) has it."""
    pool.build("-n1").started()
    path = tmp_path / "data"
    path.mkdir() if kind == "directory" else path.write_text("")
    result = pool.slot_run("-n1", "-t", "none", str(path))
    assert (result.returncode, result.stderr) == (126, f"slot-run: {path}: Permission denied\n")


def test_a_program_that_is_gone_when_the_wait_is_over(pool: Pool, tmp_path: Path) -> None:
    """It was there before; the line says so now, and the slot is free."""
    (tmp_path / "tool").symlink_to("/bin/true")
    first = pool.build("-n1")
    first.started()
    waiter = pool.popen(script("slot-run"), "-q", "-n1", "-t", "none", str(tmp_path / "tool"))
    wait_until(lambda: pool.status().waiters, "a waiter")
    (tmp_path / "tool").unlink()
    first.finish()
    assert waiter.process.wait(DEADLINE_S) == 127
    assert waiter.errors() == f"slot-run: {tmp_path / 'tool'}: No such file or directory\n"
    assert pool.held() == []


COMMANDS = {
    "'make -j4'": "without the quotes: slot-run make -j4",
    "'make -j4' all": "without the quotes: slot-run make -j4 all",
    "'cd a && make'": "only a shell understands such a line: slot-run sh -c 'cd a && make'",
    "'make \"x'": "only a shell understands such a line: slot-run sh -c 'make \"x'",
    "FOO=1 make": "env sets variables: slot-run env FOO=1 make",
    "CFLAGS='-O2 -g' make": "env sets variables: slot-run env 'CFLAGS=-O2 -g' make",
    "'FOO=1 make'": "env sets variables: slot-run env FOO=1 make",
    "ulimit -n 64": "that is a word of the shell, and no program: slot-run sh -c 'ulimit -n 64'",
    "source 'a b'": "that is a word of the shell, and no program: slot-run bash -c",
    "no-such-command -j8": "",
    "./no-such-command": "",
}


@pytest.mark.parametrize("line", COMMANDS)
def test_what_a_shell_would_have_understood(pool: Pool, line: str) -> None:
    """The sentence ends in a line that can be run."""
    # An empty PATH, because some systems have a program `ulimit`.
    result = pool.slot_run(*shlex.split(line), environ={"PATH": ""})
    assert result.returncode == 127
    assert result.stderr.count("\n") == 1
    said, _, hint = result.stderr.rstrip("\n").partition(": No such file or directory")
    assert said == f"slot-run: {shlex.split(line)[0]}"
    assert hint == COMMANDS[line] == "" or hint.startswith(f"; {COMMANDS[line]}")


OPTIONS = {
    "-j8 make all": "'-j'; options of the command belong behind it: slot-run make all -j8 ",
    "-j 8 make": "'-j'; options of the command belong behind it: slot-run make -j 8 ",
    "-qj8": "'-j'; options of the command belong behind it: slot-run make -j8 ",
    "-k make": "'-k'; options of the command belong behind it ",
    "-c 'make && ls'": "'-c'; a shell reads such a line: slot-run sh -c 'make && ls' ",
    "--pol link make": "'--pol'; did you mean --pool? ",
    "--time-out=3 make": "'--time-out'; did you mean --timeout? ",
    "--time 3 make": "'--time'; did you mean --timeout? ",
    "-P link make": "'-P'; did you mean -p? ",
    "--verbose make": "'--verbose'; options of the command belong behind it ",
}


@pytest.mark.parametrize("line", OPTIONS)
def test_what_may_have_been_meant_by_an_option(pool: Pool, line: str) -> None:
    """A near one of ours, one of make's, or a habit from flock."""
    result = pool.slot_run(*shlex.split(line))
    said = f"slot-run: there is no option {OPTIONS[line]}(see slot-run --help)\n"
    assert (result.returncode, result.stdout, result.stderr) == (125, "", said)


def test_a_hostile_name_is_shown_without_steering_the_terminal(pool: Pool) -> None:
    """Neither the name nor what to write in its place has a control character."""
    result = pool.slot_run("make \x1b]0;x\x07", environ={"PATH": ""})
    assert "\x1b" not in result.stderr
    assert "\x07" not in result.stderr
    assert result.returncode == 127
