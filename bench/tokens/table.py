"""The table in which jobs mark when they run (`job.c`), and what can be seen in it at any time."""

from __future__ import annotations

import mmap
import struct
import subprocess
from pathlib import Path
from typing import NamedTuple

SOURCE = Path(__file__).with_name("job.c")
HEAD, ENTRY = struct.Struct("=qqqq"), struct.Struct("=qqiiq")
"""As in job.c: entries in use and their most; start, end, pid and build."""


class Job(NamedTuple):
    """A job: from when to when it ran, in ns of CLOCK_MONOTONIC; an end of 0 is none yet, or none at all."""

    number: int
    start: int
    end: int
    pid: int
    build: int


class Table:
    """A table for at most so many jobs, in a file that they find by its path.

    Attributes:
        path: Of the file.
        job: The program that is a job.
        rustc: The program that is one in place of rustc.
    """

    def __init__(self, directory: Path, most: int = 200_000) -> None:
        """Make it in `directory`, with the programs.

        Raises:
            CalledProcessError: The compiler failed.
        """
        self.path = directory / "table"
        self.job, self.rustc = directory / "job", directory / "rustc-job"
        subprocess.run(["cc", "-O1", "-o", self.job, SOURCE], check=True)
        self.rustc.symlink_to(self.job.name)
        with self.path.open("w+b") as file:
            file.truncate(HEAD.size + most * ENTRY.size)
            self._map = mmap.mmap(file.fileno(), 0)
        HEAD.pack_into(self._map, 0, 0, most, 0, 0)

    def __len__(self) -> int:
        """How many jobs have come until now."""
        return int(HEAD.unpack_from(self._map)[0])

    def one(self, number: int) -> Job:
        """The job with that number."""
        start, end, pid, build, _ = ENTRY.unpack_from(self._map, HEAD.size + number * ENTRY.size)
        return Job(number, start, end, pid, build)

    def jobs(self, since: int = 0) -> list[Job]:
        """All that have started, from that number on."""
        return [job for job in map(self.one, range(since, len(self))) if job.start]

    def running(self, since: int = 0) -> list[Job]:
        """Those of them that have no end."""
        return [job for job in self.jobs(since) if not job.end]
