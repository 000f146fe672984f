"""A browser without a window, to look at the report with."""

from __future__ import annotations

import shutil
import subprocess
from typing import TYPE_CHECKING

from builds import DEADLINE_S

if TYPE_CHECKING:
    from pathlib import Path


def browser() -> str:
    """The program of a browser."""
    names = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
    found = next(filter(None, map(shutil.which, names)), None)
    assert found, f"none of {', '.join(names)} is installed"
    return found


def browse(file: Path, *, width: int = 1280, then: str = "") -> str:
    """The document in `file` after its script, and then the script `then`, have run in a window so wide."""
    shown = file.with_suffix(".shown.html")
    text = file.read_text(encoding="utf-8")
    shown.write_text(text.replace("</html>", f"<script>{then}</script></html>"), encoding="utf-8")
    options = ["--headless", "--no-sandbox", "--disable-gpu", "--lang=en-US", f"--window-size={width},900"]
    options.append(f"--user-data-dir={file.with_suffix('.browser')}")
    dumped = file.with_suffix(".dumped.html")
    with dumped.open("w") as output:
        process = subprocess.Popen(
            [browser(), *options, "--dump-dom", shown.as_uri()], stdout=output, stderr=subprocess.DEVNULL
        )
        try:
            process.wait(2 * DEADLINE_S)
        finally:
            process.kill()
            process.wait()
    return dumped.read_text(encoding="utf-8")
