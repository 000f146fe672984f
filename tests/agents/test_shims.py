"""Shims: what becomes of a call, in every shell that may be /bin/sh."""

from __future__ import annotations

import os
import random
import re
import shlex
import shutil
import subprocess
from typing import TYPE_CHECKING

import pytest
from builds import DEADLINE_S, script, wait_until
from shimmed import SHELLS, SHOW, Shimmed, executable

from buildslots.agents import shims
from buildslots.agents.heavy import TOOLS, load

if TYPE_CHECKING:
    from pathlib import Path

ODD = [
    "",
    " ",
    "*",
    "[a-z]",
    "a  b",
    "'",
    '"',
    "\\",
    "$(touch canary)",
    "`touch canary`",
    "-",
    "a\nb",
    "é",
    "\udcff",
]
CONFIG = """\
[agents]
heavy = ["bazel", "scripts/build-all", "terraform apply", "make the 'moon'"]
light = ["cmake", "make docs", "cargo test --list"]
"""


@pytest.mark.parametrize("shell", SHELLS)
def test_what_becomes_of_a_call(shimmed: Shimmed, shell: list[str]) -> None:
    """A build gets a slot; what is none, what is switched off and what is nested goes past slot-run."""
    make = [*shell, shimmed.dir / "make"]
    assert shimmed.said(*make, "-j8", *ODD[:-1]) == (
        f"make <-j8> {' '.join(f'<{word}>' for word in ODD[:-1])} in 0"
    )
    assert shimmed.said(*make) == "make in 0"
    assert shimmed.slot_runs() == 2
    assert shimmed.said(*make, "--version") == "make <--version> in none"
    assert shimmed.said(*make, "all", BUILD_SLOTS_DISABLE="True") == "make <all> in none"
    nested = shimmed.said(script("slot-run"), *make, "all")
    assert nested == "make <all> in 0"
    assert shimmed.slot_runs() == 2
    assert not (shimmed.root / "canary").exists()


def test_the_status_of_the_tool_is_that_of_the_call(shimmed: Shimmed) -> None:
    shimmed.tool("make", '#!/bin/sh\necho no >&2\nexit "$1"\n')
    result = shimmed.run("make", "7")
    assert (result.returncode, result.stderr) == (7, "no\n")


def test_a_tool_that_is_missing(shimmed: Shimmed) -> None:
    """As in a shell: 127, whatever else could be said."""
    (shimmed.tools / "make").unlink()
    result = shimmed.run("make", "all", PATH=f"{shimmed.dir}:{shimmed.tools}")
    assert (result.returncode, result.stderr) == (127, "make: command not found\n")


@pytest.mark.parametrize("what", ["is missing", "has no Python"])
def test_without_slot_run_the_tool_runs(shimmed: Shimmed, what: str) -> None:
    """An upgrade of Python may leave slot-run there without an interpreter."""
    shimmed.lose_slot_run()
    if what == "has no Python":
        executable(shimmed.bin / "slot-run", f"#!{shimmed.root}/python -E\n")
    assert shimmed.said("make", "all") == "make <all> in none"


def test_neither_two_directories_nor_copies_nor_old_versions_recurse(shimmed: Shimmed) -> None:
    """A directory twice, a link to it, a copy of it, a copy of one shim, a link to one, an older one."""
    copy, link, one, old, linked = (shimmed.root / name for name in ("copy", "link", "one", "old", "linked"))
    shutil.copytree(shimmed.dir, copy)
    link.symlink_to(shimmed.dir)
    one.mkdir()
    shutil.copy(shimmed.dir / "make", one)
    linked.mkdir()
    (linked / "make").symlink_to(shimmed.dir / "make")
    executable(old / "make", '#!/bin/sh\n# buildslots shim 0.\nexec make "$@"\n')
    others = [f"{shimmed.dir}/", one, copy, link, old, linked, shimmed.dir]
    path = ":".join(map(str, [*others, shimmed.environ["PATH"]]))
    for first in (shimmed.dir, copy, one, link, linked):
        assert shimmed.said(first / "make", "all", PATH=path) == "make <all> in 0"
    assert shimmed.slot_runs() == 5


@pytest.mark.parametrize("order", ["wrapper first", "shims first"])
def test_a_wrapper_that_looks_for_the_next_one_is_not_called_for_ever(shimmed: Shimmed, order: str) -> None:
    """Version managers have such wrappers, which take a shim for the system's own program."""
    wrappers = shimmed.root / "wrappers"
    executable(
        wrappers / "make",
        f"""\
#!/bin/sh
echo x >>'{shimmed.root}/called'
for directory in {shimmed.dir} {shimmed.tools}; do
    [ -x "$directory/make" ] && exec "$directory/make" "$@"
done
""",
    )
    path = [str(wrappers), *shimmed.environ["PATH"].split(":")]
    if order == "shims first":
        path[:2] = path[1::-1]
    assert shimmed.said("make", "all", PATH=":".join(path)) == "make <all> in 0"
    assert len((shimmed.root / "called").read_text().splitlines()) <= 4  # once in each process, and once more


def test_another_process_of_the_same_number_is_not_taken_for_it(shimmed: Shimmed) -> None:
    """What is told to a script lives on in the environment of its children; numbers come again."""
    call = f'BUILD_SLOTS_SHIM="$$:1:{shimmed.tools}/make" exec make all'
    assert shimmed.said("sh", "-c", call) == "make <all> in 0"


@pytest.mark.parametrize("doubt", ["nonce", "child", "start", "holder", "shared", "no record"])
def test_in_doubt_slot_run_decides(shimmed: Shimmed, doubt: str) -> None:
    """A mark of a slot that is none any more: the record is another's, or its command has ended."""
    build = shimmed.pool.build()
    build.started()
    record = shimmed.pool.record()
    nonce = next(line for line in record.read_text("latin-1").splitlines() if line.startswith("nonce "))
    held = f"0:{nonce.removeprefix('nonce ')}"
    text = record.read_bytes()
    child = next(line for line in text.split(b"\n") if line.startswith(b"child ")).split()[1]
    assert shimmed.said("make", "all", BUILD_SLOTS_HELD=f"7:{'0' * 32},{held}") == "make <all> in none"
    assert shimmed.slot_runs() == 0  # so far there is none
    if doubt == "nonce":
        held = f"0:{'0' * 32}"
    elif doubt == "child":
        record.write_bytes(text.replace(b"child " + child, b"child 4194399"))
    elif doubt == "start":
        record.write_bytes(text.replace(b"child " + child + b" ", b"child " + child + b" 1"))
    elif doubt == "holder":
        record.write_bytes(re.sub(rb"child .*\n(pid .*\n)start .*", rb"child ?\n\1start 1", text))
    elif doubt == "shared":
        shimmed.pool.dir.chmod(0o2770)
    else:
        record.unlink()
    shimmed.run("make", "all", BUILD_SLOTS_HELD=held, MAX_CONCURRENT_BUILDS="2")
    assert shimmed.slot_runs() == 1
    record.write_bytes(text)
    build.finish()


def test_below_a_slot_of_a_named_pool(shimmed: Shimmed) -> None:
    """Who says another pool means no slot of the default one in addition."""
    assert shimmed.said(script("slot-run"), "-p", "ci", shimmed.dir / "make", "all") == "make <all> in 0"
    assert shimmed.slot_runs() == 0


def test_the_environment_is_the_one_without_shims(shimmed: Shimmed) -> None:
    """Below a slot, and where the tool is a binary; sh itself may add PWD and the like."""
    env = shutil.which("env")
    assert env
    shutil.copy(env, shimmed.tools / "make")
    with_shims = shimmed.said(script("slot-run"), "sh", "-c", "make; :", _bs_name="mine", dir="mine")
    without = shimmed.said(
        script("slot-run"), "sh", "-c", f"{shimmed.tools}/make; :", _bs_found="", _bs_name="mine", dir="mine"
    )
    own = ("_=", "PWD=", "OLDPWD=", "SHLVL=", "BUILD_SLOTS_HELD=", "_bs_")
    rest = [
        sorted(line for line in text.splitlines() if not line.startswith(own))
        for text in (with_shims, without)
    ]
    assert rest[0] == rest[1]
    assert "dir=mine" in rest[0]


@pytest.mark.skipif(shutil.which("make") is None, reason="make is not installed")
def test_make_keeps_its_jobserver(shimmed: Shimmed) -> None:
    """A recursive make by name goes through a shim, and is a part of the one above it."""
    shutil.copy(str(shutil.which("make")), shimmed.tools / "make")
    (shimmed.root / "Makefile").write_text("all: a b c\na b c:\n\t+@make --no-print-directory -C sub\n")
    (shimmed.root / "sub").mkdir()
    (shimmed.root / "sub" / "Makefile").write_text('all:\n\t@echo "$(MAKEFLAGS)" in $$BUILD_SLOT\n')
    lines = shimmed.said("make", "-j3").splitlines()
    assert [("jobserver" in line, line.endswith("in 0")) for line in lines] == [(True, True)] * 3
    assert shimmed.slot_runs() == 1


def test_sh_and_python_agree_on_what_a_build_is(tmp_path: Path) -> None:
    """On command lines of the table's own words and of odd ones, in every shell and two locales."""
    config = tmp_path / "home" / ".config" / "buildslots" / "config.toml"
    config.parent.mkdir(parents=True)
    config.write_text(CONFIG)
    environ = dict(os.environ)
    table = load(environ)
    names = [*table.tools, "build-all", "terraform"]
    text = shims.script(environ, dict.fromkeys(names, "")).decode()
    functions = text[text.index("# Set _bs_said") : text.index("# Set _bs_run")]
    lines = list(_command_lines(names))
    calls = [
        f"_bs_name={line[0]}; if _bs_builds {shlex.join(line[1:])}; then echo 1; else echo 0; fi\n"
        for line in lines
    ]
    driver = tmp_path / "driver"
    driver.write_bytes(os.fsencode(functions + "".join(calls)))
    expected = ["1" if table.is_build(line) else "0" for line in lines]
    assert 0.2 < expected.count("1") / len(expected) < 0.8
    for shell in (one.values[0] for one in SHELLS):
        if shutil.which(shell[0]) is None:
            continue
        for locale in ("C", "C.UTF-8"):
            said = subprocess.run(
                [*shell, driver],
                env=environ | {"LC_ALL": locale},
                capture_output=True,
                text=True,
                timeout=DEADLINE_S,
                check=True,
            )
            assert said.stderr == ""
            wrong = [
                (line, said)
                for line, said, right in zip(lines, said.stdout.split(), expected, strict=True)
                if said != right
            ]
            assert wrong == [], (shell, locale)


def _command_lines(names: list[str]) -> list[list[str]]:
    """Command lines of words that matter: those of patterns, with something for each `*`."""
    choose = random.Random(18)
    own: dict[str, list[str]] = {}
    for name in names:
        tool = TOOLS.get(name) or TOOLS["make"]
        patterns = [*tool.light, *tool.heavy, *tool.light_operands, *tool.valued]
        own[name] = [word for pattern in patterns for word in pattern.split(" ")]
    more = ["--", "-j8", "+x", "all", "docs", "the", "'moon'", "apply", "test", "--list", *ODD]
    lines = []
    for name in names:
        for _ in range(60):
            words = choose.choices(own[name] * 2 + more, k=choose.randrange(5))
            lines.append([name, *(word.replace("*", choose.choice(["", "x", "a b", "*"])) for word in words)])
    return lines


def test_eight_agents_that_never_heard_of_us(shimmed: Shimmed) -> None:
    """Each builds again and again in a worktree of its own: never more than two at once."""
    shimmed.tool(
        "make",
        f"""\
#!/bin/sh
mkdir '{shimmed.root}/running/'$$
set -- '{shimmed.root}'/running/*
echo $# >>'{shimmed.root}/seen'
sleep 0.05
rmdir '{shimmed.root}/running/'$$
""",
    )
    (shimmed.root / "running").mkdir()
    agents = []
    for number in range(8):
        worktree = shimmed.root / f"worktree-{number}"
        worktree.mkdir()
        loop = "for turn in 1 2 3 4; do make -j8 || exit; done"
        agents.append(
            shimmed.pool.popen(
                "sh", "-c", loop, cwd=worktree, environ=shimmed.environ | {"MAX_CONCURRENT_BUILDS": "2"}
            )
        )
    for agent in agents:
        assert agent.process.wait(DEADLINE_S) == 0
    seen = [int(line) for line in (shimmed.root / "seen").read_text().split()]
    assert (len(seen), max(seen)) == (32, 2)


@pytest.mark.skipif(
    shutil.which("cmake") is None or shutil.which("ninja") is None, reason="cmake or ninja is not installed"
)
def test_a_build_tree_that_cmake_has_made_behind_shims(shimmed: Shimmed) -> None:
    """CMake notes the path of the shim of ninja, which works with slots and without them."""
    names = shimmed.install()
    assert {"cmake", "ninja"} <= set(names)
    (shimmed.root / "CMakeLists.txt").write_text(
        "cmake_minimum_required(VERSION 3.13)\nproject(test NONE)\n"
        "add_custom_target(show ALL COMMAND sh ${CMAKE_SOURCE_DIR}/show VERBATIM USES_TERMINAL)\n"
    )
    (shimmed.root / "show").write_text('echo "in $BUILD_SLOT."\n')
    tree = shimmed.root / "tree"
    shimmed.said("cmake", "-G", "Ninja", "-B", tree)
    assert f"{shimmed.dir}/ninja" in (tree / "CMakeCache.txt").read_text()
    before = shimmed.slot_runs()
    assert "in 0." in shimmed.said("cmake", "--build", tree)
    assert shimmed.slot_runs() == before + 1
    assert "in ." in shimmed.said("cmake", "--build", tree, BUILD_SLOTS_DISABLE="1")
    shimmed.lose_slot_run()
    assert "in ." in shimmed.said("cmake", "--build", tree)
    said = shimmed.said(script("buildslots"), "setup", "shell", "--uninstall")
    assert shimmed.run("cmake", "--build", tree).returncode != 0
    command = said.splitlines()[-1].replace("DIRECTORY", str(tree))  # which mends it
    assert "in ." in shimmed.said("sh", "-c", f"{command} >/dev/null && cmake --build {tree}")


def test_a_tool_in_a_relative_directory(shimmed: Shimmed) -> None:
    """PATH may say so: what runs is the same, and gets its absolute path."""
    executable(shimmed.root / "here" / "make", SHOW.replace('"${0##*/}"', '"$0"'))
    said = shimmed.said("make", "all", PATH=f"{shimmed.dir}:here:{shimmed.environ['PATH']}")
    assert said == f"{shimmed.root}/here/make <all> in 0"


def test_shims_are_for_what_is_there(shimmed: Shimmed) -> None:
    """One for a program that is missing would be found by every `command -v`."""
    assert "make" in shimmed.install()
    assert "cargo" not in shims.install(shimmed.environ)
    config = shimmed.root / "home" / ".config" / "buildslots" / "config.toml"
    config.parent.mkdir(parents=True)
    config.write_text(
        '[agents]\nheavy = ["bin/brew", "slot-run", "../x", "a b", "-x", "."]\nlight = ["make"]\n'
    )
    for name in ("cargo", "brew", "x", "a"):
        shimmed.tool(name)
    names = set(shimmed.install())
    assert {"cargo", "brew", "x", "a"} <= names
    assert not names & {"make", "slot-run", "-x", "."}
    assert set(os.listdir(shimmed.dir)) == names


def test_twice_is_once_and_others_files_stay(shimmed: Shimmed) -> None:
    """Neither is written again, nor is anything of somebody else's touched."""
    theirs = shimmed.dir / "ninja"
    theirs.unlink(missing_ok=True)
    theirs.write_text("#!/bin/sh\n")
    shimmed.tool("ninja")
    (shimmed.dir / "make").write_text((shimmed.dir / "make").read_text() + "# older\n")
    assert "make" in shims.status(shimmed.environ).outdated
    first = shimmed.install()
    assert "ninja" not in first
    times = {name: (shimmed.dir / name).stat() for name in first}
    assert shimmed.install() == first
    assert times == {name: (shimmed.dir / name).stat() for name in first}
    assert shims.status(shimmed.environ).outdated == []
    (shimmed.dir / ".buildslots-0").write_text("cut off")
    assert shims.remove(shimmed.environ) == first
    assert os.listdir(shimmed.dir) == ["ninja"]
    assert theirs.read_text() == "#!/bin/sh\n"
    theirs.unlink()
    shims.remove(shimmed.environ)
    assert not shimmed.dir.parent.exists()


def test_who_installs_at_once(shimmed: Shimmed) -> None:
    """All succeed, and every call meanwhile meets a whole shim."""
    code = "import os\nfrom buildslots.agents import shims\nfor _ in range(20): shims.install(os.environ)"
    other = shimmed.environ | {"BUILD_SLOTS_DISABLE": "1"}
    config = shimmed.root / "config" / "buildslots" / "config.toml"
    config.parent.mkdir(parents=True)
    config.write_text('[agents]\nheavy = ["make all"]\n')
    runs = [
        shimmed.pool.popen(script("python"), "-c", code, environ=other | more)
        for more in ({}, {"XDG_CONFIG_HOME": str(shimmed.root / "config")})
    ]
    while any(run.process.poll() is None for run in runs):
        assert shimmed.said("make", "all", BUILD_SLOTS_DISABLE="1") == "make <all> in none"
    assert [run.errors() for run in runs] == ["", ""]
    wait_until(lambda: all(run.process.returncode == 0 for run in runs), "both ends")
    assert not [name for name in os.listdir(shimmed.dir) if name.startswith(".")]
