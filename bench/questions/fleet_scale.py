"""What one Redis carries: hand-overs with many waiters in line, and with many slots.

`python -m bench.questions.fleet_scale [--waiters N,...] [--slots N,...] [--seconds N] [--write]`. The waiters
are connections of a few processes. "CPU a hand-over" is that of the server's main thread, beats aside, which
are measured while nobody takes turns. Each turn is a join, the wake-up, its confirmation and a release.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

from bench.kit.across import create, fresh_name
from bench.kit.crowds import Failed
from bench.kit.figures import median, quantile, shown
from bench.kit.line import Line, allow_descriptors
from bench.kit.servers import Connection, Redis
from bench.kit.shell import forget_settings, say
from bench.kit.spans import gaps_s, inversions, over
from bench.report.markdown import table
from bench.report.page import keep

HOLD_S, SLOTS = 0.010, 3
WAITERS = (100, 1000, 5000)
MANY_SLOTS = (3, 10, 50, 200)
LISTEN_S = 5.0
IDLE_S = 11.0
"""In which every waiter has beaten once."""


@dataclass(frozen=True)
class Carried:
    """What a server did.

    Attributes:
        waiters: How many were in line.
        slots: How many there were.
        gaps_ms: From the end of a hold to the start of the next.
        rate: Hand-overs in a second.
        cpu_us: The server's for a hand-over.
        beats: Of a core, in percent: the server's, for the beats of all waiters.
        memory_kib: The server's for a waiter.
        over: How many more held a slot at once than there are.
    """

    waiters: int
    slots: int
    gaps_ms: list[float]
    rate: float
    cpu_us: float
    beats: float
    memory_kib: float
    over: int


def carried(  # noqa: PLR0913, PLR0917 - all that one run is
    redis: Redis, scratch: Path, waiters: int, slots: int, hold_s: float, seconds: float
) -> Carried:
    """One run.

    Raises:
        Failed: Nobody got a slot.
    """
    url = create(redis, fresh_name(), slots)
    empty = int(redis.info("memory")["used_memory"])
    with Line(url, waiters, hold_s, scratch) as line:
        full = int(redis.info("memory")["used_memory"])
        cpu_s = redis.cpu_s()
        time.sleep(IDLE_S)
        beats = (redis.cpu_s() - cpu_s) / IDLE_S
        line.begin()
        time.sleep(1.0)
        cpu_s, began = redis.cpu_s(), time.monotonic_ns()
        time.sleep(seconds)
        more_s, ended = redis.cpu_s() - cpu_s - beats * seconds, time.monotonic_ns()
        spans = [span for span, _ in line.turns() if began <= span.start < ended]
    if not spans:
        raise Failed("nobody got a slot")
    return Carried(
        waiters,
        slots,
        [gap * 1e3 for gap in gaps_s(spans, slots)],
        len(spans) / seconds,
        more_s / len(spans) * 1e6,
        beats * 100,
        (full - empty) / waiters / 1024,
        over(spans, slots),
    )


def inverted(redis: Redis, scratch: Path, waiters: int, seconds: float) -> tuple[int, int]:
    """How many pairs were told to go in another order than that of the line, and how many were told."""
    url = create(redis, fresh_name(), SLOTS)
    name = url.rpartition("/")[2]
    observer = Connection(str(redis.socket))
    told = []
    with Line(url, waiters, HOLD_S, scratch) as line:
        observer.call("PSUBSCRIBE", f"bs:{{{name}}}:*")
        line.begin()
        until = time.monotonic() + seconds
        for *_, channel, text in observer.messages(LISTEN_S):
            if text == b"go":
                told.append(channel)
            if time.monotonic() > until:
                break
        numbers = {span.name.encode(): seq for span, seq in line.turns()}
    observer.close()
    order = [numbers[channel] for channel in told if channel in numbers]
    return inversions(order), len(order)


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m bench.questions.fleet_scale", description=__doc__)
    parser.add_argument("--waiters", type=numbers, default=WAITERS, help="100,1000,5000")
    parser.add_argument("--slots", type=numbers, default=MANY_SLOTS, help="with 1,000 waiters: 3,10,50,200")
    parser.add_argument("--seconds", type=float, default=8.0, help="that each case is watched (8)")
    parser.add_argument("--write", action="store_true", help="write bench/results.md")
    options = parser.parse_args()
    allow_descriptors()
    with tempfile.TemporaryDirectory(prefix="fleet-") as scratch:
        forget_settings(scratch)
        cases = [(waiters, SLOTS, HOLD_S) for waiters in options.waiters]
        # Held so much longer that there are as many hand-overs: it is the server that is measured.
        cases += [(1000, slots, HOLD_S * slots / SLOTS) for slots in options.slots]
        found = []
        for number, (waiters, slots, hold_s) in enumerate(cases):
            say(f"{waiters} waiters, {slots} slots")
            with Redis(Path(scratch) / str(number), options=["--maxclients", "15000"]) as redis:
                found.append(carried(redis, Path(scratch), waiters, slots, hold_s, options.seconds))
        print("\n".join(table(COLUMNS, map(row, found))))
        with Redis(Path(scratch) / "order") as redis:
            turned, told = inverted(redis, Path(scratch), 1000, options.seconds)
    order = (
        f"Of 1,000 waiters {told} were told to go, {turned} pairs in another order than the line's; bar: 0."
    )
    print(order)
    if options.write:
        title = "What one Redis carries"
        keep("fleet-scale", title, "bench.questions.fleet_scale", COLUMNS, [*map(row, found)], [order, BAR])


BAR = "Bar: with 5,000 waiters at most 1.3 times the CPU of a hand-over with 100."
COLUMNS = ["waiters", "slots", "hand-over p50, ms", "p95, ms", "hand-overs a second", "CPU a hand-over, µs"]
COLUMNS += ["beats, % of a core", "memory a waiter, KiB", "most over the cap"]


def row(found: Carried) -> list[str]:
    """The cells of a table."""
    cells = [median(found.gaps_ms), quantile(found.gaps_ms, 0.95), found.rate, found.cpu_us, found.beats]
    cells += [found.memory_kib]
    return [str(found.waiters), str(found.slots), *map(shown, cells), str(found.over)]


def numbers(text: str) -> list[int]:
    """A comma-separated list."""
    return [int(word) for word in text.split(",")]


if __name__ == "__main__":
    main()
