"""Clients of every kind, as processes that behave like a `builds.Build`; and work for process pools.

Each takes a slot as its kind does, says its number, and holds it until its stdin ends or has a line. The line
"cancel" ends a wait.
"""

from __future__ import annotations

import os
import sys
import threading
from typing import TYPE_CHECKING

from builds import HELD_BUILD, script

from buildslots import SlotCancelledError, SlotPool

if TYPE_CHECKING:
    from collections.abc import Callable

    from builds import Build, Pool

    from buildslots import Slot

KINDS = ("slot-run", "thread", "asyncio", "trio", "anyio", "anyio-trio")
CANCELLED = 3
"""Exit status of a client whose wait was cancelled."""


def start(pool: Pool, kind: str, slots: int) -> Build:
    """A client that goes for a slot."""
    if kind == "slot-run":
        return pool.popen(script("slot-run"), f"-n{slots}", "-tnone", "--", "sh", "-c", HELD_BUILD)
    return pool.popen(
        sys.executable, __file__, kind, str(slots), environ={"PYTHONPATH": os.path.dirname(__file__)}
    )


def cancel(client: Build, kind: str) -> int:
    """Cancel the wait of a client: 0 if it says that it was cancelled."""
    if kind == "slot-run":
        client.process.terminate()
        return client.process.wait() + 15
    assert client.process.stdin is not None
    client.process.stdin.write(b"cancel\n")
    return client.process.wait() - CANCELLED


def log_spans(pool: SlotPool, path: str, times: int) -> int:
    """Hold a slot so many times, and write down when; the number of this process."""
    log = os.open(path, os.O_WRONLY | os.O_APPEND)
    for _ in range(times):
        with pool.acquire():
            os.write(log, b"+")
            os.write(log, b"-")
    return os.getpid()


class _Input:
    """What the test says on stdin, read in a thread."""

    def __init__(self) -> None:
        self.on_cancel: Callable[[], object] = lambda: None
        self.over = threading.Event()
        threading.Thread(target=self._read, daemon=True).start()

    def _read(self) -> None:
        if sys.stdin.readline() == "cancel\n":
            self.on_cancel()
        self.over.set()

    def hold(self, slot: Slot) -> None:
        print(slot.number, flush=True)
        self.over.wait()


def _thread(pool: SlotPool, said: _Input) -> None:
    event = threading.Event()
    said.on_cancel = event.set
    try:
        slot = pool.acquire(cancel=event)
    except SlotCancelledError:
        sys.exit(CANCELLED)
    with slot:
        said.hold(slot)


def _asyncio(pool: SlotPool, said: _Input) -> None:
    import asyncio  # noqa: PLC0415

    async def client() -> None:
        task, loop = asyncio.current_task(), asyncio.get_running_loop()
        assert task is not None
        said.on_cancel = lambda: loop.call_soon_threadsafe(task.cancel)
        with await pool.acquire_async() as slot:
            said.hold(slot)

    try:
        asyncio.run(client())
    except asyncio.CancelledError:
        sys.exit(CANCELLED)


def _trio(pool: SlotPool, said: _Input) -> None:
    import trio  # noqa: PLC0415

    async def client() -> bool:
        token = trio.lowlevel.current_trio_token()
        with trio.CancelScope() as scope:
            said.on_cancel = lambda: token.run_sync_soon(scope.cancel)
            with await pool.acquire_async() as slot:
                said.hold(slot)
        return scope.cancelled_caught

    if trio.run(client):
        sys.exit(CANCELLED)


def _anyio(pool: SlotPool, said: _Input, backend: str = "asyncio") -> None:
    import anyio  # noqa: PLC0415
    from anyio.from_thread import BlockingPortal  # noqa: PLC0415

    async def client() -> bool:
        async with BlockingPortal() as portal:
            with anyio.CancelScope() as scope:
                said.on_cancel = lambda: portal.call(scope.cancel)
                with await pool.acquire_async() as slot:
                    said.hold(slot)
            said.over.wait()
            return scope.cancelled_caught

    if anyio.run(client, backend=backend):
        sys.exit(CANCELLED)


def _anyio_trio(pool: SlotPool, said: _Input) -> None:
    _anyio(pool, said, "trio")


if __name__ == "__main__":
    run = {"thread": _thread, "asyncio": _asyncio, "trio": _trio, "anyio": _anyio, "anyio-trio": _anyio_trio}
    run[sys.argv[1]](SlotPool(slots=int(sys.argv[2]), timeout=None), _Input())
