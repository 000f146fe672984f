"""Workers: processes that ask for slots, hold them and let go, at random, until somebody kills them.

They mark what they do (`marks`), some of it through an audit hook (PEP 578): the hook sees the tickets that
the process makes and the locks that it asks for, without asking buildslots, and is where a worker kills or
stops itself at an exact system call.
"""

from __future__ import annotations

import asyncio
import fcntl
import os
import random
import re
import signal
import subprocess
import sys
import time
import traceback
import warnings
from typing import TYPE_CHECKING

from bench.abuse import marks
from bench.kit.installs import this
from buildslots import SlotPool, SlotTimeoutError, build_slot

if TYPE_CHECKING:
    from collections.abc import Callable

    from buildslots import Slot

DAY_S = 86400
NESTED_S = 20.0
"""How long a `slot-run` under a slot may take, to whose command only its own start stands in the way."""
LONG_LIFE_S = 5.0
"""How long some forks of holders live: longer than a slot may stay locked after its owner has let go."""
CALLS = frozenset({"open", "os.remove", "os.listdir", "fcntl.flock", "os.mkdir"})
"""The audit events in which a worker may kill or stop itself."""
TICKET = re.compile(r"\d{20}-\d+")
MODES = (
    *(marks.EVER,) * 11,
    *(marks.ONCE,) * 3,
    *(marks.FAIL,) * 3,
    marks.RUN,
    marks.PACED,
)


class Worker:
    """One worker, in a process of its own; `run` does not return.

    Args:
        table: Where it marks what it does.
        seat: Its ring.
        directory: The pool.
        slots: K of most workers.
        seed: Of all that it chooses.
    """

    def __init__(self, table: marks.Table, seat: int, directory: str, slots: int, seed: str) -> None:
        self._table = table
        self._ring = table.ring(seat)
        self._directory = directory
        self._slots = slots
        self._random = random.Random(seed)
        self._log = os.path.join(os.path.dirname(table.path), "complaints")
        self._driver = os.getppid()
        self._children: list[int] = []
        self._interruptible = False
        self._watching = False
        self._in_block = False
        self._before_ns = 0
        self._ticket = ""
        self._left: set[str] = set()  # descriptors that an interrupt has leaked
        self._calls = 0
        self._fatal_call = 0
        self._fatal_signal = signal.SIGKILL

    def run(self) -> None:
        """Act until the end of the run, or of a random number of builds."""
        try:
            self._ring.mark(marks.BORN, c=os.getppid())
            signal.signal(signal.SIGINT, self._interrupt)
            signal.pthread_sigmask(signal.SIG_UNBLOCK, [signal.SIGINT])
            signal.signal(signal.SIGTERM, signal.SIG_DFL)
            warnings.simplefilter("always")
            warnings.showwarning = self._warned
            sys.unraisablehook = self._unraisable
            sys.addaudithook(self._audit)
            if self._random.random() < 0.05:
                self._skew_clock(self._random.choice((-DAY_S, DAY_S)))
            if self._random.random() < 0.06:
                self._lock_as_others_do()
            builds = self._random.randint(5, 60)
            while self._goes_on() and (builds > 0 or self._table.calm):
                builds -= 1
                self._build()
                self._reap()
        except BaseException:  # noqa: BLE001 - whatever it is, it is what this program looks for
            self._complain(traceback.format_exc())
        finally:
            os._exit(0)

    def _goes_on(self) -> bool:
        """Whether the run does; not if the driver is gone."""
        return not self._table.finish and os.getppid() == self._driver

    def _build(self) -> None:
        """Ask for slots in one of the ways there are, hold them, let go."""
        rng = self._random
        cap = rng.choice((*(self._slots,) * 8, max(1, self._slots - 1), self._slots + 1))
        weight = rng.randint(1, cap) if rng.random() < 0.2 else 1
        mode = marks.EVER if self._table.patient else rng.choice(MODES)
        timeout_s = {marks.ONCE: 0.0, marks.EVER: None}.get(mode, rng.uniform(0.05, 0.8))
        self._in_block = mode != marks.ONCE and rng.random() < 0.1
        self._plan(40)
        timeout_ns = -1 if timeout_s is None else int(timeout_s * 1e9)
        self._ring.mark(marks.CALL, cap, weight, timeout_ns, mode)
        self._before_ns = time.monotonic_ns()
        slot: Slot | None = None
        release: Callable[[], None] | None = None
        interrupted = False
        try:
            self._interruptible = self._watching = True
            slot, release = self._acquire(cap, weight, timeout_s, mode)
        except SlotTimeoutError:
            pass
        except KeyboardInterrupt:
            interrupted = True
        finally:
            self._interruptible = self._watching = False
        if slot is None or release is None:
            self._ring.mark(marks.NOSLOT, self._leftovers() if interrupted else 0)
            return
        if not interrupted:
            self._hold(slot, cap)
        self._ring.mark(marks.END)
        self._plan(8)
        try:
            self._interruptible = self._watching = True
            release()
        except KeyboardInterrupt:
            pass
        finally:
            self._interruptible = self._watching = False
        self._ring.mark(marks.IDLE)

    def _acquire(
        self, cap: int, weight: int, timeout_s: float | None, mode: int
    ) -> tuple[Slot | None, Callable[[], None]]:
        """A slot, and what lets go of it."""
        on_timeout = {marks.RUN: "run", marks.PACED: "paced"}.get(mode, "fail")
        pool = SlotPool(dir=self._directory, slots=cap, timeout=timeout_s, on_timeout=on_timeout)
        if mode == marks.ONCE:
            tried = pool.try_acquire(weight=weight)
            return tried, tried.release if tried else lambda: None
        if self._in_block:
            block = build_slot(
                dir=self._directory, slots=cap, timeout=timeout_s, on_timeout=on_timeout, weight=weight
            )
            slot = block.__enter__()
            return slot, lambda: block.__exit__(None, None, None)
        if self._random.random() < 0.03:
            slot = asyncio.run(pool.acquire_async(weight=weight))
        else:
            slot = pool.acquire(weight=weight)
        return slot, slot.release

    def _hold(self, slot: Slot, cap: int) -> None:
        """Mark and hold the slot, and do under it what builds do."""
        if slot.nested:
            self._complain(f"nested in nothing: {slot}")
        if slot.number is None or slot.nested:
            self._ring.mark(marks.DEGRADED)
        else:
            how = marks.OVERFLOW if slot.overflow else marks.NORMAL
            self._ring.mark(marks.START, cap, slot.weight, self._before_ns, how)
        doing = self._random.random()
        try:
            self._interruptible = True
            time.sleep(min(self._random.expovariate(100), 0.2))
            if self._in_block:
                self._nest(slot, cap)
            if doing < 0.02:
                SlotPool(dir=self._directory, slots=cap).status()
        except KeyboardInterrupt:
            pass
        finally:
            self._interruptible = False
        if 0.02 <= doing < 0.07:
            self._fork()
        elif 0.07 <= doing < 0.075:
            self._run_nested(slot, cap)

    def _nest(self, slot: Slot, cap: int) -> None:
        """A block within the block: the same slot."""
        with build_slot(dir=self._directory, slots=cap, timeout=0, on_timeout="run") as inner:
            if slot.number is not None and (not inner.nested or inner.number != slot.number):
                self._complain(f"not nested: {inner} in {slot}")
            if inner.nested:
                self._ring.mark(marks.NESTED)

    def _run_nested(self, slot: Slot, cap: int) -> None:
        """`slot-run` under our slot, which does not wait for another."""
        command = [this().slot_run, "--dir", self._directory, f"-n{cap}", "-qt5", "--", "true"]
        status = subprocess.run(command, env=slot.environ(), timeout=NESTED_S, check=False).returncode
        if status not in (0, -signal.SIGKILL, -signal.SIGTERM):
            self._complain(f"slot-run under a slot ended with {status}")
        if status == 0 and slot.number is not None:
            self._ring.mark(marks.NESTED)

    def _fork(self) -> None:
        """Fork while we hold a slot: a child that lives on for a while with copies of all descriptors."""
        life_s = self._random.choice((0.0, 0.05, self._random.uniform(0.1, 0.6), LONG_LIFE_S))
        parent = os.getpid()
        child = os.fork()
        if child:
            self._children.append(child)
            return
        ring = self._table.short_ring()
        ring.mark(marks.BORN, c=parent)
        ring.mark(marks.COPY, a=parent, c=self._before_ns)
        until = time.monotonic() + life_s
        while time.monotonic() < until and not self._table.finish:
            time.sleep(min(life_s, 0.05))
        ring.mark(marks.END)
        os._exit(0)

    def _lock_as_others_do(self) -> None:
        """Lock slot files as flock(1) does, knowing nothing else of the protocol."""
        while self._goes_on():
            time.sleep(self._random.uniform(0.05, 0.2))
            if self._table.calm:
                continue
            path = f"{self._directory}/slot-{self._random.randrange(self._slots)}"
            self._before_ns = time.monotonic_ns()
            try:
                fd = os.open(path, os.O_RDWR | os.O_CREAT, 0o600)
            except OSError:
                continue  # the pool was removed
            try:
                fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
                if os.path.samestat(os.stat(path), os.fstat(fd)):
                    self._ring.mark(marks.START, 0, 1, self._before_ns, marks.FOREIGN)
                    time.sleep(self._random.uniform(0.0, 0.1))
                    self._ring.mark(marks.END)
            except OSError:
                pass  # locked, or removed
            os.close(fd)
            self._ring.mark(marks.IDLE)

    def _plan(self, calls: int) -> None:
        """Choose whether, and at which of the next `calls` system calls, to kill or stop ourselves."""
        self._calls = 0
        self._fatal_call = self._random.randint(1, calls) if self._random.random() < 0.12 else 0
        self._fatal_signal = self._random.choice((signal.SIGKILL, signal.SIGSTOP))

    def _audit(self, event: str, args: tuple[object, ...]) -> None:
        """See what this process does in the pool while it asks or lets go."""
        if not self._watching or event not in CALLS:
            return
        interruptible, self._interruptible = self._interruptible, False
        self._see(event, args)
        self._calls += 1
        if self._calls == self._fatal_call:
            pid = os.getpid()
            if self._fatal_signal == signal.SIGKILL:
                self._ring.mark(marks.KILL, a=pid)
                os.kill(pid, signal.SIGKILL)
            elif self._table.stopping:
                self._ring.mark(marks.STOP, a=pid)
                os.kill(pid, signal.SIGSTOP)
        self._interruptible = interruptible

    def _see(self, event: str, args: tuple[object, ...]) -> None:
        """Mark that a ticket is made or given up, and note when an exclusive lock was last asked for."""
        if event == "fcntl.flock":
            fd, operation = args
            if operation == fcntl.LOCK_EX | fcntl.LOCK_NB:
                self._before_ns = time.monotonic_ns()  # of the slot, at last: others are counted after that
            elif operation == fcntl.LOCK_UN and self._ticket and self._is_ticket(fd):
                self._ring.mark(marks.LEAVE, c=int(self._ticket.partition("-")[0]))
                self._ticket = ""
        elif event == "open" and isinstance(args[0], str) and isinstance(args[2], int):
            name = os.path.basename(args[0])  # all there is of it, if the directory was named by a descriptor
            if args[2] & os.O_EXCL and TICKET.fullmatch(name):
                self._ticket = name
                number, _, limit = name.partition("-")
                self._ring.mark(marks.JOIN, int(limit), c=int(number))

    def _is_ticket(self, fd: object) -> bool:
        path = f"{self._directory}/queue/{self._ticket}"
        return os.readlink(f"/proc/self/fd/{fd}").removesuffix(" (deleted)") == path

    def _interrupt(self, _signum: int, _frame: object) -> None:
        if self._interruptible:
            self._interruptible = False
            raise KeyboardInterrupt

    def _leftovers(self) -> int:
        """How many more descriptors an interrupted wait has left open; complain if they have locks."""
        left = set()
        for fd in os.listdir("/proc/self/fd"):
            try:
                target = os.readlink(f"/proc/self/fd/{fd}")
                with open(f"/proc/self/fdinfo/{fd}") as info:
                    locked = "FLOCK" in info.read()
            except OSError:
                continue  # that of the listing itself
            if target.startswith(self._directory):
                left.add(fd)
                if locked and fd not in self._left:
                    self._complain(f"left locked by an interrupted wait: {target}")
        new, self._left = len(left - self._left), left
        return new

    def _reap(self) -> None:
        for child in list(self._children):
            if os.waitpid(child, os.WNOHANG)[0]:
                self._children.remove(child)

    def _skew_clock(self, seconds: int) -> None:
        """Let the wall clock of this process, and it alone, be wrong."""
        right, right_ns = time.time, time.time_ns
        time.time = lambda: right() + seconds
        time.time_ns = lambda: right_ns() + seconds * 10**9

    def _warned(self, message: Warning | str, *_: object, **__: object) -> None:
        # An UnthrottledWarning is counted by its mark; the reasons are for whoever wonders.
        with open(self._log + "-warnings", "a") as log:
            log.write(f"{os.getpid()}: {message}\n")

    def _unraisable(self, what: sys.UnraisableHookArgs) -> None:
        # An interrupt may come in a __del__ and is dropped there; an event loop's has trouble with that.
        text = "".join(traceback.format_exception(what.exc_type, what.exc_value, what.exc_traceback))
        if "/buildslots/" in text and what.exc_type is not KeyboardInterrupt:
            self._complain(text)

    def _complain(self, text: str) -> None:
        with open(self._log, "a") as log:
            log.write(f"{time.monotonic():.6f} worker {os.getpid()}: {text}\n")
