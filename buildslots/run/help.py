"""What `slot-run --help` says: the table of options, and what the man page says as well."""

from __future__ import annotations

import os
import textwrap

from buildslots.run.options import OPTIONS

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from buildslots.run.options import Option

WIDTH = 80
COLUMN = 26
"""The column in which the texts of options begin."""
SYNOPSIS = "slot-run [OPTIONS] [--] COMMAND [ARG...]"
SUMMARY = "run a command under one of the machine's build slots"
DESCRIPTION = "Run COMMAND under one of the machine's K build slots; wait in line while all are held."
EXAMPLES = (
    ("slot-run make -j8", "one of at most K builds at once"),
    ("slot-run -p link -n 1 -- cc ...", "links in a pool of theirs, one by one"),
    ("slot-run -t 10m --on-timeout fail make", "rather no build than one too many"),
)
ENVIRONMENT = (
    ("MAX_CONCURRENT_BUILDS", "K of the default pool"),
    ("MAX_CONCURRENT_BUILDS_<NAME>", "K of a named pool"),
    ("BUILD_SLOTS_POOL", "as --pool"),
    ("BUILD_SLOTS_URL", "where the pool of its name is, on a server"),
    ("BUILD_SLOTS_TIMEOUT", "as --timeout"),
    ("BUILD_SLOTS_DISABLE", "1: run at once, without a slot"),
    ("BUILD_SLOTS_ON_TIMEOUT", "as --on-timeout"),
    ("BUILD_SLOTS_TOKENS", "as --tokens"),
    ("BUILD_SLOTS_DIR", "as --dir"),
    ("BUILD_SLOTS_JOURNAL", "off, programs or commands"),
)
NESTING = (
    "The command sees BUILD_SLOT, the number of its slot. "
    "Inside of it, slot-run of the same pool runs at once under that slot."
)
STATUS = (
    ("75", "no slot in time, with --on-timeout fail"),
    ("125", "wrong usage, or --detach is not possible here"),
    ("126", "COMMAND cannot be executed"),
    ("127", "COMMAND is not found"),
)
STATUS_ELSE = "else the command's own; a signal that killed COMMAND kills slot-run too"


def help_text() -> str:
    """What `--help` prints, in lines of at most WIDTH columns."""
    parts = [
        f"Usage: {SYNOPSIS}\n",
        textwrap.fill(DESCRIPTION, WIDTH - 1) + "\n",
        _rows(EXAMPLES, 42),
        "Options:\n" + _rows(((_names(option), option.text) for option in OPTIONS), COLUMN),
        "Environment:\n" + _rows(ENVIRONMENT, 32),
        textwrap.fill(NESTING, WIDTH - 1) + "\n",
        "Exit status:\n" + _rows((*STATUS, ("", STATUS_ELSE)), 7),
        "More: `buildslots help slot-run`. Who holds the slots: `buildslots status`.\n",
    ]
    return "\n".join(parts)


def _names(option: Option) -> str:
    """An option's names, its letter first. A long name without a letter stands below the other long names."""
    indent = "" if option.names[0][1] != "-" else "    "
    return f"{indent}{', '.join(option.names)}{option.behind}"


def _rows(rows: Iterable[tuple[str, str]], column: int) -> str:
    """Two columns. The second begins at `column`, on a line of its own if the first is too long."""
    lines = []
    for head, text in rows:
        first = f"  {head}".ljust(column)
        if not first.endswith("  "):
            lines.append(first.rstrip())
            first = " " * column
        lines += textwrap.wrap(
            text,
            WIDTH - 1,
            initial_indent=first,
            subsequent_indent=" " * column,
            break_on_hyphens=False,
        )
    return "\n".join(lines) + "\n"


def show(what: str, say: Callable[[str], None]) -> bool:
    """Print the help, or for "--version" the version; if that cannot be, False, and `say` is told why."""
    if what == "--help":
        text = help_text()
    else:
        from buildslots import __version__  # noqa: PLC0415 - for one of the two

        text = f"slot-run {__version__}\n"
    try:
        os.write(1, text.encode())
    except OSError as error:
        say(f"cannot write: {error}")
        return False
    return True
