"""`buildslots status`: for people, for programs, and with whatever lies in the files."""

from __future__ import annotations

import fcntl
import io
import json
import os
import re
import shlex
import signal
from typing import TYPE_CHECKING

import pytest
from builds import HELD_BUILD, Pool, script, wait_until
from namespaces import unshare

from buildslots import SlotPool, run_batch, status
from buildslots.disk import foreign, records
from buildslots.view.now.colour import headline
from buildslots.view.pools import existing_pools
from buildslots.view.table import heading
from buildslots.words import printable, span

if TYPE_CHECKING:
    from pathlib import Path

    from terminals import Terminal


def status_json(pool: Pool, *options: str) -> dict:
    result = pool.run(script("buildslots"), "status", "--json", *options)
    assert (result.returncode, result.stderr) == (0, "")
    return json.loads(result.stdout)


def test_the_fields_that_programs_rely_on(pool: Pool, tmp_path: Path) -> None:
    """Names, types and order of what `--json` prints; the README documents them."""
    first = pool.build("-n1", cwd=tmp_path, environ={"MAX_CONCURRENT_BUILDS": "1"})
    first.started()
    waiters = [pool.queued("-n1"), pool.queued("-n2")]
    status = json.loads(
        pool.run(script("buildslots"), "status", "--json", environ={"MAX_CONCURRENT_BUILDS": "1"}).stdout
    )
    about = "pool dir cap cap_source holders waiters paused_until paused_by pause_reason rules_problem"
    about += " tokens fleet"
    assert list(status) == about.split()
    assert list(status.values())[-6:] == [None, None, "", None, None, None]
    assert [status["pool"], status["dir"], status["cap"], status["cap_source"]] == [
        "default",
        str(pool.dir),
        1,
        "MAX_CONCURRENT_BUILDS",
    ]
    (holder,) = status["holders"]
    fields = (
        "slot slots weight overflow foreign orphaned pid command cwd held_s waited_s cap host elsewhere "
        "batch ownerless tokens silent_s"
    )
    assert list(holder) == fields.split()
    assert [holder[field] for field in fields.split()[:6]] == [0, [0], 1, False, False, False]
    assert [holder["pid"], holder["command"][:2], holder["cwd"]] == [first.pid, ["sh", "-c"], str(tmp_path)]
    assert holder["held_s"] >= 0 <= holder["waited_s"]
    assert [(w["place"], w["pid"], w["cap"]) for w in status["waiters"]] == [
        (place, waiter.pid, cap) for place, (waiter, cap) in enumerate(zip(waiters, (1, 2), strict=True), 1)
    ]
    assert list(status["waiters"][0]) == [
        "place",
        "pid",
        "command",
        "cwd",
        "waited_s",
        "cap",
        "weight",
        "host",
        "elsewhere",
        "batch",
        "priority",
        "eta_s",
        "reasons",
        "silent_s",
    ]
    assert [w["eta_s"] for w in status["waiters"]] == [None, None]  # nothing has ended yet
    assert [w["reasons"] for w in status["waiters"]] == [
        [{"kind": "own_cap", "text": "its own cap of 1: 1 held of 2"}],
        [{"kind": "ahead", "text": "the build ahead"}],
    ]
    assert (holder["batch"], status["waiters"][0]["batch"]) == (None, None)


def test_the_batch_of_a_task(pool: Pool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of who holds a slot and of who waits; the command is the task's name, the directory its own."""
    monkeypatch.setenv("MAX_CONCURRENT_BUILDS", "1")

    def look() -> dict:
        return wait_until(lambda: (seen := status_json(pool))["waiters"] and seen, "a task that waits")

    tasks = [{"name": "first one", "run": look}, {"name": "second", "run": ["true"], "cwd": tmp_path}]
    report = run_batch(tasks, name="install", jobs=2)
    status = report.outcomes[0].value
    told = [(b["batch"], b["command"], b["cwd"]) for b in (*status["holders"], *status["waiters"])]
    assert told == [(report.id, ["first one"], os.getcwd()), (report.id, ["second"], str(tmp_path))]


@pytest.mark.linux
def test_where_the_command_of_a_task_is(pool: Pool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The process that took the slots has many tasks; what a function costs nobody can tell."""
    monkeypatch.setenv("MAX_CONCURRENT_BUILDS", "2")

    def look() -> list[int | None]:
        wait_until((tmp_path / "pid").exists, "the command")
        try:
            return [status.pid_here(str(pool.dir), holder) for holder in pool.status().holders]
        finally:
            (tmp_path / "go").touch()

    command = "echo $$ >new; mv new pid; until test -e go; do sleep 0.05; done"
    tasks = [{"name": "command", "run": command, "cwd": tmp_path}, {"name": "function", "run": look}]
    report = run_batch(tasks, jobs=2)
    assert report.outcomes[-1].name == "command"
    assert report.outcomes[0].value == [int((tmp_path / "pid").read_text()), None]


@pytest.mark.linux
def test_the_record_of_a_dead_holder_is_not_shown_for_a_foreign_one(pool: Pool) -> None:
    """After kill -9 the record stays; who locks the slot then is another program."""
    build = pool.popen(
        script("slot-run"), "-n1", "sh", "-c", "echo up; exec sleep 300", start_new_session=True
    )
    build.started()
    os.killpg(build.pid, signal.SIGKILL)
    foreign = pool.popen("flock", str(pool.dir / "slot-0"), "sh", "-c", "echo locked; read line")
    assert foreign.started() == "locked"
    (holder,) = status_json(pool)["holders"]
    assert (holder["foreign"], holder["orphaned"], holder["pid"]) == (True, False, foreign.pid)
    assert holder["command"][0] == "flock"


def test_status_for_people(pool: Pool) -> None:
    """Who holds what since when, and who waits, in a table; nothing that could steer a terminal."""
    first = pool.popen(script("slot-run"), "-n1", "sh", "-c", "echo up; read line", "evil\x1b[31m\nname")
    first.started()
    pool.queued("-n1")
    beyond = pool.build("-n1", "-t0")
    beyond.started()
    text = pool.run(script("buildslots"), "status").stdout
    assert "pool default: 2 held of " in text
    assert "1 waiting" in text
    assert "evil?[31m?name" in text
    assert "\x1b" not in text
    assert "(overflow)" in text
    assert str(first.pid) in text


def test_what_is_piped_is_plain_whatever_the_environment_says(pool: Pool) -> None:
    """Other programs read these lines: their words, their columns, and nothing else."""
    first = pool.build("-n1")
    first.started()
    second = pool.queued("-n1")
    text = pool.run(
        script("buildslots"),
        "status",
        environ={"FORCE_COLOR": "1", "COLUMNS": "60", "MAX_CONCURRENT_BUILDS": "1"},
    ).stdout
    span, build = r"(?:0\.\d|\d+) s", re.escape(shlex.join(["sh", "-c", HELD_BUILD]))
    expected = [
        "pool default: 1 held of 1, 1 waiting",
        f"directory {re.escape(str(pool.dir))}",
        "cap 1: MAX_CONCURRENT_BUILDS",
        "",
        "SLOT +PID +HELD +DIRECTORY +COMMAND",
        f"0 +{first.pid} +{span} +{re.escape(os.getcwd())} +{build}",
        "",
        "LINE +PID +WAITED +STARTS IN +WAITS FOR +DIRECTORY +COMMAND",
        rf"1 +{second.pid} +{span} +\? +a slot: 1 held of 1 +{re.escape(os.getcwd())} +{build}",
        "",
    ]
    assert re.fullmatch("\n".join(expected), text)


def test_the_cap_is_that_of_the_builds(pool: Pool) -> None:
    """Not that of who looks, which keeps none of them waiting; it is told beside, if it is another one."""
    pool.build("-p", "link", "-n1").started()
    pool.build("-p", "link", "-n1")
    pool.build("-p", "link", "-n1")
    link = SlotPool("link", slots=2)
    wait_until(lambda: len(link.status().waiters) == 2, "two in line")
    text = pool.run(
        script("buildslots"), "status", "-p", "link", environ={"MAX_CONCURRENT_BUILDS_LINK": "2"}
    ).stdout
    assert text.splitlines()[0] == "pool link: 1 held of 1; yours: 2; 2 waiting"
    assert "your cap 2: MAX_CONCURRENT_BUILDS_LINK" in text
    pool.build("-p", "link", "-n3", "-t0").started()
    assert heading(link.status()) == "pool link: 2 held of 1-3; yours: 2; 2 waiting"


def test_a_pool_whose_builds_wait_is_not_green(pool: Pool) -> None:
    """Though there would be a slot for who looks."""
    pool.build("-n1").started()
    pool.queued("-n1")
    assert [span.style for span in headline(pool.status(slots=5)).spans][1] == "bold yellow"
    assert [span.style for span in headline(SlotPool("link", slots=5).status()).spans][1] == "bold green"


@pytest.mark.linux
def test_another_program_s_slot_is_overflow_by_the_cap_of_the_builds(pool: Pool) -> None:
    """And not by that of who looks."""
    pool.build("-n4").started()
    (pool.dir / "slot-2").touch()
    with open(pool.dir / "slot-2") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        assert [holder.overflow for holder in pool.status(slots=1).holders] == [False, False]


def test_all_pools(pool: Pool) -> None:
    """The default pool, then those that were used, by name; an empty one in one line; no junk."""
    pool.slot_run("-p", "web", "true")
    pool.slot_run("-p", "CI", "true")
    for junk in (".hidden", "a b", "default", "nul"):
        (pool.dir / "pools" / junk).mkdir()
    (pool.dir / "pools" / "file").touch()
    pool.build("-p", "link", "-n1").started()
    environ = {"MAX_CONCURRENT_BUILDS": "3", "MAX_CONCURRENT_BUILDS_LINK": "1", "BUILD_SLOTS_POOL": "web"}
    environ |= {"MAX_CONCURRENT_BUILDS_WEB": "4", "MAX_CONCURRENT_BUILDS_CI": "5"}
    text = pool.run(script("buildslots"), "status", "--all", environ=environ).stdout
    link = text.partition("pool link: 1 held of 1, 0 waiting\n")[2]
    assert link.startswith(f"directory {pool.dir}/pools/link\ncap 1: MAX_CONCURRENT_BUILDS_LINK\n\nSLOT")
    assert [line[:36] for line in text.splitlines() if line.startswith(("pool", "SLOT")) or not line] == [
        "pool default: 0 held of 3, 0 waiting",
        "pool CI: 0 held of 5, 0 waiting",
        "",
        "pool link: 1 held of 1, 0 waiting",
        "",
        link.splitlines()[3][:36],
        "",
        "pool web: 0 held of 4, 0 waiting",
    ]


def test_all_pools_for_programs(pool: Pool) -> None:
    """Each as without --all, in one list; the default pool alone where nothing has ever been built."""
    (only,) = status_json(pool, "--all")["pools"]
    assert only == status_json(pool)
    assert not pool.dir.exists()
    pool.slot_run("-p", "link", "true")
    everything = status_json(pool, "--all")
    assert list(everything) == ["pools"]
    assert everything["pools"] == [status_json(pool), status_json(pool, "--pool", "link")]


def test_a_file_in_the_place_of_the_named_pools_stops_nobody(pool: Pool) -> None:
    """Another tool's directory of slot files may have anything in it."""
    pool.slot_run("true")
    (pool.dir / "pools").touch()
    assert existing_pools(str(pool.dir)) == ["default"]


@pytest.mark.linux
@pytest.mark.parametrize(
    ("changed", "here"),
    [
        ({}, True),
        ({b"start": b"1"}, False),  # the pid is another process's by now
        ({b"pid": b"1"}, False),
        ({b"host": b"elsewhere"}, False),
        ({b"pidns": b"pid:[1]"}, False),
    ],
)
def test_where_the_pid_of_a_holder_counts(pool: Pool, changed: dict, here: bool) -> None:
    """Only in its own pid namespace, and while the record is that of the process that was seen."""
    with SlotPool(slots=1).acquire():
        (holder,) = pool.status().holders
        path = pool.dir / "holders" / "slot-0"
        text = path.read_bytes()
        for name, value in changed.items():
            text = re.sub(b"\n%b .*\n" % name, b"\n%b %b\n" % (name, value), text)
        path.write_bytes(text)
        assert status.pid_here(str(pool.dir), holder) == (os.getpid() if here else None)


def test_named_pool_and_empty_pool(pool: Pool) -> None:
    """A pool that nobody used is empty, and looking does not make it."""
    assert status_json(pool, "--pool", "link")["holders"] == []
    assert not pool.dir.exists()
    build = pool.build("-p", "link", "-n3")
    build.started()
    assert [h["slot"] for h in status_json(pool, "--pool", "link")["holders"]] == [0]
    assert status_json(pool)["holders"] == []


def test_other_pools_in_use_are_named(pool: Pool) -> None:
    """Who looks at an idle pool learns where the builds are; idle pools are not named."""
    pool.slot_run("-p", "idle", "true")
    pool.build("-p", "link", "-n1").started()
    pool.build("-p", "link", "-n1").read_error_line()  # it waits
    line = "other pools in use: link (1 held, 1 waiting); --all shows them"
    assert pool.run(script("buildslots"), "status").stdout.splitlines()[-1] == line
    assert "other pools" not in pool.run(script("buildslots"), "status", "link").stdout
    assert "other pools" not in pool.run(script("buildslots"), "status", "--all").stdout
    pool.build().started()
    line = "other pools in use: default (1 held, 0 waiting); --all shows them"
    assert pool.run(script("buildslots"), "status", "link").stdout.splitlines()[-1] == line


def test_other_pools_in_use_are_named_on_a_terminal(pool: Pool, terminal: Terminal) -> None:
    """Below the table, in a line of its own."""
    pool.build("-p", "link", "-n1").started()
    terminal.type(f"{script('buildslots')}")
    terminal.wait_for("other pools in use: link (1 held, 0 waiting); --all shows them")


def test_a_misspelt_pool_is_no_idle_one(pool: Pool) -> None:
    """It is said that there is none, and what was meant; programs get their document all the same."""
    pool.build("-p", "link", "-n1").started()
    result = pool.run(script("buildslots"), "status", "-p", "lnik")
    assert (result.returncode, result.stdout) == (1, "")
    assert result.stderr == (
        "buildslots: no build has used a pool 'lnik', and no setting names it; the nearest: link\n"
    )
    result = pool.run(script("buildslots"), "status", "-p", "lnik", "--json")
    assert (result.returncode, json.loads(result.stdout)["holders"]) == (0, [])
    assert "the nearest: link" in result.stderr
    known = {"MAX_CONCURRENT_BUILDS_LNIK": "1"}
    result = pool.run(script("buildslots"), "status", "-p", "lnik", environ=known)
    assert result.stdout.startswith("pool lnik: 0 held of 1, 0 waiting\n")


@pytest.mark.parametrize("command", ["history", "report -o -", "trace", "release", "doctor"])
def test_a_misspelt_pool_is_told_by_every_command(pool: Pool, command: str) -> None:
    """Each would otherwise say that there is nothing to see."""
    pool.slot_run("-p", "link", "true")
    result = pool.run(script("buildslots"), *command.split(), "-p", "lnik")
    text = "no build has used a pool 'lnik', and no setting names it; the nearest: link"
    assert text in result.stdout + result.stderr
    right = pool.run(script("buildslots"), *command.split(), "-p", "link")
    assert "no build has used" not in right.stdout + right.stderr


def test_wrong_usage(pool: Pool) -> None:
    """One sentence that names the value, and status 2."""
    result = pool.run(script("buildslots"), "status", "--pool", "a/b")
    assert result.returncode == 2
    assert "'a/b' is not the name of a pool" in result.stderr


def test_a_reader_that_goes_away_is_no_error(pool: Pool) -> None:
    """`buildslots status | head -0` ends without a traceback."""
    result = pool.run("sh", "-c", f"{script('buildslots')} status | :")
    assert result.stderr == ""


@pytest.mark.linux
def test_a_read_only_pool_can_be_looked_at(pool: Pool) -> None:
    """Where the mutex cannot be had, looking goes on without it."""
    build = pool.build("-n1")
    build.started()
    look = f"mount --bind {pool.dir} {pool.dir}; mount -o remount,bind,ro {pool.dir}; "
    result = pool.run(*unshare("--mount"), "sh", "-c", f"{look} {script('buildslots')} status --json")
    assert [h["slot"] for h in json.loads(result.stdout)["holders"]] == [0]


@pytest.mark.parametrize(
    "text",
    [
        b"",
        b"\n",
        b"buildslots-record 1\n",
        b"buildslots-record 1\nend\n",
        b"buildslots-record 2\npid 1\nend\n",
        b"buildslots-record 1\npid x\nsince never\ncap -1\nwaited nan\nend\n",
        b"buildslots-record 1\npid 99999999999999999999999\nsince 1e999\nhost \xff\xfe\nend\n",
        b"buildslots-record 1\npid\nsince\narg\ncwd\nend\n",
        b"buildslots-record 1\npid 2147483648\nsince -inf\nwaited -1\ncap 99999999999\nend\n",
        bytes(range(256)) * 64,
        b"buildslots-record 1\n" + b"arg x\n" * 9000 + b"end\n",
    ],
)
def test_hostile_records_are_no_more_than_unknown(pool: Pool, text: bytes) -> None:
    """Whatever stands in a record or a ticket, status and the waiting line survive it."""
    first = pool.build("-n1")
    first.started()
    waiter = pool.queued("-n1")
    pool.record().write_bytes(text)
    next((pool.dir / "queue").iterdir()).write_bytes(text)
    status = status_json(pool)
    assert [holder["slot"] for holder in status["holders"]] == [0]
    assert [w["place"] for w in status["waiters"]] == [1]
    assert pool.run(script("buildslots"), "status").returncode == 0
    assert "waiting, place 1 of 1: 1 of 1 slots held by " in waiter.read_error_line()


def test_junk_in_the_pool_directory_is_passed_over(pool: Pool) -> None:
    """Names that are almost ours are nobody's."""
    pool.slot_run("true")
    for name in ("slot-", "slot-01", "slot--1", "slot-x", "slot-1.lock", "slot-\N{ARABIC-INDIC DIGIT ONE}"):
        (pool.dir / name).touch()
    for name in ("x", "1-1", "0" * 20, "0" * 20 + "-x", ".nfs0001"):
        (pool.dir / "queue" / name).touch()
    build = pool.build("-n1")
    assert build.started() == "0"
    pool.queued("-n1")
    assert pool.held() == [0]


def test_a_fifo_in_a_slot_file_s_place_stops_nobody(pool: Pool) -> None:
    """Neither status nor a build waits for somebody to open its other end."""
    pool.slot_run("true")
    os.mkfifo(pool.dir / "slot-7")
    assert pool.held() == []
    assert pool.slot_run("-n9", "true").returncode == 0


def test_records_survive_any_argument() -> None:
    """What is written is what is read, for every byte that an argument can have."""
    command = ["a\nb\\n", "", "end", "\\", os.fsdecode(bytes(range(1, 256)))]
    about = records.about(command, cap=3, nonce="ab", cwd="/x\ny")
    record = records.parse(records.record(about, waited_s=1.5))
    assert record is not None
    assert record["command"].split("\0")[:-1] == command
    assert (record["cwd"], record["cap"], record["nonce"], record["waited"]) == (
        "/x\ny",
        "3",
        "ab",
        "1.500000",
    )
    assert int(record["pid"]) == os.getpid()


def test_long_commands_are_cut() -> None:
    """A record keeps its size whatever the command's is, and says so."""
    text = records.record(records.about(["cc", *["x" * 100] * 1000], cap=1, nonce=""))
    assert len(text) < 8192
    record = records.parse(text)
    assert record is not None
    assert record["command"].endswith("x\0…\0")
    assert len(records.record(records.about(["\N{GRINNING FACE}" * 4000], cap=1, nonce=""))) < 8192


def test_whatever_a_task_says_of_itself_a_record_stays_short() -> None:
    """Its name, its directory and its batch: behind the longest record stands the nonce of the last one."""
    for text in ("x", "\\", "\N{GRINNING FACE}"):
        much = text * 100_000
        about = records.about([much], cap=1, nonce="", cwd=much, batch=much)
        assert len(records.record(about)) < records.ENDED_AT
        record = records.parse(records.record(about))
        assert record is not None
        assert (record["cwd"], record["batch"]) == ("?", text * records.BATCH_LENGTH)


def test_a_record_that_is_only_half_written_is_none() -> None:
    """Every prefix of a record but the whole is no record."""
    text = records.record(records.about(["make"], cap=1, nonce="n"))
    assert [records.parse(text[:size]) for size in range(len(text) - 1)] == [None] * (len(text) - 1)


def test_words() -> None:
    """Durations and other people's words as people read them."""
    spans = [span(s) for s in (0, 0.3, 1, 59.4, 60, 125, 3600, 7325)]
    assert spans == ["0 s", "0.3 s", "1 s", "59 s", "1 min 0 s", "2 min 5 s", "1 h 0 min", "2 h 2 min"]
    assert printable("a\x1b[2J\u202e\x07é") == "a?[2J??é"


def test_the_waiting_line(pool: Pool) -> None:
    """It names place, holders with command, directory and age, and what happens when; then the start."""
    first = pool.build("-n1")
    first.started()
    waiter = pool.queued("-n1", "-t", "1h")
    line = waiter.read_error_line()
    assert line.startswith("slot-run: waiting, place 1 of 1: 1 of 1 slots held by `sh -c ")
    assert "; runs anyway in 59 min 5" in line
    assert f" in {os.getcwd()} (" in line
    first.finish()
    waiter.started()
    assert waiter.read_error_line().startswith("slot-run: starting after ")
    assert (pool.status().holders[0].waited_s or 0) > 0


def test_after_a_wait_in_vain_no_start_is_said(pool: Pool) -> None:
    """What follows the line of the wait is the one about the overflow slot."""
    pool.build("-n1").started()
    waiting, beyond = pool.slot_run("-n1", "-t1.5", "true").stderr.splitlines()
    assert "; runs anyway in " in waiting
    assert beyond.startswith("slot-run: no slot within ")


@pytest.mark.linux
@pytest.mark.parametrize(
    ("changed", "foreign"),
    [
        ({}, False),
        ({b"start": b"1"}, True),  # the pid is another process's by now
        ({b"pid": b"2147483647"}, True),
        ({b"pid": b"2147483647", b"start": b"1", b"host": b"elsewhere"}, False),
        ({b"pid": b"2147483647", b"start": b"1", b"pidns": b"pid:[1]"}, False),
    ],
)
def test_without_a_bell_the_record_s_process_tells(pool: Pool, changed: dict, foreign: bool) -> None:
    """A record counts while its writer lives, or where we cannot know whether it does."""
    with SlotPool(slots=1).acquire():
        (pool.dir / "bells" / "slot-0").unlink()
        path = pool.dir / "holders" / "slot-0"
        text = path.read_bytes()
        for name, value in changed.items():
            text = re.sub(b"\n%b .*\n" % name, b"\n%b %b\n" % (name, value), text)
        path.write_bytes(text)
        (holder,) = pool.status().holders
        assert holder.foreign is foreign


@pytest.mark.linux
def test_the_owner_of_a_foreign_lock_is_that_of_the_file_s_device(pool: Pool, tmp_path: Path) -> None:
    """Not somebody who locked another file, or only part of this one."""
    pool.slot_run("true")
    with open(pool.dir / "slot-0", "w") as part, open(pool.dir / "slot-7", "w") as whole:
        fcntl.lockf(part, fcntl.LOCK_EX)
        fcntl.flock(whole, fcntl.LOCK_EX)
        (holder,) = pool.status(slots=1).holders
        assert (holder.slot, holder.overflow, holder.foreign, holder.pid) == (7, True, True, os.getpid())


@pytest.mark.linux
@pytest.mark.parametrize(
    ("locks", "pid"),
    [
        (["FLOCK ADVISORY WRITE 11 HERE", "FLOCK ADVISORY WRITE 22 fe:ff:INODE"], 11),
        (["FLOCK ADVISORY WRITE 22 fe:ff:INODE"], 22),  # btrfs shows another device than stat
        (["FLOCK ADVISORY WRITE 22 fe:ff:INODE", "FLOCK ADVISORY WRITE 33 fe:fe:INODE"], None),
        (["FLOCK ADVISORY WRITE 22 fe:ff:1INODE"], None),
        (["POSIX ADVISORY WRITE 11 HERE", "-> FLOCK ADVISORY WRITE 22 HERE"], None),
        (["FLOCK ADVISORY WRITE -1 HERE"], None),  # of another pid namespace
        ([""], None),
    ],
)
def test_who_has_locked_a_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, locks: list[str], pid: int | None
) -> None:
    """By device and inode, as proc_locks(5) shows them; by the inode where that is clear without a device."""
    path = tmp_path / "slot-0"
    path.touch()
    stat = path.stat()
    here = f"{os.major(stat.st_dev):02x}:{os.minor(stat.st_dev):02x}:{stat.st_ino}"
    text = "".join(
        f"{n}: {lock.replace('HERE', here).replace('INODE', str(stat.st_ino))} 0 EOF\n"
        for n, lock in enumerate(locks, 1)
    )
    monkeypatch.setattr(foreign, "open", lambda *_, **__: io.StringIO(text), raising=False)
    assert foreign._lock_owner(str(path)) == pid


def test_dead_waiters_are_not_in_line(pool: Pool) -> None:
    """A ticket that nobody has locked belongs to nobody, and looking does not remove it."""
    pool.slot_run("true")
    dead = pool.dir / "queue" / ("0" * 20 + "-1")
    dead.touch()
    assert pool.status().waiters == ()
    assert dead.exists()


@pytest.mark.linux
def test_who_has_ended_is_gone_though_nobody_reaps(pool: Pool) -> None:
    """As below the first process of a container that waits for none but its own: slot-run, and the owner."""
    owner = pool.popen("sleep", "1000")
    build = pool.build("-n1", f"--owner={owner.pid}")
    build.started()
    pool.record()
    for killed, told in ((owner, (False, True)), (build, (True, True))):
        os.kill(killed.pid, signal.SIGKILL)
        os.waitid(os.P_PID, killed.pid, os.WEXITED | os.WNOWAIT)
        (holder,) = pool.status().holders
        assert (holder.orphaned, holder.ownerless) == told
    build.finish()
    wait_until(lambda: pool.held() == [], "the end of the command, which was left")


def test_quiet_leaves_only_warnings(pool: Pool) -> None:
    """A wait is silent, running beyond the cap is not."""
    first = pool.build("-n1")
    first.started()
    result = pool.slot_run("-q", "-n1", "-t1.5", "true")
    assert result.stderr.splitlines() == [
        "slot-run: no slot within 2 s: running beyond the cap of 1 (overflow slot 1)"
    ]


def test_a_pool_object_tells_its_status(pool: Pool) -> None:
    """`status()` is frozen, and as_dict is what --json prints."""
    status = SlotPool(dir=str(pool.dir), slots=4).status()
    with pytest.raises(AttributeError):
        status.cap = 5  # type: ignore[misc]
    assert (status.cap, status.cap_source, status.as_dict()["waiters"]) == (4, "option", ())
