"""Real builds, run together and recorded: what `bench.real_builds` and `bench.agents` have in common.

A small C program, the recorder, stands in for `cc` and `c++` (CC, CXX) and around each whole build, and
appends a line to one file when what it runs begins and when it has ended: the clock is read before the fork
and after the wait, so that no recorded span is shorter than the real one. Nothing here asks buildslots what
it did.

Preparation (a virtual environment with this checkout, the build backends and the sdists) is not measured; the
measured part has pip's index switched off. Linux only: it adopts orphans with prctl(2) so as to reap them.
"""

from __future__ import annotations

import contextlib
import ctypes
import itertools
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import zipfile
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping

CHECKOUT = Path(__file__).resolve().parent.parent
BACKENDS = ("setuptools==80.9.0", "wheel==0.45.1")
PIP_WHEEL = ("wheel", "--no-binary", ":all:", "--no-deps", "--no-build-isolation", "--no-cache-dir")
LIMIT_S = 900.0
"""A round that takes longer hangs, and has failed."""
POLL_S = 0.02
GRACE_S = 5.0
"""From SIGTERM to SIGKILL, and again from there until the last process must be gone."""
STOPPING = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
PR_SET_CHILD_SUBREAPER = 36  # linux/prctl.h

RECORDER = r"""
/* Runs a program and appends to $REAL_BUILDS_LOG when it began and when it ended. With REAL defined it is
   that program under another name, otherwise it runs its arguments. Exit status and death by signal are
   passed on. */
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

static void note(const char *edge)
{
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    char line[256];
    int length = snprintf(line, sizeof line, KIND " %s %lld %s %ld\n", edge,
                          now.tv_sec * 1000000000LL + now.tv_nsec, getenv("REAL_BUILDS_ID"), (long)getpid());
    /* One write with O_APPEND: lines of different processes do not mix. */
    int fd = open(getenv("REAL_BUILDS_LOG"), O_WRONLY | O_APPEND | O_CREAT | O_CLOEXEC, 0644);
    if (fd < 0 || write(fd, line, length) != length) {
        perror("recorder");
        _exit(125); /* an unrecorded compiler must not look like none */
    }
    close(fd);
}

int main(int argc, char **argv)
{
    int status;
    note("start");
    pid_t pid = fork();
    if (pid == 0) {
#ifdef REAL
        argv[0] = REAL;
        execv(REAL, argv);
#else
        execvp(argv[1], argv + 1);
#endif
        perror("recorder: exec");
        _exit(127);
    }
    if (pid < 0)
        status = 125 << 8;
    else
        while (waitpid(pid, &status, 0) < 0 && errno == EINTR)
            ;
    note("end");
    if (WIFSIGNALED(status)) {
        signal(WTERMSIG(status), SIG_DFL);
        kill(getpid(), WTERMSIG(status));
    }
    return WIFEXITED(status) ? WEXITSTATUS(status) : 125;
}
"""

stopped_by: list[int] = []
"""The signals that asked this program to stop. Handlers only note them, so none can come between the start of
a process and its being known."""


class BenchError(Exception):
    """The benchmark cannot go on."""


class Stopped(BaseException):
    """A signal asked this program to stop; everything it started has been reaped."""


@dataclass(frozen=True)
class Job:
    """A process to run: what, in which environment, and where its output goes."""

    argv: list[str]
    environ: Mapping[str, str]
    output: Path


@dataclass(frozen=True)
class Span:
    """From when to when something ran, in ns of CLOCK_MONOTONIC."""

    start_ns: int
    end_ns: int


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
    running: dict[int, float]


def run_together(
    jobs: list[Job], beside: contextlib.AbstractContextManager[object] | None = None
) -> list[tuple[int, int]]:
    """Start all `jobs` at once and wait for them: when each was started (ns), and its exit status.

    What goes on `beside` them begins before the first is started and is over before anything is ended.

    Afterwards, on failure and on a signal too, no process started here or by them is left.

    Raises:
        Stopped: A signal came.
    """
    started: list[tuple[int, subprocess.Popen[bytes]]] = []
    deadline = time.monotonic() + LIMIT_S
    try:
        with beside or contextlib.nullcontext():
            for job in jobs:
                with job.output.open("ab") as output:
                    launched_ns = time.monotonic_ns()
                    # A session each: one killpg reaches all of a build, and no build reaches our terminal.
                    process = subprocess.Popen(
                        job.argv,
                        env=job.environ,
                        stdin=subprocess.DEVNULL,
                        stdout=output,
                        stderr=output,
                        start_new_session=True,
                    )
                started.append((launched_ns, process))
            _await_exits([process for _, process in started], deadline, until_signal=True)
    finally:
        _end([process for _, process in started])
    if stopped_by:
        raise Stopped
    return [(launched_ns, process.returncode) for launched_ns, process in started]


def _await_exits(processes: list[subprocess.Popen[bytes]], deadline: float, *, until_signal: bool) -> None:
    """Wait until all `processes` have exited, without reaping them."""
    waiting = list(processes)
    while waiting and time.monotonic() < deadline and not (until_signal and stopped_by):
        time.sleep(POLL_S)
        waiting = [process for process in waiting if not _has_exited(process)]


def _has_exited(process: subprocess.Popen[bytes]) -> bool:
    return os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOHANG | os.WNOWAIT) is not None


def _end(processes: list[subprocess.Popen[bytes]]) -> None:
    """End what is left of `processes` and their descendants, and reap it all."""
    running = [process for process in processes if not _has_exited(process)]
    for process in running:
        os.killpg(process.pid, signal.SIGTERM)
    _await_exits(running, time.monotonic() + GRACE_S, until_signal=False)
    for process in processes:
        # Not reaped yet, so the number is still its group's, even if only orphans are left in there.
        os.killpg(process.pid, signal.SIGKILL)
    for process in processes:
        process.wait()
    deadline = time.monotonic() + GRACE_S
    with contextlib.suppress(ChildProcessError):  # none left
        while time.monotonic() < deadline:
            if os.waitpid(-1, os.WNOHANG) == (0, 0):
                time.sleep(POLL_S)


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
        self._tools = root / "recorder"
        self.temporary.mkdir()
        self._tools.mkdir()
        self._recorders()
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
            REAL_BUILDS_ID=build,
            REAL_BUILDS_LOG=str(log),
        )

    def whole(self) -> str:
        """The recorder that goes around a whole build."""
        return str(self._tools / "whole")

    def _recorders(self) -> None:
        source = self._tools / "recorder.c"
        source.write_text(RECORDER)
        for name in ("cc", "c++", "whole"):
            real = shutil.which(name)
            if real is None and name != "whole":
                raise BenchError(f"no {name} in PATH")
            kind = ['-DKIND="whole"'] if real is None else ['-DKIND="compiler"', f'-DREAL="{real}"']
            self._step("cc", "-O1", *kind, "-o", str(self._tools / name), str(source))

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
                workshop.whole(),
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
    recorded = read_record(log)
    builds = []
    for build, job, (launched_ns, status) in zip(workshop.sdists, jobs, ends, strict=True):
        compilers = recorded.get(("compiler", build), [])
        why = _failure(folder / build, status, compilers)
        if why:
            why = f"{why}\n{tail(job.output)}"
        builds.append(Build(build, not why, why, launched_ns, recorded.get(("whole", build), []), compilers))
    return Round(
        builds,
        wall_s,
        compiling=levels(build.compilers for build in builds),
        running=levels(build.ran for build in builds),
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


def read_record(log: Path) -> dict[tuple[str, str], list[Span]]:
    """The spans in the file `log`, by kind ("compiler" or "whole") and build.

    Raises:
        BenchError: A start or an end is missing.
    """
    spans: dict[tuple[str, str], list[Span]] = {}
    begun: dict[tuple[str, str, str], int] = {}
    for line in log.read_text().splitlines():
        kind, edge, at, build, pid = line.split()
        key = (kind, build, pid)
        if (edge == "start") == (key in begun):
            raise BenchError(f"{log} has no other edge for: {line}")
        if edge == "start":
            begun[key] = int(at)
        else:
            spans.setdefault((kind, build), []).append(Span(begun.pop(key), int(at)))
    if begun:
        raise BenchError(f"{log} has no end of {', '.join(map(' '.join, begun))}")
    return spans


def levels(builds: Iterable[list[Span]]) -> dict[int, float]:
    """For how many seconds spans of exactly n different builds were alive at once, by n of 1 and more."""
    edges = sorted(
        edge
        for spans in builds
        for span in _merged(spans)
        for edge in ((span.start_ns, 1), (span.end_ns, -1))
    )
    seconds: Counter[int] = Counter()
    alive = 0
    for (at, step), (until, _) in itertools.pairwise(edges):
        alive += step
        if alive and until > at:
            seconds[alive] += until - at
    return {level: length / 1e9 for level, length in sorted(seconds.items())}


def _merged(spans: list[Span]) -> Iterator[Span]:
    """The same time as `spans`, in spans that do not touch: a build counts once, not once a compiler."""
    current: Span | None = None
    for span in sorted(spans, key=lambda span: span.start_ns):
        if current is not None and span.start_ns <= current.end_ns:
            current = Span(current.start_ns, max(current.end_ns, span.end_ns))
        else:
            if current is not None:
                yield current
            current = span
    if current is not None:
        yield current


def tail(path: Path) -> str:
    return "\n".join(f"    {line}" for line in path.read_text(errors="replace").splitlines()[-15:])


def run(name: str, bench: Callable[[Path], int], keep: Path | None = None) -> int:
    """Run `bench` in a new folder, `keep` or a temporary one of that name; the exit status of the program."""
    for signum in STOPPING:
        if signal.getsignal(signum) is not signal.SIG_IGN:  # nohup, `&` in a script
            signal.signal(signum, lambda number, _frame: stopped_by.append(number))
    ctypes.CDLL(None).prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)
    try:
        if keep is not None:
            keep.mkdir(parents=True)
            return bench(keep.resolve())
        with tempfile.TemporaryDirectory(prefix=f"{name}-") as root:
            return bench(Path(root))
    except (BenchError, FileExistsError) as error:
        print(f"FAIL: {error}", file=sys.stderr)
        return 1
    except Stopped:
        return 128 + stopped_by[0]
