"""`buildslots trace`: the journal as trace events, which ui.perfetto.dev and chrome://tracing draw.

The format is the Trace Event Format of Chromium's tracing (catapult, docs/trace-event-format.md). A pool is a
process in it, a slot a thread, and a run a complete event ("X") in that thread. The line is one track of
asynchronous events ("b", "e"), because waits overlap. Counts and loads are counters ("C").

A batch is a process, too, below the pools. It has an asynchronous event for each build, from its arrival to
its end, with the wait inside of it; those of one name, which is the task's, are one track.
"""

from __future__ import annotations

import json

from buildslots import __version__
from buildslots.view.output import write
from buildslots.view.past.builds import asked_for
from buildslots.view.past.figures import by

TYPE_CHECKING = False
if TYPE_CHECKING:
    import argparse

    from buildslots.view.past.builds import Build, Past

MACHINE = 0
"""The number of the process that shows the load; the pools are 1, 2, …, and then come the batches."""
LINE = 0
"""The number of the thread that shows the line; slot N is thread N + 1."""


def run(options: argparse.Namespace) -> int:
    """Write the trace that the options ask for."""
    shown = asked_for(options)
    write(options.output or "-", json.dumps(trace(shown), separators=(",", ":")) + "\n")
    return 0


def trace(shown: Past) -> dict[str, object]:
    """The JSON object of the format, times in microseconds from the first thing that is shown."""
    begin = min([shown.since, *(build.came_at for build in shown.builds)])
    events = _Events(begin, shown.until)
    process = MACHINE
    for process, ((directory, pool), builds) in enumerate(by(shown.builds, "dir", "pool").items(), 1):
        events.name_rows(process, f"pool {pool}", directory, builds)
        for build in builds:
            events.add_build(process, build)
        events.add_counts(process, builds)
    batches = by((build for build in shown.builds if build.batch), "batch")
    for number, builds in enumerate(sorted(batches.values(), key=lambda its: its[0].came_at), process + 1):
        events.add_batch(number, builds)
    events.add("M", "process_name", MACHINE, begin, args={"name": "machine"})
    for at, load in shown.loads:
        events.add("C", "load average", MACHINE, at, args={"load": load})
    return {
        "traceEvents": events.all,
        "displayTimeUnit": "ms",
        "otherData": {"version": f"buildslots {__version__}", "begin_unix_s": f"{begin:.6f}"},
    }


class _Events:
    """The trace events of the time from `begin` to `until`, Unix times."""

    def __init__(self, begin: float, until: float) -> None:
        self.all: list[dict[str, object]] = []
        self._begin = begin
        self._until = until

    def add(self, phase: str, name: str, process: int, at: float, **more: object) -> None:
        """Add an event of the moment `at`, in the row of the line unless `tid` says otherwise."""
        us = round((at - self._begin) * 1e6)
        self.all.append({"ph": phase, "name": name, "pid": process, "tid": LINE, "ts": us} | more)

    def name_rows(self, process: int, name: str, directory: str, builds: list[Build]) -> None:
        """Say what the rows are called, and in which order they stand."""
        slots = sorted({slot for build in builds for slot in build.slots})
        self.add("M", "process_name", process, self._begin, args={"name": name})
        self.add("M", "process_labels", process, self._begin, args={"labels": directory})
        for row, its_name in [(LINE, "line"), *((slot + 1, f"slot {slot}") for slot in slots)]:
            self.add("M", "thread_name", process, self._begin, tid=row, args={"name": its_name})
            self.add("M", "thread_sort_index", process, self._begin, tid=row, args={"sort_index": row})

    def add_build(self, process: int, build: Build) -> None:
        """Add its wait and its run."""
        args = _about(build)
        for phase, at in zip("be", build.wait_between(self._until) or (), strict=False):
            # All waits have one name, which makes one row of them. The id is local to the process: with a
            # global one Perfetto shows the line apart from its pool.
            self.add(phase, "waiting", process, at, cat="line", id2={"local": build.id}, args=args)
        run = build.run_between(self._until)
        if run is not None:
            kind = "overflow" if build.overflow else "build"
            dur = round((run[1] - run[0]) * 1e6)
            for slot in build.slots:
                self.add("X", build.program, process, run[0], tid=slot + 1, cat=kind, dur=dur, args=args)
        if build.outcome == "degraded":
            args["cause"] = build.cause
            self.add("i", build.program, process, build.came_at, s="p", cat="degraded", args=args)

    def add_batch(self, process: int, builds: list[Build]) -> None:
        """Add the `builds` of a batch, each with its wait."""
        self.add("M", "process_name", process, self._begin, args={"name": f"batch {builds[0].batch}"})
        self.add("M", "process_sort_index", process, self._begin, args={"sort_index": process})
        for build in builds:
            args = {"pool": build.pool, "slots": list(build.slots), **_about(build)}
            wait, run = build.wait_between(self._until), build.run_between(self._until)
            begin, end = build.came_at, max(span[1] for span in (wait, run, (0.0, build.came_at)) if span)
            for phase, name, at in (
                ("b", build.program, begin),
                *(zip("be", ("waiting", "waiting"), wait, strict=True) if wait else ()),
                ("e", build.program, end),
            ):
                self.add(phase, name, process, at, cat="batch", id2={"local": build.id}, args=args)

    def add_counts(self, process: int, builds: list[Build]) -> None:
        """Add how many ran and how many waited, each time that it changed."""
        moments = []
        for build in builds:
            spans = {"running": build.run_between(self._until), "waiting": build.wait_between(self._until)}
            for what, between in spans.items():
                if between and between[0] < between[1]:
                    moments += [(between[0], 1, what), (between[1], -1, what)]
        counts = {"running": 0, "waiting": 0}
        for at, change, what in sorted(moments):
            counts[what] += change
            self.add("C", "builds", process, at, args=dict(counts))


def _about(build: Build) -> dict[str, object]:
    """What an event says of `build` besides its time."""
    return {
        "program": build.program,
        "directory": build.cwd,
        "pid": build.pid,
        "outcome": build.outcome,
        "waited_s": build.waited_s,
        "status": build.status,
        "cpu_s": build.cpu_s,
        "max_rss": build.max_rss,
        **({"batch": build.batch} if build.batch else {}),
    }
