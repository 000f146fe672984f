"""Waiting for a slot in asyncio and trio, without a thread: anyio runs on either.

All that a waiter listens to is behind one descriptor (epoll(7), kqueue(2)), which the event loop waits for.
"""

from __future__ import annotations

import select
import sys
import time

from buildslots.admission import CANCEL_S
from buildslots.errors import SlotCancelledError

TYPE_CHECKING = False
if TYPE_CHECKING:
    import asyncio
    from collections.abc import Callable
    from threading import Event
    from typing import Any

    from buildslots.admission import Admission
    from buildslots.backend import Listener, Notice
    from buildslots.slot import Slot


LONGEST_S = 86400.0
"""The longest sleep in one: a loop that is asked for infinity never ends its own one."""


async def acquire(
    admission: Admission, cancel: Event | None = None, notice: Callable[[], Notice | None] | None = None
) -> Slot:
    """`Admission.acquire` for a task."""
    steps = admission.steps(notice, _poll())
    try:
        ears, seconds = next(steps)
        while True:
            sound = await _listen(ears, seconds, cancel)
            if cancel is not None and cancel.is_set():
                raise SlotCancelledError(admission._settings.pool)  # noqa: SLF001 - as `Admission.acquire` does
            ears, seconds = steps.send(sound)
    except StopIteration as end:
        slot: Slot = end.value
        return slot
    except OSError as error:  # of poll(2), say
        admission.blame(error)
        raise
    finally:
        steps.close()  # whatever ended the wait, and wherever it came: the mutex is let go of


async def _listen(ears: Listener | None, seconds: float, cancel: Event | None) -> bool:
    """Sleep as `ears.listen` does, and look now and then whether `cancel`, which has no bell, is set."""
    until = time.monotonic() + seconds
    while True:
        is_last = cancel is None or seconds <= CANCEL_S
        await _sleep(None if ears is None else ears.wake, seconds if is_last else CANCEL_S)
        sound = ears is not None and ears.listen(0)
        if sound or is_last or (cancel is not None and cancel.is_set()):
            return sound
        seconds = until - time.monotonic()


class _Kqueue:
    """kqueue(2) as `select.poll`; not measured by us.

    It cannot listen for the end of a FIFO alone, so it reports each new byte once (EV_CLEAR): a knock for
    somebody else then wakes for nothing, once.
    """

    def __init__(self) -> None:
        self._queue = select.kqueue()  # type: ignore[attr-defined, unused-ignore]
        self.fileno = self._queue.fileno
        self.close = self._queue.close

    def register(self, fd: int, eventmask: int, /) -> None:
        del eventmask
        flags = select.KQ_EV_ADD | select.KQ_EV_CLEAR  # type: ignore[attr-defined, unused-ignore]
        event = select.kevent(fd, select.KQ_FILTER_READ, flags)  # type: ignore[attr-defined, unused-ignore]
        self._queue.control([event], 0)

    def poll(self, timeout_ms: float, /) -> list[tuple[int, int]]:
        return [(event.ident, event.filter) for event in self._queue.control(None, 64, timeout_ms / 1000)]


def _poll() -> Callable[[], Any] | None:
    """What makes something that listens as `select.poll` does, and can be listened to; None on Windows.

    It is only ever asked for what there is now.
    """
    return getattr(select, "epoll", _Kqueue if hasattr(select, "kqueue") else None)


async def _sleep(poll: Any, seconds: float) -> None:
    """Sleep until something happens that `poll` has registered, or so long; without bells, so long."""
    fd = poll.fileno() if poll is not None and hasattr(poll, "fileno") else None
    when_rung = getattr(poll, "when_rung", lambda _: None)  # of one that waits in memory
    trio = sys.modules.get("trio")
    if trio is not None and _in_trio(trio):
        rung, token = trio.Event(), trio.lowlevel.current_trio_token()
        when_rung(lambda: token.run_sync_soon(rung.set))
        try:
            with trio.move_on_after(max(0.0, seconds)):
                await (rung.wait() if fd is None else trio.lowlevel.wait_readable(fd))
        finally:
            when_rung(None)
        return
    import asyncio  # noqa: PLC0415 - 60 ms, which neither threads nor trio need

    loop = asyncio.get_running_loop()
    over: asyncio.Future[None] = loop.create_future()

    def wake() -> None:
        if not over.done():
            over.set_result(None)

    timer = loop.call_later(min(max(0.0, seconds), LONGEST_S), wake)
    when_rung(lambda: loop.call_soon_threadsafe(wake))
    try:
        if fd is not None:
            loop.add_reader(fd, wake)
        await over
    finally:
        timer.cancel()
        when_rung(None)
        if fd is not None:
            loop.remove_reader(fd)


def _in_trio(trio: Any) -> bool:
    try:
        trio.lowlevel.current_task()
    except RuntimeError:
        return False
    return True
