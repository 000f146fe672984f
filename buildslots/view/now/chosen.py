"""The pools that `buildslots status` shows: how they are looked at, and their text for programs."""

from __future__ import annotations

import os
import sys

from buildslots.settings import resolve
from buildslots.settings.values import DEFAULT_POOL
from buildslots.status import pool_status
from buildslots.view import warn
from buildslots.view.pools import existing_pools

TYPE_CHECKING = False
if TYPE_CHECKING:
    from buildslots.settings import Settings
    from buildslots.status import PoolStatus


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

    def text(self, statuses: list[PoolStatus], *, json: bool, indent: int | None = None) -> str:
        """`statuses` as JSON or as plain text."""
        if json:
            from json import dumps  # noqa: PLC0415

            each = [status.as_dict() for status in statuses]
            return dumps({"pools": each} if self._every else each[0], indent=indent)
        from buildslots.view.table import pools_text, status_text  # noqa: PLC0415

        return pools_text(statuses) if self._every else status_text(statuses[0])


def for_eyes() -> bool:
    """Whether stdout is a terminal that can do more than print lines of text."""
    return sys.stdout.isatty() and os.environ.get("TERM") not in ("dumb", "unknown")
