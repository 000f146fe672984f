"""A short run of bench/abuse: builds that are killed, stopped and robbed of their pool, and a referee."""

from __future__ import annotations

import ast
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from benches import TOP, said

if TYPE_CHECKING:
    from collections import Counter
    from collections.abc import Callable

pytestmark = pytest.mark.linux

LENGTH_S = 22
DEADLINE_S = 120.0


def test_nothing_goes_wrong_whatever_is_done_to_builds() -> None:
    """No more builds than slots, no lost slot, none overtaken, none wedged; each kind of episode once."""
    out = said(
        "bench.abuse",
        f"--minutes={LENGTH_S / 60}",
        "--seed=1",
        "--length=0.28",
        "--processes=12",
        "--slack=5",
        deadline_s=DEADLINE_S,
    )
    figures = dict(line.split(": ", 1) for line in out.splitlines() if ": " in line)
    assert int(figures["processes killed with SIGKILL"]) > 50, out
    assert int(figures["waits that ended in a slot within the cap"]) > 50, out
    assert int(figures["the same in crowds; crowds"].split(",")[0]) > 0, out
    assert int(figures["asked again within a build, and had its slot"]) > 0, out
    assert " 0" not in figures["episodes"], out


@pytest.mark.parametrize(
    ("removed", "violations"),
    [(None, 1), ((10, 20), 1), ((35, 45), 0), ((45, 60), 0), ((90, 95), 0), ((110, 120), 1)],
)
def test_who_is_overtaken_across_a_removal_of_the_pool(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, removed: tuple[int, int] | None, violations: int
) -> None:
    """Process 1 sets out at 30, joins at 50 and is overtaken by 2, which joins at 80 and starts at 100.

    It may have got the mutex, and its number, before the pool was removed, and have joined after that.
    """
    monkeypatch.setattr(sys, "path", [*sys.path, str(TOP)])  # last: buildslots is the one that is installed
    from bench.abuse import marks, referee  # noqa: PLC0415

    events = [
        marks.Event(1, marks.BORN, 1, 0, 0, 0, 0),
        marks.Event(2, marks.BORN, 2, 0, 0, 0, 0),
        marks.Event(30, marks.CALL, 1, 1, 1, -1, marks.EVER),
        marks.Event(50, marks.JOIN, 1, 1, 0, 2000, 0),
        marks.Event(70, marks.CALL, 2, 1, 1, -1, marks.EVER),
        marks.Event(80, marks.JOIN, 2, 1, 0, 1000, 0),
        marks.Event(99, marks.LEAVE, 2, 0, 0, 1000, 0),
        marks.Event(100, marks.START, 2, 1, 1, 98, marks.NORMAL),
        marks.Event(150, marks.LEAVE, 1, 0, 0, 2000, 0),
    ]
    if removed:
        events += [marks.Event(removed[0], marks.REMOVE, 9, 0, 0, 0, 0)]
        events += [marks.Event(removed[1], marks.REMOVED, 9, 0, 0, 0, 0)]
    judge = referee.Referee(marks.Table(str(tmp_path / "table"), 2), str(tmp_path), 0.0)
    judge.hear(events)
    judge._ledger.tickets.clear()  # their numbers are made up
    judge._order._least_ns = judge._order._most_ns = -(10**9)
    judge.judge(1000)
    assert judge.counts["order violations"] == violations


LATE = 75
"""When the second of the crowd says that it waits, in place of 22: after the other process has called."""


@pytest.mark.parametrize(
    ("second", "more", "violations"),
    [
        ((22, -1), [], 2),
        ((LATE, -1), [], 1),
        ((22, 50), [], 1),
        ((22, -1), [("LEAVE", 60, 2)], 1),
        ((22, -1), [("START", 60, 2)], 1),
        ((22, -1), [("CALL", 15, 3), ("WAITS", LATE, 3)], 1),
        ((22, -1), [("CALL", 15, 3), ("WAITS", 50, 3)], 3),
        ((22, -1), [("CALL", 23, 3), ("WAITS", LATE, 3)], 2),
        ((22, -1), [("KILL", 60, 0)], 0),
    ],
)
def test_who_is_overtaken_in_a_crowd(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    second: tuple[int, int],
    more: list[tuple[str, int, int]],
    violations: int,
) -> None:
    """Process 1 is a crowd of two, who call at 10 and 20. Process 2 calls at 70 and starts at 100.

    `second` is when the second one says that it waits, and its timeout. As long as a third one that called
    before has not said so, the second one has no place either.
    """
    monkeypatch.setattr(sys, "path", [*sys.path, str(TOP)])
    from bench.abuse import marks, referee  # noqa: PLC0415

    events = [
        marks.Event(1, marks.BORN, 1, 0, 0, 0, 0),
        marks.Event(2, marks.BORN, 2, 0, 0, 0, 0),
        marks.Event(10, marks.CALL, 1, 1, 1, -1, marks.EVER, 1),
        marks.Event(12, marks.WAITS, 1, 0, 0, 0, 0, 1),
        marks.Event(20, marks.CALL, 1, 1, 1, second[1], marks.EVER, 2),
        marks.Event(second[0], marks.WAITS, 1, 0, 0, 0, 0, 2),
        marks.Event(70, marks.CALL, 2, 1, 1, -1, marks.EVER),
        marks.Event(80, marks.JOIN, 2, 1, 0, 2000, 0),
        marks.Event(99, marks.LEAVE, 2, 0, 0, 2000, 0),
        marks.Event(100, marks.START, 2, 1, 1, 98, marks.NORMAL),
        marks.Event(110, marks.NOSLOT, 1, 0, 0, 0, 0, 2),
        marks.Event(120, marks.START, 1, 1, 1, 115, marks.OVERFLOW, 1),
    ]
    for kind, ns, task in more:
        event = marks.Event(ns, marks.KINDS.index(kind), 1, 1, 0, -1, marks.EVER, task)
        events.append(event._replace(c=58, d=marks.NORMAL) if kind == "START" else event)
    judge = referee.Referee(marks.Table(str(tmp_path / "table"), 2), str(tmp_path), 0.0)
    judge.hear(events)
    judge._ledger.tickets.clear()  # their numbers are made up
    judge._order._least_ns = judge._order._most_ns = -(10**9)
    judge.judge(1000)
    assert judge.counts["order violations"] == violations


US = 1000
"""Nanoseconds in the microseconds that tickets are numbered in."""
S = 10**9
HEAD_START_NS = 300 * S


@pytest.fixture
def judge(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[list[tuple[int, ...]]], Counter[str]]:
    """What a referee counts after it has heard these marks; its clock is 0 when that of the marks is."""
    monkeypatch.setattr(sys, "path", [*sys.path, str(TOP)])
    from bench.abuse import marks, referee  # noqa: PLC0415

    def judged(events: list[tuple[int, ...]]) -> Counter[str]:
        one = referee.Referee(marks.Table(str(tmp_path / "table"), 2), str(tmp_path), 0.0)
        one._order._least_ns = one._order._most_ns = 0
        one.hear(marks.Event(*event) for event in events)
        one.judge(10**15)
        return one.counts

    return judged


def arrives(pid: int, ns: int, priority: int, number_ns: int) -> list[tuple[int, ...]]:
    """The marks of one that calls, and has a ticket with that number 2 ms later."""
    from bench.abuse import marks  # noqa: PLC0415

    return [
        (ns - 10, marks.BORN, pid, 0, 0, 0, 0),
        (ns, marks.CALL, pid, 3, 1, -1, marks.EVER, 0, priority),
        (ns + S // 1000, marks.JOIN, pid, 3, 0, number_ns // US, 0),
        (ns + S // 500, marks.READY, pid, 0, 0, 0, 0),
    ]


def starts(pid: int, ns: int, number_ns: int) -> list[tuple[int, ...]]:
    """The marks of one that has that ticket, and starts 1 ms after it has decided."""
    from bench.abuse import marks  # noqa: PLC0415

    return [
        (ns - 10, marks.LEAVE, pid, 0, 0, number_ns // US, 0),
        (ns, marks.START, pid, 3, 1, ns - S // 1000, marks.NORMAL),
    ]


@pytest.mark.parametrize(
    ("starts_at", "high_at", "head_start", "violations"),
    [
        (1.9, 1.5, HEAD_START_NS, 1),  # the head, which nobody knocked at, takes much later
        (1.55, 1.5, HEAD_START_NS, 0),  # it was taking
        (1.4, 1.5, HEAD_START_NS, 0),
        (1.9, 1.5, 0, 1),  # priorities are ignored: the ticket has the number of its arrival
    ],
)
def test_who_joins_before_the_head(
    judge: Callable[[list[tuple[int, ...]]], Counter[str]],
    starts_at: float,
    high_at: float,
    head_start: int,
    violations: int,
) -> None:
    """A normal build waits since 1 s, a high one comes with a head start, and the normal one starts."""
    high, start = int(high_at * S), int(starts_at * S)
    events = arrives(1, S, 0, S + S // 1000) + arrives(2, high, 1, high + S // 1000 - head_start)
    counts = judge(events + starts(1, start, S + S // 1000))
    assert counts["order violations"] == violations


@pytest.mark.parametrize(("number", "violations"), [(HEAD_START_NS, 0), (0, 1), (2 * HEAD_START_NS, 1)])
def test_a_low_build_has_the_number_of_a_later_arrival(
    judge: Callable[[list[tuple[int, ...]]], Counter[str]], number: int, violations: int
) -> None:
    """Not that of its own, and not a larger one."""
    assert judge(arrives(1, S, -1, S + S // 1000 + number))["order violations"] == violations


def test_a_ticket_behind_one_of_another_priority_is_reported(
    judge: Callable[[list[tuple[int, ...]]], Counter[str]],
) -> None:
    """One of its own priority may keep it back."""
    low = S + S // 1000 + HEAD_START_NS
    assert judge(arrives(1, S, -1, low) + arrives(2, 2 * S, 0, low + US))["order violations"] == 1
    assert judge(arrives(1, S, 0, low) + arrives(2, 2 * S, 0, low + US))["order violations"] == 1  # the first


def sets(rule: str, value: int, begin: float, end: float | None) -> list[tuple[int, ...]]:
    """The marks of process 9 that sets a rule; it is killed after a tenth of a second if there is no end."""
    from bench.abuse import marks  # noqa: PLC0415

    pid = int(begin * 1000)
    events = [
        (int(begin * S) - 1, marks.BORN, pid, 0, 0, 0, 0),
        (int(begin * S), marks.SETS, pid, getattr(marks, rule), 0, value, 0),
    ]
    if end is None:
        return [*events, (int(begin * S) + S // 10, marks.REAPED, 0, pid, -9, 0, 0)]
    return [*events, (int(end * S), marks.SET, pid, 1, 0, 0, 0)]


def holds(pid: int, ns: int, how: int = 0) -> list[tuple[int, ...]]:
    """The marks of one that starts at once; or, beyond the cap, after a timeout of a second."""
    from bench.abuse import marks  # noqa: PLC0415

    return [
        (ns - 2 * S // 1000 - how * S, marks.BORN, pid, 0, 0, 0, 0),
        (ns - S // 1000 - how * S, marks.CALL, pid, 3, 1, S if how else -1, marks.RUN if how else marks.EVER),
        (ns, marks.START, pid, 3, 1, ns - S // 2000, how),
    ]


@pytest.mark.parametrize(
    ("rules", "at", "counted"),
    [
        ([("SLOTS", 1, 5.0, 5.1)], 5.2, {}),  # it may have read the rules before that
        ([("SLOTS", 1, 5.0, 5.1)], 6.0, {"over-admissions": 1}),
        ([("SLOTS", 1, 5.0, None)], 6.0, {}),  # who set it was killed, before it or after
        ([("SLOTS", 1, 4.0, 4.1), ("SLOTS", 0, 5.0, 5.1)], 6.0, {}),
        ([("SLOTS", 1, 4.0, 4.1), ("SLOTS", 0, 5.0, None)], 6.0, {}),
        ([("SLOTS", 1, 4.0, 4.1), ("TORN", 0, 5.0, 5.1)], 6.0, {}),
        ([("PAUSE", 5000, 5.0, 5.1)], 5.2, {}),
        ([("PAUSE", 5000, 5.0, 5.1)], 6.0, {"starts in a pause": 1}),
        ([("PAUSE", 5000, 5.0, None)], 6.0, {}),
        ([("PAUSE", 500, 5.0, 5.1)], 6.0, {}),  # it is over
        ([("PAUSE", 5000, 5.0, 5.1), ("PAUSE", 0, 5.5, 5.6)], 6.0, {}),
        ([("PAUSE", 5000, 5.0, 5.1), ("SLOTS", 3, 5.5, 5.6)], 6.0, {"starts in a pause": 1}),
    ],
)
def test_rules_that_are_broken(
    judge: Callable[[list[tuple[int, ...]]], Counter[str]],
    rules: list[tuple[str, int, float, float | None]],
    at: float,
    counted: dict[str, int],
) -> None:
    """One of three runs when another one starts, after somebody has set rules."""
    events = holds(1, 2 * S) + [event for rule in rules for event in sets(*rule)] + holds(2, int(at * S))
    counts = judge(events)
    kinds = ("over-admissions", "starts in a pause", "order violations")
    assert {kind: counts[kind] for kind in kinds if counts[kind]} == counted


@pytest.mark.parametrize(("at", "violations"), [(5.9, 1), (6.1, 0)])
def test_the_time_of_a_pause_does_not_count(
    judge: Callable[[list[tuple[int, ...]]], Counter[str]], at: float, violations: int
) -> None:
    """It calls at 4 s with a timeout of a second, and there is a pause of a second from 4.5 s, and a bit."""
    from bench.abuse import marks  # noqa: PLC0415

    events = [
        (4 * S - 1, marks.BORN, 1, 0, 0, 0, 0),
        (4 * S, marks.CALL, 1, 3, 1, S, marks.RUN),
        *sets("PAUSE", 1210, 4.5, 4.51),
        (int(at * S), marks.START, 1, 3, 1, int(at * S) - 1000, marks.OVERFLOW),
    ]
    assert judge(events)["over-admissions"] == violations


def test_the_referee_is_independent() -> None:
    """It, and what it imports of ours, imports nothing of buildslots."""
    for name in ("referee", "ledger", "builds", "look", "marks", "order", "obeyed", "ruled"):
        tree = ast.parse((TOP / "bench" / "abuse" / f"{name}.py").read_text())
        modules = [
            name
            for node in ast.walk(tree)
            for name in (
                [alias.name for alias in node.names]
                if isinstance(node, ast.Import)
                else [str(node.module)]
                if isinstance(node, ast.ImportFrom)
                else []
            )
        ]
        assert not [module for module in modules if module.startswith("buildslots")]
