"""The rules of a pool: what it says itself, and what binds every caller: its cap, and pauses.

They are a small text file in the pool, `rules`, which is replaced by rename. Whoever decides something reads
it anew; while there is none, that costs one failed open(2). `disk.ruling` changes it.

Loaded only where a pool has rules, and by those who set them.
"""

from __future__ import annotations

import os
import time
from stat import S_ISREG

from buildslots.disk.line import HEAD_START_S
from buildslots.files import NO_FILE, PLAIN, TICK_S, close, is_shared
from buildslots.words import NAME_SHOWN, shown

TYPE_CHECKING = False
if TYPE_CHECKING:
    from buildslots.backend import Request

NAME = "rules"
MAGIC, END = "buildslots-rules 1", "end"
MOST_BYTES = 4096
"""Of the file: whoever decides something reads all of it."""
LONGEST_PAUSE_S = 4 * 3600.0
"""A pause ends by itself: nobody may turn a pool off for good."""
MOST_CHANGES, MOST_PAUSES = 12, 4
"""So many of the last changes, and of the last pauses, are kept."""
KEPT_S = 86400.0
"""So long a pause that is over is kept: waits of that time are prolonged by it."""
LARGEST_CAP = 999_999_999
AUTO, MOST_TOKENS = "auto", 4096
"""What `tokens` is besides a number: one less than the machine has cores; and the largest number."""
LONGEST_HEAD_START_S = 86400.0
"""A head start of more would be for ever."""
MOST_REASON = 160
"""Cells of a reason or of a change, as they are kept."""


NO_PLAIN_FILE = "it is no regular file with one name"
PATH_SHOWN = 300
"""Cells of the pool's directory in a sentence."""


class RulesError(ValueError):
    """What is wrong with the file, in words."""


class Pause:
    """A time in which nobody starts.

    Attributes:
        since: Unix time of its begin.
        until: Unix time of its end, at the latest `LONGEST_PAUSE_S` behind that.
        who: Who has set it, in words.
        reason: Why, in words; "" if nobody said.
    """

    __slots__ = ("reason", "since", "until", "who")

    def __init__(self, since: float, until: float, who: str, reason: str) -> None:
        self.since = since
        self.until = round(min(until, since + LONGEST_PAUSE_S), 3)  # as in the file
        self.who = who
        self.reason = reason

    def __str__(self) -> str:
        why = f": {self.reason}" if self.reason else ""
        end = time.strftime("%H:%M:%S", time.localtime(self.until))
        return f"the end of a pause at {end}, set by {self.who}{why}"


class Change:
    """A change of the rules.

    Attributes:
        t: Unix time.
        who: Who has made it, in words.
        what: What was set, in words.
    """

    __slots__ = ("t", "what", "who")

    def __init__(self, t: float, who: str, what: str) -> None:
        self.t = t
        self.who = who
        self.what = what


class Rules:
    """What a pool says.

    Attributes:
        slots: The cap of every caller; None if it says none.
        tokens: CPU tokens of every caller: a number, AUTO, 0 for off; None if it says nothing.
        head_start_s: How far `priority` lets a build stand before its arrival, or behind it.
        pauses: The pause that is on, if one is, and the last ones that were.
        changes: The last changes, the newest last.
        problem: Why the file counts as absent, in one sentence; None if it does not.
    """

    __slots__ = ("changes", "head_start_s", "pauses", "problem", "slots", "tokens")

    def __init__(self) -> None:
        self.slots: int | None = None
        self.tokens: int | str | None = None
        self.head_start_s = float(HEAD_START_S)
        self.pauses: list[Pause] = []
        self.changes: list[Change] = []
        self.problem: str | None = None

    def cap(self, own: int, *, is_own: bool) -> int:
        """The cap of a caller whose `own` one counts if the pool says none.

        What a caller has said (`is_own`) may be less than what the pool says, and never more.
        """
        if self.slots is None:
            return own
        return min(own, self.slots) if is_own else self.slots

    def limit(self, own: int, weight: int, *, is_own: bool) -> int:
        """Below how many held slots such a caller may start, if it needs `weight` slots."""
        return max(1, self.cap(own, is_own=is_own) - weight + 1)

    def tokens_of(self, own: int | None, auto: int, *, is_own: bool) -> int | None:
        """C of a caller that has said `own` one (`is_own`), None for none, where the machine's is `auto`.

        A caller may lower what the pool says, and never raise it; and do without tokens altogether.
        """
        if self.tokens is None or (is_own and own is None):
            return own
        its = auto if self.tokens == AUTO else int(self.tokens)
        return (min(own, its) if is_own and own is not None else its) or None

    def applied(self, request: Request) -> Request:
        """`request` with the cap that it has under these rules."""
        return request.under(self.cap(request.own_cap, is_own=request.is_own_cap))

    def pause(self, now: float) -> Pause | None:
        """The pause that is on at the Unix time `now`."""
        return next((pause for pause in self.pauses if pause.since <= now < pause.until), None)

    def paused_s(self, began: float) -> float:
        """For how many seconds since `time.monotonic()` was `began` nobody could start."""
        now = time.time()
        since = now - (time.monotonic() - began)
        paused_s = 0.0
        for pause in sorted(self.pauses, key=lambda pause: pause.since):
            begin, end = max(pause.since, since), min(pause.until, now)
            if end > begin:
                paused_s += end - begin
                since = end  # they overlap only if somebody else has written them: no second counts twice
        return paused_s

    def resume(self, now: float) -> None:
        """End what is on at the Unix time `now`."""
        for pause in self.pauses:
            if pause.since <= now < pause.until:
                pause.until = now

    def text(self) -> str:
        """The file's contents."""
        lines = [MAGIC]
        if self.slots is not None:
            lines.append(f"slots {self.slots}")
        if self.tokens is not None:
            lines.append(f"tokens {self.tokens}")
        if self.head_start_s != HEAD_START_S:
            lines.append(f"head_start {self.head_start_s:.3f}")
        lines += [
            f"pause {pause.since:.3f} {pause.until:.3f} {_word(pause.who)} {pause.reason}".rstrip()
            for pause in self.pauses
        ]
        lines += [f"change {change.t:.3f} {_word(change.who)} {change.what}" for change in self.changes]
        return "\n".join([*lines, END, ""])


def read(directory: str) -> Rules | None:
    """The rules of the pool in `directory`; None if it has none. Raises nothing: see `Rules.problem`."""
    try:
        return read_open(os.open(f"{directory}/{NAME}", os.O_RDONLY | PLAIN), directory)
    except (FileNotFoundError, NotADirectoryError):
        return None
    except OSError as error:
        if error.errno is None:
            raise  # no system call's: somebody has put it into this thread
        why = NO_PLAIN_FILE if error.errno in NO_FILE else error.strerror or str(error)
        return _unusable(directory, why)


def read_open(fd: int, directory: str) -> Rules:
    """The rules in the file `fd` of the pool in `directory`, which is closed. Raises nothing."""
    try:
        about = os.fstat(fd)
        _check(about, directory)
        text = os.read(fd, MOST_BYTES + 1)
        return _parse(text, about.st_ctime + TICK_S)
    except OSError as error:
        if error.errno is None:
            raise
        return _unusable(directory, error.strerror or str(error))
    except RulesError as error:
        return _unusable(directory, str(error))
    except ValueError:  # no text, no number, too few words
        return _unusable(directory, "it is not whole, or of another version")
    finally:
        close(fd)


def _unusable(directory: str, why: str) -> Rules:
    rules = Rules()
    rules.problem = f"{shown(directory, PATH_SHOWN)}/{NAME} counts as absent: {why}"
    return rules


def _check(about: os.stat_result, directory: str) -> None:
    """Raise RulesError if the file is none that may say something, or OSError if that cannot be told."""
    # It has no name any more if somebody has just put another one in its place.
    if not S_ISREG(about.st_mode) or about.st_nlink > 1:
        raise RulesError(NO_PLAIN_FILE)
    if not hasattr(os, "geteuid"):
        return
    above = os.stat(directory)
    if about.st_uid in (0, os.geteuid(), above.st_uid):
        return
    if not is_shared(directory) or about.st_gid != above.st_gid:
        raise RulesError(f"it is another user's (uid {about.st_uid})")


def _parse(text: bytes, written: float) -> Rules:
    """The rules in `text`, which was `written` at that Unix time at the latest.

    Raises ValueError if it is too large, hostile, torn, or of another version.
    """
    if len(text) > MOST_BYTES:
        raise RulesError(f"it has more than {MOST_BYTES} bytes")
    head, *lines = text.decode().split("\n")
    if head != MAGIC or lines[-2:] != [END, ""]:
        raise RulesError("it is not whole, or of another version")
    rules = Rules()
    for each in lines[:-2]:
        name, _, value = each.partition(" ")
        if name == "slots":
            rules.slots = _cap(value)
        elif name == "tokens":
            rules.tokens = _tokens(value)
        elif name == "head_start":
            rules.head_start_s = min(_time(value), LONGEST_HEAD_START_S)
        elif name == "pause" and len(rules.pauses) < MOST_PAUSES:
            since, until, who, *reason = value.split(" ", 3)
            pause = Pause(_time(since), _time(until), _said(who), _said(" ".join(reason)))
            if pause.since <= written:  # one that is to begin later would make longer ones than there may be
                rules.pauses.append(pause)
        elif name == "change" and len(rules.changes) < MOST_CHANGES:
            t, who, what = value.split(" ", 2)
            rules.changes.append(Change(_time(t), _said(who), _said(what)))
        # All other names are passed over: a later version may have more.
    return rules


def _cap(text: str) -> int:
    if not (text.isascii() and text.isdecimal() and 1 <= int(text[:10]) <= LARGEST_CAP):
        raise RulesError(f"slots {shown(text, NAME_SHOWN)!r} is no cap")
    return int(text)


def _tokens(text: str) -> int | str:
    if text != AUTO and not (text.isascii() and text.isdecimal() and int(text[:10]) <= MOST_TOKENS):
        raise RulesError(f"tokens {shown(text, NAME_SHOWN)!r} is no number of tokens")
    return text if text == AUTO else int(text)


def _time(text: str) -> float:
    seconds = float(text)
    if not 0 <= seconds < 1e11:
        raise RulesError(f"{shown(text, NAME_SHOWN)!r} is no time")
    return seconds


def _said(text: str) -> str:
    """What somebody else has written, fit to print."""
    return shown(text, MOST_REASON)


def _word(text: str) -> str:
    return text.replace(" ", "_") or "?"
