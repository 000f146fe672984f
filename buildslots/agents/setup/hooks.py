"""The entries of buildslots in an agent's JSON of hooks, and the text with and without them.

All five agents have an object `hooks`, with a list for each event. In it Claude Code, Codex and Gemini CLI
have groups, each with a list of handlers of its own, and Cursor and Copilot CLI the handlers themselves:

    {"hooks": {"PreToolUse": [{"matcher": "Bash", "hooks": [{"type": "command", "command": "…"}]}]}}
    {"version": 1, "hooks": {"preToolUse": [{"matcher": "Shell", "command": "…"}]}}

An entry is ours if its command line is one that `command_line` could have written, in this version or in an
older one, with whatever path: `… buildslots hook AGENT …`. A command line into which somebody else has built
that is not ours, and stays. Ours always stand in groups of our own.
"""

from __future__ import annotations

import re
import shlex
from typing import NamedTuple

from buildslots.agents.setup import jsonc
from buildslots.agents.setup.refused import RefusedError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence

HOOKED = ("claude", "codex", "gemini", "cursor", "copilot")
"""The agents that have hooks."""
MODES = ("rewrite", "deny", "note")
"""What a hook may do before a command."""
IF_THERE = "! command -v buildslots >/dev/null || "
"""Before a command line in a project's file, which people read who do not have buildslots."""
NEVER_FAILS = " || true"
"""Behind a command line, because a failure of ours must not block a command. To Copilot CLI every status but
0 means "no", also that of a missing program: "fail-closed" in
https://docs.github.com/en/copilot/reference/hooks-reference. To the others 2 does, and an older version that
does not know `hook` ends with 2. In mode deny the refusal is in the answer, and not in the status."""
WITHOUT_SHELL = ("cursor",)
"""Where we know of no promise that a command line is run by a shell. Only 2 blocks a command there."""


MOST_CUTS = 100
"""So many entries of ours are taken out; there should be one."""


class Entry(NamedTuple):
    """An element of the list of an event."""

    event: str
    value: object


class Command(NamedTuple):
    """A command line of ours.

    Attributes:
        program: What stands for buildslots in it: a name or a path.
        agent: The agent.
        mode: What `--mode` says; "rewrite" unless it does.
    """

    program: str
    agent: str
    mode: str


def command_line(program: str, agent: str, mode: str, *, shared: bool) -> str:
    """The command line to register, for sh.

    Args:
        program: The path of buildslots.
        agent: The agent.
        mode: One of MODES, or "shim", which needs no option: it is another event.
        shared: Whether others read the file too.
    """
    option = f" --mode {mode}" if mode in MODES[1:] else ""
    line = f"{shlex.quote(program)} hook {agent}{option}"
    return line if agent in WITHOUT_SHELL else f"{IF_THERE if shared else ''}{line}{NEVER_FAILS}"


def parsed(handler: object) -> Command | None:
    """The command of a handler; None if it is not ours."""
    if not isinstance(handler, dict):
        return None
    line = next(
        (handler[key] for key in ("command", "bash", "exec") if isinstance(handler.get(key), str)), ""
    )
    args = handler.get("args")
    line = line.removeprefix(IF_THERE).removesuffix(NEVER_FAILS)
    try:
        # With arguments beside it, it is no line but the path of a program.
        words = [line, *map(str, args)] if isinstance(args, list) else shlex.split(line)
    except ValueError:
        return None
    if len(words) > 2 and words[1] == "-m" and re.search(r"python[0-9.]*(\.exe)?$", words[0]):
        del words[:2]
    if len(words) < 3 or re.split(r"[\\/]", words[0])[-1] not in ("buildslots", "buildslots.exe"):
        return None
    program, hook, agent, *options = words
    mode = " ".join(options).replace("=", " ").removeprefix("--mode ") or MODES[0]
    return Command(program, agent, mode) if hook == "hook" and agent in HOOKED and mode in MODES else None


def commands(value: object) -> list[Command]:
    """The commands of ours in an element of the list of an event."""
    if isinstance(value, dict) and isinstance(value.get("hooks"), list):
        return [command for handler in value["hooks"] if (command := parsed(handler))]
    command = parsed(value)
    return [command] if command else []


def entries(value: object) -> list[Entry]:
    """What is ours in a whole document, in order."""
    hooks = value.get("hooks") if isinstance(value, dict) else None
    lists = hooks.items() if isinstance(hooks, dict) else ()
    return [
        Entry(event, element)
        for event, elements in lists
        if isinstance(elements, list)
        for element in elements
        if commands(element)
    ]


def changed(text: str, wanted: Sequence[Entry], base: dict[str, object], path: str) -> str:
    """`text` with the entries `wanted`, and no other ones of ours.

    Args:
        text: A document; blank for none.
        wanted: The entries; none takes ours out.
        base: What such a document needs besides.
        path: Whose text it is, for the sentence.

    Raises:
        RefusedError: It is no JSON, or not shaped as hooks are.
    """
    text = text if text.strip() else "{}\n"
    before = read(text, path)
    if entries(before.value) == [*wanted]:
        return text
    new = _without(text, path)
    for key, value in base.items() if wanted else ():
        root = read(new, path)
        said = root.member(key)
        if said is None:
            new = jsonc.appended(new, root, root, key, value)
        elif said.value != value:
            line = jsonc.line_of(new, said.start)
            raise RefusedError(
                path, f'line {line}: "{key}" is {said.value!r}, and only {value!r} is known here'
            )
    for entry in wanted:
        new = _with(new, entry, path)
    after = read(new, path).value
    if entries(after) != [*wanted] or _rest(after, base) != _rest(before.value, base):
        raise RefusedError(path, "its text cannot be changed safely; please add the entry by hand")
    return new


def read(text: str, path: str) -> jsonc.Node:
    """The document. Raises RefusedError if it is no JSON object whose `hooks` are one."""
    try:
        root = jsonc.read(text if text.strip() else "{}")
    except jsonc.NotJSONError as error:
        raise RefusedError(path, f"it is no JSON; {error}") from None
    if not isinstance(root.value, dict):
        raise RefusedError(path, "it is no JSON object")
    hooks = root.member("hooks")
    if hooks is not None and not isinstance(hooks.value, dict):
        raise RefusedError(path, f'line {jsonc.line_of(text, hooks.start)}: "hooks" is no object')
    return root


def _without(text: str, path: str) -> str:
    """`text` without anything of ours, and without the lists that this empties."""
    for _ in range(MOST_CUTS):
        hooks = read(text, path).member("hooks")
        steps = _cuts(hooks) if hooks else []
        if not steps:
            return text
        text = jsonc.cut(text, *steps[0])
    raise RefusedError(
        path, f"there are more than {MOST_CUTS} entries of buildslots; please take them out by hand"
    )


def _cuts(hooks: jsonc.Node) -> list[tuple[jsonc.Node, int]]:
    """What may be cut out of `hooks` next: a whole list, an element of it, or a handler in a group."""
    found: list[tuple[jsonc.Node, int]] = []
    for event, member in enumerate(hooks.members):
        if not isinstance(member.node.value, list):
            continue
        for place, element in enumerate(member.node.members):
            ours = commands(element.node.value)
            group = element.node.member("hooks")
            handlers = group.members if group else ()
            if not ours:
                continue
            if len(handlers) <= len(ours):
                alone = len(member.node.members) == 1
                found.append((hooks, event) if alone else (member.node, place))
            elif group:
                found += [(group, at) for at, handler in enumerate(handlers) if parsed(handler.node.value)]
    return found


def _with(text: str, entry: Entry, path: str) -> str:
    root = read(text, path)
    hooks = root.member("hooks")
    if hooks is None:
        return jsonc.appended(text, root, root, "hooks", {entry.event: [entry.value]})
    listed = hooks.member(entry.event)
    if listed is None:
        return jsonc.appended(text, root, hooks, entry.event, [entry.value])
    if not isinstance(listed.value, list):
        raise RefusedError(path, f'line {jsonc.line_of(text, listed.start)}: "{entry.event}" is no list')
    return jsonc.appended(text, root, listed, None, entry.value)


def _rest(value: object, base: dict[str, object]) -> object:
    """The document without what is ours, and without empty lists: what must be the same afterwards."""
    if not isinstance(value, dict):
        return value
    events: dict[str, object] = {}
    for event, elements in (value.get("hooks") or {}).items():
        if not isinstance(elements, list):
            events[event] = elements
            continue
        kept = []
        for element in elements:
            ours = commands(element)
            if ours and isinstance(element.get("hooks"), list):
                left = [handler for handler in element["hooks"] if parsed(handler) is None]
                kept += [{**element, "hooks": left}] if left else []
            elif not ours:
                kept.append(element)
        if kept:
            events[event] = kept
    others = {key: one for key, one in value.items() if key not in base and key != "hooks"}
    return [list(others.items()), list(events.items())]
