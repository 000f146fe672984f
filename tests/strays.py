"""Processes that keep a slot although what took it was killed."""

from __future__ import annotations

import os
import signal
from typing import TYPE_CHECKING

import psutil
from builds import DEADLINE_S, Build, script, wait_until

from buildslots.disk import records

if TYPE_CHECKING:
    from builds import Pool

DAEMON = "setsid sleep 1000"


class Strays:
    """Makes such processes in a pool, and ends them."""

    def __init__(self, pool: Pool) -> None:
        self._pool = pool
        self._processes: list[psutil.Process] = []

    def leave(self, daemon: str = DAEMON, *options: str, ready: str = "sleep") -> psutil.Process:
        """What is left when slot-run and its build, which started `daemon`, were killed with SIGKILL.

        `ready` is the name that the daemon, or a process that it starts, has once it is what it will be.
        """
        text = f"{daemon} >/dev/null 2>&1 & echo $!; read line"
        build = self._pool.popen(script("slot-run"), "-n1", *options, "--", "sh", "-c", text)
        process = psutil.Process(int(build.started()))
        self._processes.append(process)
        wait_until(lambda: ready in names(self.tree(process)), f"a {ready}")
        self._processes += self.tree(process)
        shell = psutil.Process(build.pid).children()[0]
        self._kill_slot_run(build)
        shell.kill()
        wait_until(lambda: is_gone(shell), "the end of the build")
        return process

    def orphan(self, *command: str, **popen: object) -> psutil.Process:
        """The build that runs on when its slot-run, alone, was killed with SIGKILL."""
        build = self._pool.popen(script("slot-run"), "-n1", "--", *command, **popen)
        build.started()
        process = psutil.Process(build.pid).children()[0]
        self._processes.append(process)
        self._kill_slot_run(build)
        return process

    def _kill_slot_run(self, build: Build) -> None:
        """End slot-run with SIGKILL, and not its build, once the record says what that is."""
        wait_until(lambda: "child" in self._record(build.pid), "the build in the record")
        os.kill(build.pid, signal.SIGKILL)
        build.process.wait(DEADLINE_S)

    def _record(self, pid: int) -> dict[str, str]:
        found = (records.read(str(path)) or {} for path in self._pool.dir.glob("**/holders/slot-*"))
        return next((record for record in found if record.get("pid") == str(pid)), {})

    @staticmethod
    def tree(process: psutil.Process) -> list[psutil.Process]:
        """`process` and those below it."""
        return [process, *process.children(recursive=True)]

    def end(self) -> None:
        """End all that was left, and what that has started."""
        for process in self._processes:
            end_tree(process)


def names(processes: list[psutil.Process]) -> list[str]:
    """The names of those of `processes` that have not ended meanwhile."""
    found = []
    for process in processes:
        try:
            found.append(process.name())
        except psutil.NoSuchProcess:
            pass
    return found


def end_tree(process: psutil.Process) -> None:
    """End `process`, if it has not ended, and those below it."""
    try:
        tree = Strays.tree(process)
    except psutil.NoSuchProcess:
        return
    for one in tree:
        try:
            one.kill()
        except psutil.NoSuchProcess:
            pass
    wait_until(lambda: all(is_gone(one) for one in tree), "their end")


def is_gone(process: psutil.Process) -> bool:
    """Whether `process` has ended, reaped by its new parent or not."""
    try:
        return not process.is_running() or process.status() == psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return True
