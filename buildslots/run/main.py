"""`slot-run` from its arguments to its exit status."""

from __future__ import annotations

import os
import sys

from buildslots.admission import Admission
from buildslots.errors import SettingError, SlotTimeoutError
from buildslots.processes import given_arguments, occupy_standard
from buildslots.run.options import Options, UnknownOptionError, UsageError
from buildslots.settings import resolve
from buildslots.slot import HELD, NUMBER

if sys.platform == "win32":
    from buildslots.run import child_windows as child
    from buildslots.run.child_windows import find
else:
    from buildslots.processes import find
    from buildslots.run import child

TYPE_CHECKING = False
if TYPE_CHECKING:
    import signal as _signal
    from typing import NoReturn

    from buildslots.run.notice import Notice
    from buildslots.settings import Settings
    from buildslots.slot import Slot
else:
    import _signal  # `signal` itself wraps the same functions in enum, at 4 ms

USAGE = 125
"""The exit status of env(1), nohup(1) and timeout(1) for failures of their own; so are 126 and 127."""
CANNOT_EXECUTE = 126
NOT_FOUND = 127
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
        return _show(options.show)
    command = given[-len(options.command) :]
    try:
        path = find(command[0])
    except (OSError, ValueError) as error:
        return _not_run(options.command, error)
    try:
        return _run_in_slot(options, path, command)
    except SettingError as error:
        say(f"{error} (see slot-run --help)")
        return USAGE


def _run_in_slot(options: Options, path: bytes, command: list[bytes]) -> int:
    """Get a slot and run `command`, which is at `path`, under it, or without one if our machinery fails.

    Raises SettingError.
    """
    slot: Slot | None = None
    try:
        settings = resolve(
            pool=options.pool,
            slots=options.slots,
            timeout_s=options.timeout_s,
            on_timeout=options.on_timeout,
            weight=options.weight,
            gates=options.gates,
            dir=options.dir,
            warn=say,
        )
        with Admission(settings, options.command) as admission:
            slot = _slot(admission, settings, quiet=options.quiet)
            return _run_command(path, command, slot, admission)
    except SettingError:
        raise
    except SlotTimeoutError as error:
        say(f"{error}; giving up (--on-timeout fail)")
        return NO_SLOT
    except Exception as error:
        if slot is not None:
            raise  # it is not our machinery that failed
        say(f"running without a slot: {error if isinstance(error, OSError) else repr(error)}")
    return _run_command(path, command, None, None)


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


def _slot(admission: Admission, settings: Settings, *, quiet: bool) -> Slot:
    """The slot to run under. Raises what `Admission.acquire` raises."""
    notices: list[Notice] = []

    def notice() -> Notice | None:
        """Called when everything is ready for the wait: from here on a signal may end it."""
        import gc  # noqa: PLC0415
        import select  # noqa: F401, PLC0415 - now: while signals are let in, nothing may be

        gc.enable()  # a wait may be long; see _buildslots
        if settings.gates is not None:
            from buildslots import words  # noqa: F401, PLC0415 - a closed gate says so
        if not quiet:
            from buildslots.run.notice import Notice  # noqa: PLC0415 - only a slot-run that waits needs it

            notices.append(Notice(settings, _write))
        child.admit_signals()
        return notices[0] if notices else None

    try:
        slot = admission.acquire(notice, nap=_nap)
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
        _say_all_the_same(slot, settings, admission.despite)
    return slot


def _say_all_the_same(slot: Slot, settings: Settings, despite: str | None) -> None:
    """Say that the command runs though there is no slot, or despite the machine's state."""
    from buildslots.words import span  # noqa: PLC0415 - said once after a wait

    when = f" within {span(slot.waited_s)}" if settings.timeout_s else " is free" if slot.overflow else " now"
    how = "all the same"
    if slot.overflow:
        how = f"beyond the cap of {settings.slots} (overflow slot {slot.number})"
    say(f"no {despite or 'slot'}{when}: running {how}")


def _show(what: str) -> int:
    if what == "--help":
        from buildslots.run.help import help_text  # noqa: PLC0415 - nobody else needs it

        text = help_text()
    else:
        from buildslots import __version__  # noqa: PLC0415

        text = f"slot-run {__version__}\n"
    try:
        os.write(1, text.encode())
    except OSError as error:
        say(f"cannot write: {error}")
        return USAGE
    return 0


def _run_command(path: bytes, command: list[bytes], slot: Slot | None, admission: Admission | None) -> int:
    """Run `command` under `slot`, and tell `admission` when it has started.

    Without a slot to give back, slot-run becomes the command.
    """
    _mark_environment(slot)
    try:
        if slot is None or admission is None or not slot.descriptors:
            child.become(path, command)
        process = child.spawn(path, command, slot.descriptors)
    except OSError as error:
        status = _not_run([os.fsdecode(word) for word in command], error)
        if admission is not None:
            admission.close(error)  # it never ran: to the journal it is no build, and none that failed
        return status
    except BaseException:
        if slot is not None and admission is not None:
            admission.started(slot)
        raise
    admission.started(slot, child.pid_of(process))
    status = child.supervise(process)
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
