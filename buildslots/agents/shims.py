"""Shims: one sh script under the names of the programs that build, in a directory that is first on PATH.

`shim.sh` says what a shim does, and is filled in here with what it has to know: the table of `heavy`, where
the programs are now, and where slot-run is. There is a shim only for what is on PATH: one for a program that
is missing would make `command -v ninja` lie to every configure script.
"""

from __future__ import annotations

import errno
import os
import shlex
import sys
from typing import NamedTuple

from buildslots.agents import heavy
from buildslots.files import check_root, close, give_mode, make_parents, open_directory
from buildslots.processes import here as working_directory
from buildslots.settings.places import cache_dir, shims_dir

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping

MARKER = b"#!/bin/sh\n# buildslots shim "
"""How every shim begins, whichever version has written it."""
TEMPLATE = os.path.join(os.path.dirname(__file__), "shim.sh")
UNFINISHED = ".buildslots-"
"""How the name begins that a shim has until it is complete."""
LETTERS = frozenset("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_./:=,@%+-")
"""What stands in a pattern of sh as it is."""
WILD = frozenset("*?[]!")
NEVER = ("slot-run", "buildslots")
"""What gets no shim, whatever a config file says."""
TEMPORARY = ("/tmp", "/var/tmp", "/dev/shm")  # noqa: S108 - nothing is made there
XDG_BASE = """\
        case ${XDG_CACHE_HOME-} in
        /*) _bs_base=$XDG_CACHE_HOME/.build-slots ;;
        *) _bs_base=${HOME-}/.cache/.build-slots ;;
        esac"""
"""`places.base_dir` in sh."""


class State(NamedTuple):
    """What there is of shims.

    Attributes:
        directory: Where they are, or would be.
        names: The shims that are there.
        outdated: Those among them that another table or version has written, or whose program has gone.
        missing: Programs on PATH that build and have none.
        is_on_path: Whether the directory is on PATH.
        slot_run: The slot-run that they find; None if there is none.
    """

    directory: str
    names: list[str]
    outdated: list[str]
    missing: list[str]
    is_on_path: bool
    slot_run: str | None


def install(environ: Mapping[str, str]) -> list[str]:
    """Make a shim for each program of the table that is on PATH, and remove those of others: their names.

    A file that is no shim is left alone, and its name is not among them.

    Raises:
        OSError: They cannot be written. Each that was there is still whole, the old one or the new one.
    """
    directory = _directory(environ)
    programs = found(environ)
    text = script(environ, programs)
    make_parents(os.path.join(directory, "make"))
    room = open_directory(directory)
    try:
        names = []
        for name in sorted(programs):
            there = _content(name, room)
            if there is None or (there.startswith(MARKER) and there != text):
                _write(name, room, text)
            if there is None or there.startswith(MARKER):
                names.append(name)
        for name in _shims(room):
            if name not in programs:
                os.unlink(name, dir_fd=room)
    finally:
        close(room)
    return names


def remove(environ: Mapping[str, str]) -> list[str]:
    """Remove all shims, and their directory if nothing else is in it: their names.

    Raises:
        OSError: They cannot be removed.
    """
    directory = _directory(environ)
    try:
        room = open_directory(directory)
    except FileNotFoundError:
        return []
    try:
        names = _shims(room)
        left = [name for name in os.listdir(room) if name.startswith(UNFINISHED)]
        for name in (*names, *left):
            os.unlink(name, dir_fd=room)
    finally:
        close(room)
    for empty in (directory, os.path.dirname(directory)):
        try:
            os.rmdir(empty)
        except OSError:
            break  # something else is in it
    return names


def status(environ: Mapping[str, str]) -> State:
    """What there is of shims. Raises OSError if that cannot be told."""
    directory = _directory(environ)
    programs = found(environ)
    text = script(environ, programs)
    names: list[str] = []
    outdated: list[str] = []
    try:
        room = open_directory(directory)
    except FileNotFoundError:
        pass
    else:
        try:
            names = _shims(room)
            outdated = [one for one in names if one not in programs or _content(one, room) != text]
        finally:
            close(room)
    missing = sorted(programs.keys() - set(names))
    on_path = any(_is_same(one, directory) for one in _path(environ))
    return State(directory, names, outdated, missing, on_path, _which("slot-run", environ) or recorded())


def path_line(environ: Mapping[str, str]) -> str:
    """The line of sh, bash and zsh that puts the shims first on PATH. Raises OSError without a home."""
    quoted = "".join(f"\\{c}" if c in '\\"$`' else c for c in _directory(environ))
    return f'export PATH="{quoted}:$PATH"'


def found(environ: Mapping[str, str]) -> dict[str, str]:
    """The programs of the table that are on PATH, each with its path."""
    table = heavy.load(environ)
    light, more = table.entries
    names = {*table.tools, *(os.path.basename(words[0]) for words in more if words)}
    names -= {os.path.basename(words[0]) for words in light if len(words) == 1}
    paths = ((name, _which(name, environ)) for name in names if _can_be_shim(name))
    return {name: path for name, path in paths if path is not None}


def script(environ: Mapping[str, str], programs: Mapping[str, str]) -> bytes:
    """The text of the shims for `programs`, which are at those paths now."""
    table = heavy.load(environ)
    light, more = table.entries
    base = XDG_BASE
    if sys.platform != "linux":
        base = f"        _bs_base={shlex.quote(os.path.join(cache_dir(environ), '.build-slots'))}"
    tools = {name: table.tools[name] for name in sorted(programs) if name in table.tools}
    known = {name: path for name, path in programs.items() if _is_known(path)}
    slot_run = recorded()
    parts = {
        "BASE": base,
        "KNOWN": "\n".join(f"{name}) _bs_known={shlex.quote(known[name])} ;;" for name in sorted(known)),
        "USER": _user(programs, light, more),
        "PASSED_ON": " | ".join(map(_pattern, heavy.PASSED_ON)),
        "LIGHT": _cases(tools, lambda tool: _case(tool.light, "return 0")),
        "VALUED": _cases(tools, lambda tool: _case(tool.valued, "return 0", exactly=True)),
        "HEAVY": _cases(tools, _operands),
        "SLOT_RUN": "" if slot_run is None else shlex.quote(slot_run),
    }
    with open(TEMPLATE, encoding="utf-8") as file:
        text = file.read()
    for name, part in parts.items():
        text = text.replace(f"@{name}@", part)
    return text.encode("utf-8", "surrogateescape")


def recorded() -> str | None:
    """The slot-run that shims use where none is on PATH: that of this installation, if it will stay there."""
    for program in (sys.argv[0], sys.executable):
        path = os.path.join(os.path.dirname(os.path.abspath(program)), "slot-run")
        if os.access(path, os.X_OK) and is_lasting(path):
            return path
    return None


def is_lasting(path: str) -> bool:
    """Whether the program at `path` is in no directory that somebody will remove without a thought of it.

    Such are temporary directories, and checkouts with the virtual environments in them. The home itself may
    be a checkout, of somebody's dotfiles, and what pipx and uv install lies below it.
    """
    path = os.path.abspath(path)
    temporary = [os.environ.get("TMPDIR") or TEMPORARY[0], *TEMPORARY]
    if any(path.startswith(f"{one.rstrip('/')}/") for one in temporary):
        return False
    home = os.path.expanduser("~")
    above = os.path.dirname(path)
    while above not in (home, os.path.dirname(above)):
        if os.path.lexists(os.path.join(above, ".git")):
            return False
        above = os.path.dirname(above)
    environment = os.path.dirname(os.path.dirname(path))
    if not os.path.exists(os.path.join(environment, "pyvenv.cfg")):
        return True
    here = working_directory()
    return not environment.startswith(f"{here}/") or home.startswith(here)


def _directory(environ: Mapping[str, str]) -> str:
    """Where the shims are. Raises OSError if they can be nowhere."""
    if os.name != "posix":
        raise OSError(errno.ENOSYS, "shims are sh scripts, and this system has no sh")
    directory = shims_dir(environ)
    if ":" in directory or "\n" in directory:
        raise OSError(errno.EINVAL, "PATH cannot have a directory with such a name", directory)
    check_root(directory)
    return directory


def _can_be_shim(name: str) -> bool:
    plain = LETTERS - set("/:=,@%")
    return bool(name) and set(name) <= plain and name[0] not in ".-" and name not in NEVER


def _path(environ: Mapping[str, str]) -> list[str]:
    return [one or "." for one in environ.get("PATH", os.defpath).split(os.pathsep)]


def _which(name: str, environ: Mapping[str, str]) -> str | None:
    """The path of the program `name` that a shim would find."""
    for directory in _path(environ):
        path = os.path.join(directory, name)
        if os.path.isfile(path) and os.access(path, os.X_OK) and not _is_shim(path):
            return path
    return None


def _is_known(path: str) -> bool:
    """Whether shims need not look into `path`: sh reads a binary byte by byte to its first line's end."""
    return os.path.isabs(path) and is_lasting(path) and _begin(path)[:2] not in (b"#!", b"")


def _is_shim(path: str) -> bool:
    return _begin(path) == MARKER


def _begin(path: str) -> bytes:
    try:
        with open(path, "rb") as file:
            return file.read(len(MARKER))
    except OSError:
        return b""


def _is_same(one: str, other: str) -> bool:
    try:
        return os.path.samefile(one, other)
    except OSError:
        return False


def _shims(room: int) -> list[str]:
    """The names of the shims in the directory `room`."""
    names = (name for name in os.listdir(room) if not name.startswith(UNFINISHED))
    return sorted(name for name in names if (_content(name, room) or b"").startswith(MARKER))


def _content(name: str, room: int) -> bytes | None:
    """What is in the file `name`: None if there is none, nothing if it is no regular file."""
    try:
        fd = os.open(name, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC, dir_fd=room)
    except FileNotFoundError:
        return None
    except OSError:
        return b""  # a link, or closed to us
    with open(fd, "rb") as file:
        try:
            return file.read(MOST_BYTES)
        except OSError:
            return b""  # a directory


MOST_BYTES = 1 << 20
"""No shim is so long."""


def _write(name: str, room: int, text: bytes) -> None:
    unfinished = f"{UNFINISHED}{os.urandom(8).hex()}"
    fd = os.open(unfinished, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o700, dir_fd=room)
    try:
        with open(fd, "wb", closefd=True) as file:
            file.write(text)
            give_mode(file.fileno(), 0o755)
        os.rename(unfinished, name, src_dir_fd=room, dst_dir_fd=room)
    except BaseException:
        os.unlink(unfinished, dir_fd=room)
        raise


# The table as sh.


def _cases(tools: Mapping[str, heavy.Tool], body: Callable[[heavy.Tool], str]) -> str:
    """A branch of `case` for each of the tools' bodies, in which it is not empty."""
    names: dict[str, list[str]] = {}
    for name, tool in tools.items():
        names.setdefault(body(tool), []).append(name)
    return "\n".join(f"    {' | '.join(some)})\n{text}        ;;" for text, some in names.items())


def _case(patterns: Iterable[str], action: str, *, exactly: bool = False) -> str:
    """A `case` about $1, with the patterns of fnmatch(3), or the words as they are."""
    texts = [shlex.quote(one) if exactly else _pattern(one) for one in dict.fromkeys(patterns)]
    if not texts:
        return "        :\n"
    return f"        case $1 in\n        {' | '.join(texts)}) {action} ;;\n        esac\n"


def _operands(tool: heavy.Tool) -> str:
    light = _case(tool.light_operands, "return 1")
    heavy_ones = _case(tool.heavy, "return 0") + "        return 1\n" if tool.heavy else ""
    return light + heavy_ones


def _pattern(pattern: str) -> str:
    return "".join(c if c in LETTERS or c in WILD else shlex.quote(c) for c in pattern) or "''"


def _user(programs: Iterable[str], light: list[list[str]], more: list[list[str]]) -> str:
    """A branch for each program of which the user says something; the first that applies counts."""
    branches = []
    for name in sorted(programs):
        lines = [*_said(name, light, "light"), *_said(name, more, "heavy")]
        if lines:
            branches.append("\n".join([f"    {name})", *lines, "        ;;"]))
    return "\n".join(branches)


def _said(name: str, entries: list[list[str]], said: str) -> list[str]:
    lines = []
    for entry in entries:
        if not entry or os.path.basename(entry[0]) != name or any("\0" in word for word in entry):
            continue
        words = [f'[ "${{{at}-}}" = {shlex.quote(word)} ]' for at, word in enumerate(entry[1:], 1)]
        test = " && ".join([f"[ $# -ge {len(words)} ]", *words])
        lines.append(f"        if {test}; then _bs_said={said} && return; fi")
    return lines
