"""Fixtures: batches in a directory of their own, and the event loops that Python code runs them in."""

from __future__ import annotations

import subprocess
import warnings
from typing import TYPE_CHECKING, Any

import anyio
import pytest
from batches import Batches

from buildslots import run_batch
from buildslots.view.main import main

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable
    from pathlib import Path

    from builds import Pool

    from buildslots import Report


@pytest.fixture
def batches(pool: Pool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Batches:
    """What runs `buildslots batch`; its directory is also that of this process."""
    directory = tmp_path / "work"
    directory.mkdir(mode=0o755)
    directory.chmod(0o755)
    (directory / "running").mkdir()
    monkeypatch.chdir(directory)
    monkeypatch.setenv("MAX_CONCURRENT_BUILDS", "4")  # whatever the machine has
    pool.environ["MAX_CONCURRENT_BUILDS"] = "4"
    return Batches(pool, directory)


@pytest.fixture(params=["asyncio", "trio"])
def backend(request: pytest.FixtureRequest, batches: Batches) -> str:
    """The event loop of a batch of this process, which has a pool and records of the test."""
    return str(request.param)


@pytest.fixture
def loop(backend: str) -> Callable[[Callable[[], Awaitable[Any]]], Any]:
    """What runs a coroutine function in that event loop."""
    return lambda main: anyio.run(main, backend=backend)


@pytest.fixture
def run(backend: str) -> Callable[..., Report]:
    """`run_batch` in that event loop."""

    def run(*tasks: dict[str, Any], **options: Any) -> Report:
        return run_batch(tasks, backend=backend, **options)

    return run


@pytest.fixture
def batch(
    batches: Batches, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> Callable[..., subprocess.CompletedProcess[str]]:
    """What runs `buildslots batch ARGS` in this process: a new one needs most of a second to start."""
    monkeypatch.setattr(warnings, "showwarning", warnings.showwarning)

    def batch(*args: str) -> subprocess.CompletedProcess[str]:
        capfd.readouterr()
        try:
            status: Any = main(["batch", *args])
        except SystemExit as end:
            status = end.code
        out, err = capfd.readouterr()
        return subprocess.CompletedProcess(args, status, out, err)

    return batch
