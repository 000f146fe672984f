"""Figures of many values, and how a reader is shown them."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable

NONE = "-"


def quantile(values: Iterable[float], share: float) -> float:
    """The value that `share` of `values` do not exceed, between the two nearest of them.

    0.5 is the median, 1.0 the greatest.

    Raises:
        ValueError: There are no values.
    """
    ordered = sorted(values)
    if not ordered:
        raise ValueError("no values have no quantile")
    place = share * (len(ordered) - 1)
    below = int(place)
    above = min(below + 1, len(ordered) - 1)
    return ordered[below] + (ordered[above] - ordered[below]) * (place - below)


def median(values: Iterable[float]) -> float:
    """The middle one of `values`."""
    return quantile(values, 0.5)


def shown(value: float | None) -> str:
    """`value` with three digits that count."""
    if value is None:
        return NONE
    if abs(value) >= 100 or value == int(value):
        return f"{value:.0f}"
    return f"{value:.{1 if abs(value) >= 10 else 2 if abs(value) >= 0.1 else 4}f}"


def ratio(value: float | None, to: float | None) -> float | None:
    """`value` as so many times `to`; None if one of them is not known."""
    return None if value is None or not to else value / to
