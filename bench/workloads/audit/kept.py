"""The snapshot: written whole, and shown at once."""

from __future__ import annotations

import random
import signal
import subprocess
import sys
import threading
import time
from typing import TYPE_CHECKING

from bench.kit.shell import CHECKOUT
from bench.workloads.audit import snapshot
from bench.workloads.audit.render import render

if TYPE_CHECKING:
    from pathlib import Path

    from bench.workloads.checklist import Checklist

SHOWN_S = 0.1
TOOLS = 500
WRITER = """
import sys
from bench.workloads.audit import snapshot
entries = snapshot.read(sys.argv[1])
print(flush=True)
while True:
    snapshot.write(sys.argv[1], entries)
"""


def check(say: Checklist, scratch: Path, *, short: bool) -> None:
    """Check it, with a snapshot of many tools."""
    path = str(scratch / "many.json")
    about = {
        "version": "1.2.3",
        "latest": "99.1",
        "source": "registry",
        "asked": 0.0,
        "path": "/usr/bin/tool",
    }
    entries = {f"tool-{number:03}": about for number in range(TOOLS)}
    snapshot.write(path, entries)
    _read_meanwhile(say, path, entries, 50 if short else 500)
    _killed(say, path, entries, 3 if short else 20)
    _shown(say, path, entries)


def _read_meanwhile(say: Checklist, path: str, entries: dict[str, snapshot.Entry], count: int) -> None:
    over = threading.Event()
    reads: list[int] = []

    def read() -> None:
        while not over.is_set():
            reads.append(len(snapshot.read(path)))

    reader = threading.Thread(target=read)
    reader.start()
    for _ in range(count):
        snapshot.write(path, entries)
    over.set()
    reader.join()
    whole = reads.count(len(entries))
    text = f"the snapshot is whole whenever it is read, while it is written {count} times"
    say.check(text, whole == len(reads) > 0, f"{whole} of {len(reads)} reads")


def _killed(say: Checklist, path: str, entries: dict[str, snapshot.Entry], count: int) -> None:
    whole = 0
    for _ in range(count):
        with subprocess.Popen(
            [sys.executable, "-c", WRITER, path], cwd=CHECKOUT, stdout=subprocess.PIPE
        ) as process:
            assert process.stdout is not None
            process.stdout.readline()
            time.sleep(random.uniform(0.0, 0.02))
            process.send_signal(signal.SIGKILL)
        whole += snapshot.read(path) == entries
    say.check(
        f"  … and after kill -9 in the middle of writing, {count} times", whole == count, f"{whole} whole"
    )


def _shown(say: Checklist, path: str, entries: dict[str, snapshot.Entry]) -> None:
    began = time.monotonic()
    text = render(snapshot.read(path))
    here_s = time.monotonic() - began
    show = [sys.executable, "-m", "bench.workloads.audit.render", path]
    took_s, bare_s = [], []
    for _ in range(9):
        took_s.append(_timed(show)[0])
        bare_s.append(_timed([sys.executable, "-c", "pass"])[0])
    shown = _timed(show)[1]
    is_same = shown == text and text.count("\n") == len(entries) + 1
    say.check(
        f"it is shown from the snapshot alone, with {len(entries)} tools", is_same, f"{len(text)} characters"
    )
    say.time("  … in less than 100 ms", here_s < SHOWN_S, f"{1000 * here_s:.1f} ms")
    more_s = min(took_s) - min(bare_s)
    text = "  … and by a command, beyond the start of Python"
    say.time(text, more_s < SHOWN_S, f"{1000 * more_s:.0f} of {1000 * min(took_s):.0f} ms, the best of 9")


def _timed(command: list[str]) -> tuple[float, str]:
    began = time.monotonic()
    done = subprocess.run(command, cwd=CHECKOUT, capture_output=True, text=True, check=True)
    return time.monotonic() - began, done.stdout
