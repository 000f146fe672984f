"""Jobs of child processes that a program serves under its slots."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from builds import Pool, wait_until

from buildslots import SettingError, SlotPool, SlotReleasedError
from buildslots.settings.places import state_dir
from buildslots.tokens.stock import held

if TYPE_CHECKING:
    from collections.abc import Iterator

    from buildslots.tokens.threaded import ServedJobs

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="only Linux has tokens")

C = 3


@pytest.fixture(autouse=True)
def _no_jobserver(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("MAKEFLAGS", "CARGO_MAKEFLAGS", "GNUMAKEFLAGS"):
        monkeypatch.delenv(name, raising=False)


@pytest.fixture
def client() -> Iterator[Client]:
    """What asks for jobs, as a make does."""
    client = Client()
    yield client
    client.close()


class Client:
    """Reads tokens, and gives them back."""

    def __init__(self) -> None:
        self.fd = -1

    def open(self, served: ServedJobs) -> None:
        path = served.environ["MAKEFLAGS"].rpartition("fifo:")[2].split()[0]
        self.fd = os.open(path, os.O_RDWR | os.O_NONBLOCK)

    def take(self) -> bool:
        try:
            return bool(os.read(self.fd, 1))
        except BlockingIOError:
            return False

    def give(self) -> None:
        os.write(self.fd, b"+")

    def close(self) -> None:
        if self.fd >= 0:
            os.close(self.fd)


def test_a_child_has_its_jobs_from_the_stock(pool: Pool, client: Client) -> None:
    """As many as it may run, one after the other; and after the block nobody has any."""
    with SlotPool().acquire() as slot:
        with slot.jobserver(["make", "-kj3"], tokens=C) as served:
            assert served.command == ["make", "-k"]
            assert served.environ["BUILD_SLOT"] == "0"
            assert {*slot.descriptors} < {*served.descriptors}
            client.open(served)
            for _ in range(2):
                wait_until(client.take, "a token")
            assert held(str(pool.dir), C) == 2
            assert not client.take()
            client.give()
            wait_until(client.take, "the same again")
        assert served.tokens_max == 2
        assert held(str(pool.dir), C) == 0
        assert not any((pool.dir / "builds").iterdir())
    lines = Path(state_dir(os.environ), "journal.jsonl").read_text().splitlines()
    journal = [json.loads(line) for line in lines]
    assert journal[-1]["tokens_max"] == 2


def test_programs_keep_their_own_sigio(pool: Pool, client: Client) -> None:
    """That of the FIFO goes to our thread alone, and whatever is meant for the program to the program."""
    came: list[int] = []
    before = signal.signal(signal.SIGIO, lambda signum, _: came.append(signum))
    try:
        with SlotPool().acquire() as slot, slot.jobserver(jobs=8, tokens=C) as served:
            client.open(served)
            for _ in range(C):
                wait_until(client.take, "a token")
            assert came == []
            os.kill(os.getpid(), signal.SIGIO)
            wait_until(lambda: came == [signal.SIGIO], "ours")
    finally:
        signal.signal(signal.SIGIO, before)


INTERRUPTED = """
import _thread, signal, threading, time
from buildslots import SlotPool
real = threading.Thread.run
def late(self):
    time.sleep(0.3)  # as if the machine were busy
    real(self)
threading.Thread.run = late
def raises(*_):
    raise KeyboardInterrupt
signal.signal(signal.SIGALRM, raises)
with SlotPool().acquire() as slot:
    signal.setitimer(signal.ITIMER_REAL, 0.1)
    try:
        with slot.jobserver(jobs=8, tokens=3):
            print("served")
    except KeyboardInterrupt:
        print("interrupted", flush=True)
    for thread in threading.enumerate():
        if thread is not threading.main_thread():
            thread.join(30)
    print("left", threading.active_count() - 1)
"""


def test_an_interrupt_while_it_begins_ends_the_block_and_nothing_else(pool: Pool) -> None:
    """SIGIO, by which the thread is told to end, is blocked in it from its first moment on."""
    result = pool.run(sys.executable, "-c", INTERRUPTED)
    assert (result.returncode, result.stdout) == (0, "interrupted\nleft 0\n"), result.stderr
    assert held(str(pool.dir), C) == 0


def test_a_block_is_entered_once(pool: Pool) -> None:
    """Its jobserver has gone with its end."""
    with SlotPool().acquire() as slot:
        jobs = slot.jobserver(jobs=8, tokens=C)
        with jobs:
            pass
        with pytest.raises(RuntimeError, match="call jobserver"), jobs:
            pass


def test_a_forked_child_gives_nothing_back(pool: Pool, client: Client) -> None:
    """It leaves the block of its parent, and what its parent serves goes on."""
    with SlotPool().acquire() as slot, slot.jobserver(jobs=8, tokens=C) as served:
        client.open(served)
        wait_until(client.take, "a token")
        child = os.fork()
        if not child:
            served.__exit__(None, None, None)
            os._exit(0)
        assert os.waitpid(child, 0)[1] == 0
        wait_until(client.take, "another one")
    assert held(str(pool.dir), C) == 0


KILLED = """
import os, subprocess, sys
from buildslots import SlotPool
with SlotPool().acquire() as slot, slot.jobserver(jobs=8, tokens=3) as served:
    child = subprocess.Popen(["cat"], stdin=subprocess.PIPE, env=served.environ, pass_fds=served.descriptors)
    print(child.pid, flush=True)
    child.wait()
"""


def test_a_program_that_is_killed_leaves_its_child_its_tokens(pool: Pool) -> None:
    """Until that ends."""
    build = pool.popen(sys.executable, "-c", KILLED)
    assert build.process.stdout is not None
    child = int(build.process.stdout.readline())
    wait_until(lambda: held(str(pool.dir), C) == 1, "a token")
    keeper = os.open(f"/proc/{child}/fd/0", os.O_RDONLY)
    write_end = os.open(f"/proc/{build.process.pid}/fd/{_writer(build.process.pid, child)}", os.O_WRONLY)
    os.close(keeper)
    build.process.kill()
    build.process.wait()
    assert held(str(pool.dir), C) == 1
    os.close(write_end)
    wait_until(lambda: held(str(pool.dir), C) == 0, "the end of the child")


def _writer(pid: int, child: int) -> str:
    """The descriptor of `pid` by which it writes to its child."""
    pipe = os.readlink(f"/proc/{child}/fd/0")
    return next(fd for fd in os.listdir(f"/proc/{pid}/fd") if os.readlink(f"/proc/{pid}/fd/{fd}") == pipe)


def test_without_tokens_jobs_are_a_share_for_each(pool: Pool) -> None:
    """And without both nothing changes."""
    with SlotPool().acquire() as slot:
        with slot.jobserver(["ninja"], jobs=2, env={"PATH": "/bin"}) as served:
            assert served.command == ["ninja", "-j2"]
            assert served.environ["GOMAXPROCS"] == "2"
            assert served.environ["PATH"] == "/bin"
        with slot.jobserver(["ninja", "-j8"]) as served:
            assert served.command == ["ninja", "-j8"]
            assert served.environ == slot.environ()
            assert served.descriptors == slot.descriptors
        assert threading.active_count() == 1
        with pytest.raises(SettingError):
            slot.jobserver(jobs=0)
    with pytest.raises(SlotReleasedError):
        slot.jobserver()


def test_what_the_pool_says_counts(pool: Pool) -> None:
    """And what the program says, if it is less."""
    SlotPool().set_rules(tokens=2)
    with SlotPool().acquire() as slot:
        with slot.jobserver() as served:
            assert "-j3 " in served.environ["CARGO_MAKEFLAGS"]
        with slot.jobserver(tokens=9) as served:
            assert "-j3 " in served.environ["CARGO_MAKEFLAGS"]
        with slot.jobserver(tokens=1) as served:
            assert "-j2 " in served.environ["CARGO_MAKEFLAGS"]
        with slot.jobserver(tokens=0) as served:
            assert "CARGO_MAKEFLAGS" not in served.environ


def test_what_fails_is_a_warning_and_the_child_runs(
    pool: Pool, tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With fixed shares, if it has some."""
    cache = tmp_path / "home/.cache"
    cache.mkdir(parents=True, exist_ok=True)
    (cache / "buildslots").write_text("in its place")
    monkeypatch.setattr("buildslots.tokens.jobserver._is_private", lambda *_: False)  # no runtime directory
    with SlotPool().acquire() as slot, slot.jobserver(["ninja"], jobs=2, tokens=C) as served:
        subprocess.run(["true"], env=served.environ, pass_fds=served.descriptors, check=True)
        assert served.command == ["ninja", "-j2"]
    assert "no CPU tokens: " in caplog.text
    assert held(str(pool.dir), C) == 0
