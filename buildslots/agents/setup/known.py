"""The agents: where each keeps its hooks, what an entry looks like there, and what to do afterwards.

From their documentation, as it was in November 2026. None of the agents ran here.

claude    https://code.claude.com/docs/en/hooks: seconds; a command line for sh, because versions before
          2.1.139 do not know `args`, and run the program without them
codex     https://developers.openai.com/codex/hooks: seconds; skipped until the user trusts it in `/hooks`
gemini    https://geminicli.com/docs/hooks/reference: milliseconds
cursor    https://cursor.com/docs/agent/hooks: seconds. What `preToolUse` takes is second hand: from other
          installers, not from that page
copilot   https://docs.github.com/en/copilot/reference/hooks-reference: seconds; every status but 0 is a "no"
opencode  https://opencode.ai/docs/plugins/: see `plugin`
"""

from __future__ import annotations

import os
from typing import NamedTuple

from buildslots.agents.setup.hooks import MODES as HOOKS
from buildslots.agents.setup.hooks import Entry

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping

TIMEOUT_S = 10
"""How long an agent waits for the hook. It decides within 2 s; the rest is for the start of Python on a
machine that has too much to do already, which is when it matters."""


class Agent(NamedTuple):
    """An agent.

    Attributes:
        title: What it is called.
        programs: Its programs, of which one is on PATH where it is installed.
        home: Its directory below the user's home, and the variable that says another one.
        user: The user's file, below that.
        project: A project's file, below the project; "" if it has none.
        modes: What can be set up, the first by default.
        event: What it calls the moment before a command.
        matcher: What it calls its shell.
        base: What its file needs besides hooks.
        sandbox: How its sandbox is told that builds may write the pool, if it has one; {pool} is that.
        last: What is left to do for the user.
    """

    title: str
    programs: tuple[str, ...]
    home: tuple[str, str]
    user: str
    project: str
    modes: tuple[str, ...]
    event: str
    matcher: str
    base: Mapping[str, object]
    sandbox: str
    last: str


SHIM = "shim"
NO_REMARKS = tuple(mode for mode in HOOKS if mode != "note")
"""Gemini CLI and Cursor have no place for a remark before a command."""
AGENTS = {
    "claude": Agent(
        "Claude Code",
        ("claude",),
        (".claude", "CLAUDE_CONFIG_DIR"),
        "settings.json",
        ".claude/settings.json",
        (SHIM, *HOOKS),
        "PreToolUse",
        "Bash",
        {},
        'if it is on, put into its settings: "sandbox": {{"filesystem": {{"allowWrite": ["{pool}"]}}}}',
        "sessions that run already do not know it: start a new one",
    ),
    "codex": Agent(
        "Codex",
        ("codex",),
        (".codex", "CODEX_HOME"),
        "hooks.json",
        ".codex/hooks.json",
        HOOKS,
        "PreToolUse",
        "Bash",
        {},
        'put into its config.toml, below [sandbox_workspace_write]: writable_roots = ["{pool}"]',
        "type /hooks in Codex and trust the hook: until then, and after each change, it is skipped silently",
    ),
    "gemini": Agent(
        "Gemini CLI",
        ("gemini",),
        (".gemini", ""),
        "settings.json",
        ".gemini/settings.json",
        NO_REMARKS,
        "BeforeTool",
        "run_shell_command",
        {},
        'if it is on, set SANDBOX_MOUNTS="{pool}:{pool}:rw"',
        "sessions that run already do not know it; /hooks panel in a new one lists it",
    ),
    "cursor": Agent(
        "Cursor",
        ("cursor", "cursor-agent"),
        (".cursor", ""),
        "hooks.json",
        ".cursor/hooks.json",
        NO_REMARKS,
        "preToolUse",
        "Shell",
        {"version": 1},
        'if it is on, add to its sandbox.json: "additionalReadwritePaths": ["{pool}"]',
        "restart Cursor; its settings list the hook",
    ),
    "copilot": Agent(
        "Copilot CLI",
        ("copilot",),
        (".copilot", "COPILOT_HOME"),
        "hooks/buildslots.json",
        ".github/hooks/buildslots.json",
        HOOKS,
        "preToolUse",
        "bash",
        {"version": 1},
        "",
        "sessions that run already do not know it: start a new one",
    ),
    "opencode": Agent(
        "opencode",
        ("opencode",),
        (".config/opencode", ""),
        "plugins/buildslots.js",
        "",
        (SHIM,),
        "",
        "",
        {},
        "",
        "opencode loads plugins when it starts: start it again",
    ),
}
"""By the names that `buildslots setup` and `buildslots hook` know."""


def directory(name: str, environ: Mapping[str, str], home: str) -> str:
    """The agent's directory in the user's home, or where its own variable or XDG's has it."""
    below, variable = AGENTS[name].home
    said = environ.get(variable, "") if variable else ""
    if os.path.isabs(said):
        return said
    if below.startswith(".config/"):  # https://specifications.freedesktop.org/basedir-spec/latest/
        config = environ.get("XDG_CONFIG_HOME", "")
        return os.path.join(config if os.path.isabs(config) else os.path.join(home, ".config"), below[8:])
    return os.path.join(home, below)


def is_here(name: str, environ: Mapping[str, str], home: str) -> bool:
    """Whether the user seems to have the agent: its directory, or one of its programs."""
    places = environ.get("PATH", "").split(os.pathsep)[:256]
    return os.path.isdir(directory(name, environ, home)) or any(
        os.access(os.path.join(place, program), os.X_OK)
        for place in places
        if place
        for program in AGENTS[name].programs
    )


def entry(name: str, mode: str, line: str) -> Entry:
    """The entry for the command line `line` in the list of an event."""
    agent = AGENTS[name]
    if mode == SHIM:
        handler: dict[str, object] = {"type": "command", "command": line, "timeout": TIMEOUT_S}
        return Entry("SessionStart", {"hooks": [handler]})
    if name == "cursor":
        return Entry(agent.event, {"command": line, "matcher": agent.matcher, "timeout": TIMEOUT_S})
    if name == "copilot":
        flat = {"type": "command", "matcher": agent.matcher, "bash": line, "timeoutSec": TIMEOUT_S}
        return Entry(agent.event, flat)
    handler = {"type": "command", "command": line, "timeout": TIMEOUT_S}
    if name == "gemini":
        handler = {"name": "buildslots", **handler, "timeout": 1000 * TIMEOUT_S}
    return Entry(agent.event, {"matcher": agent.matcher, "hooks": [handler]})
