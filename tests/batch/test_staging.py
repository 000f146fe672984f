"""Staging: a fresh directory that takes the place of its destination, whole or not at all."""

from __future__ import annotations

import os
from stat import S_IMODE
from typing import TYPE_CHECKING, Any

import pytest
from batches import Batches, ended, events, states, tree

from buildslots.batch import staging

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path
    from subprocess import CompletedProcess

    from buildslots import Report

    Run = Callable[..., Report]
    Command = Callable[..., CompletedProcess[str]]


@pytest.fixture(params=["renameat2", "rename"])
def moves(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """How directories are moved: as Linux can, or as everywhere else."""
    if request.param == "rename":
        monkeypatch.setattr(staging, "_renameat2", lambda *_: False)


def beside(batches: Batches) -> list[str]:
    """What lies beside destinations and has no business there."""
    return sorted(path.name for path in batches.dir.rglob(".*"))


def old(batches: Batches, name: str) -> Path:
    """Make a destination that is there already."""
    path = batches.dir / name
    path.mkdir()
    (path / "old").write_text(f"{name}\n")
    return path


@pytest.mark.usefixtures("moves")
def test_a_stage_is_fresh_private_and_moved_after_success(run: Run, batches: Batches) -> None:
    """Empty at each attempt, in a directory that only we can enter; nothing is at the destination before."""
    script = (
        'test -z "$(ls -A "$STAGE")" && test ! -e dest && stat -c %a "$(dirname "$STAGE")" >>out; '
        "echo x >$STAGE/it; test $(wc -l <out) = 2"
    )
    verify = 'test -e "$STAGE/it" && test ! -e dest'
    report = run({"run": script, "verify": verify, "stage": "dest", "retries": 1, "backoff": 0})
    assert report.is_good, report.outcomes
    assert batches.text() == "700\n700\n"
    assert tree(batches.dir / "dest") == {"it": "x\n"}
    assert beside(batches) == []


@pytest.mark.usefixtures("moves")
def test_a_destination_that_is_there_is_replaced_whole(run: Run, batches: Batches) -> None:
    """With nothing of the old one left, in it or beside it."""
    dest = old(batches, "dest")
    assert run({"run": "echo new >$STAGE/new", "stage": dest}).is_good
    assert tree(dest) == {"new": "new\n"}
    assert beside(batches) == []


def test_directories_above_the_destination_are_made(run: Run, batches: Batches) -> None:
    """And the new directory has the usual mode, not the private one."""
    mask = os.umask(0o022)
    os.umask(mask)
    assert run({"run": "echo x >$STAGE/it", "stage": "a/b/dest"}).is_good
    assert tree(batches.dir / "a") == {"b/dest/it": "x\n"}
    assert S_IMODE((batches.dir / "a/b/dest").stat().st_mode) == 0o777 & ~mask


FAILURES: dict[str, dict[str, Any]] = {
    "status": {"run": "echo half >$STAGE/half; exit 1"},
    "verify": {"run": "echo half >$STAGE/half", "verify": ["false"]},
    "time limit": {"run": "echo half >$STAGE/half; exec sleep 1000", "time_limit": 0.1},
    "no program": {"run": ["./nothing"]},
    "read-only files": {"run": "mkdir $STAGE/d; echo x >$STAGE/d/x; chmod 500 $STAGE/d; exit 1"},
}


@pytest.mark.parametrize("keys", FAILURES.values(), ids=list(FAILURES))
@pytest.mark.parametrize("is_there", [True, False])
def test_a_failure_leaves_the_old_whole_and_nothing_beside_it(
    run: Run, batches: Batches, keys: dict[str, Any], *, is_there: bool
) -> None:
    """However the task failed."""
    if is_there:
        old(batches, "dest")
    report = run({**keys, "stage": "dest"})
    assert not report.is_good
    assert tree(batches.dir / "dest") == ({"old": "dest\n"} if is_there else {})
    assert beside(batches) == []


def test_an_unchanged_task_stages_nothing(run: Run, batches: Batches) -> None:
    """Its destination stays as it is."""
    dest = old(batches, "dest")
    assert run({"run": ["false"], "unless": 'test -z "$STAGE"', "stage": "dest"}).is_good
    assert tree(dest) == {"old": "dest\n"}


def refused(run: Run, batches: Batches, stage: str) -> str:
    """The reason for which nothing is staged there; nothing was run, and nothing left."""
    (outcome,) = run({"run": ["touch", "ran"], "stage": stage}).outcomes
    assert (outcome.state, (batches.dir / "ran").exists(), beside(batches)) == ("failed", False, [])
    assert outcome.reason is not None
    return outcome.reason


@pytest.mark.parametrize(("mode", "why"), [(0o777, "everybody"), (0o1777, "everybody"), (0o707, "everybody")])
def test_staging_is_refused_where_others_can_write(run: Run, batches: Batches, mode: int, why: str) -> None:
    """Sticky or not: others could exchange what is staged; above a directory of ours sticky is enough."""
    shared = batches.dir / "shared"
    shared.mkdir()
    shared.chmod(mode)
    reason = refused(run, batches, "shared/dest")
    assert reason.startswith("cannot stage: ")
    assert f"can be written by {why}" in reason
    (shared / "mine").mkdir(mode=0o755)
    if mode == 0o1777:
        assert run({"run": ["true"], "stage": "shared/mine/dest"}).is_good
    else:
        assert f"can be written by {why}" in refused(run, batches, "shared/mine/dest")


def test_staging_is_refused_where_no_directory_is_replaced(run: Run, batches: Batches) -> None:
    """A file or a symlink at the destination stays what it is; also one that appears meanwhile."""
    (batches.dir / "file").write_text("mine")
    old(batches, "real")
    (batches.dir / "link").symlink_to("real")
    for name in ("file", "link"):
        assert "is there, and is no directory" in refused(run, batches, name)
    report = run({"run": "echo mine >late; touch $STAGE/x", "stage": "late"})
    assert "is there, and is no directory" in str(report.outcomes[0].reason)
    assert tree(batches.dir) == {"file": "mine", "real/old": "real\n", "late": "mine\n", "running/": ""}
    assert (batches.dir / "link").is_symlink()
    assert beside(batches) == []


def test_all_or_nothing_moves_nothing_before_all_is_verified(run: Run, batches: Batches) -> None:
    """The last task sees no destination yet; then all are there."""
    old(batches, "b")
    report = run(
        *[{"run": f"echo {n} >$STAGE/new", "stage": n, "name": n} for n in "abc"],
        {
            "run": "test ! -e a && test -e b/old && test ! -e c && test -e .a.stage*/new/new",
            "needs": ["a", "b", "c"],
        },
        all_or_nothing=True,
    )
    assert report.is_good, report.outcomes
    assert tree(batches.dir) == {"a/new": "a\n", "b/new": "b\n", "c/new": "c\n", "running/": ""}
    assert beside(batches) == []


def test_all_or_nothing_leaves_all_as_it_was_when_one_fails(run: Run, batches: Batches) -> None:
    """Nothing is moved, nothing lies about, and what had succeeded is undone."""
    old(batches, "b")
    before = tree(batches.dir)
    report = run(
        *[{"run": f"echo {n} >$STAGE/new", "stage": n, "name": n} for n in "abc"],
        {"run": ["false"], "needs": ["a", "b", "c"], "name": "d"},
        all_or_nothing=True,
    )
    assert (states(report), report.rolled_back) == (dict.fromkeys("abc", "undone") | {"d": "failed"}, True)
    assert tree(batches.dir) == before
    assert beside(batches) == []


@pytest.mark.usefixtures("moves")
@pytest.mark.parametrize("last", ["file", "exchange"])
def test_a_failure_while_moving_undoes_the_moves_made(
    run: Run, batches: Batches, monkeypatch: pytest.MonkeyPatch, last: str
) -> None:
    """Those exchanged and those put where nothing was: all is as before, in reverse order."""
    old(batches, "a")
    if last == "file":
        spoil = "echo spoilt >c"  # where a stage cannot be moved
    else:
        old(batches, "c")
        spoil = "true"
        move = staging.Stage.move

        def fails(stage: staging.Stage) -> None:
            if stage.dest.endswith("/c"):
                raise OSError(5, "Input/output error")
            move(stage)

        monkeypatch.setattr(staging.Stage, "move", fails)
    before = tree(batches.dir)
    report = run(
        {"run": "echo new >$STAGE/new", "stage": "a", "name": "a", "undo": "cat a/old >>undone"},
        {"run": "echo new >$STAGE/new", "stage": "b", "name": "b", "undo": "test ! -e b && echo b >>undone"},
        {"run": "echo new >$STAGE/new", "stage": "c", "name": "c"},
        {"run": spoil, "needs": ["a", "b", "c"], "name": "d"},
        all_or_nothing=True,
        jobs=1,
    )
    assert report.rolled_back
    assert not report.is_good
    assert "cannot move it to" in str({one.name: one.reason for one in report.outcomes}["c"])
    assert batches.text("undone") == "b\na\n"
    after = tree(batches.dir)
    del after["undone"]
    assert after == before | ({"c": "spoilt\n"} if last == "file" else {})
    assert beside(batches) == []


def test_many_stages_need_no_descriptors(run: Run, batches: Batches) -> None:
    """A hundred stages of one batch with all-or-nothing leave no more open than one."""
    most: list[int] = []
    report = run(
        *[{"run": ["true"], "stage": f"d{n}", "name": f"{n}", "pool": ""} for n in range(40)],
        on_change=lambda _: most.append(len(os.listdir("/dev/fd"))),
        all_or_nothing=True,
        jobs=1,
    )
    assert report.is_good
    assert max(most[-5:]) - min(most[:5]) < 10


def test_stages_on_the_command_line(batches: Batches, batch: Command) -> None:
    """The same in a plan: moved, or rolled back with status 3."""
    good = {"name": "a", "run": "echo new >$STAGE/it", "stage": "dest"}
    assert batch(batches.write(good)).returncode == 0
    assert tree(batches.dir / "dest") == {"it": "new\n"}
    file = batches.write({**good, "run": "echo newer >$STAGE/it"}, {"run": ["false"], "needs": ["a"]})
    result = batch("--json", "--all-or-nothing", file)
    assert result.returncode == 3
    assert ended(events(result.stdout)) == {"a": "undone", "false": "failed"}
    assert events(result.stdout)[-1]["state"] == "rolled_back"
    assert tree(batches.dir / "dest") == {"it": "new\n"}
