"""The recorder: a command that notes when it ran, or when what it was told to run did (`recorder.c`)."""

from __future__ import annotations

import subprocess
from pathlib import Path

from bench.kit.spans import Span

SOURCE = Path(__file__).with_name("recorder.c")


def compile_recorder(directory: Path) -> Path:
    """Compile it into `directory`; its path.

    Raises:
        CalledProcessError: The compiler failed.
    """
    recorder = directory / "recorder"
    subprocess.run(["cc", "-O1", "-o", recorder, SOURCE], check=True)
    return recorder


def recorded(log: Path) -> list[Span]:
    """What recorders noted in the file `log`, in the order of the starts; nothing if there is none."""
    if not log.exists():
        return []
    lines = [line.split() for line in log.read_text().splitlines()]
    return sorted(Span(int(start), int(end), name) for name, start, end in lines)
