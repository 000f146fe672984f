"""The first milliseconds of slot-run, and what it is for the processes of others as pid 1."""

from __future__ import annotations

import re
import signal
from typing import TYPE_CHECKING

import pytest
from builds import script
from namespaces import unshare

if TYPE_CHECKING:
    from pathlib import Path

    from builds import Pool

pytestmark = pytest.mark.linux


def test_ctrl_c_while_it_starts_ends_it_silently(pool: Pool, tmp_path: Path) -> None:
    """At each file that it opens, from its first module to the start of the command."""
    pool.slot_run("true")
    log = tmp_path / "log"
    trace = ("strace", "-o", str(log), "-e", "trace=openat,clone,clone3,vfork")
    pool.run(*trace, script("slot-run"), "true")
    before = re.split(r"^(?:clone3?|vfork)\(", log.read_text(), flags=re.MULTILINE)[0]
    opened = re.findall(r'^openat\([^"]*"([^"]*)"', before, re.MULTILINE)
    first = next(number for number, path in enumerate(opened, 1) if "/buildslots/" in path)
    for number in range(first, len(opened) + 1, 3):
        inject = ("-e", f"inject=openat:signal=INT:when={number}")
        result = pool.run(*trace, *inject, script("slot-run"), "sleep", "300")
        assert (result.returncode, result.stderr) == (-signal.SIGINT, ""), opened[number - 1]
    assert (pool.held(), pool.leftovers()) == ([], [])


def test_an_ignored_interrupt_stays_ignored_while_it_starts(pool: Pool) -> None:
    """As in a script's background job."""
    ignoring = 'trap "" INT; exec "$@"'
    trace = ("strace", "-o", "/dev/null", "-e", "trace=openat", "-e", "inject=openat:signal=INT:when=40+")
    result = pool.run("sh", "-c", ignoring, "sh", *trace, script("slot-run"), "echo", "ran")
    assert (result.returncode, result.stdout, result.stderr) == (0, "ran\n", "")


ORPHANS = """
for n in 1 2 3; do (sh -c 'echo $$ >>"$0"' "$0" &); done
tries=0
until [ "$(wc -l <"$0")" = 3 ]; do sleep 0.01; done 2>/dev/null
while read -r pid; do
  while [ -d "/proc/$pid" ]; do
    tries=$((tries + 1)); [ "$tries" -lt 500 ] || { grep State "/proc/$pid/status"; break; }
    sleep 0.01
  done
done <"$0"
echo "parent $PPID"
exit 7
"""


def test_as_pid_1_it_reaps_the_orphans(pool: Pool, tmp_path: Path) -> None:
    """Of a container, say: nobody else could, and zombies fill the table of processes."""
    (tmp_path / "pids").touch()
    # Its own /proc; the options of unshare(1) for that would hide what the helper decides about mounts.
    inside = 'mount -t proc proc /proc && exec "$@"'
    command = [*unshare("--mount", "--pid"), "--fork", "sh", "-c", inside, "sh", script("slot-run")]
    result = pool.run(*command, "sh", "-c", ORPHANS, str(tmp_path / "pids"))
    assert (result.returncode, result.stdout, result.stderr) == (7, "parent 1\n", "")
