"""The verdict: what users feel, against the bars that were set for it, and beside another install."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from bench.kit.figures import NONE, median, quantile, ratio, shown
from bench.kit.peers import BARE, LIBRARY, OURS
from bench.questions.tasks import TASKS
from bench.questions.use import PAUSE_S
from bench.questions.waiting import WAITERS
from bench.report.markdown import table
from bench.report.rows import observed

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from bench.report.rows import Results, Sample

COMMANDS, CALLS = "commands", "library calls"
ENOUGH = 30
"""Of so many values the 99th percentile is more than the one that was worst by chance."""


@dataclass(frozen=True)
class Figures:
    """What a session says about the install that is called `side` in it."""

    samples: list[Sample]
    side: str = ""

    def named(self, peer: str) -> str:
        """`peer` of this install."""
        return f"{peer}, {self.side}" if self.side else peer

    def all(self, question: str, kind: str, peer: str, value: str, **setting: float) -> list[float]:
        """All numbers called `value` that `peer` has got under `setting`."""
        wanted: dict[str, object] = {"question": question, "kind": kind, "peer": peer, **setting}
        return observed(
            [each for each in self.samples if all(each[name] == it for name, it in wanted.items())], value
        )

    def contenders(self, question: str, kind: str) -> list[int]:
        """With how many `question` was asked."""
        return sorted(
            {
                each["contenders"]
                for each in self.samples
                if (each["question"], each["kind"]) == (question, kind)
            }
        )

    def start(self, how: str = "") -> list[float]:
        """How many times as long as a bare interpreter a start takes."""
        ours = self.all("start", COMMANDS, self.named(f"{OURS}{how}"), "start")
        bare = self.all("start", COMMANDS, self.named(BARE), "start")
        return _times(ours, bare)

    def handover(self) -> list[float]:
        """How many times as long as flock(1)'s a hand-over takes, for each number of contenders."""
        found = []
        for count in self.contenders("handover", COMMANDS):
            ours = self.all("handover", COMMANDS, self.named(OURS), "gap", contenders=count)
            found += _times(ours, self.all("handover", COMMANDS, "flock", "gap", contenders=count))
        return found

    def late(self) -> list[float]:
        """The 99th percentile of hand-overs of commands, in ms, for each number of contenders with enough."""
        counts = self.contenders("handover", COMMANDS)
        gaps = [self.all("handover", COMMANDS, self.named(OURS), "gap", contenders=count) for count in counts]
        return [quantile(each, 0.99) for each in gaps if len(each) >= ENOUGH]

    def call(self) -> list[float]:
        """The median hand-over of library calls, in ms, for each number of contenders."""
        counts = self.contenders("handover", CALLS)
        gaps = [self.all("handover", CALLS, self.named(LIBRARY), "gap", contenders=count) for count in counts]
        return [median(each) for each in gaps if each]

    def use(self, pause_s: float = 0.0) -> list[float]:
        """How many per cent of the time three slots are used by 64 processes."""
        found = self.all("use", CALLS, self.named(LIBRARY), "use", contenders=64, pause_s=pause_s)
        return [median(found)] if found else []

    def acquire(self) -> list[float]:
        """How many times as long as open, flock and close an acquire and a release take."""
        ours = self.all("acquire", CALLS, self.named(LIBRARY), "acquire")
        return _times(ours, self.all("acquire", CALLS, "flock(2)", "acquire"))

    def waiting(self) -> list[float]:
        """How many per cent of a core waiters use."""
        found = self.all("waiting", COMMANDS, self.named(OURS), "waiting")
        return [median(found)] if found else []

    def descriptors(self) -> list[float]:
        """How many descriptors waiting tasks need."""
        return self.all("tasks", CALLS, self.named(LIBRARY), "descriptors")


def _times(ours: list[float], bare: list[float]) -> list[float]:
    times = ratio(median(ours), median(bare)) if ours and bare else None
    return [] if times is None else [times]


@dataclass(frozen=True)
class Part:
    """A number in a row.

    Attributes:
        says: What it is, where a row has several.
        found: How it comes about; several numbers are those of several settings, and all of them have to do.
        bar: What it may be at most, or has to be at least; None if it is only to be seen.
    """

    says: str
    found: Callable[[Figures], list[float]]
    unit: str = ""
    bar: float | None = None
    higher: bool = False

    def text(self, figures: Figures) -> str:
        """The numbers, for the reader."""
        found = self.found(figures)
        if not found:
            return self._with(NONE)
        least, most = shown(min(found)), shown(max(found))
        return self._with(f"{least}{self.unit}" if least == most else f"{least} to {most}{self.unit}")

    def bar_text(self) -> str:
        """The bar, for the reader."""
        return "" if self.bar is None else self._with(f"{self.bar:g}{self.unit}")

    def _with(self, text: str) -> str:
        return f"{self.says} {text}".strip()

    def verdict(self, figures: Figures) -> bool | None:
        """Whether the bar was kept; None if nothing is known, or there is no bar."""
        found = self.found(figures)
        if self.bar is None or not found:
            return None
        return min(found) >= self.bar if self.higher else max(found) <= self.bar


BARS: tuple[tuple[str, tuple[Part, ...]], ...] = (
    (
        "`slot-run -- true`, as README installs it, in times of `python -c pass`",
        (
            Part("alone", Figures.start, bar=1.35),
            Part("with a config file", lambda figures: figures.start(" with a config"), bar=1.5),
            Part("with gates", lambda figures: figures.start(" with gates"), bar=1.5),
            Part("with tokens", lambda figures: figures.start(" with tokens"), bar=1.6),
        ),
    ),
    (
        "From one build to the next: slot-run in times of flock(1), and p99{contenders}",
        (Part("p50", Figures.handover, bar=1.5), Part("p99", Figures.late, " ms", 10.0)),
    ),
    (
        "From one hold to the next in the library; use of 3 slots by 64 processes, holds of 10 ms",
        (
            Part("p50", Figures.call, " ms", 0.6),
            Part("use", Figures.use, " %", 95.0, higher=True),
            Part(f"with pauses of {PAUSE_S:g} s", lambda figures: figures.use(PAUSE_S), " %"),
        ),
    ),
    (
        "Acquire and release, a free slot, with the journal, in times of open, flock and close",
        (Part("", Figures.acquire, bar=25.0),),
    ),
    (
        f"{WAITERS} waiters, of a core; {TASKS} waiting tasks in one process",
        (Part("CPU", Figures.waiting, " %", 0.3), Part("descriptors", Figures.descriptors, bar=100.0)),
    ),
)


def verdict(results: Results) -> Iterator[str]:
    """The five rows, and what they were measured on."""
    now = Figures(results.samples)
    sides = [each for each in results.about.get("beside", "").split(", ") if each]
    others = [Figures(results.samples, side) for side in sides]
    counts = now.contenders("handover", COMMANDS)
    contenders = f", with {counts[0]} to {counts[-1]} contenders" if counts else ""
    yield from table(
        ["what users feel", "bar", *sides, "measured", "verdict"],
        [
            [
                says.format(contenders=contenders),
                "; ".join(filter(None, (part.bar_text() for part in parts))),
                *("; ".join(part.text(other) for part in parts) for other in others),
                f"**{'; '.join(part.text(now) for part in parts)}**",
                _verdict(parts, now),
            ]
            for says, parts in BARS
        ],
    )


def _verdict(parts: tuple[Part, ...], figures: Figures) -> str:
    """One word, and what it is about where that is not all of the row."""
    kept = [part.verdict(figures) for part in parts if part.bar is not None]
    missed = [part.says for part in parts if part.verdict(figures) is False]
    if not missed:
        return "not measured" if None in kept else "kept"
    return "missed" if len(kept) == 1 else f"missed: {', '.join(missed)}"
