r"""The journal: what became of every build, one line of JSON an event, all pools in one file.

    {"v":1,"t":1790000000.25,"event":"started","id":"0f3a5b…","pool":"default","dir":"/home/me/…",
     "pid":4711,"start":"881234","host":"builder","pidns":"pid:[4026531836]","program":"make",
     "cwd":"/home/me/a","slot":0,"waited_s":1.5,"cap":3,"load":2.25}

Every line has what the rows up to `priority` name, and its event's fields besides:

    v, t, event         1; Unix time; the event
    id, pool, dir, pid, program, cwd   which build; `command` in place of `program` if so configured
    start, host, pidns  which process that pid is, as in disk.records; Linux only
    batch               the ID of a batch: the build is a task of it, and `program` the task's name
    priority            "high" or "low"; a build without it is "normal"
    queued              cap, load: it joined the line
    started             slot, waited_s, cap, load
    fell_through        the same: it started beyond its cap, at the timeout
    gave_up             waited_s, cause: "timeout", "interrupted" or "unreachable" (the server of its pool);
                        it never started
    ended               slot, ran_s, status: the exit status, minus the signal that killed it, or null; load;
                        cpu_s, max_rss: what the command used, if slot-run knows; tokens_max: the most CPU
                        tokens that it had at once, if it took part in sharing them
    degraded            cause: it runs without any slot, because the machinery failed

A build that needs several slots also has `weight` when it joins the line and starts, and `slots`, the
numbers of all of them, beside `slot`, the lowest, when it starts.

`cpu_s` is user and system time in seconds, `max_rss` resident memory in bytes, both of wait4(2). Both count
the command, and those of its descendants that were waited for. `cpu_s` is their sum. `max_rss` is that of
the largest single process, not the sum; on Linux it is hardly ever below slot-run's own 13 MiB or so, because
the command begins in slot-run's memory (`exec_mmap` in fs/exec.c). Only slot-run knows them, and not on
Windows: Python code and the tasks of batches have neither.

A build that was killed together with its slot-run has no `ended`. `load` is the machine's load average over
a minute. Nested builds are part of the build around them and do not appear.

Nothing here may delay or fail a build: it is loaded once the command runs (or has to wait, or runs without a
slot), and what goes wrong loses lines and no more. A line is one write(2) to a file opened with O_APPEND, and
so in one piece whoever else writes: Linux, like other Unixes, holds the inode's lock over the whole of it. A
disk that becomes full within a line leaves its beginning, without a line end; `view.past.builds` says how it
is read all the same. On Windows the C library seeks and writes in two steps: of two lines of the same moment
one may be lost.

Whoever finds that the file has reached LIMIT bytes renames it to `journal-MICROSECONDS.jsonl`, under a lock,
and removes the oldest such files but KEPT. The one rename either has happened or has not, so that a kill
at any moment loses no line.
"""

from __future__ import annotations

import os
import time

from buildslots.backend import label_of, program_of
from buildslots.disk.lock import lock_file, unlock
from buildslots.disk.records import BATCH_LENGTH
from buildslots.files import PLAIN, check_root, close, make_parents, open_in_room
from buildslots.processes import here, identity
from buildslots.settings.places import state_dir
from buildslots.settings.values import DEFAULT_PRIORITY

TYPE_CHECKING = False
if TYPE_CHECKING:
    from buildslots.backend import Request
    from buildslots.processes import Usage
    from buildslots.settings import Settings

NAME = "journal.jsonl"
START = b'{"v":1,'
"""What each line begins with, and what nothing within a line has: JSON puts a backslash before its marks."""
LIMIT = 4 * 1024 * 1024
"""Bytes; some 8,000 builds."""
KEPT = 4
"""Older files; with these the journal has at most 20 MiB."""
COMMAND_CHARACTERS = 4096
"""So much of a command line stands in a line, as in the records of disk.records; and of any other text."""


class Log:
    """What the journal is told of one build. No method raises.

    Attributes:
        used: What its command has used, set before its end is told; None if nobody knows.
        tokens_max: The most tokens that it had at once, likewise; None if it took no part in sharing them.
    """

    __slots__ = ("_about", "_began", "_path", "_slot", "tokens_max", "used")

    def __init__(self, settings: Settings, command: list[str], build: str) -> None:
        """Begin to tell of the build `command` with the id `build`; writes nothing yet."""
        self._about = self._path = ""
        self._slot = -1
        self.used: Usage | None = None
        self.tokens_max: int | None = None
        self._began = time.monotonic()
        try:
            path = os.path.join(state_dir(os.environ), NAME)
            check_root(path)
            self._path = path
        except OSError:
            pass  # no home; or root in the home of another user, where nothing is told
        label = label_of(command)
        cwd = label.cwd if label is not None and label.cwd is not None else here()
        if settings.journal == "commands":
            what = f'"command":[{",".join(map(quoted, _shortened(command)))}]'
        else:
            what = f'"program":{quoted(cut(program_of(command)))}'
        self._about = (
            f'"id":{quoted(build)},"pool":{quoted(settings.pool)},"dir":{quoted(cut(settings.address))}'
            f",{_process()},{what}"
            f',"cwd":{quoted(cut(cwd))}'
        )
        if label is not None and label.batch:
            self._about += f',"batch":{quoted(label.batch[:BATCH_LENGTH])}'
        if settings.priority != DEFAULT_PRIORITY:
            self._about += f',"priority":{quoted(settings.priority)}'

    def queued(self, request: Request) -> None:
        """It joined the line, and asks for that."""
        self._write("queued", f'"cap":{request.cap}{_weight(request.weight)}{_load()}')

    def started(self, slots: tuple[int, ...], waited_s: float, *, overflow: bool, cap: int) -> None:
        """It runs now, in `slots`, by that cap."""
        self._slot = slots[0]
        self._began = time.monotonic()
        event = "fell_through" if overflow else "started"
        several = f',"slots":[{",".join(map(str, slots))}]' if len(slots) > 1 else ""
        where = f'"slot":{slots[0]}{several}{_weight(len(slots))}'
        self._write(event, f'{where},"waited_s":{waited_s:.6f},"cap":{cap}{_load()}')

    def gave_up(self, cause: str) -> None:
        """It will not start."""
        self._write("gave_up", f'"waited_s":{time.monotonic() - self._began:.6f},"cause":{quoted(cause)}')

    def ended(self, status: int | None, at: float, until: float) -> None:
        """It has ended.

        Args:
            status: Its exit status, or minus the signal that killed it; None if nobody knows.
            at: When, by the wall clock.
            until: The same by `time.monotonic()`.
        """
        ran_s = until - self._began
        shown = "null" if status is None else int(status) if isinstance(status, int) else "null"
        used = f',"cpu_s":{self.used[0]:.6f},"max_rss":{self.used[1]}' if self.used else ""
        tokens = "" if self.tokens_max is None else f',"tokens_max":{self.tokens_max}'
        what = f'"slot":{self._slot},"ran_s":{ran_s:.6f},"status":{shown}{used}{tokens}'
        self._write("ended", f"{what}{_load()}", at)

    def degraded(self, cause: str) -> None:
        """It runs without any slot."""
        self._write("degraded", f'"cause":{quoted(cut(cause))}')

    def _write(self, event: str, fields: str, at: float | None = None) -> None:
        if not self._path:
            return
        line = f'{{"v":1,"t":{at or time.time():.6f},"event":"{event}",{self._about},{fields}}}\n'
        try:
            size = _append(self._path, line.encode("ascii"))
            if size >= LIMIT:
                rotate(self._path)
        except Exception:  # noqa: BLE001, S110 - the journal is worth no build, whatever is wrong with it
            pass


def _weight(weight: int) -> str:
    return f',"weight":{weight}' if weight > 1 else ""


def rotate(path: str) -> None:
    """Put the journal at `path` aside if it has LIMIT bytes, unless somebody else is at it.

    Raises OSError.
    """
    directory = os.path.dirname(path)
    lock = lock_file(os.path.join(directory, "journal.lock"))
    if lock is None:
        return
    try:
        if os.stat(path).st_size < LIMIT:
            return  # done while we came here
        numbers = _numbers(directory)
        # One more than the last if the clock was set back: the newest file must not pass for the oldest.
        number = max([time.time_ns() // 1000, *(number + 1 for number in numbers[-1:])])
        os.rename(path, _archive(directory, number))
        for old in [*numbers, number][:-KEPT]:
            try:
                os.unlink(_archive(directory, old))
            except FileNotFoundError:
                pass  # somebody tidied up
    except FileNotFoundError:
        pass  # likewise
    finally:
        try:
            unlock(lock)
        finally:
            close(lock)


def archives(directory: str) -> list[str]:
    """The paths of the older files of the journal in `directory`, oldest first. Raises OSError."""
    return [_archive(directory, number) for number in _numbers(directory)]


def _numbers(directory: str) -> list[int]:
    names = [name for name in os.listdir(directory) if name.startswith("journal-")]
    digits = [name[len("journal-") : -len(".jsonl")] for name in names if name.endswith(".jsonl")]
    return sorted(int(text) for text in digits if text.isdecimal() and text == str(int(text)))


def _archive(directory: str, number: int) -> str:
    return os.path.join(directory, f"journal-{number}.jsonl")


def _append(path: str, line: bytes) -> int:
    """Write `line` to the end of the file: its size then. Raises OSError."""
    fd = _open(path)
    try:
        os.write(fd, line)
        return os.lseek(fd, 0, os.SEEK_CUR)
    finally:
        close(fd)


def _open(path: str) -> int:
    """Open the file for writing to its end: its descriptor. Raises OSError."""
    flags = os.O_WRONLY | os.O_APPEND
    try:
        return os.open(path, flags | PLAIN)
    except FileNotFoundError:
        make_parents(path)
        return open_in_room(path, flags | os.O_CREAT)


def _load() -> str:
    try:
        return f',"load":{os.getloadavg()[0]:.2f}'
    except (AttributeError, OSError):  # Windows has none; a container may hide it
        return ""


def _process() -> str:
    """Which process this is, in the words of a record; put together once for each."""
    global _this  # noqa: PLW0603 - a cache of what cannot change
    who = identity()
    if _this[0] is not who:
        words = [f'"{name}":{value if name == "pid" else quoted(value)}' for name, value in who.items()]
        _this = who, ",".join(words)
    return _this[1]


_this: tuple[dict[str, str], str] = ({}, "")


def _shortened(command: list[str]) -> list[str]:
    room = COMMAND_CHARACTERS
    for count, argument in enumerate(command):
        room -= len(argument) + 3
        if room < 0:
            return [*command[:count], "…"]
    return command


def cut(text: str) -> str:
    """`text`, or its beginning: an argument may have 128 KiB, and each character may become six in a line."""
    return text if len(text) <= COMMAND_CHARACTERS else f"{text[: COMMAND_CHARACTERS - 1]}…"


def quoted(text: str) -> str:
    """`text` as a JSON string; `json` would cost each build 7 ms, and much more than this loop."""
    if text.isascii() and text.isprintable() and '"' not in text and "\\" not in text:
        return f'"{text}"'
    units = text.encode("utf-16-be", "surrogatepass")
    codes = (units[i] << 8 | units[i + 1] for i in range(0, len(units), 2))
    plain = (chr(code) if 32 <= code < 127 and code not in (34, 92) else f"\\u{code:04x}" for code in codes)
    return f'"{"".join(plain)}"'
