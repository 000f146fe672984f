"""`buildslots status`: who holds the slots and who waits, once or kept up to date."""

from __future__ import annotations

import sys

from buildslots.view import warn
from buildslots.view.now.chosen import Pools, for_eyes

TYPE_CHECKING = False
if TYPE_CHECKING:
    import argparse

EVERY_S = 1.0
"""Seconds between two updates, unless --interval says otherwise."""


def run(options: argparse.Namespace) -> int:
    """Print the status that the options ask for."""
    pools = Pools(options.pool, options.dir, every=options.all)
    if unknown := pools.unknown():
        warn(unknown)
        if not (options.json or options.watch):
            return 1  # an idle pool would look the same
    if options.watch:
        from buildslots.view.now.watch import watch  # noqa: PLC0415

        return watch(pools, options.interval or EVERY_S, json=options.json)
    statuses = pools.look()
    if not options.json and for_eyes():
        from buildslots.view.now.colour import print_statuses  # noqa: PLC0415 - rich is 40 ms

        print_statuses(statuses, every=options.all, below=pools.others())
    else:
        sys.stdout.write(pools.text(statuses, json=options.json, indent=2) + "\n")
    return 0
