"""What others can and cannot do to who looks at a pool: `doctor`, `status`, `release`, `report`, `trace`."""

from __future__ import annotations

import argparse
import json
import os
import re
import shlex
import signal
import stat
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import psutil
import pytest
from builds import DEADLINE_S, HELD_BUILD, Pool, script, wait_until
from strays import DAEMON, Strays, end_tree, is_gone, names
from users import ALICE, Users, several_users

from buildslots import status
from buildslots.disk import lock, records
from buildslots.view import table
from buildslots.view.health import proof, release
from buildslots.words import shell_word

if TYPE_CHECKING:
    from collections.abc import Callable

# What the doctor makes, others may move away.

TOP = Path(__file__).resolve().parents[2]
RUNS = 8
"""Of the doctor's trial against who swaps; `python -m bench.questions.swaps` goes on for longer."""


@several_users
def test_a_member_swaps_what_doctor_has_made(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A process of another user puts a private tree of ours into its place, again and again: that stays."""
    pool = tmp_path / "pool"
    monkeypatch.setattr(sys, "path", [*sys.path, str(TOP)])  # last: buildslots is the one that is installed
    from bench.questions import swaps  # noqa: PLC0415

    swaps.plant(pool)
    with swaps.swapping(pool) as count:
        found = [finding for _ in range(RUNS) for finding in swaps.look(pool)]
        assert count() > 0
    assert swaps.missing(pool) == []
    assert {finding.check for finding in found} <= {"locks", "fifos"}


AT_ONCE = """
import os, stat, sys, types
from buildslots.view.health.checks import trial
pool, event, what = sys.argv[1:]
def swap(seen, arguments):
    global event
    name = str(arguments[0]) if arguments else ""
    if seen == event and name.startswith(".doctor-"):
        event = ""
        if what == "tree":
            os.rename(f"{pool}/{name}", f"{pool}/aside")
            os.rename(f"{pool}/private", f"{pool}/{name}")
        elif what == "above":
            os.rename(pool, f"{pool}-aside")
            os.rename(f"{pool}-other", pool)
            os.rename(f"{pool}/private", f"{pool}/{name}")
        elif what == "link":
            os.rename(f"{pool}/{name}", f"{pool}/aside")
            os.symlink(f"{pool}/private", f"{pool}/{name}")
        elif what == "fifo":
            os.rename(f"{pool}/{name}", f"{pool}/aside")
            os.mkfifo(f"{pool}/{name}")
        elif what == "file":
            os.rename(f"{pool}/{name}", f"{pool}/aside")
            os.close(os.open(f"{pool}/{name}", os.O_CREAT))
        elif what == "stranger":
            os.chown(f"{pool}/{name}", 12345, 12345)
sys.addaudithook(swap)
where = types.SimpleNamespace(settings=types.SimpleNamespace(dir=pool))
for finding in trial.trial(where): print(finding.check, finding.level, finding.text)
print("swapped" if not event else "never")
"""
SWAPPED = "locks problem somebody puts other things into the place of what you make"


@pytest.mark.linux
@pytest.mark.parametrize("event", ["open", "os.rmdir"])
@pytest.mark.parametrize("what", ["tree", "above", "link", "fifo", "file", "stranger"])
def test_what_doctor_has_made_is_swapped_at_the_worst_moment(
    pool: Pool, tmp_path: Path, event: str, what: str
) -> None:
    """Right before it is opened, or removed: whatever is there then is not touched, and it is told."""
    if what == "stranger" and os.geteuid():
        pytest.skip("only root can give directories away")
    for place in (pool.dir, tmp_path / "pool-other"):
        (place / "private" / "deep").mkdir(parents=True, mode=0o700)
        (place / "private" / "lock").write_text("mine")
        (place / "private" / "deep" / "letter").write_text("mine")
    result = pool.run(sys.executable, "-P", "-c", AT_ONCE, str(pool.dir), event, what)
    assert (result.stderr, result.stdout.splitlines()[-1]) == ("", "swapped")
    letters = [path for path in tmp_path.rglob("*") if path.name in {"lock", "letter"} and path.is_file()]
    assert [path.read_text() for path in letters] == ["mine"] * 4
    if event == "open" and what != "above":  # then it still is what was made, wherever that is now
        assert SWAPPED in result.stdout
    elif what not in {"stranger", "above"}:  # still ours to remove; and moved with all that is around it
        assert "somebody has moved the directory .doctor-" in result.stdout


@pytest.mark.linux
@pytest.mark.parametrize("umask", ["000", "277", "777"])
def test_any_umask_of_who_asks_the_doctor(pool: Pool, umask: str) -> None:
    """Locks and FIFOs are tried all the same, and nothing stays."""
    pool.dir.mkdir()
    pool.dir.chmod(0o777)
    user = ["setpriv", "--bounding-set", "-dac_override,-dac_read_search"] if os.geteuid() == 0 else []
    run = f"umask {umask}; exec {script('buildslots')} doctor --verbose"
    result = pool.run(*user, "sh", "-c", run)
    assert "ok       locks: locks exclude" in result.stdout
    assert "ok       fifos: FIFOs tell at once" in result.stdout
    assert list(pool.dir.iterdir()) == []


# What release ends.

SERVER = """
import array, socket, sys
plug = socket.socket(socket.AF_UNIX)
plug.bind("\\0" + sys.argv[1])
plug.listen()
print("listens", flush=True)
caller, _ = plug.accept()
_, ancillary, _, _ = caller.recvmsg(1, socket.CMSG_SPACE(4))
fds = array.array("i", ancillary[0][2])
print("has", len(fds), flush=True)
sys.stdin.read()
"""
PASS_ON = """
import array, fcntl, os, socket, sys
pool, name, nonce = sys.argv[1:]
os.chdir(pool)
for room in ("queue", "holders", "bells"):
    os.path.isdir(room) or os.mkdir(room)
slot = os.open("slot-0", os.O_RDWR | os.O_CREAT, 0o660)
fcntl.flock(slot, fcntl.LOCK_EX)
os.path.exists("bells/slot-0") or os.mkfifo("bells/slot-0")
bell = os.open("bells/slot-0", os.O_RDWR)
fields = sys.stdin.read().replace("NONCE", nonce)
open("holders/slot-0", "w").write(fields)
with socket.socket(socket.AF_UNIX) as plug:
    plug.connect("\\0" + name)
    plug.sendmsg([b"x"], [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", [slot]))])
fcntl.flock(bell, fcntl.LOCK_SH)
print("passed", flush=True)
import time; time.sleep(1000)
"""
DEAD = 2**22 + 1  # more than pid_max can be
NONCE = "0123456789abcdef" * 2


def dead_record(nonce: str) -> bytes:
    """The record of a build that is gone, with its slot-run, here."""
    lines = records.record(records.about(["make"], cap=1, nonce=nonce), waited_s=0.0).decode()
    lines = re.sub(r"(?m)^pid \d+$", f"pid {DEAD}", lines)
    return re.sub(r"(?m)^start \d+$", f"start 1\nchild {DEAD} 1", lines).encode()


def released(pool: Pool, *args: str) -> tuple[int, str]:
    """Status and words of `buildslots release ARGS` without a terminal."""
    result = pool.run(script("buildslots"), "release", *args, stdin=subprocess.DEVNULL)
    assert result.stderr == ""
    return result.returncode, result.stdout


@several_users
@pytest.mark.parametrize("slot", [[], ["0"]])
@pytest.mark.parametrize("marks", ["", f"1:{NONCE},0:{NONCE[::-1]},0:"])
def test_a_member_passes_a_slot_to_a_process_of_ours(users: Users, marks: str, slot: list[str]) -> None:
    """With the record of a dead build beside it: our process is not taken for that build's stray."""
    name = str(users.dir)[-90:]
    server = users.popen(sys.executable, "-c", SERVER, name, environ={"BUILD_SLOTS_HELD": marks})
    assert server.started() == "listens"
    member = users.popen(
        *users.as_user(ALICE, sys.executable, "-P", "-c", PASS_ON, str(users.dir), name, NONCE)
    )
    assert member.process.stdin is not None
    member.process.stdin.write(dead_record(NONCE))
    member.process.stdin.close()
    assert (server.started(), member.started()) == ("has 1", "passed")
    assert "outlived its build" in users.run(script("buildslots"), "doctor").stdout
    code, said = released(users, "--yes", *slot)
    assert code == 1
    assert f"nothing proves that {server.pid} is of that build" in said
    assert "not done: there is no terminal to ask on, and here --yes is not enough" in said
    assert server.process.poll() is None


@several_users
def test_with_yes_it_asks_about_what_nothing_proves(
    users: Users, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Where there is a terminal; a no is a no, and a yes a yes."""
    test_a_member_passes_a_slot_to_a_process_of_ours(users, "", [])
    monkeypatch.setattr(sys.stdin, "isatty", lambda: True)
    options = argparse.Namespace(pool=None, dir=None, slots=[], ownerless=False, yes=True)
    for answer, rest in (("n", 1), ("y", 0)):
        monkeypatch.setattr("builtins.input", lambda _, answer=answer: answer)
        assert release.run(options) == 1  # the member has it still
        servers = [p for p in psutil.Process().children() if "CMSG_SPACE" in " ".join(p.cmdline())]
        assert len(servers) == rest
    capsys.readouterr()


@several_users
@pytest.mark.parametrize("bell", [True, False])
@pytest.mark.parametrize("how", ["dead", "ended", "none"])
def test_a_member_makes_a_running_build_look_like_a_stray(users: Users, how: str, bell: bool) -> None:
    """By its record, and by taking its bell from it: with --yes it lives on."""
    build = users.build("-n1")
    build.started()
    path = users.record()
    nonce = records.last_nonce(path.read_bytes())
    assert nonce is not None
    text = {"dead": dead_record(nonce).ljust(records.ENDED_AT, b"\0"), "none": b""}.get(how)
    path.write_bytes(path.read_bytes()[: records.ENDED_AT] + nonce.encode() if text is None else text)
    if not bell:
        (users.dir / "bells" / "slot-0").unlink()
        os.mkfifo(users.dir / "bells" / "slot-0")
    for args in ((), ("--yes",)):
        released(users, *args)
        assert build.process.poll() is None
    assert build.finish() == 0


@pytest.fixture(params=["private", pytest.param("shared", marks=several_users)])
def any_pool(request: pytest.FixtureRequest) -> Pool:
    """A pool of our own, and one of a group."""
    return request.getfixturevalue("pool" if request.param == "private" else "users")


@pytest.mark.linux
@pytest.mark.parametrize("weight", [1, 2])
def test_a_stray_of_ours_is_ended_unasked(any_pool: Pool, weight: int) -> None:
    """It was started with the mark of the build, in whatever pool."""
    strays = Strays(any_pool)
    try:
        stray = strays.leave(DAEMON, "-n2", f"-w{weight}")
        code, said = released(any_pool, "--yes")
        assert (code, "nothing proves" in said, is_gone(stray)) == (0, False, True), said
    finally:
        strays.end()


@pytest.mark.linux
def test_a_running_build_is_ended_unasked_by_its_number(any_pool: Pool) -> None:
    """In a group's pool by its own process, which has the mark; slot-run ends with it."""
    build = any_pool.build("-n1")
    build.started()
    code, said = released(any_pool, "--yes", "0")
    assert (code, said.splitlines()[-1]) == (0, "slot 0 is free"), said
    assert build.process.wait(DEADLINE_S) == -signal.SIGTERM


LATE = "setsid sh -c 'until test -e {go}; do sleep 0.01; done; flock 64; touch {go}-done; exec {what}'"


@pytest.mark.linux
@pytest.mark.parametrize("what", ["sleep 1000", "env -i sleep 1000"])
def test_a_stray_that_locks_the_slot_after_its_build(any_pool: Pool, tmp_path: Path, what: str) -> None:
    """By the descriptor that it has inherited: it is known by its mark, and released as any other."""
    go = tmp_path / "go"
    daemon = LATE.format(go=go, what=f'sh -c "{what} & wait"')
    build = any_pool.popen(
        script("slot-run"), "-n1", "--", "sh", "-c", f"{daemon} >/dev/null 2>&1 & echo $!; read line"
    )
    stray = psutil.Process(int(build.started()))
    try:
        build.finish()
        go.touch()
        wait_until((tmp_path / "go-done").exists, "the stray's lock")
        wait_until(lambda: names(stray.children()) == ["sleep"], "a sleep")
        doctor = any_pool.run(script("buildslots"), "doctor").stdout
        assert re.search(
            rf"slot 0 is kept by {stray.pid} .* outlived its build: `buildslots release`", doctor
        )
        code, said = released(any_pool)
        assert (code, f"slot 0: kept by {stray.pid} " in said, is_gone(stray)) == (1, True, False), said
        code, said = released(any_pool, "--yes")
        assert (code, said.splitlines()[-1], is_gone(stray)) == (0, "slot 0 is free", True), said
    finally:
        end_tree(stray)


@pytest.mark.linux
def test_another_program_is_no_stray(any_pool: Pool) -> None:
    """It locks the slot after a build and is of none, or of another one: plain `release` leaves it alone."""
    any_pool.slot_run("true")
    held = any_pool.popen(
        "flock",
        str(any_pool.dir / "slot-0"),
        *("sh", "-c", HELD_BUILD),
        environ={"BUILD_SLOTS_HELD": f"0:{NONCE}"},
    )
    held.started()
    assert "another program has locked it" in released(any_pool, "--yes")[1]
    assert held.process.poll() is None


@pytest.mark.linux
@pytest.mark.parametrize("has_pidfd", [True, False])
def test_a_signal_goes_to_that_very_process(
    pool: Pool, monkeypatch: pytest.MonkeyPatch, has_pidfd: bool
) -> None:
    """If its pid is another one's when the pidfd is open, nothing is sent."""
    if not has_pidfd:
        monkeypatch.delattr(os, "pidfd_open")
    build = pool.popen("sh", "-c", HELD_BUILD)
    build.started()
    process = psutil.Process(build.pid)
    with monkeypatch.context() as patch:
        patch.setattr(process, "is_running", lambda: False)
        patch.setattr(process, "_pid_reused", True)
        try:
            release._send(process, signal.SIGTERM)
        except psutil.NoSuchProcess:
            pass
        assert build.process.poll() is None
    release._send(psutil.Process(build.pid), signal.SIGTERM)
    assert build.process.wait(DEADLINE_S) == -signal.SIGTERM


@pytest.mark.parametrize(
    ("mode", "private"), [(0o700, True), (0o755, True), (0o2770, False), (0o777, False), (0o1777, False)]
)
@pytest.mark.parametrize("place", ["pool", "above"])
def test_what_is_a_private_pool(pool: Pool, place: str, mode: int, private: bool) -> None:
    """Nobody else can write it, or replace it: above it a sticky directory is as good."""
    pool.slot_run("true")
    (pool.dir if place == "pool" else pool.dir.parent).chmod(mode)
    if os.geteuid() == 0:
        os.chown(pool.dir if place == "pool" else pool.dir.parent, 0, 64000)
    assert proof.is_private(str(pool.dir)) is (private or (place == "above" and mode == 0o1777))


def test_the_nonce_of_a_record_that_has_ended() -> None:
    """It is told whether the record has ended or not; of what is no record or no nonce, nothing is."""
    text = records.record(records.about(["make"], cap=1, nonce=NONCE)).ljust(records.ENDED_AT, b"\0")
    assert records.last_nonce(text) == records.last_nonce(text + NONCE.encode()) == NONCE
    assert records.parse(text + NONCE.encode()) is None
    short = records.record(records.about(["make"], cap=1, nonce="x" * 32))
    assert [records.last_nonce(text) for text in (b"", short, text[:100])] == [None] * 3


# Files that repeat what the journal knows.


@pytest.fixture(params=["report", "trace"])
def saved(request: pytest.FixtureRequest, pool: Pool) -> Callable[..., subprocess.CompletedProcess[str]]:
    """Runs `buildslots report -o FILE`, or `trace`, below the shell command `before`."""
    pool.slot_run("true")

    def save(file: str | Path, before: str = ":", **how: object) -> subprocess.CompletedProcess[str]:
        text = f'{before}; exec {script("buildslots")} {request.param} -o "$FILE"'
        return pool.run("sh", "-c", text, environ={"FILE": str(file)}, **how)

    return save


def is_saved(text: str) -> bool:
    return "buildslots" in text and text.rstrip().endswith(("</html>", "}"))


@pytest.mark.parametrize("umask", ["000", "022", "277", "777"])
@pytest.mark.parametrize("exists", [True, False])
def test_reports_are_their_owner_s(
    saved: Callable[..., subprocess.CompletedProcess[str]], tmp_path: Path, umask: str, exists: bool
) -> None:
    """0600 whatever the umask is, and whatever mode was there; another name keeps what it had."""
    place = tmp_path / "out" / "file"
    place.parent.mkdir()
    if exists:
        place.write_text("old")
        place.chmod(0o666)
        (tmp_path / "other name").hardlink_to(place)
    result = saved(place, f"umask {umask}")
    assert (result.returncode, result.stdout, result.stderr) == (0, "", "")
    assert (stat.S_IMODE(place.stat().st_mode), is_saved(place.read_text())) == (0o600, True)
    assert list(place.parent.iterdir()) == [place]
    assert not exists or (tmp_path / "other name").read_text() == "old"


def test_a_report_follows_links_of_ours(
    saved: Callable[..., subprocess.CompletedProcess[str]], tmp_path: Path
) -> None:
    """One after the other, also in the middle, and to a file that does not exist yet; they stay links."""
    (tmp_path / "real").mkdir()
    (tmp_path / "folder").symlink_to("real")
    (tmp_path / "first").symlink_to("folder/second")
    (tmp_path / "real" / "second").symlink_to(tmp_path / "real" / "file")
    for _ in range(2):
        assert saved(tmp_path / "first").returncode == 0
        assert is_saved((tmp_path / "real" / "file").read_text())
    assert sorted(path.name for path in tmp_path.glob("real/*")) == ["file", "second"]
    assert saved("first", cwd=tmp_path).returncode == 0


@several_users
@pytest.mark.parametrize("where", ["at its place", "above it", "behind a link of ours"])
def test_a_report_follows_no_link_of_others(
    saved: Callable[..., subprocess.CompletedProcess[str]], tmp_path: Path, where: str
) -> None:
    """One sentence, and nothing is written."""
    mine, theirs = tmp_path / "mine", tmp_path / "theirs"
    mine.mkdir()
    (mine / "file").write_text("mine")
    if where == "above it":
        theirs.symlink_to(mine)
    else:
        theirs.mkdir()
        (theirs / "file").symlink_to(mine / "file")
    os.chown(theirs if where == "above it" else theirs / "file", 12345, 12345, follow_symlinks=False)
    place = theirs / "file"
    if where == "behind a link of ours":
        place = tmp_path / "link"
        place.symlink_to(theirs / "file")
    result = saved(place)
    assert (result.returncode, result.stdout) == (1, "")
    assert re.fullmatch(r"buildslots: .* was not written: .* is a symbolic link .*\n", result.stderr)
    assert [(path.name, path.read_text()) for path in mine.iterdir()] == [("file", "mine")]
    assert theirs.is_symlink() or (theirs / "file").is_symlink()


def test_a_report_is_written_into_what_is_no_file(
    saved: Callable[..., subprocess.CompletedProcess[str]], tmp_path: Path
) -> None:
    """A FIFO, /dev/null and /dev/stdout, be that a pipe or a file, stay what they are."""
    fifo = tmp_path / "fifo"
    os.mkfifo(fifo)
    ear = os.open(fifo, os.O_RDWR)  # what is written fits into it
    null = os.stat("/dev/null")
    try:
        assert saved(fifo).returncode == 0
        assert is_saved(os.read(ear, 1 << 20).decode())
    finally:
        os.close(ear)
    assert stat.S_ISFIFO(fifo.lstat().st_mode)
    assert saved("/dev/null").returncode == 0
    assert os.path.samestat(os.stat("/dev/null"), null)
    for name in ("/dev/stdout", "/dev/fd/1", "/proc/self/fd/1", "-"):
        assert is_saved(saved(name).stdout)
        file = tmp_path / "stdout"
        file.write_text("before\n")
        assert saved(name, f"exec >>{file}").returncode == 0
        assert file.read_text().startswith("before\n")
        assert is_saved(file.read_text())
    assert sorted(path.name for path in tmp_path.iterdir() if path.is_file()) == ["stdout"]


@several_users
def test_a_report_is_not_told_to_who_listens_there(
    saved: Callable[..., subprocess.CompletedProcess[str]], tmp_path: Path
) -> None:
    """A FIFO of another user in its place."""
    fifo = tmp_path / "fifo"
    os.mkfifo(fifo, 0o666)
    os.chown(fifo, 12345, 12345)
    result = saved(fifo)
    assert (result.returncode, "another user listens there" in result.stderr) == (1, True)


@pytest.mark.parametrize("fault", ["write", "missing", "directory", "slash", "circle"])
def test_a_report_that_cannot_be_written(
    saved: Callable[..., subprocess.CompletedProcess[str]], tmp_path: Path, fault: str
) -> None:
    """One line; the old file is whole, and nothing is left beside it."""
    folder = tmp_path / "out"
    folder.mkdir()
    place, before = folder / "file", ":"
    place.write_text("old")
    if fault == "write":
        before = "ulimit -f 0; trap '' XFSZ"
    elif fault == "missing":
        place = folder / "missing" / "file"
    elif fault == "directory":
        place = folder
    elif fault == "slash":
        place = f"{folder / 'new'}/"
    elif fault == "circle":
        place = tmp_path / "circle"
        place.symlink_to("circle")
    result = saved(place, before)
    assert (result.returncode, result.stdout, result.stderr.count("\n")) == (1, "", 1), result
    assert [(path.name, path.read_text()) for path in folder.iterdir()] == [("file", "old")]


# Words of others in what doctor says: advice is run by whoever reads it.

EVIL = ["a b", "$(touch OWNED)", "it's", "x`touch OWNED`y", '"; touch OWNED; "', "*", "~", "\\", "-x"]
COMMAND = re.compile(r"`((?:chmod|chgrp|usermod|buildslots) .*)`")


def advice(pool: Pool, check: str, *options: str, **environ: str) -> str:
    """What doctor says, by JSON, of what is wrong with that."""
    result = pool.run(script("buildslots"), "doctor", "--json", *options, environ=environ)
    assert result.stderr == ""
    (text,) = [
        found["text"]
        for found in json.loads(result.stdout)["checks"]
        if (found["check"], found["level"]) == (check, "problem")
    ]
    return str(text)


def words(pool: Pool, command: str) -> list[str]:
    """The words of a command as sh(1) has them; and shlex agrees, which knows no ~."""
    show = [sys.executable, "-c", "import json, sys; print(json.dumps(sys.argv[1:]))"]
    result = pool.run(
        "sh", "-c", f'show() {{ {shlex.join(show)} "$@"; }}; show {command}', cwd=pool.dir.parent
    )
    found = json.loads(result.stdout)
    assert [os.path.expanduser(word) if word[0] == "~" else word for word in shlex.split(command)] == found
    assert not list(pool.dir.parent.rglob("OWNED"))
    return list(found)


@pytest.mark.parametrize(
    ("name", "home"), [*((name, False) for name in EVIL), (EVIL[0], True), (EVIL[1], True)]
)
def test_advice_has_just_the_words_that_it_should(pool: Pool, name: str, home: bool) -> None:
    """Directories with names that mean something to a shell, in the home and elsewhere."""
    above = pool.dir.parent / "home" / name if home else pool.dir.parent / name
    base = above / "pool"
    base.mkdir(parents=True)
    above.chmod(0o777)
    text = advice(pool, "directory", BUILD_SLOTS_DIR=str(base))
    assert words(pool, COMMAND.findall(text)[0]) == ["chmod", "o-w", str(above)]
    above.chmod(0o755)
    state = above / "state"
    (state / "buildslots").mkdir(parents=True)
    (state / "buildslots" / "journal.jsonl").touch(0o600)
    (state / "buildslots").chmod(0o777)
    text = advice(pool, "journal", XDG_STATE_HOME=str(state))
    assert words(pool, COMMAND.findall(text)[0]) == ["chmod", "700", str(state / "buildslots")]


@several_users
@pytest.mark.parametrize("name", EVIL)
def test_advice_to_root_has_just_the_words_that_it_should(users: Users, name: str) -> None:
    """How a group's pool is repaired, and how a stray is ended."""
    base = users.dir.parent / name
    base.mkdir()
    os.chown(base, -1, 64000)
    base.chmod(0o2770)
    (base / "slot-0").touch()
    (base / "slot-0").chmod(0o600)
    text = advice(users, "files", BUILD_SLOTS_DIR=str(base))
    steps = [words(users, step) for step in COMMAND.findall(text)[0].split(" && ")]
    rooms = [str(base / room) for room in ("queue", "holders", "bells")]
    where = str(base)
    assert steps == [
        ["chgrp", "-R", "64000", where],
        ["chmod", "-R", "g+rwX", where],
        ["chmod", "g+s,-t", *rooms],
    ]


@pytest.mark.linux
@pytest.mark.parametrize("name", EVIL)
def test_advice_names_the_pool_of_the_options(pool: Pool, name: str) -> None:
    """As they were given."""
    pool.environ["BUILD_SLOTS_DIR"] = str(pool.dir.parent / name)
    pool.dir = pool.dir.parent / name
    strays = Strays(pool)
    try:
        strays.leave(DAEMON, "--pool", "link")
        option = ["--dir=-x"] if name == "-x" else ["--dir", str(pool.dir)]
        result = pool.run(
            *(script("buildslots"), "doctor", "--json", "--pool", "link", *option), cwd=pool.dir.parent
        )
        text = next(f["text"] for f in json.loads(result.stdout)["checks"] if "outlived its" in f["text"])
        expected = ["buildslots", "release", "--pool", "link", *option]
        assert words(pool, re.findall(r"`(buildslots release .*)` ends it", text)[0]) == expected
    finally:
        strays.end()


@pytest.mark.parametrize("name", ["\x1b[2J", "a\nb", "\u202ex", b"\xff".decode(errors="surrogateescape")])
def test_advice_with_what_cannot_be_shown_is_in_words(pool: Pool, name: str) -> None:
    """A name that would be shown as another one is in no command."""
    base = pool.dir.parent / name / "pool"
    base.mkdir(parents=True)
    base.parent.chmod(0o777)
    text = advice(pool, "directory", BUILD_SLOTS_DIR=str(base))
    assert "take from others the right to write" in text
    assert "`" not in text


def test_a_word_for_a_shell(monkeypatch: pytest.MonkeyPatch) -> None:
    """With the home in front, which need not be fit to print; and nothing that is too long to read."""
    monkeypatch.setenv("HOME", "/h\x1b")
    shown = [shell_word(text) for text in ("/h\x1b/a b", "/h\x1b", "/h\x1bx", "plain", "", "x" * 2000)]
    assert shown == ["~/'a b'", "~", None, "plain", "''", None]
    monkeypatch.delenv("HOME")
    assert shell_word("~") == "'~'"


@pytest.mark.linux
def test_a_command_line_is_no_advice(pool: Pool) -> None:
    """A process that is called like a sentence with a command in it."""
    pool.slot_run("true")
    lie = "echo up; read line # `touch OWNED`"
    held = pool.popen("flock", "slot-0", "sh", "-c", lie, cwd=pool.dir)
    held.started()
    (one,) = pool.status().holders
    assert one.foreign
    text = next(
        line for line in pool.run(script("buildslots"), "doctor").stdout.splitlines() if " holders: " in line
    )
    assert "touch OWNED" in text
    assert "`touch OWNED" not in text


# Masses.

MANY = 12_000


def plant_many(folder: Path, how: Callable[[Path], object]) -> None:
    """Names of tickets, before all that come by the clock."""
    for number in range(MANY):
        how(folder / f"{number:020d}-1")


@pytest.mark.parametrize("room", ["queue", "bells", "holders"])
def test_masses_of_names_are_not_all_looked_at(pool: Pool, room: str) -> None:
    """Doctor says that there are more; nothing that it or status tells is longer for them."""
    pool.slot_run("true")
    plant_many(pool.dir / room, lambda path: (path.touch(), os.utime(path, (1, 1))))
    report = json.loads(pool.run(script("buildslots"), "doctor", "--json").stdout)
    texts = [found["text"] for found in report["checks"] if found["check"] == "files"]
    assert f"only 2000 names were looked at in each of {room}: there are more" in texts
    if room == "queue":
        (text,) = [found["text"] for found in report["checks"] if found["check"] == "leftovers"]
        assert text.startswith("killed processes left 2000 tickets and more: ")
    sizes = {found["check"] + found["text"][:80]: len(json.dumps(found)) for found in report["checks"]}
    assert {words: size for words, size in sizes.items() if size > 5000} == {}
    assert len(json.dumps(report)) < 20_000


@pytest.mark.parametrize(("limit", "unseen"), [(0.0, MANY - 2000), (99.0, 0)])
def test_status_looks_at_so_many_names(
    pool: Pool, limit: float, unseen: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And at more only for a moment; what it has not seen it says."""
    pool.slot_run("true")
    plant_many(pool.dir / "queue", lambda path: path.mkdir())
    monkeypatch.setattr(status, "LOOK_S", limit)
    seen = pool.status()
    assert seen.unseen == unseen
    assert seen.as_dict().get("unseen", 0) == unseen
    assert ("unseen" in seen.as_dict(), "names in the queue were not" in table.heading(seen)) == (
        bool(unseen),
        bool(unseen),
    )


@pytest.mark.linux
def test_what_is_no_ticket_is_called_what_it_is(pool: Pool) -> None:
    """Directories, links and FIFOs by the name of a ticket were left by no killed process."""
    pool.slot_run("true")
    queue = pool.dir / "queue"
    makers = {
        "directory": lambda path: path.mkdir(),
        "symbolic link": lambda path: path.symlink_to("/etc/passwd"),
        "FIFO": os.mkfifo,
    }
    for number, make in enumerate(makers.values()):
        path = queue / f"{number:020d}-1"
        make(path)
        os.utime(path, (1, 1), follow_symlinks=False)
    report = json.loads(pool.run(script("buildslots"), "doctor", "--json").stdout)
    said = {found["check"]: found for found in report["checks"]}
    for number, kind in enumerate(makers):
        assert f"queue/{number:020d}-1 is a {kind}" in said["files"]["text"]
    assert said["files"]["level"] == "note"
    assert said["leftovers"]["text"] == "nothing is left of dead processes"


@pytest.mark.linux
def test_masses_of_held_slots(pool: Pool) -> None:
    """Each that is odd costs a look at all processes: a few are looked into, the rest is counted."""
    pool.slot_run("true")
    held = [os.open(pool.dir / f"slot-{number}", os.O_CREAT | os.O_RDWR) for number in range(300)]
    try:
        for fd in held:
            assert lock.try_lock(fd)
        report = json.loads(pool.run(script("buildslots"), "doctor", "--json").stdout)
        texts = [found["text"] for found in report["checks"] if found["check"] == "holders"]
        assert (len(texts), texts[-1]) == (
            21,
            "280 more slots are held by other programs, or by what outlived its build",
        )
        assert "200 more held slots were not looked into" in released(pool, "--yes")[1]
    finally:
        for fd in held:
            os.close(fd)
