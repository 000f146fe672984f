"""What a command line says of a build's jobs, and the same command without that.

A `-j8` on the command line beats everything in the environment: GNU make makes a jobserver of its own for it
("resetting jobserver mode"), ninja listens to none, and `cmake --build` hands it on to either. So slot-run
takes such an N for its own, and runs the command without it. Only the command that slot-run itself runs is
read, and what stands behind the likes of `timeout 10m`; what a script or a recipe says is out of reach.

The grammars are those of the programs: `switches` and `decode_switches` in src/main.c of GNU make 4.4,
`ReadFlags` in src/ninja.cc, `do_build` in Source/cmakemain.cxx, and the subcommands of cargo by their --help.
In doubt (`-j8x`, an option that only a newer version has) the command stays as it is.
"""

from __future__ import annotations

import os

from buildslots.wrappers import EMPTIES, behind, name_set

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    Changes = dict[str, str | None]

UNBOUNDED = 0
"""The jobs of a bare `-j`: as many as there are."""
MOST_JOBS = 99_999
"""More than so many are no number of jobs, but a mistake; the tool itself shall say so."""
WRAPPERS_DEEP = 8
VARIABLES = ("PATH", "MAKEFLAGS", "GNUMAKEFLAGS", "CARGO_MAKEFLAGS", "CMAKE_BUILD_PARALLEL_LEVEL")
"""`env` with one of these set or unset gives its command another environment than we know of."""
CARGO_JOBS = {
    *("build", "b", "check", "c", "test", "t", "bench", "doc", "d", "rustc", "rustdoc"),
    *("fix", "clippy", "install", "package", "publish"),
}
"""Subcommands of cargo whose `-j` is the number of its jobs wherever it stands before a `--`. In `run` it may
be an argument of the program, and in `nextest run` it is a number of tests: see `Command.is_unclear`."""
CARGO_VALUED = ("--color", "--config", "-C", "-Z")
"""Options of cargo itself, before the subcommand, whose value is the next word."""
CMAKE_LEVEL = "CMAKE_BUILD_PARALLEL_LEVEL"
"""cmake-env-variables(7). The native tool gets it as a `-j` on its command line, which beats a jobserver."""
CARGO_LEVEL = "CARGO_BUILD_JOBS"
""""build.jobs" in cargo's book, "Configuration". Below a jobserver it is only what NUM_JOBS says."""
OWN_VARIABLES = {"cmake": CMAKE_LEVEL, "cargo": CARGO_LEVEL}
"""What says the jobs of a tool, if its command line does not."""


class Told:
    """What a build is started with.

    Attributes:
        command: Its arguments.
        environ: Variables that it gets besides, or in place of others; None for one that it does not get.
    """

    __slots__ = ("command", "environ")

    def __init__(self, command: list[str], environ: Changes) -> None:
        self.command = command
        self.environ = environ


class Grammar:
    """How a program's options are written.

    Attributes:
        jobs: The long names of `-j`.
        valued: Letters whose value is the rest of the word, or the next word; so getopt_long(3) has it. None
            where several letters do not go together in one word.
        maybe: Letters whose value, if there is one, is the rest of the word.
        numbered: Letters of `maybe` whose value may be the next word, too, if that is a number.
        long_valued: Long options whose value may be the next word.
        needs_number: Whether a bare `-j` is a mistake.
        takes_zero: Whether `-j0` means as many as there are.
    """

    __slots__ = ("jobs", "long_valued", "maybe", "needs_number", "numbered", "takes_zero", "valued")

    def __init__(  # noqa: PLR0913 - a row of a table
        self,
        *,
        jobs: tuple[str, ...] = (),
        valued: str | None = None,
        maybe: str = "",
        numbered: str = "",
        long_valued: tuple[str, ...] = (),
        needs_number: bool = False,
        takes_zero: bool = False,
    ) -> None:
        self.jobs = jobs
        self.valued = valued
        self.maybe = maybe
        self.numbered = numbered
        self.long_valued = long_valued
        self.needs_number = needs_number
        self.takes_zero = takes_zero


MAKE = Grammar(
    jobs=("--jobs",),
    valued="CEfIoW",
    maybe="lO",
    numbered="l",
    long_valued=(
        *("--directory", "--eval", "--file", "--makefile", "--include-dir", "--old-file", "--assume-old"),
        *("--what-if", "--new-file", "--assume-new", "--jobserver-style", "--sync-mutex"),
    ),
)
NINJA = Grammar(valued="dfkltwC", long_valued=("--status",), needs_number=True, takes_zero=True)
CMAKE = Grammar(jobs=("--parallel",))
CARGO = Grammar(jobs=("--jobs",), needs_number=True)


class Said:
    """What options say of jobs.

    Attributes:
        jobs: N of the last `-jN`; UNBOUNDED for a bare `-j`; None if there is none.
        bare: The words without it.
        operands_at: Where in `bare` the `--` stands that ends the options; its length if there is none.
    """

    __slots__ = ("bare", "jobs", "operands_at")

    def __init__(self, jobs: int | None, bare: list[str], operands_at: int) -> None:
        self.jobs = jobs
        self.bare = bare
        self.operands_at = operands_at


class Command:
    """A command as tokens see it.

    Attributes:
        tool: "make", "ninja", "cmake" (that is `cmake --build`) or "cargo"; empty for any other program.
        at: Where in `argv` the tool's name is; behind a `timeout 10m` it is not the first word.
        jobs: N of its `-jN`; UNBOUNDED for a bare `-j`; None if it says nothing.
        bare: The whole command without that.
        directory: What `cmake --build` builds, as it is written; None for anything else.
        is_unclear: Whether it may say how many jobs it wants in a way that is not understood. cargo does not
            listen to its `-j` below a jobserver, so it must have none then.
    """

    __slots__ = ("at", "bare", "directory", "is_unclear", "jobs", "tool")

    def __init__(  # noqa: PLR0913 - all that there is to know
        self,
        tool: str,
        at: int,
        bare: list[str],
        *,
        jobs: int | None = None,
        directory: str | None = None,
        is_unclear: bool = False,
    ) -> None:
        self.is_unclear = is_unclear
        self.tool = tool
        self.at = at
        self.jobs = jobs
        self.bare = bare
        self.directory = directory


def read(argv: Sequence[str]) -> Command:
    """What the command `argv`, which may be empty, says of its jobs. Opens no file."""
    argv = list(argv)
    if not argv:
        return Command("", 0, argv)
    at = _behind_wrappers(argv)
    if at is None:
        return Command("", 0, argv)
    tool = TOOLS.get(os.path.basename(argv[at]), "")
    words = argv[at + 1 :]
    if tool == "cmake":
        return _cmake_build(argv, at)
    if tool == "cargo":
        said = _cargo(words)
    elif tool:
        said = options(words, MAKE if tool == "make" else NINJA)
    else:
        said = None
    if said is None:
        own = words[: words.index("--")] if "--" in words else words  # behind it are the program's
        is_unclear = tool == "cargo" and any(word[:2] == "-j" or word.startswith("--jobs") for word in own)
        return Command(tool, at, argv, is_unclear=is_unclear)
    return Command(tool, at, [*argv[: at + 1], *said.bare], jobs=said.jobs)


TOOLS = {
    **dict.fromkeys(("make", "gmake", "gnumake"), "make"),
    **dict.fromkeys(("ninja", "ninja-build"), "ninja"),
    **dict.fromkeys(("cmake", "cmake3"), "cmake"),
    "cargo": "cargo",
}
"""The programs whose `-jN` is known, by the names that they go by: `ninja-build` is Fedora's."""


def options(words: Iterable[str], grammar: Grammar) -> Said | None:
    """What the options among `words` say, up to a `--`; None if they cannot be understood."""
    rest = list(words)
    said = Said(None, [], 0)
    try:
        while rest:
            word = rest.pop(0)
            said.operands_at = len(said.bare)
            if word == "--":
                said.bare += [word, *rest]
                return said
            name, equals, value = word.partition("=")
            if name in grammar.jobs:
                said.jobs = _number(value if equals else None, rest, grammar)
            elif word[:2] == "--" or word[:1] != "-" or word == "-":
                said.bare.append(word)
                if not equals and word in grammar.long_valued:
                    _move(rest, said.bare)
            elif grammar.valued is not None:
                _letters(word[1:], rest, said, grammar, grammar.valued)
            elif word[:2] == "-j":
                said.jobs = _number(word[2:].removeprefix("=") or None, rest, grammar)
            else:
                said.bare.append(word)
    except _UnclearError:
        return None
    said.operands_at = len(said.bare)
    return said


class _UnclearError(Exception):
    """A command line says something that is no number of jobs."""


def _letters(letters: str, rest: list[str], said: Said, grammar: Grammar, valued: str) -> None:
    """Read the options of a word like `-kj8`, and what follows it in `rest`, into `said`."""
    kept = ""
    has_value = False
    while letters and not has_value:
        letter, letters = letters[0], letters[1:]
        if letter == "j":
            said.jobs = _number(letters or None, rest, grammar)
            break
        has_value = letter in valued or letter in grammar.maybe
        kept += letter
    if not kept:
        return
    said.bare.append(f"-{kept}{letters if has_value else ''}")
    if has_value and not letters:
        is_number = rest[:1] and (rest[0][:1].isdecimal() or rest[0][:1] == ".")
        if kept[-1] in valued or (kept[-1] in grammar.numbered and is_number):
            _move(rest, said.bare)


def _number(value: str | None, rest: list[str], grammar: Grammar) -> int:
    """The N of a `-j` with what is attached to it, or with the next word if that is a number."""
    if value is None:
        if not (rest and _is_number(rest[0])):
            if grammar.needs_number:
                raise _UnclearError
            return UNBOUNDED
        value = rest.pop(0)
    if not _is_number(value) or int(value) > MOST_JOBS or not (int(value) or grammar.takes_zero):
        raise _UnclearError
    return int(value)


def _is_number(word: str) -> bool:
    return word.isascii() and word.isdecimal() and len(word) < 10


def _move(rest: list[str], bare: list[str]) -> None:
    """The next word is a value."""
    bare += rest[:1]
    del rest[:1]


def _behind_wrappers(argv: list[str]) -> int | None:
    """Where the command is in `argv` that the likes of `timeout 10m` run; 0 if there is none of these.

    None if it cannot be told, or does not get our environment.
    """
    at = 0
    for _ in range(WRAPPERS_DEEP):
        step = behind(argv[at:])
        if step == 0:
            return at
        if step is None or at + step >= len(argv):
            return None
        if any(word in EMPTIES or _variable(word) in VARIABLES for word in argv[at + 1 : at + step]):
            return None
        at += step
    return None


def _variable(word: str) -> str:
    """The variable that a word of env(1) sets or unsets, as in `CC=clang`, `-u CC`, `-uCC`, `--unset=CC`."""
    return name_set(word) or word.removeprefix("--unset=").removeprefix("-u")


def _cmake_build(argv: list[str], at: int) -> Command:
    """`cmake --build DIR`, with the options of the native tool behind a `--`; they win."""
    words = argv[at + 1 :]
    if words[:1] != ["--build"]:
        return Command("", at, argv)
    said = options(words, CMAKE)
    if said is None:
        return Command("cmake", at, argv)
    directory = next((word for word in said.bare[1:2] if not word.startswith("-")), None)
    bare, jobs = said.bare[: said.operands_at], said.jobs
    native = options(said.bare[said.operands_at + 1 :], MAKE)
    if native is None:
        return Command("cmake", at, argv, directory=directory)
    if native.jobs is not None:
        jobs = native.jobs
    if native.bare:
        bare += ["--", *native.bare]
    return Command("cmake", at, [*argv[: at + 1], *bare], jobs=jobs, directory=directory)


def _cargo(words: list[str]) -> Said | None:
    """The options of `cargo [+TOOLCHAIN] [OPTIONS] SUBCOMMAND`, for those subcommands that we know."""
    rest = iter(words)
    for word in rest:
        if word in CARGO_VALUED:
            next(rest, None)
        elif not word.startswith(("-", "+")):
            return options(words, CARGO) if word in CARGO_JOBS else None
    return None


def number(text: str | None) -> int | None:
    """The number of jobs that a variable says, if it does."""
    return int(text) if text is not None and text.isascii() and text.isdecimal() else None
