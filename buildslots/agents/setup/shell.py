"""The line in a shell's startup file that puts the shims first on PATH, between two marks of ours.

An agent inherits PATH from the shell that it is started in, and so do its own shells.
"""

from __future__ import annotations

import os

from buildslots.agents.setup import place
from buildslots.agents.setup.known import SHIM
from buildslots.agents.setup.plan import Plan
from buildslots.agents.setup.refused import RefusedError
from buildslots.agents.shims import path_line
from buildslots.settings.places import home_dir, shims_dir

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping

NAME = "shell"
BEGIN = b"# >>> buildslots setup shell >>>"
END = b"# <<< buildslots setup shell <<<"


def line(environ: Mapping[str, str]) -> str:
    """The line for the shell of `environ`. Raises OSError without a home."""
    if _shell(environ) != "fish":
        return path_line(environ)
    quoted = shims_dir(environ).replace("\\", "\\\\").replace("'", "\\'")
    return f"set -gx PATH '{quoted}' $PATH"


def setting_up(environ: Mapping[str, str]) -> Plan:
    """What has to change in the startup file of the shell. Raises RefusedError and OSError."""
    found = place.find(startup_files(environ)[_shell(environ)])
    data = found.data or b""
    block = BEGIN + b"\n" + os.fsencode(line(environ)) + b"\n" + END + b"\n"
    at = _block(data, found.path)
    new = _with(data, block) if at is None else data[: at[0]] + block + data[at[1] :]
    return Plan(found, new, at is None, False, SHIM)


def taking_out(environ: Mapping[str, str]) -> list[Plan]:
    """What has to change so that no startup file has the line. Raises RefusedError and OSError.

    A file to which nobody has done anything since gets its bytes back, and one that we have made goes.
    """
    plans = []
    for path in dict.fromkeys(startup_files(environ).values()):
        try:
            found = place.find(path)
        except RefusedError:
            continue  # what we cannot write has nothing of ours
        at = None if found.data is None else _block(found.data, found.path)
        if at is None or found.data is None:
            continue
        block, kept = found.data[at[0] : at[1]], place.backup(found)
        if kept is not None and _with(kept, block) == found.data:
            plans.append(Plan(found, kept, False, True, ""))
        elif kept is None and found.data == block:
            plans.append(Plan(found, None, False, False, ""))
        else:
            plans.append(Plan(found, found.data[: at[0]] + found.data[at[1] :], False, False, ""))
    return plans


def startup_files(environ: Mapping[str, str]) -> dict[str, str]:
    """The file that each shell reads when a person starts it; "" is any other shell of POSIX.

    Raises OSError without a home.
    """
    home = home_dir(environ)
    config = environ.get("XDG_CONFIG_HOME", "")
    config = config if os.path.isabs(config) else os.path.join(home, ".config")
    zsh = environ.get("ZDOTDIR", "")
    return {
        "bash": os.path.join(home, ".bashrc"),
        "zsh": os.path.join(zsh if os.path.isabs(zsh) else home, ".zshrc"),
        "fish": os.path.join(config, "fish", "config.fish"),
        "": os.path.join(home, ".profile"),
    }


def _shell(environ: Mapping[str, str]) -> str:
    name = os.path.basename(environ.get("SHELL", ""))
    return name if name in {"bash", "zsh", "fish"} else ""


def _with(data: bytes, block: bytes) -> bytes:
    """`data` with the block at its end: what is there last comes first on PATH."""
    return data + (b"" if not data or data.endswith(b"\n") else b"\n") + block


def _block(data: bytes, path: str) -> tuple[int, int] | None:
    """Where the block begins and ends. Raises RefusedError if it has lost its end, or there are several."""
    begin = _line_at(data, BEGIN)
    if begin is None:
        return None
    end = _line_at(data, END)
    if end is None or end < begin or data.count(BEGIN) > 1 or data.count(END) > 1:
        raise RefusedError(path, f"it has not one {BEGIN.decode()} with one {END.decode()} behind; mend that")
    return begin, min(len(data), end + len(END) + 1)


def _line_at(data: bytes, mark: bytes) -> int | None:
    """Where the line `mark` is."""
    at = (b"\n" + data + b"\n").find(b"\n" + mark + b"\n")
    return None if at < 0 else at
