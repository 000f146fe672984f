"""What others have written, on its way to a terminal: no blanks, no stacks, cut by cells, bounded."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING
from unicodedata import category, normalize

import pytest
from builds import HELD_BUILD, Pool, script, wait_until
from hypothesis import given
from hypothesis import strategies as st
from rich.cells import cell_len

from buildslots import words
from buildslots.disk import records
from buildslots.journal import COMMAND_CHARACTERS
from buildslots.run import main
from buildslots.view import table
from buildslots.view.health import keepers

if TYPE_CHECKING:
    from terminals import Terminal

BLANKS = (
    "\u3164\u115f\u1160\uffa0\u2800\u034f\u17b4\u17b5\u180b\u180e\u180f\u2065\u00ad\u061c\u200b\u200c\u200d"
    "\u2060\u2064\u206f\ufe00\ufe0f\ufeff\ufff0\U0001bca0\U0001d159\U0001d173\U000e0001\U000e0041\U000e007f"
    "\U000e0100\U000e01ef\U000e0fff\U00016fe4\U00013441"
)
SPACES = "\u00a0\u1680\u2000\u2003\u2009\u200a\u2028\u2029\u202f\u205f\u3000"
STEERING = "\x1b\x07\x7f\x9b\u200e\u200f\u202a\u202e\u2066\u2069\ud800\udcff"
ORDINARY = [
    "make -j8",
    "größer",
    "Привет",
    "日本語のファイル",
    "한글",
    normalize("NFD", "한글"),
    normalize("NFD", "Tiếng Việt"),
    "ที่นี่",
    "น้ำ",
    "नमस्ते हिन्दी",
    "مُحَمَّد",
    "שָׁלוֹם",
    "🎉 👍🏽 🇩🇪",
]
"""Texts that are shown as they are."""
SAMPLES = [*ORDINARY[:9], "ﾊﾝｶｸ", "\uff26\uff35", "🎉", "…", "a\u0301", "\u2588", "—", "ⅷ", "漢字 and more"]
"""Texts of whose width the tables of all versions of rich since 13 say the same."""

texts = st.text(
    st.characters()
    | st.sampled_from([*BLANKS, *SPACES, *STEERING, *"a日\u0301\u0302\u0903\u1161🏽\u20e3👍"]),
    max_size=60,
)


@pytest.mark.parametrize("c", [*BLANKS, *SPACES, *STEERING], ids=ascii)
def test_what_is_no_visible_character(c: str) -> None:
    """A question mark, or nothing where it only changes the look of the character before it."""
    assert words.printable(c) == "?"
    assert words.printable(f"a{c}b") == "a?b"
    assert words.printable(f"日{c}本") in {"日?本", "日本"}


@pytest.mark.parametrize("text", ORDINARY)
def test_ordinary_text_is_shown_as_it_is(text: str) -> None:
    """In all scripts."""
    assert words.printable(text) == text


@pytest.mark.parametrize(
    "mark", ["\u0301", "\u20dd", "\u0489", "\u0903", "\u11a8", "\u1161", "🏽"], ids=ascii
)
def test_stacks_of_marks(mark: str) -> None:
    """Two marks stay on a character; what would go to a character of ours is none."""
    assert words.printable("e" + mark * 30 + "x") == f"e{mark * 2}x"
    assert words.printable(mark * 30) == "?"


@given(texts)
def test_any_text_becomes_visible_and_flat(text: str) -> None:
    """No blank but a space, no third mark, and nothing that a second look would change."""
    shown = words.printable(text)
    assert not set(shown) & {*BLANKS, *SPACES, *STEERING}
    assert all(c.isprintable() for c in shown)
    kinds = "".join("M" if category(c)[0] == "M" else "." for c in shown)
    assert "MMM" not in kinds
    assert not kinds.startswith("M")
    assert words.printable(shown) == shown


def test_emoji_and_persian_without_their_joiners() -> None:
    """Readable, and as wide as it is measured."""
    assert words.printable("❤️ 👨‍👩‍👧 می‌خواهم") == "❤ 👨👩👧 میخواهم"


def test_without_the_tables_of_unicode(monkeypatch: pytest.MonkeyPatch) -> None:
    """There is no descriptor left to load them with: what is not ASCII is a question mark."""
    monkeypatch.setitem(sys.modules, "unicodedata", None)
    assert words.printable("größer\x1b") == "gr??er?"
    assert words.fit("größer", 4) == "gr…"  # counted with care


@pytest.mark.parametrize("text", SAMPLES)
def test_cells_are_those_of_rich(text: str) -> None:
    """Which is what the tables on a terminal are made with."""
    assert words.cells(text) == cell_len(text)


def test_cells() -> None:
    """Of what terminals agree on."""
    for text, cells in {
        "": 0,
        "make": 4,
        "日本": 4,
        "\uff21": 2,
        "ﾊ": 1,
        "e\u0301": 1,
        "🎉": 2,
        "각": 2,
        normalize("NFD", "각"): 2,
    }.items():
        assert words.cells(text) == cells, text
    assert [words.cells(text) for text in ("👨‍👩‍👧", "❤️", "👍🏽", "\u4dc0")] == [2, 2, 2, 2]


@given(texts.map(words.printable), st.integers(-1, 70), st.booleans())
def test_what_is_cut_fits(text: str, width: int, most: bool) -> None:
    """Whole if it fits; else as much as has room before the "…", each character with its marks."""
    fitted = words.fit(text, width, most=most)
    assert words.cells(fitted) <= max(width, 0)
    assert fitted in {text, ""} or fitted[-1] == "…"
    if words.cells(text) <= width and not most:
        assert fitted == text
    elif not most:
        assert not width > 0 or words.cells(fitted) >= width - 2
    rest = text[len(fitted) - 1 :]
    if fitted != text and fitted and rest:
        assert category(rest[0])[0] != "M"
    end = words.fit_end(text, width)
    assert words.cells(end) <= max(width, 0)
    assert end in {text, ""} or (end[0] == "…" and text.endswith(end[1:]))


def test_cut() -> None:
    """By cells and by whole characters."""
    text = "日本語e\u0301x"
    assert [words.fit(text, width) for width in range(9)] == [
        "",
        "…",
        "…",
        "日…",
        "日…",
        "日本…",
        "日本…",
        "日本語…",
        text,
    ]
    assert [words.fit_end(text, width) for width in (0, 1, 3, 5, 8)] == [
        "",
        "…",
        "…e\u0301x",
        "…語e\u0301x",
        text,
    ]


def test_a_huge_text_is_not_looked_at_as_a_whole() -> None:
    """Only as much as may be shown is."""
    assert words.shown("é" * 10**8, 5) == "éééé…"
    assert words.shown_end("/" + "é" * 10**8, 5) == "…éééé"
    assert words.shown("e" + "\u0301" * 10**6, 5) == "e\u0301\u0301…"


# Where they are shown.

LONG = 1100
"""Characters that no line for people has."""
WORDS = "日本語-हिन्दी-ကြိုး-e\u0301\u0302-👍🏽-🎉-각"


def hostile(**fields: str) -> bytes:
    """The record of this process, with some fields as a liar would have them."""
    lines = records.record(records.about(["make"], cap=1, nonce="0" * 32), waited_s=0.0).decode().splitlines()
    kept = [line for line in lines if line.partition(" ")[0] not in {*fields, "end"}]
    return "\n".join([*kept, *(f"{name} {value}" for name, value in fields.items()), "end", ""]).encode()


@pytest.mark.parametrize("word", ["x", "日", "\u3164", "e" + "\u0301" * 30], ids=ascii)
@pytest.mark.parametrize("field", ["cwd", "host", "arg"])
def test_one_record_does_not_flood_a_line(pool: Pool, field: str, word: str) -> None:
    """Whatever field is long: in the waiting line, in tables and sentences; programs get all of it."""
    pool.build("-n1").started()
    long = word * (12_000 // len(word.encode()))
    pool.record().write_bytes(hostile(**{field: long}))
    waiter = pool.queued("-n1")
    (ticket,) = (pool.dir / "queue").iterdir()
    ticket.write_bytes(hostile(**{field: long}))
    run = [pool.run(script("buildslots"), command).stdout for command in ("status", "doctor", "release")]
    lines = [line for text in [*run, waiter.read_error_line()] for line in text.splitlines()]
    assert max(map(len, lines)) < LONG
    assert not any("\u3164" in line or "\u0301" * 3 in line for line in lines)
    (holder,) = json.loads(pool.run(script("buildslots"), "status", "--json").stdout)["holders"]
    assert holder["command" if field == "arg" else field] == ([long] if field == "arg" else long)


def test_columns_are_as_wide_as_they_look() -> None:
    """Wide characters take two cells, and accents none."""
    lines = table.table(["A", "B"], [["日本", "x"], ["e\u0301", "x"], ["abcd", "x"]])
    assert [words.cells(line) for line in lines] == [7, 7, 7, 7]


def test_a_quoted_command() -> None:
    """Of bounded width, and without blanks."""
    assert words.cells(keepers.quoted(["日" * 99])) <= keepers.SHOWN + 2
    assert "\u3164" not in keepers.quoted(["\u3164"])


def said(capfd: pytest.CaptureFixture[str], text: str) -> str:
    main.say(text)
    return capfd.readouterr().err


def test_what_slot_run_says(capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    """Likewise; and where nothing more can be loaded, with question marks for what is not ASCII."""
    assert said(capfd, "größer\u3164\x1be" + "\u0301" * 30) == "slot-run: größer??e\u0301\u0301\n"
    assert len(said(capfd, "é" * 10**6)) < LONG
    monkeypatch.setitem(sys.modules, "buildslots.words", None)
    assert said(capfd, "größer\u3164\x1b") == "slot-run: gr??er??\n"


def test_a_command_that_cannot_be_run_is_named_in_a_line(pool: Pool) -> None:
    """Even if its name is as long as an argument may be."""
    result = pool.slot_run("/\u3164" * 30_000)
    assert (result.returncode, len(result.stderr) < LONG, "too long" in result.stderr) == (126, True, True)


@pytest.mark.parametrize("kept", ["programs", "commands"])
def test_the_journal_keeps_the_beginning_of_what_is_huge(pool: Pool, kept: str, tmp_path: Path) -> None:
    """Arguments, the pool's directory and what failed: no line is longer than a command line may be."""
    environ = {"BUILD_SLOTS_JOURNAL": kept}
    pool.slot_run("true", "\x1b" * 120_000, environ=environ)
    pool.slot_run("true", *["\x1b"] * 20_000, environ=environ)
    pool.slot_run("true", environ=environ | {"BUILD_SLOTS_DIR": "/" + "\x01" * 100_000})
    journal = Path(os.environ["HOME"], ".local/state/buildslots/journal.jsonl")
    lines = journal.read_bytes().splitlines()
    assert len(lines) >= 5
    assert max(map(len, lines)) < 15 * COMMAND_CHARACTERS
    assert {json.loads(line)["event"] for line in lines} == {"started", "ended", "degraded"}


@pytest.mark.linux
@pytest.mark.parametrize("columns", [40, 80, 120, 160, 200])
def test_the_waiting_line_is_rewritten_in_place(
    pool: Pool, terminal: Terminal, tmp_path: Path, columns: int
) -> None:
    """One line on the terminal after seconds of waiting, whatever its holder is called."""
    directory = tmp_path / WORDS
    directory.mkdir()
    program = directory / f"{WORDS}.sh"
    program.write_text(f"#!/bin/sh\n{HELD_BUILD}\n")
    program.chmod(0o755)
    pool.popen(script("slot-run"), "-n1", program, WORDS, cwd=directory).started()
    terminal.resize(columns, 20)
    terminal.type_at_prompt(f"clear; {script('slot-run')} -n1 -t99 true")

    def waited_s() -> float:
        return max((waiter.waited_s or 0.0 for waiter in pool.status().waiters), default=0.0)

    wait_until(lambda: waited_s() > 2.5, "a line that was rewritten")
    lines = terminal.lines()
    assert len(lines) == 1, lines
    assert lines[0].startswith("slot-run: waiting, place ")
    assert ("日本" in lines[0]) == (columns > 40)
    terminal.keys("C-c")
    terminal.type_at_prompt("echo over")
    terminal.wait_for("over")
