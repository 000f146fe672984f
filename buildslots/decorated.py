"""`@build_slot()`: a function whose calls run under a slot, to the end of what they do.

That end may come after the function has returned: a coroutine has to be awaited first, a future is at work.
"""

from __future__ import annotations

import functools
import inspect
import threading

from buildslots.block import who

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any, ParamSpec, TypeVar

    from buildslots.block import Block

    P = ParamSpec("P")
    R = TypeVar("R")


def decorated(block: Block, function: Callable[P, R]) -> Callable[P, R]:
    """`function`, with each call of it in `block`; see `build_slot.__call__`."""
    if isinstance(function, staticmethod):
        return staticmethod(decorated(block, function.__func__))
    _check(function)

    @functools.wraps(function)
    async def run_async(*args: P.args, **kwargs: P.kwargs) -> object:
        async with block:
            result = function(*args, **kwargs)
            return _no_generator(function, await result if inspect.isawaitable(result) else result)

    if _is_async(function):
        return run_async  # type: ignore[return-value]  # R is the coroutine that it returns
    wraps_async = _is_async(_innermost(function))

    @functools.wraps(function)
    def run(*args: P.args, **kwargs: P.kwargs) -> R:
        # To wait for a slot here would block the loop, so who waits for the coroutine waits for the slot too.
        if wraps_async and not isinstance(who(), threading.Thread):
            return run_async(*args, **kwargs)  # type: ignore[return-value]
        when_done: Any = None
        block.__enter__()
        try:
            result = _no_generator(function, function(*args, **kwargs))
            if hasattr(type(result), "add_done_callback"):  # of the type: a Mock has whatever it is asked for
                when_done = result.add_done_callback
        finally:
            block._leave(when_done)
        if when_done is None and inspect.isawaitable(result):
            return _awaited(block, result)  # type: ignore[return-value]
        return result  # type: ignore[no-any-return]

    return run


async def _awaited(block: Block, result: Any) -> object:
    """What `result`, which nobody has awaited so far, comes to, under a slot."""
    async with block:
        return await result


def _check(function: object) -> None:
    """Raise TypeError for what has no call that could run under a slot."""
    name = getattr(function, "__qualname__", None) or repr(function)
    if isinstance(function, type):
        raise TypeError(f"{name} is a class: decorate the method that does the work")
    if not callable(function):
        kind = type(function).__name__
        raise TypeError(f"a {kind} cannot be decorated: write @build_slot() below @{kind}, at the function")
    for call in (function, getattr(function, "__call__", None)):  # noqa: B004 - it may be an object that has one
        if inspect.isgeneratorfunction(call) or inspect.isasyncgenfunction(call):
            raise TypeError(f"{name} is a generator function: use `with build_slot()` inside")


def _no_generator(function: object, result: Any) -> Any:
    """`result`; TypeError if it is a generator, or a context manager made of one.

    Its body would run after the slot was released.
    """
    generator = result.gen if type(result).__module__ == "contextlib" and hasattr(result, "gen") else result
    if inspect.isgenerator(generator) or inspect.isasyncgen(generator):
        if inspect.isgenerator(generator):
            generator.close()
        name = getattr(function, "__qualname__", None) or repr(function)
        raise TypeError(
            f"{name} returns a generator, which would run without a slot: use `with build_slot()` inside"
        )
    return result


def _is_async(function: object) -> bool:
    """Whether it is a coroutine function, or an object that is called like one."""
    call = getattr(function, "__call__", None)  # noqa: B004
    return inspect.iscoroutinefunction(function) or inspect.iscoroutinefunction(call)


def _innermost(function: Any) -> object:
    """What `function` wraps, if it says so."""
    while isinstance(function, functools.partial):
        function = function.func
    try:
        return inspect.unwrap(function)
    except ValueError:  # it wraps itself
        return function
