"""A storm over several hosts: `python -m bench.fleet [--seconds N] [--hosts N] [--clients N] [--seed N]`.

Exit status 1 if more builds ran than there are slots without a reason that the manual has, if one of those
that did was not counted as overflow, or if anything was left in the end.
"""

from __future__ import annotations

import argparse
import random
import sys
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING

from bench.fleet.driver import World
from bench.fleet.referee import judge
from bench.kit.shell import Missing, forget_settings
from bench.report.page import keep

if TYPE_CHECKING:
    from bench.fleet.referee import Verdict

SHOWN = 20


def main() -> int:
    """Run; the exit status."""
    parser = argparse.ArgumentParser(prog="python -m bench.fleet", description=__doc__)
    parser.add_argument("--seconds", type=float, default=60.0)
    parser.add_argument("--hosts", type=int, default=4)
    parser.add_argument("--clients", type=int, default=8, help="on each host")
    parser.add_argument("--slots", type=int, default=3)
    parser.add_argument("--lease", type=float, default=3.0, help="in seconds")
    parser.add_argument("--harms", type=float, default=8.0, help="in a second")
    parser.add_argument("--seed", type=int, default=None)
    parser.add_argument("--write", action="store_true", help="write bench/results.md")
    options = parser.parse_args()
    if options.seed is None:
        options.seed = random.SystemRandom().randrange(10**6)
    print(f"seed {options.seed}", flush=True)
    with tempfile.TemporaryDirectory(prefix="fleet-") as scratch:
        forget_settings(scratch)
        world = World(
            Path(scratch), options.hosts, options.clients, options.slots, options.lease, options.seed
        )
        try:
            with world:
                world.run(options.seconds, options.harms)
        except Missing as error:
            print(error)
            return 1
        verdict = judge(world.log, world.marks, world.seen, options.slots, options.lease, time.monotonic_ns())
        said = (Path(scratch) / "errors").read_text(errors="replace").splitlines()
    lines = rows(verdict, world, said)
    for name, value in lines:
        print(f"{name}: {value}")
    problems = [*verdict.beyond, *verdict.uncounted, *world.problems]
    print("\n".join(problems[:SHOWN]))
    if options.write:
        write(lines, options)
    return 1 if problems else 0


def rows(verdict: Verdict, world: World, said: list[str]) -> list[list[str]]:
    """What is to be known of it."""
    done = "; ".join(f"{name} {number}" for name, number in world.counts.items())
    registered = sum("registered again" in line for line in said)
    return [
        ["builds that ran", str(verdict.builds)],
        ["what happened", done],
        [f"most at once, on {world.slots} slots", str(verdict.most)],
        ["most beyond the cap whose lease was over, as the manual says", str(verdict.allowed)],
        ["beyond the cap without a reason", str(len(verdict.beyond))],
        ["builds that could not be heard for a lease; lines that say so", f"{verdict.lost}; {registered}"],
        [
            "looks at which one that runs was not counted, of all",
            f"{len(verdict.uncounted)} of {len(world.seen)}",
        ],
        ["longest without a start", f"{verdict.gap_s:.1f} s"],
    ]


def write(lines: list[list[str]], options: argparse.Namespace) -> None:
    """Write the figures for the table of results."""
    size = f"--hosts {options.hosts} --clients {options.clients} --lease {options.lease:g}"
    keep(
        "fleet-storm",
        "A storm over the hosts of a fleet",
        f"bench.fleet --seconds {options.seconds:g} --seed {options.seed} {size}",
        ["what", "figure"],
        lines,
        [
            f"Hosts are network namespaces. A lease is {options.lease:g} s here; usually it is 30 s.",
            "The referee judges by what the builds have noted themselves, and by what was done to them.",
        ],
    )


if __name__ == "__main__":
    sys.exit(main())
