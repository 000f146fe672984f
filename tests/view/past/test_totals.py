"""The totals of the journal: each line counts once, whatever becomes of its files and of who counts."""

from __future__ import annotations

import fcntl
import json
import os
import random
import signal
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from builds import DEADLINE_S, KILLED_AT, Pool, script
from users import ALICE, several_users

from buildslots import journal
from buildslots.settings import resolve
from buildslots.settings.places import state_dir
from buildslots.view.past import totals as module
from buildslots.view.past.totals import BUCKETS_S, LOCK, NAMES, STATE, WAITS, totals

if TYPE_CHECKING:
    from collections.abc import Callable

KEY = ("/pool", "default", "normal")


def line(number: int, event: str = "queued", **fields: Any) -> bytes:
    """A line of the journal, of the build `number`."""
    common = {"v": 1, "t": float(number), "event": event, "id": str(number), "pool": "default", "pid": 1}
    told = common | {"dir": "/pool", "program": "make", "cwd": "/home/me"} | fields
    return json.dumps(told, separators=(",", ":")).encode() + b"\n"


@pytest.fixture
def state(tmp_path: Path) -> Path:
    """A directory for a journal."""
    directory = tmp_path / "state"
    directory.mkdir()
    return directory


def add(state: Path, *lines: bytes, name: str = journal.NAME) -> None:
    with (state / name).open("ab") as file:
        file.write(b"".join(lines))


def counted(state: Path, name: str = "queued") -> float:
    """The total of `name`, which could be kept."""
    found = totals(str(state))
    assert found is not None
    counts, problem = found
    assert problem == ""
    return counts.get(KEY, dict.fromkeys(NAMES, 0))[name]


# Each line once.


def test_builds_over_rotations(pool: Pool, monkeypatch: pytest.MonkeyPatch) -> None:
    """Far more of them than the journal keeps; between any two lines somebody may have counted."""
    monkeypatch.setattr(journal, "LIMIT", 2000)
    directory = state_dir(os.environ)
    dice = random.Random(1)
    settings, before, most = resolve(warn=print), {}, 0
    for number in range(300):
        log = journal.Log(settings, ["make"], str(number))
        log.started((0,), 0.5, overflow=False, cap=1)
        if dice.random() < 0.3:
            found = totals(directory)
            assert found is not None
            ((_, counts),) = found[0].items()
            assert counts["started"] == number + 1
            assert counts["waited_s"] == counts[WAITS[1]] / 2 == (number + 1) / 2
            assert all(counts[name] >= value for name, value in before.items()), "it fell"
            before = counts
            most = max(most, len(journal.archives(directory)))
    assert most == journal.KEPT
    assert sum(Path(file).stat().st_size for file in journal.archives(directory)) < 4 * 3000


def test_real_builds_over_rotations(pool: Pool) -> None:
    """The journal is filled up before each build, which puts it aside."""
    path = Path(state_dir(os.environ), journal.NAME)
    for number in range(journal.KEPT + 3):
        if path.exists():
            with path.open("ab") as file:
                file.write(b"%d" % number * journal.LIMIT + b"\n")
        assert pool.slot_run("true").returncode == 0
        told = pool.run(script("buildslots"), "status", "--format", "prometheus")
        assert told.stderr == ""
        ended = [row for row in told.stdout.splitlines() if 'result="ok"' in row]
        assert [row.rpartition(" ")[2] for row in ended] == [str(number + 1)]
    assert len(journal.archives(str(path.parent))) == journal.KEPT


def test_a_line_that_comes_late_to_a_file_that_was_put_aside(state: Path) -> None:
    """Its writer had opened the file before; others have written into the new one since."""
    add(state, line(1))
    assert counted(state) == 1
    (state / journal.NAME).rename(state / "journal-5.jsonl")
    add(state, line(2))
    assert counted(state) == 2
    add(state, line(3), name="journal-5.jsonl")
    assert counted(state) == counted(state) == 3


def test_a_file_that_is_put_aside_while_it_is_opened(state: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is seen under both names."""
    add(state, line(1), line(2))

    def put_aside(directory: str) -> list[str]:
        path = state / journal.NAME
        if path.exists():
            path.rename(state / "journal-5.jsonl")
        return journal.archives(directory)

    with monkeypatch.context() as patch:
        patch.setattr("buildslots.view.past.builds.archives", put_aside)
        assert counted(state) == 2
    add(state, line(3))
    assert counted(state) == 3


def test_a_line_that_is_being_written(state: Path) -> None:
    """It counts once it has its end; one that was torn, because the disk was full, never does."""
    whole = line(2)
    add(state, line(1), whole[:30])
    assert counted(state) == counted(state) == 1
    add(state, whole[30:])
    assert counted(state) == 2
    add(state, whole[:30])
    assert counted(state) == 2
    add(state, line(3, "started", waited_s=1))
    assert (counted(state), counted(state, "started")) == (2, 1)
    (state / "journal-5.jsonl").write_bytes(line(4)[:20])
    assert counted(state) == 2


def test_a_journal_that_a_power_cut_has_shortened(state: Path) -> None:
    """What is gone was counted; what comes then is new. So is a journal in place of one that was removed."""
    add(state, line(1), line(2), line(3))
    assert counted(state) == 3
    os.truncate(state / journal.NAME, len(line(1)) + 5)
    assert counted(state) == 3
    add(state, line(4))
    assert counted(state) == 4
    (state / journal.NAME).unlink()
    assert counted(state) == 4
    add(state, *map(line, range(5, 15)))
    assert counted(state) == 14


def test_who_counts_is_killed(pool: Pool, state: Path) -> None:
    """Before each of its steps in turn, each time with a new line: none is lost, none counts twice."""
    program = KILLED_AT.format(module="buildslots.view.past.totals", function="totals")
    for step in range(1, 100):
        add(state, line(step))
        killed = pool.run(sys.executable, "-c", program, str(state), str(step)).returncode
        if not killed:
            break
        assert killed == -signal.SIGKILL
        if step % 2:
            assert counted(state) == step
    steps = "journal.lock, the state, the journal, the directory, the new state, rename"
    assert step > 6, steps
    assert counted(state) == step


COUNT = """
import sys
from buildslots.view.past.totals import totals
for _ in range(30):
    counts, problem = totals(sys.argv[1])
    assert not problem
    print(*[each["started"] for each in counts.values()] or [0])
"""


def test_several_count_while_builds_write(pool: Pool, monkeypatch: pytest.MonkeyPatch) -> None:
    """For none of them a total falls, and in the end each build counts once."""
    pool.slot_run("true")
    directory = state_dir(os.environ)
    writer = "from buildslots import *; p = SlotPool(slots=4)\nfor _ in range(200): p.acquire().release()"
    writers = [pool.popen(sys.executable, "-c", writer) for _ in range(2)]
    readers = [pool.popen(sys.executable, "-c", COUNT, directory, stderr=None) for _ in range(3)]
    for reader in readers:
        said, _ = reader.process.communicate(timeout=DEADLINE_S)
        seen = list(map(int, said.split()))
        assert (reader.process.returncode, len(seen)) == (0, 30)
        assert seen == sorted(seen)
    assert [each.process.wait(DEADLINE_S) for each in writers] == [0, 0]
    found = totals(directory)
    assert found is not None
    (counts,) = found[0].values()
    assert (counts["started"], counts["ended ok"], counts["ended unknown"]) == (401, 1, 400)


AT = """
import os, sys
from buildslots.view.past.totals import totals
state, event, name = sys.argv[1:]
def hook(what, arguments):
    if what == event and str(arguments[0]).endswith(name):
        print("there", flush=True)
        if event == "os.rename":
            sys.stdin.readline()
sys.addaudithook(hook)
totals(state)
"""


def test_two_at_once_do_not_set_back_what_is_kept(pool: Pool, state: Path) -> None:
    """Who comes while another one is about to keep less waits for that."""
    add(state, line(1))
    first = pool.popen(sys.executable, "-c", AT, str(state), "os.rename", "")
    assert first.started() == "there"
    add(state, line(2))
    second = pool.popen(sys.executable, "-c", AT, str(state), "open", LOCK)
    assert second.started() == "there"
    assert not (state / STATE).exists()
    first.finish()
    assert second.process.wait(DEADLINE_S) == 0
    (row,) = json.loads((state / STATE).read_bytes())["counts"]
    assert row == [*KEY, {"queued": 2}]


def test_who_does_not_get_the_lock_keeps_nothing(state: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """And tells what there is all the same."""
    monkeypatch.setattr(module, "LOCK_S", 0)
    add(state, line(1))
    assert counted(state) == 1
    before = (state / STATE).read_bytes()
    with (state / LOCK).open() as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        add(state, line(2))
        assert counted(state) == counted(state) == 2
        assert (state / STATE).read_bytes() == before
    assert counted(state) == 2
    assert (state / STATE).read_bytes() != before


# What is counted.


def test_events(state: Path) -> None:
    """By result, by cause, by the length of the wait: a bound is in its bucket."""
    add(
        state,
        line(1),
        line(2, "started", waited_s=0),
        line(3, "fell_through", waited_s=120),
        line(4, "fell_through", waited_s=120.5),
        line(5, "started", waited_s=1e9),
        line(6, "gave_up", cause="timeout", waited_s=7),
        line(7, "gave_up", cause="interrupted"),
        line(8, "ended", status=0, ran_s=1.5),
        line(9, "ended", status=3, ran_s=0.25),
        line(10, "ended", status=-9, ran_s=1),
        line(11, "ended", status=None, ran_s=1),
        line(12, "degraded", cause="full"),
        line(13, "unheard of"),
    )
    found = totals(str(state))
    assert found is not None
    (counts,) = found[0].values()
    assert {name: value for name, value in counts.items() if value} == {
        "queued": 1, "started": 4, "overflow": 2, "degraded": 1,
        "gave up timeout": 1, "gave up interrupted": 1,
        "ended ok": 1, "ended failed": 1, "ended killed": 1, "ended unknown": 1,
        WAITS[0]: 1, WAITS[BUCKETS_S.index(120)]: 1, WAITS[BUCKETS_S.index(120) + 1]: 1, WAITS[-1]: 1,
        "waited_s": 1e9 + 240.5, "ran_s": 3.75,
    }  # fmt: skip


def test_pools_and_priorities_apart(state: Path) -> None:
    """A directory that is no text is one all the same; a word that is no priority is none."""
    add(state, line(1, priority="high"), line(2, dir="/\udcff"), line(3, pool="link", priority="urgent"))
    for _ in range(2):
        found = totals(str(state))
        assert found is not None
        assert set(found[0]) == {
            ("/pool", "default", "high"),
            ("/\udcff", "default", "normal"),
            ("/pool", "link", "normal"),
        }


@pytest.mark.parametrize("value", [None, -1, "1", True, [], {}, 1e300, float("nan"), float("inf"), 10**400])
def test_hostile_numbers_are_left_out(state: Path, value: object) -> None:
    """The build itself counts."""
    fields = dict.fromkeys(("waited_s", "ran_s", "priority"), value)
    add(state, line(1, "started", **fields), line(2, "ended", **fields, status=value), b"\xff" * 5000 + b"\n")
    for _ in range(2):
        assert (counted(state, "started"), counted(state, "waited_s"), counted(state, "ran_s")) == (1, 0, 0)


def test_of_too_many_pools_those_are_forgotten_that_were_used_first(
    state: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What is kept stays small enough to be read."""
    monkeypatch.setattr(module, "MOST_BYTES", 4096)
    add(state, *(line(number, dir=f"/{number}") for number in range(200)))
    assert totals(str(state))
    add(state, line(200))
    found = totals(str(state))
    assert found is not None
    assert (state / STATE).stat().st_size <= 4096
    assert ("/199", "default", "normal") in found[0]
    assert ("/0", "default", "normal") not in found[0]


# What lies there.


def test_without_a_journal_nothing_is_made(state: Path) -> None:
    """There may be other things in the directory, or no directory."""
    assert totals(str(state)) is None
    assert totals(str(state / "none")) is None
    assert list(state.iterdir()) == []


def _fifo(path: Path) -> None:
    os.mkfifo(path)


def _link(path: Path) -> None:
    (path.parent / "mine").write_text("precious")
    path.symlink_to("mine")


def _writable(path: Path) -> None:
    path.write_text(json.dumps({"v": 1, "places": {}, "counts": [[*KEY, {"queued": 100}]]}))
    path.chmod(0o666)


ROW = [*KEY, {"queued": 100}]


@pytest.mark.parametrize(
    "spoil",
    [
        _fifo, _link, _writable, b"", b"{", b"\0" * 500, b"null", b"[" * 100_000, b"{}", b'{"v":1}', "torn",
        b" " * 300_000, {"v": 2}, {"places": []}, {"places": {"x": -1}}, {"places": {"x": 0.5}},
        {"places": {"x": True}}, {"counts": {}}, {"counts": [ROW[:3]]}, {"counts": [[1, *ROW[1:]]]},
        {"counts": [["/pool", "a b", *ROW[2:]]]}, {"counts": [["/pool", "default", "urgent", ROW[3]]]},
        {"counts": [[*ROW[:3], {"sold": 1}]]}, {"counts": [[*ROW[:3], []]]},
        *({"counts": [[*ROW[:3], {"queued": value}]]} for value in (-1, 1.5, True, "1", None, 10**400)),
        *({"counts": [[*ROW[:3], {"ran_s": value}]]} for value in (-1, float("nan"), float("inf"), 1e300)),
    ],
)  # fmt: skip
def test_what_was_kept_is_not_ours(state: Path, spoil: Any) -> None:
    """Then the journal is counted from its beginning, and that is kept; what a link leads to stays."""
    add(state, line(1), line(2))
    path = state / STATE
    if callable(spoil):
        spoil(path)
    elif spoil == "torn":
        assert counted(state) == 2
        path.write_bytes(path.read_bytes()[:-5])
    elif isinstance(spoil, bytes):
        path.write_bytes(spoil)
    else:
        path.write_text(json.dumps({"v": 1, "places": {"x": 1}, "counts": [ROW]} | spoil))
    assert counted(state) == 2
    assert not path.is_symlink()
    assert path.stat().st_mode & 0o7777 == 0o600
    add(state, line(3))
    assert counted(state) == 3
    assert {file.name for file in state.iterdir()} <= {journal.NAME, STATE, LOCK, "mine"}
    assert not (state / "mine").exists() or (state / "mine").read_text() == "precious"


def _state_is_a_directory(state: Path) -> None:
    (state / STATE).mkdir()


def _lock_is_a_directory(state: Path) -> None:
    (state / LOCK).mkdir()


@pytest.mark.parametrize("spoil", [_state_is_a_directory, _lock_is_a_directory])
def test_what_cannot_be_kept(pool: Pool, spoil: Callable[[Path], None]) -> None:
    """The counters are those of the journal, and one line says that they may fall."""
    pool.slot_run("true")
    state = Path(state_dir(os.environ))
    spoil(state)
    for _ in range(2):
        result = pool.run(script("buildslots"), "status", "--format", "prometheus")
        assert result.returncode == 0
        assert result.stderr.startswith("buildslots: the counters are not kept, and fall when the journal ")
        assert result.stderr.count("\n") == 1
        assert 'result="ok"} 1\n' in result.stdout
    assert {file.name for file in state.iterdir()} <= {journal.NAME, STATE, LOCK}


@pytest.mark.parametrize("spoil", [_fifo, Path.mkdir])
def test_what_is_no_journal(pool: Pool, spoil: Callable[[Path], None]) -> None:
    """There are gauges, and nothing waits for the end of a FIFO."""
    path = Path(state_dir(os.environ), journal.NAME)
    path.parent.mkdir(parents=True)
    spoil(path)
    result = pool.run(script("buildslots"), "status", "--format", "prometheus")
    assert result.returncode == 0
    assert "buildslots_cap{" in result.stdout


@several_users
def test_root_keeps_nothing_in_the_home_of_another_user(pool: Pool) -> None:
    """It tells what it sees there, and leaves no file that the user could not replace."""
    pool.slot_run("true")
    state = Path(state_dir(os.environ))
    os.chown(state, ALICE, ALICE)
    result = pool.run(script("buildslots"), "status", "--format", "prometheus")
    assert "root makes nothing in a place of another user" in result.stderr
    assert 'result="ok"} 1\n' in result.stdout
    assert [file.name for file in state.iterdir()] == [journal.NAME]
