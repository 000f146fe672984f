"""The options of both commands in one form, which completion scripts and man pages are made from."""

from __future__ import annotations

import argparse
from typing import NamedTuple

from buildslots.run.options import Option
from buildslots.view.options import WORDS, build_parser

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator


class Command(NamedTuple):
    """A command of `buildslots`, or `buildslots` itself.

    Attributes:
        name: "status" and the like; "" for `buildslots` itself.
        text: What it does.
        options: Its options.
        operands: What it takes besides; the names of these are what the usage calls them.
    """

    name: str
    text: str
    options: list[Option]
    operands: list[Option]


def commands() -> Iterator[Command]:
    """`buildslots` itself, then each of its commands, as the parser has them."""
    parser = build_parser()
    (subparsers,) = (a for a in parser._actions if isinstance(a, argparse._SubParsersAction))  # noqa: SLF001 - as in options
    texts = {action.dest: action.help or "" for action in subparsers._choices_actions}  # noqa: SLF001
    yield _command("", parser.description or "", parser)
    for name, each in subparsers.choices.items():
        yield _command(name, texts[name], each)


def brief(text: str) -> str:
    """The beginning of an option's text, for a menu: up to the first colon, semicolon or bracket."""
    for mark in (": ", "; ", " [", " ("):
        text = text.partition(mark)[0]
    return text


def _command(name: str, text: str, parser: argparse.ArgumentParser) -> Command:
    actions = [a for a in parser._actions if not isinstance(a, argparse._SubParsersAction)]  # noqa: SLF001
    options, operands = [], []
    for action in actions:
        # A flag of argparse is an action that takes no argument.
        value = "" if action.nargs == 0 else str(action.metavar or action.dest.upper())
        words = WORDS.get(action.dest, ())
        if action.option_strings:
            # The letter first, and the long name last, as in the table of slot-run.
            names = tuple(sorted(action.option_strings, key=len))
            options.append(Option(names, value, None, action.dest, action.help or "", words))
        else:
            operands.append(Option((value,), value, None, action.dest, action.help or "", words))
    return Command(name, text, options, operands)
