"""`buildslots completion`: the script that makes a shell complete `slot-run` and `buildslots`.

How a shell asks, and what to offer after `slot-run make`, is the shell's own business. That part is written
by hand, in a file for each shell in `completions/`. Options, commands and values come from the tables that
make the parsers. They go where such a file says `@NAME@`.
"""

from __future__ import annotations

import os
import sys
from itertools import starmap

from buildslots.run.options import OPTIONS
from buildslots.view.usage import brief, commands

TYPE_CHECKING = False
if TYPE_CHECKING:
    import argparse
    from collections.abc import Iterable

    from buildslots.run.options import Option
    from buildslots.view.usage import Command

POOL, DIRECTORY, FILE, SLOT = "NAME", "PATH", "FILE", "SLOT"
"""What options and operands call the name of a pool, a directory, a file, or the number of a slot."""


def run(options: argparse.Namespace) -> int:
    """Print the script for the shell."""
    sys.stdout.write(script(options.shell))
    return 0


def script(shell: str) -> str:
    """The script for a shell."""
    path = os.path.join(os.path.dirname(__file__), "completions", f"complete.{shell}")
    with open(path, encoding="utf-8") as file:
        text = file.read()
    fill = {"bash": _bash, "fish": _fish, "zsh": _zsh}[shell]
    for place, words in fill(list(commands())).items():
        text = text.replace(f"@{place}@", words)
    return text


def _offers(option: Option) -> list[tuple[str, str]]:
    """The values to offer for an option, each with what it means, or ""."""
    return [(word, meaning) for word, _, meaning in (text.partition(": ") for text in option.words)]


def _words(option: Option) -> str:
    return " ".join(word for word, _ in _offers(option))


def _quoted(text: str) -> str:
    """`text` in single quotes, for all three shells."""
    return "'" + text.replace("'", "'\\''") + "'"


def _bash(every: list[Command]) -> dict[str, str]:
    options = [option for command in every for option in command.options]
    both = [*OPTIONS, *options]

    def names(options: Iterable[Option], *, start: str = "-") -> list[str]:
        """The names that begin with `start`, each once."""
        return list(dict.fromkeys(name for o in options for name in o.names if name.startswith(start)))

    def letters(options: Iterable[Option]) -> str:
        return "".join(name[1] for name in names(options) if name[1] != "-")

    def valued(options: Iterable[Option]) -> list[Option]:
        """Those whose value is the next word."""
        return [option for option in options if option.value and not option.bare]

    def flags(options: Iterable[Option]) -> list[Option]:
        return [option for option in options if not option.value]

    def called(value: str) -> str:
        return " | ".join(names(option for option in both if option.value == value))

    worded = {" | ".join(option.names): _words(option) for option in both if option.words}
    operands = {c.name: _bash_operand(c.operands[0]) for c in every if c.operands}
    own = {command.name or "''": " ".join(names(command.options)) for command in every}
    return {
        "RUN_OPTIONS": " ".join(names(OPTIONS)),
        "RUN_VALUES": " ".join(names(valued(OPTIONS), start="--")),
        "RUN_LETTERS": letters(valued(OPTIONS)),
        "RUN_FLAGS": letters(flags(OPTIONS)),
        "VALUES": " ".join(names(valued(options), start="--")),
        "LETTERS": letters(valued(options)),
        "FLAGS": letters(flags(options)),
        "COMMANDS": " ".join(command.name for command in every if command.name),
        "OPTIONS": "\n".join(f"    {name}) words='{words}' ;;" for name, words in own.items()),
        "OPERANDS": "\n".join(f"      {name}) {offer} ;;" for name, offer in operands.items() if offer),
        "WORDS": "\n".join(
            f"    {name}) _buildslots_offer -W '{words}' ;;" for name, words in worded.items()
        ),
        "POOLS": called(POOL),
        "DIRECTORIES": called(DIRECTORY),
        "FILES": called(FILE),
    }


def _bash_operand(operand: Option) -> str:
    if operand.words:
        return f"_buildslots_offer -W '{_words(operand)}'"
    return {POOL: "_buildslots_pools", FILE: "_buildslots_files"}.get(operand.value, "")


def _fish(every: list[Command]) -> dict[str, str]:
    def described(text: str) -> str:
        return f"-d {_quoted(text[0].upper() + text[1:])}"

    def argument(option: Option) -> list[str]:
        """How fish is told which values the option takes, if it takes any."""
        sources = {POOL: "(__buildslots_pools)", DIRECTORY: "(__fish_complete_directories (commandline -ct))"}
        if option.value == FILE:
            return ["--require-parameter --force-files"]
        if option.words:
            source = " ".join(f'{word}\\t"{means}"' if means else word for word, means in _offers(option))
        else:
            source = sources.get(option.value, "")
        exclusive = ["--exclusive"] if option.value and not option.bare else []
        return exclusive + ([f"-a {_quoted(source)}"] if source else [])

    def operand(operand: Option) -> str:
        if operand.value == FILE:
            return "--force-files"
        return f"-a '{_words(operand)}'" if operand.words else " ".join(argument(operand)[1:])

    def line(option: Option) -> str:
        names = [f"-l {name[2:]}" if name[1] == "-" else f"-s {name[1]}" for name in option.names]
        return " ".join([*names, *argument(option), described(brief(option.text))])

    def spec(option: Option) -> str:
        r"""For fish's own argparse: n/slots=, or tokens=\? if a value may be left out."""
        ends = "=\\?" if option.bare else "=" if option.value else ""
        return "/".join(name.lstrip("-") for name in option.names) + ends

    top, *rest = every
    own = [f"__buildslots_option {c.name} {line(o)}" for c in rest for o in c.options if "-h" not in o.names]
    own += [
        f"__buildslots_option {c.name} {offer}" for c in rest for o in c.operands if (offer := operand(o))
    ]
    return {
        "RUN_SPEC": " ".join(spec(option) for option in OPTIONS),
        "RUN_OPTIONS": "\n".join(f"$own {line(option)}" for option in OPTIONS),
        "TOP_OPTIONS": "\n".join(f"$command {line(o)}" for o in top.options if "-h" not in o.names),
        "COMMANDS": "\n".join(f"$command -a {c.name} {described(brief(c.text))}" for c in rest),
        "OPTIONS": "\n".join(own),
    }


def _zsh(every: list[Command]) -> dict[str, str]:
    def action(option: Option) -> str:
        """What _arguments does to offer values."""
        if any(means for _, means in _offers(option)):
            return "((" + " ".join(f'{word}\\:"{means}"' for word, means in _offers(option)) + "))"
        if option.words:
            return f"({_words(option)})"
        return {POOL: "_slot-run_pools", DIRECTORY: "_directories", FILE: "_files"}.get(option.value, " ")

    def spec(option: Option) -> str:
        """An option as _arguments takes it; zsh expands the braces to one for each name."""
        names = list(option.names)
        if option.value:
            same = "-" if option.bare else ""  # its value stands in the same word, if it is there
            names = [f"{name}={same}" if name[1] == "-" else f"{name}+" for name in names]
        ends = not option.value and option.names[-1] in ("--help", "--version")
        others = "(- : *)" if ends else f"({' '.join(option.names)})"
        braces = f"{{{','.join(names)}}}" if len(names) > 1 else names[0]
        colon = "::" if option.bare else ":"
        value = f"{colon}{option.value}:{action(option)}" if option.value else ""
        return f"'{others}'{braces}{_quoted(f'[{brief(option.text)}]{value}')}"

    def operand(place: int, operand: Option) -> str:
        several = operand.value == SLOT
        return _quoted(f"{'*' if several else place}:{operand.value}:{action(operand)}")

    def specs(command: Command) -> list[str]:
        return [*map(spec, command.options), *starmap(operand, enumerate(command.operands, 1))]

    top, *rest = every
    bend = " \\\n"
    return {
        "RUN_OPTIONS": bend.join(f"    {spec(option)}" for option in OPTIONS),
        "TOP_OPTIONS": " ".join(specs(top)),
        "COMMANDS": "\n".join(f"    {_quoted(f'{c.name}:{brief(c.text)}')}" for c in rest),
        "CASES": "\n".join(
            f"        {c.name})\n          _arguments -s"
            + "".join(f"{bend}            {each}" for each in specs(c))
            + "\n          ;;"
            for c in rest
        ),
    }
