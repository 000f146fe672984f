"""Looks at what is there: a destination, and whatever is left at the end. Nothing is locked or changed."""

from __future__ import annotations

import ctypes
import fcntl
import os
import stat
import time
import zlib
from pathlib import Path

from bench.abuse.look import Look, state
from bench.workloads.kills.task import MANIFEST

NOTHING = 0
"""The generation of a destination where there is nothing."""
RENAME_EXCHANGE = 2  # linux/fs.h
UNBORN_S = 120.0
"""Records of a batch without an event nobody can tell from those of one that begins; until then."""


class HalfError(Exception):
    """What is at a destination is no whole directory."""


def generation(path: str) -> int:
    """The generation of the directory at `path`, which was read and is whole; NOTHING if there is none.

    Raises:
        HalfError: It is not whole, and that was not because it was replaced meanwhile.
    """
    while True:
        try:
            directory = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
        except FileNotFoundError:
            return NOTHING
        except NotADirectoryError:
            raise HalfError(f"{path} is no directory") from None
        try:
            return _read(directory)
        except (OSError, HalfError) as error:
            # What has been replaced is removed bit by bit, and we may still be in there.
            if _is_at(path, directory):
                raise HalfError(f"{path}: {error}") from error
        finally:
            os.close(directory)


def _is_at(path: str, directory: int) -> bool:
    try:
        return os.path.samestat(os.lstat(path), os.fstat(directory))
    except FileNotFoundError:
        return False


def _read(directory: int) -> int:
    names = set(os.listdir(directory))
    first, *lines = _content(directory, MANIFEST).decode().split("\n")
    for line in lines:
        name, size, checksum = line.split()
        data = _content(directory, name)
        if len(data) != int(size) or zlib.crc32(data) != int(checksum):
            raise HalfError(f"{name} is not what its manifest says")
    expected = {MANIFEST, *(line.split()[0] for line in lines)}
    if names != expected:
        raise HalfError(f"it has {sorted(names)} in place of {sorted(expected)}")
    return int(first.removeprefix("generation "))


def _content(directory: int, name: str) -> bytes:
    fd = os.open(name, os.O_RDONLY, dir_fd=directory)
    with open(fd, "rb") as file:
        return file.read()


def can_exchange(scratch: str) -> bool:
    """Whether two directories in `scratch` can be exchanged by one call."""
    names = [os.path.join(scratch, f"exchange-{name}") for name in "ab"]
    for name in names:
        os.mkdir(name)
    try:
        call = ctypes.CDLL(None).renameat2
        return bool(call(-100, names[0].encode(), -100, names[1].encode(), RENAME_EXCHANGE) == 0)  # AT_FDCWD
    except AttributeError:
        return False
    finally:
        for name in names:
            os.rmdir(name)


def left(scratch: str) -> list[str]:
    """What nobody should have left behind in `scratch`, once all batches have come to their ends."""
    found = [f"{path} is there" for path in Path(scratch, "out").rglob(".*stage*")]
    batches = Path(scratch, "state", "buildslots", "batches")
    marks = [path for name in ("running", "staged") for path in batches.glob(f"*/{name}")]
    found += [f"{path} is there" for path in marks if not _is_young(path.parent)]
    found += [
        f"{path} ({what}) is locked" for what, path in Look(os.path.join(scratch, "pool")).left_locked()
    ]
    serial = Path(scratch, "state", "buildslots", "serial")
    found += [f"{path} is locked" for path in serial.glob("*") if _is_locked(path)]
    found += [f"process {pid} runs: {command}" for pid, command in processes(scratch)]
    return found


def _is_young(records: Path) -> bool:
    """Whether `records` may still lie there: of a batch that was killed, lately, before its first event."""
    try:
        if (records / "events.ndjson").stat().st_size:
            return False
    except FileNotFoundError:
        pass
    return time.time() - records.stat().st_mtime < UNBORN_S


def processes(scratch: str) -> list[tuple[int, str]]:
    """The processes that have the pool in `scratch` in their environment, and what they run."""
    mark = f"BUILD_SLOTS_DIR={scratch}/pool".encode()
    found = []
    for directory in Path("/proc").glob("[0-9]*"):
        try:
            if (
                mark in (directory / "environ").read_bytes().split(b"\0")
                and state(int(directory.name)) != "Z"
            ):
                words = (directory / "cmdline").read_bytes().split(b"\0")
                found.append((int(directory.name), b" ".join(words).decode(errors="replace").strip()))
        except OSError:  # gone, or somebody else's
            continue
    return found


def _is_locked(path: Path) -> bool:
    fd = os.open(path, os.O_RDWR)
    try:
        if stat.S_ISREG(os.fstat(fd).st_mode):
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    finally:
        os.close(fd)
    return False
