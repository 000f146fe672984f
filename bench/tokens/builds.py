"""Builds of projects under slot-run, in process groups of their own, and signals for parts of them.

A build is a job of this program as it would be one of a shell: its group is in our session, so that Ctrl-Z, a
SIGTSTP to the group, stops it. Orphans come to us (PR_SET_CHILD_SUBREAPER), and are reaped here.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import signal
import subprocess
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from bench import environ
from bench.kit.installs import this
from bench.kit.shell import forget_settings

if TYPE_CHECKING:
    from bench.tokens.projects import Project
    from bench.tokens.table import Table

PR_SET_CHILD_SUBREAPER = 36  # linux/prctl.h
TICK_S = 0.01
END_S = 30.0
"""So long a build may take to end after a SIGKILL to all of it."""


@dataclass
class Build:
    """A build that was started.

    Attributes:
        number: By which its jobs are known.
        project: What it builds.
        jobs: Its -j.
        process: Its slot-run.
        began: When it was started, in ns of CLOCK_MONOTONIC.
        ended: When its last process had gone; 0 if it has not.
        status: The exit status of slot-run, or minus a signal; None while it runs.
        hurt: What was done to it.
        output: Where its output goes.
    """

    number: int
    project: Project
    jobs: int
    process: subprocess.Popen[bytes]
    began: int
    output: Path
    ended: int = 0
    status: int | None = None
    hurt: list[str] = field(default_factory=list)

    @property
    def group(self) -> int:
        """Its process group, and the pid of its slot-run."""
        return self.process.pid

    def client(self) -> int | None:
        """The pid of the tool below slot-run; None if there is none."""
        return next(iter(children(self.group)), None)

    def makes_below(self) -> list[int]:
        """The pids of the makes that the build's own make has started."""
        client = self.client()
        return [] if client is None else [pid for pid in below(client) if name_of(pid) == "make"]

    def is_over(self) -> bool:
        """Whether nothing of it is left; its jobs may have groups of their own, which are not asked for."""
        if self.status is None:
            return False
        try:
            os.killpg(self.group, 0)
        except ProcessLookupError:
            return True
        return False


class Yard:
    """Where builds run: a pool, a table, and an environment of their own.

    Attributes:
        table: What their jobs mark.
        environ: Of each of them.
        cap: C, the tokens; 0 for none.
        root: The directory with everything.
    """

    def __init__(self, root: Path, table: Table, cap: int, slots: int = 64) -> None:
        """One in the existing directory `root`."""
        self.root, self.table, self.cap, self._slots = root, table, cap, slots
        self.builds: list[Build] = []
        forget_settings(root)
        self.pool, self.runtime = root / "pool", root / "runtime"
        self.runtime.mkdir(mode=0o700, exist_ok=True)
        self.environ = environ(self.pool) | {"XDG_RUNTIME_DIR": str(self.runtime)}
        for name in ("MAKEFLAGS", "MAKELEVEL", "CARGO_MAKEFLAGS", "CARGO_BUILD_JOBS"):
            self.environ.pop(name, None)
        ctypes.CDLL(None).prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)

    def slot_run(self, *options: str) -> list[str]:
        """The beginning of a command line, with tokens if there are any."""
        tokens = [f"--tokens={self.cap}"] if self.cap else []
        return [this().slot_run, "-q", f"-n{self._slots}", "-t", "none", *tokens, *options, "--"]

    def start(self, project: Project, number: int, jobs: int, *, by_option: bool = False) -> Build:
        """Start a build with that -j, or `by_option` with slot-run's --jobs; of cargo always so."""
        command, tool = project.command, project.tool
        if not self.cap:
            whole = [*command[:1], *command[1:], f"-j{jobs}"]
        elif by_option or tool.kind == "cargo":
            whole = [*self.slot_run("--jobs", str(jobs)), *command]
        else:
            whole = [*self.slot_run(), command[0], f"-j{jobs}", *command[1:]]
        output = project.directory / "output"
        with output.open("wb") as file:
            process = subprocess.Popen(
                whole,
                cwd=project.directory,
                env=self.environ | project.environ,
                stdin=subprocess.DEVNULL,
                stdout=file,
                stderr=file,
                process_group=0,
            )
        build = Build(number, project, jobs, process, time.monotonic_ns(), output)
        self.builds.append(build)
        return build

    def live(self) -> list[Build]:
        """The builds of which something is left."""
        return [build for build in self.builds if not build.ended]

    def reap(self) -> None:
        """Reap whatever has ended, and note which builds are over."""
        with contextlib.suppress(ChildProcessError):
            while (ended := os.waitpid(-1, os.WNOHANG))[0]:
                pid, status = ended
                for build in self.builds:
                    if build.group == pid and build.status is None:
                        build.status = build.process.returncode = os.waitstatus_to_exitcode(status)
        for build in self.live():
            if build.is_over():
                build.ended = time.monotonic_ns()

    def wait(self, deadline_s: float, *builds: Build) -> bool:
        """Wait until `builds` are over (all, if none are named): whether that came within so many seconds."""
        until = time.monotonic() + deadline_s
        while any(not build.ended for build in builds or self.builds):
            if time.monotonic() > until:
                return False
            self.reap()
            time.sleep(TICK_S)
        return True

    def end(self) -> None:
        """End whatever is left."""
        for build in self.live():
            signal_all(build, signal.SIGKILL)
        self.wait(END_S)

    def held(self) -> set[int]:
        """The tokens that are held, by the kernel's word: the bytes that are locked (proc_locks(5))."""
        try:
            inode = os.stat(self.stock).st_ino
        except FileNotFoundError:
            return set()
        found: set[int] = set()
        for line in Path("/proc/locks").read_text().splitlines():
            words = line.split()
            if words[1] == "OFDLCK" and words[3] == "WRITE" and int(words[5].rpartition(":")[2]) == inode:
                first, last = int(words[6]), words[7]
                found.update(range(first, first + 1 if last == "EOF" else int(last) + 1))
        return found

    @property
    def stock(self) -> Path:
        """The file with the tokens."""
        return self.pool / "tokens"

    def left(self) -> list[str]:
        """What is left on disk of builds that are over."""
        places = [self.root / "pool" / "builds", self.runtime]
        files = (path for place in places for path in place.rglob("*") if not path.is_dir())
        return [str(path.relative_to(self.root)) for path in files]


def signal_all(build: Build, signum: int) -> None:
    """Signal every process of `build`, and those below it that have left its group, as ninja's jobs have."""
    pids = below(build.group)
    with contextlib.suppress(ProcessLookupError):
        os.killpg(build.group, signum)
    for pid in pids:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signum)


def children(pid: int) -> list[int]:
    """The children of process `pid` (proc_pid_children in proc(5))."""
    found: list[int] = []
    with contextlib.suppress(OSError):
        for task in os.listdir(f"/proc/{pid}/task"):
            found += map(int, Path(f"/proc/{pid}/task/{task}/children").read_text().split())
    return found


def below(pid: int) -> list[int]:
    """All processes below `pid`."""
    found = children(pid)
    for each in found:
        found += children(each)
    return found


def name_of(pid: int) -> str:
    """The name of a process; "" if it has gone."""
    try:
        return Path(f"/proc/{pid}/comm").read_text().strip()
    except OSError:
        return ""
