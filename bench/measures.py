"""What is measured: scenarios, each of which one peer goes through once, and the measures that they yield.

A scenario returns numbers by name. A measure is one of them, as a table of its own; several may come from one
scenario, so that 256 interpreters are started once for all that can be seen of them.
"""

from __future__ import annotations

import contextlib
import itertools
import os
import statistics
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING

from bench import environ
from bench.crowds import Commands, Failed, Workers, children_cpu_s, deadline, has_reader, used_s
from bench.handover import arrive, gaps_s, inversions, peak_overlap
from bench.libraries import LIBRARIES
from bench.peers import BARE, Missing
from bench.start import seconds
from bench.waiting import private_kib

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from bench.crowds import Hold, Run
    from bench.libraries import Acquire
    from bench.peers import Command, Kit

    Values = dict[str, float]

SLOTS = 3
CORES = os.cpu_count() or 1
COMMAND_LINE_S, LINE_S = 0.005, 0.002
"""How long each build in a line holds its slot: of commands, of library calls."""
RELAY_S = 0.001
JOIN_S = 0.006
"""Between two library calls that join a line which is to be looked at when all are in it."""
BEGIN_S = 0.012
"""For each contender a loop runs so long before it is watched: all join at once, on cores that are busy."""
ARRIVALS, EVERY_S, ARRIVAL_HOLD_S = 30, 0.020, 0.2
BURST, BURST_HOLD_S = 40, 0.05
FREE_S = 2.0
"""How soon a slot must be free when the command of a killed wrapper has ended."""


@dataclass(frozen=True)
class Case:
    """One peer and what it has to do.

    Attributes:
        peer: A wrapper, or the name of a library.
        contenders: How many there are.
        hold_s: How long each holds a slot, where that varies.
        quick: Whether to be content with less.
    """

    kit: Kit
    peer: Command | str
    contenders: int
    hold_s: float
    quick: bool

    @property
    def command(self) -> Command:
        """The wrapper."""
        assert not isinstance(self.peer, str)
        return self.peer

    def crowd(self, slots: int) -> Commands:
        """Commands below the wrapper."""
        return Commands(self.kit, self.command, slots)

    @contextlib.contextmanager
    def acquire(self, slots: int) -> Iterator[Acquire]:
        """The library's call on a fresh pool, having been called once."""
        assert isinstance(self.peer, str)
        with tempfile.TemporaryDirectory(dir=self.kit.scratch) as directory:
            os.environ.update(environ(directory))
            acquire = LIBRARIES[self.peer](directory, slots)
            acquire()()
            yield acquire

    @contextlib.contextmanager
    def workers(self, slots: int, hold_s: float, *, again: bool = False) -> Iterator[Workers]:
        """Forked contenders, which have not begun."""
        with (
            self.acquire(slots) as acquire,
            Workers(acquire, self.contenders, hold_s, again=again) as workers,
        ):
            yield workers

    def slots(self) -> int:
        """Three, or as many as the peer can have."""
        return SLOTS if isinstance(self.peer, str) else self.peer.only_slots or SLOTS


def over(runs: list[Run], slots: int) -> float:
    """How many more held a slot at once than there are slots."""
    return max(0, peak_overlap([(start, end) for _, start, end in runs]) - slots)


def gap_values(gaps: list[float]) -> Values:
    """The usual figures of gaps in seconds, in ms."""
    gaps = sorted(gaps)
    return {
        "gap_p50": statistics.median(gaps) * 1e3,
        "gap_p90": gaps[int(0.9 * (len(gaps) - 1) + 0.5)] * 1e3,
        "gap_max": gaps[-1] * 1e3,
    }


def start(case: Case) -> Values:
    """`PEER -- true`, start to end, with nobody else there; after one such, which makes the pool."""
    if case.command.name == BARE:
        return {"start": seconds(str(case.kit.bin / "python"), "-c", "pass") * 1e3}
    with case.crowd(1) as crowd:
        for _ in range(2):
            began = time.perf_counter()
            crowd.start("true").wait()
            took = time.perf_counter() - began
        crowd.ended()
    return {"start": took * 1e3}


def acquire(case: Case) -> Values:
    """Acquire and release, with nobody else there: the median of many."""
    with case.acquire(1) as call:
        rounds = []
        for _ in range(200 if case.quick else 1000):
            began = time.perf_counter()
            call()()
            rounds.append(time.perf_counter() - began)
    return {"acquire": statistics.median(rounds) * 1e6}


def command_line(case: Case) -> Values:
    """One slot is held, all others are in line; then it is let go, and each runs once for 5 ms.

    Of few contenders several rounds, so that there are some gaps to look at.
    """
    if case.command.name == BARE:
        return bare_interpreter(case)
    values: Values = {}
    gaps: list[float] = []
    inverted, most_over = 0, 0.0
    for round_ in range(max(1, 2 // case.contenders)):
        more, runs = command_round(case, (0.5 if case.quick else 1.5) if round_ == 0 else 0.0)
        values = more | values
        gaps += gaps_s(runs, 1)
        inverted += inversions([who for who, _, _ in runs])
        most_over = max(most_over, over(runs, 1))
    return values | gap_values(gaps) | {"inversions": inverted, "over": most_over}


def command_round(case: Case, watched_s: float) -> tuple[Values, list[Run]]:
    """One round of `command_line`, with the line watched for `watched_s`."""
    values: Values = {}
    start_s = start_cost_s(case)
    with case.crowd(1) as crowd:
        cpu_before, servers = children_cpu_s(), crowd.pids()
        _, gate = crowd.hold(-1)
        holders = crowd.pids() - servers
        for who in range(case.contenders):
            crowd.start_recorder(who, COMMAND_LINE_S)
        # There is no asking all peers whether they wait; by now they have started.
        time.sleep(0.4 + 1.3 * case.contenders * start_s / CORES)
        if watched_s:
            waiting = crowd.pids() - holders
            before, began = used_s(waiting), time.monotonic()
            time.sleep(watched_s)
            values["waiting"] = (used_s(waiting) - before) / (time.monotonic() - began) * 100
            values["memory"] = memory_kib(waiting) / case.contenders
        if not has_reader(gate):
            raise Failed("the command that was to hold the slot has ended early")
        used = used_s(crowd.pids())
        os.close(gate)
        runs = crowd.ended()
        cpu = children_cpu_s() - cpu_before + used_s(crowd.pids()) - used
    values["cost"] = cpu / case.contenders * 1e3
    if len(runs) != case.contenders + 1:
        raise Failed(f"{len(runs)} of {case.contenders + 1} commands ran")
    return values, runs


START_COSTS: dict[str, float] = {}


def start_cost_s(case: Case) -> float:
    """How long one start of the peer takes, measured once."""
    if case.command.name not in START_COSTS:
        START_COSTS[case.command.name] = min(start(case)["start"] for _ in range(2)) / 1e3
    return START_COSTS[case.command.name]


def memory_kib(pids: set[int]) -> float:
    """Private memory of all `pids`."""
    total = 0
    for pid in pids:
        with contextlib.suppress(OSError):  # a polling shell script's sleep, say
            total += private_kib(pid)
    return total


def bare_interpreter(case: Case) -> Values:
    """What a Python process costs that waits for nothing but its standard input."""
    command = [str(case.kit.bin / "python"), "-c", "import sys; print(flush=True); sys.stdin.read()"]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        process.stdout.readline()
        values = {"memory": float(private_kib(process.pid))}
        process.communicate()
    return values


def library_line(case: Case) -> Values:
    """One of the contenders has the only slot, the others wait; each holds it once for 2 ms."""
    gaps, most_over, waiting, costs = [], 0.0, [], []
    for round_ in range(max(1, 16 // case.contenders)):
        with case.acquire(1) as call, Workers(call, case.contenders, LINE_S, again=False) as workers:
            release = call()
            workers.begin(JOIN_S)
            time.sleep(0.2 + case.contenders * JOIN_S)
            if round_ == 0:
                before, began = workers.cpu_s(), time.monotonic()
                time.sleep(0.5 if case.quick else 1.0)
                waiting.append((workers.cpu_s() - before) / (time.monotonic() - began) * 100)
            used, ended = workers.cpu_s(), time.monotonic_ns()
            release()
            workers.wait()
            costs.append((workers.cpu_s() - used) / case.contenders * 1e3)
            runs = [(-1, ended - 1, ended), *workers.runs()]
        gaps += gaps_s(runs, 1)
        most_over = max(most_over, over(runs, 1))
    cost = statistics.mean(costs)
    return gap_values(gaps) | {"waiting": waiting[0], "over": most_over, "cost": cost}


def relay(case: Case) -> Values:
    """One slot, which all want again as soon as they have let go of it after 1 ms.

    Getting it again oneself is no hand-over.
    """
    with case.workers(1, RELAY_S, again=True) as workers:
        workers.begin(JOIN_S)
        time.sleep(0.3 + case.contenders * JOIN_S)
        before, began = workers.cpu_s(), time.monotonic_ns()
        time.sleep(0.6 if case.quick else 1.5)
        ended, after = time.monotonic_ns(), workers.cpu_s()
        workers.check()
        runs = workers.runs()
    pairs = list(itertools.pairwise(run for run in runs if began <= run[1] < ended))
    gaps = [(next_[1] - one[2]) / 1e9 for one, next_ in pairs if one[0] != next_[0]]
    if not gaps:
        raise Failed(f"never handed over, but {len(pairs)} times to the same contender again")
    return {
        "cost": (after - before) / len(gaps) * 1e3,
        "to_others": len(gaps) / len(pairs) * 100,
        "over": over(runs, 1),
    } | gap_values(gaps)


def loop(case: Case) -> Values:
    """Three slots, which all want again as soon as they have let go of one after `hold_s`; all begin at once.

    They get some time to begin, and are watched then: for two turns of all contenders, where that takes 6 s
    at most, for 1.5 s and three holds at least. Waits that have not ended by then count with their length
    so far: who starves is not left out.
    """
    turn_s = case.contenders * case.hold_s / SLOTS
    turns_s = 2.2 * turn_s if 2.2 * turn_s <= 6.0 else 0.0
    watched_s = max(turns_s, 3.5 * case.hold_s, 0.7 if case.quick else 1.5)
    with case.workers(SLOTS, case.hold_s, again=True) as workers:
        workers.begin()
        time.sleep(0.02 + case.contenders * BEGIN_S)
        watched = time.monotonic_ns()
        time.sleep(watched_s)
        ended = time.monotonic_ns()
        workers.check()
        holds, runs = workers.holds(), workers.runs()
    if not holds[0].got:
        raise Failed("nobody got a slot")
    return {
        "utilisation": utilisation(holds, watched, ended),
        "all": utilisation(holds, holds[0].got, ended),
        **({"spread": spread(holds, ended)} if turns_s else {}),
        "over": over(runs, SLOTS),
    }


def utilisation(holds: list[Hold], began: int, ended: int) -> float:
    """How much of the slots' time was held, in percent."""
    spans = [(hold.got, hold.ended or ended) for hold in holds if hold.got]
    held = sum(max(0, min(end, ended) - max(start, began)) for start, end in spans)
    return held / (SLOTS * (ended - began)) * 100


def spread(holds: list[Hold], ended: int) -> float:
    """The longest wait by the mean wait."""
    waits = [(hold.got or max(ended, hold.wanted)) - hold.wanted for hold in holds]
    return max(waits) / statistics.mean(waits)


def order_of(runs: list[Run], slots: int) -> Values:
    """What one sees of arrivals one after the other."""
    wall = (max(end for _, _, end in runs) - min(start for _, start, _ in runs)) / 1e9
    values = {
        "inversions": float(inversions([who for who, _, _ in runs])),
        "wall": wall,
        "over": over(runs, slots),
    }
    return values | gap_values(gaps_s(runs, slots))


def command_order(case: Case) -> Values:
    """Arrivals 20 ms apart; where there is only one slot each holds it a third of the time."""
    slots = case.slots()
    with case.crowd(slots) as crowd:
        hold_s = ARRIVAL_HOLD_S * slots / SLOTS
        arrive(lambda who: crowd.start_recorder(who, hold_s), case.contenders, EVERY_S)
        return order_of(crowd.ended(), slots)


def library_order(case: Case) -> Values:
    """The same of library calls."""
    with case.workers(SLOTS, ARRIVAL_HOLD_S) as workers:
        workers.begin(EVERY_S)
        workers.wait()
        return order_of(workers.runs(), SLOTS)


def command_burst(case: Case) -> Values:
    """All at once."""
    slots = case.slots()
    with case.crowd(slots) as crowd:
        arrive(lambda who: crowd.start_recorder(who, BURST_HOLD_S), case.contenders, 0.0)
        return {"over": over(crowd.ended(), slots)}


def library_burst(case: Case) -> Values:
    """The same of library calls."""
    with case.workers(SLOTS, BURST_HOLD_S) as workers:
        workers.begin()
        workers.wait()
        return {"over": over(workers.runs(), SLOTS)}


def survivor(case: Case) -> Values:
    """One slot; `kill -9` of the wrapper while its command runs and another waits.

    100 for yes: whether nobody else runs while the command does; whether the one that waits (or, if that is
    through already, another) runs within two seconds after the command has ended.
    """
    with case.crowd(1) as crowd:
        wrapper, gate = crowd.hold(0)
        crowd.start_recorder(1, 0.0)
        time.sleep(0.5 + 2 * start_cost_s(case))
        wrapper.kill()
        wrapper.wait()
        time.sleep(0.2)
        lives = has_reader(gate)
        time.sleep(0.8)
        kept = not crowd.recorded()
        os.close(gate)
        if not kept:
            crowd.start_recorder(2, 0.0)
        wanted = {1} if kept else {2}
        free = appears(crowd, wanted, FREE_S)
    return {"lives": 100.0 * lives, "kept": 100.0 * (kept or not lives), "free": 100.0 * free}


def appears(crowd: Commands, wanted: set[int], within_s: float) -> bool:
    """Whether all of `wanted` have run, in time."""
    until = time.monotonic() + within_s
    while time.monotonic() < until:
        if wanted <= {who for who, _, _ in crowd.recorded()}:
            return True
        time.sleep(0.01)
    return False


@dataclass(frozen=True)
class Scenario:
    """How often and with what a peer goes through `run`.

    Attributes:
        kind: "command" or "library": which peers.
        slots: How many there are for library calls; a library that cannot have so many is left out.
        contenders: Numbers of them; those of a quick run are fewer, as its holds and repetitions are.
        holds_s: Lengths of a hold; several only where that is what varies.
        longest_s: When a run counts as failed.
        least: The fewest contenders that say anything.
        bare: Whether a bare interpreter goes through it too, as a limit.
    """

    name: str
    kind: str
    run: Callable[[Case], Values]
    contenders: tuple[int, ...] = (1,)
    quick_contenders: tuple[int, ...] = (1,)
    holds_s: tuple[float, ...] = (0.0,)
    quick_holds_s: tuple[float, ...] = (0.0,)
    repetitions: int = 3
    quick_repetitions: int = 1
    slots: int = 1
    longest_s: float = 90.0
    least: int = 1
    bare: bool = False

    def __call__(self, case: Case) -> Values:
        """One run.

        Raises:
            Failed: The peer did not go through it.
        """
        try:
            with deadline(self.longest_s):
                return self.run(case)
        except (OSError, ValueError, TypeError, IndexError, RuntimeError, AssertionError, Missing) as error:
            raise Failed(f"{type(error).__name__}: {error}") from error

    def times(self, contenders: int, hold_s: float, *, quick: bool) -> int:
        """How often; once where that takes long: of many commands, and of holds that make noise small."""
        if quick:
            return self.quick_repetitions
        return 1 if hold_s >= 0.1 or (self.kind == "command" and contenders >= 64) else self.repetitions

    def worth(self, contenders: int, hold_s: float) -> bool:
        """Whether this combination can say anything, and a turn of all contenders takes 10 s at most."""
        return contenders >= self.least and contenders * hold_s / SLOTS <= 10.0


ALL = (1, 4, 16, 64, 256)
SCENARIOS = {
    scenario.name: scenario
    for scenario in (
        Scenario("start", "command", start, repetitions=30, quick_repetitions=5, bare=True),
        Scenario("acquire", "library", acquire, repetitions=10, quick_repetitions=3),
        Scenario("relay", "library", relay, (4, 16, 64, 256), (4, 64), repetitions=3, least=2),
        Scenario(
            "loop", "library", loop, (4, 16, 64, 256), (16,), (0.01, 0.1, 1.0), (0.01, 0.1), slots=SLOTS
        ),
        Scenario("command-order", "command", command_order, (ARRIVALS,), (ARRIVALS,)),
        Scenario("library-order", "library", library_order, (ARRIVALS,), (ARRIVALS,), slots=SLOTS),
        Scenario("command-burst", "command", command_burst, (BURST,), (BURST,)),
        Scenario("library-burst", "library", library_burst, (BURST,), (BURST,), repetitions=5, slots=SLOTS),
        Scenario("survivor", "command", survivor),
        Scenario("library-line", "library", library_line, ALL, (16,)),
        Scenario("command-line", "command", command_line, ALL, (16,), repetitions=2, bare=True),
    )
}


@dataclass(frozen=True)
class Measure:
    """A table: one of the values of a scenario, and what stands beside it.

    Attributes:
        name: For `--only`; the tables of commands and of library calls have one in common.
        value: Which of the scenario's values, with its `unit`.
        says: What it is, for the reader.
        beside: Further values, by the heads of their columns.
        limit: The peer that is as fast as the machine allows, or the ideal value itself.
        higher: Whether more is better.
    """

    name: str
    scenario: str
    value: str
    unit: str
    says: str
    beside: tuple[tuple[str, str], ...] = ()
    limit: str | float | None = None
    higher: bool = False
    against_4: bool = False


GAPS = (("p90, ms", "gap_p90"), ("max, ms", "gap_max"), ("most over the cap", "over"))
MEASURES = (
    Measure(
        "start", "start", "start", "ms", "Start cost: `PEER true` with a free slot, start to end", limit=BARE
    ),
    Measure("acquire", "acquire", "acquire", "µs", "Acquire and release, a free slot", limit="flock(2)"),
    Measure(
        "handover",
        "command-line",
        "gap_p50",
        "ms",
        "Hand-over: from the end of a command to the start of the next, one slot, all others waiting in line",
        GAPS,
        limit="flock",
    ),
    Measure(
        "handover",
        "library-line",
        "gap_p50",
        "ms",
        "Hand-over: from the end of a hold to the start of the next, one slot, each contender once",
        GAPS,
        limit="flock(2)",
    ),
    Measure(
        "order",
        "command-order",
        "inversions",
        f"of {ARRIVALS * (ARRIVALS - 1) // 2}",
        f"Order inversions: {ARRIVALS} arrivals {EVERY_S * 1e3:.0f} ms apart"
        f" on {SLOTS} slots, held {ARRIVAL_HOLD_S} s"
        " (`flock`: one slot, a third of that); pairs that started the other way round",
        (("wall, s", "wall"), ("gap p50, ms", "gap_p50"), ("most over the cap", "over")),
    ),
    Measure(
        "order",
        "library-order",
        "inversions",
        f"of {ARRIVALS * (ARRIVALS - 1) // 2}",
        "Order inversions: the same of library calls",
        (("wall, s", "wall"), ("gap p50, ms", "gap_p50"), ("most over the cap", "over")),
    ),
    Measure(
        "utilisation",
        "loop",
        "utilisation",
        "%",
        f"Utilisation: {SLOTS} slots, which everybody wants again at once; time held, of all time,"
        f" once all had {BEGIN_S * 1e3:.0f} ms each to begin",
        (("with the beginning, %", "all"), ("most over the cap", "over")),
        limit=100.0,
        higher=True,
    ),
    Measure(
        "spread", "loop", "spread", "", "Wait-time spread: longest by mean wait, in the same runs", limit=1.0
    ),
    Measure(
        "waiting", "command-line", "waiting", "% of a core", "Waiting: CPU of all commands in line together"
    ),
    Measure(
        "waiting",
        "library-line",
        "waiting",
        "% of a core",
        "Waiting: CPU of all library calls in line together",
    ),
    Measure("memory", "command-line", "memory", "KiB", "Private memory of each waiting command", limit=BARE),
    Measure(
        "cost",
        "command-line",
        "cost",
        "ms of CPU",
        "Cost of a hand-over: CPU of all processes, from the first hand-over to the last end, by commands",
        (("gap p50, ms", "gap_p50"),),
        limit="flock",
        against_4=True,
    ),
    Measure(
        "cost",
        "library-line",
        "cost",
        "ms of CPU",
        "Cost of a hand-over: CPU of all library calls in line, from the first release to the last",
        (("gap p50, ms", "gap_p50"),),
        limit="flock(2)",
        against_4=True,
    ),
    Measure(
        "relay",
        "relay",
        "cost",
        "ms of CPU",
        "Cost of a hand-over and of getting in line again: CPU of all by hand-overs; one slot, held 1 ms",
        (
            ("gap p50, ms", "gap_p50"),
            ("to another contender, % of holds", "to_others"),
            ("most over the cap", "over"),
        ),
        limit="flock(2)",
        against_4=True,
    ),
    Measure(
        "burst",
        "command-burst",
        "over",
        "over the cap",
        f"Over-admission: {BURST} starts at once on {SLOTS} slots",
    ),
    Measure(
        "burst", "library-burst", "over", "over the cap", f"Over-admission: {BURST} library calls at once"
    ),
    Measure(
        "survivor",
        "survivor",
        "kept",
        "% of kills",
        "After `kill -9` of the wrapper: the slot stays taken while its command runs on",
        (("free within 2 s after it ended, %", "free"), ("the command lived on, %", "lives")),
        limit=100.0,
        higher=True,
    ),
)


def require_linux() -> None:
    """End the program elsewhere."""
    if not sys.platform.startswith("linux"):
        raise SystemExit("python -m bench needs Linux: it reads /proc")
