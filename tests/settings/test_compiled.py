"""What is kept of the config file: it saves the reading, and is believed only if nothing is wrong with it."""

from __future__ import annotations

import os
import stat
import subprocess
import sys
import time
from typing import TYPE_CHECKING

import pytest
from builds import script, wait_until
from users import ALICE, BOB, EVE, Users, several_users

from buildslots.settings import compiled, file

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

pytestmark = pytest.mark.skipif(
    os.name == "nt", reason="nothing is kept where it cannot be told whose a file is"
)

TEXT = """\
slots = 3
timeout = "90s"
on_timeout = "paced"
journal = "off"
max_load = 4.5

[pools.link]
slots = 1
timeout = "none"
min_free_memory = "1G"
max_pressure = { io = 40 }
"""
MISTAKES = 'slots = 0\nslot = 1\n[pools.link]\ntimeout = "1d"\nslots = 2\n'
POISON = 7


class Place:
    """A config file, and the directory in which is kept what it says."""

    def __init__(self, scratch: Path) -> None:
        self.config = scratch / "config.toml"
        self.cache = scratch / "cache"
        self.cache.mkdir(parents=True)
        self.directory = self.cache / "buildslots"
        self.environ = {"XDG_CACHE_HOME": str(self.cache)}

    @property
    def kept(self) -> Path:
        """The file of this installation."""
        return self.directory / compiled.name(str(self.config))

    def write(self, text: str) -> None:
        """Write the config file, in another tick of the file system's clock than the last time."""
        before = self.config.stat().st_ctime_ns if self.config.exists() else None

        def ticked() -> bool:
            self.config.write_text(text)
            return self.config.stat().st_ctime_ns != before

        wait_until(ticked, "a tick")

    def load(self) -> tuple[dict[tuple[str, str], object], list[str]]:
        """What the config file says, and what is said of it, as in a new process."""
        compiled._reported.clear()
        said: list[str] = []
        config = compiled.load(str(self.config), self.environ, said.append)
        return config.said, said

    def read(self) -> tuple[dict[tuple[str, str], object], list[str]]:
        """The same, from the config file itself."""
        config, said, _ = file.read(str(self.config))
        return config.said, said

    def slots(self) -> object:
        return compiled.load(str(self.config), self.environ, pytest.fail).said["slots", "default"][0]

    def poisoned(self) -> bytes:
        """What would be believed if it were this user's: it says that there are other slots."""
        config, lines, facts = file.read(str(self.config))
        assert facts is not None
        config.said["slots", "default"] = (POISON, "nobody")
        return compiled.packed(str(self.config), facts, config, lines)


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Place:
    """A config file that says something, and may be kept at once."""
    monkeypatch.setattr(compiled, "TICK_NS", 0)
    found = Place(tmp_path / "place")
    found.write(TEXT)
    return found


@pytest.mark.parametrize("text", [TEXT, MISTAKES, "not TOML\n", "", "x = " + "9" * 5000, "#" * 20000])
def test_it_says_the_same_without_reading(place: Place, text: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """All values with their sources, and each mistake in the same words."""
    place.write(text)
    found = place.load()
    assert found == place.read()
    assert place.kept.stat().st_mode & 0o777 == 0o600
    assert place.directory.stat().st_mode & 0o777 == 0o700
    assert os.listdir(place.directory) == [compiled.name(str(place.config))]
    monkeypatch.setattr(file, "read", lambda *_, **__: pytest.fail("was read"))
    assert place.load() == found


def test_what_is_kept_is_text_and_goes_through_the_same_checks(place: Place) -> None:
    """A value that the config file could not say is none, whoever has written it; the file is read then."""
    found = place.load()
    kept = place.kept.read_bytes()
    assert all(field.isprintable() for row in kept.decode().split("\n") for field in row.split("\t"))
    config, lines, facts = file.read(str(place.config))
    assert facts is not None
    values = compiled._text(config, lines).encode()
    head = kept[: -len(values) - 16]
    for row, wrong in [
        (b"slots\tdefault\t3\t", b"slots\tdefault\t-3\t"),
        (b"slots\tlink\t1\t", b"slots\t../x\t1\t"),
        (b"\t90.0\t", b"\tnan\t"),
        (b"\tpaced\t", b"\tnever\t"),
        (b"\toff\t", b"\tall\t"),
        (b"\t4.5\t", b"\t-4.5\t"),
        (b"\t1073741824\t", b"\t0\t"),
        (b"io=40.0", b"disk=40"),
        (b"on_timeout\t", b"__class__\t"),
        (b"\t3\t", b"\t3"),
    ]:
        assert row in values
        changed = values.replace(row, wrong, 1)
        place.kept.write_bytes(head + compiled._sum(changed) + changed)
        assert place.load() == found
        assert place.kept.read_bytes() == kept


@pytest.mark.parametrize(
    "line", ["max_load = 0.123456789012345678", "timeout = 1e-9", "min_free_memory = '9' # bytes"]
)
def test_what_cannot_be_kept_is_read_again(place: Place, line: str) -> None:
    """What the parsers would not take, as it would be written, is not kept."""
    place.write(line)
    for _ in range(2):
        assert place.load() == place.read()


def test_one_process_says_a_mistake_once(place: Place) -> None:
    """Whether it was read or kept."""
    place.write("slots = 0\n")
    assert len(place.load()[1]) == 1
    said: list[str] = []
    compiled.load(str(place.config), place.environ, said.append)
    assert said == []


def test_a_file_that_has_just_been_changed_is_not_kept(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    """It may change again within the same tick of the clock; one from the future may do so then."""
    monkeypatch.setattr(compiled, "TICK_NS", 2 * 10**9)
    for slots in range(1, 10):
        place.config.write_text(f"slots = {slots}\n")  # all of one size
        assert place.slots() == slots
    assert not place.directory.exists()
    now = time.time_ns()
    monkeypatch.setattr(time, "time_ns", lambda: now + 3 * 10**9)
    os.utime(place.config, ns=(now + 2 * 10**9, now + 2 * 10**9))
    assert (place.slots(), place.directory.exists()) == (9, False)
    os.utime(place.config, ns=(now, now))
    assert (place.slots(), place.directory.exists()) == (9, True)


def edit_in_place(place: Place) -> None:
    """Of the same size, and with the times that a careful tool restores."""
    before = place.config.stat()
    place.write(TEXT.replace("slots = 3", "slots = 4"))
    os.utime(place.config, ns=(before.st_atime_ns, before.st_mtime_ns))


def edit_by_rename(place: Place) -> None:
    """As editors do: another file, here with the same size and times."""
    before = place.config.stat()
    other = place.config.with_name("other")
    other.write_text(TEXT.replace("slots = 3", "slots = 4"))
    os.utime(other, ns=(before.st_atime_ns, before.st_mtime_ns))
    other.replace(place.config)


def edit_behind_a_link(place: Place) -> None:
    """As those do who keep their settings under version control."""
    other = place.config.with_name("other")
    other.write_text(TEXT.replace("slots = 3", "slots = 4"))
    place.config.unlink()
    place.config.symlink_to(other)


@pytest.mark.parametrize("edit", [edit_in_place, edit_by_rename, edit_behind_a_link])
def test_a_change_counts_at_once(place: Place, edit: Callable[[Place], None]) -> None:
    """However little of it can be seen from outside."""
    assert place.slots() == 3
    assert place.kept.exists()
    edit(place)
    assert place.slots() == 4
    assert place.load() == place.read()


def test_touching_it_changes_nothing(place: Place) -> None:
    """It is read once more."""
    found = place.load()
    before = place.kept.read_bytes()
    os.utime(place.config, (1, 1))
    assert place.load() == found
    assert place.kept.read_bytes() != before


@pytest.mark.parametrize("changed", compiled.CODE)
def test_other_code_reads_the_file_itself(
    place: Place, changed: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It may know more settings, or others. Its files are compared, for the version may be the same."""
    code = place.cache / "code"
    code.mkdir()
    for name in compiled.CODE:
        code.joinpath(name).write_text("# As it was.\n")
    monkeypatch.setattr(compiled, "__file__", str(code / "compiled.py"))
    place.load()
    place.kept.write_bytes(place.poisoned())
    assert place.slots() == POISON
    code.joinpath(changed).write_text("# As it is now.\n")
    assert place.slots() == 3


def test_two_installations_that_take_turns(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each keeps its own, and neither reads the file again; there are not more than some."""
    monkeypatch.setattr(compiled, "MOST_KEPT", 3)
    names: dict[str, str] = {}
    for number in range(100):
        code = place.cache / f"code-{number}"
        code.mkdir()
        for module in compiled.CODE:
            code.joinpath(module).touch()
        monkeypatch.setattr(compiled, "__file__", str(code / "compiled.py"))
        names.setdefault(compiled.name(str(place.config)), str(code / "compiled.py"))
        if len(names) == 2:
            break
    for last in (False, True):
        if last:
            monkeypatch.setattr(file, "read", lambda *_, **__: pytest.fail("was read"))
        for code_file in names.values():
            monkeypatch.setattr(compiled, "__file__", code_file)
            assert place.slots() == 3
    assert sorted(os.listdir(place.directory)) == sorted(names)


def test_another_path_is_another_source(place: Place) -> None:
    """The same file by another name: the name is in what is said of its values."""
    place.load()
    other = place.config.with_name("linked.toml")
    other.hardlink_to(place.config)
    config = compiled.load(str(other), place.environ, pytest.fail)
    assert config.said["slots", "default"] == (3, f"{other}, line 1, key slots")


def test_what_is_not_whole_is_not_believed(place: Place) -> None:
    """Cut anywhere, with zeros from anywhere on, or with a wrong byte anywhere."""
    place.write("slots = 3\n[pools.link]\ntimeout = 1\n")
    found = place.load()
    whole = place.kept.read_bytes()
    for length in range(len(whole)):
        for broken in (
            whole[:length],
            whole[:length] + b"\0" * (len(whole) - length),
            whole[:length] + bytes([whole[length] ^ 1]) + whole[length + 1 :],
        ):
            place.kept.write_bytes(broken)
            assert place.load() == found
            assert place.kept.read_bytes() == whole
    place.kept.write_bytes(whole + b"more")
    assert place.load() == found


# Who may have written it.


def others_can_write_it(place: Place) -> None:
    place.kept.chmod(0o602)


def a_group_can_write_it(place: Place) -> None:
    place.kept.chmod(0o660)


def others_can_write_its_directory(place: Place) -> None:
    place.directory.chmod(0o1777)


def a_group_can_write_its_directory(place: Place) -> None:
    place.directory.chmod(0o770)


def it_is_a_link(place: Place) -> None:
    place.kept.rename(place.cache / "elsewhere")
    place.kept.symlink_to(place.cache / "elsewhere")


def its_directory_is_a_link(place: Place) -> None:
    place.directory.rename(place.cache / "elsewhere")
    place.directory.symlink_to(place.cache / "elsewhere")


def it_is_another_user_s(place: Place) -> None:
    os.chown(place.kept, EVE, -1)


def its_directory_is_another_user_s(place: Place) -> None:
    os.chown(place.directory, EVE, -1)


@pytest.mark.parametrize(
    "planted",
    [
        others_can_write_it,
        a_group_can_write_it,
        others_can_write_its_directory,
        a_group_can_write_its_directory,
        it_is_a_link,
        its_directory_is_a_link,
        pytest.param(it_is_another_user_s, marks=several_users),
        pytest.param(its_directory_is_another_user_s, marks=several_users),
    ],
)
def test_what_others_may_have_written_is_not_believed(place: Place, planted: Callable[[Place], None]) -> None:
    """The same is believed without that."""
    place.load()
    place.kept.write_bytes(place.poisoned())
    assert place.slots() == POISON
    planted(place)
    assert place.slots() == 3


WHAT_COUNTS = "from buildslots.settings import resolve; print(resolve(warn=print).slots)"


@several_users
@pytest.mark.parametrize(("owner", "slots"), [(BOB, POISON), (ALICE, 3), (EVE, 3), (0, 3)])
def test_users_believe_only_themselves(users: Users, tmp_path: Path, owner: int, slots: int) -> None:
    """In a cache directory that everybody can write, such as one below /tmp; not even root."""
    place = Place(tmp_path / "shared" / "place")
    config = tmp_path / "shared" / "place" / "buildslots" / "config.toml"
    config.parent.mkdir()
    place.config = config
    place.write(TEXT)
    place.cache.chmod(0o1777)
    place.directory.mkdir(mode=0o755)
    place.kept.write_bytes(place.poisoned())
    place.kept.chmod(0o644)
    for path in (place.directory, place.kept):
        os.chown(path, owner, owner)
    environ = {"XDG_CACHE_HOME": str(place.cache), "XDG_CONFIG_HOME": str(config.parent.parent)}
    users.environ |= environ
    result = users.run(*users.as_user(BOB, sys.executable, "-P", "-c", WHAT_COUNTS))
    assert (result.stdout, result.stderr) == (f"{slots}\n", "")


# What can fail.


@pytest.mark.parametrize("kind", ["fifo", "directory", "file above", "nothing above", "loop"])
def test_what_is_in_its_place_stops_nothing(place: Place, kind: str) -> None:
    """Nor is anything said."""
    if kind == "nothing above":
        place.cache.rmdir()
    elif kind == "file above":
        place.directory.touch()
    else:
        place.directory.mkdir(mode=0o700)
        if kind == "fifo":
            os.mkfifo(place.kept)
        elif kind == "directory":
            place.kept.mkdir()
        else:
            place.kept.symlink_to(place.kept)
    for _ in range(2):
        assert place.load() == place.read()
    if kind in {"fifo", "loop"}:
        assert place.kept.is_file()  # put there by rename


@pytest.mark.parametrize("call", ["mkdir", "open", "fstat", "write", "rename"])
def test_a_call_that_fails_stops_nothing(place: Place, call: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing is kept then, and nothing is left."""
    expected = place.load()
    place.kept.unlink()
    if call == "mkdir":
        place.directory.rmdir()
    real = getattr(os, call)

    def fails(*args: object, **options: object) -> object:
        if call in {"open", "fstat"} and sys._getframe(1).f_code.co_name == "_read_content":
            return real(*args, **options)
        raise OSError

    with monkeypatch.context() as patch:
        patch.setattr(os, call, fails)
        assert place.load() == expected
    assert not place.directory.exists() or os.listdir(place.directory) == []
    assert place.load() == expected
    assert place.kept.exists()


def test_a_full_disk_and_a_killed_process_leave_nothing_behind(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A part of it is none; and what a process of the same number has left is removed."""
    with monkeypatch.context() as patch:
        patch.setattr(os, "write", lambda _, content: len(content) - 1)
        assert place.slots() == 3
    assert os.listdir(place.directory) == []
    place.directory.joinpath(f".{compiled.name(str(place.config))}-{os.getpid()}").touch()
    assert (place.slots(), os.listdir(place.directory)) == (3, [])
    assert (place.slots(), os.listdir(place.directory)) == (3, [compiled.name(str(place.config))])


def test_a_caller_as_deep_as_python_goes_spoils_it_for_nobody(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What cannot be read from there can be read from elsewhere: it is not kept that it cannot."""

    def too_deep(*_: object) -> None:
        raise RecursionError("maximum recursion depth exceeded")

    with monkeypatch.context() as patch:
        patch.setattr("tomllib.loads", too_deep)
        _, said = place.load()
        assert "maximum recursion depth exceeded; the whole file is ignored" in said[0]
    assert place.slots() == 3


def test_without_a_home_or_users_nothing_is_kept(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    """As on Windows."""

    def nobody(uid: int) -> None:
        raise KeyError(uid)

    monkeypatch.setattr("pwd.getpwuid", nobody)
    assert compiled.load(str(place.config), {}, pytest.fail).said["slots", "default"][0] == 3
    monkeypatch.delattr(os, "geteuid")
    assert place.slots() == 3
    assert not place.directory.exists()


WRITER = """
import os, sys
from buildslots.settings import compiled
compiled.TICK_NS, compiled.MOST_KEPT = 0, 1
path, slots = sys.argv[1:]
for _ in range(200):
    found = compiled.load(path, os.environ, sys.exit).said["slots", "default"][0]
    assert found == int(slots), (found, slots)
    compiled._keep(compiled.kept_dir(os.environ), compiled.name(path), os.urandom(300))
"""


def test_many_write_at_once(place: Place) -> None:
    """Each with another config file, in one place: each finds its own or nothing, never a part of one."""
    place.directory.mkdir(mode=0o700)
    writers = []
    for slots in range(1, 7):
        config = place.config.with_name(f"{slots}.toml")
        config.write_text(f"slots = {slots}\n")
        command = [sys.executable, "-P", "-c", WRITER, str(config), str(slots)]
        writers.append(subprocess.Popen(command, env=os.environ | place.environ))
    assert [writer.wait() for writer in writers] == [0] * 6
    assert os.listdir(place.directory) == ["kept-0"]


def test_slot_run_keeps_it(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    """As soon as it is old enough; what it says then is what counts."""
    home = place.config.parent
    config = place.config = home / ".config" / "buildslots" / "config.toml"
    config.parent.mkdir(parents=True)
    config.write_text("slots = 0\n")
    environ = os.environ | place.environ | {"HOME": str(home)}

    def run() -> subprocess.CompletedProcess[str]:
        command = [script("slot-run"), "echo", "ran"]
        return subprocess.run(command, env=environ, capture_output=True, text=True, check=True)

    said = run().stderr
    assert said.startswith(f"slot-run: {config}, line 1, key slots: '0' is not a positive whole number")
    wait_until(lambda: run() and place.kept.exists(), "it is kept")
    assert run().stderr == said


def test_a_cache_directory_that_is_missing_is_made(place: Place) -> None:
    """As it is where nothing else has kept anything yet; for this user alone."""
    place.cache.rmdir()
    assert place.slots() == place.slots() == 3
    assert place.kept.exists()
    assert stat.S_IMODE(place.directory.parent.stat().st_mode) == 0o700
