"""Eight real builds at once, and how many of them slot-run lets compile at the same time.

`python -m bench.real_builds [--slots K] [--builds N] [--keep DIR]` builds N PyPI sdists that contain C or
C++, each with `slot-run --slots K … -- pip wheel --no-binary :all: --no-deps --no-build-isolation …`, all
started together, and then once more without slot-run. It shows three things:

- safety: compilers of no more than K different builds are ever alive together, nor are more than K builds;
- use: K of them are, so that the slots are not merely safe because they lie idle;
- that the instrument can see more than K: without slot-run it does.

Nothing here asks buildslots what it did. A small C program, the recorder, stands in for `cc` and `c++` (CC,
CXX) and around each whole build, and appends a line to one file when what it runs begins and when it has
ended: the clock is read before the fork and after the wait, so that no recorded span is shorter than the
real one.

Preparation (a virtual environment with this checkout, the build backend and the sdists) is not measured; the
measured part has pip's index switched off. Linux only: it adopts orphans with prctl(2) so as to reap them.
"""

from __future__ import annotations

import argparse
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
    from collections.abc import Iterable, Iterator, Mapping

CHECKOUT = Path(__file__).resolve().parent.parent
PACKAGES = (
    "greenlet==3.2.3",
    "msgpack==1.1.1",
    "bitarray==3.4.2",
    "xxhash==3.5.0",
    "psutil==7.0.0",
    "simplejson==3.20.1",
    "coverage==7.9.2",
    "pyrsistent==0.20.0",
)
"""Sdists that need only libc, setuptools and no Cython, and compile for 1 to 5 s on Python 3.11 to 3.13."""
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


def run_together(jobs: list[Job]) -> list[tuple[int, int]]:
    """Start all `jobs` at once and wait for them: when each was started (ns), and its exit status.

    Afterwards, on failure and on a signal too, no process started here or by them is left.

    Raises:
        Stopped: A signal came.
    """
    started: list[tuple[int, subprocess.Popen[bytes]]] = []
    deadline = time.monotonic() + LIMIT_S
    try:
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

    def __init__(self, root: Path, builds: int) -> None:
        self.root = root
        self.bin = root / "venv" / "bin"
        self.temporary = root / "tmp"
        self._tools = root / "recorder"
        self.temporary.mkdir()
        self._tools.mkdir()
        self._recorders()
        self._venv()
        self.sdists = self._download(builds)

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
        self._step(str(self.bin / "pip"), "install", *BACKENDS, str(CHECKOUT))

    def _download(self, builds: int) -> dict[str, Path]:
        wanted = PACKAGES[:builds]
        target = self.root / "sdists"
        options = ("--no-binary", ":all:", "--no-deps", "--no-build-isolation", "-d", str(target))
        self._step(str(self.bin / "pip"), "download", *options, *wanted)
        sdists = {}
        for number, package in zip(range(builds), itertools.cycle(wanted)):
            name, _, version = package.partition("==")
            again = number // len(PACKAGES)
            sdists[f"{name}-{again + 1}" if again else name] = target / f"{name}-{version}.tar.gz"
        return sdists

    def _step(self, *argv: str) -> None:
        output = self.root / "prepare.log"
        ((_, status),) = run_together([Job(list(argv), self.environ(), output)])
        if status:
            raise BenchError(f"exit status {status} of {' '.join(argv)}\n{_tail(output)}")


def run_round(workshop: Workshop, name: str, prefix: list[str]) -> Round:
    """Build everything at once, each build's command behind `prefix`; its files go to a folder `name`."""
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
            workshop.recorded_environ(build, log),
            folder / f"{build}.log",
        )
        for build, sdist in workshop.sdists.items()
    ]
    began = time.monotonic()
    ends = run_together(jobs)
    wall_s = time.monotonic() - began
    recorded = read_record(log)
    builds = []
    for build, job, (launched_ns, status) in zip(workshop.sdists, jobs, ends, strict=True):
        compilers = recorded.get(("compiler", build), [])
        why = _failure(folder / build, status, compilers)
        if why:
            why = f"{why}\n{_tail(job.output)}"
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


def report(slots: int, slotted: Round, free: Round) -> int:
    """Print what was recorded; the exit status."""
    print(f"{'build':<14}{'waited':>9}{'ran':>9}{'compilers':>11}{'ok':>5}{'ran without slot-run':>23}")
    for build, contrast in zip(slotted.builds, free.builds, strict=True):
        waited = _seconds([Span(build.launched_ns, span.start_ns) for span in build.ran])
        ok = "yes" if build.ok and contrast.ok else "NO"
        print(
            f"{build.name:<14}{waited:>9}{_seconds(build.ran):>9}{len(build.compilers):>11}{ok:>5}"
            f"{_seconds(contrast.ran):>23}"
        )
    print(f"\n{'':<26}{f'slot-run, K={slots}':>16}{'without':>11}")
    print(f"{'wall time':<26}{f'{slotted.wall_s:.1f} s':>16}{f'{free.wall_s:.1f} s':>11}")
    for title, with_slots, without in (
        ("builds compiling at once", slotted.compiling, free.compiling),
        ("builds running at once", slotted.running, free.running),
    ):
        print(f"{title:<26}{max(with_slots, default=0):>16}{max(without, default=0):>11}")
    print(f"\ntime by number of builds compiling: with slot-run {_shares(slotted.compiling)}; ", end="")
    print(f"without {_shares(free.compiling)}")
    problems = list(_problems(slots, slotted, free))
    for line in [*_notes(slots, slotted, free), *problems]:
        print(line)
    return 1 if problems else 0


def _problems(slots: int, slotted: Round, free: Round) -> Iterator[str]:
    for which, round_ in (("with slot-run", slotted), ("without", free)):
        for build in round_.builds:
            if not build.ok:
                yield f"FAIL: {build.name} ({which}): {build.why}"
    for what, seconds in (("compiled", slotted.compiling), ("ran", slotted.running)):
        if max(seconds, default=0) > slots:
            yield f"FAIL: {max(seconds)} builds {what} at once under {slots} slots"
    used = max(slotted.running, default=0)
    if used < min(slots, len(slotted.builds)):
        yield f"FAIL: only {used} builds ever ran at once, though {slots} could have"


def _notes(slots: int, slotted: Round, free: Round) -> Iterator[str]:
    """What this run does not show."""
    together = max(slotted.compiling, default=0)
    if together < min(slots, len(slotted.builds)):
        yield f"note: only {together} builds ever compiled together; the compiles were too short to meet"
    if max(free.compiling, default=0) <= slots:
        yield f"note: without slot-run no more than {slots} builds compiled together either"


def _seconds(spans: list[Span]) -> str:
    return f"{sum(span.end_ns - span.start_ns for span in spans) / 1e9:.1f} s" if spans else "-"


def _shares(seconds: dict[int, float]) -> str:
    return ", ".join(f"{level}: {length:.1f} s" for level, length in seconds.items()) or "none"


def _tail(path: Path) -> str:
    return "\n".join(f"    {line}" for line in path.read_text(errors="replace").splitlines()[-15:])


def _count(text: str) -> int:
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is not a positive whole number")
    return int(text)


def _bench(root: Path, slots: int, builds: int) -> int:
    print(f"preparing {builds} builds in {root}", flush=True)
    workshop = Workshop(root, builds)
    # For ever: with the default timeout a slow machine would, as promised, run builds as overflow.
    slot_run = [str(workshop.bin / "slot-run"), "--slots", str(slots), "--timeout", "none"]
    print(f"building under {slots} slots, then without slot-run\n", flush=True)
    # In this order what is still cold counts against slot-run.
    slotted = run_round(workshop, "slots", [*slot_run, "--dir", str(root / "pool"), "--"])
    free = run_round(workshop, "free", [])
    return report(slots, slotted, free)


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m bench.real_builds", description=__doc__.splitlines()[0])
    parser.add_argument("--slots", type=_count, default=2, metavar="K", help="slots (default 2)")
    parser.add_argument("--builds", type=_count, default=8, metavar="N", help="builds at once (default 8)")
    parser.add_argument("--keep", type=Path, metavar="DIR", help="work in this new folder and leave it there")
    options = parser.parse_args()
    if not sys.platform.startswith("linux"):
        parser.error("runs on Linux only")
    for signum in STOPPING:
        if signal.getsignal(signum) is not signal.SIG_IGN:  # nohup, `&` in a script
            signal.signal(signum, lambda number, _frame: stopped_by.append(number))
    ctypes.CDLL(None).prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)
    try:
        if options.keep is None:
            with tempfile.TemporaryDirectory(prefix="real-builds-") as root:
                return _bench(Path(root), options.slots, options.builds)
        try:
            options.keep.mkdir(parents=True)
        except FileExistsError:
            parser.error(f"{options.keep} exists already")
        return _bench(options.keep.resolve(), options.slots, options.builds)
    except BenchError as error:
        print(f"FAIL: {error}", file=sys.stderr)
        return 1
    except Stopped:
        return 128 + stopped_by[0]


if __name__ == "__main__":
    sys.exit(main())
