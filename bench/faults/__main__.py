"""The command line: sweep, and a table of what came of it. Exit status 1 if a promise was broken."""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
import time
import warnings
from collections import Counter
from pathlib import Path

from bench.faults import sweep as sweeping
from bench.faults.calls import Call
from bench.faults.run import Fault, Runner
from bench.faults.scenarios import SCENARIOS

TYPE_CHECKING = False
if TYPE_CHECKING:
    from bench.faults.scenarios import Scenario
    from bench.faults.sweep import Sweep, Verdict

PROGRESS_S = 30.0
JOBS = 2 * (os.cpu_count() or 1)
"""Two for each core, because a run sleeps for half of its time."""


def main() -> int:
    """Run; the exit status."""
    parser = argparse.ArgumentParser(prog="python -m bench.faults", description=__doc__)
    parser.add_argument("--quick", action="store_true", help=f"{sweeping.QUICK} of them")
    parser.add_argument("--seed", type=int, default=1, help="what --quick draws by")
    parser.add_argument("--scenario", action="append", metavar="NAME", help="of these scenarios only")
    parser.add_argument("--call", action="append", metavar="CALL", help="of these system calls only")
    parser.add_argument("--error", action="append", metavar="ERROR", help="of these errors and signals only")
    parser.add_argument("--only", metavar="SCENARIO:CALL:ERROR:N", help="repeat this one, and show it")
    parser.add_argument(
        "--jobs", type=int, default=JOBS, help=f"how many at a time; {JOBS} if nothing is said"
    )
    parser.add_argument("--list", action="store_true", help="show what would be tried, and do nothing")
    options = parser.parse_args()
    names = options.scenario or [scenario.name for scenario in SCENARIOS]
    if options.only:
        names = [options.only.split(":")[0]]
    unknown = set(names) - {scenario.name for scenario in SCENARIOS}
    if unknown:
        parser.error(f"no scenario is called {', '.join(sorted(unknown))}")
    scenarios = [scenario for scenario in SCENARIOS if scenario.name in names]
    _adopt_orphans()
    # Those in the pool who are threads of this process are told so too if it cannot be used.
    warnings.simplefilter("ignore")
    for name in [
        name for name in os.environ if name.startswith(("BUILD_SLOT", "MAX_CONCURRENT_BUILDS", "XDG_"))
    ]:
        del os.environ[name]
    os.environ["BUILD_SLOTS_JOURNAL"] = "off"
    with tempfile.TemporaryDirectory(prefix="faults-") as scratch:
        runner = Runner(Path(scratch))
        if options.only:
            return repeat(runner, scenarios[0], options.only)
        began = time.monotonic()
        swept = sweeping.plan(runner, scenarios, options.jobs)
        swept.faults = [
            fault
            for fault in swept.faults
            if (not options.call or fault.call.name in options.call)
            and (not options.error or fault.error in options.error)
        ]
        if options.quick:
            swept.faults = sweeping.sample(swept.faults, options.seed)
        if options.list:
            for fault in swept.faults:
                print(f"{fault}  {fault.call.shown}")
            return 0
        print(
            f"{len(swept.faults)} faults in {len(scenarios)} scenarios, {options.jobs} at a time", flush=True
        )
        verdicts = sweeping.run(runner, swept, options.jobs, Progress(len(swept.faults)).tell)
        return report(swept, verdicts, time.monotonic() - began)


class Progress:
    """Says on stderr now and then how far it is."""

    def __init__(self, count: int) -> None:
        self._count = count
        self._done = self._broken = 0
        self._told = time.monotonic()

    def tell(self, verdict: Verdict) -> None:
        """One more was tried."""
        self._done += 1
        self._broken += bool(verdict.broken)
        if time.monotonic() > self._told + PROGRESS_S:
            self._told = time.monotonic()
            print(
                f"{self._done} of {self._count}, {self._broken} broke a promise", file=sys.stderr, flush=True
            )


def repeat(runner: Runner, scenario: Scenario, only: str) -> int:
    """Try the one fault that `only` names, and show all that came of it."""
    name, error, n = only.split(":")[1:]
    recorded = sweeping.make_record(runner, scenario)
    found = [call for call in recorded.calls if (call.name, call.n) == (name, int(n))]
    fault = Fault(scenario, found[0] if found else _unknown(name, int(n)), error)
    verdict = sweeping.attempt(runner, recorded, fault)
    outcome = verdict.outcome
    print(f"call: {fault.call.shown}\nmet by: {outcome.met or 'none'}")
    print(f"status: {outcome.status} after {outcome.seconds:.2f} s; usually {recorded.usual.status}")
    print(f"command: {outcome.log}\nprogram: {outcome.result}\nstderr:")
    print("".join(f"  {line}\n" for line in outcome.lines), end="")
    for promise in verdict.broken:
        print(f"broken: {promise}")
    return 1 if verdict.broken else 0


def _unknown(name: str, n: int) -> Call:
    text = "not made when nothing is injected"
    return Call(
        name,
        n,
        text,
        "",
        foreign=False,
        spawns=False,
        asks_loop=False,
        leaving=False,
        after=False,
        shown=text,
    )


def report(swept: Sweep, verdicts: list[Verdict], seconds: float) -> int:
    """Print the table and the broken promises; the exit status."""
    tried = Counter(verdict.fault.scenario.name for verdict in verdicts)
    broken = Counter(verdict.fault.scenario.name for verdict in verdicts if verdict.broken)
    print(f"\n{'scenario':18}{'calls':>7}{'tried':>7}{'broken':>8}")
    for name, recorded in swept.recorded.items():
        print(f"{name:18}{len(recorded.calls):7}{tried[name]:7}{broken[name]:8}")
    total = sum(len(recorded.calls) for recorded in swept.recorded.values())
    print(f"{'all':18}{total:7}{len(verdicts):7}{broken.total():8}\n")
    for verdict in verdicts:
        if verdict.broken:
            print(f"{'; '.join(verdict.broken)}\n    {verdict.fault.call.shown}")
            print(f"    python -m bench.faults --only {verdict.fault}")
    missed = sum(not verdict.outcome.met or verdict.outcome.spoiled for verdict in verdicts)
    other = sum(not verdict.outcome.is_same and bool(verdict.outcome.met) for verdict in verdicts)
    print(f"duration: {seconds:.0f} s")
    print(f"met by no call, or by another one than was meant: {missed}, {other}")
    print(f"faults: {len(verdicts)}")
    print(f"broken promises: {broken.total()}")
    return 1 if broken else 0


def _adopt_orphans() -> None:
    """Become the parent of what a killed slot-run leaves: nobody else might reap it."""
    import ctypes  # noqa: PLC0415

    pr_set_child_subreaper = 36  # linux/prctl.h
    ctypes.CDLL(None).prctl(pr_set_child_subreaper, 1, 0, 0, 0)


if __name__ == "__main__":
    sys.exit(main())
