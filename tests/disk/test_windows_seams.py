"""The code for Windows, as far as Linux can run it: no FIFOs, no poll, no removal of open files."""

from __future__ import annotations

import ctypes
import sys
from typing import TYPE_CHECKING

from buildslots.run.child_windows import KILL_ON_JOB_CLOSE, Job, _limits

if TYPE_CHECKING:
    from builds import Pool

LIKE_WINDOWS = """
import filelock, logging, os, select, subprocess, sys, threading
logging.disable()  # one runs beyond the cap, which is said
del os.mkfifo, select.poll, os.O_NONBLOCK
os.O_BINARY = 0o100000  # O_LARGEFILE here, which changes nothing
unlink = os.unlink
def unlink_closed_files_only(path, dir_fd=None):
    for fd in os.listdir("/proc/self/fd"):
        try:
            if os.path.samefile(f"/proc/self/fd/{fd}", path):
                raise PermissionError(13, "used by another process", path)
        except FileNotFoundError:
            pass
    unlink(path)
os.unlink = unlink_closed_files_only
sys.platform = "win32"
import buildslots.disk.lock as lock
assert lock.unlock.__module__.startswith("filelock")
import buildslots.files as files
assert files.PLAIN & os.O_BINARY
sys.platform = "linux"  # directories are platformdirs' business
"""

PROGRAM = """
from buildslots import SlotPool, SlotTimeoutError
from buildslots.crowd import _crowds as crowds
pool = SlotPool(slots=1, timeout=None, dir=sys.argv[1])
started, threads = [], []
first = pool.acquire()
def in_memory():  # two of a process have tickets
    return sum(len(crowd._waiting) for crowd in crowds.values())
def build(number):
    with pool.acquire():
        started.append(number)
import time
for number in range(4):
    threads.append(threading.Thread(target=build, args=[number]))
    threads[-1].start()
    while len(os.listdir(os.path.join(sys.argv[1], "queue"))) + in_memory() <= number:
        time.sleep(0.001)
assert pool.try_acquire() is None
beyond = pool.acquire(timeout=0.01)
assert beyond.overflow
beyond.release()
first.release()
for thread in threads:
    thread.join()
print(started, os.listdir(os.path.join(sys.argv[1], "queue")))
"""


def test_order_and_bound_without_fifos_poll_and_removal_of_open_files(pool: Pool) -> None:
    """With filelock's descriptor lock and nothing but polling, builds start in order, and tickets go."""
    result = pool.run(sys.executable, "-c", LIKE_WINDOWS + PROGRAM, str(pool.dir))
    assert (result.stdout, result.stderr) == ("[0, 1, 2, 3] []\n", "")


def test_a_job_ends_its_processes_only_when_slot_run_is_killed() -> None:
    """The limit is set before the process is in the job, and taken back before the job is closed."""
    calls: list[tuple[object, ...]] = []

    class Kernel32:
        def CreateJobObjectW(self, *_: None) -> int:
            return 7

        def SetInformationJobObject(self, job: int, kind: int, info: bytes, size: int) -> int:
            calls.append(("limit", job, kind, int.from_bytes(info[16:20], "little"), size))
            return 1

        def AssignProcessToJobObject(self, job: int, process: int) -> int:
            calls.append(("assign", job, process))
            return 1

        def CloseHandle(self, job: int) -> int:
            calls.append(("close", job))
            return 1

    with Job(Kernel32()) as job:
        job.add(42)
    size = len(_limits(0))
    assert calls == [
        ("limit", 7, 9, KILL_ON_JOB_CLOSE, size),
        ("assign", 7, 42),
        ("limit", 7, 9, 0, size),
        ("close", 7),
    ]


def test_the_limit_structure_has_the_size_of_winnt_h() -> None:
    """JOBOBJECT_EXTENDED_LIMIT_INFORMATION, rebuilt with ctypes' own alignment."""
    size_t = ctypes.c_size_t

    class Basic(ctypes.Structure):
        _fields_ = [
            ("PerProcessUserTimeLimit", ctypes.c_int64),
            ("PerJobUserTimeLimit", ctypes.c_int64),
            ("LimitFlags", ctypes.c_uint32),
            ("MinimumWorkingSetSize", size_t),
            ("MaximumWorkingSetSize", size_t),
            ("ActiveProcessLimit", ctypes.c_uint32),
            ("Affinity", size_t),
            ("PriorityClass", ctypes.c_uint32),
            ("SchedulingClass", ctypes.c_uint32),
        ]

    class Extended(ctypes.Structure):
        _fields_ = [("Basic", Basic), ("IoInfo", ctypes.c_uint64 * 6), ("Memory", size_t * 4)]

    assert (ctypes.sizeof(Extended), Basic.LimitFlags.offset) == (len(_limits(0)), 16)
