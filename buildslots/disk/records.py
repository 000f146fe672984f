"""Records: who holds a slot, who waits in line. Hints for people and for the nesting check.

PROTOCOL.md has the format. A record is overwritten in place and never truncated while it is good: to truncate
a file, or to rename one over it, makes ext4 start writing it to disk when it is closed (`auto_da_alloc` in
ext4(5)), which cost 281 and 249 µs against 5 µs for overwriting (bench/README.md).
"""

from __future__ import annotations

import errno
import os
import time
from stat import S_ISREG

from buildslots.files import NO_FILE, PLAIN, close, open_in_room, put_aside
from buildslots.processes import here, identity, start_of
from buildslots.processes import lives as process_lives

TYPE_CHECKING = False
if TYPE_CHECKING:
    from buildslots.settings.values import Bounds

MAGIC = b"buildslots-record 1\n"
END = b"end\n"
COMMAND_BYTES = 4096
"""So much of a command's arguments stands in a record; a linker's may run to megabytes."""
BATCH_LENGTH = 128
"""Characters of a batch's ID; those that we make have fewer."""
ENDED_AT = 16384
"""Where in the file the nonce of the last record that has ended stands; no record is so long."""
NONCE_BYTES = 32


def record(
    about: bytes,
    *,
    since: float | None = None,
    waited_s: float | None = None,
    overflow: bool = False,
    child: int | None = None,
) -> bytes:
    """A record of now.

    Args:
        about: What stays the same, from `about`.
        since: Unix time from which the wait counts; None for now.
        waited_s: How long a holder had waited.
        overflow: Whether a holder runs beyond its cap.
        child: The process of the command that runs under the slot; 0 if it is about to start.
    """
    text = MAGIC + b"since %.6f\n" % (time.time() if since is None else since)
    if waited_s is not None:
        text += b"waited %.6f\n" % waited_s
    if overflow:
        text += b"overflow\n"
    if child is not None:
        text += b"child %d %d\n" % (child, start_of(child)) if child else b"child ?\n"
    return text + about + END


def about(  # noqa: C901, PLR0913 - one for each line, by keyword only
    command: list[str],
    *,
    cap: int,
    nonce: str,
    cwd: str | None = None,
    weight: int = 1,
    batch: str | None = None,
    own: int | None = None,
    priority: str = "normal",
    gates: Bounds | None = None,
    owner: str | None = None,
) -> bytes:
    """The lines of a record of this process that stay the same.

    Args:
        command: The arguments of the build, its program first.
        cap: K of this process.
        nonce: What marks this one holding or wait.
        cwd: Directory of the build; None for that of this process.
        weight: How many slots it needs or holds together.
        batch: ID of the batch that it is a task of; None if it is none.
        own: The cap that a waiter has said itself, whatever the pool's rules make of it.
        priority: "high", "normal" or "low".
        gates: What a waiter wants of the machine as well.
        owner: The process for which it is done: its number and its start.
    """
    if cwd is None:
        cwd = here()
    lines = [_process(), b"cap %d\nnonce %b\n" % (cap, nonce.encode())]
    if weight > 1:
        lines.append(b"weight %d\n" % weight)
    if priority != "normal":
        lines.append(b"priority %b\n" % priority.encode())
    if own is not None:
        lines.append(b"own %d\n" % own)
    if gates is not None:
        lines.append(_bounds(gates))
    if owner is not None:
        lines.append(b"owner %b\n" % owner.encode())
    where = _escaped(cwd)
    if len(where) > COMMAND_BYTES:
        where = b"?"  # so deep that no call takes its name
    lines.append(b"cwd %b\n" % where)
    if batch:
        lines.append(b"batch %b\n" % _escaped(batch[:BATCH_LENGTH]))
    room = COMMAND_BYTES
    for count, argument in enumerate(command):
        line = b"arg %b\n" % _escaped(argument)
        room -= len(line)
        if room < 0:
            lines.append(b"more %d\n" % (len(command) - count))
            break
        lines.append(line)
    return b"".join(lines)


def _bounds(gates: Bounds) -> bytes:
    """The lines of what a build wants of the machine, in the words of slot-run's options."""
    lines = []
    if gates.min_free_memory is not None:
        lines.append(f"min_free_memory {gates.min_free_memory}\n")
    if gates.max_load is not None:
        lines.append(f"max_load {gates.max_load:.10g}\n")
    if gates.max_pressure:
        each = [f"{resource}={percent:.10g}" for resource, percent in gates.max_pressure.items()]
        lines.append(f"max_pressure {','.join(each)}\n")
    return "".join(lines).encode("ascii")


def _process() -> bytes:
    """The lines that say which process this is; put together once for each."""
    global _this  # noqa: PLW0603 - a cache of what cannot change
    who = identity()
    if _this[0] is not who:
        lines = [b"%b %b\n" % (name.encode(), _escaped(value)) for name, value in who.items()]
        _this = who, b"".join(lines)
    return _this[1]


_this: tuple[dict[str, str], bytes] = ({}, b"")


def keep(path: str, pool: int | None = None) -> int:
    """Open the file at `path` in `holders`, made if missing, to write records into it: its descriptor.

    What is no file of ours gets another name, and a new one is made: whoever else can write the pool may have
    put something there that its owner is going to miss, or a FIFO at which they listen. Raises OSError.
    """
    try:
        fd = open_in_room(path, os.O_RDWR | os.O_CREAT, pool)
    except OSError as error:
        if error.errno not in NO_FILE and not isinstance(error, IsADirectoryError):  # or a FIFO
            raise
    else:
        try:
            about = os.fstat(fd)
            if _is_for_records(fd, about):
                if about.st_size <= ENDED_AT:
                    _make_place(fd)
                return fd
        except BaseException:
            close(fd)
            raise
        close(fd)
    put_aside(path)
    fd = open_in_room(path, os.O_RDWR | os.O_CREAT | os.O_EXCL, pool)
    _make_place(fd)
    return fd


def _make_place(fd: int) -> None:
    """See to it that `end` will have a place in the file `fd`, also if the disk is full by then."""
    try:
        os.lseek(fd, ENDED_AT, os.SEEK_SET)
        os.write(fd, bytes(NONCE_BYTES))
    except OSError:
        pass  # it is full now: the record will say so, if it has no place either
    os.lseek(fd, 0, os.SEEK_SET)


def _is_for_records(fd: int, about: os.stat_result) -> bool:
    """Whether `fd` is a file of ours: regular, of one name, with a record or nothing in it."""
    if not S_ISREG(about.st_mode) or about.st_nlink > 1 or about.st_size > ENDED_AT + NONCE_BYTES:
        return False
    if not about.st_size:
        return True
    begin = os.read(fd, len(MAGIC))
    os.lseek(fd, 0, os.SEEK_SET)
    return begins(begin)


def begins(begin: bytes) -> bool:
    """Whether a file whose first bytes, as many as MAGIC has, are `begin` is for records."""
    return begin == MAGIC or not begin.strip(b"\0")


def write(fd: int, text: bytes) -> None:
    """Write the record `text` at the start of the file `fd`. Raises OSError, on a short write as well."""
    if os.write(fd, text) < len(text):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def end(fd: int, nonce: str) -> None:
    """Make the record with that `nonce`, if the file `fd` still has it, no record.

    Raises nothing: it is a hint.
    """
    try:
        os.lseek(fd, ENDED_AT, os.SEEK_SET)
        os.write(fd, nonce.encode())
    except OSError:
        pass


def remove(fd: int) -> None:
    """Leave no record in the file `fd`, of a slot that is still locked. Raises nothing: it is a hint."""
    try:
        os.ftruncate(fd, 0)
    except OSError:
        pass


def read(path: str) -> dict[str, str] | None:
    """The record in the file at `path`, as by `parse`, or None if there is none that can be read."""
    try:
        return read_or_fail(path)
    except OSError:
        return None


def read_or_fail(path: str) -> dict[str, str] | None:
    """The same, but None only if there is none; raises OSError if it cannot be read."""
    try:
        fd = os.open(path, os.O_RDONLY | PLAIN)
    except FileNotFoundError:
        return None
    try:
        return parse(os.read(fd, ENDED_AT + NONCE_BYTES))
    finally:
        close(fd)


def parse(text: bytes) -> dict[str, str] | None:
    """The fields of a record by name, or None if `text` is no record.

    The arguments of the command are joined under "command", each followed by a NUL, with "…" for
    those left out.
    """
    body, end, _ = text.partition(b"\n" + END)
    if not end or not body.startswith(MAGIC):
        return None
    fields = {"command": ""}
    for line in body[len(MAGIC) :].split(b"\n"):
        name, _, value = os.fsdecode(line).partition(" ")
        value = _unescaped(value)
        if name == "arg":
            fields["command"] += value + "\0"
        elif name == "more":
            fields["command"] += "…\0"
        elif name != "command":
            fields[name] = value
    ended = text[ENDED_AT:]
    return None if ended and os.fsencode(fields.get("nonce", "")) == ended else fields


def last_nonce(text: bytes) -> str | None:
    """The nonce of the record in `text`, whether that has ended or not; None if there is none of 128 bits."""
    nonce = (parse(text[:ENDED_AT]) or {}).get("nonce", "")
    return nonce if len(nonce) == NONCE_BYTES and not set(nonce) - set("0123456789abcdef") else None


def seconds(text: str | None) -> float | None:
    """The seconds that a field says, or None."""
    try:
        value = float(text or "")
    except ValueError:
        return None
    return value if 0 <= value < 1e12 else None


def age_s(record: dict[str, str]) -> float | None:
    """How long ago the holding or the wait began, by the wall clock, or None."""
    since = seconds(record.get("since"))
    return None if since is None else max(0.0, time.time() - since)


def lives(record: dict[str, str]) -> bool:
    """Whether the process that wrote `record` lives; True where we cannot know (another pid namespace)."""
    return process_lives(record, seconds(record.get("since")))


def _escaped(value: str) -> bytes:
    return os.fsencode(value).replace(b"\\", rb"\\").replace(b"\n", rb"\n")


def _unescaped(value: str) -> str:
    if "\\" not in value:
        return value
    return "\\".join(part.replace("\\n", "\n") for part in value.split("\\\\"))
