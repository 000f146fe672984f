"""The pools that `buildslots status` shows: how they are looked at, and their text for programs."""

from __future__ import annotations

import os
import sys
import time

from buildslots.look import status_here
from buildslots.settings import pools_in_settings, resolve
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
        """Look at each pool now; with `every` also at pools that are new since the last look.

        These are all that were ever used here, and those on servers that the settings name.
        """
        names = [self._first.pool]
        if self._every:
            names = existing_pools(self._first.dir)
            named = pools_in_settings(os.environ, lambda _: None).difference(names)
            names += sorted(name for name in named if "url" in self._of(name).said)
        return [status_here(self._of(name)) for name in names]

    def _of(self, name: str) -> Settings:
        if name not in self._settings:
            self._settings[name] = resolve(pool=name, dir=self._directory, warn=warn)
        return self._settings[name]

    def told(self) -> set[str]:
        """The names of those pools whose builds the journal is told of."""
        return {name for name, settings in self._settings.items() if settings.journal != "off"}

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
        is_fleet = "url" in self._first.said
        try:
            names = existing_pools(base_of(self._directory))
        except OSError:
            return ""
        for name in names:
            if (name == self._first.pool and not is_fleet) or time.monotonic() > until:
                continue
            try:
                settings = resolve(pool=name, slots=1, dir=self._directory, warn=lambda _: None)
                status = pool_status(settings)  # that of this machine, though a server may have one as well
            except OSError:
                continue  # another user's, or gone
            if status.holders or status.waiters:
                where = " of this machine" if "url" in settings.said else ""
                found.append(f"{name}{where} ({status.held} held, {len(status.waiters)} waiting)")
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
