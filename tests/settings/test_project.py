"""A project's file: where it is looked for, what it may say, whom it is believed; and the system's config."""

from __future__ import annotations

import os
import shlex
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from builds import script, wait_until
from namespaces import unshare
from users import ALICE, EVE, several_users

from buildslots import SlotPool, settings
from buildslots.settings import compiled, places, resolve
from buildslots.settings.config import OF_PROJECTS

if TYPE_CHECKING:
    from collections.abc import Callable

    from builds import Pool
    from users import Users

pytestmark = pytest.mark.skipif(os.name == "nt", reason="owners and modes are those of POSIX")


class Project:
    """A project below somebody's home, in which a build is started; and that user's config file."""

    def __init__(self, scratch: Path) -> None:
        self.home = scratch / "home"
        self.top = self.home / "work" / "site"
        self.here = self.top / "src" / "web"
        self.here.mkdir(parents=True)
        self.file = self.top / ".buildslots.toml"
        self.config = self.home / ".config" / "buildslots" / "config.toml"
        self.config.parent.mkdir(parents=True)
        self.system = scratch / "etc.toml"
        self.environ = {"HOME": str(self.home), "BUILD_SLOTS_DIR": str(scratch / "slots")}
        self.said: list[str] = []

    def says(self, text: str, path: Path | None = None) -> Project:
        path = path or self.file
        path.write_text(text)
        path.chmod(0o644)
        return self

    def resolve(self, **options: Any) -> settings.Settings:
        compiled._reported.clear()
        self.said.clear()
        return resolve(environ=self.environ, warn=self.said.append, **options)


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Project:
    """No settings yet. Whoever runs the tests is not root, which obeys no project."""
    found = Project(tmp_path)
    monkeypatch.chdir(found.here)
    monkeypatch.setattr(places, "system_config_path", lambda _environ: str(found.system))
    if os.geteuid() == 0:
        monkeypatch.setattr(os, "geteuid", lambda: EVE)
    return found


def test_all_that_a_project_may_say(project: Project) -> None:
    """Each value with its line."""
    project.says(
        'pool = "link"\nweight = 2\npriority = "low"\ntimeout = "5m"\non_timeout = "paced"\n'
        'label = "the site"\nmin_free_memory = "1G"\nmax_load = 9\nmax_pressure = {io = 40}\n'
    )
    found = project.resolve(slots=3)
    assert (found.pool, found.weight, found.priority, found.timeout_s) == ("link", 2, "low", 300.0)
    assert (found.on_timeout, found.label) == ("paced", "the site")
    assert found.gates is not None
    assert found.gates.as_dict() == {"min_free_memory": 2**30, "max_load": 9.0, "max_pressure": {"io": 40.0}}
    for line, key in enumerate(OF_PROJECTS, 1):
        assert found.source(key) == f"{project.file}, line {line}, key {key}"
    assert found.dir == str(Path(project.environ["BUILD_SLOTS_DIR"]) / "pools" / "link")
    assert project.said == []


def test_the_first_that_says_something_counts(project: Project) -> None:
    """Option, environment, project, user, system, default."""
    project.says("timeout = 3")
    project.says("timeout = 4", project.config)
    project.says("timeout = 5", project.system)
    project.environ["BUILD_SLOTS_TIMEOUT"] = "2"
    assert project.resolve(timeout_s=1).timeout_s == 1
    for timeout_s, take_away in (
        (2, lambda: project.environ.pop("BUILD_SLOTS_TIMEOUT")),
        (3, project.file.unlink),
        (4, project.config.unlink),
        (5, project.system.unlink),
        (120, lambda: None),
    ):
        found = project.resolve()
        assert found.timeout_s == timeout_s
        take_away()  # type: ignore[operator]
    assert found.source("timeout") == "default"


def test_the_pool_of_a_project_and_its_tables(project: Project) -> None:
    """What the user says of that pool counts for it, and before what the system says of it."""
    project.says('pool = "link"')
    project.says('slots = 9\n[pools.link]\ntimeout = "7m"', project.config)
    project.says('[pools.link]\nslots = 1\ntimeout = "9m"\nmax_load = 3', project.system)
    found = project.resolve()
    assert (found.pool, found.slots, found.timeout_s) == ("link", 1, 420.0)
    assert found.source("slots") == f"{project.system}, line 2, key pools.link.slots"
    assert found.source("max_load") == f"{project.system}, line 4, key pools.link.max_load"
    assert settings.pools_in_settings(project.environ, pytest.fail) == {"default", "link"}
    project.environ["BUILD_SLOTS_POOL"] = "other"
    assert (project.resolve().pool, project.resolve(pool="third").pool) == ("other", "third")


@pytest.mark.parametrize(
    ("line", "why"),
    [
        ("slots = 8", "not for a project to say: it may ask for less of the machine, never for more"),
        ('dir = "/tmp"', "not for a project to say: it may ask for less of the machine, never for more"),
        ("[pools.link]\nslots = 8", "not for a project to say: it may ask for less of the machine, never"),
        ('priority = "high"', "'high' is not for a project to say: it may ask for less"),
        ("timeout = 0", "0 is not for a project to say: nothing would bound its builds then, unless on_time"),
        ('journal = "commands"', "not for a project to say: it is yours, in your config file"),
        ("nice = 3", "not for a project to say: it is yours"),
        ("weigth = 2", "no such setting, perhaps 'weight'"),
        ("weight = 0", "'0' is not a positive whole number"),
        ('label = " "', "' ' is not a text that names the build"),
    ],
)
def test_what_a_project_may_not_say(project: Project, line: str, why: str) -> None:
    """One line says so, and all else counts."""
    project.says(f'label = "x"\non_timeout = "paced"\n{line}\n'.replace('label = "x"\n', "max_load = 7\n"))
    found = project.resolve()
    assert (found.on_timeout, found.gates is not None) == ("paced", True)
    assert found.source("slots").startswith("default")
    assert (found.priority, found.timeout_s, found.weight, found.label) == ("normal", 120.0, 1, None)
    [said] = project.said
    assert said.startswith(f"{project.file}, line 3, key ")
    assert why in said
    assert said.endswith("; ignored")
    project.says('timeout = 0\non_timeout = "fail"')
    assert (project.resolve().timeout_s, project.said) == (0.0, [])


def test_a_project_makes_nothing_less_strict(project: Project) -> None:
    """Of bounds on the machine the stricter one counts, and who is to stand behind others still does."""
    project.says(
        'max_load = 16\nmin_free_memory = "1G"\nmax_pressure = {io = 50, cpu = 9}\npriority = "normal"'
    )
    config = 'max_load = 8\nmin_free_memory = "2G"\nmax_pressure = {io = 40, memory = 10}\npriority = "low"'
    project.says(config, project.config)
    found = project.resolve()
    assert found.gates is not None
    bounds = {"io": 40.0, "memory": 10.0, "cpu": 9.0}
    assert found.gates.as_dict() == {"min_free_memory": 2 << 30, "max_load": 8.0, "max_pressure": bounds}
    assert found.priority == "low"
    assert found.source("max_load") == f"{project.config}, line 1, key max_load"
    assert found.source("max_pressure") == f"{project.file}, line 3, key max_pressure"
    project.says('max_load = 4\nmin_free_memory = "4G"\nmax_pressure = {io = 30}', project.file)
    found = project.resolve(gates={"max_load": 99.0})
    assert found.gates is not None
    bounds = {"io": 30.0, "memory": 10.0}
    assert found.gates.as_dict() == {"min_free_memory": 4 << 30, "max_load": 99.0, "max_pressure": bounds}


# Where it is looked for.


def below_the_top_of_a_repository(project: Project) -> None:
    (project.top / "src" / ".git").mkdir()


def below_a_worktree(project: Project) -> None:
    (project.here / ".git").write_text("gitdir: elsewhere\n")


def above_home(project: Project) -> None:
    project.environ["HOME"] = str(project.top / "src")


def above_home_by_another_name(project: Project) -> None:
    project.home.with_name("link").symlink_to(project.top / "src")
    project.environ["HOME"] = str(project.home.with_name("link"))


def too_far_above(project: Project) -> None:
    deep = project.here / "/".join("d" * 32)
    deep.mkdir(parents=True)
    os.chdir(deep)


@pytest.mark.parametrize(
    "is_out_of_reach",
    [
        below_the_top_of_a_repository,
        below_a_worktree,
        above_home,
        above_home_by_another_name,
        too_far_above,
    ],
)
def test_where_it_is_not_looked_for(project: Project, is_out_of_reach: Callable[[Project], None]) -> None:
    """It is found without that."""
    project.says("weight = 2")
    assert project.resolve(slots=2).weight == 2
    is_out_of_reach(project)
    assert project.resolve(slots=2).weight == 1


def test_the_nearest_one_counts_alone(project: Project) -> None:
    """In the working directory, at the top of the repository, and in the home; not two of them."""
    project.says("weight = 2\ntimeout = 7", project.home / ".buildslots.toml")
    assert project.resolve(slots=9).weight == 2
    (project.top / ".git").mkdir()
    project.says("weight = 3")
    assert (project.resolve(slots=9).weight, project.resolve().timeout_s) == (3, 120.0)
    project.says("weight = 4", project.here / ".buildslots.toml")
    assert project.resolve(slots=9).weight == 4
    assert places.project_path(project.environ) == str(project.here / ".buildslots.toml")


def test_a_directory_that_is_gone_has_none(project: Project) -> None:
    """Nor is anything said."""
    project.here.rmdir()
    assert (project.resolve().weight, project.said) == (1, [])


@pytest.mark.linux
def test_it_is_not_looked_for_above_a_mount_point(project: Project, pool: Pool) -> None:
    """What is mounted there may be somebody else's."""
    project.says("weight = 2")
    program = (
        "from buildslots.settings.places import project_path; import os; print(project_path(os.environ))"
    )
    inner = shlex.join([sys.executable, "-P", "-c", program])
    mount = f"mount -t tmpfs none {shlex.quote(str(project.here))}; cd {shlex.quote(str(project.here))}"
    result = pool.run(*unshare("--mount"), "sh", "-ec", f"cd / && {inner}; {mount}; {inner}")
    assert result.stdout.split() == ["None", "None"], result.stderr
    result = pool.run(sys.executable, "-P", "-c", program, cwd=project.here, environ=project.environ)
    assert result.stdout.strip() == str(project.file)


# Whom it is believed.


def everybody_can_write_it(project: Project) -> str:
    project.file.chmod(0o646)
    return "others can write it (chmod go-w); ignored"


def its_group_can_write_it(project: Project) -> str:
    project.file.chmod(0o664)
    return "others can write it (chmod go-w); ignored"


def it_is_another_user_s(project: Project) -> str:
    os.chown(project.file, ALICE, -1)
    return f"belongs to user {ALICE}, and neither to you nor to root; ignored"


def the_link_is_another_user_s(project: Project) -> str:
    project.file.rename(project.here / "file")
    project.file.symlink_to(project.here / "file")
    os.chown(project.file, ALICE, -1, follow_symlinks=False)
    return f"belongs to user {ALICE}, and neither to you nor to root; ignored"


def it_is_a_fifo(project: Project) -> str:
    project.file.unlink()
    os.mkfifo(project.file, 0o600)
    return "is no regular file; ignored"


def it_is_a_directory(project: Project) -> str:
    project.file.unlink()
    project.file.mkdir()
    return "is no regular file; ignored"


def it_is_too_large(project: Project) -> str:
    project.says("weight = 2\n" + "#" * 16384)
    return "is larger than 16 KiB; ignored"


@pytest.mark.parametrize(
    "planted",
    [
        everybody_can_write_it,
        its_group_can_write_it,
        it_is_a_fifo,
        it_is_a_directory,
        it_is_too_large,
        pytest.param(it_is_another_user_s, marks=several_users),
        pytest.param(the_link_is_another_user_s, marks=several_users),
    ],
)
def test_what_others_may_have_said_is_named_and_ignored(
    project: Project, planted: Callable[[Project], str]
) -> None:
    """The same is believed without that."""
    project.says("weight = 2")
    assert (project.resolve(slots=2).weight, project.said) == (2, [])
    sentence = planted(project)
    assert project.resolve(slots=2).weight == 1
    assert project.said == [f"{project.file}: {sentence}"]


def test_a_group_of_one_s_own_is_nobody_else(project: Project, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where umask is 002, git makes files that this group can write. A further member makes it another's."""
    import grp  # noqa: PLC0415 - not on Windows
    import pwd  # noqa: PLC0415

    project.says("weight = 2").file.chmod(0o664)
    group = project.file.stat().st_gid
    members: list[str] = []
    user = pwd.struct_passwd(("me", "x", EVE, group, "", "/", ""))
    monkeypatch.setattr(pwd, "getpwuid", lambda _: user)
    monkeypatch.setattr(grp, "getgrgid", lambda _: grp.struct_group(("me", "x", group, members)))
    assert (project.resolve(slots=2).weight, project.said) == (2, [])
    members.append("mallory")
    assert project.resolve(slots=2).weight == 1


def test_root_obeys_no_project(project: Project, monkeypatch: pytest.MonkeyPatch) -> None:
    """One line says so."""
    project.says("weight = 2")
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    assert project.resolve(slots=2).weight == 1
    assert project.said == [f"{project.file}: root obeys no project; ignored"]


# The whole of it.


@several_users
def test_builds_of_a_user_in_a_project(users: Users, tmp_path: Path) -> None:
    """slot-run and the library go to its pool under its label, and the second of them reads no TOML."""
    home = tmp_path / "shared" / "home"
    project = home / "site"
    project.mkdir(parents=True)
    file = project / ".buildslots.toml"
    file.write_text('pool = "link"\nlabel = "the site"\ntimeout = "3s"\non_timeout = "fail"\nslots = 7\n')
    for path in (home, project, file):
        os.chown(path, ALICE, ALICE)
    users.environ |= {"HOME": str(home), "MAX_CONCURRENT_BUILDS_LINK": "1"}
    build = users.build_as(ALICE, setup=f"cd {shlex.quote(str(project))}")
    link = SlotPool("link", dir=str(users.dir))
    wait_until(lambda: [holder.command for holder in link.status().holders] == [("the site",)], "a build")

    def run(*command: str) -> tuple[int, str, str]:
        result = users.run(*users.as_user(ALICE, *command, setup=f"cd {shlex.quote(str(project))}"))
        return result.returncode, result.stdout, result.stderr

    refused = f"slot-run: {file}, line 5, key slots: not for a project to say"
    status, _, said = run(script("slot-run"), "-t", "0", "true")
    assert status == 75
    assert said.splitlines()[0].startswith(refused)
    assert said.splitlines()[1].endswith(f"; giving up ({file}, line 4, key on_timeout: fail)")
    kept = home / ".cache" / "buildslots"
    program = "import sys; from buildslots import SlotPool; pool = SlotPool(); print(pool.name, pool.cap)"
    wait_until(lambda: run(script("slot-run"), "-t", "0", "true") and kept.exists(), "it is kept")
    modules = "; print('tomllib' in sys.modules)"
    resolve_it = (
        "import sys; from buildslots.settings import resolve; print(resolve(warn=lambda _: None).pool)"
    )
    assert run(sys.executable, "-P", "-c", resolve_it + modules)[1].split() == ["link", "False"]
    assert run(sys.executable, "-P", "-W", "ignore", "-c", program)[1].split() == ["link", "1"]
    _, told, _ = run(script("buildslots"), "config")
    assert "project's file ~/site/.buildslots.toml" in told
    assert "~/site/.buildslots.toml, line 2, key label" in told
    build.finish()


@several_users
def test_the_system_s_config_file_is_read(users: Users) -> None:
    """In /etc, of a mount namespace of its own."""
    text = 'slots = 4\\ntimeout = "44s"\\n'
    etc = (
        f"cp -a /etc /mnt/etc; mkdir -p /mnt/etc/buildslots; printf '{text}' >/mnt/etc/buildslots/config.toml"
    )
    setup = f"{etc}; mount --bind /mnt/etc /etc"
    result = users.run(
        *users.as_user(EVE, script("buildslots"), "config", setup=setup), environ={"HOME": "/mnt"}
    )
    assert result.returncode == 0, result.stderr
    assert "system's config file /etc/buildslots/config.toml" in result.stdout
    rows = [line.split(None, 2) for line in result.stdout.splitlines()]
    assert ["slots", "4", "/etc/buildslots/config.toml, line 1, key slots"] in rows
