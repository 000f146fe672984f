"""`buildslots batch`: run many tasks, bounded by the machine's slots."""

from __future__ import annotations

import json
import os
import shlex
import stat
import sys
import warnings
from typing import TYPE_CHECKING, Any

from buildslots.settings import resolve
from buildslots.view import warn
from buildslots.words import SENTENCE_SHOWN, shown

if TYPE_CHECKING:
    from argparse import Namespace
    from collections.abc import Callable, Mapping

    from buildslots.batch.plan import Plan
    from buildslots.batch.task import Action, Task

USAGE = 2
RUN_SHOWN = 100
PROBLEMS_SHOWN = 20


def run(options: Namespace) -> int:
    """Run the tasks: the exit status."""
    from buildslots.batch.task import PlanError  # noqa: PLC0415 - anyio, for this command only

    _check_settings(options)
    try:
        return _run(options)
    except PlanError as error:
        for problem in error.problems[:PROBLEMS_SHOWN]:
            warn(problem)
        if len(error.problems) > PROBLEMS_SHOWN:
            warn(f"and {len(error.problems) - PROBLEMS_SHOWN} mistakes more")
        return USAGE


def _check_settings(options: Namespace) -> None:
    """Raise SettingError if --pool names none, or --tokens is no number: now, and not once for each task."""
    if options.pool or options.tokens is not None:
        try:
            resolve(
                pool=options.pool or None,
                slots=1,
                tokens=options.tokens,
                dir=options.dir,
                warn=lambda _: None,
            )
        except OSError:
            pass  # no home: the tasks run without slots, with a warning


def _run(options: Namespace) -> int:
    import anyio  # noqa: PLC0415

    from buildslots.batch.batch import checked_jobs  # noqa: PLC0415
    from buildslots.batch.command import Command, Wanted  # noqa: PLC0415
    from buildslots.batch.plan import load_plan  # noqa: PLC0415
    from buildslots.batch.source import origin, stream_name  # noqa: PLC0415

    file: str | None = options.file
    template: list[str] | None = options.template
    plan: Plan | None = None
    stream: tuple[int, list[str] | None] | None = None
    try:
        if template is not None or file == "-":
            if sys.stdin is None:
                warn("stdin is closed, and the tasks come from there: give a file or a pipe")
                return USAGE
            stream = 0, template
        elif str(file).endswith(".ndjson"):
            stream = os.open(str(file), os.O_RDONLY), None
        else:
            plan = load_plan(str(file))
    except OSError as error:
        warn(f"{file}: {error.strerror}")
        return USAGE
    said = plan or _Nothing()
    jobs = checked_jobs(options.jobs if options.jobs is not None else said.jobs, warn)
    wanted = Wanted(
        name=plan.name if plan else stream_name(file, template),
        origin=origin(file, template),
        plan=plan,
        stream=stream,
        jobs=jobs,
        fail=options.fail or said.fail or "soon",
        all_or_nothing=options.all_or_nothing or bool(said.all_or_nothing),
        resume=options.resume,
        log_dir=options.log_dir,
        pool=options.pool,
        tokens=options.tokens,
        dir=options.dir,
    )
    if options.dry_run:
        return _show(wanted, plan, as_json=options.json)
    warnings.showwarning = lambda message, *_, **__: warn(str(message).removeprefix("buildslots: "))
    command = Command(wanted, warn, lambda places: _display(options, plan, places))
    status = anyio.run(command.run)
    if command.signum:
        if sys.platform != "win32":
            from buildslots.run.child import die_of  # noqa: PLC0415

            die_of(command.signum)
        return 128 + command.signum
    return status


class _Nothing:
    """What a plan says of options that is none."""

    jobs: int | None = None
    fail: str | None = None
    all_or_nothing: bool | None = None


def _display(options: Namespace, plan: Plan | None, places: Callable[[], Mapping[int, int]]) -> Any:
    """What shows the run: JSON for programs, rows on a terminal, lines elsewhere."""
    from buildslots.batch.display import for_people  # noqa: PLC0415
    from buildslots.batch.speaker import JsonLines, to_stdout  # noqa: PLC0415

    total = len(plan.tasks) if plan else None
    if options.json:
        return JsonLines(to_stdout, total)
    again = None
    if plan is not None:
        line = f"buildslots batch --resume {shlex.quote(options.file)}"
        again = line if shown(line, SENTENCE_SHOWN) == line else None
    return for_people(total, command=again, places=places)


def _show(wanted: Any, plan: Plan | None, *, as_json: bool) -> int:
    """Print the plan: its phases and levels, and the slots that tasks take."""
    if plan is None:
        fd = wanted.stream[0]
        what = "a file of JSON lines" if stat.S_ISREG(os.fstat(fd).st_mode) else "stdin"
        warn(f"--dry-run shows a plan, and {what} has none: its tasks are checked as they come")
        return USAGE
    lines = []
    if as_json:
        about = {"v": 1, "event": "plan", "name": wanted.name, "jobs": wanted.jobs, "fail": wanted.fail}
        lines.append(json.dumps(about | {"all_or_nothing": wanted.all_or_nothing, "phases": plan.phases}))
    else:
        options = f"{wanted.jobs} at once, fail {wanted.fail}"
        if wanted.all_or_nothing:
            options += ", all or nothing"
        lines.append(shown(f"batch {wanted.name}: {len(plan.tasks)} tasks, {options}", SENTENCE_SHOWN))
    numbers: dict[str | None, int] = {}
    for phase, level in plan.levels():
        numbers[phase] = numbers.get(phase, 0) + 1
        if not as_json:
            where = f"phase {phase}, " if phase is not None else ""
            lines.append(shown(f"{where}level {numbers[phase]}", SENTENCE_SHOWN))
        lines += [_task_line(task, phase, numbers[phase], wanted.pool, as_json=as_json) for task in level]
    sys.stdout.write("\n".join(lines) + "\n")
    return 0


def _task_line(task: Task, phase: str | None, level: int, pool: str | None, *, as_json: bool) -> str:
    pool = task.pool if task.pool is not None else pool
    if as_json:
        about = {"event": "task", "task": task.name, "phase": phase, "level": level, "needs": task.needs}
        run = task.run if isinstance(task.run, tuple) else str(task.run)
        return json.dumps(about | {"run": run, "pool": pool, "weight": task.weight or 1, "stage": task.stage})
    slots = "no slot" if pool == "" else f"{task.weight or 1} of pool {pool or 'default'}"
    more = [f"needs {', '.join(task.needs)}"] if task.needs else []
    more += [f"stage {task.stage}"] if task.stage else []
    more += [f"serial {task.serial}"] if task.serial else []
    about_it = "; ".join([slots, *more])
    return shown(f"  {task.name}: {_run_words(task.run)}  ({about_it})", SENTENCE_SHOWN)


def _run_words(run: Action) -> str:
    return shown(shlex.join(run) if isinstance(run, tuple) else str(run), RUN_SHOWN)
