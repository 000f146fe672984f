"""The cap and the other settings: every value, and where it comes from."""

from __future__ import annotations

import os

from buildslots.look import cap_of
from buildslots.settings.machine import machine_cap
from buildslots.settings.places import config_path, project_path, system_config_path
from buildslots.settings.values import slots_variable
from buildslots.view.health.checks import NOTE, OK, PROBLEM, Finding, Subject
from buildslots.words import prose, prose_path, span

THEN = {"run": "runs as overflow", "paced": "runs as overflow, one in each such time", "fail": "fails"}
"""What a build does after its timeout, by the setting."""


def cap(subject: Subject) -> list[Finding]:
    """The cap, where it comes from, and everything else that it could have come from."""
    settings = subject.settings
    machine = machine_cap()
    variable = slots_variable(settings.pool)
    slots, source = cap_of(settings)
    details: dict[str, object] = {
        "slots": slots,
        "source": source,
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
    builds = "1 build" if slots == 1 else f"{slots} builds"
    return [Finding("cap", OK, f"{builds} at once ({source})", details)]


def settings(subject: Subject) -> list[Finding]:
    """All settings with their sources, and each mistake in the environment or the config file."""
    chosen = subject.settings
    path, project = config_path(subject.environ), project_path(subject.environ)
    system = system_config_path(subject.environ)
    details: dict[str, object] = {
        "pool": chosen.pool,
        "pool_source": chosen.source("pool"),
        "timeout_s": chosen.timeout_s,
        "timeout_source": chosen.source("timeout"),
        "on_timeout": chosen.on_timeout,
        "on_timeout_source": chosen.source("on_timeout"),
        "config": path,
        "config_exists": os.path.exists(path),
        "project": project,
        "system": system,
        "system_exists": os.path.exists(system),
    }
    if subject.mistakes:
        return [Finding("settings", PROBLEM, mistake, details) for mistake in subject.mistakes]
    wait = "as long as it takes" if chosen.timeout_s is None else span(chosen.timeout_s)
    wait += f" ({prose(chosen.source('timeout'))})"
    then = f"{THEN[chosen.on_timeout]} ({prose(chosen.source('on_timeout'))})"
    files = [f"config file {prose_path(path)}" if details["config_exists"] else "no config file"]
    files += [f"project's file {prose_path(project)}"] if project else []
    files += [f"system's config file {prose_path(system)}"] if details["system_exists"] else []
    text = f"a build waits {wait}, then {then}; {', '.join(files)}"
    found = [Finding("settings", OK, text, details)]
    if chosen.disabled:
        off = "BUILD_SLOTS_DISABLE is set here: builds run at once, without slots, and say nothing of it"
        found.append(Finding("settings", NOTE, off, details))
    return found
