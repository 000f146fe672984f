"""Where a setting comes from, what a wrong one is answered with, and the errors that carry it."""

from __future__ import annotations

import errno
import os
import pickle
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import platformdirs
import pytest

from buildslots import errors, settings
from buildslots.errors import SettingError
from buildslots.settings import compiled, places, resolve
from buildslots.settings.values import UNSET, parse_duration, parse_on_timeout, parse_pool, parse_slots

if TYPE_CHECKING:
    from builds import Pool

LINUX = pytest.mark.skipif(
    sys.platform != "linux", reason="the XDG rule is Linux's, elsewhere platformdirs rules"
)


class Machine:
    """A user's environment and config file, and what is reported about them."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.config = directory / "config.toml"
        self.environ = {
            "BUILD_SLOTS_DIR": str(directory / "slots"),
            "XDG_CACHE_HOME": str(directory.with_name("cache")),
        }
        self.said: list[str] = []

    def resolve(self, **options: Any) -> settings.Settings:
        return resolve(environ=self.environ, warn=self.said.append, **options)

    def with_config(self, text: str | bytes) -> Machine:
        self.config.write_bytes(text.encode() if isinstance(text, str) else text)
        return self

    def with_environ(self, **variables: str) -> Machine:
        self.environ |= variables
        return self


@pytest.fixture
def machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Machine:
    """Give a machine with no settings at all, whose own default is 5 slots."""
    found = Machine(tmp_path / "machine")
    found.directory.mkdir()
    monkeypatch.setattr(places, "config_path", lambda _environ: str(found.config))
    monkeypatch.setattr(settings, "_machine_slots", lambda: (5, "the machine"))
    monkeypatch.setattr(compiled, "_reported", set())
    return found


# Options.


@pytest.mark.parametrize(
    ("text", "slots"), [("1", 1), ("12", 12), ("007", 7), (" 4\n", 4), ("\t4 ", 4), ("999999999", 999999999)]
)
def test_slots(text: str, slots: int) -> None:
    """A number of slots is a positive whole number, with blanks around it at most."""
    assert parse_slots(text, "--slots") == slots


@pytest.mark.parametrize(
    "text",
    [
        "",
        " ",
        "0",
        "00",
        "-1",
        "+1",
        "1.0",
        "1e3",
        "1_000",
        "0x2",
        "abc",
        "1 2",
        "\u0663",
        "\xb2",
        "4k",
        "4\0",
    ],
)
def test_wrong_slots(text: str) -> None:
    """Anything else is an error that shows it."""
    with pytest.raises(SettingError) as caught:
        parse_slots(text, "--slots")
    assert str(caught.value) == f"--slots: {text!r} is not a positive whole number"
    assert (caught.value.source, caught.value.value) == ("--slots", text)


@pytest.mark.parametrize("text", ["1000000000", "9" * 5000])
def test_too_many_slots(text: str) -> None:
    """A number of slots that no program could count is an error of its own, in a line of bounded length."""
    with pytest.raises(
        SettingError, match=r"^--slots: '\d+(\.\.\.)?' is more than 999999999 slots$"
    ) as caught:
        parse_slots(text, "--slots")
    assert len(str(caught.value)) < 120
    assert caught.value.value == text


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        *[("0", 0.0), ("90", 90.0), ("90s", 90.0), ("2m", 120.0), ("1h", 3600.0), ("1h30m", 5400.0)],
        *[
            ("1h30m5s", 5405.0),
            ("1h5s", 3605.0),
            ("0.5", 0.5),
            ("1.5h", 5400.0),
            ("0.5m0.5s", 30.5),
            ("90m", 5400.0),
        ],
        *[("none", None), (" 5s ", 5.0), ("0h0m0s", 0.0), ("87600h", 315360000.0), ("0000001", 1.0)],
    ],
)
def test_duration(text: str, seconds: float | None) -> None:
    """A duration is seconds, or hours, minutes and seconds in this order, or none."""
    assert parse_duration(text, "--timeout") == seconds


@pytest.mark.parametrize(
    "text",
    [
        *(
            "",
            " ",
            "h",
            "s",
            "none 5",
            "None",
            "NONE",
            "inf",
            "nan",
            "-1",
            "+1",
            "-0",
            "1e3",
            "1d",
            "1w",
            "1ms",
            "5S",
        ),
        *(
            "1h30",
            "30s1m",
            "1m1h",
            "1h1h",
            "1m1m",
            "1 h",
            "1h 30m",
            ".5",
            "5.",
            "1.2.3",
            "1,5",
            "1_0",
            "\u0665",
            "5\0",
        ),
        *("1:30", "0x10", "1s1", "5..m", "\xb2s"),
    ],
)
def test_wrong_duration(text: str) -> None:
    """Anything else is an error that shows it and some durations."""
    with pytest.raises(SettingError) as caught:
        parse_duration(text, "--timeout")
    assert str(caught.value) == f"--timeout: {text!r} is not a duration such as 90, 90s, 2m, 1h30m or none"


@pytest.mark.parametrize("text", ["315360001", "87600h1s", "9" * 400, "9" * 400 + "h"])
def test_too_long_a_duration(text: str) -> None:
    """A duration that clocks could not hold is refused, however it is written."""
    with pytest.raises(SettingError, match=r"' is longer than ten years; 'none' waits for ever$"):
        parse_duration(text, "--timeout")


def test_on_timeout() -> None:
    """After the timeout a build runs, at once or in its turn, or fails, and nothing else."""
    words = ["run", "paced", "fail"]
    assert [parse_on_timeout(text, "--on-timeout") for text in words] == words
    for text in ("", "Run", "run ", "ignore"):
        with pytest.raises(SettingError) as caught:
            parse_on_timeout(text, "--on-timeout")
        assert str(caught.value) == f"--on-timeout: {text!r} is none of 'run', 'paced' and 'fail'"


@pytest.mark.parametrize(
    "name",
    ["default", "link", "Link", "a", "9", "web-2.link_x", "CONSOLE", "COM10", "COM", "x.con", "a" * 64],
)
def test_pool_name(name: str) -> None:
    """A pool's name is kept as it is written."""
    assert parse_pool(name, "--pool") == name


NO_POOL = (
    "is not the name of a pool: letters, digits, '.', '_' and '-', a letter or digit first and no '.' last"
)


@pytest.mark.parametrize(
    ("name", "problem"),
    [
        *[
            (name, NO_POOL)
            for name in ("", ".", "..", ".hidden", "-n", "_x", "a/b", "a\\b", "../up", "a b", "a.")
        ],
        *[(name, NO_POOL) for name in ("l\xefnk", "\u0661", "a\0", "a\n", "a:b", "~", "a*", " link")],
        *[
            (name, "is the name of a device on Windows")
            for name in ("CON", "con", "Nul.txt", "com1", "LPT9.a.b")
        ],
        ("a" * 65, "is longer than 64 characters"),
    ],
)
def test_wrong_pool_name(name: str, problem: str) -> None:
    """A name that would be no good directory on some system is an error that says what a name is."""
    with pytest.raises(SettingError) as caught:
        parse_pool(name, "--pool")
    shown = name if len(name) <= 60 else name[:57] + "..."
    assert str(caught.value) == f"--pool: {shown!r} {problem}"


@pytest.mark.parametrize(
    ("option", "sentence"),
    [
        ({"slots": 0}, "slots: '0' is not a positive int"),
        ({"slots": -1}, "slots: '-1' is not a positive int"),
        ({"slots": True}, "slots: 'True' is not a positive int"),
        ({"slots": 2.0}, "slots: '2.0' is not a positive int"),
        ({"slots": "2"}, "slots: \"'2'\" is not a positive int"),
        ({"slots": 1000000000}, "slots: '1000000000' is more than 999999999 slots"),
        ({"timeout_s": -1}, "timeout: '-1' is not a number of seconds from 0 to 315360000, nor None"),
        ({"timeout_s": -0.5}, "timeout: '-0.5' is not a number of seconds from 0 to 315360000, nor None"),
        ({"timeout_s": True}, "timeout: 'True' is not a number of seconds from 0 to 315360000, nor None"),
        (
            {"timeout_s": float("nan")},
            "timeout: 'nan' is not a number of seconds from 0 to 315360000, nor None",
        ),
        (
            {"timeout_s": float("inf")},
            "timeout: 'inf' is not a number of seconds from 0 to 315360000, nor None",
        ),
        (
            {"timeout_s": 4e8},
            "timeout: '400000000.0' is not a number of seconds from 0 to 315360000, nor None",
        ),
        ({"timeout_s": "soon"}, "timeout: 'soon' is not a duration such as 90, 90s, 2m, 1h30m or none"),
        ({"on_timeout": "wait"}, "on_timeout: 'wait' is none of 'run', 'paced' and 'fail'"),
        ({"on_timeout": False}, "on_timeout: 'False' is none of 'run', 'paced' and 'fail'"),
        ({"pool": ""}, f"pool: '' {NO_POOL}"),
        ({"pool": 3}, f"pool: '3' {NO_POOL}"),
        ({"dir": ""}, "dir: \"''\" is not a path"),
        ({"dir": 3}, "dir: '3' is not a path"),
        ({"dir": "a\0b"}, "dir: \"'a\\\\x00b'\" is not a path"),
    ],
)
def test_wrong_option(machine: Machine, option: dict[str, Any], sentence: str) -> None:
    """A wrong option raises, shows its value, and nothing else is reported on the way."""
    machine.with_environ(MAX_CONCURRENT_BUILDS="x").with_config("slots = 0")
    with pytest.raises(SettingError) as caught:
        machine.resolve(**option)
    assert str(caught.value) == sentence
    assert machine.said == []


@pytest.mark.parametrize("option", ["slots", "timeout_s"])
def test_option_of_a_thousand_digits(machine: Machine, option: str) -> None:
    """An int that Python itself refuses to print is a wrong option like any other."""
    with pytest.raises(SettingError, match=r"^\w+: '0xfff"):
        machine.resolve(**{option: (1 << 40000) - 1})


# Precedence.


def slots_of(found: settings.Settings) -> tuple[int, str]:
    return found.slots, found.source("slots")


def timeout_of(found: settings.Settings) -> tuple[float | None, str]:
    return found.timeout_s, found.source("timeout")


def on_timeout_of(found: settings.Settings) -> tuple[str, str]:
    return found.on_timeout, found.source("on_timeout")


CONFIG = """\
slots = 3
timeout = "3m"
on_timeout = "run"

[pools.link]
slots = 1
timeout = "none"
on_timeout = "fail"

[pools.default]
timeout = 0.5
"""


@pytest.mark.parametrize(
    ("pool", "options", "environ", "config", "slots"),
    [
        ("default", {"slots": 9}, {"MAX_CONCURRENT_BUILDS": "7"}, CONFIG, (9, "option")),
        ("default", {}, {"MAX_CONCURRENT_BUILDS": "7"}, CONFIG, (7, "MAX_CONCURRENT_BUILDS")),
        ("default", {}, {"MAX_CONCURRENT_BUILDS": ""}, CONFIG, (3, "{config}, line 1, key slots")),
        ("default", {}, {"MAX_CONCURRENT_BUILDS_DEFAULT": "7"}, CONFIG, (3, "{config}, line 1, key slots")),
        (
            "default",
            {},
            {},
            CONFIG + "slots = 2",
            (2, "{config}, line 12, key pools.default.slots"),
        ),
        ("default", {}, {}, "", (5, "the machine")),
        ("link", {"slots": 9}, {"MAX_CONCURRENT_BUILDS_LINK": "7"}, CONFIG, (9, "option")),
        ("link", {}, {"MAX_CONCURRENT_BUILDS_LINK": "7"}, CONFIG, (7, "MAX_CONCURRENT_BUILDS_LINK")),
        ("link", {}, {"MAX_CONCURRENT_BUILDS": "7"}, CONFIG, (1, "{config}, line 6, key pools.link.slots")),
        ("test", {}, {"MAX_CONCURRENT_BUILDS": "7"}, CONFIG, (5, "the machine")),
        (
            "Web.link-2_x",
            {},
            {"MAX_CONCURRENT_BUILDS_WEB_LINK_2_X": "7"},
            "",
            (7, "MAX_CONCURRENT_BUILDS_WEB_LINK_2_X"),
        ),
    ],
)
def test_precedence_of_slots(
    machine: Machine,
    *,
    pool: str,
    options: dict[str, Any],
    environ: dict[str, str],
    config: str,
    slots: tuple[int, str],
) -> None:
    """The number of slots is the option's, else the variable's, else the file's, else the machine's."""
    found = machine.with_environ(**environ).with_config(config).resolve(pool=pool, **options)
    assert slots_of(found) == (slots[0], slots[1].format(config=machine.config))
    assert machine.said == []


@pytest.mark.parametrize(
    ("pool", "options", "environ", "config", "timeout"),
    [
        ("default", {"timeout_s": 9}, {"BUILD_SLOTS_TIMEOUT": "7"}, CONFIG, (9.0, "option")),
        ("default", {"timeout_s": None}, {"BUILD_SLOTS_TIMEOUT": "7"}, CONFIG, (None, "option")),
        ("default", {"timeout_s": 0}, {"BUILD_SLOTS_TIMEOUT": "7"}, CONFIG, (0.0, "option")),
        ("default", {"timeout_s": UNSET}, {"BUILD_SLOTS_TIMEOUT": "7"}, CONFIG, (7.0, "BUILD_SLOTS_TIMEOUT")),
        ("link", {}, {"BUILD_SLOTS_TIMEOUT": "none"}, CONFIG, (None, "BUILD_SLOTS_TIMEOUT")),
        ("link", {}, {"BUILD_SLOTS_TIMEOUT": ""}, CONFIG, (None, "{config}, line 7, key pools.link.timeout")),
        ("default", {}, {}, CONFIG, (0.5, "{config}, line 11, key pools.default.timeout")),
        ("test", {}, {}, CONFIG, (180.0, "{config}, line 2, key timeout")),
        ("test", {}, {}, "timeout = 90", (90.0, "{config}, line 1, key timeout")),
        ("test", {}, {}, "", (120.0, "default")),
    ],
)
def test_precedence_of_timeout(
    machine: Machine,
    *,
    pool: str,
    options: dict[str, Any],
    environ: dict[str, str],
    config: str,
    timeout: tuple[float | None, str],
) -> None:
    """The timeout is the option's, else the variable's, the pool's in the file, the file's, else 120 s."""
    found = machine.with_environ(**environ).with_config(config).resolve(pool=pool, **options)
    assert timeout_of(found) == (timeout[0], timeout[1].format(config=machine.config))
    assert machine.said == []


@pytest.mark.parametrize(
    ("pool", "options", "environ", "config", "on_timeout"),
    [
        ("link", {"on_timeout": "run"}, {"BUILD_SLOTS_ON_TIMEOUT": "fail"}, CONFIG, ("run", "option")),
        ("test", {}, {"BUILD_SLOTS_ON_TIMEOUT": "fail"}, CONFIG, ("fail", "BUILD_SLOTS_ON_TIMEOUT")),
        ("link", {}, {}, CONFIG, ("fail", "{config}, line 8, key pools.link.on_timeout")),
        ("test", {}, {}, CONFIG, ("run", "{config}, line 3, key on_timeout")),
        ("test", {}, {}, "", ("run", "default")),
    ],
)
def test_precedence_of_on_timeout(
    machine: Machine,
    *,
    pool: str,
    options: dict[str, Any],
    environ: dict[str, str],
    config: str,
    on_timeout: tuple[str, str],
) -> None:
    """What happens after the timeout is found in the same order."""
    found = machine.with_environ(**environ).with_config(config).resolve(pool=pool, **options)
    assert on_timeout_of(found) == (on_timeout[0], on_timeout[1].format(config=machine.config))
    assert machine.said == []


@pytest.mark.parametrize(
    ("pool", "environ", "config", "journal"),
    [
        ("link", {"BUILD_SLOTS_JOURNAL": "off"}, 'journal = "commands"', ("off", "BUILD_SLOTS_JOURNAL")),
        (
            "link",
            {},
            'journal = "off"\n[pools.link]\njournal = "commands"',
            ("commands", "pools.link.journal"),
        ),
        ("test", {}, 'journal = "off"\n[pools.link]\njournal = "commands"', ("off", "journal")),
        ("test", {}, "", ("programs", "default")),
    ],
)
def test_precedence_of_journal(
    machine: Machine, *, pool: str, environ: dict[str, str], config: str, journal: tuple[str, str]
) -> None:
    """What the journal keeps is found in the same order; there is no option for it."""
    found = machine.with_environ(**environ).with_config(config).resolve(pool=pool)
    assert (found.journal, found.source("journal").rpartition(" ")[2]) == journal
    assert found.replace(timeout_s=1).journal == found.journal
    assert machine.said == []


def test_replace(machine: Machine) -> None:
    """The wait of one acquire can differ, and everything else stays."""
    before = machine.resolve(pool="link", slots=2)
    after = before.replace(timeout_s=None, on_timeout="fail")
    assert (timeout_of(after), on_timeout_of(after)) == ((None, "option"), ("fail", "option"))
    assert (after.pool, after.dir, slots_of(after)) == ("link", before.dir, (2, "option"))
    assert timeout_of(after.replace()) == (None, "option")
    assert timeout_of(before) == (120.0, "default")
    with pytest.raises(SettingError, match=r"^timeout: '-1' is not"):
        before.replace(timeout_s=-1)
    with pytest.raises(SettingError, match=r"^on_timeout: 'x' is none of"):
        before.replace(on_timeout="x")


def test_repr(machine: Machine) -> None:
    """Settings show all they have."""
    shown = repr(machine.resolve(slots=2, dir=os.sep))
    root = repr(os.path.abspath(os.sep))
    assert shown.startswith(
        f"<Settings address={root} agent=None are_own_slots=True dir={root} disabled=False "
    )
    assert "'slots': (2, 'option')" in shown
    assert shown.endswith(" slots=2 timeout_s=120.0 tokens=None wanted=1 weight=1>")
    assert repr(UNSET) == "UNSET"


@pytest.mark.parametrize("given", ["option", "environment", "file"])
def test_cores_are_counted_last(machine: Machine, given: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The machine's cores are counted only when nobody has said a number of slots."""
    monkeypatch.setattr(settings, "_machine_slots", lambda: pytest.fail("asked"))
    if given == "environment":
        machine.with_environ(MAX_CONCURRENT_BUILDS="2")
    if given == "file":
        machine.with_config("slots = 2")
    assert machine.resolve(**({"slots": 2} if given == "option" else {})).slots == 2


def test_machine_slots_are_those_of_cap() -> None:
    """The default number of slots is the machine's cap, and its source says so."""
    slots, source = settings._machine_slots()
    assert slots >= 2
    assert source.startswith("default for ")


# Pools and directories.


@pytest.mark.parametrize(
    ("option", "variable", "pool"),
    [(None, None, "default"), (None, "", "default"), (None, "link", "link"), ("test", "link", "test")],
)
def test_pool_is_option_or_variable(
    machine: Machine, option: str | None, variable: str | None, pool: str
) -> None:
    """The pool is the option's, else the variable's, else the default one."""
    if variable is not None:
        machine.with_environ(BUILD_SLOTS_POOL=variable)
    assert machine.resolve(pool=option).pool == pool


def test_directory_of_a_pool(machine: Machine, monkeypatch: pytest.MonkeyPatch) -> None:
    """The default pool is the directory itself, a named pool is below it, and both are absolute."""
    monkeypatch.chdir(machine.directory)
    here = os.getcwd()
    assert machine.resolve().dir == str(machine.directory / "slots")
    assert machine.resolve(pool="link").dir == str(machine.directory / "slots" / "pools" / "link")
    assert machine.resolve(dir="x/../y").dir == os.path.join(here, "y")
    assert machine.resolve(dir=Path("y"), pool="link").dir == os.path.join(here, "y", "pools", "link")
    assert list(machine.directory.iterdir()) == []


@pytest.mark.parametrize("path", ["~/slots", "~", "~me/slots", "slots", "./slots", "../slots", "$HOME/slots"])
def test_a_directory_that_is_another_one_everywhere(
    machine: Machine, monkeypatch: pytest.MonkeyPatch, path: str
) -> None:
    """A relative path, and a ~ that no shell has replaced, is reported in one line and ignored."""
    monkeypatch.setattr(places, "cache_dir", lambda _environ: os.path.join(os.path.abspath(os.sep), "cache"))
    machine.with_environ(BUILD_SLOTS_DIR=path)
    assert machine.resolve().dir == os.path.join(os.path.abspath(os.sep), "cache", ".build-slots")
    (said,) = machine.said
    assert said.startswith(f"BUILD_SLOTS_DIR: {path!r} is not an absolute path")
    assert said.endswith("ignored")


@pytest.mark.parametrize("path", ["~", "~/slots"])
def test_a_directory_option_whose_home_no_shell_has_put_in(machine: Machine, path: str) -> None:
    """Behind `--dir=` shells leave a ~ alone: that would make a directory of that name."""
    with pytest.raises(SettingError, match="begins with a ~ that no shell has replaced"):
        machine.resolve(dir=path)
    assert machine.resolve(dir="./~").dir == os.path.join(os.getcwd(), "~")


# Names that are nearly those of variables.


@pytest.mark.parametrize(
    ("name", "meant"),
    [
        ("BUILD_SLOTS_DRI", "BUILD_SLOTS_DIR"),
        ("BUILD_SLOT_DIR", "BUILD_SLOTS_DIR"),
        ("BUILDSLOTS_DIR", "BUILD_SLOTS_DIR"),
        ("BUILD_SLOTS_TIMOUT", "BUILD_SLOTS_TIMEOUT"),
        ("BUILD_SLOTS_TIME_OUT", "BUILD_SLOTS_TIMEOUT"),
        ("BULID_SLOTS_POOL", "BUILD_SLOTS_POOL"),
        ("BUILD_SLOTS_JOURNALS", "BUILD_SLOTS_JOURNAL"),
        ("MAX_CONCURRENT_BUILD", "MAX_CONCURRENT_BUILDS"),
        ("MAX_CONCURENT_BUILDS", "MAX_CONCURRENT_BUILDS"),
        ("MAX_CONCURRENT_BUILDS2", "MAX_CONCURRENT_BUILDS"),
        ("MAX_CONCURRENT_BUILD_LINK", "MAX_CONCURRENT_BUILDS_LINK"),
    ],
)
def test_a_misspelt_variable_is_reported(machine: Machine, name: str, meant: str) -> None:
    """In one line, and it counts for nothing."""
    machine.with_environ(**{name: "1"}).resolve(pool="link")
    assert machine.said == [f"{name} is no setting, and ignored: the variable is {meant}"]


def test_other_programs_variables_are_none_of_ours(machine: Machine) -> None:
    """Nor are ours misspelt, those of other pools among them."""
    names = ("MAX_CONCURRENT_JOBS", "MAX_CONCURRENT_REQUESTS", "SLOTS", "HADOOP_SLOTS", "BUILD_SLOTS_OF_2")
    ours = ("BUILD_SLOT", "BUILD_SLOTS_HELD", "MAX_CONCURRENT_BUILDS_LNIK", "MAX_CONCURRENT_BUILDS_WEB_LINK")
    machine.with_environ(**dict.fromkeys((*names, *ours), "1")).resolve()
    assert machine.said == []


def test_a_build_reports_its_misspelt_variables_itself(pool: Pool, tmp_path: Path) -> None:
    """And builds in the usual pool, wherever it starts."""
    del pool.environ["BUILD_SLOTS_DIR"]
    result = pool.slot_run("true", environ={"BUILD_SLOTS_DRI": "x", "BUILD_SLOTS_DIR": "~/x"}, cwd=tmp_path)
    lines = result.stderr.splitlines()
    assert (result.returncode, len(lines)) == (0, 2), lines
    assert "BUILD_SLOTS_DIR: '~/x' is not an absolute path" in lines[0]
    assert "~" not in os.listdir(tmp_path)
    result = pool.slot_run("true", environ={"BUILD_SLOTS_DRI": "x"}, cwd=tmp_path)
    text = "BUILD_SLOTS_DRI is no setting, and ignored: the variable is BUILD_SLOTS_DIR"
    assert result.stderr == f"slot-run: {text}\n"


def test_a_program_reports_misspelt_variables_once(pool: Pool) -> None:
    """However many pools it has."""
    code = "from buildslots import SlotPool; [SlotPool(name) for name in ('a', 'b', 'c')]"
    result = pool.run(sys.executable, "-W", "always", "-c", code, environ={"BUILD_SLOTS_DRI": "x"})
    assert result.stderr.count("the variable is BUILD_SLOTS_DIR") == 1


def test_directory_without_a_variable(machine: Machine, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without a directory of one's own the default pool is in the user's cache; an empty variable is none."""
    cache = os.path.join(os.path.abspath(os.sep), "cache")
    monkeypatch.setattr(places, "cache_dir", lambda _environ: cache)
    machine.with_environ(BUILD_SLOTS_DIR="")
    assert machine.resolve().dir == os.path.join(cache, ".build-slots")


XDG_VALUES = [None, "", "relative/dir", "/abs/dir", "/abs/dir/", "/"]


@LINUX
@pytest.mark.parametrize("home", ["/home/someone", "/home/someone/", "/", None])
@pytest.mark.parametrize("value", XDG_VALUES)
def test_xdg_rule_is_that_of_platformdirs(
    value: str | None, home: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The three lines of our own XDG rule and platformdirs name the same directories."""
    variables = ("XDG_CACHE_HOME", "XDG_CONFIG_HOME", "XDG_STATE_HOME")
    for name, text in (*((variable, value) for variable in variables), ("HOME", home)):
        if text is None:
            monkeypatch.delenv(name, raising=False)
        else:
            monkeypatch.setenv(name, text)
    theirs = platformdirs.user_config_dir("buildslots", appauthor=False)
    assert places.cache_dir(os.environ) == platformdirs.user_cache_dir()
    assert places.config_path(os.environ) == os.path.join(theirs, "config.toml")
    assert places.state_dir(os.environ) == platformdirs.user_state_dir("buildslots", appauthor=False)


@LINUX
@pytest.mark.parametrize("home", [None, "", "relative"])
def test_home_from_the_user_database(home: str | None) -> None:
    """A home that is not set, or no absolute path, is looked up in the user database."""
    import pwd  # noqa: PLC0415 - absent on Windows

    expected = os.path.join(pwd.getpwuid(os.getuid()).pw_dir, ".cache")
    assert places.cache_dir({} if home is None else {"HOME": home}) == expected


@LINUX
def test_no_home_at_all(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without any home there is no cache and no config file, and a directory of one's own still works."""

    def nobody(uid: int) -> None:
        raise KeyError(uid)

    monkeypatch.setattr("pwd.getpwuid", nobody)
    with pytest.raises(FileNotFoundError) as caught:
        resolve(environ={}, warn=pytest.fail)
    assert (caught.value.errno, caught.value.strerror) == (
        errno.ENOENT,
        "no home directory: set HOME or BUILD_SLOTS_DIR",
    )
    found = resolve(environ={"BUILD_SLOTS_DIR": str(tmp_path)}, slots=1, warn=pytest.fail)
    assert found.dir == str(tmp_path)


@pytest.mark.parametrize("answer", ["known", "unknown"])
def test_off_linux_platformdirs_is_asked(answer: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Off Linux platformdirs names the directories, and its failure is an OSError too."""

    def directory(*args: object, **options: object) -> str:
        if answer == "unknown":
            raise RuntimeError("could not determine the home directory")
        return os.path.join("there", repr((args, options)))

    monkeypatch.setattr(sys, "platform", "darwin")
    monkeypatch.setattr(platformdirs, "user_cache_dir", directory)
    monkeypatch.setattr(platformdirs, "user_config_dir", directory)
    monkeypatch.setattr(platformdirs, "user_state_dir", directory)
    if answer == "unknown":
        for find in (places.cache_dir, places.config_path, places.state_dir):
            with pytest.raises(FileNotFoundError, match="no home directory: set HOME or BUILD_SLOTS_DIR"):
                find({})
    else:
        assert places.cache_dir({}) == os.path.join("there", "((), {})")
        expected = os.path.join("there", "(('buildslots',), {'appauthor': False})", "config.toml")
        assert places.config_path({}) == expected
        assert places.state_dir({}) == os.path.dirname(expected)


# Wrong values in the environment.


@pytest.mark.parametrize(
    ("name", "text", "problem"),
    [
        ("MAX_CONCURRENT_BUILDS", "abc", "is not a positive whole number"),
        ("MAX_CONCURRENT_BUILDS", "0", "is not a positive whole number"),
        ("MAX_CONCURRENT_BUILDS", "4\r\x1b[31m", "is not a positive whole number"),
        ("BUILD_SLOTS_TIMEOUT", "1d", "is not a duration such as 90, 90s, 2m, 1h30m or none"),
        ("BUILD_SLOTS_ON_TIMEOUT", "ignore", "is none of 'run', 'paced' and 'fail'"),
        ("BUILD_SLOTS_POOL", "a/b", NO_POOL),
    ],
)
def test_wrong_variable_is_reported_and_ignored(machine: Machine, name: str, text: str, problem: str) -> None:
    """A wrong variable costs one line, and the settings are as if it were not set."""
    expected = repr(machine.with_config(CONFIG).resolve())
    assert repr(machine.with_environ(**{name: text}).resolve()) == expected
    assert machine.said == [f"{name}: {text!r} {problem}; ignored"]
    assert "\n" not in machine.said[0]
    assert "\x1b" not in machine.said[0]


def test_variable_of_a_named_pool_is_named(machine: Machine) -> None:
    """The report names the variable of the pool in question, and others' are not looked at."""
    machine.with_environ(MAX_CONCURRENT_BUILDS="x", MAX_CONCURRENT_BUILDS_LINK="y").resolve(pool="link")
    assert machine.said == ["MAX_CONCURRENT_BUILDS_LINK: 'y' is not a positive whole number; ignored"]


def test_overridden_variable_is_not_reported(machine: Machine) -> None:
    """A wrong variable that would not have counted is nobody's concern."""
    machine.with_environ(MAX_CONCURRENT_BUILDS="x", BUILD_SLOTS_TIMEOUT="x", BUILD_SLOTS_ON_TIMEOUT="x")
    machine.resolve(slots=1, timeout_s=0, on_timeout="run")
    assert machine.said == []


def test_own_environment_is_the_default(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without an environment given, the process's own counts."""
    monkeypatch.setattr(places, "config_path", lambda _environ: str(tmp_path / "absent"))
    monkeypatch.setenv("BUILD_SLOTS_DIR", str(tmp_path))
    monkeypatch.setenv("MAX_CONCURRENT_BUILDS", "4")
    found = resolve(warn=pytest.fail)
    assert (found.dir, found.slots) == (str(tmp_path), 4)


# Mistakes in the config file.

NO_SLOTS = "is not a positive whole number"
NO_DURATION = "is not a duration such as 90, 90s, 2m, 1h30m or none"
TOO_LONG = "is longer than ten years; 'none' waits for ever"


@pytest.mark.parametrize(
    ("text", "reports"),
    [
        pytest.param("slots = 0", [f", line 1, key slots: '0' {NO_SLOTS}"], id="zero"),
        pytest.param("\n# few\nslots = -2", [f", line 3, key slots: '-2' {NO_SLOTS}"], id="negative"),
        pytest.param("slots = true", [f", line 1, key slots: 'true' {NO_SLOTS}"], id="bool"),
        pytest.param("slots = 2.0", [f", line 1, key slots: '2.0' {NO_SLOTS}"], id="float"),
        pytest.param('slots = "2"', [f", line 1, key slots: '\"2\"' {NO_SLOTS}"], id="number-in-quotes"),
        pytest.param(
            "slots = 1000000000",
            [", line 1, key slots: '1000000000' is more than 999999999 slots"],
            id="many",
        ),
        pytest.param("slots = [2]", [f", line 1, key slots: '[...]' {NO_SLOTS}"], id="array"),
        pytest.param("slots = 2024-02-29", [f", line 1, key slots: '2024-02-29' {NO_SLOTS}"], id="date"),
        pytest.param(
            '[pools.link]\ntimeout = "1m"\n\nslots = "x"',
            [f", line 4, key pools.link.slots: 'x' {NO_SLOTS}"],
            id="table",
        ),
        pytest.param(
            'a = """\n\nslots = 1"""\nslots = 0',
            ["/a", f", line 4, key slots: '0' {NO_SLOTS}"],
            id="after-text",
        ),
        pytest.param(
            "pools.link.slots = 0", [f", line 1, key pools.link.slots: '0' {NO_SLOTS}"], id="dotted"
        ),
        pytest.param(
            "# All in one.\npools = { link = { slots = 0 } }",
            [f", line 2, key pools.link.slots: '0' {NO_SLOTS}"],
            id="inline",
        ),
        pytest.param(
            "[pools]\nlink.slots = 0",
            [f", line 2, key pools.link.slots: '0' {NO_SLOTS}"],
            id="dotted-in-table",
        ),
        pytest.param(
            "[ pools . 'link' ]  # here\r\nslots=0\r\n",
            [f", line 2, key pools.link.slots: '0' {NO_SLOTS}"],
            id="blanks-quotes-crlf",
        ),
        pytest.param("timeout = -1", [f", line 1, key timeout: '-1' {NO_DURATION}"], id="timeout-negative"),
        pytest.param("timeout = nan", [f", line 1, key timeout: 'nan' {NO_DURATION}"], id="timeout-nan"),
        pytest.param("timeout = false", [f", line 1, key timeout: 'false' {NO_DURATION}"], id="timeout-bool"),
        pytest.param("timeout = inf", [f", line 1, key timeout: 'inf' {TOO_LONG}"], id="timeout-inf"),
        pytest.param(
            "timeout = 315360001", [f", line 1, key timeout: '315360001' {TOO_LONG}"], id="timeout-long"
        ),
        pytest.param('timeout = "1d"', [f", line 1, key timeout: '1d' {NO_DURATION}"], id="timeout-text"),
        pytest.param(
            "timeout = {a = 1}", [f", line 1, key timeout: '{{...}}' {NO_DURATION}"], id="timeout-table"
        ),
        pytest.param(
            'on_timeout = "wait"',
            [", line 1, key on_timeout: 'wait' is none of 'run', 'paced' and 'fail'"],
            id="on",
        ),
        pytest.param(
            "on_timeout = 1",
            [", line 1, key on_timeout: '1' is none of 'run', 'paced' and 'fail'"],
            id="on-type",
        ),
        pytest.param(
            "journal = false",
            [", line 1, key journal: 'false' is none of 'off', 'programs' and 'commands'"],
            id="journal-type",
        ),
        pytest.param(
            'journal = "on"',
            [", line 1, key journal: 'on' is none of 'off', 'programs' and 'commands'"],
            id="journal",
        ),
        pytest.param("slot = 2", [", line 1, key slot: no such setting, perhaps 'slots'"], id="unknown"),
        pytest.param("xyz = 2", [", line 1, key xyz: no such setting"], id="unknown-unlike"),
        pytest.param(
            "[pool.a]\nslots = 1",
            [", line 1, key pool: no such setting, perhaps 'pools'"],
            id="unknown-table",
        ),
        pytest.param(
            "[pools.a]\non-timeout = 1\npools = 1",
            [
                ", line 2, key pools.a.on-timeout: no such setting, perhaps 'on_timeout'",
                ", line 3, key pools.a.pools: no such setting",
            ],
            id="unknown-in-pool",
        ),
        pytest.param(
            '"a\\nb\\u001b" = 1', [r", line 1, key 'a\nb\x1b': no such setting"], id="unknown-hostile"
        ),
        pytest.param("pools = 3", [", line 1, key pools: '3' is not a table of pools"], id="pools"),
        pytest.param(
            "[[pools]]\na = 1", [", line 1, key pools: '[...]' is not a table of pools"], id="pools-array"
        ),
        pytest.param("[pools]\nlink = 3", [", line 2, key pools.link: '3' is not a table"], id="pool-number"),
        pytest.param(
            "[[pools.link]]\nslots = 1", [", line 1, key pools.link: '[...]' is not a table"], id="pool-array"
        ),
        pytest.param(
            "[pools.'a/b']\nslots = 1", [f", line 1, key pools.'a/b': 'a/b' {NO_POOL}"], id="pool-name"
        ),
        pytest.param(
            "[pools.a]\n\n[pools.con]\n",
            [", line 3, key pools.con: 'con' is the name of a device on Windows"],
            id="pool-device",
        ),
        pytest.param(
            "slots = 0\ntimeout = -1\n",
            [f", line 1, key slots: '0' {NO_SLOTS}", f", line 2, key timeout: '-1' {NO_DURATION}"],
            id="two",
        ),
    ],
)
def test_config_mistakes(machine: Machine, text: str, reports: list[str]) -> None:
    """A mistake costs one line with file, line and key, and the settings are as if it were not there."""
    expected = repr(machine.resolve())
    assert repr(machine.with_config(text).resolve()) == expected
    if reports[0] == "/a":
        reports = [", line 1, key a: no such setting", *reports[1:]]
    assert machine.said == [f"{machine.config}{report}; ignored" for report in reports]


@pytest.mark.parametrize(
    ("content", "report"),
    [
        (b"slots = 2\nslots\n", ", line 2: Expected '=' after a key in a key/value pair (column 6)"),
        (b"slots = 2\nx = [1,\n", ", line 2: Invalid value (at the end)"),
        (b"slots = 2\nslots = 2\n\n", ", line 2: Cannot overwrite a value"),
        (b"slots = 2\n# na\xefve\n", ", line 2: byte 0xef is not UTF-8"),
        (b"\xff\xfes\0l\0", ", line 1: byte 0xff is not UTF-8"),
        (b"\0" * 100, ", line 1: Invalid statement (column 1)"),
        (b"x = " + b"[" * 10000, ": maximum recursion depth exceeded"),
        (b"x = " + b"9" * 5000, ": Exceeds the limit (4300 digits)"),
    ],
)
def test_config_that_is_not_toml(machine: Machine, content: bytes, report: str) -> None:
    """A file that is no TOML at all is reported with the line and ignored as a whole."""
    assert machine.with_config(content).resolve().slots == 5
    [said] = machine.said
    assert said.startswith(f"{machine.config}{report}")
    assert said.endswith("; the whole file is ignored")
    assert "\n" not in said


def test_config_of_hostile_bytes(machine: Machine) -> None:
    """What a config file does to the reader or to the search for lines never reaches the build."""
    hostile = [
        b".".join([b"a"] * 3000) + b" = 1",
        b"[" + b".".join([b"a"] * 3000) + b"]\nslots = 0",
        b"x = [\n" + b"1,\n" * 5000 + b"]\nslots = 0",
        b"\n".join(b"[[a]]" for _ in range(2000)),
        b"slots = 0x" + b"f" * 10000,
        b'"' + b"k" * 10000 + b'" = "' + b"v" * 5000 + b'"',
        b"\n" * 16000,
        bytes(range(256)) * 10,
    ]
    for content in hostile:
        machine.said.clear()
        assert machine.with_config(content).resolve().slots == 5
        assert all(len(line) < 400 and "\n" not in line for line in machine.said)


CROWDED = "more than 16 dots outside comments and texts; the whole file is ignored"


@pytest.mark.parametrize(
    ("text", "line"),
    [
        pytest.param("a." * 8000 + "a = 1", 1, id="key"),
        pytest.param("slots = 2\n[" + "a." * 4000 + "a]\n" + "b = 1\n" * 1000, 2, id="table"),
        pytest.param("# " + "." * 99 + "\n" + "a . " * 17 + "a = 1", 2, id="blanks"),
        pytest.param("x = [\n{" + "a." * 17 + "a = 1}]", 2, id="inline"),
        pytest.param("'#'." + "a." * 17 + "a = 1", 1, id="behind-a-hash-in-a-text"),
        pytest.param('"\\"#"' + ".a" * 17 + " = 1", 1, id="behind-an-escape"),
        pytest.param('x = ["""\n"#""""", {' + "a." * 17 + "a = 1}]", 2, id="behind-five-quotes"),
        pytest.param("x = ['''\n#''''', {" + "a." * 17 + "a = 1}]", 2, id="behind-five-apostrophes"),
        pytest.param('x = "\\\\" # "\n' + "a." * 17 + "a = 1", 2, id="behind-a-backslash"),
    ],
)
def test_config_with_a_key_of_many_parts(machine: Machine, text: str, line: int) -> None:
    """The reader would take seconds over it: the file is refused, and the line named."""
    assert machine.with_config(text).resolve().slots == 5
    assert machine.said == [f"{machine.config}, line {line}: {CROWDED}"]


def test_dots_in_comments_and_texts_are_nobody_s_concern(machine: Machine) -> None:
    """Nor are those of several lines together."""
    dots = "." * 99
    text = f'# {dots}\nslots = 2 # {dots}\nx = \'{dots}\'\ny = """\n{dots}"\\"#\n{dots}"""\n'
    assert machine.with_config(text + "[pools.a.b]\nc.d = 1.5\n" * 1).resolve().slots == 2
    assert [line.partition(": ")[2] for line in machine.said] == [
        "no such setting; ignored",
        "no such setting; ignored",
        "no such setting; ignored",
    ]


def test_the_line_of_a_key_behind_long_values(machine: Machine) -> None:
    """However many lines they have, and whatever brackets and quotes are in them."""
    values = ["[\n" + "1, # ]\n" * 200 + "]", '"""\n' + "[{\n" * 150 + '"""', "'''\n\n#'''", "'['", '"\\"["']
    text = "".join(f"x{number} = {value}\n" for number, value in enumerate(values))
    machine.with_config(f"{text}slots = 0\n[pools.link]\nslots = 0\n").resolve()
    after = text.count("\n")
    lines = [line.split(", ")[1] for line in machine.said]
    assert lines == [
        "line 1",
        "line 203",
        "line 355",
        "line 358",
        "line 359",
        f"line {after + 1}",
        f"line {after + 3}",
    ]


def test_config_with_thousands_of_mistakes(machine: Machine) -> None:
    """The first ten are named, the rest is counted."""
    machine.with_config("".join(f"slot{number} = 1\n" for number in range(1200))).resolve()
    assert len(machine.said) == 11
    assert (
        machine.said[9] == f"{machine.config}, line 10, key slot9: no such setting, perhaps 'slots'; ignored"
    )
    assert machine.said[10] == f"{machine.config}: 1190 more mistakes; ignored"


def test_byte_order_mark_is_no_mistake(machine: Machine) -> None:
    """A file with the mark that Windows editors leave is read like any other."""
    assert machine.with_config(b"\xef\xbb\xbfslots = 2\r\n").resolve().slots == 2
    assert machine.said == []


def test_config_in_a_directory_that_would_steer_a_terminal(machine: Machine) -> None:
    """Neither what is said of the file nor the source of a setting does."""
    machine.config = machine.directory / "\x1b[31m"
    found = machine.with_config("slots = 2\nx = 1\n").resolve()
    assert found.slots == 2
    assert "\x1b" not in found.source("slots") + "".join(machine.said)
    assert "?[31m, line 2" in machine.said[0]


def test_config_mistake_is_reported_once(machine: Machine) -> None:
    """One process says the same about the file once, and says something new when it changes."""
    for _ in range(3):
        machine.with_config("slots = 0").resolve()
    assert len(machine.said) == 1
    machine.with_config("slots = -1").resolve()
    assert len(machine.said) == 2


def test_mistake_in_another_pool_is_reported(machine: Machine) -> None:
    """The whole file is checked, whichever pool is asked for, and what is right in it counts."""
    found = machine.with_config("[pools.link]\nslots = 0\ntimeout = 7\n[pools.test]\nslots = 2").resolve(
        pool="test"
    )
    assert (found.slots, found.timeout_s) == (2, 120.0)
    assert machine.said == [f"{machine.config}, line 2, key pools.link.slots: '0' {NO_SLOTS}; ignored"]


def test_no_config(machine: Machine) -> None:
    """A file that is not there, or whose directory is a file, is no mistake."""
    assert machine.resolve().slots == 5
    machine.directory.joinpath("file").touch()
    machine.config = machine.directory / "file" / "config.toml"
    assert machine.resolve().slots == 5
    assert machine.said == []


def test_config_that_cannot_be_read(machine: Machine, monkeypatch: pytest.MonkeyPatch) -> None:
    """A file that is there and cannot be read is reported with the reason."""

    def denied(*_args: object, **_options: object) -> int:
        raise PermissionError(errno.EACCES, "Permission denied")

    machine.config.touch()
    monkeypatch.setattr(os, "open", denied)
    assert machine.resolve(slots=1).timeout_s == 120.0
    assert machine.said == [f"{machine.config}: cannot be read: Permission denied; ignored"]


@pytest.mark.skipif(os.name == "nt", reason="Windows has no FIFOs and says Permission denied to directories")
def test_config_that_is_no_file(machine: Machine) -> None:
    """A directory, a FIFO, a device without end or an impossible name in the file's place stops nothing."""
    machine.config.mkdir()
    machine.resolve()
    machine.config = machine.directory / "fifo"
    os.mkfifo(machine.config)
    machine.resolve()
    machine.config = Path("/dev/zero")
    machine.resolve()
    machine.config = Path("nul\0nul")
    machine.resolve()
    impossible = machine.said.pop()
    assert machine.said == [
        f"{machine.directory / 'config.toml'}: cannot be read: Is a directory; ignored",
        "/dev/zero: is larger than 16 KiB; ignored",
    ]
    # The rest is Python's and changes with its version.
    assert impossible.startswith("'nul\\x00nul': cannot be read: ")
    assert "embedded null" in impossible


# What is loaded.

LOADED = """
import sys
sys.path.insert(0, sys.argv[1])
import os
before = set(sys.modules)
from buildslots.settings import resolve
found = resolve(warn=sys.exit)
assert found.slots >= 2, found
print("\\n".join(sorted(set(sys.modules) - before)))
"""


@LINUX
@pytest.mark.parametrize("home", ["set", "unset"])
def test_nothing_heavy_is_loaded(tmp_path: Path, home: str) -> None:
    """Without a config file, all settings are found with our own modules and those built into Python."""
    environ = {"XDG_CONFIG_HOME": str(tmp_path)} | ({"HOME": str(tmp_path)} if home == "set" else {})
    command = [sys.executable, "-I", "-S", "-c", LOADED, str(Path(settings.__file__).parents[2])]
    run = subprocess.run(command, env=environ, capture_output=True, text=True, timeout=60, check=False)
    assert (run.returncode, run.stderr) == (0, "")
    loaded = set(run.stdout.split())
    ours = {"buildslots", "buildslots.errors", "buildslots.settings"}
    ours |= {f"buildslots.settings.{name}" for name in ("machine", "options", "places", "values")}
    assert ours <= loaded
    # `from __future__ import annotations` imports a real, small module.
    assert loaded - ours - set(sys.builtin_module_names) <= {"__future__"}


# The errors themselves.


@pytest.mark.parametrize(
    ("error", "builtin", "sentence"),
    [
        (
            SettingError("--slots", "abc", "is not a positive whole number"),
            ValueError,
            "--slots: 'abc' is not a positive",
        ),
        (
            errors.SlotTimeoutError("link", 30, 30.02),
            TimeoutError,
            "no slot of pool 'link' became free within 30 s",
        ),
        (
            errors.SlotTimeoutError("link", 0.5, 0.5),
            TimeoutError,
            "no slot of pool 'link' became free within 0.5 s",
        ),
        (
            errors.SlotTimeoutError("link", 3e8, 1.0),
            TimeoutError,
            "no slot of pool 'link' became free within 300000000 s",
        ),
        (
            errors.SlotTimeoutError("link", 0.0, 0.0),
            TimeoutError,
            "no slot of pool 'link' became free within 0 s",
        ),
        (
            errors.SlotReleasedError("link", 3),
            RuntimeError,
            "slot 3 of pool 'link' has already been released",
        ),
        (
            errors.SlotReleasedError("link", None),
            RuntimeError,
            "a slot of pool 'link' has already been released",
        ),
        (
            errors.NotSlotOwnerError("link", 3, 100, 200),
            RuntimeError,
            "slot 3 of pool 'link' belongs to process 100, not to process 200",
        ),
        (
            errors.UnthrottledWarning("link", "No space left on device"),
            RuntimeWarning,
            "this build runs without a slot of pool 'link': No space left on device",
        ),
    ],
)
def test_errors(error: Exception, builtin: type[Exception], sentence: str) -> None:
    """Every error is a built-in one with a sentence, and pickling keeps its type, values and notes."""
    assert isinstance(error, builtin)
    assert str(error).startswith(sentence)
    error.add_note("while linking")
    for protocol in range(pickle.HIGHEST_PROTOCOL + 1):
        copy = pickle.loads(pickle.dumps(error, protocol))
        assert type(copy) is type(error)
        assert (str(copy), copy.args, vars(copy)) == (str(error), error.args, vars(error))


def test_error_attributes() -> None:
    """An error's values are its attributes, whole even where the sentence shortens them."""
    long = "9" * 500
    setting = SettingError("--slots", long, "is more than 5 slots")
    assert (setting.source, setting.value, setting.problem) == ("--slots", long, "is more than 5 slots")
    assert str(setting) == f"--slots: '{long[:57]}...' is more than 5 slots"
    timeout = errors.SlotTimeoutError("link", 30.0, 31.5)
    assert (timeout.pool, timeout.timeout_s, timeout.waited_s, timeout.errno) == ("link", 30.0, 31.5, None)
    released = errors.SlotReleasedError("link", 3)
    assert (released.pool, released.number) == ("link", 3)
    owner = errors.NotSlotOwnerError("link", 3, 100, 200)
    assert (owner.pool, owner.number, owner.owner_pid, owner.pid) == ("link", 3, 100, 200)
    warning = errors.UnthrottledWarning("link", "disk full")
    assert (warning.pool, warning.cause) == ("link", "disk full")


# Coding agents.


@pytest.mark.parametrize(
    ("environ", "agent"),
    [
        ({"CLAUDECODE": "1"}, "CLAUDECODE"),
        ({"GEMINI_CLI": "1"}, "GEMINI_CLI"),
        ({"CODEX_SANDBOX": "seatbelt"}, "CODEX_SANDBOX"),
        ({"BUILD_SLOTS_AGENT": "opencode"}, "BUILD_SLOTS_AGENT"),
        ({"CODEX_HOME": "/home/me/.codex", "CLAUDECODE": ""}, None),
        ({"CLAUDECODE": "1", "BUILD_SLOTS_AGENT": "0"}, None),
        ({}, None),
    ],
)
def test_an_agent_waits_longer_and_behind_people(
    machine: Machine, environ: dict[str, str], agent: str | None
) -> None:
    """By default; whatever anybody says counts before that."""
    found = machine.with_environ(**environ).resolve()
    waits = (found.timeout_s, found.on_timeout, found.priority)
    assert waits == ((120.0, "run", "normal") if agent is None else (600.0, "paced", "low"))
    source = "default" if agent is None else f"default for agents ({agent} is set)"
    assert {found.source(name) for name in ("timeout", "on_timeout", "priority")} == {source}
    assert found.agent == agent
    machine.with_environ(BUILD_SLOTS_PRIORITY="normal").with_config('on_timeout = "run"\n')
    found = machine.resolve(timeout_s=7).replace()
    assert (found.timeout_s, found.on_timeout, found.priority, found.agent) == (7, "run", "normal", agent)
    assert machine.said == []
