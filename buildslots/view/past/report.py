"""`buildslots report`: the timeline of the pools as one web page that needs no network.

The page is `report.html`, which draws the JSON that is filled in here. Every text in that JSON came from
other processes. So the page sets it as text and never as markup, and its own policy forbids it to load
anything.
"""

from __future__ import annotations

import json
import os
import platform
from dataclasses import asdict

from buildslots import __version__
from buildslots.settings.machine import machine_cap
from buildslots.view.output import write
from buildslots.view.past.advice import NOTHING, advice_now
from buildslots.view.past.builds import asked_for
from buildslots.view.past.figures import by, figures
from buildslots.words import NAME_SHOWN
from buildslots.words import shown as shown_text

TYPE_CHECKING = False
if TYPE_CHECKING:
    import argparse

    from buildslots.view.past.builds import Build, Past

PLACE = ' id="data">{}<'
"""Where in the page the data belong."""


def run(options: argparse.Namespace) -> int:
    """Write the report that the options ask for."""
    write(options.output, page(asked_for(options)))
    return 0


def page(shown: Past) -> str:
    """The page about `shown`."""
    with open(os.path.join(os.path.dirname(__file__), "report.html"), encoding="utf-8") as file:
        before, place, after = file.read().partition(PLACE)
    # The HTML parser heeds "</script" and "<!--" in a script element even within a string of its JSON.
    data = json.dumps(_data(shown), separators=(",", ":")).replace("<", "\\u003c")
    return before + place.replace("{}", data) + after


def _data(shown: Past) -> dict[str, object]:
    pools = by(shown.builds, "dir", "pool").items()
    return {
        "version": __version__,
        "host": shown_text(platform.node() or "this machine", NAME_SHOWN),
        "begin": min([shown.since, *(build.came_at for build in shown.builds)]),
        "until": shown.until,
        "cores": machine_cap().cores,
        "loads": shown.loads,
        "pools": [_pool(directory, pool, builds, shown) for (directory, pool), builds in pools],
    }


def _pool(directory: str, pool: str, builds: list[Build], shown: Past) -> dict[str, object]:
    ran = sorted((build for build in builds if build.slot is not None), key=lambda b: b.started_at or 0.0)
    runs = [
        _bar(b, span) | {"slot": slot}
        for b in ran
        if (span := b.run_between(shown.until))
        for slot in b.slots
    ]
    waits = [_bar(b, span) for b in builds if (span := b.wait_between(shown.until))]
    advice = advice_now(shown, directory, pool)
    caps = [build.cap for build in builds if build.cap]
    slots = {slot for build in builds for slot in build.slots}
    return {
        "pool": pool,
        "dir": directory,
        "cap": caps[-1] if caps else None,
        "figures": asdict(figures(builds, shown.since, shown.until)),
        "advice": advice,
        "fine": advice.startswith(NOTHING),  # it gets no stripe
        "slots": sorted(slots | set(range(min(caps[-1], 64)) if caps else ())),
        "runs": runs,
        "waits": waits,
    }


def _bar(build: Build, between: tuple[float, float]) -> dict[str, object]:
    names = ("slot", "program", "cwd", "pid", "overflow", "waited_s", "status", "outcome", "cpu_s", "max_rss")
    task = {"batch": build.batch, "id": build.id} if build.batch else {}
    return {"from": between[0], "to": between[1], **task} | {name: getattr(build, name) for name in names}
