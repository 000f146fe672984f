"""What setting up an agent would change, and whether it is set up: looks at files, and writes none.

What a file was before us is kept beside it. Nobody has changed the file since if our entries, put into what
was kept, give exactly what is there now. Then taking us out restores its bytes, and another mode starts from
them too; otherwise only our entries are taken out, and all else stays as it has become.
"""

from __future__ import annotations

import codecs
import importlib
import os
from typing import NamedTuple

from buildslots.agents.setup import hooks, place, plugin
from buildslots.agents.setup.known import AGENTS, SHIM, directory, entry, is_here
from buildslots.agents.setup.program import NAME, is_there, program
from buildslots.agents.setup.refused import RefusedError
from buildslots.settings.places import LEVELS, home_dir, shims_dir

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from buildslots.agents.setup.hooks import Entry

SET_UP, STALE, MISSING, UNREADABLE = "set up", "stale", "missing", "unreadable"
ANOTHER_VERSION = "another version of buildslots has written it"


class Plan(NamedTuple):
    """A change of one file.

    Attributes:
        found: The file as it is.
        data: What is to be in it; None if there is to be no file.
        make_backup: Whether what is in it now is to be kept.
        drop_backup: Whether what was kept is in it again.
        mode: What is set up; "" if it is taken out.
    """

    found: place.Found
    data: bytes | None
    make_backup: bool
    drop_backup: bool
    mode: str

    @property
    def changes(self) -> bool:
        """Whether anything is to be written."""
        return self.data != self.found.data

    def write(self, environ: Mapping[str, str]) -> None:
        """Write it, after the shims if it needs them.

        Raises RefusedError and OSError; the file is as it was then.
        """
        if self.mode == SHIM:
            _install_shims(environ, self.found.path)
        place.write(self.found, self.data, make_backup=self.make_backup, drop_backup=self.drop_backup)


class Status(NamedTuple):
    """Whether an agent is set up.

    Attributes:
        state: One of SET_UP, STALE, MISSING, UNREADABLE.
        path: Its file.
        mode: What is set up, if anything is.
        why: What is wrong, if something is.
    """

    state: str
    path: str
    mode: str = ""
    why: str = ""


class Where(NamedTuple):
    """Whose files: the user's, or those of the project at `project`."""

    environ: Mapping[str, str]
    home: str
    project: str | None

    def path(self, name: str) -> str:
        """The file of an agent."""
        if self.project is not None:
            return os.path.join(self.project, AGENTS[name].project)
        return os.path.join(directory(name, self.environ, self.home), AGENTS[name].user)


def where(environ: Mapping[str, str], *, project: bool) -> Where:
    """Where the user's files are, or those of the project that the working directory is in.

    A project is what the nearest `.git` stands in, not above the user's home; without one it is the working
    directory.

    Raises:
        RefusedError: The working directory is in no project.
        OSError: There is no home directory.
    """
    home = home_dir(environ)
    if not project:
        return Where(environ, home, None)
    here = os.getcwd()
    top = here
    for _ in range(LEVELS):
        if os.path.realpath(top) == os.path.realpath(home) or top == os.path.dirname(top):
            break
        if os.path.lexists(os.path.join(top, ".git")):
            return Where(environ, home, top)
        top = os.path.dirname(top)
    if os.path.realpath(here) in (os.path.realpath(home), os.path.dirname(here)):
        raise RefusedError(here, "your home directory is no project; leave out --project")
    return Where(environ, home, here)


def here(at: Where) -> list[str]:
    """The agents that the user has, or that can have a file in a project."""
    return [
        name
        for name, agent in AGENTS.items()
        if (agent.project or at.project is None) and is_here(name, at.environ, at.home)
    ]


def default_mode(name: str, at: Where) -> str:
    """The mode unless one is given. A project carries no shims: they are files of a user."""
    modes = AGENTS[name].modes
    return modes[0] if at.project is None else next((mode for mode in modes if mode != SHIM), SHIM)


def setting_up(name: str, mode: str, at: Where) -> Plan:
    """What has to change so that `name` is set up. Raises RefusedError and OSError."""
    if mode not in AGENTS[name].modes:
        raise RefusedError(at.path(name), f"{AGENTS[name].title} has only: {', '.join(AGENTS[name].modes)}")
    if at.project is not None and (mode == SHIM or not AGENTS[name].project):
        raise RefusedError(at.path(name), "shims are a user's, and not a project's: leave out --project")
    found = place.find(at.path(name), within=at.project)
    if name == "opencode":
        _check_plugin(found)
        return Plan(found, plugin.text(shims_dir(at.environ)).encode(), False, False, mode)
    word = NAME if at.project is not None else program(at.environ, at.home, found.path)
    line = hooks.command_line(word, name, mode, shared=at.project is not None)
    mark, text = _decoded(found.data or b"", found.path)
    theirs = hooks.entries(hooks.read(text, found.path).value)
    kept = _untouched(name, found, theirs)
    new = _changed(
        name, text if kept is None else _decoded(kept, found.path)[1], [entry(name, mode, line)], found
    )
    return Plan(found, mark + new.encode(), not theirs, False, mode)


def taking_out(name: str, at: Where) -> Plan:
    """What has to change so that nothing of ours is in the agent's file. Raises RefusedError and OSError."""
    found = place.find(at.path(name), within=at.project)
    if found.data is None:
        return Plan(found, None, False, False, "")
    if name == "opencode":
        _check_plugin(found)
        return Plan(found, None, False, False, "")
    mark, text = _decoded(found.data, found.path)
    theirs = hooks.entries(hooks.read(text, found.path).value)
    if not theirs:
        return Plan(found, found.data, False, False, "")
    kept = _untouched(name, found, theirs)
    if kept is not None:
        return Plan(found, kept, False, True, "")
    if place.backup(found) is None and _changed(name, "", theirs, found).encode() == found.data:
        return Plan(found, None, False, False, "")  # we have made it
    return Plan(found, mark + _changed(name, text, [], found).encode(), False, False, "")


def status(name: str, at: Where) -> Status:
    """Whether `name` is set up. Raises nothing: what cannot be read is said."""
    path = at.path(name)
    try:
        found = place.find(path, within=at.project)
        text = _decoded(found.data or b"", found.path)[1]
        theirs = [] if name == "opencode" else hooks.entries(hooks.read(text, found.path).value)
        if name == "opencode" and text:
            _check_plugin(found)
    except (RefusedError, OSError) as error:
        return Status(UNREADABLE, path, why=error.why if isinstance(error, RefusedError) else str(error))
    if not theirs and not (name == "opencode" and text):
        return Status(MISSING, path)
    mode, why = _plugin_fault(text, at) if name == "opencode" else _fault(name, theirs, at)
    if not why and mode == SHIM and not os.path.isdir(shims_dir(at.environ)):
        why = "the shims are not there"
    return Status(STALE if why else SET_UP, path, mode, why)


def _fault(name: str, theirs: Sequence[Entry], at: Where) -> tuple[str, str]:
    """The mode of the entries of ours, and what is wrong with them, if something is."""
    commands = [command for one in theirs for command in hooks.commands(one.value)]
    word = commands[0].program
    mode = SHIM if theirs[0].event == "SessionStart" else commands[0].mode
    shared = at.project is not None
    if len(commands) > 1:
        return mode, "it stands there more than once"
    if not shared and not is_there(word, at.environ):
        return mode, f"{word} is not there any more"
    if [entry(name, mode, hooks.command_line(word, name, mode, shared=shared))] != theirs:
        return mode, ANOTHER_VERSION
    return mode, ""


def _plugin_fault(text: str, at: Where) -> tuple[str, str]:
    return SHIM, "" if text == plugin.text(shims_dir(at.environ)) else ANOTHER_VERSION


def _install_shims(environ: Mapping[str, str], path: str) -> None:
    try:
        shims = importlib.import_module("buildslots.agents.shims")
    except ImportError:
        raise RefusedError(
            path, "there are no shims in this version of buildslots; try another --mode"
        ) from None
    shims.install(environ)


def _check_plugin(found: place.Found) -> None:
    if found.data is not None and not plugin.is_ours(_decoded(found.data, found.path)[1]):
        raise RefusedError(found.path, "somebody else has written it")


def _changed(name: str, text: str, wanted: Sequence[Entry], found: place.Found) -> str:
    return hooks.changed(text, wanted, dict(AGENTS[name].base), found.path)


def _untouched(name: str, found: place.Found, theirs: Sequence[Entry]) -> bytes | None:
    """What the file was before us, if it has been changed by us alone since; None otherwise."""
    kept = place.backup(found) if theirs else None
    if kept is None:
        return None
    try:
        mark, text = _decoded(kept, found.path)
        again = mark + _changed(name, text, theirs, found).encode()
    except RefusedError:
        return None
    return kept if again == found.data else None


def _decoded(data: bytes, path: str) -> tuple[bytes, str]:
    """The byte order mark of a file, if it has one, and its text. Raises RefusedError if it is not UTF-8."""
    mark = codecs.BOM_UTF8 if data.startswith(codecs.BOM_UTF8) else b""
    try:
        return mark, data[len(mark) :].decode()
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        raise RefusedError(path, f"line {line}: it is not UTF-8") from None
