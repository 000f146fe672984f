"""Spans of time, and what can be seen of many of them: overlaps, gaps, order."""

from __future__ import annotations

import itertools
from collections import Counter
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence


class Span(NamedTuple):
    """From when to when something ran, in ns of CLOCK_MONOTONIC; they sort by their starts."""

    start: int
    end: int
    name: str = ""


def peak_overlap(spans: Iterable[Span]) -> int:
    """The largest number of `spans` that contain one instant; an end comes before a start."""
    spans = list(spans)
    events = sorted([(span.start, 1) for span in spans] + [(span.end, -1) for span in spans])
    running = peak = 0
    for _, change in events:
        running += change
        peak = max(peak, running)
    return peak


def over(spans: Iterable[Span], slots: int) -> int:
    """How many more held a slot at once than there are slots."""
    return max(0, peak_overlap(spans) - slots)


def gaps_s(spans: Iterable[Span], slots: int) -> list[float]:
    """Seconds from each end that somebody waited for to the start that it made possible."""
    spans = sorted(spans)
    ends = sorted(span.end for span in spans)
    return [(span.start - end) / 1e9 for end, span in zip(ends, spans[slots:], strict=False)]


def inversions(order: Sequence[int]) -> int:
    """Pairs of arrivals that started the other way round; `order` has the number of each, by its start."""
    return sum(later < earlier for at, earlier in enumerate(order) for later in order[at + 1 :])


def levels(groups: Iterable[Iterable[Span]]) -> dict[int, float]:
    """For how many seconds spans of exactly n different groups were alive at once, by n of 1 and more."""
    edges = sorted(
        edge for spans in groups for span in _merged(spans) for edge in ((span.start, 1), (span.end, -1))
    )
    seconds: Counter[int] = Counter()
    alive = 0
    for (at, step), (until, _) in itertools.pairwise(edges):
        alive += step
        if alive and until > at:
            seconds[alive] += until - at
    return {level: length / 1e9 for level, length in sorted(seconds.items())}


def _merged(spans: Iterable[Span]) -> Iterator[Span]:
    """The same time as `spans`, in spans that do not touch: a group counts once, not once a span."""
    current: Span | None = None
    for span in sorted(spans):
        if current is not None and span.start <= current.end:
            current = Span(current.start, max(current.end, span.end))
        else:
            if current is not None:
                yield current
            current = span
    if current is not None:
        yield current
