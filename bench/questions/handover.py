"""How long is a slot idle between two builds, and what does it cost? One slot; all others are in line."""

from __future__ import annotations

import os
import statistics
import time
from typing import TYPE_CHECKING

from bench.kit.crowds import Failed, has_reader
from bench.kit.processes import children_cpu_s, private_kib, used_s
from bench.kit.question import (
    Beside,
    CommandCase,
    CommandQuestion,
    LibraryCase,
    LibraryQuestion,
    Measure,
    Values,
)
from bench.kit.spans import Span, gaps_s, over
from bench.kit.workers import Workers
from bench.questions.start import seconds

if TYPE_CHECKING:
    from bench.kit.libraries import Acquire

ALL = (1, 4, 16, 64, 256)
COMMAND_S, LIBRARY_S = 0.010, 0.002
"""How long each build holds the slot: of commands, of library calls."""
JOIN_S = 0.006
"""Between two library calls that join a line which is to be looked at when all are in it."""
CORES = os.cpu_count() or 1
START_COSTS_S: dict[str, float] = {}


def commands(case: CommandCase) -> Values:
    """The slot is held until all others are in line; then each runs once.

    Of few contenders several rounds, so that there are some gaps to look at.
    """
    count = case.setting.contenders
    gaps: list[float] = []
    overs, costs = [], []
    values: Values = {}
    for number in range(max(1, 4 // count)):
        watched_s = 0.0 if number else 0.5 if case.setting.quick else 1.5
        more, spans = one_round(case, watched_s)
        values |= {name: value for name, value in more.items() if name != "cost"}
        costs.append(more["cost"])
        gaps += gaps_s(spans, 1)
        overs.append(over(spans, 1))
    shown = [round(gap * 1e3, 3) for gap in gaps]
    return values | {"gap": shown, "cost": statistics.mean(costs), "over": max(overs)}


def one_round(case: CommandCase, watched_s: float) -> tuple[dict[str, float], list[Span]]:
    """Hold, let all get in line, watch them for `watched_s`, let go."""
    values: dict[str, float] = {}
    count = case.setting.contenders
    start_s = start_cost_s(case)
    with case.crowd(1) as crowd:
        cpu_before, servers = children_cpu_s(), crowd.pids()
        _, gate = crowd.hold(-1)
        holders = crowd.pids() - servers
        for who in range(count):
            crowd.start_recorder(who, COMMAND_S)
        # There is no asking all peers whether they wait; by now they have started.
        time.sleep(0.4 + 1.3 * count * start_s / CORES)
        if watched_s:
            waiting = crowd.pids() - holders
            before, began = used_s(waiting), time.monotonic()
            time.sleep(watched_s)
            values["waiting"] = (used_s(waiting) - before) / (time.monotonic() - began) * 100
            values["memory"] = private_kib(waiting) / count
        if not has_reader(gate):
            raise Failed("the command that was to hold the slot has ended early")
        used = used_s(crowd.pids())
        os.close(gate)
        spans = crowd.ended()
        cpu = children_cpu_s() - cpu_before + used_s(crowd.pids()) - used
    values["cost"] = cpu / count * 1e3
    if len(spans) != count + 1:
        raise Failed(f"{len(spans)} of {count + 1} commands ran")
    return values, spans


def start_cost_s(case: CommandCase) -> float:
    """How long one start of the peer takes, measured once."""
    name = case.command.name
    if name not in START_COSTS_S:
        START_COSTS_S[name] = min(seconds(case, 2))
    return START_COSTS_S[name]


def library_calls(case: LibraryCase) -> Values:
    """This process has the only slot, the contenders wait; each holds it once. Of few, several rounds."""
    count = case.setting.contenders
    gaps: list[float] = []
    overs, costs = [], []
    values: Values = {}
    with case.acquire(1) as call:
        for number in range(max(1, 16 // count)):
            watched_s = 0.0 if number else 0.5 if case.setting.quick else 1.0
            more, spans = one_library_round(call, count, watched_s)
            values |= {name: value for name, value in more.items() if name != "cost"}
            costs.append(more["cost"])
            gaps += gaps_s(spans, 1)
            overs.append(over(spans, 1))
    shown = [round(gap * 1e3, 4) for gap in gaps]
    return values | {"gap": shown, "cost": statistics.mean(costs), "over": max(overs)}


def one_library_round(call: Acquire, count: int, watched_s: float) -> tuple[dict[str, float], list[Span]]:
    """The same of library calls."""
    values: dict[str, float] = {}
    with Workers(call, count, LIBRARY_S) as workers:
        release = call()
        workers.begin(JOIN_S)
        time.sleep(0.2 + count * JOIN_S)
        if watched_s:
            before, began = workers.cpu_s(), time.monotonic()
            time.sleep(watched_s)
            values["waiting"] = (workers.cpu_s() - before) / (time.monotonic() - began) * 100
        used, ended = workers.cpu_s(), time.monotonic_ns()
        release()
        workers.wait()
        values["cost"] = (workers.cpu_s() - used) / count * 1e3
        return values, [Span(ended - 1, ended), *workers.spans()]


GAPS = (
    Beside("p90, ms", "gap", 0.9),
    Beside("p99, ms", "gap", 0.99),
    Beside("max, ms", "gap", 1.0),
    Beside("CPU each, ms", "cost"),
    Beside("most over the cap", "over", 1.0),
)
COMMANDS = CommandQuestion(
    name="handover",
    run=commands,
    contenders=ALL,
    quick_contenders=(4, 16),
    repetitions=3,
    quick_repetitions=2,
    speed=True,
    measures=(
        Measure(
            "gap",
            "ms",
            "Hand-over: from the end of a command to the start of the next; one slot, all others in line",
            GAPS,
            limit="flock",
        ),
        Measure(
            "waiting",
            "% of a core",
            "Waiting: CPU of all commands in line together",
            (Beside("private memory of each, KiB", "memory"),),
        ),
    ),
)
LIBRARIES = LibraryQuestion(
    name="handover",
    run=library_calls,
    contenders=ALL,
    quick_contenders=(16,),
    speed=True,
    measures=(
        Measure(
            "gap",
            "ms",
            "Hand-over: from the end of a hold to the start of the next; one slot, each contender once",
            GAPS,
            limit="flock(2)",
        ),
        Measure("waiting", "% of a core", "Waiting: CPU of all library calls in line together"),
    ),
)
