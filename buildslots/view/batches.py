"""`buildslots batches`: the runs of batches that there are records of, and one of them in full."""

from __future__ import annotations

import json
import sys
import time
from collections import Counter
from typing import TYPE_CHECKING, Any

from buildslots.view import nearest, warn
from buildslots.view.table import table
from buildslots.words import NAME_SHOWN, short_path, shown, span

if TYPE_CHECKING:
    from argparse import Namespace

    from buildslots.batch.records import Run


def run(options: Namespace) -> int:
    """List them, or show one: the exit status."""
    from buildslots.batch.records import runs  # noqa: PLC0415

    found = runs()
    if options.show is None:
        _list(found, as_json=options.json)
        return 0
    wanted = [each for each in found if each.id == options.show] or [
        each for each in found if each.begin.get("name") == options.show
    ]
    if not wanted:
        hint = nearest(options.show, [each.id for each in found])
        warn(f"there is no run {options.show!r}" + (f"; the nearest: {hint}" if hint else ""))
        return 1
    _show(wanted[0], as_json=options.json)
    return 0


class _Look:
    """What the events of a run say.

    Attributes:
        state: How it has ended, or "running" or "killed".
        ran_s: How long it took; None if nobody knows.
        tasks: The last event of each task.
        counts: How many tasks there are in each state.
    """

    def __init__(self, each: Run) -> None:
        self.state, ran_s = "running" if each.lives else "killed", None
        last: dict[int, dict[str, Any]] = {}
        for told in each.events():
            if told.get("event") == "task":
                last[told.get("n", 0)] = told
            elif told.get("event") == "batch" and told.get("state") != "running":
                self.state, ran_s = _word(told.get("state")), told.get("ran_s")
        self.ran_s = ran_s if isinstance(ran_s, (int, float)) else None
        self.tasks = list(last.values())
        self.counts = Counter(_word(told.get("state")) for told in self.tasks)

    def __str__(self) -> str:
        return ", ".join(f"{count} {_spaced(state)}" for state, count in sorted(self.counts.items()))


def _word(text: object) -> str:
    return shown(str(text), NAME_SHOWN)


def _spaced(state: str) -> str:
    return state.replace("_", " ")


def _list(found: list[Run], *, as_json: bool) -> None:
    rows = []
    for each in found:
        look = _Look(each)
        if as_json:
            about = {"id": each.id, "name": each.begin.get("name"), "t": each.begin["t"], "state": look.state}
            about |= {"counts": look.counts, "ran_s": look.ran_s, "path": each.path}
            print(json.dumps({"v": 1, **about}))  # noqa: T201
            continue
        age = span(max(0.0, time.time() - each.begin["t"]))
        took = span(look.ran_s) if look.ran_s is not None else ""
        rows.append([_word(each.id), age, took, _spaced(look.state), str(look)])
    if not as_json:
        text = (
            table(["RUN", "AGO", "TOOK", "STATE", "TASKS"], rows, right=(1, 2))
            if rows
            else ["no batches yet"]
        )
        sys.stdout.write("\n".join(text) + "\n")


def _show(each: Run, *, as_json: bool) -> None:
    if as_json:
        for told in each.events():
            if told.get("event") != "step":
                print(json.dumps(told))  # noqa: T201
        return
    look = _Look(each)
    began = time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(each.begin["t"]))
    lines = [
        f"batch {_word(each.begin.get('name'))}: {_spaced(look.state)}; {str(look) or 'empty'}",
        f"began {began}" + (f", took {span(look.ran_s)}" if look.ran_s is not None else ""),
        f"records {short_path(each.path)}",
        "",
    ]
    rows = []
    for told in look.tasks:
        took = told.get("ran_s")
        log = told.get("log")
        rows.append(
            [
                _word(told.get("task")),
                _spaced(_word(told.get("state"))),
                span(took) if isinstance(took, (int, float)) and told.get("attempts") else "",
                _word(told.get("reason") or ""),
                short_path(str(log)) if log else "",
            ]
        )
    if rows:
        lines += table(["TASK", "STATE", "TOOK", "WHY", "LOG"], rows, right=(2,))
    sys.stdout.write("\n".join(line or "" for line in lines) + "\n")
