"""Two charts of a session, as SVG that can be read on a light and on a dark page."""

from __future__ import annotations

from typing import TYPE_CHECKING

import matplotlib as mpl

mpl.use("svg")

from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator

from bench.kit.figures import shown
from bench.kit.peers import COMMANDS, LIMITS, OURS
from bench.questions import handover, start
from bench.report.rows import rows

if TYPE_CHECKING:
    from pathlib import Path

    from matplotlib.axes import Axes

    from bench.kit.question import CommandQuestion
    from bench.report.rows import Results, Row

INK = "#7d8590"
"""Grey in the middle: seen on white and on GitHub's dark page."""
OUR_COLOUR = "#d1495b"
COLOURS = ("#2f81b7", "#3a9d5d", "#c08a1e", "#8e6bbf", "#2aa5a0", "#b5651d", "#7a8f2a", "#c2609a")
APART = 0.062
"""How far two labels are apart at least, of the height of the chart."""
Drawn = list[tuple[str, str]]


def draw(results: Results, directory: Path) -> Drawn:
    """Write the charts of what was measured; (file name, title) of each."""
    mpl.rc("svg", hashsalt="buildslots", fonttype="none")  # the same ids each time; text as text
    mpl.rc("font", family="sans-serif", size=10)
    mpl.rc("text", color=INK)
    mpl.rc("axes", edgecolor=INK, labelcolor=INK, axisbelow=True)
    mpl.rc("axes.spines", top=False, right=False)
    mpl.rc("xtick", color=INK)
    mpl.rc("ytick", color=INK)
    drawn = []
    found = _rows(start.COMMANDS, results)
    if found:
        title = "A command that does nothing, with a free slot, in ms; less is better"
        figure = Figure(figsize=(7.5, 0.9 + 0.32 * len(found)), layout="constrained")
        bars(figure.subplots(), found)
        drawn.append(_save(figure, title, directory / "start.svg"))
    found = _rows(handover.COMMANDS, results)
    if len({row.contenders for row in found}) > 1:
        title = "From one build to the next, in ms, by the number of builds in line; less is better"
        figure = Figure(figsize=(7.5, 4.4), layout="constrained")
        curves(figure.subplots(), found)
        drawn.append(_save(figure, title, directory / "handover.svg"))
    return drawn


def _rows(question: CommandQuestion, results: Results) -> list[Row]:
    return [row for row in rows(question, question.measures[0], results.samples) if row.median is not None]


def _save(figure: Figure, title: str, path: Path) -> tuple[str, str]:
    figure.suptitle(title, fontsize=11)
    figure.savefig(path, transparent=True, metadata={"Date": None})
    return path.name, title


def colour(peer: str) -> str:
    """Of `peer`, the same in each chart: ours stands out, limits are grey."""
    if peer.startswith(OURS):
        return OUR_COLOUR
    return INK if peer in LIMITS else COLOURS[list(COMMANDS).index(peer) % len(COLOURS)]


def bars(axes: Axes, found: list[Row]) -> None:
    """One bar a peer, the best on top, with its number at its end."""
    found = sorted(found, key=lambda row: row.median or 0.0, reverse=True)
    names = [row.peer for row in found]
    values = [row.median or 0.0 for row in found]
    drawn = axes.barh(names, values, color=list(map(colour, names)), height=0.62)
    axes.bar_label(drawn, [shown(value) for value in values], padding=4, color=INK)
    axes.margins(x=0.1)
    axes.spines["bottom"].set_visible(False)
    axes.set_xticks([])
    axes.tick_params(left=False)


def curves(axes: Axes, found: list[Row]) -> None:
    """One line a peer over the number of contenders, with its name at the end of it."""
    peers = sorted({row.peer for row in found}, key=lambda peer: (not peer.startswith(OURS), peer))
    counts = sorted({row.contenders for row in found})
    ends: dict[str, tuple[float, float]] = {}
    axes.set_xscale("log", base=2)
    axes.set_yscale("log")
    for peer in peers:
        mine = [row for row in found if row.peer == peer]
        xs, ys = [row.contenders for row in mine], [row.median or 0.0 for row in mine]
        ours = peer.startswith(OURS)
        axes.plot(xs, ys, marker="o", color=colour(peer), linewidth=2.6 if ours else 1.4, zorder=2 + ours)
        ends[peer] = xs[-1], ys[-1]
    axes.set_xticks(counts, [str(count) for count in counts])
    axes.minorticks_off()
    axes.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    axes.yaxis.set_major_formatter("{x:g}")
    axes.yaxis.grid(color=INK, alpha=0.25, linewidth=0.6)
    axes.set_xlim(counts[0] / 1.15, counts[-1] * 1.15)
    label(axes, ends)


def label(axes: Axes, ends: dict[str, tuple[float, float]]) -> None:
    """Write the names beside the chart, each as near to the end of its line as the others let it."""
    to_axes = axes.transData + axes.transAxes.inverted()
    places = {peer: to_axes.transform(end) for peer, end in ends.items()}
    at = -1.0
    for peer, place in sorted(places.items(), key=lambda item: float(item[1][1])):
        at = max(float(place[1]), at + APART)
        axes.annotate(
            peer,
            xy=(float(place[0]) + 0.01, float(place[1])),
            xytext=(1.04, at),
            xycoords="axes fraction",
            textcoords="axes fraction",
            color=colour(peer),
            va="center",
            weight="bold" if peer.startswith(OURS) else "normal",
            arrowprops={"arrowstyle": "-", "color": colour(peer), "alpha": 0.5, "linewidth": 0.8},
        )
