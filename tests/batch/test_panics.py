"""Whatever a function of a batch raises is the failure of its task, and of no other."""

from __future__ import annotations

import asyncio

import anyio
import anyio.lowlevel
import pytest

from buildslots import Batch, run_batch


class Panic(BaseException):
    """No Exception, as pyo3's PanicException is none."""


async def in_coroutine(error: BaseException) -> None:
    await anyio.lowlevel.checkpoint()
    raise error


def in_thread(error: BaseException) -> None:
    raise error


ERRORS = (Panic("no"), asyncio.CancelledError("mine"), KeyboardInterrupt("no"), StopIteration("no"))


@pytest.mark.parametrize("backend", ["asyncio", "trio"])
@pytest.mark.parametrize("error", ERRORS, ids=repr)
def test_what_a_function_raises_is_the_failure_of_its_task(backend: str, error: BaseException) -> None:
    """Of whatever class: nobody else interrupts or cancels anything in a thread."""
    tasks = [
        {"run": in_thread, "args": [error], "name": "bad", "pool": ""},
        {"run": ["true"], "name": "good", "pool": ""},
    ]
    report = run_batch(tasks, fail="never", backend=backend)
    assert report.counts == {"failed": 1, "ok": 1}
    (bad,) = [outcome for outcome in report.outcomes if outcome.name == "bad"]
    assert bad.error is error
    assert bad.reason == f"{type(error).__name__}: {error}"


@pytest.mark.parametrize("error", [Panic("no"), asyncio.CancelledError("of what it has awaited")], ids=repr)
def test_what_a_coroutine_raises_is_the_failure_of_its_task(error: BaseException) -> None:
    """A cancellation too, if nobody has cancelled it."""
    tasks = [
        {"run": in_coroutine, "args": [error], "name": "bad", "pool": ""},
        {"run": ["true"], "name": "good", "pool": ""},
    ]
    report = run_batch(tasks, fail="never")
    assert report.counts == {"failed": 1, "ok": 1}


@pytest.mark.parametrize("backend", ["asyncio", "trio"])
def test_a_coroutine_that_is_cancelled_is_cancelled(backend: str) -> None:
    """By a scope around its batch, also within a task group of its own."""

    async def wait() -> None:
        async with anyio.create_task_group() as group:
            group.start_soon(anyio.sleep_forever)

    async def cancelled() -> dict[str, int]:
        batch = Batch()
        with anyio.CancelScope() as scope:
            async with batch:
                batch.add(wait, name="wait", pool="")
                await anyio.lowlevel.checkpoint()
                scope.cancel()
        assert batch.report is not None
        return dict(batch.report.counts)

    assert anyio.run(cancelled, backend=backend) == {"cancelled": 1}


def test_one_job_keeps_the_order_of_the_plan_in_a_later_phase() -> None:
    """Also for the task that needs the one that ended last."""
    phases = ("fetch", "install")
    tasks = [{"run": ["true"], "name": f"fetch {n}", "phase": "fetch", "pool": ""} for n in range(3)]
    tasks += [
        {"run": ["true"], "name": f"install {n}", "phase": "install", "needs": [f"fetch {n}"], "pool": ""}
        for n in range(3)
    ]
    report = run_batch(tasks, jobs=1, phases=phases)
    assert [outcome.name for outcome in report.outcomes] == [task["name"] for task in tasks]
