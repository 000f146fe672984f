"""What a batch that was killed has left: found by its next run, completed or removed, and named.

Beside each destination there may be a stage. What becomes of it follows from the steps in the records, each
of which was written before it was done:

    no "move"                      it was not finished: it is removed
    "move"                         it was finished and verified: the move is completed
    "move", and "rollback" after   it was being undone: that is completed

With all-or-nothing a "move" counts only if "commit" follows: everything was verified by then. If one of these
moves cannot be made any more, all are undone. Whether a move was made is seen from the file system: the
directory at the destination is the one that was staged, or not.
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any, NamedTuple

from buildslots.batch.events import event
from buildslots.batch.records import prune, runs
from buildslots.batch.staging import Stage, StageError, is_there
from buildslots.batch.state import GOOD, OK, UNDONE
from buildslots.processes import is_local, lives
from buildslots.words import short_path

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from buildslots.batch.records import Run

KILLED = "killed"
"""The state of a batch that its next run has found killed."""
STEP_KEYS = {"dest": str, "stage": str}
NO_END = ("running", KILLED)
"""States of a batch that has not come to its end by itself."""


class Left(NamedTuple):
    """A stage that a killed run may have left.

    Attributes:
        task: The name of its task.
        number: Of that.
        dest: The destination.
        name: Of the private directory beside it.
        mark: Fingerprint of the task, or None.
        identity: Device and inode of what is to be moved; None if it was not finished.
    """

    task: str
    number: int
    dest: str
    name: str
    mark: Any = None
    identity: tuple[int, int] | None = None


class Started(NamedTuple):
    """A command that a killed run had started, or was about to.

    Attributes:
        task: The name of its task.
        who: Its pid, if it was still written down, and where that means something: see `processes.identity`.
        t: Unix time of the start; tells it from a later process with its pid.
        run: That run.
    """

    task: str
    who: dict[str, str]
    t: float
    run: Run

    def __str__(self) -> str:
        return f"{self.task} (pid {self.who['pid']})" if "pid" in self.who else self.task

    @property
    def runs(self) -> bool:
        """Whether it still does.

        Its pid tells that, if it is one of here: the lock would stay with a daemon that it has left behind.
        """
        if "pid" not in self.who or not is_local(self.who):
            return self.run.has_commands
        return lives(self.who, self.t) and not _is_zombie(int(self.who["pid"]))


class Found(NamedTuple):
    """What the records of a killed run say.

    Attributes:
        stages: What may lie beside destinations, in the order in which it was made.
        gone: What lies there no longer, though its move had begun: it was made, or failed, or was undone.
        is_committed: Whether, with all-or-nothing, all moves were about to be made.
        is_undoing: Whether it was rolling back.
        ended: The last event of each task that had ended, by number.
        commands: The commands that had started, and whose tasks had not ended.
    """

    stages: list[Left]
    gone: list[Left]
    is_committed: bool
    is_undoing: bool
    ended: dict[int, dict[str, Any]]
    commands: list[Started]


def look(run: Run) -> Found:
    """Read the records of `run`. Raises OSError."""
    stages: dict[tuple[str, str], Left] = {}
    gone: list[Left] = []
    ended: dict[int, dict[str, Any]] = {}
    commands: dict[int, Started] = {}
    host: dict[str, str] = {key: str(run.begin[key]) for key in ("host", "pidns") if key in run.begin}
    is_undoing = is_committed = False
    for told in run.events():
        number, name = told.get("n"), str(told.get("task"))
        if told.get("event") == "task" and isinstance(number, int):
            ended[number] = told
            commands.pop(number, None)
        if told.get("event") != "step":
            continue
        step = told.get("step")
        is_undoing = is_undoing or step == "rollback"
        is_committed = is_committed or step == "commit"
        if step in ("starting", "command") and isinstance(number, int):
            who = {**host, "pid": str(told.get("pid"))} if step == "command" else host
            commands[number] = Started(name, who, float(told.get("t", 0)), run)
        if not isinstance(number, int) or not all(isinstance(told.get(k), t) for k, t in STEP_KEYS.items()):
            continue
        key = told["dest"], told["stage"]
        if step == "stage":
            stages[key] = Left(name, number, *key, told.get("fingerprint"))
        elif step == "move" and key in stages:
            device, inode = told["identity"]
            stages[key] = stages[key]._replace(identity=(int(device), int(inode)))
        elif step == "removed":
            left = stages.pop(key, None)
            gone += [left] if left is not None and left.identity is not None else []
    if run.begin.get("all_or_nothing") and not is_committed:
        stages = {key: left._replace(identity=None) for key, left in stages.items()}
    return Found(list(stages.values()), gone, is_committed, is_undoing, ended, list(commands.values()))


def earlier_runs(origin: str, say: Callable[[str], None], *, wait: bool) -> Iterator[list[Run] | None]:
    """The earlier runs of the batch `origin`, the newest first; what killed ones have left is taken care of.

    A generator that yields None while commands of a killed run still run, and then the runs. While
    they run they may write into a stage, and a task of theirs would run twice at once.

    Args:
        origin: What makes two runs runs of one batch.
        say: Told what was found and done, in sentences.
        wait: Whether to wait for such commands, rather than leave their run to the next one.
    """
    try:
        all_runs = runs()
    except OSError:
        all_runs = []  # the records of this run say why
    prune(all_runs, time.time())
    found = [run for run in all_runs if run.begin.get("origin") == origin]
    for run in found:
        if not run.was_killed:
            continue
        try:
            left = [command for command in look(run).commands if command.runs]
            if left and not wait:
                continue
            if left:
                named = ", ".join(map(str, left))
                say(f"{run.id} was killed, and its commands still run: waiting for {named}")
            while any(command.runs for command in left):
                yield None
            for sentence in recover(run):
                say(f"{run.id} was killed: {sentence}")
        except OSError as error:
            say(f"{run.id} was killed, and what it has left cannot be put right: {error}")
    yield found


def _is_zombie(pid: int) -> bool:
    """Whether process `pid` has ended, and nobody waits for it: process 1 of a container may not."""
    import psutil  # noqa: PLC0415 - only where a batch was killed

    try:
        return psutil.Process(pid).status() == psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return True
    except psutil.Error:
        return False


def recover(run: Run) -> list[str]:
    """Take care of what the killed `run` has left: what was found and done, in sentences.

    Raises OSError: its records cannot be read or written.
    """
    found = look(run)
    said, amended = [], []
    is_clean = True
    if found.is_committed and not found.is_undoing and (problem := _complete(found.stages)) is not None:
        said.append(f"it cannot be completed, and is undone: {problem}")
        run.append([event("step", -1, step="rollback")])
        found = found._replace(is_undoing=True)
    for left in reversed(found.stages) if found.is_undoing else found.stages:
        is_done = left.identity is not None and not found.is_undoing
        try:
            outcome = _take_care(left, is_undoing=found.is_undoing)
        except FileNotFoundError:
            outcome, is_done = None, is_there(left.dest, left.identity)  # it was removed, or never made
        except StageError as error:  # something else has come to the destination: the task runs again
            is_done, outcome = False, f"{error}; removed what was staged for"
        except OSError as error:
            said.append(f"{short_path(left.dest)} of task {left.task!r} cannot be put right: {error}")
            is_clean = False
            continue
        if outcome is not None:
            said.append(f"{outcome} {short_path(left.dest)} of task {left.task!r}")
        amended += _amendment(left, found, is_done=is_done)
    for left in found.gone:
        if found.is_undoing or left.number not in found.ended:
            amended += _amendment(left, found, is_done=is_there(left.dest, left.identity))
    if is_clean:
        run.amend([*amended, event("batch", -1, state=KILLED, recovered_t=time.time())])
    else:  # a full disk, say: the next run tries again
        run.append(amended)
    return said


def _complete(stages: list[Left]) -> OSError | None:
    """Complete all moves of `stages`, and keep what they have replaced: why one cannot be made, if so."""
    for left in stages:
        stage = Stage(left.dest, left.name)
        try:
            stage.open()
            stage.identity = left.identity or stage.identity
            stage.finish()
        except FileNotFoundError:
            continue  # as it was found and completed before
        except OSError as error:
            return error
        finally:
            stage.close()
    return None


def _take_care(left: Left, *, is_undoing: bool) -> str | None:
    """Complete, undo or remove one stage: what was done.

    Raises:
        StageError: A move cannot be completed, and never will be; the stage is removed.
        OSError: Something else is in the way, and the stage is still there.
    """
    stage = Stage(left.dest, left.name)
    try:
        stage.open()
    except StageError as error:
        raise OSError(str(error)) from error
    if left.identity is None:
        stage.remove()
        return "removed what was staged for"
    stage.identity = left.identity
    try:
        if is_undoing:
            stage.undo()
        else:
            stage.finish()
    except StageError as error:
        if stage.keeps_old():
            stage.close()
            raise OSError(str(error)) from error
        stage.remove()
        raise
    except BaseException:
        stage.close()
        raise
    if is_undoing and stage.keeps_old():
        stage.close()
        raise OSError("what was there lies beside it, because something else has come there")
    stage.remove()
    return "undid" if is_undoing else "completed"


def _amendment(left: Left, found: Found, *, is_done: bool) -> list[dict[str, Any]]:
    """What the records say wrongly, or do not say yet, about the task of a stage."""
    told = found.ended.get(left.number)
    was_done = told is not None and told.get("state") in GOOD
    if is_done == was_done:
        return []
    state = OK if is_done else UNDONE
    about = {"reason": "its batch was killed", "fingerprint": left.mark}
    return [event("task", -1, task=left.task, n=left.number, state=state, **about)]


def done(earlier: Sequence[Run]) -> frozenset[str]:
    """The fingerprints of the tasks that the last of the runs `earlier`, the newest first, has done.

    That includes what it found done, if it went on with the run before it. A run that was killed may not have
    come so far as to say that: then what the run before it says counts too. Raises OSError.
    """
    states: dict[str, str] = {}
    for run in earlier:
        last: dict[str, str] = {}
        has_ended = False
        for told in run.events():
            has_ended = has_ended or (told.get("event") == "batch" and told.get("state") not in NO_END)
            if told.get("event") == "task" and isinstance(told.get("fingerprint"), str):
                last[told["fingerprint"]] = str(told.get("state"))
        states = last | states
        if has_ended or not run.begin.get("resume"):
            break
    return frozenset(mark for mark, state in states.items() if state in GOOD)
