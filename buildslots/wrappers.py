"""Programs that run the command behind their options: `timeout 10m make -j8` is a make.

An agent's hook puts slot-run in front of them, and a build's jobs are said behind them.
"""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence


class Wrapper:
    """A program that runs the command behind its options.

    Attributes:
        valued: Options with a value; one that is not here or in `flags` ends our understanding.
        flags: Options without.
        operands: How many operands stand before the command.
        is_env: Whether assignments do.
        is_nice: Whether `-10` is an option.
    """

    __slots__ = ("flags", "is_env", "is_nice", "operands", "valued")

    def __init__(
        self,
        valued: tuple[str, ...] = (),
        flags: tuple[str, ...] = (),
        operands: int = 0,
        *,
        is_env: bool = False,
        is_nice: bool = False,
    ) -> None:
        self.valued = valued
        self.flags = flags
        self.operands = operands
        self.is_env = is_env
        self.is_nice = is_nice


EMPTIES = ("-i", "-", "--ignore-environment")
"""Options of env(1) with which the command gets nothing of our environment."""
TIMEOUT = Wrapper(
    ("-s", "-k", "--signal", "--kill-after"),
    ("-f", "-p", "-v", "--foreground", "--preserve-status", "--verbose"),
    operands=1,
)
WRAPPERS = {
    "timeout": TIMEOUT,
    "gtimeout": TIMEOUT,
    "nice": Wrapper(("-n", "--adjustment"), is_nice=True),
    "ionice": Wrapper(("-c", "-n", "--class", "--classdata"), ("-t", "--ignore")),
    "env": Wrapper(("-u", "-C", "--unset", "--chdir"), EMPTIES, is_env=True),
    "stdbuf": Wrapper(("-i", "-o", "-e", "--input", "--output", "--error")),
    "time": Wrapper(("-f", "-o", "--format", "--output"), ("-p", "-v", "-a", "-q", "--verbose")),
    "nohup": Wrapper(),
}
"""From the manuals of coreutils, util-linux and GNU time."""


def behind(words: Sequence[str]) -> int | None:
    """Where the command begins that the wrapper at the head of `words` runs.

    0 if that is no wrapper; None if its options are not clear. There need not be a command there.
    """
    wrapper = WRAPPERS.get(words[0].rpartition("/")[2])
    if wrapper is None:
        return 0
    index = 1
    while index < len(words) and words[index].startswith("-"):
        option = words[index]
        index += 1
        if option == "--":
            break
        if option in wrapper.valued:
            index += 1
        elif not (
            option in wrapper.flags
            or option.partition("=")[0] in wrapper.valued
            or option[:2] in wrapper.valued
            or (wrapper.is_nice and option[1:].isdecimal())
        ):
            return None
    while wrapper.is_env and index < len(words) and name_set(words[index]):
        index += 1
    return index + wrapper.operands


def name_set(word: str) -> str:
    """The variable that `word` assigns to, as in `CC=clang`; empty if it is no assignment."""
    name, equals, _ = word.partition("=")
    return name if equals and name.isidentifier() and name.isascii() else ""
