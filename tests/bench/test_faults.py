"""A sample of bench/faults: each kind of system call fails once, and the judge of that."""

from __future__ import annotations

import sys
from types import SimpleNamespace

import pytest
from benches import TOP, said

pytestmark = pytest.mark.linux

DEADLINE_S = 400.0


def test_no_call_that_fails_breaks_a_promise() -> None:
    """Some of all kinds of calls, errors and signals; each Python draws others."""
    out = said("bench.faults", "--quick", f"--seed={sys.version_info[1]}", deadline_s=DEADLINE_S)
    figures = dict(line.split(": ", 1) for line in out.splitlines() if ": " in line)
    assert int(figures["faults"]) > 100, out


@pytest.fixture
def faults(monkeypatch: pytest.MonkeyPatch) -> SimpleNamespace:
    """The modules of the sweep."""
    monkeypatch.setattr(sys, "path", [*sys.path, str(TOP)])  # last: buildslots is the one that is installed
    from bench.faults import calls, judge, record, run, scenarios  # noqa: PLC0415

    return SimpleNamespace(calls=calls, judge=judge, record=record, run=run, scenarios=scenarios)


RECORD = """\
execve("/bin/slot-run", ["/bin/slot-run"], 0x7ffd /* 9 vars */) = 0
openat(AT_FDCWD, "/etc/ld.so.cache", O_RDONLY|O_CLOEXEC) = 3
close(3)                                = 0
openat(AT_FDCWD, "/own/pool/queue", O_RDONLY|O_CLOEXEC|O_DIRECTORY) = 4
openat(4, "00001795913106290718-1", O_RDWR|O_CREAT|O_EXCL|O_CLOEXEC, 0600) = 5
close(4)                                = 0
access("faults-mark-pause", F_OK)       = -1 ENOENT (No such file or directory)
close(6)                                = -1 EBADF (Bad file descriptor)
access("faults-mark-resume", F_OK)      = -1 ENOENT (No such file or directory)
openat(AT_FDCWD, "/lib/wait.py", O_RDONLY|O_CLOEXEC) = 4
flock(5, LOCK_UN)                       = 0
execve("/bin/true", ["/bin/true"], 0x7ffd /* 9 vars */) = 0
close(5)                                = 0
"""


def test_the_calls_of_a_record(faults: SimpleNamespace) -> None:
    """From the first look at the pool on until it becomes the command, each with its number of its kind."""
    calls = faults.record.read(RECORD, "/own")
    assert [(call.name, call.n) for call in calls] == [
        ("openat", 2),
        ("openat", 3),
        ("close", 2),
        ("openat", 4),
        ("flock", 1),
    ]
    assert [call.foreign for call in calls] == [False, False, False, True, False]
    assert [call.leaving for call in calls] == [False, False, False, False, True]
    assert calls[1].about == "/pool/queue/#-#"
    assert "EROFS" in calls[1].errors()
    assert "EROFS" not in calls[0].errors()
    assert faults.record.again('openat(7, "00001795913106290719-1", O_RDWR <unfinished ...>') == calls[1].text


def outcomes(faults: SimpleNamespace, scenario: str, error: str = "EIO", **call: object) -> list[object]:
    """A fault in `scenario`, and what usually comes of that."""
    (found,) = (found for found in faults.scenarios.SCENARIOS if found.name == scenario)
    values = {"name": "close", "n": 9, "text": "close", "about": "", "shown": "close(3) = 0"}
    values |= dict.fromkeys(("foreign", "spawns", "asks_loop", "leaving", "after"), False)
    fault = faults.run.Fault(found, faults.calls.Call(**(values | call)), error)
    usual = faults.run.Outcome(status=0, seconds=0.1, log=["began 0 held", "ended 0 held"])
    if found.is_library:
        usual.result = {"value": "done", "raised": None, "warnings": [], "locked": []}
    return [fault, usual]


DEGRADED = "slot-run: running without a slot: [Errno 5] Input/output error"


@pytest.mark.parametrize(
    ("changes", "complaint"),
    [
        ({}, None),
        ({"log": ["began none", "ended none"], "lines": [DEGRADED]}, None),
        ({"log": ["began none", "ended none"]}, "did not say so"),
        ({"log": ["began 0 held", "ended 0 free"]}, "not held while the command ran"),
        ({"log": ["began 0 held", "ended 0 held"] * 2}, "ran 2 times"),
        ({"log": []}, "ran 0 times"),
        ({"status": 1}, "status 1"),
        ({"status": None}, "did not end"),
        ({"seconds": 9.0}, "took 9.0 s"),
        ({"lines": ["Traceback (most recent call last):", "OSError"], "status": 1}, "Traceback"),
        ({"lines": ["Exception ignored in: <function Hold.__del__ at 0x7f>"]}, "Exception ignored"),
        ({"lines": [DEGRADED, DEGRADED], "log": ["began none"]}, "said 2 lines"),
        ({"lines": ["something"]}, "wrote: something"),
        ({"live": ["1-1"]}, "stayed in line"),
        ({"free": False}, "did not become free"),
        ({"running": True}, "a process was left"),
        ({"others": "the first in line got slot 1"}, "got slot 1"),
        ({"others": "slot 0 was taken while somebody held it"}, "was taken"),
    ],
)
def test_what_a_slot_run_may_not_do(
    faults: SimpleNamespace, changes: dict[str, object], complaint: str | None
) -> None:
    """Each promise that is broken is noticed, and nothing else is."""
    fault, usual = outcomes(faults, "free")
    outcome = faults.run.Outcome(**({"status": 0, "seconds": 0.1, "log": usual.log} | changes))
    broken = faults.judge.broken(fault, usual, outcome)
    if complaint is None:
        assert broken == []
    else:
        assert any(complaint in phrase for phrase in broken), broken


@pytest.mark.parametrize(
    ("changes", "result", "complaint"),
    [
        ({}, {}, None),
        ({"log": ["began none"]}, {"warnings": ["UnthrottledWarning: so"]}, None),
        ({"log": ["began none"]}, {}, "did not warn"),
        ({}, {"warnings": ["UnthrottledWarning: so"]}, "warned of a slot that it had"),
        ({}, {"warnings": ["ResourceWarning: so"]}, "warned: "),
        ({}, {"raised": "OSError", "value": None}, "raised OSError"),
        ({}, {"value": "other"}, "returned other"),
        ({"log": []}, {}, "ran 0 times"),
        ({"status": 1}, None, "in the middle"),
        ({"lines": ["something"]}, {}, "wrote: something"),
    ],
)
def test_what_the_library_may_not_do(
    faults: SimpleNamespace,
    changes: dict[str, object],
    result: dict[str, object] | None,
    complaint: str | None,
) -> None:
    """Likewise; a lock that could not be given back because close(2) failed is kept until the end."""
    fault, usual = outcomes(faults, "py-acquire")
    outcome = faults.run.Outcome(**({"status": 0, "log": ["began 0 held"]} | changes))
    outcome.result = None if result is None else usual.result | {"locked": ["slot-0"]} | result
    broken = faults.judge.broken(fault, usual, outcome)
    if complaint is None:
        assert broken == []
    else:
        assert any(complaint in phrase for phrase in broken), broken
    if outcome.result is not None:
        other, _ = outcomes(faults, "py-acquire", name="write")
        kept = [phrase for phrase in faults.judge.broken(other, usual, outcome) if "still holds" in phrase]
        assert kept == ["still holds slot-0 after the block"]


def test_who_gives_up_may_run_only_if_the_pool_failed_before(faults: SimpleNamespace) -> None:
    """Exit status 75 does not become a run because something fails on the way out."""
    ran = faults.run.Outcome(status=0, log=["began none"], lines=[DEGRADED])
    for leaving in (False, True):
        fault, _ = outcomes(faults, "timeout-fail", leaving=leaving)
        usual = faults.run.Outcome(status=75, lines=["slot-run: no slot"])
        assert bool(faults.judge.broken(fault, usual, ran)) == leaving
        assert faults.judge.broken(fault, usual, usual) == []


def test_a_signal_may_end_it_and_nothing_else(faults: SimpleNamespace) -> None:
    """Dead of the signal with or without its command, or as usual; and a slot that is not its own is none."""
    fault, usual = outcomes(faults, "free", "SIGTERM")
    for status, log, good in ((-15, [], True), (-15, usual.log, True), (0, usual.log, True), (0, [], False)):
        outcome = faults.run.Outcome(status=status, log=log)
        assert (faults.judge.broken(fault, usual, outcome) == []) == good
    fault, usual = outcomes(faults, "nested")
    outcome = faults.run.Outcome(status=0, log=["began 1 held"])
    assert faults.judge.broken(fault, usual, outcome) == ["nested in slot 0, and ran in another one"]
