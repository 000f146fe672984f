"""The process that `checks.trial` kills: it owns a lock and a bell until then.

Imports nothing that it can do without, because a doctor is asked when a machine is busy.
"""

from __future__ import annotations

import sys

from buildslots.disk.bells import hang
from buildslots.disk.lock import lock_file

LOCK, BELL = "lock", "bell"


def own(scratch: str) -> None:
    """Own a lock and a bell in the directory `scratch` until killed, or until the doctor is gone.

    Writes whether it has them, or what failed. Removes `scratch` if the doctor did not live to do it.
    """
    try:
        taken = lock_file(f"{scratch}/{LOCK}") is not None
        hung = hang(f"{scratch}/{BELL}") is not None
    except OSError as error:
        sys.stdout.write(f"{error.strerror}\n")
        return
    sys.stdout.write(f"{taken} {hung}\n")
    sys.stdout.flush()
    sys.stdin.read()
    import shutil  # noqa: PLC0415 - seldom come to

    shutil.rmtree(scratch, ignore_errors=True)
