"""`buildslots status`: who holds the slots and who waits, once or kept up to date; or as metrics."""

from __future__ import annotations

import sys

from buildslots.view import warn
from buildslots.view.now.chosen import Pools, for_eyes
from buildslots.view.output import write
from buildslots.view.table import is_cut_off

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
        if options.format == "text" and not options.watch:
            return 1  # an idle pool would look the same
    statuses = pools.look()
    for status in statuses:
        if status.rules_problem:
            warn(status.rules_problem)
    if options.watch:
        from buildslots.view.now.watch import watch  # noqa: PLC0415

        return watch(pools, options.interval or EVERY_S, json=options.json)
    if options.format == "prometheus":
        from buildslots.view.now.metrics import metrics_text  # noqa: PLC0415

        write("-", metrics_text(statuses, pools.told()))
    elif not options.json and for_eyes():
        from buildslots.view.now.colour import print_statuses  # noqa: PLC0415 - rich is 40 ms

        print_statuses(statuses, every=options.all, below=pools.others())
    else:
        sys.stdout.write(pools.text(statuses, json=options.json, indent=2) + "\n")
    return int(not options.all and options.format != "prometheus" and is_cut_off(statuses[0]))
