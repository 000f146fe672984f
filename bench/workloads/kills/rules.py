"""The rules: each finds in a story, when all is over, what is against it."""

from __future__ import annotations

from collections import Counter
from itertools import groupby
from typing import TYPE_CHECKING

from bench.workloads.kills.plans import GOOD, ROLLED_BACK, expected, how_late
from bench.workloads.kills.story import NEVER

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable
    from typing import Any

    from bench.workloads.kills.story import Execution, Story

    Tell = Callable[[str, str, str, int], None]
    """Is told of what is against a rule: its name, in words, which plan, and when (monotonic ns)."""

RULES = {
    "half": "destinations that were half, or no directory",
    "missing": "destinations that were missing when they had been there",
    "back": "destinations, moved one by one, that went back to an older generation",
    "mixed": "all or nothing: tasks, or ends, that saw two generations side by side",
    "other": "destinations that are not what the exit status says",
    "stale": "stages that were not empty at the start",
    "again": "executions of a task that was recorded as done",
    "invented": "tasks recorded as done that were not",
    "twice": "executions of one task at the same time",
    "keys": "executions with one key at the same time",
    "over": "executions beyond the cap",
    "shared": "executions that shared a slot",
    "unslotted": "executions whose slot was free, as seen from outside",
    "vanished": "executions without an end",
    "failed": "runs with an unexpected exit status, or a traceback",
    "stuck": "runs that did not end",
    "left": "what is left at the end",
}


def judge(story: Story, slots: int, tell: Tell) -> Counter[str]:
    """Judge all of `story` that is not about single looks; what else is worth counting."""
    counts = Counter[str]()
    for text in story.strange:
        tell("vanished", text, "", NEVER)
    for execution in story.executions:
        _judge_one(execution, tell)
    overlaps = {"twice": lambda e: f"{e.plan}/{e.task}", "keys": lambda e: e.key, "shared": lambda e: e.slot}
    for rule, what in overlaps.items():
        _judge_overlaps(story.executions, rule, what, tell)
    counts["most at once"] = _judge_cap(story.executions, slots, tell)
    _judge_ends(story, tell)
    _judge_looks(story, tell, counts)
    _judge_done(story, tell, counts)
    counts["executions"] = len(story.executions)
    return counts


def _judge_one(execution: Execution, tell: Tell) -> None:
    if execution.end == NEVER:
        tell("vanished", str(execution), execution.plan, execution.start)
    if execution.stage == "stale":
        tell("stale", str(execution), execution.plan, execution.start)
    if len(set(execution.seen)) > 1 or "?" in execution.seen:
        text = f"saw generations {' '.join(execution.seen)}: {execution}"
        tell("mixed", text, execution.plan, execution.start)


def _judge_overlaps(
    executions: list[Execution], rule: str, what: Callable[[Execution], object], tell: Tell
) -> None:
    """Of those for which `what` is the same, no two may run at once; without any of it they may."""
    latest: dict[object, Execution] = {}
    for execution in executions:
        group = what(execution)
        if group in ("", -1):
            continue
        before = latest.get(group)
        if before is not None and execution.start < before.end:
            tell(rule, f"{execution} and {before}", execution.plan, execution.start)
        if before is None or execution.end > before.end:
            latest[group] = execution


def _judge_cap(executions: list[Execution], slots: int, tell: Tell) -> int:
    """No more than `slots` at once: how many there were at most."""
    running: list[Execution] = []
    most = 0
    for execution in executions:
        running = [other for other in running if other.end > execution.start] + [execution]
        most = max(most, len(running))
        if len(running) > slots:
            text = f"{len(running)} at once: {'; '.join(map(str, running))}"
            tell("over", text, execution.plan, execution.start)
    return most


def _judge_ends(story: Story, tell: Tell) -> None:
    """Runs that came to their ends: their exit statuses, and what was at the destinations then."""
    for note in story.noted("end"):
        plan, generation, seen, status = note["plan"], note["generation"], note["seen"], note["status"]
        if note["killed"]:
            continue
        if status not in expected(plan, generation) or note["traceback"]:
            text = f"{plan} of generation {generation} ended with {status}: {note['stderr']}"
            tell("failed", text, plan, note["t"])
            continue
        is_late_as_others = not how_late(plan, generation) or note["late"] == (status == GOOD)
        if plan == "whole" and (len(set(seen.values())) > 1 or not is_late_as_others):
            tell("mixed", f"at the end: {seen}, and the late one {note['late']}", plan, note["t"])
        is_right = (
            generation not in seen.values() if status == ROLLED_BACK else {generation} >= {*seen.values()}
        )
        if not is_right:
            tell("other", f"generation {generation} ended with {status}: {seen}", plan, note["t"])
    for note in story.noted("stuck"):
        tell(
            "stuck",
            f"{note['plan']} of generation {note['generation']}: {note['stderr']}",
            note["plan"],
            note["t"],
        )


def _judge_looks(story: Story, tell: Tell, counts: Counter[str]) -> None:
    """What `buildslots status` said: whoever ran before and after the look had a slot."""
    for note in story.noted("status"):
        held = {number for holder in note["holders"] for number in holder["slots"]}
        live = [each for each in story.executions if each.start < note["began"] and each.end > note["t"]]
        counts["looks at slots"] += 1
        if note["is_alone"]:
            counts["looks while only orphans ran"] += bool(live)
            orphans = {
                number for holder in note["holders"] if holder["orphaned"] for number in holder["slots"]
            }
            held &= orphans
        counts["orphans seen to have their slots"] += len(live) if note["is_alone"] else 0
        for execution in live:
            if execution.slot not in held:
                text = f"{execution}; held were {sorted(held)}, by {note['holders']}"
                tell("unslotted", text, execution.plan, note["t"])


def _judge_done(story: Story, tell: Tell, counts: Counter[str]) -> None:
    """What was recorded as done, once, was done, and is not done again."""
    plan_of = {each.batch: (each.plan, each.generation) for each in story.executions}
    done: dict[tuple[str, int, str], float] = {}
    ran_well = {(each.batch, each.task) for each in story.executions if each.status == 0}
    for batch, records in story.records.items():
        for task, since in records.done():
            counts["tasks recorded as done"] += 1
            if (batch, task) not in ran_well:
                tell("invented", f"{task} of {batch}, at {since}", records.name, NEVER)
            elif batch in plan_of:
                key = *plan_of[batch], task
                done[key] = min(since, done.get(key, since))
    kills = {(note["plan"], note["n"]): note["t"] for note in story.noted("end") if note["killed"]}
    runs = story.noted("run")
    everything = sorted(story.executions, key=_which)
    for which, group in groupby(everything, key=_which):
        before: Execution | None = None
        for execution in group:
            if execution.wall / 1e9 > done.get(which, float("inf")):
                text = f"{execution}, {execution.wall / 1e9 - done[which]:.3f} s after it was recorded"
                tell("again", text, execution.plan, execution.start)
            elif before is not None and before.status == 0 and before.batch == execution.batch:
                tell(
                    "again", f"{execution}, within one batch, after {before}", execution.plan, execution.start
                )
            elif before is not None:
                counts[_reason(before, runs, kills)] += 1
            before = execution


def _which(execution: Execution) -> tuple[str, int, str]:
    return execution.plan, execution.generation, execution.task


def _reason(before: Execution, runs: Iterable[dict[str, Any]], kills: dict[tuple[str, int], int]) -> str:
    """Why a task was executed again, which was not recorded as done, after the execution `before`."""
    if before.status != 0:
        return "done again: it had failed"
    mine = [run for run in runs if run["plan"] == before.plan and run["t"] < before.start]
    kill = kills.get((before.plan, mine[-1]["n"])) if mine else None
    if kill is not None and before.end > kill:
        return "done again: its batch was killed while it ran"
    if before.plan == "whole":
        return "done again: all or nothing, and not all had succeeded"
    return "done again: it had ended, and that was not recorded yet"
