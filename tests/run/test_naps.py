"""How slot-run waits for signals for a limited time, and what it makes of a stop in that time."""

from __future__ import annotations

import _signal
import os
import signal
import subprocess
import threading
import time
from typing import TYPE_CHECKING

import pytest

from buildslots.run import child

if TYPE_CHECKING:
    from collections.abc import Iterator

pytestmark = pytest.mark.linux


@pytest.fixture(autouse=True)
def _blocked() -> Iterator[None]:
    """As slot-run has them while it waits."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGUSR1, signal.SIGCONT})
    yield
    signal.sigtimedwait({signal.SIGUSR1, signal.SIGCONT}, 0)
    signal.pthread_sigmask(signal.SIG_SETMASK, before)


def never_filled_in(signum: int, code: int, error: int = 0, pid: int = 4711) -> object:
    """A sigtimedwait of CPython whose process was stopped until after the time: what it returns is chance."""

    def sigtimedwait(_signals: object, seconds: float) -> _signal.struct_siginfo:
        time.sleep(seconds)
        return _signal.struct_siginfo((signum, code, error, pid, 0, 0, 0))

    return sigtimedwait


def test_a_nap_ends_with_a_signal_or_its_time(monkeypatch: pytest.MonkeyPatch) -> None:
    """And with no signal that has not come: one that ended slot-run would be made of it."""
    monkeypatch.setattr(_signal, "sigtimedwait", never_filled_in(signal.SIGHUP, 0))
    assert child.nap(0.001, {signal.SIGUSR1, signal.SIGHUP}) == 0
    signal.pthread_kill(threading.get_ident(), signal.SIGUSR1)
    assert child.nap(30.0, {signal.SIGUSR1, signal.SIGHUP}) == signal.SIGUSR1


@pytest.mark.parametrize(
    ("signum", "code", "error", "pid"),
    [
        (0, 0, 0, 1),
        (1, 970312576, 0, 1),
        (1, -3000, 0, 1),
        (1, 0, 7, 1),
        (4711, 0, 0, 1),
        (15, 0, 0, -753745000),
        (15, 0, 0, 1 << 23),
        (1, child.SI_KERNEL, 0, 4711),
    ],
)
def test_no_number_that_stands_there_by_chance_is_sent_on(
    monkeypatch: pytest.MonkeyPatch, signum: int, code: int, error: int, pid: int
) -> None:
    """It looks at the command instead, which is never wrong."""
    monkeypatch.setattr(_signal, "sigtimedwait", never_filled_in(signum, code, error, pid))
    assert child._next_signal(0.001) == (signal.SIGCHLD, False)


def test_what_comes_late_and_with_sigcont_has_come() -> None:
    """A terminal that hangs up sends both, so does systemd; and the time of the nap may be over by then."""
    reading, writing = os.pipe()
    pid = os.fork()  # a process of one thread
    if not pid:
        signal.pthread_sigmask(signal.SIG_BLOCK, child.WATCHED)
        subprocess.run(["sh", "-c", f"kill -TERM {os.getpid()}; kill -CONT {os.getpid()}"], check=True)
        found = [child._next_signal(0.0)[0] for _ in range(3)]  # SIGCHLD among them
        os.write(writing, repr(found).encode())
        os._exit(0)
    os.close(writing)
    with open(reading, encoding="ascii") as told:
        assert str(int(signal.SIGTERM)) in told.read()
    os.waitpid(pid, 0)
