"""The command line of `buildslots`: what may be left out, and what is said about a mistake."""

from __future__ import annotations

import json

import pytest
from builds import Pool, script


def said(pool: Pool, *args: str) -> str:
    """What `buildslots ARGS`, which is a mistake, says in its last line."""
    result = pool.run(script("buildslots"), *args)
    assert (result.returncode, result.stdout) == (2, "")
    return result.stderr.splitlines()[-1]


def test_without_a_command_the_status_is_shown(pool: Pool) -> None:
    """With the options of `status` or none."""
    pool.build("-n1").started()
    assert pool.run(script("buildslots")).stdout.startswith("pool default: 1 held of ")
    assert len(json.loads(pool.run(script("buildslots"), "--json").stdout)["holders"]) == 1
    assert pool.run(script("buildslots"), "--version").stdout.startswith("buildslots ")
    assert "history" in pool.run(script("buildslots"), "--help").stdout


def test_the_pool_needs_no_option(pool: Pool) -> None:
    """`status link`, `history link` and `doctor link` are what people type."""
    pool.build("-p", "link", "-n1").started()
    assert pool.run(script("buildslots"), "status", "link").stdout.startswith("pool link: 1 held of ")
    assert "pool link in " in pool.run(script("buildslots"), "history", "link").stdout
    report = pool.run(script("buildslots"), "doctor", "--json", "link").stdout
    assert json.loads(report)["pool"] == "link"


@pytest.mark.parametrize("command", ["report", "trace"])
def test_the_file_needs_no_option(pool: Pool, command: str) -> None:
    """`report x.html` and `trace x.json`; of one pool with -p."""
    pool.slot_run("-p", "link", "true")
    out = pool.dir.parent / "out"
    result = pool.run(script("buildslots"), command, str(out), "-p", "link")
    assert (result.returncode, result.stdout, result.stderr) == (0, "", "")
    assert "pool" in out.read_text(encoding="utf-8")


@pytest.mark.parametrize(
    ("args", "text"),
    [
        (["statsu"], "there is no command 'statsu'; the nearest: status"),
        (["hist", "--since", "1h"], "there is no command 'hist'; the nearest: history"),
        (["reprot"], "there is no command 'reprot'; the nearest: report"),
        (["make", "-j8"], "builds are run with slot-run"),
        (["\x1b[2J"], "there is no command '\\x1b[2J'; "),
        (["status", "--interval", "5s"], "--interval is for --watch: give both, or none"),
        (["--interval", "5s"], "--interval is for --watch: give both, or none"),
        (["status", "--watch", "--format", "prometheus"], "--format prometheus is one look, for a file that"),
        (["--json", "--format", "text"], "--json and --format text say two things: leave out one"),
        (["--format", "xml"], "invalid choice: 'xml'"),
        (["status", "link", "-p", "web"], "'link' and --pool say two things: leave out one"),
        (["report", "x", "-o", "y"], "'x' and --output say two things: leave out one"),
        (["report"], "`buildslots report FILE.html`"),
    ],
)
def test_a_mistake_is_one_sentence_that_says_what_to_do(pool: Pool, args: list[str], text: str) -> None:
    """It names the value, and the nearest that there is."""
    assert text in said(pool, *args)
    assert not pool.dir.exists()
