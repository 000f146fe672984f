"""`buildslots set`, `rules`, `pause` and `resume`: what the pool itself says to every caller."""

from __future__ import annotations

import json
import sys
import time

from buildslots import rules
from buildslots.disk.line import HEAD_START_S
from buildslots.errors import SettingError
from buildslots.settings import auto_tokens, resolve
from buildslots.settings.options import AUTO, parse_tokens
from buildslots.settings.values import parse_duration, parse_slots
from buildslots.view import nearest, warn
from buildslots.view.table import table
from buildslots.words import NAME_SHOWN, SENTENCE_SHOWN, shown, span

TYPE_CHECKING = False
if TYPE_CHECKING:
    import argparse
    from collections.abc import Callable
    from typing import Any

    from buildslots.rules import PoolRules
    from buildslots.settings import Settings

RULES: dict[str, Callable[[str, str], object]] = {
    "slots": parse_slots,
    "head_start": parse_duration,
    "tokens": parse_tokens,
}
"""What can be set, and how its value is read."""


def run(options: argparse.Namespace) -> int:
    """Do what the command says, and show what the pool says then: the exit status."""
    settings = resolve(pool=options.pool, dir=options.dir, warn=lambda _: None)
    if options.command == "set":
        told = _set(settings, options.rules)
    elif options.command == "pause":
        told = rules.pause(settings, options.duration, " ".join(options.reason or ()))
    elif options.command == "resume":
        told = rules.resume(settings)
    else:
        told = rules.pool_rules(settings)
    if getattr(options, "json", False):
        about = {"v": 1, "pool": settings.pool, "dir": str(settings.address), **told.as_dict()}
        sys.stdout.write(json.dumps(about, indent=2) + "\n")
        return 0
    if told.problem is not None:
        warn(told.problem)
    sys.stdout.write(_text(settings, told, changes=options.command == "rules"))
    return 0


def _set(settings: Settings, given: list[str]) -> PoolRules:
    """Set what is `given` as NAME=VALUE; nothing is set if anything of it is wrong."""
    wanted: dict[str, Any] = {}
    for each in given:
        name, equals, value = each.partition("=")
        if not equals or name not in RULES:
            hint = nearest(name, RULES) or ", ".join(f"{rule}=" for rule in RULES)
            problem = f"is no rule such as slots=4, or slots= to take it back; what there is: {hint}"
            raise SettingError("set", each, problem)
        wanted[name] = RULES[name](value, name) if value.strip() else None
    return rules.set_rules(settings, **wanted)


def _tokens(tokens: int | str) -> str:
    """What the pool says of tokens, in a line."""
    if tokens == AUTO:
        here, cores = auto_tokens()
        return f"tokens auto, for every caller: {here} here, of {cores} core{'' if cores == 1 else 's'}"
    return f"tokens {tokens}, for every caller" if tokens else "tokens off: no build takes any"


def _text(settings: Settings, told: PoolRules, *, changes: bool) -> str:
    """What the pool says, in lines for people."""
    own = settings.source("slots")
    if told.slots is not None:
        cap = f"slots {told.slots}, for every caller"
    else:
        cap = f"slots: the pool says nothing; yours are {settings.slots} ({shown(own, SENTENCE_SHOWN)})"
    where = f" at {settings.address}" if "url" in settings.said else ""
    lines = [f"pool {settings.pool}{where}", cap]
    if told.tokens is not None:
        lines.append(_tokens(told.tokens))
    if told.head_start_s != HEAD_START_S:
        lines.append(f"head_start {span(told.head_start_s)}: what `priority` is worth")
    if told.paused_until is not None:
        left = span(max(0.0, told.paused_until - time.time()))
        end = time.strftime("%H:%M:%S", time.localtime(told.paused_until))
        why = f": {told.reason}" if told.reason else ""
        lines.append(f"paused until {end}, {left} from now, by {told.paused_by}{why}")
    if told.slots is not None and settings.are_own_slots and settings.slots < told.slots:
        lines.append(f"yours are {settings.slots}, which is less ({shown(own, SENTENCE_SHOWN)})")
    if changes and told.changes:
        now = time.time()
        rows = [[span(max(0.0, now - t)), shown(who, NAME_SHOWN), what] for t, who, what in told.changes]
        lines += ["", *table(["AGO", "WHO", "WHAT"], rows[::-1], right=(0,))]
    return "\n".join(lines) + "\n"
