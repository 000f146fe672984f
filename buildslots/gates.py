"""Admission by the state of the machine: what memory, load and pressure have to be before a build starts.

Loaded only for a build that asks for it. On Linux it reads /proc itself: psutil, which is asked elsewhere,
takes longer to load than Python takes to start.
"""

from __future__ import annotations

import os
import sys

from buildslots.errors import SettingError
from buildslots.settings.values import NOT_BYTES, NOT_LOAD, NOT_PRESSURE, Bounds, shown_number

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping

RESOURCES = ("cpu", "io", "memory")
"""What Linux tells the pressure of: Documentation/accounting/psi.rst."""


MOST_TOLD = 100
"""Characters of a bound in a record."""


class Gates(Bounds):
    """Bounds within which the machine has to be before a build starts; None for those that do not matter.

    They are looked at when it is a build's turn, and only while others of its pool run; at its timeout it
    starts all the same. What the system does not tell does not matter.

    >>> SlotPool("link", gates=Gates(min_free_memory=4 * 2**30, max_pressure={"io": 40}))
    <SlotPool 'link'>

    Args:
        min_free_memory: Bytes that can be given to processes without swapping (psutil's `available`).
        max_load: Load average over a minute.
        max_pressure: For "cpu", "io" or "memory" the percentage of the last ten seconds for which some
            process waited for it (`some avg10`). Linux only.

    Raises:
        SettingError: A ValueError; one of them is no such number.
    """

    __slots__ = ("__weakref__",)

    def __init__(
        self,
        min_free_memory: int | None = None,
        max_load: float | None = None,
        max_pressure: Mapping[str, float] | None = None,
    ) -> None:
        if min_free_memory is not None:
            _check("min_free_memory", min_free_memory, NOT_BYTES, above=0)
        if max_load is not None:
            _check("max_load", max_load, NOT_LOAD, above=0)
        for resource, percent in (max_pressure or {}).items():
            if resource not in RESOURCES:
                raise SettingError("max_pressure", repr(resource), NOT_PRESSURE)
            _check(f"max_pressure of {resource}", percent, "is not a percentage", above=-1)
        super().__init__(min_free_memory, max_load, max_pressure)

    @classmethod
    def within(cls, bounds: Bounds) -> Gates:
        """What looks whether the machine is within `bounds`."""
        return cls(bounds.min_free_memory, bounds.max_load, bounds.max_pressure)

    @classmethod
    def told(cls, record: Mapping[str, str]) -> Gates | None:
        """The bounds of a waiter, as its record has them; None if it has none, or none that can be."""
        free, load, each = (record.get(name) for name in ("min_free_memory", "max_load", "max_pressure"))
        if any(text is not None and len(text) > MOST_TOLD for text in (free, load, each)):
            return None
        pressure = [part.partition("=")[::2] for part in each.split(",")] if each else []
        try:
            gates = cls(
                None if free is None else int(free),
                None if load is None else float(load),
                {resource: float(percent) for resource, percent in pressure},
            )
        except (SettingError, ValueError):
            return None
        return gates if gates.as_dict() else None

    def never(self) -> str | None:
        """What this machine can never have, in words that follow "waiting for"; None if nothing is."""
        if self.min_free_memory is not None:
            memory = _memory()
            if memory is not None and memory[1] < self.min_free_memory:
                from buildslots.words import size  # noqa: PLC0415 - as below

                wanted, total = size(self.min_free_memory), size(memory[1])
                return f"{wanted} of free memory (this machine has {total} in all)"
        return None

    def closed_by(self) -> str | None:
        """What keeps a build from starting now, in words that follow "waiting for"; None if nothing does."""
        if self.min_free_memory is not None:
            free = free_memory()
            if free is not None and free < self.min_free_memory:
                from buildslots.words import size  # noqa: PLC0415 - not for a gate that is open

                return f"{size(self.min_free_memory)} of free memory ({size(free)} now)"
        if self.max_load is not None:
            now = load()
            if now is not None and now > self.max_load:
                return f"load of at most {self.max_load:g} ({now:.1f} now)"
        for resource, most in self.max_pressure.items():
            percent = pressure(resource)
            if percent is not None and percent > most:
                return f"{resource} pressure of at most {most:g} % ({percent:.0f} % now)"
        return None


def free_memory() -> int | None:
    """Bytes that can be given to processes without swapping, of the whole machine; None if unknown."""
    memory = _memory()
    return None if memory is None else memory[0]


def _memory() -> tuple[int, int] | None:
    """Bytes that can be given to processes without swapping, and that there are; None if unknown."""
    if sys.platform == "linux" and (memory := _memory_of_linux()) and memory[0]:
        return memory
    try:
        import psutil  # noqa: PLC0415 - takes 25 ms

        told = psutil.virtual_memory()
        return int(told.available), int(told.total)
    except Exception:  # noqa: BLE001 - /proc is hidden or stripped, say, and psutil raises or warns
        return None


def _memory_of_linux() -> tuple[int, int] | None:
    """MemAvailable and MemTotal of /proc/meminfo in bytes, as psutil has them (`virtual_memory` there).

    The first is MemFree where more would be available than there is: LXC containers show their own total
    only.
    None if the file does not say; some kernels say that 0 is available, and psutil estimates it then.
    """
    try:
        fd = os.open("/proc/meminfo", os.O_RDONLY)
        try:
            lines = os.read(fd, 65536).splitlines()
        finally:
            os.close(fd)
        # A line is: MemAvailable:   12345678 kB.
        amounts = dict(line.partition(b":")[::2] for line in lines)
        total, free, available = (
            int(amounts[name].split()[0]) * 1024 for name in (b"MemTotal", b"MemFree", b"MemAvailable")
        )
    except (OSError, KeyError, IndexError, ValueError):
        return None
    return available if available <= total else free, total


def load() -> float | None:
    """The load average over a minute; None if unknown."""
    try:
        if hasattr(os, "getloadavg"):
            return os.getloadavg()[0]
        import psutil  # noqa: PLC0415 - Windows has no such number, and psutil makes one

        return float(psutil.getloadavg()[0])
    except Exception:  # noqa: BLE001 - OSError, or psutil's own
        return None


def pressure(resource: str) -> float | None:
    """Percentage of the last ten seconds for which some process waited for `resource`; None if unknown."""
    try:
        fd = os.open(f"/proc/pressure/{resource}", os.O_RDONLY)
        try:
            text = os.read(fd, 4096)
        finally:
            os.close(fd)
        # The first line is: some avg10=0.12 avg60=0.04 avg300=0.01 total=123456.
        return float(text.split()[1].removeprefix(b"avg10="))
    except (OSError, ValueError, IndexError):
        return None


def _check(name: str, value: object, problem: str, *, above: float) -> None:
    # bool is an int, and max_load=True is a mistake; NaN is above nothing.
    good = isinstance(value, (int, float)) and not isinstance(value, bool)
    if not good or not above < value < float("inf"):  # type: ignore[operator]
        raise SettingError(name, shown_number(value), problem)
