"""How many builds a machine may run: the table, the cores, and the cgroups they are counted by."""

from __future__ import annotations

import os
import random
import subprocess
import sys
import types
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from buildslots.settings import machine as cap

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

    Read = Callable[[str], bytes | None]

LINUX = pytest.mark.skipif(sys.platform != "linux", reason="cgroups and os.sched_setaffinity are Linux's")

# Each platform's cap from this number of cores on, worked out by hand from the rules in help/config.md.
STEPS = {
    "WSL2": {1: 2, 24: 3},
    "WSL1": {1: 2, 12: 3, 16: 4},
    "Windows": {1: 2, 12: 3, 16: 4},
    "other Unix": {1: 2, 12: 3, 16: 4, 20: 5, 24: 6},
}


@pytest.mark.parametrize("platform", STEPS)
def test_default_caps(platform: str) -> None:
    """The cap of every platform follows the table for each number of cores from 1 to 256."""
    expected, found, slots = {}, {}, 0
    for cores in range(1, 257):
        slots = STEPS[platform].get(cores, slots)
        expected[cores] = slots
        found[cores] = cap.default_cap(platform, cores)
    assert found == expected


@pytest.mark.parametrize(
    ("system", "release", "expected"),
    [
        ("win32", "", "Windows"),
        ("cygwin", "3.5.3-1.x86_64", "Windows"),
        ("linux", "3.4.0-Microsoft", "WSL1"),
        ("linux", "4.4.0-19041-Microsoft", "WSL1"),
        ("linux", "4.19.104-microsoft-standard", "WSL2"),
        ("linux", "5.4.72-microsoft-standard-WSL2", "WSL2"),
        ("linux", "5.15.153.1-microsoft-standard-WSL2", "WSL2"),
        ("linux", "6.6.84.1-microsoft-standard-WSL2+", "WSL2"),
        ("linux", "5.10.16-Microsoft-Standard-WSL2-custom", "WSL2"),
        ("linux", "4.19.112-microsoft-WSL2-standard", "WSL2"),
        ("linux", "6.1.0-wsl2-zen", "WSL2"),
        ("linux", "5.15.0-1034-azure", "other Unix"),
        ("linux", "5.4.0-microsoft-cloud", "other Unix"),
        ("linux", "4.4.0-186-generic", "other Unix"),
        ("linux", "", "other Unix"),
        ("darwin", "23.4.0", "other Unix"),
        ("freebsd14", "14.0-RELEASE", "other Unix"),
    ],
)
def test_platform_class(system: str, release: str, expected: str) -> None:
    """A platform is told by its name and, on Linux, by the release of its kernel."""
    assert cap.platform_class(system, release) == expected


@pytest.mark.parametrize(
    ("system", "release", "expected"),
    [
        ("linux", "6.1.0-my-own", "WSL2"),
        ("linux", "4.4.0-19041-Microsoft", "WSL1"),
        ("darwin", "23.4.0", "other Unix"),
    ],
)
def test_wsl_with_a_custom_kernel(system: str, release: str, expected: str) -> None:
    """The directory of WSL's interop sockets tells WSL2 where the kernel's name does not."""
    found = cap.machine_cap(
        system=system, release=release, affinity=64, read=no_file, exists=lambda path: path == "/run/WSL"
    )
    assert found.platform == expected


def no_file(_path: str) -> bytes | None:
    return None


def reader(files: Mapping[str, str]) -> Read:
    """Return a `read` over a table of files."""
    encoded = {path: text.encode() for path, text in files.items()}
    return encoded.get


def mount(point: str, *, root: str = "/", kind: str = "cgroup2", options: str = "rw,nsdelegate") -> str:
    """Return a line of mountinfo."""
    return f"31 23 0:28 {root} {point} rw,nosuid,nodev shared:9 - {kind} {kind} {options}\n"


V2 = mount("/sys/fs/cgroup")
V1 = mount("/sys/fs/cgroup/cpu,cpuacct", kind="cgroup", options="rw,cpu,cpuacct")
V1_DIR = "/sys/fs/cgroup/cpu,cpuacct"
ROOT_MOUNTS = "22 27 0:21 / /proc rw,relatime - proc proc rw\n27 1 254:0 / / rw - ext4 /dev/vda rw\n"
HYBRID = (
    ROOT_MOUNTS
    + "31 23 0:28 / /sys/fs/cgroup rw,relatime - tmpfs tmpfs rw,mode=755\n"
    + mount("/sys/fs/cgroup/cpu", kind="cgroup", options="rw,cpu")
    + mount("/sys/fs/cgroup/cpuset", kind="cgroup", options="rw,cpuset")
    + mount("/sys/fs/cgroup/systemd", kind="cgroup", options="rw,name=systemd")
    + mount("/sys/fs/cgroup/unified", options="rw")
)


def v1(directory: str, quota: object, period: object = 100000) -> dict[str, str]:
    """Return the two files of a cgroup v1 directory."""
    return {f"{directory}/cpu.cfs_quota_us": f"{quota}\n", f"{directory}/cpu.cfs_period_us": f"{period}\n"}


@pytest.mark.parametrize(
    ("groups", "mounts", "files", "quota"),
    [
        pytest.param("0::/\n", V2, {}, None, id="v2-root-has-no-file"),
        pytest.param("0::/a\n", V2, {"/sys/fs/cgroup/a/cpu.max": "max 100000\n"}, None, id="v2-max"),
        pytest.param("0::/a\n", V2, {"/sys/fs/cgroup/a/cpu.max": "150000 100000\n"}, 1.5, id="v2"),
        pytest.param("0::/a\n", V2, {"/sys/fs/cgroup/a/cpu.max": "10000 50000\n"}, 0.2, id="v2-period"),
        pytest.param(
            "0::/a/b/c\n",
            V2,
            {
                "/sys/fs/cgroup/a/cpu.max": "200000 100000",
                "/sys/fs/cgroup/a/b/cpu.max": "max 100000",
                "/sys/fs/cgroup/a/b/c/cpu.max": "800000 100000",
            },
            2.0,
            id="v2-ancestor-has-less",
        ),
        pytest.param(
            "0::/a/b\n",
            V2,
            {"/sys/fs/cgroup/a/cpu.max": "800000 100000", "/sys/fs/cgroup/a/b/cpu.max": "300000 100000"},
            3.0,
            id="v2-child-has-less",
        ),
        pytest.param(
            "0::/a/b\n",
            V2,
            {"/sys/fs/cgroup/a/cpu.max": "300000 100000"},
            3.0,
            id="v2-leaf-without-controller",
        ),
        pytest.param(
            "0::/a/b (deleted)\n",
            V2,
            {"/sys/fs/cgroup/a/cpu.max": "300000 100000"},
            3.0,
            id="v2-leaf-deleted",
        ),
        pytest.param(
            "0::/a\n", V2, {"/sys/fs/cgroup/cpu.max": "400000 100000"}, 4.0, id="v2-at-the-mount-point"
        ),
        pytest.param(
            "0::/a:b\n", V2, {"/sys/fs/cgroup/a:b/cpu.max": "300000 100000"}, 3.0, id="v2-colon-in-the-path"
        ),
        pytest.param(
            "0::/a\n", mount("/cg"), {"/cg/a/cpu.max": "300000 100000"}, 3.0, id="v2-mounted-elsewhere"
        ),
        pytest.param(
            "0::/a b\n",
            mount(r"/my\040own\134cgroups\011"),
            {"/my own\\cgroups\t/a b/cpu.max": "300000 100000"},
            3.0,
            id="v2-mount-point-escaped",
        ),
        pytest.param(
            "0::/x y/z\n",
            mount("/cg", root=r"/x\040y"),
            {"/cg/z/cpu.max": "300000 100000"},
            3.0,
            id="v2-mount-root-escaped",
        ),
        pytest.param(
            "0::/docker/1f2e\n",
            mount("/sys/fs/cgroup", root="/docker/1f2e"),
            {
                "/sys/fs/cgroup/cpu.max": "200000 100000",
                "/sys/fs/cgroup/docker/1f2e/cpu.max": "100000 100000",
            },
            2.0,
            id="v2-container-without-namespace",
        ),
        pytest.param(
            "0::/docker/1f2e/init\n",
            mount("/sys/fs/cgroup", root="/docker/1f2e"),
            {"/sys/fs/cgroup/init/cpu.max": "200000 100000"},
            2.0,
            id="v2-below-the-container",
        ),
        pytest.param(
            "0::/docker/1f2e9\n",
            mount("/sys/fs/cgroup", root="/docker/1f2e"),
            {"/sys/fs/cgroup/cpu.max": "200000 100000", "/sys/fs/cgroup/9/cpu.max": "100000 100000"},
            None,
            id="v2-another-container-with-the-same-prefix",
        ),
        pytest.param(
            "0::/../other\n",
            V2,
            {"/sys/fs/cgroup/../other/cpu.max": "100000 100000", "/sys/fs/cgroup/cpu.max": "100000 100000"},
            None,
            id="v2-outside-of-the-namespace",
        ),
        pytest.param(
            "0::/a\n",
            mount("/narrow", root="/a") + mount("/wide"),
            {
                "/narrow/cpu.max": "max 100000",
                "/wide/a/cpu.max": "max 100000",
                "/wide/cpu.max": "500000 100000",
            },
            5.0,
            id="v2-mounted-twice",
        ),
        pytest.param("4:cpu,cpuacct:/\n", V1, v1(V1_DIR, -1), None, id="v1-no-limit"),
        pytest.param("4:cpu,cpuacct:/a\n", V1, v1(f"{V1_DIR}/a", 250000), 2.5, id="v1"),
        pytest.param("4:cpuacct,cpu:/a\n", V1, v1(f"{V1_DIR}/a", 25000, 50000), 0.5, id="v1-other-order"),
        pytest.param(
            "4:cpu,cpuacct:/a/b\n",
            V1,
            v1(f"{V1_DIR}/a/b", -1) | v1(f"{V1_DIR}/a", 200000),
            2.0,
            id="v1-nested",
        ),
        pytest.param(
            "4:cpu,cpuacct:/docker/1f\n",
            mount(V1_DIR, root="/docker/1f", kind="cgroup", options="rw,cpu,cpuacct"),
            v1(V1_DIR, 200000),
            2.0,
            id="v1-container-without-namespace",
        ),
        pytest.param(
            "2:cpuset:/a\n1:cpuacct:/a\n", V1, v1(f"{V1_DIR}/a", 200000), None, id="v1-not-the-cpu-one"
        ),
        pytest.param(
            "9:name=systemd:/\n3:cpuset:/\n1:cpu:/jobs\n0::/\n",
            HYBRID,
            v1("/sys/fs/cgroup/cpu/jobs", 150000) | v1("/sys/fs/cgroup/cpuset/jobs", 100000),
            1.5,
            id="hybrid-cpu-in-v1",
        ),
        pytest.param(
            "9:name=systemd:/\n3:cpuset:/\n0::/jobs\n",
            HYBRID,
            {"/sys/fs/cgroup/unified/jobs/cpu.max": "150000 100000"},
            1.5,
            id="hybrid-cpu-in-v2",
        ),
        pytest.param(
            "0::/a\n1:cpu:/b\n", HYBRID, v1("/sys/fs/cgroup/cpu/b", 100000), 1.0, id="hybrid-v2-line-first"
        ),
    ],
)
def test_quota(groups: str, mounts: str, files: dict[str, str], quota: float | None) -> None:
    """The quota is the smallest of the process's cgroup and its ancestors, wherever they are mounted."""
    files = {"/proc/self/cgroup": groups, "/proc/self/mountinfo": mounts, **files}
    assert cap.cgroup_quota(reader(files)) == quota


@pytest.mark.parametrize(
    "cpu_max",
    [
        *("", "\n", "max", "100000", "max max", "100000 max", "-1 100000", "+5 100000", "1e5 100000"),
        *("0 100000", "100000 0", "100000 100000 1", "1.5 1", "1_0 100000", "\u0661 1", "x" * 99),
        *("9" * 16 + " 1", "9" * 9999 + " 1"),
    ],
)
def test_quota_that_makes_no_sense(cpu_max: str) -> None:
    """A quota that is not two plain positive numbers is no known quota, and its ancestors' still count."""
    files = {
        "/proc/self/cgroup": "0::/a/b\n",
        "/proc/self/mountinfo": V2,
        "/sys/fs/cgroup/a/cpu.max": "700000 100000",
        "/sys/fs/cgroup/a/b/cpu.max": cpu_max,
    }
    assert cap.cgroup_quota(reader(files)) == 7.0


@pytest.mark.parametrize("quota", ["", "max", "-100000", "0", "x", "9" * 16])
def test_v1_quota_that_makes_no_sense(quota: str) -> None:
    """The same holds for the files of cgroup v1."""
    files = {
        "/proc/self/cgroup": "1:cpu:/a/b\n",
        "/proc/self/mountinfo": HYBRID,
        **v1("/sys/fs/cgroup/cpu/a", 700000),
        **v1("/sys/fs/cgroup/cpu/a/b", quota),
    }
    assert cap.cgroup_quota(reader(files)) == 7.0


def test_v1_quota_without_its_period() -> None:
    """A v1 quota whose period cannot be read is no known quota."""
    files = {
        "/proc/self/cgroup": "1:cpu:/a\n",
        "/proc/self/mountinfo": HYBRID,
        "/sys/fs/cgroup/cpu/a/cpu.cfs_quota_us": "100000\n",
    }
    assert cap.cgroup_quota(reader(files)) is None


V1_MEMORY = mount("/sys/fs/cgroup/memory", kind="cgroup", options="rw,memory")


@LINUX
@pytest.mark.parametrize(
    ("groups", "mounts", "files", "limit"),
    [
        (
            "0::/a/b\n",
            V2,
            {"a/b/memory.max": "max\n", "a/memory.max": "700000\n", "memory.max": "800000\n"},
            700000,
        ),
        ("5:cpu:/c\n4:memory:/a\n", V1 + V1_MEMORY, {"memory/a/memory.limit_in_bytes": "700000\n"}, 700000),
        ("0::/a\n", V2, {"a/memory.max": "max\n"}, None),
        ("4:memory:/a\n", V1_MEMORY, {"memory/a/memory.limit_in_bytes": f"{2**63 - 4096}\n"}, None),
        *(("0::/a\n", V2, {"a/memory.max": text}, None) for text in ("", "0", "-1", "x", "1e5", "9" * 9999)),
    ],
)
def test_memory(groups: str, mounts: str, files: dict[str, str], limit: int | None) -> None:
    """It is the machine's, or the least that the process's cgroup and its ancestors allow."""
    found = {"/proc/self/cgroup": groups, "/proc/self/mountinfo": mounts}
    found |= {f"/sys/fs/cgroup/{path}": text for path, text in files.items()}
    whole = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    assert cap.machine_memory(reader(found)) == (limit or whole)


def test_damaged_files_never_raise() -> None:
    """Whatever bytes /proc has, the quota is a positive number or unknown, and reading it raises nothing."""
    dice = random.Random(20240229)
    sound = [b"9:name=systemd:/\n1:cpu:/a\n0::/a\n", (HYBRID + V2).replace("/sys", r"/s\040s").encode()]
    for _ in range(2000):
        damaged = []
        for text in sound:
            changed = bytearray(text)
            for _ in range(dice.randrange(1, 12)):
                place = dice.randrange(len(changed))
                harm = dice.choice([b"\\777", b"\\", b" ", b"\n", b"\xff\0", b""])
                changed[place : place + dice.randrange(3)] = harm
            damaged.append(bytes(changed))
        groups, mounts = damaged
        cpu_max = dice.randbytes(dice.randrange(12))

        files = {"/proc/self/cgroup": groups, "/proc/self/mountinfo": mounts}
        quota = cap.cgroup_quota(lambda path, files=files, cpu_max=cpu_max: files.get(path, cpu_max))  # type: ignore[misc]
        assert quota is None or quota > 0
        # And with the paths that come out of it on the real file system.
        cap.cgroup_quota(lambda path, files=files: files.get(path) or cap.read_file(path))  # type: ignore[misc]


@pytest.mark.parametrize("missing", ["/proc/self/cgroup", "/proc/self/mountinfo"])
def test_unreadable_proc(missing: str) -> None:
    """Without /proc no quota is known."""
    files = {
        "/proc/self/cgroup": "0::/\n",
        "/proc/self/mountinfo": V2,
        "/sys/fs/cgroup/cpu.max": "100000 100000",
    }
    assert cap.cgroup_quota(reader(files)) == 1.0
    del files[missing]
    assert cap.cgroup_quota(reader(files)) is None


@pytest.mark.skipif(
    os.name == "nt", reason="the paths of the tree have characters that Windows does not take"
)
def test_quota_from_real_files(tmp_path: Path) -> None:
    """A tree of real files, absent and unreadable ones among them, gives the quota that it describes."""
    leaf = tmp_path / "sys/fs/cgroup/user.slice/user-1000.slice"
    leaf.mkdir(parents=True)
    (tmp_path / "proc/self").mkdir(parents=True)
    (tmp_path / "proc/self/cgroup").write_text("0::/user.slice/user-1000.slice\n")
    (tmp_path / "proc/self/mountinfo").write_text(ROOT_MOUNTS * 2000 + V2)
    (leaf / "cpu.max").mkdir()  # a directory opens, and fails to be read
    (leaf.parent / "cpu.max").write_text("350000 100000\n")
    assert cap.cgroup_quota(lambda path: cap.read_file(f"{tmp_path}{path}")) == 3.5


def test_read_file(tmp_path: Path) -> None:
    """A file is read to its end; what is no readable file, or no path at all, is None."""
    long = tmp_path / "long"
    long.write_bytes(b"0123456789" * 20000)
    assert cap.read_file(str(long)) == long.read_bytes()
    assert cap.read_file(str(tmp_path)) is None
    assert cap.read_file(str(tmp_path / "absent")) is None
    assert cap.read_file("nul\0nul") is None


@pytest.mark.parametrize(
    ("affinity", "quota", "cores"),
    [
        (8, None, 8),
        (8, 2.0, 2),
        (8, 2.9, 2),
        (8, 0.2, 1),
        (2, 64.0, 2),
        (1, None, 1),
        (8, 1e15, 8),
        (0, None, 1),
    ],
)
def test_usable_cores(affinity: int, quota: float | None, cores: int) -> None:
    """The cores are the smaller of affinity and quota, rounded down, and never less than one."""
    assert cap.usable_cores(affinity, quota) == cores


def test_machine_cap_shows_its_facts() -> None:
    """A cap says where its number comes from, in words and as values."""
    files = {
        "/proc/self/cgroup": "0::/\n",
        "/proc/self/mountinfo": V2,
        "/sys/fs/cgroup/cpu.max": "2150000 100000",
    }
    found = cap.machine_cap(
        system="linux", release="6.1.0", affinity=64, read=reader(files), exists=lambda _path: False
    )
    assert (found.slots, found.platform, found.cores, found.affinity, found.quota) == (
        5,
        "other Unix",
        21,
        64,
        21.5,
    )
    assert found.source == "default for other Unix with 21 cores: clamp(21 // 4, 2, 6)"
    assert repr(found) == "<Cap 5: default for other Unix with 21 cores: clamp(21 // 4, 2, 6)>"


def test_machine_cap_off_linux_reads_nothing() -> None:
    """Off Linux there are no cgroups to look for."""

    def fail(path: str) -> bytes:
        raise AssertionError(path)

    found = cap.machine_cap(system="win32", release="", affinity=1, read=fail)
    assert (found.slots, found.quota) == (2, None)
    assert found.source == "default for Windows with 1 core: clamp(1 // 4, 2, 4)"


def test_machine_cap_of_this_machine() -> None:
    """Asked without arguments, it speaks of this machine and this process."""
    found = cap.machine_cap()
    assert 1 <= found.cores <= found.affinity == cap.affinity_cores()
    assert found.slots == cap.default_cap(found.platform, found.cores)


class FakeProcess:
    """Stands in for psutil.Process where psutil knows the affinity."""

    def cpu_affinity(self) -> list[int]:
        return [0, 3, 5]


@pytest.mark.parametrize(("process", "cores"), [(FakeProcess, 3), (object, 7)])
def test_affinity_from_psutil(monkeypatch: pytest.MonkeyPatch, process: type, cores: int) -> None:
    """Without an affinity call psutil is asked, and the machine's cores count where it has no answer."""
    monkeypatch.delattr(os, "sched_getaffinity", raising=False)
    monkeypatch.setattr(os, "cpu_count", lambda: 7)
    monkeypatch.setitem(sys.modules, "psutil", types.SimpleNamespace(Process=process))
    assert cap.affinity_cores() == cores


def test_affinity_without_psutil(monkeypatch: pytest.MonkeyPatch) -> None:
    """A psutil that cannot be imported, and a core count that nobody knows, leave one core."""
    monkeypatch.delattr(os, "sched_getaffinity", raising=False)
    monkeypatch.setattr(os, "cpu_count", lambda: None)
    monkeypatch.setitem(sys.modules, "psutil", None)
    assert cap.affinity_cores() == 1


def test_affinity_call_forbidden(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where the affinity call is forbidden, the machine's cores count."""

    def forbidden(_pid: int) -> set[int]:
        raise PermissionError(1, "Operation not permitted")

    monkeypatch.setattr(os, "sched_getaffinity", forbidden, raising=False)
    monkeypatch.setattr(os, "cpu_count", lambda: 7)
    assert cap.affinity_cores() == 7


CHILD = """
import os, sys
sys.path.insert(0, sys.argv[1])
exec(sys.argv[2])
from buildslots.settings.machine import machine_cap
found = machine_cap()
print(found.cores, found.quota)
"""


def child_cores(setup: str) -> list[str]:
    """Run a Python that does `setup` to itself, and return the cores and the quota that it then sees."""
    command = [sys.executable, "-I", "-c", CHILD, str(Path(cap.__file__).parents[2]), setup]
    return subprocess.run(command, check=True, capture_output=True, text=True, timeout=60).stdout.split()


@LINUX
def test_real_affinity() -> None:
    """A process that is confined to one core counts one."""
    only = min(os.sched_getaffinity(0))
    assert child_cores(f"os.sched_setaffinity(0, {{{only}}})")[0] == "1"


@pytest.fixture
def limited_group() -> Iterator[Path]:
    """Make a real cgroup with nothing in it but a parent that has one and a half cores."""
    parent = None
    try:
        for directory, name, text in (
            ("/sys/fs/cgroup/cpu", "cpu.cfs_quota_us", "150000"),
            ("/sys/fs/cgroup/cpu,cpuacct", "cpu.cfs_quota_us", "150000"),
            ("/sys/fs/cgroup", "cpu.max", "150000 100000"),
        ):
            candidate = Path(directory, f"buildslots-test-{os.getpid()}")
            try:
                candidate.mkdir()
            except OSError:
                continue
            try:
                # Not write_text: it would create a file where the hierarchy is no cgroup's.
                with (candidate / name).open("r+") as quota:
                    quota.write(text)
                (candidate / "leaf").mkdir()
            except OSError:
                candidate.rmdir()
                continue
            parent = candidate
            break
        else:
            pytest.skip(
                "no cgroup with a CPU quota can be made here; test_quota covers the same with given files"
            )
        yield parent / "leaf"
    finally:
        if parent:
            (parent / "leaf").rmdir()
            parent.rmdir()


@LINUX
def test_real_cgroup(limited_group: Path) -> None:
    """A process in a group without a quota, below one with one and a half cores, counts one core."""
    procs = str(limited_group / "cgroup.procs")
    assert child_cores(f"open({procs!r}, 'w').write(str(os.getpid()))") == ["1", "1.5"]
