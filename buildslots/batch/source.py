"""Where the tasks of a batch on the command line come from, and which earlier run they belong to."""

from __future__ import annotations

import hashlib
import os
import stat
from typing import TYPE_CHECKING

import anyio

from buildslots.batch.plan import from_template, read_line
from buildslots.batch.task import PlanError, named_after
from buildslots.processes import here

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Sequence

    from buildslots.batch.task import Task

LONGEST_LINE = 2**20
"""Bytes of a line of a stream; a command line could have no more than 128 KiB in one argument."""
READ = 2**16


async def lines(fd: int) -> AsyncIterator[bytes]:
    """The lines that come from `fd`, without their ends, and without blank ones.

    Raises:
        PlanError: One is longer than any command could be.
        OSError: It cannot be read.
    """
    mode = os.fstat(fd).st_mode
    # Whatever else there is, a file or /dev/null, is always ready, and epoll(7) does not take it.
    is_file = not (stat.S_ISFIFO(mode) or stat.S_ISSOCK(mode) or os.isatty(fd))
    rest = b""
    while True:
        if not is_file:
            await anyio.wait_readable(fd)
        part = os.read(fd, READ)
        *whole, rest = (rest + part).split(b"\n")
        for line in whole:
            if line.strip():
                yield line.removesuffix(b"\r")
        if len(rest) > LONGEST_LINE:
            raise PlanError([f"a line has more than {LONGEST_LINE >> 20} MiB"])
        if not part:
            if rest.strip():
                yield rest.removesuffix(b"\r")
            return


async def stream(fd: int, template: Sequence[str] | None) -> AsyncIterator[Task]:
    """The tasks that come from `fd`: arguments of `template`, or JSON objects if there is none.

    Raises:
        PlanError: A line is no task.
        OSError: It cannot be read.
    """
    number = 0
    async for line in lines(fd):
        number += 1
        if template is None:
            yield read_line(line, number)
        else:
            yield from_template(template, os.fsdecode(line), {})


def origin(file: str | None, template: Sequence[str] | None) -> str:
    """What makes two runs runs of one batch: its file, or its command and directory."""
    if template is not None:
        what = "\0".join([here(), *template])
    elif file is None or file == "-":
        what = here() + "\0-"
    else:
        what = os.path.realpath(file)
    return hashlib.sha256(os.fsencode(what)).hexdigest()[:24]


def stream_name(file: str | None, template: Sequence[str] | None) -> str:
    """The name of a batch without a plan."""
    if template is not None:
        return named_after((os.path.basename(template[0]) or "batch",))
    return "stdin" if file in (None, "-") else os.path.basename(str(file)).removesuffix(".ndjson")
