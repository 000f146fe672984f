"""One session: all peers through all questions, each in its turn."""

from __future__ import annotations

import itertools
import statistics
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING

from bench import child
from bench.kit import environment
from bench.kit.crowds import Failed
from bench.kit.libraries import LIBRARIES
from bench.kit.peers import (
    COMMANDS,
    DISTRIBUTIONS,
    LIBRARY,
    NOT_HAD,
    ONE_SLOT,
    OURS,
    Kit,
    base,
    library_version,
)
from bench.kit.question import CommandCase, CommandQuestion, LibraryCase, LibraryQuestion, Setting
from bench.kit.shell import Missing, first_line, say
from bench.questions import QUESTIONS

if TYPE_CHECKING:
    import argparse
    from collections.abc import Iterator
    from pathlib import Path

    from bench.kit.installs import Install
    from bench.kit.peers import Command
    from bench.kit.question import Question, Values
    from bench.report.rows import Sample

STOLEN, TRIES, REPEATED_S = 3.0, 2, 5.0
"""A sample during which the host of a virtual machine kept more than so many per cent of the CPU time from it
is taken again, so often at most in all, unless it takes longer than so many seconds."""
SPEED_PEERS = (OURS, LIBRARY, "python -c", "flock", "flock(2)")
SLOW = ("sem", "filelock-wrapper", "portalocker-wrapper")
"""What --quick leaves out: each start of these is a tenth of a second of CPU."""


@dataclass(frozen=True)
class Library:
    """A library, and the Python that imports it."""

    name: str
    python: str
    version: str


class Session:
    """One run of the benchmark, with its pools and tools in `scratch`.

    Attributes:
        samples: What was measured.
        missing: What could not be, and why.
    """

    def __init__(self, options: argparse.Namespace, scratch: Path, installs: list[Install]) -> None:
        self.samples: list[Sample] = []
        self.missing: dict[str, str] = {}
        self._options = options
        self._scratch = scratch
        self._installs = installs
        self._kit = Kit(scratch)
        self._questions = [question for question in QUESTIONS if self._is_asked(question)]
        self._commands: list[Command] = []
        self._libraries: list[Library] = []

    def run(self) -> dict[str, str]:
        """Measure what the options ask for; what there is to say about where that was."""
        about = environment.describe(self._scratch)
        self._gather()
        try:
            for question in self._questions:
                for sample in self._ask(question):
                    self.samples.append(sample)
        except KeyboardInterrupt:
            say("interrupted: what was measured until now is kept")
        about["load after"] = environment.load()
        shares = [sample["stolen"] for sample in self.samples if "stolen" in sample]
        if shares:
            about["CPU time kept by the host of a virtual machine"] = (
                f"{statistics.median(shares):.1f} % of the median sample, {max(shares):.1f} % of the worst"
            )
        versions = {command.name: command.version for command in self._commands}
        versions |= {library.name: library.version for library in self._libraries}
        peers = dict.fromkeys(sample["peer"] for sample in self.samples)
        return about | {f"version of {peer}": versions[peer] for peer in peers if base(peer) == peer}

    def _is_asked(self, question: Question) -> bool:
        if self._options.only:
            return question.name in self._options.only
        return question.speed or not self._options.speed

    def _is_wanted(self, name: str) -> bool:
        if self._options.peers:
            return name.partition(",")[0] in self._options.peers
        if self._options.speed:
            return base(name) in SPEED_PEERS
        return not (self._options.quick and name in SLOW)

    def _gather(self) -> None:
        """Get the peers that are wanted."""
        if not self._options.peers and not self._options.speed:
            self.missing |= NOT_HAD
        if any(isinstance(question, CommandQuestion) for question in self._questions):
            for install in self._installs:
                self._commands += [peer for peer in self._kit.ours(install) if self._is_wanted(peer.name)]
            for name, get in COMMANDS.items():
                if self._is_wanted(name):
                    try:
                        self._commands.append(get(self._kit))
                    except Missing as error:
                        self.missing[name] = str(error)
        for name in LIBRARIES:
            if self._is_wanted(name):
                self._libraries += self._library(name)

    def _library(self, name: str) -> list[Library]:
        if name in DISTRIBUTIONS:
            return [Library(name, environment.PYTHON, library_version(name))]
        if name != LIBRARY:
            return [Library(name, self._installs[0].python, library_version(name))]
        return [
            Library(name + install.suffix, install.python, first_line(install.buildslots, "--version"))
            for install in self._installs
        ]

    def _ask(self, question: Question) -> Iterator[Sample]:
        """Let all peers go through `question`, in turn, under each setting."""
        options = self._options
        pauses = question.pauses_s
        contenders = question.quick_contenders if options.quick else question.contenders
        if len(question.contenders) > 1 and options.contenders:
            contenders = options.contenders
        for pause_s, count in itertools.product(pauses, contenders):
            setting = Setting(count, pause_s, options.quick)
            peers = self._peers(question, count)
            if not peers:
                continue
            began = time.monotonic()
            yield from self._in_turn(question, setting, peers)
            what = f"{question.name}, {count} contenders" + f", pauses of {pause_s:g} s" * bool(pause_s)
            say(f"{what}: {time.monotonic() - began:.1f} s")

    def _peers(self, question: Question, count: int) -> list[Command] | list[Library]:
        """Those that can go through `question`."""
        if isinstance(question, CommandQuestion):
            return [
                command
                for command in self._commands
                if count <= command.most
                and command.is_for(question.name)
                and (not question.ours or command.name.startswith(OURS))
            ]
        return [
            library
            for library in self._libraries
            if (library.name not in ONE_SLOT or question.slots == 1)
            and (not question.ours or library.name.startswith(LIBRARY))
        ]

    def _in_turn(
        self, question: Question, setting: Setting, peers: list[Command] | list[Library]
    ) -> Iterator[Sample]:
        """The samples; each repetition begins with another peer: what else happens hits all alike."""
        failed = set()
        times = question.quick_repetitions if setting.quick else question.repetitions
        for repetition in range(times):
            at = repetition % len(peers)
            for peer in (*peers[at:], *peers[:at]):
                if peer.name in failed:
                    continue
                sample: Sample = {"question": question.name, "kind": question.kind, "peer": peer.name}
                sample |= {"contenders": setting.contenders, "pause_s": setting.pause_s}
                try:
                    yield sample | self._undisturbed(question, setting, peer)
                except Failed as error:
                    failed.add(peer.name)
                    yield sample | {"failed": str(error)}
                    say(f"{question.name}: {peer.name}: {error}")

    def _undisturbed(self, question: Question, setting: Setting, peer: Command | Library) -> Sample:
        """The values of one run in which the host of a virtual machine left it most of its CPU time."""
        found: list[Sample] = []
        while True:
            began, (kept, ticks) = time.monotonic(), environment.stolen()
            values = self._values(question, setting, peer)
            kept, ticks = (now - then for now, then in zip(environment.stolen(), (kept, ticks), strict=True))
            found.append({"values": values, "stolen": round(kept / max(1, ticks) * 100, 2)})
            least = min(found, key=lambda each: float(each["stolen"]))
            if least["stolen"] <= STOLEN or len(found) == TRIES or time.monotonic() - began > REPEATED_S:
                return least

    def _values(self, question: Question, setting: Setting, peer: Command | Library) -> Values:
        if isinstance(peer, Library):
            assert isinstance(question, LibraryQuestion)
            name = peer.name.partition(",")[0]
            return child.ask(question, peer.python, LibraryCase(name, self._scratch, setting))
        assert isinstance(question, CommandQuestion)
        return question.ask(CommandCase(self._kit, peer, setting))
