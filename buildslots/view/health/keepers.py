"""Who really keeps a held slot: for `doctor`, which tells, and for `release`, which ends them.

A slot belongs to an open file description, and so to every process that inherited a copy of its
descriptor. When the process that took the slot is gone, the record no longer tells who that is; the
system does.
"""

from __future__ import annotations

import os
import shlex
import sys
import time
from dataclasses import dataclass
from itertools import islice

import psutil

from buildslots.disk import records
from buildslots.status import is_local, lives
from buildslots.view.health.proof import belongs, marks
from buildslots.words import counted, prose_path, shown, span

TYPE_CHECKING = False
if TYPE_CHECKING:
    from buildslots.status import Holder

BUILD, RUNS_ON, STRAY, UNSEEN, FOREIGN, ELSEWHERE = (
    "build",  # as it should be: the process that took it lives
    "runs on",  # slot-run is gone, but the build itself still has the lock, or may have
    "stray",  # slot-run and the build have ended, something that they started has the lock
    "unseen",  # the same, but whoever has it is hidden from us
    "foreign",  # a program that does not know the protocol
    "elsewhere",  # of another host or container, where our pids mean nothing
)
MOST_FDS = 10_000
"""So many descriptors of a process are looked at."""
SHOWN = 60
"""Cells of a command in a sentence."""


@dataclass(frozen=True, slots=True)
class Kept:
    """A held slot, and by whom.

    Attributes:
        holder: What `status` says of it.
        state: BUILD, RUNS_ON, STRAY, UNSEEN, FOREIGN or ELSEWHERE.
        processes: Those that have the lock, as far as they can be seen; of what RUNS_ON the build
            first. Not looked up for a BUILD.
    """

    holder: Holder
    state: str
    processes: tuple[psutil.Process, ...] = ()


def kept(directory: str, holder: Holder) -> Kept:
    """Find out who keeps the slot of `holder` in the pool `directory`."""
    path = f"{directory}/slot-{holder.slot}"
    record = records.read(f"{directory}/holders/slot-{holder.slot}")
    if holder.foreign:
        return _foreign(directory, holder, record, keepers(path))
    if record is not None and not is_local(record):
        return Kept(holder, ELSEWHERE)
    if not holder.orphaned:
        return Kept(holder, BUILD)
    return _orphaned(holder, (record or {}).get("child"), keepers(path))


def _foreign(
    directory: str, holder: Holder, record: dict[str, str] | None, processes: tuple[psutil.Process, ...]
) -> Kept:
    """Who keeps a slot that no record, or one that has ended, explains: another program, or a late stray.

    A daemon that has inherited the descriptor can lock the slot again once slot-run has let go of it. All who
    have the lock must be of that build: or slot-run itself is among them, and its bell was taken from it.
    """
    if record is None or not lives(record):
        wanted = marks(directory, holder.slots)
        if processes and all(belongs(process, wanted) for process in processes):
            return Kept(holder, STRAY, processes)
    return Kept(holder, FOREIGN, processes)


def _orphaned(holder: Holder, child: str | None, processes: tuple[psutil.Process, ...]) -> Kept:
    """Who keeps the slot of a `holder` that is gone, whose command was `child`: pid and start."""
    if not processes:
        return Kept(holder, UNSEEN)
    if child is None:  # Python code does not tell what it runs: who has the slot may be that
        return Kept(holder, RUNS_ON, processes)
    pid, _, start = child.partition(" ")
    if not _runs(records.number(pid) or 0, start):
        return Kept(holder, STRAY, processes)
    # It may have closed the descriptor, and left it to those that it has started.
    builds = tuple(process for process in processes if str(process.pid) == pid)
    return Kept(holder, RUNS_ON, builds + tuple(p for p in processes if p not in builds))


def _runs(pid: int, start: str) -> bool:
    """Whether process `pid`, which began at `start` ("0" if that is unknown), has not ended."""
    try:
        process = psutil.Process(pid)
        same = start in {"0", str(records.process_start(pid))}
        return same and process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False
    except psutil.Error:
        return True


def keepers(path: str) -> tuple[psutil.Process, ...]:
    """The processes that have the lock of the file at `path`, as far as we may look at them."""
    try:
        file = os.stat(path)
    except OSError:
        return ()
    has_it = _has_locked if sys.platform == "linux" else _has_open
    # The Process object first: if its pid becomes another process's while we look, it says so.
    return tuple(p for p in psutil.process_iter() if has_it(p, path, file) and p.is_running())


def taker(directory: str, holder: Holder) -> psutil.Process | None:
    """The process that took the slot of `holder`, if it lives here and that can be known."""
    record = records.read(f"{directory}/holders/slot-{holder.slot}")
    if record is None or not is_local(record) or records.number(record.get("pid")) != holder.pid:
        return None
    try:
        process = psutil.Process(holder.pid)
    except psutil.Error:
        return None
    # Asked after the object was made, which is bound to one process from then on.
    return process if lives(record) and _has_slot(process, f"{directory}/slot-{holder.slot}") else None


def _has_slot(process: psutil.Process, path: str) -> bool:
    """Whether `process` has the lock at `path` as its record says, which others of a group can forge."""
    if sys.platform != "linux" or not os.access(f"/proc/{process.pid}/fd", os.R_OK):
        return True  # another user's, and so in no danger from us
    try:
        return _has_locked(process, path, os.stat(path))
    except OSError:
        return False


def _has_locked(process: psutil.Process, path: str, file: os.stat_result) -> bool:
    """Whether a descriptor of `process` has the exclusive flock of `file`.

    Its fdinfo then has a line "lock: 1: FLOCK ADVISORY WRITE …" (proc_pid_fdinfo(5); Linux 4.1, "proc:
    show locks in /proc/pid/fdinfo/X"), which a descriptor that was opened without locking has not.
    """
    name = os.path.basename(path)
    folder = f"/proc/{process.pid}"
    try:
        with os.scandir(f"{folder}/fd") as entries:
            descriptors = [entry.name for entry in islice(entries, MOST_FDS)]
    except OSError:
        return False  # gone, or not ours to look at
    for fd in descriptors:
        try:
            # The name first: asking for the file itself could wait for a dead file server.
            if os.path.basename(os.readlink(f"{folder}/fd/{fd}")) != name:
                continue
            if not os.path.samestat(os.stat(f"{folder}/fd/{fd}"), file):
                continue
            with open(f"{folder}/fdinfo/{fd}", encoding="ascii", errors="replace") as lines:
                words = [line.split() for line in lines]
        except OSError:
            continue
        if any(line[:1] == ["lock:"] and line[2:5] == ["FLOCK", "ADVISORY", "WRITE"] for line in words):
            return True
    return False


def _has_open(process: psutil.Process, path: str, _: os.stat_result) -> bool:
    """Where the system does not show locks: whether `process` has the file open, as a guess."""
    try:
        return any(os.path.realpath(file.path) == os.path.realpath(path) for file in process.open_files())
    except psutil.Error:
        return False


def slots_of(holder: Holder) -> str:
    """Its slots in a sentence: "slot 0", or "slots 0-2" of a build that has several; both are one thing."""
    return f"slot{'s' * (holder.weight > 1)} {counted(holder.slots)}"


def in_our_namespace(pid: int) -> bool:
    """Whether process `pid` lives in our pid namespace, and not in a container; False if that is hidden."""
    if sys.platform != "linux":
        return True
    try:
        return os.readlink(f"/proc/{pid}/ns/pid") == os.readlink("/proc/self/ns/pid")
    except OSError:
        return False


def command_of(process: psutil.Process) -> list[str]:
    """The command line of `process`, its name if that is hidden, nothing if it is gone."""
    try:
        return process.cmdline() or [process.name()]
    except psutil.AccessDenied:
        return [process.name()]
    except psutil.Error:
        return []


def age_s(process: psutil.Process) -> float | None:
    """How long `process` has run, or None if it is gone."""
    try:
        return max(0.0, time.time() - process.create_time())
    except psutil.Error:
        return None


def about(process: psutil.Process) -> dict[str, object]:
    """What programs are told of `process`."""
    return {"pid": process.pid, "command": command_of(process), "cwd": _cwd(process), "age_s": age_s(process)}


def described(process: psutil.Process) -> str:
    """What people are told of `process`: "4711 `make -j8` in ~/src (3 min 2 s)"."""
    words = [str(process.pid), quoted(command_of(process))]
    cwd, age = _cwd(process), age_s(process)
    if cwd is not None:
        words += ["in", prose_path(cwd)]
    if age is not None:
        words.append(f"({span(age)})")
    return " ".join(words)


def quoted(command: list[str] | tuple[str, ...]) -> str:
    """A command in a sentence, of bounded length, its program without the directory."""
    words = [os.path.basename(word) or word for word in command[:1]] + list(command[1:])
    text = shlex.join(words).replace("'…'", "…").replace("`", "?")
    return f"`{shown(text, SHOWN) or '?'}`"


def _cwd(process: psutil.Process) -> str | None:
    try:
        return process.cwd()
    except psutil.Error:
        return None
