"""Checks what an audit of tools promises, with installs and upgrades: `python -m bench.workloads.audit`.

`--short` does less of it and does not judge times; `--only PART` checks one part.
"""

from __future__ import annotations

import argparse
import sys

from bench.workloads.audit import audited, installed, kept, settled, upgraded
from bench.workloads.audit.bulk import POOL
from bench.workloads.checklist import Checklist
from bench.workloads.scratch import scratch

PARTS = {
    "audited": audited.check,
    "kept": kept.check,
    "installed": installed.check,
    "failures": installed.check_failures,
    "upgraded": upgraded.check,
    "settled": settled.check,
}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--short", action="store_true", help="do less, and do not judge times")
    parser.add_argument("--only", choices=PARTS, help="one part of it")
    options = parser.parse_args()
    say = Checklist(timed=not options.short)
    with scratch({POOL: 4}) as directory:
        for name, check in PARTS.items():
            if options.only in {None, name}:
                check(say, directory, short=options.short)
    return say.status()


if __name__ == "__main__":
    sys.exit(main())
