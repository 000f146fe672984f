"""Workload 4, skill apply: sources are synced in parallel, then skills are installed, target by target.

`python -m bench.workloads.apply [--short]`. The program is `bench.workloads.skills`; sources come from a
server and from git's daemon, both on loopback. The list is that of the tool that this comes from; exits 1 if
something does not hold. About a minute on two cores; with --short a few seconds, and what is about time is
not judged.
"""

from __future__ import annotations

import argparse
import sys

from bench.workloads import apply_faults, apply_phases, apply_races, apply_times
from bench.workloads.apply_field import SHORT, Field, Sizes
from bench.workloads.checklist import Checklist
from bench.workloads.place import scratch
from bench.workloads.skill_server import serving


def main() -> int:
    """Run; the exit status."""
    parser = argparse.ArgumentParser(prog="python -m bench.workloads.apply", description=__doc__)
    parser.add_argument("--short", action="store_true", help="few skills, and no judgement of times")
    short = parser.parse_args().short
    promises = Checklist(timed=not short)
    with scratch("apply") as root, serving() as server:
        field = Field(root, SHORT if short else Sizes(), server)
        apply_phases.check(promises, field)
        apply_faults.check(promises, field)
        apply_races.check(promises, field)
        apply_times.check(promises, field)
    return promises.status()


if __name__ == "__main__":
    sys.exit(main())
