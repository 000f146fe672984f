"""What is looked at when all is over: processes that are left, and the pool that all of them have used."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

from bench import environ
from bench.abuse.look import state
from bench.kit.installs import this
from buildslots import SlotPool


def look_after(directory: str, slots: int) -> list[str]:
    """Once everybody has gone: one more build of each kind, then all slots at once; what is wrong then."""
    problems = []
    pool = SlotPool(dir=directory, slots=slots, timeout=5, on_timeout="fail")
    try:
        pool.set_rules(slots=None, head_start=None)
        pool.resume()
        pool.acquire().release()
        pool.acquire(weight=slots).release()
        subprocess.run(
            [this().slot_run, f"-n{slots}", "-t5", "--", "true"], env=environ(directory), check=True
        )
        tries = [pool.try_acquire() for _ in range(slots + 1)]
    except (OSError, subprocess.CalledProcessError) as error:
        return [f"after the end: {error!r}"]
    numbers = [slot and slot.number for slot in tries]
    if numbers != [*range(slots), None]:
        problems.append(f"after the end all slots at once are {numbers}")
    for slot in tries:
        if slot:
            slot.release()
    for room in ("queue", "bells"):
        left = [name for name in os.listdir(f"{directory}/{room}") if not name.startswith("slot-")]
        if left:
            problems.append(f"left in {room}/ for ever: {len(left)}, such as {left[0]}")
    return problems


def children_of(pid: int) -> list[int]:
    """The processes that process `pid` is the parent of."""
    try:
        return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]
    except FileNotFoundError:
        return []


def describe(pid: int) -> str:
    """Process `pid`, for people."""
    try:
        command = Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
        where = Path(f"/proc/{pid}/wchan").read_text()
        files = sorted({os.readlink(path) for path in Path(f"/proc/{pid}/fd").iterdir()})
    except OSError as error:
        return f"process {pid} ({error.strerror})"
    return f"process {pid} ({command.strip()}), state {state(pid)}, in {where}, has {', '.join(files)}"
