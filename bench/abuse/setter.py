"""Setters: processes that set one rule of the pool by its public API, and may be killed meanwhile."""

from __future__ import annotations

import os
import random
import signal
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from bench.abuse import marks
from buildslots import SlotPool

if TYPE_CHECKING:
    from typing import NoReturn

CALLS = frozenset({"open", "os.rename", "os.remove", "fcntl.flock"})
"""The audit events in which a setter may kill or stop itself; an os.replace is an os.rename there."""
MOST_CALLS = 40
"""In which of them: the pool's cap is set in some ten, and with some people in line there is one for each."""
UNLUCKY = 0.25
"""How many of them do so."""
TEXTS = (b"", b"\0" * 64, b"buildslots-rules 1\nslots 1\n", b"buildslots-rules 1\nslots 1\nend")
"""What is left of a file of rules that was torn."""


class Setter:
    """One setter, in a process of its own; `run` does not return.

    Args:
        table: Where it marks what it does.
        directory: The pool.
        rule: What it sets, one of `marks`' RULEs.
        value: To what.
        seed: Of all that it chooses.
    """

    def __init__(self, table: marks.Table, directory: str, rule: int, value: int, seed: str) -> None:
        self._table = table
        self._directory = directory
        self._rule = rule
        self._value = value
        self._random = random.Random(seed)
        self._fatal_call = 0
        self._fatal_signal = signal.SIGKILL

    def run(self) -> NoReturn:
        """Set it."""
        try:
            self._ring = self._table.short_ring()
            self._ring.mark(marks.BORN, c=os.getppid())
            if self._random.random() < UNLUCKY:
                self._fatal_call = self._random.randint(1, MOST_CALLS)
                self._fatal_signal = self._random.choice((signal.SIGKILL, signal.SIGKILL, signal.SIGSTOP))
            sys.addaudithook(self._audit)
            self._ring.mark(marks.SETS, self._rule, c=self._value)
            try:
                self._set(SlotPool(dir=self._directory))
            except OSError:
                self._ring.mark(marks.SET, 0)
            else:
                self._ring.mark(marks.SET, 1)
        finally:
            os._exit(0)

    def _set(self, pool: SlotPool) -> None:
        match self._rule:
            case marks.SLOTS:
                pool.set_rules(slots=self._value or None)
            case marks.HEAD_START:
                pool.set_rules(head_start=self._value / 1000)
            case marks.PAUSE if self._value:
                pool.pause(self._value / 1000, "abuse")
            case marks.PAUSE:
                pool.resume()
            case marks.TORN:
                Path(self._directory, "rules").write_bytes(self._random.choice(TEXTS))

    def _audit(self, event: str, _args: tuple[object, ...]) -> None:
        if event not in CALLS or not self._fatal_call:
            return
        self._fatal_call -= 1
        if self._fatal_call:
            return
        pid = os.getpid()
        if self._fatal_signal == signal.SIGKILL:
            self._ring.mark(marks.KILL, a=pid)
        elif self._table.stopping:
            self._ring.mark(marks.STOP, a=pid)
        else:
            return
        os.kill(pid, self._fatal_signal)
