"""CPU tokens: whether they work here, which tools on PATH take them, and who keeps some for nothing."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from typing import NamedTuple

import psutil

from buildslots import shares
from buildslots.files import check_root
from buildslots.settings import auto_tokens
from buildslots.tokens.clients import DESCRIPTORS, FIFO, STRANGE, make_style, ninja_unserved
from buildslots.view.health import keepers
from buildslots.view.health.checks import NOTE, OK, PROBLEM, Finding, Subject
from buildslots.words import prose

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

ASKED_S = 5.0
"""So long a tool may take to say its version."""
VERSION = re.compile(r"\d+(?:\.\d+)+\S*")
MOST_KEEPERS = 5
"""So many processes are named that keep tokens."""
CACHES = ("RUSTC_WRAPPER", "CARGO_BUILD_RUSTC_WRAPPER", "CMAKE_C_COMPILER_LAUNCHER")
"""Variables by which builds are told to ask sccache."""


class Tool(NamedTuple):
    """A program that builds, as PATH has it.

    Attributes:
        name: Its own.
        version: What it says itself; "" if it says none.
        takes: Whether it takes tokens.
        why: Why not, or how; "" if there is nothing to say.
    """

    name: str
    version: str
    takes: bool
    why: str


def tokens(subject: Subject) -> list[Finding]:
    """Whether tokens are on and work; then also the tools that take none, and what keeps tokens."""
    try:
        check_root(subject.settings.dir)
    except OSError as error:  # tools would write into that home, too
        return [Finding("tokens", OK, f"not tried out: {error}", {})]
    count, its_source = shares.tokens_of(subject.settings)
    works = _works(subject)
    tools = [tool for name, judge in JUDGES.items() if (tool := _tool(name, judge, subject)) is not None]
    details: dict[str, object] = {
        "tokens": count,
        "source": its_source,
        "auto": auto_tokens()[0],
        "works": works is None,
        "problem": works,
        "tools": [tool._asdict() for tool in tools],
    }
    if not count:
        state = "could be used here" if works is None else f"could not be used here: {works}"
        return [Finding("tokens", OK, f"off; they {state}", details)]
    source = prose(its_source)
    if works is not None:
        text = f"{count} tokens ({source}), but {works}: builds run with a fixed share of jobs"
        return [Finding("tokens", PROBLEM, text, details)]
    named = ", ".join(f"{tool.name} {tool.version}".rstrip() for tool in tools if tool.takes)
    text = f"all builds share {count} ({source}); these take them: {named or 'none that is on PATH'}"
    found = [Finding("tokens", OK, text, details)]
    found += [
        Finding("tokens", NOTE, f"{tool.name} {tool.version} takes no tokens: {tool.why}", details)
        for tool in tools
        if not tool.takes
    ]
    return [*found, *_kept(subject), *_sccache(subject)]


def _works(subject: Subject) -> str | None:
    """What keeps tokens from working here, in words; None if nothing does. Tried with a real FIFO."""
    if sys.platform != "linux":
        return "only Linux has what they need"
    from buildslots.tokens.jobserver import Jobserver  # noqa: PLC0415 - Linux only
    from buildslots.tokens.selftest import check  # noqa: PLC0415

    try:
        jobserver = Jobserver(f"doctor-{os.urandom(8).hex()}", subject.environ)
        try:
            check(jobserver.fd, jobserver.descriptors[0])
        finally:
            jobserver.close()
    except OSError as error:
        return prose(error.strerror or str(error))
    return None


def _tool(name: str, judge: Callable[[str], tuple[bool, str]], subject: Subject) -> Tool | None:
    """What is known of a program; None if PATH has none of this name."""
    path = shutil.which(name, path=subject.environ.get("PATH"))
    if path is None:
        return None
    try:
        done = subprocess.run(  # noqa: S603 - the user's own
            [path, "--version"],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            timeout=ASKED_S,
            check=False,
        )
    except (OSError, subprocess.TimeoutExpired):
        return Tool(name, "", False, "it does not say which version it is")
    version = VERSION.search(done.stdout[:1000].decode(errors="replace"))
    text = prose(version[0]) if version else ""
    return Tool(name, text, *judge(path))


def _make(path: str) -> tuple[bool, str]:
    styles = {
        FIFO: (True, "by a FIFO"),
        DESCRIPTORS: (True, "by descriptors"),
        STRANGE: (False, "it is no GNU make, or older than 4.2"),
    }
    return styles[make_style([path], {"PATH": ""})]


def _ninja(path: str) -> tuple[bool, str]:
    why = ninja_unserved(path)
    return why is None, "" if why is None else "ninja does since 1.13"


JUDGES: dict[str, Callable[[str], tuple[bool, str]]] = {
    "make": _make,
    "gmake": _make,
    "ninja": _ninja,
    "cargo": lambda _: (True, ""),
}
"""Whether the program at a path takes tokens, and how, or why not: as `tokens.clients` has it."""


def _kept(subject: Subject) -> list[Finding]:
    """Processes that have tokens though the slot-run that took them is gone."""
    its = subject.status.tokens if subject.status is not None else None
    count, pids = shares.served(subject.settings)
    if its is None or its.held <= count:
        return []
    from buildslots.tokens.service import stock_dir  # noqa: PLC0415 - Linux only
    from buildslots.tokens.stock import STOCK  # noqa: PLC0415

    found = []
    for process in keepers.keepers(f"{stock_dir(subject.settings)}/{STOCK}", keepers.BYTES):
        if not _is_below(process, pids):
            who = keepers.described(process)
            text = f"{who} keeps tokens of a slot-run that was killed; nobody else has them until it ends"
            found.append(Finding("tokens", NOTE, text, {"process": keepers.about(process)}))
    return found[:MOST_KEEPERS]


def _is_below(process: psutil.Process, pids: set[int]) -> bool:
    """Whether `process` is one of those, or runs below one."""
    try:
        return any(each.pid in pids for each in [process, *process.parents()])
    except psutil.Error:
        return True  # gone, or not ours to judge


def _sccache(subject: Subject) -> list[Finding]:
    """A server of sccache that a build would start itself.

    It lives on, and what it has taken stays with it until the build ends (mozilla/sccache#2145). rustc below
    it has a jobserver of the server's own (src/jobserver.rs there).
    """
    asked = any("sccache" in subject.environ.get(name, "") for name in CACHES)
    runs = any(process.info["name"] == "sccache" for process in psutil.process_iter(["name"]))
    if not asked and not runs:
        return []
    how = (
        "runs"
        if runs
        else "is started by the first build, which may lose a token to it until that build ends"
    )
    remedy = "" if runs else ": `sccache --start-server` before that avoids it"
    text = f"the server of sccache {how}{remedy}; what rustc does below it, with its threads, takes no tokens"
    return [Finding("tokens", NOTE, text, {"sccache": {"runs": runs, "asked_for": asked}})]
