"""The entry point of `buildslots`: it reads the command line, runs the command, and reports its errors.

A command is a function `run(options) -> int`, which returns the exit status. Its module is imported only when
the command runs, so that no command pays for what another one needs. Commands never import this module.
"""

from __future__ import annotations

import importlib
import io
import os
import sys

from buildslots.errors import SettingError
from buildslots.view import warn

MODULES = {
    "status": "now.status",
    "history": "past.history",
    "trace": "past.trace",
    "report": "past.report",
    "doctor": "health.doctor",
    "release": "health.release",
    "set": "rules",
    "rules": "rules",
    "pause": "rules",
    "resume": "rules",
    "fleet": "fleet",
    "batch": "batch",
    "batches": "batches",
    "wait": "detached",
    "log": "detached",
    "stop": "detached",
    "jobs": "detached",
    "config": "config",
    "pools": "pools",
    "setup": "setup",
    "hook": "hook",
    "help": "help",
    "completion": "completion",
}
"""The module of each command, below `buildslots.view`."""


def main(args: list[str] | None = None) -> int:
    """Run the console script: its exit status."""
    given = sys.argv[1:] if args is None else args
    if given[:1] == ["hook"] and not {"-h", "--help"} & set(given):
        from buildslots.view import hook  # noqa: PLC0415

        return hook.main(given[1:])
    # Not above: with argparse that takes longer than the whole of a hook.
    from buildslots.processes import occupy_standard  # noqa: PLC0415
    from buildslots.view.options import build_parser, parse  # noqa: PLC0415

    occupy_standard()
    # Python has no stream for what our caller had closed.
    sys.stdout = sys.stdout or open(os.devnull, "w", encoding="utf-8")  # noqa: SIM115
    if isinstance(sys.stdout, io.TextIOWrapper):  # and not a test's
        sys.stdout.reconfigure(errors="replace")  # commands and paths of others may not fit our encoding
    parser = build_parser()
    options = parse(parser, given)
    try:
        status = importlib.import_module(f"buildslots.view.{MODULES[options.command]}").run(options)
        sys.stdout.flush()
    except SettingError as error:
        parser.error(str(error))
    except KeyboardInterrupt:
        return 130
    except BrokenPipeError:
        # Python would flush stdout once more at exit, and fail again ("Note on SIGPIPE", library/signal).
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except OSError as error:
        warn(str(error))
        return 1
    return int(status)
