"""The side-by-side benchmark: rows of it, with the real command, and the report that they end up in."""

from __future__ import annotations

import json
import os
import re
import shlex
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from collections.abc import Mapping

CHECKOUT = Path(__file__).resolve().parents[2]
LIMIT_S = 150

pytestmark = pytest.mark.linux


def bench(*args: str, environ: Mapping[str, str] = os.environ) -> str:
    """What `python -m bench` with `args` prints, which writes nothing into the checkout."""
    before = sorted(path.name for path in (CHECKOUT / "bench").iterdir())
    command = [sys.executable, "-m", "bench", *args]
    done = subprocess.run(
        command, cwd=CHECKOUT, env=environ, capture_output=True, text=True, timeout=LIMIT_S, check=False
    )
    assert done.returncode == 0, done.stderr
    after = sorted(path.name for path in (CHECKOUT / "bench").iterdir())
    assert [name for name in after if name not in {*before, "__pycache__"}] == []
    return done.stdout


def tables(report: str) -> list[list[list[str]]]:
    """The tables in `report`, as their lines of cells; the head is the first."""
    found: list[list[list[str]]] = [[]]
    for line in report.splitlines():
        if not line.startswith("| "):
            found.append([])
        elif not line.startswith("| ---"):
            found[-1].append(line.strip("| ").split(" | "))
    return [table for table in found if table]


def rows(report: str, peer: str) -> list[dict[str, str]]:
    """The rows of `peer`, by the titles of their columns."""
    return [
        dict(zip(table[0], line, strict=True))
        for table in tables(report)
        for line in table[1:]
        if line[0].partition(" (")[0] == peer
    ]


def again(report: str) -> list[str]:
    """The arguments in the command that measures the only question in `report` again."""
    (command,) = re.findall(r"^Again: `(.+)`$", report, re.MULTILINE)
    python, flag, module, *args = shlex.split(command)
    assert (python, flag, module) == ("python", "-m", "bench")
    return args


HERE = ("--install", sys.prefix)
"""The install that runs the tests: making another one takes long."""


def test_a_table_says_how_to_measure_it_again() -> None:
    """The command at the table measures that question, and nothing else."""
    report = bench("--quick", "--only", "acquire", "--peers", "SlotPool,semaphore", *HERE)
    assert [row["contenders"] for row in rows(report, "SlotPool") + rows(report, "semaphore")] == ["1", "1"]
    assert again(report) == ["--quick", "--only", "acquire"]
    report = bench(*again(report), "--peers", "semaphore", *HERE)
    assert len(rows(report, "semaphore")) == 1
    assert rows(report, "SlotPool") == []


def test_the_report_says_where_it_was_measured() -> None:
    """Machine, versions, load and command line, in which no directory is named."""
    report = bench("--quick", "--only", "acquire", "--peers", "filelock", "--install", sys.prefix)
    environment = dict(re.findall(r"^\| ([^|]+) \| ([^|]+) \|$", report, re.MULTILINE))
    expected = {"date", "CPU", "kernel", "file system of the pools", "Python", "load before", "load after"}
    assert expected | {"duration", "measured"} <= set(environment)
    install = f"--install {os.path.basename(sys.prefix)}"
    assert environment["command"] == f"python -m bench --quick --only acquire --peers filelock {install}"
    assert environment["version of filelock"].startswith("filelock ")


def test_a_line_is_handed_over_and_bounded() -> None:
    """Commands and library calls: all ran, one at a time."""
    report = bench("--quick", "--only", "handover", "--peers", "flock,SlotPool", "--contenders", "2", *HERE)
    for peer in ("flock", "SlotPool"):
        row = next(row for row in rows(report, peer) if "p99, ms" in row)
        assert (row["contenders"], row["most over the cap"]) == ("2", "0")
        assert float(row["median, ms"].strip("*")) > 0


def test_two_installs_are_measured_side_by_side() -> None:
    """Each in its own Python and with its own slot-run, and the verdict has a column for both."""
    peers = "slot-run,python -c,SlotPool,flock(2)"
    options = ("--quick", "--speed", "--only", "start,acquire", "--peers", peers)
    report = bench(*options, *HERE, "--against", sys.prefix)
    verdict = tables(report)[0]
    assert verdict[0] == ["what users feel", "bar", "before", "measured", "verdict"]
    assert len(verdict) == 1 + 5
    number = r"\d+\.?\d*"
    start = rf"alone {number}; with a config file -; with gates -; with tokens -"
    assert re.fullmatch(start, verdict[1][2])
    assert re.fullmatch(rf"\*\*{start}\*\*", verdict[1][3])
    assert verdict[4][4] in ("kept", "missed")
    assert verdict[2][4] == "not measured"
    for peer in ("SlotPool", "SlotPool, before", "slot-run, before", "python -c, before"):
        assert rows(report, peer)


def test_a_peer_that_cannot_be_had_is_named(tmp_path: Path) -> None:
    """The others are measured all the same."""
    environ = os.environ | {"PATH": str(tmp_path)}
    report = bench("--quick", "--only", "burst", "--peers", "flock,pnpm,semaphore", *HERE, environ=environ)
    assert rows(report, "semaphore")
    missing = re.findall(r"^- Missing: \*\*(.+)\*\*: (.+)\.$", report, re.MULTILINE)
    assert dict(missing) == {"flock": "util-linux is not installed", "pnpm": "npm is not installed"}


def sample(peer: str, **result: object) -> dict[str, object]:
    """One repetition with sixteen in line."""
    kind = {"question": "handover", "kind": "commands", "contenders": 16, "pause_s": 0.0}
    return kind | {"peer": peer} | result


def test_figures_of_spans(monkeypatch: pytest.MonkeyPatch) -> None:
    """Quantiles lie between the nearest two values; an end comes before a start; a group counts once."""
    monkeypatch.setattr(sys, "path", [*sys.path, str(CHECKOUT)])  # last: buildslots is the installed one
    from bench.kit.figures import quantile  # noqa: PLC0415
    from bench.kit.spans import Span, gaps_s, inversions, levels, over, peak_overlap  # noqa: PLC0415

    values = [3.0, 1.0, 2.0, 4.0]
    assert [quantile(values, share) for share in (0.0, 0.5, 0.9, 1.0)] == [1.0, 2.5, pytest.approx(3.7), 4.0]
    with pytest.raises(ValueError, match="no values"):
        quantile([], 0.5)
    spans = [Span(0, 10, "0"), Span(10, 30, "2"), Span(12, 20, "1")]
    assert (peak_overlap(spans), over(spans, 1), over(spans, 2)) == (2, 1, 0)
    assert gaps_s(spans, 1) == [0.0, -8e-9]
    assert inversions([int(span.name) for span in spans]) == 1
    assert levels([spans[:2], spans[2:]]) == {1: 22e-9, 2: 8e-9}


def test_ours_is_installed_as_the_readme_says(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its command brings a pip that writes quick launchers, and the benchmark finds which."""
    monkeypatch.setattr(sys, "path", [*sys.path, str(CHECKOUT)])
    from bench.kit.installs import NEWER_PIP  # noqa: PLC0415

    found = NEWER_PIP.findall((CHECKOUT / "README.md").read_text(encoding="utf-8"))
    assert [word.partition(">=")[0] for word in found] == ["pip"]


RENDER = """
import json, sys
from pathlib import Path
from bench.report import page
print(page.page(Path(sys.argv[1]), [("start.svg", "a chart")]))
"""


def test_medians_ratios_failures_and_others_tables(tmp_path: Path) -> None:
    """A row has its median and spread, or why it failed; tables of other programs come as they are."""
    samples = [
        *(sample("slot-run", values={"gap": gaps, "over": 0}) for gaps in ([4.0, 2.0], [3.0] * 30, [12.0])),
        sample("flock", values={"gap": [1.5], "over": 0}),
        sample("tsp", values={"gap": [2.0], "over": 1}),
        sample("tsp", failed="not done after 60 s"),
    ]
    about = dict.fromkeys(
        ("command", "date", "CPU", "kernel", "file system of the pools", "Python", "load before"), "x"
    )
    lines = [{"about": about, "missing": {}}, *samples]
    (tmp_path / "peers.ndjson").write_text("".join(json.dumps(line) + "\n" for line in lines))
    table = {"title": "Eight agents", "command": "python -m bench.agents", "environment": {"CPU": "2"}}
    table |= {"columns": ["what", "figure"], "rows": [["a|b", 7]], "notes": ["calm"]}
    (tmp_path / "agents.json").write_text(json.dumps(table))
    command = [sys.executable, "-c", RENDER, str(tmp_path)]
    page = subprocess.run(command, cwd=CHECKOUT, capture_output=True, text=True, check=True).stdout
    (row, over) = rows(page, "slot-run")
    assert list(row.values())[2:7] == ["**3**", "3 to 12", "2.00", "2.00", "3"]
    assert row["max, ms"] == "12"
    assert list(over.values()) == ["slot-run", "**0**", "0", "3"]
    failed, *_, over = rows(page, "tsp")
    assert failed["median, ms"] == "failed: not done after 60 s"
    assert list(over.values()) == ["tsp", "**1**", "1", "1"]
    verdict = tables(page)[0]
    assert len(verdict) == 1 + 5
    assert verdict[2][1:] == ["p50 1.5; p99 10 ms", "**p50 2; p99 9.44 ms**", "missed: p50"]
    assert verdict[3][-1] == "not measured"
    assert "![a chart](" in page
    assert "| a\\|b | 7 |" in page
    assert "## Eight agents" in page
