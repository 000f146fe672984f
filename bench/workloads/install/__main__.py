"""Checks what a toolchain install promises: `python -m bench.workloads.install`.

`--short` does less of it and does not judge times; `--only PART` checks one part.
"""

from __future__ import annotations

import argparse
import sys

from bench.workloads.checklist import Checklist
from bench.workloads.install import bounded, limits, people, whole
from bench.workloads.install.manager import AT_ONCE, POOL
from bench.workloads.scratch import scratch

PARTS = {"bounded": bounded.check, "whole": whole.check, "limits": limits.check, "people": people.check}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--short", action="store_true", help="do less, and do not judge times")
    parser.add_argument("--only", choices=PARTS, help="one part of it")
    options = parser.parse_args()
    say = Checklist(timed=not options.short)
    with scratch({POOL: AT_ONCE}) as directory:
        for name, check in PARTS.items():
            if options.only in {None, name}:
                check(say, directory, 8 if options.short else 40)
    return say.status()


if __name__ == "__main__":
    sys.exit(main())
