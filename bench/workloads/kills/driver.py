"""The driver: runs the three batches at once, again and again, and kills them.

By SIGKILL at a random moment of their lives; at a random system call, where there is strace; sometimes all of
them at once, so that only orphans run. Some are left alone. Whatever it does it writes into its notes.
"""

from __future__ import annotations

import contextlib
import ctypes
import json
import os
import random
import shutil
import signal
import subprocess
import time
from pathlib import Path

from bench.abuse.look import Look
from bench.kit.installs import this
from bench.workloads.kills import look, plans
from bench.workloads.kills.story import note

PR_SET_CHILD_SUBREAPER = 36  # linux/prctl.h
TICK_S = 0.005
LIMIT_S = 60.0
"""When a run counts as stuck."""
SLOTS = 2
CALLS = (
    ("?renameat2,?rename,?renameat", 5, 3),
    ("?mkdir,?mkdirat", 10, 2),
    ("?unlink,?unlinkat,?rmdir", 25, 3),
    ("write", 40, 6),
    ("openat", 560, 1),
)
"""Calls at which a batch is killed, how many of these it makes in its life, and how often we choose them."""
SHOWN = 1500
"""Characters of the stderr of a run that is noted."""


class Batch:
    """One of the batches.

    Attributes:
        generation: Of its plan.
        n: Of its run, from 1.
        process: Of the run, or of strace around it; None between runs.
        how: How the run is to end: "time", "call" or "none".
        kill_at: Monotonic time of its kill.
    """

    def __init__(self, plan: str) -> None:
        self.plan = plan
        self.generation = 1
        self.n = 0
        self.process: subprocess.Popen[bytes] | None = None
        self.how = "none"
        self.kill_at = self.began = 0.0
        self.life_s = 1.5  # of a run that is left alone

    def pid(self) -> int | None:
        """The process of the batch itself; None if there is none yet, or any more."""
        assert self.process is not None
        if self.how != "call":
            return self.process.pid
        children = f"/proc/{self.process.pid}/task/{self.process.pid}/children"
        with contextlib.suppress(OSError):
            for child in Path(children).read_text().split():
                words = Path(f"/proc/{child}/cmdline").read_bytes().split(b"\0")
                if b"--resume" in words and b"-b" not in words:  # and not yet, or no longer, strace itself
                    return int(child)
        return None


class Driver:
    """One run.

    Args:
        scratch: A directory for everything.
        seed: Of all choices.
        pace: How long tasks take, against the usual.
    """

    def __init__(self, scratch: str, *, seed: int, pace: float = 1.0) -> None:
        self.kills = {"at a moment": 0, "at a system call": 0, "all at once": 0}
        self.runs = 0
        self._beside = 0
        self._scratch = scratch
        self._seed = seed
        self._pace = pace
        self._random = random.Random(seed)
        self._batches = [Batch(plan) for plan in plans.PLANS]
        self._strace = shutil.which("strace")
        self._environ = {
            k: v for k, v in os.environ.items() if not k.startswith(("BUILD_", "MAX_CONCURRENT_"))
        }
        self._environ |= {name: os.path.join(scratch, where) for name, where in (
            ("BUILD_SLOTS_DIR", "pool"), ("XDG_STATE_HOME", "state"), ("XDG_CONFIG_HOME", "config"),
        )} | {"MAX_CONCURRENT_BUILDS": str(SLOTS)}  # fmt: skip
        for name in ("ledger", "notes"):
            Path(scratch, name).write_text("\n" if name == "ledger" else "")
        for plan in plans.PLANS:
            os.makedirs(os.path.join(scratch, "out", plan))

    def run(self, seconds: float, kills: int, *, beside: int) -> None:
        """Kill batches for `seconds`, or until so many `kills`, and then let each come to its end.

        Process `beside` is another child of this one, which is left alone.
        """
        self._beside = beside
        if ctypes.CDLL(None).prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0):
            raise SystemExit("cannot adopt orphans")
        until = time.monotonic() + seconds
        all_at = self._random.randint(3, 6)
        while time.monotonic() < until and sum(self.kills.values()) < kills:
            for batch in self._batches:
                self._attend(batch)
            if sum(self.kills.values()) >= all_at and self._may_kill_all():
                all_at = sum(self.kills.values()) + self._random.randint(8, 14)
                self._kill_all()
            time.sleep(TICK_S)
        self._end()

    def _attend(self, batch: Batch) -> None:
        """Start a run, or kill it when its time has come, or see how it has ended."""
        if batch.process is None:
            self._start(batch)
        elif batch.process.poll() is not None:
            self.kills["at a system call"] += batch.process.returncode == -signal.SIGKILL
            self._ended(batch)
        elif batch.how == "time" and time.monotonic() >= batch.kill_at:
            self._kill(batch, "at a moment")
        elif time.monotonic() >= batch.began + LIMIT_S:
            self._stuck(batch)
        self._reap()

    def _start(self, batch: Batch, how: str | None = None) -> None:
        """Start the next run of `batch`, which is to end as `how` says."""
        draw = self._random.random()
        by_call = "call" if self._strace else "time"
        batch.how = how or ("none" if draw < 0.08 else by_call if draw < 0.5 else "time")
        batch.n += 1
        self.runs += 1
        batch.began = time.monotonic()
        batch.kill_at = batch.began + self._random.uniform(0.1, 1.2 * batch.life_s)
        plan = plans.write(batch.plan, batch.generation, self._scratch, seed=self._seed, pace=self._pace)
        if plans.how_late(batch.plan, batch.generation) and self._random.random() < 0.5:
            self._clear_late()
        command = [this().buildslots, "batch", "--resume", plan]
        if batch.how == "call":
            call, most, _ = self._random.choices(CALLS, [often for *_, often in CALLS])[0]
            inject = f"inject={call}:signal=KILL:when={self._random.randint(1, most)}"
            command = [
                self._strace or "", "-f", "-qqq", "-b", "execve", "-e", f"trace={call}", "-e", inject,
                "-o", os.path.join(self._scratch, f"{batch.plan}.trace"), "--", *command,
            ]  # fmt: skip
        note(
            self._scratch,
            "run",
            plan=batch.plan,
            generation=batch.generation,
            n=batch.n,
            how=batch.how,
            command=command,
        )
        with open(self._output(batch), "wb") as output:
            batch.process = subprocess.Popen(
                command, env=self._environ, stdin=subprocess.DEVNULL, stdout=output, stderr=output
            )

    def _output(self, batch: Batch) -> str:
        return os.path.join(self._scratch, f"{batch.plan}.output")

    def _clear_late(self) -> None:
        """Remove what a task has put where its stage was to go, or that stage."""
        path = plans.late(self._scratch)
        if os.path.isdir(path):
            shutil.rmtree(path)
        else:
            Path(path).unlink(missing_ok=True)

    def _kill(self, batch: Batch, why: str) -> None:
        if (pid := batch.pid()) is not None:
            os.kill(pid, signal.SIGKILL)
            self._wait(batch)
            self.kills[why] += 1
            self._ended(batch)
            if self._random.random() < 0.25:
                self._look_at_slots(is_alone=False)

    def _may_kill_all(self) -> bool:
        """Whether all batches run, and a task of theirs."""
        if any(batch.process is None for batch in self._batches):
            return False
        lines = Path(self._scratch, "ledger").read_text().split("\n")
        return sum(line.startswith("start") for line in lines) > sum(line.startswith("end") for line in lines)

    def _kill_all(self) -> None:
        """Kill all batches, and look at the slots while only orphans run."""
        killed = []
        for batch in self._batches:
            if batch.process is not None and (pid := batch.pid()) is not None:
                os.kill(pid, signal.SIGKILL)
                killed.append(batch)
        for batch in killed:
            self._wait(batch)
            self.kills["all at once"] += 1
            self._ended(batch)
        if is_alone := len(killed) == len(self._batches):
            self._probe_slots()
        self._look_at_slots(is_alone=is_alone)

    def _wait(self, batch: Batch) -> None:
        """Wait for the end of a run that was killed; orphans are reaped meanwhile."""
        assert batch.process is not None
        while batch.process.poll() is None:
            self._reap()
            time.sleep(TICK_S)

    def _probe_slots(self) -> None:
        """Note which slots are locked, when no batch is there that our own locks could disturb."""
        began = time.monotonic_ns()
        pool = Look(self._environ["BUILD_SLOTS_DIR"])
        names = [os.path.basename(path) for what, path in pool.left_locked() if what == "slot"]
        holders = [{"slots": [int(name.removeprefix("slot-"))], "orphaned": True} for name in names]
        note(self._scratch, "status", began=began, holders=holders, is_alone=True)

    def _look_at_slots(self, *, is_alone: bool) -> None:
        """Note who has slots; `is_alone` if no batch runs."""
        began = time.monotonic_ns()
        command = [this().buildslots, "status", "--json"]
        result = subprocess.run(command, env=self._environ, capture_output=True, text=True, check=True)
        holders = json.loads(result.stdout)["holders"]
        note(self._scratch, "status", began=began, holders=holders, is_alone=is_alone)

    def _ended(self, batch: Batch) -> None:
        """A run has ended: note it, and go on with the next generation if this one is done."""
        assert batch.process is not None
        status = batch.process.returncode
        batch.process = None
        killed = status == -signal.SIGKILL
        output = Path(self._output(batch)).read_text(errors="replace")
        seen: dict[str, object] = {}
        for path in plans.destinations(batch.plan, self._scratch):
            try:
                seen[os.path.basename(path)] = look.generation(path)
            except look.HalfError as error:
                seen[os.path.basename(path)] = str(error)
        about = {
            "plan": batch.plan,
            "generation": batch.generation,
            "n": batch.n,
            "status": status,
            "seen": seen,
        }
        about["late"] = os.path.isdir(plans.late(self._scratch))
        traceback = "Traceback" in output
        note(
            self._scratch,
            "end",
            **about,
            killed=killed,
            how=batch.how,
            traceback=traceback,
            stderr=output[-SHOWN:],
        )
        if not killed:
            batch.life_s = 0.5 * (batch.life_s + time.monotonic() - batch.began)
        if not killed or self._random.random() < 0.1:
            batch.generation += 1
            if batch.plan == "whole":
                self._clear_late()

    def _stuck(self, batch: Batch) -> None:
        """A run does not end: note it, and kill it."""
        output = Path(self._output(batch)).read_text(errors="replace")
        note(
            self._scratch,
            "stuck",
            plan=batch.plan,
            generation=batch.generation,
            n=batch.n,
            stderr=output[-SHOWN:],
        )
        if (pid := batch.pid()) is not None:
            os.kill(pid, signal.SIGKILL)

    def _reap(self) -> None:
        """Reap the orphans that have ended, but no run: its exit status is asked for elsewhere."""
        ours = {batch.process.pid for batch in self._batches if batch.process is not None} | {self._beside}
        with contextlib.suppress(ChildProcessError):
            while ended := os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOHANG | os.WNOWAIT):
                if ended.si_pid in ours:
                    return
                os.waitpid(ended.si_pid, 0)

    def _end(self) -> None:
        """Let each batch run once more, undisturbed, to its end."""
        for batch in self._batches:
            if batch.process is not None:
                self._kill(batch, "at a moment")
        for batch in self._batches:
            while plans.how_late(batch.plan, batch.generation):
                batch.generation += 1
            self._clear_late()
            self._start(batch, "none")
        left = {batch.plan for batch in self._batches}
        while left:
            for batch in self._batches:
                if batch.plan in left and batch.process is None:
                    left.discard(batch.plan)
                elif batch.plan in left:
                    self._attend(batch)
            time.sleep(TICK_S)
        self._reap()

    def kill_all(self) -> None:
        """End whatever runs."""
        for pid, _ in look.processes(self._scratch):
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        self._reap()
