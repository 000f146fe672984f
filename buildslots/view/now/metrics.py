"""`buildslots status --format prometheus`: the pools as metrics, for the textfile collector of node_exporter.

The format is the text format of https://prometheus.io/docs/instrumenting/exposition_formats/, and the names
follow https://prometheus.io/docs/practices/naming/. Gauges tell of this moment. Counters are the totals of
the journal (`view.past.totals`), by pool and priority, and by nothing that can have any number of values.
"""

from __future__ import annotations

import os
from typing import NamedTuple

from buildslots.settings.places import state_dir
from buildslots.settings.values import DEFAULT_PRIORITY, PRIORITIES
from buildslots.view import warn
from buildslots.view.past.totals import BUCKETS_S, NAMES, WAITS, totals
from buildslots.words import printable

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from buildslots.status import PoolStatus
    from buildslots.view.past.totals import Counts, Key

    Sample = tuple[str, dict[str, str], float]
    """What is added to the metric's name, the labels, and the value."""


class Metric(NamedTuple):
    """A metric, with its samples."""

    name: str
    kind: str
    help: str
    samples: list[Sample]


def metrics_text(statuses: list[PoolStatus], told: set[str]) -> str:
    """The metrics of `statuses`; of those pools that are `told` of in the journal with counters."""
    metrics = _gauges(statuses) + _of_tokens(statuses) + _of_servers(statuses)
    counts = _counts() if told else None
    if counts is not None:
        metrics += _counters([status for status in statuses if status.pool in told], counts)
    return "".join(line for metric in metrics for line in _lines(metric))


def _counts() -> dict[Key, Counts] | None:
    """What the journal has told in all; None if there is none, or it cannot be read, which is said."""
    try:
        found = totals(state_dir(os.environ))
    except OSError as error:
        warn(f"no counters, for the journal cannot be read: {error}")
        return None
    if found is None:
        return None
    counts, problem = found
    if problem:
        warn(f"the counters are not kept, and fall when the journal drops its oldest lines: {problem}")
    return counts


def _gauges(statuses: list[PoolStatus]) -> list[Metric]:
    def gauge(name: str, text: str, values: Iterable[float]) -> Metric:
        samples = [("", _pool(s), value) for s, value in zip(statuses, values, strict=True)]
        return Metric(name, "gauge", text, samples)

    def longest_s(status: PoolStatus) -> float:
        return max((waiter.waited_s or 0.0 for waiter in status.waiters), default=0.0)

    return [
        gauge("cap", "How many slots may be held.", (s.cap for s in statuses)),
        gauge("held_slots", "Slots that are held.", (s.held for s in statuses)),
        gauge("running_builds", "Builds that have slots.", (len(s.holders) for s in statuses)),
        gauge(
            "overflow_builds",
            "Builds that run beyond the cap.",
            (sum(holder.overflow for holder in s.holders) for s in statuses),
        ),
        gauge("waiting_builds", "Builds in line.", (len(s.waiters) for s in statuses)),
        gauge(
            "longest_wait_seconds",
            "How long the one has waited that has waited longest.",
            map(longest_s, statuses),
        ),
        gauge("paused", "1 if nobody may start.", (s.paused_until is not None for s in statuses)),
        gauge(
            "rules_problem",
            "1 if the rules of the pool cannot be read, and count as absent.",
            (s.rules_problem is not None for s in statuses),
        ),
    ]


def _of_tokens(statuses: list[PoolStatus]) -> list[Metric]:
    """The CPU tokens, which all pools of a machine have together; nothing if nobody uses any."""
    its = next((status.tokens for status in statuses if status.tokens is not None), None)
    if its is None:
        return []
    return [
        Metric(
            "tokens",
            "gauge",
            "CPU tokens that all builds share; 0 if you use none.",
            [("", {}, its.count or 0)],
        ),
        Metric("tokens_held", "gauge", "CPU tokens that builds have.", [("", {}, its.held)]),
        Metric("tokens_builds", "gauge", "Builds that share CPU tokens.", [("", {}, its.builds)]),
    ]


def _of_servers(statuses: list[PoolStatus]) -> list[Metric]:
    """What the servers of pools tell besides; nothing if no pool is on one."""
    fleets = [(_pool(status), status.fleet) for status in statuses if status.fleet is not None]
    asked = [(labels, fleet) for labels, fleet in fleets if fleet.unreachable is None]
    silent = [s for s in statuses if s.fleet is not None and s.fleet.unreachable is None]

    def counter(name: str, text: str) -> Metric:
        samples: list[Sample] = [("", labels, getattr(fleet, name)) for labels, fleet in asked]
        return Metric(f"fleet_{name}_total", "counter", text, samples)

    metrics = [
        Metric(
            "fleet_reachable",
            "gauge",
            "1 if the pool's server can be asked; else the rest is of this machine's pool of that name.",
            [("", labels, fleet.unreachable is None) for labels, fleet in fleets],
        ),
        Metric(
            "fleet_silent_builds",
            "gauge",
            "Builds that have slots, and that the server has not heard of for half a lease.",
            [("", _pool(s), sum(holder.silent_s is not None for holder in s.holders)) for s in silent],
        ),
        counter("granted", "Builds of all machines that got their slots in their turn."),
        counter("overflowed", "Builds of all machines that started beyond the cap."),
        counter("lapsed", "Leases that ended because nobody was heard of."),
        counter("regained", "Builds whose lease was lost, and that have registered again."),
        counter("deaf", "Waiters that were passed over because nobody listened."),
    ]
    return [metric for metric in metrics if metric.samples]


def _counters(statuses: list[PoolStatus], counts: dict[Key, Counts]) -> list[Metric]:
    rows: list[tuple[dict[str, str], Counts]] = []
    for status in statuses:
        for priority in PRIORITIES:
            its = counts.get((status.dir, status.pool, priority))
            # One that nothing was told of is 0: Prometheus sees no increase where a counter appears with 1.
            if its is not None or priority == DEFAULT_PRIORITY:
                rows.append((_pool(status) | {"priority": priority}, its or dict.fromkeys(NAMES, 0)))

    def counter(name: str, text: str, counted: dict[str, dict[str, str]]) -> Metric:
        """One with a sample for each name of `counted`, which says what labels that has besides."""
        samples = [("", labels | more, its[of]) for labels, its in rows for of, more in counted.items()]
        return Metric(name, "counter", text, samples)

    results = {f"ended {result}": {"result": result} for result in ("ok", "failed", "killed", "unknown")}
    causes = {f"gave up {cause}": {"cause": cause} for cause in ("timeout", "interrupted", "unreachable")}
    waits = [sample for labels, its in rows for sample in _histogram(labels, its)]
    return [
        counter("builds_queued_total", "Builds that had to wait in line.", {"queued": {}}),
        counter("builds_started_total", "Builds that got slots, overflow included.", {"started": {}}),
        counter("builds_overflow_total", "Builds that started beyond the cap.", {"overflow": {}}),
        counter("builds_ended_total", "Builds that ended, by exit status or signal.", results),
        counter("builds_gave_up_total", "Builds that waited and did not start.", causes),
        counter("builds_degraded_total", "Builds that ran without any slot.", {"degraded": {}}),
        Metric("wait_seconds", "histogram", "How long builds waited before they started.", waits),
        counter("run_seconds_total", "How long builds ran, those that have ended.", {"ran_s": {}}),
    ]


def _histogram(labels: dict[str, str], its: Counts) -> Iterator[Sample]:
    """The samples of the waits: each bucket has those of the buckets before, and the last one has all."""
    count = 0.0
    for name, bound in zip(WAITS, (*(f"{bound:g}" for bound in BUCKETS_S), "+Inf"), strict=True):
        count += its[name]
        yield "_bucket", labels | {"le": bound}, count
    yield "_sum", labels, its["waited_s"]
    yield "_count", labels, count


def _pool(status: PoolStatus) -> dict[str, str]:
    """The labels of a pool. With its directory: one default pool each have all users, and all --dir."""
    return {"pool": status.pool, "dir": printable(status.dir)}


def _lines(metric: Metric) -> Iterator[str]:
    name = f"buildslots_{metric.name}"
    yield f"# HELP {name} {metric.help}\n"
    yield f"# TYPE {name} {metric.kind}\n"
    for suffix, labels, value in metric.samples:
        words = ",".join(f'{label}="{_escaped(text)}"' for label, text in labels.items())
        yield f"{name}{suffix}{f'{{{words}}}' if words else ''} {_number(value)}\n"


def _escaped(text: str) -> str:
    """`text`, which is printable and so has no line feed, as the value of a label."""
    return text.replace("\\", "\\\\").replace('"', '\\"')


def _number(value: float) -> str:
    return str(int(value)) if value == int(value) else repr(float(value))
