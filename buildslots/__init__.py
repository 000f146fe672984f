"""Machine-wide build slots: at most K heavy builds at once, first come, first served.

`slot-run -- make build` on the command line; here, for Python build code::

    from buildslots import build_slot

    with build_slot() as slot:
        subprocess.run(["make", "build"], env=slot.environ(), check=True)

and many of them with one plan: `Batch`, `run_batch`.

Public names are loaded on first use, so that `import buildslots` stays cheap and `slot-run`
loads nothing it does not need.
"""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from buildslots.batch.batch import Batch, run_batch
    from buildslots.batch.report import BatchError, Report
    from buildslots.batch.state import Outcome, TaskRun, current_task
    from buildslots.batch.task import PlanError
    from buildslots.errors import (
        NotSlotOwnerError,
        PoolUnreachableError,
        PoolUnusableError,
        SettingError,
        SlotCancelledError,
        SlotReleasedError,
        SlotTimeoutError,
        UnthrottledWarning,
    )
    from buildslots.gates import Gates
    from buildslots.pool import SlotPool, build_slot
    from buildslots.reasons import Reason
    from buildslots.rules import PoolRules
    from buildslots.slot import Slot
    from buildslots.status import Fleet, Holder, PoolStatus, Waiter
    from buildslots.waiting import Waiting

__version__ = "0.1.0"

__all__ = [
    "Batch",
    "BatchError",
    "Fleet",
    "Gates",
    "Holder",
    "NotSlotOwnerError",
    "Outcome",
    "PlanError",
    "PoolRules",
    "PoolStatus",
    "PoolUnreachableError",
    "PoolUnusableError",
    "Reason",
    "Report",
    "SettingError",
    "Slot",
    "SlotCancelledError",
    "SlotPool",
    "SlotReleasedError",
    "SlotTimeoutError",
    "TaskRun",
    "UnthrottledWarning",
    "Waiter",
    "Waiting",
    "build_slot",
    "current_task",
    "run_batch",
]

_HOMES = {
    "Gates": "gates",
    "PlanError": "batch.task",
    "PoolRules": "rules",
    "Reason": "reasons",
    "Slot": "slot",
    "SlotPool": "pool",
    "build_slot": "pool",
    "Waiting": "waiting",
}
_HOMES |= dict.fromkeys(("Fleet", "Holder", "PoolStatus", "Waiter"), "status")
_HOMES |= dict.fromkeys(("Batch", "run_batch"), "batch.batch")
_HOMES |= dict.fromkeys(("BatchError", "Report"), "batch.report")
_HOMES |= dict.fromkeys(("Outcome", "TaskRun", "current_task"), "batch.state")


def __getattr__(name: str) -> object:
    """Load a public name from the module that defines it."""
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from importlib import import_module  # noqa: PLC0415 - deferred loading is the point

    value = getattr(import_module(f"{__name__}.{_HOMES.get(name, 'errors')}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted(__all__)
