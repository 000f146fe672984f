"""The side-by-side benchmark: ourselves and others, in one session, in turn.

`python -m bench [--quick]` measures everything and writes bench/results.json, results.md and charts/*.svg.
`python -m bench --only MEASURE,... [--peers P,...] [--contenders N,...] [--hold S,...]` prints some of that.
Every row of the report has the command that measures it again. Linux only.
"""

from __future__ import annotations

import argparse
import importlib.util
import itertools
import shlex
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from bench import environment, results
from bench.crowds import Failed
from bench.libraries import LIBRARIES
from bench.measures import MEASURES, SCENARIOS, Case, require_linux
from bench.peers import (
    BARE,
    CHECKOUT,
    COMMANDS,
    NOT_HAD,
    ONE_SLOT,
    Kit,
    Missing,
    library_version,
    say,
)

if TYPE_CHECKING:
    from collections.abc import Iterator

    from bench.measures import Scenario
    from bench.peers import Command
    from bench.results import Results

AGENTS_S = 900.0
STOLEN, TRIES, REPEATED_S = 3.0, 2, 5.0
"""A sample during which the host of a virtual machine kept more than so many per cent of the CPU time from it
is taken again, so often at most in all, unless it takes longer than so many seconds."""
VARIES = "for the measures where it varies"
NAMES = list(dict.fromkeys([*(measure.name for measure in MEASURES), results.CAP]))
PEERS = [*COMMANDS, *LIBRARIES]
NOTES = """
Peers alternate within each repetition, in another order each time, so that what else the machine does
hits all of them. Medians are over repetitions. All times are CLOCK_MONOTONIC.

"To the best peer" and "to the limit" divide medians. A limit is no peer: `python -c pass` for a start, a
blocking flock(1) or flock(2) for a hand-over, all slots in use all the time, the same wait for all. A
POSIX semaphore is shown as a speed limit: it loses a slot for good when its holder is killed. tsp can be
faster than flock(1): its server starts the next command itself, and no process has to wake up for that.

NAME-wrapper is a library around `subprocess.call`, as its users write it. sweep is the algorithm of K
flock'ed files that are tried every 150 ms, written for this benchmark; filelock is tried on K files
every 50 ms, its default.

pnpm runs a script of a project that belongs to a concurrency group: the script is `exec`, and the
command its arguments. The server of tsp is started beforehand, and its CPU counts.

With 256 contenders sem, filelock-wrapper, portalocker-wrapper (20 to 30 s of CPU for the starts) and
pnpm (6 GiB of memory) are left out. flock has one slot, and runs with that where others have three.

On a virtual machine whose host kept more than 3 % of the CPU time from it during a sample, that is taken
again, once, if it is short, and the less disturbed one counts, whoever the peer is.

SlotPool's pool is not a new one, as a user's is not: its last slot file is more than a second old. All others
have nothing that could get older.

A gap below zero means that the next started before the last had ended: over-admission.

Where contenders want a slot again at once, a peer without a line often gives it to the one that just let
go, with hardly any gap, while the others starve. That counts as used, and shows in the spread; it is no
hand-over.

Waits that had not ended when a run was over count in the spread with their length so far. Where two
turns of all contenders would take more than 6 s, the longest wait was not looked for.
"""


def main() -> int:
    options = parse()
    require_linux()
    signal.signal(signal.SIGINT, signal.default_int_handler)  # also in the background of a shell
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))  # with all that it started
    if options.render:
        results.render()
        return 0
    partial = bool(options.only or options.peers or options.contenders or options.hold)
    began = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="bench-") as scratch:
        found = Session(options, Path(scratch)).run()
    if not found["samples"]:
        say("nothing was measured: none of these peers can be had, or none has that measure")
        say("".join(f"{peer}: {why}\n" for peer, why in found["missing"].items()))
        return 1
    found["environment"]["duration"] = f"{time.monotonic() - began:.0f} s"
    if not partial or options.write:
        results.write(found)
        say(f"wrote {results.MARKDOWN}")
    if partial:
        print(results.markdown(found, set(options.only)))
    elif importlib.util.find_spec("bench.agents"):
        say("python -m bench.agents")
        try:
            command = [sys.executable, "-m", "bench.agents", "--write"]
            subprocess.run(command, cwd=CHECKOUT, check=True, timeout=AGENTS_S)
        except subprocess.SubprocessError as error:
            say(str(error))
            return 1
        results.render()
    return 0


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m bench", description=__doc__.partition("\n")[0])
    parser.add_argument(
        "--quick", action="store_true", help="fewer contenders and repetitions: three minutes"
    )
    parser.add_argument(
        "--only", type=one_of(NAMES), default=[], metavar="MEASURE,...", help=", ".join(NAMES)
    )
    parser.add_argument("--peers", type=one_of(PEERS), default=[], metavar="PEER,...", help=", ".join(PEERS))
    parser.add_argument("--contenders", type=numbers(int), default=[], metavar="N,...", help=VARIES)
    parser.add_argument("--hold", type=numbers(float), default=[], metavar="S,...", help=f"seconds, {VARIES}")
    parser.add_argument("--write", action="store_true", help="write the files also if not all was measured")
    parser.add_argument(
        "--render", action="store_true", help="write results.md and charts from results.json, only"
    )
    return parser.parse_args()


class one_of:  # noqa: N801 - used like a function, and named in argparse's messages
    """A comma-separated list of some of `names`."""

    def __init__(self, names: list[str]) -> None:
        self._names = names

    def __call__(self, text: str) -> list[str]:
        """The chosen names."""
        chosen = text.split(",")
        if unknown := [name for name in chosen if name not in self._names]:
            raise argparse.ArgumentTypeError(f"no {unknown[0]!r} among {', '.join(self._names)}")
        return chosen


class numbers:  # noqa: N801 - likewise
    """A comma-separated list of positive numbers."""

    def __init__(self, kind: type[int | float]) -> None:
        self._kind = kind

    def __call__(self, text: str) -> list[float]:
        """The numbers."""
        try:
            chosen = [self._kind(word) for word in text.split(",")]
        except ValueError:
            chosen = []
        if not chosen or min(chosen) <= 0:
            raise argparse.ArgumentTypeError(f"{text!r} is no list of positive numbers")
        return list(chosen)


@dataclass(frozen=True)
class Session:
    """One run of the benchmark, with its pools and tools in `scratch`."""

    options: argparse.Namespace
    scratch: Path

    def run(self) -> Results:
        """Measure what the options ask for."""
        missing = {} if self.options.peers else dict(NOT_HAD)
        found: Results = {
            "quick": ["--quick"] * self.options.quick,
            "environment": environment.describe(self.scratch)
            | {"command": shlex.join(["python", "-m", "bench", *sys.argv[1:]])},
            "missing": missing,
            "notes": [" ".join(note.split()) for note in NOTES.split("\n\n")],
            "samples": [],
        }
        kit, commands = Kit(self.scratch), {}
        scenarios = self.scenarios()
        for name in self.wanted({scenario.kind for scenario in scenarios}):
            try:
                commands[name] = COMMANDS[name](kit)
            except Missing as error:
                missing[name] = str(error)
        try:
            for scenario in scenarios:
                for sample in self.samples(scenario, kit, commands):
                    found["samples"].append(sample)
        except KeyboardInterrupt:
            say("interrupted: what was measured until now is kept")
        peers = dict.fromkeys(sample["peer"] for sample in found["samples"])
        found["environment"] |= {"load after": environment.load()}
        shares = [sample["stolen"] for sample in found["samples"] if "stolen" in sample]
        if shares:
            found["environment"] |= {
                "CPU time kept by the host of a virtual machine": f"{statistics.median(shares):.1f} %"
                f" of the median sample, {max(shares):.1f} % of the worst"
            }
        found["environment"] |= {f"version of {peer}": self.version(peer, commands) for peer in peers}
        return found

    def scenarios(self) -> list[Scenario]:
        """Those that yield what is wanted."""
        only = self.options.only
        names = {measure.scenario for measure in MEASURES if not only or measure.name in only}
        if results.CAP in only:
            names |= {
                measure.scenario
                for measure in MEASURES
                if "over" in (measure.value, *dict(measure.beside).values())
            }
        return [scenario for scenario in SCENARIOS.values() if scenario.name in names]

    def wanted(self, kinds: set[str]) -> list[str]:
        """The commands that are to be measured."""
        if "command" not in kinds:
            return []
        return [name for name in COMMANDS if not self.options.peers or name in self.options.peers]

    def version(self, peer: str, commands: dict[str, Command]) -> str:
        """The version of `peer`."""
        return commands[peer].version if peer in commands else library_version(peer)

    def peers(self, scenario: Scenario, commands: dict[str, Command]) -> list[Command | str]:
        """Those that can go through `scenario`."""
        if scenario.kind == "command":
            return [command for command in commands.values() if command.name != BARE or scenario.bare]
        return [
            name
            for name in LIBRARIES
            if (not self.options.peers or name in self.options.peers)
            and (name not in ONE_SLOT or scenario.slots == 1)
        ]

    def cases(self, scenario: Scenario, kit: Kit, commands: dict[str, Command]) -> Iterator[list[Case]]:
        """What is to be done in turn."""
        quick = self.options.quick
        contenders = scenario.quick_contenders if quick else scenario.contenders
        holds_s = scenario.quick_holds_s if quick else scenario.holds_s
        if len(scenario.contenders) > 1 and self.options.contenders:
            contenders = self.options.contenders
        if len(scenario.holds_s) > 1 and self.options.hold:
            holds_s = self.options.hold
        for hold_s, count in itertools.product(holds_s, contenders):
            if not scenario.worth(count, hold_s):
                continue
            yield [
                Case(kit, peer, count, hold_s, quick)
                for peer in self.peers(scenario, commands)
                if isinstance(peer, str) or count <= peer.most
            ]

    def samples(self, scenario: Scenario, kit: Kit, commands: dict[str, Command]) -> Iterator[Results]:
        """Let all peers go through `scenario`, each in its turn in each repetition."""
        for cases in self.cases(scenario, kit, commands):
            if not cases:
                continue
            began, failed = time.monotonic(), set()
            times = scenario.times(cases[0].contenders, cases[0].hold_s, quick=self.options.quick)
            for repetition in range(times):
                at = repetition % len(cases)
                for case in cases[at:] + cases[:at]:
                    name = case.peer if isinstance(case.peer, str) else case.peer.name
                    if name in failed:
                        continue
                    sample = {"scenario": scenario.name, "peer": name, "contenders": case.contenders}
                    sample |= {"hold_s": case.hold_s, "repetition": repetition}
                    try:
                        yield sample | self.undisturbed(scenario, case)
                    except Failed as error:
                        failed.add(name)
                        yield sample | {"failed": str(error)}
                        say(f"{scenario.name}: {name}: {error}")
            what = f"{scenario.name}, {cases[0].contenders} contenders, {cases[0].hold_s:g} s"
            say(f"{what}: {time.monotonic() - began:.1f} s")

    def undisturbed(self, scenario: Scenario, case: Case) -> Results:
        """The values of `case`, taken when the host of a virtual machine left it most of its CPU time."""
        found: list[Results] = []
        while True:
            began, (kept, ticks) = time.monotonic(), environment.stolen()
            values = scenario(case)
            kept, ticks = (now - then for now, then in zip(environment.stolen(), (kept, ticks), strict=True))
            found.append({"values": values, "stolen": kept / max(1, ticks) * 100})
            least = min(found, key=lambda each: float(each["stolen"]))
            if least["stolen"] <= STOLEN or len(found) == TRIES or time.monotonic() - began > REPEATED_S:
                return least


if __name__ == "__main__":
    sys.exit(main())
