"""The driver: starts workers and `slot-run`s, and does to them what a machine does in a bad year.

In episodes, each of a few seconds: kills only; nothing at all, so that only releases end waits; processes
that are stopped for a while; the pool directory removed; a full disk (a pool of its own, `full`); wrong
clocks, with all killed at once before and after; rules of the pool that change while slots are held for long.
Rules change in most of the other ones, too, now and then. All that the driver and the workers choose comes
from the seed.
"""

from __future__ import annotations

import ctypes
import os
import random
import re
import shutil
import signal
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING

from bench import environ
from bench.abuse import marks
from bench.abuse.after import children_of, describe
from bench.abuse.crowd import Crowd
from bench.abuse.look import state
from bench.abuse.rulers import Ruler
from bench.abuse.setter import Setter
from bench.abuse.wishes import any_cap, any_priority, any_weight
from bench.abuse.worker import Worker
from bench.kit.installs import this

if TYPE_CHECKING:
    from collections.abc import Collection

    from bench.abuse.rulers import Mix

TOP = str(Path(__file__).resolve().parents[2])
PR_SET_CHILD_SUBREAPER = 36  # linux/prctl.h
TICK_S = 0.004
EPISODES = ("kills", "calm", "stops", "clocks", "kills", "removals", "rules", "kills", "full", "kills")
"""In what proportion they come, and in the first round in this order."""
LENGTH_S = {"kills": 8.0, "calm": 5.0, "stops": 12.0, "clocks": 4.0, "removals": 4.0, "full": 3.0}
LENGTH_S |= {"rules": 12.0}
KILLS_PER_S = {"kills": 60.0, "calm": 0.0, "stops": 4.0, "clocks": 20.0, "removals": 20.0, "full": 40.0}
KILLS_PER_S |= {"rules": 8.0}
CROWDS = 0.1
"""How many of the workers are one."""
TRACEBACK = re.compile(
    r'^  File "[^"]*(buildslots|slot-run).*\n(  .*\n)*(?!KeyboardInterrupt)\w[\w.]*(Error|Exception)\b',
    re.MULTILINE,
)
"""The end of a traceback through our code, but of an interrupted program; Python's own start may fail too."""
SHOWN = 4000
"""Characters of what went wrong that are shown."""
END_S = 60.0
"""When a process that was asked to come to an end counts as wedged."""


class Driver:
    """One run.

    Args:
        scratch: A directory for the table, and the pool.
        seed: Of all choices.
        slots: K.
        workers: How many workers there are at a time.
        mix: What is done beside.
    """

    def __init__(self, scratch: str, *, seed: int, slots: int, workers: int, mix: Mix) -> None:
        self.pool = os.path.join(scratch, "pool")
        self.table = marks.Table(os.path.join(scratch, "table"), workers)
        self.counts = {"kills": 0, "interrupts": 0, "terminations": 0, "stops": 0, "removals": 0, "wedged": 0}
        self.counts |= {"workers": 0, "crowds": 0, "slot-runs": 0, "full-disk builds": 0, "lookers": 0}
        self.counts["setters"] = 0
        self._mix = mix
        self.episodes = {name: 0 for name in EPISODES if mix.has_rules or name != "rules"}
        self.problems: list[str] = []
        self._seed = seed
        self._slots = slots
        self._random = random.Random(seed)
        self._ring = self.table.ring(0)
        self._scratch = scratch
        self._seats: dict[int, int] = {}  # pid of a worker: its seat
        self._slot_runs: set[int] = set()
        self._traced: set[int] = set()  # the straces of further ones
        self._full: set[int] = set()
        self._setters: set[int] = set()
        self._ruler = Ruler(mix, self._random, slots, self._set)
        self._stopped: set[int] = set()
        self._strace, self._flock = shutil.which("strace"), shutil.which("flock")

    def run(self, seconds: float, kills: int | None, *, length: float = 1.0) -> None:
        """Abuse the pool for `seconds`, or until so many `kills`; episodes are `length` times as long."""
        if ctypes.CDLL(None).prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0):
            raise SystemExit("cannot adopt orphans")
        until = time.monotonic() + seconds
        queue: list[str] = []
        while not self._over(until, kills):
            if not queue:
                queue = [name for name in EPISODES if name in self.episodes]
                if sum(self.episodes.values()):
                    self._random.shuffle(queue)
            episode = queue.pop(0)
            self.episodes[episode] += 1
            self._episode(episode, min(until, time.monotonic() + LENGTH_S[episode] * length), until, kills)
        self._end()

    def _over(self, until: float, kills: int | None) -> bool:
        return time.monotonic() >= until or (kills is not None and self.counts["kills"] >= kills)

    def _episode(self, name: str, end: float, until: float, kills: int | None) -> None:
        if name == "full":
            self._fill()
        if name == "clocks":
            # Nobody stays in line: a number of the future makes more of them for as long as there is a line.
            self.kill_all(but=self._full)
        self.table.clocks = name == "clocks"
        self.table.calm = name == "calm"
        self.table.patient = name in ("calm", "stops", "rules")
        self.table.slow = name == "rules"
        event = time.monotonic() + self._random.uniform(0.2, 0.6)  # of this kind of episode
        now = last = time.monotonic()
        while not self._over(min(end, until), kills):
            now, last = time.monotonic(), now
            self._reap()
            self._populate()
            self._maybe_kill(KILLS_PER_S[name] * (now - last))
            if name != "calm":
                self._maybe_annoy(now - last)
                self._ruler.maybe_set(name, now - last)
            if now >= event:
                event = now + self._event(name)
            time.sleep(TICK_S)
        self._continue_all()
        if name == "clocks":
            self.kill_all(but=self._full)

    def _event(self, name: str) -> float:
        """What this kind of episode is about; seconds until the next time."""
        if name == "removals":
            self._remove()
            return self._random.uniform(0.7, 1.8)
        if name == "rules":
            self._ruler.change(pauses=True)
            return self._random.uniform(0.3, 4.0)  # what is left so for a while can be judged
        if name == "stops":
            if self._stopped or self.table.stopping:
                self._continue_all()
                return self._random.uniform(0.1, 0.5)
            # Stopped at once, and then left so: only what does not change for a while can be judged.
            self.table.stopping = True
            self._ruler.maybe_set_slots()  # who does so may be stopped, too
            for pid in self._random.sample(
                sorted([*self._seats, *self._slot_runs]), self._random.randint(1, 5)
            ):
                self._stop(pid)
            time.sleep(0.1)
            self.table.stopping = False
            return self._random.uniform(2.0, 6.0)
        self._continue_all()  # who has stopped itself at the last moment
        return 0.5

    # --- who is there

    def _populate(self) -> None:
        """Fill empty seats, and start a `slot-run` or a looker now and then."""
        for seat in set(range(1, self.table.seats + 1)) - set(self._seats.values()):
            self._start_worker(seat)
        if len(self._slot_runs) < 4 and not self.table.calm and self._random.random() < 0.02:
            self._start_slot_run()
        if self._flock and not self.table.calm and self._random.random() < 0.002:
            slot = os.path.join(self.pool, f"slot-{self._random.randrange(self._slots)}")
            self._spawn([self._flock, "-n", slot, "sleep", "0.05"], quiet=True)
        if self._random.random() < 0.0004:
            look = self._random.choice((["status"], ["doctor"], ["status", "--json"]))
            command = [this().buildslots, *look]
            self._spawn(command, quiet=True)
            self.counts["lookers"] += 1

    def _start_worker(self, seat: int) -> None:
        self.counts["workers"] += 1
        seed = f"{self._seed}:{self.counts['workers']}"
        # Those who wait in memory have the numbers of their arrival, which are exact only by one right clock.
        kind = Crowd if self._random.random() < CROWDS and not self.table.clocks else Worker
        self.counts["crowds"] += kind is Crowd
        signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGINT])  # until it knows what to do then
        try:
            pid = os.fork()
            if pid == 0:
                kind(self.table, seat, self.pool, self._slots, seed, self._mix.priorities).run()
        finally:
            signal.pthread_sigmask(signal.SIG_UNBLOCK, [signal.SIGINT])
        self._seats[pid] = seat

    def _start_slot_run(self) -> None:
        rng = self._random
        cap = any_cap(rng, self._slots)
        weight = any_weight(rng, cap)
        command: list[str] = []
        if self._strace and rng.random() < 0.06:
            calls = rng.choice(("flock", "openat", "unlink", "write", "mknodat,mknod", "close"))
            which = f"inject={calls}:signal=KILL:when={rng.randint(1, 40)}"
            command = [self._strace, "-o", "/dev/null", "-e", f"trace={calls}", "-e", which]
        command += [this().slot_run, *([f"-n{cap}"] if cap > 0 else []), f"--weight={weight}", "-q"]
        command += ["--priority", any_priority(rng, self._mix.priorities)]
        if rng.random() < 0.2 and not self.table.patient:
            command += [
                "-t",
                f"{rng.uniform(0.1, 1.0):.2f}",
                "--on-timeout",
                rng.choice(("run", "paced", "fail")),
            ]
        else:
            command += ["-t", "none"]
        hold_s, daemon_s = rng.uniform(0, 0.1), rng.choice((0.0, 0.0, 0.0, rng.uniform(0.1, 1.0), 4.0))
        inner = [sys.executable, "-S", "-c", "from bench.abuse.command import main; main()", self.table.path]
        inner += [str(value) for value in (cap, time.monotonic_ns(), hold_s, daemon_s)]
        nested = [this().slot_run, f"-n{abs(cap)}", "-qt0", "--"] if rng.random() < 0.15 else []
        pid = self._spawn([*command, "--", *nested, *inner])
        (self._traced if command[0] == self._strace else self._slot_runs).add(pid)
        self.counts["slot-runs"] += 1

    def _spawn(self, command: list[str], *, quiet: bool = False) -> int:
        env = environ(self.pool) | {"PYTHONPATH": TOP, "XDG_STATE_HOME": os.path.join(self._scratch, "state")}
        log = os.open(os.path.join(self._scratch, "output"), os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
        out = os.open(os.devnull, os.O_WRONLY) if quiet else log
        try:
            actions = [(os.POSIX_SPAWN_DUP2, out, 1), (os.POSIX_SPAWN_DUP2, log, 2)]
            return os.posix_spawn(command[0], command, env, file_actions=actions)
        finally:
            os.close(log)
            if quiet:
                os.close(out)

    def _fill(self) -> None:
        """Let the disk be full, in a pool and a process of its own."""
        from bench.abuse import full  # noqa: PLC0415 - it has a command line of its own

        self.counts["full-disk builds"] += full.BUILDS
        directory = os.path.join(self._scratch, "full")
        os.makedirs(directory, exist_ok=True)
        self._full.add(self._spawn(full.command(directory, self._random.randrange(2**31))))

    def _reap(self) -> None:
        """Reap whoever has ended, orphans too."""
        while True:
            try:
                pid, status = os.waitpid(-1, os.WNOHANG)
            except ChildProcessError:
                return
            if not pid:
                return
            code = os.waitstatus_to_exitcode(status)
            self._ring.mark(marks.REAPED, pid, code)
            self.counts["kills"] += code == -signal.SIGKILL
            self._judge(pid, code)
            self._seats.pop(pid, None)
            for group in (self._slot_runs, self._traced, self._full, self._stopped, self._setters):
                group.discard(pid)

    def _judge(self, pid: int, code: int) -> None:
        """Note an end that nobody asked for."""
        if pid in self._full and code:
            self.problems.append(f"the full disk (process {pid}) ended with {code}")
        elif pid in self._seats and code not in (0, -signal.SIGKILL, -signal.SIGTERM):
            self.problems.append(f"worker {pid} ended with {code}")
        elif pid in self._setters and code not in (0, -signal.SIGKILL):
            self.problems.append(f"setter {pid} ended with {code}")
        elif pid in self._slot_runs and code in (125, 126, 127):
            self.problems.append(f"slot-run {pid} ended with {code}")

    # --- what is done to them

    def _maybe_kill(self, expected: float) -> None:
        """Kill with SIGKILL as many as are `expected` on average."""
        while self._random.random() < expected:
            expected -= 1.0
            victims = [*self._seats, *self._slot_runs, *self._setters]
            pid = self._random.choice(victims)
            if self._random.random() < 0.15:
                pid = self._random.choice([*children_of(pid), pid])
            self._ring.mark(marks.KILL, pid)
            self._send(pid, signal.SIGKILL)

    def _maybe_annoy(self, seconds: float) -> None:
        """Interrupt or terminate somebody now and then."""
        if self._random.random() < 4.0 * seconds:
            pid = self._random.choice([*self._seats, *self._slot_runs])
            self.counts["interrupts"] += 1
            if pid in self._slot_runs:
                self._ring.mark(marks.OVER, pid)
            self._send(pid, signal.SIGINT)
        if self._random.random() < 2.0 * seconds:
            pid = self._random.choice([*self._seats, *self._slot_runs])
            self.counts["terminations"] += 1
            self._ring.mark(marks.OVER, pid)
            self._send(pid, signal.SIGTERM)

    def _set(self, rule: int, value: int = 0) -> None:
        """Have somebody set a rule."""
        self.counts["setters"] += 1
        seed = f"{self._seed}:setter:{self.counts['setters']}"
        if (pid := os.fork()) == 0:
            Setter(self.table, self.pool, rule, value, seed).run()
        self._setters.add(pid)

    def _stop(self, pid: int) -> None:
        self._ring.mark(marks.STOP, pid)
        self._send(pid, signal.SIGSTOP)
        self._stopped.add(pid)
        self.counts["stops"] += 1

    def _continue_all(self) -> None:
        """Continue whoever is stopped, by us or by itself."""
        self.table.stopping = False
        for pid in [*self._seats, *self._slot_runs, *self._setters]:
            # One that is about to stop is continued too: with much to do a machine takes its time.
            if pid in self._stopped or state(pid) == "T":
                self._send(pid, signal.SIGCONT)
                self._ring.mark(marks.CONT, pid)
        self._stopped.clear()

    def _remove(self) -> None:
        """`rm -rf` of the pool directory, under everybody."""
        self.counts["removals"] += 1
        self._ring.mark(marks.REMOVE)
        if self._random.random() < 0.5:
            shutil.rmtree(self.pool, ignore_errors=True)
        else:
            aside = f"{self.pool}-{self.counts['removals']}"
            try:
                os.rename(self.pool, aside)
            except FileNotFoundError:
                pass
            shutil.rmtree(aside, ignore_errors=True)
        self._ring.mark(marks.REMOVED)

    def _send(self, pid: int, signum: int) -> None:
        try:
            os.kill(pid, signum)
        except ProcessLookupError:
            pass

    # --- the end

    def _end(self) -> None:
        """Ask all to come to an end, and see that they do."""
        self.table.finish, self.table.calm, self.table.patient = True, False, False
        deadline = time.monotonic() + END_S
        while (left := children_of(os.getpid())) and time.monotonic() < deadline:
            self._continue_all()
            self._reap()
            time.sleep(0.02)
        for pid in left:
            self.counts["wedged"] += 1
            self.problems.append(f"wedged: {describe(pid)}")
        output = Path(self._scratch, "output")  # of slot-runs and others, if there were any
        if output.exists() and TRACEBACK.search(output.read_text(errors="replace")):
            self.problems.append("a program of buildslots, which nobody interrupted, failed")
        for name in ("complaints", "output") if self.problems else ("complaints",):
            path = Path(self._scratch, name)
            if path.exists():
                self.problems.append(path.read_text()[-SHOWN:])
        self.kill_all()

    def kill_all(self, but: Collection[int] = ()) -> None:
        """Kill and reap every process below this one, and below those; `but` those."""
        while left := set(children_of(os.getpid())).difference(but):
            for pid in left:
                self._ring.mark(marks.KILL, pid)
                self._send(pid, signal.SIGKILL)
            self._reap()
            time.sleep(0.005)
