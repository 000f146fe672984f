"""Which faults are tried, and all of them, several at a time."""

from __future__ import annotations

import random
from collections import defaultdict
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field

from bench.faults import judge, record
from bench.faults.run import Fault

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from bench.faults.calls import Call
    from bench.faults.run import Outcome, Runner
    from bench.faults.scenarios import Scenario

TRIES = 3
"""How often a run is made in which another call than the one that was meant has met the error."""
CONTEXT = 12
"""A call that comes after so many calls that are the same as before one in an earlier scenario, or earlier in
the same one, is made at the same place of the code in the same situation, and is not tried again."""
QUICK = 120
"""So many faults are a quick sweep."""
SIGNALLESS = frozenset(
    {"getpid", "gettid", "brk", "mmap", "munmap", "mprotect", "mremap", "exit_group", "futex"}
)
"""What is no system call of ours, or too short for a signal to come in it and not at the next."""


@dataclass
class Recorded:
    """A scenario as it is when nothing fails: what came of it, and its calls."""

    scenario: Scenario
    usual: Outcome
    calls: list[Call]


@dataclass
class Verdict:
    """What came of one fault."""

    fault: Fault
    outcome: Outcome
    broken: list[str]


@dataclass
class Sweep:
    """The faults of some scenarios.

    Attributes:
        recorded: Each scenario as it is when nothing fails, by its name.
        faults: What is to be tried.
    """

    recorded: dict[str, Recorded] = field(default_factory=dict)
    faults: list[Fault] = field(default_factory=list)


def make_record(runner: Runner, scenario: Scenario) -> Recorded:
    """Run `scenario` with nothing injected. Raises RuntimeError if it does not do what it always does."""
    runner.warm(scenario)
    outcome, text, own = runner.record(scenario)
    if outcome.status is None or not outcome.free or outcome.live or outcome.others:
        raise RuntimeError(f"{scenario.name} fails though nothing was injected: {outcome}")
    return Recorded(scenario, outcome, record.read(text, own))


def plan(runner: Runner, scenarios: Iterable[Scenario], jobs: int) -> Sweep:
    """Record all `scenarios`: what is to be tried in them."""
    sweep = Sweep()
    seen: set[tuple[object, ...]] = set()
    with ThreadPoolExecutor(jobs) as pool:
        for recorded in pool.map(lambda scenario: make_record(runner, scenario), scenarios):
            scenario = recorded.scenario
            sweep.recorded[scenario.name] = recorded
            before: list[str] = []
            for call in recorded.calls:
                if call.name in SIGNALLESS:
                    continue
                before = [*before[-CONTEXT:], f"{call.text} {call.about}"]
                for error in (*call.errors(), *_signals(scenario, call)):
                    # How a block's error and its slot are dropped differs, though the calls may be the same.
                    ending = scenario.options if call.after else ()
                    key = (*scenario.group, *ending, *before, error)
                    if key not in seen:
                        seen.add(key)
                        sweep.faults.append(Fault(scenario, call, error))
    return sweep


def _signals(scenario: Scenario, call: Call) -> tuple[str, ...]:
    if call.foreign or call.asks_loop or call.name in SIGNALLESS:
        return ()
    # By turns, for they do the same to a process: it is to end in good order, or it makes others wait.
    end, pause = (("SIGTERM", "SIGSTOP"), ("SIGINT", "DELAY"))[call.n % 2]
    if call.after and scenario.options == ("forgotten",):
        return "SIGKILL", pause  # what Ctrl-C raises in a `__del__` Python itself reports, whatever we do
    # Whoever uses the library has to know what SIGTERM does to a program: it dies, as of SIGKILL.
    return "SIGINT" if scenario.is_library else end, "SIGKILL", pause


def sample(faults: list[Fault], seed: int) -> list[Fault]:
    """QUICK of them, drawn by `seed`: each of another call or error, of slot-run or of the library."""
    kinds: dict[tuple[bool, str, str], list[Fault]] = defaultdict(list)
    for fault in faults:
        kinds[fault.scenario.is_library, fault.call.name, fault.error].append(fault)
    draw = random.Random(seed)
    chosen = [draw.choice(found) for found in kinds.values()]
    return draw.sample(chosen, min(QUICK, len(chosen)))


def attempt(runner: Runner, recorded: Recorded, fault: Fault) -> Verdict:
    """Try one fault; again if another call has met it, strace failed, or it was late, as anything may be."""
    broken: list[str] = []
    for left in reversed(range(TRIES)):
        outcome = runner.fail(fault)
        if outcome.spoiled:
            broken = []
            continue
        broken = judge.broken(fault, recorded.usual, outcome)
        late = len(broken) == 1 and (broken[0].startswith("took") or broken[0] == "did not end")
        if not left or (outcome.is_same and not late):
            break
        if broken and not late:
            break  # another call than the one that was meant, but a broken promise all the same
    return Verdict(fault, outcome, broken)


def run(runner: Runner, sweep: Sweep, jobs: int, tell: Callable[[Verdict], None]) -> list[Verdict]:
    """Try all faults of `sweep`, `jobs` at a time; `tell` hears of each."""
    verdicts: list[Verdict] = []
    with ThreadPoolExecutor(jobs) as pool:
        trying = lambda fault: attempt(runner, sweep.recorded[fault.scenario.name], fault)  # noqa: E731
        for verdict in pool.map(trying, sweep.faults):
            verdicts.append(verdict)
            tell(verdict)
    return verdicts
