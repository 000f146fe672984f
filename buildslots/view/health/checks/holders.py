"""Who holds the slots and who waits, and whether they should."""

from __future__ import annotations

import os

import psutil

from buildslots.disk import line, records
from buildslots.processes import is_local, number
from buildslots.status import pool_status
from buildslots.view.health import keepers
from buildslots.view.health.checks import MOST_NAMES, NOTE, OK, PROBLEM, Finding, Subject, command
from buildslots.words import prose

TYPE_CHECKING = False
if TYPE_CHECKING:
    from buildslots.status import Holder, PoolStatus

LONGEST = 100
"""Characters of another machine's name that are shown."""
MOST_ODD = 20
"""At most so many slots without a running build are looked into: each needs a look at all processes."""
MOST_FOUND = 40
"""At most so many findings are reported."""
NAMED = 3
"""At most so many processes are named; the others are counted."""


def holders(subject: Subject) -> list[Finding]:
    """Slots that something other than a build keeps; processes that are stopped; builds with another cap."""
    status, path = subject.status, subject.settings.dir
    if status is None:
        return [Finding("holders", OK, "no pool yet, so nobody holds a slot")]
    found, odd = [], 0
    for holder in _confirmed(status, subject):
        odd += holder.foreign or holder.orphaned
        if odd > MOST_ODD and (holder.foreign or holder.orphaned):
            continue
        found += _of_slot(subject, keepers.kept(path, holder))
    if odd > MOST_ODD:
        text = f"{odd - MOST_ODD} more slots are held by other programs, or by what outlived its build"
        found.append(Finding("holders", NOTE, text, {"more": odd - MOST_ODD}))
    found += _stopped(path, status)
    found += _other_caps(status)
    if len(found) > MOST_FOUND:
        more = len(found) - MOST_FOUND
        found[MOST_FOUND:] = [Finding("holders", NOTE, f"and {more} more of that kind", {"more": more})]
    count = status.held
    slots = "1 slot" if count == 1 else f"{count} slots"
    text = f"{slots} held of {status.cap}, {len(status.waiters)} waiting"
    if not found:
        found = [Finding("holders", OK, f"{text}; every holder's process lives")]
    return found


def _confirmed(status: PoolStatus, subject: Subject) -> list[Holder]:
    """The holders, without those that look odd only at the first of two looks.

    A build that takes a slot has the lock a moment before the bell. In between it looks like another program.
    """

    def mark(holder: Holder) -> tuple[tuple[int, ...], int | None, bool, bool]:
        return holder.slots, holder.pid, holder.foreign, holder.orphaned

    odd = {mark(holder) for holder in status.holders if holder.foreign or holder.orphaned}
    if odd:
        odd &= {mark(holder) for holder in pool_status(subject.settings).holders}
    return [h for h in status.holders if not (h.foreign or h.orphaned) or mark(h) in odd]


def _of_slot(subject: Subject, kept: keepers.Kept) -> list[Finding]:
    holder = kept.holder
    who = _named(kept.processes[:1] if kept.state == keepers.RUNS_ON else kept.processes)
    details: dict[str, object] = {
        "slot": holder.slot,
        "slots": list(holder.slots),
        "state": kept.state,
        "pid": holder.pid,
        "processes": [keepers.about(process) for process in kept.processes],
    }
    release = _release(subject) or "`buildslots release` with the options of this command"
    slot = keepers.slots_of(holder)
    is_, was = ("are", "were") if holder.weight > 1 else ("is", "was")
    if kept.state == keepers.STRAY:
        level, text = PROBLEM, f"{slot} {is_} kept by {who}, which outlived its build: {release} ends it"
    elif kept.state == keepers.UNSEEN:
        level = PROBLEM
        gone = f"{slot} {was} taken by {holder.pid}, which is gone"
        text = f"{gone}, and {is_} kept by a process that you may not see"
    elif kept.state == keepers.RUNS_ON:
        level, text = NOTE, f"{slot}: who took it was killed, but its build runs on and keeps it: {who}"
    elif kept.state == keepers.FOREIGN:
        program = who or (f"process {holder.pid}" if holder.pid else "one that you may not see")
        level, text = NOTE, f"{slot} is locked by another program: {program}"
    elif kept.state == keepers.ELSEWHERE:
        there = f"{prose(holder.host or '?')[:LONGEST]}, pid {holder.pid} there"
        level = NOTE
        text = (
            f"{slot} {is_} held from another container or machine ({there}): only there can its build be seen"
        )
    else:
        return []
    return [Finding("holders", level, text, details)]


def _release(subject: Subject) -> str | None:
    """The command that ends what keeps a slot of this pool, or None if it cannot be shown."""
    words = ["buildslots", "release"]
    if subject.pool_option is not None:
        words += ["--pool", subject.pool_option]
    if subject.dir_option is not None:
        # A path that begins with a dash would be read as an option.
        dash = subject.dir_option.startswith("-")
        words += [f"--dir={subject.dir_option}"] if dash else ["--dir", subject.dir_option]
    return command(*words)


def _stopped(path: str, status: PoolStatus) -> list[Finding]:
    found = []
    waiting = _waiting(path)
    for role, pids in (
        ("holds a slot", {h.pid: keepers.taker(path, h) for h in status.holders if not h.orphaned and h.pid}),
        ("waits in line", {w.pid: waiting.get(w.pid) for w in status.waiters if w.pid}),
    ):
        for pid, process in pids.items():
            if process is not None and _is_stopped(process):
                text = f"process {pid} {role} and is stopped: {_goes_on(process)}"
                found.append(Finding("holders", NOTE, text, {"pid": pid, "state": "stopped"}))
    return found


def _waiting(path: str) -> dict[int, psutil.Process]:
    """The processes in line, by pid, as far as they live here."""
    found = {}
    for name in line.waiting(path)[:MOST_NAMES]:
        record = records.read(f"{path}/queue/{name}")
        pid = number(record.get("pid")) if record is not None and is_local(record) else None
        if record is None or pid is None:
            continue
        try:
            process = psutil.Process(pid)
        except psutil.Error:
            continue
        if records.lives(record):
            found[pid] = process
    return found


def _is_stopped(process: psutil.Process) -> bool:
    try:
        return process.status() == psutil.STATUS_STOPPED
    except psutil.Error:
        return False


def _goes_on(process: psutil.Process) -> str:
    """What lets a stopped process go on, and who may do that: kill(2)."""
    remedy = f"`kill -CONT {process.pid}`"
    try:
        if process.uids().real != os.geteuid() != 0:
            return f"{remedy} by its owner, {prose(process.username())}, lets it go on"
    except psutil.Error:
        pass  # gone
    return f"{remedy} lets it go on"


def _other_caps(status: PoolStatus) -> list[Finding]:
    pids: dict[int, list[int | None]] = {}
    caps = [(h.cap, h.pid) for h in status.holders] + [(w.cap, w.pid) for w in status.waiters]
    for cap, pid in caps:
        if cap is not None and cap != status.cap:
            pids.setdefault(cap, []).append(pid)
    return [
        Finding(
            "holders",
            NOTE,
            f"{_counted(those)} started with a cap of {cap}, you have {status.cap}: each counts by its own",
            {"cap": cap, "pids": those},
        )
        for cap, those in sorted(pids.items())
    ]


def _counted(pids: list[int | None]) -> str:
    if len(pids) == 1:
        return f"process {pids[0] or '?'}"
    return f"{len(pids)} processes ({', '.join(str(pid or '?') for pid in pids[:NAMED])}, …)"


def _named(processes: tuple[psutil.Process, ...]) -> str:
    named = ", ".join(keepers.described(process) for process in processes[:NAMED])
    return named if len(processes) <= NAMED else f"{named} and {len(processes) - NAMED} more"
