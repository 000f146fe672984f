"""What people and programs see of a batch: lines, JSON, rows on a terminal."""

from __future__ import annotations

import json
import shlex
import subprocess
from typing import TYPE_CHECKING

from batches import Batches, events
from builds import script, wait_until

if TYPE_CHECKING:
    from collections.abc import Callable
    from subprocess import CompletedProcess

    import pytest
    from terminals import Terminal

    Command = Callable[..., CompletedProcess[str]]

HOSTILE = r"printf '\033[2J\033]0;title\007evil\033[31m\n\233\033P1\033\\\n\033[5'; printf 'a\tb\r\n'"
"""A shell command whose output would clear the screen, set the title, and leave an escape open."""


def test_lines_say_what_starts_and_ends(batches: Batches, batch: Command) -> None:
    """A line each with the count; a failure with its last lines, its log, and a line that runs it again."""
    env = {"WORD": "two words"}
    file = batches.write(
        {"name": "good", "run": ["true"]},
        {
            "name": "bad",
            "run": 'echo first; echo "last $WORD"; exit 3',
            "env": env,
            "cwd": "running",
            "needs": ["good"],
        },
        {"name": "after", "run": ["true"], "needs": ["bad"]},
        {"name": "same", "run": ["false"], "unless": ["true"]},
    )
    result = batch("-j1", file)
    (run,) = batches.runs()
    lines = result.stdout.splitlines()
    assert (result.returncode, result.stderr) == (1, "")
    assert lines[0] == "start     good"
    assert lines[1].startswith("ok        good: ")
    assert lines[1].endswith(" [1/4]")
    bad = next(
        number for number, line in enumerate(lines) if line.startswith("failed    bad: exit status 3, ")
    )
    assert lines[bad + 1 : bad + 3] == ["    | first", "    | last two words"]
    assert lines[bad + 3].startswith("    log:   ")
    log = lines[bad + 3].split()[1].replace("~", str(batches.dir.parent / "home"))
    with open(log) as opened:
        assert opened.read() == "first\nlast two words\n"
    again = lines[bad + 4].removeprefix("    again: ")
    found = subprocess.run(["sh", "-c", again], capture_output=True, text=True, check=False)
    assert (found.returncode, found.stdout) == (3, "first\nlast two words\n")
    assert any(line.startswith("skipped   after: needs bad, which failed [") for line in lines)
    assert lines[-2] == f"details: buildslots batches show {run.name}"
    assert lines[-1] == f"what was not done: buildslots batch --resume {file}"
    assert lines[-3].startswith("4 tasks: ")


def test_a_good_batch_ends_with_one_line(batches: Batches, batch: Command) -> None:
    """How many tasks, and how long it took."""
    lines = batch(batches.write({"name": "a", "run": "echo quiet"})).stdout.splitlines()
    assert len(lines) == 3
    assert lines[-1].startswith("1 task: 1 ok in ")
    assert "quiet" not in "".join(lines)


def test_json_lines_come_in_the_order_of_completion(batches: Batches, batch: Command) -> None:
    """Numbered, the batch first and last."""
    wait = "until test -e go; do sleep 0.01; done"
    file = batches.write({"name": "slow", "run": wait}, {"name": "fast", "run": ["touch", "go"]}, pool="")
    told = events(batch("-j2", "--json", file).stdout)
    assert [one["seq"] for one in told] == [0, 1, 2, 3]
    assert [one["event"] for one in told] == ["batch", "task", "task", "batch"]
    assert {one["task"] for one in told[1:3]} == {"slow", "fast"}
    assert [one["t"] for one in told] == sorted(one["t"] for one in told)
    assert (told[0]["state"], told[-1]["state"], told[-1]["counts"]) == ("running", "ok", {"ok": 2})


def test_a_reader_that_goes_away_ends_nothing(batches: Batches) -> None:
    """The batch comes to its end when nobody reads its lines any more."""
    command = shlex.join(
        [script("buildslots"), "batch", "-j1", "--json", "-p", "", "--", "sh", "-c", "echo {} >>out"]
    )
    result = batches.pool.run(
        "sh", "-c", f"seq 50 | {{ {command}; echo $? >status; }} | head -n1", cwd=batches.dir
    )
    assert json.loads(result.stdout)["event"] == "batch"
    assert batches.text().split() == [str(number) for number in range(1, 51)]
    assert batches.text("status") == "0\n"


def test_hostile_output_is_text(batches: Batches, batch: Command) -> None:
    """In names, reasons and last lines; neither lines nor JSON have a control character."""
    name = "\x1b[2Jname\x07\u202e"
    file = batches.write(
        {"name": name, "run": f"{HOSTILE}; exit 1", "cwd": "running"}, {"run": ["./\x1b[31mx"]}
    )
    for args in ([file, "--fail", "never"], [file, "--json", "--fail", "never"], [file, "--dry-run"]):
        result = batch(*args)
        bad = {letter for letter in result.stdout + result.stderr if not letter.isprintable()} - {"\n"}
        assert bad == set()
    assert "evil" in batch(file, "--fail", "never").stdout


def test_rows_are_drawn_on_a_terminal(terminal: Terminal, batches: Batches) -> None:
    """What runs has a row with its last line, what has ended scrolls above, and no row is left at the end."""
    wait = "until test -e {0}; do sleep 0.01; done"
    file = batches.write(
        {"name": "first", "run": f"echo at work; {wait.format('one')}"},
        {"name": "second", "run": f"{HOSTILE}; echo busy; {wait.format('two')}; exit 4", "retries": 0},
        {"name": "third", "run": ["true"], "needs": ["first"]},
        pool="",
    )
    terminal.type(
        f"cd {batches.dir}; unset CI; TERM=screen {script('buildslots')} batch -j2 --fail never {file}"
    )
    terminal.wait_for("[0/3] 2 running")
    terminal.wait_until(lambda: any("at work" in line for line in terminal.lines()), "a last line")
    terminal.wait_until(lambda: any(line.endswith("busy") for line in terminal.lines()), "another last line")
    (batches.dir / "one").touch()
    terminal.wait_for("[2/3] 1 running")
    terminal.wait_for("ok        first")
    terminal.wait_for("ok        third")
    terminal.resize(50, 20)
    (batches.dir / "two").touch()
    terminal.wait_for("3 tasks: 2 ok, 1 failed")
    lines = terminal.lines()
    assert any(line.startswith("failed    second: exit status 4") for line in lines)
    assert not any("running" in line and line.startswith("[") for line in lines)
    assert sum(line.startswith("ok        first") for line in lines) == 1


def test_a_wait_for_a_slot_is_seen(terminal: Terminal, batches: Batches) -> None:
    """With the place in the machine's line."""
    held = batches.pool.build("-n1")
    held.started()
    file = batches.write({"name": "waits", "run": ["true"]})
    terminal.type(f"cd {batches.dir}; unset CI; MAX_CONCURRENT_BUILDS=1 {script('buildslots')} batch {file}")
    terminal.wait_for("[0/1] 1 waiting for a slot")
    terminal.wait_until(lambda: any("place 1" in line for line in terminal.lines()), "its place")
    held.finish()
    terminal.wait_for("1 task: 1 ok")


def test_no_rows_where_nobody_sees_them(terminal: Terminal, batches: Batches) -> None:
    """In CI, and on a dumb terminal, there are plain lines."""
    file = batches.write({"name": "a", "run": ["true"]})
    for setting in ("CI=1", "TERM=dumb"):
        terminal.clear()
        terminal.type(f"cd {batches.dir}; {setting} {script('buildslots')} batch {file}")
        terminal.wait_for("1 task: 1 ok")
        assert "start     a" in terminal.lines()


def test_silence_is_broken(batches: Batches, batch: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    """What runs, waits or is to be retried is said now and then, so that nobody takes silence for the end."""
    monkeypatch.setattr("buildslots.batch.speaker.HEARTBEAT_S", 0.05)
    wait = "echo x >>started; until test -e go; do sleep 0.01; done"
    file = batches.write(
        {"name": "long", "run": wait}, {"name": "other", "run": "sleep 0.2; touch go"}, pool=""
    )
    lines = batch("-j2", file).stdout.splitlines()
    assert any(line.startswith("[0/2] running: long (") for line in lines)
    wait_until(lambda: batches.pool.held() == [], "free slots")
