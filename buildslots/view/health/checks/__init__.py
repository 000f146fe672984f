"""What `buildslots doctor` looks at: each module looks at one side of a pool and returns findings.

A check changes nothing that builds could notice, and takes the pool's mutex only as `status` does. It may
raise OSError or `psutil.Error`, which becomes a finding as well.
"""

from __future__ import annotations

import os
from dataclasses import dataclass, field
from itertools import islice

from buildslots.words import shell_word

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping

    from buildslots.settings import Settings
    from buildslots.status import PoolStatus

OK, NOTE, PROBLEM = "ok", "note", "problem"
"""The levels: as it should be; worth knowing; wrong, and to be put right by somebody."""
MOST_NAMES = 2000
"""At most so many names of a directory are looked at: others may have made any number."""


@dataclass(frozen=True, slots=True)
class Finding:
    """What one check found.

    Attributes:
        check: Short stable name of the check.
        level: OK, NOTE or PROBLEM.
        text: One sentence for whoever is to act on it.
        details: The facts behind it, in JSON's types.
    """

    check: str
    level: str
    text: str
    details: dict[str, object] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Subject:
    """The pool that is looked at, and how it was named.

    Attributes:
        settings: Those of a build that would start here and now.
        pool_option: The value of --pool, or None.
        dir_option: The value of --dir, or None.
        mistakes: The warnings of `settings.resolve`.
        environ: The environment.
        status: Who holds and who waits; None if there is no pool, or it cannot be read.
    """

    settings: Settings
    pool_option: str | None
    dir_option: str | None
    mistakes: tuple[str, ...]
    environ: Mapping[str, str]
    status: PoolStatus | None


WRITABLE = {
    "CLAUDECODE": "let Claude's sandbox write there: `sandbox.filesystem.allowWrite` in its settings.json",
    "CODEX_": "let Codex write there: `writable_roots` of `[sandbox_workspace_write]` in its config.toml",
    "GEMINI_CLI": "let Gemini CLI's sandbox write there: SANDBOX_MOUNTS",
    "CURSOR_": "let Cursor's sandbox write there: `additionalReadwritePaths` in its sandbox.json",
}
"""How an agent's sandbox is told that a directory can be written, by how the variables begin that it sets."""


def to_write(subject: Subject, otherwise: str) -> str:
    """What lets builds write the pool: the setting of the agent that they run under, or `otherwise`."""
    said = (text for begin, text in WRITABLE.items() if any(n.startswith(begin) for n in subject.environ))
    return next(said, otherwise)


def without_writing(path: str) -> str:
    """What becomes of builds that cannot write the pool at `path`: see `disk.reader`."""
    there, _ = listed(path)
    if any(name.startswith("slot-") for name in there) and os.access(path, os.R_OK | os.X_OK):
        return "so builds have no place in line, and only look for a free slot"
    return "so builds run without slots"


def shell_line(*words: str) -> str | None:
    """`words` as a command for a shell, each quoted; None if one of them cannot be shown as it is."""
    quoted = [shell_word(word) for word in words]
    return None if None in quoted else " ".join(filter(None, quoted))


def command(*words: str) -> str | None:
    """The same in backticks, for a sentence."""
    line = shell_line(*words)
    return None if line is None else f"`{line}`"


def existing(path: str) -> str:
    """`path`, or the nearest directory above it that exists."""
    while not os.path.lexists(path) and os.path.dirname(path) != path:
        path = os.path.dirname(path)
    return path


def listed(path: str) -> tuple[list[str], bool]:
    """Names in the directory `path`, sorted, at most MOST_NAMES, and whether there are more."""
    try:
        with os.scandir(path) as entries:
            names = [entry.name for entry in islice(entries, MOST_NAMES)]
            more = next(entries, None) is not None
    except OSError:
        return [], False  # missing, or unreadable, which the look at the directory above reports
    return sorted(names), more
