"""What a member of a group's pool, or a build confined to what slot-run hands it, does on purpose.

Real processes of real users where root runs this. `buildslots help security` says what each may not have for
that.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import shlex
import signal
import stat
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from builds import DEADLINE_S, Pool, is_refused, script, step, take_now, wait_until
from users import ALICE, BOB, Users, several_users

from buildslots import SlotPool, files
from buildslots.backend import Request
from buildslots.disk import bells, line, taking
from buildslots.disk.directory import PoolDirectory

if TYPE_CHECKING:
    from subprocess import CompletedProcess

    from builds import Build

pytestmark = pytest.mark.linux

ECHO = ("sh", "-c", 'echo "ran ${BUILD_SLOT-none}"')
SECRET = "#!/bin/sh\necho of its owner\n"


def python(*args: str) -> tuple[str, ...]:
    """The command that runs a program with `args`."""
    return (sys.executable, "-P", "-c", *args)


def run_as(users: Users, user: int, *command: str, **how: str) -> CompletedProcess[str]:
    """Run `command` as `user` to its end."""
    return users.run(*users.as_user(user, *command, **how))


def owned(path: Path, user: int, mode: int) -> Path:
    """Give `path` to `user` alone."""
    os.chown(path, user, user)
    path.chmod(mode)
    return path


def snapshot(directory: Path) -> dict[str, tuple[int, int, str]]:
    """All that is in a directory: mode, size and content by name."""
    return {
        str(path.relative_to(directory)): (
            path.lstat().st_mode,
            path.lstat().st_uid,
            path.read_text() if path.is_file() else "",
        )
        for path in [directory, *directory.rglob("*")]
    }


# Who keeps the mutex.

EXCHANGER = """
import ctypes, fcntl, os, sys, time
pool = sys.argv[1]
paths = [f"{pool}/mutex".encode(), f"{pool}/.other".encode()]
kept = []
for path in paths:
    fd = os.open(path, os.O_RDWR | os.O_CREAT, 0o660)
    os.fchmod(fd, 0o660)
    fcntl.flock(fd, fcntl.LOCK_EX)
    kept.append(fd)
renameat2 = ctypes.CDLL(None).renameat2
print("exchanges", flush=True)
while True:
    time.sleep(0.7)
    renameat2(-100, paths[0], -100, paths[1], 2)
"""
PATIENT = """
import sys
from buildslots.disk import directory
directory.MUTEX_PATIENCE_S = directory.MUTEXES_S = 1e6
"""


@several_users
def test_mutexes_that_are_exchanged_keep_no_build(users: Users) -> None:
    """Each retry has the same second of patience; then the build goes on without, and gets its slot."""
    users.slot_run("true")
    (users.dir / "mutex").unlink()
    users.popen(*users.as_user(BOB, *python(EXCHANGER, str(users.dir)))).started()
    result = run_as(users, ALICE, script("slot-run"), "-t1", *ECHO)
    assert (result.stdout, result.stderr) == ("ran 0\n", "")
    for command in (["status"], ["release"]):
        assert run_as(users, ALICE, script("buildslots"), *command).returncode == 0


def kept_mutex(pool: Pool, who: Build) -> None:
    """Wait until `who` tries to get the mutex, which we have."""

    def tries() -> bool:
        for fd in Path(f"/proc/{who.pid}/fd").iterdir():
            with contextlib.suppress(FileNotFoundError):  # it has closed that meanwhile
                if os.readlink(fd) == str(pool.dir / "mutex"):
                    return True
        return False

    wait_until(tries, "a try to get the mutex")


@pytest.mark.parametrize("name", ["INT", "TERM", "HUP", "QUIT", "USR1"])
def test_a_signal_is_heard_while_somebody_keeps_the_mutex(pool: Pool, name: str) -> None:
    """However long that is."""
    pool.slot_run("true")
    with open(pool.dir / "mutex") as mutex:
        fcntl.flock(mutex, fcntl.LOCK_EX)
        run = "sys.argv = ['slot-run', '-tnone', 'true']\nfrom buildslots.run.main import main\nmain()"
        build = pool.popen(*python(PATIENT + run))
        kept_mutex(pool, build)
        number = getattr(signal, f"SIG{name}")
        build.process.send_signal(number)
        assert (build.process.wait(DEADLINE_S), build.errors()) == (-number, "")


CANCELLED = """
import threading
from buildslots import SlotCancelledError, SlotPool
event = threading.Event()
threading.Thread(target=lambda: (sys.stdin.readline(), event.set())).start()
try:
    SlotPool(timeout=None).acquire(cancel=event)
except SlotCancelledError:
    print("cancelled", flush=True)
"""
CANCELLED_TASK = """
import asyncio
from buildslots import SlotPool
async def main():
    task = asyncio.create_task(SlotPool(timeout=None).acquire_async())
    await asyncio.to_thread(sys.stdin.readline)
    task.cancel()
    try:
        await task
    except asyncio.CancelledError:
        print("cancelled", flush=True)
asyncio.run(main())
"""


@pytest.mark.parametrize("program", [CANCELLED, CANCELLED_TASK])
def test_a_cancellation_is_heard_while_somebody_keeps_the_mutex(pool: Pool, program: str) -> None:
    """In a thread, and in a task beside which others run."""
    pool.slot_run("true")
    with open(pool.dir / "mutex") as mutex:
        fcntl.flock(mutex, fcntl.LOCK_EX)
        build = pool.popen(*python(PATIENT + program))
        kept_mutex(pool, build)
        assert build.process.stdin is not None
        build.process.stdin.write(b"\n")
        assert build.started() == "cancelled"


def test_a_mutex_with_something_in_it_is_not_removed(pool: Pool) -> None:
    """It is somebody's file that was moved there, and is put aside."""
    pool.slot_run("true")
    (pool.dir / "mutex").write_text(SECRET)
    with open(pool.dir / "mutex") as mutex:
        fcntl.flock(mutex, fcntl.LOCK_EX)
        assert pool.slot_run(*ECHO).stdout == "ran 0\n"
    (aside,) = pool.dir.glob(".aside-mutex-*")
    assert aside.read_text() == SECRET
    assert (
        f"{aside.name} had the name of a file of the pool" in pool.run(script("buildslots"), "doctor").stdout
    )


# A build that has the descriptors of its slot and nothing else.

CONFINED = """
import errno, os, sys
paths = {int(fd): os.path.realpath(f"/proc/self/fd/{fd}") for fd in os.listdir("/proc/self/fd")}
(bell,) = [fd for fd, path in paths.items() if "/bells/slot-" in path]
(lock,) = [fd for fd, path in paths.items() if "/slot-" in path and fd != bell]
def refused(call, *args):
    try:
        call(*args)
    except OSError as error:
        return errno.errorcode[error.errno]
    return "done"
print(lock, bell, refused(os.write, lock, b"x"), refused(os.ftruncate, lock, 9), refused(os.read, bell, 1))
"""


def test_a_build_writes_nothing_into_its_slot_and_reads_nothing_from_its_bell(pool: Pool) -> None:
    """It has the one for reading, the other for writing only."""
    result = pool.slot_run(*python(CONFINED))
    assert (result.stdout, result.stderr) == ("64 65 EBADF EINVAL EBADF\n", "")
    assert (pool.dir / "slot-0").stat().st_size == 0
    program = "import subprocess, sys\nfrom buildslots import build_slot\nwith build_slot() as slot:\n"
    program += "    subprocess.run([sys.executable, '-c', sys.argv[1]], pass_fds=slot.descriptors)"
    assert pool.run(*python(program, CONFINED)).stdout.split()[2:] == ["EBADF", "EINVAL", "EBADF"]


def closes(*fds: int) -> tuple[str, ...]:
    """A build that closes its files to everybody."""
    return python(f"import os\nfor fd in {fds}: os.fchmod(fd, 0)")


@several_users
def test_a_build_that_closes_its_slot_closes_it_to_nobody(users: Users) -> None:
    """It is ours, and so opened again, with one line; the bell is made anew."""
    owned(users.dir, ALICE, 0o700)
    assert run_as(users, ALICE, script("slot-run"), *closes(64, 65)).stderr == ""
    assert stat.S_IMODE((users.dir / "slot-0").stat().st_mode) == 0
    result = run_as(users, ALICE, script("slot-run"), *ECHO)
    assert result.stdout == "ran 0\n"
    assert result.stderr == f"slot-run: {users.dir}/slot-0 had been closed to its owner: it is open again\n"
    assert run_as(users, ALICE, script("slot-run"), *ECHO).stderr == ""
    assert {stat.S_IMODE(path.stat().st_mode) for path in users.dir.rglob("slot-0")} == {0o600}


@several_users
def test_a_member_s_build_that_closes_a_slot_closes_it_to_nobody(users: Users) -> None:
    """What is another's cannot be opened: a new file takes its place."""
    assert run_as(users, BOB, script("slot-run"), *closes(64, 65)).stderr == ""
    result = run_as(users, ALICE, script("slot-run"), *ECHO)
    assert result.stdout == "ran 0\n"
    assert result.stderr.endswith("/slot-0 could not be used (Permission denied): it was put aside\n")
    for user in (ALICE, BOB):
        result = run_as(users, user, script("slot-run"), *ECHO)
        assert (result.stdout, result.stderr) == ("ran 0\n", "")


def test_what_was_rung_is_not_lost_to_a_build_that_reads(pool: Pool) -> None:
    """A daemon that keeps the bell cannot read away what the release has put into it."""
    held = pool.popen(script("slot-run"), "-n1", "sh", "-c", "setsid sleep 1000 & echo $!; read line")
    daemon = int(held.started())
    try:
        waiter = pool.queued("-n1")
        assert held.finish() == 0
        assert waiter.started() == "0"
    finally:
        os.kill(daemon, signal.SIGKILL)


# Files that are moved or led in.


@several_users
@pytest.mark.parametrize("place", ["holders/slot-0", f"queue/{1:020d}-1", "bells/slot-0", "mutex", "slot-0"])
def test_a_script_that_is_moved_in_is_not_written_or_removed(users: Users, place: str) -> None:
    """It has one name, and is its owner's, who builds."""
    run_as(users, ALICE, script("slot-run"), "true")
    mine = users.dir.parent / "mine.sh"
    mine.write_text(SECRET)
    inode = owned(mine, ALICE, 0o755).stat().st_ino
    (users.dir / place).unlink(missing_ok=True)
    mine.rename(users.dir / place)
    for _ in range(2):
        assert run_as(users, ALICE, script("slot-run"), *ECHO).stdout == "ran 0\n"
    (found,) = [path for path in users.dir.rglob("*") if path.lstat().st_ino == inode]
    assert (found.read_text(), stat.S_IMODE(found.stat().st_mode)) == (SECRET, 0o755)


def names_of_a_pool(directory: Path) -> Path:
    """A private directory of ALICE's with files that are called as a pool's are."""
    directory.mkdir()
    for room in ("holders", "queue", "bells"):
        owned(directory / room, ALICE, 0o700) if (directory / room).mkdir() else None
        os.chown(directory / room, ALICE, ALICE)
    for name in ("holders/slot-0", "slot-0", f"queue/{1:020d}-1"):
        (directory / name).write_text(SECRET)
        owned(directory / name, ALICE, 0o600)
    (directory / "mutex").touch()
    owned(directory / "mutex", ALICE, 0o600)
    return owned(directory, ALICE, 0o700)


@several_users
@pytest.mark.parametrize("how", ["link", "pools", "queue", "holders", "bells"])
def test_a_link_of_a_member_leads_nobody_to_files_of_his(users: Users, how: str) -> None:
    """In the place of a named pool, of `pools`, and of a room: nothing is made, written or removed there."""
    mine = names_of_a_pool(users.dir.parent / "mine")
    if how == "pools":
        (mine / "link").mkdir()
        owned(mine / "link", ALICE, 0o700)
    run_as(users, ALICE, script("slot-run"), "-p", "link", "true")
    before = snapshot(mine)
    place = {"pools": "pools", "link": "pools/link"}.get(how, f"pools/link/{how}")
    plant = f"mv {users.dir}/{place} {users.dir}/away && ln -s {mine} {users.dir}/{place}"
    assert run_as(users, BOB, "sh", "-c", plant).stderr == ""
    result = run_as(users, ALICE, script("slot-run"), "-p", "link", *ECHO)
    assert (result.returncode, result.stdout) == (0, "ran 0\n"), result
    if how != "queue":  # which nobody joins now
        assert result.stderr.count("\n") == 1
        assert "put aside" in result.stderr
    assert snapshot(mine) == before


SWAPPER = """
import os, sys
place, mine = sys.argv[1:]
print("swaps", flush=True)
while True:
    os.rename(place, place + ".away")
    os.symlink(mine, place)
    os.unlink(place)
    os.rename(place + ".away", place)
"""


@several_users
@pytest.mark.parametrize("place", ["pools/link", "pools/link/holders"])
def test_a_link_that_comes_and_goes_leads_nobody_to_files_of_his(users: Users, place: str) -> None:
    """As fast as a member can put it there."""
    mine = names_of_a_pool(users.dir.parent / "mine")
    before = snapshot(mine)
    run_as(users, ALICE, script("slot-run"), "-p", "link", "true")
    swapper = users.popen(*users.as_user(BOB, *python(SWAPPER, str(users.dir / place), str(mine))))
    swapper.started()
    for _ in range(20):
        result = run_as(users, ALICE, script("slot-run"), "-t1", "-p", "link", *ECHO)
        assert (result.returncode, result.stdout.startswith("ran ")) == (0, True), result
        assert snapshot(mine) == before
    swapper.process.kill()


@several_users
def test_a_link_above_the_pool_leads_nobody_to_files_of_his(users: Users) -> None:
    """Whoever can write a directory above it counts as a member."""
    above = users.dir.parent / "above"
    above.mkdir()
    above.chmod(0o777)
    mine = names_of_a_pool(users.dir.parent / "mine")
    (mine / "pool").mkdir()
    owned(mine / "pool", ALICE, 0o700)
    before = snapshot(mine)
    assert run_as(users, BOB, "ln", "-s", str(mine), str(above / "way")).stderr == ""
    result = run_as(users, ALICE, script("slot-run"), "--dir", str(above / "way" / "pool"), *ECHO)
    assert (result.stdout, result.stderr.count("\n")) == ("ran none\n", 1)
    assert "is a symbolic link of another user" in result.stderr
    assert snapshot(mine) == before


def test_a_link_of_one_s_own_is_followed(pool: Pool, tmp_path: Path) -> None:
    """As many a cache is on another disk."""
    (tmp_path / "disk").mkdir()
    (tmp_path / "way").symlink_to("disk")
    for _ in range(2):
        assert pool.slot_run("--dir", str(tmp_path / "way" / "pool"), *ECHO).stdout == "ran 0\n"
    assert (tmp_path / "disk" / "pool" / "slot-0").exists()


# What is put there between two calls.


@pytest.mark.parametrize("shared", [True, False])
def test_a_directory_that_takes_the_place_of_a_new_one_keeps_its_mode(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, shared: bool
) -> None:
    """A private one of ours, older, renamed in between mkdir(2) and open(2)."""
    mine = tmp_path / "mine"
    mine.mkdir(0o750)
    os.utime(mine, (0, 0))
    real = os.mkdir

    def mkdir_and_swap(path: str, *args: int, **options: int) -> None:
        real(path, *args, **options)
        os.rename(path, "was-new", src_dir_fd=options["dir_fd"], dst_dir_fd=options["dir_fd"])
        os.rename(mine, path, dst_dir_fd=options["dir_fd"])

    monkeypatch.setattr(os, "mkdir", mkdir_and_swap)
    files.make_directory(str(tmp_path / "queue"), shared=shared)
    (found,) = [path for path in tmp_path.iterdir() if path.stat().st_mtime == 0]
    assert found != mine
    assert stat.S_IMODE(found.stat().st_mode) == 0o750


def test_a_fifo_that_takes_the_place_of_a_new_bell_keeps_its_mode(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A private one of ours, older, renamed in between mkfifo(3) and open(2)."""
    tmp_path.chmod(0o2770)
    mine, bell = tmp_path / "mine", tmp_path / "bell"
    os.mkfifo(mine, 0o600)
    os.utime(mine, (0, 0))
    real = os.mkfifo

    def mkfifo_and_swap(path: str, *args: int, **options: int) -> None:
        real(path, *args, **options)
        os.rename(mine, bell)

    monkeypatch.setattr(os, "mkfifo", mkfifo_and_swap)
    fd = bells.hang(str(bell))
    assert fd is not None
    os.close(fd)
    assert stat.S_IMODE(bell.stat().st_mode) == 0o600


# Who makes believe that something happens.


@pytest.mark.parametrize("how", ["records", "tickets"])
def test_paced_falls_through_whatever_others_make_believe(pool: Pool, how: str) -> None:
    """Records that are touched all the time; one lock that has the names of 200 tickets."""
    pool.build("-n1").started()
    queue_ = pool.dir / "queue"
    if how == "records":
        program = "import os, sys, time\nprint('touches', flush=True)\nwhile True:\n"
        program += "    os.utime(sys.argv[1])\n    time.sleep(0.1)"
        pool.popen(*python(program, str(pool.dir / "holders" / "slot-0"))).started()
    else:
        first = queue_ / f"{1:020d}-1"
        first.touch()
        for number in range(2, 201):
            (queue_ / f"{number:020d}-1").hardlink_to(first)
        pool.popen("flock", str(first), "sh", "-c", "echo has it; read line").started()
    result = pool.slot_run("-n1", "-t1", "--on-timeout=paced", *ECHO)
    assert result.stdout == "ran 1\n"


# Masses of names.


def test_masses_of_dead_tickets_are_cleared_bit_by_bit(pool: Pool, monkeypatch: pytest.MonkeyPatch) -> None:
    """No look takes longer than its time; what it has not come to counts as alive."""
    monkeypatch.setattr(line, "TIDY_S", 0.0)
    directory = PoolDirectory(str(pool.dir))
    step(directory, lambda: line.Ticket(directory.path, 1, b"").leave())
    for number in range(10):
        (pool.dir / "queue" / f"{number + 1:020d}-1").touch()
    for left in range(9, 0, -1):
        assert len(line.tickets(directory.path)) == left
        assert len(list((pool.dir / "queue").iterdir())) == left
    monkeypatch.undo()
    hold = take_now(directory, Request(1, ["make"]))
    hold.release()
    assert list((pool.dir / "queue").iterdir()) == []


@pytest.mark.parametrize("kind", ["file", "directory", "full", "link", "number"])
def test_what_has_the_name_of_a_ticket_is_out_of_the_line(pool: Pool, kind: str) -> None:
    """Removed where nobody can miss it, put aside otherwise; and then the line is empty."""
    pool.slot_run("true")
    place = pool.dir / "queue" / f"{1:020d}-1"
    if kind == "file":
        place.touch()
    elif kind == "directory":
        place.mkdir()
    elif kind == "full":
        (place / "mine").mkdir(parents=True)
    elif kind == "link":
        place.symlink_to("/dev/zero")
    else:
        place = place.with_name(f"{'9' * 21}-1")
        place.touch()
    for _ in range(2):
        result = pool.slot_run("-t1", *ECHO)
        assert (result.stdout, result.stderr) == ("ran 0\n", "")
    left = [path.name for path in place.parent.iterdir()]
    expected = {"file": 0, "directory": 0, "full": 1, "link": 1, "number": 1}
    assert len(left) == expected[kind]
    assert all(name.startswith(".aside-") for name in left) or kind == "number"


def test_the_largest_number_leaves_room_behind_it(pool: Pool) -> None:
    """Who joins behind the last possible ticket has a ticket."""
    directory = PoolDirectory(str(pool.dir))
    tickets = [step(directory, lambda: line.Ticket(directory.path, 1, b""))]
    last = pool.dir / "queue" / f"{line.LARGEST_NUMBER - 1:020d}-1"
    os.close(os.open(last, os.O_CREAT, 0o600))
    with open(last) as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        tickets.append(step(directory, lambda: line.Ticket(directory.path, 1, b"")))
        assert line.waiting(directory.path) == [tickets[0].name, tickets[1].name, last.name]
    for ticket in tickets:
        ticket.leave()


def test_masses_of_slots_that_somebody_looks_at(pool: Pool) -> None:
    """2,000 names of one file that is locked shared, and 256 descriptors: a slot all the same."""
    pool.slot_run("true")
    first = pool.dir / "slot-0"
    for number in range(1, 2000):
        (pool.dir / f"slot-{number}").hardlink_to(first)
    with open(first) as file:
        fcntl.flock(file, fcntl.LOCK_SH)
        result = pool.run("sh", "-c", f"ulimit -n 256; exec {script('slot-run')} -t1 {shlex.join(ECHO)}")
    assert (result.stdout, result.stderr) == ("ran 2000\n", "")


@pytest.mark.parametrize("beyond", [False, True])
def test_many_names_of_a_slot_that_somebody_looks_at_are_passed_at_once(
    pool: Pool, monkeypatch: pytest.MonkeyPatch, beyond: bool
) -> None:
    """And not one by one: there may be as many as a file system holds."""
    SlotPool(slots=1).acquire().release()
    for number in range(1, 300):
        (pool.dir / f"slot-{number}").hardlink_to(pool.dir / "slot-0")
    tries, lock_slot = [], taking.lock_slot

    def counted(directory: str, number: int, locks: taking.Locks, looks: int) -> bool | None:
        tries.append(number)
        return lock_slot(directory, number, locks, looks)

    monkeypatch.setattr(taking, "lock_slot", counted)
    if beyond:
        monkeypatch.setattr(taking, "TAKE_S", -1.0)
    with open(pool.dir / "slot-0") as file:
        fcntl.flock(file, fcntl.LOCK_SH)
        hold = take_now(PoolDirectory(str(pool.dir)), Request(1, ["make"]), beyond=beyond)
    assert (hold.numbers, len(tries) < 20) == ((300,), True)
    hold.release()


def test_the_last_possible_slot_leaves_room_for_others(pool: Pool) -> None:
    """Nine names of a member do not turn the throttle off."""
    pool.slot_run("true")
    with contextlib.ExitStack() as stack:
        for number in range(8):
            path = pool.dir / f"slot-{number}"
            path.touch()
            fcntl.flock(stack.enter_context(open(path)), fcntl.LOCK_SH)
        (pool.dir / f"slot-{taking.LARGEST}").touch()
        hold = take_now(PoolDirectory(str(pool.dir)), Request(1, ["make"]))
        assert 8 < hold.numbers[0] < taking.LARGEST
        assert is_refused(PoolDirectory(str(pool.dir)), Request(1, ["make"]))
        hold.release()


def test_a_look_at_masses_of_slots_ends_in_time(pool: Pool, monkeypatch: pytest.MonkeyPatch) -> None:
    """What it has not come to counts as held."""
    SlotPool(slots=1).acquire().release()
    for number in range(1, 300):
        (pool.dir / f"slot-{number}").touch()
    assert taking.held_slots(str(pool.dir)) == []
    monkeypatch.setattr(taking, "TAKE_S", -1.0)
    assert taking.held_slots(str(pool.dir)) == list(range(255, 300))


def test_slots_that_cannot_be_counted_in_time_are_not_taken(
    pool: Pool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And their looker sleeps until its timeout."""
    SlotPool(slots=1).acquire().release()
    for number in range(1, 300):
        (pool.dir / f"slot-{number}").touch()
    monkeypatch.setattr(taking, "TAKE_S", -1.0)
    with pytest.raises(TimeoutError):
        SlotPool(slots=1).acquire(0.2, "fail")
    monkeypatch.undo()
    SlotPool(slots=1, dir=str(pool.dir)).acquire(0.2, "fail").release()


def test_another_name_of_a_slot_is_no_slot(pool: Pool) -> None:
    """One that somebody has given to the one that is taken: it would be held by others for ever."""
    pool.slot_run("true")
    (pool.dir / "slot-1").hardlink_to(pool.dir / "slot-0")
    result = pool.slot_run("-n1", "-t1", *ECHO)
    assert (result.stdout, result.stderr) == ("ran 0\n", "")


@pytest.mark.parametrize("options", [(), ("-t0",)])
def test_a_weight_that_no_process_can_have_leaves_no_files(pool: Pool, options: tuple[str, ...]) -> None:
    """And one line that says why there is no slot."""
    result = pool.slot_run("-n99999999", "-w99999999", *options, *ECHO)
    assert (result.stdout, result.stderr.count("\n")) == ("ran none\n", 1)
    assert "99999999 slots together need more open files than the " in result.stderr
    assert list(pool.dir.glob("slot-*")) == []


def test_thousands_of_marks_are_not_looked_up(pool: Pool) -> None:
    """The last ones tell: a command is below few pools' slots."""
    pool.slot_run("true")
    marks = ",".join([f"0:{'a' * 32}"] * 3000)
    program = "import os\nfrom buildslots.admission import _outer\n"
    program += "from buildslots.disk.directory import PoolDirectory\nn = 0\n"
    program += "def look(*_):\n    global n\n    n += 1\nPoolDirectory.is_ours = look\n"
    program += f"_outer(PoolDirectory({str(pool.dir)!r}))\nprint(n)"
    assert int(pool.run(*python(program), environ={"BUILD_SLOTS_HELD": marks}).stdout) <= 64


# Modes.


@several_users
@pytest.mark.parametrize("umask", ["0177", "0277", "0777"])
@pytest.mark.parametrize("mode", [0o2770, 0o700])
def test_a_umask_that_closes_all_to_everybody(users: Users, umask: str, mode: int) -> None:
    """What is made can be used all the same, by its owner, or by its group."""
    if mode == 0o700:
        owned(users.dir, ALICE, mode)
    for pool in ("default", "link"):
        for _ in range(2):
            result = run_as(users, ALICE, script("slot-run"), "-p", pool, *ECHO, umask=umask)
            assert (result.stdout, result.stderr) == ("ran 0\n", "")
    modes = {stat.S_IMODE(path.lstat().st_mode) for path in users.dir.rglob("*")}
    assert modes == ({0o700, 0o600} if mode == 0o700 else {0o2770, 0o660})
    for above in (users.dir.parent / "home").rglob("*"):
        assert stat.S_IMODE(above.lstat().st_mode) in {0o700, 0o600}


# Noise.

NOISE = """
import os, sys
fd = os.open(sys.argv[1], os.O_RDWR)
os.write(fd, b"?" * 100)
print("noise", flush=True)
while True:
    os.write(fd, sys.argv[2].encode() * 64)
"""


@pytest.mark.parametrize("byte", ["?", "!"])
def test_who_is_woken_for_nothing_listens_less_often(pool: Pool, byte: str) -> None:
    """A flooded bell does not cost a core: after some sounds in a second the waiter naps."""
    pool.build("-n1").started()
    program = "import sys\nfrom buildslots.disk import wait\nreal = wait.Wait._is_flooded\n"
    program += (
        "def told(self, now):\n    flooded = real(self, now)\n    if flooded: print('naps', flush=True)\n"
    )
    program += "    return flooded\nwait.Wait._is_flooded = told\nwait.WAKES = 5\n"
    program += "from buildslots import SlotPool\nSlotPool(slots=1, timeout=None).acquire()"
    waiter = pool.popen(*python(program))
    (name,) = wait_until(lambda: [p.name for p in (pool.dir / "queue").iterdir()], "a ticket")
    bell = pool.dir / "bells" / name
    wait_until(bell.exists, "its bell")
    pool.popen(*python(NOISE, str(bell), byte)).started()
    assert waiter.started() == "naps"
