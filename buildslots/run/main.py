"""`slot-run` from its arguments to its exit status."""

from __future__ import annotations

import os
import sys

from buildslots.admission import Admission, is_to_fail
from buildslots.errors import PoolUnreachableError, SettingError, SlotTimeoutError
from buildslots.processes import given_arguments, occupy_standard
from buildslots.run.options import Options, UnknownOptionError, UsageError
from buildslots.settings import IMPORTANCE, resolve
from buildslots.slot import HELD, NUMBER, open_pool

if sys.platform == "win32":
    from buildslots.run import child_windows as child
    from buildslots.run.child_windows import find
else:
    from buildslots.processes import find
    from buildslots.run import child

TYPE_CHECKING = False
if TYPE_CHECKING:
    import signal as _signal
    from collections.abc import Callable, Sequence
    from typing import NoReturn

    from buildslots.backend import Backend
    from buildslots.run.notice import Notice
    from buildslots.run.owner import Owner
    from buildslots.settings import Settings
    from buildslots.slot import Slot
else:
    import _signal  # `signal` itself wraps the same functions in enum, at 4 ms

USAGE = 125
"""The exit status of env(1), nohup(1) and timeout(1) for failures of their own; so are 126 and 127."""
CANNOT_EXECUTE = 126
NOT_FOUND = 127
CLAUDE_PID = "CLAUDE_PID"
"""What Claude Code tells its shells: its own number."""
NO_SLOT = 75
"""EX_TEMPFAIL of sysexits.h: try again later."""
SENTENCE, NAME = 1000, 300
"""Characters that are shown of a sentence and of a command's name: an argument may have 128 KiB."""
PATIENCE_S = 0.1
"""How long stderr may be busy before a sentence is lost. The line about a wait comes again, and waits for
nothing."""
PIPE_BUF = 4096
"""Bytes that a pipe takes at once, or not at all: limits.h on Linux; pipe(7)."""
ENDING = tuple(
    getattr(_signal, name)
    for name in ("SIGHUP", "SIGINT", "SIGQUIT", "SIGTERM", "SIGUSR1", "SIGUSR2", "SIGALRM")
    if hasattr(_signal, name)
)
"""Signals that end slot-run while it waits, with its place in line tidied away."""


class Interrupted(BaseException):
    """A signal came while slot-run waited."""

    def __init__(self, signum: int) -> None:
        self.signum = signum


def main() -> NoReturn:
    """Run the console script; exits with what `run` returns, without the interpreter's clean-up (2 ms)."""
    try:
        status = run(sys.argv[1:])
    except Interrupted as interrupt:
        child.die_of(interrupt.signum)
        status = 128 + interrupt.signum
    os._exit(status)


def run(args: list[str]) -> int:
    """Do what `args` say: the exit status. Does not return if slot-run becomes the command."""
    occupy_standard()
    for signum in ENDING:
        # A signal that our caller ignores (nohup, `&` in a script) is meant to stay ignored.
        if _signal.getsignal(signum) is not _signal.SIG_IGN:
            _signal.signal(signum, _interrupt)
    child.defer_signals()
    given = given_arguments(args)
    try:
        options = Options([os.fsdecode(word) for word in given])
    except UnknownOptionError as error:
        from buildslots.run.mistakes import about_option  # noqa: PLC0415 - only a mistake needs it

        say(f"{error}{about_option(error)} (see slot-run --help)")
        return USAGE
    except (UsageError, SettingError) as error:
        say(f"{error} (see slot-run --help)")
        return USAGE
    if options.show is not None:
        from buildslots.run.help import show  # noqa: PLC0415 - nobody else needs it

        return 0 if show(options.show, say) else USAGE
    command = given[-len(options.command) :]
    try:
        path = find(command[0])
    except (OSError, ValueError) as error:
        return _not_run(options.command, error)
    try:
        runs = _detached(options, command) if options.detach else None
        return _run_in_slot(options, path, command, runs)
    except SettingError as error:
        say(f"{error} (see slot-run --help)")
        return USAGE


def _detached(options: Options, command: list[bytes]) -> Callable[[int], None]:
    """Become the process of a detached build: what to call with the command's pid when that runs.

    Raises SettingError.
    """
    from buildslots.run.detach import CannotDetachError, detach  # noqa: PLC0415 - seldom wanted

    _settings(options)  # a mistake is said here, and not in a log
    _owner(options)
    name = options.label or os.path.basename(options.command[0])
    try:
        return detach(command, name, say, new=options.new)
    except CannotDetachError as error:
        say(f"cannot detach: {error}")
        os._exit(USAGE)


def _settings(options: Options) -> Settings:
    """What counts for this build. Raises SettingError."""
    return resolve(
        pool=options.pool,
        slots=options.slots,
        timeout_s=options.timeout_s,
        on_timeout=options.on_timeout,
        weight=options.weight,
        priority=options.priority,
        label=options.label,
        nice=options.nice,
        tokens=options.tokens,
        jobs=options.jobs,
        gates=options.gates,
        dir=options.dir,
        warn=say,
    )


def _run_in_slot(
    options: Options, path: bytes, command: list[bytes], runs: Callable[[int], None] | None
) -> int:
    """Get a slot and run `command`, which is at `path`, under it, or without one if our machinery fails.

    `runs` is called with its pid, as soon as it runs. Raises SettingError.
    """
    slot: Slot | None = None
    settings: Settings | None = None
    owner = _owner(options)
    told = [] if runs is None else [runs]
    if owner is not None and options.owner_gone == "end":
        told.append(owner.end_with_it)
    try:
        settings = _settings(options)
        mark = None if owner is None else owner.mark
        with Admission(settings, options.command, _open_pool, tells=True, owner=mark) as admission:
            slot = _slot(admission, settings, quiet=options.quiet, owner=owner)
            _be_as_important_as(settings)
            return _run_command(path, _served(settings, command, slot), slot, admission, told)
    except SettingError:
        raise
    except SlotTimeoutError as error:
        source = "option" if settings is None else settings.source("on_timeout")
        say(f"{error}; giving up ({'--on-timeout' if source == 'option' else f'{source}:'} fail)")
        return NO_SLOT
    except Exception as error:
        if slot is not None:
            raise  # it is not our machinery that failed
        if getattr(error, "is_owner_gone", False):
            say(str(error))
            return NO_SLOT
        if isinstance(error, PoolUnreachableError) and settings is not None and is_to_fail(settings):
            say(f"{error}; giving up ({settings.source('on_unreachable')}: fail)")
            return NO_SLOT
        say(f"running without a slot: {error if isinstance(error, OSError) else repr(error)}")
    if settings is not None:
        _be_as_important_as(settings)
        command = _served(settings, command)
    return _run_command(path, command, None, None, told)


def _open_pool(address: str, late_at: float) -> Backend:
    """The pool at `address`, which says on stderr if slots are lost."""
    return open_pool(address, late_at, say)


def _owner(options: Options) -> Owner | None:
    """The process for which the build is done, if one is named. Raises SettingError: it is not there.

    A detached build is to outlive the agent, and another one may wait for it: its owner has to be named.
    """
    pid, named = options.owner, "" if options.detach else os.environ.get(CLAUDE_PID, "")
    if pid is None and not (named.isascii() and named.isdigit() and len(named) < 8):
        return None
    from buildslots.run.owner import find_owner  # noqa: PLC0415 - only who has one needs it

    return find_owner(pid, named)


def _be_as_important_as(settings: Settings) -> None:
    """Do to this process what the settings say of the command, which inherits it. Raises nothing."""
    if not settings.said.keys() & IMPORTANCE:
        return
    try:
        from buildslots.run.importance import apply  # noqa: PLC0415 - only who has such settings
    except (ImportError, OSError) as error:  # no descriptor is left
        say(f"running as important as slot-run itself: {error}")
    else:
        apply(settings, say)


def _served(settings: Settings, command: list[bytes], slot: Slot | None = None) -> list[bytes]:
    """See to the command's jobs by the settings and the pool: what to run in its place. Raises nothing."""
    try:
        from buildslots.disk.taking import tokens_of  # noqa: PLC0415 - loaded, but for a pool on a server

        tokens = tokens_of(settings)
        if settings.disabled or not (tokens or settings.jobs):
            return command
        from buildslots.run.jobs import served  # noqa: PLC0415 - with such settings only

        return served(settings, command, slot, tokens, say)
    except (ImportError, OSError) as error:  # no descriptor is left
        say(f"running without CPU tokens: {error}")
        return command


def say(text: str) -> None:
    """Write one line to stderr, fit for a terminal; it is lost if stderr is closed or full."""
    text = _cut(text, SENTENCE)
    if not text.isascii():
        try:
            from buildslots.words import printable  # noqa: PLC0415 - the fast path says nothing

            text = printable(text)
        except (ImportError, OSError):
            # The line may be about just that: no descriptor is left, not even to load a module.
            text = text.encode("ascii", "replace").decode()
    shown = "".join(c if c.isprintable() else "?" for c in text)
    _write(f"slot-run: {shown}\n".encode(), PATIENCE_S)


def _write(line: bytes, patience_s: float = 0.0) -> None:
    """Write `line` to stderr. It is lost if stderr is closed, or takes nothing within `patience_s`.

    What we say never keeps a build. A terminal after Ctrl-S, and a pipe whose reader is busy, would keep us
    in write(2), where neither a free slot nor the timeout is noticed. And with `stty tostop` a write from the
    background stops us, unless SIGTTOU is blocked (POSIX, "General Terminal Interface", 11.1.4).
    """
    stopping = {_signal.SIGTTOU} if hasattr(_signal, "SIGTTOU") else set()
    try:
        import select  # noqa: PLC0415 - the fast path says nothing

        # A pipe that is ready takes PIPE_BUF bytes, 4 KiB, and a terminal some 64 KiB, before they block.
        poll = select.poll()
        poll.register(2, select.POLLOUT)
        if not poll.poll(1000 * patience_s):
            return
    except (ImportError, AttributeError, OSError):
        pass  # no descriptor is left for the import; or Windows, which has no such thing
    mask = _signal.pthread_sigmask(_signal.SIG_BLOCK, stopping) if stopping else None
    try:
        os.write(2, line[:PIPE_BUF])
    except OSError:
        pass
    finally:
        if mask is not None:
            _signal.pthread_sigmask(_signal.SIG_SETMASK, mask)


def _cut(text: str, length: int) -> str:
    return text if len(text) <= length else text[: length - 1] + "…"


def _interrupt(signum: int, _frame: object) -> None:
    # Only the first signal counts, because a second one would interrupt the clean-up. With SIG_IGN, Python
    # would complain on stderr about a signal that is on its way already.
    for further in ENDING:
        _signal.signal(further, lambda *_: None)
    raise Interrupted(signum)


def _nap(seconds: float) -> None:
    """Sleep while signals are held back, and notice them all the same."""
    signum = child.nap(seconds, {s for s in ENDING if _signal.getsignal(s) is not _signal.SIG_IGN})
    if signum:
        raise Interrupted(signum)


def _slot(admission: Admission, settings: Settings, *, quiet: bool, owner: Owner | None) -> Slot:
    """The slot to run under. Raises what `Admission.acquire` raises."""
    notices: list[Notice] = []

    def notice() -> Notice | None:
        """Called when everything is ready for the wait: from here on a signal may end it."""
        import gc  # noqa: PLC0415
        import select  # noqa: F401, PLC0415 - now: while signals are let in, nothing may be

        gc.enable()  # a wait may be long; see _buildslots
        if settings.gates is not None:
            from buildslots.outlook import never  # noqa: PLC0415 - and words: a closed gate says so

            if (sentence := never(settings)) is not None:
                say(sentence)
        if not quiet:
            from buildslots.run.notice import Notice  # noqa: PLC0415 - only a slot-run that waits needs it

            notices.append(Notice(settings, _write))
        child.admit_signals()
        return notices[0] if notices else None

    try:
        slot = admission.acquire(notice, nap=_nap, watch=owner)
    except BaseException as error:
        child.defer_signals()
        admission.close(error)  # before anything is said: a terminal may be stopped
        raise
    finally:
        child.defer_signals()
        for spoken in notices:
            spoken.clear()
        for sentence in admission.repaired:
            say(sentence)
    if not (slot.overflow or admission.despite):
        for spoken in notices:
            spoken.started(slot)
    else:
        from buildslots.run.notice import all_the_same  # noqa: PLC0415 - said once after a wait

        say(all_the_same(slot, settings, admission))
    return slot


def _run_command(
    path: bytes,
    command: list[bytes],
    slot: Slot | None,
    admission: Admission | None,
    told: Sequence[Callable[[int], None]],
) -> int:
    """Run `command` under `slot`, and tell `admission`, and those that are `told`, when it has started.

    Without a slot to give back, slot-run becomes the command.
    """
    _mark_environment(slot)
    try:
        if slot is None or admission is None or not (slot.descriptors or admission.chores or slot.chores):
            for tell in told:
                tell(os.getpid())
            child.become(path, command)
        process = child.spawn(path, command, slot.descriptors, slot.served)
    except OSError as error:
        status = _not_run([os.fsdecode(word) for word in command], error)
        if slot is not None and admission is not None:
            admission.close(error)  # it never ran: to the journal it is no build, and none that failed
            slot.release()
        return status
    except BaseException:
        if slot is not None and admission is not None:
            admission.started(slot)
        raise
    for tell in told:
        tell(child.pid_of(process))
    log = admission.started(slot, child.pid_of(process))
    chores = [*admission.chores, *slot.chores]
    status, used = child.supervise(process, measured=log is not None, chores=chores)
    if log is not None:
        log.used = used
    slot.release(status)
    if status < 0:
        child.die_of(-status)
        return 128 - status
    return status


def _mark_environment(slot: Slot | None) -> None:
    """Put `slot` into our environment, which the command inherits. All else there stays byte by byte."""
    before = {name: os.environ.pop(name) for name in (NUMBER, HELD) if name in os.environ}
    if slot is not None:
        os.environ.update(slot.environ(before))
    elif HELD in before:
        os.environ[HELD] = before[HELD]


def _not_run(command: list[str], error: OSError | ValueError) -> int:
    """Say why `command` cannot be run, and what its writer may have meant: the exit status."""
    from buildslots.run.mistakes import about_command  # noqa: PLC0415 - only a mistake needs it

    is_missing = isinstance(error, FileNotFoundError)
    reason = error.strerror if isinstance(error, OSError) else str(error)
    say(f"{_cut(command[0], NAME)}: {reason}{about_command(command) if is_missing else ''}")
    return NOT_FOUND if is_missing else CANNOT_EXECUTE
