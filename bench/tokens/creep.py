"""Does a build end that takes and returns more bytes than a page holds, while bytes lie there all the time?

In a FIFO of one page it hangs: `buildslots.tokens.jobserver` says why. Here GNU make has thousands of short
jobs, and then a client of a few lines that first returns two bytes which it has never taken, so that the FIFO
is never empty. In half of the runs slot-run is killed meanwhile.
"""

from __future__ import annotations

import os
import signal
import sys
import time
from typing import TYPE_CHECKING

from bench.tokens import projects
from bench.tokens.builds import TICK_S
from bench.tokens.rows import Row

if TYPE_CHECKING:
    from collections.abc import Iterator

    from bench.tokens.builds import Build, Yard
    from bench.tokens.tools import Tool

JOBS, RETURNS = 6000, 10_000
LIMIT_S = 300.0
CLIENT = """
import os, sys
auth = os.environ["MAKEFLAGS"].rpartition("--jobserver-auth=")[2].split()[0]
if auth.startswith("fifo:"):
    takes = returns = os.open(auth.removeprefix("fifo:"), os.O_RDWR)
else:
    takes, returns = map(int, auth.split(","))
os.write(returns, b"++")
for count in range(int(sys.argv[1])):
    os.write(returns, os.read(takes, 1))
os.read(takes, 2)
"""


def rows(yard: Yard, tools: dict[str, Tool]) -> Iterator[Row]:
    """A row for each client."""
    for name in ("make 4.3", "make 4.4"):
        if tool := tools.get(name):
            for kills in (False, True):
                took = _make(yard, tool, kills=kills)
                what = f"{name}, {JOBS:,} jobs of no time, slot-run {'killed' if kills else 'alive'}"
                yield Row(what, _told(took), "ends", took is not None)
            for kills in (False, True):
                took = _client(yard, tool, kills=kills)
                what = f"{RETURNS:,} returns with two bytes left, as {name} is told, slot-run "
                yield Row(what + ("killed" if kills else "alive"), _told(took), "ends", took is not None)


def _told(took: float | None) -> str:
    return "hangs" if took is None else f"ends, {took:.1f} s"


def _make(yard: Yard, tool: Tool, *, kills: bool) -> float | None:
    number = len(yard.builds)
    work = projects.Work((0,) * JOBS)
    project = projects.write(yard.root / "builds" / str(number), tool, work, yard.table, number)
    before = len(yard.table)
    build = yard.start(project, number, yard.cap + 1)
    if kills:
        until = time.monotonic() + LIMIT_S
        while len(yard.table) < before + 500 and time.monotonic() < until:
            time.sleep(TICK_S)
        os.kill(build.group, signal.SIGKILL)
    return _ends(yard, build)


def _client(yard: Yard, tool: Tool, *, kills: bool) -> float | None:
    number = len(yard.builds)
    directory = yard.root / "builds" / str(number)
    directory.mkdir(parents=True)
    (directory / "client.py").write_text(CLIENT)
    # slot-run asks the make on PATH how it is to be told.
    command = [sys.executable, "-S", "client.py", str(RETURNS)]
    project = projects.Project(directory, command, {"PATH": tool.path}, 0, tool)
    build = yard.start(project, number, yard.cap + 1, by_option=True)
    if kills:
        while build.client() is None and not build.is_over():
            time.sleep(TICK_S)
        time.sleep(0.1)
        os.kill(build.group, signal.SIGKILL)
    return _ends(yard, build)


def _ends(yard: Yard, build: Build) -> float | None:
    """How long the build took; None if it hangs, or failed."""
    if not yard.wait(LIMIT_S, build):
        yard.end()
        return None
    return (build.ended - build.began) / 1e9 if build.status in (0, -signal.SIGKILL) else None
