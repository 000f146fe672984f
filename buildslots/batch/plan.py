"""The plan of a batch: its tasks, in what order they may run, and whether that can be.

A plan is checked as a whole before anything starts. A stream of tasks, from stdin or a file of JSON lines,
has no plan: each line is checked when it comes, nothing of it is kept, and so none can name another.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from dataclasses import dataclass
from graphlib import CycleError, TopologicalSorter
from itertools import pairwise
from typing import TYPE_CHECKING, Any

from buildslots.batch.task import KEYS, NAME_LENGTH, OWN_KEYS, PlanError, Task, near, read_defaults, read_task

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

FAIL = ("soon", "never", "now")
"""What a failure does: nothing new starts; nothing; what runs is ended as well."""
MOST_JOBS = 1024
MOST_TASKS = 100_000
"""In a plan, which is kept; a stream may have any number."""
MOST_BYTES = 32 * 2**20
"""Of a plan's file."""


@dataclass(frozen=True, slots=True)
class Plan:
    """A checked plan.

    Attributes:
        name: Of the batch.
        tasks: In the order in which they were written.
        phases: In the order in which they run; empty if there are none.
        jobs, fail, all_or_nothing: What the file says of these options; None if nothing.
    """

    name: str
    tasks: tuple[Task, ...]
    phases: tuple[str, ...] = ()
    jobs: int | None = None
    fail: str | None = None
    all_or_nothing: bool | None = None

    def levels(self) -> list[tuple[str | None, list[Task]]]:
        """Its tasks by phase and level: those of a level need only tasks of levels before it."""
        found = []
        for phase in self.phases or (None,):
            inside = [task for task in self.tasks if not self.phases or self.phase_of(task) == phase]
            names = {task.name for task in inside}
            by_name = {task.name: task for task in inside}
            order = TopologicalSorter({t.name: [n for n in t.needs if n in names] for t in inside})
            order.prepare()
            while order.is_active():
                ready = order.get_ready()
                order.done(*ready)
                places = {task.name: place for place, task in enumerate(inside)}
                found.append((phase, [by_name[name] for name in sorted(ready, key=places.__getitem__)]))
        return found

    def order(self) -> list[Task]:
        """Its tasks as they were written, by phase, and each after those that it needs."""
        by_name = {task.name: task for task in self.tasks}
        places = {phase: place for place, phase in enumerate(self.phases)}
        found: dict[str, Task] = {}

        def add(task: Task) -> None:
            # Not by recursion: a chain of needs may be longer than Python's stack.
            stack = [task]
            while stack:
                unmet = [by_name[name] for name in stack[-1].needs if name not in found]
                if unmet:
                    stack += unmet[::-1]
                else:
                    last = stack.pop()
                    found.setdefault(last.name, last)

        for task in sorted(self.tasks, key=lambda task: places.get(self.phase_of(task) or "", 0)):
            add(task)
        return list(found.values())

    def phase_of(self, task: Task) -> str | None:
        """The phase of `task`: the first one, if it names none; None if there are no phases."""
        return task.phase or (self.phases[0] if self.phases else None)


def load_plan(path: str) -> Plan:
    """The plan in the TOML file at `path`.

    Raises:
        PlanError: With all its mistakes.
        OSError: The file cannot be read.
    """
    import tomllib  # noqa: PLC0415 - streams and Python need none

    with open(path, "rb") as file:
        data = file.read(MOST_BYTES + 1)
    if len(data) > MOST_BYTES:
        raise PlanError(
            [f"{path} has more than {MOST_BYTES >> 20} MiB: write it as JSON lines, in a file.ndjson"]
        )
    try:
        given = tomllib.loads(data.decode("utf-8-sig"))  # an editor on Windows begins a file with a mark
    except (tomllib.TOMLDecodeError, UnicodeDecodeError, RecursionError) as error:
        raise PlanError([f"{path} is not TOML: {error}"]) from None
    return read_plan(given, os.path.basename(path).removesuffix(".toml"))


def read_plan(given: Mapping[str, Any], name: str) -> Plan:
    """The plan that `given` describes, as TOML has it, with the tasks under "task".

    Args:
        given: Keys and values.
        name: Of the batch, if `given` has none.

    Raises:
        PlanError: With all its mistakes.
    """
    problems: list[str] = []
    own, defaults = _read_top({key: value for key, value in given.items() if key != "task"}, problems)
    tables = given.get("task", [])
    if not isinstance(tables, list) or not all(isinstance(table, Mapping) for table in tables):
        problems.append("task is not a list of tables: write [[task]], with two brackets, above each task")
        tables = []
    if len(tables) > MOST_TASKS:
        problems.append(f"there are {len(tables)} tasks, more than {MOST_TASKS}: write them as JSON lines")
        tables = []
    tasks = []
    for number, table in enumerate(tables, 1):
        try:
            tasks.append(read_task(table, f"task {number}", defaults))
        except PlanError as error:
            problems += error.problems
    if not problems:
        phases = tuple(own.get("phases", ()))
        problems += check(tasks, phases)
    if problems:
        raise PlanError(problems)
    options = {key: own.get(key) for key in ("jobs", "fail", "all_or_nothing")}
    return Plan(own.get("name", name), tuple(tasks), phases, **options)


def _read_top(given: Mapping[str, Any], problems: list[str]) -> tuple[dict[str, Any], dict[str, Any]]:
    """What stands above the tasks: keys of the plan, and values for all tasks; mistakes go to `problems`."""
    own: dict[str, Any] = {}
    rest = dict(given)
    for key in given:
        if key in PLAN_KEYS:
            what, is_right = PLAN_KEYS[key]
            own[key] = rest.pop(key)
            if not is_right(own[key]):
                problems.append(f"{key} = {own[key]!r} is not {what}")
        elif key in OWN_KEYS:
            del rest[key]
            problems.append(f"{key} stands at the top, and belongs into a [[task]]")
        elif key not in KEYS:
            del rest[key]
            problems.append(f"at the top: there is no key {key!r}{near(key, [*PLAN_KEYS, 'task', *KEYS])}")
    return own, read_defaults(rest, "at the top", problems)


def _is_text(value: Any) -> bool:
    return isinstance(value, str) and 0 < len(value) <= NAME_LENGTH


def is_jobs(value: Any) -> bool:
    """Whether `value` can be a number of jobs."""
    return isinstance(value, int) and not isinstance(value, bool) and 1 <= value <= MOST_JOBS


def _are_phases(value: Any) -> bool:
    return isinstance(value, list) and all(map(_is_text, value)) and len(set(value)) == len(value)


PLAN_KEYS: dict[str, tuple[str, Callable[[Any], bool]]] = {
    "name": (f"a text of at most {NAME_LENGTH} characters", _is_text),
    "phases": ('a list of different names, such as ["fetch", "install"]', _are_phases),
    "jobs": (f"a whole number from 1 to {MOST_JOBS}", is_jobs),
    "fail": ('"soon", "never" or "now"', lambda value: value in FAIL),
    "all_or_nothing": ("true or false", lambda value: isinstance(value, bool)),
}
"""The keys of a plan besides the defaults of its tasks: what each has to be."""


def check(tasks: Sequence[Task], phases: Sequence[str]) -> list[str]:
    """What is wrong with `tasks` as a whole, in sentences."""
    problems = _check_names(tasks)
    places = {phase: place for place, phase in enumerate(phases)}
    by_name = {task.name: task for task in tasks}
    for task in tasks:
        if task.phase is not None and task.phase not in places:
            known = f"; phases are {', '.join(phases)}" if phases else ': write phases = ["…"] at the top'
            problems.append(f"task {task.name!r}: phase {task.phase!r} is not one of phases{known}")
            continue
        for name in task.needs:
            needed = by_name.get(name)
            if needed is None:
                problems.append(f"task {task.name!r} needs {name!r}, which is no task{near(name, by_name)}")
            elif needed.phase != task.phase and _place(needed, places) > _place(task, places):
                problems.append(
                    f"task {task.name!r} of phase {task.phase or phases[0]!r} needs {name!r}, "
                    f"which is of the later phase {needed.phase!r}"
                )
    if not problems:
        problems += _check_circles(tasks)
    return problems + check_stages(task.stage for task in tasks)


def _check_names(tasks: Sequence[Task]) -> list[str]:
    names: set[str] = set()
    again: set[str] = set()
    for task in tasks:
        (again if task.name in names else names).add(task.name)
    return [f"two tasks have the name {name!r}: give one another name" for name in sorted(again)]


def _place(task: Task, places: Mapping[str, int]) -> int:
    return places.get(task.phase or "", 0)


def _check_circles(tasks: Sequence[Task]) -> list[str]:
    try:
        TopologicalSorter({task.name: task.needs for task in tasks}).prepare()
    except CycleError as error:
        # Each stands before those that need it.
        circle = [repr(name) for name in reversed(error.args[1])]
        steps = ", ".join(f"{one} needs {other}" for one, other in pairwise(circle))
        return [f"tasks wait for each other in a circle: {steps}"]
    return []


def check_stages(stages: Iterable[str | None]) -> list[str]:
    """What is wrong with the destinations `stages` together: two are one, or one lies in another."""
    problems = []
    before = ""
    # "/" first of all, so that what lies in a directory comes right behind it.
    for path in sorted((stage for stage in stages if stage), key=lambda path: path.replace("/", "\0")):
        if path == before:
            problems.append(f"two tasks have the stage {path!r}: give one another destination")
        elif before and path.startswith(before.rstrip("/") + "/"):
            problems.append(f"the stage {path!r} lies in the stage {before!r}: neither could be whole alone")
        else:
            before = path
    return problems


def read_line(line: bytes, number: int) -> Task:
    """The task that line `number` of a stream describes, as a JSON object.

    Raises:
        PlanError: It is none.
    """
    where = f"line {number}"
    try:
        given = json.loads(line)
    except (ValueError, RecursionError) as error:
        raise PlanError([f"{where} is not JSON: {error}"]) from None
    if not isinstance(given, dict):
        raise PlanError([f'{where} is not a JSON object, such as {{"run": ["make"]}}'])
    for key in ("needs", "phase"):
        if given.get(key) is not None:
            raise PlanError([f"{where}: {key} is for a plan: of a stream nothing is kept; write it as TOML"])
    return read_task(given, where)


def from_template(template: Sequence[str], argument: str, defaults: Mapping[str, Any]) -> Task:
    """The task of `template` with `argument` in place of each {}, or behind it if it has none.

    Raises:
        PlanError: The argument cannot be one.
    """
    if any("{}" in word for word in template):
        run = [word.replace("{}", argument) for word in template]
    else:
        run = [*template, argument]
    return read_task({"run": run, "name": argument[:NAME_LENGTH], **defaults}, "argument")
