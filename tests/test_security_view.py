"""What others can and cannot do to who looks at a pool: `doctor`, `status`, `release`, `report`, `trace`."""

from __future__ import annotations

import os
import sys
from typing import TYPE_CHECKING

import pytest
from builds import Pool, script
from users import several_users

from bench import swaps

if TYPE_CHECKING:
    from pathlib import Path

# What the doctor makes, others may move away.

RUNS = 8
"""Of the doctor's trial against who swaps; `python -m bench.swaps --swaps 100000` goes on for longer."""


@several_users
def test_a_member_swaps_what_doctor_has_made(tmp_path: Path) -> None:
    """A process of another user puts a private tree of ours into its place, again and again: that stays."""
    pool = tmp_path / "pool"
    swaps.plant(pool)
    with swaps.swapping(pool) as count:
        found = [finding for _ in range(RUNS) for finding in swaps.look(pool)]
        assert count() > 0
    assert swaps.missing(pool) == []
    assert {finding.check for finding in found} <= {"locks", "fifos"}


AT_ONCE = """
import os, stat, sys, types
from buildslots.view.checks import trial
pool, event, what = sys.argv[1:]
def swap(seen, arguments):
    global event
    name = str(arguments[0]) if arguments else ""
    if seen == event and name.startswith(".doctor-"):
        event = ""
        if what == "tree":
            os.rename(f"{pool}/{name}", f"{pool}/aside")
            os.rename(f"{pool}/private", f"{pool}/{name}")
        elif what == "above":
            os.rename(pool, f"{pool}-aside")
            os.rename(f"{pool}-other", pool)
            os.rename(f"{pool}/private", f"{pool}/{name}")
        elif what == "link":
            os.rename(f"{pool}/{name}", f"{pool}/aside")
            os.symlink(f"{pool}/private", f"{pool}/{name}")
        elif what == "fifo":
            os.rename(f"{pool}/{name}", f"{pool}/aside")
            os.mkfifo(f"{pool}/{name}")
        elif what == "file":
            os.rename(f"{pool}/{name}", f"{pool}/aside")
            os.close(os.open(f"{pool}/{name}", os.O_CREAT))
        elif what == "stranger":
            os.chown(f"{pool}/{name}", 12345, 12345)
sys.addaudithook(swap)
where = types.SimpleNamespace(settings=types.SimpleNamespace(dir=pool))
for finding in trial.trial(where): print(finding.check, finding.level, finding.text)
print("swapped" if not event else "never")
"""
SWAPPED = "locks problem somebody puts other things into the place of what you make"


@pytest.mark.linux
@pytest.mark.parametrize("event", ["open", "os.rmdir"])
@pytest.mark.parametrize("what", ["tree", "above", "link", "fifo", "file", "stranger"])
def test_what_doctor_has_made_is_swapped_at_the_worst_moment(
    pool: Pool, tmp_path: Path, event: str, what: str
) -> None:
    """Right before it is opened, or removed: whatever is there then is not touched, and it is told."""
    if what == "stranger" and os.geteuid():
        pytest.skip("only root can give directories away")
    for place in (pool.dir, tmp_path / "pool-other"):
        (place / "private" / "deep").mkdir(parents=True, mode=0o700)
        (place / "private" / "lock").write_text("mine")
        (place / "private" / "deep" / "letter").write_text("mine")
    result = pool.run(sys.executable, "-P", "-c", AT_ONCE, str(pool.dir), event, what)
    assert (result.stderr, result.stdout.splitlines()[-1]) == ("", "swapped")
    letters = [path for path in tmp_path.rglob("*") if path.name in {"lock", "letter"} and path.is_file()]
    assert [path.read_text() for path in letters] == ["mine"] * 4
    if event == "open" and what != "above":  # then it still is what was made, wherever that is now
        assert SWAPPED in result.stdout
    elif what not in {"stranger", "above"}:  # still ours to remove; and moved with all that is around it
        assert "somebody has moved the directory .doctor-" in result.stdout


@pytest.mark.linux
@pytest.mark.parametrize("umask", ["000", "277", "777"])
def test_any_umask_of_who_asks_the_doctor(pool: Pool, umask: str) -> None:
    """Locks and FIFOs are tried all the same, and nothing stays."""
    pool.dir.mkdir()
    pool.dir.chmod(0o777)
    user = ["setpriv", "--bounding-set", "-dac_override,-dac_read_search"] if os.geteuid() == 0 else []
    run = f"umask {umask}; exec {script('buildslots')} doctor"
    result = pool.run(*user, "sh", "-c", run)
    assert "ok       locks: locks exclude" in result.stdout
    assert "ok       fifos: FIFOs tell at once" in result.stdout
    assert list(pool.dir.iterdir()) == []
