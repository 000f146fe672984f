"""What the pool says itself: whether it can be read, who has set the cap, and whether a pause is on."""

from __future__ import annotations

import time

from buildslots.rules import pool_rules
from buildslots.view.health.checks import NOTE, OK, PROBLEM, Finding, Subject
from buildslots.words import prose, span


def rules(subject: Subject) -> list[Finding]:
    """The rules of the pool; a pause that is on is worth knowing, it is why nobody starts."""
    told = pool_rules(subject.settings)
    details = told.as_dict()
    if told.problem is not None:
        text = f"{prose(told.problem)}: `buildslots set slots=N` writes it anew, or remove it"
        return [Finding("rules", PROBLEM, text, details)]
    found = []
    if told.slots is None:
        found.append(Finding("rules", OK, "the pool says no cap", details))
    else:
        who = _who(told.changes, f"slots={told.slots}")
        found.append(Finding("rules", OK, f"the pool says {told.slots} slots to every caller{who}", details))
    if told.paused_until is not None:
        left = span(max(0.0, told.paused_until - time.time()))
        why = f": {prose(told.reason)}" if told.reason else ""
        who = prose(told.paused_by or "?")
        text = f"nobody starts for {left} more, says {who}{why}; `buildslots resume` ends it"
        found.append(Finding("rules", NOTE, text, details))
    return found


def _who(changes: tuple[tuple[float, str, str], ...], what: str) -> str:
    """Who has set that last, and when; "" if the record does not go back so far."""
    for t, who, change in reversed(changes):
        if change == what:
            return f", set by {prose(who)} {span(max(0.0, time.time() - t))} ago"
    return ""
