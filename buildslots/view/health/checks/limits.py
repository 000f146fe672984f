"""The cap and the other settings: every value, and where it comes from."""

from __future__ import annotations

import os

from buildslots.settings.machine import machine_cap
from buildslots.settings.places import config_path
from buildslots.settings.values import slots_variable
from buildslots.view.health.checks import NOTE, OK, PROBLEM, Finding, Subject
from buildslots.words import prose_path, span

THEN = {"run": "runs as overflow", "paced": "runs as overflow, one in each such time", "fail": "fails"}
"""What a build does after its timeout, by the setting."""


def cap(subject: Subject) -> list[Finding]:
    """The cap, where it comes from, and everything else that it could have come from."""
    settings = subject.settings
    machine = machine_cap()
    variable = slots_variable(settings.pool)
    details: dict[str, object] = {
        "slots": settings.slots,
        "source": settings.slots_source,
        "default": machine.slots,
        "platform": machine.platform,
        "affinity": machine.affinity,
        "quota": machine.quota,
        "cores": machine.cores,
        "variable": variable,
        "variables": {
            name: value
            for name, value in sorted(subject.environ.items())
            if name.startswith("MAX_CONCURRENT_BUILDS")
        },
    }
    builds = "1 build" if settings.slots == 1 else f"{settings.slots} builds"
    return [Finding("cap", OK, f"{builds} at once ({settings.slots_source})", details)]


def settings(subject: Subject) -> list[Finding]:
    """All settings with their sources, and each mistake in the environment or the config file."""
    chosen = subject.settings
    path = config_path(subject.environ)
    details: dict[str, object] = {
        "pool": chosen.pool,
        "pool_source": _pool_source(subject),
        "timeout_s": chosen.timeout_s,
        "timeout_source": chosen.timeout_source,
        "on_timeout": chosen.on_timeout,
        "on_timeout_source": chosen.on_timeout_source,
        "config": path,
        "config_exists": os.path.exists(path),
    }
    if subject.mistakes:
        return [Finding("settings", PROBLEM, mistake, details) for mistake in subject.mistakes]
    wait = "as long as it takes" if chosen.timeout_s is None else span(chosen.timeout_s)
    then = THEN[chosen.on_timeout]
    file = f"config file {prose_path(path)}" if details["config_exists"] else "no config file"
    text = f"a build waits {wait} ({chosen.timeout_source}), then {then} ({chosen.on_timeout_source}); {file}"
    found = [Finding("settings", OK, text, details)]
    if chosen.disabled:
        off = "BUILD_SLOTS_DISABLE is set here: builds run at once, without slots, and say nothing of it"
        found.append(Finding("settings", NOTE, off, details))
    return found


def _pool_source(subject: Subject) -> str:
    if subject.pool_option is not None:
        return "option"
    named = subject.environ.get("BUILD_SLOTS_POOL") == subject.settings.pool
    return "BUILD_SLOTS_POOL" if named else "default"
