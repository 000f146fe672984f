"""What waiting costs: CPU and memory of many waiters in one line, beside a bare interpreter's memory.

`python -m bench.waiting [--waiters N] [--seconds S]`: N `slot-run -n1` wait behind one build for S
seconds, measured from when each has said its first line (after about a second).
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from bench import environ
from bench.handover import slot_run
from buildslots import SlotPool


def cpu_s(pid: int) -> float:
    """CPU seconds that process `pid` has used: schedstat counts nanoseconds, not ticks."""
    return int(Path(f"/proc/{pid}/schedstat").read_text().split()[0]) / 1e9


def private_kib(pid: int) -> int:
    """Memory of process `pid` that it shares with nobody: what one more such process costs."""
    rollup = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
    private = [line.split() for line in rollup if line.startswith("Private_")]
    return sum(int(words[1]) for words in private)


def resident_kib(pid: int) -> int:
    """Resident memory of process `pid`, shared pages included."""
    return int(Path(f"/proc/{pid}/status").read_text().partition("VmRSS:")[2].split()[0])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--waiters", type=int, default=50)
    parser.add_argument("--seconds", type=float, default=10.0)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        pool = SlotPool(dir=scratch, slots=1)
        command = [slot_run(), "-n1", "-t", "none", "--", "true"]
        env = environ(scratch)
        with pool.acquire():
            waiters = [
                subprocess.Popen(command, env=env, stderr=subprocess.PIPE) for _ in range(options.waiters)
            ]
            bare = subprocess.Popen(
                [sys.executable, "-c", "import sys; sys.stdin.read()"], stdin=subprocess.PIPE
            )
            for waiter in waiters:
                assert waiter.stderr is not None
                waiter.stderr.readline()
            before = sum(cpu_s(waiter.pid) for waiter in waiters)
            began = time.monotonic()
            time.sleep(options.seconds)
            used = sum(cpu_s(waiter.pid) for waiter in waiters) - before
            share = used / (time.monotonic() - began)
            memory = sorted(private_kib(waiter.pid) for waiter in waiters)[len(waiters) // 2]
            bare_memory = private_kib(bare.pid)
            resident = resident_kib(waiters[0].pid), resident_kib(bare.pid)
        if sum(waiter.wait() for waiter in waiters):
            raise SystemExit("a waiter failed")
        assert bare.stdin is not None
        bare.stdin.close()
        bare.wait()
    print(f"{options.waiters} waiters: {share:.2%} of a core together")
    print(f"private memory of one: {memory} KiB, of a bare interpreter: {bare_memory} KiB")
    print(f"resident memory of one: {resident[0]} KiB, of a bare interpreter: {resident[1]} KiB")


if __name__ == "__main__":
    main()
