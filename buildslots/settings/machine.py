"""How many builds this machine may run at once when nobody has said a number.

The answer comes from two facts: the kind of platform, and how many cores this process may really use. The
cores are the smaller of its CPU affinity and its cgroup quota, so that a build container with two of
sixty-four cores counts as two. The rules of counting are those of Rust's `std::thread::available_parallelism`
(library/std/src/sys/thread/unix.rs, `mod cgroups`): affinity, then the smallest quota of the process's
cgroup and all its ancestors, rounded down, never below one. It differs in two ways, both noted there as
missing: a cgroup v2 hierarchy is found wherever it is mounted, and escaped paths are understood.

Nothing here raises because of what the machine says: a file that is missing or makes no sense means that no
quota is known. Everything here is read afresh by each call, because quotas and affinity change while a
process lives. It costs a handful of small reads.
"""

from __future__ import annotations

import os
import sys

# mypy takes a name TYPE_CHECKING for typing's own; importing typing would cost every build 8 ms.
TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from typing import TypeVar

    Read = Callable[[str], bytes | None]
    N = TypeVar("N", int, float)
    Limit = Callable[[str, Read], N | None]

# (divisor, least, most), as in help/config.md, "The default cap". Two at least, so that a long build on a
# small machine does not make everybody else wait for its end.
_DEFAULTS = {
    "WSL2": (8, 2, 3),
    "WSL1": (4, 2, 4),
    "Windows": (4, 2, 4),
    "other Unix": (4, 2, 6),
}

# Digits of a quota or period in microseconds that are still believed: thirty years. The limit keeps the
# division below from overflowing a float.
_DIGITS = 15


class Cap:
    """How many slots this machine has by default, and why.

    Attributes:
        slots: The number of builds that may run at once.
        source: The reason in words, such as "default for other Unix with 2 cores: clamp(2 // 4, 2, 6)".
        platform: "WSL2", "WSL1", "Windows" or "other Unix".
        cores: How many cores this process may use: affinity and quota together, at least 1.
        affinity: How many cores its CPU affinity allows; the machine's, where affinity is unknown.
        quota: How many cores' worth of time its cgroups allow, such as 1.5; None if no quota is known.
    """

    __slots__ = ("affinity", "cores", "platform", "quota", "slots", "source")

    def __init__(self, platform: str, affinity: int, quota: float | None) -> None:
        self.platform = platform
        self.affinity = affinity
        self.quota = quota
        self.cores = usable_cores(affinity, quota)
        self.slots = default_cap(platform, self.cores)
        divisor, least, most = _DEFAULTS[platform]
        self.source = (
            f"default for {platform} with {self.cores} core{'' if self.cores == 1 else 's'}:"
            f" clamp({self.cores} // {divisor}, {least}, {most})"
        )

    def __repr__(self) -> str:
        return f"<Cap {self.slots}: {self.source}>"


def machine_cap(
    *,
    system: str = sys.platform,
    release: str | None = None,
    affinity: int | None = None,
    read: Read | None = None,
    exists: Callable[[str], bool] = os.path.exists,
) -> Cap:
    """Return the default cap of this machine for this process.

    Never raises because of what it finds. Each argument stands for one thing that is looked up if it is not
    given.

    Args:
        system: The platform, as in `sys.platform`.
        release: The kernel's release, as in `os.uname().release`.
        affinity: How many cores the process's CPU affinity allows.
        read: Returns the content of a file of /proc or of the cgroups, None if it cannot be read.
        exists: Tells whether a path exists; for the sign of WSL.

    Returns:
        The cap with the facts that it follows from.
    """
    if release is None:
        release = os.uname().release if hasattr(os, "uname") else ""
    if affinity is None:
        affinity = affinity_cores()
    linux = system.startswith("linux")
    platform = platform_class(system, release)
    # A custom kernel (.wslconfig, `kernel=`) may bear any name. /run/WSL is where WSL's init puts the sockets
    # of its Windows interop, in every distribution, whatever the kernel. The variables WSL_INTEROP and
    # WSL_DISTRO_NAME tell the same but are lost under ssh, sudo and cron, and processes of one machine should
    # agree on its cap.
    if linux and platform == "other Unix" and exists("/run/WSL"):
        platform = "WSL2"
    quota = cgroup_quota(read or read_file) if linux else None
    return Cap(platform, affinity, quota)


def platform_class(system: str, release: str) -> str:
    """Name the row of the table of defaults that a platform belongs to.

    WSL1 has no kernel of its own and reports a made-up release, "3.4.0-Microsoft" or "4.4.0-19041-Microsoft".
    WSL2 runs a real kernel, "4.19.104-microsoft-standard" at first and "5.15.153.1-microsoft-standard-WSL2"
    since mid-2020 (https://github.com/microsoft/WSL/issues/4555 and
    https://github.com/microsoft/WSL/issues/423). The word "microsoft" alone is not enough: kernels of
    Microsoft's cloud images have it too (https://github.com/systemd/systemd/pull/15614). A capital M alone
    does not mean WSL1, because custom WSL2 kernels spell it that way as well
    (https://github.com/romkatv/dotfiles-public/pull/10).

    Args:
        system: The platform, as in `sys.platform`.
        release: The kernel's release, as in `os.uname().release`; only looked at on Linux.

    Returns:
        "WSL2", "WSL1", "Windows" or "other Unix".
    """
    if system in {"win32", "cygwin", "msys"}:
        return "Windows"
    if system.startswith("linux"):
        if release.startswith(("3.4.", "4.4.")) and release.endswith("-Microsoft"):
            return "WSL1"
        lowered = release.lower()
        if "-microsoft-standard" in lowered or "wsl2" in lowered:
            return "WSL2"
    return "other Unix"


def default_cap(platform: str, cores: int) -> int:
    """Return how many builds a platform may run at once by default.

    Args:
        platform: "WSL2", "WSL1", "Windows" or "other Unix".
        cores: The number of usable cores.

    Returns:
        The number of slots, at least 2.
    """
    divisor, least, most = _DEFAULTS[platform]
    return max(least, min(most, cores // divisor))


def usable_cores(affinity: int, quota: float | None) -> int:
    """Return how many cores affinity and quota leave: the smaller, rounded down, at least 1."""
    return max(1, affinity if quota is None else min(affinity, int(quota)))


def affinity_cores() -> int:
    """Return how many cores this process may be scheduled on, at least 1.

    Where Python has no affinity call, psutil is asked (25 ms, but the cap's default is only needed once), and
    where psutil has none either, which is macOS, the machine's cores count.
    """
    if hasattr(os, "sched_getaffinity"):
        try:
            return len(os.sched_getaffinity(0)) or 1
        except OSError:
            # A seccomp filter may forbid the call; psutil would make the same one.
            return os.cpu_count() or 1
    try:
        import psutil  # type: ignore[import-untyped, unused-ignore] # noqa: PLC0415

        return len(psutil.Process().cpu_affinity()) or 1  # type: ignore[attr-defined, unused-ignore]
    except Exception:  # noqa: BLE001
        # AttributeError on macOS, psutil's own errors elsewhere. No build fails for want of a core count.
        return os.cpu_count() or 1


def read_file(path: str) -> bytes | None:
    """Return the whole content of a file, or None if it cannot be read.

    Plain system calls: 9 µs for a file in /proc, where `open()` and its buffer take 13.
    """
    try:
        descriptor = os.open(path, os.O_RDONLY)
    except (OSError, ValueError):
        # ValueError: a NUL or a character that the locale cannot encode, from an escaped mount point.
        return None
    try:
        content = b""
        # Until the end of the file: one read of a file in /proc returns at most what the kernel had in its
        # buffer.
        while block := os.read(descriptor, 65536):
            content += block
    except OSError:
        return None
    else:
        return content
    finally:
        os.close(descriptor)


def cgroup_quota(read: Read = read_file) -> float | None:
    """Return how many cores' worth of time the cgroups of this process allow it.

    All ancestors count: on cgroup v2 a child may claim more than its parent has, and gets no more than the
    parent (kernel commit c53593e5cb69, "Don't reject lower cpu.max on ancestors").

    Args:
        read: Returns the content of a file, None if it cannot be read.

    Returns:
        The smallest quota, in cores, such as 1.5; None if there is none or none can be found out.
    """
    return _smallest(b"cpu", _quota_v1, _quota_v2, read)


def machine_memory(read: Read = read_file) -> int | None:
    """Return how many bytes of memory there are for the processes here; None if that is unknown.

    It is the machine's memory, or less if the cgroups of this process or their ancestors allow less.

    Args:
        read: Returns the content of a file, None if it cannot be read.
    """
    try:
        import psutil  # noqa: PLC0415 - takes 25 ms; for advice only

        total = int(psutil.virtual_memory().total)
    except Exception:  # noqa: BLE001 - /proc is hidden, say, and psutil raises what it likes
        return None
    limit = _smallest(b"memory", _limit_v1, _limit_v2, read) if sys.platform.startswith("linux") else None
    return total if limit is None else min(total, limit)


def _smallest(controller: bytes, in_v1: Limit[N], in_v2: Limit[N], read: Read) -> N | None:
    """Return the smallest limit of a controller in the cgroup of this process and its ancestors, or None."""
    version, path = _cgroup(read("/proc/self/cgroup") or b"", controller)
    if not version:
        return None
    limit_in = in_v1 if version == 1 else in_v2
    smallest = None
    for directory in _directories(read("/proc/self/mountinfo") or b"", version, path, controller):
        limit = limit_in(directory, read)
        if limit is not None and (smallest is None or limit < smallest):
            smallest = limit
    return smallest


def _cgroup(table: bytes, controller: bytes) -> tuple[int, str]:
    """Find the cgroup of a controller in the text of /proc/self/cgroup; version 0 if there is none.

    Lines are "hierarchy:controllers:path", the controllers of v2 are empty (cgroups(7)). A controller belongs
    to one hierarchy at a time, so a v1 hierarchy that names it settles the question on a machine that has
    both.
    """
    found = (0, "")
    for line in table.split(b"\n"):
        fields = line.split(b":", 2)
        if len(fields) != 3 or not fields[2].startswith(b"/"):
            continue
        if controller in fields[1].split(b","):
            return 1, os.fsdecode(fields[2])
        if not fields[1]:
            found = (2, os.fsdecode(fields[2]))
    return found


def _directories(mounts: bytes, version: int, path: str, controller: bytes) -> Iterator[str]:
    """Yield the directory of the cgroup `path` and those of its ancestors, as far as they can be seen.

    A mount shows the hierarchy from its root downwards. In a container without a cgroup namespace, `path` is
    the host's ("/docker/1f2e") while the mount's root is that same cgroup, so the two have to be compared. A
    mount that does not contain the cgroup says nothing about it. The same hierarchy may be mounted more than
    once; all mounts are followed, because one of them may show more ancestors than another.
    """
    for mount_point, root in _mounts(mounts, version, controller):
        inside = path if root == "/" else path.removeprefix(root)
        if root != "/" and (inside == path or inside[:1] not in {"", "/"}):
            continue
        names = [name for name in inside.split("/") if name]
        # Seen from a cgroup namespace, what lies outside of it is "/../name" (cgroup_namespaces(7));
        # following that from the mount point would lead to whatever happens to be mounted next to it.
        if ".." in names:
            continue
        for depth in range(len(names), -1, -1):
            yield "/".join([mount_point, *names[:depth]])


def _mounts(mounts: bytes, version: int, controller: bytes) -> Iterator[tuple[str, str]]:
    """Yield (mount point, root) of every mount of the hierarchy, from the text of /proc/self/mountinfo.

    "36 35 98:0 ROOT POINT options [tags...] - TYPE source super-options", proc_pid_mountinfo(5).
    """
    kind = b"cgroup" if version == 1 else b"cgroup2"
    for line in mounts.split(b"\n"):
        # The cheap test first: a machine with containers has hundreds of lines.
        if b" - cgroup" not in line:
            continue
        left, _, right = line.partition(b" - ")
        fields, about = left.split(b" "), right.split(b" ")
        if len(fields) < 5 or len(about) < 3 or about[0] != kind:
            continue
        if version == 1 and controller not in about[2].split(b","):
            continue
        yield _unescaped(fields[4]), _unescaped(fields[3])


def _unescaped(field: bytes) -> str:
    r"""Decode a path of mountinfo, where the kernel writes blanks and backslashes as \040 and the like."""
    first, *rest = field.split(b"\\")
    parts = [first]
    for part in rest:
        digits = part[:3]
        try:
            parts.append(bytes([int(digits, 8)]) + part[3:] if digits.isdigit() else b"\\" + part)
        except ValueError:
            # An 8 or 9, or more than one byte: no escape of the kernel's.
            parts.append(b"\\" + part)
    return os.fsdecode(b"".join(parts))


def _quota_v2(directory: str, read: Read) -> float | None:
    """Return the quota in cpu.max: "QUOTA PERIOD" in microseconds, or "max PERIOD"."""
    fields = (read(directory + "/cpu.max") or b"").split()
    return _cores(*fields) if len(fields) == 2 else None


def _quota_v1(directory: str, read: Read) -> float | None:
    """Return the quota of a cgroup v1 directory, two files in microseconds; -1 stands for no limit."""
    quota = read(directory + "/cpu.cfs_quota_us")
    # The root group has no such file, and most groups no limit: the second file is then not worth its 8 µs.
    if quota is None or quota.startswith(b"-"):
        return None
    return _cores(quota.strip(), (read(directory + "/cpu.cfs_period_us") or b"").strip())


def _limit_v2(directory: str, read: Read) -> int | None:
    """Return the bytes in memory.max, which may be "max"."""
    return _bytes(read(directory + "/memory.max"))


def _limit_v1(directory: str, read: Read) -> int | None:
    """Return the same of a cgroup v1 directory, where a huge number stands for no limit."""
    return _bytes(read(directory + "/memory.limit_in_bytes"))


def _bytes(text: bytes | None) -> int | None:
    digits = (text or b"").strip()
    return int(digits) or None if digits.isdigit() and len(digits) < 20 else None


def _cores(quota: bytes, period: bytes) -> float | None:
    """Divide two decimal texts; None unless both are plain positive numbers of a believable size."""
    if not (quota.isdigit() and period.isdigit()) or len(quota) > _DIGITS or len(period) > _DIGITS:
        return None
    if not int(quota) or not int(period):
        return None
    return int(quota) / int(period)
