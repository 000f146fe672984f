"""Jobs of child processes that a program starts under its slots, by the settings of these."""

from __future__ import annotations

import os

from buildslots.disk.taking import ruled_tokens, tokens_of
from buildslots.logger import own_logger
from buildslots.settings import auto_tokens
from buildslots.settings.options import AUTO, given_jobs, given_tokens
from buildslots.tokens.service import Build, stock_dir
from buildslots.tokens.threaded import ServedJobs

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from buildslots.settings import Settings


def served_jobs(  # noqa: PLR0913 - what a child consists of, by keyword only
    settings: Settings | None,
    command: Sequence[str],
    *,
    jobs: object,
    tokens: object,
    environ: Mapping[str, str],
    cwd: str | os.PathLike[str] | None = None,
    nonce: str = "",
    inherited: Sequence[int] = (),
    told: Callable[[int], None] = lambda _: None,
) -> ServedJobs:
    """What serves the jobs of a child process, in a block.

    Args:
        settings: Those of its build; None if it runs without any: then it has no tokens.
        command: Its arguments, or none if they are not known.
        jobs: How many jobs it may run at once; None if nobody says so.
        tokens: How many tokens builds share; None for what the settings and the pool say.
        environ: Its environment.
        cwd: Its directory; None for that of this process.
        nonce: What marks its slot's holding.
        inherited: Descriptors that it is to have in any case.
        told: Called at the end with how many tokens it had at once, at most, if it had any.

    Raises:
        SettingError: One of the numbers cannot be.
    """
    number, count = given_jobs(jobs), given_tokens(tokens)
    is_on = settings is not None and not settings.disabled
    build = Build(
        command=command,
        environ=environ,
        tokens=_tokens(settings, count) if settings is not None and is_on else None,
        jobs=None if number is None or not is_on else number[0],
        directory=stock_dir(settings) if settings is not None else "",
        nonce=nonce,
        cwd="" if cwd is None else os.fspath(cwd),
    )
    return ServedJobs(build, _warn, inherited, told)


def _tokens(settings: Settings, said: tuple[int | str, str] | None) -> int | None:
    if said is None:
        return tokens_of(settings)
    own = auto_tokens()[0] if said[0] == AUTO else int(said[0])
    return ruled_tokens(settings.dir, own or None, is_own=True)


def _warn(sentence: str) -> None:
    own_logger().warning("%s", sentence)
