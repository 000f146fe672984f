"""Those who clean up by age: nothing that a pool in use consists of is old to them."""

from __future__ import annotations

import os
import shutil
import time
from typing import TYPE_CHECKING

import pytest
from builds import script, take_now, wait_until
from users import ALICE, BOB, several_users

from buildslots import SlotPool
from buildslots.backend import Request
from buildslots.disk import wait, young
from buildslots.disk.directory import PoolDirectory

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from builds import Pool
    from users import Users

OLD_S = 30 * 86400.0
WEEK_S = 7 * 86400.0


def make_old(*paths: Path) -> None:
    """Give all of `paths` the times of a month ago, links themselves."""
    then = time.time() - OLD_S
    for path in paths:
        os.utime(path, (then, then), follow_symlinks=False)


def everything(directory: Path) -> list[Path]:
    return [directory, *directory.rglob("*")]


def old(directory: Path) -> set[str]:
    """What somebody who cleans up by age would remove: what is a week old by one of its times."""
    before = time.time() - WEEK_S
    facts = {str(path.relative_to(directory)): path.lstat() for path in everything(directory)}
    return {name for name, fact in facts.items() if min(fact.st_atime, fact.st_mtime) < before}


def test_a_build_that_starts_makes_what_others_hold_young(pool: Pool) -> None:
    """Slot files, mutex, rooms, bells, records, the directory itself."""
    first = pool.build("-n2")
    first.started()
    pool.record()
    make_old(*everything(pool.dir))
    second = pool.build("-n2")
    second.started()
    assert old(pool.dir) == set()
    first.finish()
    second.finish()


def test_a_named_pool_keeps_the_way_to_it_young(pool: Pool) -> None:
    """A job may remove whole directories by their age, with all that is in them."""
    pool.slot_run("-p", "link", "true")
    make_old(*everything(pool.dir))
    pool.slot_run("-p", "link", "true")
    assert old(pool.dir) == set()


def test_who_joins_the_line_makes_all_young(pool: Pool) -> None:
    """Also if nothing but the held slot is old."""
    first = pool.build("-n1")
    first.started()
    make_old(pool.dir / "slot-0")
    pool.queued("-n1", "-t", "none")
    wait_until(lambda: not old(pool.dir), "a young slot")
    first.finish()


def test_who_stands_in_line_keeps_all_young(pool: Pool, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also its ticket and the bell of that."""
    monkeypatch.setattr(wait, "YOUNG_S", 0.0)
    directory = PoolDirectory(str(pool.dir))
    hold = take_now(directory, Request(1, ["make"]))
    request = Request(1, ["make"])
    _, place = finish_step(directory, request)
    steps = place.until(time.monotonic() + 60)
    next(steps)
    make_old(*everything(pool.dir))
    steps.send(True)
    assert old(pool.dir) == set()
    steps.close()
    place.leave()
    hold.release()


def finish_step(directory: PoolDirectory, request: Request) -> tuple[object, wait.Wait]:
    steps = directory.enter(request)
    while True:
        try:
            next(steps)
        except StopIteration as end:
            return end.value  # type: ignore[no-any-return]


def test_a_build_of_the_library_makes_its_own_slot_young(pool: Pool) -> None:
    """Though the mutex is young, because somebody had to replace it."""
    with SlotPool(slots=2).acquire():
        pass
    make_old(pool.dir / "slot-0")
    with SlotPool(slots=2).acquire():
        assert "slot-0" not in old(pool.dir)


@pytest.mark.linux
@pytest.mark.skipif(shutil.which("systemd-tmpfiles") is None, reason="needs systemd-tmpfiles")
@pytest.mark.parametrize("start", [lambda pool: pool.build("-n2").started(), lambda pool: pool.queued("-n1")])
def test_systemd_tmpfiles_takes_no_held_slot(
    pool: Pool, tmp_path: Path, start: Callable[[Pool], object]
) -> None:
    """A second build then never runs beside the first."""
    first = pool.build("-n1")
    first.started()
    pool.record()
    make_old(*everything(pool.dir))
    start(pool)
    wait_until(lambda: "slot-0" not in old(pool.dir) or not old(pool.dir), "what is young by now")
    rules = tmp_path / "tmpfiles.conf"
    # Not by the times of birth and of change, which no test can set.
    rules.write_text(f"d {pool.dir} - - - am:10d\n")
    before = {path: path.lstat().st_ino for path in everything(pool.dir)}
    cleaned = pool.run("systemd-tmpfiles", "--clean", str(rules))
    assert cleaned.returncode == 0, cleaned.stderr
    assert {path: path.lstat().st_ino for path in before} == before
    assert pool.slot_run("-n1", "-t0", "--on-timeout", "fail", "true").returncode == 75


def test_what_is_none_of_ours_keeps_its_times(pool: Pool, tmp_path: Path) -> None:
    """Other files in the directory, and what a link or a second name leads to."""
    pool.slot_run("true")
    elsewhere = tmp_path / "elsewhere"
    elsewhere.write_text("")
    (pool.dir / "notes").write_text("")
    (pool.dir / "slot-7").symlink_to(elsewhere)
    (pool.dir / "holders" / "slot-8").hardlink_to(elsewhere)
    make_old(*everything(pool.dir), elsewhere)
    young.refresh([str(pool.dir)])
    assert old(pool.dir) == {"notes", "slot-7", "holders/slot-8"}
    assert time.time() - elsewhere.stat().st_mtime > WEEK_S


@several_users
def test_members_of_a_group_keep_each_other_s_files_young(users: Users) -> None:
    """Who does not own a file may still say that it was used now, if the group may write it."""
    assert users.run(*users.as_user(ALICE, script("slot-run"), "true")).returncode == 0
    make_old(*everything(users.dir))
    result = users.run(*users.as_user(BOB, script("slot-run"), "true"))
    assert (result.returncode, result.stderr, old(users.dir)) == (0, "", set())
