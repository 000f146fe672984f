"""`buildslots hook`: what a coding agent calls before it runs a shell command.

It runs for each command of an agent, so `view.main` calls it before it makes the command line of
`buildslots`, which takes longer than all of this. Whatever happens, it ends with 0: agents take 2 for "do not
run this".
"""

from __future__ import annotations

import _thread
import os
import sys
import time

TYPE_CHECKING = False
if TYPE_CHECKING:
    import argparse

LONGEST_S = 2.0
"""After so long there is no opinion."""
BLOCK = 2**16


def run(options: argparse.Namespace) -> int:
    """Answer the agent."""
    return main([options.hook_agent, "--mode", options.hook_mode])


def main(args: list[str]) -> int:
    """Answer the agent by the command line behind `buildslots hook`. Does not return, and ends with 0."""
    try:
        _answer(args)
    except BaseException:  # noqa: BLE001, S110 - a full disk, a closed pipe, Ctrl-C: nothing is to be said of it
        pass
    os._exit(0)  # without a flush of what nobody has written, which may fail


def _answer(args: list[str]) -> None:
    # A thread, and no alarm: a signal may be blocked, and Windows has none.
    _thread.start_new_thread(_end_late, ())
    from buildslots.agents import hook  # noqa: PLC0415 - its imports are the first that may take long

    agent, mode = args[:1], "rewrite"
    if len(args) == 3 and args[1] == "--mode":
        mode = args[2]
    elif len(args) == 2 and args[1].startswith("--mode="):
        mode = args[1].removeprefix("--mode=")
    elif len(args) != 1:
        mode = ""
    if agent[0:1] == [] or agent[0] not in hook.AGENTS or mode not in hook.MODES:
        sys.stderr.write(
            f"buildslots: hook AGENT [--mode MODE], AGENT is one of {', '.join(hook.AGENTS)},"
            f" MODE one of {', '.join(hook.MODES)}\n"
        )
        sys.stderr.flush()
        return
    payload = b""
    while len(payload) <= hook.MOST_BYTES and (more := os.read(0, BLOCK)):
        payload += more
    answer = hook.answer(agent[0], payload, os.environ, mode)
    if answer:
        os.write(1, answer)


def _end_late() -> None:
    time.sleep(LONGEST_S)
    os._exit(0)
