"""The manual's recipes with the real tools: each block is taken from there and run as it stands.

Where a tool is large (cargo, npm) or belongs to a system (systemd), its test runs only where it is installed.
"""

from __future__ import annotations

import json
import os
import pwd
import re
import shutil
import subprocess
import sys
import textwrap
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from builds import DEADLINE_S, Pool, script, wait_until

import buildslots

if TYPE_CHECKING:
    from terminals import Terminal

RECIPES = Path(buildslots.__file__).parent / "help" / "recipes.md"
SHOW = 'echo "$@: $${BUILD_SLOT-none}"'
RECORDER = """\
#!{python} -ISE
# recorder COMMAND...: runs it and appends what it was, when, and under which slot to $RECORD.
import os, subprocess, sys, time
command = [{real!r}, *sys.argv[1:]] if {real!r} else sys.argv[1:]
start = time.monotonic_ns()
status = subprocess.call(command, close_fds=False)
if "RECORD" in os.environ:
    time.sleep(0.03)  # so that two that may run together do meet
    kind = "compile" if "-c" in command else "link"
    line = f"{{kind}} {{start}} {{time.monotonic_ns()}} {{os.environ.get('BUILD_SLOT')}}\\n"
    with open(os.environ["RECORD"], "ab", buffering=0) as log:
        log.write(line.encode())
sys.exit(status)
"""


def recipe(name: str) -> str:
    """The fenced block of the manual that follows the line <!-- recipe `name` -->."""
    found = re.search(
        rf"^<!-- recipe {name} -->\n```\w*\n(.*?)^```$", RECIPES.read_text(), re.MULTILINE | re.DOTALL
    )
    assert found, f"the manual has no recipe {name}"
    return found[1]


def needs(tool: str) -> pytest.MarkDecorator:
    """Run a test only where a tool is installed that is too much to ask for."""
    return pytest.mark.skipif(shutil.which(tool) is None, reason=f"{tool} is not installed")


def executable(path: Path, text: str) -> Path:
    """Write a script."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    path.chmod(0o755)
    return path


def recorded(log: Path, kind: str) -> list[tuple[int, int, str]]:
    """(start, end, slot) of each recorded command of a kind."""
    lines = [line.split() for line in log.read_text().splitlines()]
    return [(int(start), int(end), slot) for what, start, end, slot in lines if what == kind]


def peak(spans: list[tuple[int, int, str]]) -> int:
    """The most of them that ran at one instant; an end comes before a start."""
    running = most = 0
    events = [(start, 1) for start, _, _ in spans] + [(end, -1) for _, end, _ in spans]
    for _, change in sorted(events):
        running += change
        most = max(most, running)
    return most


@pytest.fixture(autouse=True)
def tools(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A directory with slot-run, first on PATH; an empty one beside it to work in."""
    tools = tmp_path / "tools"
    tools.mkdir()
    for name in ("slot-run", "buildslots"):
        (tools / name).symlink_to(script(name))
    monkeypatch.setenv("PATH", f"{tools}{os.pathsep}{os.environ['PATH']}")
    # Our own caller's make, and git's hook if one runs the tests, are none of the tools' business.
    for name in list(os.environ):
        if name.startswith(("MAKE", "MFLAGS", "GIT_", "CMAKE_", "CARGO_", "RUSTC", "npm_")):
            monkeypatch.delenv(name)
    work = tmp_path / "work"
    work.mkdir()
    monkeypatch.chdir(work)
    return tools


@pytest.fixture
def work(tools: Path) -> Path:
    """The project's directory."""
    return tools.parent / "work"


@pytest.fixture
def log(pool: Pool, tools: Path) -> Path:
    """Where a compiler named `cc` notes when it ran; `recorder` notes that of its arguments."""
    log = tools.parent / "record"
    executable(tools / "recorder", RECORDER.format(python=sys.executable, real=""))
    executable(tools / "cc", RECORDER.format(python=sys.executable, real=shutil.which("cc")))
    pool.environ |= {"RECORD": str(log), "CC": "cc", "PATH": os.environ["PATH"]}
    return log


@pytest.fixture
def pool(tools: Path, pool: Pool) -> Pool:
    """The pool of a machine with one slot, with the tools on PATH."""
    pool.environ |= {"PATH": os.environ["PATH"], "MAX_CONCURRENT_BUILDS": "1"}
    return pool


def make_version() -> tuple[int, ...]:
    """What `make --version` says; 3.81 on macOS."""
    text = subprocess.run(["make", "--version"], capture_output=True, text=True, check=True).stdout
    return tuple(int(part) for part in re.findall(r"\d+", text.splitlines()[0])[:2])


def test_make_s_status_and_output_are_its_own(pool: Pool, work: Path) -> None:
    """A recipe that fails fails as without slot-run, and one that calls slot-run has its slot already."""
    (work / "Makefile").write_text(
        f"all:\n\t@slot-run slot-run $(MAKE) --no-print-directory inner\ninner:\n\t@{SHOW}; exit 7\n"
    )
    plain = pool.run("make", "-s", "inner")
    assert plain.returncode == 2
    slotted = pool.slot_run("make", "-s", "inner")
    assert (slotted.returncode, slotted.stderr) == (2, plain.stderr)
    assert (plain.stdout, slotted.stdout) == ("inner: none\n", "inner: 0\n")
    nested = pool.slot_run("-t", "none", "make", "-s")
    assert (nested.returncode, nested.stdout) == (2, "inner: 0\n")


@pytest.mark.parametrize("style", ["default", "pipe", "fifo"])
def test_make_s_jobserver_works_below_slot_run(pool: Pool, work: Path, log: Path, style: str) -> None:
    """Two jobs of an inner make wait for each other, so they run at once; and no more than two ever do."""
    if style != "default" and make_version() < (4, 4):
        pytest.skip("make 4.4 brought --jobserver-style")
    jobs = ["-j2"] if style == "default" else ["-j2", f"--jobserver-style={style}"]
    os.mkfifo(work / "meet")
    (work / "Makefile").write_text(
        textwrap.dedent("""\
            all: many
            many: met
            \tslot-run $(MAKE) one two three
            met:
            \tslot-run $(MAKE) left right
            left: ; echo "$(MAKEFLAGS)" > meet
            right: ; cat meet > auth
            one two three: ; recorder slot-run true
        """)
    )

    def auth(*command: str) -> str:
        result = pool.run(*command, "make", *jobs)
        assert (result.returncode, result.stderr) == (0, "")
        found = re.search(r"--jobserver-(?:auth|fds)=(\S+)", (work / "auth").read_text())
        assert found
        return found[1]

    with_slot = auth("slot-run")
    assert peak(recorded(log, "link")) == 2
    if style == "fifo":
        assert with_slot.startswith("fifo:")
    elif style == "pipe" or make_version() < (4, 4):
        # The slot's descriptors are out of the way of those that make expects to get.
        assert with_slot == auth("env")


def test_parts_of_a_make_share_a_pool_of_their_own(pool: Pool, work: Path, log: Path) -> None:
    """Only one at a time of what goes through the pool, while the rest uses all of -j."""
    for part in "abc":
        (work / part).mkdir()
        (work / part / "Makefile").write_text(
            "all:\n\trecorder test -n '$(findstring jobserver,$(MAKEFLAGS))'\n"
        )
    (work / "Makefile").write_text(recipe("make"))
    result = pool.slot_run("make", "-j3")
    assert (result.returncode, result.stderr) == (0, "")
    spans = recorded(log, "link")
    assert (len(spans), peak(spans)) == (3, 1)


def cmake_project(work: Path, programs: int) -> None:
    """A CMake project with so many programs of one file each."""
    lists = ["cmake_minimum_required(VERSION 3.21)", "project(tools C)"]
    for n in range(programs):
        (work / f"p{n}.c").write_text("int main(void) { return 0; }\n")
        lists.append(f"add_executable(p{n} p{n}.c)")
    (work / "CMakeLists.txt").write_text("\n".join(lists))


def configure(pool: Pool, *options: str) -> None:
    """Run CMake without recording what it tries out."""
    result = pool.run(
        "sh", "-c", 'unset RECORD; exec "$@"', "sh", "cmake", "-G", "Ninja", "-B", "build", *options
    )
    assert result.returncode == 0, result.stderr


def test_cmake_and_ninja_never_link_twice_at_once(pool: Pool, work: Path, log: Path) -> None:
    """Two builds together link through one pool, one of them with Ninja's own pool and one without it."""
    pool.environ["MAX_CONCURRENT_BUILDS"] = "2"
    ninja_pool = "-DCMAKE_JOB_POOLS=link=1 -DCMAKE_JOB_POOL_LINK=link"
    builds = []
    for name, more in (("one", ninja_pool), ("two", "")):
        configuring, building = (
            recipe("cmake").replace("-B build", f"-B build {more}").rsplit("slot-run cmake", 1)
        )
        (work / name).mkdir()
        cmake_project(work / name, 6)
        result = pool.run("sh", "-c", f"unset RECORD; {configuring}", cwd=work / name)
        assert result.returncode == 0, result.stderr
        builds.append(pool.popen("sh", "-c", f"slot-run cmake{building}", cwd=work / name))
    for build in builds:
        output, errors = build.process.communicate(timeout=DEADLINE_S)
        assert (build.process.returncode, errors) == (0, b""), output
    links = recorded(log, "link")
    assert (len(links), peak(links)) == (12, 1)
    assert peak(recorded(log, "compile")) > 1


def test_slot_run_as_a_compiler_launcher(pool: Pool, work: Path, log: Path) -> None:
    """It bounds Ninja's compiles; below a build that has its slot it lets them run, all under that one."""
    cmake_project(work, 8)
    configure(pool, "-DCMAKE_C_COMPILER_LAUNCHER=slot-run;-n2;-t;none;-q;--")
    result = pool.run("ninja", "-C", "build", "-j6")
    assert (result.returncode, result.stderr) == (0, "")
    compiles = recorded(log, "compile")
    assert (len(compiles), peak(compiles), {slot for *_, slot in compiles}) == (8, 2, {"0", "1"})
    pool.run("ninja", "-C", "build", "-t", "clean")
    log.unlink()
    assert pool.slot_run("ninja", "-C", "build", "-j6").returncode == 0
    compiles = recorded(log, "compile")
    assert (len(compiles), {slot for *_, slot in compiles}) == (8, {"0"})
    assert peak(compiles) > 2


def test_a_compiler_s_error_reaches_ninja_through_a_launcher(pool: Pool, work: Path) -> None:
    """What the compiler says and how it ends is what Ninja shows and does."""
    cmake_project(work, 1)
    configure(pool, "-DCMAKE_C_COMPILER_LAUNCHER=slot-run;--")
    (work / "p0.c").write_text("#error wrong on purpose\n")
    result = pool.slot_run("ninja", "-C", "build")
    assert result.returncode == 1
    assert "wrong on purpose" in result.stdout


@pytest.fixture
def cargo(pool: Pool, work: Path) -> Path:
    """A workspace of three crates that warn, for a cargo that reaches for no network."""
    (work / "Cargo.toml").write_text('[workspace]\nresolver = "2"\nmembers = ["c*"]\n')
    for n in range(3):
        (work / f"c{n}" / "src").mkdir(parents=True)
        (work / f"c{n}" / "Cargo.toml").write_text(
            f'[package]\nname = "c{n}"\nversion = "0.1.0"\nedition = "2021"\n'
        )
        (work / f"c{n}" / "src" / "lib.rs").write_text("fn unused() {}\n")
    pool.environ["CARGO_NET_OFFLINE"] = "true"
    # rustup keeps its toolchains in the HOME that the tests do without.
    home = Path(pwd.getpwuid(os.getuid()).pw_dir)
    pool.environ |= {
        name: os.environ.get(name, str(home / directory))
        for name, directory in (("RUSTUP_HOME", ".rustup"), ("CARGO_HOME", ".cargo"))
    }
    return work


@needs("cargo")
def test_cargo_builds_under_a_slot_and_bounds_rustc(pool: Pool, cargo: Path, tools: Path) -> None:
    """The manual's wrapper: rustc waits in a pool of its own, and cargo does not keep what slot-run says."""
    executable(tools / "slot-rustc", recipe("rustc"))
    pool.environ |= {"RUSTC_WRAPPER": "slot-rustc", "MAX_CONCURRENT_BUILDS_RUSTC": "1"}
    assert pool.slot_run("cargo", "build").returncode == 0
    (cargo / "c0" / "src" / "lib.rs").write_text("fn unused() {}\n\n")
    first = pool.build("-p", "rustc")
    first.started()
    build = pool.popen("slot-run", "cargo", "build")
    rustc = Pool(pool.dir / "pools" / "rustc", pool.environ)
    wait_until(lambda: rustc.status().waiters, "a rustc in line")
    assert pool.held() == [0]
    # When one that came later says that it waits, so would the first.
    later = pool.build("-p", "rustc")
    assert "place 2 of 2" in later.read_error_line()
    first.finish()
    later.started()
    later.finish()
    errors = build.errors()
    assert build.process.returncode == 0, errors
    assert "function `unused` is never used" in errors
    assert "slot-run" not in errors
    assert "jobserver" not in errors
    (cargo / "c0" / "src" / "lib.rs").write_text("wrong\n")
    failed = pool.slot_run("cargo", "build")
    assert (failed.returncode, "expected one of" in failed.stderr) == (101, True)


@needs("npm")
def test_npm_scripts(pool: Pool, work: Path) -> None:
    """A script takes a slot, is nested where npm has one, and works without slot-run."""
    (work / "package.json").write_text(json.dumps({"name": "app"} | json.loads(recipe("npm"))))
    (work / "build.js").write_text("console.log(process.env.BUILD_SLOT); process.exit(3)\n")
    npm = ("npm", "run", "--silent", "build")
    for command in (npm, ("slot-run", *npm)):
        result = pool.run(*command)
        assert (result.returncode, result.stdout) == (3, "0\n"), result.stderr
    node = Path(shutil.which("node") or "").parent
    result = pool.run(*npm, environ={"PATH": f"{node}:/usr/bin:/bin"})
    assert (result.returncode, result.stdout) == (3, "undefined\n"), result.stderr


def test_pip_builds_an_extension_in_isolation(pool: Pool, work: Path, log: Path, tools: Path) -> None:
    """A real pip with a real (small) backend, whose compiler is nested through pip's build isolation."""
    (work / "pyproject.toml").write_text(
        '[build-system]\nrequires = []\nbuild-backend = "backend"\nbackend-path = ["."]\n'
        '[project]\nname = "tiny"\nversion = "1"\n'
    )
    (work / "tiny.c").write_text("int answer(void) { return 42; }\n")
    (work / "backend.py").write_text(
        textwrap.dedent("""\
        import os, shlex, subprocess, zipfile
        def build_wheel(directory, config_settings=None, metadata_directory=None):
            assert os.environ["BUILD_SLOT"] == "0"
            subprocess.run([*shlex.split(os.environ["CC"]), "-c", "tiny.c", "-o", "tiny.o"], check=True)
            name, info = "tiny-1-py3-none-any.whl", "tiny-1.dist-info"
            with zipfile.ZipFile(os.path.join(directory, name), "w") as wheel:
                wheel.write("tiny.o")
                wheel.writestr(f"{info}/METADATA", "Metadata-Version: 2.1\\nName: tiny\\nVersion: 1\\n")
                wheel.writestr(f"{info}/WHEEL", "Wheel-Version: 1.0\\nTag: py3-none-any\\n")
                wheel.writestr(f"{info}/RECORD", "")
            return name
        """)
    )
    # In build isolation pip hides the packages of its own environment from every Python below it, and so from
    # slot-run's if that is the same (https://github.com/pypa/pip/issues/13222).
    other = tools.parent / "venv"
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", other], check=True)
    pip = f"exec {sys.executable} -m pip --python {other}/bin/python"
    executable(tools / "pip", f'#!/bin/sh\n{pip} "$@"\n')
    environ = {"CC": "slot-run -t none -- cc", "PIP_NO_INDEX": "1", "PIP_DISABLE_PIP_VERSION_CHECK": "1"}
    result = pool.run("sh", "-c", recipe("pip"), environ=environ)
    assert result.returncode == 0, result.stderr
    assert (work / "dist" / "tiny-1-py3-none-any.whl").exists()
    assert [slot for *_, slot in recorded(log, "compile")] == ["0"]


def test_a_pytest_session_takes_a_slot(pool: Pool, work: Path) -> None:
    """The manual's conftest.py: a session waits in line, what a test builds is nested, `big` is a pool."""
    (work / "conftest.py").write_text(recipe("pytest"))
    (work / "test_heavy.py").write_text(
        textwrap.dedent("""\
        import subprocess
        from buildslots import SlotPool

        def test_heavy(big):
            out = subprocess.run(["slot-run", "sh", "-c", "echo $BUILD_SLOT"], capture_output=True, text=True)
            assert (out.stdout, out.stderr) == ("0\\n", "")
            assert len(SlotPool("big", slots=2).status().holders) == 1
        """)
    )
    first = pool.build()
    first.started()
    pytest_ = (sys.executable, "-P", "-m", "pytest", "-q", "-p", "no:cacheprovider")
    session = pool.popen(*pytest_)
    wait_until(lambda: pool.status().waiters, "a session in line")
    first.finish()
    output, errors = session.process.communicate(timeout=DEADLINE_S)
    assert (session.process.returncode, errors) == (0, b""), output
    assert pool.held() == []
    result = pool.slot_run(*pytest_)
    assert result.returncode == 0, result.stdout


def test_git_hooks(pool: Pool, work: Path, tools: Path) -> None:
    """A hook's command has a slot, git's variables and standard input, and its failure stops git."""
    identity = {f"GIT_{who}_{what}": "a@b" for who in ("AUTHOR", "COMMITTER") for what in ("NAME", "EMAIL")}
    pool.environ |= identity | {"GIT_CONFIG_NOSYSTEM": "1"}

    def git(*args: str, **options: object) -> subprocess.CompletedProcess[str]:
        return pool.run("git", *args, **options)

    git("init", "-q", "--bare", "../origin")
    git("init", "-q", ".")
    git("config", "core.hooksPath", ".git/hooks")
    for hook in ("pre-commit", "pre-push"):
        executable(work / ".git" / "hooks" / hook, recipe("git"))
    (work / "Makefile").write_text(
        "check:\n"
        "\t@echo $${BUILD_SLOT-none} $$(basename $${GIT_INDEX_FILE-none}) $$(cut -d' ' -f1) >>seen\n"
        "\t@git diff --cached --quiet -- bad\n"
    )
    git("add", "Makefile")
    assert git("commit", "-q", "-m", "one").returncode == 0
    assert (work / "seen").read_text() == "0 index\n"
    assert git("push", "-q", "../origin", "HEAD:main").returncode == 0
    assert (work / "seen").read_text().splitlines()[1:] == ["0 none HEAD"]
    (work / "bad").touch()
    git("add", "bad")
    assert pool.slot_run("git", "commit", "-q", "-m", "two").returncode == 1
    (tools / "slot-run").unlink()
    path = [
        directory
        for directory in pool.environ["PATH"].split(":")
        if not os.path.exists(f"{directory}/slot-run")
    ]
    pool.environ["PATH"] = ":".join(path)  # nor another one that is installed here
    git("reset", "-q")
    assert git("commit", "-q", "--allow-empty", "-m", "three").returncode == 0
    assert (work / "seen").read_text().splitlines()[-1].startswith("none")


def test_git_bisect(pool: Pool, work: Path) -> None:
    """It finds the revision that broke the check; those for which there was no slot are not called bad."""
    identity = {f"GIT_{who}_{what}": "a@b" for who in ("AUTHOR", "COMMITTER") for what in ("NAME", "EMAIL")}
    pool.environ |= identity | {"GIT_CONFIG_NOSYSTEM": "1", "BUILD_SLOTS_TIMEOUT": "0"}
    pool.environ["MAX_CONCURRENT_BUILDS"] = "1"

    def git(*args: str) -> subprocess.CompletedProcess[str]:
        return pool.run("git", *args)

    git("init", "-q", ".")
    for number in range(8):
        (work / "Makefile").write_text(f"check:\n\t@test {number} -lt 5\n")
        git("add", "Makefile")
        assert git("commit", "-q", "-m", f"revision {number}").returncode == 0
    build = pool.build()
    build.started()
    for found in (False, True):
        git("bisect", "start", "HEAD", "HEAD~7")
        result = pool.run("sh", "-c", recipe("bisect"))
        assert ("is the first bad commit" in result.stdout) == found, result
        assert ("revision 5" in result.stdout) or not found, result
        git("bisect", "reset")
        if not found:
            assert "skip" in result.stdout
            build.finish()


@needs("systemd-analyze")
def test_the_systemd_unit(pool: Pool, tmp_path: Path, tools: Path) -> None:
    """What systemd says to it: nothing; and it does say something to a wrong one."""
    home = tmp_path / "home"
    executable(home / ".local" / "bin" / "slot-run", "#!/bin/sh\n")
    unit = tmp_path / "nightly.service"
    runtime = {"XDG_RUNTIME_DIR": str(tmp_path)}
    for text, status, words in (
        (recipe("systemd"), 0, ""),
        (recipe("systemd").replace("slot-run", "no-such-program"), 1, "is not executable"),
    ):
        unit.write_text(text)
        result = pool.run("systemd-analyze", "--user", "verify", str(unit), environ=runtime)
        assert result.returncode == status, result.stderr
        assert words in result.stderr


def test_a_cron_job(pool: Pool, tmp_path: Path) -> None:
    """Run as cron does (crontab(5)): by sh, without a terminal, with next to no environment, from HOME."""
    home = tmp_path / "home"
    (home / ".local" / "bin").mkdir(parents=True)
    (home / ".local" / "bin" / "slot-run").symlink_to(script("slot-run"))
    (home / "app").mkdir()
    (home / "app" / "Makefile").write_text(f"nightly:\n\t@{SHOW}\n")
    command = recipe("cron").split(None, 5)[5]
    environ = ["-i", f"HOME={home}", "PATH=/usr/bin:/bin", "SHELL=/bin/sh", "LOGNAME=nobody"]
    result = pool.run("env", *environ, "sh", "-c", command, cwd=home, stdin=subprocess.DEVNULL)
    assert (result.returncode, result.stdout, result.stderr) == (0, "", "")
    assert (home / "app" / "nightly.log").read_text() == "nightly: 0\n"


SHELLS = {
    "bash": ("function", ["bash", "--norc", "-c"]),
    "zsh": ("function", ["zsh", "-fc"]),
    "fish": ("function fish", ["fish", "-c"]),
}


@pytest.mark.parametrize("shell", SHELLS)
def test_a_function_in_place_of_make(pool: Pool, work: Path, shell: str) -> None:
    """`make` waits for its slot, and its arguments and exit status are its own."""
    name, command = SHELLS[shell]
    (work / "Makefile").write_text(f"a:\n\t@{SHOW}; exit $(STATUS)\n")
    (work / "function").write_text(recipe(name))
    first = pool.build()
    first.started()
    waiting = pool.popen(*command, "source ./function; make a STATUS=3")
    wait_until(lambda: pool.status().waiters, "a make in line")
    first.finish()
    output, _ = waiting.process.communicate(timeout=DEADLINE_S)
    assert (waiting.process.returncode, output) == (2, b"a: 0\n")


COMPLETIONS = {
    "bash": [
        "exec bash --norc",
        # What bash-completion does: it runs the word that is completed.
        "_targets() { COMPREPLY=($($1 -npq .DEFAULT 2>/dev/null | sed -n 's/^\\(alp[a-z]*\\):.*/\\1/p')); }",
        "complete -F _targets make",
    ],
    "zsh": [
        "exec zsh -f",
        "autoload -U compinit; compinit -u -D",
        # Whoever has set this has make itself asked for its targets.
        "zstyle ':completion:*' call-command true",
    ],
    # Without these directories it would read all man pages first (__fish_config_interactive.fish).
    "fish": [
        "mkdir -p ~/.local/share/fish/generated_completions ~/.cache/fish/generated_completions; exec fish",
        "function fish_prompt; end",
    ],
}


@pytest.mark.parametrize("shell", SHELLS)
def test_completion_of_that_make_waits_for_no_slot(
    terminal: Terminal, pool: Pool, work: Path, shell: str
) -> None:
    """The pool is full, and Tab completes a target all the same, which make then is asked for."""
    (work / "Makefile").write_text("alphabet:\n\t@echo made $@ $${BUILD_SLOT-none}\n")
    (work / "function").write_text(recipe(SHELLS[shell][0]))
    first = pool.build()
    first.started()
    for line in (f"export PATH={pool.environ['PATH']} MAX_CONCURRENT_BUILDS=1", *COMPLETIONS[shell]):
        terminal.type(line)
    terminal.type("source ./function; clear")
    terminal.keys("-l", "make alp")
    terminal.keys("Tab")
    wait_until(lambda: any("make alphabet" in line for line in terminal.lines()), "the target")
    terminal.keys("Enter")
    wait_until(lambda: pool.status().waiters, "a make in line")
    first.finish()
    terminal.wait_for("made alphabet 0")


def test_an_agent_in_a_sandbox_shares_the_machine_s_slots(pool: Pool, tmp_path: Path) -> None:
    """With another HOME but the directory that `buildslots status` names, and exit 75 if it is to fail."""
    outside = {"BUILD_SLOTS_DIR": "", "HOME": str(tmp_path / "home")}
    first = pool.build(environ=outside)
    first.started()
    status = pool.run("buildslots", "status", environ=outside).stdout
    directory = re.search(r"^directory (.*)$", status, re.MULTILINE)
    assert directory
    path = directory[1].replace("~", outside["HOME"], 1)
    fail = ("-t0", "--on-timeout", "fail", "true")
    (tmp_path / "sandbox").mkdir()
    inside = {"BUILD_SLOTS_DIR": "", "HOME": str(tmp_path / "sandbox")}
    assert pool.slot_run(*fail, environ=inside).returncode == 0
    shared = pool.slot_run(*fail, environ=inside | {"BUILD_SLOTS_DIR": path})
    assert (shared.returncode, "giving up" in shared.stderr) == (75, True)
