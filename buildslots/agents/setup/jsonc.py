"""JSON with comments and trailing commas, read with its places, and changed by text put in or cut out.

So the settings of others keep their comments, their order and their formatting, which no library that reads
and writes JSON again would do. What is read is what agents accept: JSON (RFC 8259) and besides it `//` and
`/* */` comments and a comma behind the last member, as in the settings of VS Code and Gemini CLI. One thing
more is refused: a key that stands twice in an object, because programs do not agree which of them counts.
"""

from __future__ import annotations

import json
import re
from typing import NamedTuple

DEEPEST = 64
"""So many levels are read; settings have five."""
_STRING = re.compile(r'"(?:[^"\\\x00-\x1f]|\\.)*"')
_SCALAR = re.compile(r"-?(?:0|[1-9][0-9]*)(?:\.[0-9]+)?(?:[eE][+-]?[0-9]+)?|true|false|null")
_BLANK = re.compile(r"[ \t\r\n]+|//[^\n]*|/\*.*?\*/", re.DOTALL)
_IN_LINE = re.compile(r"[ \t]+|//[^\r\n]*|/\*[^\r\n]*?\*/")


class NotJSONError(ValueError):
    """A text that is no JSON: the message says the line and what is wrong there."""


class Member(NamedTuple):
    """What stands in an object or an array.

    Attributes:
        key: Its key; None in an array.
        node: Its value.
        start: Where it begins, with its key.
        after: Where the text behind it begins: behind its comma, if it has one.
    """

    key: str | None
    node: Node
    start: int
    after: int


class Node(NamedTuple):
    """A value and its place.

    Attributes:
        value: What `json.loads` makes of it.
        start: Where it begins.
        end: Where the text behind it begins.
        members: What stands in it, in order.
    """

    value: object
    start: int
    end: int
    members: tuple[Member, ...] = ()

    def member(self, key: str) -> Node | None:
        """The value of `key` in this object."""
        return next((member.node for member in self.members if member.key == key), None)


def line_of(text: str, at: int) -> int:
    """The number of the line of `text` in which the place `at` is."""
    return text.count("\n", 0, at) + 1


def read(text: str) -> Node:
    """The value that `text` is. Raises NotJSONError."""
    reader = _Reader(text)
    node = reader.value(DEEPEST)
    reader.skip()
    if reader.at != len(text):
        raise reader.wrong("text behind the end")
    return node


class _Reader:
    def __init__(self, text: str) -> None:
        self._text = text
        self.at = 0

    def wrong(self, what: str) -> NotJSONError:
        return NotJSONError(f"line {line_of(self._text, self.at)}: {what}")

    def skip(self) -> None:
        while match := _BLANK.match(self._text, self.at):
            self.at = match.end()

    def _takes(self, mark: str) -> bool:
        """Whether `mark` comes next; it is read then."""
        self.skip()
        found = self._text.startswith(mark, self.at)
        self.at += len(mark) if found else 0
        return found

    def value(self, levels: int) -> Node:
        if not levels:
            raise self.wrong(f"more than {DEEPEST} levels")
        self.skip()
        start = self.at
        for opening, closing in ("{}", "[]"):
            if self._takes(opening):
                return self._container(start, closing, levels)
        match = _STRING.match(self._text, start) or _SCALAR.match(self._text, start)
        if match is None:
            raise self.wrong("no value, or one that is no JSON")
        return Node(self._scalar(match), start, self.at)

    def _scalar(self, match: re.Match[str]) -> object:
        try:
            value = json.loads(match.group())
        except ValueError:
            raise self.wrong("a value that is no JSON") from None
        self.at = match.end()
        return value

    def _container(self, start: int, closing: str, levels: int) -> Node:
        members: list[Member] = []
        known: set[str | None] = set()
        comma = True
        while not self._takes(closing):
            if not comma:
                raise self.wrong(f'no "," and no "{closing}"')
            begin = self.at
            key = self._key(known) if closing == "}" else None
            node = self.value(levels - 1)
            comma = self._takes(",")
            members.append(Member(key, node, begin, self.at if comma else node.end))
        value: object = [member.node.value for member in members]
        if closing == "}":
            value = {member.key: member.node.value for member in members}
        return Node(value, start, self.at, tuple(members))

    def _key(self, known: set[str | None]) -> str:
        match = _STRING.match(self._text, self.at)
        if match is None:
            raise self.wrong("no key in quotation marks")
        key = str(self._scalar(match))
        if key in known:
            raise self.wrong(f"the key {match.group()} for the second time")
        known.add(key)
        if not self._takes(":"):
            raise self.wrong('no ":" behind a key')
        return key


def appended(text: str, root: Node, into: Node, key: str | None, value: object) -> str:
    """`text` with one more member at the end of `into`, written as the text around it is.

    Args:
        text: The text.
        root: What `read` has made of it.
        into: An object or an array in it.
        key: The new member's key; None for an array.
        value: Its value.
    """
    close = into.end - 1
    newline = "\r\n" if "\r\n" in text else "\n"
    name = "" if key is None else f"{json.dumps(key, ensure_ascii=False)}: "
    if not into.members:
        if root.members and "\n" not in text[root.start : root.end]:
            return f"{text[:close]}{name}{json.dumps(value, ensure_ascii=False)}{text[close:]}"
        outer = _indentation(text, into.start)
        inner = outer + _unit(text, root)
        before = text[:close].rstrip(" \t\r\n")
        word = name + _written(value, inner, _unit(text, root), newline)
        return f"{before}{newline}{inner}{word}{newline}{outer}{text[close:]}"
    last = into.members[-1]
    comma = last.after > last.node.end
    before = text[: last.node.end] + ("" if comma else ",")
    tail = "," if comma else ""
    if "\n" not in text[into.start : into.end]:
        word = name + json.dumps(value, ensure_ascii=False)
        return f"{before}{text[last.node.end : last.after]} {word}{tail}{text[last.after :]}"
    at = last.after
    while (match := _IN_LINE.match(text, at, close)) and match.end() <= close:
        at = match.end()
    at = len(text[:at].rstrip(" \t"))
    inner = _indentation(text, last.start)
    word = name + _written(value, inner, _unit(text, root), newline)
    return f"{before}{text[last.node.end : at]}{newline}{inner}{word}{tail}{text[at:]}"


def cut(text: str, into: Node, index: int) -> str:
    """`text` without the member `index` of `into`. Comments around it stay."""
    member = into.members[index]
    is_last = index == len(into.members) - 1
    begin = len(text[: member.start].rstrip(" \t"))
    end = member.after
    rest = text[end:].lstrip(" \t")
    if rest.startswith(("\n", "\r\n")):  # nothing else stands in its last line
        line = text[:begin]
        begin -= 2 if line.endswith("\r\n") else line.endswith("\n")
    head = text[:begin]
    if is_last and index and member.after == member.node.end:
        comma = into.members[index - 1].after
        head = text[: comma - 1] + text[comma:begin]
    if len(into.members) == 1 and not (head[into.start + 1 :] + text[end : into.end - 1]).strip():
        return text[: into.start + 1] + text[into.end - 1 :]
    return head + (rest if begin == into.start + 1 else text[end:])


def _written(value: object, indentation: str, unit: str, newline: str) -> str:
    return json.dumps(value, ensure_ascii=False, indent=unit).replace("\n", newline + indentation)


def _indentation(text: str, at: int) -> str:
    """The blanks at the beginning of the line in which `at` is."""
    line = text[text.rfind("\n", 0, at) + 1 : at]
    return line[: len(line) - len(line.lstrip(" \t"))]


def _unit(text: str, root: Node) -> str:
    """By how much the text indents: as its first member does, or two blanks."""
    first = root.members[0].start if root.members else root.start
    own = _indentation(text, first)
    return own if own and not text[: first - len(own)].endswith((" ", "\t")) else "  "
