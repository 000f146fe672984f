"""The command line of `slot-run`: the one table of its options, and the parser that reads it.

`--help`, the man page and the scripts of `buildslots completion` are made from the same table. The parser is
our own because argparse would cost 8 ms on the way to every build.
"""

from __future__ import annotations

from buildslots.errors import SettingError
from buildslots.settings.values import (
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

    from buildslots.settings.values import Unset


def _parse_dir(text: str, source: str) -> str:
    if not text:
        raise SettingError(source, text, "is no directory")
    return text


class Option:
    """An option of a command: what the parser does with it, and what people read about it.

    Attributes:
        names: All ways to write it; the last one is the long name.
        value: What its value is called, or "" if it takes none.
        parse: Makes the value from its text and the option's name, or raises SettingError. None for a flag.
        attribute: Where that value goes in `Options`.
        text: What it does. `[...]` at the end says what counts without it. Completion shows the beginning, up
            to the first colon, semicolon or bracket.
        words: Values to offer for completion; "word: meaning" where one is not enough.
    """

    __slots__ = ("attribute", "names", "parse", "text", "value", "words")

    def __init__(  # noqa: PLR0913, PLR0917 - a row of a table
        self,
        names: tuple[str, ...],
        value: str,
        parse: Callable[[str, str], object] | None,
        attribute: str,
        text: str,
        words: tuple[str, ...] = (),
    ) -> None:
        self.names = names
        self.value = value
        self.parse = parse
        self.attribute = attribute
        self.text = text
        self.words = words


OPTIONS = (
    Option(("-n", "--slots"), "K", parse_slots, "slots", "how many builds may run at once [from the cores]"),
    Option(("-p", "--pool"), "NAME", parse_pool, "pool", "the pool to take the slot from [default]"),
    Option(
        ("-t", "--timeout"),
        "DURATION",
        parse_duration,
        "timeout_s",
        "how long to wait: 90, 90s, 2m, 1h30m; 0 is not at all, none is for ever [120s]",
        ("0", "2m", "10m", "1h", "none"),
    ),
    Option(
        ("--on-timeout",),
        "WHAT",
        parse_on_timeout,
        "on_timeout",
        "what to do then: run as overflow, beyond the cap (run), likewise but one build in each timeout "
        "(paced), or exit 75 (fail) [run]",
        ("run: as overflow", "paced: one after the other", "fail: exit 75"),
    ),
    Option(("-w", "--weight"), "W", parse_slots, "weight", "how many slots it needs, taken together [1]"),
    Option(
        ("--min-free-memory",),
        "SIZE",
        parse_memory,
        "min_free_memory",
        "wait for so much free memory as well: 2G",
        ("1G", "2G", "4G"),
    ),
    Option(
        ("--max-load",),
        "N",
        parse_load,
        "max_load",
        "wait for a load average of at most N as well",
    ),
    Option(
        ("--max-pressure",),
        "LIST",
        parse_pressure,
        "max_pressure",
        "wait for pressure of at most so many percent as well: io=40,memory=10 (Linux)",
    ),
    Option(("--dir",), "PATH", _parse_dir, "dir", "directory of the default pool [~/.cache/.build-slots]"),
    Option(("-q", "--quiet"), "", None, "quiet", "say nothing but warnings"),
    Option(("--version",), "", None, "", "print the version and exit"),
    Option(("-h", "--help"), "", None, "", "print this and exit"),
)
BY_NAME = {name: option for option in OPTIONS for name in option.names}
GATES = ("min_free_memory", "max_load", "max_pressure")


class UsageError(ValueError):
    """slot-run has no such command line; the message says in a sentence what is wrong."""


class UnknownOptionError(UsageError):
    """slot-run has no such option.

    Attributes:
        name: The option.
        written: The same with what is attached to it, as in `-j8`.
        rest: The words behind it.
    """

    def __init__(self, name: str, written: str, rest: list[str]) -> None:
        super().__init__(f"there is no option {name!r}")
        self.name = name
        self.written = written
        self.rest = rest


class Options:
    """What the command line says.

    Attributes:
        slots: The cap, or None.
        pool: Name of the pool, or None.
        timeout_s: Seconds, None for ever, or UNSET.
        on_timeout: "run", "paced", "fail" or None.
        weight: How many slots the command needs, or None.
        gates: The conditions on the machine's state, by the names of `Gates`' arguments.
        dir: Directory of the default pool, or None.
        quiet: Whether only warnings are to be said.
        show: "--help" or "--version" if that is what is asked for.
        command: The command and its arguments.
    """

    def __init__(self, args: list[str]) -> None:
        """Parse `args`, up to the first operand or `--`.

        Raises:
            UsageError: An option that does not exist, a value that is missing, no command.
            SettingError: A value that the option cannot have.
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
        """Parse options of one letter, such as `-q`, `-n3` or `-qn3`."""
        letters = word[1:]
        while letters:
            name, letters = f"-{letters[0]}", letters[1:]
            if name in BY_NAME and BY_NAME[name].parse is not None:
                self._option(name, letters or None, rest)
                return
            if name not in BY_NAME:
                raise UnknownOptionError(name, name + letters, rest)
            self._option(name, None, rest)

    def _option(self, name: str, value: str | None, rest: list[str]) -> None:
        option = BY_NAME.get(name)
        if option is None:
            raise UnknownOptionError(name, name, rest)
        long_name = option.names[-1]
        if option.parse is None:
            if value is not None:
                raise UsageError(f"option {name} takes no value, but has {value!r}")
            if option.attribute:
                setattr(self, option.attribute, True)
            else:
                self.show = self.show or long_name
            return
        if value is None:
            if not rest:
                raise UsageError(f"option {name} needs a value")
            value = rest.pop(0)
        parsed = option.parse(value, long_name)
        if option.attribute in GATES:
            self.gates[option.attribute] = parsed
        else:
            setattr(self, option.attribute, parsed)
