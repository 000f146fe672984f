"""`buildslots status`: who holds the slots and who waits, once or kept up to date."""

from __future__ import annotations

import sys

from buildslots.settings import resolve
from buildslots.status import pool_status
from buildslots.view.main import warn

TYPE_CHECKING = False
if TYPE_CHECKING:
    import argparse


def run(options: argparse.Namespace) -> int:
    """Print the status that the options ask for."""
    status = pool_status(resolve(pool=options.pool, dir=options.dir, warn=warn))
    if options.json:
        import json  # noqa: PLC0415

        text = json.dumps(status.as_dict(), indent=2)
    else:
        from buildslots.view.table import status_text  # noqa: PLC0415

        text = status_text(status)
    sys.stdout.write(text + "\n")
    return 0
