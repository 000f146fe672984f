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
from bench.abuse.wishes import Wish, any_wish
from bench.kit.installs import this
from buildslots import SlotPool, SlotTimeoutError, build_slot

if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

    from buildslots import Slot

DAY_S = 86400
WRONG_CLOCKS = 0.5
"""How many workers have one, where there are any."""
NESTED_S = 20.0
"""How long a `slot-run` under a slot may take, to whose command only its own start stands in the way."""
LONG_LIFE_S = 5.0
"""How long some forks of holders live: longer than a slot may stay locked after its owner has let go."""
CALLS = frozenset({"open", "os.remove", "os.listdir", "fcntl.flock", "os.mkdir"})
"""The audit events in which a worker may kill or stop itself."""
SLOW, SLOW_S = 0.1, (0.2, 3.0)
"""How many builds hold their slots for long where some do, and for how long."""
TICKET = re.compile(r"\d{20}-\d+")


class Worker:
    """One worker, in a process of its own; `run` does not return.

    Args:
        table: Where it marks what it does.
        seat: Its ring.
        directory: The pool.
        slots: K of most workers.
        seed: Of all that it chooses.
        priorities: How many of those that wait have one.
    """

    def __init__(  # noqa: PLR0913, PLR0917 - what a worker is told
        self, table: marks.Table, seat: int, directory: str, slots: int, seed: str, priorities: float
    ) -> None:
        self._table = table
        self.ring = table.ring(seat)
        self._directory = directory
        self._slots = slots
        self._priorities = priorities
        self._random = random.Random(seed)
        self._log = os.path.join(os.path.dirname(table.path), "complaints")
        self._driver = os.getppid()
        self._children: list[int] = []
        self._interruptible = False
        self._watching = False
        self._in_block = False
        self._before_ns = 0
        self._ticket = ""
        self._joins = False
        self._left: set[str] = set()  # descriptors that an interrupt has leaked
        self._calls = 0
        self._fatal_call = 0
        self._fatal_signal = signal.SIGKILL

    def run(self) -> None:
        """Act until the end of the run, or of a random number of builds."""
        try:
            self.ring.mark(marks.BORN, c=os.getppid())
            signal.signal(signal.SIGINT, self._interrupt)
            signal.pthread_sigmask(signal.SIG_UNBLOCK, [signal.SIGINT])
            signal.signal(signal.SIGTERM, signal.SIG_DFL)
            warnings.simplefilter("always")
            warnings.showwarning = self._warned
            sys.unraisablehook = self._unraisable
            sys.addaudithook(self._audit)
            self._be_odd()
            builds = self._random.randint(5, 60)
            while self.goes_on() and (builds > 0 or self._table.calm):
                builds -= 1
                self._build()
                self._reap()
        except BaseException:  # noqa: BLE001 - whatever it is, it is what this program looks for
            self.complain(traceback.format_exc())
        finally:
            os._exit(0)

    def _be_odd(self) -> None:
        """Have a wrong clock, or know nothing of the protocol, perhaps."""
        if self._table.clocks and self._random.random() < WRONG_CLOCKS:
            self._skew_clock(self._random.choice((-DAY_S, DAY_S)))
        if self._random.random() < 0.06:
            self._lock_as_others_do()

    def goes_on(self) -> bool:
        """Whether the run does; not if the driver is gone."""
        return not self._table.finish and os.getppid() == self._driver

    def _build(self) -> None:
        """Ask for slots in one of the ways there are, hold them, let go."""
        wish = self.wish(self._random)
        self._in_block = wish.mode != marks.ONCE and self._random.random() < 0.1
        self._plan(40)
        wish.mark(self.ring)
        self._before_ns = time.monotonic_ns()
        slot: Slot | None = None
        release: Callable[[], None] | None = None
        interrupted = refused = False
        try:
            self._interruptible = self._watching = True
            slot, release = self._acquire(wish)
        except SlotTimeoutError:
            refused = True
        except KeyboardInterrupt:
            interrupted = True
        finally:
            self._interruptible = self._watching = False
        if slot is None or release is None:
            self.ring.mark(marks.NOSLOT, len(self._leftovers()) if interrupted else 0, refused)
            return
        if not interrupted:
            self._hold(slot, wish)
        self.ring.mark(marks.END)
        self._plan(8)
        try:
            self._interruptible = self._watching = True
            release()
        except KeyboardInterrupt:
            pass
        finally:
            self._interruptible = self._watching = False
        self.ring.mark(marks.IDLE)

    def wish(self, rng: random.Random) -> Wish:
        """What one of this process may ask for."""
        return any_wish(rng, self._slots, self._priorities, patient=self._table.patient)

    def _acquire(self, wish: Wish) -> tuple[Slot | None, Callable[[], None]]:
        """A slot, and what lets go of it."""
        pool = SlotPool(
            dir=self._directory, slots=wish.slots, timeout=wish.timeout_s, on_timeout=wish.on_timeout
        )
        what: Any = {"weight": wish.weight, "priority": wish.priority}
        if wish.mode == marks.ONCE:
            tried = pool.try_acquire(weight=wish.weight)
            return tried, tried.release if tried else lambda: None
        if self._in_block:
            block = build_slot(pool, timeout=wish.timeout_s, on_timeout=wish.on_timeout, **what)
            slot = block.__enter__()
            return slot, lambda: block.__exit__(None, None, None)
        if self._random.random() < 0.03:
            slot = asyncio.run(pool.acquire_async(**what))
        else:
            slot = pool.acquire(**what)
        return slot, slot.release

    def _hold(self, slot: Slot, wish: Wish) -> None:
        """Mark and hold the slot, and do under it what builds do."""
        self.mark_start(slot, wish.cap, self._before_ns)
        doing = self._random.random()
        try:
            self._interruptible = True
            slow = self._table.slow and self._random.random() < SLOW
            time.sleep(self._random.uniform(*SLOW_S) if slow else min(self._random.expovariate(100), 0.2))
            if self._in_block:
                self._nest(slot, wish)
            if doing < 0.02:
                SlotPool(dir=self._directory, slots=wish.slots).status()
        except KeyboardInterrupt:
            pass
        finally:
            self._interruptible = False
        if 0.02 <= doing < 0.07:
            self._fork()
        elif 0.07 <= doing < 0.075:
            self._run_nested(slot, wish)

    def mark_start(self, slot: Slot, cap: int, before_ns: int, task: int = 0) -> None:
        """Mark what was got."""
        if slot.nested:
            self.complain(f"nested in nothing: {slot}")
        if slot.number is None or slot.nested:
            self.ring.mark(marks.DEGRADED, task=task)
        else:
            how = marks.OVERFLOW if slot.overflow else marks.NORMAL
            self.ring.mark(marks.START, cap, slot.weight, before_ns, how, task)

    def _nest(self, slot: Slot, wish: Wish) -> None:
        """A block within the block: the same slot."""
        with build_slot(dir=self._directory, slots=wish.slots, timeout=0, on_timeout="run") as inner:
            self.mark_nested(slot, inner)

    def mark_nested(self, slot: Slot, inner: Slot) -> None:
        """Mark that `inner` was got within `slot`, and complain if it is another one."""
        if slot.number is not None and (not inner.nested or inner.number != slot.number):
            self.complain(f"not nested: {inner} in {slot}")
        if inner.nested:
            self.ring.mark(marks.NESTED)

    def _run_nested(self, slot: Slot, wish: Wish) -> None:
        """`slot-run` under our slot, which does not wait for another."""
        command = [this().slot_run, "--dir", self._directory, f"-n{abs(wish.cap)}", "-qt5", "--", "true"]
        status = subprocess.run(command, env=slot.environ(), timeout=NESTED_S, check=False).returncode
        if status not in (0, -signal.SIGKILL, -signal.SIGTERM):
            self.complain(f"slot-run under a slot ended with {status}")
        if status == 0 and slot.number is not None:
            self.ring.mark(marks.NESTED)

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
        while self.goes_on():
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
                    self.ring.mark(marks.START, 0, 1, self._before_ns, marks.FOREIGN)
                    time.sleep(self._random.uniform(0.0, 0.1))
                    self.ring.mark(marks.END)
            except OSError:
                pass  # locked, or removed
            os.close(fd)
            self.ring.mark(marks.IDLE)

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
                self.ring.mark(marks.KILL, a=pid)
                os.kill(pid, signal.SIGKILL)
            elif self._table.stopping:
                self.ring.mark(marks.STOP, a=pid)
                os.kill(pid, signal.SIGSTOP)
        self._interruptible = interruptible

    def _see(self, event: str, args: tuple[object, ...]) -> None:
        """Mark that a ticket is made or given up, and note when an exclusive lock was last asked for."""
        if event == "fcntl.flock":
            fd, operation = args
            if operation == fcntl.LOCK_EX | fcntl.LOCK_NB:
                self._before_ns = time.monotonic_ns()  # of the slot, at last: others are counted after that
            elif operation == fcntl.LOCK_UN and self._ticket and self._is_ticket(fd):
                self.ring.mark(marks.LEAVE, c=int(self._ticket.partition("-")[0]))
                self._ticket = ""
        elif event == "open" and self._joins and os.path.basename(str(args[0])) == "rules":
            self._joins = False
            self.ring.mark(marks.READY)  # whoever looks reads the rules, and has joined before that
        elif event == "open" and isinstance(args[0], str) and isinstance(args[2], int):
            name = os.path.basename(args[0])  # all there is of it, if the directory was named by a descriptor
            if args[2] & os.O_EXCL and TICKET.fullmatch(name):
                self._ticket, self._joins = name, True
                number, _, limit = name.partition("-")
                self.ring.mark(marks.JOIN, int(limit), c=int(number))

    def _is_ticket(self, fd: object) -> bool:
        return path_of(fd) == f"{self._directory}/queue/{self._ticket}"

    def _interrupt(self, _signum: int, _frame: object) -> None:
        if self._interruptible:
            self._interruptible = False
            raise KeyboardInterrupt

    def _leftovers(self) -> list[str]:
        """What more of the pool a wait has left open that was interrupted; complain if it has locks."""
        left = {}
        for fd in os.listdir("/proc/self/fd"):
            try:
                target = os.readlink(f"/proc/self/fd/{fd}")
                with open(f"/proc/self/fdinfo/{fd}") as info:
                    locked = "FLOCK" in info.read()
            except OSError:
                continue  # that of the listing itself
            if target.startswith(self._directory):
                left[fd] = target
                if locked and fd not in self._left:
                    self.complain(f"left locked by an interrupted wait: {target}")
        new = [target for fd, target in left.items() if fd not in self._left]
        self._left = set(left)
        return new

    def _reap(self) -> None:
        for child in list(self._children):
            if os.waitpid(child, os.WNOHANG)[0]:
                self._children.remove(child)

    def _skew_clock(self, seconds: int) -> None:
        """Let the wall clock of this process, and it alone, be wrong."""
        self.ring.mark(marks.CLOCK, c=seconds)
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
            self.complain(text)

    def complain(self, text: str) -> None:
        """Leave `text`, which says what is wrong, for the end of the run."""
        with open(self._log, "a") as log:
            log.write(f"{time.monotonic():.6f} worker {os.getpid()}: {text}\n")


def path_of(fd: object) -> str:
    """What the descriptor `fd` was opened as."""
    return os.readlink(f"/proc/self/fd/{fd}").removesuffix(" (deleted)")
