"""What the server says of its limits: Retry-After, and X-RateLimit-Remaining."""

from __future__ import annotations

from typing import TYPE_CHECKING

from bench.workloads.install.server import FILES, Files, components
from bench.workloads.install.watched import Watched
from bench.workloads.loopback import Response

if TYPE_CHECKING:
    from pathlib import Path

    from bench.workloads.checklist import Checklist

REST_S = 1


def check(say: Checklist, scratch: Path, count: int) -> None:
    """Check it, with `count` components."""
    count = min(count, 16)  # a server that bounds them is slow
    for jobs in (4, 1):
        _too_many(say, scratch, count, jobs)
    _remaining(say, scratch, count)


def _too_many(say: Checklist, scratch: Path, count: int, jobs: int) -> None:
    """One download is answered with 429, while others run and wait."""
    with Files(components(count)) as server:
        server.first["tool-03"] = [Response(429, headers={"Retry-After": str(REST_S)})]
        manager = Watched(server.url, scratch / f"too-many-{jobs}", at_once=jobs)
        report = manager.run()
        early = manager.started_in_a_pause()
        (begin, _), *more = manager.pauses
        say.check(
            f"-j {jobs}: a 429 with Retry-After: {REST_S} pauses all: no download starts, none fails",
            report.is_good and not early and not more,
            f"{len(early)} starts in the pause, {report.counts}",
        )
        after = [step.t - begin for step in manager.started() if step.t > begin]
        say.time(
            "  … and then they go on without delay",
            REST_S <= min(after) < REST_S + 0.5,
            f"the next one {min(after):.2f} s after it",
        )


def _remaining(say: Checklist, scratch: Path, count: int) -> None:
    """The server has a budget, and says what is left of it."""
    with Files(components(count)) as server:
        server.budget = 6
        manager = Watched(server.url, scratch / "remaining")
        report = manager.run()
        statuses = [seen.status for seen in server.requests(FILES)]
        most = max(server.served.values())
        say.check(
            "X-RateLimit-Remaining is honoured: a budget of 6 a second is never overdrawn",
            report.is_good and 429 not in statuses and most <= 6 and manager.pauses,
            f"at most {most} in a window, {len(server.served)} windows, {statuses.count(429)} answers of 429",
        )
