"""Which commands are builds: the programs that build, and what of them is cheap.

Shims (as sh) and hooks (as Python) decide by the same table, so it holds nothing but patterns of fnmatch(3),
which `case` in sh knows too. In doubt a command is no build: it runs as it would have, without a slot. What
may run for ever, a server or a watcher, is none either: it would keep a slot for ever.

A user changes the table in the config file, never a repository::

    [agents]
    heavy = ["bazel", "scripts/build-all"]    # builds with whatever arguments
    light = ["cmake", "make docs"]            # no builds: a program, or a program with these first words
"""

from __future__ import annotations

import os
from fnmatch import fnmatchcase
from typing import NamedTuple

from buildslots.settings.places import config_path

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

HELP = ("-h", "--help", "--version")
"""Words with which nearly every program only prints something."""
WATCH = ("--watch", "--watch=*", "--watchAll", "--watchAll=*", "watch", "--serve", "--dev")
PASSED_ON = tuple(word for word in WATCH if word.startswith("--"))
"""What says so behind a `--` as well: `npm test -- --watch`."""
SERVERS = (
    *("dev", "dev:*", "start", "start:*", "serve", "serve:*", "preview"),
    *("watch", "watch:*", "*:watch", "*:dev"),
)
"""What people call the scripts of a package that end only when somebody ends them."""


class Tool(NamedTuple):
    """A program that builds.

    Attributes:
        light: Patterns of words: with such a word anywhere before a `--`, it is no build; behind that only
            PASSED_ON counts.
        heavy: Patterns of its first operands, joined by a blank, such as "build" or "run *": it is a build
            only with one of them. Empty: with any operands, and with none.
        light_operands: Patterns of the same: it is no build with one of them, though `heavy` may match.
        valued: Options whose value is the next word, which is no operand.
    """

    light: tuple[str, ...] = HELP
    heavy: tuple[str, ...] = ()
    light_operands: tuple[str, ...] = ()
    valued: tuple[str, ...] = ()

    def is_build(self, arguments: Sequence[str]) -> bool:
        """Whether the program builds with these arguments."""
        operands: list[str] = []
        words = iter(arguments)
        for word in words:
            if word == "--":
                rest = list(words)
                if any(_matches(one, PASSED_ON) for one in rest):
                    return False
                operands += rest[: OPERANDS - len(operands)]
            elif _matches(word, self.light):
                return False
            elif word in self.valued:
                next(words, None)
            elif not word.startswith(("-", "+")) and len(operands) < OPERANDS:
                operands.append(word)
        joined = " ".join(operands)
        return not _matches(joined, self.light_operands) and (not self.heavy or _matches(joined, self.heavy))


OPERANDS = 2
"""So many operands are looked at: `npm run build` has two that say what it is."""


def _with_or_without(*words: str) -> tuple[str, ...]:
    """Patterns of each of the words, alone and with another operand."""
    return (*words, *(f"{word} *" for word in words))


MAKE = Tool(
    light=(
        *("-n", "--just-print", "--dry-run", "--recon", "-q", "--question", "-p", "--print-data-base"),
        *("-v", "-t", "--touch", "clean", "distclean", "mostlyclean", "help", *HELP, *SERVERS),
    )
)
SCRIPTS = tuple(f"{run} {name}" for run in ("run", "run-script") for name in SERVERS)
PACKAGES = Tool(
    light=(*HELP, "-v", *WATCH),
    heavy=(
        *_with_or_without("install", "i", "update", "upgrade", "up", "rebuild", "test", "t", "build", "pack"),
        *("ci", "add *", "tst"),
        *("run *", "run-script *", "exec *", "x *", "dlx *"),
    ),
    light_operands=(
        *SCRIPTS,
        *(f"{run} {tool}" for run in ("exec", "x", "dlx") for tool in ("vite", "nodemon", "serve")),
    ),
    valued=("--prefix", "--cwd", "-C", "--dir", "--filter", "-F", "-w", "--workspace"),
)
NODE_TOOLS = (
    *("vitest", "jest", "tsc", "webpack", "rollup", "esbuild"),
    *("playwright", "cypress", "mocha", "eslint", "turbo", "nx"),
)
"""Programs of node that build or test until they are done, unless they watch."""

RUN_TESTS = _with_or_without(*(f"run {tool}" for tool in ("pytest", "py.test", "tox", "nox")))
"""What runs a test suite in the environment of a project in Python: `uv run pytest`."""

TOOLS: dict[str, Tool] = {
    "make": MAKE,
    "gmake": MAKE,
    "ninja": Tool(light=(*HELP, "-n", "-t", "-h", "clean")),
    "meson": Tool(heavy=_with_or_without("compile", "test", "setup", "install")),
    "cmake": Tool(
        light=(*HELP, "-E", "-P", "-L*", "-N", "--find-package", "--open", "--help-*", "--list-presets*")
    ),
    "ctest": Tool(light=(*HELP, "-N", "--show-only", "--show-only=*")),
    "cargo": Tool(
        light=(*HELP, "-V", "--list"),
        heavy=(
            *_with_or_without(
                "build", "b", "check", "c", "test", "t", "bench", "clippy", "doc", "rustc", "fix"
            ),
            *_with_or_without("llvm-cov"),
            *(
                "d",
                "rustdoc",
                "install *",
                "nextest run",
                "package",
                "publish",
                "tarpaulin",
                "miri *",
                "hack *",
            ),
        ),
        valued=("--manifest-path", "--config", "-C", "-Z", "--color"),
    ),
    "go": Tool(
        light=("-h", "--help", "-n"),
        heavy=_with_or_without("build", "test", "install", "vet", "generate"),
        valued=("-C",),
    ),
    "npm": PACKAGES,
    "pnpm": PACKAGES,
    "yarn": PACKAGES._replace(heavy=("", *PACKAGES.heavy)),
    "bun": PACKAGES,
    "npx": Tool(
        light=(*HELP, "-v", *WATCH),
        heavy=(*_with_or_without(*NODE_TOOLS), "next build", "vite build"),
        valued=("-p", "--package", "-c", "--call"),
    ),
    **{tool: Tool(light=(*HELP, "-v", "-w", *WATCH)) for tool in NODE_TOOLS},
    "pytest": Tool(
        light=(*HELP, "-V", "--collect-only", "--co", "--fixtures", "--markers", "-f", "--looponfail")
    ),
    **{runner: Tool(heavy=RUN_TESTS) for runner in ("uv", "poetry", "pipenv", "pdm")},
    "tox": Tool(
        light=(*HELP, "-l", "--listenvs", "-a", "--listenvs-all", "--showconfig", "config", "list", "l", "c")
    ),
    "nox": Tool(light=(*HELP, "-l", "--list", "--list-sessions")),
    "mvn": Tool(
        light=(*HELP, "-v", "--version", "*:run", "*:help", "*:tree", "clean", "dependency:*", "help:*")
    ),
    "gradle": Tool(
        light=(
            *(*HELP, "-v", "-t", "--continuous", "--stop", "--status", "-m", "--dry-run"),
            *("bootRun", "*:bootRun"),
        ),
        light_operands=(*_with_or_without("run", "tasks", "help"), "projects", "properties", "clean", "init"),
    ),
    "dotnet": Tool(
        heavy=_with_or_without("build", "test", "publish", "pack", "restore", "msbuild", "vstest")
    ),
    "bazel": Tool(heavy=("build *", "test *", "coverage *", "fetch *")),
    "swift": Tool(light=("--help", "--version"), heavy=("build", "test", "package *")),
    "xcodebuild": Tool(
        light=("-help", "-version", "-list", "-showsdks", "-showBuildSettings", "-showdestinations")
    ),
    "sbt": Tool(heavy=(*_with_or_without("compile", "test"), "package", "assembly", "publish*")),
}
"""The programs that are builds, by name."""
TOOLS |= {
    "gradlew": TOOLS["gradle"],
    "mvnw": TOOLS["mvn"],
    "bazelisk": TOOLS["bazel"],
    "py.test": TOOLS["pytest"],
}

MODULES = ("pytest", "tox", "nox", "build", "pip", "compileall")
"""`python -m MODULE` builds if the module is one of `TOOLS`, or one of these."""


class Heavy:
    """The table as a user has it.

    Args:
        heavy: More programs, or programs with first words, that are builds with whatever arguments.
        light: What is no build, though the table or `heavy` says so.
    """

    def __init__(self, heavy: Iterable[str] = (), light: Iterable[str] = ()) -> None:
        self._heavy = [entry.split() for entry in heavy]
        self._light = [entry.split() for entry in light]
        self.tools: Mapping[str, Tool] = {
            **TOOLS,
            **{os.path.basename(words[0]): Tool(light=()) for words in self._heavy if len(words) == 1},
        }

    @property
    def entries(self) -> tuple[list[list[str]], list[list[str]]]:
        """What the user has said, in words: `light`, and `heavy` where that says nothing."""
        return self._light, self._heavy

    def is_build(self, argv: Sequence[str]) -> bool:
        """Whether the command `argv` builds: a program of the table, with arguments that are not cheap."""
        name, *arguments = [os.path.basename(argv[0]), *argv[1:]] if argv else [""]
        if self._begins(name, arguments, self._light):
            return False
        if self._begins(name, arguments, self._heavy):
            return True
        tool = self.tools.get(name)
        if tool is None and _is_python(name) and arguments[:1] == ["-m"] and len(arguments) > 1:
            module, arguments = arguments[1], arguments[2:]
            tool = TOOLS.get(module) or (_python_module(module) if module in MODULES else None)
        return tool is not None and tool.is_build(arguments)

    @staticmethod
    def _begins(name: str, arguments: Sequence[str], entries: list[list[str]]) -> bool:
        argv = [name, *arguments]
        return any(
            [os.path.basename(entry[0]), *entry[1:]] == argv[: len(entry)] for entry in entries if entry
        )


def load(environ: Mapping[str, str]) -> Heavy:
    """The table with what the user's config file says of it; what is wrong there counts as not said."""
    try:
        with open(config_path(environ), "rb") as file:
            text = file.read(MOST_BYTES).decode()
        import tomllib  # noqa: PLC0415 - 5 ms, and most users have no such file

        said = tomllib.loads(text).get("agents")
    except (OSError, ValueError, RecursionError):
        said = None
    said = said if isinstance(said, dict) else {}
    lists = [said.get(key) for key in ("heavy", "light")]
    return Heavy(
        *([one for one in some if isinstance(one, str)] if isinstance(some, list) else () for some in lists)
    )


MOST_BYTES = 16384
"""Of the config file, as `settings.file` has it."""


def _is_python(name: str) -> bool:
    return name.startswith("python") and not name.removeprefix("python").strip("0123456789.")


def _python_module(module: str) -> Tool:
    """What `python -m` of a module that is no program of the table does."""
    return Tool(heavy=("install *", "wheel *")) if module == "pip" else Tool()


def _matches(text: str, patterns: Iterable[str]) -> bool:
    return any(fnmatchcase(text, pattern) for pattern in patterns)
