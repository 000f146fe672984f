"""The machinery fails, for real: one warning that names the cause, and the command runs at once."""

from __future__ import annotations

import contextlib
import os
import shlex
import shutil
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from builds import DEADLINE_S, Build, Mounts, Pool, script, wait_until

if TYPE_CHECKING:
    import subprocess

ECHO = ("sh", "-c", 'echo "ran ${BUILD_SLOT-none}"')


def assert_degraded(result: subprocess.CompletedProcess[str], cause: str) -> None:
    """The command ran without a slot, and one line said why."""
    assert (result.returncode, result.stdout) == (0, "ran none\n"), result
    assert result.stderr.count("\n") == 1, result.stderr
    assert result.stderr.startswith("slot-run: running without a slot: ")
    assert cause in result.stderr


def assert_put_aside(pool: Pool, name: str) -> None:
    """The command runs under a slot, and one line says what was put aside; the next finds all in order."""
    result = pool.slot_run(*ECHO)
    assert (result.returncode, result.stdout, result.stderr.count("\n")) == (0, "ran 0\n", 1), result
    assert result.stderr.startswith(f"slot-run: {pool.dir / name} could not be used (")
    assert result.stderr.endswith("): it was put aside\n")
    result = pool.slot_run(*ECHO)
    assert (result.stdout, result.stderr) == ("ran 0\n", "")


SHOW = "sh -c 'echo ran ${BUILD_SLOT-none}'"


def test_read_only_file_system(mounts: Mounts) -> None:
    """EROFS."""
    setup = "mount -t tmpfs none $P; mount -o remount,bind,ro $P"
    assert_degraded(mounts.run(setup, f"$R {SHOW}"), "Read-only file system")


def test_read_only_file_system_with_a_pool_in_it(mounts: Mounts) -> None:
    """EROFS on a pool that worked before: test_sandboxes has more of it."""
    setup = "mount -t tmpfs none $P; $R true; mount -o remount,bind,ro $P"
    result = mounts.run(setup, f"$R {SHOW}")
    assert (result.returncode, result.stdout, result.stderr.count("\n")) == (0, "ran 0\n", 1)
    assert "cannot be written here (Read-only file system): this build has no place in line" in result.stderr


def test_no_inodes(mounts: Mounts) -> None:
    """ENOSPC when a file is created."""
    setup = "mount -t tmpfs -o nr_inodes=2 none $P"
    assert_degraded(mounts.run(setup, f"$R {SHOW}"), "No space left on device")


def test_no_space(mounts: Mounts) -> None:
    """ENOSPC when the record is written."""
    setup = "mount -t tmpfs -o size=4096 none $P; head -c 4096 /dev/zero > $P/full"
    assert_degraded(mounts.run(setup, f"$R {SHOW}"), "No space left on device")


def test_no_space_for_those_who_would_have_to_wait(mounts: Mounts) -> None:
    """ENOSPC when a ticket is written, though the slot's own record found room."""
    setup = "mount -t tmpfs -o size=8192 none $P"
    inner = "head -c 9999 /dev/zero > $P/full 2>/dev/null; unset BUILD_SLOTS_HELD"
    inner += f"; $R -n1 {SHOW}"
    result = mounts.run(f"{setup}; export P R", f"$R -n1 -- sh -c {shlex.quote(inner)}")
    assert_degraded(result, "No space left on device")


def test_no_descriptors(pool: Pool) -> None:
    """EMFILE at each descriptor that a start needs: the command runs all the same."""
    pool.slot_run("true")
    causes = []
    for limit in range(4, 12):
        result = pool.run("sh", "-c", f"ulimit -n {limit}; exec {script('slot-run')} {SHOW}")
        if "running without a slot" in result.stderr:
            assert_degraded(result, "Too many open files")
            causes.append(limit)
        elif result.stdout != "ran 0\n":
            # So few that the interpreter itself cannot start, which no code of ours can help.
            assert "slot-run: " not in result.stderr, (limit, result)
    assert causes
    assert pool.held() == []


def test_a_file_in_the_directory_s_place(pool: Pool) -> None:
    """ENOTDIR or EEXIST."""
    pool.dir.write_text("mine")
    assert_degraded(pool.slot_run(*ECHO), str(pool.dir))
    assert pool.dir.read_text() == "mine"


@pytest.mark.parametrize("room", ["slot-0", "mutex"])
def test_a_directory_in_a_lock_file_s_place(pool: Pool, room: str) -> None:
    """EISDIR: it is put aside, with what is in it, and said so once."""
    (pool.dir / room).mkdir(parents=True)
    (pool.dir / room / "mine").write_text("mine")
    assert_put_aside(pool, room)
    (aside,) = pool.dir.glob(f".aside-{room}-*")
    assert (aside / "mine").read_text() == "mine"


@pytest.mark.parametrize("room", ["queue", "bells", "holders"])
def test_a_file_in_a_room_s_place(pool: Pool, room: str) -> None:
    """ENOTDIR: likewise."""
    pool.dir.mkdir()
    (pool.dir / room).write_text("mine")
    assert_put_aside(pool, room)
    (aside,) = pool.dir.glob(f".aside-{room}-*")
    assert aside.read_text() == "mine"


def test_no_home(mounts: Mounts) -> None:
    """No HOME, and a user without an entry in the user database."""
    users = "mount --bind /dev/null /etc/passwd; mount --bind /dev/null /etc/nsswitch.conf"
    setup = f"{users}; unset HOME BUILD_SLOTS_DIR"
    assert_degraded(mounts.run(setup, f"$R {SHOW}"), "no home directory")


def test_permission_denied(pool: Pool, tmp_path: Path) -> None:
    """EACCES: a directory of another user."""
    nobodys = tmp_path / "nobodys"
    nobodys.mkdir(mode=0o500)
    if os.geteuid() == 0:  # root may do anything, but not in /proc
        nobodys = Path("/proc/self")
    result = pool.slot_run("--dir", str(nobodys / "pool"), *ECHO)
    assert (result.returncode, result.stdout) == (0, "ran none\n")
    assert result.stderr.count("\n") == 1


@pytest.mark.parametrize(
    ("call", "error", "cause"),
    [
        ("flock", "ENOLCK", "No locks available"),
        ("flock", "EOPNOTSUPP", "Operation not supported"),
        ("mknod,mknodat", "ENOSPC", "No space left on device"),
    ],
)
def test_a_system_call_that_fails(pool: Pool, call: str, error: str, cause: str) -> None:
    """A file system without locks, a disk that fills up between two files."""
    trace = ["strace", "-o", "/dev/null", "-e", f"trace={call}", "-e", f"inject={call}:error={error}"]
    assert_degraded(pool.run(*trace, script("slot-run"), *ECHO), cause)


def test_without_fifos_the_line_moves_on(pool: Pool) -> None:
    """Where mkfifo is not supported, waiters poll, in order."""
    trace = ["strace", "-o", "/dev/null", "-e", "trace=mknod,mknodat"]
    trace += ["-e", "inject=mknod,mknodat:error=EPERM", script("slot-run"), "-n1", "--", "sh", "-c"]
    hold = 'echo "${BUILD_SLOT-none}"; read line; exit 0'
    running = pool.popen(*trace, hold)
    assert running.started() == "0"
    waiting: list[Build] = []
    for place in range(1, 4):
        waiting.append(pool.popen(*trace, hold))
        wait_until(lambda place=place: len(pool.status().waiters) == place, "one more waiter")
    assert not list((pool.dir / "bells").iterdir())
    while waiting:
        running.process.stdin.close()
        running = waiting.pop(0)
        assert running.started() == "0"
        assert [build.is_started() for build in waiting] == [False] * len(waiting)
    assert pool.status().holders[0].foreign is False


def test_calls_that_signals_interrupt_are_made_again(pool: Pool) -> None:
    """EINTR from flock and poll is no failure and no wake-up."""
    trace = ["strace", "-o", "/dev/null", "-e", "trace=flock,poll"]
    trace += ["-e", "inject=flock:error=EINTR:when=1..3", "-e", "inject=poll:error=EINTR:when=1..3"]
    first = pool.build("-n1")
    first.started()
    build = pool.popen(*trace, script("slot-run"), "-n1", *ECHO)
    wait_until(lambda: pool.status().waiters, "a waiter")
    first.finish()
    assert build.started() == "ran 0"
    assert build.errors() == ""


def test_a_huge_cap_costs_nothing(pool: Pool) -> None:
    """With a cap far above all limits builds start, and slot files are made as needed."""
    builds = [pool.build("-n999999999") for _ in range(3)]
    assert sorted(build.started() for build in builds) == ["0", "1", "2"]
    assert len(list(pool.dir.glob("slot-*"))) == 3


@pytest.mark.parametrize("slot", ["0", "18", "19"])
def test_more_holders_than_descriptors(pool: Pool, slot: str) -> None:
    """A waiter that cannot listen to every bell still gets its turn."""
    builds = {build.started(): build for build in [pool.build("-n20") for _ in range(20)]}
    command = f"ulimit -n 16; exec {script('slot-run')} -n20 {SHOW}"
    waiter = pool.popen("sh", "-c", command)

    def listens() -> bool:
        for fd in Path(f"/proc/{waiter.pid}/fd").iterdir():
            with contextlib.suppress(FileNotFoundError):  # it has closed that meanwhile
                if os.readlink(fd).startswith(str(pool.dir / "bells" / "slot-")):
                    return True
        return False

    wait_until(listens, "a waiter that listens")
    builds[slot].finish()
    assert waiter.started().startswith("ran ")
    assert waiter.errors() == ""


def test_the_directory_removed_while_many_arrive(pool: Pool) -> None:
    """Whoever removes the pool again and again keeps nobody from building."""
    builds = [pool.popen(script("slot-run"), "-n2", "-t", "none", *ECHO) for _ in range(12)]
    while any(build.process.poll() is None for build in builds):
        shutil.rmtree(pool.dir, ignore_errors=True)
    assert [build.process.wait(DEADLINE_S) for build in builds] == [0] * 12


def test_closed_standard_streams(pool: Pool) -> None:
    """Locks do not become the command's stdin, stdout or stderr."""
    for closed in ("<&-", ">&-", "2>&-", "<&- >&- 2>&-"):
        show = "ls -l /proc/self/fd > $0"
        log = pool.dir.parent / "fds"
        result = pool.run("sh", "-c", f"{script('slot-run')} sh -c '{show}' {log} {closed}")
        assert result.returncode == 0
        low = [line for line in log.read_text().splitlines() if line.split(" -> ")[0].split()[-1] in "012"]
        assert not any("slot-0" in line or "bells" in line for line in low), low
    first = pool.build("-n1")
    first.started()
    for closed in ("<&-", ">&-", "2>&-", ">&- 2>&-", "<&- 2>&-", "<&- >&- 2>&-"):
        pool.run("sh", "-c", f"{script('slot-run')} -n1 -t0 true {closed}")
        assert [path.stat().st_size for path in pool.dir.glob("slot-*")] == [0, 0], closed
        assert b"slot-run: " not in (pool.dir / "holders" / "slot-1").read_bytes(), closed


def test_a_failure_in_the_middle_leaves_no_lock(pool: Pool) -> None:
    """When the record cannot be written the slot that was already locked is free for others."""
    program = (
        "import sys, warnings\n"
        "warnings.simplefilter('ignore')\n"
        "from buildslots import SlotPool\n"
        "from buildslots.disk import records\n"
        "broken = 'def broken(*_): raise OSError(28, \\'No space left on device\\')'\n"
        "exec(compile(broken, records.__file__, 'exec'))\n"  # what is raised elsewhere is the caller's
        "records.write = broken\n"
        "slots = [SlotPool(slots=1).acquire() for _ in range(3)]\n"
        "print([slot.number for slot in slots], flush=True); input()\n"
    )
    build = pool.popen(sys.executable, "-c", program)
    assert build.started() == "[None, None, None]"
    assert (pool.held(), pool.leftovers()) == ([], [])
