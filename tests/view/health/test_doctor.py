"""`buildslots doctor`: each thing that can be wrong with a pool, made wrong for real, and a healthy pool."""

from __future__ import annotations

import json
import os
import pwd
import re
import shlex
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING

import psutil
import pytest
from builds import Pool, script, wait_until
from namespaces import unshare
from strays import Strays

from buildslots import SlotPool
from buildslots.settings.places import state_dir
from buildslots.settings.values import ON_TIMEOUT
from buildslots.view.health import doctor as command
from buildslots.view.health import keepers
from buildslots.view.health.checks import filesystem
from buildslots.view.health.checks.limits import THEN
from buildslots.view.main import main

if TYPE_CHECKING:
    from collections.abc import Iterator

NAMES = [
    "directory",
    "filesystem",
    "locks",
    "fifos",
    "cap",
    "rules",
    "settings",
    "split",
    "files",
    "leftovers",
    "holders",
    "tokens",
    "journal",
]
ONE = {"MAX_CONCURRENT_BUILDS": "1"}
"""The cap of most builds here, for who looks, too: another one would be noted."""
# Root may read and write everything; without these powers it is a user like any other.
NO_POWERS = ["setpriv", "--bounding-set", "-dac_override,-dac_read_search"] if os.geteuid() == 0 else []


@pytest.fixture
def strays(pool: Pool) -> Iterator[Strays]:
    strays = Strays(pool)
    yield strays
    strays.end()


def doctor(pool: Pool, *options: str, before: tuple[str, ...] = (), **run: object) -> dict:
    """The report of `buildslots doctor --json OPTIONS`, run below the command `before`."""
    result = pool.run(*before, script("buildslots"), "doctor", "--json", *options, **run)
    assert result.stderr == ""
    report = json.loads(result.stdout)
    assert list(report) == ["ok", "pool", "dir", "checks"]
    assert report["ok"] is all(check["level"] != "problem" for check in report["checks"])
    assert result.returncode == (0 if report["ok"] else 1)
    return report


def found(report: dict, name: str) -> list[tuple[str, str]]:
    """Level and text of what the check `name` found."""
    return [(check["level"], check["text"]) for check in report["checks"] if check["check"] == name]


def only(report: dict, name: str) -> tuple[str, str]:
    (one,) = found(report, name)
    return one


def details(report: dict, name: str) -> dict:
    return next(check["details"] for check in report["checks"] if check["check"] == name)


def alone(pool: Pool, setup: str, *, mounts: str = ":") -> dict:
    """The report from a machine of its own: no processes but those that `setup` starts, and `mounts`."""
    names = f"P={shlex.quote(str(pool.dir))}; T={pool.dir.parent}"
    names += f"; R={script('slot-run')}; D={script('buildslots')}"
    text = f'set -e; {names}; mkdir -p "$P"; {mounts}; {setup}; set +e; $D doctor --json'
    result = pool.run(*unshare("--mount", "--pid", "--fork", "--mount-proc"), "sh", "-c", text)
    assert result.stderr == ""
    report = json.loads(result.stdout)
    assert result.returncode == (0 if report["ok"] else 1)
    return report


@pytest.mark.linux
def test_a_healthy_pool(pool: Pool) -> None:
    """Every check says that all is well, beside a build and in a pool that does not exist yet."""
    build = "$R -- sleep 1000 & until [ -p $P/bells/slot-0 ]; do sleep 0.01; done; $D status >/dev/null"
    for setup in (build, "rm -r $P"):
        report = alone(pool, setup, mounts="mount -t tmpfs none $T; mkdir $P")  # no container's own layer
        # Whether pip was a new one when this was installed says nothing of the pool.
        report["checks"] = [check for check in report["checks"] if check["check"] != "launcher"]
        assert [check["check"] for check in report["checks"]] == NAMES
        assert {check["level"] for check in report["checks"]} == {"ok"}, report
        assert (report["ok"], report["pool"], report["dir"]) == (True, "default", str(pool.dir))
        assert {tuple(check) for check in report["checks"]} == {("check", "level", "text", "details")}


def test_looking_changes_nothing(pool: Pool) -> None:
    """Neither a pool that does not exist nor one that does."""
    doctor(pool)
    assert not pool.dir.exists()
    pool.slot_run("true")
    before = sorted((str(path), path.lstat().st_ino) for path in pool.dir.rglob("*"))
    doctor(pool)
    assert sorted((str(path), path.lstat().st_ino) for path in pool.dir.rglob("*")) == before


@pytest.mark.linux
def test_plain_text_in_a_pipe(pool: Pool) -> None:
    """One line for each finding, with the inputs of the cap, and what it comes to."""
    pool.dir.mkdir(mode=0o777)
    pool.dir.chmod(0o777)
    config = pool.dir.parent / "x\x1b[31m" / "buildslots" / "config.toml"
    config.parent.mkdir(parents=True)
    config.write_text("slots = 0")
    environ = {"MAX_CONCURRENT_BUILDS": "x\x1b[31m", "XDG_CONFIG_HOME": str(config.parent.parent)}
    text = pool.run(script("buildslots"), "doctor", "--verbose", environ=environ).stdout
    assert "\x1b" not in text
    lines = text.splitlines()
    assert sum(line.startswith("problem  directory: every user ") for line in lines) == 1
    assert sum("x?[31m/buildslots/config.toml, line 1" in line for line in lines) == 1
    assert "ok       fifos: FIFOs tell at once when their owner is gone" in lines
    assert any(line.startswith("    cores: ") for line in lines)
    assert "    variables: MAX_CONCURRENT_BUILDS=x?[31m" in lines
    assert re.fullmatch(r"\d+ problems", lines[-1])


def test_in_short(pool: Pool) -> None:
    """Each note and problem in its line, one line for all that is as it should be, and the verdict."""
    pool.dir.mkdir(mode=0o777)
    pool.dir.chmod(0o777)
    result = pool.run(script("buildslots"), "doctor", environ={"MAX_CONCURRENT_BUILDS": "x"})
    *lines, fine, verdict = result.stdout.splitlines()
    assert {line.split()[0] for line in lines} <= {"note", "problem"}
    assert sum(line.startswith("problem  directory: every user ") for line in lines) == 1
    assert sum(line.startswith("problem  settings: MAX_CONCURRENT_BUILDS: 'x'") for line in lines) == 1
    assert re.fullmatch(r"ok       (\w+, )*locks, fifos, cap, (\w+, )*journal \(--verbose says more\)", fine)
    assert re.fullmatch(r"\d+ problems?", verdict)


def test_colours_on_a_terminal_unless_the_user_wants_none(pool: Pool) -> None:
    """NO_COLOR is honoured (https://no-color.org)."""
    shown = []
    for environ in ({}, {"NO_COLOR": "1"}):
        ours, theirs = os.openpty()
        environ |= {"TERM": "xterm", "COLUMNS": "300"}
        build = pool.popen(script("buildslots"), "doctor", "-v", stdout=theirs, environ=environ)
        os.close(theirs)
        text = b""
        try:
            while block := os.read(ours, 4096):
                text += block
        except OSError:
            pass  # EIO: the terminal has no user any more
        os.close(ours)
        build.process.wait()
        shown.append(text.decode())
    assert [f"\x1b[32m{'ok'}" in text for text in shown] == [True, False]
    assert not re.search(r"\x1b\[[0-9;]*3[0-7]m", shown[1])
    assert all("FIFOs tell at once" in text for text in shown)


# The directory.


@pytest.mark.linux
def test_why_the_pool_is_where_it_is(pool: Pool, tmp_path: Path) -> None:
    """The option, then each variable in its order, then the user database."""
    environ = pool.environ | {"XDG_CACHE_HOME": str(tmp_path / "xdg"), "HOME": str(tmp_path / "home")}
    seen = []
    for name in ("", "BUILD_SLOTS_DIR", "XDG_CACHE_HOME", "HOME"):
        if name:
            pool.environ = environ = {key: value for key, value in environ.items() if key != name}
        option = ("--dir", str(tmp_path / "option")) if not name else ()
        report = doctor(pool, *option, environ=environ)
        seen.append((details(report, "directory")["why"], report["dir"]))
    home = pwd.getpwuid(os.getuid()).pw_dir
    assert seen == [
        ("--dir", str(tmp_path / "option")),
        ("XDG_CACHE_HOME", str(tmp_path / "xdg/.build-slots")),
        ("HOME", str(tmp_path / "home/.cache/.build-slots")),
        ("the user database", f"{home}/.cache/.build-slots"),
    ]
    report = doctor(pool, environ={"BUILD_SLOTS_DIR": str(pool.dir)})
    assert details(report, "directory")["why"] == "BUILD_SLOTS_DIR"
    report = doctor(pool, environ={"XDG_CACHE_HOME": "relative", "HOME": str(tmp_path)})
    assert details(report, "directory")["why"] == "HOME"


def test_a_relative_directory(pool: Pool, tmp_path: Path) -> None:
    """It would be a different pool in every working directory, and is ignored."""
    report = doctor(pool, environ={"BUILD_SLOTS_DIR": "here"}, cwd=tmp_path)
    level, text = only(report, "settings")
    assert (level, "BUILD_SLOTS_DIR: 'here' is not an absolute path" in text) == ("problem", True)
    assert details(report, "directory")["why"] == "HOME"
    assert only(doctor(pool, "--dir", "here", cwd=tmp_path), "directory")[0] == "ok"


@pytest.mark.parametrize(
    ("mode", "words"),
    [(0o700, "the pool is in"), (0o777, "can remove the files in"), (0o1777, "can put files into")],
)
def test_a_directory_that_everybody_can_write(pool: Pool, mode: int, words: str) -> None:
    """With the sticky bit and without."""
    pool.dir.mkdir()
    pool.dir.chmod(mode)
    report = doctor(pool)
    level, text = only(report, "directory")
    assert (level, words in text) == ("ok" if mode == 0o700 else "problem", True)
    assert details(report, "directory")["mode"] == f"{mode:04o}"
    assert details(report, "directory")["owner"] == pwd.getpwuid(os.getuid()).pw_name


def test_a_file_in_the_directory_s_place(pool: Pool) -> None:
    """Builds run without slots."""
    pool.dir.write_text("mine")
    report = doctor(pool)
    level, text = only(report, "directory")
    assert (level, "is no directory" in text) == ("problem", True)
    assert pool.dir.read_text() == "mine"


@pytest.mark.linux
def test_a_directory_that_we_cannot_write(pool: Pool) -> None:
    """The directory and the trial say so."""
    pool.dir.mkdir(mode=0o500)
    report = doctor(pool, before=tuple(NO_POWERS))
    assert only(report, "directory")[0] == "problem"
    level, text = only(report, "locks")
    assert (level, "nothing can be created" in text, "Permission denied" in text) == ("problem", True, True)


@pytest.mark.linux
def test_no_home(pool: Pool) -> None:
    """No HOME and no entry in the user database: one finding, and still JSON."""
    mounts = "mount --bind /dev/null /etc/passwd; mount --bind /dev/null /etc/nsswitch.conf"
    report = alone(pool, "unset HOME BUILD_SLOTS_DIR", mounts=mounts)
    assert (report["ok"], report["dir"], len(report["checks"])) == (False, None, 1)
    assert "no home directory" in only(report, "directory")[1]


# The file system.


@pytest.mark.linux
@pytest.mark.parametrize(
    ("mounts", "words"),
    [
        ("mount -t tmpfs none $P; mount -o remount,bind,ro $P", "is mounted read-only"),
        ("mount -t tmpfs -o size=4096 none $P; head -c 4096 /dev/zero > $P/full", "no space is left"),
        ("mount -t tmpfs -o nr_inodes=1 none $P", "no inodes are left"),
    ],
)
def test_a_file_system_without_room(pool: Pool, mounts: str, words: str) -> None:
    """Read-only, full, and out of inodes."""
    report = alone(pool, ":", mounts=mounts)
    level, text = only(report, "filesystem")
    assert (level, words in text) == ("problem", True), report
    assert details(report, "filesystem")["type"] == "tmpfs"


@pytest.mark.linux
@pytest.mark.parametrize(
    ("agent", "advice"),
    [
        ("X=1", "remount it, or set BUILD_SLOTS_DIR"),
        ("CLAUDECODE=1", "`sandbox.filesystem.allowWrite` in its settings.json"),
        ("CODEX_SANDBOX=seatbelt", "`writable_roots` of `[sandbox_workspace_write]` in its config.toml"),
    ],
)
def test_a_pool_that_a_sandbox_makes_read_only(pool: Pool, agent: str, advice: str) -> None:
    """What becomes of builds, and the setting that would help."""
    assert pool.slot_run("true").returncode == 0
    report = alone(pool, f"export {agent}", mounts="mount --bind $P $P; mount -o remount,bind,ro $P")
    level, text = only(report, "filesystem")
    assert (level, advice in text) == ("problem", True), text
    assert "builds have no place in line, and only look for a free slot" in text


@pytest.mark.linux
def test_a_home_in_memory(pool: Pool) -> None:
    """Some sandboxes give one to each that they run: each has a pool of its own then."""
    home = pool.dir.parent / "home"
    home.mkdir(exist_ok=True)
    lines = f"export HOME={home}; unset BUILD_SLOTS_DIR"
    report = alone(pool, lines, mounts=f"mount -t tmpfs none {home}")
    level, text = only(report, "filesystem")
    assert (level, "who is outside does not see this pool" in text) == ("note", True), report


@pytest.mark.linux
def test_the_file_system_is_the_one_that_hides_the_others(pool: Pool) -> None:
    """The deepest mount, and of two on one place the later, whatever its name is."""
    pool.dir = pool.dir.parent / "a b\\c"
    pool.environ["BUILD_SLOTS_DIR"] = str(pool.dir)
    report = alone(pool, ":", mounts='mount -t ramfs none "$P"; mount -t tmpfs none "$P"')
    assert details(report, "filesystem")["type"] == "tmpfs"
    assert details(report, "filesystem")["mounted_on"] == str(pool.dir)


@pytest.mark.parametrize(
    ("kinds", "network"),
    [
        ("nfs nfs4 cifs smb3 smbfs 9p drvfs lustre ceph afs NFS fuse.sshfs fuse.rclone fuse.ceph", True),
        ("ext4 btrfs xfs zfs tmpfs overlay apfs ntfs fuseblk fuse.bindfs wslfs virtiofs nfsd", False),
    ],
)
def test_network_file_systems(kinds: str, network: bool) -> None:
    """By the name of their type."""
    assert {kind: filesystem.is_network(kind, "rw") for kind in kinds.split()} == dict.fromkeys(
        kinds.split(), network
    )


def test_a_pool_on_a_network_file_system(
    pool: Pool, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The sentence names the type and says what to do."""
    mount = psutil.disk_partitions(all=True)[0]._replace(mountpoint=str(pool.dir.parent), fstype="nfs4")
    monkeypatch.setattr(psutil, "disk_partitions", lambda **_: [mount])
    assert main(["doctor"]) == 1
    assert "other machines share (nfs4)" in capsys.readouterr().out


# Locks and FIFOs.


def injected(pool: Pool, *faults: str) -> dict:
    """The report when system calls of doctor and its children fail, or do nothing."""
    trace = ["strace", "-f", "-o", "/dev/null", "-e", "trace=flock,mknod,mknodat,poll"]
    return doctor(pool, before=(*trace, *(word for fault in faults for word in ("-e", f"inject={fault}"))))


@pytest.mark.linux
@pytest.mark.parametrize(
    ("fault", "check", "level", "words"),
    [
        ("flock:error=ENOLCK", "locks", "problem", "No locks available"),
        ("flock:retval=0", "locks", "problem", "does not exclude another"),
        ("mknod,mknodat:error=EPERM", "fifos", "note", "there are no FIFOs here"),
        ("mknod,mknodat:error=ENOSPC", "locks", "problem", "No space left on device"),
    ],
)
def test_locks_and_fifos_are_tried(pool: Pool, fault: str, check: str, level: str, words: str) -> None:
    """What does not work is found out by doing it."""
    pool.slot_run("true")
    seen = only(injected(pool, fault), check)
    assert (seen[0], words in seen[1]) == (level, True), seen
    assert list(pool.dir.glob(".doctor*")) == []


def tried(pool: Pool, patch: str) -> subprocess.CompletedProcess[str]:
    """Run the trial alone, after the statements `patch`."""
    pool.dir.mkdir(exist_ok=True)
    program = (
        "import os, types\n"
        "from buildslots.view.health.checks import trial\n"
        f"{patch}\n"
        "where = types.SimpleNamespace(settings=types.SimpleNamespace(dir=os.environ['BUILD_SLOTS_DIR']))\n"
        "for finding in trial.trial(where): print(finding.check, finding.level, finding.text)\n"
    )
    return pool.run(sys.executable, "-c", program)


LOCKS_NOTHING = (
    'trial.OWNER = \'import os, sys; os.open("lock", os.O_CREAT, dir_fd=int(sys.argv[3]));'
    " print(True, True, flush=True); sys.stdin.read()'"
)


@pytest.mark.parametrize(
    ("patch", "words"),
    [
        (LOCKS_NOTHING, "locks problem a lock"),
        ("trial.OWNER = 'nonsense'", "could not lock a file or make a FIFO there: NameError"),
        ("trial.OWNER, trial.PATIENCE_S = 'import time; time.sleep(999)', 0.1", "no lock within"),
        (
            "trial.bells.poll = lambda: type('', (), dict(register=print, poll=lambda *_: []))()",
            "fifos problem",
        ),
    ],
)
def test_a_trial_that_fails(pool: Pool, patch: str, words: str) -> None:
    """An owner that does not lock, does not start, does not answer; a bell that stays silent."""
    result = tried(pool, patch)
    assert words in result.stdout, result
    assert list(pool.dir.iterdir()) == []


def test_a_lock_that_outlives_its_owner(pool: Pool) -> None:
    """As where a server has not heard of the end of a client."""
    patch = "trial.RELEASE_S, trial.try_lock = 0.1, lambda fd: False"
    assert "locks problem a lock outlives the process" in tried(pool, patch).stdout


def test_a_doctor_that_is_killed_leaves_nothing(pool: Pool) -> None:
    """The other process removes the scratch directory."""
    result = tried(pool, "trial.is_locked = lambda fd: os.kill(os.getpid(), 9)")
    assert result.returncode == -signal.SIGKILL
    wait_until(lambda: list(pool.dir.iterdir()) == [], "an empty pool")


def test_the_working_directory_is_not_imported_from(pool: Pool, tmp_path: Path) -> None:
    """A checkout may have modules of any name."""
    (tmp_path / "shutil.py").write_text("raise SystemExit('not this one')")
    assert only(doctor(pool, cwd=tmp_path), "locks")[0] == "ok"


# Cap and settings.


def test_the_cap_and_its_inputs(pool: Pool) -> None:
    """Value, source, and all that it might have come from."""
    variables = {"MAX_CONCURRENT_BUILDS": "5", "MAX_CONCURRENT_BUILDS_LINK": "2"}
    report = doctor(pool, environ=variables)
    seen = details(report, "cap")
    assert (seen["slots"], seen["source"], seen["variables"]) == (5, "MAX_CONCURRENT_BUILDS", variables)
    assert set(seen) >= {"default", "platform", "affinity", "quota", "cores"}
    assert only(report, "cap") == ("ok", "5 builds at once (MAX_CONCURRENT_BUILDS)")
    report = doctor(pool, "--pool", "link", environ=variables)
    assert (details(report, "cap")["slots"], report["pool"]) == (2, "link")


@pytest.mark.linux
def test_every_mistake_in_the_settings_is_a_problem(pool: Pool, tmp_path: Path) -> None:
    """Those of the environment and of the config file."""
    config = tmp_path / "home" / ".config" / "buildslots" / "config.toml"
    config.parent.mkdir(parents=True)
    config.write_text('slots = "many"\ntimeout = "1m"\n')
    report = doctor(pool, environ={"MAX_CONCURRENT_BUILDS": "x", "BUILD_SLOTS_ON_TIMEOUT": "later"})
    assert [level for level, _ in found(report, "settings")] == ["problem"] * 3
    texts = " ".join(text for _, text in found(report, "settings"))
    assert all(word in texts for word in ("MAX_CONCURRENT_BUILDS: 'x'", f"{config}, line 1", "'later'"))
    seen = details(report, "settings")
    assert (seen["config"], seen["config_exists"], seen["timeout_s"]) == (str(config), True, 60)
    assert seen["timeout_source"] == f"{config}, line 2, key timeout"


@pytest.mark.parametrize("then", ["run", "paced", "fail"])
def test_each_choice_of_what_comes_after_the_timeout(pool: Pool, then: str) -> None:
    """It is said in words; none of them is a failure of the check."""
    level, text = only(doctor(pool, environ={"BUILD_SLOTS_ON_TIMEOUT": then}), "settings")
    assert (level, f"then {THEN[then]} (BUILD_SLOTS_ON_TIMEOUT)" in text) == ("ok", True)
    assert set(THEN) == set(ON_TIMEOUT)


def test_that_slots_are_disabled_is_a_note(pool: Pool) -> None:
    """Builds themselves say nothing of it."""
    report = doctor(pool, environ={"BUILD_SLOTS_DISABLE": "1"})
    _, (level, text) = found(report, "settings")
    assert (level, "BUILD_SLOTS_DISABLE is set" in text) == ("note", True)
    assert [level for level, _ in found(doctor(pool, environ={"BUILD_SLOTS_DISABLE": "0"}), "settings")] == [
        "ok"
    ]


def test_where_the_pool_s_name_comes_from(pool: Pool) -> None:
    """The option, the variable, or the default."""
    sources = [
        details(report, "settings")["pool_source"]
        for report in (
            doctor(pool),
            doctor(pool, environ={"BUILD_SLOTS_POOL": "link"}),
            doctor(pool, "--pool", "link", environ={"BUILD_SLOTS_POOL": "x"}),
        )
    ]
    assert sources == ["default", "BUILD_SLOTS_POOL", "option"]


# Split pools.

UP = "until [ -e $T/up ]; do sleep 0.01; done"
BUILD = f"rm -f $T/up; {{}} $R -n9 sh -c 'echo >$0/up; exec sleep 1000' $T & {UP}"
DAEMON = "{} sleep 1000 & until [ $(cat /proc/$!/comm) = sleep ]; do sleep 0.01; done"


@pytest.mark.linux
def test_a_process_that_is_led_to_another_pool(pool: Pool) -> None:
    """A problem where a pool is used already; the process, the variable and both directories are named."""
    other = pool.dir.parent / "xdg"
    move = f"env -u BUILD_SLOTS_DIR XDG_CACHE_HOME={other}"
    report = alone(pool, f"{BUILD.format(move)}; {BUILD.format(move)}")
    level, text = only(report, "split")
    assert (level, f"builds in the pool {other}/.build-slots" in text) == ("problem", True)
    assert re.match(r"process \d+ `.*` and 1 more, with no BUILD_SLOTS_DIR,", text)
    seen = details(report, "split")
    assert (seen["dir"], len(seen["pids"]), seen["used"]) == (f"{other}/.build-slots", 2, True)
    assert seen["variables"] == {"BUILD_SLOTS_DIR": None}


@pytest.mark.linux
def test_a_process_that_does_not_build_is_not_named(pool: Pool) -> None:
    """A desktop's daemons have homes of all kinds; a pool that was used is a note, without a process."""
    other = pool.dir.parent / "xdg"
    move = f"env -u BUILD_SLOTS_DIR XDG_CACHE_HOME={other}"
    assert only(alone(pool, DAEMON.format(move)), "split")[0] == "ok"
    report = alone(pool, f"{move} $R true; {DAEMON.format(move)}")
    there = f"{other}/.build-slots"
    level, text = only(report, "split")
    assert (level, text) == (
        "note",
        f"builds with no BUILD_SLOTS_DIR go to another pool, {there}, in which nobody builds now",
    )
    assert details(report, "split")["pids"] == []


@pytest.mark.linux
def test_a_process_with_another_home(pool: Pool) -> None:
    """Without BUILD_SLOTS_DIR it is HOME that makes the difference."""
    del pool.environ["BUILD_SLOTS_DIR"]
    users = "printf 'root:x:0:0::%s:/bin/sh\\n' $HOME > $T/passwd; mount --bind $T/passwd /etc/passwd"
    report = alone(pool, BUILD.format("env HOME=$T"), mounts=users)
    assert f"builds in the pool {pool.dir.parent}/.cache/.build-slots" in only(report, "split")[1]
    assert details(report, "split")["variables"] == {"HOME": str(pool.dir.parent)}


@pytest.mark.linux
def test_another_home_than_the_user_database_s(pool: Pool) -> None:
    """What starts without our HOME, such as a cron job, has another pool."""
    users = "printf 'root:x:0:0::%s:/bin/sh\\n' $T/home2 > $T/passwd; mount --bind $T/passwd /etc/passwd"
    del pool.environ["BUILD_SLOTS_DIR"]
    level, text = only(alone(pool, ":", mounts=users), "split")
    assert (level, "home2, such as a cron job, would build in" in text) == ("note", True)
    level, text = only(alone(pool, "HOME=$T/home2 $R true", mounts=users), "split")
    assert (level, "home2/.cache/.build-slots, which yours does not count" in text) == ("problem", True)


@pytest.mark.linux
def test_a_pool_below_ours_or_reached_by_another_name_is_no_split(pool: Pool) -> None:
    """A named pool's directory, and a symbolic link to ours."""
    below = BUILD.format("env BUILD_SLOTS_DIR=$P/pools/x")
    assert only(alone(pool, below), "split")[0] == "note"
    link = f"ln -s $P $T/link; {DAEMON.format('env BUILD_SLOTS_DIR=$T/link')}"
    assert only(alone(pool, link), "split")[0] == "ok"
    relative = f"exec 2>/dev/null; cd $T; {BUILD.format('env BUILD_SLOTS_DIR=rel')}; cd /"
    assert "rel" not in details(alone(pool, relative), "split")["dir"]


def test_with_a_directory_of_its_own_nothing_is_split(pool: Pool, tmp_path: Path) -> None:
    """--dir is no setting that others share."""
    assert only(doctor(pool, "--dir", str(tmp_path / "x")), "split")[0] == "ok"


# Files and leftovers.


@pytest.mark.parametrize("name", ["slot-0", "mutex", "queue"])
def test_what_is_no_file_or_no_directory(pool: Pool, name: str) -> None:
    """A directory where a lock should be, a file where a directory should be."""
    pool.dir.mkdir()
    if name == "queue":
        (pool.dir / name).touch()
    else:
        (pool.dir / name).mkdir()
    level, text = found(doctor(pool), "files")[0]
    assert (level, f"{name} should be" in text) == ("problem", True)


@pytest.mark.linux
def test_files_that_we_cannot_use(pool: Pool) -> None:
    """Ours without the bits, and a room; who holds the slots cannot be seen then."""
    pool.slot_run("true")
    (pool.dir / "slot-0").chmod(0)
    report = doctor(pool, before=tuple(NO_POWERS))
    level, text = only(report, "files")
    assert (level, "cannot read and write slot-0," in text) == ("problem", True)
    level, text = only(report, "holders")
    assert (level, "it cannot be seen who holds the slots: Permission denied" in text) == ("problem", True)
    (pool.dir / "slot-0").chmod(0o600)
    (pool.dir / "bells").chmod(0o500)
    assert "cannot read and write bells," in only(doctor(pool, before=tuple(NO_POWERS)), "files")[1]


def test_files_that_go_at_this_moment(
    pool: Pool, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """A waiter that leaves takes its ticket along; that is no file that we cannot use."""
    pool.slot_run("true")
    ticket = pool.dir / "queue" / ("0" * 20 + "-1")
    ticket.touch()
    access = os.access

    def leave_and_ask(path: str, mode: int) -> bool:
        if path == str(ticket):
            ticket.unlink()
        return access(path, mode)

    monkeypatch.setattr(os, "access", leave_and_ask)
    main(["doctor", "--json"])
    assert only(json.loads(capsys.readouterr().out), "files")[0] == "ok"
    assert not ticket.exists()


@pytest.mark.linux
@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give files away")
def test_files_of_other_users(pool: Pool) -> None:
    """A note while we can use them, a problem else."""
    pool.slot_run("true")
    for name, mode in (("slot-0", 0o666), ("bells/slot-0", 0o600)):
        os.chown(pool.dir / name, 12345, 12345)
        (pool.dir / name).chmod(mode)
    levels = dict(found(doctor(pool, before=tuple(NO_POWERS)), "files"))
    assert list(levels) == ["problem", "note"]
    assert "cannot read and write bells/slot-0," in levels["problem"]
    assert "other users own slot-0," in levels["note"]


def test_leftovers_are_counted_and_stay(pool: Pool) -> None:
    """A ticket that nobody has locked, its bell, the record of a killed build; not what is young or lives."""
    build = pool.build("-n1")
    build.started()
    waiter = pool.queued("-n1")
    (live,) = (pool.dir / "queue").iterdir()
    dead = live.with_name(f"{int(live.name[:20]) + 1000:020d}-1")  # behind the waiter, who would remove it
    bell = pool.dir / "bells" / dead.name
    ownerless = pool.dir / "bells" / ("0" * 19 + "1-1")
    record = pool.dir / "holders" / "slot-7"
    text = pool.record().read_bytes()
    record.write_bytes(text)
    dead.touch()
    for path in (bell, ownerless):
        os.mkfifo(path)
    assert only(doctor(pool), "leftovers") == ("ok", "nothing is left of dead processes")
    old = re.sub(rb"\nsince \S+\n", b"\nsince %.6f\n" % (time.time() - 3600), text)
    for path in (record, pool.dir / "holders" / "slot-0"):  # the second is that of a slot which is held
        path.write_bytes(old)
    for path in [*(pool.dir / "queue").iterdir(), *(pool.dir / "bells").iterdir()]:
        os.utime(path, (1, 1))
    report = doctor(pool)
    assert only(report, "leftovers")[0] == "note"
    assert "left 1 ticket, 1 bell, 1 record: harmless" in only(report, "leftovers")[1]
    assert details(report, "leftovers") == {"tickets": 1, "bells": 1, "records": 1}
    assert all(path.exists() for path in (dead, bell, ownerless))
    build.finish()
    waiter.started()
    waiter.finish()
    pool.slot_run("-n1", "true")
    assert not dead.exists()
    assert details(doctor(pool), "leftovers")["tickets"] == 0


# Holders and waiters.


@pytest.mark.linux
def test_a_stray(pool: Pool, strays: Strays) -> None:
    """A daemon that inherited the lock of a build that was killed with its slot-run."""
    stray = strays.leave()
    report = doctor(pool, environ=ONE)
    level, text = only(report, "holders")
    assert (level, text.startswith(f"slot 0 is kept by {stray.pid} `sleep 1000` in ")) == ("problem", True)
    assert text.endswith("), which outlived its build: `buildslots release` ends it")
    seen = details(report, "holders")
    assert (seen["slot"], seen["state"]) == (0, "stray")
    (process,) = seen["processes"]
    assert (process["pid"], process["command"], process["age_s"] >= 0) == (stray.pid, ["sleep", "1000"], True)


@pytest.mark.linux
@pytest.mark.parametrize(
    "command",
    [
        ("sh", "-c", "echo up; read line"),
        ("sh", "-c", "echo up; exec sleep 1000"),
        ("env", "X=1", "sh", "-c", "echo up; read line"),
        ("./script", "one"),
    ],
)
def test_a_build_that_runs_on(pool: Pool, strays: Strays, tmp_path: Path, command: tuple[str, ...]) -> None:
    """After kill -9 of slot-run alone; whatever program it has become meanwhile."""
    (tmp_path / "script").write_text("#!/bin/sh -u\necho up; read line\n")
    (tmp_path / "script").chmod(0o700)
    build = strays.orphan(*command, cwd=tmp_path)
    wait_until(lambda: build.name() != "slot-run", "the build's own program")
    level, text = only(doctor(pool, environ=ONE), "holders")
    assert level == "note"
    assert text.startswith(
        f"slot 0: who took it was killed, but its build runs on and keeps it: {build.pid} "
    )


@pytest.mark.linux
def test_a_build_that_left_the_lock_to_its_own(pool: Pool, strays: Strays) -> None:
    """A build that closed what it inherited lives all the same, and so do those that it started."""
    text = "import os, subprocess; subprocess.Popen(['sleep', '1000'], close_fds=False)"
    text += "; os.closerange(3, 256); print('up', flush=True); input()"
    build = strays.orphan(sys.executable, "-c", text)
    level, text = only(doctor(pool, environ=ONE), "holders")
    assert level == "note"
    assert text.startswith("slot 0: who took it was killed, but its build runs on and keeps it: ")
    assert build.is_running()


@pytest.mark.linux
def test_another_program_has_a_slot(pool: Pool) -> None:
    """A note with the program, for flock(1) locks by the rules."""
    pool.slot_run("true")
    foreign = pool.popen("flock", "-o", str(pool.dir / "slot-0"), "sh", "-c", "echo up; read line")
    foreign.started()
    level, text = only(doctor(pool, environ=ONE), "holders")
    assert (level, f"slot 0 is locked by another program: {foreign.pid} `flock " in text) == ("note", True)


@pytest.mark.linux
def test_who_is_stopped(pool: Pool) -> None:
    """Holder and waiter, each with its pid."""
    first = pool.build("-n1")
    first.started()
    waiter = pool.queued("-n1")
    assert found(doctor(pool, environ=ONE), "holders")[0][0] == "ok"
    for build in (first, waiter):
        os.kill(build.pid, signal.SIGSTOP)
        wait_until(lambda pid=build.pid: psutil.Process(pid).status() == psutil.STATUS_STOPPED, "a stop")
    assert found(doctor(pool, environ=ONE), "holders") == [
        ("note", f"process {pid} {role} and is stopped: `kill -CONT {pid}` lets it go on")
        for pid, role in ((first.pid, "holds a slot"), (waiter.pid, "waits in line"))
    ]


def test_who_has_another_cap(pool: Pool) -> None:
    """Two that disagree on K."""
    first = pool.build("-n1")
    first.started()
    waiter = pool.queued("-n1")
    report = doctor(pool, environ={"MAX_CONCURRENT_BUILDS": "4"})
    who = f"2 processes ({first.pid}, {waiter.pid}, …)"
    text = f"{who} started with a cap of 1, you have 4: each counts by its own"
    assert only(report, "holders") == ("note", text)


@pytest.mark.linux
def test_a_holder_in_a_container(pool: Pool) -> None:
    """Its pid counts in its own pid namespace only."""
    command = [*unshare("--pid", "--fork", "--kill-child"), script("slot-run"), "-n1"]
    inside = pool.popen(*command, "--", "sh", "-c", "echo up; read line")
    inside.started()
    level, text = only(doctor(pool, environ=ONE), "holders")
    assert (level, "held from another container or machine" in text) == ("note", True)
    inside.finish()


@pytest.mark.linux
def test_a_keeper_that_is_hidden(
    pool: Pool, strays: Strays, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Another user's process cannot be looked at; that somebody has the slot can."""
    strays.leave()
    monkeypatch.setattr(keepers, "keepers", lambda _: ())
    assert main(["doctor"]) == 1
    assert "which is gone, and is kept by a process that you may not see" in capsys.readouterr().out


@pytest.mark.linux
def test_who_lets_go_at_this_moment_is_not_odd(
    pool: Pool, strays: Strays, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """What looks like another program once, and not a second time, is not told."""
    strays.leave()
    status = pool.status()
    strays.end()
    monkeypatch.setattr(command, "pool_status", lambda _: status)
    main(["doctor"])
    assert "slot 0" not in capsys.readouterr().out


def test_beside_short_builds(pool: Pool) -> None:
    """Builds come and go while we look: none is refused, none runs beyond the cap, nothing looks wrong."""
    build = f"{shlex.quote(script('slot-run'))} -q -n2 -t60 --on-timeout fail true"
    lanes = [pool.popen("sh", "-ec", f"for i in 1 2 3 4 5 6 7 8; do {build}; done") for _ in range(4)]
    reports = []
    while any(lane.process.poll() is None for lane in lanes):
        reports.append(doctor(pool, environ={"MAX_CONCURRENT_BUILDS": "2"}))
    assert [lane.process.wait() for lane in lanes] == [0] * 4
    assert [lane.errors() for lane in lanes] == [""] * 4
    wrong = [
        check
        for report in reports
        for check in report["checks"]
        if check["level"] == "problem" and check["check"] != "split"
    ]
    assert (wrong, len(reports) > 0) == ([], True)


# The journal.


def test_the_journal(pool: Pool) -> None:
    """Before the first build, after it, readable for others, no file, and with whole command lines."""
    path = Path(state_dir(os.environ), "journal.jsonl")
    shown = f"~/{path.relative_to(os.environ['HOME'])}"
    assert only(doctor(pool), "journal") == ("ok", f"{shown}, no builds yet")
    pool.slot_run("true")
    assert only(doctor(pool), "journal") == ("ok", f"{shown}, 0 MiB")
    assert details(doctor(pool), "journal")["bytes"] == path.stat().st_size
    level, text = only(doctor(pool, environ={"BUILD_SLOTS_JOURNAL": "commands"}), "journal")
    assert (level, text) == ("note", f"{shown}, 0 MiB, with whole command lines (BUILD_SLOTS_JOURNAL)")
    path.chmod(0o644)
    level, text = only(doctor(pool), "journal")
    assert (level, text) == (
        "problem",
        f"others may read {shown}, which tells what you build: `chmod 600` it",
    )
    path.unlink()
    path.mkdir()
    assert only(doctor(pool), "journal")[1] == f"{shown} is no regular file: builds are not noted"
    off = doctor(pool, environ={"BUILD_SLOTS_JOURNAL": "off"})
    assert only(off, "journal") == ("ok", "off (BUILD_SLOTS_JOURNAL)")


@pytest.mark.linux
def test_a_journal_that_cannot_be_made(pool: Pool) -> None:
    """Its directory would be in a read-only one."""
    report = alone(
        pool,
        "mkdir -p $T/state",
        mounts="mkdir -p $T/state; mount -t tmpfs -o ro none $T/state; export XDG_STATE_HOME=$T/state",
    )
    assert only(report, "journal")[0] == "problem"
    assert "cannot be made" in only(report, "journal")[1]


def test_a_check_that_fails_is_a_finding(
    pool: Pool, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The others go on."""

    def broken(**_: object) -> None:
        raise PermissionError(13, "Permission denied", "/proc/self/mounts")

    monkeypatch.setattr(psutil, "disk_partitions", broken)
    with SlotPool(slots=1).acquire():
        assert main(["doctor", "--json"]) == 1
    report = json.loads(capsys.readouterr().out)
    assert "this could not be checked: " in only(report, "filesystem")[1]
    assert [check["check"] for check in report["checks"]][-2:] == ["tokens", "journal"]


def test_wrong_usage(pool: Pool) -> None:
    """A wrong name is an error of the command line."""
    assert pool.run(script("buildslots"), "doctor", "--pool", "a/b").returncode == 2
