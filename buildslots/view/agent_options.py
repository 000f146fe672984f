"""The part of the command line of `buildslots` that is about coding agents: `setup` and `hook`."""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    import argparse
    from collections.abc import Callable

HOOK_AGENTS = ("claude", "codex", "gemini", "cursor", "copilot")
HOOK_MODES = ("rewrite", "deny", "note")
"""What `hook` takes; `agents.hook` says it too, and is not loaded for every command."""
AGENTS = (*HOOK_AGENTS, "opencode")
SHELL = "shell"
"""What is no agent, and can be set up for all of them."""
AGENT_MODES = ("shim", *HOOK_MODES)
"""Those of `agents.setup.known`, likewise."""


def of_agents(command: Callable[[str, str], argparse.ArgumentParser]) -> None:
    """Add the commands for coding agents."""
    setup = command("setup", "make a coding agent's builds take slots, after showing what changes")
    setup.add_argument(
        "agent",
        nargs="?",
        choices=(*AGENTS, SHELL),
        metavar="AGENT",
        help="; ".join([*AGENTS, "shell: shims for all", "none: show all"]),
    )
    files = setup.add_mutually_exclusive_group()
    files.add_argument("--user", action="store_true", help="in your own files: the default")
    files.add_argument("--project", action="store_true", help="in the files of this project")
    setup.add_argument("--mode", choices=AGENT_MODES, help="how: `buildslots help agents`")
    what = setup.add_mutually_exclusive_group()
    what.add_argument("--uninstall", action="store_true", help="take it out again")
    what.add_argument(
        "--status", action="store_true", help="show what is set up; exits 1 if something is not"
    )
    setup.add_argument("--dry-run", action="store_true", help="show what would change, and change nothing")
    setup.add_argument("-y", "--yes", action="store_true", help="do not ask")

    hook = command("hook", "what a coding agent calls before it runs a command: `buildslots help agents`")
    hook.add_argument("hook_agent", choices=HOOK_AGENTS, metavar="AGENT", help=", ".join(HOOK_AGENTS))
    hook.add_argument(
        "--mode",
        dest="hook_mode",
        choices=HOOK_MODES,
        default=HOOK_MODES[0],
        metavar="MODE",
        help="put slot-run in front of a build, refuse one without it, or remark on it [rewrite]",
    )
