"""How slot-run waits for signals for a limited time, and what it makes of a stop in that time."""

from __future__ import annotations

import _signal
import signal
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


def never_filled_in(signum: int, code: int, error: int = 0) -> object:
    """A sigtimedwait of CPython whose process was stopped until after the time: what it returns is chance."""

    def sigtimedwait(_signals: object, seconds: float) -> _signal.struct_siginfo:
        time.sleep(seconds)
        return _signal.struct_siginfo((signum, code, error, 4711, 0, 0, 0))

    return sigtimedwait


def test_a_nap_ends_with_a_signal_or_its_time(monkeypatch: pytest.MonkeyPatch) -> None:
    """And with no signal that has not come: one that ended slot-run would be made of it."""
    monkeypatch.setattr(_signal, "sigtimedwait", never_filled_in(signal.SIGHUP, 0))
    assert child.nap(0.001, {signal.SIGUSR1, signal.SIGHUP}) == 0
    signal.pthread_kill(threading.get_ident(), signal.SIGUSR1)
    assert child.nap(30.0, {signal.SIGUSR1, signal.SIGHUP}) == signal.SIGUSR1


@pytest.mark.parametrize(
    ("signum", "code", "error"), [(0, 0, 0), (1, 970312576, 0), (1, -3000, 0), (1, 0, 7), (4711, 0, 0)]
)
def test_no_number_that_stands_there_by_chance_is_sent_on(
    monkeypatch: pytest.MonkeyPatch, signum: int, code: int, error: int
) -> None:
    """It looks at the command instead, which is never wrong."""
    monkeypatch.setattr(_signal, "sigtimedwait", never_filled_in(signum, code, error))
    assert child._next_signal(0.001) == (signal.SIGCHLD, False)


def test_after_a_stop_nothing_is_believed(monkeypatch: pytest.MonkeyPatch) -> None:
    """However likely it looks: SIGCONT is pending, so this process was stopped."""
    monkeypatch.setattr(_signal, "sigtimedwait", never_filled_in(signal.SIGTERM, child.SI_USER))
    assert child._next_signal(0.001)[0] == signal.SIGTERM
    signal.pthread_kill(threading.get_ident(), signal.SIGCONT)
    assert child._next_signal(0.001) == (signal.SIGCHLD, False)
