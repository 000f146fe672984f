"""The table of a run: what each way of building did to the machine, and the machine at rest beside it."""

from __future__ import annotations

import json
import os
import platform
import subprocess
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING

from bench.agents.machine import PRESSURES, field_of
from bench.kit.figures import median, quantile

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence
    from pathlib import Path

    from bench.agents.machine import Machine

Row = list[str]


def row(
    name: str, text: str, ways: Mapping[str, Sequence[float | None]], at_rest: float | None = None
) -> Row:
    """A row: for each way the values of its rounds, shown as `text` says."""
    cells = [cell(text, values) for values in ways.values()]
    return [name, *cells, "" if at_rest is None else text.format(at_rest)]


def of_machine(ways: Mapping[str, Sequence[Machine]], quiet: Machine) -> list[Row]:
    """The rows about the machine, for each way and at rest."""

    def its(name: str, text: str, value: Callable[[Machine], float | None], *, rests: bool = True) -> Row:
        values = {way: [value(machine) for machine in machines] for way, machines in ways.items()}
        return row(name, text, values, value(quiet) if rests else None)

    def latency_ms(share: float) -> Callable[[Machine], float]:
        return lambda machine: 1000 * quantile(machine.latencies_s, share)

    def pressure(name: str) -> Callable[[Machine], float | None]:
        return lambda machine: machine.pressure[name]

    return [
        its("most runnable processes", "{:.0f}", lambda machine: machine.runnable),
        its(
            "most memory in use, beyond that before",
            "{:.0f} MiB",
            lambda machine: machine.memory / 2**20,
            rests=False,
        ),
        *(its(f"time in which something waited for {name}", "{:.1%}", pressure(name)) for name in PRESSURES),
        *(
            its(f"`python -c pass` in the foreground, {name}", "{:.0f} ms", latency_ms(share))
            for name, share in (("median", 0.5), ("p99", 0.99), ("worst", 1.0))
        ),
    ]


def cell(text: str, values: Sequence[float | None]) -> str:
    """The median of `values`, and the least and the greatest."""
    known = [value for value in values if value is not None]
    if not known:
        return "not available"
    shown = text.format(median(known))
    extremes = [text.format(extreme) for extreme in (min(known), max(known))]
    return shown if extremes == [shown, shown] else f"{shown} ({' to '.join(extremes)})"


def environment() -> dict[str, object]:
    """What the figures hold for."""
    compiler = subprocess.run(["cc", "--version"], check=True, capture_output=True, text=True).stdout
    return {
        "cores": os.cpu_count(),
        "memory_mib": round(field_of("/proc/meminfo", "MemTotal:") / 1024),
        "kernel": platform.release(),
        "python": platform.python_version(),
        "compiler": compiler.splitlines()[0],
        "load_before": round(os.getloadavg()[0], 2),
    }


def rounds_in_words(rounds: int) -> str:
    """How many there were of each way."""
    return (
        f"{rounds} round{'s' * (rounds > 1)} each way, in turn: the median, and in parentheses the extremes."
    )


@dataclass(frozen=True)
class Table:
    """A table for results.md, as it is stored: `columns` are names, `rows` have a text for each of them."""

    title: str
    command: str
    environment: dict[str, object]
    columns: Row
    rows: list[Row]
    notes: list[str]

    def show(self) -> None:
        """Print it."""
        lines = [self.columns, *self.rows]
        widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
        for line in lines:
            print("  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip())
        for note in self.notes:
            print(note)

    def write(self, path: Path) -> None:
        """Keep it in the file `path`."""
        path.write_text(json.dumps(asdict(self), indent=2) + "\n")
