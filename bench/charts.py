"""Charts of the results, as SVG that can be read on a light and on a dark page."""

from __future__ import annotations

from typing import TYPE_CHECKING

import matplotlib as mpl

mpl.use("svg")

from matplotlib.figure import Figure

from bench.measures import MEASURES
from bench.peers import LIMITS
from bench.results import rows

if TYPE_CHECKING:
    from pathlib import Path

    from matplotlib.axes import Axes

    from bench.measures import Measure
    from bench.results import Results, Row

INK = "#7d8590"
"""Grey in the middle: seen on white and on GitHub's dark page."""
COLOURS = {"slot-run": "#d1495b", "SlotPool": "#d1495b"}
OTHER_COLOURS = ("#2f81b7", "#3a9d5d", "#c08a1e", "#8e6bbf", "#2aa5a0", "#b5651d", "#7a8f2a", "#c2609a")
DRAWN = (
    ("start", "start", 0.0),
    ("command-line", "gap_p50", 0.0),
    ("library-line", "gap_p50", 0.0),
    ("command-line", "waiting", 0.0),
    ("command-line", "cost", 0.0),
    ("library-line", "cost", 0.0),
    ("relay", "cost", 0.0),
    ("loop", "utilisation", 0.01),
    ("loop", "utilisation", 0.1),
    ("loop", "spread", 0.01),
)
"""(scenario, value, hold in s) of each chart."""


def draw(results: Results, directory: Path) -> list[tuple[str, str]]:
    """Write one chart for each of `DRAWN` that there are results of; (file name, title) of each."""
    mpl.rc("svg", hashsalt="buildslots")  # the same ids each time
    mpl.rc("text", color=INK)
    mpl.rc("axes", edgecolor=INK, labelcolor=INK)
    mpl.rc("axes.spines", top=False, right=False)
    mpl.rc("xtick", color=INK)
    mpl.rc("ytick", color=INK)
    directory.mkdir(exist_ok=True)
    for old in directory.glob("*.svg"):
        old.unlink()
    drawn = []
    for scenario, value, hold_s in DRAWN:
        measure = next(each for each in MEASURES if (each.scenario, each.value) == (scenario, value))
        found = [row for row in rows(measure, results) if row.hold_s == hold_s and row.median is not None]
        if found:
            name = f"{scenario}-{value}{f'-{hold_s:g}s' if hold_s else ''}.svg".replace("_", "-")
            title = measure.says.partition(":")[0] + (f", held {hold_s:g} s" if hold_s else "")
            save(measure, found, f"{title} ({kind(measure)})", directory / name)
            drawn.append((name, title))
    return drawn


def kind(measure: Measure) -> str:
    """Which of the two groups of peers."""
    return "commands" if measure.scenario in ("start", "command-line") else "library calls"


def save(measure: Measure, found: list[Row], title: str, path: Path) -> None:
    """Draw one chart: bars if the number of contenders does not vary, lines otherwise."""
    figure = Figure(figsize=(7.5, 4.2), layout="constrained")
    axes = figure.subplots()
    if len({row.contenders for row in found}) == 1:
        bars(axes, measure, found)
    else:
        curves(axes, measure, found)
    axes.set_title(title, fontsize=11)
    figure.savefig(path, transparent=True, metadata={"Date": None})


def label(measure: Measure) -> str:
    """What an axis of values says."""
    return f"{measure.value.replace('_', ' ')}, {measure.unit}".rstrip(", ")


def bars(axes: Axes, measure: Measure, found: list[Row]) -> None:
    """One bar a peer, the best on top, with the spread."""
    found = sorted(found, key=lambda row: row.median or 0.0, reverse=not measure.higher)
    colours = colours_of(found)
    medians = [row.median or 0.0 for row in found]
    spread = [
        [middle - min(row.values) for middle, row in zip(medians, found, strict=True)],
        [max(row.values) - middle for middle, row in zip(medians, found, strict=True)],
    ]
    axes.barh(
        [row.peer for row in found],
        medians,
        xerr=spread,
        color=[colours[row.peer] for row in found],
        error_kw={"ecolor": INK, "capsize": 3},
    )
    axes.set_xlabel(label(measure) + ", median and min to max")


def curves(axes: Axes, measure: Measure, found: list[Row]) -> None:
    """One line a peer over the number of contenders, with the spread."""
    for peer, colour in colours_of(found).items():
        mine = [row for row in found if row.peer == peer]
        contenders = [row.contenders for row in mine]
        ours = peer in COLOURS
        axes.plot(
            contenders,
            [row.median or 0.0 for row in mine],
            marker="o",
            color=colour,
            label=f"{peer} (limit)" if peer in LIMITS else peer,
            linestyle={"flock(2)": "--", "semaphore": ":"}.get(peer, "-"),
            linewidth=2.6 if ours else 1.5,
            markersize=5,
            zorder=3 if ours else 2,
        )
        lowest, highest = [min(row.values) for row in mine], [max(row.values) for row in mine]
        axes.fill_between(contenders, lowest, highest, color=colour, alpha=0.15, linewidth=0)
    axes.set_xscale("log", base=2)
    ticks = sorted({row.contenders for row in found})
    axes.set_xticks(ticks, [str(tick) for tick in ticks])
    axes.set_xlabel("contenders")
    axes.set_ylabel(label(measure))
    if measure.value == "utilisation":
        axes.set_ylim(0, 105)
    elif all((row.median or 0.0) > 0 for row in found):
        axes.set_yscale("log")
        axes.yaxis.set_major_formatter("{x:g}")
        axes.yaxis.set_minor_formatter("{x:g}")
    axes.grid(color=INK, alpha=0.25, linewidth=0.6)
    axes.legend(frameon=False, fontsize=8, loc="center left", bbox_to_anchor=(1.0, 0.5))


def colours_of(found: list[Row]) -> dict[str, str]:
    """A colour for each peer, ours always the same; grey for limits."""
    others = iter(OTHER_COLOURS * 2)
    peers = sorted({row.peer for row in found}, key=lambda peer: (peer not in COLOURS, peer in LIMITS, peer))
    return {peer: INK if peer in LIMITS else COLOURS.get(peer) or next(others) for peer in peers}
