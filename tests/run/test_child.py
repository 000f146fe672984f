"""What slot-run owes to a command: its exit status, its signals, and a slot for as long as it lives."""

from __future__ import annotations

import os
import select
import shlex
import signal
import subprocess
import sys
import textwrap
from pathlib import Path

import psutil
import pytest
from builds import DEADLINE_S, HELD_BUILD, Build, Pool, script, wait_until
from namespaces import unshare

STOPPING = (signal.SIGTSTP, signal.SIGTTIN, signal.SIGTTOU)


def state(pid: int) -> str:
    """The state of process `pid` in one letter, see proc_pid_stat(5)."""
    return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]


def has_ended(build: Build) -> bool:
    """Whether nobody has the other end of its stdout, not even a command that has outlived slot-run."""
    ready, _, _ = select.select([build.process.stdout], [], [], DEADLINE_S)
    return bool(ready) and os.read(build.process.stdout.fileno(), 1) == b""


@pytest.mark.parametrize("status", [0, 1, 75, 125, 255])
def test_exit_status_is_the_command_s_own(pool: Pool, status: int) -> None:
    """Whatever the command exits with, slot-run exits with."""
    result = pool.slot_run("sh", "-c", f"exit {status}")
    assert (result.returncode, result.stdout, result.stderr, pool.held()) == (status, "", "", [])


@pytest.mark.parametrize("name", ["SIGTERM", "SIGKILL", "SIGSEGV", "SIGINT"])
def test_slot_run_dies_of_the_signal_that_killed_the_command(pool: Pool, name: str) -> None:
    """A parent sees the same death, and no core file is written."""
    signum = getattr(signal, name)
    result = pool.slot_run("sh", "-c", f"kill -{signum} $$", cwd=pool.dir.parent)
    assert (result.returncode, result.stderr) == (-signum, "")
    assert not list(pool.dir.parent.glob("core*"))


def test_the_death_of_slot_run_dumps_no_core(pool: Pool, tmp_path) -> None:
    """Where core files are wanted, the command's own is the only one."""
    program = textwrap.dedent("""
        import os, resource, sys
        hard = resource.getrlimit(resource.RLIMIT_CORE)[1]
        resource.setrlimit(resource.RLIMIT_CORE, (hard, hard))
        _, status = os.waitpid(os.posix_spawn(sys.argv[1], sys.argv[1:], os.environ), 0)
        print(os.WTERMSIG(status), os.WCOREDUMP(status))
    """)
    command = [script("slot-run"), "sh", "-c", "ulimit -c 0; kill -SEGV $$"]
    result = pool.run(sys.executable, "-c", program, *command, cwd=tmp_path)
    assert result.stdout == f"{int(signal.SIGSEGV)} False\n"


def test_what_cannot_be_run(pool: Pool, tmp_path) -> None:
    """127 for a command that is not found, 126 for one that is no program, with one line each."""
    (tmp_path / "data").write_text("")
    for command, status, message in (
        ("no-such-command-here", 127, "no-such-command-here: No such file or directory"),
        (str(tmp_path), 126, f"{tmp_path}: Permission denied"),
        (str(tmp_path / "data"), 126, f"{tmp_path / 'data'}: Permission denied"),
    ):
        result = pool.slot_run(command)
        assert (result.returncode, result.stdout, result.stderr) == (status, "", f"slot-run: {message}\n")
    assert pool.held() == []


def test_a_script_without_an_interpreter_line_is_run_by_sh(pool: Pool, tmp_path) -> None:
    """As by execvp(3) and by every shell, found through PATH as well."""
    (tmp_path / "plain").write_text('echo "$0 $1 $BUILD_SLOT"\n')
    (tmp_path / "plain").chmod(0o755)
    path = f"{tmp_path}:{os.environ['PATH']}"
    for command in (str(tmp_path / "plain"), "plain"):
        result = pool.slot_run(command, "one", environ={"PATH": path})
        assert (result.stdout, result.stderr) == (f"{tmp_path / 'plain'} one 0\n", "")


def test_streams_directory_and_arguments_are_the_command_s_own(pool: Pool, tmp_path) -> None:
    """Nothing is added to or taken from them, not even from arguments that look like options."""
    result = pool.slot_run("printf", "%s|", "-n", "--slots", "", "a b", "--", input="", cwd=tmp_path)
    assert (result.stdout, result.stderr) == ("-n|--slots||a b|--|", "")
    result = pool.slot_run("--", "sh", "-c", "cat; pwd; echo err >&2; exit 3", input="in\n", cwd=tmp_path)
    assert (result.returncode, result.stdout, result.stderr) == (3, f"in\n{tmp_path}\n", "err\n")


@pytest.mark.parametrize("name", ["TERM", "HUP", "INT", "QUIT", "USR1", "USR2"])
def test_a_signal_to_slot_run_alone_reaches_the_command(pool: Pool, name: str) -> None:
    """The command sees the signal once, decides what to do, and its exit status counts."""
    command = f"trap 'echo got {name}; exit 9' {name}; echo ready; while :; do sleep 0.01; done"
    build = pool.popen(script("slot-run"), "--", "sh", "-c", command)
    assert build.started() == "ready"
    build.process.send_signal(getattr(signal, f"SIG{name}"))
    assert build.started() == f"got {name}"
    assert build.process.wait() == 9
    assert build.process.stdout.read() == b""


# Fatal to a shell, or not. The first two real-time signals are kept by glibc (signal(7)).
ALL = sorted(signal.valid_signals() - {signal.SIGKILL, signal.SIGSTOP, signal.SIGCHLD} - set(STOPPING))


@pytest.mark.linux
@pytest.mark.parametrize("signum", ALL, ids=lambda signum: getattr(signum, "name", f"RT{signum}"))
def test_any_signal_to_slot_run_does_what_it_does_to_the_command(pool: Pool, signum: int) -> None:
    """It ends slot-run and command together, or neither: no build runs on without a slot."""
    ends = []
    for wrapper in ([], [script("slot-run")]):
        build = pool.popen(*wrapper, "sh", "-c", "ulimit -c 0; " + HELD_BUILD, cwd=pool.dir.parent)
        build.started()
        build.process.send_signal(signum)
        if signum in {signal.SIGCONT, signal.SIGURG, signal.SIGWINCH}:
            assert build.finish(7) == 7
        ends.append(build.process.wait(DEADLINE_S))
        assert has_ended(build)
    assert ends[0] == ends[1]
    assert pool.held() == []


def test_an_alarm_that_was_set_before_slot_run_ends_the_command(pool: Pool) -> None:
    """The poor man's timeout: alarm(2) outlasts an exec, and the kernel itself sends the signal."""
    for wrapper in ([], [script("slot-run")]):
        build = pool.popen("perl", "-e", "alarm shift; exec @ARGV", "1", *wrapper, "sh", "-c", "read line")
        assert build.process.wait(DEADLINE_S) == -signal.SIGALRM
        assert has_ended(build)
        assert pool.held() == []


@pytest.mark.linux
def test_a_write_of_our_own_that_fails_is_no_signal_for_the_command(pool: Pool) -> None:
    """Beyond `ulimit -f`, the journal gets no line, and the command no SIGXFSZ."""
    text = f"ulimit -f 1; exec {script('slot-run')} sh -c 'trap \"echo got it\" XFSZ PIPE; sleep 0.2; exit 3'"
    journal = Path(pool.environ["HOME"]) / ".local/state/buildslots"
    pool.slot_run("true")
    kept = [path for path in journal.rglob("*") if path.is_file()]
    assert kept
    for path in kept:
        path.write_text("x" * 2000)
    result = pool.run("sh", "-c", text)
    assert (result.returncode, result.stdout) == (3, "")


@pytest.mark.linux
@pytest.mark.parametrize("signum", [*STOPPING, signal.SIGSTOP], ids=lambda signum: signum.name)
@pytest.mark.parametrize("above", [(), ("sh", "-c", '"$@"; exit $?', "sh")], ids=["own-group", "a-group"])
def test_a_command_that_is_paused_alone_does_not_keep_slot_run(
    pool: Pool, signum: int, above: tuple[str, ...]
) -> None:
    """Without a shell that would continue slot-run: who pauses the command also continues the command."""
    # In a group of its own: in an orphaned one, as that of the tests may be, these signals stop nothing.
    command_line = (*above, script("slot-run"), "sh", "-c", "echo $$; read n; exit $n")
    build = pool.popen(*command_line, process_group=0)
    command = int(build.started())
    os.kill(command, signum)
    wait_until(lambda: state(command) == "T", "the command has stopped")
    os.kill(command, signal.SIGCONT)
    wait_until(lambda: state(command) != "T", "the command goes on")
    assert build.finish(6) == 6


@pytest.mark.linux
@pytest.mark.parametrize("signum", STOPPING, ids=lambda signum: signum.name)
def test_slot_run_that_is_paused_itself_pauses_the_command(pool: Pool, signum: int) -> None:
    """Both stop, and both go on, however quickly one follows the other."""
    build = pool.popen(script("slot-run"), "sh", "-c", "echo $$; read n; exit $n", process_group=0)
    command = int(build.started())
    build.process.send_signal(signum)
    wait_until(lambda: state(command) == state(build.pid) == "T", "both have stopped")
    build.process.send_signal(signal.SIGCONT)
    wait_until(lambda: "T" not in (state(command), state(build.pid)), "both go on")
    for _ in range(20):
        build.process.send_signal(signum)
        build.process.send_signal(signal.SIGCONT)
    assert build.finish(6) == 6


@pytest.mark.linux
@pytest.mark.parametrize("name", ["TERM", "ALRM", "ABRT"])
def test_signals_reach_the_command_of_the_first_process(pool: Pool, name: str) -> None:
    """In a container slot-run is process 1, which no signal ends by default (pid_namespaces(7))."""
    command = f"trap 'echo got {name}; exit 9' {name}; echo ready; while :; do sleep 0.01; done"
    build = pool.popen(*unshare("--pid"), "--fork", "--kill-child", script("slot-run"), "sh", "-c", command)
    assert build.started() == "ready"
    first = wait_until(lambda: psutil.Process(build.pid).children(), "the first process")[0]
    first.send_signal(getattr(signal, f"SIG{name}"))
    assert build.started() == f"got {name}"
    assert build.process.wait(DEADLINE_S) == 9


def test_ignored_signals_stay_ignored(pool: Pool) -> None:
    """Under nohup a hang-up harms neither slot-run nor the command, waiting or running."""
    first = pool.build("-n1")
    first.started()
    build = pool.popen("nohup", script("slot-run"), "-n1", "--", "sh", "-c", HELD_BUILD)
    wait_until(lambda: pool.status().waiters, "a waiter")
    build.process.send_signal(signal.SIGHUP)
    first.finish()
    build.started()
    build.process.send_signal(signal.SIGHUP)
    assert build.finish(5) == 5


@pytest.mark.linux
def test_signal_dispositions_are_the_defaults_in_the_command(pool: Pool, tmp_path) -> None:
    """Nothing that Python ignores, and nothing that slot-run blocks, is left so in the command."""
    show = ("grep", "-E", "^Sig(Blk|Ign)", "/proc/self/status")

    def masks(*command: str) -> list[int]:
        # Signals 1 to 31: glibc's posix_spawn leaves its own two (32, 33) ignored in every child.
        return [int(line.split()[1], 16) & 0x7FFFFFFF for line in pool.run(*command).stdout.splitlines()]

    wanted = masks("sh", "-c", 'exec "$@"', "sh", *show)
    assert masks(script("slot-run"), *show) == wanted
    assert masks(script("slot-run"), script("slot-run"), *show) == wanted
    plain = tmp_path / "plain"  # without an interpreter line
    plain.write_text(f"exec {shlex.join(show)}\n")
    plain.chmod(0o755)
    assert masks(script("slot-run"), str(plain)) == wanted
    assert masks(script("slot-run"), script("slot-run"), str(plain)) == wanted


def test_an_inherited_ignored_sigchld_does_not_lose_the_exit_status(pool: Pool) -> None:
    """A parent that ignores SIGCHLD hands that down; the kernel would then reap the command."""
    program = textwrap.dedent(f"""
        import os, signal
        signal.signal(signal.SIGCHLD, signal.SIG_IGN)
        os.execv({script("slot-run")!r}, ["slot-run", "sh", "-c", "exit 4"])
    """)
    assert pool.run(sys.executable, "-c", program).returncode == 4


@pytest.mark.parametrize("name", ["TERM", "HUP", "INT", "QUIT", "USR1", "USR2"])
def test_a_signal_ends_a_wait_and_leaves_nothing(pool: Pool, name: str) -> None:
    """slot-run dies of it at once, its command never runs, its place in line is gone."""
    first = pool.build("-n1")
    first.started()
    waiter = pool.queued("-n1", "-q")
    waiter.process.send_signal(getattr(signal, f"SIG{name}"))
    assert (waiter.process.wait(), waiter.errors()) == (-getattr(signal, f"SIG{name}"), "")
    assert pool.leftovers() == []


def test_signals_in_quick_succession_end_a_wait_just_as_well(pool: Pool) -> None:
    """The second one does not interrupt the clean-up after the first."""
    first = pool.build("-n1")
    first.started()
    waiter = pool.queued("-n1", "-q")
    for signum in (signal.SIGHUP, signal.SIGTERM, signal.SIGINT):
        waiter.process.send_signal(signum)
    deaths = {-signal.SIGHUP, -signal.SIGTERM, -signal.SIGINT}
    assert waiter.process.wait() in deaths
    assert (waiter.errors(), pool.leftovers()) == ("", [])


def test_a_signal_while_python_would_drop_it_still_ends_the_wait(pool: Pool) -> None:
    """An exception in a `__del__` is lost, and imports run such code: the signal comes afterwards."""
    first = pool.build("-n1")
    first.started()
    program = (
        "import os, signal, sys\n"
        "class Lost:\n"
        "    def __del__(self):\n"
        "        os.kill(os.getpid(), signal.SIGTERM)\n"
        "        for _ in range(1000): pass\n"
        "class Finder:\n"
        "    def find_spec(name, path, target=None):\n"
        "        if name == 'buildslots.disk.wait': Lost()\n"
        "sys.meta_path.insert(0, Finder)\n"
        "sys.argv = ['slot-run', '-q', '-n1', 'true']\n"
        "from buildslots.run.main import main\n"
        "main()\n"
    )
    result = pool.run(sys.executable, "-c", program)
    assert (result.returncode, result.stderr, pool.leftovers()) == (-signal.SIGTERM, "", [])


@pytest.mark.linux
def test_a_command_that_may_not_be_signalled_is_still_waited_for(pool: Pool) -> None:
    """As below sudo: the slot stays held, and the exit status is the command's."""
    trace = ["strace", "-o", "/dev/null", "-e", "trace=kill", "-e", "inject=kill:error=EPERM"]
    build = pool.popen(*trace, script("slot-run"), "-n1", "sh", "-c", 'echo "$BUILD_SLOT"; read n; exit $n')
    build.started()
    os.kill(pool.status().holders[0].pid, signal.SIGTERM)
    assert pool.held() == [0]
    assert build.finish(9) == 9


@pytest.mark.linux
def test_a_signal_before_there_is_a_command_is_not_lost(pool: Pool) -> None:
    """What arrives while the command is being started reaches it."""
    trace = ["strace", "-o", "/dev/null", "-e", "trace=clone,clone3,vfork"]
    trace += ["-e", "inject=clone,clone3,vfork:delay_enter=700000"]
    build = pool.popen(*trace, script("slot-run"), "-n1", "sleep", "300")
    holder = wait_until(lambda: pool.status().holders, "the slot is held")[0]
    os.kill(holder.pid, signal.SIGTERM)
    wait_until(lambda: pool.held() == [], "the command ended by the signal")
    assert build.process.wait() == -signal.SIGTERM


def test_a_file_in_path_that_may_not_be_executed(pool: Pool, tmp_path) -> None:
    """Found but not executable: 126, unless a later directory of PATH has a better one."""
    (tmp_path / "tool").write_text("")
    environ = {"PATH": f"{tmp_path}:{os.environ['PATH']}"}
    result = pool.slot_run("tool", environ=environ)
    assert (result.returncode, result.stderr) == (126, "slot-run: tool: Permission denied\n")
    (tmp_path / "tool").rename(tmp_path / "true")
    assert pool.slot_run("true", environ=environ).returncode == 0


def test_no_failure_of_ours_stops_a_build(pool: Pool) -> None:
    """Not even a bug: it is a warning, and the command runs."""
    program = (
        "import sys\n"
        "from buildslots.run import main\n"
        "def broken(*_, **__): raise RuntimeError('a bug')\n"
        "main.Admission = broken\n"
        "sys.argv = ['slot-run', 'echo', 'ran']\n"
        "main.main()\n"
    )
    result = pool.run(sys.executable, "-c", program)
    assert result.stdout == "ran\n"
    assert result.stderr == "slot-run: running without a slot: RuntimeError('a bug')\n"


def test_a_directory_earlier_in_path_is_no_command(pool: Pool, tmp_path) -> None:
    """As for execvp(3), also for a script without an interpreter line, nested or not."""
    (tmp_path / "a" / "tool").mkdir(parents=True)
    (tmp_path / "b").mkdir()
    (tmp_path / "b" / "tool").write_text("echo ran\n")
    (tmp_path / "b" / "tool").chmod(0o755)
    environ = {"PATH": f"{tmp_path / 'a'}:{tmp_path / 'b'}:{os.environ['PATH']}"}
    assert pool.slot_run("tool", environ=environ).stdout == "ran\n"
    assert pool.slot_run(script("slot-run"), "tool", environ=environ).stdout == "ran\n"


def test_a_killed_slot_run_keeps_its_slot_until_the_command_ends(pool: Pool) -> None:
    """The command inherited the lock; when it ends, the next build starts, and not before."""
    build = pool.build("-n1")
    build.started()
    waiter = pool.queued("-n1")
    build.process.kill()
    build.process.wait()
    wait_until(lambda: pool.status().holders[0].orphaned, "the status tells of the orphan")
    assert not waiter.is_started()
    build.process.stdin.close()  # the command's only reason to run
    assert waiter.started() == "0"


def test_a_slot_is_handed_down_where_descriptors_are_few(pool: Pool) -> None:
    """A limit too low for the high numbers: the command inherits the lock all the same."""
    command = f"ulimit -n 32; exec {script('slot-run')} -n1 -- sh -c {shlex.quote(HELD_BUILD)}"
    build = pool.popen("sh", "-c", command)
    build.started()
    build.process.kill()
    build.process.wait()
    assert pool.held() == [0]
    build.process.stdin.close()
    wait_until(lambda: pool.held() == [], "the command ended")


@pytest.mark.linux
def test_a_daemon_of_a_killed_command_keeps_nothing(pool: Pool) -> None:
    """The slot is given back before slot-run dies as the command did."""
    result = pool.slot_run("-n1", "sh", "-c", "setsid sleep 300 >/dev/null 2>&1 & echo $!; kill -9 $$")
    try:
        assert (result.returncode, pool.held()) == (-signal.SIGKILL, [])
    finally:
        os.kill(int(result.stdout), signal.SIGKILL)


@pytest.mark.linux
def test_a_daemon_that_the_command_leaves_behind_keeps_nothing(pool: Pool) -> None:
    """A process that inherited lock and bell and lives on does not hold the slot, nor silence its bell."""
    result = pool.slot_run("-n1", "sh", "-c", "setsid sleep 300 >/dev/null 2>&1 & echo $!")
    daemon = int(result.stdout)
    try:
        program = Path(f"/proc/{daemon}/comm")
        wait_until(lambda: program.read_text() == "sleep\n", "the daemon is its own program")
        # realpath: the loader may close one of its files while we look.
        files = [os.path.realpath(f"/proc/{daemon}/fd/{fd}") for fd in os.listdir(f"/proc/{daemon}/fd")]
        assert str(pool.dir / "slot-0") in files
        assert pool.held() == []
        first = pool.build("-n1")
        assert first.started() == "0"
        second = pool.queued("-n1")
        first.process.kill()  # no explicit release: only the new bell can tell
        first.process.stdin.close()
        assert second.started() == "0"
    finally:
        os.kill(daemon, signal.SIGKILL)


def test_the_low_descriptors_of_the_command_are_its_own(pool: Pool) -> None:
    """What the caller handed down, say a jobserver, arrives; the slot's own descriptors are high."""
    read, write = os.pipe()
    os.write(write, b"token")
    os.set_inheritable(read, True)
    listing = "import os; print(sorted(int(fd) for fd in os.listdir('/dev/fd')))"
    program = f"import os; print(os.read({read}, 5).decode()); {listing}"
    result = pool.slot_run(sys.executable, "-c", program, pass_fds=[read])
    os.close(read)
    os.close(write)
    token, fds = result.stdout.splitlines()
    assert token == "token"
    assert [fd for fd in eval(fds) if fd not in {0, 1, 2, read} and fd < 64] in ([], [3], [4])


def test_the_command_under_no_slot_sees_no_slot(pool: Pool) -> None:
    """BUILD_SLOT of somebody else is removed when the command runs without any."""
    environ = {"BUILD_SLOT": "7", "BUILD_SLOTS_DIR": "/dev/null/nowhere"}
    result = pool.slot_run("sh", "-c", 'echo "${BUILD_SLOT-none}"', environ=environ)
    assert result.stdout == "none\n"


@pytest.mark.linux
def test_slot_run_stops_and_goes_on_with_its_command(pool: Pool) -> None:
    """SIGTSTP to slot-run stops the command, SIGCONT continues it."""
    build = pool.popen(script("slot-run"), "sh", "-c", "echo $$; read line; exit 0", start_new_session=True)
    command = int(build.started())

    build.process.send_signal(signal.SIGSTOP)
    wait_until(lambda: state(build.pid) == "T", "slot-run stopped")
    os.kill(command, signal.SIGSTOP)
    build.process.send_signal(signal.SIGCONT)
    wait_until(lambda: state(command) != "T", "SIGCONT is passed on")
    assert build.finish() == 0


@pytest.mark.linux
def test_a_full_stderr_does_not_matter(pool: Pool) -> None:
    """What slot-run cannot say is lost, the build is not."""
    with open("/dev/full", "w") as full:
        result = subprocess.run(
            [script("slot-run"), "-n0x", "true"], env=pool.environ, stderr=full, check=False
        )
        assert result.returncode == 125
        environ = pool.environ | {"MAX_CONCURRENT_BUILDS": "many"}
        assert (
            subprocess.run([script("slot-run"), "true"], env=environ, stderr=full, check=False).returncode
            == 0
        )
