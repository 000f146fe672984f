"""One pool for several users, and for containers on one machine: real users, real namespaces."""

from __future__ import annotations

import itertools
import json
import os
import shlex
import signal
import stat
import sys
from typing import TYPE_CHECKING

import psutil
import pytest
from builds import DEADLINE_S, HELD_BUILD, Build, Pool, script, wait_until
from namespaces import unshare
from users import ALICE, BOB, EVE, GROUP, Users, several_users

from buildslots import SlotPool
from buildslots.view.now import colour

if TYPE_CHECKING:
    from pathlib import Path

HELD = ("sh", "-c", HELD_BUILD)
ECHO = ("sh", "-c", 'echo "ran ${BUILD_SLOT-none}"')


def modes(directory: Path) -> set[tuple[str, int]]:
    """The modes of what is in the directory, with the kind that has it."""
    kinds = {stat.S_IFDIR: "directory", stat.S_IFREG: "file", stat.S_IFIFO: "bell"}
    found = [path.lstat().st_mode for path in directory.rglob("*")]
    return {(kinds[stat.S_IFMT(mode)], stat.S_IMODE(mode)) for mode in found}


def hears(build: Build, bell: str) -> bool:
    """Whether `build` has the bell open."""
    files = [f"/proc/{build.pid}/fd/{fd}" for fd in os.listdir(f"/proc/{build.pid}/fd")]
    return any(os.path.islink(file) and os.readlink(file).endswith(f"/bells/{bell}") for file in files)


def crash(*processes: psutil.Process) -> None:
    """End them with SIGKILL."""
    for process in processes:
        try:
            process.kill()
        except psutil.NoSuchProcess:
            pass  # with the container whose first process an earlier one was


# Modes.


@pytest.mark.parametrize("umask", ["000", "022", "077"])
@pytest.mark.parametrize(
    ("mode", "directory", "file"),
    [
        (0o2770, 0o2770, 0o660),
        (0o2775, 0o2770, 0o660),
        (0o700, 0o700, 0o600),
        (0o770, 0o700, 0o600),
        (0o2750, 0o2700, 0o600),
        (0o2777, 0o2700, 0o600),
        (0o1777, 0o700, 0o600),
    ],
)
def test_what_is_made_takes_after_the_pool(
    pool: Pool, umask: str, mode: int, directory: int, file: int
) -> None:
    """A group's if it is setgid, group-writable and not everybody's, else its maker's; whatever the umask."""
    pool.dir.mkdir()
    pool.dir.chmod(mode)
    shell = ("sh", "-c", f'umask {umask}; exec "$@"', "sh", script("slot-run"), "-n1")
    for name in ("default", "link"):
        holder = pool.popen(*shell, "--pool", name, *HELD)
        holder.started()
        pool.popen(*shell, "--pool", name, "true")
        status = SlotPool(name, dir=str(pool.dir)).status
        wait_until(lambda status=status: status().waiters, "a waiter")
    assert len(list(pool.dir.rglob("queue/*"))) == len(list(pool.dir.rglob("holders/*"))) == 2
    expected = {("directory", directory), ("file", file), ("bell", file)}
    wait_until(lambda: modes(pool.dir) == expected, "modes")  # one who begins to wait may be making its bell


def test_a_new_pool_in_a_group_s_directory_is_its_maker_s(pool: Pool) -> None:
    """Whether a pool is shared is for whoever makes its directory to say."""
    pool.dir.parent.chmod(0o2770)
    pool.slot_run("--pool", "link", "true")
    assert modes(pool.dir) == {("directory", 0o2700), ("file", 0o600), ("bell", 0o600)}
    assert stat.S_IMODE(pool.dir.stat().st_mode) == 0o2700


def test_many_first_builds_of_one_user(pool: Pool) -> None:
    """Whoever comes while another one makes the directories, all of them are the group's in the end."""
    pool.dir.mkdir()
    pool.dir.chmod(0o2770)
    for name in ("default", *(f"p{number}" for number in range(8))):
        builds = [pool.popen(script("slot-run"), "-n9", "-p", name, "true") for _ in range(3)]
        assert [build.process.wait() for build in builds] == [0, 0, 0]
    assert {(kind, mode) for kind, mode in modes(pool.dir) if kind != "bell"} == {
        ("directory", 0o2770),
        ("file", 0o660),
    }
    assert not list(pool.dir.rglob(".*"))


@pytest.mark.parametrize("room", ["slot-0", "mutex", "holders/slot-0", "bells/slot-0"])
def test_a_symbolic_link_leads_nowhere(pool: Pool, tmp_path: Path, room: str) -> None:
    """A member of the group can put it there: nothing behind it is written, made or waited for."""
    victim = tmp_path / "victim"
    victim.write_text("mine")
    pool.slot_run("true")
    for target in (str(victim), str(tmp_path / "missing"), "/dev/zero"):
        (pool.dir / room).unlink(missing_ok=True)
        (pool.dir / room).symlink_to(target)
        result = pool.slot_run("-t1", "echo", "built")
        assert (result.returncode, result.stdout) == (0, "built\n")
        assert (victim.read_text(), (tmp_path / "missing").exists()) == ("mine", False)


# Several users.


@several_users
def test_two_users_share_one_bound_and_one_line(users: Users) -> None:
    """One slot: one build at a time, in the order in which they came, whoever they are of."""
    running = users.build_as(ALICE, "-n1")
    assert running.started() == "0"
    line = [users.queued_as(user, "-n1") for user in (BOB, ALICE, BOB, BOB, ALICE)]
    while line:
        wait_until(lambda: hears(line[0], "slot-0"), "a listener")
        assert [build.is_started() for build in line] == [False] * len(line)
        assert running.finish() == 0
        assert running.errors() == ""
        running = line.pop(0)
        assert running.started() == "0"
        holders = users.status().holders
        assert [(h.slot, h.pid, h.foreign, h.orphaned) for h in holders] == [(0, running.pid, False, False)]
    assert running.finish() == 0
    assert users.leftovers() == []


@several_users
def test_many_builds_of_two_users_in_a_new_pool(users: Users) -> None:
    """All that is made is made while others look: nobody runs without a slot, and the peak is K."""
    log = users.dir.parent / "log"
    log.touch()
    log.chmod(0o666)
    note = f"echo + >>{log}; sleep 0.01; echo - >>{log}"
    build = f"{script('slot-run')} -q -n2 -t60 --on-timeout fail sh -c '{note}'"
    lane = f"for i in 1 2 3 4 5; do {build} || exit; done"
    lanes = [users.popen(*users.as_user(user, "sh", "-c", lane)) for user in (ALICE, BOB) * 3]
    assert [(build.process.wait(DEADLINE_S), build.errors()) for build in lanes] == [(0, "")] * 6
    steps = [1 if line == "+" else -1 for line in log.read_text().split()]
    assert (len(steps), max(itertools.accumulate(steps))) == (60, 2)
    assert modes(users.dir) == {("directory", 0o2770), ("file", 0o660), ("bell", 0o660)}


@several_users
def test_a_slot_that_another_program_has_made(users: Users) -> None:
    """flock(1) knows nothing of the modes; others can lock what they can read."""
    slot = str(users.dir / "slot-0")
    foreign = users.popen(*users.as_user(ALICE, "flock", slot, *HELD, umask="022"))
    foreign.started()
    assert stat.S_IMODE(os.stat(slot).st_mode) == 0o644
    build = users.queued_as(BOB, "-n1")
    assert [level for level, _ in doctor(users, BOB)["files"]] == ["ok"]
    assert not build.is_started()
    foreign.finish()
    assert build.started() == "0"
    assert build.finish() == 0
    assert build.errors() == ""


@several_users
def test_the_crash_of_one_wakes_the_other(users: Users) -> None:
    """A holder and a waiter die by SIGKILL; what they leave does not keep another user from starting."""
    holder = users.build_as(ALICE, "-n1")
    assert holder.started() == "0"
    dies, lives = users.queued_as(ALICE, "-n1"), users.queued_as(BOB, "-n1")
    crash(psutil.Process(dies.pid))
    wait_until(lambda: hears(lives, "slot-0"), "the head of the line")
    assert not lives.is_started()
    crash(psutil.Process(holder.pid), *psutil.Process(holder.pid).children())
    assert lives.started() == "0"
    assert lives.finish() == 0
    assert lives.errors() == ""
    assert users.leftovers() == []


@several_users
def test_a_daemon_keeps_its_bell_and_another_user_gets_a_new_one(users: Users) -> None:
    """The bell that one user's daemon still has open is replaced by the next holder, another user."""
    left = users.popen(*users.as_user(ALICE, script("slot-run"), "-n1", "sh", "-c", "sleep 1000 & echo $!"))
    daemon = psutil.Process(int(left.started()))
    try:
        left.process.wait(DEADLINE_S)
        bell = (users.dir / "bells" / "slot-0").stat()
        build = users.build_as(BOB, "-n1")
        assert build.started() == "0"
        after = (users.dir / "bells" / "slot-0").stat()
        assert (bell.st_uid, after.st_uid, after.st_gid) == (ALICE, BOB, GROUP)
        waiter = users.queued_as(ALICE, "-n1")
        wait_until(lambda: hears(waiter, "slot-0"), "a listener")
        assert build.finish() == 0
        assert waiter.started() == "0"
    finally:
        daemon.kill()


@several_users
def test_a_user_who_is_stopped_in_the_middle_stops_nobody(users: Users) -> None:
    """The mutex of another user is replaced."""
    users.slot_run("true")
    program = (
        "import os, signal, sys\n"
        "from buildslots.disk.lock import Mutex\n"
        "mutex = Mutex(sys.argv[1])\n"
        "assert not list(mutex.tries(1.0, 0.5))\n"
        "print('has it', flush=True); os.kill(os.getpid(), signal.SIGSTOP)\n"
    )
    mutex = str(users.dir / "mutex")
    stopped = users.popen(*users.as_user(ALICE, sys.executable, "-P", "-c", program, mutex))
    stopped.started()
    result = users.run(*users.as_user(BOB, script("slot-run"), "-n1", *ECHO))
    assert (result.stdout, result.stderr) == ("ran 0\n", "")


REFUSED = """
import sys, time
def until_told(_):
    print("refused", flush=True)
    sys.stdin.readline()
time.sleep = until_told
from buildslots import SlotPool
print(SlotPool(slots=1).acquire().number, flush=True)
"""


@several_users
@pytest.mark.parametrize("unfinished", ["mutex", "queue", "pools", "pools/link"])
def test_what_another_user_makes_at_this_moment_is_waited_for(users: Users, unfinished: str) -> None:
    """What exists has its mode a moment later; that is no reason to build without a slot."""
    environ = {"BUILD_SLOTS_POOL": "link"} if "pools" in unfinished else {}
    users.slot_run("true", environ=environ)
    path = users.dir / unfinished
    mode = stat.S_IMODE(path.stat().st_mode)
    path.chmod(mode & ~0o070)
    command = users.as_user(BOB, sys.executable, "-P", "-c", REFUSED)
    build = users.popen(*command, environ=environ)
    assert build.started() == "refused"
    path.chmod(mode)
    build.process.stdin.write(b"\n")
    assert build.started() == "0"


@several_users
@pytest.mark.parametrize(
    ("user", "mode", "waits"), [(BOB, 0o2770, True), (EVE, 0o2770, False), (BOB, 0o755, False)]
)
def test_what_may_not_be_used_is_not_waited_for_for_long(
    users: Users, user: int, mode: int, waits: bool
) -> None:
    """A file that stays closed to the group is replaced by who may; one who is not in it; another's pool."""
    (users.dir / "mutex").touch(0o600)
    users.dir.chmod(mode)
    told = users.run(*users.as_user(user, sys.executable, "-P", "-c", REFUSED), input="\n" * 100)
    assert ("refused" in told.stdout, "None" in told.stdout) == (waits, not waits)
    (users.dir / "mutex").unlink()
    (users.dir / "mutex").touch(0o600)
    result = users.run(*users.as_user(user, script("slot-run"), *ECHO))
    assert (result.returncode, result.stdout) == (0, "ran 0\n" if waits else "ran none\n")
    assert result.stderr.count("\n") == 1
    assert ("Permission denied" in result.stderr, "put aside" in result.stderr) == (True, waits)


@several_users
def test_nobody_signals_another_user(users: Users) -> None:
    """`release` leaves a running build of another user alone, and so does everything else."""
    build = users.build_as(ALICE, "-n1")
    build.started()
    result = users.run(*users.as_user(BOB, script("buildslots"), "release", "0", "--yes"))
    assert (result.returncode, "another user's" in result.stdout) == (1, True), result
    assert build.finish(7) == 7


@several_users
def test_a_build_that_proc_hides_is_not_gone(users: Users) -> None:
    """With hidepid another user's processes are invisible, and live all the same."""
    build = users.build_as(ALICE, "-n1")
    build.started()
    setup = "mount -t proc -o hidepid=invisible proc /proc"
    command = users.as_user(BOB, script("buildslots"), "status", "--json", setup=setup)
    (holder,) = json.loads(users.run(*command).stdout)["holders"]
    assert (holder["pid"], holder["foreign"], holder["orphaned"]) == (build.pid, False, False)


# What doctor says.


def doctor(users: Users, user: int) -> dict[str, list[tuple[str, str]]]:
    """Level and text of what each check found for `user`."""
    result = users.run(*users.as_user(user, script("buildslots"), "doctor", "--json"))
    found: dict[str, list[tuple[str, str]]] = {}
    for check in json.loads(result.stdout)["checks"]:
        found.setdefault(check["check"], []).append((check["level"], check["text"]))
    return found


@several_users
def test_a_healthy_group_pool(users: Users) -> None:
    """Nothing about it is a problem for a member who made none of it."""
    build = users.build_as(ALICE)
    build.started()
    found = doctor(users, BOB)
    for check in ("directory", "locks", "fifos", "files", "leftovers", "holders"):
        assert [level for level, _ in found[check]] == ["ok"], found
    assert f"which the group {GROUP} shares" in found["directory"][0][1]
    assert "you and its group can read and write" in found["files"][0][1]


@several_users
@pytest.mark.parametrize(
    ("harm", "check", "words"),
    [
        ("chmod 600 slot-0", "files", "can use slot-0, so builds run without slots"),
        ("chmod 600 bells/slot-0", "files", "bells/slot-0"),
        ("chmod 640 holders/slot-0", "files", "holders/slot-0"),
        ("chgrp 0 holders/slot-0", "files", "holders/slot-0"),
        ("chmod g-s queue", "files", "queue"),
        ("chmod +t bells", "files", "bells"),
        ("chmod g-s .", "directory", "maker's own group and mode"),
        ("chmod +t .", "directory", "is sticky"),
    ],
)
def test_an_unhealthy_group_pool(users: Users, harm: str, check: str, words: str) -> None:
    """Each is a problem, and the command that doctor names puts it right."""
    users.run(*users.as_user(ALICE, script("slot-run"), "true"))
    users.run("sh", "-c", harm, cwd=users.dir)
    for user in (ALICE, BOB):
        text = next(text for level, text in doctor(users, user)[check] if level == "problem")
        assert words in text
    repair = text.split("`")[1]
    if check == "directory":
        repair += f" {shlex.quote(str(users.dir))}"
    assert users.run("sh", "-c", repair).stderr == ""
    assert [level for level, _ in doctor(users, BOB)[check]] == ["ok"]


@several_users
@pytest.mark.parametrize(
    ("mode", "user", "words"),
    [
        (0o2770, EVE, f"only the group {GROUP} may: `usermod -aG {GROUP} {EVE}`"),
        (0o2750, BOB, f"belongs to {ALICE} alone"),
        (0o2770, BOB, None),
        (0o3777, BOB, "none can use or remove those of another"),
        (0o2777, BOB, "can remove the files in"),
    ],
)
def test_whose_the_directory_is(users: Users, mode: int, user: int, words: str | None) -> None:
    """Somebody else's, everybody's, or a group's that one is not in."""
    os.chown(users.dir, ALICE, GROUP)
    users.dir.chmod(mode)
    levels = doctor(users, user)["directory"]
    assert [level for level, _ in levels] == ["ok" if words is None else "problem"]
    assert (words or "shares") in levels[0][1]


@several_users
def test_root_in_another_user_s_pool(users: Users) -> None:
    """What root makes there locks its owner out."""
    os.chown(users.dir, ALICE, ALICE)
    users.dir.chmod(0o700)
    result = users.run(script("buildslots"), "doctor")
    assert f"belongs to {ALICE}, who cannot use what you make in it" in result.stdout


@several_users
def test_a_stopped_build_of_another_user(users: Users) -> None:
    """Only its owner, or root, can let it go on."""
    build = users.build_as(ALICE)
    build.started()
    os.kill(build.pid, signal.SIGSTOP)
    wait_until(lambda: psutil.Process(build.pid).status() == psutil.STATUS_STOPPED, "a stop")
    texts = {user: doctor(users, user)["holders"][0][1] for user in (ALICE, BOB)}
    command = f"`kill -CONT {build.pid}`"
    assert texts[ALICE].endswith(f"{command} lets it go on")
    assert texts[BOB].endswith(f"{command} by its owner, {ALICE}, lets it go on")


# Containers.


def contained(name: str | None, *command: str) -> list[str]:
    """`command` in a container: other pids, another host name if one is given, the pool mounted elsewhere."""
    become = "import os, socket, sys; socket.sethostname(sys.argv[1]); os.execvp(sys.argv[2], sys.argv[2:])"
    named = [] if name is None else [sys.executable, "-P", "-c", become, name]
    text = 'mount --bind "$BUILD_SLOTS_DIR" /mnt; export BUILD_SLOTS_DIR=/mnt; "$@"; exit $?'
    spaces = ["--pid", "--uts", "--mount", "--mount-proc", "--fork", "--kill-child"]
    return [*unshare(*spaces), *named, "sh", "-c", text, "sh", *command]


def inside(build: Build) -> list[psutil.Process]:
    """The slot-run in the container of `build`, and what it runs, by their pids out here."""
    (init,) = psutil.Process(build.pid).children()
    return init.children(recursive=True)


@pytest.fixture
def containers(pool: Pool) -> Pool:
    """A pool that exists, to be mounted."""
    pool.slot_run("true")
    return pool


RUN = ("-n1", *HELD)


@pytest.mark.linux
def test_containers_and_their_host_share_one_bound_and_one_line(
    containers: Pool, capsys: pytest.CaptureFixture[str]
) -> None:
    """One slot; status says where each build is; an end and a crash in a container wake who is outside."""
    one = containers.popen(*contained("one", script("slot-run"), *RUN))
    assert one.started() == "0"
    two = containers.popen(*contained("two", script("slot-run"), *RUN))
    wait_until(lambda: containers.status().waiters, "a waiter")
    host = containers.queued("-n1")
    status = containers.status()
    assert [(h.host, h.elsewhere, h.orphaned, h.foreign) for h in status.holders] == [
        ("one", True, False, False)
    ]
    assert [(w.host, w.elsewhere) for w in status.waiters] == [("two", True), (os.uname().nodename, False)]
    text = containers.run(script("buildslots"), "status").stdout
    assert [line.rpartition("(")[2] for line in text.splitlines() if "(on " in line] == ["on one)", "on two)"]
    colour.print_statuses([status], every=False)
    shown = capsys.readouterr().out
    assert ("(on one) sh" in shown, "(on two) sh" in shown, shown.count("(on ")) == (True, True, 2)

    assert one.finish() == 0
    assert two.started() == "0"
    assert not host.is_started()
    crash(*inside(two))
    assert host.started() == "0"
    last = containers.popen(*contained("three", script("slot-run"), *RUN))
    wait_until(lambda: containers.status().waiters, "a waiter")
    assert host.finish() == 0
    assert last.started() == "0"
    wait_until(lambda: containers.leftovers() == [], "the end of all waits")


@pytest.mark.linux
def test_a_container_with_the_name_of_its_host(containers: Pool) -> None:
    """The pid namespace alone tells that its pids mean nothing here."""
    build = containers.popen(*contained(None, script("slot-run"), *RUN))
    build.started()
    assert containers.status().holders[0].elsewhere
    assert "(in another pid namespace)" in containers.run(script("buildslots"), "status").stdout
    seen = containers.run(*contained(None, script("buildslots"), "status", "--json"))
    (holder,) = json.loads(seen.stdout)["holders"]
    assert (holder["elsewhere"], holder["orphaned"]) == (True, False)


@pytest.mark.linux
def test_a_container_under_a_slot_is_nested(containers: Pool) -> None:
    """It knows no pid of the holder's, and needs none: the record, the lock and the bell tell."""
    nested = contained("one", script("slot-run"), "-n1", "-t0", "--on-timeout=fail", *ECHO)
    result = containers.slot_run("-n1", *nested)
    assert (result.stdout, result.stderr) == ("ran 0\n", "")
    running = containers.build("-n1")
    running.started()
    stale = {"BUILD_SLOTS_HELD": "0:" + "0" * 32}
    assert containers.run(*nested, environ=stale).returncode == 75


@pytest.mark.linux
def test_a_container_s_own_layer(pool: Pool) -> None:
    """Doctor says that nobody else sees a pool on an overlay."""
    pool.dir.mkdir()
    layers = "mkdir l u w; mount -t overlay -o lowerdir=l,upperdir=u,workdir=w none"
    mounts = f'set -e; mount -t tmpfs none /mnt; cd /mnt; {layers} "$BUILD_SLOTS_DIR"; exec "$@"'
    command = [*unshare("--mount"), "sh", "-c", mounts, "sh", script("buildslots"), "doctor"]
    lines = pool.run(*command).stdout.splitlines()
    (line,) = [line for line in lines if " filesystem: " in line]
    assert line.startswith("note ")
    assert "is on this container's own layer (overlay)" in line
