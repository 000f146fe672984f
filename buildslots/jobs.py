"""Detached builds: for each a directory, which `slot-run --detach` makes and `buildslots wait` reads.

    STATE/jobs/PROGRAM-TIME/job.json   how it was started: written once, by rename, before anything runs
                            log        what slot-run and the command print; 0600, its middle cut out if it
                                       gets too long
                            keeper     locked while the keeper lives, the process that writes down the end;
                                       says which process that is, and which one is slot-run
                            build      locked while slot-run lives, or its command, or a daemon that it left
                            started    the command runs: since when, and its process
                            ended      when, and with which status

`started` and `ended` come by rename too, of files that are made and filled with blanks before anything runs:
a disk that is full by then has place for them. A keeper that is killed leaves its lock, and so everybody who
looks sees that nobody will write `ended`: the build is *lost*. After a reboot it is too, and the machine's
boot id says why.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import time
from fnmatch import fnmatchcase
from typing import TYPE_CHECKING, Any, NamedTuple

from buildslots import kept
from buildslots.disk.lock import try_lock
from buildslots.disk.records import write
from buildslots.files import PLAIN, check_root, close, make_parents
from buildslots.printed import APPEND
from buildslots.processes import boot_id, identity, lives, start_of
from buildslots.settings.places import state_dir

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

JOB, LOG, KEEPER, BUILD, STARTED, ENDED = "job.json", "log", "keeper", "build", "started", "ended"
NEW = ".new"
"""What the name of a file ends with that is to be renamed."""
NOTE = 512
"""Bytes of `keeper`, `started` and `ended`, filled up with blanks."""
LONGEST = 2**20
"""Bytes of a file that are read: nothing of ours is longer."""
COMMAND_CHARACTERS = 4096
"""So much of a command line is kept for people; the build is known by the hash of all of it."""
WAITING, RUNNING, FINISHED, LOST = "waiting", "running", "ended", "lost"
_FILE = re.compile(
    "|".join(re.escape(n + e) for n in (JOB, LOG, KEEPER, BUILD, STARTED, ENDED) for e in ("", NEW))
)

VOLATILE = (
    # The shell, the terminal and the window that somebody sits at.
    *("_", "SHLVL", "PWD", "OLDPWD", "HIST*", "PS[1-4]", "PROMPT_COMMAND", "LS_COLORS", "COLUMNS", "LINES"),
    *(
        "TERM",
        "TERM_*",
        "COLORTERM",
        "WINDOWID",
        "WINDOW",
        "STY",
        "TMUX*",
        "ITERM_*",
        "KITTY_*",
        "WT_SESSION",
    ),
    *("DISPLAY", "WAYLAND_DISPLAY", "XAUTHORITY", "SSH_*", "GPG_*", "DBUS_*", "XDG_SESSION_*"),
    *("VSCODE_*", "INVOCATION_ID", "JOURNAL_STREAM", "SYSTEMD_EXEC_PID", "WSL_INTEROP"),
    # Which agent it is, and in which session; and what is said to slot-run itself.
    *("CLAUDE*", "CODEX_*", "GEMINI_CLI*", "CURSOR_*", "COPILOT_*", "OPENCODE*", "AGENT_*", "AI_AGENT"),
    *("BUILD_SLOT*", "MAX_CONCURRENT_BUILDS*"),
)
"""Variables, as patterns of fnmatch(3), that make no other build of the same command. All others do: a build
that is started once too often costs less than the result of another one."""


class State(NamedTuple):
    """What is known of a detached build at one moment.

    Attributes:
        word: WAITING, RUNNING, FINISHED or LOST.
        started: Unix time since when the command runs, or None.
        ended: Unix time of its end, or None.
        status: Its exit status, or minus the signal it died of; None if there is none, or nobody knows.
        lives: Whether something of it still runs.
        why: What has become of one that is lost.
    """

    word: str
    started: float | None = None
    ended: float | None = None
    status: int | None = None
    lives: bool = False
    why: str = ""

    @property
    def goes_on(self) -> bool:
        """Whether its end is still to come, and will be known."""
        return self.word in (WAITING, RUNNING)


class Job:
    """A detached build.

    Attributes:
        id: The name of its directory.
        path: Its directory.
        began: Unix time at which it was started.
        command: Its arguments, the last one "…" if more were left out.
        cwd: Its directory.
        top: The top of its worktree.
        key: What tells it from other builds.
    """

    __slots__ = ("_boot", "began", "command", "cwd", "id", "key", "path", "top")

    def __init__(self, path: str) -> None:
        """Read how it was started. Raises OSError, or ValueError if that is not written there."""
        self.path = path
        self.id = os.path.basename(path)
        about = _read(os.path.join(path, JOB))
        began, command = about.get("t"), about.get("command")
        texts = [about.get(name) for name in ("cwd", "top", "key", "boot")]
        texts += command if isinstance(command, list) else [None]
        if not isinstance(began, (int, float)) or not all(isinstance(text, str) for text in texts):
            raise ValueError(f"{path} has no records of a build")
        self.began = float(began)
        self.cwd, self.top, self.key, self._boot, *self.command = map(str, texts)

    @property
    def log(self) -> str:
        """The path of its log."""
        return os.path.join(self.path, LOG)

    @property
    def has_keeper(self) -> bool:
        """Whether somebody will write down how it ends."""
        return kept.is_locked(self.path, KEEPER)

    def processes(self) -> dict[str, str]:
        """Which process its keeper is or was, as `processes.identity` has it, and slot-run's pid as "build".

        Empty if that is not written down.
        """
        return {str(name): str(value) for name, value in self._note(KEEPER).items()}

    def command_lives(self) -> bool:
        """Whether the process of the command, which is known to have started, lives."""
        started = self._note(STARTED)
        who = {**identity(), "pid": str(started.get("pid")), "start": str(started.get("start"))}
        return lives(who, _seconds(started, "t"))

    def state(self) -> State:
        """What is known of it now."""
        had_keeper = self.has_keeper
        started = _seconds(self._note(STARTED), "t")
        ended = self._note(ENDED)  # read last: what a keeper has written before it ended is there by now
        if "t" in ended:
            status = ended.get("status")
            if isinstance(status, int):
                return State(FINISHED, started, _seconds(ended, "t"), status)
            return self._lost(started, "slot-run was killed")
        if had_keeper:
            return State(WAITING if started is None else RUNNING, started, lives=True)
        if (boot_id() or "") != self._boot:
            return State(LOST, started, why="the machine was restarted before its end")
        return self._lost(started, "its keeper was killed")

    def _lost(self, started: float | None, why: str) -> State:
        is_alive = kept.is_locked(self.path, BUILD)
        if is_alive:
            why += "; what it started still runs" if started is not None else "; it waits or runs on"
        elif started is None:
            why += " before the command started"
        return State(LOST, started, lives=is_alive, why=why)

    def _note(self, name: str) -> dict[str, Any]:
        """What the small file `name` says; nothing if it says nothing, or is not there."""
        try:
            return _read(os.path.join(self.path, name))
        except (OSError, ValueError):
            return {}

    def note_keeper(self, build: int) -> None:
        """Write down that this process is its keeper, and `build` slot-run. Raises OSError."""
        fd = os.open(os.path.join(self.path, KEEPER), os.O_WRONLY | PLAIN)
        try:
            write(fd, _filled({**identity(), "build": build}))
        finally:
            close(fd)

    def note_started(self, pid: int) -> None:
        """Write down that the command runs, as process `pid`. Raises nothing: the build goes on."""
        self._rename(STARTED, {"t": time.time(), "pid": pid, "start": start_of(pid)})

    def note_ended(self, status: int | None) -> None:
        """Write down how it ended; None if nobody knows. Raises nothing: it is lost then."""
        self._rename(ENDED, {"t": time.time(), "status": status})

    def _rename(self, name: str, about: dict[str, Any]) -> None:
        path = os.path.join(self.path, name)
        try:
            fd = os.open(path + NEW, os.O_WRONLY | PLAIN)
            try:
                write(fd, _filled(about))
            finally:
                close(fd)
            os.rename(path + NEW, path)
        except OSError:
            pass


class Made(NamedTuple):
    """A build that nothing runs of yet, with the descriptors that its processes are to have.

    Attributes:
        job: The build.
        keeper: The locked file of its keeper.
        build: The locked file of slot-run and its command.
        log: The log.
    """

    job: Job
    keeper: int
    build: int
    log: int


def make(command: Sequence[bytes], name: str) -> Made:
    """Make the directory of a new build, of what this process would run. Raises OSError: nothing is left.

    Args:
        command: Its arguments.
        name: What it is called.
    """
    base = base_dir()
    path = os.path.join(base, kept.make_numbered(base, kept.run_name(name, "build")))
    opened: list[int] = []
    try:
        for file in (KEEPER, BUILD):
            opened.append(
                os.open(os.path.join(path, file), os.O_RDWR | os.O_CREAT | os.O_EXCL | PLAIN, 0o600)
            )
            try_lock(opened[-1])
        write(opened[0], _filled({}))
        opened.append(os.open(os.path.join(path, LOG), APPEND, 0o600))
        for file in (STARTED, ENDED):
            _write(os.path.join(path, file + NEW), _filled({}))
        cwd = os.getcwd()
        about = {
            "v": 1,
            "t": time.time(),
            "command": _shortened([os.fsdecode(word) for word in command]),
            "cwd": cwd,
            "top": top_of(cwd),
            "key": key_of(command),
            "boot": boot_id() or "",
        }
        _write(os.path.join(path, JOB + NEW), f"{json.dumps(about)}\n".encode())
        os.rename(os.path.join(path, JOB + NEW), os.path.join(path, JOB))
        return Made(Job(path), *opened)
    except BaseException:
        for fd in opened:
            close(fd)
        remove(path)
        raise


def base_dir() -> str:
    """The directory of all detached builds. Raises OSError: there is no home."""
    return os.path.join(state_dir(os.environ), "jobs")


def make_base() -> str:
    """Make that directory if it is missing: its path. Raises OSError."""
    base = base_dir()
    check_root(base)
    make_parents(os.path.join(base, "x"))
    return base


def every() -> list[Job]:
    """The builds that there are records of, the newest first. Raises OSError."""
    return sorted(_every(base_dir()), key=lambda job: (job.began, job.id), reverse=True)


def _every(base: str) -> Iterator[Job]:
    for name in kept.names(base):
        try:
            yield Job(os.path.join(base, name))
        except (OSError, ValueError):
            continue


def prune(found: list[Job]) -> None:
    """Remove the records of builds that are too many or too old, of which nothing runs. Raises nothing.

    Args:
        found: All, the newest first.
    """
    now = time.time()
    for place, job in enumerate(found):
        is_wanted = place < kept.KEPT_RUNS and now - job.began < kept.KEPT_S
        if not (is_wanted or job.has_keeper or kept.is_locked(job.path, BUILD)):
            remove(job.path)
    kept.remove_unborn(base_dir(), JOB, KEEPER, remove)


def remove(path: str) -> None:
    """Remove the files that we make in the directory `path`, and it; nothing if others are there.

    Raises nothing.
    """
    try:
        if all(map(_FILE.fullmatch, os.listdir(path))):
            kept.remove_files(path, _FILE)
    except OSError:
        pass


def key_of(command: Sequence[bytes]) -> str:
    """What is the same for the same command, in the same directory, with the same environment that matters.

    A hash, because the environment has secrets in it. Raises OSError: the directory is gone.
    """
    parts = [b"%d" % len(command), *command, os.getcwdb()]
    parts += sorted(os.fsencode(f"{name}={value}") for name, value in os.environ.items() if _matters(name))
    return hashlib.sha256(b"\0".join(parts)).hexdigest()


def _matters(name: str) -> bool:
    return not any(fnmatchcase(name, pattern) for pattern in VOLATILE)


def top_of(cwd: str) -> str:
    """The top of the git worktree that `cwd` is in; `cwd` itself if it is in none."""
    at = cwd
    while not os.path.lexists(os.path.join(at, ".git")):
        above = os.path.dirname(at)
        if above == at:
            return cwd
        at = above
    return at


def _shortened(command: list[str]) -> list[str]:
    room = COMMAND_CHARACTERS
    for count, argument in enumerate(command):
        room -= len(argument)
        if room < 0:
            return [*command[:count], "…"]
    return command


def _seconds(about: Mapping[str, Any], name: str) -> float | None:
    value = about.get(name)
    return float(value) if isinstance(value, (int, float)) and 0 <= value < 1e12 else None


def _filled(about: dict[str, Any]) -> bytes:
    return json.dumps(about).encode().ljust(NOTE)


def _write(path: str, text: bytes) -> None:
    fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | PLAIN, 0o600)
    try:
        write(fd, text)
    finally:
        close(fd)


def _read(path: str) -> dict[str, Any]:
    """The JSON object in the file at `path`. Raises OSError or ValueError."""
    fd = os.open(path, os.O_RDONLY | PLAIN)
    try:
        about = json.loads(os.read(fd, LONGEST))
    except RecursionError:
        about = None
    finally:
        close(fd)
    if not isinstance(about, dict):
        raise ValueError(f"{path} has no records")  # noqa: TRY004 - it is the text that is wrong
    return about
