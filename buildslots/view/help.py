"""`buildslots help`: the manual's pages, which are the Markdown files that README links to."""

from __future__ import annotations

import os
import re
import sys

import buildslots
from buildslots.view import nearest, warn
from buildslots.view.options import TOPICS, build_parser
from buildslots.view.usage import commands
from buildslots.words import PATH_SHOWN, shown

TYPE_CHECKING = False
if TYPE_CHECKING:
    import argparse

    from rich.console import Console

NARROW, WIDEST = 72, 100
"""Columns of a page on a terminal. Below the first, tables become lists; lines are never longer than the
second, because those are hard to read."""
UNKNOWN = 2
"""The exit status of argparse for a wrong command line."""
NOT_FOUND = 127
"""How a shell says that there is no such command."""


def run(options: argparse.Namespace) -> int:
    """Show the page, what a command takes, or the list of pages."""
    topic = options.topic
    if topic is None:
        sys.stdout.write(_index())
        return 0
    if topic in TOPICS:
        _show(_page(topic))
        return 0
    names = [command.name for command in commands()][1:]
    if topic in names:
        build_parser().parse_args([topic, "--help"])  # prints it and exits
    warn(f"there is no help on {shown(repr(topic), PATH_SHOWN)}; {_nearest(topic, [*TOPICS, *names])}")
    return UNKNOWN


def _index() -> str:
    width = max(map(len, TOPICS))
    lines = [f"  {topic.ljust(width)}  {text}" for topic, text in TOPICS.items()]
    return "\n".join(["Pages, each shown by `buildslots help TOPIC`:", "", *lines, ""])


def _nearest(topic: str, topics: list[str]) -> str:
    """What the reader may have meant."""
    near = nearest(topic, topics)
    return f"the nearest: {near}" if near else "`buildslots help` lists the pages"


def _page(topic: str) -> str:
    """The Markdown of a page, without the marks by which tests find its recipes."""
    package = os.path.dirname(buildslots.__file__)
    # The protocol is described beside its code; a second copy would fall behind.
    parts = ("disk", "PROTOCOL.md") if topic == "protocol" else ("help", f"{topic}.md")
    with open(os.path.join(package, *parts), encoding="utf-8") as file:
        return re.sub(r"^<!-- .* -->\n", "", file.read(), flags=re.MULTILINE)


def _show(text: str) -> None:
    """Show a page: through a pipe as it is, on a terminal formatted, in a pager if it is too long."""
    if not (sys.stdout.isatty() and os.environ.get("TERM", "dumb") != "dumb"):
        sys.stdout.write(text)
        return
    from rich import console  # noqa: PLC0415
    from rich.theme import Theme  # noqa: PLC0415

    # By default rich draws code on black, which suits dark terminals only.
    terminal = console.Console(emoji=False, highlight=False, theme=Theme({"markdown.code": "cyan"}))
    page = formatted(text, terminal)
    if not (sys.stdin.isatty() and page.count("\n") >= terminal.height and _paged(page)):
        sys.stdout.write(page)


def _paged(page: str) -> bool:
    """Show `page` in the user's pager; False if there is no pager.

    Not with pydoc's, which overwrites the user's LESS from Python 3.13 on.
    """
    import signal  # noqa: PLC0415 - only where somebody reads
    import subprocess  # noqa: PLC0415

    # Colours pass, and the page stays on the screen afterwards (core.pager in git-config(1)).
    environ = {"LESS": "FRX", **os.environ}
    pager = os.environ.get("PAGER") or "less"
    # Through the shell, as git does, because PAGER may contain options.
    with subprocess.Popen(pager, shell=True, stdin=subprocess.PIPE, env=environ) as process:  # noqa: S602
        # Only now: the pager would inherit a signal that we ignored before it started.
        signal.signal(signal.SIGINT, signal.SIG_IGN)  # in less, Ctrl-C ends a search
        process.communicate(page.encode())
    return process.returncode != NOT_FOUND


def formatted(text: str, terminal: Console) -> str:
    """The Markdown `text` with the colours and in the width of `terminal`."""
    from rich.markdown import Markdown  # noqa: PLC0415

    width = min(terminal.width, WIDEST)
    text = _without_links(text)
    if width < NARROW:
        text = _without_tables(text)
    with terminal.capture() as page:
        terminal.print(Markdown(text, code_theme="ansi_dark", hyperlinks=False), width=width)
    return page.get()


def _without_links(text: str) -> str:
    """The page without the targets of links to other pages, which a terminal cannot follow."""
    return re.sub(r"\[([^\]\n]+(?:\n[^\]\n]+)?)\]\((?!https?:)[^)\s]*\)", r"\1", text)


def _without_tables(text: str) -> str:
    """The page with a list in place of each table: one item a row, without the head."""
    lines = []
    in_table = False
    for line in text.split("\n"):
        was_in_table, in_table = in_table, line.startswith("|")
        if not in_table:
            lines.append(line)
        elif was_in_table and not line.startswith("|--"):
            first, *rest = (cell.strip() for cell in line.strip("|").split("|"))
            lines.append(f"- {first}: {'; '.join(cell for cell in rest if cell)}")
    return "\n".join(lines)
