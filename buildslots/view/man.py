"""The man pages of both commands, made from the tables that make their parsers.

`python -m buildslots.view.man` writes them into `help/`. They are checked in, and a test says when they are
out of date: a hook that makes them while a wheel is built could fail at an install.

The wheel carries them as data files for `share/man/man1` (hatchling's option "shared-data"). pip puts them
there below its environment, pipx links them into ~/.local/share/man (pypa/pipx#1047), and uv leaves them in
the environment of the tool (astral-sh/uv#4731, open in 2026). So `buildslots help` is what works everywhere.
"""

from __future__ import annotations

import os

import buildslots
from buildslots.run import help as slot_run
from buildslots.run.options import OPTIONS
from buildslots.view.options import DESCRIPTION, EXAMPLES, TOPICS
from buildslots.view.usage import commands

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable

    from buildslots.run.options import Option


def pages() -> dict[str, str]:
    """The pages in the language of man(7), by the names of their files."""
    return {"slot-run.1": _slot_run(), "buildslots.1": _buildslots()}


def _slot_run() -> str:
    return _page(
        "slot-run",
        slot_run.SUMMARY,
        ("SYNOPSIS", _bold(slot_run.SYNOPSIS)),
        ("DESCRIPTION", f"{_text(slot_run.DESCRIPTION)}\n.PP\n{_text(slot_run.NESTING)}"),
        ("OPTIONS", _options(OPTIONS)),
        ("ENVIRONMENT", _list(slot_run.ENVIRONMENT)),
        ("EXIT STATUS", f"{_list(slot_run.STATUS)}\n.PP\n{_text(slot_run.STATUS_ELSE)}"),
        ("EXAMPLES", _list(slot_run.EXAMPLES)),
        ("SEE ALSO", ".BR buildslots (1)\n.PP\n" + _text("The whole manual: buildslots help slot-run")),
    )


def _buildslots() -> str:
    top, *rest = commands()
    parts = []
    for each in rest:
        own = [option for option in each.options if "--help" not in option.names]
        parts.append(f".SS {each.name}\n{_text(each.text)}\n{_options([*each.operands, *own])}")
    return _page(
        "buildslots",
        "who has the machine's build slots, their past, and what is wrong with them",
        ("SYNOPSIS", _bold("buildslots [-h] [--version] COMMAND ...")),
        ("DESCRIPTION", f"{_text(DESCRIPTION)}\n{_options(top.options)}"),
        ("COMMANDS", "\n".join(parts)),
        ("TOPICS", _text("Pages of buildslots help:") + "\n" + _list(TOPICS.items())),
        ("EXAMPLES", ".nf\n" + "\n".join(map(_text, EXAMPLES.splitlines()[1:])) + "\n.fi"),
        ("SEE ALSO", ".BR slot\\-run (1)"),
    )


def _page(name: str, summary: str, *sections: tuple[str, str]) -> str:
    title = f'.TH {_text(name.upper())} 1 "" buildslots "User Commands"'
    body = [("NAME", f"{_text(name)} \\- {_text(summary)}"), *sections]
    whole_words = ".nh\n.ad l"  # a hyphen at the end of a line would be copied with an option
    return "\n".join([title, whole_words, *(f".SH {head}\n{text}" for head, text in body)]) + "\n"


def _options(options: Iterable[Option]) -> str:
    rows = []
    for option in options:
        value = option.behind if option.names != (option.value,) else ""
        rows.append((", ".join(option.names) + value, option.text))
    return _list(rows)


def _list(rows: Iterable[tuple[str, str]]) -> str:
    return "\n".join(f".TP\n{_bold(head)}\n{_text(text)}" for head, text in rows)


def _bold(text: str) -> str:
    return f"\\fB{_text(text)}\\fR"


def _text(text: str) -> str:
    """`text` with nothing in it that man(7) takes for a request; its hyphens can be copied into a shell."""
    escaped = text.replace("\\", "\\e").replace("-", "\\-").replace("`", "\\(ga").replace("'", "\\(aq")
    return f"\\&{escaped}" if escaped.startswith(".") else escaped


def main() -> None:
    """Write the pages into the package."""
    directory = os.path.join(os.path.dirname(buildslots.__file__), "help")
    for name, text in pages().items():
        with open(os.path.join(directory, name), "w", encoding="utf-8") as file:
            file.write(text)


if __name__ == "__main__":
    main()
