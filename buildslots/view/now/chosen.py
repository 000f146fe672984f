"""The pools that `buildslots status` shows: how they are looked at, and their text for programs."""

from __future__ import annotations

import os
import sys
import time

from buildslots.settings import resolve
from buildslots.settings.values import DEFAULT_POOL
from buildslots.status import pool_status
from buildslots.view import warn
from buildslots.view.pools import base_of, existing_pools, unknown
from buildslots.words import SENTENCE_SHOWN, shown

TYPE_CHECKING = False
if TYPE_CHECKING:
    from buildslots.settings import Settings
    from buildslots.status import PoolStatus


OTHERS_S = 0.25
"""So long other pools are looked at: those that come later are not named."""


class Pools:
    """The pools that the user asked for.

    Settings are read only once, so that `--watch` reports a mistake in them once and shows one cap.
    """

    def __init__(self, pool: str | None, directory: str | None, *, every: bool) -> None:
        """Ask for one pool or for `every` one in `directory`. Raises SettingError."""
        self._directory = directory
        self._every = every
        first = DEFAULT_POOL if every else pool
        self._first = resolve(pool=first, dir=directory, warn=warn)
        self._settings: dict[str, Settings] = {self._first.pool: self._first}

    def look(self) -> list[PoolStatus]:
        """Look at each pool now; with `every` also at pools that are new since the last look."""
        names = existing_pools(self._first.dir) if self._every else [self._first.pool]
        for name in names:
            if name not in self._settings:
                self._settings[name] = resolve(pool=name, dir=self._directory, warn=warn)
        return [pool_status(self._settings[name]) for name in names]

    def unknown(self) -> str:
        """What to say of a pool that nobody has used and no setting names; "" of all others."""
        return "" if self._every else unknown(self._first, self._directory)

    def others(self) -> str:
        """A line that names the other pools in which somebody builds or waits; "" if there is none.

        Whoever looks at one pool wants to know why the machine is busy although this one is not.
        """
        if self._every:
            return ""
        found, until = [], time.monotonic() + OTHERS_S
        try:
            names = existing_pools(base_of(self._directory))
        except OSError:
            return ""
        for name in names:
            if name == self._first.pool or time.monotonic() > until:
                continue
            try:
                settings = resolve(pool=name, slots=1, dir=self._directory, warn=lambda _: None)
                status = pool_status(settings)
            except OSError:
                continue  # another user's, or gone
            if status.holders or status.waiters:
                found.append(f"{name} ({status.held} held, {len(status.waiters)} waiting)")
        return (
            shown(f"other pools in use: {', '.join(found)}; --all shows them", SENTENCE_SHOWN)
            if found
            else ""
        )

    def text(self, statuses: list[PoolStatus], *, json: bool, indent: int | None = None) -> str:
        """`statuses` as JSON or as plain text."""
        if json:
            from json import dumps  # noqa: PLC0415

            each = [status.as_dict() for status in statuses]
            return dumps({"pools": each} if self._every else each[0], indent=indent)
        from buildslots.view.table import pools_text, status_text  # noqa: PLC0415

        if self._every:
            return pools_text(statuses)
        others = self.others()
        return status_text(statuses[0]) + (f"\n\n{others}" if others else "")


def for_eyes() -> bool:
    """Whether stdout is a terminal that can do more than print lines of text."""
    return sys.stdout.isatty() and os.environ.get("TERM") not in ("dumb", "unknown")
