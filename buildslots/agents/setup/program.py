"""Which `buildslots` an agent is to run: one that stays where it is.

A path into the environment of a project or into a checkout works until that goes; then every command of the
agent meets a hook that is not there. And a bare name would be found on the agent's PATH, where the
environment of a project may have another version. So the user's files get the path of an installation for
the user or the machine, and only a project's file, which other people read too, the bare name.
"""

from __future__ import annotations

import os
import tempfile

from buildslots.agents.setup.refused import RefusedError
from buildslots.words import short_path

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

NAME = "buildslots"
USUAL = ("~/.local/bin", "/usr/local/bin", "/opt/homebrew/bin", "/usr/bin")
"""Where installations for a user or a machine are, also when PATH does not say so; pipx and uv link what they
install into the first."""
OF_TOOLS = ("/pipx/venvs/", "/uv/tools/")
"""In the paths of environments that belong to installed programs, and stay: https://pipx.pypa.io and
https://docs.astral.sh/uv/concepts/tools/."""
MOST_PLACES = 256
WHAT_TO_DO = "install it for good, by `pipx install buildslots` or `uv tool install buildslots`"


def program(environ: Mapping[str, str], home: str, file: str) -> str:
    """The path of a `buildslots` to write into `file`. Raises RefusedError if there is none that stays."""
    unfit = ""
    for path in _places(environ, home):
        if not (os.path.isfile(path) and os.access(path, os.X_OK)):
            continue
        why = passing(path, environ, home)
        if why is None:
            return path
        unfit = unfit or f"{short_path(path)} is {why}"
    raise RefusedError(file, f"{unfit or 'buildslots is not on PATH'}; {WHAT_TO_DO}")


def _places(environ: Mapping[str, str], home: str) -> Iterator[str]:
    for directory in environ.get("PATH", "").split(os.pathsep)[:MOST_PLACES]:
        if os.path.isabs(directory):
            yield os.path.join(directory, NAME)
    for directory in USUAL:
        yield os.path.join(home + directory[1:] if directory.startswith("~") else directory, NAME)


def passing(path: str, environ: Mapping[str, str], home: str) -> str | None:
    """Why the program at `path` may go away; None if it stays.

    Both are looked at, the path and where its links lead.
    """
    try:
        path.encode()
    except UnicodeEncodeError:
        return "not in UTF-8"  # and JSON is
    for place in (path, os.path.realpath(path)):
        if any(part in place for part in OF_TOOLS):
            continue
        if any(
            _is_below(place, directory) and not _is_below(home, directory)
            for directory in _temporary(environ)
        ):
            return "in a directory for temporary files"
        above = os.path.dirname(os.path.dirname(place))
        if (
            os.path.exists(os.path.join(above, "pyvenv.cfg"))
            or os.path.basename(os.path.dirname(above)) == "envs"
        ):
            return "in an environment of Python, which may go away"
        while above not in (home, os.path.dirname(above)):
            if os.path.exists(os.path.join(above, ".git")):
                return "in a checkout, which may go away"
            above = os.path.dirname(above)
    return None


def _temporary(environ: Mapping[str, str]) -> set[str]:
    return {environ.get("TMPDIR", ""), tempfile.gettempdir(), "/tmp", "/var/tmp", "/dev/shm"}  # noqa: S108 - to refuse what is there


def _is_below(path: str, directory: str) -> bool:
    return os.path.isabs(directory) and path.startswith(os.path.join(directory, ""))


def is_there(word: str, environ: Mapping[str, str]) -> bool:
    """Whether the program `word`, a name or a path, can be run."""
    if os.path.dirname(word):
        return os.access(word, os.X_OK)
    directories = environ.get("PATH", "").split(os.pathsep)[:MOST_PLACES]
    return any(os.access(os.path.join(directory, word), os.X_OK) for directory in directories)
