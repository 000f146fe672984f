"""Real builds: sdists that contain C or C++, with a recorder around each build and each of its compilers.

Nothing here asks buildslots what it did. The preparation (a virtual environment with this checkout, the build
backends and the sdists) is not measured; the measured part has pip's index switched off.
"""

from __future__ import annotations

import contextlib
import itertools
import os
import shutil
import sys
import time
import zipfile
from dataclasses import dataclass
from pathlib import Path

from bench.agents.together import BenchError, Job, run_together
from bench.kit.recorder import compile_recorder, recorded
from bench.kit.shell import CHECKOUT
from bench.kit.spans import Span, levels

BACKENDS = ("setuptools==80.9.0", "wheel==0.45.1")
PIP_WHEEL = ("wheel", "--no-binary", ":all:", "--no-deps", "--no-build-isolation", "--no-cache-dir")
WHOLE, COMPILER = "whole:", "compiler:"
"""What the name of a recorded span begins with; the name of the build follows."""
COMPILER_SCRIPT = """\
#!/bin/sh
exec '{recorder}' "$AGENTS_LOG" "compiler:$AGENTS_BUILD" -- '{real}' "$@"
"""


@dataclass(frozen=True)
class Build:
    """What became of one build in one round."""

    name: str
    ok: bool
    why: str
    launched_ns: int
    ran: list[Span]
    compilers: list[Span]


@dataclass(frozen=True)
class Round:
    """All builds, run once."""

    builds: list[Build]
    wall_s: float
    compiling: dict[int, float]


class Workshop:
    """A directory with everything that the builds need.

    Attributes:
        bin: The virtual environment's programs.
        sdists: By name of the build.
    """

    def __init__(
        self, root: Path, packages: tuple[str, ...], builds: int, backends: tuple[str, ...] = BACKENDS
    ) -> None:
        """Prepare `builds` builds of `packages`, each NAME==VERSION, which need `backends`."""
        self.root = root
        self._backends = backends
        self.bin = root / "venv" / "bin"
        self.temporary = root / "tmp"
        self._tools = root / "compilers"
        self.temporary.mkdir()
        self._tools.mkdir()
        self._recorder = compile_recorder(root)
        self._compilers()
        self._venv()
        self.sdists = self._download(packages, builds)

    def environ(self, **more: str) -> dict[str, str]:
        """Our environment without what would change the builds or lead around the recorder."""
        env = {
            name: value
            for name, value in os.environ.items()
            if not name.startswith(("BUILD_SLOT", "MAX_CONCURRENT_BUILDS", "PYTHON"))
            and name not in {"CC", "CXX", "LDSHARED", "LDCXXSHARED"}
        }
        env["PATH"] = f"{self.bin}{os.pathsep}{env.get('PATH', os.defpath)}"
        env["XDG_STATE_HOME"] = str(self.temporary)  # the journal
        env["TMPDIR"] = str(self.temporary)  # what a killed pip leaves goes away with the rest
        return env | more

    def recorded_environ(self, build: str, log: Path) -> dict[str, str]:
        """The environment in which the compilers of `build` are recorded in `log`."""
        return self.environ(
            CC=str(self._tools / "cc"),
            CXX=str(self._tools / "c++"),
            PIP_NO_INDEX="1",
            AGENTS_BUILD=build,
            AGENTS_LOG=str(log),
        )

    def whole(self, build: str, log: Path) -> list[str]:
        """What goes in front of the command of the whole `build`, to record it in `log`."""
        return [str(self._recorder), str(log), f"{WHOLE}{build}", "--"]

    def _compilers(self) -> None:
        for name in ("cc", "c++"):
            real = shutil.which(name)
            if real is None:
                raise BenchError(f"no {name} in PATH")
            script = self._tools / name
            script.write_text(COMPILER_SCRIPT.format(recorder=self._recorder, real=real))
            script.chmod(0o755)

    def _venv(self) -> None:
        self._step(sys.executable, "-m", "venv", str(self.root / "venv"))
        self._step(str(self.bin / "pip"), "install", *self._backends, str(CHECKOUT))

    def _download(self, packages: tuple[str, ...], builds: int) -> dict[str, Path]:
        wanted = packages[:builds]
        target = self.root / "sdists"
        options = ("--no-binary", ":all:", "--no-deps", "--no-build-isolation", "-d", str(target))
        self._step(str(self.bin / "pip"), "download", *options, *wanted)
        sdists = {}
        for number, package in zip(range(builds), itertools.cycle(wanted)):
            name, _, version = package.partition("==")
            again = number // len(packages)
            sdists[f"{name}-{again + 1}" if again else name] = target / f"{name}-{version}.tar.gz"
        return sdists

    def _step(self, *argv: str) -> None:
        output = self.root / "prepare.log"
        ((_, status),) = run_together([Job(list(argv), self.environ(), output)])
        if status:
            raise BenchError(f"exit status {status} of {' '.join(argv)}\n{tail(output)}")


def run_round(
    workshop: Workshop,
    name: str,
    prefix: list[str],
    beside: contextlib.AbstractContextManager[object] | None = None,
    **more: str,
) -> Round:
    """Build everything at once, each build's command behind `prefix`; its files go to a folder `name`.

    Args:
        workshop: What to build.
        name: Of the round.
        prefix: slot-run and its options, or nothing.
        beside: What goes on meanwhile.
        more: Variables for the builds.
    """
    folder = workshop.root / name
    folder.mkdir()
    log = folder / "recorded"
    log.touch()
    jobs = [
        Job(
            [
                *prefix,
                *workshop.whole(build, log),
                str(workshop.bin / "pip"),
                *PIP_WHEEL,
                "-w",
                str(folder / build),
                str(sdist),
            ],
            workshop.recorded_environ(build, log) | more,
            folder / f"{build}.log",
        )
        for build, sdist in workshop.sdists.items()
    ]
    began = time.monotonic()
    ends = run_together(jobs, beside)
    wall_s = time.monotonic() - began
    spans = recorded(log)
    builds = []
    for build, job, (launched_ns, status) in zip(workshop.sdists, jobs, ends, strict=True):
        compilers = [span for span in spans if span.name == f"{COMPILER}{build}"]
        ran = [span for span in spans if span.name == f"{WHOLE}{build}"]
        why = _failure(folder / build, status, compilers)
        if why:
            why = f"{why}\n{tail(job.output)}"
        builds.append(Build(build, not why, why, launched_ns, ran, compilers))
    return Round(
        builds,
        wall_s,
        compiling=levels(build.compilers for build in builds),
    )


def _failure(wheels: Path, status: int, compilers: list[Span]) -> str:
    """Why this was no real build; empty if it was one."""
    if status:
        return f"exit status {status}"
    if not compilers:
        return "no compiler was recorded"
    # Several of these packages quietly become pure Python when their extension does not compile.
    for wheel in wheels.glob("*.whl"):
        with zipfile.ZipFile(wheel) as archive:
            if any(member.endswith(".so") for member in archive.namelist()):
                return ""
    return "no wheel with a compiled extension"


def tail(path: Path) -> str:
    return "\n".join(f"    {line}" for line in path.read_text(errors="replace").splitlines()[-15:])
