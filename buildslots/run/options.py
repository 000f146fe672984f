"""The command line of `slot-run`: the one table of its options, and the parser that reads it.

`--help`, the man page and the scripts of `buildslots completion` are made from the same table. The parser is
our own because argparse would cost 8 ms on the way to every build.
"""

from __future__ import annotations

from buildslots.errors import SettingError, without_password
from buildslots.settings.options import AUTO, parse_jobs, parse_tokens, parse_where
from buildslots.settings.values import (
    UNSET,
    parse_duration,
    parse_label,
    parse_load,
    parse_memory,
    parse_nice,
    parse_on_timeout,
    parse_pressure,
    parse_priority,
    parse_slots,
)

OWNER_GONE = ("leave", "end")
MOST_PID = 2**22
"""PID_MAX_LIMIT of Linux on 64 bits (proc_sys_kernel(5)); other systems have less."""

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    from buildslots.settings.values import Unset


def _parse_dir(text: str, source: str) -> str:
    if not text:
        raise SettingError(source, text, "is no directory")
    return text


def _parse_pid(text: str, source: str) -> int:
    digits = text.strip()
    if not (digits.isascii() and digits.isdigit()) or len(digits) > 9 or not 0 < int(digits) <= MOST_PID:
        raise SettingError(source, text, "is not the number of a process")
    return int(digits)


def _parse_owner_gone(text: str, source: str) -> str:
    if text not in OWNER_GONE:
        raise SettingError(source, text, "is neither 'leave' nor 'end'")
    return text


class Option:
    """An option of a command: what the parser does with it, and what people read about it.

    Attributes:
        names: All ways to write it; the last one is the long name.
        value: What its value is called, or "" if it takes none.
        bare: What counts without a value, which then can only stand behind an "="; "" if it needs one.
        parse: Makes the value from its text and the option's name, or raises SettingError. None for a flag.
        attribute: Where that value goes in `Options`.
        text: What it does. `[...]` at the end says what counts without it. Completion shows the beginning, up
            to the first colon, semicolon or bracket.
        words: Values to offer for completion; "word: meaning" where one is not enough.
    """

    __slots__ = ("attribute", "bare", "names", "parse", "text", "value", "words")

    def __init__(  # noqa: PLR0913, PLR0917 - a row of a table
        self,
        names: tuple[str, ...],
        value: str,
        parse: Callable[[str, str], object] | None,
        attribute: str,
        text: str,
        words: tuple[str, ...] = (),
        bare: str = "",
    ) -> None:
        self.names = names
        self.value = value
        self.parse = parse
        self.attribute = attribute
        self.text = text
        self.words = words
        self.bare = bare

    @property
    def behind(self) -> str:
        """What stands behind its name where people read how to write it."""
        return f"[={self.value}]" if self.bare else f" {self.value}".rstrip()


OPTIONS = (
    Option(("-n", "--slots"), "K", parse_slots, "slots", "how many builds may run at once [from the cores]"),
    Option(
        ("-p", "--pool"), "NAME", parse_where, "pool", "the pool to take the slot from, or its URL [default]"
    ),
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
    Option(
        ("--priority",),
        "WHICH",
        parse_priority,
        "priority",
        "its place in line: as if it had come 5 minutes earlier (high) or later (low) [normal]",
        ("high: a head start", "normal: by arrival", "low: behind the others"),
    ),
    Option(
        ("--label",), "TEXT", parse_label, "label", "what views and the waiting line call it [its command]"
    ),
    Option(("-w", "--weight"), "W", parse_slots, "weight", "how many slots it needs, taken together [1]"),
    Option(
        ("--tokens",),
        "C",
        parse_tokens,
        "tokens",
        "take its jobs beyond the first from C tokens that all builds share; auto: the cores less one [off]",
        ("auto: the cores less one", "off: none"),
        AUTO,
    ),
    Option(("--jobs",), "N", parse_jobs, "jobs", "at most N jobs at once, for make, ninja, cargo and others"),
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
    Option(
        ("--nice",),
        "N",
        parse_nice,
        "nice",
        "run it at that niceness, from 0 to 19; below 0 where that is allowed [as slot-run]",
    ),
    Option(
        ("--owner",),
        "PID",
        _parse_pid,
        "owner",
        "the process for which it is done: when that is gone, it does not wait any longer [CLAUDE_PID]",
    ),
    Option(
        ("--owner-gone",),
        "WHAT",
        _parse_owner_gone,
        "owner_gone",
        "what becomes of it if it runs by then: it goes on (leave), or ends after a minute (end) [leave]",
        ("leave: it goes on", "end: after a minute"),
    ),
    Option(("--dir",), "PATH", _parse_dir, "dir", "directory of the default pool [~/.cache/.build-slots]"),
    Option(
        ("--detach",),
        "",
        None,
        "detach",
        "run it in a session of its own and print its ID; `buildslots wait` waits for its end",
    ),
    Option(("--new",), "", None, "new", "with --detach: also if the same build waits or runs already"),
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
        pool: Name of the pool, its URL, or None.
        timeout_s: Seconds, None for ever, or UNSET.
        on_timeout: "run", "paced", "fail" or None.
        weight: How many slots the command needs, or None.
        label: What others are told that it is, or None.
        priority: "high", "normal", "low" or None.
        nice: The niceness, or None.
        tokens: How many tokens builds share, "auto", 0 for none, or None.
        jobs: How many jobs the command may run at once, or None.
        owner: The process for which it is done, or None.
        owner_gone: "leave" or "end": what becomes of the command when that is gone.
        gates: The conditions on the machine's state, by the names of `Gates`' arguments.
        dir: Directory of the default pool, or None.
        detach: Whether it is to run in a session of its own.
        new: Whether that is to be another build, though the same one waits or runs already.
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
        self.label: str | None = None
        self.priority: str | None = None
        self.nice: int | None = None
        self.tokens: int | str | None = None
        self.jobs: int | None = None
        self.owner: int | None = None
        self.owner_gone = "leave"
        self.gates: dict[str, object] = {}
        self.timeout_s: float | Unset | None = UNSET
        self.on_timeout: str | None = None
        self.dir: str | None = None
        self.detach = False
        self.new = False
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
        if self.new and not self.detach:
            raise UsageError("--new is for --detach: give both, or none")

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
                raise UsageError(f"option {name} takes no value, but has {without_password(value)!r}")
            if option.attribute:
                setattr(self, option.attribute, True)
            else:
                self.show = self.show or long_name
            return
        if value is None and option.bare:
            if rest and rest[0].isdecimal():
                raise UsageError(f"the value of option {name} stands behind an =: {name}={rest[0]}")
            value = option.bare
        if value is None:
            if not rest:
                raise UsageError(f"option {name} needs a value")
            value = rest.pop(0)
        parsed = option.parse(value, long_name)
        if option.attribute in GATES:
            self.gates[option.attribute] = parsed
        else:
            setattr(self, option.attribute, parsed)
