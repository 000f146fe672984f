"""doctor and the script `slot-run`, as the installers write it."""

from __future__ import annotations

import json
import os
from typing import TYPE_CHECKING

import pytest
from builds import Pool, script

if TYPE_CHECKING:
    from pathlib import Path

PIP_25_1 = """\
#!/home/me/.venv/bin/python3
# -*- coding: utf-8 -*-
import re
import sys
from _buildslots import slot_run
if __name__ == '__main__':
    sys.argv[0] = re.sub(r'(-script\\.pyw|\\.exe)?$', '', sys.argv[0])
    sys.exit(slot_run())
"""
PIP_25_1_IN_A_LONG_PATH = PIP_25_1.replace(
    "#!/home/me/.venv/bin/python3\n",
    f"#!/bin/sh\n'''exec' \"/home/me/{'long/' * 30}bin/python\" \"$0\" \"$@\"\n' '''\n",
)
# `setup.py develop` of setuptools 65.
SETUPTOOLS = """\
#!/home/me/.venv/bin/python
# EASY-INSTALL-ENTRY-SCRIPT: 'buildslots','console_scripts','slot-run'
import re
import sys

# for compatibility with easy_install; see #2198
__requires__ = 'buildslots'

try:
    from importlib.metadata import distribution
except ImportError:
    from pkg_resources import load_entry_point
"""
PIP_25_2 = """\
#!/home/me/.venv/bin/python3
import sys
from _buildslots import slot_run
if __name__ == '__main__':
    if sys.argv[0].endswith('.exe'):
        sys.argv[0] = sys.argv[0][:-4]
    sys.exit(slot_run())
"""
PIPX = PIP_25_2.replace("python3\n", "python -E\n")
UV = """\
#!/home/me/.local/share/uv/tools/buildslots/bin/python
# -*- coding: utf-8 -*-
import sys
from _buildslots import slot_run
if __name__ == "__main__":
    if sys.argv[0].endswith("-script.pyw"):
        sys.argv[0] = sys.argv[0][:-11]
    elif sys.argv[0].endswith(".exe"):
        sys.argv[0] = sys.argv[0][:-4]
    sys.exit(slot_run())
"""
PYENV_SHIM = '#!/usr/bin/env bash\nset -e\nexec "/root/.pyenv/libexec/pyenv" exec "${0##*/}" "$@"\n'


def launchers(pool: Pool, path: str) -> list[dict]:
    """What doctor finds of the script that a shell with this PATH finds."""
    result = pool.run(script("buildslots"), "doctor", "--json", environ={"PATH": path})
    assert result.stderr == ""
    return [check for check in json.loads(result.stdout)["checks"] if check["check"] == "launcher"]


@pytest.mark.parametrize(
    ("text", "loads"), [(PIP_25_1, ["re"]), (PIP_25_1_IN_A_LONG_PATH, ["re"]), (SETUPTOOLS, ["re"])]
)
def test_a_slow_script(pool: Pool, tmp_path: Path, text: str, loads: list[str]) -> None:
    """A note with what it loads and what to do; nothing is wrong with the pool."""
    path = tmp_path / "slot-run"
    path.write_text(text)
    path.chmod(0o755)
    (found,) = launchers(pool, f"{tmp_path}{os.pathsep}{os.environ['PATH']}")
    assert (found["level"], found["details"]) == ("note", {"path": str(path), "loads": loads})
    assert found["text"] == (
        f"each start of slot-run takes longer than it needs to, because the script {path} loads `re`, "
        "as those of pip before 25.2 do: `pip install -U pip` and install buildslots again, "
        "or install it with uv or pipx"
    )


@pytest.mark.parametrize("text", [PIP_25_2, PIPX, UV, PYENV_SHIM, "\x7fELF", ""])
def test_a_script_that_is_as_fast_as_it_can_be(pool: Pool, tmp_path: Path, text: str) -> None:
    """Nothing is said; nor of what is no script of ours."""
    path = tmp_path / "slot-run"
    path.write_text(text)
    path.chmod(0o755)
    assert launchers(pool, f"{tmp_path}{os.pathsep}{os.environ['PATH']}") == []


def test_without_one_in_path_it_is_that_of_this_installation(pool: Pool) -> None:
    """The one beside `buildslots`, whoever has written it."""
    with open(script("slot-run"), encoding="utf-8", errors="replace") as file:
        slow = "\nimport re\n" in file.read()
    assert [found["details"]["path"] for found in launchers(pool, "/nowhere")] == [script("slot-run")] * slow
