"""Random builds of all tools, killed, stopped and continued at random; `judge` says what came of it."""

from __future__ import annotations

import contextlib
import os
import random
import signal
import subprocess
import time
from collections import Counter
from typing import TYPE_CHECKING

from bench.kit.installs import this
from bench.tokens import projects
from bench.tokens.builds import TICK_S, Build, Yard, below, signal_all
from bench.tokens.hunger import Hunger
from bench.tokens.judge import Notes

if TYPE_CHECKING:
    from collections.abc import Callable

    from bench.tokens.tools import Tool

LONGEST_S = 60.0
"""A build that takes longer, in which nothing was stopped for good, hangs."""
STOPPED_S = 0.1, 1.2
"""How long a build stays stopped."""
JOBS_MS = 5, 15, 40, 100, 250
PATIENT = 0.15
"""How many builds have long jobs."""


class Chaos:
    """One run.

    Attributes:
        counts: What was done, and how often.
        notes: For the judge.
        problems: What went wrong, in words.
        hunger: Who was hungry while tokens were free.
    """

    def __init__(self, yard: Yard, tools: dict[str, Tool], seed: int, *, rate: float, live: int) -> None:
        """A run in `yard`: `rate` events a second, and so many builds at once."""
        self.counts: Counter[str] = Counter()
        self.notes = Notes()
        self.problems: list[str] = []
        self.hunger = Hunger(yard)
        self._yard, self._tools, self._rate, self._live = yard, list(tools.values()), rate, live
        self._random = random.Random(seed)
        self._continue: list[tuple[float, Build, int, list[int]]] = []
        self._beside: list[subprocess.Popen[bytes]] = []
        self._actions: tuple[tuple[str, float, Callable[[Build], bool]], ...] = (
            ("slot-run killed", 1.0, self._kill_slot_run),
            ("tool killed", 1.0, self._kill_tool),
            ("sub-make killed", 1.0, self._kill_make_below),
            ("job killed", 1.5, self._kill_job),
            ("build killed", 1.0, self._kill_build),
            ("interrupted", 0.5, self._interrupt),
            ("Ctrl-Z and fg", 2.0, self._suspend),
            ("stopped whole", 0.7, lambda build: self._stop(build, build.group)),
            ("tool and jobs stopped", 0.7, self._stop_below),
            ("cleaner", 0.7, self._clean),
        )

    def run(self, builds: int) -> None:
        """Start so many builds, and see all of them end."""
        due = time.monotonic() if self._rate else float("inf")
        while True:
            self._yard.reap()
            live = self._yard.live()
            if len(self._yard.builds) < builds and len(live) < self._live:
                self._start()
                continue
            if not live and len(self._yard.builds) == builds:
                break
            if time.monotonic() >= due:
                due = time.monotonic() + self._random.expovariate(self._rate)
                self._act(live)
            self._go_on()
            self.hunger.look(live, {id(build) for _, build, *_ in self._continue})
            self._find_stuck(live)
            time.sleep(TICK_S)
        for process in self._beside:
            process.wait()
        self.notes.ended = {build.number: build.ended for build in self._yard.builds}
        self._check_ends()

    def _start(self) -> None:
        """Start a random build."""
        draw = self._random
        number, tool = len(self._yard.builds), draw.choice(self._tools)
        usual = draw.choice(JOBS_MS if draw.random() < PATIENT else JOBS_MS[:4])

        def jobs(most: int) -> tuple[int, ...]:
            return tuple(max(1, int(usual * draw.uniform(0.5, 1.5))) for _ in range(draw.randint(1, most)))

        makes = draw.randint(1, 3) if tool.kind == "make" and draw.random() < 0.4 else 0
        work = projects.Work(jobs(4 if tool.kind == "cargo" else 20), tuple(jobs(8) for _ in range(makes)))
        where = self._yard.root / "builds" / str(number)
        project = projects.write(where, tool, work, self._yard.table, number)
        if tool.kind != "cargo" and draw.random() < 0.3:
            project.command.append("-k" if tool.kind == "make" else "-k0")
        self._yard.start(project, number, draw.randint(1, 9), by_option=draw.random() < 0.3)
        self.counts[f"builds of {tool.name}"] += 1

    def _act(self, live: list[Build]) -> None:
        names, weights, acts = zip(*self._actions, strict=True)
        at = self._random.choices(range(len(acts)), weights)[0]
        stopped = {id(build) for _, build, *_ in self._continue}
        able = [build for build in live if id(build) not in stopped and build.status is None]
        if able and acts[at](self._random.choice(able)):
            self.counts[names[at]] += 1

    # What may be done to a build: whether it was.

    def _kill_slot_run(self, build: Build) -> bool:
        if build.client() is None:
            return False  # nothing would be built
        os.kill(build.group, signal.SIGKILL)  # not reaped yet: `reap` is ours
        build.hurt.append("slot-run")
        return True

    def _kill_tool(self, build: Build) -> bool:
        client = build.client()
        if client is None or not _kill(client):
            return False
        self.notes.orphaned[build.number] = time.monotonic_ns()
        build.hurt.append("tool")
        return True

    def _kill_make_below(self, build: Build) -> bool:
        makes = build.makes_below()
        if not makes or not _kill(self._random.choice(makes)):
            return False
        # Its jobs go on without it, and it is not known here which those are.
        self.notes.orphaned.setdefault(build.number, time.monotonic_ns())
        build.hurt.append("sub-make")
        return True

    def _kill_job(self, build: Build) -> bool:
        table = self._yard.table
        jobs = [job for job in table.running(max(0, len(table) - 500)) if job.build == build.number]
        if not jobs:
            return False
        job = self._random.choice(jobs)
        with contextlib.suppress(OSError):
            fd = os.pidfd_open(job.pid)
            try:
                if table.one(job.number).end:
                    return False  # the pid may be another's by now
                at = time.monotonic_ns()
                signal.pidfd_send_signal(fd, signal.SIGKILL)
            finally:
                os.close(fd)
            self.notes.killed.setdefault(job.number, at)
            build.hurt.append("job")
            return True
        return False

    def _kill_build(self, build: Build) -> bool:
        self._note_killed(build)
        signal_all(build, signal.SIGKILL)
        build.hurt.append("build")
        return True

    def _interrupt(self, build: Build) -> bool:
        self._note_killed(build)  # jobs die of it as well, and do not say when
        os.killpg(build.group, self._random.choice((signal.SIGINT, signal.SIGTERM, signal.SIGHUP)))
        build.hurt.append("interrupted")
        return True

    def _note_killed(self, build: Build) -> None:
        """Until now its jobs have run."""
        at = time.monotonic_ns()
        self.notes.ending.setdefault(build.number, at)
        for job in self._jobs(build):
            self.notes.killed.setdefault(job, at)

    def _jobs(self, build: Build) -> list[int]:
        """The numbers of its jobs that run."""
        table = self._yard.table
        return [job.number for job in table.running(max(0, len(table) - 500)) if job.build == build.number]

    def _suspend(self, build: Build) -> bool:
        return self._stop(build, build.group, signal.SIGTSTP)

    def _stop_below(self, build: Build) -> bool:
        """Stop all of it but slot-run."""
        client = build.client()
        if client is None:
            return False
        pids = [client, *below(client)]
        return self._stop(build, build.group, signal.SIGSTOP, pids)

    def _stop(
        self, build: Build, group: int, signum: int = signal.SIGSTOP, pids: list[int] | None = None
    ) -> bool:
        """Stop its group, or these `pids` of it, for a while."""
        table = self._yard.table
        at = time.monotonic_ns()
        for pid in pids or [-group]:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signum)
        stopped = []
        for number in self._jobs(build):
            with contextlib.suppress(ProcessLookupError):
                if pids is None and os.getpgid(table.one(number).pid) != group:
                    continue  # ninja gives each job a group of its own, and they run on
                if pids is not None and table.one(number).pid not in pids:
                    continue
                self.notes.stopped.setdefault(number, []).append((at, 0))
                stopped.append(number)
        build.hurt.append("stopped")
        until = time.monotonic() + self._random.uniform(*STOPPED_S)
        self._continue.append((until, build, group, stopped))
        return True

    def _go_on(self) -> None:
        """Continue those whose time has come."""
        for entry in [entry for entry in self._continue if entry[0] <= time.monotonic()]:
            _, build, _, stopped = entry
            self._continue.remove(entry)
            before = time.monotonic_ns()
            if not build.ended:
                signal_all(build, signal.SIGCONT)
            at = time.monotonic_ns()
            self.notes.continued.setdefault(build.number, []).append(before)
            for number in stopped:
                since, _ = self.notes.stopped[number][-1]
                self.notes.stopped[number][-1] = since, at

    def _clean(self, build: Build) -> bool:
        """Somebody looks, or runs something: whoever finds what the dead have left removes it."""
        del build
        looks = [[this().buildslots, "status"], [this().buildslots, "status", "--json"]]
        runs = [*self._yard.slot_run(), "true"]
        command = self._random.choice([*looks, runs])
        quiet = subprocess.DEVNULL
        process = subprocess.Popen(command, env=self._yard.environ, stdin=quiet, stdout=quiet, stderr=quiet)
        self._beside.append(process)
        return True

    # What went wrong.

    def _find_stuck(self, live: list[Build]) -> None:
        for build in live:
            if time.monotonic_ns() - build.began > LONGEST_S * 1e9 and "stuck" not in build.hurt:
                build.hurt.append("stuck")
                shown = build.output.read_text(errors="replace")[-300:]
                self.problems.append(f"{_told(build)} does not end: {shown!r}")
                self._note_killed(build)
                signal_all(build, signal.SIGKILL)

    def _check_ends(self) -> None:
        """Who was left alone has done all of its jobs, once each, and ended well."""
        done = Counter(job.build for job in self._yard.table.jobs())
        for build in self._yard.builds:
            gentle = set(build.hurt) <= {"stopped", "slot-run"}
            ended = build.status == 0 or (build.hurt and build.status == -signal.SIGKILL)
            if gentle and not (ended and done[build.number] == build.project.count):
                shown = build.output.read_text(errors="replace")[-300:]
                count = f"{done[build.number]} of {build.project.count} jobs"
                self.problems.append(f"{_told(build)} ended with {build.status}, {count}: {shown!r}")


def _told(build: Build) -> str:
    hurt = f" ({', '.join(build.hurt)})" if build.hurt else ""
    return f"build {build.number}, {build.project.tool.name} -j{build.jobs}{hurt}"


def _kill(pid: int) -> bool:
    try:
        os.kill(pid, signal.SIGKILL)
    except ProcessLookupError:
        return False
    return True
