"""How long still: the run times of past builds, and when those in line start if the next ones are like them.

The journal tells how long builds of the same program in the same directory took. What holders have run
already counts: of such builds only those that took longer matter. Then the line is played forward.

Loaded only by who waits or looks. An estimate is a hint for people: what cannot be known is None, and what
goes wrong here is nobody's business.
"""

from __future__ import annotations

import os
import time
from stat import S_ISREG

from buildslots.disk import records
from buildslots.files import NO_WAIT, check_root
from buildslots.journal import NAME, START, archives, cut, quoted
from buildslots.settings.places import state_dir

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence
    from typing import TypeAlias

    from buildslots.settings import Settings

    Kind: TypeAlias = tuple[bytes, bytes]
    """Program and directory as the journal has them: the same builds have the same, so nothing is decoded."""
    Record: TypeAlias = dict[str, str]

TAIL = 256 * 1024
"""Bytes of the journal that are read, at its end: some 300 builds."""
LEAST, MOST = 3, 10
"""So many run times a group must have to count, and so many of its last ones do (bench/README.md)."""
MOST_GUESSED = 300
"""Characters of a record's command that are compared; no program's name is longer (NAME_MAX)."""
POOL: Kind = (b"", b"")
NEVER = float("inf")


class RunTimes:
    """How long the last builds of one pool ran: of one program in one directory, of the program, of all."""

    __slots__ = ("_alive", "_runs", "_whole")

    def __init__(self) -> None:
        self._runs: dict[Kind, list[float]] = {}
        self._whole: dict[Kind, float | None] = {}  # what `run_s` has found
        self._alive: dict[str, Kind] = {}  # by the beginning of the nonce: what a record may call otherwise

    def add(self, kind: Kind, ran_s: float) -> None:
        """A build of that kind has ended; those that ended earlier were added before it."""
        self._whole.clear()
        for group in dict.fromkeys((kind, (kind[0], b""), POOL)):
            runs = self._runs.setdefault(group, [])
            runs.append(ran_s)
            del runs[:-MOST]

    def of(self, kind: Kind) -> list[float]:
        """The run times of the most special group that has enough of them; empty if none has."""
        for group in (kind, (kind[0], b""), POOL):
            runs = self._runs.get(group, [])
            if len(runs) >= LEAST:
                return runs
        return []

    def run_s(self, kind: Kind) -> float | None:
        """How long a build of that kind will run, or None."""
        if kind not in self._whole:
            self._whole[kind] = left_s(self.of(kind), 0.0)
        return self._whole[kind]

    def left_s(self, kind: Kind, ran_s: float | None) -> float | None:
        """How long one that has run for `ran_s` will still run, or None."""
        return None if ran_s is None else left_s(self.of(kind), ran_s)

    def kind(self, record: Record) -> Kind:
        """The kind of the build that lives and has that record: by its nonce, or else as its command says."""
        found = self._alive.get(record.get("nonce", "")[:12])
        if found is not None:
            return found
        command = record.get("command", "")[:MOST_GUESSED].partition("\0")[0]
        cwd = _bytes(record.get("cwd", ""))
        # A task or a label stands there as it is, whatever it looks like.
        whole = _bytes(command)
        if (whole, b"") in self._runs:
            return whole, cwd
        return _bytes(os.path.basename(command)), cwd

    def tell(self, text: bytes) -> None:
        """What a line of the journal tells of a build of this pool."""
        event, build = _text(text, b'"event":"'), _text(text, b'"id":"').decode("ascii", "replace")
        kind = _program(text), _text(text, b'"cwd":"')
        if event in (b"queued", b"started", b"fell_through"):
            self._alive[build] = kind
        elif event in (b"gave_up", b"ended"):
            self._alive.pop(build, None)
            ran_s = records.seconds(_number(text, b'"ran_s":')) if event == b"ended" else None
            if ran_s is not None:
                self.add(kind, ran_s)


class Journal:
    """The run times that the journal in the directory `state` has of the pool in `directory`."""

    __slots__ = ("_mark", "_path", "_read_at", "_runs", "_seen")

    def __init__(self, state: str, directory: str) -> None:
        self._path = os.path.join(state, NAME)
        self._mark = b'"dir":' + quoted(cut(directory)).encode("ascii")
        self._read_at = -NEVER
        self._seen: tuple[int, int] | None = None  # inode and size of what was read
        self._runs = RunTimes()

    def runs(self, again_s: float) -> RunTimes:
        """What it tells, read anew if that is older than so many seconds, and it has changed.

        Nothing if there is none, or if it cannot be read. Raises nothing.
        """
        now = time.monotonic()
        if now - self._read_at >= again_s:
            self._read_at = now
            try:
                self._read()
            except OSError as error:
                if error.errno is None:
                    raise  # no system call's: somebody has put it into this thread
        return self._runs

    def _read(self) -> None:
        check_root(self._path)
        about = os.stat(self._path)
        if (about.st_ino, about.st_size) == self._seen:
            return
        runs = RunTimes()
        if about.st_size < TAIL:  # a young file: the last of the older ones tells more
            for older in archives(os.path.dirname(self._path))[-1:]:
                self._read_end(older, TAIL - about.st_size, runs)
        self._read_end(self._path, TAIL, runs)
        self._runs, self._seen = runs, (about.st_ino, about.st_size)

    def _read_end(self, path: str, most: int, runs: RunTimes) -> None:
        """Read the last `most` bytes of the file at `path`. Raises OSError."""
        with open(path, "rb", opener=_opener) as file:
            about = os.fstat(file.fileno())
            if not S_ISREG(about.st_mode):
                return
            file.seek(max(0, about.st_size - most))
            while most > 0 and (text := file.readline(most)):
                most -= len(text)
                # A line may be torn, and another one begin in it: see view.past.builds.
                begin = text.rfind(START)
                if begin >= 0 and self._mark in text:
                    runs.tell(text[begin:])


_journals: dict[tuple[str, str], Journal] = {}
"""By state directory and pool: a program may have a thousand tasks that wait."""
MOST_POOLS = 64


def runs_of(settings: Settings, again_s: float) -> RunTimes | None:
    """The run times of the pool that `settings` name, at most so old if they have changed; None without any.

    Raises nothing.
    """
    if settings.journal == "off":
        return None
    try:
        state = state_dir(os.environ)
    except OSError:
        return None  # no home
    journal = _journals.get((state, settings.address))
    if journal is None:
        if len(_journals) >= MOST_POOLS:
            _journals.clear()
        journal = _journals[state, settings.address] = Journal(state, settings.address)
    return journal.runs(again_s)


def left_s(runs: Sequence[float], ran_s: float) -> float | None:
    """What a build still needs that has run for `ran_s`, if others took `runs`; None if there are none.

    The median of those that took longer. Who has outrun all of them needs as long again: the longer it has
    taken, the less anybody knows. (Means, and the median of many lines played at random, were no better.)
    """
    longer = sorted(run for run in runs if run > ran_s)
    if longer:
        return median(longer) - ran_s
    return ran_s if runs else None


def starts(
    held: Sequence[tuple[float | None, int]],
    waiters: Sequence[tuple[float | None, int, int]],
    not_before_s: float = 0.0,
) -> list[float | None]:
    """In how many seconds each of the line starts; None from the first one on that depends on the unknown.

    Args:
        held: What each holder still needs, in seconds, None if unknown; and how many slots it has.
        waiters: First come first: how long each will run, None if unknown; its weight; its limit.
        not_before_s: For how many seconds nobody may start.
    """
    ends = [(NEVER if left is None else left, weight) for left, weight in held]
    busy = sum(weight for _, weight in held)
    now = not_before_s
    found: list[float | None] = []
    for run_s, weight, limit in waiters:
        ends.sort(reverse=True)
        while ends and (busy >= limit or ends[-1][0] <= now):
            end, its = ends.pop()
            now, busy = max(now, end), busy - its
        found.append(None if now == NEVER else now)
        ends.append((NEVER if run_s is None else now + run_s, weight))
        busy += weight
    return found


def median(values: Sequence[float]) -> float:
    """The middle one of `values`, which are sorted and not empty; of an even number, between the two."""
    half = len(values) // 2
    return values[half] if len(values) % 2 else (values[half - 1] + values[half]) / 2


def _opener(path: str, flags: int) -> int:
    return os.open(path, flags | NO_WAIT)


def _bytes(text: str) -> bytes:
    """`text` as a string of the journal has it, without the quotation marks."""
    return quoted(text).encode("ascii")[1:-1]


def _text(text: bytes, mark: bytes) -> bytes:
    """What stands behind `mark` up to the next quotation mark, which no text of the journal contains."""
    begin = text.find(mark)
    return text[begin + len(mark) :].partition(b'"')[0] if begin >= 0 else b""


def _number(text: bytes, mark: bytes) -> str:
    _, _, rest = text.partition(mark)
    return rest[:24].replace(b"}", b",").partition(b",")[0].decode("ascii", "replace")


def _program(text: bytes) -> bytes:
    """The program in a line, also if whole commands are kept there."""
    program = _text(text, b'"program":"')
    return program or _text(text, b'"command":["').rpartition(b"/")[2]
