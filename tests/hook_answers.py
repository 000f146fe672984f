"""What agents take for an answer, as JSON Schema, from the pages that `buildslots.agents.hook` names.

Stricter than they are in one thing: what they would ignore is a mistake here.
"""

from __future__ import annotations

from typing import Any

Schema = dict[str, Any]

TEXT: Schema = {"type": "string", "minLength": 1}


def fields(required: str = "", **properties: Schema) -> Schema:
    """An object with these fields and no others."""
    return {
        "type": "object",
        "properties": properties,
        "required": required.split(),
        "additionalProperties": False,
    }


def tool(*names: str) -> Schema:
    """The input of a shell tool."""
    command = {"type": "object", "properties": {"command": TEXT}, "required": ["command"]}
    return command | {"propertyNames": {"enum": ["command", *names]}}


def specific(**properties: Schema) -> Schema:
    """An answer in the form of Claude Code."""
    event = {"const": "PreToolUse"}
    return fields(
        "hookSpecificOutput", hookSpecificOutput=fields("hookEventName", hookEventName=event, **properties)
    )


REFUSED = {"permissionDecision": {"const": "deny"}, "permissionDecisionReason": TEXT}
CONTEXT = {"additionalContext": TEXT}

ANSWERS: dict[str, Schema] = {
    "claude": specific(
        **REFUSED, **CONTEXT, updatedInput=tool("description", "timeout", "run_in_background")
    ),
    # codex-rs/hooks/schema/generated/pre-tool-use.command.output.schema.json; a change needs "allow"
    "codex": specific(
        **(REFUSED | {"permissionDecision": {"enum": ["allow", "deny", "ask"]}}),
        **CONTEXT,
        updatedInput=tool(),
    )
    | {
        "if": {"properties": {"hookSpecificOutput": {"required": ["updatedInput"]}}},
        "then": {
            "properties": {"hookSpecificOutput": {"properties": {"permissionDecision": {"const": "allow"}}}}
        },
    },
    "gemini": fields(
        decision={"enum": ["deny"]},
        reason=TEXT,
        hookSpecificOutput=fields("tool_input", hookEventName={"const": "BeforeTool"}, tool_input=tool()),
    )
    | {"dependentRequired": {"decision": ["reason"]}},
    "cursor": {
        "anyOf": [
            fields(),
            fields(
                "permission updated_input",
                permission={"const": "allow"},
                updated_input=tool("working_directory"),
            ),
            fields("permission", permission={"const": "deny"}, user_message=TEXT, agent_message=TEXT),
        ]
    },
    "copilot": fields(**REFUSED, **CONTEXT, modifiedArgs=tool("description", "initial_wait")),
    "copilot in VS Code": specific(**REFUSED, **CONTEXT, updatedInput=tool("explanation", "isBackground")),
}
