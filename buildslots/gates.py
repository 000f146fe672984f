"""Admission by the state of the machine: what memory, load and pressure have to be before a build starts.

Loaded only for a build that asks for it.
"""

from __future__ import annotations

import os

import psutil

from buildslots.words import size

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping

RESOURCES = ("cpu", "io", "memory")
"""What Linux tells the pressure of: Documentation/accounting/psi.rst."""


class Gates:
    """Bounds within which the machine has to be; None for those that do not matter.

    Args:
        min_free_memory: Bytes that can be given to processes without swapping (psutil's `available`).
        max_load: Load average over a minute.
        max_pressure: For "cpu", "io" or "memory" the percentage of the last ten seconds for which some
            process waited for it (`some avg10`). What a system does not tell does not matter.
    """

    __slots__ = ("max_load", "max_pressure", "min_free_memory")

    def __init__(
        self,
        min_free_memory: int | None = None,
        max_load: float | None = None,
        max_pressure: Mapping[str, float] | None = None,
    ) -> None:
        self.min_free_memory = min_free_memory
        self.max_load = max_load
        self.max_pressure = dict(max_pressure or {})

    def __repr__(self) -> str:
        return f"Gates({self.min_free_memory}, {self.max_load}, {self.max_pressure})"

    def as_dict(self) -> dict[str, object]:
        """The bounds that matter, by name."""
        return {name: bound for name in self.__slots__ if (bound := getattr(self, name))}

    def closed_by(self) -> str | None:
        """What keeps a build from starting now, in words; None if nothing does."""
        if self.min_free_memory is not None:
            free = psutil.virtual_memory().available
            if free < self.min_free_memory:
                return f"{size(self.min_free_memory)} of free memory ({size(free)} now)"
        if self.max_load is not None:
            load = psutil.getloadavg()[0]
            if load > self.max_load:
                return f"a load of {self.max_load:g} ({load:.1f} now)"
        for resource, most in self.max_pressure.items():
            percent = pressure(resource)
            if percent is not None and percent > most:
                return f"{resource} pressure of {most:g} % ({percent:.0f} % now)"
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
