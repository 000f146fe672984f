"""Workload 3, repository sync: fifty git repositories, kept up to date by one plan.

`python -m bench.workloads.sync [--short]`. The repositories are made here, and are served by `file://` and by
git's daemon on loopback. The list is that of the tool that this comes from; exits 1 if something does not
hold. About two minutes on two cores; with --short a few seconds, and what is about time is not judged.
"""

from __future__ import annotations

import argparse
import sys

from bench.workloads import sync_runs, sync_stops, sync_streams
from bench.workloads.checklist import Checklist
from bench.workloads.place import scratch
from bench.workloads.sync_field import SHORT, Sizes, field_of


def main() -> int:
    """Run; the exit status."""
    parser = argparse.ArgumentParser(prog="python -m bench.workloads.sync", description=__doc__)
    parser.add_argument("--short", action="store_true", help="few repositories, and no judgement of times")
    short = parser.parse_args().short
    promises = Checklist(timed=not short)
    with scratch("sync") as root, field_of(root, SHORT if short else Sizes()) as field:
        sync_runs.check(promises, field)
        sync_streams.check(promises, field)
        sync_stops.check(promises, field)
    return promises.status()


if __name__ == "__main__":
    sys.exit(main())
