"""What a pool says itself, its cap and pauses, for Python code and for views. `disk.rules` keeps it."""

from __future__ import annotations

import time
from dataclasses import asdict, dataclass, replace

from buildslots.disk.directory import PoolDirectory
from buildslots.disk.line import HEAD_START_S
from buildslots.disk.rules import (
    LONGEST_HEAD_START_S,
    LONGEST_PAUSE_S,
    MOST_REASON,
    Pause,
    Rules,
    read,
)
from buildslots.disk.ruling import change
from buildslots.errors import PoolUnreachableError, SettingError
from buildslots.files import check_root
from buildslots.settings.options import parse_tokens
from buildslots.settings.values import (
    MAX_SLOTS,
    NOT_SLOTS,
    TOO_MANY_SLOTS,
    UNSET,
    Unset,
    is_seconds,
    parse_duration,
)
from buildslots.words import shown, span, whoami

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    from buildslots.backend import Steps
    from buildslots.fleet.replies import Rules as Said
    from buildslots.fleet.script import Script
    from buildslots.settings import Settings

OF_MACHINES = "are of one machine, and this pool is of many: let the config file of each say it"
PAUSE_S = 3600.0
"""How long a pause lasts unless somebody says it."""


@dataclass(frozen=True, slots=True)
class PoolRules:
    """What a pool says to every caller.

    >>> pool = SlotPool(slots=9)
    >>> pool.set_rules(slots=2).slots
    2
    >>> pool.status().cap, pool.status().cap_source
    (2, 'the pool')
    >>> pool.set_rules(slots=None).slots is None
    True

    Attributes:
        slots: The cap of every caller, who may lower it for himself, and not raise it; None if it says none.
        tokens: CPU tokens of every caller, who may do with fewer: a number, "auto" for one less than there
            are cores, 0 for none; None if it says nothing.
        head_start_s: By how many seconds `priority` lets a build stand in line before its arrival, or behind.
        paused_until: Unix time until which nobody starts; None if somebody may.
        paused_by: Who has set that.
        reason: Why; "" if nobody said.
        changes: The last changes, the newest last: the Unix time, who made it, and what was set.
        problem: Why the rules that are there count as absent, in one sentence; None if they do not.
    """

    slots: int | None
    tokens: int | str | None
    head_start_s: float
    paused_until: float | None
    paused_by: str | None
    reason: str
    changes: tuple[tuple[float, str, str], ...]
    problem: str | None

    def as_dict(self) -> dict[str, object]:
        """The same as plain values: what `--json` prints."""
        told = asdict(self)
        told["changes"] = [{"t": t, "who": who, "what": what} for t, who, what in self.changes]
        return told


def pool_rules(settings: Settings) -> PoolRules:
    """What the pool of `settings` says; for what cannot be read of one here see `PoolRules.problem`.

    Raises:
        PoolUnreachableError: An OSError; the pool is on a server that cannot be asked.
    """
    if "url" in settings.said:
        from buildslots.afar import said_of  # noqa: PLC0415 - few pools are on a server

        return _told_afar(said_of(settings))
    return _told(read(settings.dir) or Rules())


def set_rules(
    settings: Settings,
    slots: int | Unset | None = UNSET,
    head_start: float | str | Unset | None = UNSET,
    tokens: int | str | Unset | None = UNSET,
) -> PoolRules:
    """Change what the pool says; all who wait act on it at once.

    Args:
        settings: Of the pool.
        slots: Its cap; None takes that back.
        head_start: Seconds, or a text such as "5m", that `priority` is worth; None for five minutes.
        tokens: CPU tokens of all builds together: a number, "auto" or "off"; None takes that back.

    Raises:
        SettingError: A value is not usable.
        OSError: The pool cannot be written.
    """
    if not isinstance(slots, Unset):
        _check_slots(slots)
    start_s = None if isinstance(head_start, Unset) else _head_start_s(head_start)
    its_tokens = None if tokens is None or isinstance(tokens, Unset) else parse_tokens(str(tokens), "tokens")
    if "url" in settings.said:
        if not isinstance(tokens, Unset):
            raise SettingError("tokens", str(tokens), OF_MACHINES)
        cap = None if isinstance(slots, Unset) else slots
        if slots is None:
            raise SettingError("slots", "", "is no cap, and a pool on a server has no other one")
        if cap is None and start_s is None:
            return pool_rules(settings)
        _check_slots_afar(cap)
        return _asked(settings, lambda script: script.set(whoami(), slots=cap, head_start_s=start_s))

    def alter(rules: Rules, now: float) -> str:
        del now
        told = []
        if not isinstance(slots, Unset):
            rules.slots = slots
            told.append(f"slots={'' if slots is None else slots}")
        if start_s is not None:
            rules.head_start_s = start_s
            told.append(f"head_start={span(start_s)}")
        if not isinstance(tokens, Unset):
            rules.tokens = its_tokens
            told.append(f"tokens={'' if its_tokens is None else its_tokens or 'off'}")
        return " ".join(told)

    return _changed(settings, alter)


def _check_slots(slots: int | None) -> None:
    if slots is not None and (not isinstance(slots, int) or isinstance(slots, bool) or slots < 1):
        raise SettingError("slots", repr(slots), NOT_SLOTS)
    if slots is not None and slots > MAX_SLOTS:
        raise SettingError("slots", hex(slots), TOO_MANY_SLOTS)


def _check_slots_afar(slots: int | None) -> None:
    from buildslots.afar import MOST_SLOTS  # noqa: PLC0415 - few pools are on a server

    if slots is not None and slots > MOST_SLOTS:
        raise SettingError("slots", str(slots), f"is more than the {MOST_SLOTS} that a server gives")


def _head_start_s(head_start: float | str | None) -> float:
    if head_start is None:
        return float(HEAD_START_S)
    seconds = parse_duration(head_start, "head_start") if isinstance(head_start, str) else head_start
    if not is_seconds(seconds) or seconds > LONGEST_HEAD_START_S:
        raise SettingError("head_start", str(head_start), "is no time of at most 24h")
    return float(seconds)


def pause(settings: Settings, duration: float | str | None = None, reason: str = "") -> PoolRules:
    """Let nobody start for a while; who runs goes on, and waits are prolonged by it.

    Args:
        settings: Of the pool.
        duration: Seconds, or a text such as "10m"; None for an hour. At most four hours.
        reason: Why; those who wait read it.

    Raises:
        SettingError: It is no such duration.
        OSError: The pool cannot be written.
    """
    seconds = parse_duration(duration, "duration") if isinstance(duration, str) else duration
    if duration is None:
        seconds = PAUSE_S
    if not is_seconds(seconds) or not 0 < seconds <= LONGEST_PAUSE_S:
        problem = (
            "is no time of a pause: more than 0, and at most 4h, for nobody may turn a pool off for good"
        )
        raise SettingError("duration", str(duration), problem)
    reason = shown(" ".join(reason.split()), MOST_REASON)
    if "url" in settings.said:
        return _asked(settings, lambda script: script.pause(whoami(), seconds, reason))

    def alter(rules: Rules, now: float) -> str:
        rules.resume(now)
        rules.pauses.append(Pause(now, now + seconds, whoami(), reason))
        return f"pause {span(seconds)}{f': {reason}' if reason else ''}"

    return _changed(settings, alter)


def resume(settings: Settings) -> PoolRules:
    """End the pause that is on, if one is. Raises OSError: the pool cannot be written."""
    if "url" in settings.said:
        return _asked(settings, lambda script: script.resume(whoami()))

    def alter(rules: Rules, now: float) -> str:
        rules.resume(now)
        return "resume"

    return _changed(settings, alter)


def create(settings: Settings, slots: int) -> tuple[PoolRules, bool]:
    """Make the pool on a server that `settings` name, with that cap; one that is there stays as it is.

    Returns:
        What it says then, and whether it was made.

    Raises:
        SettingError: It is no cap.
        PoolUnreachableError: An OSError; the server is not there, or refuses.
    """
    _check_slots(slots)
    _check_slots_afar(slots)
    try:
        return _asked(settings, lambda script: script.create(whoami(), slots)), True
    except PoolUnreachableError as error:
        from buildslots.fleet.script import PoolExistsError  # noqa: PLC0415 - few pools are on a server

        if not isinstance(error, PoolExistsError):
            raise
        return pool_rules(settings), False


def _asked(settings: Settings, operation: Callable[[Script], Steps[Said]]) -> PoolRules:
    """What the pool, which is on a server, says after `operation`. Raises PoolUnreachableError."""
    from buildslots.afar import address_of, ask  # noqa: PLC0415 - few pools are on a server

    return _told_afar(ask(address_of(settings), operation))


def _told_afar(said: Said) -> PoolRules:
    from buildslots.afar import changes_of, rules_of  # noqa: PLC0415 - as above

    told = _told(rules_of(said))
    return replace(told, changes=changes_of(said))


def _changed(settings: Settings, alter: Callable[[Rules, float], str]) -> PoolRules:
    check_root(settings.dir)
    PoolDirectory(settings.dir).make()
    return _told(change(settings.dir, alter))


def _told(rules: Rules) -> PoolRules:
    on = rules.pause(time.time())
    return PoolRules(
        rules.slots,
        rules.tokens,
        rules.head_start_s,
        None if on is None else on.until,
        None if on is None else on.who,
        "" if on is None else on.reason,
        tuple((each.t, each.who, each.what) for each in rules.changes),
        rules.problem,
    )


class Ruled:
    """What a pool can be asked about its rules, and told: a part of `SlotPool`."""

    __slots__ = ()

    def _usable_settings(self) -> Settings:
        """Of the pool. Raises OSError: it has no place."""
        raise NotImplementedError

    def rules(self) -> PoolRules:
        """What the pool itself says to every caller. Raises OSError: the pool has no place, or no server."""
        return pool_rules(self._usable_settings())

    def set_rules(
        self,
        *,
        slots: int | Unset | None = UNSET,
        head_start: float | str | Unset | None = UNSET,
        tokens: int | str | Unset | None = UNSET,
    ) -> PoolRules:
        """Let the pool say to every caller its cap, its tokens, and what `priority` is worth.

        None takes a rule back. All who wait act on the cap at once; builds that start use the tokens.

        Raises:
            SettingError: A ValueError; it is no cap, no duration, or no number of tokens.
            OSError: The pool cannot be written.
        """
        return set_rules(self._usable_settings(), slots, head_start, tokens)

    def pause(self, duration: float | str | None = None, reason: str = "") -> PoolRules:
        """Let nobody start for seconds or "10m", an hour for None. Raises what `set_rules` raises."""
        return pause(self._usable_settings(), duration, reason)

    def resume(self) -> PoolRules:
        """End a pause. Raises OSError: the pool cannot be written."""
        return resume(self._usable_settings())
