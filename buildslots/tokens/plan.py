"""What a build with tokens is started with: its command and its environment.

`Plan` brings together what the command line, the user's environment and `--jobs N` say of its jobs, and what
the programs understand that it will run. N counts jobs, and the first of them needs no token. Nothing here
locks or starts anything.
"""

from __future__ import annotations

import os

from buildslots.tokens import makeflags
from buildslots.tokens.clients import FIFO, STRANGE, generated, make_style, ninja_unserved, on_path
from buildslots.tokens.commands import CARGO_LEVEL, CMAKE_LEVEL, OWN_VARIABLES, UNBOUNDED, Told, number, read

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence


class Plan:
    """What a build's jobs are to be.

    Attributes:
        jobs: How many it may run, by all that is said; None if nobody says so.
        unserved: Why the program that it runs takes no tokens, in words: "ninja 1.11.1". None if it does, or
            if it is no program that we know. Others that it runs may take tokens all the same.
        is_left_alone: Whether the build must have no jobserver: see `Command.is_unclear`.
    """

    __slots__ = (
        *("_argv", "_command", "_environ", "_kind", "_option", "_said", "_style"),
        *("is_left_alone", "jobs", "unserved"),
    )

    def __init__(
        self, argv: Sequence[str], environ: Mapping[str, str], option: int | None = None, cwd: str = ""
    ) -> None:
        """Find out what is said, and what the programs are.

        Args:
            argv: The build's arguments.
            environ: Its environment without us.
            option: N of `--jobs N`.
            cwd: Its directory, if that is not the one of this process.
        """
        self._argv = list(argv)
        self._environ = environ
        self._option = option
        self._command = command = read(argv)
        self._kind = command.tool
        if command.tool == "cmake":
            generator, program = "", ""
            if command.directory is not None:
                generator, program = generated(os.path.join(cwd, command.directory))
            self._kind = "ninja" if generator.startswith("Ninja") else "make" if generator else "cmake"
        else:
            program = self._argv[command.at] if self._argv else ""
        program = os.path.join(cwd, program) if "/" in program else on_path(program, environ) or program
        self._style = make_style([program] if self._kind == "make" else [], environ)
        self._said = self._find_said()
        self.unserved = self._find_unserved(program)
        self.is_left_alone = command.is_unclear
        self.jobs = min((n for n in (self._said, option) if n), default=None)

    def _find_said(self) -> int | None:
        """How many jobs the user wants, but for `--jobs`: N, 0 for as many as there are, or None."""
        if self._command.jobs is not None:
            return self._command.jobs
        own = OWN_VARIABLES.get(self._command.tool)
        said = None if own is None else number(self._environ.get(own))
        if own == CMAKE_LEVEL and self._environ.get(own) == "":
            said = UNBOUNDED  # a bare `-j`: DEFAULT_BUILD_PARALLEL_LEVEL in Source/cmake.cxx
        if said is None and self._kind in ("make", ""):
            said = makeflags.jobs_of(self._environ)
            if said == 1 and not self._kind:
                said = None  # of each make in there, and not of all that it runs
        return said

    def _find_unserved(self, program: str) -> str | None:
        if self._kind == "cmake":
            self._said = None
            return "there is no telling what cmake runs here"
        if self._kind not in ("make", "ninja"):
            return None
        if self._said == 1 or (self._kind == "make" and (self._said, self._option) == (None, None)):
            self._said = None  # of the program alone; what it runs may run more
            return f"{self._kind} runs one job"
        unserved = ninja_unserved(program) if self._kind == "ninja" else None
        if self._kind == "make" and self._style == STRANGE:
            unserved = f"{os.path.basename(program) or 'make'} is no GNU make, or older than 4.2"
        if unserved is not None:
            self._said = None
        return unserved

    def told(self, cap: int, fifo: str, descriptors: str) -> Told:
        """What the build is started with.

        Args:
            cap: How many tokens it may have.
            fifo: What follows `--jobserver-auth=` for those that open a FIFO.
            descriptors: The same for those that do not.
        """
        told = Told(self._argv, {})
        if self._option is not None:
            from buildslots.tokens import fixed  # noqa: PLC0415 - most builds say no --jobs

            told = fixed.told(self._argv, self._environ, self._option)
        changes = told.environ
        if self.unserved is None:
            told.command = self._argv if self._said is None else self._command.bare
            changes.pop(makeflags.VARIABLE, None)
        if self.unserved is None or self._command.tool != "cmake":
            changes.pop(CMAKE_LEVEL, None)
            if CMAKE_LEVEL in self._environ and (self._command.tool == "cmake" or self._option is not None):
                changes[CMAKE_LEVEL] = None
        jobs = cap + 1 if self.jobs is None else self.jobs
        if self._command.tool == "cargo" and self._said:
            changes[CARGO_LEVEL] = str(jobs)
        flags = changes.get(makeflags.VARIABLE) or self._environ.get(makeflags.VARIABLE, "")
        auth = fifo if self._style == FIFO else descriptors
        if self._wakes_make():
            flags = makeflags.with_jobs(flags, jobs, auth, "" if auth == fifo else fifo)
        else:
            flags = makeflags.without_jobs(flags, fifo)
        changes[makeflags.VARIABLE] = flags
        changes[makeflags.CARGO] = f"-j{jobs} {makeflags.AUTH}{auth}"
        return told

    def _wakes_make(self) -> bool:
        """Whether makes in this build run several jobs: they do below a ninja, or where a number is said.

        cargo tells those that it runs itself.
        """
        if self._style == STRANGE:
            return False
        if self._kind in ("cargo", "cmake", "ninja") and makeflags.jobs_of(self._environ) not in (None, 1):
            return True  # the user says so of all makes
        if self.unserved is not None or self._kind == "cargo":
            return False
        return self._kind == "ninja" or self._said is not None or self._option is not None
