"""Which processes really keep a held slot: `doctor` tells of them, and `release` ends them.

The lock of a slot belongs to an open file description, and so to every process that inherited a copy of its
descriptor. When the process that took the slot is gone, the slot's record no longer says which processes have
the lock. The system does.
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
from buildslots.processes import is_local, number, start_of
from buildslots.view.health.proof import belongs, marks
from buildslots.words import counted, prose_path, shown, span

TYPE_CHECKING = False
if TYPE_CHECKING:
    from buildslots.status import Holder

BUILD, RUNS_ON, STRAY, UNSEEN, FOREIGN, ELSEWHERE = (
    "build",  # as it should be: the process that took it lives
    "runs on",  # slot-run is gone, but the build itself still has the lock, or may have
    "stray",  # slot-run and the build have ended, but something that they started has the lock
    "unseen",  # the same, but the process that has the lock is hidden from us
    "foreign",  # a program that does not know the protocol
    "elsewhere",  # a process of another host or container, whose pid means nothing here
)
WHOLE, BYTES = "FLOCK", "OFDLCK"
"""Kinds of locks: of slots, which are flock(2)'s; of tokens, of single bytes (F_OFD_SETLK in fcntl(2))."""
MOST_FDS = 10_000
"""At most so many descriptors of a process are looked at."""
SHOWN = 60
"""Cells of a command in a sentence."""


@dataclass(frozen=True, slots=True)
class Kept:
    """A held slot, and what keeps it.

    Attributes:
        holder: What `status` says of it.
        state: BUILD, RUNS_ON, STRAY, UNSEEN, FOREIGN or ELSEWHERE.
        processes: Those that have the lock, as far as they can be seen; if the state is RUNS_ON, the build
            first. For BUILD and ELSEWHERE nothing was looked up.
    """

    holder: Holder
    state: str
    processes: tuple[psutil.Process, ...] = ()


def kept(directory: str, holder: Holder) -> Kept:
    """Find out what keeps the slot of `holder` in the pool `directory`."""
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
    """What keeps a slot without a record, or with one of a build that has ended: another program or a stray.

    A daemon that inherited the descriptor can lock the slot again after slot-run has let go of it. That is a
    stray, but only if every process that has the lock belongs to the recorded build. Otherwise slot-run
    itself may be among them, and the slot looks foreign because somebody removed its bell.
    """
    if record is None or not records.lives(record):
        wanted = marks(directory, holder.slots)
        if processes and all(belongs(process, wanted) for process in processes):
            return Kept(holder, STRAY, processes)
    return Kept(holder, FOREIGN, processes)


def _orphaned(holder: Holder, child: str | None, processes: tuple[psutil.Process, ...]) -> Kept:
    """What keeps the slot of a `holder` that is gone; `child` is the pid and the start of its command."""
    if not processes:
        return Kept(holder, UNSEEN)
    # The library's users do not record what they run, nor does a slot-run that was killed while it started
    # its command: the keeper may be the build itself.
    if child is None or child == "?":
        return Kept(holder, RUNS_ON, processes)
    pid, _, start = child.partition(" ")
    if not _runs(number(pid) or 0, start):
        return Kept(holder, STRAY, processes)
    # The build may have closed the descriptor, and only its children may have kept it.
    builds = tuple(process for process in processes if str(process.pid) == pid)
    return Kept(holder, RUNS_ON, builds + tuple(p for p in processes if p not in builds))


def _runs(pid: int, start: str) -> bool:
    """Whether process `pid`, which began at `start` ("0" if that is unknown), has not ended."""
    try:
        process = psutil.Process(pid)
        same = start in {"0", str(start_of(pid))}
        return same and process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False
    except psutil.Error:
        return True


def keepers(path: str, kind: str = WHOLE) -> tuple[psutil.Process, ...]:
    """The processes that have a lock of that kind on the file at `path`, as far as we may look at them."""
    try:
        file = os.stat(path)
    except OSError:
        return ()
    has_it = _has_locked if sys.platform == "linux" else _has_open
    # is_running() comes last, because it notices if the pid became another process's while we looked.
    return tuple(p for p in psutil.process_iter() if has_it(p, path, file, kind) and p.is_running())


def taker(directory: str, holder: Holder) -> psutil.Process | None:
    """The process that took the slot of `holder`, if it lives here and that can be known."""
    record = records.read(f"{directory}/holders/slot-{holder.slot}")
    if record is None or not is_local(record) or number(record.get("pid")) != holder.pid:
        return None
    try:
        process = psutil.Process(holder.pid)
    except psutil.Error:
        return None
    # Asked only now: the Process object is bound to one process from its making on.
    return (
        process if records.lives(record) and _has_slot(process, f"{directory}/slot-{holder.slot}") else None
    )


def _has_slot(process: psutil.Process, path: str) -> bool:
    """Whether `process` has the lock at `path`, as its record says; others of a group can forge that."""
    if sys.platform != "linux" or not os.access(f"/proc/{process.pid}/fd", os.R_OK):
        return True  # another user's process, which we could not end anyway
    try:
        return _has_locked(process, path, os.stat(path))
    except OSError:
        return False


def _has_locked(process: psutil.Process, path: str, file: os.stat_result, kind: str = WHOLE) -> bool:
    """Whether a descriptor of `process` has `file` locked, exclusively and by a lock of that kind.

    The fdinfo of such a descriptor has a line "lock: 1: FLOCK ADVISORY WRITE …" (proc_pid_fdinfo(5); Linux
    4.1, "proc: show locks in /proc/pid/fdinfo/X"). A descriptor of the same file without the lock has none.
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
            # The name first, because a stat of the file could wait for a dead file server.
            if os.path.basename(os.readlink(f"{folder}/fd/{fd}")) != name:
                continue
            if not os.path.samestat(os.stat(f"{folder}/fd/{fd}"), file):
                continue
            with open(f"{folder}/fdinfo/{fd}", encoding="ascii", errors="replace") as lines:
                words = [line.split() for line in lines]
        except OSError:
            continue
        if any(line[:1] == ["lock:"] and line[2:5] == [kind, "ADVISORY", "WRITE"] for line in words):
            return True
    return False


def _has_open(process: psutil.Process, path: str, _: os.stat_result, __: str = WHOLE) -> bool:
    """Whether `process` has the file open: the best guess where the system does not show locks."""
    try:
        return any(os.path.realpath(file.path) == os.path.realpath(path) for file in process.open_files())
    except psutil.Error:
        return False


def slots_of(holder: Holder) -> str:
    """The slots of `holder` in a sentence: "slot 0", or "slots 0-2" if its build has several."""
    return f"slot{'s' * (holder.weight > 1)} {counted(holder.slots)}"


def in_our_namespace(pid: int) -> bool:
    """Whether process `pid` lives in our pid namespace and not in a container; False if we may not know."""
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
    """What --json says of `process`."""
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
