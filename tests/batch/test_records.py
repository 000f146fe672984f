"""What is kept of a run: events, logs, for how long; and the views of it."""

from __future__ import annotations

import json
import os
import time
from stat import S_IMODE
from typing import TYPE_CHECKING, Any

import pytest
from batches import Batches, ended, events

from buildslots import printed

if TYPE_CHECKING:
    from collections.abc import Callable
    from subprocess import CompletedProcess

    from buildslots import Report

    Run = Callable[..., Report]
    Command = Callable[..., CompletedProcess[str]]


def test_events_tell_all_that_becomes_of_tasks(batches: Batches, batch: Command) -> None:
    """With the fields that --json has; steps are written before they are taken."""
    file = batches.write(
        {"name": "a", "run": "echo out; echo err >&2", "stage": "dest"},
        {"name": "b", "run": "exit 7", "needs": ["a"]},
        {"name": "c", "run": ["true"], "needs": ["b"]},
    )
    assert batch("-j2", file).returncode == 1
    told = batches.events()
    (run,) = batches.runs()
    assert {(one["v"], one["t"] <= time.time()) for one in told} == {(1, True)}
    assert [one["seq"] for one in told] == list(range(len(told)))
    first, last = told[0], told[-1]
    assert (first["event"], first["state"], first["batch"], first["name"]) == (
        "batch",
        "running",
        run.name,
        "plan",
    )
    assert (first["jobs"], first["fail"], first["all_or_nothing"], first["cwd"]) == (
        2,
        "soon",
        False,
        str(batches.dir),
    )
    assert first["pid"] == os.getpid()
    assert (last["event"], last["state"]) == ("batch", "failed")
    assert last["counts"] == {"ok": 1, "failed": 1, "skipped": 1}
    assert ended(told) == {"a": "ok", "b": "failed", "c": "skipped"}
    good, bad, skipped = [one for one in told if one["event"] == "task"]
    assert (good["n"], good["status"], good["attempts"], good["reason"]) == (1, 0, 1, None)
    assert (bad["n"], bad["status"], bad["reason"], bad["log"]) == (2, 7, "exit status 7", None)
    assert (skipped["attempts"], skipped["slot"], skipped["reason"]) == (0, None, "needs b, which failed")
    assert {type(bad[key]) for key in ("waited_s", "ran_s")} == {float}
    steps = [(one["step"], one.get("task")) for one in told if one["event"] == "step"]
    of_a = ["stage", "starting", "command", "move", "removed"]
    assert steps == [(step, "a") for step in of_a] + [("starting", "b"), ("command", "b")]


def test_a_log_has_all_that_a_task_printed(batches: Batches, batch: Command) -> None:
    """Both streams, all attempts, what verifies it too; it is private, and where events say."""
    old = os.umask(0)
    try:
        keys = {"retries": 1, "backoff": 0, "verify": "echo verified", "pause_on": {"9": "1s"}}
        script = "echo out; echo err >&2; test -e once || { touch once; exit 1; }"
        assert batch(batches.write({"name": "a/../b c", "run": script, **keys})).returncode == 0
    finally:
        os.umask(old)
    (run,) = batches.runs()
    (log,) = run.glob("logs/*")
    assert log.name == "0001-a-..-b-c.log"
    text = log.read_text()
    assert text.splitlines() == ["out", "err", "[buildslots: attempt 2]", "out", "err", "verified"]
    assert [one["log"] for one in batches.events() if one["event"] == "task"] == [str(log)]
    files = [path for path in batches.records.rglob("*") if path.is_file()]
    directories = [path for path in [batches.records, *batches.records.rglob("*")] if path.is_dir()]
    assert {S_IMODE(path.stat().st_mode) for path in files} == {0o600}
    assert {S_IMODE(path.stat().st_mode) for path in directories} == {0o700}
    assert sorted(path.name for path in run.iterdir()) == ["events.ndjson", "logs"]


def test_an_empty_log_is_not_kept(run: Run, batches: Batches) -> None:
    """Of a task that printed nothing; the outcome names none."""
    report = run({"run": ["true"], "name": "a"}, {"run": "echo x", "name": "b"}, jobs=1)
    assert [outcome.log is None for outcome in report.outcomes] == [True, False]
    assert len(list(batches.runs()[0].glob("logs/*"))) == 1


def test_a_log_has_a_bound(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of a longer one the begin and the end are kept, and it says how much is missing."""
    for name, size in (("LIMIT", 10_000), ("HEAD", 1000), ("TAIL", 2000)):
        monkeypatch.setattr(printed, name, size)
    (outcome,) = run({"run": "echo first; seq 10000; echo last"}).outcomes
    assert outcome.log is not None
    with open(outcome.log) as file:
        text = file.read()
    assert len(text) < 4000
    assert text.startswith("first\n1\n2\n")
    assert text.endswith("\n10000\nlast\n")
    assert "bytes are left out here]" in text


def test_a_log_can_be_elsewhere(batches: Batches, batch: Command) -> None:
    """In a directory of the run, below --log-dir."""
    file = batches.write({"name": "a", "run": "echo x"})
    assert batch("--log-dir", "logs/here", file).returncode == 0
    (run,) = batches.runs()
    assert (batches.dir / "logs/here" / run.name / "0001-a.log").read_text() == "x\n"
    assert not (run / "logs").exists()


def test_what_a_failure_printed_last_is_in_its_outcome(run: Run) -> None:
    """Ten lines at most, without blank ones; of a progress line its last state."""
    (outcome,) = run({"run": r"seq 20; printf '1%%\r50%%\r100%%\n\n'; exit 1"}).outcomes
    assert outcome.last_lines == (*map(str, range(12, 21)), "100%")


def make_run(batches: Batches, number: int, age_s: float) -> None:
    """Records of a run that ended so long ago."""
    path = batches.records / f"other-{number}"
    path.mkdir(parents=True)
    first = {
        "v": 1,
        "seq": 0,
        "t": time.time() - age_s,
        "event": "batch",
        "state": "running",
        "name": "other",
    }
    (path / "events.ndjson").write_text(json.dumps(first) + "\n")


def test_fifty_runs_of_two_weeks_are_kept(batches: Batches, batch: Command) -> None:
    """Older ones are removed, with their logs; but none whose stages nobody has removed."""
    for number in range(60):
        make_run(batches, number, 100.0 + number)
    for number in (100, 101):
        make_run(batches, number, 15 * 86400)
    (batches.records / "other-101" / "staged").touch()
    assert batch(batches.write({"run": ["true"]})).returncode == 0
    left = {run.name for run in batches.runs()}
    assert "other-100" not in left
    assert "other-101" in left
    assert {f"other-{n}" for n in range(49)} < left
    assert not {f"other-{n}" for n in range(50, 60)} & left


def test_a_state_directory_that_cannot_be_written_stops_nothing(
    batches: Batches, batch: Command, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is said once, there are no logs, and all runs; in Python as a warning."""
    batches.state.parent.mkdir(parents=True, exist_ok=True)
    (batches.state.parent / "broken").write_text("")
    monkeypatch.setenv("XDG_STATE_HOME", str(batches.state.parent / "broken"))
    tasks: list[dict[str, Any]] = [
        {"name": "a", "run": "echo x; echo it >$STAGE/it", "stage": "dest", "serial": "k"},
        {"name": "b", "run": "echo last; exit 1", "needs": ["a"]},
    ]
    result = batch(batches.write(*tasks))
    assert result.returncode == 1
    (line,) = result.stderr.splitlines()
    assert line.startswith("buildslots: nothing is kept of this run, and there are no logs: ")
    assert "    | last" in result.stdout.splitlines()
    assert "log:" not in result.stdout
    assert (batches.dir / "dest" / "it").exists()
    with pytest.warns(RuntimeWarning, match="nothing is kept of this run"):
        report = run(*tasks)
    assert (report.path, report.counts) == (None, {"ok": 1, "failed": 1})


def test_runs_are_listed_the_newest_first(batches: Batches, batch: Command) -> None:
    """With their states and counts, for people and as JSON; at first there are none."""
    assert batches.views().stdout == "no batches yet\n"
    batch(batches.write({"name": "x", "run": ["true"]}, file="one.toml"))
    batch(batches.write({"name": "x", "run": ["false"]}, file="two.toml"))
    one, two = [run.name for run in batches.runs()]
    lines = batches.views().stdout.splitlines()
    assert [line.split()[0] for line in lines] == ["RUN", two, one]
    assert lines[1].split()[-3:] == ["failed", "1", "failed"]
    told = [json.loads(line) for line in batches.views("--json").stdout.splitlines()]
    assert [(run["id"], run["state"], run["counts"]) for run in told] == [
        (two, "failed", {"failed": 1}),
        (one, "ok", {"ok": 1}),
    ]


def test_a_run_is_shown(batches: Batches, batch: Command) -> None:
    """By its id or its batch's name: each task, why it failed, and where its log is."""
    batch(
        batches.write({"name": "a", "run": "echo x; exit 3"}, {"name": "b", "run": ["true"], "needs": ["a"]})
    )
    (run,) = [run.name for run in batches.runs()]
    for what in (run, "plan"):
        result = batches.views("show", what)
        assert (result.returncode, result.stderr) == (0, "")
        lines = result.stdout.splitlines()
        assert lines[0] == "batch plan: failed; 1 failed, 1 skipped"
        assert lines[-2].split()[:2] == ["a", "failed"]
        assert "exit status 3" in lines[-2]
        assert lines[-2].endswith(f"/{run}/logs/0001-a.log")
        assert "needs a, which failed" in lines[-1]
    told = events(batches.views("show", run, "--json").stdout)
    assert ended(told) == {"a": "failed", "b": "skipped"}
    result = batches.views("show", f"{run}x")
    assert (result.returncode, result.stdout) == (1, "")
    assert run in result.stderr
    assert batches.views("show").returncode == 2


def test_hostile_records_are_text(batches: Batches, batch: Command) -> None:
    """Whatever a file there says, views show it as text, and the next batch runs."""
    batch(batches.write({"name": "a", "run": ["true"]}))
    evil = batches.records / "evil\x1b[2J"
    evil.mkdir()
    first = {"event": "batch", "t": 1.0, "name": "\x1b]0;x\x07evil", "state": "running", "origin": []}
    task = {"event": "task", "task": "\x1b[31mred", "n": [1], "state": "ok\x1b[0m", "reason": "\x9b2J"}
    lines = [first, task, {"event": "step", "step": "stage", "n": 1, "dest": "/", "stage": "../../x"}]
    (evil / "events.ndjson").write_text("\n".join(map(json.dumps, lines)) + "\n[1]\n{broken")
    (batches.records / "empty").mkdir()
    (batches.records / "file").write_text("x")
    for args in ((), ("show", "evil\x1b[2J"), ("show", "\x1b]0;x\x07evil")):
        result = batches.views(*args)
        assert result.stderr == ""
        assert not {"\x1b", "\x9b", "\x07"} & set(result.stdout)
    assert batch(batches.write({"name": "a", "run": ["true"]})).returncode == 0
