"""Syncs that go well: how many at once, in which order, what they change, and how long they take."""

from __future__ import annotations

import threading
from itertools import pairwise
from typing import TYPE_CHECKING

from bench.kit.spans import peak_overlap
from bench.workloads.place import batch, named
from bench.workloads.remotes import advance, git, slow
from bench.workloads.sync_field import default_jobs

if TYPE_CHECKING:
    from bench.kit.spans import Span
    from bench.workloads.checklist import Checklist
    from bench.workloads.place import Ran
    from bench.workloads.sync_field import Field

NEAR_S = 0.05
"""So far away is the remote where only the number at once is of interest."""
ADVANCED = 3
WIDE = 8
"""Jobs for remotes that are far away: the default of a machine with four cores or more."""
AT_LEAST_TIMES = 5.0
POOL, SLOTS = "network", 3


def check(promises: Checklist, field: Field) -> None:
    """Clone, sync again, one after the other, far away, and two at once."""
    _clones(promises, field)
    _in_order(promises, field)
    _again(promises, field)
    _far_away(promises, field)
    _two_at_once(promises, field)


def _clones(promises: Checklist, field: Field) -> None:
    total = len(field.names)
    half = total // 2  # by git's daemon first, and a little away: nearer ones might end before others begin
    spans: list[Span] = []
    with slow(field.port, answers_s=NEAR_S) as port, field.trace(spans) as environ:
        urls = {name: field.url(name, port) for name in field.names[:half]}
        urls |= {name: field.file_url(name) for name in field.names[half:]}
        ran = batch(field.plan("clones", urls), cwd=field.root, environ=environ)
    whole = field.whole("clones", field.names)
    promises.check(
        f"{total} repositories, half by git's daemon and half by file://, are cloned whole",
        len(whole) == total and ran.status == 0 and not field.left_over("clones"),
        f"{len(whole)} whole, {ran}",
    )
    peak, wanted = peak_overlap(spans), default_jobs()
    promises.check(
        "min(8, 2 x cores) at once, by git's own trace",
        peak == wanted and len(spans) == total,
        f"at most {peak} of {len(spans)} at once, {wanted} wanted",
    )
    _is_in_order_of_ends(promises, ran)
    for name in field.names[:half]:
        git("remote", "set-url", "origin", field.url(name), cwd=field.clones("clones") / name)


def _is_in_order_of_ends(promises: Checklist, ran: Ran) -> None:
    times = [event["t"] for event in ran.events]
    numbers = [event["seq"] for event in ran.events]
    promises.check(
        "NDJSON: a line for each, in the order of their ends, between one that begins and one that sums up",
        all(one <= other for one, other in pairwise(times))
        and numbers == list(range(len(numbers)))
        and [ran.events[0]["event"], ran.events[-1]["event"]] == ["batch", "batch"]
        and sum(ran.counts.values()) == len(ran.tasks),
        f"{len(ran.events)} lines",
    )


def _in_order(promises: Checklist, field: Field) -> None:
    spans: list[Span] = []
    with field.trace(spans) as environ:
        plan = field.plan("serial", {name: field.file_url(name) for name in reversed(field.names)})
        ran = batch("--jobs", "1", plan, cwd=field.root, environ=environ)
    expected = list(reversed(field.names))
    started, ended = [span.name for span in spans], [event["task"] for event in ran.tasks]
    promises.check(
        "--jobs 1: one at a time, in the order of the plan",
        started == ended == expected and peak_overlap(spans) == 1,
        f"{peak_overlap(spans)} at once, from {started[0]} to {started[-1]}, {ran}",
    )
    field.remove("serial")


def _again(promises: Checklist, field: Field) -> None:
    ahead = field.names[:ADVANCED]
    for name in ahead:
        advance(field.remote(name), "second")
    plan = field.plan("clones", {name: field.url(name) for name in field.names})
    ran = batch(plan, cwd=field.root)
    pulled = [name for name, state in ran.states.items() if state == "ok"]
    whole = field.whole("clones", field.names)
    promises.check(
        f"{ADVANCED} that are behind are pulled, all others are unchanged",
        sorted(pulled) == ahead
        and ran.counts.get("unchanged") == len(field.names) - ADVANCED
        # What is whole is at the commit of its remote.
        and len(whole) == len(field.names),
        f"{ran}: {named(sorted(pulled))}",
    )


def _far_away(promises: Checklist, field: Field) -> None:
    """Up-to-date repositories, whose remote takes its time to answer."""
    answers_s = field.sizes.answers_s
    took: dict[int, float] = {}
    unchanged: list[int] = []
    with slow(field.port, answers_s=answers_s) as port:
        for name in field.names:
            git("remote", "set-url", "origin", field.url(name, port), cwd=field.clones("clones") / name)
        plan = field.plan("clones", {name: field.url(name, port) for name in field.names})
        for jobs in sorted({WIDE, default_jobs(), 1}, reverse=True):
            ran = batch("--jobs", str(jobs), plan, cwd=field.root)
            took[jobs] = ran.took_s
            unchanged.append(ran.counts.get("unchanged", 0))
    total = len(field.names)
    promises.check(
        f"{total} whose remote takes {answers_s} s to answer are found up to date, whatever the jobs",
        unchanged == [total] * len(took),
        f"{named([str(count) for count in unchanged])} unchanged",
    )
    times = took[1] / took[WIDE]
    promises.time(
        f"at least {AT_LEAST_TIMES:g} times as fast as one after the other, with {WIDE} jobs",
        times >= AT_LEAST_TIMES,
        f"{times:.1f} times: {took[WIDE]:.1f} s against {took[1]:.1f} s",
    )
    if default_jobs() != WIDE:
        few = default_jobs()
        promises.skip(
            f"the same with {few} jobs, the default here, which cannot be more than {few} times as fast",
            f"{took[1] / took[few]:.1f} times: {took[few]:.1f} s",
        )


def _two_at_once(promises: Checklist, field: Field) -> None:
    """What no semaphore in one process does: two syncs share the slots of one pool."""
    half = len(field.names) // 2
    parts = {"left": field.names[:half], "right": field.names[half:]}
    spans: list[Span] = []
    rans: dict[str, Ran] = {}
    with slow(field.port, answers_s=NEAR_S) as port, field.trace(spans) as environ:
        plans = {}
        for place, names in parts.items():
            plans[place] = field.plan(place, {name: field.url(name, port) for name in names})
            text = (field.root / f"{place}.toml").read_text()
            (field.root / f"{place}.toml").write_text(text.replace('pool = ""', f'pool = "{POOL}"', 1))
        environ[f"MAX_CONCURRENT_BUILDS_{POOL.upper()}"] = str(SLOTS)

        def sync(place: str) -> None:
            rans[place] = batch("--jobs", str(WIDE), plans[place], cwd=field.root, environ=environ)

        threads = [threading.Thread(target=sync, args=(place,)) for place in parts]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    peak = peak_overlap(spans)
    promises.check(
        f"two syncs at once, {WIDE} jobs each, on {SLOTS} slots of a pool: never more than {SLOTS} together",
        peak == SLOTS and all(ran.status == 0 for ran in rans.values()) and len(spans) == len(field.names),
        f"at most {peak} at once; " + "; ".join(map(str, rans.values())),
    )
