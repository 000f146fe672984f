"""What `buildslots hook AGENT` answers: one JSON document in, one or nothing out.

An agent asks its hooks about a shell command before it runs it. Where the command is a build without
slot-run, the answer is the same command with it (`shell`), or a refusal that names it, or a remark. About
everything else there is no opinion: other tools, other shapes, what cannot be read, what is too long. The
agent's text is data: nothing here runs or expands any of it.

How the agents ask and how they want to be answered, in their own words:

claude   https://code.claude.com/docs/en/hooks
codex    https://developers.openai.com/codex/hooks, codex-rs/hooks/schema/generated in openai/codex
gemini   https://geminicli.com/docs/hooks/reference
cursor   https://cursor.com/docs/agent/hooks
copilot  https://docs.github.com/en/copilot/how-tos/copilot-sdk/use-hooks/pre-tool-use,
         where toolArgs may be a text with JSON; in VS Code
         https://code.visualstudio.com/docs/agents/reference/hooks-reference

No answer widens a permission: a decision stands in it only where the protocol takes no change without one
(Codex, which then asks about the changed command; Cursor), and to refuse. Copilot asks the user about each
changed command since 1.0.66 (rtk-ai/rtk#3149).
"""

from __future__ import annotations

import json
import os
import stat

from buildslots.agents import heavy
from buildslots.agents.shell import SLOT_RUN, insert, rewrite
from buildslots.settings.places import shims_dir

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from typing import Any

    Answer = dict[str, Any] | None
    Fields = dict[str, Any]

MOST_BYTES = 2**20
"""Of what an agent may say."""
MOST_ANSWERED = 2**16
"""Bytes of an answer: what a pipe of Linux takes in one write, however slow its reader (pipe(7))."""
LONGEST_MS = 600_000
"""The longest time that Claude Code gives a command (BASH_MAX_TIMEOUT_MS), in which it also waits."""
MOST_NAMED = 2000
"""Characters of a command that a refusal repeats."""
MOST_OF_FILE = 2**16
"""Bytes of Claude's file of variables that are searched for ours."""
WHY = "Builds share this machine's slots, and wait in line for one."


def answer(agent: str, payload: bytes, environ: Mapping[str, str], mode: str = "rewrite") -> bytes:
    """What a hook answers.

    Args:
        agent: One of `AGENTS`.
        payload: What the agent has written to its stdin.
        environ: The hook's environment.
        mode: "rewrite" changes a build's command, "deny" refuses it, "note" remarks on it.

    Returns:
        JSON in ASCII, or nothing: no opinion. Raises nothing.
    """
    silence = b"{}" if agent == "cursor" else b""  # which wants JSON always
    try:
        if len(payload) > MOST_BYTES:
            return silence
        fields: object = json.loads(payload)
        said = AGENTS[agent](fields, environ, mode) if isinstance(fields, dict) else None
        # NaN is no JSON, but json reads and writes it.
        text = b"" if said is None else json.dumps(said, allow_nan=False).encode()
    except Exception:  # noqa: BLE001 - whatever went wrong, the agent's command has to run
        return silence
    return text if 0 < len(text) <= MOST_ANSWERED else silence


def _with_slot_run(command: object, environ: Mapping[str, str]) -> str | None:
    """The command with slot-run; None if it is not text, or stays as it is."""
    if not isinstance(command, str):
        return None
    places = rewrite(command, heavy.load(environ).is_build)
    # Without slot-run on PATH each build would end with 127.
    return insert(command, places) if places and _finds_slot_run(environ) else None


def _finds_slot_run(environ: Mapping[str, str]) -> bool:
    name = f"{SLOT_RUN}.exe" if os.name == "nt" else SLOT_RUN
    directories = environ.get("PATH", "").split(os.pathsep)
    return any(os.access(os.path.join(each, name), os.X_OK) for each in directories if os.path.isabs(each))


def _reason(command: str) -> str:
    """Why a command is refused, and what to run."""
    if len(command) <= MOST_NAMED and all(char.isprintable() or char in "\n\t" for char in command):
        return f"{WHY} Run this instead: {command}"
    return f'{WHY} Put "{SLOT_RUN} " in front of the build, and run it again.'


def _remark(command: str) -> str:
    return f"{_reason(command).replace(' instead', '')} (a remark: the command runs as it is)"


def _specific(event: str, said: Fields) -> Fields:
    return {"hookSpecificOutput": {"hookEventName": event, **said}}


def _refused(reason: str) -> Fields:
    return {"permissionDecision": "deny", "permissionDecisionReason": reason}


def _claude(fields: Fields, environ: Mapping[str, str], mode: str) -> Answer:
    """Claude Code. `updatedInput` takes the place of all that the tool was to get."""
    if fields.get("hook_event_name") == "SessionStart":
        _start_session(environ)
        return None
    given = _given(fields, "PreToolUse", ("Bash",))
    command = _with_slot_run(given.get("command"), environ)
    if command is None:
        return None
    if mode != "rewrite":
        return _specific("PreToolUse", _refused(_reason(command)) if mode == "deny" else _context(command))
    limit = given.get("timeout")
    longest = max(limit, LONGEST_MS) if isinstance(limit, int | float) else LONGEST_MS
    return _specific("PreToolUse", {"updatedInput": {**given, "command": command, "timeout": longest}})


def _codex(fields: Fields, environ: Mapping[str, str], mode: str) -> Answer:
    """Codex. It takes a change together with "allow" only, and then asks for approval of the new command."""
    given = _given(fields, "PreToolUse", ("Bash",))
    command = _with_slot_run(given.get("command"), environ)
    if command is None:
        return None
    changed = {"permissionDecision": "allow", "updatedInput": {**given, "command": command}}
    said = {"rewrite": changed, "deny": _refused(_reason(command)), "note": _context(command)}
    return _specific("PreToolUse", said[mode])


def _gemini(fields: Fields, environ: Mapping[str, str], mode: str) -> Answer:
    """Gemini CLI. What the answer says of the input is merged into it; there is no place for a remark."""
    command = _with_slot_run(_given(fields, "BeforeTool", ("run_shell_command",)).get("command"), environ)
    if command is None or mode == "note":
        return None
    if mode == "deny":
        return {"decision": "deny", "reason": _reason(command)}
    return _specific("BeforeTool", {"tool_input": {"command": command}})


def _cursor(fields: Fields, environ: Mapping[str, str], mode: str) -> Answer:
    """Cursor. Every answer but `{}` needs a permission."""
    given = _given(fields, "preToolUse", ("Shell",))
    command = _with_slot_run(given.get("command"), environ)
    if command is None or mode == "note":
        return None
    if mode == "deny":
        reason = _reason(command)
        return {"permission": "deny", "user_message": reason, "agent_message": reason}
    return {"permission": "allow", "updated_input": {**given, "command": command}}


def _copilot(fields: Fields, environ: Mapping[str, str], mode: str) -> Answer:
    """Copilot: on the command line, which names no event, and in VS Code."""
    is_cli = "toolName" in fields
    if is_cli:
        given = fields.get("toolArgs") if fields["toolName"] == "bash" else None
        given = json.loads(given) if isinstance(given, str) else given
        given = given if isinstance(given, dict) else {}
    else:
        given = _given(fields, "PreToolUse", ("run_in_terminal", "runTerminalCommand", "bash", "Bash"))
    command = _with_slot_run(given.get("command"), environ)
    if command is None:
        return None
    changed = {("modifiedArgs" if is_cli else "updatedInput"): {**given, "command": command}}
    said = {"rewrite": changed, "deny": _refused(_reason(command)), "note": _context(command)}[mode]
    return said if is_cli else _specific("PreToolUse", said)


def _context(command: str) -> Fields:
    return {"additionalContext": _remark(command)}


def _given(fields: Fields, event: str, tools: tuple[str, ...]) -> Fields:
    """What the shell tool is to get; nothing if another event or tool is meant."""
    is_event = fields.get("hook_event_name", fields.get("hookEventName")) == event
    given = fields.get("tool_input")
    return given if is_event and fields.get("tool_name") in tools and isinstance(given, dict) else {}


AGENTS: dict[str, Callable[[Fields, Mapping[str, str], str], Answer]] = {
    "claude": _claude,
    "codex": _codex,
    "gemini": _gemini,
    "cursor": _cursor,
    "copilot": _copilot,
}
"""The agents with hooks, and what answers them."""
MODES = ("rewrite", "deny", "note")


def _start_session(environ: Mapping[str, str]) -> None:
    """Add the directory of shims to the variables of a session of Claude Code.

    The shell reads the file $CLAUDE_ENV_FILE before each command of the session ("Persist environment
    variables" in the hooks' reference). However often a session is resumed, it says this once.

    Raises:
        OSError: The file cannot be written, or there is no home directory.
    """
    import shlex  # noqa: PLC0415 - once a session

    path, directory = environ.get("CLAUDE_ENV_FILE", ""), shims_dir(environ)
    if not os.path.isabs(path) or ":" in directory or not directory.isprintable():
        return
    lines = f'export PATH={shlex.quote(directory)}:"$PATH"\nexport BUILD_SLOTS_AGENT=claude\n'
    flags = os.O_RDWR | os.O_APPEND | os.O_CREAT
    for name in ("O_NOFOLLOW", "O_NONBLOCK", "O_CLOEXEC"):  # not all on Windows
        flags |= getattr(os, name, 0)
    fd = os.open(path, flags, 0o600)
    try:
        if stat.S_ISREG(os.fstat(fd).st_mode):
            before = os.read(fd, MOST_OF_FILE)
            if lines.encode() not in before:
                os.write(fd, (b"\n" if before and not before.endswith(b"\n") else b"") + lines.encode())
    finally:
        os.close(fd)
