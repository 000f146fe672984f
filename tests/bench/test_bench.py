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
LIMIT_S = 60.0

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


def cells(report: str, peer: str) -> list[list[str]]:
    """The cells of the rows of `peer`."""
    lines = [line.strip("| ").split(" | ") for line in report.splitlines() if line.startswith("| ")]
    return [line for line in lines if line[0].partition(" (")[0] == peer]


def again(row: list[str]) -> list[str]:
    """The arguments in the command that measures `row` again."""
    python, flag, module, *args = shlex.split(row[-1].strip("`"))
    assert (python, flag, module) == ("python", "-m", "bench")
    return args


def test_a_row_says_how_to_measure_it_again() -> None:
    """The command at the row measures that row, and nothing else."""
    report = bench("--quick", "--only", "acquire", "--peers", "SlotPool,semaphore")
    rows = cells(report, "SlotPool") + cells(report, "semaphore")
    assert [len(row) for row in rows] == [7, 7]
    assert again(rows[0]) == ["--quick", "--only", "acquire", "--peers", "SlotPool", "--contenders", "1"]
    report = bench(*again(rows[0]))
    assert len(cells(report, "SlotPool")) == 1
    assert cells(report, "semaphore") == []


def test_the_report_says_where_it_was_measured() -> None:
    """Machine, versions, load and command line."""
    report = bench("--quick", "--only", "acquire", "--peers", "filelock")
    environment = dict(re.findall(r"^\| ([^|]+) \| ([^|]+) \|$", report, re.MULTILINE))
    expected = {"date", "CPU", "kernel", "file system of the pools", "Python", "load before", "load after"}
    assert expected | {"duration"} <= set(environment)
    assert environment["command"] == "python -m bench --quick --only acquire --peers filelock"
    assert environment["version of filelock"].startswith("filelock ")


def test_a_line_is_handed_over_and_bounded() -> None:
    """Commands and library calls: all ran, one at a time."""
    report = bench("--quick", "--only", "handover", "--peers", "flock,SlotPool", "--contenders", "2")
    for peer in ("flock", "SlotPool"):
        (row,) = cells(report, peer)
        assert (row[1], row[8]) == ("2", "0")
        assert float(row[2].strip("*")) > 0


def test_a_peer_that_cannot_be_had_is_named(tmp_path: Path) -> None:
    """The others are measured all the same."""
    environ = os.environ | {"PATH": str(tmp_path)}
    report = bench("--quick", "--only", "burst", "--peers", "flock,pnpm,semaphore", environ=environ)
    assert cells(report, "semaphore")
    missing = re.findall(r"^- Missing: \*\*(.+)\*\*: (.+)\.$", report, re.MULTILINE)
    assert dict(missing) == {"flock": "util-linux is not installed", "pnpm": "npm is not installed"}


RENDER = """
import json, sys
from pathlib import Path
from bench import results
print(results.markdown(json.loads(sys.argv[1]), set()))
print("\\n".join(results.other(Path(sys.argv[2]))))
"""


def sample(peer: str, **result: object) -> dict[str, object]:
    """One repetition with sixteen in line."""
    return {"scenario": "command-line", "peer": peer, "contenders": 16, "hold_s": 0.0} | result


def test_medians_ratios_failures_and_others_tables(tmp_path: Path) -> None:
    """A row has its median and spread, or why it failed; tables of other modules come as they are."""
    gaps = {"gap_p90": 9.0, "gap_max": 9.0, "over": 0.0}
    samples = [
        *(sample("slot-run", values={"gap_p50": gap} | gaps) for gap in (4.0, 2.0, 3.0)),
        sample("flock", values={"gap_p50": 1.5} | gaps),
        sample("tsp", values={"gap_p50": 2.0} | gaps | {"over": 1.0}),
        sample("tsp", failed="not done after 60 s"),
    ]
    kept = {"quick": [], "environment": {}, "missing": {}, "notes": [], "samples": samples}
    table = {"title": "Eight agents", "command": "python -m bench.agents", "environment": {"CPU": "2"}}
    table |= {"columns": ["what", "figure"], "rows": [["a|b", 7]], "notes": ["calm"]}
    path = tmp_path / "agents.json"
    path.write_text(json.dumps(table))
    command = [sys.executable, "-c", RENDER, json.dumps(kept), str(path)]
    report = subprocess.run(command, cwd=CHECKOUT, capture_output=True, text=True, check=True).stdout
    assert cells(report, "slot-run")[0][2:-1] == ["**3**", "2 to 4", "2.00", "2.00", "9", "9", "0"]
    assert cells(report, "tsp")[0][2] == "failed: not done after 60 s"
    assert cells(report, "tsp")[-1][1:4] == ["**1**", "1", "1"]
    assert "| a\\|b | 7 | `python -m bench.agents` |" in report
    assert "## Eight agents" in report
