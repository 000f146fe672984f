"""`buildslots status` for eyes: in colour in a real terminal, and kept up to date with what builds cost."""

from __future__ import annotations

import itertools
import json
import os
import re
import signal
import sys
from typing import TYPE_CHECKING

import pytest
from builds import Build, Pool, script, wait_until

from buildslots.status import PoolStatus, Waiter
from buildslots.view.now.colour import rows_in_line
from buildslots.view.now.costs import Trees
from buildslots.view.now.watch import _height, _limits, _loose_limit
from buildslots.view.table import what

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from terminals import Terminal

    from buildslots.view.now.costs import Cost

WATCH = f"MAX_CONCURRENT_BUILDS=2 {script('buildslots')} status --watch --interval 0.1"
BUSY = "while :; do :; done"
COLOURS = {*range(30, 50), *range(90, 108)}


def table(terminal: Terminal, head: str) -> dict[int, list[str]]:
    """The words of the rows below the line that begins with `head`, by pid, in order."""
    lines = terminal.lines()
    below = itertools.dropwhile(lambda line: not line.startswith(head), lines)
    rows = itertools.takewhile(
        lambda row: row[0].isdecimal(), map(str.split, itertools.islice(below, 1, None))
    )
    return {int(row[1]): row for row in rows}


def in_line(terminal: Terminal, builds: list[Build]) -> None:
    """Wait until the view shows exactly these in line, in order."""
    pids = [build.pid for build in builds]
    terminal.wait_until(lambda: list(table(terminal, "LINE")) == pids, f"a line of {pids}")


def view_of_nothing(terminal: Terminal) -> None:
    """Wait until the view shows that nobody holds or waits."""
    wait_until(lambda: terminal.lines()[1:2] == ["pool default: 0 held of 2, 0 waiting"], "the view")


@pytest.fixture
def busy(pool: Pool) -> Iterator[Build]:
    """A build that keeps a core busy; it ends with the test, also where its slot-run has gone before."""
    build = pool.popen(script("slot-run"), "-n1", "sh", "-c", f"echo up; {BUSY}", start_new_session=True)
    build.started()
    yield build
    os.killpg(build.pid, signal.SIGKILL)


def test_a_line_of_builds_as_it_goes_on(pool: Pool, terminal: Terminal) -> None:
    """The holder and the line in order; the next ones move up when a build ends."""
    builds = [pool.build("-n1")]
    builds[0].started()
    builds += [pool.queued("-n1") for _ in range(4)]
    terminal.type(WATCH)
    in_line(terminal, builds[1:])
    terminal.wait_for("pool default: 1 held of 1; yours: 2; 4 waiting")
    builds[0].finish()
    in_line(terminal, builds[2:])
    wait_until(lambda: list(table(terminal, "SLOT")) == [builds[1].pid], "the next holder on the screen")


@pytest.mark.parametrize(("key", "status"), [("C-c", 130), ("q", 0)])
def test_keys_that_end_it_give_the_terminal_back(
    pool: Pool, terminal: Terminal, key: str, status: int
) -> None:
    """What stood on the screen stands there again, and the shell echoes what is typed."""
    terminal.type("echo before")
    terminal.wait_for("before")
    terminal.type(WATCH)
    view_of_nothing(terminal)
    terminal.keys(key)
    terminal.type_at_prompt("echo status=$?")
    terminal.wait_for(f"status={status}")
    screen = terminal.lines()
    assert [line for line in screen if line.startswith(("before", "pool"))] == ["before"]
    assert screen[-3].endswith("echo status=$?")
    terminal.type("stty -a | grep -o -e '-icanon' -e '-echo ' || echo as before")
    terminal.wait_for("as before")


def test_a_signal_that_ends_it_gives_the_terminal_back(
    pool: Pool, terminal: Terminal, tmp_path: Path
) -> None:
    """As Ctrl-C does; the exit status is a shell's for SIGTERM."""
    terminal.type(f"sh -c 'echo $$ >{tmp_path}/pid; {WATCH.replace(' ', ' exec ', 1)}'; echo status=$?")
    view_of_nothing(terminal)
    os.kill(int((tmp_path / "pid").read_text()), signal.SIGTERM)
    terminal.wait_for("status=143")
    assert terminal.lines()[0].startswith("$ sh -c ")


def test_it_can_be_stopped_and_continued(pool: Pool, terminal: Terminal) -> None:
    """After Ctrl-Z the shell has its screen and its modes; after fg the view is there again."""
    terminal.type(WATCH)
    view_of_nothing(terminal)
    terminal.keys("C-z")
    terminal.type_at_prompt("echo shell=$((1 + 1))")
    terminal.wait_for("shell=2")
    terminal.type("fg")
    view_of_nothing(terminal)
    terminal.keys("q")
    terminal.wait_for("shell=2")


def test_another_size_of_the_terminal(pool: Pool, terminal: Terminal) -> None:
    """The view fits its terminal, says what it leaves out, and has it all again when there is room."""
    first = pool.build("-n1")
    first.started()
    builds = [pool.queued("-n1") for _ in range(6)]
    terminal.type(WATCH.replace("0.1", "1h"))
    in_line(terminal, builds)
    wait_until(lambda: "%" in table(terminal, "SLOT")[first.pid], "the second picture, the last for an hour")
    terminal.resize(60, 13)
    in_line(terminal, builds[:2])
    assert terminal.lines()[-1] == "… and 4 more"
    assert [line[60:] for line in terminal.lines() if len(line) > 60] == []
    terminal.resize(120, 40)
    in_line(terminal, builds)
    terminal.resize(20, 3)
    wait_until(lambda: len(terminal.lines()) <= 3, "a tiny view")
    terminal.resize(120, 40)
    in_line(terminal, builds)


def test_what_a_build_costs(busy: Build, terminal: Terminal) -> None:
    """CPU, memory and processes of the whole tree: slot-run itself is idle, and only its child is busy."""
    terminal.type(WATCH)

    def cpu() -> int:
        row = table(terminal, "SLOT").get(busy.pid, [])
        return int(row[row.index("%") - 1]) if "%" in row else 0

    wait_until(lambda: cpu() > 5, "CPU of a busy loop")
    row = table(terminal, "SLOT")[busy.pid]
    assert row[row.index("MiB") + 1] == "2"


@pytest.mark.linux
def test_an_orphaned_build_costs_nobody_knows_what(busy: Build, terminal: Terminal) -> None:
    """Its slot-run's pid is nobody's or a stranger's: no figures are better than a stranger's."""
    busy.process.kill()
    busy.process.wait()
    terminal.type(WATCH)
    wait_until(lambda: busy.pid in table(terminal, "SLOT"), "the orphaned build")
    row = " ".join(table(terminal, "SLOT")[busy.pid])
    assert " ? ? ? " in row
    assert "(its slot-run is gone) sh -c " in row


@pytest.mark.linux
def test_children_that_come_and_go_between_two_looks_count(
    monkeypatch: pytest.MonkeyPatch, pool: Pool
) -> None:
    """A compiler that ran for a moment is in the CPU time of the make that waited for it."""
    monkeypatch.setattr("buildslots.view.now.costs.AGAIN_S", 0.0)
    clock = [0.0]
    monkeypatch.setattr("buildslots.view.now.costs.time.monotonic", lambda: clock[0])
    burn = """import time
while time.process_time() < 0.3: pass
print("burnt", flush=True)
input()"""
    run = '"$0" -c "$1"; echo done; read x'
    build = pool.popen("sh", "-c", f"echo up; read x; {run}; echo | {run}", sys.executable, burn)
    trees = Trees()

    def look() -> Cost:
        clock[0] += 1
        return trees.look([build.pid])[build.pid]

    def go_on_to(*words: str) -> None:
        build.process.stdin.write(b"\n")
        assert [build.started() for _ in words] == list(words)

    assert build.started() == "up"
    first = look()
    assert (first.cpu, first.processes, first.memory > 0) == (None, 1, True)
    go_on_to("burnt")
    assert look().cpu >= 0.25  # of a child that still runs
    go_on_to("done")
    assert look().cpu < 0.25  # it has ended, and does not count again
    go_on_to("burnt", "done")
    last = look()
    assert (last.cpu >= 0.25, last.processes) == (True, 1)  # of one that came and went


def test_a_process_that_does_not_exist_costs_nothing() -> None:
    """Nor does anything when nobody asks."""
    trees = Trees()
    assert trees.look([2**31 - 1]) == {}
    assert Trees().look([]) == {}


@pytest.mark.parametrize(
    ("term", "styled", "coloured"),
    [("TERM=screen", True, True), ("NO_COLOR=1", True, False), ("TERM=dumb", False, False)],
)
def test_colour(pool: Pool, terminal: Terminal, term: str, styled: bool, coloured: bool) -> None:
    """On a terminal that has it and a user who wants it; the same words as in the pipe without."""
    pool.build("-n1").started()
    pool.build("-n1", "-t0", "-q").started()
    pool.queued("-n1")
    terminal.type_at_prompt(f"clear; {term} {script('buildslots')} status")
    terminal.wait_for("LINE")
    terminal.type_at_prompt("")
    styles = terminal.styles()
    assert (bool(styles), bool(styles & COLOURS)) == (styled, coloured)
    seen = " ".join(word for line in terminal.lines() for word in line.split())
    piped = pool.run(script("buildslots"), "status").stdout
    assert "\x1b" not in piped
    for words in (*piped.splitlines()[:3], "(overflow)"):
        assert " ".join(words.split()) in seen
    for holder in pool.status().holders:
        assert holder.pid in table(terminal, "SLOT")


def test_watching_on_a_terminal_that_cannot_draw(pool: Pool, terminal: Terminal) -> None:
    """The same lines as through a pipe, one status below the other."""
    terminal.type_at_prompt(f"clear; TERM=dumb {WATCH}")
    view = "pool default: 0 held of 2, 0 waiting"
    wait_until(lambda: terminal.lines().count(view) > 2, "three times the status")
    terminal.keys("C-c")


def test_a_narrow_terminal(pool: Pool, terminal: Terminal) -> None:
    """A line for each build, its pid and times whole, its command cut; markup in it is text."""
    first = pool.popen(
        script("slot-run"), "-n1", "sh", "-c", "echo up; read x", "[red]mark[/]\x1b[31m", "x" * 90
    )
    first.started()
    second = pool.queued("-n1")
    terminal.resize(60, 20)
    terminal.type_at_prompt(f"clear; {script('buildslots')} status")
    terminal.wait_for("LINE")
    terminal.type_at_prompt("")
    (row,) = table(terminal, "SLOT").values()
    assert [row[1], row[3], row[-1][-1]] == [str(first.pid), "s", "…"]
    assert list(table(terminal, "LINE")) == [second.pid]
    terminal.resize(150, 20)
    terminal.type_at_prompt(f"clear; {script('buildslots')} status")
    wait_until(lambda: any("[red]mark[/]?[31m" in line for line in terminal.lines()), "the text as it is")


@pytest.mark.linux
@pytest.mark.parametrize(("columns", "live"), [(60, False), (80, True), (80, False), (120, True)])
def test_words_whose_width_terminals_do_not_agree_on(
    pool: Pool, terminal: Terminal, tmp_path: Path, columns: int, live: bool
) -> None:
    """Wide, combined, with vowels that tmux gives a cell: a row for each build; wrapping is as before."""
    words = "日本語-हिन्दी-ကြိုး-e\u0301\u0302-👍🏽-🎉-각"
    directory = tmp_path / words
    directory.mkdir()
    command = (script("slot-run"), "-n1", "sh", "-c", f"echo up {words}{words}{words}; read x")
    pool.popen(*command, cwd=directory).started()
    waiter = pool.popen(*command, cwd=directory)
    wait_until(lambda: pool.status().waiters, "a waiter")
    terminal.resize(columns, 20)
    terminal.type_at_prompt(f"clear; {script('buildslots')} status{' --watch --interval 0.1' * live}")
    wait_until(lambda: list(table(terminal, "LINE")) == [waiter.pid], "the line on the screen")
    if not live:
        wait_until(lambda: terminal.lines()[-1] == "$", "a prompt")
    lines = terminal.lines()
    heads = [number for number, line in enumerate(lines) if line.startswith(("SLOT", "LINE"))]
    end = len(lines) - (not live)
    assert heads == [end - 4, end - 2], lines
    assert "각" in lines[-1 if live else -2]
    if live:
        terminal.keys("q")
    terminal.type_at_prompt(f"clear; printf '%0{columns + 1}d' 7; echo")
    wait_until(lambda: "7" in terminal.lines(), "a line that wraps")


def test_watching_from_a_program(pool: Pool) -> None:
    """One JSON document a line, as --json has it, at once and again and again; Ctrl-C ends it."""
    options = ("--watch", "--json", "--all", "--interval", "1h")
    seldom = pool.popen(script("buildslots"), "status", *options, environ={"PYTHONUNBUFFERED": ""})
    assert len(json.loads(seldom.started())["pools"]) == 1
    watch = pool.popen(script("buildslots"), "status", "--watch", "--json", "--interval", "0.05")
    assert json.loads(watch.started())["holders"] == []
    build = pool.build("-n1")
    build.started()
    held = wait_until(lambda: json.loads(watch.started())["holders"], "the holder in the stream")
    assert [holder["pid"] for holder in held] == [build.pid]
    watch.process.send_signal(signal.SIGINT)
    assert (watch.process.wait(), watch.errors()) == (130, "")


def test_watching_through_a_pipe(pool: Pool) -> None:
    """The plain text every time, and an empty line between; a reader that goes away ends it in silence."""
    result = pool.run(
        "bash",
        "-c",
        f"{script('buildslots')} status --watch --all --interval 0.05 | head -4; echo ${{PIPESTATUS[0]}}",
        environ={"MAX_CONCURRENT_BUILDS": "2"},
    )
    line = "pool default: 0 held of 2, 0 waiting"
    assert (result.stdout.splitlines(), result.stderr) == ([line, "", line, "", "1"], "")


@pytest.mark.parametrize("columns", [40, 60, 80, 100])
@pytest.mark.parametrize("watch", [False, True])
def test_the_directory_is_the_last_to_go(
    pool: Pool, terminal: Terminal, tmp_path: Path, columns: int, watch: bool
) -> None:
    """Eight agents build the same thing: only their directories differ, at their ends."""
    agents = [tmp_path / "worktrees" / f"ag{number}" for number in range(8)]
    for agent in agents:
        agent.mkdir(parents=True)
        pool.build("-n8", cwd=agent).started()
    terminal.resize(columns, 16)
    terminal.type(WATCH if watch else f"clear; {script('buildslots')} status")
    terminal.wait_until(
        lambda: all(any(f"ag{number} " in line for line in terminal.lines()) for number in range(8)),
        "each agent's directory",
    )
    assert any("1 min" in line for line in terminal.lines()) == (watch and columns >= 100)


def test_all_pools_in_twelve_rows(pool: Pool, terminal: Terminal) -> None:
    """Builds are shown, and not the headlines of idle pools alone."""
    for idle in ("a", "b", "c", "d"):
        pool.slot_run("-p", idle, "true")
    busy = [pool.build("-p", name, "-n1") for name in ("x", "y")]
    for build in busy:
        build.started()
    terminal.resize(100, 12)
    terminal.type(f"{WATCH} --all")
    pids = {str(build.pid) for build in busy}
    terminal.wait_until(lambda: pids <= set(" ".join(terminal.lines()).split()), "both builds")
    assert len([line for line in terminal.lines() if line.startswith("pool ")]) >= 2


def line_of(*batches: str | None) -> tuple[Waiter, ...]:
    """Those who wait: of each the batch that it is a task of, if it is one."""
    return tuple(
        Waiter(place, 7, ("make",), "/", 1.0, 1, 1, None, elsewhere=False, batch=batch)
        for place, batch in enumerate(batches, 1)
    )


def test_the_tasks_of_a_batch_share_a_row_where_rows_are_few() -> None:
    """At the place of the first of them; all others keep theirs."""
    waiters = line_of("a", None, "b", "a", None, "b", "a")

    def places(most: int | None) -> list[list[int]]:
        return [[waiter.place for waiter in row] for row in rows_in_line(waiters, most)]

    assert places(None) == places(7) == [[1], [2], [3], [4], [5], [6], [7]]
    assert places(6) == places(0) == [[1, 4, 7], [2], [3, 6], [5]]
    status = PoolStatus("p", "/", 1, "x", (), waiters)
    assert [_height(status, limit, dense=True) - 2 for limit in (7, 6, 4, 3, 2)] == [7, 4, 4, 3, 2]


def test_a_hostile_batch_is_text() -> None:
    """A record of a member's may say anything: nothing of it steers a terminal or takes more room."""
    (waiter,) = line_of("x\x1b[31m\n" + "\u202e" * 9999)
    assert re.fullmatch(r"make \(batch x\?\[31m\?{57}…\)", what(waiter))
    assert what(line_of(None)[0]) == "make"


BATCH = """import time
from buildslots import run_batch
run_batch([dict(name=f"get {part}", run=time.sleep, args=[300]) for part in range(9)], name=%r)"""


def test_batches_in_line(pool: Pool, terminal: Terminal) -> None:
    """Each task by its name, and which batch it belongs to; in few rows one for each batch."""
    first = pool.build("-n1")
    first.started()
    batches = []
    for number, name in enumerate(("install", "audit"), 1):
        environ = {"MAX_CONCURRENT_BUILDS": "1"}
        batches.append(pool.popen(sys.executable, "-c", BATCH % name, environ=environ))
        wait_until(lambda: len(pool.status().waiters) == 2 * number, "two tasks of each in line")  # noqa: B023
    terminal.resize(120, 30)
    terminal.type(WATCH)

    def shows(*words: str) -> list[str]:
        rows = [line for line in terminal.lines() if "(batch " in line]
        return rows if len(rows) == len(words) and all(map(str.__contains__, rows, words)) else []

    tasks = ("get 0 (batch install-", "get 1 (batch install-", "get 0 (batch audit-", "get 1 (batch audit-")
    wait_until(lambda: shows(*tasks), "the tasks in line")
    for command in (None, f"clear; {script('buildslots')} status"):
        terminal.resize(80, 9)
        if command is not None:
            terminal.keys("q")
            terminal.type_at_prompt(command)
        rows = wait_until(lambda: shows("2 tasks (batch inst", "2 tasks (batch audi"), "a row for each")
        assert [row.split()[:2] for row in rows] == [
            [places, str(batch.pid)] for places, batch in zip(("1-2", "3-4"), batches, strict=True)
        ]
    plain = pool.run(script("buildslots"), "status").stdout
    assert len(re.findall(r"get \d \(batch (?:audit|install)-\d{8}-\d{6}\)\n", plain)) == 4


def test_rows_that_fit() -> None:
    """All if they do; else as many of each table as fit without air; idle pools go before busy ones."""

    def pools(*sizes: tuple[int, int]) -> list[PoolStatus]:
        return [PoolStatus("p", "/", 1, "x", (None,) * h, line_of(*[None] * w)) for h, w in sizes]  # type: ignore[arg-type]

    assert [_height(status, 3) for status in pools((0, 0), (2, 0), (2, 9))] == [1, 7, 12]
    assert [_height(status, 3, dense=True) for status in pools((0, 0), (2, 0), (2, 9))] == [1, 4, 8]
    assert _loose_limit(pools((2, 3)), 14) == 3
    assert _loose_limit(pools((2, 30)), 20) == 11
    assert _loose_limit(pools((2, 30), (0, 0), (1, 0)), 20) == 4
    assert _loose_limit(pools((2, 30)), 10) == 0
    assert _limits(pools((2, 30)), 10) == [5]
    assert _limits(pools((2, 30), (1, 0)), 12) == [4, 4]
    assert _limits(pools((1, 0), *[(0, 0)] * 20), 10) == [1] + [0] * 6
    assert _limits(pools((2, 30), (1, 0)), 4) == [0, 0]
    assert _limits(pools((2, 30), (1, 0)), 2) == [0, 0]


@pytest.mark.parametrize("rows", [12, 30])
def test_other_pools_in_use_are_named_below(pool: Pool, terminal: Terminal, rows: int) -> None:
    """In the last line, as long as somebody builds there; nothing scrolls."""
    build = pool.build("-p", "link", "-n1")
    build.started()
    terminal.resize(100, rows)
    terminal.type(WATCH)
    terminal.wait_for("other pools in use: link (1 held, 0 waiting); --all shows them")
    assert terminal.lines()[1].startswith("pool default: 0 held")
    build.finish()
    wait_until(lambda: not any("other pools" in line for line in terminal.lines()), "an idle machine")
