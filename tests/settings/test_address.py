"""Where a pool on a server is: URLs, what counts of several, and what is said of that server."""

from __future__ import annotations

import pickle
from typing import TYPE_CHECKING

import pytest
from builds import Pool, script

from buildslots import SlotPool
from buildslots.batch.plan import load_plan
from buildslots.batch.task import PlanError
from buildslots.errors import SettingError
from buildslots.settings import compiled, file, pools_in_settings
from buildslots.settings.address import parse_url
from buildslots.settings.config import OF_SERVERS
from buildslots.settings.values import MAX_SLOTS
from buildslots.view.batch import run as run_batch
from buildslots.view.options import build_parser, parse

if TYPE_CHECKING:
    from pathlib import Path

    from hosts import Host

SECRET = "hunter2"
URL = "rediss://builds@ci.example/0/license"
TABLE = f'[pools.license]\nurl = "{URL}"\npassword_file = "~/.config/pw"\n'


@pytest.mark.parametrize(
    ("text", "url", "parts"),
    [
        ("redis://h/0/x", "redis://h/0/x", ("redis", None, "h", 6379, "", 0, "x")),
        ("redis://h/x", "redis://h/0/x", ("redis", None, "h", 6379, "", 0, "x")),
        ("redis://h:6379/01/x", "redis://h/1/x", ("redis", None, "h", 6379, "", 1, "x")),
        (
            "REDISS://me@CI.Example:6380/3/Lic",
            "rediss://me@ci.example:6380/3/Lic",
            ("rediss", "me", "ci.example", 6380, "", 3, "Lic"),
        ),
        ("redis://[::1]:1/0/x", "redis://[::1]:1/0/x", ("redis", None, "::1", 1, "", 0, "x")),
        (
            "redis://me@[FE80::1]/0/x",
            "redis://me@[fe80::1]/0/x",
            ("redis", "me", "fe80::1", 6379, "", 0, "x"),
        ),
        ("redis://h/0/7", "redis://h/0/7", ("redis", None, "h", 6379, "", 0, "7")),
        ("unix:///run/r.sock/2/x", "unix:///run/r.sock/2/x", ("unix", None, "", 0, "/run/r.sock", 2, "x")),
        (
            "unix://me@/run/r.sock/x",
            "unix://me@/run/r.sock/0/x",
            ("unix", "me", "", 0, "/run/r.sock", 0, "x"),
        ),
    ],
)
def test_a_url_has_one_normal_form(text: str, url: str, parts: tuple[object, ...]) -> None:
    """It is read as what it was read from, and goes to another process with all that it knows."""
    address = parse_url(text, "--pool")
    assert address == url
    names = ("scheme", "user", "host", "port", "path", "db", "name")
    assert tuple(getattr(address, name) for name in names) == parts
    assert parse_url(address, "--pool").server == address.server
    known = address.having(password_file="/pw", on_unreachable="fail", also_local=True, directory="/d")
    other = pickle.loads(pickle.dumps(known))
    assert (other, other.server, other.name, other.db) == (url, address.server, address.name, address.db)
    assert (other.password_file, other.on_unreachable, other.also_local, other.directory) == (
        "/pw",
        "fail",
        True,
        "/d",
    )


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("http://h/0/x", "is of a kind that is none of redis://, rediss://, unix://"),
        ("redis://h", "names no pool: it ends in /DB/NAME"),
        ("redis://h/0", "names no pool"),
        ("redis://h/0/", "names no pool"),
        ("unix:///run/r.sock/0", "names no pool"),
        ("redis:///0/x", "names no host"),
        ("redis://a,b/0/x", "names no host"),
        ("redis://[::1/0/x", "names no host"),
        ("redis://[::1]6379/0/x", "names no host"),
        ("redis://[fe80::1%eth0]/0/x", "has a character in it that no URL of a pool has"),
        ("redis://h:0/0/x", "has a port that is no number from 1 to 65535"),
        ("redis://h:/0/x", "has a port"),
        ("redis://h:65536/0/x", "has a port"),
        ("redis://h:6³/0/x", "has a port"),
        ("redis://h/0/x?db=1", "has a character in it"),
        ("redis://h/0/x y", "has a character in it"),
        ("redis://h/0/x\n", "has a character in it"),
        ("redis://h/5/0/x", "is not the address of a pool: redis://HOST/0/NAME"),
        ("redis://@h/0/x", "is not the address of a pool"),
        ("redis://h/0/.x", "is not the name of a pool"),
        ("redis://h/0/con", "is the name of a device"),
        ("unix://run/r.sock/0/x", "has no absolute path of a socket"),
        ("unix:///0/x", "has no absolute path of a socket"),
        (f"unix:///{'a' * 107}/0/x", "has no absolute path of a socket"),
        (f"redis://{'h' * 1000}/0/x", "is longer than 1000 characters"),
        (f"redis://{'h' * 254}/0/x", "names no host"),
        ("redis:h/0/x", "is not the name of a pool"),
    ],
)
def test_what_is_no_url_of_a_pool(host: Host, text: str, problem: str) -> None:
    """As an option it is the caller's mistake; in a variable it is one line, and the next source counts."""
    with pytest.raises(SettingError) as raised:
        host.resolve(pool=text)
    assert problem in str(raised.value)
    host.environ["BUILD_SLOTS_POOL"] = text
    assert host.resolve().pool == "default"
    (line,) = host.said
    assert problem in line
    assert "\n" not in line


@pytest.mark.parametrize(
    "url",
    [
        f"redis://me:{SECRET}@h/0/x",
        f"redis://:{SECRET}@h/0/x",
        f"rediss://me:a/b@{SECRET}@h/0/x",
        f"rediss://me:a b{SECRET}@h/0/x",
        f"redis://me:{SECRET}?@h/0/x",
        f"unix://me:{SECRET}@/run/r.sock/0/x",
        f"http://me:{SECRET}@h/0/x",
        f"redis://h/0/x?password={SECRET}",
        f"redis:me:{SECRET}@h/0/x",
        f"me:{SECRET}@h/0/x",
        f"redis://{'me' * 500}:{SECRET}@h/0/x",
    ],
)
def test_a_password_in_a_url_is_refused_and_not_shown(host: Host, url: str) -> None:
    """Wherever it is written: it would be shown by ps, and by whatever shows the URL."""
    with pytest.raises(SettingError) as raised:
        SlotPool(url)
    shown = [str(raised.value), repr(raised.value), repr(pickle.loads(pickle.dumps(raised.value)).value)]
    for name in ("BUILD_SLOTS_POOL", "BUILD_SLOTS_URL"):
        host.environ[name] = url
        assert isinstance(host.resolve().address, str)
        assert len(host.said) == 1
        shown += [host.said[0], repr(host.resolve())]
        del host.environ[name]
    host.config.write_text(f'[pools.license]\nurl = "{url}"\n')
    host.project.write_text(f'pool = "{url}"\n')
    shown.append(repr(host.resolve(pool="license")))
    assert len(host.said) == 2
    shown += host.said
    assert not [text for text in shown if SECRET in text]


def test_what_counts_of_several_urls(host: Host) -> None:
    """An option, BUILD_SLOTS_POOL, BUILD_SLOTS_URL, the user's file, the system's; and each is the source."""
    host.system.write_text('[pools.license]\nurl = "unix:///run/system/0/license"\n')
    host.config.write_text('[pools.license]\nurl = "unix:///run/config/0/license"\n')
    host.environ["BUILD_SLOTS_URL"] = "unix:///run/variable/0/license"
    host.environ["BUILD_SLOTS_POOL"] = "unix:///run/pool/0/license"
    found = host.resolve(pool="unix:///run/option/0/license")
    assert (found.address, found.pool) == ("unix:///run/option/0/license", "license")
    assert (found.source("url"), found.source("pool")) == ("option", "option")
    found = host.resolve()
    assert (found.address, found.source("url")) == ("unix:///run/pool/0/license", "BUILD_SLOTS_POOL")
    host.environ["BUILD_SLOTS_POOL"] = "license"
    found = host.resolve()
    assert (found.address, found.source("url")) == ("unix:///run/variable/0/license", "BUILD_SLOTS_URL")
    del host.environ["BUILD_SLOTS_URL"]
    found = host.resolve()
    assert found.address == "unix:///run/config/0/license"
    assert found.source("url") == f"{host.config}, line 2, key pools.license.url"
    host.config.unlink()
    found = host.resolve()
    assert found.address == "unix:///run/system/0/license"
    assert found.source("url") == f"{host.system}, line 2, key pools.license.url"
    host.system.unlink()
    found = host.resolve()
    assert found.address == found.dir == f"{host.home}/.cache/.build-slots/pools/license"
    assert host.said == []


def test_a_url_in_the_environment_is_where_the_pool_of_its_name_is(host: Host) -> None:
    """It does not make other builds ones of that pool: BUILD_SLOTS_POOL, which takes a URL too, does."""
    host.environ["BUILD_SLOTS_URL"] = URL
    assert pools_in_settings(host.environ, pytest.fail) == {"license"}
    assert host.resolve().address == host.resolve().dir
    assert host.resolve(pool="link").address == host.resolve(pool="link").dir
    assert host.address(pool="license") == URL
    assert host.said == []


def test_the_name_there_need_not_be_the_name_here(host: Host) -> None:
    """`-p ci` for a pool that its server calls otherwise; what is this machine's goes by its own name."""
    host.config.write_text('[pools.ci]\nurl = "unix:///run/r.sock/0/license"\nslots = 2\n')
    found = host.resolve(pool="ci")
    assert (found.pool, found.address.name, found.slots) == ("ci", "license", 2)
    assert found.dir == found.address.directory == f"{host.home}/.cache/.build-slots/pools/ci"


def test_a_server_knows_its_number_of_slots(host: Host) -> None:
    """Unless somebody says a smaller one, nothing here lowers it, however many cores this machine has."""
    host.config.write_text(TABLE + "[pools.web]\nslots = 2\n")
    found = host.resolve(pool="license", weight=7)
    assert (found.slots, found.are_own_slots, found.weight) == (MAX_SLOTS, False, 7)
    assert found.source("slots") == "the pool's own"
    assert host.said == []
    host.environ["MAX_CONCURRENT_BUILDS_LICENSE"] = "2"
    found = host.resolve(pool="license")
    assert (found.slots, found.are_own_slots) == (2, True)
    assert host.resolve(pool="license", slots=1).slots == 1


def test_what_a_table_says_of_its_server(host: Host) -> None:
    """With its source; what it does not say has a default."""
    host.config.write_text(TABLE)
    address = host.address(pool="license")
    assert (address.password_file, address.on_unreachable, address.also_local) == (
        f"{host.home}/.config/pw",
        "local",
        False,
    )
    host.config.write_text(TABLE + 'on_unreachable = "fail"\nalso_local = true\n')
    found = host.resolve(pool="license")
    assert (found.address.on_unreachable, found.address.also_local) == ("fail", True)
    assert found.source("on_unreachable") == f"{host.config}, line 4, key pools.license.on_unreachable"
    assert found.source("password_file") == f"{host.config}, line 3, key pools.license.password_file"
    assert found.replace(weight=2).address.password_file == f"{host.home}/.config/pw"
    other = pickle.loads(pickle.dumps(SlotPool(URL)))
    assert (other.name, other._settings.address.host) == ("license", "ci.example")


def test_a_password_goes_to_the_server_that_it_is_for(host: Host) -> None:
    """What stands beside the URL of one server says nothing of another one, wherever that was named."""
    host.config.write_text(TABLE + "plaintext = true\n")
    assert host.address(pool=URL).password_file == f"{host.home}/.config/pw"
    assert host.address(pool="rediss://builds@ci.example/3/license").password_file is not None
    for other in (
        "rediss://builds@evil.example/0/license",
        "rediss://builds@ci.example:1/0/license",
        "rediss://other@ci.example/0/license",
        "redis://builds@127.0.0.1/0/license",
    ):
        assert host.address(pool=other).password_file is None
    with pytest.raises(SettingError, match="would be spoken to in plain text"):
        host.resolve(pool="redis://builds@ci.example/0/license")
    host.system.write_text('[pools.license]\npassword_file = "/etc/pw"\n')
    assert host.address(pool="rediss://builds@evil.example/0/license").password_file == "/etc/pw"
    host.config.write_text('[pools.license]\npassword_file = "~/.config/pw"\n')
    host.environ["BUILD_SLOTS_URL"] = URL
    assert host.address(pool="license").password_file == f"{host.home}/.config/pw"


def test_plain_text_is_spoken_on_this_machine_only(host: Host) -> None:
    """Over a network if the user's file says so of that pool: of an option it is an error, else one line."""
    for near in ("localhost", "127.0.0.1", "127.8.8.8", "[::1]"):
        assert host.address(pool=f"redis://{near}/0/license").is_encrypted_or_near
    far = "redis://ci.example/0/license"
    problem = (
        "would be spoken to in plain text, by way of a network: write rediss://, or plaintext = true in "
        "[pools.license] of your config file"
    )
    for url in (
        far,
        "redis://127.evil.example/0/license",
        "redis://10.0.0.1/0/license",
        "redis://[::2]/0/license",
    ):
        with pytest.raises(SettingError) as raised:
            host.resolve(pool=url)
        assert str(raised.value) == f"pool: {url!r} {problem}"
    for name in ("BUILD_SLOTS_POOL", "BUILD_SLOTS_URL"):
        host.environ[name] = far
        found = host.resolve(pool="license" if name == "BUILD_SLOTS_URL" else None)
        assert (found.address, found.pool) == (found.dir, "license")
        assert host.said == [f"{name}: {far!r} {problem}; ignored"]
        del host.environ[name]
    host.config.write_text(f'[pools.license]\nurl = "{far}"\n')
    assert host.resolve(pool="license").address == host.resolve(pool="license").dir
    assert host.said == [f"{host.config}, line 2, key pools.license.url: {far!r} {problem}; ignored"]
    host.config.write_text(f'[pools.license]\nurl = "{far}"\nplaintext = true\n')
    assert host.address(pool="license") == host.address(pool=far) == far
    host.config.write_text("[pools.license]\nplaintext = true\n")
    assert host.address(pool=far) == far


@pytest.mark.parametrize(
    ("line", "problem"),
    [
        ('url = "license"', "'license' is not the address of a pool: redis://HOST/0/NAME"),
        ("url = 3", "'3' is not the URL of a pool"),
        ('password_file = "pw"', "'pw' is not the absolute path of a file, nor one that begins with ~/"),
        ('password_file = "~eve/pw"', "is not the absolute path of a file"),
        ('password_file = "/pw/"', "is not the absolute path of a file"),
        ('password_file = "/p\\u0000w"', "is not the absolute path of a file"),
        ('on_unreachable = "paced"', "'paced' is neither 'local' nor 'fail'"),
        ("on_unreachable = false", "'false' is neither 'local' nor 'fail'"),
        ("also_local = 1", "'1' is neither true nor false"),
        ('plaintext = "yes"', "'yes' is neither true nor false"),
        (f'password = "{SECRET}"', "no such setting, perhaps 'password_file'"),
        (f'passwd = "{SECRET}', "Illegal character"),
    ],
)
def test_mistakes_in_a_table(host: Host, line: str, problem: str) -> None:
    """One line, in which there is no password, and the rest of the table counts."""
    host.config.write_text(f"[pools.license]\nslots = 2\n{line}\n")
    found = host.resolve(pool="license")
    assert len(host.said) == 1
    assert host.said[0].startswith(f"{host.config}, line 3")
    assert problem in host.said[0]
    assert SECRET not in host.said[0]
    assert found.are_own_slots == ("Illegal" not in problem)


@pytest.mark.parametrize("key", OF_SERVERS)
def test_a_server_is_of_one_pool(host: Host, key: str) -> None:
    """What concerns it stands in the table of that pool, and in no project."""
    line = {"url": f'"{URL}"', "password_file": '"/pw"', "on_unreachable": '"fail"'}.get(key, "true")
    host.config.write_text(f"{key} = {line}\n")
    host.project.write_text(f"{key} = {line}\n")
    assert host.resolve(pool="license").address == host.resolve(pool="license").dir
    of_project, of_config = host.said
    yours = "not for a project to say: it is yours, in your config file; ignored"
    assert of_project == f"{host.project}, line 1, key {key}: {yours}"
    below = "it is of one pool, and belongs below a line [pools.NAME]; ignored"
    assert of_config == f"{host.config}, line 1, key {key}: {below}"


def test_a_project_names_no_server(host: Host) -> None:
    """It may name the pool, whose place its user knows."""
    host.project.write_text('pool = "rediss://evil.example/0/license"\n')
    assert host.resolve().pool == "default"
    why = "a pool on a server is not for a project to name: its pool has a name, and you say where that is"
    assert host.said == [f"{host.project}, line 1, key pool: {why}; ignored"]
    host.project.write_text('pool = "license"\n')
    host.config.write_text(TABLE)
    assert host.address() == URL


def test_what_was_kept_of_a_file_says_the_same(host: Host) -> None:
    """It is plain text, and goes through the same parsers."""
    of_license = 'on_unreachable = "fail"\nalso_local = true\nplaintext = false\ntokens = "auto"\n'
    host.config.write_text(f"{TABLE}{of_license}[pools.web]\ntokens = 3\n")
    said, problems, facts = file.read(str(host.config))
    assert (problems, len(said.said)) == ([], 7)
    assert facts is not None
    content = compiled.packed(str(host.config), facts, said, problems)
    again, lines = compiled._config(content.partition(b"\n")[2][16:].decode())
    assert (again.said, lines) == (said.said, [])
    assert again.said["url", "license"][0] == URL
    assert again.said["also_local", "license"][0] is True


def test_slot_run_says_it_in_a_sentence(pool: Pool) -> None:
    """125, before anything is run."""
    for given, said in (
        (
            f"-predis://me:{SECRET}@h/0/x",
            "--pool: 'redis://me:***@h/0/x' has a password in it, which every user",
        ),
        ("-predis://h/0", "--pool: 'redis://h/0' names no pool: it ends in /DB/NAME, as in /0/license"),
        ("--pool=redis://h/0/x", "pool: 'redis://h/0/x' would be spoken to in plain text"),
        ("--pool=http://h/0/x", "--pool: 'http://h/0/x' is of a kind that is none of redis://, rediss://"),
    ):
        result = pool.slot_run(given, "true")
        assert (result.returncode, result.stdout) == (125, "")
        assert result.stderr.startswith(f"slot-run: {said}")
        assert result.stderr.count("\n") == 1


def test_buildslots_repeats_no_password(pool: Pool, capsys: pytest.CaptureFixture[str]) -> None:
    """Neither the parser, which repeats what it does not know, nor a command."""
    url = f"redis://me:{SECRET}@h/0/x"
    for words in ((url,), ("-p", url), (f"--pool={url}",), (url, "-p", "x"), (url, url), ("--bad", url)):
        for command in ("status", "config", "rules", "batch"):
            with pytest.raises(SystemExit):
                parse(build_parser(), [command, *words])
            told = "".join(capsys.readouterr())
            assert "'redis://me:***@h/0/x' has a password in it" in told or f"--pool={url}" in words
            assert SECRET not in told
    result = pool.run(script("buildslots"), "config", "-p", url)
    assert result.returncode == 2
    assert SECRET not in result.stdout + result.stderr


def test_tasks_of_a_batch_name_a_pool_by_its_url(tmp_path: Path) -> None:
    """A mistake in a plan shows no password either; one in --pool is said once, and not for each task."""
    path = tmp_path / "plan.toml"
    path.write_text(f'[[task]]\nname = "a"\nrun = "true"\npool = "{URL}"\n')
    (task,) = load_plan(str(path)).tasks
    assert task.pool == URL
    path.write_text(path.read_text().replace("builds@", f"builds:{SECRET}@"))
    with pytest.raises(PlanError) as raised:
        load_plan(str(path))
    assert "'rediss://builds:***@ci.example/0/license' has a password in it" in str(raised.value)
    assert SECRET not in str(raised.value)
    parser = build_parser()
    with pytest.raises(SettingError, match="would be spoken to in plain text"):
        run_batch(parse(parser, ["batch", "-p", "redis://ci.example/0/license", str(path)]))


@pytest.mark.parametrize("host", ["ci..example", ".example", "example.", f"{'x' * 64}.example"])
def test_a_name_that_no_host_can_have_is_refused(host: str) -> None:
    """Whoever looks it up would fail in a way of its own (the codec "idna")."""
    with pytest.raises(SettingError, match="names no host"):
        parse_url(f"redis://{host}/0/license", "-p")


@pytest.mark.parametrize("host", ["127.0.0.256", "127.999.1.1"])
def test_what_is_no_address_is_not_this_machine(host: str) -> None:
    """It is a name, for which anybody may answer."""
    assert not parse_url(f"redis://{host}/0/license", "-p").is_encrypted_or_near
    assert parse_url("redis://127.0.0.255/0/license", "-p").is_encrypted_or_near
