"""Changing JSON in place: whatever the layout, what is put in is there, and all else is as it was."""

from __future__ import annotations

import json
from typing import Any

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from buildslots.agents.setup import hooks, jsonc

BLANK = st.sampled_from(
    ["", "", " ", "\n", "\n  ", "\r\n\t", "// a, ] }\n", '/* ", [ */', "\n// }\n  ", " /**/ "]
)
OURS = {"command": "/usr/bin/buildslots hook cursor", "matcher": "Shell"}
THEIRS = st.sampled_from(
    [OURS, {"command": "audit"}, {"hooks": [OURS, {"command": "a"}]}, {"hooks": []}, [], 1, None]
)
EVENTS = st.dictionaries(st.sampled_from(["preToolUse", "stop", "é\n"]), st.lists(THEIRS, max_size=4))
DOCUMENTS = st.fixed_dictionaries(
    {},
    optional={
        "a": st.sampled_from([True, None, -1.5e3, "// no comment", {"b": [[]]}]),
        "version": st.just(1),
        "hooks": EVENTS,
        "z": st.lists(st.integers(0, 9), max_size=2),
    },
)
ENTRY = hooks.Entry("preToolUse", {"command": "/bin/buildslots hook cursor --mode deny", "timeout": 10})


def written(value: Any, blank: Any) -> str:
    """`value` with blanks and comments anywhere, and commas behind last members now and then."""
    if isinstance(value, dict):
        parts = [f"{json.dumps(key)}{blank()}:{written(one, blank)}" for key, one in value.items()]
        marks = "{}"
    elif isinstance(value, list):
        parts, marks = [written(one, blank) for one in value], "[]"
    else:
        return f"{blank()}{json.dumps(value)}{blank()}"
    text = ",".join(f"{blank()}{part}{blank()}" for part in parts)
    if parts and len(blank()) > 2:
        text += "," + blank()
    return f"{blank()}{marks[0]}{text or blank()}{marks[1]}{blank()}"


def without_ours(value: Any) -> Any:
    """The document as it should be afterwards, made from its value."""
    events = {}
    for event, elements in value.get("hooks", {}).items():
        kept = []
        for element in elements:
            if isinstance(element, dict) and OURS in element.get("hooks", []):
                kept.append({"hooks": [one for one in element["hooks"] if one != OURS]})
            elif element != OURS:
                kept.append(element)
        if kept:
            events[event] = kept
    return {key: one for key, one in value.items() if key != "hooks"} | ({"hooks": events} if events else {})


def filled(value: Any) -> Any:
    """The same without empty lists, which say nothing."""
    events = {event: elements for event, elements in value.get("hooks", {}).items() if elements}
    return {key: one for key, one in value.items() if key != "hooks"} | ({"hooks": events} if events else {})


@given(DOCUMENTS, st.data())
@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.too_slow])
def test_in_and_out_in_every_layout(document: Any, data: Any) -> None:
    """Read as json would, changed as its value would be, and every comment stays."""
    text = written(document, lambda: data.draw(BLANK))
    assert jsonc.read(text).value == document
    cleaned = hooks.changed(text, [], {}, "/x")
    assert filled(jsonc.read(cleaned).value) == without_ours(document)
    new = hooks.changed(text, [ENTRY], {"version": 1}, "/x")
    value: Any = jsonc.read(new).value
    assert value["hooks"]["preToolUse"][-1] == ENTRY.value
    assert hooks.entries(value) == [ENTRY]
    value["hooks"]["preToolUse"].pop()
    assert filled(value) == {"version": 1} | without_ours(document)
    assert hooks.changed(new, [ENTRY], {"version": 1}, "/x") == new


@given(st.text('{}[]":,/*\\ \n01.eE-+truefalsn', max_size=40))
@settings(max_examples=1000, deadline=None)
def test_what_json_reads_is_read_and_the_rest_is_refused(text: str) -> None:
    """Nothing else is raised, and what both read they read alike."""
    value: object
    try:
        value = jsonc.read(text).value
    except jsonc.NotJSONError as error:
        value = error
    try:
        known = json.loads(
            text, object_pairs_hook=lambda pairs: pairs if len(dict(pairs)) < len(pairs) else dict(pairs)
        )
    except ValueError:
        return
    assert value == known or isinstance(value, jsonc.NotJSONError)
    if "{" not in text:
        assert not isinstance(value, jsonc.NotJSONError)
