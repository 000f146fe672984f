"""`buildslots doctor`: try out what a pool relies on, and say what is wrong; the exit status is 1 then."""

from __future__ import annotations

import json
import os
import sys

import psutil

from buildslots.look import pool_status
from buildslots.settings import Settings, resolve
from buildslots.view.health.checks import NOTE, OK, PROBLEM, Finding, Subject
from buildslots.view.health.checks.aside import aside
from buildslots.view.health.checks.directory import files, place
from buildslots.view.health.checks.filesystem import filesystem
from buildslots.view.health.checks.holders import holders
from buildslots.view.health.checks.journal import journal
from buildslots.view.health.checks.launcher import launcher
from buildslots.view.health.checks.leftovers import leftovers
from buildslots.view.health.checks.limits import cap, settings
from buildslots.view.health.checks.makefiles import makefiles
from buildslots.view.health.checks.rules import rules
from buildslots.view.health.checks.split import split
from buildslots.view.health.checks.tokens import tokens
from buildslots.view.health.checks.trial import trial
from buildslots.view.pools import unknown
from buildslots.words import PATH_SHOWN, SENTENCE_SHOWN, printable, short_path, shown

TYPE_CHECKING = False
if TYPE_CHECKING:
    import argparse
    from collections.abc import Callable, Iterator

CHECKS: tuple[tuple[str, Callable[[Subject], list[Finding]]], ...] = (
    ("directory", place),
    ("filesystem", filesystem),
    ("locks", trial),  # and "fifos"
    ("cap", cap),
    ("rules", rules),
    ("settings", settings),
    ("launcher", launcher),
    ("split", split),
    ("files", files),
    ("leftovers", leftovers),
    ("leftovers", aside),
    ("holders", holders),
    ("tokens", tokens),
    ("makefiles", makefiles),
    ("journal", journal),
)
CHECKS_AFAR = (
    ("cap", cap),
    ("rules", rules),
    ("settings", settings),
    ("launcher", launcher),
    ("journal", journal),
)
"""Of a pool on a server, besides those of that; the first two ask it once more."""
COLOURS = {OK: "green", NOTE: "yellow", PROBLEM: "bold red"}


def run(options: argparse.Namespace) -> int:
    """Look at everything and say what was found; return 1 if something is wrong."""
    if options.agent:
        from buildslots.view.health.agent import report  # noqa: PLC0415 - it is about something else

        return report(options.agent)
    mistakes: list[str] = []
    try:
        chosen = resolve(pool=options.pool, dir=options.dir, warn=mistakes.append)
    except OSError as error:  # no home directory
        text = f"{error.strerror}; builds run without slots"
        return _report(options, None, [Finding("directory", PROBLEM, text)])
    return _report(options, chosen, list(_found(options, chosen, tuple(mistakes))))


def _found(options: argparse.Namespace, chosen: Settings, mistakes: tuple[str, ...]) -> Iterator[Finding]:
    """What all checks find; a check that fails becomes a finding, too."""
    if "url" in chosen.said:
        yield from _found_afar(options, chosen, mistakes)
        return
    status, checks = None, CHECKS
    if sentence := unknown(chosen, options.dir):
        yield Finding("directory", NOTE, sentence)
    if os.path.isdir(chosen.dir):
        try:
            status = pool_status(chosen)
        except OSError as error:
            text = (
                f"it cannot be seen who holds the slots: {error.strerror}: {short_path(str(error.filename))}"
            )
            yield Finding("holders", PROBLEM, text)
            checks = tuple(item for item in CHECKS if item[0] not in {"holders", "leftovers"})
    subject = Subject(chosen, options.pool, options.dir, mistakes, os.environ, status)
    yield from _checked(subject, checks)


def _found_afar(
    options: argparse.Namespace, chosen: Settings, mistakes: tuple[str, ...]
) -> Iterator[Finding]:
    """The same of a pool on a server."""
    from buildslots.view.health.checks import fleet  # noqa: PLC0415 - few pools are on a server
    from buildslots.view.health.server import Server  # noqa: PLC0415

    seen = Server(chosen.said["url"][0])
    status = None
    for check in (fleet.server, fleet.transport, fleet.password, fleet.rights, fleet.memory):
        yield from check(seen)
    for check in (fleet.persistence, fleet.clock, fleet.pool):
        yield from check(seen)
    if seen.status is not None:
        try:
            status = pool_status(chosen)
            yield from fleet.leases(seen, status)
        except OSError:
            pass  # it was there a moment ago: who looks again is told
    yield from fleet.fallback(seen, chosen)
    subject = Subject(chosen, options.pool, options.dir, mistakes, os.environ, status)
    yield from _checked(subject, CHECKS_AFAR if status is not None else CHECKS_AFAR[2:])


def _checked(
    subject: Subject, checks: tuple[tuple[str, Callable[[Subject], list[Finding]]], ...]
) -> Iterator[Finding]:
    for name, check in checks:
        try:
            yield from check(subject)
        except (OSError, psutil.Error) as error:
            yield Finding(name, PROBLEM, f"this could not be checked: {shown(str(error), SENTENCE_SHOWN)}")


def _report(options: argparse.Namespace, chosen: Settings | None, found: list[Finding]) -> int:
    wrong = any(finding.level == PROBLEM for finding in found)
    if options.json:
        report = {
            "ok": not wrong,
            "pool": chosen.pool if chosen else options.pool,
            "dir": str(chosen.address) if chosen else None,
            "checks": [
                {"check": f.check, "level": f.level, "text": f.text, "details": f.details} for f in found
            ],
        }
        sys.stdout.write(json.dumps(report, indent=2) + "\n")
    else:
        lines = list(_lines(found) if options.verbose else _short(found))
        if sys.stdout.isatty():
            _print_colours(lines)
        else:
            sys.stdout.writelines(f"{level:9}{text}\n" if level else f"{text}\n" for level, text in lines)
    return int(wrong)


def _short(found: list[Finding]) -> Iterator[tuple[str, str]]:
    """The lines that somebody has to read, each with its level, and one for all that is as it should be."""
    worth = [finding for finding in found if finding.level != OK]
    for finding in worth:
        yield finding.level, f"{finding.check}: {printable(finding.text)}"
    fine = dict.fromkeys(finding.check for finding in found)
    names = [name for name in fine if name not in {finding.check for finding in worth}]
    if names:
        yield OK, f"{', '.join(names)} (--verbose says more)"
    yield "", _verdict(found)


def _lines(found: list[Finding]) -> Iterator[tuple[str, str]]:
    """Every finding, with its level or an empty string, and what the chief ones rest on."""
    for finding in found:
        yield finding.level, f"{finding.check}: {printable(finding.text)}"
        if finding.check in {"cap", "settings", "filesystem"}:  # the others have it all in their sentence
            for name, value in finding.details.items():
                yield "", f"    {name}: {_value(value)}"
    yield "", _verdict(found)


def _verdict(found: list[Finding]) -> str:
    count = sum(finding.level == PROBLEM for finding in found)
    return "1 problem" if count == 1 else f"{count} problems" if count else "nothing is wrong"


def _value(value: object) -> str:
    if isinstance(value, dict):
        each = (
            f"{shown(str(name), PATH_SHOWN)}={shown(str(inner), PATH_SHOWN)}" for name, inner in value.items()
        )
        return shown(", ".join(each), SENTENCE_SHOWN) or "none"
    if isinstance(value, bool):
        return "yes" if value else "no"
    return "none" if value is None else shown(str(value), SENTENCE_SHOWN)


def _print_colours(lines: list[tuple[str, str]]) -> None:
    """Print the lines in colour; rich honours NO_COLOR and knows what the terminal can do."""
    from rich.console import Console  # noqa: PLC0415 - for people's eyes only
    from rich.table import Table  # noqa: PLC0415
    from rich.text import Text  # noqa: PLC0415

    table = Table.grid(padding=(0, 2, 0, 0))
    for level, text in lines:
        # Text, not str: rich reads markup in a str, and others name their files as they like.
        table.add_row(Text(level, style=COLOURS.get(level, "")), Text(text, style="" if level else "dim"))
    Console().print(table)
