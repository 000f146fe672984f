"""One file a question. Those of the side-by-side benchmark are listed here; each other one is a program."""

from __future__ import annotations

from bench.questions import acquire, burst, handover, order, start, survivor, tasks, use, waiting

COMMANDS = (
    start.COMMANDS,
    waiting.COMMANDS,
    order.COMMANDS,
    burst.COMMANDS,
    survivor.COMMANDS,
    handover.COMMANDS,
)
LIBRARIES = (
    acquire.LIBRARIES,
    tasks.LIBRARIES,
    use.LIBRARIES,
    order.LIBRARIES,
    burst.LIBRARIES,
    handover.LIBRARIES,
)
QUESTIONS = (*COMMANDS, *LIBRARIES)
"""What takes longest comes last: an interrupted run keeps what it has."""
