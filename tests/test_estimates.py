"""How long still, and why: estimates from the journal, and the reasons of who waits."""

from __future__ import annotations

import json
import logging
import os
import re
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from builds import HELD_BUILD, Pool, script, wait_until

from buildslots import Gates, Reason, SlotPool, SlotTimeoutError, Waiting, estimates, logs
from buildslots.disk import records
from buildslots.estimates import LEAST, MOST, Journal, RunTimes, left_s, starts
from buildslots.journal import NAME

if TYPE_CHECKING:
    from terminals import Terminal

MAKE, OTHER = (b"make", b"/a"), (b"make", b"/b")
SHELL = ["sh", "-c", HELD_BUILD]


def line(event: str, **fields: object) -> str:
    """A line as the journal has it, of a build of `sh` here."""
    common = {"v": 1, "t": 1.0, "event": event, "id": "a", "pool": "default", "dir": "/pool", "pid": 1}
    return json.dumps(common | {"program": "sh", "cwd": os.getcwd()} | fields, separators=(",", ":")) + "\n"


def remember(pool: Pool, *runs_s: float, **fields: object) -> None:
    """Let the journal tell of builds that took so long."""
    path = Path(pool.environ["HOME"]) / ".local/state/buildslots" / NAME
    path.parent.mkdir(parents=True, exist_ok=True)
    text = "".join(line("ended", **{"dir": str(pool.dir), "ran_s": run_s} | fields) for run_s in runs_s)
    with path.open("a") as journal:
        journal.write(text)


def test_what_a_holder_still_needs() -> None:
    """The median of those that took longer, less what it has run; as long again if it has outrun all."""
    runs = [10.0, 20.0, 30.0, 100.0]
    assert [left_s(runs, ran_s) for ran_s in (0.0, 15.0, 30.0, 100.0)] == [25.0, 15.0, 70.0, 100.0]
    assert left_s([], 5.0) is None


@pytest.mark.parametrize(
    ("held", "line", "paused_s", "starts_in"),
    [
        # The first slot to come free is the first one's; the second starts when the next one does.
        ([(5.0, 1), (9.0, 1)], [(1.0, 1, 2), (50.0, 1, 2), (1.0, 1, 2)], 0.0, [5.0, 6.0, 9.0]),
        # Who needs two waits for both; nobody overtakes it.
        ([(5.0, 1), (9.0, 1)], [(3.0, 2, 1), (1.0, 1, 2)], 0.0, [9.0, 12.0]),
        # A smaller cap of its own.
        ([(5.0, 1), (9.0, 1)], [(3.0, 1, 1)], 0.0, [9.0]),
        # Who has three slots lets go of all.
        ([(5.0, 3)], [(1.0, 1, 3), (1.0, 1, 3), (1.0, 1, 3)], 0.0, [5.0, 5.0, 5.0]),
        # A pause ends later than the builds.
        ([(5.0, 1)], [(4.0, 1, 1), (4.0, 1, 1)], 60.0, [60.0, 64.0]),
        # What nobody knows matters only from where it has to be waited for.
        ([(5.0, 1), (None, 1)], [(1.0, 1, 2), (None, 1, 2), (1.0, 1, 2)], 0.0, [5.0, 6.0, None]),
        ([(None, 1)], [(1.0, 1, 1), (1.0, 1, 1)], 0.0, [None, None]),
        ([], [(1.0, 1, 1)], 0.0, [0.0]),
    ],
)
def test_the_line_is_played_forward(
    held: list[tuple[float | None, int]],
    line: list[tuple[float | None, int, int]],
    paused_s: float,
    starts_in: list[float | None],
) -> None:
    """In order, each when so few slots are held as its limit says."""
    assert starts(held, line, paused_s) == starts_in


def test_the_most_special_group_that_has_enough() -> None:
    """The same program here, then the program, then the pool; of each the last ones."""
    runs = RunTimes()
    for _ in range(LEAST):
        runs.add((b"cargo", b"/c"), 7.0)
    assert runs.of(MAKE) == [7.0] * LEAST  # the pool's
    for _ in range(LEAST):
        runs.add(OTHER, 2.0)
    assert runs.of(MAKE) == [2.0] * LEAST
    for number in range(3 * MOST):
        runs.add(MAKE, float(number))
    assert runs.of(MAKE) == [float(number) for number in range(2 * MOST, 3 * MOST)]
    assert RunTimes().of(MAKE) == []


def test_whose_runs_a_build_has_the_journal_tells() -> None:
    """A record says `python server.py` where the journal has a script's name, a label or a task."""
    runs = RunTimes()
    runs.tell(line("queued", id="0123456789ab", program="server.py", cwd="/srv").encode())
    record = {"nonce": "0123456789abcdef", "command": "python3\0server.py\0", "cwd": "/srv"}
    assert runs.kind(record) == (b"server.py", b"/srv")
    runs.tell(line("gave_up", id="0123456789ab").encode())
    assert runs.kind(record) == (b"python3", b"/srv")  # as far as the record tells
    runs.tell(line("ended", id="b", program="docs/all", cwd="/srv", ran_s=1).encode())
    assert runs.kind({"command": "docs/all\0", "cwd": "/srv"}) == (b"docs/all", b"/srv")
    assert runs.kind({"command": "/usr/bin/make\0", "cwd": '/"ä'}) == (b"make", rb"/\u0022\u00e4")


def test_what_is_read_of_a_journal(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its end, and that of the file before it if it is young; of this pool, no strange lines."""
    journal, older = tmp_path / NAME, tmp_path / "journal-5.jsonl"
    ended = line("ended", ran_s=3, status=0)
    older.write_text(line("ended", ran_s=1) * LEAST)
    (tmp_path / "journal-4.jsonl").write_text(line("ended", ran_s=99) * LEAST)
    journal.write_text(
        line("ended", ran_s=8, dir="/pool2")
        + line("ended", ran_s=8)[:-30]  # the disk was full
        + line("ended", ran_s=3)
        + line("ended", ran_s=-1)
        + line("ended", ran_s="many")
        + line("ended", ran_s=float("nan"))
        + "\0\xff{}\n[" * 9
        + line("ended", command=["/usr/bin/sh", "-c", ":"]).replace('"program":"sh",', "")
        + ended
    )
    kind = (b"sh", os.getcwd().encode())
    of_sh = Journal(str(tmp_path), "/pool").runs(0).of(kind)
    assert of_sh == [1.0] * LEAST + [3.0, 3.0]
    monkeypatch.setattr(estimates, "TAIL", 5 * len(ended))
    journal.write_text(line("ended", ran_s=9) + ended * 6)
    assert Journal(str(tmp_path), "/pool").runs(0).of(kind) == [3.0] * 5
    journal.unlink()
    os.mkfifo(journal)  # its end may never come
    assert Journal(str(tmp_path), "/pool").runs(0).of(kind) == [1.0] * LEAST
    assert Journal("/nowhere", "/pool").runs(0).of(kind) == []


def test_it_is_read_anew_when_it_has_changed_and_not_each_time(tmp_path: Path) -> None:
    """Who looks many times a second reads it every few seconds."""
    path = tmp_path / NAME
    path.write_text(line("ended", ran_s=1) * LEAST)
    journal = Journal(str(tmp_path), "/pool")
    first = journal.runs(3600)
    with path.open("a") as file:
        file.write(line("ended", ran_s=2) * LEAST)
    assert journal.runs(3600) is first
    second = journal.runs(0)
    assert len(second.of((b"sh", os.getcwd().encode()))) == 2 * LEAST
    assert journal.runs(0) is second


def test_each_waiter_says_how_long_still(pool: Pool) -> None:
    """In status, its JSON and the waiting line: the first when the holder has run as long as others did."""
    remember(pool, *[1000.0] * LEAST)
    first = pool.build("-n1")
    first.started()
    waiters = [pool.queued("-n1", "-t", "1h") for _ in range(2)]
    told = [waiter.read_error_line() for waiter in waiters]
    assert [re.sub(r" by .*", "", text) for text in told] == [
        "slot-run: waiting, place 1 of 2, about 15 min: 1 of 1 slots held\n",
        "slot-run: waiting, place 2 of 2, about 35 min: 1 of 1 slots held\n",
    ]
    status = json.loads(pool.run(script("buildslots"), "status", "--json").stdout)
    near, far = (waiter["eta_s"] for waiter in status["waiters"])
    assert 1000 - status["holders"][0]["held_s"] == pytest.approx(near, abs=5)
    assert far == pytest.approx(near + 1000)
    text = pool.run(script("buildslots"), "status").stdout.splitlines()
    assert [re.findall(r"STARTS IN|\d+ min|\?", row)[-1] for row in text[-3:]] == [
        "STARTS IN",
        "15 min",
        "35 min",
    ]


@pytest.mark.parametrize("known", ["nothing", "off", "foreign"])
def test_what_nobody_knows_is_left_out(pool: Pool, known: str) -> None:
    """No journal, none wanted, or a holder of whom there is no telling: null, and nothing in the sentence."""
    if known != "nothing":
        remember(pool, *[1000.0] * LEAST)
    environ = {"BUILD_SLOTS_JOURNAL": "off"} if known == "off" else {}
    if known == "foreign":
        pool.slot_run("-n1", "true")
        holder = pool.popen("flock", "--no-fork", str(pool.dir / "slot-0"), *SHELL)
    else:
        holder = pool.build("-n1", environ=environ)
    holder.started()
    waiter = pool.queued("-n1", environ=environ)
    assert "place 1 of 1: 1 of 1 slots held by " in waiter.read_error_line()
    status = json.loads(pool.run(script("buildslots"), "status", "--json", environ=environ).stdout)
    assert [waiter["eta_s"] for waiter in status["waiters"]] == [None]


def test_the_journal_of_a_pool_is_its_own(pool: Pool) -> None:
    """What builds of another pool took says nothing."""
    remember(pool, *[1000.0] * LEAST, dir="/elsewhere")
    pool.build("-n1").started()
    pool.queued("-n1")
    assert pool.status().waiters[0].eta_s is None


def kinds(pool: Pool) -> list[list[str]]:
    """What keeps each in line, for programs."""
    return [[reason.kind for reason in waiter.reasons] for waiter in pool.status().waiters]


def test_why_each_waits(pool: Pool) -> None:
    """The head for slots, all others for those ahead; everybody for the end of a pause."""
    first = pool.build("-n2")
    first.started()
    pool.build("-n2").started()
    waiters = [pool.queued("-n2", "-w2"), pool.queued("-n1"), pool.queued("-n2")]
    told = [waiter.reasons for waiter in pool.status().waiters]
    assert told == [
        (Reason("slots", "2 slots together: 2 held of 2"),),
        (Reason("ahead", "the build ahead"),),
        (Reason("ahead", "the 2 builds ahead"),),
    ]
    waiters[0].process.terminate()
    wait_until(lambda: kinds(pool) == [["slots"], ["ahead"]], "a new head")
    first.finish()
    assert [str(reason) for reason in pool.status().waiters[0].reasons] == ["its own cap of 1: 1 held of 2"]
    SlotPool().pause("1h", "a new kernel")
    wait_until(lambda: kinds(pool) == [["pause", "own_cap"], ["pause", "ahead"]], "a pause")
    text = str(pool.status().waiters[1].reasons[0])
    assert text.startswith("the end of a pause at ")
    assert text.endswith(": a new kernel")


def test_the_waiting_line_names_a_smaller_cap(pool: Pool) -> None:
    """Otherwise nobody would understand why it waits beside a slot that is free."""
    pool.build("-n3").started()
    assert ", place 1 of 1: its own cap is 1, 1 of 3 slots held by " in pool.queued("-n1").read_error_line()


@pytest.mark.linux
def test_whoever_looks_sees_the_gate(pool: Pool) -> None:
    """The bounds are in the ticket; the machine is the same. What may open nobody knows the time of."""
    remember(pool, *[1000.0] * LEAST)
    first = pool.build("-n2")
    first.started()
    gated = pool.queued("-n2", "--max-load", "0.0001", "--max-pressure", "io=100,cpu=100")
    other = pool.queued("-n2")
    head, behind = pool.status().waiters
    (gate,) = head.reasons
    assert gate.kind == "gate"
    assert re.fullmatch(r"load of at most 0\.0001 \([\d.]+ now\)", gate.text)
    assert (head.eta_s, behind.eta_s, kinds(pool)[1]) == (None, None, ["ahead"])
    assert ", for load of at most 0.0001 (" in gated.read_error_line()
    assert ", place 2 of 2, the first for load of at most 0.0001 (" in other.read_error_line()
    pool.build("-n2", "-t0").started()
    assert kinds(pool)[0] == ["slots"]  # which are full now; the gate does not matter


@pytest.mark.parametrize(
    "fields",
    [
        {"min_free_memory": "9" * 5000},
        {"min_free_memory": "-1"},
        {"max_load": "nan"},
        {"max_load": "inf"},
        {"max_load": "x\x1b[2J"},
        {"max_pressure": "io"},
        {"max_pressure": "disk=3"},
        {"max_pressure": "io=1e999"},
        {"max_pressure": "=,=,=,=" * 999},
        {},
    ],
)
def test_bounds_that_are_none(fields: dict[str, str]) -> None:
    """Of a record that somebody has made up."""
    assert Gates.told(fields) is None


def test_bounds_are_read_as_they_were_written() -> None:
    """By another process, out of the record."""
    gates = Gates(2**40, 0.25, {"io": 40, "cpu": 12.5})
    text = records.record(records.about(["make"], cap=1, nonce="0", gates=gates))
    read = Gates.told(records.parse(text) or {})
    assert read is not None
    assert read.as_dict() == gates.as_dict()


def test_a_gate_that_can_never_open_is_said_at_once(pool: Pool) -> None:
    """Before the line about the wait; in status, with when it starts all the same."""
    remember(pool, *[1000.0] * LEAST)
    first = pool.build("-n3")
    first.started()
    waiter = pool.queued("-n3", "--min-free-memory", "900T", "-t", "1h")
    text = waiter.read_error_line()
    assert re.fullmatch(
        r"slot-run: no build ever gets 921600\.0 GiB of free memory \(this machine has [\d.]+ .iB in all\): "
        "this one starts when no other build of the pool runs, or at the end of its timeout\n",
        text,
    )
    assert re.search(
        r"place 1 of 1, about 15 min, for 921600\.0 GiB of free memory \(this", waiter.read_error_line()
    )
    pool.queued("-n3", "--min-free-memory", "900T")
    assert kinds(pool) == [["gate_never"], ["gate_never", "ahead"]]
    first.finish()
    assert waiter.started() == "0"


def test_the_library_logs_it_once(
    pool: Pool, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As a warning, and not for each of a thousand tasks."""
    monkeypatch.setattr(logs, "_said", {})
    pool.build("-n2").started()
    gated = SlotPool(slots=2, gates=Gates(min_free_memory=900 * 2**40))
    with caplog.at_level(logging.WARNING, "buildslots"):
        for _ in range(2):
            with pytest.raises(SlotTimeoutError):
                gated.acquire(0.01, "fail")
    (said,) = [record.getMessage() for record in caplog.records]
    assert said.startswith("pool 'default': no build ever gets 921600.0 GiB of free memory (")
    assert said.endswith("or gives up after 0 s")


def test_on_wait_is_told(pool: Pool) -> None:
    """With the estimate and the reasons."""
    remember(pool, *[1000.0] * LEAST)
    pool.build("-n1").started()
    told: list[Waiting] = []
    with pytest.raises(SlotTimeoutError):
        SlotPool(slots=1, on_wait=told.append).acquire(0.05, "fail")
    assert told[0].eta_s == pytest.approx(1000, abs=60)
    assert told[0].reasons == (Reason("slots", "a slot: 1 held of 1"),)
    assert told[0].fitted(79).startswith("waiting, place 1 of 1, about 15 min: 1 of 1 held by `sh`; gives up")


@pytest.mark.parametrize(("columns", "shown"), [(40, ""), (60, "STARTS IN"), (120, "STARTS IN  WAITS FOR")])
def test_columns_go_where_there_is_no_room(pool: Pool, terminal: Terminal, columns: int, shown: str) -> None:
    """First why it waits, which its remarks tell then if it is unusual; then how long."""
    pool.build("-n2").started()
    pool.queued("-n2", "--max-load", "0.0001")
    terminal.resize(columns, 30)
    terminal.type(f"clear; {script('buildslots')} status")
    terminal.wait_for("LINE ")
    (head,) = [row for row in terminal.lines() if row.startswith("LINE ")]
    assert re.findall(r"STARTS IN.*WAITS FOR|STARTS IN|WAITS FOR", head) == [shown] * bool(shown)
    terminal.wait_until(
        lambda: ("load of at most 0.0001" if columns == 120 else " (for ") in terminal.lines()[-2], "the gate"
    )
