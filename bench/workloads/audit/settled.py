"""Settings: the project's before the user's before the system's, and that they decide something."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from bench.workloads.audit import settings, tools
from bench.workloads.audit.auditor import Auditor
from bench.workloads.audit.registries import Registries
from bench.workloads.running import Running

if TYPE_CHECKING:
    from pathlib import Path

    from bench.workloads.checklist import Checklist

COUNT = 12


def check(say: Checklist, scratch: Path, *, short: bool) -> None:  # noqa: ARG001 - it is short
    """Check it."""
    project, user, system = (scratch / name for name in ("project", "user", "system"))
    work = project / "src" / "deep"
    for directory in (work, user, system):
        directory.mkdir(parents=True)
    (system / settings.FILE).write_text('at_once = 2\npolicy = "patch"\nregistry = "http://system"\n')
    (user / settings.FILE).write_text('at_once = 3\npolicy = "major"\n')
    (project / settings.FILE).write_text("at_once = 5\n")
    found = settings.load(work, user, system)
    sources = {"at_once": "project", "policy": "user", "registry": "system", "offline": "default"}
    values = (found.at_once, found.policy, found.registry, found.offline)
    say.check(
        "settings: project before user before system before default, each key by itself",
        found.sources == sources and values == (5, "major", "http://system", False),
        ", ".join(f"{key} of the {source}" for key, source in found.sources.items()),
    )
    running = Running()
    with Registries() as server:
        server.together = found.at_once
        kept = str(scratch / "settled.json")
        some = tools.find(COUNT)
        asyncio.run(Auditor(some, kept, server.url, at_once=found.at_once, on_change=running).audit())
        say.check("  … and 5 at once are 5", (running.peak, server.peak()) == (5, 5), running.peak)
    (user / settings.FILE).write_text('policy = "whatever"\n')
    try:
        settings.load(work, user, system)
        told = ""
    except settings.SettingsError as error:
        told = str(error)
    say.check(
        "  … and a mistake is told with its file", told.startswith(str(user)) and "policy" in told, told
    )
