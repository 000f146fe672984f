"""The pools that the tasks of a batch take slots of, and the environment that their commands start from."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

from buildslots.batch.jobs import NO_POOL
from buildslots.batch.state import current_task
from buildslots.disk.taking import tokens_of
from buildslots.pool import SlotPool
from buildslots.served import served_jobs
from buildslots.settings import resolve

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from buildslots.batch.state import TaskRun
    from buildslots.batch.task import Task
    from buildslots.settings import Settings
    from buildslots.slot import Slot
    from buildslots.tokens.threaded import ServedJobs
    from buildslots.waiting import Waiting

PROMPTS = {"GIT_TERMINAL_PROMPT": "0", "GCM_INTERACTIVE": "never", "SSH_ASKPASS_REQUIRE": "never"}
"""So git, its credential manager and ssh ask nobody for a password: git(1), ssh(1), OpenSSH 8.4."""
ASKS = "SSH_ASKPASS"
"""A program that asks for one in a window; git runs it whatever the first of them says: gitcredentials(7)"""


class Environment:
    """The environment that commands start from. Encoded once: a batch may start thousands of them.

    Args:
        settings: Those of the default pool, for commands without a slot.
        tokens: How many tokens builds share; None for what the settings say.
    """

    __slots__ = ("_encoded", "_settings", "_tokens", "base")

    def __init__(self, settings: Callable[[], Settings | None], tokens: int | str | None) -> None:
        self._settings = settings
        self._tokens = tokens
        self.base = {name: value for name, value in os.environ.items() if name != ASKS} | PROMPTS
        self._encoded = {_encoded(name): _encoded(value) for name, value in self.base.items()}

    def of(self, own: Mapping[str, str | None]) -> dict[Any, Any]:
        """All of it with what is a command's `own`; without what is None there."""
        env = dict(self._encoded)
        for name, value in own.items():
            if value is None:
                env.pop(_encoded(name), None)
            else:
                env[_encoded(name)] = _encoded(value)
        return env

    def serve(
        self, command: Sequence[str], own: Mapping[str, str | None], slot: Slot | None, cwd: str | None
    ) -> ServedJobs | None:
        """What serves the jobs of `command` with tokens, in a block; None if it is to have none.

        Args:
            command: Its arguments.
            own: What its environment has besides.
            slot: Its slot, if it has one.
            cwd: Its directory; None for ours.
        """
        settings = self._settings() if slot is None else slot.settings
        count = self._tokens
        if settings is None or settings.disabled or not (tokens_of(settings) if count is None else count):
            return None
        changed = {**self.base, **own}
        return served_jobs(
            settings,
            command,
            jobs=None,
            tokens=count,
            environ={name: value for name, value in changed.items() if value is not None},
            cwd=cwd,
            nonce="" if slot is None else slot.nonce,
            told=(lambda _: None) if slot is None else slot.had_tokens,
        )


def _encoded(text: str) -> Any:
    """As `subprocess` would encode it; Windows takes text."""
    return os.fsencode(text) if os.name == "posix" else text


class Pools:
    """The pools of one batch, opened when they are needed.

    Attributes:
        environ: The environment of commands, but for what is a task's own.
    """

    __slots__ = ("_default", "_dir", "_pools", "environ")

    def __init__(self, dir: str | None, tokens: int | str | None = None) -> None:  # noqa: A002 - as everywhere
        self.environ = Environment(self._settings, tokens)
        self._dir = dir
        self._default: str | None = None
        self._pools: dict[tuple[Any, ...], SlotPool] = {}

    def name(self, task: Task, *, is_check: bool = False) -> str:
        """The name of the pool that `task` takes its slot of; NO_POOL if it needs none, as its check does."""
        if is_check or task.pool == NO_POOL:
            return NO_POOL
        if task.pool is not None:
            return task.pool
        if self._default is None:
            self._default = self._said(None)[0]
        return self._default

    def open(self, task: Task, waits: Callable[[TaskRun, int], None]) -> SlotPool:
        """The pool of `task`; `waits` is told of each task that has to wait, and of its place in line."""
        key = task.pool, task.timeout, task.on_timeout
        pool = self._pools.get(key)
        if pool is None:

            def on_wait(waiting: Waiting) -> None:
                waits(current_task(), waiting.place)

            on_timeout = task.on_timeout
            if on_timeout is None and self._said(task.pool)[1] == "default":
                # Of a batch many tasks wait at once: all of them would start beyond the cap, at one time.
                on_timeout = "paced"
            pool = self._pools[key] = SlotPool(
                task.pool, timeout=task.timeout, on_timeout=on_timeout, dir=self._dir, on_wait=on_wait
            )
        return pool

    def places(self, waiting: list[TaskRun]) -> dict[int, int]:
        """The places in line of the tasks `waiting`, in their order, by their numbers.

        Two of a process stand in line at a time; whoever comes behind them has at least the next place.
        """
        found: dict[int, int] = {}
        by_pool: dict[SlotPool, list[TaskRun]] = {}
        for run in waiting:
            pool = self._pools.get((run.task.pool, run.task.timeout, run.task.on_timeout))
            if pool is not None:
                by_pool.setdefault(pool, []).append(run)
        for pool, runs in by_pool.items():
            try:
                ours = [one.place for one in pool.status().waiters if one.pid == os.getpid()]
            except OSError:
                continue
            for place, run in enumerate(runs):
                if ours:
                    found[run.number] = ours[place] if place < len(ours) else ours[-1] + place - len(ours) + 1
        return found

    def _settings(self) -> Settings | None:
        """Those of the default pool; None if they cannot be had."""
        try:
            return resolve(dir=self._dir, warn=lambda _: None)
        except OSError:  # no home
            return None

    def _said(self, pool: str | None) -> tuple[str, str]:
        """The name of `pool`, and who says what happens at the timeout."""
        try:
            settings = resolve(pool=pool, dir=self._dir, warn=lambda _: None)
        except OSError:  # no home: there will be no slots, with a warning
            return pool or "default", "default"
        return settings.pool, settings.source("on_timeout")
