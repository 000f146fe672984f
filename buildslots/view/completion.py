"""`buildslots completion`: the script that makes a shell complete `slot-run` and `buildslots`.

The scripts are files beside this module, one for each shell, written by hand: what to offer after
`slot-run make` is the shell's own business, and no library knows slot-run's parser. A test holds their
options equal to the parsers'.
"""

from __future__ import annotations

import os
import sys

TYPE_CHECKING = False
if TYPE_CHECKING:
    import argparse


def run(options: argparse.Namespace) -> int:
    """Print the script for the shell."""
    path = os.path.join(os.path.dirname(__file__), "completions", f"complete.{options.shell}")
    with open(path, encoding="utf-8") as file:
        sys.stdout.write(file.read())
    return 0
