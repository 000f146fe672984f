"""One attempt of a task: its command or function, then what verifies it, within its time limit."""

from __future__ import annotations

import contextlib
import os
import re
from typing import TYPE_CHECKING, Any

import anyio

from buildslots.batch import calls
from buildslots.batch.commands import GRACE_S, Command
from buildslots.batch.state import Failure
from buildslots.batch.task import Call
from buildslots.printed import Output
from buildslots.slot import HELD, NUMBER
from buildslots.words import span

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from buildslots.batch.pools import Environment
    from buildslots.batch.state import TaskRun
    from buildslots.batch.task import Action
    from buildslots.slot import Slot

RETRY_AFTER = re.compile(r"(?i)retry-after:\s*(\d{1,6}(?:\.\d{1,6})?)\s*s?")
"""How the last line of stderr names the time of a pause: the seconds of HTTP's header, RFC 9110, 10.2.3."""
LONGEST_PAUSE_S = 3600.0
"""What a server, or whoever misreads its answer, may keep a whole batch from starting."""
STAGE = "$STAGE"
"""How an argument of a command names the stage."""


class Attempt:
    """What the attempts of one task have in common.

    Args:
        run: The task.
        environ: The environment of commands, but for what is the task's own.
        tell: Told of each command before it is started, and after that: its task, the step, what is known.
        kept: Descriptors that each command has until its end.
    """

    def __init__(
        self,
        run: TaskRun,
        environ: Environment,
        tell: Callable[[TaskRun | None, str, dict[str, Any]], None],
        kept: Sequence[int] = (),
    ) -> None:
        self._run = run
        self._environ = environ
        self._tell = tell
        self._kept = kept
        self._stderr: Output | None = None

    async def make(self, slot: Slot | None) -> Failure | None:
        """Run the task, and then what verifies it, under `slot`: why it failed; None if it did not."""
        task = self._run.task
        failure = await self.run(task.run, slot)
        if failure is None and task.verify is not None:
            value = self._run.value
            failure = await self.run(task.verify, slot, what="verify: ")
            if failure is None and self._run.value is False and isinstance(task.verify, Call):
                failure = Failure(f"verify: {task.verify} returned False")
            self._run.value = value
        return failure

    async def run(self, action: Action, slot: Slot | None, what: str = "") -> Failure | None:
        """Run `action` within the task's time limit: why it failed; None if it did not.

        Args:
            action: A command, or a function: what that returns is in the task's `value` then.
            slot: Under which slot it runs, if any.
            what: What the reason of a failure begins with.
        """
        limit_s = self._run.task.time_limit_s
        if limit_s is None:
            return await self._run_unlimited(action, slot, what)
        failure = None
        with anyio.move_on_after(limit_s) as scope:
            failure = await self._run_unlimited(action, slot, what)
        if scope.cancelled_caught:
            return Failure(f"{what}did not end within {span(limit_s)}", timed_out=True)
        return failure

    async def _run_unlimited(self, action: Action, slot: Slot | None, what: str) -> Failure | None:
        if isinstance(action, Call):
            return await self._call(action, slot, what)
        own = self._own(slot)
        command = _with_stage(action, self._run.stage)
        served = self._environ.serve(command, own, slot, self._run.task.cwd)
        with served or contextlib.nullcontext():
            if served is None:
                return await self._run_command(command, self._environ.of(own), slot, what)
            env = self._environ.of({**own, **served.changes})
            failure = await self._run_command(served.command, env, slot, what, served.descriptors)
            served.has_failed = failure is not None
            return failure

    async def _run_command(
        self,
        command: Sequence[str],
        env: dict[Any, Any],
        slot: Slot | None,
        what: str,
        inherited: Sequence[int] = (),
    ) -> Failure | None:
        log = self._run.log
        assert log is not None
        err = log
        if self._run.task.asks_stderr:
            err = self._stderr = self._stderr or Output.nameless()
        # Whoever finds this batch killed has to know of the command, even if that was done in between.
        self._tell(self._run, "starting", {})
        try:
            process = Command(
                command,
                env=env,
                cwd=self._run.task.cwd,
                out=log.fd,
                err=err.fd,
                inherited=[*self._inherited(slot), *inherited],
            )
        except (OSError, ValueError) as error:
            return Failure(what + _not_started(command, self._run.task.cwd, error), 127)
        self._run.command = process
        if slot is not None and slot._hold is not None:  # noqa: SLF001 - as slot-run says it
            slot._hold.runs(process.pid)  # noqa: SLF001
        self._tell(self._run, "command", {"pid": process.pid})
        try:
            status = await process.wait()
        finally:
            self._run.command = None
            stderr = ""
            if err is not log:
                stderr = err.end()
                log.append(err)
        return None if status == 0 else Failure(f"{what}{status_words(status)}", status, stderr=stderr)

    async def _call(self, call: Call, slot: Slot | None, what: str) -> Failure | None:
        # A thread may still write into the stage, which is removed next.
        grace_s = GRACE_S if self._run.stage is not None else 0.0
        try:
            if slot is None:
                self._run.value = await calls.run(call, grace_s)
            else:
                with slot._inner() if slot.number is not None else slot:  # noqa: SLF001 - it is released by who took it
                    self._run.value = await calls.run(call, grace_s)
        except calls.RaisedError as raised:  # whatever it is, it is this task's, and no other's
            error = raised.error
            if isinstance(error, SystemExit):
                return Failure(f"{what}{call} called sys.exit({error.code!r})", error=error)
            return Failure(f"{what}{type(error).__name__}: {error}", error=error)
        except Exception as error:  # noqa: BLE001 - of the slot
            return Failure(f"{what}{type(error).__name__}: {error}", error=error)
        return None

    def close(self) -> None:
        """Let go of what was opened."""
        if self._stderr is not None:
            self._stderr.close()
            self._stderr = None

    def _inherited(self, slot: Slot | None) -> list[int]:
        """What a command keeps, if the batch is killed, until its own end: its slot, and its key."""
        key = [self._run.key] if self._run.key is not None else []
        return [*(slot.descriptors if slot is not None else ()), *key, *self._kept]

    def _own(self, slot: Slot | None) -> dict[str, str | None]:
        """What the environment of a command has besides that of all."""
        base, run = self._environ.base, self._run
        own: dict[str, str | None] = {}
        if slot is not None:
            marks = slot.environ({name: base[name] for name in (NUMBER, HELD) if name in base})
            own = {name: marks.get(name) for name in (NUMBER, HELD)}
        own["BATCH_ID"], own["BATCH_TASK"] = run.batch, run.name
        if run.stage is not None:
            own["STAGE"] = run.stage
        return {**own, **run.task.env}


def status_words(status: int) -> str:
    """An exit status, or minus a signal, in words."""
    if status >= 0:
        return f"exit status {status}"
    import signal  # noqa: PLC0415

    try:
        return f"killed by {signal.Signals(-status).name}"
    except ValueError:
        return f"killed by signal {-status}"


def named_pause_s(failure: Failure, pauses: Mapping[int, float]) -> float | None:
    """For how long, by its exit status, a failed task keeps the batch from starting anything; None if not."""
    if failure.status is None or failure.status not in pauses:
        return None
    lines = [line for line in failure.stderr.splitlines() if line.strip()]
    named = RETRY_AFTER.fullmatch(lines[-1].strip()) if lines else None
    return min(float(named[1]), LONGEST_PAUSE_S) if named else pauses[failure.status]


def is_reason_to_retry(failure: Failure, reasons: tuple[Any, ...]) -> bool:
    """Whether a task is tried again after `failure`, by its `retry_on`; without one after any failure."""
    for reason in reasons:
        if reason == "timeout":
            found = failure.timed_out
        elif isinstance(reason, int):
            found = failure.status == reason
        elif isinstance(reason, re.Pattern):
            found = reason.search(failure.stderr) is not None
        else:
            found = isinstance(failure.error, reason)
        if found:
            return True
    return not reasons


def _with_stage(action: tuple[str, ...], stage: str | None) -> tuple[str, ...]:
    """The command `action` with the path of `stage` for arguments that are $STAGE, or begin with $STAGE/.

    A list goes through no shell, and this is meant all the same. Not in a script, behind -c: there the shell
    does it, whatever is in the path.
    """
    if stage is None:
        return action
    return tuple(
        stage + word.removeprefix(STAGE)
        if (word == STAGE or word.startswith(STAGE + "/")) and before != "-c"
        else word
        for before, word in zip(("", *action), action, strict=False)
    )


def _not_started(action: Sequence[str], cwd: str | None, error: Exception) -> str:
    if cwd is not None and not os.path.isdir(cwd):
        return f"cannot start: {cwd} is no directory"
    reason = error.strerror if isinstance(error, OSError) else str(error)
    return f"cannot start {action[0]}: {reason}"
