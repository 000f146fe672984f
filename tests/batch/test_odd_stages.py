"""Stages in odd places: in a list that goes through no shell, and where nothing must be replaced."""

from __future__ import annotations

import os
import shlex
from typing import TYPE_CHECKING

import pytest
from builds import script

from buildslots import PlanError, run_batch

if TYPE_CHECKING:
    from pathlib import Path

    from batches import Batches
    from builds import Pool

NO_POWERS = ["setpriv", "--bounding-set", "-dac_override,-dac_read_search"] if os.geteuid() == 0 else []
"""Root may write everywhere; with this it may not."""


def test_a_list_may_name_the_stage(pool: Pool, tmp_path: Path) -> None:
    """Alone or as the beginning of a path; in a shell's script it is the shell's business."""
    del pool
    odd = tmp_path / "a b' $(touch canary)"
    odd.mkdir()
    runs = [
        ["mkdir", "$STAGE/in"],
        ["cp", "-R", "/dev/null", "$STAGE/file"],
        ["sh", "-c", 'echo 1 >"$STAGE/it"'],
    ]
    runs.append(["sh", "-c", 'echo "$2" >"$1/it"', "sh", "$STAGE", "$STAGES"])
    tasks = [
        {"name": f"t{number}", "run": run, "stage": odd / f"d{number}", "pool": ""}
        for number, run in enumerate(runs)
    ]
    assert run_batch(tasks, name="lists").is_good
    assert (odd / "d0/in").is_dir()
    assert (odd / "d2/it").read_text() == "1\n"
    assert (odd / "d3/it").read_text() == "$STAGES\n"


@pytest.mark.parametrize("where", [".", "..", "/", "~", "~/..", "here", "link/here"])
def test_a_stage_does_not_replace_where_we_are(
    pool: Pool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, where: str
) -> None:
    """Nor the home directory, nor what they are in: all that is there would be removed."""
    del pool
    (tmp_path / "here").mkdir()
    (tmp_path / "here/ours").touch()
    (tmp_path / "link").symlink_to(tmp_path)
    monkeypatch.chdir(tmp_path / "here")
    dest = str(tmp_path / where) if "here" in where else where
    with pytest.raises(PlanError, match="a stage replaces all of its destination"):
        run_batch([{"run": ["true"], "name": "a", "stage": dest, "pool": ""}])
    assert os.listdir(tmp_path / "here") == ["ours"]


def test_a_stage_does_not_replace_a_place_of_many(pool: Pool, tmp_path: Path) -> None:
    """Such as /tmp, which root could."""
    del pool
    many = tmp_path / "many"
    many.mkdir()
    many.chmod(0o1777)
    (many / "theirs").touch()
    report = run_batch([{"run": 'touch "$STAGE/x"', "name": "a", "stage": many, "pool": ""}])
    assert (report.outcomes[0].state, "is a place of many" in str(report.outcomes[0].reason)) == (
        "failed",
        True,
    )
    assert os.listdir(many) == ["theirs"]
    assert not list(tmp_path.glob(".many*"))


def test_a_directory_that_was_removed_keeps_no_batch(batches: Batches) -> None:
    """Nobody says where we are then, and commands that do not care run."""
    gone = batches.dir / "gone"
    gone.mkdir()
    file = batches.write({"run": ["true"], "name": "a"}, {"run": ["false"], "name": "b"})
    batch = f"{shlex.quote(script('buildslots'))} batch"
    for what, status in ((f"{batch} -j1 {batches.dir / file}", 1), (f"echo x | {batch} -- true", 0)):
        result = batches.pool.run("sh", "-c", f"rmdir {gone}; {what}", cwd=gone)
        assert (result.returncode, "Traceback" in result.stderr) == (status, False), result.stderr
        gone.mkdir()


def test_a_read_only_tree_is_replaced(batches: Batches) -> None:
    """As Go's module cache is; what a link in it names is not touched."""
    theirs, dest = batches.dir / "theirs", batches.dir / "dest"
    theirs.mkdir()
    theirs.chmod(0o500)
    (dest / "a/b").mkdir(parents=True)
    (dest / "a/b/file").touch()
    (dest / "a/link").symlink_to(theirs)
    for path in (dest / "a/b", dest / "a"):
        path.chmod(0o500)
    file = batches.write({"run": 'touch "$STAGE/x"', "stage": "dest"})
    result = batches.pool.run(*NO_POWERS, script("buildslots"), "batch", file, cwd=batches.dir)
    assert (result.returncode, os.listdir(dest)) == (0, ["x"])
    assert not list(batches.dir.glob(".dest*"))
    assert theirs.stat().st_mode & 0o777 == 0o500
