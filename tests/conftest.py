"""Fixtures: an environment without the user's settings, and a pool to build in."""

from __future__ import annotations

import os
import signal
import sys
from typing import TYPE_CHECKING

import pytest
from builds import Mounts, Pool
from terminals import Terminal
from users import Users

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


# What drives real builds with sh and pipes needs POSIX; what forces failures with mounts and strace,
# and what pins the modules of the fast path (elsewhere platformdirs is among them), needs Linux.
collect_ignore = []
if sys.platform != "linux":
    collect_ignore += ["test_failures.py", "test_fast_path.py", "test_faults.py", "test_windows_seams.py"]
if os.name == "nt":
    collect_ignore += [
        f"test_{name}.py"
        for name in (
            "admission",
            "async",
            "attacks",
            "child",
            "completion",
            "contract",
            "disk",
            "examples",
            "fuzz",
            "gates",
            "interleavings",
            "journal",
            "nesting",
            "paced",
            "past",
            "pool",
            "security",
            "security_view",
            "shared",
            "status",
            "terminal",
            "tools",
            "waiting",
            "watch",
            "weights",
        )
    ]
    collect_ignore += ["test_doctor.py", "test_release.py"]


def pytest_configure() -> None:
    """Die of SIGINT and SIGQUIT, as must what the tests start, also if a script has started this with `&`.

    A shell without job control makes that ignore both (POSIX, "Signals and Error Handling"), and what is
    ignored stays so after exec.
    """
    for name in ("SIGINT", "SIGQUIT"):
        number = getattr(signal, name, None)
        if number is not None and signal.getsignal(number) == signal.SIG_IGN:
            signal.signal(number, signal.default_int_handler if name == "SIGINT" else signal.SIG_DFL)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Leave out what is marked as Linux's elsewhere."""
    if sys.platform != "linux":
        items[:] = [item for item in items if item.get_closest_marker("linux") is None]


@pytest.fixture(autouse=True)
def _no_settings_of_the_user(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Keep the variables and the config file of whoever runs the tests out of them."""
    for name in list(os.environ):
        if name.startswith(("BUILD_SLOT", "MAX_CONCURRENT_BUILDS", "XDG_")):
            monkeypatch.delenv(name)
    home = tmp_path / "home"
    home.mkdir()
    monkeypatch.setenv("HOME", str(home))


@pytest.fixture
def pool(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Pool]:
    """An empty default pool, of this process too, in a directory that does not exist yet."""
    directory = tmp_path / "pool"
    monkeypatch.setenv("BUILD_SLOTS_DIR", str(directory))
    pool = Pool(directory, dict(os.environ))
    yield pool
    pool.end()


@pytest.fixture
def terminal(pool: Pool, tmp_path: Path) -> Iterator[Terminal]:
    """An interactive bash in a terminal, with that pool."""
    terminal = Terminal(tmp_path / "tmux", pool.environ)
    yield terminal
    terminal.close()


@pytest.fixture
def mounts(pool: Pool) -> Mounts:
    """A shell that may mount, with that pool."""
    return Mounts(pool)


@pytest.fixture
def users(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Users]:
    """A group's pool, empty so far."""
    scratch = tmp_path / "shared"
    scratch.mkdir()
    scratch.chmod(0o755)
    monkeypatch.setenv("BUILD_SLOTS_DIR", str(scratch / "pool"))
    users = Users(scratch, dict(os.environ))
    yield users
    users.end()
