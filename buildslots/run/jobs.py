"""The jobs of slot-run's command: loaded only if they are to be served, by tokens or by a fixed share."""

from __future__ import annotations

import os

from buildslots.tokens.service import Build, serve, stock_dir

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    from buildslots.settings import Settings
    from buildslots.slot import Slot


def served(
    settings: Settings,
    command: list[bytes],
    slot: Slot | None,
    tokens: int | None,
    say: Callable[[str], None],
) -> list[bytes]:
    """Serve the jobs of `command` until the release of `slot`: what to run in its place. Raises nothing.

    Changes our own environment, which the command inherits. Without a slot there are no tokens: what has kept
    it from a slot would keep it from those. `say` is told if it has none though it should.
    """
    build = Build(
        command=[os.fsdecode(word) for word in command],
        environ=os.environ,
        tokens=None if slot is None else tokens,
        jobs=settings.jobs,
        directory=stock_dir(settings),
        nonce="" if slot is None else slot.nonce,
    )
    service = serve(build, say)
    if service is None:
        return command
    if slot is not None:
        slot.serve(service)
    service.change(os.environ)
    return [os.fsencode(word) for word in service.command]
