"""What is asked of peers: questions, which a peer goes through some times, and the measures that they yield.

A question returns numbers by name, or lists of them. A measure is one of these as a table of its own; several
may come from one question, so that 256 interpreters are started once for all that can be seen of them.
"""

from __future__ import annotations

import contextlib
import os
import tempfile
from dataclasses import dataclass
from typing import TYPE_CHECKING

from bench import environ
from bench.kit.crowds import Commands, Failed, deadline
from bench.kit.libraries import LIBRARIES
from bench.kit.shell import Missing
from bench.kit.workers import Workers

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from bench.kit.libraries import Acquire
    from bench.kit.peers import Command, Kit

SLOTS = 3
Values = dict[str, float | list[float]]


@dataclass(frozen=True)
class Setting:
    """Under what a question is asked.

    Attributes:
        contenders: How many there are.
        pause_s: How long each pauses before it wants another slot, where it does.
        quick: Whether to be content with less.
    """

    contenders: int
    pause_s: float = 0.0
    quick: bool = False


@dataclass(frozen=True)
class CommandCase:
    """A wrapper and what it has to do."""

    kit: Kit
    command: Command
    setting: Setting

    def crowd(self, slots: int) -> Commands:
        """Commands below the wrapper."""
        return Commands(self.kit, self.command, slots)

    def slots(self) -> int:
        """Three, or as many as the peer can have."""
        return self.command.only_slots or SLOTS


@dataclass(frozen=True)
class LibraryCase:
    """A library and what it has to do; its files are in `scratch`."""

    name: str
    scratch: Path
    setting: Setting

    @contextlib.contextmanager
    def acquire(self, slots: int) -> Iterator[Acquire]:
        """The library's call on a fresh pool, having been called once."""
        with tempfile.TemporaryDirectory(dir=self.scratch) as directory:
            os.environ.update(environ(directory))
            acquire = LIBRARIES[self.name](directory, slots)
            acquire()()
            yield acquire

    @contextlib.contextmanager
    def workers(self, slots: int, hold_s: float, *, again: bool = False) -> Iterator[Workers]:
        """Forked contenders, which have not begun."""
        with self.acquire(slots) as acquire:
            count, pause_s = self.setting.contenders, self.setting.pause_s
            with Workers(acquire, count, hold_s, again=again, pause_s=pause_s) as workers:
                yield workers


@dataclass(frozen=True)
class Beside:
    """A further column: its `title`, which of the values, and which quantile of them (0.5: the median)."""

    title: str
    value: str
    share: float = 0.5


@dataclass(frozen=True)
class Measure:
    """A table: one of the values of a question, and what stands beside it.

    Attributes:
        value: Which of the values, with its `unit`.
        says: What it is, for the reader.
        limit: The peer that is as fast as the machine allows, or the ideal value itself.
        higher: Whether more is better.
    """

    value: str
    unit: str
    says: str
    beside: tuple[Beside, ...] = ()
    limit: str | float | None = None
    higher: bool = False


@dataclass(frozen=True, kw_only=True)
class Question:
    """How often, and under what settings, peers are asked.

    Attributes:
        name: For `--only`; a question to commands and one to libraries may have one in common.
        kind: Whether it is one to commands or to library calls.
        slots: How many there are for library calls; a library that cannot have so many is left out.
        contenders: Numbers of them; those of a quick run are fewer, as its repetitions are.
        pauses_s: Pauses between two turns.
        longest_s: When a run counts as failed.
        ours: Whether only we are asked.
        speed: Whether the verdict rests on it.
    """

    name: str
    kind: str
    measures: tuple[Measure, ...]
    slots: int = 1
    contenders: tuple[int, ...] = (1,)
    quick_contenders: tuple[int, ...] = (1,)
    pauses_s: tuple[float, ...] = (0.0,)
    repetitions: int = 3
    quick_repetitions: int = 1
    longest_s: float = 90.0
    ours: bool = False
    speed: bool = False


@dataclass(frozen=True, kw_only=True)
class CommandQuestion(Question):
    """One to commands."""

    kind: str = "commands"
    run: Callable[[CommandCase], Values]

    def ask(self, case: CommandCase) -> Values:
        """One run.

        Raises:
            Failed: The peer did not go through it.
        """
        return _answered(lambda: self.run(case), self.longest_s)


@dataclass(frozen=True, kw_only=True)
class LibraryQuestion(Question):
    """One to libraries."""

    kind: str = "library calls"
    run: Callable[[LibraryCase], Values]

    def ask(self, case: LibraryCase) -> Values:
        """One run, in this process.

        Raises:
            Failed: The peer did not go through it.
        """
        return _answered(lambda: self.run(case), self.longest_s)


def _answered(run: Callable[[], Values], longest_s: float) -> Values:
    try:
        with deadline(longest_s):
            return run()
    except (OSError, ValueError, TypeError, IndexError, RuntimeError, AssertionError, Missing) as error:
        raise Failed(f"{type(error).__name__}: {error}") from error
