"""`buildslots setup`: make a coding agent's builds take slots, after showing what changes and asking."""

from __future__ import annotations

import difflib
import os
import sys

from buildslots.agents import shims
from buildslots.agents.setup import plan, shell
from buildslots.agents.setup.known import AGENTS, SHIM
from buildslots.agents.setup.refused import RefusedError
from buildslots.settings.places import base_dir, shims_dir
from buildslots.view import warn
from buildslots.view.table import table
from buildslots.words import COMMAND_SHOWN, SENTENCE_SHOWN, prose, short_path, shown

TYPE_CHECKING = False
if TYPE_CHECKING:
    import argparse
    from collections.abc import Iterator

OF_SHIMS = "`buildslots setup shell` makes shims for all that starts builds by their names"
MOST_LINES = 500
"""So many lines of a change are shown; ours have about twenty."""


def run(options: argparse.Namespace) -> int:
    """Set up, take out, or show."""
    try:
        if options.agent == shell.NAME:
            return _shell(options)
        at = plan.where(os.environ, project=options.project)
        if options.status or options.agent is None:
            return _status(options, at)
        if options.uninstall:
            return _write(options, plan.taking_out(options.agent, at), at)
        mode = options.mode or plan.default_mode(options.agent, at)
        return _write(options, plan.setting_up(options.agent, mode, at), at)
    except RefusedError as error:
        warn(str(error))
        return 1


def _status(options: argparse.Namespace, at: plan.Where) -> int:
    """Show what is set up: 1 if something is not, and that was asked."""
    names = [options.agent] if options.agent else plan.here(at)
    if not names:
        _say("no coding agent was found here: neither a program on PATH nor its directory at home")
        if not options.status:
            _say(OF_SHIMS)
        return int(options.status)
    states = {name: plan.status(name, at) for name in names}
    rows = [
        [
            name,
            f"{said.state} ({said.mode})" if said.mode else said.state,
            short_path(said.path),
            shown(said.why, SENTENCE_SHOWN),
        ]
        for name, said in states.items()
    ]
    for line in table(["AGENT", "STATE", "FILE", "WHY"], rows):
        _say(line)
    if options.status:
        return int(any(said.state != plan.SET_UP for said in states.values()))
    scope = " --project" if at.project is not None else ""
    for name, said in states.items():
        if said.state in (plan.MISSING, plan.STALE):
            mode = said.mode or plan.default_mode(name, at)
            command = f"`buildslots setup {name}{scope}`"
            _say(f"{command} sets up {AGENTS[name].title}, in mode {mode}; it shows the change and asks")
    if options.agent is None and at.project is None:
        _say(OF_SHIMS)
    return 0


def _write(options: argparse.Namespace, change: plan.Plan, at: plan.Where) -> int:
    """Show a change, ask, and write it: 1 if it is not written."""
    path = short_path(change.found.path)
    if not change.changes:
        done = "is set up already" if change.mode else "has nothing of buildslots in it"
        _say(f"{path} {done}" if change.found.data is not None else f"there is no {path}")
        if change.mode and not options.dry_run:
            change.write(os.environ)  # for shims that are gone
        return 0
    for line in _diff(change):
        _say(line)
    if change.mode == SHIM:
        _say(f"and the shims, in {short_path(shims_dir(os.environ))}")
    if options.dry_run:
        return 0
    if not options.yes and not _agreed():
        return 1
    change.write(os.environ)
    _said_after(options.agent, change, path, at)
    return 0


def _shell(options: argparse.Namespace) -> int:
    """Make shims for whoever has them on PATH, or remove them: 1 if something is not as it was asked."""
    if options.status:
        return _shims_status()
    if options.uninstall:
        return _without_shims(options)
    where = short_path(shims_dir(os.environ))
    names = sorted(shims.found(os.environ)) if options.dry_run else shims.install(os.environ)
    _say(f"{'would be' if options.dry_run else 'shims'} in {where}: {' '.join(names) or 'none'}")
    if shims.status(os.environ).slot_run is None:
        warn(NO_SLOT_RUN)
    if not options.user:
        _say("Put this at the end of your shell's startup file (`buildslots setup shell --user` does so):")
        _say(f"  {shell.line(os.environ)}")
        return 0
    change = shell.setting_up(os.environ)
    path = short_path(change.found.path)
    if not change.changes:
        _say(f"{path} is set up already")
        return 0
    if not _shown_and_agreed(options, [change]):
        return int(not options.dry_run)
    change.write(os.environ)
    _say(f"{path} was written. Next: start a new shell, and agents from there; what runs does not know it.")
    return 0


NO_SLOT_RUN = (
    "the shims find no slot-run: it is not on PATH, and this one is in a directory that may go away; they do "
    "nothing until it is installed for good, by `pipx install buildslots` or `uv tool install buildslots`"
)
CMAKE = """\
A build directory that CMake configured meanwhile may have the path of a shim of make or ninja. Tell it once:
  cmake -DCMAKE_MAKE_PROGRAM="$(command -v ninja)" DIRECTORY"""


def _without_shims(options: argparse.Namespace) -> int:
    """Remove the shims, and the line in startup files: 1 if that was not agreed to."""
    changes = shell.taking_out(os.environ)
    names = shims.status(os.environ).names
    if options.dry_run:
        _say(f"would be removed from {short_path(shims_dir(os.environ))}: {' '.join(names) or 'nothing'}")
    if changes and not _shown_and_agreed(options, changes):
        return int(not options.dry_run)
    if options.dry_run:
        return 0
    for change in changes:
        change.write(os.environ)
        gone = "removed" if change.data is None else "without the shims' directory"
        _say(f"{short_path(change.found.path)} is {gone}")
    removed = shims.remove(os.environ)
    _say(f"removed from {short_path(shims_dir(os.environ))}: {' '.join(removed) or 'nothing was there'}")
    if removed:
        _say(CMAKE)
    return 0


def _shims_status() -> int:
    """Show what there is of shims: 1 if a call of a build would not meet one."""
    state = shims.status(os.environ)
    on_path = "on PATH" if state.is_on_path else "not on PATH"
    _say(f"shims in {short_path(state.directory)}, {on_path}: {' '.join(state.names) or 'none'}")
    files = [short_path(change.found.path) for change in shell.taking_out(os.environ)]
    _say(f"startup files with that directory: {', '.join(files) or 'none of ours'}")
    _say(f"slot-run: {short_path(state.slot_run) if state.slot_run else 'none is found'}")
    for what, names in (("out of date", state.outdated), ("without a shim", state.missing)):
        if names:
            _say(f"{what}: {' '.join(names)}; `buildslots setup shell` makes that right")
    good = state.names and state.is_on_path and state.slot_run and not state.outdated and not state.missing
    return int(not good)


def _shown_and_agreed(options: argparse.Namespace, changes: list[plan.Plan]) -> bool:
    for change in changes:
        for line in _diff(change):
            _say(line)
    return not options.dry_run and (options.yes or _agreed())


def _diff(change: plan.Plan) -> Iterator[str]:
    """The change as a unified diff, fit for a terminal."""
    name = short_path(change.found.path)
    sides = [
        (data or b"").removeprefix(b"\xef\xbb\xbf").decode() for data in (change.found.data, change.data)
    ]
    before, after = (side.splitlines() for side in sides)
    old, new = (name if data is not None else "/dev/null" for data in (change.found.data, change.data))
    lines = difflib.unified_diff(before, after, old, new, lineterm="")
    for count, line in enumerate(lines):
        if count == MOST_LINES:
            yield "…"
            return
        yield shown(line, COMMAND_SHOWN)


def _agreed() -> bool:
    if not sys.stdin.isatty():
        _say("not done: there is no terminal to ask on, and no --yes")
        return False
    try:
        return input("Write it? [y/N] ").strip().lower() in {"y", "yes"}
    except EOFError:
        return False


def _said_after(name: str, change: plan.Plan, path: str, at: plan.Where) -> None:
    """Say what was done, and what is left to do for the user."""
    agent = AGENTS[name]
    if not change.mode:
        what = (
            "removed"
            if change.data is None
            else "as it was before"
            if change.drop_backup
            else "without buildslots now"
        )
        _say(f"{path} is {what}")
        if not change.drop_backup and os.path.exists(change.found.backup):
            _say(f"It was changed by others too since; as it was before: {short_path(change.found.backup)}")
        return
    kept = (
        f"; as it was before: {short_path(change.found.backup)}"
        if os.path.exists(change.found.backup)
        else ""
    )
    _say(f"{path} was written{kept}")
    _say(f"Next: {agent.last}.")
    if agent.sandbox and at.project is None:
        pool = prose(base_dir(os.environ))
        _say(f"So that builds can take slots in its sandbox, {agent.sandbox.format(pool=pool)}")


def _say(text: str) -> None:
    sys.stdout.write(f"{text}\n")
    sys.stdout.flush()
