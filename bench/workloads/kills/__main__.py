"""The command line: the driver with the referee beside it, and what came of it.

Exit status 1 if anything is against the rules: what, when, and the last lines of the ledger are printed.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from bench.workloads.kills.driver import SLOTS, Driver
from bench.workloads.kills.rules import RULES

TOP = str(Path(__file__).resolve().parents[3])


def main() -> int:
    """Run; the exit status."""
    parser = argparse.ArgumentParser(prog="python -m bench.workloads.kills", description=__doc__)
    parser.add_argument("--kills", type=int, default=200, help="end after so many")
    parser.add_argument("--minutes", type=float, default=30.0, help="end after so many at the latest")
    parser.add_argument("--seed", type=int, default=None)
    parser.add_argument("--pace", type=float, default=1.0, help="how long tasks take, against the usual")
    parser.add_argument("--keep", metavar="DIR", help="a new directory for everything, which is kept")
    options = parser.parse_args()
    seed = options.seed if options.seed is not None else random.SystemRandom().randrange(10**6)
    print(f"seed: {seed}", flush=True)
    if options.keep:
        os.makedirs(options.keep)
        return run(os.path.abspath(options.keep), seed, options)
    with tempfile.TemporaryDirectory(prefix="kills-") as scratch:
        return run(scratch, seed, options)


def run(scratch: str, seed: int, options: argparse.Namespace) -> int:
    """One run in the directory `scratch`: the exit status."""
    began = time.monotonic()
    driver = Driver(scratch, seed=seed, pace=options.pace)
    command = [sys.executable, "-m", "bench.workloads.kills.referee", scratch, str(SLOTS)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, env=os.environ | {"PYTHONPATH": TOP}) as referee:
        try:
            driver.run(options.minutes * 60, options.kills, beside=referee.pid)
        except BaseException:
            driver.kill_all()
            raise
    driver.kill_all()
    verdict = json.loads(Path(scratch, "verdict").read_text())
    print(f"duration: {time.monotonic() - began:.0f} s")
    print(f"runs: {driver.runs}")
    for name, number in {**{f"kills {k}": v for k, v in driver.kills.items()}, **verdict["counts"]}.items():
        print(f"{name}: {number}")
    for rule, text in RULES.items():
        print(f"{text}: {verdict['against'].get(rule, 0)}")
    for problem in verdict["problems"]:
        print(problem)
    return 1 if referee.returncode or verdict["against"] else 0


if __name__ == "__main__":
    sys.exit(main())
