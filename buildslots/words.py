"""Numbers and other processes' words, made fit for people to read."""

from __future__ import annotations

import os


def span(seconds: float) -> str:
    """`seconds` for people: "0.5 s", "7 s", "2 min 5 s", "1 h 10 min", "3 d 4 h"."""
    if 0.05 <= seconds < 0.95:
        return f"{seconds:.1f} s"
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60} s"
    if whole < 48 * 3600:
        return f"{whole // 3600} h {whole % 3600 // 60} min"
    return f"{whole // 86400} d {whole % 86400 // 3600} h"


def size(count: int) -> str:
    """`count` bytes for people: "0 MiB", "734 MiB", "1.2 GiB"."""
    mebibytes = round(count / 2**20)
    return f"{mebibytes} MiB" if mebibytes < 1000 else f"{count / 2**30:.1f} GiB"


def counted(numbers: tuple[int, ...]) -> str:
    """`numbers`, ascending, for people: "0", "0-3,7"."""
    runs: list[list[int]] = []
    for number in numbers:
        if runs and number == runs[-1][-1] + 1:
            runs[-1][1:] = [number]
        else:
            runs.append([number])
    return ",".join("-".join(map(str, run)) for run in runs)


def printable(text: str) -> str:
    """`text` without anything that could steer a terminal."""
    return "".join(c if c.isprintable() else "?" for c in text)


def short_path(path: str) -> str:
    """`path` with ~ for the home directory, made fit to print."""
    home = os.path.expanduser("~")
    if home != "~" and (path == home or path.startswith(home + os.sep)):
        path = "~" + path[len(home) :]
    return printable(path)
