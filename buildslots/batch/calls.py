"""Functions of a batch: coroutines in the event loop, all others in daemon threads.

Not in anyio's worker threads: what they run can neither be given up nor left behind. A program that ends
waits for none of these threads, and so a function that hangs never keeps it.
"""

from __future__ import annotations

import contextvars
import inspect
import math
import sys
import threading
from typing import TYPE_CHECKING, Any

from anyio import Event, current_effective_deadline, from_thread, move_on_after
from anyio.lowlevel import current_token

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from buildslots.batch.task import Call


class RaisedError(Exception):
    """A function has raised `error`, of whatever class: that is no cancellation, and no Ctrl-C of ours."""

    def __init__(self, error: BaseException) -> None:
        super().__init__(error)
        self.error = error


async def run(call: Call, grace_s: float = 0.0) -> Any:
    """What the function of `call` returns, awaited if it can be.

    Args:
        call: The call.
        grace_s: How long its thread is waited for, if this is cancelled: nobody can end one.

    Raises:
        RaisedError: With what the function has raised.
        BaseException: This was cancelled, or interrupted.
    """
    if inspect.iscoroutinefunction(call.function):
        return await _awaited(call.function(*call.args))
    value, error = await _ended_in_thread(call.function, *call.args, grace_s=grace_s)
    if error is not None:
        raise RaisedError(error)
    return await _awaited(value) if inspect.isawaitable(value) else value


async def _awaited(what: Awaitable[Any]) -> Any:
    try:
        return await what
    except Exception as error:  # noqa: BLE001 - whatever it is
        raise RaisedError(error) from None
    except (KeyboardInterrupt, GeneratorExit):
        raise
    except BaseException as error:
        # A panic of an extension in Rust, sys.exit(), or the cancellation of something that it has awaited.
        if _is_cancelled() or (isinstance(error, BaseExceptionGroup) and error.subgroup(KeyboardInterrupt)):
            raise
        raise RaisedError(error) from None


def _is_cancelled() -> bool:
    """Whether somebody cancels this coroutine from outside, by a scope of anyio or by asyncio's own means."""
    if current_effective_deadline() == -math.inf:
        return True
    asyncio = sys.modules.get("asyncio")
    try:
        task = asyncio.current_task() if asyncio is not None else None
    except RuntimeError:  # trio
        return False
    return task is not None and task.cancelling() > 0


async def in_thread(function: Callable[..., Any], *args: Any) -> Any:
    """`function(*args)` in a daemon thread, in a copy of this context. Raises what it raises.

    Cancelled, it leaves the thread to itself: nobody can end one.
    """
    value, error = await _ended_in_thread(function, *args)
    if error is not None:
        # No coroutine can raise a StopIteration (PEP 479).
        raise RuntimeError("it raised StopIteration") if type(error) is StopIteration else error
    return value


async def _ended_in_thread(
    function: Callable[..., Any], *args: Any, grace_s: float = 0.0
) -> tuple[Any, BaseException | None]:
    """What `function(*args)` has returned, or raised, in a daemon thread."""
    token = current_token()
    context = contextvars.copy_context()
    if "sniffio" in sys.modules:  # no loop runs in that thread, whatever its context says
        context.run(sys.modules["sniffio"].current_async_library_cvar.set, None)
    done = Event()
    results: list[tuple[Any, BaseException | None]] = []

    def work() -> None:
        try:
            results.append((context.run(function, *args), None))
        except BaseException as error:  # noqa: BLE001 - whoever awaits it gets it
            results.append((None, error))
        try:
            from_thread.run_sync(done.set, token=token)
        except RuntimeError:
            pass  # the loop is closed: nobody awaits it any more

    threading.Thread(target=work, name=f"batch: {getattr(function, '__name__', '?')}", daemon=True).start()
    try:
        await done.wait()
    except BaseException:
        if grace_s:
            with move_on_after(grace_s, shield=True):
                await done.wait()
        raise
    return results[0]
