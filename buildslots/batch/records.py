"""Records of runs: for each run of a batch a directory with its events and a log for each task.

    STATE/batches/NAME-TIME/events.ndjson     a JSON object a line, appended
                            logs/0001-TASK.log
                            running           locked while the run lives; removed at its end
                            commands          locked while the run lives, or a command of it
                            staged            there while something of the run may lie beside a destination

An event is one of --json, or a step that only the next run reads:

    "event": "batch"   the first line, with how it was started; the last one, with how it ended
    "event": "task"    a task has come to an end, or to another one: it was undone
    "event": "step"    "starting" and "command": a command is about to start, and has its pid; what is done
                       with a stage, written before it is done; "pause"

Nothing here stops a batch: if records cannot be written, it is said once, and the batch runs without them.
"""

from __future__ import annotations

import json
import os
import re
import time
from typing import TYPE_CHECKING, Any

from buildslots import kept
from buildslots.disk.lock import try_lock
from buildslots.files import DIRECTORY, check_root, close, make_parents, open_directory
from buildslots.printed import APPEND, Output
from buildslots.processes import identity
from buildslots.settings.places import state_dir

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

EVENTS, LOGS, RUNNING, COMMANDS, STAGED = "events.ndjson", "logs", "running", "commands", "staged"
_json = json.JSONEncoder(default=str).encode  # made once: a batch may write thousands of events
LONGEST_LINE = 2**20
"""Bytes of an event; a longer line is none of ours."""
_FILE = re.compile("|".join(map(re.escape, (EVENTS, RUNNING, COMMANDS, STAGED))))
_LOG = re.compile(r"\d{4,}-[A-Za-z0-9._+-]+\.log")


class Records:
    """What is written about one run; without a directory it writes nothing.

    Attributes:
        id: Of the run: the name of its directory.
        path: Its directory; None if there are no records.
        warn: Says a sentence to people.
    """

    __slots__ = ("_commands", "_events", "_lock", "_log_path", "_logs", "id", "path", "warn")

    def __init__(self, name: str, warn: Callable[[str], None], log_dir: str | None = None) -> None:
        """Make the directory of a new run of the batch `name`; logs go below `log_dir`, if that is given."""
        self.warn = warn
        self._commands = self._events = self._lock = self._logs = -1
        self.path: str | None = None
        self.id = kept.run_name(name, "batch")
        try:
            base = base_dir()
            check_root(base)
            make_parents(os.path.join(base, "x"))
            if len(os.listdir(base)) > kept.KEPT_RUNS:
                prune(runs(), time.time())
            self.id = kept.make_numbered(base, self.id)
            self.path = os.path.join(base, self.id)
            self._lock = kept.open_in(self.path, RUNNING)
            try_lock(self._lock)
            self._commands = kept.open_in(self.path, COMMANDS)
            try_lock(self._commands)
            self._events = kept.open_in(self.path, EVENTS)
            self._open_logs(log_dir)
        except OSError as error:
            warn(f"nothing is kept of this run, and there are no logs: {error}")
            self.close(keep_lock=False)
            self.path = None

    def _open_logs(self, log_dir: str | None) -> None:
        assert self.path is not None
        path = os.path.join(self.path, LOGS)
        if log_dir is not None:
            os.makedirs(log_dir, exist_ok=True)
            path = os.path.join(os.path.abspath(log_dir), self.id)
        os.mkdir(path, 0o700)
        self._logs = open_directory(path) if DIRECTORY else -1
        self._log_path = path

    @property
    def kept(self) -> list[int]:
        """What commands inherit, so that one can be known to run after the run was killed."""
        return [self._commands] if self._commands >= 0 else []

    def write(self, event: dict[str, Any]) -> None:
        """Append an event. Raises nothing."""
        if self._events < 0:
            return
        try:
            os.write(self._events, f"{_json(event)}\n".encode())
        except OSError as error:
            self.warn(f"nothing more is kept of this run: {error}")
            close(self._events)
            self._events = -1

    def log(self, number: int, name: str) -> Output:
        """A new log for task `number`; where there can be none, a file without a name, or nothing at all."""
        try:
            if self.path is None:
                return Output.nameless()
            file = f"{number:04}-{kept.slug(name, 'batch')}.log"
            where: dict[str, int] = {"dir_fd": self._logs} if self._logs >= 0 else {}
            path = os.path.join(self._log_path, file)
            return Output(os.open(file if where else path, APPEND, 0o600, **where), path)
        except OSError as error:
            self.warn(f"there is no log of {name}: {error}")
            return Output(os.open(os.devnull, os.O_RDWR), None)

    def may_be_staged(self) -> None:
        """Note that from now on something of this run may lie beside a destination. Raises nothing."""
        if self.path is not None:
            try:
                close(kept.open_in(self.path, STAGED))
            except OSError:
                pass  # it is there

    def close(self, *, keep_lock: bool) -> None:
        """The run is over, and nothing of it is staged any more; if the lock stays, it was not."""
        for fd in (self._events, self._logs, self._commands, self._lock):
            if fd >= 0:
                close(fd)
        self._commands = self._events = self._logs = self._lock = -1
        if self.path is not None and not keep_lock:
            for name in (RUNNING, COMMANDS, STAGED):
                try:
                    os.unlink(os.path.join(self.path, name))
                except OSError:
                    pass


def base_dir() -> str:
    """The directory of all runs. Raises OSError: there is no home."""
    return os.path.join(state_dir(os.environ), "batches")


class Run:
    """An earlier run, as its records tell of it.

    Attributes:
        id: The name of its directory.
        path: Its directory.
        begin: Its first event.
    """

    __slots__ = ("begin", "id", "path")

    def __init__(self, path: str) -> None:
        """Read the first event. Raises OSError, or ValueError if there is none."""
        self.path = path
        self.id = os.path.basename(path)
        self.begin = next(self.events(), {})
        if self.begin.get("event") != "batch" or not isinstance(self.begin.get("t"), (int, float)):
            raise ValueError(f"{path} has no records of a batch")

    def events(self) -> Iterator[dict[str, Any]]:
        """All events that can be read: not the last line, if the machine stopped in the middle of it."""
        with open(os.path.join(self.path, EVENTS), "rb") as file:
            while line := file.readline(LONGEST_LINE):
                try:
                    event = json.loads(line)
                except (ValueError, RecursionError):
                    continue
                if isinstance(event, dict) and _is_ours(event):
                    yield event

    @property
    def lives(self) -> bool:
        """Whether its batch still runs."""
        return kept.is_locked(self.path, RUNNING)

    @property
    def has_commands(self) -> bool:
        """Whether a command of it still runs, or a daemon that one has left; or its batch."""
        return kept.is_locked(self.path, COMMANDS)

    @property
    def was_killed(self) -> bool:
        """Whether it never came to its end, and nobody has taken care of that."""
        return os.path.exists(os.path.join(self.path, RUNNING)) and not self.lives

    @property
    def is_staged(self) -> bool:
        """Whether something of it may still lie beside a destination."""
        return os.path.exists(os.path.join(self.path, STAGED))

    def append(self, events: list[dict[str, Any]]) -> None:
        """Append what another run has found out about it. Raises OSError."""
        fd = kept.open_in(self.path, EVENTS)
        try:
            # On a line of its own, whatever the machine left of the last one.
            os.write(fd, ("\n" + "".join(f"{json.dumps(event)}\n" for event in events)).encode())
        finally:
            close(fd)

    def amend(self, events: list[dict[str, Any]]) -> None:
        """Append the last of that, and note that it is over. Raises OSError."""
        self.append(events)
        for name in (RUNNING, COMMANDS, STAGED):
            try:
                os.unlink(os.path.join(self.path, name))
            except FileNotFoundError:
                pass


def _is_ours(event: dict[str, Any]) -> bool:
    """Whether `event` has the form that those who read records rely on."""
    identity = event.get("identity", [0, 0])
    return (
        all(isinstance(event.get(key, 0), int) for key in ("n", "pid"))
        and isinstance(event.get("t", 0), (int, float))
        and isinstance(identity, list)
        and [type(part) for part in identity] == [int, int]
        and (event.get("step") != "move" or "identity" in event)
    )


def runs() -> list[Run]:
    """The runs that there are records of, the newest first. Raises OSError."""
    base = base_dir()
    found = []
    for name in kept.names(base):
        try:
            found.append(Run(os.path.join(base, name)))
        except (OSError, ValueError):
            continue
    return sorted(found, key=lambda run: (run.begin["t"], run.id), reverse=True)


def prune(all_runs: list[Run], now: float) -> None:
    """Remove the records of runs that are too many or too old; none of which something runs or is staged.

    Raises nothing.
    """
    for place, run in enumerate(all_runs):
        is_wanted = place < kept.KEPT_RUNS and now - run.begin["t"] < kept.KEPT_S
        if is_wanted or run.lives or run.has_commands or run.is_staged:
            continue
        _remove(run.path)
    kept.remove_unborn(base_dir(), EVENTS, RUNNING, _remove)


def _remove(path: str) -> None:
    """Remove the names that we make in the directory `path` of a run, and it; nothing if others are there.

    Raises nothing.
    """
    logs = os.path.join(path, LOGS)
    try:
        if all(_FILE.fullmatch(name) or name == LOGS for name in os.listdir(path)):
            if os.path.lexists(logs):
                kept.remove_files(logs, _LOG)
            kept.remove_files(path, _FILE)
    except OSError:
        pass


def whoami() -> dict[str, Any]:
    """Which process this is, for the first event."""
    return {name: int(value) if name == "pid" else value for name, value in identity().items()}
