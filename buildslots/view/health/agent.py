"""`buildslots doctor --agent NAME`: whether an agent is set up, and how to find out if it does as it should.

Whether this version of an agent asks its hooks, and obeys them, only the agent itself can show. So this says
what to have it run.
"""

from __future__ import annotations

import os
import sys

from buildslots.agents.setup import plan
from buildslots.agents.setup.known import AGENTS
from buildslots.words import SENTENCE_SHOWN, shell_word, short_path, shown

PROBE = os.path.join(os.path.dirname(plan.__file__), os.pardir, "probe.mk")


def report(name: str) -> int:
    """Say it; 1 if the agent is not set up."""
    title = AGENTS[name].title
    said = plan.status(name, plan.where(os.environ, project=False))
    mode = f" ({said.mode})" if said.mode else ""
    why = f": {shown(said.why, SENTENCE_SHOWN)}" if said.why else ""
    lines = [f"{title} is {said.state}{mode} in {short_path(said.path)}{why}"]
    if said.state != plan.SET_UP:
        lines.append(f"`buildslots setup {name}` sets it up")
    lines += [
        f"Whether this version of {title} obeys, only a session can tell. In a new one have it run",
        "",
        f"    make -f {shell_word(os.path.normpath(PROBE)) or PROBE!r}",
        "",
        'It prints "buildslots probe: slot 0: it works", or why not. If not, nobody asked the hook, or',
        f"obeyed it. {AGENTS[name].last[0].upper()}{AGENTS[name].last[1:]}.",
    ]
    sys.stdout.write("\n".join(lines) + "\n")
    return int(said.state != plan.SET_UP)
