"""The journal: what it says of every kind of build, and that nothing about it ever stops one."""

from __future__ import annotations

import errno
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from builds import DEADLINE_S, KILLED_AT, Mounts, Pool, script, wait_until
from namespaces import unshare

from buildslots import SlotPool, UnthrottledWarning, build_slot, journal, run_batch
from buildslots.journal import archives, rotate
from buildslots.settings import resolve
from buildslots.settings.places import config_path, state_dir
from buildslots.view.past import builds

if TYPE_CHECKING:
    from collections.abc import Callable

    Line = dict[str, Any]


@pytest.fixture
def path() -> Path:
    """Where the journal of these tests is; not made yet."""
    return Path(state_dir(os.environ), "journal.jsonl")


def lines(path: Path) -> list[Line]:
    """The journal, every line of which has to be JSON."""
    return [json.loads(line) for line in path.read_text("ascii").splitlines()] if path.exists() else []


def named(path: Path, event: str) -> list[Line]:
    return [line for line in lines(path) if line["event"] == event]


def test_the_life_of_a_build_that_waits(pool: Pool, path: Path) -> None:
    """Queued, started with wait and slot, ended with duration and status: each line says whose it is."""
    first = pool.build("-n1")
    first.started()
    second = pool.queued("-n1")
    wait_until(lambda: named(path, "queued"), "a line about the wait")
    first.finish()
    second.started()
    second.finish(3)
    of_second = [line for line in lines(path) if line["pid"] == second.pid]
    assert [line["event"] for line in of_second] == ["queued", "started", "ended"]
    assert len({line["id"] for line in of_second}) == 1
    for line in of_second:
        assert (line["v"], line["pool"], line["dir"]) == (1, "default", str(pool.dir))
        assert (line["program"], line["cwd"]) == ("sh", os.getcwd())
    queued, started, ended = of_second
    assert (queued["cap"], started["cap"], started["slot"], ended["slot"]) == (1, 1, 0, 0)
    assert queued["t"] <= started["t"] <= ended["t"] <= time.time()
    assert started["waited_s"] > 0
    assert ended["ran_s"] > 0
    assert ended["status"] == 3
    assert all(line["load"] >= 0 for line in of_second)


def test_only_the_user_may_read_it(pool: Pool, path: Path) -> None:
    """The file is 0600 and its directory 0700."""
    pool.slot_run("true")
    assert path.stat().st_mode & 0o7777 == 0o600
    assert path.parent.stat().st_mode & 0o7777 == 0o700


@pytest.mark.parametrize(
    ("command", "status"),
    [(("sh", "-c", "kill -9 $$"), -9), (("sh", "-c", "no-such-program"), 127), (("true",), 0)],
)
def test_how_it_ended(pool: Pool, path: Path, command: tuple[str, ...], status: int) -> None:
    """Minus the signal, or the exit status."""
    pool.slot_run(*command)
    assert [(line["event"], line.get("status")) for line in lines(path)] == [
        ("started", None),
        ("ended", status),
    ]


MIB = 2**20
BURNS = "n=0; until [ $n = 20000 ]; do n=$((n + 1)); done"
ALLOCATES = f"held = bytearray(64 * {MIB}); held[::4096] = bytes(16 * 1024)"  # and writes into each page
AN_ORPHAN_ALLOCATES = """
sh -c '"$0" -c "$1" & echo $!' "$0" "$1" >pid
while kill -0 "$(cat pid)"; do sleep 0.01; done 2>/dev/null
"""


@pytest.mark.parametrize(("end", "status"), [("exit 3", 3), ("kill -9 $$", -9)])
def test_what_the_command_used(pool: Pool, path: Path, end: str, status: int) -> None:
    """CPU time and the memory of its largest process, also where that is a child, and whatever ended it."""
    pool.slot_run("sh", "-c", f"{BURNS}; {end}")
    pool.slot_run("sh", "-c", f'"$0" -c "$1"; {end}', sys.executable, ALLOCATES)
    burnt, allocated = named(path, "ended")
    for line in (burnt, allocated):
        assert line["status"] == status
        assert line["cpu_s"] > 0
        assert type(line["max_rss"]) is int
    assert allocated["max_rss"] >= 64 * MIB > burnt["max_rss"] > 0


@pytest.mark.linux
def test_what_the_command_of_the_first_process_used(pool: Pool, path: Path) -> None:
    """In a container slot-run reaps orphans as well: what these used is not the command's."""
    command = ("sh", "-c", AN_ORPHAN_ALLOCATES, sys.executable, ALLOCATES)
    inside = (*unshare("--pid"), "--fork", script("slot-run"), *command)
    assert pool.run(*inside, cwd=pool.dir.parent).returncode == 0
    (ended,) = named(path, "ended")
    assert 0 < ended["max_rss"] < 64 * MIB


def test_who_did_not_run_a_command_says_nothing_of_it(pool: Pool, path: Path) -> None:
    """Python code: what its process has used before would count as well."""
    with build_slot():
        pass
    (ended,) = named(path, "ended")
    assert {"cpu_s", "max_rss"} & set(ended) == set()


def test_a_command_that_cannot_be_measured_keeps_its_status(pool: Pool, path: Path) -> None:
    """`os.wait4` would lose it: it loads `resource` when the command is gone already."""
    code = BREAK_THE_IMPORT.replace("buildslots.journal", "resource")
    code += "\nfrom buildslots.run.main import main\nsys.argv[0] = 'slot-run'\nmain()"
    result = pool.run(sys.executable, "-c", code, "sh", "-c", "sleep 0.1; exit 5")
    assert (result.returncode, result.stderr) == (5, "")
    (ended,) = named(path, "ended")
    assert ("cpu_s" in ended, ended["status"]) == (False, 5)


def test_a_command_that_cannot_start_is_no_build(pool: Pool, path: Path, tmp_path: Path) -> None:
    """It did not fail, for it never ran; not found, no program, without its interpreter."""
    program = tmp_path / "program"
    program.write_text("#!/no/such/interpreter\n")
    program.chmod(0o755)
    for command, status in (("no-such-program", 127), ("/etc/passwd", 126), (str(program), 127)):
        assert pool.slot_run(command).returncode == status
    assert not path.exists()
    holder = pool.build("-n1")
    holder.started()
    waiter = pool.popen(script("slot-run"), "-n1", str(program))
    wait_until(lambda: pool.status().waiters, "a waiter")
    holder.finish()
    assert waiter.process.wait(DEADLINE_S) == 127
    assert [line["event"] for line in lines(path) if line["pid"] == waiter.pid] == ["queued", "gave_up"]
    assert pool.held() == []


def test_falling_through(pool: Pool, path: Path) -> None:
    """A build that runs beyond the cap says so in place of `started`."""
    pool.build("-n1").started()
    pool.slot_run("-n1", "-t", "0.1", "true")
    (line,) = named(path, "fell_through")
    assert line["slot"] == 1
    assert line["waited_s"] >= 0.1
    assert [line["slot"] for line in named(path, "ended")] == [1]


def test_giving_up(pool: Pool, path: Path) -> None:
    """At the timeout, or because a signal ended the wait."""
    pool.build("-n1").started()
    pool.slot_run("-n1", "-t", "0.1", "--on-timeout", "fail", "true")
    waiter = pool.queued("-n1")
    wait_until(lambda: len(named(path, "queued")) == 2, "its line")
    waiter.process.send_signal(signal.SIGTERM)
    waiter.process.wait()
    assert [line["cause"] for line in named(path, "gave_up")] == ["timeout", "interrupted"]
    assert [line["event"] for line in lines(path)].count("ended") == 0


class EnoughError(Exception):
    """What a handler of the program raises."""


def test_a_wait_that_the_program_ends_is_no_build_without_a_slot(pool: Pool, path: Path) -> None:
    """By an exception of its own, from a signal handler: nothing runs then."""

    def enough(*_: object) -> None:
        raise EnoughError

    before = signal.signal(signal.SIGALRM, enough)
    try:
        waiting = SlotPool(slots=1)
        with waiting.acquire():
            signal.setitimer(signal.ITIMER_REAL, 0.3)
            with pytest.raises(EnoughError):
                waiting.acquire()
    finally:
        signal.signal(signal.SIGALRM, before)
    assert [line["cause"] for line in named(path, "gave_up")] == ["interrupted"]
    assert (pool.leftovers(), named(path, "degraded")) == ([], [])


def test_degrading(pool: Pool, path: Path) -> None:
    """A build that runs without any slot, from the command line and in Python, with the cause."""
    pool.dir.write_text("in its place")
    pool.slot_run("true")
    with pytest.warns(UnthrottledWarning), build_slot():
        pass
    shown = lines(path)
    assert [line["event"] for line in shown] == ["degraded", "degraded"]
    assert all(str(pool.dir) in line["cause"] for line in shown)


def test_python_code(pool: Pool, path: Path) -> None:
    """A block is told of with the script's name; a release may say how the build ended."""
    code = pool.dir.parent / "builder.py"
    code.write_text("from buildslots import *\nwith build_slot(): pass\nSlotPool().acquire().release(-2)")
    assert pool.run(sys.executable, str(code)).returncode == 0
    shown = lines(path)
    assert [line["event"] for line in shown] == ["started", "ended"] * 2
    assert {line["program"] for line in shown} == {"builder.py"}
    assert [line["status"] for line in named(path, "ended")] == [None, -2]


def test_the_tasks_of_a_batch(pool: Pool, path: Path, tmp_path: Path) -> None:
    """Each is told of by its name, in its own directory, with the batch's ID; none by its arguments."""
    report = run_batch(
        [
            {"name": "fetch it", "run": ["true", "--token=secret"], "cwd": tmp_path},
            {"run": ["/bin/true", "--token=secret"]},
            {"run": ["true", "secret"], "name": "true secret 2"},
            {"run": "true secret"},
            {"run": len, "name": "x" * 200, "pool": "link"},
            {"run": ["true"], "name": "without a slot", "pool": ""},
        ],
        name="install",
        fail="never",
    )
    shown = lines(path)
    assert {line["batch"] for line in shown} == {report.id}
    assert re.fullmatch(r"install-\d{8}-\d{6}", report.id)
    told = {(line["program"], line["cwd"]) for line in shown}
    here = os.getcwd()
    assert told == {("fetch it", str(tmp_path)), ("true", here), ("sh", here), ("x" * 200, here)}
    assert "secret" not in path.read_text()
    path.unlink()
    with build_slot(label="mine"):
        pass
    assert [set(line) & {"batch"} for line in lines(path)] == [set(), set()]


def test_a_label_of_slot_run(pool: Pool, path: Path) -> None:
    """Status, the waiting line and the journal have it for the command; what names nothing is none."""
    build = pool.build("-n1", "--label", "the site")
    build.started()
    assert pool.status().holders[0].command == ("the site",)
    said = pool.slot_run("-n1", "-t1.2", "--on-timeout", "fail", "true").stderr
    assert "`the site` in " in said
    build.finish()
    assert {line["program"] for line in lines(path)} == {"the site", "true"}
    for nothing in ("", " "):
        refused = pool.slot_run("--label", nothing, "true")
        assert (refused.returncode, refused.stderr.count("\n")) == (125, 1)


def test_what_is_not_told(pool: Pool, path: Path) -> None:
    """Nested builds, looks that find no slot, and the end of a block in a forked child."""
    with build_slot(slots=1) as slot:
        with build_slot(slots=1):
            pass
        pool.slot_run("-n1", "true", environ=slot.environ())
        assert SlotPool(slots=1).try_acquire() is None
        child = os.fork()
        if not child:
            slot.__exit__(None, None, None)
            os._exit(0)
        os.waitpid(child, 0)
        assert [line["event"] for line in lines(path)] == ["started"]
    assert [line["event"] for line in lines(path)] == ["started", "ended"]


def test_arguments_are_kept_only_if_asked_for(pool: Pool, path: Path) -> None:
    """They hold secrets. `commands` keeps them, up to a length."""
    pool.slot_run("sh", "-c", "exit 0", "--token=secret")
    assert "secret" not in path.read_text()
    assert "exit" not in path.read_text()
    path.unlink()
    pool.slot_run("true", "--token=secret", "x" * 9999, environ={"BUILD_SLOTS_JOURNAL": "commands"})
    assert [line["command"] for line in lines(path)] == [["true", "--token=secret", "…"]] * 2


def test_off(pool: Pool, path: Path) -> None:
    """By variable or config file: nothing is written, nothing made."""
    pool.slot_run("true", environ={"BUILD_SLOTS_JOURNAL": "off"})
    config = Path(config_path(os.environ))
    config.parent.mkdir(parents=True)
    config.write_text('journal = "off"\n')
    pool.slot_run("true")
    assert not path.parent.exists()


@pytest.mark.parametrize(
    "name", ['a "b"', "a\\b", "new\nline", "\udcff\udc80", "\x7f\x00".strip("\0"), "ü 漢 🎉"]
)
def test_any_name_can_be_told(pool: Pool, path: Path, tmp_path: Path, name: str) -> None:
    """JSON's reader gives back program and directory as they were, bytes that are no text too."""
    directory = tmp_path / name
    directory.mkdir()
    shutil.copy("/bin/true", directory / name)
    result = pool.slot_run(str(directory / name), cwd=directory)
    assert result.returncode == 0
    assert [(line["program"], line["cwd"]) for line in lines(path)] == [(name, str(directory))] * 2


def _fifo(path: Path) -> None:
    os.mkfifo(path)


def _directory(path: Path) -> None:
    path.mkdir()


def _full(path: Path) -> None:
    path.symlink_to("/dev/full")


def _dangling(path: Path) -> None:
    path.symlink_to(path.parent / "nowhere/at/all")


def _parent_is_a_file(path: Path) -> None:
    path.parent.rmdir()
    path.parent.write_text("")


def _lock_is_a_directory(path: Path) -> None:
    path.write_bytes(b"x" * journal.LIMIT)
    (path.parent / "journal.lock").mkdir()


@pytest.mark.parametrize(
    "spoil", [_fifo, _directory, _full, _dangling, _parent_is_a_file, _lock_is_a_directory]
)
def test_a_journal_that_cannot_be_written_stops_no_build(
    pool: Pool, path: Path, spoil: Callable[[Path], None]
) -> None:
    """Nothing is said of it either."""
    path.parent.mkdir(parents=True)
    spoil(path)
    result = pool.slot_run("sh", "-c", "echo built")
    assert (result.returncode, result.stdout, result.stderr) == (0, "built\n", "")


@pytest.mark.linux
def test_a_disk_that_becomes_full_during_fifty_builds(mounts: Mounts, pool: Pool, path: Path) -> None:
    """None fails, and what is written before and after that can be read, though a line may be torn."""
    state = path.parent
    state.mkdir(parents=True)
    command = (
        'i=0; while [ $i -lt 50 ]; do $R sh -c "exit 0" || echo failed; '
        "[ $i = 40 ] && rm $S/filler; i=$((i+1)); done; cat $S/journal.jsonl"
    )
    setup = f"S={state}; mount -t tmpfs -o size=12288 none $S; head -c 6000 /dev/zero > $S/filler"
    result = mounts.run(setup, command)
    assert result.stderr == ""
    assert "failed" not in result.stdout
    read = [event for line in result.stdout.splitlines() if (event := builds.parse(line.encode()))]
    written = result.stdout.count('{"v":1,')
    assert 2 <= len(read) < 100
    assert len(read) >= written - 1, "only the torn line is lost"
    assert [event["event"] for event in read[-2:]] == ["started", "ended"]


def test_many_writers(pool: Pool, path: Path) -> None:
    """Eight processes at once: every line is whole."""
    code = "from buildslots import *\np = SlotPool(slots=8)\nfor _ in range(100): p.acquire().release()"
    writers = [pool.popen(sys.executable, "-c", code) for _ in range(8)]
    assert [writer.process.wait() for writer in writers] == [0] * 8
    assert len(named(path, "started")) == len(named(path, "ended")) == 800


FILLER = b'{"v":1,"t":1,"event":"filler"}\n'


def fill(path: Path) -> int:
    """Make the journal ready to be rotated: how many lines it has."""
    count = journal.LIMIT // len(FILLER) + 1
    path.parent.mkdir(parents=True, exist_ok=True)
    path.touch(mode=0o600)
    path.write_bytes(FILLER * count)
    return count


def count_lines(path: Path) -> int:
    files = [*archives(str(path.parent)), str(path)]
    return sum(Path(file).read_bytes().count(b"\n") for file in files if os.path.exists(file))


def test_rotation(pool: Pool, path: Path) -> None:
    """The build that finds the journal large puts it aside; the oldest such files go."""
    for round_ in range(journal.KEPT + 2):
        before = fill(path)
        pool.slot_run("true")
        assert len(archives(str(path.parent))) == min(round_ + 1, journal.KEPT)
        assert len(lines(path)) == 1, "`started` was appended to the old one, `ended` to the new one"
        newest = Path(archives(str(path.parent))[-1])
        assert newest.read_bytes().count(b"\n") == before + 1
        assert newest.stat().st_mode & 0o7777 == 0o600


def test_who_waits_while_the_journal_is_put_aside_loses_no_line(pool: Pool, path: Path) -> None:
    first = pool.build("-n1")
    first.started()
    waiting = pool.queued("-n1")
    wait_until(lambda: len(named(path, "queued")) == 1, "the line of the one that waits")
    fill(path)
    rotate(str(path))
    first.finish()
    waiting.started()
    waiting.finish()
    older = Path(archives(str(path.parent))[-1])
    events = [line["event"] for line in (*lines(older)[-1:], *lines(path))]
    assert sorted(event for event in events if event != "filler") == ["ended", "ended", "started"]


def test_a_file_that_cannot_be_closed_stops_nothing(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A file server says then that the quota is exceeded."""
    real = os.close

    def refuse(fd: int) -> None:
        real(fd)
        raise OSError(errno.EDQUOT, "quota")

    monkeypatch.setenv("XDG_STATE_HOME", str(path.parent.parent))
    log = journal.Log(resolve(warn=print), ["make"], "id")
    with monkeypatch.context() as patch:
        patch.setattr(os, "close", refuse)
        log.started((0,), 0.0, overflow=False, cap=1)
    assert [line["event"] for line in lines(path)] == ["started"]


def test_one_rotates_at_a_time(path: Path) -> None:
    """While somebody has the lock nobody else does; who comes late finds it done."""
    fill(path)
    with open(path.parent / "journal.lock", "w") as held:
        journal_lock = subprocess.Popen(
            ["flock", str(held.name), "-c", "echo locked; read x"], stdin=-1, stdout=-1
        )
        assert journal_lock.stdout is not None
        assert journal_lock.stdout.readline() == b"locked\n"
        rotate(str(path))
        assert not archives(str(path.parent))
        journal_lock.communicate()
    rotate(str(path))
    assert len(archives(str(path.parent))) == 1
    path.write_bytes(FILLER)
    rotate(str(path))
    assert len(archives(str(path.parent))) == 1


def test_a_killed_rotation_loses_no_line(pool: Pool, path: Path) -> None:
    """Killed before each of its steps in turn: all but the oldest file is there, and the next one goes on."""
    program = KILLED_AT.format(module="buildslots.journal", function="rotate")
    for step in range(1, 100):
        shutil.rmtree(path.parent, ignore_errors=True)
        expected = fill(path) + journal.KEPT
        for number in range(1, journal.KEPT + 1):
            (path.parent / f"journal-{number}.jsonl").write_bytes(FILLER)
        killed = pool.run(sys.executable, "-c", program, str(path), str(step)).returncode
        oldest_is_gone = not (path.parent / "journal-1.jsonl").exists()
        assert count_lines(path) == expected - oldest_is_gone
        if not killed:
            break
        assert killed == -signal.SIGKILL
        fill(path)
        rotate(str(path))
        assert len(archives(str(path.parent))) == journal.KEPT
    steps = "open in vain, open the directory, open in vain, open, rename, listdir, remove; then to its end"
    assert step == 8, steps
    assert oldest_is_gone


def test_rotation_with_a_clock_that_was_set_back(path: Path) -> None:
    """The newest file does not pass for the oldest, and what is not called as ours are stays."""
    fill(path)
    future = time.time_ns() // 1000 + 10**12
    for number in range(journal.KEPT):
        (path.parent / f"journal-{future + number}.jsonl").write_bytes(FILLER)
    for name in ("journal-007.jsonl", "journal-\N{ARABIC-INDIC DIGIT ONE}.jsonl", "journal-5.txt"):
        (path.parent / name).write_bytes(FILLER)
    rotate(str(path))
    kept = archives(str(path.parent))
    assert [os.path.getsize(file) >= journal.LIMIT for file in kept] == [False] * (journal.KEPT - 1) + [True]
    assert len(list(path.parent.glob("journal-*"))) == journal.KEPT + 3


BREAK_THE_IMPORT = """
import errno, importlib.abc, sys
class Broken(importlib.abc.MetaPathFinder):
    def find_spec(self, name, *_):
        if name == "buildslots.journal":
            raise OSError(errno.ENFILE, "Too many open files in system")
sys.meta_path.insert(0, Broken())
"""


@pytest.mark.parametrize("wait", [False, True])
def test_a_journal_that_cannot_be_loaded_stops_no_build(pool: Pool, wait: bool) -> None:
    """The command's status is slot-run's, and the slot is held until its end."""
    code = f"{BREAK_THE_IMPORT}\nfrom buildslots.run.main import main\nsys.argv[0] = 'slot-run'\nmain()"
    first = pool.build("-n1")
    first.started()
    if not wait:
        first.finish()
    command = [sys.executable, "-c", code, "-n1", "-q", "sh", "-c", "echo up; read line; exit 5"]
    build = pool.popen(*command)
    if wait:
        wait_until(lambda: pool.status().waiters, "a waiter")
        first.finish()
    assert build.started() == "up"
    assert pool.held() == [0]
    assert (build.finish(), build.errors()) == (5, "")
    assert pool.held() == []


def test_a_journal_that_cannot_be_loaded_in_python(pool: Pool) -> None:
    """The block runs under its slot; a timeout stays a timeout."""
    code = f"""{BREAK_THE_IMPORT}
from buildslots import *
with build_slot(slots=1) as slot:
    print(slot.number)
pool = SlotPool(slots=1)
with pool.acquire():
    try:
        pool.acquire(timeout=0.05, on_timeout="fail")
    except SlotTimeoutError:
        print("timeout")
"""
    result = pool.run(sys.executable, "-c", code)
    assert (result.stdout, result.stderr) == ("0\ntimeout\n", "")


def test_a_forgotten_slot_has_ended(pool: Pool, path: Path) -> None:
    """Nobody holds it any more, and the journal says so."""
    slot = SlotPool(slots=1).acquire()
    assert [line["event"] for line in lines(path)] == ["started"]
    with pytest.warns(ResourceWarning, match="was never released"):
        del slot
    assert pool.held() == []
    assert [line["event"] for line in lines(path)] == ["started", "ended"]


@pytest.mark.parametrize("status", [True, "x", 1.5])
def test_an_odd_status_costs_no_line(pool: Pool, path: Path, status: Any) -> None:
    """Whatever a caller says, the line is JSON."""
    SlotPool().acquire().release(status)
    assert [line["status"] for line in named(path, "ended")] in ([1], [None])


def test_the_setting_is_checked(pool: Pool) -> None:
    """A word that is none of the three is named, and the default holds."""
    result = pool.slot_run("true", environ={"BUILD_SLOTS_JOURNAL": "yes"})
    assert result.returncode == 0
    assert result.stderr == (
        "slot-run: BUILD_SLOTS_JOURNAL: 'yes' is none of 'off', 'programs' and 'commands'; ignored\n"
    )
