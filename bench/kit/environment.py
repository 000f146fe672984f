"""Where and when a benchmark ran."""

from __future__ import annotations

import os
import platform
import sys
import time
from pathlib import Path

import psutil

PYTHON = sys.executable


def describe(scratch: Path) -> dict[str, str]:
    """Machine, kernel, the file system of the pools in `scratch`, Python, and the load at this moment."""
    return {
        "date": time.strftime("%Y-%m-%d %H:%M UTC", time.gmtime()),
        "CPU": f"{len(os.sched_getaffinity(0))} usable of {os.cpu_count()}, {cpu_model()}",
        "memory": f"{psutil.virtual_memory().total / 2**30:.1f} GiB",
        "kernel": f"{platform.system()} {platform.release()}",
        "file system of the pools": file_system(scratch),
        "Python": f"{platform.python_implementation()} {platform.python_version()}",
        "load before": load(),
    }


def load() -> str:
    """The load averages of 1, 5 and 15 minutes."""
    return ", ".join(f"{average:.2f}" for average in os.getloadavg())


def stolen() -> tuple[int, int]:
    """Ticks of CPU that the host of this virtual machine has kept from it, and all ticks (proc_stat(5))."""
    ticks = [int(word) for word in Path("/proc/stat").read_text().split("\n", 1)[0].split()[1:9]]
    return ticks[7], sum(ticks)


def cpu_model() -> str:
    """The name that the kernel gives it."""
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        label, _, value = line.partition(":")
        if label.strip() == "model name":
            return value.strip()
    return platform.machine()


def file_system(path: Path) -> str:
    """The type of the file system that `path` is on."""
    mounts = [(mount.mountpoint, mount.fstype) for mount in psutil.disk_partitions(all=True)]
    above = [(point, kind) for point, kind in mounts if path.resolve().is_relative_to(point)]
    return max(above, key=lambda mount: len(mount[0]), default=("", "unknown"))[1]
