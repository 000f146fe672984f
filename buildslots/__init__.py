"""Machine-wide build slots: at most K heavy builds at once, first come, first served.

`slot-run -- make build` on the command line; here, for Python build code::

    from buildslots import build_slot

    with build_slot() as slot:
        subprocess.run(["make", "build"], env=slot.environ(), check=True)

Public names are loaded on first use, so that `import buildslots` stays cheap and `slot-run`
loads nothing it does not need.
"""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from buildslots.errors import (
        NotSlotOwnerError,
        PoolUnusableError,
        SettingError,
        SlotCancelledError,
        SlotReleasedError,
        SlotTimeoutError,
        UnthrottledWarning,
    )
    from buildslots.gates import Gates
    from buildslots.pool import SlotPool, build_slot
    from buildslots.slot import Slot
    from buildslots.status import Holder, PoolStatus, Waiter
    from buildslots.waiting import Waiting

__version__ = "0.1.0"

__all__ = [
    "Gates",
    "Holder",
    "NotSlotOwnerError",
    "PoolStatus",
    "PoolUnusableError",
    "SettingError",
    "Slot",
    "SlotCancelledError",
    "SlotPool",
    "SlotReleasedError",
    "SlotTimeoutError",
    "UnthrottledWarning",
    "Waiter",
    "Waiting",
    "build_slot",
]

_HOMES = {
    "Gates": "gates",
    "Slot": "slot",
    "SlotPool": "pool",
    "build_slot": "pool",
    "Waiting": "waiting",
} | dict.fromkeys(("Holder", "PoolStatus", "Waiter"), "status")


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
