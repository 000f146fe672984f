"""The command line of `slot-run`, parsed by hand: argparse would cost 8 ms on the way to every build."""

from __future__ import annotations

from buildslots.errors import SettingError
from buildslots.settings import (
    UNSET,
    parse_duration,
    parse_load,
    parse_memory,
    parse_on_timeout,
    parse_pool,
    parse_pressure,
    parse_slots,
)

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    from buildslots.settings import Unset


def _parse_dir(text: str, source: str) -> str:
    if not text:
        raise SettingError(source, text, "is no directory")
    return text


VALUES = {
    "-n": "--slots",
    "--slots": "--slots",
    "-p": "--pool",
    "--pool": "--pool",
    "-t": "--timeout",
    "--timeout": "--timeout",
    "--on-timeout": "--on-timeout",
    "-w": "--weight",
    "--weight": "--weight",
    "--min-free-memory": "--min-free-memory",
    "--max-load": "--max-load",
    "--max-pressure": "--max-pressure",
    "--dir": "--dir",
}
"""Options that take a value, and their long names."""
PARSERS: dict[str, tuple[str, Callable[[str, str], object]]] = {
    "--slots": ("slots", parse_slots),
    "--pool": ("pool", parse_pool),
    "--timeout": ("timeout_s", parse_duration),
    "--on-timeout": ("on_timeout", parse_on_timeout),
    "--weight": ("weight", parse_slots),
    "--min-free-memory": ("min_free_memory", parse_memory),
    "--max-load": ("max_load", parse_load),
    "--max-pressure": ("max_pressure", parse_pressure),
    "--dir": ("dir", _parse_dir),
}
"""Where each value goes, and what makes it one or raises SettingError."""
GATES = ("min_free_memory", "max_load", "max_pressure")
FLAGS = {
    "-q": "--quiet",
    "--quiet": "--quiet",
    "-h": "--help",
    "--help": "--help",
    "--version": "--version",
}


class UsageError(ValueError):
    """The command line is not one of slot-run's; the message says why in a sentence."""


class Options:
    """What the command line says.

    Attributes:
        slots: K, or None.
        pool: Name of the pool, or None.
        timeout_s: Seconds, None for ever, or UNSET.
        on_timeout: "run", "fail" or None.
        weight: How many slots the command needs, or None.
        gates: What is said of the machine's state, by the names of `Gates`' arguments.
        dir: Directory of the default pool, or None.
        quiet: Whether only warnings are to be said.
        show: "--help" or "--version" if that is what is asked for.
        command: The command and its arguments.
    """

    def __init__(self, args: list[str]) -> None:
        """Parse `args`, up to the first operand or `--`.

        Raises:
            UsageError: An option that does not exist, a value that is missing, no command.
            SettingError: A value that is none.
        """
        self.slots: int | None = None
        self.pool: str | None = None
        self.weight: int | None = None
        self.gates: dict[str, object] = {}
        self.timeout_s: float | Unset | None = UNSET
        self.on_timeout: str | None = None
        self.dir: str | None = None
        self.quiet = False
        self.show: str | None = None
        rest = list(args)
        while rest and rest[0].startswith("-") and rest[0] != "-":
            word = rest.pop(0)
            if word == "--":
                break
            if word.startswith("--"):
                name, equals, value = word.partition("=")
                self._option(name, value if equals else None, rest)
            else:
                self._cluster(word, rest)
        self.command = rest
        if not rest and self.show is None:
            raise UsageError("no command to run")
        if rest and not rest[0]:
            raise UsageError("the command to run is empty")

    def _cluster(self, word: str, rest: list[str]) -> None:
        """Options of one letter, such as `-q`, `-n3` or `-qn3`."""
        letters = word[1:]
        while letters:
            name, letters = f"-{letters[0]}", letters[1:]
            if name in VALUES:
                self._option(name, letters or None, rest)
                return
            self._option(name, None, rest)

    def _option(self, name: str, value: str | None, rest: list[str]) -> None:
        if name in FLAGS:
            if value is not None:
                raise UsageError(f"option {name} takes no value, but has {value!r}")
            if FLAGS[name] == "--quiet":
                self.quiet = True
            else:
                self.show = self.show or FLAGS[name]
        elif name in VALUES:
            if value is None:
                if not rest:
                    raise UsageError(f"option {name} needs a value")
                value = rest.pop(0)
            long_name = VALUES[name]
            attribute, parse = PARSERS[long_name]
            if attribute in GATES:
                self.gates[attribute] = parse(value, long_name)
            else:
                setattr(self, attribute, parse(value, long_name))
        else:
            raise UsageError(f"there is no option {name!r}")
