"""One run of a scenario under strace, with one call that fails, and all that is to be known of it after."""

from __future__ import annotations

import json
import os
import select
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path

from bench.faults import subject
from bench.faults.calls import OWN_SIGNALS
from bench.faults.cast import Stage
from bench.faults.record import again

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from bench.faults.calls import Call
    from bench.faults.scenarios import Scenario

LIMIT_S = 8.0
"""After so long it is killed."""
FREE_S = 1.5
"""How long a slot may take to be free after the end, on a machine that has other work."""
STEP_S = 0.004
CONTINUE_S = 0.05
DELAY_US = 150_000
COMMAND = """#!/bin/sh
# Says that it runs, and whether its slot is held, at once and when slot-run has long begun to wait for it.
say() {
  held=
  if [ -n "$BUILD_SLOT" ]; then
    flock -ns 9 9<"$FAULTS_POOL/slot-$BUILD_SLOT"
    if [ $? = 1 ]; then held=' held'; else held=' free'; fi
  fi
  echo "$1 ${BUILD_SLOT-none}$held" >>"$FAULTS_LOG"
}
say began
sleep 0.05
say ended
case $1 in
  [0-9]*) exit "$1" ;;
  *) kill "-$1" $$ ;;
esac
"""


@dataclass(frozen=True)
class Fault:
    """One call that fails: the `call`, and the `error` that it meets, or the signal that comes there."""

    scenario: Scenario
    call: Call
    error: str

    def __str__(self) -> str:
        return f"{self.scenario.name}:{self.call.name}:{self.error}:{self.call.n}"

    @property
    def injection(self) -> str:
        """For strace's `inject`."""
        what = f"error={self.error}"
        if self.error == "DELAY":
            what = f"delay_exit={DELAY_US}"
        elif self.error in OWN_SIGNALS:
            what = f"signal={self.error}"
        return f"{self.call.name}:{what}:when={self.call.n}"


@dataclass
class Outcome:
    """What came of one run.

    Attributes:
        status: Exit status of the process under test, or minus the signal that it died of; None: it had to be
            killed after `LIMIT_S`.
        seconds: How long it took.
        lines: What it wrote to stderr.
        log: What the command, or the block, said.
        result: What the subject found out, of the library.
        running: Whether a process that it had started was still there in the end.
        live: Tickets of which somebody has the lock in the end.
        free: Whether the slots were free in the end.
        others: What went wrong for the others, or "".
        met: The call that failed, as strace shows it, or "" if it was not reached.
        is_same: Whether that is the call that was meant.
        spoiled: Whether strace itself failed, as it may when SIGCONT comes at the moment of a stop.
    """

    status: int | None = None
    seconds: float = 0.0
    lines: list[str] = field(default_factory=list)
    log: list[str] = field(default_factory=list)
    result: dict[str, Any] | None = None
    running: bool = False
    live: list[str] = field(default_factory=list)
    free: bool = True
    others: str = ""
    met: str = ""
    is_same: bool = True
    spoiled: bool = False


class Runner:
    """Runs scenarios in the scratch directory `scratch`."""

    def __init__(self, scratch: Path) -> None:
        self._scratch = scratch
        self._command = scratch / "build"
        self._command.write_text(COMMAND)
        self._command.chmod(0o755)
        (scratch / "home").mkdir()
        self._slot_run = shutil.which("slot-run", path=os.path.dirname(sys.executable)) or "slot-run"

    def warm(self, scenario: Scenario) -> None:
        """Run it once as it is, so that the modules which it loads are compiled."""
        self._run(scenario, None, [], writes_modules=True)

    def record(self, scenario: Scenario) -> tuple[Outcome, str, str]:
        """Run it with nothing injected: what came of it, strace's record, and the directory of the files."""
        return self._run(scenario, None, ["-e", "trace=all"])

    def fail(self, fault: Fault) -> Outcome:
        """Run it with `fault`."""
        # What strace shows besides: where the process becomes the command, which is none of ours.
        trace = f"trace={fault.call.name},execve"
        outcome, _, _ = self._run(fault.scenario, fault, ["-e", trace, "-e", f"inject={fault.injection}"])
        return outcome

    def _run(
        self, scenario: Scenario, fault: Fault | None, strace: list[str], *, writes_modules: bool = False
    ) -> tuple[Outcome, str, str]:
        # A name that is as long in each run, so that the reads and writes are.
        own = self._scratch / f"own-{time.monotonic_ns() % 10**9:09}"
        while True:
            try:
                own.mkdir()
                break
            except FileExistsError:
                own = self._scratch / f"own-{time.monotonic_ns() % 10**9:09}"
        trace = self._scratch / f"{own.name}.trace"
        try:
            command = ["strace", "-qq", "-s", "96", "-o", str(trace), *strace] if strace else []
            outcome = self._play(scenario, fault, own, command, writes_modules=writes_modules)
            record = trace.read_text(errors="replace") if strace else ""
            if fault is not None:
                _find(outcome, fault, record, str(own))
            return outcome, record, str(own)
        finally:
            shutil.rmtree(own, ignore_errors=True)
            trace.unlink(missing_ok=True)

    def _environ(
        self, scenario: Scenario, own: Path, stage: Stage, *, writes_modules: bool
    ) -> dict[str, str]:
        environ = {
            "PATH": os.environ["PATH"],
            "HOME": str(self._scratch / "home"),
            "XDG_STATE_HOME": str(own / "state"),
            "BUILD_SLOTS_JOURNAL": "programs" if scenario.journal else "off",
            "PYTHONPYCACHEPREFIX": str(self._scratch / "compiled"),
            "PYTHONHASHSEED": "0",
            "LC_ALL": "C",
            "FAULTS_LOG": str(own / "log"),
            "FAULTS_RESULT": str(own / "result"),
            "FAULTS_POOL": str(stage.dir),
        }
        if not writes_modules:
            environ["PYTHONDONTWRITEBYTECODE"] = "1"
        return environ | stage.environ

    def _arguments(self, scenario: Scenario) -> list[str]:
        if scenario.is_library:
            return [sys.executable, subject.__file__, *scenario.options]
        what = [str(self._command), scenario.command] if scenario.command else ["/nowhere/to/be/found"]
        return [self._slot_run, *scenario.options, "--", *what]

    def _play(
        self, scenario: Scenario, fault: Fault | None, own: Path, strace: list[str], *, writes_modules: bool
    ) -> Outcome:
        outcome = Outcome()
        stage = Stage(scenario, own)
        errors = own / "stderr"
        environ = self._environ(scenario, own, stage, writes_modules=writes_modules)
        began = time.monotonic()
        with errors.open("wb") as stderr:
            process = subprocess.Popen(
                [*strace, *self._arguments(scenario)],
                env=environ,
                cwd=own,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=stderr,
                start_new_session=True,  # whatever is left of it has this group
            )
        try:
            self._watch(process, stage, errors, stops=fault is not None and fault.error == "SIGSTOP")
            outcome.seconds = time.monotonic() - began
            outcome.status = process.poll()
            outcome.running = not _ends(process.pid, FREE_S)
        finally:
            _kill(process.pid, signal.SIGKILL)
            process.wait()
            _ends(process.pid, FREE_S)
        stage.end()
        deadline = time.monotonic() + FREE_S
        while not (free := stage.is_free()) and time.monotonic() < deadline:
            time.sleep(STEP_S)
        outcome.free, outcome.live, outcome.others = free, stage.live(), stage.others
        said = errors.read_text(errors="replace").splitlines()
        outcome.lines = [line for line in said if not line.startswith("strace: ")]
        outcome.spoiled = outcome.lines != said
        outcome.log = _text(own / "log").splitlines()
        result = _text(own / "result")
        outcome.result = json.loads(result) if result else None
        return outcome

    def _watch(self, process: subprocess.Popen[bytes], stage: Stage, errors: Path, *, stops: bool) -> None:
        """Until it ends, or `LIMIT_S` is over."""
        ended = os.pidfd_open(process.pid)
        try:
            poll = select.poll()
            poll.register(ended, select.POLLIN)
            deadline = time.monotonic() + LIMIT_S
            go_on_at = time.monotonic() + CONTINUE_S
            while time.monotonic() < deadline and not poll.poll(STEP_S * 1000):
                stage.play(_child(process.pid), errors)
                if stops and time.monotonic() > go_on_at:
                    # To all of the group: strace and the command do not mind, and slot-run's pid is not ours
                    # to know. Again and again, for nobody tells when it has stopped.
                    _kill(process.pid, signal.SIGCONT)
                    go_on_at = time.monotonic() + CONTINUE_S
            if time.monotonic() < deadline:
                process.wait()
        finally:
            os.close(ended)


def _find(outcome: Outcome, fault: Fault, record: str, own: str) -> None:
    """See which call has met the fault."""
    outcome.is_same = False
    own_execs = 0
    seen = 0
    for line in record.splitlines():
        own_execs += line.startswith("execve(") and "ENOENT" not in line
        seen += line.startswith(f"{fault.call.name}(")
        if seen == fault.call.n:
            # What it has become is not under test any more.
            outcome.met = line if own_execs == 1 else ""
            known = again(line.replace(own, "")) == fault.call.text
            outcome.is_same = bool(outcome.met) and (known or "<unfinished" in line)
            return


def _child(pid: int) -> int | None:
    """The only child of strace."""
    try:
        return int(Path(f"/proc/{pid}/task/{pid}/children").read_text().split()[0])
    except (OSError, IndexError):
        return None


def _kill(group: int, signum: int) -> None:
    try:
        os.killpg(group, signum)
    except OSError:
        pass


def _ends(group: int, seconds: float) -> bool:
    """Wait until no process of the process group `group` is left."""
    deadline = time.monotonic() + seconds
    while True:
        try:
            os.waitpid(-group, os.WNOHANG)  # an orphan that came to us
        except ChildProcessError:
            pass
        try:
            os.killpg(group, 0)
        except ProcessLookupError:
            return True
        if time.monotonic() > deadline:
            return False
        time.sleep(STEP_S)


def _text(path: Path) -> str:
    return path.read_text(errors="replace") if path.exists() else ""
