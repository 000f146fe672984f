"""The command line of `buildslots`."""

from __future__ import annotations

import argparse
import os
import sys

from buildslots import __version__
from buildslots.errors import SettingError
from buildslots.settings import resolve
from buildslots.status import pool_status


def main(args: list[str] | None = None) -> int:
    """Run the console script: its exit status."""
    parser = argparse.ArgumentParser(
        prog="buildslots", description="Look at the machine's build slots. Builds are run with slot-run."
    )
    parser.add_argument("--version", action="version", version=f"%(prog)s {__version__}")
    commands = parser.add_subparsers(title="commands", metavar="COMMAND", required=True)
    status = commands.add_parser("status", help="who holds the slots and who waits, in order")
    status.add_argument("-p", "--pool", metavar="NAME", help="the pool to look at [default]")
    status.add_argument("--dir", metavar="PATH", help="directory of the default pool")
    status.add_argument("--json", action="store_true", help="for programs; the README names the fields")
    options = parser.parse_args(args)
    try:
        return _status(options)
    except SettingError as error:
        parser.error(str(error))
    except BrokenPipeError:
        # Python would flush stdout once more at exit, and fail again ("Note on SIGPIPE", library/signal).
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except OSError as error:
        sys.stderr.write(f"buildslots: {error}\n")
        return 1


def _status(options: argparse.Namespace) -> int:
    status = pool_status(resolve(pool=options.pool, dir=options.dir, warn=_warn))
    if options.json:
        import json  # noqa: PLC0415

        text = json.dumps(status.as_dict(), indent=2)
    else:
        from buildslots.view.table import status_text  # noqa: PLC0415

        text = status_text(status)
    sys.stdout.write(text + "\n")
    sys.stdout.flush()
    return 0


def _warn(text: str) -> None:
    sys.stderr.write(f"buildslots: {text}\n")
