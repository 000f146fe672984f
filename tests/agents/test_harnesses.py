"""What fake agents' tools leave of a build when they end it: its processes, its slot, its place in line."""

from __future__ import annotations

import json
import os
import signal
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import harnesses
import psutil
import pytest
from builds import DEADLINE_S, Build, script, wait_until
from shimmed import executable
from strays import is_gone

from buildslots import jobs
from buildslots.jobs import FINISHED, RUNNING, WAITING, Job
from buildslots.run.main import NO_SLOT

if TYPE_CHECKING:
    from shimmed import Shimmed

pytestmark = pytest.mark.linux  # which has setsid(1), and knows by /proc who is ownerless

MAKE = """\
#!/bin/sh
# Says that it builds, and runs a compiler until somebody opens `go` to write.
: >ran
echo "builds in ${BUILD_SLOT-none}"
sh -c 'read line <go; exit 7' || exit $?
"""
OFTEN = f"""\
#!{sys.executable} -P
# slot-run, which says more often that it waits.
from buildslots.run import main, notice
notice.AGENT_AGAIN_S = {{again_s}}
main.main()
"""
BUILDS = "builds in 0\n"


class Harness:
    """A fake agent, in a process of its own, that has started a command line."""

    def __init__(self, desk: Desk, tool: str, line: str, *silent_s: str) -> None:
        program = (sys.executable, "-P", harnesses.__file__, tool, line, *silent_s)
        self._desk = desk
        self._process = desk.shimmed.pool.popen(*program, cwd=desk.dir, environ=desk.shimmed.environ)
        self.pid = self._process.pid
        self.shell = int(self._process.started())
        self.said = ""
        self.status: int | None = None

    def ask(self, word: str) -> int | None:
        """Have it do something (see harnesses): the status of the shell, if that has ended."""
        assert self._process.process.stdin is not None
        self._process.process.stdin.write(word.encode() + b"\n")
        told = json.loads(self._process.started())
        self.said += told["said"].replace("\r\n", "\n")
        self.status = told["status"]
        return self.status

    def hears(self, text: str) -> bool:
        """Poll: whether the command has said `text` by now."""
        self.ask("poll")
        return text in self.said

    def ended(self) -> int:
        """Poll until the shell has ended: its status."""
        wait_until(lambda: self.ask("poll") is not None, "the end of the shell")
        assert self.status is not None
        return self.status

    def tree(self) -> list[psutil.Process]:
        """The shell and all below it."""
        shell = psutil.Process(self.shell)
        return [shell, *shell.children(recursive=True)]

    def crash(self) -> None:
        """Kill the agent itself."""
        self._process.process.kill()
        self._process.process.wait(DEADLINE_S)


class Desk:
    """A directory where agents build with `make`, on one slot, with shims on PATH."""

    def __init__(self, shimmed: Shimmed, directory: Path) -> None:
        self.shimmed, self.pool, self.dir = shimmed, shimmed.pool, directory
        directory.mkdir()
        os.mkfifo(directory / "go")
        shimmed.tool("make", MAKE)
        shimmed.environ["MAX_CONCURRENT_BUILDS"] = "1"

    def runs(self, tool: str, line: str) -> Harness:
        """An agent whose build runs."""
        harness = Harness(self, tool, line)
        wait_until(lambda: self._reads_go(harness), "the compiler")
        harness.ask("poll")
        return harness

    @staticmethod
    def _reads_go(harness: Harness) -> bool:
        """Whether all that the build starts has been started."""
        try:
            return harness.tree()[-1].cmdline()[-1:] == ["read line <go; exit 7"]
        except psutil.NoSuchProcess:
            return False

    def waits(self, tool: str, line: str, *silent_s: str) -> tuple[Build, Harness]:
        """An agent whose build waits behind another one."""
        holder = self.pool.build("-n1")
        holder.started()
        harness = Harness(self, tool, line, *silent_s)
        wait_until(lambda: len(self.pool.status().waiters) == 1, "it is in line")
        return holder, harness

    def go(self) -> None:
        """Let the build end, with status 7."""

        def is_read() -> bool:
            try:
                os.close(os.open(self.dir / "go", os.O_WRONLY | os.O_NONBLOCK))
            except OSError:
                return False
            return True

        wait_until(is_read, "somebody reads go")

    def nothing_remains(self, processes: list[psutil.Process]) -> None:
        """None of `processes` runs, the slot is free at once for the next one, and nobody is in line."""
        wait_until(lambda: all(map(is_gone, processes)), "the end of all")
        assert (self.pool.held(), self.pool.status().waiters) == ([], ())
        result = self.pool.slot_run("-n1", "-t0", "--on-timeout=fail", "sh", "-c", "echo $BUILD_SLOT")
        assert (result.returncode, result.stdout, result.stderr) == (0, "0\n", "")
        assert self.pool.leftovers() == []


@pytest.fixture
def desk(shimmed: Shimmed, tmp_path: Path) -> Desk:
    return Desk(shimmed, tmp_path / "work")


def end(harness: Harness, how: str) -> None:
    if how == "crash":
        harness.crash()
    else:
        harness.ask(how)


KILLERS = ("codex", "codex-pty", "gemini", "opencode")
LINES = pytest.mark.parametrize("line", ["slot-run make -j8", "make -j8", "cd . && slot-run make; true"])


@LINES
@pytest.mark.parametrize("tool", KILLERS)
def test_nothing_remains_of_a_build_that_is_killed_as_a_whole(desk: Desk, tool: str, line: str) -> None:
    """By its group, or by its tree: its slot is free."""
    harness = desk.runs(tool, line)
    assert desk.pool.held() == [0]
    tree = harness.tree()
    assert len(tree) >= 3
    assert harness.ask("limit") in (-signal.SIGKILL, -signal.SIGTERM)
    desk.nothing_remains(tree)


@LINES
@pytest.mark.parametrize("tool", KILLERS)
def test_nothing_remains_of_a_wait_that_is_killed_as_a_whole(desk: Desk, tool: str, line: str) -> None:
    """It has left the line; the one before it has lost nothing."""
    holder, harness = desk.waits(tool, line)
    tree = harness.tree()
    assert harness.ask("limit") in (-signal.SIGKILL, -signal.SIGTERM)
    wait_until(lambda: desk.pool.status().waiters == (), "nobody is in line")
    assert desk.pool.held() == [0]
    assert holder.finish() == 0
    desk.nothing_remains(tree)


def test_a_grandchild_that_a_tree_walk_misses_keeps_the_slot_in_sight(desk: Desk) -> None:
    """It has left the tree, and has the lock: status calls the slot orphaned, and release frees it."""
    desk.shimmed.tool("make", "#!/bin/sh\n(setsid sleep 1000 >/dev/null 2>&1 & echo stray $!)\n" + MAKE)
    harness = desk.runs("opencode", "cd . && slot-run make; true")
    stray = psutil.Process(int(harness.said.partition("stray ")[2].split()[0]))
    tree = harness.tree()
    assert stray not in tree
    harness.ask("limit")
    wait_until(lambda: all(map(is_gone, tree)), "the end of the tree")
    (held,) = desk.pool.status().holders
    assert (held.slot, held.orphaned, is_gone(stray)) == (0, True, False)
    result = desk.pool.run(script("buildslots"), "release", "--yes")
    assert result.returncode == 0, result
    desk.nothing_remains([stray])


@pytest.mark.parametrize("signum", ["term", "kill"])
@pytest.mark.parametrize("line", ["slot-run make -j8", "make -j8"])
def test_a_build_outlives_its_shell_and_loses_its_owner(desk: Desk, line: str, signum: str) -> None:
    """It holds its slot and is seen; with the agent's end, not before, it is ownerless."""
    harness = desk.runs("claude", line)
    rest = harness.tree()[1:]
    assert harness.ask(signum) == -getattr(signal, f"SIG{signum.upper()}")
    (held,) = desk.pool.status().holders
    assert (held.pid, held.orphaned, held.ownerless) == (rest[0].pid, False, False)
    assert not any(map(is_gone, rest))
    harness.crash()
    (held,) = desk.pool.status().holders
    assert (held.pid, held.orphaned, held.ownerless) == (rest[0].pid, False, True)
    assert "(ownerless)" in desk.pool.run(script("buildslots"), "status").stdout
    desk.go()
    desk.nothing_remains(rest)


@pytest.mark.parametrize("signum", ["term", "kill"])
@pytest.mark.parametrize(
    ("tool", "line"),
    [
        ("claude", "slot-run make -j8"),
        ("claude", "make -j8"),
        ("opencode", "slot-run --owner $PPID make; true"),
    ],
)
def test_a_wait_outlives_its_shell_and_not_its_owner(desk: Desk, tool: str, line: str, signum: str) -> None:
    """While the agent is there, it may have handed the task on; then nobody wants the build any more."""
    holder, harness = desk.waits(tool, line)
    rest = harness.tree()[1:]
    harness.ask(signum)
    assert [waiter.pid for waiter in desk.pool.status().waiters] == [rest[0].pid]
    assert not any(map(is_gone, rest))
    harness.crash()
    wait_until(lambda: all(map(is_gone, rest)), "the wait is over")
    assert desk.pool.status().waiters == ()
    assert holder.finish() == 0
    desk.nothing_remains(rest)


def test_a_wait_without_an_owner_gets_its_turn_all_the_same(desk: Desk) -> None:
    """Its shell and its agent are gone, and the pipe to which it speaks; the slot comes back after it."""
    holder, harness = desk.waits("opencode", "slot-run make; true")
    rest = harness.tree()[1:]
    harness.ask("kill")
    harness.crash()
    holder.finish()
    wait_until(lambda: is_gone(rest[0]), "the end of the build, which cannot say that it builds")
    assert (desk.dir / "ran").exists()
    desk.nothing_remains(rest)


def test_a_wait_is_moved_to_the_background(desk: Desk) -> None:
    """Claude's usual limit: the shell goes on, the rest of what it says is in a file, its status is known."""
    holder, harness = desk.waits("claude", "slot-run make")
    wait_until(lambda: harness.hears("slot-run: waiting"), "slot-run says that it waits")
    assert harness.ask("background") is None
    holder.finish()
    wait_until(lambda: BUILDS in (desk.dir / "task").read_text(), "the build")
    assert "slot-run: starting after " in (desk.dir / "task").read_text()
    desk.go()
    assert harness.ended() == 7
    desk.nothing_remains([])


@pytest.mark.parametrize("tool", ["codex", "codex-pty"])
def test_a_wait_yields_and_is_polled(desk: Desk, tool: str) -> None:
    """Each poll tells what is new in plain lines, on a terminal too."""
    holder, harness = desk.waits(tool, "slot-run make")
    wait_until(lambda: harness.hears("slot-run: waiting"), "slot-run says that it waits")
    holder.finish()
    wait_until(lambda: harness.hears(BUILDS), "the build")
    assert harness.status is None
    desk.go()
    assert harness.ended() == 7
    assert [line.split(",")[0].split(" after")[0] for line in harness.said.splitlines()] == [
        "slot-run: waiting",
        "slot-run: starting",
        BUILDS.strip(),
    ]
    assert "\x1b" not in harness.said
    desk.nothing_remains([])


SILENT_S, AGAIN_S = 3.0, 0.1
"""The limit of a tool without output, and how often slot-run speaks: 300 s and 20 s in life."""


@pytest.mark.parametrize("option", ["", "-q "])
def test_what_a_wait_says_keeps_it_alive(desk: Desk, option: str) -> None:
    """Gemini ends a command that is silent for long; one that is told to be quiet is one."""
    executable(desk.shimmed.bin / "slot-run", OFTEN.format(again_s=AGAIN_S))
    holder, harness = desk.waits("gemini", f"slot-run {option}make", str(SILENT_S))
    if option:
        assert harness.ended() < 0
        assert desk.pool.status().waiters == ()
        holder.finish()
    else:
        lines = int(1.5 * SILENT_S / AGAIN_S)  # so many cannot be said within the limit
        wait_until(lambda: harness.ask("poll") or harness.said.count("waiting") > lines, "many lines")
        assert harness.status is None
        holder.finish()
        wait_until(lambda: harness.hears(BUILDS), "the build")
        desk.go()
        assert harness.ended() == 7
    desk.nothing_remains([])


@pytest.mark.parametrize("wrapper", ["", "slot-run "], ids=["bare", "slot-run"])
@pytest.mark.parametrize("how", ["hang-up", "crash"])
@pytest.mark.parametrize("before", ["", "nohup ", "setsid -w "])
def test_a_terminal_closes_as_on_a_bare_build(desk: Desk, wrapper: str, how: str, before: str) -> None:
    """What ignores it, or has a session of its own, goes on; all else ends."""
    environ = desk.shimmed.environ
    environ["PATH"] = environ["PATH"].replace(f"{desk.shimmed.dir}:", "")
    harness = desk.runs("codex-pty", f"{before}{wrapper}make; true")
    tree = harness.tree()
    build = tree[1:]
    if before.startswith("setsid"):
        build = [process for process in build if os.getsid(process.pid) != harness.shell]
    end(harness, how)
    wait_until(lambda: is_gone(tree[0]), "the end of the shell")
    if before:
        assert not any(map(is_gone, build))
        assert desk.pool.held() == ([0] if wrapper else [])
        desk.go()
    desk.nothing_remains(tree)


@pytest.mark.parametrize("how", ["hang-up", "crash"])
def test_a_terminal_closes_on_a_wait(desk: Desk, how: str) -> None:
    """It leaves the line, and tidies its place away by itself."""
    holder, harness = desk.waits("codex-pty", "slot-run make; true")
    tree = harness.tree()
    end(harness, how)
    wait_until(lambda: all(map(is_gone, tree)), "the end of all")
    assert (desk.pool.status().waiters, desk.pool.leftovers()) == ((), [])
    holder.finish()
    desk.nothing_remains(tree)


@pytest.mark.parametrize("state", [RUNNING, WAITING])
@pytest.mark.parametrize(
    ("tool", "how"),
    [
        ("claude", "kill"),
        ("claude", "crash"),
        ("codex", "limit"),
        ("codex-pty", "limit"),
        ("codex-pty", "hang-up"),
        ("codex-pty", "crash"),
        ("gemini", "limit"),
        ("opencode", "limit"),
    ],
)
def test_a_detached_build_outlives_all_that(desk: Desk, tool: str, how: str, state: str) -> None:
    """It runs, or waits and gets its turn; who comes later learns its status."""
    line = "slot-run --detach make; echo told; exec sleep 1000"
    if state == WAITING:
        holder, harness = desk.waits(tool, line)
    else:
        harness = Harness(desk, tool, line)
    wait_until(lambda: harness.hears("told"), "the line of the detached build")
    job = Job(os.path.join(jobs.base_dir(), harness.said.partition(":")[0]))
    wait_until(lambda: job.state().word == state, state)
    tree = harness.tree()
    owned = desk.pool.queued("-n1", f"--owner={harness.pid}")
    end(harness, how)
    if (tool, how) == ("claude", "crash"):
        tree[-1].kill()
    if how == "crash":  # who has it as owner knows by now
        assert owned.process.wait(DEADLINE_S) == NO_SLOT
    else:
        owned.process.terminate()
        owned.process.wait(DEADLINE_S)
    wait_until(lambda: all(map(is_gone, tree)), "the end of all that the tool has started")
    assert job.state().word == state
    if state == WAITING:
        assert len(desk.pool.status().waiters) == 1
        holder.finish()
    wait_until(lambda: job.state().word == RUNNING, "its turn")
    assert [held.ownerless for held in desk.pool.status().holders] == [False]
    desk.go()
    result = desk.pool.run(script("buildslots"), "wait", cwd=desk.dir)
    # On a busy machine it has waited for long enough to say so.
    log = [line for line in result.stdout.splitlines() if not line.startswith("slot-run: ")]
    assert (result.returncode, log[0]) == (7, BUILDS.strip())
    assert job.state().word == FINISHED
    desk.nothing_remains([])
