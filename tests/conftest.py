"""Fixtures: an environment without the user's settings, and a pool to build in."""

from __future__ import annotations

import gc
import os
import signal
import sys
from typing import TYPE_CHECKING

import leftovers
import pytest
from builds import Mounts, Pool
from terminals import Terminal
from users import Users

if TYPE_CHECKING:
    from collections.abc import Generator, Iterator
    from pathlib import Path


# `bench` is no part of what is installed. Last, so that the package under test is the installed one.
sys.path.append(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))

# What drives real builds with sh and pipes needs POSIX; what forces failures with mounts and strace,
# and what pins the modules of the fast path (elsewhere platformdirs is among them), needs Linux.
collect_ignore = []
if sys.platform != "linux":
    collect_ignore += ["disk/test_windows_seams.py", "run/test_failures.py", "run/test_fast_path.py"]
    collect_ignore += ["bench/test_faults.py"]
if os.name == "nt":
    collect_ignore += ["agents", "batch", "disk", "fleet", "run", "view/now", "view/past", "view/health"]
    collect_ignore += [f"tokens/test_{name}.py" for name in ("batches", "clients", "library", "running")]
    collect_ignore += [f"tokens/test_{name}.py" for name in ("stock", "stopped")]
    collect_ignore += ["view/test_completion.py", "view/test_security_view.py"]
    collect_ignore += [
        f"test_{name}.py"
        for name in (
            "admission",
            "async",
            "attacks",
            "contract",
            "examples",
            "fuzz",
            "gates",
            "greenlets",
            "journal",
            "logs",
            "nesting",
            "paced",
            "pool",
            "security",
            "shared",
            "upgrades",
            "weights",
        )
    ]


ONCE = (
    *("agents/", "bench/", "fleet/", "view/", "disk/test_interleavings", "disk/test_model", "run/test_tools"),
    *("tokens/test_clients", "tokens/test_sharing_model", "test_typing"),
)
"""How files of tests begin that are marked "once": they are about models, benches, screens, servers or other
programs, of which a second Python says little new, and take two thirds of the time of all. See .ci/run."""
IGNORED = {getattr(signal, name, None) for name in ("SIGPIPE", "SIGXFSZ", "SIGXFZ")}
"""What Python itself ignores, and gives back to the processes that it starts."""


def pytest_configure() -> None:
    """Have no signal ignored or blocked, nor in what the tests start, whatever has started this.

    `nohup` ignores SIGHUP, a shell without job control SIGINT and SIGQUIT of what it starts with `&` (POSIX,
    "Signals and Error Handling"); what is ignored or blocked stays so after exec. The tests send
    these signals, and would wait for ever for what ignores them. A handler that does nothing keeps this
    process alive under `nohup`, and does not outlast an exec.
    """
    leftovers.adopt()
    if not hasattr(signal, "pthread_sigmask"):
        return
    signal.pthread_sigmask(signal.SIG_SETMASK, [])
    for number in signal.valid_signals():
        if signal.getsignal(number) == signal.SIG_IGN and number not in IGNORED:
            signal.signal(number, signal.default_int_handler if number == signal.SIGINT else lambda *_: None)


def pytest_xdist_auto_num_workers(config: pytest.Config) -> int:
    """So many run at once unless `-n` says otherwise: most wait for something, few compute.

    One file, or one test, is quicker without workers, and works with `-s`.
    """
    alone = len(config.args) == 1 and config.args[0].partition("::")[0].endswith(".py")
    return 0 if alone else 2 * (os.cpu_count() or 1)


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Leave out what is marked as Linux's elsewhere, and mark what CI runs with one Python."""
    top = os.path.dirname(os.path.abspath(__file__))
    for item in items:
        if os.path.relpath(item.path, top).replace(os.sep, "/").startswith(ONCE):
            item.add_marker("once")
    if sys.platform != "linux":
        items[:] = [item for item in items if item.get_closest_marker("linux") is None]


@pytest.hookimpl(wrapper=True)
def pytest_runtest_protocol() -> Generator[None, object, object]:
    """Have no later test see descriptors closed that this one has left to the garbage collector."""
    before = leftovers.descriptors()
    result = yield
    if leftovers.descriptors() > before:
        gc.collect()
    return result


@pytest.hookimpl(wrapper=True)
def pytest_runtest_teardown(item: pytest.Item) -> Generator[None, None, None]:
    """Fail the test that leaves a process behind, after its fixtures have ended theirs."""
    try:
        yield
    finally:
        left = leftovers.end()
    if left:
        pytest.fail(f"{item.nodeid} has left behind: {', '.join(left)}", pytrace=False)


@pytest.fixture(autouse=True)
def _no_settings_of_the_user(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Keep the variables and the config file of whoever runs the tests out of them.

    Also those that pytest-xdist sets: rich takes COLUMNS and LINES for the size of any terminal.
    """
    of_the_user = ("BUILD_SLOT", "MAX_CONCURRENT_BUILDS", "XDG_", "COLUMNS", "LINES", "PYTEST_XDIST_")
    of_the_user += ("CLAUDE", "CODEX_", "GEMINI_CLI")
    for name in list(os.environ):
        if name.startswith(of_the_user):
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
