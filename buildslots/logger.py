"""The logger "buildslots", to which the library speaks."""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    import logging


def own_logger() -> logging.Logger:
    """The logger. It has a handler from the first call on."""
    import logging  # noqa: PLC0415 - 10 ms

    found = logging.getLogger("buildslots")
    if not found.handlers:  # or a program without a log would have its warnings on stderr: logging's HOWTO
        found.addHandler(logging.NullHandler())
    return found
