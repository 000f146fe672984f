"""What slot-runs that were killed have left in the directory of jobservers."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from pathlib import Path

jobserver = pytest.importorskip("buildslots.tokens.jobserver")
pytestmark = pytest.mark.linux


def test_jobservers_of_the_dead_are_removed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Those that nobody has open, once they are old; not those of builds that live, and nothing else."""
    tmp_path.chmod(0o700)
    environ = {"XDG_RUNTIME_DIR": str(tmp_path)}
    ours, another = jobserver.Jobserver("ours", environ), jobserver.Jobserver("another", environ)
    room = tmp_path / "buildslots"
    os.mkfifo(room / "dead")
    (room / "file").write_text("somebody's")
    ours.tidy()
    assert {path.name for path in room.iterdir()} == {"ours", "another", "dead", "file"}
    monkeypatch.setattr(jobserver, "OLD_S", -60.0)
    ours.tidy()
    assert {path.name for path in room.iterdir()} == {"ours", "another", "file"}
    for each in (ours, another):
        each.close()
    assert {path.name for path in room.iterdir()} == {"file"}


def test_a_home_that_make_cannot_write_into_makeflags(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A blank would end the word: the build has no tokens then, and a sentence says why."""
    monkeypatch.setattr(jobserver, "_is_private", lambda path, _uid: not path.startswith("/run/user/"))
    with pytest.raises(OSError, match="has a blank"):
        jobserver.private_dir({"HOME": str(tmp_path / "my home")})
    assert jobserver.private_dir({"HOME": str(tmp_path / "home")}).startswith(f"{tmp_path}/home/")
