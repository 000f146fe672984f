"""What others can and cannot do to a build, by what they put in its way: see `buildslots help security`.

Real links, FIFOs, sockets and devices, real modes, and where root runs this, real other users.
"""

from __future__ import annotations

import json
import os
import re
import shlex
import shutil
import signal
import socket
import stat
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from builds import DEADLINE_S, HELD_BUILD, Pool, script, wait_until
from users import ALICE, BOB, EVE, GROUP, Users, several_users

from buildslots import processes
from buildslots.disk import records
from buildslots.journal import LIMIT

if TYPE_CHECKING:
    from collections.abc import Callable
    from subprocess import CompletedProcess

ECHO = ("sh", "-c", 'echo "ran ${BUILD_SLOT-none}"')
TICKET = "00000000000000000001-1"
SECRET = "of its owner"


def victim(directory: Path) -> Path:
    """A file that must stay as it is."""
    path = directory / "victim"
    path.write_text(SECRET)
    path.chmod(0o640)
    return path


def assert_unharmed(file: Path) -> None:
    """`file` is as `victim` has made it."""
    assert (file.read_text(), stat.S_IMODE(file.stat().st_mode)) == (SECRET, 0o640)


# What can lie in the place of a file.


def _link(path: Path, mine: Path) -> None:
    path.symlink_to(mine)


def _dangling(path: Path, mine: Path) -> None:
    path.symlink_to(mine.with_name("missing"))


def _zero(path: Path, mine: Path) -> None:
    path.symlink_to("/dev/zero")


def _full(path: Path, mine: Path) -> None:
    path.symlink_to("/dev/full")


def _hard(path: Path, mine: Path) -> None:
    path.hardlink_to(mine)


def _fifo(path: Path, mine: Path) -> None:
    os.mkfifo(path)


def _socket(path: Path, mine: Path) -> None:
    with socket.socket(socket.AF_UNIX) as plug:  # by a short name: a path in a socket's address has 107 bytes
        before = os.open(".", os.O_RDONLY)
        os.chdir(path.parent)
        try:
            plug.bind(path.name)
        finally:
            os.fchdir(before)
            os.close(before)


def _directory(path: Path, mine: Path) -> None:
    path.mkdir()


def _device(path: Path, mine: Path) -> None:
    os.mknod(path, stat.S_IFCHR | 0o600, os.stat("/dev/zero").st_rdev)


KINDS: dict[str, Callable[[Path, Path], None]] = {
    "link": _link,
    "dangling": _dangling,
    "zero": _zero,
    "full": _full,
    "hard": _hard,
    "fifo": _fifo,
    "socket": _socket,
    "directory": _directory,
}
if os.geteuid() == 0:
    KINDS["device"] = _device
LINKS = frozenset({"link", "dangling", "zero", "full"})
SAID = {
    "slot-0": {*LINKS, "socket", "directory"},
    "mutex": {*LINKS, "socket", "directory"},
    f"queue/{TICKET}": set(),
    "holders/slot-0": set(),
    "bells/slot-0": set(),
    f"bells/{TICKET}": set(),
}
"""What is put aside with a line that says so, in which place of a pool; all else is as if not there."""


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("place", SAID)
def test_what_is_planted_in_a_pool(pool: Pool, tmp_path: Path, place: str, kind: str) -> None:
    """It is not followed, written, made or waited for, and keeps no build from its slot."""
    mine = victim(tmp_path)
    pool.slot_run("true")
    (pool.dir / place).unlink(missing_ok=True)
    KINDS[kind](pool.dir / place, mine)
    said = f"slot-run: {re.escape(str(pool.dir / place))} could not be used \\(.*\\): it was put aside\n"
    for expected in (said if kind in SAID[place] else "", ""):
        result = pool.slot_run("-t", "9", *ECHO)
        assert (result.returncode, result.stdout) == (0, "ran 0\n")
        assert re.fullmatch(expected, result.stderr)
    assert_unharmed(mine)
    assert not mine.with_name("missing").exists()
    if kind in {"link", "socket", "directory"}:
        for command in ("status", "doctor"):
            assert "Traceback" not in pool.run(script("buildslots"), command).stderr


@pytest.mark.parametrize("hears", [True, False])
def test_a_fifo_in_a_record_s_place_is_told_nothing(pool: Pool, hears: bool) -> None:
    """Somebody may read there: the record goes into a file of its writer's own."""
    pool.slot_run("true")
    place = pool.dir / "holders" / "slot-0"
    place.unlink()
    os.mkfifo(place)
    ear = os.open(place, os.O_RDWR if hears else os.O_RDONLY | os.O_NONBLOCK)
    os.set_blocking(ear, False)
    try:
        assert pool.slot_run(*ECHO).stdout == "ran 0\n"
        with pytest.raises(BlockingIOError) if hears else pytest.raises(StopIteration):
            next(iter(os.read(ear, 99)))
    finally:
        os.close(ear)
    assert place.is_file()


@pytest.mark.parametrize("room", ["queue", "holders", "bells"])
def test_a_link_in_the_place_of_a_room(pool: Pool, tmp_path: Path, room: str) -> None:
    """Files of ours that have such names, and those of an MH mailbox, are not written, removed or joined."""
    running = pool.build("-n1")
    running.started()
    mail = tmp_path / "mail"
    mail.mkdir()
    mine = dict.fromkeys(("slot-0", "slot-1", "1", "2", TICKET), SECRET)
    for name, text in mine.items():
        (mail / name).write_text(text)
    (pool.dir / room).rename(tmp_path / "room")
    (pool.dir / room).symlink_to(mail)
    report = json.loads(pool.run(script("buildslots"), "doctor", "--json").stdout)
    assert any(f"{room} should be directories" in check["text"] for check in report["checks"])
    for options, said in ((("-n1", "-t0.1"), 2), (("-n2",), 0)):  # that it is put aside, and an overflow
        result = pool.slot_run(*options, *ECHO)
        assert (result.returncode, result.stdout, result.stderr.count("\n")) == (0, "ran 1\n", said), result
        assert {path.name: path.read_text() for path in mail.iterdir()} == mine


def test_a_link_in_the_place_of_a_named_pool(pool: Pool, tmp_path: Path) -> None:
    """A pool is made where it leads, and nothing that is there is touched."""
    mine = victim(tmp_path)
    mail = tmp_path / "queue" / "1"
    mail.parent.mkdir()
    mail.write_text(SECRET)
    pool.slot_run("--pool", "link", "true")
    (pool.dir / "pools" / "link").rename(tmp_path / "old")
    (pool.dir / "pools" / "link").symlink_to(tmp_path)
    assert pool.slot_run("--pool", "link", *ECHO).stdout == "ran 0\n"
    assert_unharmed(mine)
    assert mail.read_text() == SECRET
    assert (tmp_path / "slot-0").stat().st_size == 0


JOURNAL, LOCK, CONFIG = (
    ".local/state/buildslots/journal.jsonl",
    ".local/state/buildslots/journal.lock",
    ".config/buildslots/config.toml",
)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("place", [JOURNAL, LOCK, CONFIG])
def test_what_is_planted_in_the_home(pool: Pool, tmp_path: Path, place: str, kind: str) -> None:
    """The journal is not written through links, its lock never, the config file read for 16 KiB only."""
    mine = victim(tmp_path)
    path = Path(os.environ["HOME"], place)
    path.parent.mkdir(parents=True)
    if place == LOCK:  # wanted only for a file that is full
        path.with_name("journal.jsonl").write_bytes(b"\n" * LIMIT)
    KINDS[kind](path, mine)
    result = pool.slot_run(*ECHO)
    assert (result.returncode, result.stdout) == (0, "ran 0\n")
    assert result.stderr.count("\n") <= (place == CONFIG), result.stderr
    if (place, kind) != (JOURNAL, "hard"):  # who can put it there can write all that is its user's
        assert_unharmed(mine)
    assert not mine.with_name("missing").exists()


# What is put there at the wrong moment: by an audit hook, right before the system call.

AT_ONCE = """
import os, stat, sys
victim, place, what = sys.argv[1:]
def plant(event, arguments):
    global what
    if event == "open" and what and str(arguments[0]).endswith(os.path.basename(place)):
        if what == "make" and arguments[2] & os.O_CREAT:
            what = ""
            os.link(victim, place)
        if what == "swap" and arguments[2] & os.O_RDWR and os.path.lexists(place):
            what = ""
            os.unlink(place)
            os.link(victim, place)
    if event == "open" and what == "room" and ".holders-" in str(arguments[0]):
        what = ""
        os.rmdir(arguments[0])
        os.link(victim, arguments[0])
from buildslots import SlotPool, processes
import buildslots.disk.directory
sys.addaudithook(plant)
slot = SlotPool().acquire()
print(what or "planted", slot.number)
slot.release()
"""


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(
    ("place", "what"),
    [
        ("slot-0", "make"),
        ("holders/slot-0", "make"),
        ("bells/slot-0", "swap"),
        ("holders", "room"),
    ],
)
def test_a_hard_link_that_comes_at_the_last_moment(pool: Pool, tmp_path: Path, place: str, what: str) -> None:
    """Between a look and the use of what was seen: the file keeps its mode and what is in it."""
    mine = victim(tmp_path)
    pool.slot_run("true")
    (pool.dir / "holders" / "slot-0").unlink()
    (pool.dir / "slot-0").unlink()
    (pool.dir / "bells" / "slot-0").unlink()
    if what == "room":
        (pool.dir / "holders").rmdir()
    pool.dir.chmod(0o2770)
    for room in pool.dir.glob("[qhb]*"):
        room.chmod(0o2770)
    result = pool.run(sys.executable, "-P", "-c", AT_ONCE, str(mine), str(pool.dir / place), what)
    assert (result.returncode, result.stdout.split()[:1]) == (0, ["planted"]), result
    assert_unharmed(mine)


# Who makes noise, or keeps what is to be had for a moment.

FLOOD = """
import fcntl, os, sys
fd = os.open(sys.argv[1], os.O_RDWR)
fcntl.fcntl(fd, fcntl.F_SETPIPE_SZ, 1 << 20)
os.fork(), os.fork()
os.write(fd, sys.argv[2].encode() * 65536)
print("floods", flush=True)
while True:
    os.write(fd, sys.argv[2].encode() * 65536)
"""
SLOW = ("strace", "-o", "/dev/null", "-e", "trace=read", "-e", "inject=read:delay_exit=500")
"""Half a millisecond for each read(2), as on a machine that the writers keep busy."""


@pytest.fixture
def floods(pool: Pool, request: pytest.FixtureRequest) -> Callable[..., None]:
    """Starts processes that write into a FIFO of the pool as fast as they can."""

    def flood(place: str, byte: str = "?") -> None:
        command = (sys.executable, "-P", "-c", FLOOD, str(pool.dir / place), byte)
        build = pool.popen(*command, start_new_session=True)
        request.addfinalizer(lambda: os.killpg(build.pid, signal.SIGKILL))
        build.started()

    return flood


@pytest.mark.linux
def test_a_bell_that_never_falls_silent(pool: Pool, floods: Callable[..., None]) -> None:
    """Somebody fills the bell of a free slot as fast as it can be read: its next holder gets another."""
    pool.slot_run("true")
    floods("bells/slot-0")
    result = pool.run(*SLOW, script("slot-run"), *ECHO)
    assert (result.stdout, result.stderr) == ("ran 0\n", "")


@pytest.mark.linux
@pytest.mark.parametrize("byte", ["?", "3"])
def test_knocks_do_not_keep_anybody_waiting(pool: Pool, floods: Callable[..., None], byte: str) -> None:
    """Somebody knocks all the time, or says that one comes near: the timeout is over when it is over."""
    pool.build("-n1").started()
    build = pool.popen(*SLOW, script("slot-run"), "-n1", "-t1", "--on-timeout=fail", "true")
    wait_until(lambda: len(pool.leftovers()) == 2, "a ticket and its bell")
    (bell,) = (pool.dir / "bells").glob("*-1")
    floods(f"bells/{bell.name}", byte)
    assert build.process.wait(DEADLINE_S) == 75


KEEPER = """
import fcntl, os, sys
kept = []
while True:
    try:
        fd = os.open(sys.argv[1], os.O_RDWR | os.O_CREAT, 0o600)
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(fd)
    else:
        kept.append(fd)
        if len(kept) == 1:
            print("has it", flush=True)
"""


def test_whoever_takes_the_mutex_again_and_again(pool: Pool) -> None:
    """It costs a build some seconds, and not its slot: only the order of arrival is not exact then."""
    pool.slot_run("true")
    pool.popen(sys.executable, "-P", "-c", KEEPER, str(pool.dir / "mutex")).started()
    for options in ((), ("-t0", "--on-timeout=fail")):
        result = pool.slot_run(*options, *ECHO)
        assert (result.stdout, result.stderr) == ("ran 0\n", "")


# Words that others have written.


def forged(**fields: str) -> bytes:
    """The record of this process, with some fields as a liar would have them."""
    lines = records.record(records.about(["make"], cap=1, nonce="0" * 32), waited_s=0.0).decode().splitlines()
    kept = [line for line in lines if line.partition(" ")[0] not in {*fields, "end"}]
    return "\n".join([*kept, *(f"{name} {value}" for name, value in fields.items()), "end", ""]).encode()


def test_words_of_others_do_not_steer_a_terminal(pool: Pool) -> None:
    """Commands, directories and host names with escape sequences are shown without these."""
    running = pool.build("-n1")
    running.started()
    evil = "\x1b]0;owned\x07\x1b[2J\u202e"
    words = {"arg": evil, "cwd": evil, "host": evil, "cap": evil, "waited": evil, "since": evil}
    pool.record().write_bytes(forged(**words))
    waiter = pool.queued("-n1")
    (ticket,) = (pool.dir / "queue").iterdir()
    ticket.write_bytes(forged(**words))
    shown = "".join(
        pool.run(script("buildslots"), *command).stdout
        for command in (["status"], ["status", "--json"], ["doctor"], ["release"], ["release", "0"])
    )
    shown += waiter.read_error_line()
    assert not [c for c in shown if c != "\n" and not c.isprintable()]
    assert "owned" in shown


@pytest.mark.linux
def test_a_record_does_not_choose_what_release_ends(pool: Pool) -> None:
    """It names a process of ours that has nothing to do with the slot: that lives on."""
    running = pool.build("-n1")
    running.started()
    other = pool.popen("sh", "-c", HELD_BUILD)
    other.started()
    start = processes.start_of(other.pid)
    pool.record().write_bytes(forged(pid=str(other.pid), start=str(start)))
    result = pool.run(script("buildslots"), "release", "0", "--yes")
    assert (result.returncode, "cannot be found" in result.stdout) == (1, True), result
    assert (other.process.poll(), running.process.poll()) == (None, None)


def test_who_may_read_a_record_may_count_as_nested(pool: Pool) -> None:
    """BUILD_SLOTS_HELD with the nonce of a running build: at once under its slot, and only while it runs."""
    running = pool.build("-n1")
    running.started()
    nonce = (records.read(str(pool.record())) or {})["nonce"]
    options = ("-n1", "-t0", "--on-timeout=fail", *ECHO)
    for mark, expected in ((f"0:{nonce}", "ran 0\n"), (f"0:{'0' * 32}", ""), (f"1:{nonce}", "")):
        assert pool.slot_run(*options, environ={"BUILD_SLOTS_HELD": mark}).stdout == expected
    assert running.finish() == 0
    foreign = pool.popen("flock", pool.dir / "slot-0", "sh", "-c", HELD_BUILD)
    foreign.started()
    assert pool.slot_run(*options, environ={"BUILD_SLOTS_HELD": f"0:{nonce}"}).returncode == 75


@pytest.mark.parametrize("marks", ["0:", ":", "0:\x1b", "9" * 5000 + ":x", ",".join(["0:x"] * 20000)])
def test_any_mark_of_nesting(pool: Pool, marks: str) -> None:
    """What is none is passed over."""
    assert pool.slot_run(*ECHO, environ={"BUILD_SLOTS_HELD": marks}).stdout == "ran 0\n"


def test_the_tests_that_the_manual_names(request: pytest.FixtureRequest) -> None:
    """Each claim of its page on security has them."""
    page = (request.config.rootpath / "buildslots" / "help" / "security.md").read_text()
    names = set(re.findall(r"`(test_\w+)(?:…|\[[^`]*\])?`", page))
    there = "".join(path.read_text() for path in request.config.rootpath.glob("tests/**/test_*.py"))
    assert len(names) > 20
    missing = [name for name in names if f"def {name}" not in there and f"tests/{name}" not in page]
    assert missing == []


# Modes.


@pytest.mark.parametrize("umask", ["000", "022", "077"])
def test_what_is_made_in_the_home_is_its_owner_s(pool: Pool, umask: str) -> None:
    """Directories above pool and journal too: whoever can write them can replace what is below."""
    home = Path(os.environ["HOME"])
    home.chmod(0o755)
    environ = {name: value for name, value in pool.environ.items() if name != "BUILD_SLOTS_DIR"}
    run = f"umask {umask}; exec env -u BUILD_SLOTS_DIR {script('slot-run')} true"
    assert pool.run("sh", "-c", run, environ=environ).stderr == ""
    made = {str(path.relative_to(home)): stat.S_IMODE(path.lstat().st_mode) for path in home.rglob("*")}
    assert {".cache", ".cache/.build-slots/holders", ".local/state/buildslots", JOURNAL} <= set(made)
    assert {mode for name, mode in made.items() if (home / name).is_dir()} == {0o700}
    assert {mode for name, mode in made.items() if not (home / name).is_dir()} == {0o600}


def test_nothing_is_setuid() -> None:
    """Neither program has more rights than who starts it."""
    for name in ("slot-run", "buildslots"):
        assert os.stat(os.path.realpath(script(name))).st_mode & (stat.S_ISUID | stat.S_ISGID) == 0


def test_a_directory_that_everybody_can_replace(pool: Pool) -> None:
    """Doctor says so of what is above pool and journal."""
    pool.slot_run("true")
    state = Path(os.environ["HOME"], JOURNAL).parent
    for above, check in ((pool.dir.parent, "directory"), (state, "journal")):
        above.chmod(0o777)
        report = json.loads(pool.run(script("buildslots"), "doctor", "--json").stdout)
        (found,) = [found for found in report["checks"] if found["check"] == check]
        assert (found["level"], "every user of this machine can" in found["text"]) == ("problem", True)
        assert pool.run("sh", "-c", found["text"].split("`")[1]).returncode == 0
        assert not os.stat(above).st_mode & stat.S_IWOTH


# Other users.


def private(users: Users, owner: int, mode: int = 0o700) -> None:
    """Make the pool `owner`'s own."""
    os.chown(users.dir, owner, owner)
    users.dir.chmod(mode)


def run_as(users: Users, user: int, *command: str, **how: str) -> CompletedProcess[str]:
    """Run `command` as `user` to its end."""
    return users.run(*users.as_user(user, *command, **how))


@several_users
def test_a_private_pool_is_closed_to_others(users: Users) -> None:
    """Nobody else sees a file of it, or joins; what runs is known from /proc, with its arguments, to all."""
    private(users, ALICE)
    build = users.build_as(ALICE, "-n1")
    build.started()
    for path in ("", "slot-0", "holders/slot-0", "queue"):
        listed = run_as(users, EVE, "ls", str(users.dir / path))
        assert "Permission denied" in listed.stderr
    assert run_as(users, EVE, "flock", "-n", str(users.dir / "slot-0"), "true").returncode != 0
    assert run_as(users, EVE, script("slot-run"), *ECHO).stdout == "ran none\n"
    shown = run_as(users, EVE, "cat", f"/proc/{build.pid}/cmdline").stdout
    assert HELD_BUILD in shown.split("\0")
    assert run_as(users, EVE, "readlink", f"/proc/{build.pid}/cwd").returncode == 1
    assert build.finish() == 0


@several_users
def test_members_read_each_other_s_records_and_not_journals(users: Users) -> None:
    """A record has the command and its directory, and the nonce that makes others count as nested."""
    for user in (ALICE, BOB):
        home = users.dir.parent / str(user)
        home.mkdir()
        os.chown(home, user, user)
    homes = {"HOME": str(users.dir.parent / str(ALICE))}
    run = (script("slot-run"), "-n1", "sh", "-c", HELD_BUILD)
    build = users.popen(*users.as_user(ALICE, *run), environ=homes)
    build.started()
    record = users.record()
    assert HELD_BUILD in run_as(users, BOB, "cat", str(record)).stdout
    assert run_as(users, EVE, "cat", str(record)).returncode == 1
    journal = Path(homes["HOME"], JOURNAL)
    wait_until(journal.exists, "a journal")
    assert run_as(users, BOB, "cat", str(journal)).returncode == 1
    nonce = (records.read(str(record)) or {})["nonce"]
    nested = users.as_user(BOB, script("slot-run"), "-n1", "-t0", "--on-timeout=fail", *ECHO)
    assert users.run(*nested, environ={"BUILD_SLOTS_HELD": f"0:{nonce}"}).stdout == "ran 0\n"


@several_users
@pytest.mark.parametrize(("mode", "slot"), [(0o755, "none"), (0o777, "0"), (0o1777, "0")])
def test_a_pool_that_another_user_has_made_before(users: Users, mode: int, slot: str) -> None:
    """A build runs in any case; who owns the directory can read the record, doctor says whose it is."""
    private(users, EVE, mode)
    rooms = "mkdir -m 777 queue holders bells; touch holders/slot-0; chmod 666 holders/slot-0"
    assert run_as(users, EVE, "sh", "-c", f"cd {users.dir}; {rooms}").stderr == ""
    result = run_as(users, ALICE, script("slot-run"), "-t1", *ECHO)
    assert (result.returncode, result.stdout) == (0, f"ran {slot}\n")
    assert result.stderr.count("\n") == (slot == "none")
    report = json.loads(run_as(users, ALICE, script("buildslots"), "doctor", "--json").stdout)
    assert [c["level"] for c in report["checks"] if c["check"] == "directory"] == ["problem"]


@several_users
def test_root_in_the_home_of_a_user(users: Users) -> None:
    """With the user's HOME root makes nothing, neither pool nor journal, also where his links lead."""
    home = users.dir.parent / "home"
    home.mkdir()
    os.chown(home, ALICE, ALICE)
    environ = {"HOME": str(home), "BUILD_SLOTS_DIR": ""}
    for links in (False, True):
        if links:  # where everything of root's would land
            mine = users.dir.parent / "roots"
            mine.mkdir()
            for name in (".cache", ".local"):
                shutil.rmtree(home / name)
                (home / name).symlink_to(mine)
                os.lchown(home / name, ALICE, ALICE)
        before = sorted(users.dir.parent.rglob("*"))
        result = users.slot_run(*ECHO, environ=environ)
        assert (result.stdout, result.stderr.count("\n")) == ("ran none\n", 1)
        assert "root makes nothing in a place of another user" in result.stderr
        report = users.run(script("buildslots"), "doctor", environ=environ)
        assert "root's builds run without slots; nothing was tried" in report.stdout
        assert sorted(users.dir.parent.rglob("*")) == before
        if not links:
            result = users.run(*users.as_user(ALICE, script("slot-run"), *ECHO), environ=environ)
            assert (result.stdout, result.stderr) == ("ran 0\n", "")


@several_users
def test_a_member_does_not_lead_another_to_a_file(users: Users) -> None:
    """Links that one member makes, of both kinds, in all places."""
    mine = users.dir.parent / "alice"
    mine.write_text(SECRET)
    os.chown(mine, ALICE, GROUP)
    mine.chmod(0o660)  # so that BOB may link it in any case
    run_as(users, ALICE, script("slot-run"), "true")
    for place in ("slot-0", "holders/slot-0", "bells/slot-0", f"queue/{TICKET}"):
        for how in ("ln -f", "ln -sf"):
            planted = run_as(users, BOB, "sh", "-c", f"{how} {shlex.quote(str(mine))} {users.dir / place}")
            assert planted.stderr == ""
            assert run_as(users, ALICE, script("slot-run"), *ECHO).stdout.startswith("ran ")
            run_as(users, BOB, "rm", "-f", str(users.dir / place))
    assert mine.read_text() == SECRET
