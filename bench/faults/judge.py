"""The promises, and which of them one run has broken.

It goes by what the same scenario did when nothing was injected (`usual`), and by what README.md promises.
"""

from __future__ import annotations

import re
import signal

from bench.faults.calls import OWN_SIGNALS
from bench.faults.cast import TAKEN

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator

    from bench.faults.run import Fault, Outcome

LATE_S = 4.0
"""How much longer than usual a run may take: a second for a mutex that somebody keeps, the rest for a machine
that has other work."""
OURS = "slot-run: "
WAITING = re.compile(r"slot-run: (waiting for|starting after) ")
GARBAGE = ("Traceback", "Exception ignored", "Fatal Python error", "Error in sys.excepthook")
CANNOT_EXECUTE = 126
NO_SLOT = 75


def broken(fault: Fault, usual: Outcome, outcome: Outcome) -> list[str]:
    """What `outcome`, of a run with `fault`, has broken: a phrase for each promise."""
    judged = _library if fault.scenario.is_library else _slot_run
    return [*_all(fault, usual, outcome), *judged(fault, usual, outcome)]


def _all(fault: Fault, usual: Outcome, outcome: Outcome) -> Iterator[str]:
    if outcome.status is None:
        yield "did not end"
    elif outcome.seconds > usual.seconds + LATE_S:
        yield f"took {outcome.seconds:.1f} s, usually {usual.seconds:.1f} s"
    if garbage := _garbage(outcome):
        yield f"{garbage}: {outcome.lines[-1]}"
    if any(line.endswith(" free") for line in outcome.log):
        yield "the slot was not held while the command ran"
    number = fault.scenario.where_nested
    if number and any(line.split()[1] not in (number, "none") for line in outcome.log):
        yield f"nested in slot {number}, and ran in another one"
    yield from _left(outcome)
    # Who is told that a held slot's file is gone has to believe it: somebody may have removed the pool.
    if outcome.others and not (outcome.others == TAKEN and fault.error == "ENOENT"):
        yield outcome.others


def _left(outcome: Outcome) -> Iterator[str]:
    """What was left behind, for others to be hindered by."""
    if outcome.running:
        yield "a process was left"
    if outcome.live:
        yield f"a ticket stayed in line: {outcome.live}"
    if not outcome.free:
        yield "the slot did not become free"


def _garbage(outcome: Outcome) -> str | None:
    """What Python has to say on stderr, and nobody may be shown."""
    return next((text for text in GARBAGE if any(text in line for line in outcome.lines)), None)


def _begun(outcome: Outcome) -> list[str]:
    return [line for line in outcome.log if line.startswith("began")]


def _may_run(fault: Fault, outcome: Outcome) -> bool:
    """Whether one that usually gives up may run without a slot: the pool failed while it waited.

    Which call is the n-th varies with how often it looks: another one than was meant may be one of the wait.
    """
    leaving = fault.call.leaving and outcome.is_same
    return fault.scenario.refuses and not leaving and fault.error not in OWN_SIGNALS


def _may_be_not_nested(fault: Fault) -> bool:
    """Whether what the outer slot is known by was gone: then it has ended, as far as one can know."""
    return fault.scenario.where_nested is not None and fault.error == "ENOENT"


def _died(fault: Fault, outcome: Outcome) -> bool:
    """Whether it died of the signal that came."""
    return fault.error in ("SIGTERM", "SIGINT", "SIGKILL") and outcome.status == -signal.Signals[fault.error]


def _slot_run(fault: Fault, usual: Outcome, outcome: Outcome) -> Iterator[str]:
    begun = _begun(outcome)
    died = _died(fault, outcome)
    lines = [line for line in outcome.lines if not WAITING.match(line)]
    usually = [line for line in usual.lines if not WAITING.match(line)]
    strange = [line for line in lines if not line.startswith(OURS)]
    if strange and not _garbage(outcome):
        yield f"wrote: {strange[-1]}"
    # One line more than usual at most; a signal is no failure, of which something would have to be said.
    if len(lines) > len(usually) + (fault.error not in OWN_SIGNALS) and not strange:
        yield f"said {len(lines)} lines: {lines}"
    is_mute = fault.call.name == "write" and fault.call.shown.startswith("write(2,")
    if (
        begun
        and begun[0] == "began none"
        and not any("without a slot" in line for line in lines)
        and not is_mute
    ):
        yield "ran without a slot, and did not say so"
    if died:
        if len(begun) > 1:
            yield f"the command ran {len(begun)} times"
        return
    expected = [(len(_begun(usual)), usual.status)]
    if _may_run(fault, outcome):
        expected.append((1, int(fault.scenario.command or 0)))
    if _may_be_not_nested(fault):
        expected.append((0, NO_SLOT))
    if fault.call.spawns and fault.error not in OWN_SIGNALS:
        expected.append((0, CANNOT_EXECUTE))
    if (len(begun), outcome.status) not in expected:
        times, status = expected[0]
        yield f"ran {len(begun)} times, status {outcome.status}; usually {times}, {status}"


def _library(fault: Fault, usual: Outcome, outcome: Outcome) -> Iterator[str]:
    if outcome.lines and not _garbage(outcome):
        yield f"wrote: {outcome.lines[-1]}"
    if fault.error == "SIGKILL":
        return
    if outcome.result is None or usual.result is None:
        yield f"ended with status {outcome.status} in the middle"
        return
    result = outcome.result
    interrupted = fault.error == "SIGINT" and result["raised"] == "KeyboardInterrupt"
    # What could not be closed or unlocked stays so as long as the process: see the package.
    kept = set(result["locked"])
    if (
        kept
        and (interrupted or fault.call.name not in ("close", "flock"))
        and fault.error not in OWN_SIGNALS[2:]
    ):
        yield f"still holds {', '.join(sorted(kept))} after the block"
    unthrottled = [text for text in result["warnings"] if text.startswith("UnthrottledWarning: ")]
    healed = [text for text in result["warnings"] if text.startswith("RuntimeWarning: buildslots: ")]
    forgotten = [text for text in result["warnings"] if text.startswith("ResourceWarning: <Slot")]
    if len(unthrottled + healed) > 1 or len(unthrottled + healed + forgotten) != len(result["warnings"]):
        yield f"warned: {result['warnings']}"
    if not interrupted:
        yield from _block(fault, usual, outcome, warned=bool(unthrottled))


def _block(fault: Fault, usual: Outcome, outcome: Outcome, *, warned: bool) -> Iterator[str]:
    """What became of the block, which nothing has interrupted."""
    begun = _begun(outcome)
    ran_without = any(line == "began none" for line in begun)
    if ran_without and not warned:
        yield "ran without a slot, and did not warn"
    if warned and not ran_without:
        yield "warned of a slot that it had"
    what, expected = _result(outcome), _result(usual)
    allowed = [expected]
    if _may_run(fault, outcome):
        allowed.append((1, "done", None))
    if _may_be_not_nested(fault):
        allowed.append((0, None, "SlotTimeoutError"))
    if what not in allowed:
        yield "the block ran {} times, returned {}, raised {}".format(*what) + "; usually {}, {}, {}".format(
            *expected
        )


def _result(outcome: Outcome) -> tuple[int, str | None, str | None]:
    result = outcome.result or {}
    return len(_begun(outcome)), result.get("value"), result.get("raised")
