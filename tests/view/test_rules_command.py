"""`buildslots set`, `rules`, `pause` and `resume`, and where else people see what a pool says."""

from __future__ import annotations

import json
import os
import time
from typing import TYPE_CHECKING

import pytest
from builds import script

from buildslots import SlotPool
from buildslots.words import whoami

if TYPE_CHECKING:
    from subprocess import CompletedProcess

    from builds import Pool
    from terminals import Terminal


def views(pool: Pool, *args: str) -> CompletedProcess[str]:
    """Run `buildslots ARGS`."""
    return pool.run(script("buildslots"), *args)


def as_json(pool: Pool, *args: str) -> dict[str, object]:
    """The same with --json."""
    told: dict[str, object] = json.loads(views(pool, *args, "--json").stdout)
    return told


def test_a_pool_that_says_nothing(pool: Pool) -> None:
    """Nothing is made by a look."""
    result = views(pool, "rules")
    assert (result.returncode, result.stderr) == (0, "")
    assert "slots: the pool says nothing; yours are " in result.stdout
    assert not pool.dir.exists()


def test_set_and_take_back(pool: Pool) -> None:
    """Each says what counts then; `rules` shows who has set what."""
    assert views(pool, "set", "slots=4").stdout == "pool default\nslots 4, for every caller\n"
    assert "the pool says nothing" in views(pool, "set", "slots=").stdout
    lines = views(pool, "rules").stdout.splitlines()
    assert lines[2] == ""
    assert lines[3].split() == ["AGO", "WHO", "WHAT"]
    assert [line.split()[-2:] for line in lines[4:]] == [[whoami(), "slots="], [whoami(), "slots=4"]]


def test_the_json_of_the_rules(pool: Pool) -> None:
    """The fields that programs rely on."""
    views(pool, "set", "slots=4")
    told = as_json(pool, "pause", "10m", "--reason", "a", "new", "kernel")
    names = "v pool dir slots tokens head_start_s paused_until paused_by reason changes problem"
    assert list(told) == names.split()
    assert [told[name] for name in ("v", "pool", "dir", "slots", "paused_by", "reason", "problem")] == [
        1,
        "default",
        str(pool.dir),
        4,
        whoami(),
        "a new kernel",
        None,
    ]
    assert isinstance(told["paused_until"], float)
    assert 590 < told["paused_until"] - time.time() <= 600
    assert isinstance(told["changes"], list)
    assert [sorted(change) for change in told["changes"]] == [["t", "what", "who"]] * 2
    assert as_json(pool, "rules") == told
    assert as_json(pool, "resume")["paused_until"] is None


def test_tokens_are_set_and_taken_back(pool: Pool) -> None:
    """As a number, for each machine as it has cores, or off; a word that is none of these sets nothing."""
    assert "tokens 3, for every caller\n" in views(pool, "set", "tokens=3").stdout
    assert as_json(pool, "rules")["tokens"] == 3
    assert "tokens auto, for every caller: " in views(pool, "set", "tokens=auto", "slots=2").stdout
    assert views(pool, "set", "slots=3", "tokens=some").returncode == 2
    told = as_json(pool, "rules")
    assert (told["tokens"], told["slots"]) == ("auto", 2)
    assert "tokens off: " in views(pool, "set", "tokens=off").stdout
    assert as_json(pool, "rules")["tokens"] == 0
    assert "tokens" not in views(pool, "set", "tokens=").stdout
    assert as_json(pool, "rules")["tokens"] is None


def test_a_named_pool_has_rules_of_its_own(pool: Pool) -> None:
    """By operand and by option."""
    assert views(pool, "set", "-p", "link", "slots=1").returncode == 0
    assert views(pool, "rules", "link").stdout.startswith("pool link\nslots 1, for every caller\n")
    assert as_json(pool, "rules")["slots"] is None
    assert views(pool, "pause", "-p", "link").returncode == 0
    assert as_json(pool, "rules", "-p", "link")["paused_until"] is not None
    assert views(pool, "resume", "link").returncode == 0


@pytest.mark.parametrize(
    ("args", "words"),
    [
        (("set", "slots"), "is no rule such as slots=4"),
        (("set", "solts=3"), "slots"),
        (("set", "slots=0"), "slots"),
        (("set", "slots=many"), "slots"),
        (("pause", "5h"), "at most 4h"),
        (("pause", "0"), "more than 0"),
        (("pause", "soon"), "duration"),
    ],
)
def test_mistakes(pool: Pool, args: tuple[str, ...], words: str) -> None:
    """The usage and one sentence with the value; nothing is set."""
    result = views(pool, *args)
    assert (result.returncode, result.stdout, result.stderr.count("\n")) == (2, "", 2)
    assert args[-1].rpartition("=")[2] in result.stderr
    assert words in result.stderr
    assert not (pool.dir / "rules").exists()


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() == 0, reason="root may write anything")
def test_a_pool_that_cannot_be_written(pool: Pool) -> None:
    """One sentence."""
    pool.slot_run("true")
    pool.dir.chmod(0o500)
    result = views(pool, "set", "slots=3")
    pool.dir.chmod(0o700)
    assert (result.returncode, result.stderr.count("\n")) == (1, 1)


def test_one_s_own_cap_that_is_less_is_named(pool: Pool) -> None:
    """Whoever wonders why two run of the pool's four sees it here."""
    pool.environ["MAX_CONCURRENT_BUILDS"] = "2"
    assert "yours are 2, which is less (MAX_CONCURRENT_BUILDS)" in views(pool, "set", "slots=4").stdout
    pool.environ["MAX_CONCURRENT_BUILDS"] = "9"
    assert "yours are" not in views(pool, "rules").stdout


def test_status_says_that_a_pool_is_paused(pool: Pool) -> None:
    """In its first line, also of an idle pool among all; programs get the time."""
    told = SlotPool().pause("1h", "a new kernel")
    assert told.paused_until is not None
    end = time.strftime("%H:%M", time.localtime(told.paused_until))
    first = f"0 waiting, paused until {end} by {whoami()}: a new kernel"
    assert views(pool, "status").stdout.splitlines()[0].endswith(first)
    assert views(pool, "status", "--all").stdout.splitlines()[0].endswith(first)
    status = as_json(pool, "status")
    assert [status[name] for name in ("paused_until", "paused_by", "pause_reason", "rules_problem")] == [
        told.paused_until,
        whoami(),
        "a new kernel",
        None,
    ]
    views(pool, "resume")
    assert "paused" not in views(pool, "status").stdout


def test_status_in_a_terminal_says_so_too(pool: Pool, terminal: Terminal) -> None:
    """At once, and while one watches."""
    SlotPool().pause("1h", "a new kernel")

    def heading() -> str:
        return next((line for line in terminal.lines() if line.startswith("pool default:")), "")

    terminal.type(f"{script('buildslots')} status")
    terminal.wait_until(lambda: f"by {whoami()}: a new kernel" in heading(), "a pause")
    terminal.clear()
    terminal.type(f"{script('buildslots')} status --watch")
    terminal.wait_until(lambda: f"by {whoami()}: a new kernel" in heading(), "a pause")
    SlotPool().resume()
    terminal.wait_until(lambda: "0 waiting" in heading() and "paused" not in heading(), "its end")
    terminal.keys("q")


def test_config_and_doctor_name_the_pool(pool: Pool) -> None:
    """As who says the cap, with who has set it; a pause is worth a note and no problem."""
    SlotPool().set_rules(slots=7)
    (line,) = [line for line in views(pool, "config").stdout.splitlines() if line.startswith("slots")]
    assert line.split(maxsplit=2)[1:] == ["7", "the pool"]
    doctor = views(pool, "doctor", "--verbose").stdout
    assert "cap: 7 builds at once (the pool)" in doctor
    assert f"rules: the pool says 7 slots to every caller, set by {whoami()} " in doctor
    SlotPool().pause("1h", "a new kernel")
    result = views(pool, "doctor")
    (line,) = [line for line in result.stdout.splitlines() if "rules: " in line]
    assert line.startswith("note ")
    assert f"says {whoami()}: a new kernel; `buildslots resume` ends it" in line
