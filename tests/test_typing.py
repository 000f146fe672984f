"""What type checkers make of code that uses the library, from the outside and as strict as they get."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from builds import script

USES = Path(__file__).parent / "typed" / "uses.py"


def wrong_lines() -> list[int]:
    """The lines of the file that checkers have to refuse."""
    return [n for n, line in enumerate(USES.read_text().splitlines(), 1) if "# wrong: " in line]


@pytest.mark.parametrize(
    "checker",
    [
        pytest.param(["mypy", "--strict", "--no-error-summary", "uses.py"], id="mypy"),
        pytest.param(["pyright", "--pythonpath", sys.executable], id="pyright"),
    ],
)
def test_types_from_the_outside(tmp_path: Path, checker: list[str]) -> None:
    """All types are as the file asserts, and of its lines only the wrong ones are refused."""
    (tmp_path / "pyrightconfig.json").write_text('{"typeCheckingMode": "strict"}')
    shutil.copy(USES, tmp_path)
    command = [script(checker[0]), *checker[1:]]
    result = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    found = re.findall(r"uses\.py:(\d+):.* error: ", result.stdout)
    assert ([int(line) for line in found], result.stderr) == (wrong_lines(), ""), result.stdout
    assert result.returncode == 1
