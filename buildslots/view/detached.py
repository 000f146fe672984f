"""`buildslots wait`, `log`, `stop` and `jobs`: what `slot-run --detach` has started."""

from __future__ import annotations

import json
import os
import shlex
import sys
import time
from collections import deque
from typing import TYPE_CHECKING

from buildslots import jobs
from buildslots.agents import detached
from buildslots.agents.detached import CannotStopError, NoJobError
from buildslots.files import PLAIN
from buildslots.jobs import LOST, WAITING
from buildslots.printed import Output, settled
from buildslots.view import nearest, warn
from buildslots.view.table import table
from buildslots.words import COMMAND_SHOWN, LONGEST_WORD, NAME_SHOWN, PATH_SHOWN, short_path, shown, span

if TYPE_CHECKING:
    from argparse import Namespace

    from buildslots.jobs import Job, State

GOES_ON = 75
"""EX_TEMPFAIL of sysexits.h: try again later."""
UNKNOWN = 125
"""The status of a build that nobody knows the status of: as slot-run's own failures."""
LINES = 40
"""So many lines of the log stand at the end of a wait."""


def run(options: Namespace) -> int:
    """Do what the command says: the exit status."""
    if options.command == "jobs":
        _list(as_json=options.json)
        return 0
    try:
        job = detached.find(options.id)
    except NoJobError as error:
        hint = nearest(options.id, [each.id for each in jobs.every()]) if options.id else ""
        warn(f"{error}" + (f"; the nearest: {hint}" if hint else "; `buildslots jobs` lists them"))
        return UNKNOWN
    if options.command == "wait":
        return _wait(job, options.seconds)
    if options.command == "log":
        return _log(job, options.lines)
    return _stop(job)


def _wait(job: Job, for_s: float | None) -> int:
    state = detached.wait(job, for_s, lambda state: _say(f"{_id(job)}: {_now(job, state)}"))
    if state.goes_on:
        _say(f"{_id(job)}: {_now(job, state)}")
        _say(f"{_id(job)}: not at its end yet; go on with: buildslots wait {_id(job)}")
        return GOES_ON
    for line in _last_lines(job, LINES):
        _say(line)
    _say(f"{_id(job)}: {_now(job, state)}; the whole log: {short_path(job.log)}")
    if state.status is None:
        return UNKNOWN
    return state.status if state.status >= 0 else 128 - state.status


def _log(job: Job, lines: int | None) -> int:
    """Print the log, of lines that are rewritten in place their last state."""
    with open(job.log, encoding="utf-8", errors="replace", newline="\n") as file:
        for line in file if lines is None else deque(file, lines):
            _say(_fit(line))
    return 0


def _fit(line: str) -> str:
    (last,) = settled(line.removesuffix("\n"))
    return shown(last.expandtabs().rstrip(), LONGEST_WORD)


def _stop(job: Job) -> int:
    before = job.state()
    if not before.lives:
        _say(f"{_id(job)}: {_now(job, before)}; there is nothing to stop")
        return 0
    try:
        state = detached.stop(job)
    except CannotStopError as error:
        warn(f"{_id(job)} goes on: {error}")
        return 1
    _say(f"{_id(job)}: {_now(job, state)}")
    return 1 if state.lives else 0


def _list(*, as_json: bool) -> None:
    rows = []
    for job in jobs.every():
        state = job.state()
        if as_json:
            about = {"id": job.id, "t": job.began, "state": state.word, "started": state.started}
            about |= {"ended": state.ended, "status": state.status, "lives": state.lives, "why": state.why}
            about |= {"command": job.command, "cwd": job.cwd, "worktree": job.top, "log": job.log}
            print(json.dumps({"v": 1, **about}))  # noqa: T201
            continue
        rows.append(
            [
                _id(job),
                span(max(0.0, time.time() - job.began)),
                state.word if state.status is None else f"{state.word} {_status(state.status)}",
                short_path(job.cwd, PATH_SHOWN // 2),
                shown(shlex.join(job.command), COMMAND_SHOWN),
            ]
        )
    if not as_json:
        head = ["BUILD", "AGO", "STATE", "DIRECTORY", "COMMAND"]
        _say("\n".join(table(head, rows, right=(1,))) if rows else "no detached builds yet")


def _now(job: Job, state: State) -> str:
    """What is known of `job`, as a part of a sentence."""
    if state.word == LOST:
        return f"lost: {state.why}"
    if state.status is not None:
        ended = job.began if state.ended is None else state.ended
        how = f"with {_status(state.status)}"
        if state.started is None:
            return f"ended {how}, after {span(max(0.0, ended - job.began))}; the command was not started"
        return f"ended {how}, after {span(max(0.0, ended - state.started))}"
    since = job.began if state.started is None else state.started
    what = "waiting for its turn" if state.word == WAITING else "running"
    last = next(iter(_last_lines(job, 1)), "nothing printed yet")
    return f"{what} for {span(max(0.0, time.time() - since))}: {last}"


def _status(status: int) -> str:
    return f"status {status}" if status >= 0 else f"signal {-status}"


def _last_lines(job: Job, count: int) -> list[str]:
    try:
        output = Output(os.open(job.log, os.O_RDONLY | PLAIN), None)
    except OSError as error:
        return [shown(f"its log cannot be read: {error}", COMMAND_SHOWN)]
    try:
        return output.last_lines(count)
    finally:
        output.close()


def _id(job: Job) -> str:
    return shown(job.id, NAME_SHOWN)


def _say(line: str) -> None:
    sys.stdout.write(f"{line}\n")
    sys.stdout.flush()  # whoever reads it may wait for every line
