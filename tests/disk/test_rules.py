"""The file `rules` of a pool: what is read from it, what counts as absent, and how it is changed."""

from __future__ import annotations

import os
import socket
import threading
import time
from typing import TYPE_CHECKING

import pytest
from users import ALICE, GROUP, several_users

from buildslots.backend import Request
from buildslots.disk import rules, ruling
from buildslots.disk.directory import PoolDirectory
from buildslots.disk.rules import Pause, Rules, read
from buildslots.disk.ruling import change
from buildslots.disk.taking import rules_of
from buildslots.words import whoami

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

GOOD = "buildslots-rules 1\nslots 3\nend\n"
HOUR_S = 3600.0
UNSAID = "nobody has said anything"


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    """A pool that somebody has used."""
    path = tmp_path / "pool"
    PoolDirectory(str(path)).make()
    return path


def read_text(directory: Path, text: str | bytes) -> Rules:
    """The rules in a file with that text."""
    (directory / "rules").write_bytes(text.encode() if isinstance(text, str) else text)
    found = read(str(directory))
    assert found is not None
    return found


def set_slots(directory: Path, slots: int | None) -> None:
    """Let the pool say that."""

    def alter(rules: Rules, _now: float) -> str:
        rules.slots = slots
        return f"slots={slots}"

    change(str(directory), alter)


def lines(*each: str) -> str:
    """A file with these lines between the first and the last."""
    return "\n".join(["buildslots-rules 1", *each, "end", ""])


# Reading.


def test_there_are_none(directory: Path) -> None:
    """A pool without the file, and one without a directory, says nothing."""
    assert read(str(directory)) is None
    assert rules_of(str(directory)) is None
    assert read(str(directory / "missing")) is None


def test_what_was_set_is_read(directory: Path) -> None:
    """The cap, the pause with who and why, and the record of changes."""

    def alter(rules: Rules, now: float) -> str:
        rules.slots = 7
        rules.pauses.append(Pause(now, now + 60, "alice@host", "a new kernel: wait"))
        return "slots=7 and a pause"

    change(str(directory), alter)
    found = read(str(directory))
    assert found is not None
    assert (found.slots, found.problem) == (7, None)
    pause = found.pause(time.time())
    assert pause is not None
    assert (pause.who, pause.reason, round(pause.until - pause.since)) == (
        "alice@host",
        "a new kernel: wait",
        60,
    )
    assert [(each.who, each.what) for each in found.changes] == [(whoami(), "slots=7 and a pause")]


def test_lines_of_a_later_version_are_passed_over(directory: Path) -> None:
    """Those with names that this one does not know."""
    found = read_text(directory, lines("head_start 300", "slots 3", "colour blue"))
    assert (found.slots, found.problem) == (3, None)


@pytest.mark.parametrize(
    ("says", "own", "counts"),
    [
        (None, UNSAID, None),
        (None, 9, 9),
        (3, UNSAID, 3),
        (3, 9, 3),
        (3, 2, 2),
        (3, None, None),
        ("auto", UNSAID, 5),
        ("auto", 9, 5),
        (0, UNSAID, None),
        (0, 9, None),
    ],
)
def test_whose_tokens_count(
    directory: Path, says: int | str | None, own: int | str | None, counts: int | None
) -> None:
    """Those of the pool, of which a caller may take fewer, and none if it says so; not more."""

    def alter(rules: Rules, _now: float) -> str:
        rules.tokens = says
        return f"tokens={says}"

    change(str(directory), alter)
    found = read(str(directory))
    assert found is not None
    assert found.tokens == says
    said = own if isinstance(own, int) else None
    assert found.tokens_of(said, 5, is_own=own != UNSAID) == counts


@pytest.mark.parametrize(
    "text",
    [
        b"",
        b"\0" * 64,
        b"slots 3\n",
        GOOD[:-1],
        GOOD[:-5],
        GOOD[:-4],
        GOOD + "x",
        GOOD.replace(" 1\n", " 2\n"),
        GOOD.replace("\n", "\r\n"),
        b"\xff\xfe" + GOOD.encode("utf-16-le"),
        lines("slots 0"),
        lines("slots -1"),
        lines("slots 1e3"),
        lines("slots  3"),
        lines("slots 3.0"),
        lines("slots \N{ARABIC-INDIC DIGIT THREE}"),
        lines("slots 99999999999999999999999"),
        lines("slots"),
        lines("tokens"),
        lines("tokens -1"),
        lines("tokens many"),
        lines("tokens 4097"),
        lines("tokens 99999999999999999999999"),
        lines("pause"),
        lines("pause 1"),
        lines("pause nan 5 eve x"),
        lines("pause 0 inf eve x"),
        lines("pause -5 5 eve x"),
        lines("pause 1 1e300 eve x"),
        lines("change x eve slots=1"),
        lines("change 1"),
        lines("slots 3", *["#" * 100] * 50),
        "x" * 2**20,
    ],
)
def test_hostile_and_torn_contents_count_as_absent(directory: Path, text: str | bytes) -> None:
    """One sentence says why, and no cap and no pause is taken from them."""
    found = read_text(directory, text)
    assert (found.slots, found.pauses) == (None, [])
    assert found.problem is not None
    assert found.problem.startswith(f"{directory}/rules counts as absent: ")
    assert "\n" not in found.problem
    told: list[str] = []
    for _ in range(2):
        assert rules_of(str(directory), told) is not None
    assert told == [found.problem]


def test_words_of_others_are_fit_to_print(directory: Path) -> None:
    """No escape sequence, no line end and no novel comes from the file."""
    now = time.time()
    who, why = "\x1b[2J\u202eeve", "\x1b]0;x\x07" + "é" * 500
    found = read_text(
        directory, lines(f"pause {now - 1} {now + 60} {who} {why}", f"change {now} {who} {why}")
    )
    assert found.problem is None
    said = [found.pauses[0].who, found.pauses[0].reason, found.changes[0].who, found.changes[0].what]
    assert all(text.isprintable() and len(text) <= rules.MOST_REASON for text in said)


def link(path: Path) -> None:
    target = path.parent.parent / "target"
    target.write_text(GOOD)
    path.symlink_to(target)


def hard_link(path: Path) -> None:
    target = path.parent.parent / "target"
    target.write_text(GOOD)
    path.hardlink_to(target)


def bind(path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as one:
        os.chdir(path.parent)  # a socket's path is short
        one.bind(path.name)


KINDS = {
    "link": link,
    "hard link": hard_link,
    "dangling link": lambda path: path.symlink_to("nowhere"),
    "loop": lambda path: path.symlink_to(path.name),
    "device": lambda path: path.symlink_to("/dev/zero"),
    "FIFO": os.mkfifo,
    "directory": os.mkdir,
    "socket": bind,
}


@pytest.mark.parametrize("kind", KINDS)
def test_what_is_no_plain_file_counts_as_absent(
    directory: Path, kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is not followed and not waited for; whoever sets rules puts a file in its place."""
    monkeypatch.chdir(directory)
    KINDS[kind](directory / "rules")  # type: ignore[operator]
    found = read(str(directory))
    assert found is not None
    assert found.slots is None
    assert found.problem is not None
    set_slots(directory, 2)
    assert getattr(read(str(directory)), "slots", None) == 2
    if kind in {"link", "hard link"}:
        assert (directory.parent / "target").read_text() == GOOD


def test_bytes_in_a_fifo_stay_there(directory: Path) -> None:
    """Who reads the rules takes nothing out of what somebody has put in their place."""
    os.mkfifo(directory / "rules")
    fd = os.open(directory / "rules", os.O_RDWR | os.O_NONBLOCK)
    os.write(fd, GOOD.encode())
    assert getattr(read(str(directory)), "slots", 1) is None
    assert os.read(fd, 100) == GOOD.encode()
    os.close(fd)


@several_users
def test_whose_file_it_may_be(directory: Path) -> None:
    """Ours, root's, the pool's owner's; in a group's pool the group's. Nobody else's."""
    file = directory / "rules"
    file.write_text(GOOD)
    os.chown(file, ALICE, GROUP)
    problem = getattr(read(str(directory)), "problem", None)
    assert problem == f"{file} counts as absent: it is another user's (uid {ALICE})"
    os.chown(directory, -1, GROUP)
    assert getattr(read(str(directory)), "slots", None) is None
    directory.chmod(0o2770)
    assert getattr(read(str(directory)), "slots", None) == 3
    os.chown(file, ALICE, GROUP + 1)
    assert getattr(read(str(directory)), "slots", None) is None
    directory.chmod(0o700)
    os.chown(directory, ALICE, GROUP)
    assert getattr(read(str(directory)), "slots", None) == 3


def test_a_file_that_is_replaced_while_it_is_read_counts(directory: Path) -> None:
    """It has lost its name by then, and says what was true a moment ago."""
    set_slots(directory, 3)
    fd = os.open(directory / "rules", os.O_RDONLY)
    set_slots(directory, 4)
    found = rules.read_open(fd, str(directory))
    assert (found.slots, found.problem) == (3, None)


# The cap.


@pytest.mark.parametrize(
    ("said", "own", "is_own", "cap"),
    [
        (None, 4, True, 4),
        (None, 4, False, 4),
        (3, 4, True, 3),
        (3, 4, False, 3),
        (6, 4, True, 4),
        (6, 4, False, 6),
    ],
)
def test_the_cap_of_a_caller(said: int | None, own: int, is_own: bool, cap: int) -> None:
    """What somebody has said himself lowers it, and never raises it; a default is as good as nothing."""
    found = Rules()
    found.slots = said
    assert found.cap(own, is_own=is_own) == cap
    assert found.applied(Request(own, ["make"], is_own_cap=is_own)).cap == cap


def test_a_weight_above_the_cap_is_all_slots_at_any_time() -> None:
    """A build that needs four gets what there is, and four again when the pool says more."""
    found, request = Rules(), Request(4, ["make"], 4, is_own_cap=False)
    weights = []
    for found.slots in (2, 1, 9, None):
        ruled = found.applied(request)
        weights.append((ruled.cap, ruled.weight, ruled.limit))
        assert found.applied(ruled).weight == ruled.weight
    assert weights == [(2, 2, 1), (1, 1, 1), (9, 4, 6), (4, 4, 1)]


# Pauses.


def test_a_pause_ends_within_four_hours(directory: Path) -> None:
    """Whatever the file says."""
    now = time.time()
    found = read_text(directory, lines(f"pause {now - 1} {now + 1e6} eve x"))
    pause = found.pause(now)
    assert pause is not None
    assert pause.until == pytest.approx(now - 1 + 4 * HOUR_S)
    assert found.pause(pause.until) is None


def test_pauses_that_are_to_come_are_none(directory: Path) -> None:
    """They would make a long one out of many, set once."""
    now = time.time()
    each = [f"pause {now + n * 4 * HOUR_S} {now + (n + 1) * 4 * HOUR_S} eve x" for n in range(4)]
    found = read_text(directory, lines(*each))
    assert len(found.pauses) == 1
    assert found.pause(now + 5 * HOUR_S) is None


def test_a_clock_that_jumps_ends_a_pause(directory: Path) -> None:
    """Behind its end, and before its begin."""
    now = time.time()
    found = read_text(directory, lines(f"pause {now - 60} {now + 60} alice x"))
    assert [found.pause(now + jump) is None for jump in (0, 61, 1e7, -61, -1e7)] == [
        False,
        True,
        True,
        True,
        True,
    ]


def test_no_second_of_a_pause_counts_twice() -> None:
    """Pauses that overlap, as others may write them, prolong a wait by the time that they cover."""
    now, found = time.time(), Rules()
    found.pauses = [Pause(now - 50, now - 10, "eve", "")] * 3 + [Pause(now - 100, now - 40, "eve", "")]
    began = time.monotonic()
    assert found.paused_s(began - 1000) == pytest.approx(90, abs=0.5)
    assert found.paused_s(began - 20) == pytest.approx(10, abs=0.5)
    assert found.paused_s(began) == 0


def test_to_resume_ends_all_that_is_on() -> None:
    """Also pauses that somebody has written twice."""
    now, found = time.time(), Rules()
    found.pauses = [Pause(now - 50, now + 50, "eve", "")] * 2 + [Pause(now - 70, now + 70, "eve", "")]
    found.resume(now)
    assert found.pause(now) is None


# Setting.


def test_many_who_set_at_once_lose_nothing(directory: Path) -> None:
    """One comes after the other: each change is in the record, and the last one counts."""
    threads = [threading.Thread(target=set_slots, args=(directory, n)) for n in range(1, 11)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    found = read(str(directory))
    assert found is not None
    assert {each.what for each in found.changes} == {f"slots={n}" for n in range(1, 11)}
    assert found.changes[-1].what == f"slots={found.slots}"
    assert sorted(path.name for path in directory.glob("*rules*")) == ["rules", "rules.lock"]


def test_one_who_is_stopped_while_he_sets_rules(directory: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Others lose patience with him; when he goes on he sees what they have set, and loses none of it."""
    monkeypatch.setattr(ruling, "LOCK_S", 0.05)
    altered = []

    def alter(found: Rules, _now: float) -> str:
        altered.append(found.slots)
        if len(altered) == 1:  # "stopped" here
            set_slots(directory, 5)
        return "mine"

    change(str(directory), alter)
    found = read(str(directory))
    assert found is not None
    assert (altered, found.slots) == ([None, 5], 5)
    assert [each.what for each in found.changes] == ["slots=5", "mine"]
    assert not list(directory.glob(".rules-*"))


@pytest.mark.parametrize("make", [os.mkdir, lambda path: os.symlink("nowhere", path)])
def test_what_is_in_the_place_of_the_lock_is_put_aside(
    directory: Path, make: Callable[[Path], object]
) -> None:
    """It is nobody's loss, and keeps nobody from setting rules."""
    make(directory / "rules.lock")
    set_slots(directory, 2)
    assert getattr(read(str(directory)), "slots", None) == 2
    assert len(list(directory.glob(".aside-*"))) == 1


def test_the_file_is_as_small_as_it_has_to_be(directory: Path) -> None:
    """The longest reasons, again and again: whoever decides something reads all of it."""

    def alter(found: Rules, now: float) -> str:
        found.resume(now)
        found.pauses.append(Pause(now, now + 60, whoami(), "\N{PILE OF POO}" * 80))
        return "\N{PILE OF POO}" * 80

    for _ in range(20):
        change(str(directory), alter)
    found = read(str(directory))
    assert found is not None
    assert found.problem is None
    assert found.pause(time.time()) is not None
    assert (directory / "rules").stat().st_size <= rules.MOST_BYTES


def test_a_full_disk_leaves_the_old_rules(directory: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing is half written, and nothing is left over."""
    set_slots(directory, 3)

    def full(*_: object) -> int:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="No space"):
        set_slots(directory, 4)
    assert getattr(read(str(directory)), "slots", None) == 3
    assert not list(directory.glob(".rules-*"))
